package lychgate_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/policy"
)

func example(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func exampleConfig(t *testing.T) *config.Config {
	t.Helper()
	cfg, err := config.Parse(example(t, "lychgate.yaml"), "/etc/lychgate")
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestExampleGate: the example's configuration is taken, and whom it names its forge and its signers know.
func TestExampleGate(t *testing.T) {
	cfg := exampleConfig(t)
	if _, err := provenance.ParseAllowedSigners(example(t, "allowed_signers"), time.UTC); err != nil {
		t.Fatal(err)
	}
	users, err := forge.LoadStatic(forge.StaticConfig{Name: cfg.Forges[0].Name, File: filepath.Join("examples", "forge.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	for _, z := range cfg.Zones {
		for _, name := range z.Signers {
			if !strings.Contains(string(example(t, "allowed_signers")), "\n"+name+" namespaces=\""+provenance.Namespace+"\" ") {
				t.Errorf("zone %s takes statements of %s, whom allowed_signers does not have", z.Name, name)
			}
		}
		for _, who := range slices.Concat(z.Writers.Users, z.Admins.Users) {
			id, ok := strings.CutPrefix(who.Name, "#")
			if _, err := users.User(t.Context(), id); !ok || err != nil || who.Forge != cfg.Forges[0].Name {
				t.Errorf("zone %s names %v by something else than the id of a user: %v", z.Name, who, err)
			}
		}
	}
}

// TestExamplePolicy: the example's bundle loads, its answers can be remembered, its tests pass, and it opens every zone
// of the example's configuration to somebody.
func TestExamplePolicy(t *testing.T) {
	dir := filepath.Join("examples", "policy")
	report, err := policy.Check(dir)
	if err != nil || !report.OK || !report.Remember {
		t.Fatalf("%+v, %v", report, err)
	}
	tests, err := policy.Test(t.Context(), dir, policy.TestOptions{})
	if err != nil || !tests.OK || tests.Passed < 10 {
		t.Errorf("%+v, %v", tests, err)
	}
	for _, z := range exampleConfig(t).Zones {
		if !strings.Contains(string(example(t, "policy/lychgate.rego")), `"`+z.Name+`"`) {
			t.Errorf("the bundle has no rule for zone %s", z.Name)
		}
	}
}

// jobScript returns what the example's CI job runs.
func jobScript(t *testing.T) []string {
	t.Helper()
	var jobs map[string]struct {
		Script []string `yaml:"script"`
	}
	if err := yaml.Unmarshal(example(t, "gitlab-ci.yml"), &jobs); err != nil {
		t.Fatal(err)
	}
	return jobs["build-main"].Script
}

// TestExampleCommands: what the unit and the CI job run are verbs and flags of the command.
func TestExampleCommands(t *testing.T) {
	lines := jobScript(t)
	for _, m := range regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindAllStringSubmatch(string(example(t, "systemd/lychgate.service")), -1) {
		lines = append(lines, m[1])
	}
	verbs, flags := commands(t)
	checked := 0
	for _, m := range commandLine.FindAllStringSubmatch(strings.Join(lines, "\n"), -1) {
		checked++
		checkCommand(t, "examples", strings.Fields(m[1]), verbs, flags)
	}
	if checked != 2 {
		t.Errorf("%d commands were checked", checked)
	}
}

// TestExampleJob runs the CI job as a runner would, with stubs for BitBake and the push: it pushes in any case, and fails
// when the build failed or anything was not pushed.
func TestExampleJob(t *testing.T) {
	for _, tc := range []struct{ build, push, want int }{
		{0, 0, 0},
		{0, 3, 3},
		{0, 1, 1},
		{1, 0, 1},
		{1, 3, 3},
		{1, 1, 1},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"token":             "machine gate.example.com\n",
			"oe-init-build-env": "cd .\n",
			"bitbake":           fmt.Sprintf("#!/bin/sh\ntest \"$1\" = -S || exit %d\n", tc.build),
			"lychgate":          fmt.Sprintf("#!/bin/sh\necho \"$@\" >pushed\nexit %d\n", tc.push),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-e", "-c", strings.Join(jobScript(t), "\n"))
		cmd.Dir = dir
		cmd.Env = []string{"HOME=" + dir, "PATH=" + dir + ":/usr/bin:/bin", "NETRC=token", "SSTATE=sstate-cache", "SIGNING_KEY=key"}
		out, _ := cmd.CombinedOutput() // the exit code is looked at below
		if got := cmd.ProcessState.ExitCode(); got != tc.want {
			t.Errorf("build %d, push %d: exit code %d, want %d\n%s", tc.build, tc.push, got, tc.want, out)
		}
		if args, err := os.ReadFile(filepath.Join(dir, "pushed")); err != nil || !strings.HasPrefix(string(args), "push sstate-cache ") {
			t.Errorf("build %d, push %d: pushed %q, %v", tc.build, tc.push, args, err)
		}
	}
}

// TestExampleBuild: the build's mirror is a zone of the example's gate, and docs/bitbake.md says the same.
func TestExampleBuild(t *testing.T) {
	site, page := string(example(t, "bitbake/site.conf")), documents(t)["docs/bitbake.md"]
	https := exampleConfig(t).HTTPS
	if want := `"file://.* ` + https.Audience + https.Mount + `/main/PATH;downloadfilename=PATH"`; !strings.Contains(site, want) {
		t.Errorf("site.conf does not have %s", want)
	}
	settings := regexp.MustCompile(`(?m)^[A-Za-z_]+ = .*$`).FindAllString(site, -1)
	for _, want := range append(settings, strings.TrimSpace(string(example(t, "bitbake/netrc")))) {
		if !strings.Contains(page, want) {
			t.Errorf("docs/bitbake.md does not show %s", want)
		}
	}
	if len(settings) != 3 {
		t.Errorf("site.conf has %d settings", len(settings))
	}
}
