// Package gitea starts a real Gitea on loopback for one test, and lets the test be its administrator. Gitea is built from its module once
// and kept in the user's cache: that takes minutes, so tests ask [Asked] first.
//
//	s := gitea.Start(t)
//	s.AddUser("alice")
//	s.AddRepo("team/lib", false)
//	s.Grant("alice", "team/lib")
package gitea

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const (
	ours    = "github.com/lychgate/lychgate"
	program = "code.gitea.io/gitea"
	tags    = "sqlite sqlite_unlock_notify"
)

// Asked reports whether tests with a real Gitea should run: LYCHGATE_GITEA=1 says so, and builds it; otherwise they run where it has been
// built before.
func Asked(t testing.TB) bool {
	t.Helper()
	if os.Getenv("LYCHGATE_GITEA") == "1" {
		return true
	}
	_, err := os.Stat(filepath.Join(built(t), "gitea"))
	return err == nil
}

// sources returns the directory of the module that requires Gitea.
func sources(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", ours).Output()
	if err != nil {
		t.Fatalf("find the directory of %s: %v", ours, err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "internal", "gwtest", "gitea", "server")
}

// built returns the directory where what is built from this go.sum with this Go is kept.
func built(t testing.TB) string {
	t.Helper()
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), tags)
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(sources(t), name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(h, "%d\n%s", len(text), text)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "lychgate-test", "gitea-"+hex.EncodeToString(h.Sum(nil)[:8]))
}

// Build returns a directory with the program "gitea" and what it serves, "static", as they were built now or before. It takes minutes the first time, and
// needs a C compiler, for SQLite.
func Build(t testing.TB) string {
	t.Helper()
	dir := built(t)
	if _, err := os.Stat(filepath.Join(dir, "gitea")); err == nil {
		return dir
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	staging, err := os.MkdirTemp(filepath.Dir(dir), "new-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(staging)
	goTool(t, "build", "-trimpath", "-tags", tags, "-o", filepath.Join(staging, "gitea"), program)
	module := strings.TrimSpace(goTool(t, "list", "-m", "-f", "{{.Dir}}", program))
	for _, name := range []string{"options", "templates", "public"} {
		if err := os.CopyFS(filepath.Join(staging, "static", name), os.DirFS(filepath.Join(module, name))); err != nil {
			t.Fatal(err)
		}
	}
	// Another test may have been faster: what it made is the same.
	if err := os.Rename(staging, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return dir
}

func goTool(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = sources(t), append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=", "GOWORK=off")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("go %s, for Gitea: %v\n%s", strings.Join(args, " "), err, errs.Bytes())
	}
	return out.String()
}
