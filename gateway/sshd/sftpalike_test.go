package sshd_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestDeniedLooksAbsentOverSFTP: whoever may not read an object, or see a directory, or write, is answered byte for byte as about one
// that is not there, or is none.
func TestDeniedLooksAbsentOverSFTP(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	secret, absent := gwtest.NewObject("secret", "package"), gwtest.NewObject("absent", "package")
	g.Publish([]gwtest.Object{secret, gwtest.NewSiginfo(secret)}, privateSource)
	before := len(g.Upstream.Names())
	dir := func(name string) string { return name[:strings.LastIndexByte(name, '/')] }
	paths := []string{
		"/main/" + absent.Name, "/main/" + secret.Name, "/main/" + secret.Name + ".siginfo", "/main/" + secret.Name + ".sig",
		"main/" + secret.Name, "/nowhere/" + secret.Name, "/main/" + dir(secret.Name), "/main/" + dir(absent.Name), "/main/universal", "/main",
		"/nowhere", "/main/nothing/of/the/kind", "/main/%2e%2e", "/main/\x00", "/main/" + strings.Repeat("a", 5000), "/main/" + secret.Name + "/",
	}
	for name, ask := range map[string]func(path string) []byte{
		"STAT":             func(path string) []byte { return packet(fxpStat, 1, path) },
		"LSTAT":            func(path string) []byte { return packet(fxpLstat, 1, path) },
		"OPEN":             func(path string) []byte { return packet(fxpOpen, 1, path, readFlag, 0) },
		"OPENDIR":          func(path string) []byte { return packet(fxpOpendir, 1, path) },
		"READLINK":         func(path string) []byte { return packet(fxpReadlink, 1, path) },
		"SETSTAT":          func(path string) []byte { return packet(fxpSetstat, 1, path, 4, 0o600) },
		"OPEN to write":    func(path string) []byte { return packet(fxpOpen, 1, path, writeFlag|creatFlag|truncFlag, 0) },
		"OPEN to append":   func(path string) []byte { return packet(fxpOpen, 1, path, writeFlag|appendFlag, 0) },
		"OPEN exclusive":   func(path string) []byte { return packet(fxpOpen, 1, path, writeFlag|creatFlag|exclFlag, 0) },
		"OPEN both":        func(path string) []byte { return packet(fxpOpen, 1, path, readFlag|writeFlag, 0) },
		"OPEN to truncate": func(path string) []byte { return packet(fxpOpen, 1, path, truncFlag, 0) },
		"MKDIR":            func(path string) []byte { return packet(fxpMkdir, 1, path, 0) },
		"RMDIR":            func(path string) []byte { return packet(fxpRmdir, 1, path) },
		"REMOVE":           func(path string) []byte { return packet(fxpRemove, 1, path) },
		"RENAME":           func(path string) []byte { return packet(fxpRename, 1, path, "/main/x") },
		"RENAME to":        func(path string) []byte { return packet(fxpRename, 1, "/main/x", path) },
		"SYMLINK":          func(path string) []byte { return packet(fxpSymlink, 1, path, "/main/x") },
		"SYMLINK to":       func(path string) []byte { return packet(fxpSymlink, 1, "/main/x", path) },
		"statvfs":          func(path string) []byte { return packet(fxpExtended, 1, "statvfs@openssh.com", path) },
		"posix-rename":     func(path string) []byte { return packet(fxpExtended, 1, "posix-rename@openssh.com", path, "/main/x") },
		"hardlink":         func(path string) []byte { return packet(fxpExtended, 1, "hardlink@openssh.com", path, "/main/x") },
	} {
		for _, user := range []string{"carol", "bob"} {
			w := dialWire(t, g, user, generous(), false)
			want := w.ask(ask(paths[0]))
			if got := summary(want); got != "2" && got != "3" && got != "8" {
				t.Errorf("%s, %s: %s", user, name, got)
			}
			for _, path := range paths {
				if got := w.ask(ask(path)); !bytes.Equal(got, want) {
					t.Errorf("%s, %s %.100q:\n%q\nwant\n%q", user, name, path, got, want)
				}
			}
		}
	}
	if names := g.Upstream.Names()[before:]; len(names) > 0 {
		t.Errorf("reached the upstream: %q", names)
	}
}
