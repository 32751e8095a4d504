package main

import (
	"strings"
	"testing"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/agent"
)

// TestWriteRecipeWhys: each reason is said once, with the tasks that it concerns, in words that are safe to print.
func TestWriteRecipeWhys(t *testing.T) {
	denied := gateway.Why{State: gateway.WhyDenied, Missing: []string{"git.example.com/a/b"}, Contact: "#help"}
	objects := []agent.Missed{
		{Zone: "main", Name: "a/x_package.tar.zst", Task: "package", Why: denied},
		{Zone: "main", Name: "a/x_package.tar.zst.siginfo", Task: "package", Why: denied},
		{Zone: "main", Name: "a/y_package.tar.zst", Task: "package", Why: denied},
		{Zone: "review", Name: "a/x_deploy.tar.zst", Task: "deploy", Why: denied},
		{Zone: "main", Name: "a/z.tar.zst", Task: "z", Why: gateway.Why{State: gateway.WhyAbsent}},
		{Zone: "main", Name: "a/v.tar.zst", Task: "v", Unasked: "bad\x1b[2Jterminal"},
		{Zone: "main", Name: "a/w.tar.zst", Task: "w", Why: gateway.Why{State: gateway.WhyPresent}},
	}
	answer := agent.RecipeWhy{RecipeCount: agent.RecipeCount{Recipe: "busybox", Found: 3, Missed: 9}, Objects: objects}
	const want = `busybox: 9 missed, 3 found
  it is there, and not for you
  you may not read git.example.com/a/b: ask there for access
  ask #help
    do_deploy in zone review, do_package (2)
  nobody published it: BitBake builds it
    do_z
  the gate cannot be asked why: bad?[2Jterminal
    do_v
  it is there for you now, and was not when BitBake asked
    do_w
  and 2 more, which were missed before these
`
	var got strings.Builder
	if err := writeRecipeWhys(&got, []agent.RecipeWhy{answer}, false); err != nil || got.String() != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got.String(), want)
	}
}
