package policy

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

var noon = time.Date(2026, 3, 20, 12, 0, 0, 0, time.UTC)

// sourceFact is a git source of git.example.com with what is known of it.
func sourceFact(path string, access forge.Access) authz.SourceFact {
	return authz.SourceFact{
		Source: source.Source{
			Type: source.Git, Locator: source.Locator{Host: "git.example.com", Path: path},
			Rev: "1f2e3d", Repo: "git.example.com:" + path,
		},
		Fact: forge.Fact{Access: access, At: noon},
	}
}

// question is a read by alice of an artifact with n readable sources.
func question(n int) (authz.Request, *authz.Facts) {
	r := authz.Request{
		Action: authz.Read,
		Door:   "https",
		Principal: &authn.Principal{
			Forge: "git.example.com", ID: "42", Name: "alice", Kind: authn.Human, Groups: []string{"platform"},
		},
		Ref: artifact.Ref{
			Zone: "main", Kind: artifact.KindSstate, Path: "ab/cd/sstate:zlib", Hash: "abcd", Recipe: "zlib",
			Version: "1.3", Arch: "core2-64", Task: "package",
		},
	}
	f := &authz.Facts{Recorded: true, Zone: "main", Claim: provenance.Claim{Signer: "ci-main"}, Now: noon}
	for i := range n {
		f.Sources = append(f.Sources, sourceFact(fmt.Sprintf("team/repo-%03d", i), forge.Read))
	}
	f.Inputs = f.Sources
	return r, f
}

// writeQuestion is a write by a principal with the writer role of zone main.
func writeQuestion(signer string) (authz.Request, *authz.Facts) {
	r, f := question(1)
	r.Action = authz.Write
	r.Principal = &authn.Principal{Kind: authn.CI, Name: "ci", Roles: []string{"writer:main"}}
	r.Write = &authz.WriteFacts{Signer: signer, Statement: map[string]any{"job": "nightly", "signer": "forged"}}
	f.Recorded = false
	return r, f
}

// bundleDir writes a bundle and returns its directory.
func bundleDir(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	writeBundle(t, dir, files)
	return dir
}

func writeBundle(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// rules is a bundle of one module: the body after the package line, with the two entry points' frame around it.
func rules(body string) map[string]string {
	return map[string]string{"policy.rego": frame(body)}
}

// frame makes a module whose decision follows its allow rules.
func frame(body string) string {
	return `package lychgate
default allow := false
decision := {"allow": allow, "rule": "test", "reasons": ["test"]}
` + body + "\n"
}

func with(files map[string]string, name, text string) map[string]string {
	files = maps.Clone(files)
	files[name] = text
	return files
}

// newEngine gives evaluations all the time they need, unless the test says otherwise: test machines are busy.
func newEngine(t testing.TB, cfg Config) *Engine {
	t.Helper()
	if cfg.Deadline == 0 {
		cfg.Deadline = time.Minute
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// engineOf runs a bundle of one module.
func engineOf(t testing.TB, body string) *Engine {
	t.Helper()
	return newEngine(t, Config{Dir: bundleDir(t, rules(body))})
}

// evaluate fails the test when an error comes with anything but a denial.
func evaluate(t testing.TB, e *Engine, r authz.Request, f *authz.Facts) (authz.Decision, error) {
	t.Helper()
	d, err := e.Evaluate(t.Context(), r, f)
	if err != nil && d.Verdict != authz.Deny {
		t.Fatalf("verdict %v with error %v", d.Verdict, err)
	}
	if len(d.Reasons) == 0 || d.Rule == "" || d.Revision == "" {
		t.Errorf("decision %+v lacks a reason, its rule or its revision", d)
	}
	return d, err
}
