package forge_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	stampA = "0123456789abcdef0123456789abcdef"
	stampB = "fedcba9876543210fedcba9876543210"
)

// helperThatSays returns a provider whose helper greets and then answers each question with a text.
func helperThatSays(t *testing.T, greeting string, answer func(question string) string) *forge.Gitolite {
	t.Helper()
	fake := newSSHFake(t, func(_ string, c ssh.Channel) {
		io.WriteString(c, greeting)
		lines := bufio.NewScanner(c)
		for lines.Scan() {
			text := answer(lines.Text())
			if io.WriteString(c, text); !strings.Contains(text, "\nend\n") {
				return
			}
		}
	})
	p, err := forge.NewGitolite(forge.GitoliteConfig{Name: gitoliteName, Hosts: []string{gitoliteName}, Server: fake.server})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const greets = "lychgate-helper 1\n"

// TestGitoliteAnswersThatDoNotFit: what is cut short, mixed up, too long or in no known words is no answer, neither yes nor no.
func TestGitoliteAnswersThatDoNotFit(t *testing.T) {
	yes := stampA + " read\n" + stampB + " read\nend\n"
	for what, answer := range map[string]string{
		"one missing":       stampA + " read\nend\n",
		"one too many":      stampA + " read\n" + stampB + " read\n" + stampB + " read\nend\n",
		"in another order":  stampB + " read\n" + stampA + " read\nend\n",
		"twice the same":    stampA + " read\n" + stampA + " read\nend\n",
		"another word":      stampA + " read\n" + stampB + " reader\nend\n",
		"more words":        stampA + " read\n" + stampB + " read none\nend\n",
		"no word":           stampA + " read\n" + stampB + "\nend\n",
		"a carriage return": strings.ReplaceAll(yes, "\n", "\r\n"),
		"a refusal":         "error gitolite access failed\n",
		"a late refusal":    stampA + " read\n" + stampB + " read\nerror no\n",
		"a long line":       strings.Repeat("x", 5000) + "\n" + yes,
	} {
		t.Run(what, func(t *testing.T) {
			p := helperThatSays(t, greets, func(string) string { return answer })
			repos := []forge.Repo{{Forge: gitoliteName, ID: stampA}, {Forge: gitoliteName, ID: stampB}}
			facts, err := p.Access(t.Context(), authn.Principal{Forge: gitoliteName, ID: "alice"}, repos)
			if err == nil {
				t.Errorf("taken for an answer: %+v", facts)
			}
			for name, err := range map[string]error{"user": second(p.User(t.Context(), "alice")), "key": second(p.KeyOwner(t.Context(), keyOfNobody))} {
				if err == nil || errors.Is(err, forge.ErrNoUser) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, _, err := p.Resolve(t.Context(), source.Locator{Host: gitoliteName, Path: "lib"}); err == nil || errors.Is(err, forge.ErrNoRepo) {
				t.Errorf("resolve: %v", err)
			}
		})
	}
}

const keyOfNobody = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

func second[T any](_ T, err error) error { return err }

// TestGitoliteWithoutTheHelper: a key without the forced command gets gitolite's own greeting, or a shell's, and an old helper another
// version's. The error says what to do.
func TestGitoliteWithoutTheHelper(t *testing.T) {
	for _, greeting := range []string{
		"hello alice, this is git@git running gitolite3 3.6.12 on git 2.39.5\n", "lychgate-helper 2\n", "\n", "lychgate-helper 1 \n",
		"error gitolite query-rc failed\n", strings.Repeat("x", 1<<20), "",
	} {
		asked := atomic.Bool{}
		p := helperThatSays(t, greeting, func(string) string { asked.Store(true); return stampA + " read\nend\n" })
		repos := []forge.Repo{{Forge: gitoliteName, ID: stampA}}
		if facts, err := p.Access(t.Context(), authn.Principal{Forge: gitoliteName, ID: "alice"}, repos); err == nil {
			t.Errorf("%.40q: %+v", greeting, facts)
		}
		if asked.Load() && !strings.HasPrefix(greeting, "error") {
			t.Errorf("%.40q: it was asked all the same", greeting)
		}
	}
}

// TestGitoliteKeepsItsConnection: one connection serves all questions, one after the other, and the next one when it is gone.
func TestGitoliteKeepsItsConnection(t *testing.T) {
	started := atomic.Int32{}
	fake := newSSHFake(t, func(_ string, c ssh.Channel) {
		started.Add(1)
		io.WriteString(c, greets)
		for lines := bufio.NewScanner(c); lines.Scan(); {
			fmt.Fprintf(c, "%s read\nend\n", stampA)
		}
	})
	p, err := forge.NewGitolite(forge.GitoliteConfig{Name: gitoliteName, Hosts: []string{gitoliteName}, Server: fake.server})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if got := access(t, p, "alice", stampA); got != forge.Read {
			t.Fatal(got)
		}
	}
	if n := started.Load(); n != 1 {
		t.Errorf("%d helpers for 10 questions", n)
	}
	fake.wire.setCut(true)
	fake.wire.setCut(false)
	if got := access(t, p, "alice", stampA); got != forge.Read {
		t.Errorf("after the connection ended: %s", got)
	}
}
