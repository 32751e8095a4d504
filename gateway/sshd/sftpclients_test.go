package sshd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// library is a gate whose ssh door is open, with an object for everybody and one for alice, each with its siginfo.
func library(t *testing.T) (g *gwtest.Gate, public, private gwtest.Object) {
	t.Helper()
	g = gwtest.New(t, gwtest.Options{SSH: true})
	public, private = sized(t, "hello", 3<<20+11), sized(t, "secret", 1<<20)
	g.Publish([]gwtest.Object{public, gwtest.NewSiginfo(public)}, publicSource)
	g.Publish([]gwtest.Object{private, gwtest.NewSiginfo(private)}, privateSource)
	return g, public, private
}

// holds compares a file with what it should be.
func holds(t *testing.T, file string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, want %d: %v", file, len(got), len(want), err)
	}
}

// contents returns the files below a directory by their paths in it.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		found[name] = string(text)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return found
}

// sameFiles compares what a client copied with what is published.
func sameFiles(t *testing.T, who, dir string, want ...gwtest.Object) {
	t.Helper()
	got := contents(t, dir)
	for _, o := range want {
		if got[o.Name] != string(o.Content) {
			t.Errorf("%s has %d bytes of %s, want %d", who, len(got[o.Name]), o.Name, len(o.Content))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s has %d files, want %d", who, len(got), len(want))
	}
}

// TestOpenSSHSFTP: OpenSSH's sftp looks around, gets, goes on with what it has in part, and puts.
func TestOpenSSHSFTP(t *testing.T) {
	g, public, private := library(t)
	sftp := func(user string, lines ...string) result {
		return client(t, strings.Join(lines, "\n")+"\n", "sftp", append(openssh(t, g, user), "-b", "-", "gate")...)
	}
	dir := t.TempDir()
	part := filepath.Join(dir, "part")
	if err := os.WriteFile(part, private.Content[:300<<10], 0o600); err != nil {
		t.Fatal(err)
	}
	base := filepath.Base(private.Name)
	r := sftp("alice", "pwd", "ls -l", "cd main", "ls -l", "cd "+filepath.Dir(private.Name), "cd ..", "cd "+filepath.Base(filepath.Dir(private.Name)), "pwd", "ls -l",
		"get "+base+" "+dir+"/whole", "reget "+base+" "+part, "get -p /main/"+private.Name+".siginfo "+dir+"/info", "ls -l /main/"+public.Name)
	for _, want := range []string{"Remote working directory: /\n", " main\n", "universal", "Remote working directory: /main/" + filepath.Dir(private.Name) + "\n", base + ".siginfo", "1048576", "3145739"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q", want)
		}
	}
	if r.code != 0 || t.Failed() {
		t.Errorf("alice: %+v", r)
	}
	holds(t, dir+"/whole", private.Content)
	holds(t, part, private.Content)
	holds(t, dir+"/info", gwtest.NewSiginfo(private).Content)
	for _, line := range []string{"get /main/" + private.Name, "ls /main/" + filepath.Dir(private.Name), "cd /main/" + filepath.Dir(private.Name), "put " + dir + "/whole /main/" + private.Name, "rm /main/" + public.Name, "rename /main/" + public.Name + " /main/x"} {
		if r := sftp("bob", line); r.code == 0 {
			t.Errorf("bob: %s: %+v", line, r)
		}
	}
	if r := sftp("bob", "get /main/"+public.Name+" "+dir+"/bob", "ls /main/universal"); r.code != 0 || strings.Contains(r.out, filepath.Dir(private.Name)[:12]) {
		t.Errorf("bob: %+v", r)
	}
	holds(t, dir+"/bob", public.Content)
	putBySFTP(t, g, sftp)
}

// putBySFTP puts an object and its statement, and gets it as somebody else.
func putBySFTP(t *testing.T, g *gwtest.Gate, sftp func(user string, lines ...string) result) {
	t.Helper()
	o, file := sized(t, "new", 2<<20+1), filepath.Join(t.TempDir(), "object")
	if err := errors.Join(os.WriteFile(file, o.Content, 0o600), os.WriteFile(file+".json", g.Seal(g.Statement([]gwtest.Object{o}, publicSource)), 0o600)); err != nil {
		t.Fatal(err)
	}
	dir := "/main/" + filepath.Dir(o.Name)
	r := sftp("ci", "-mkdir "+filepath.Dir(dir), "-mkdir "+dir, "cd "+dir, "put -p "+file+" "+filepath.Base(o.Name), "put "+file+".json /main/"+o.Name+gateway.StatementSuffix)
	if r.code != 0 {
		t.Errorf("ci: %+v", r)
	}
	if r := sftp("bob", "get /main/"+o.Name+" "+file+".got"); r.code != 0 {
		t.Errorf("bob: %+v", r)
	}
	holds(t, file+".got", o.Content)
}

// TestSCPOverSFTP: scp of OpenSSH 9 and later copies files and trees, both ways.
func TestSCPOverSFTP(t *testing.T) {
	g, public, private := library(t)
	scp := func(user string, args ...string) result {
		return client(t, "", "scp", append(append(openssh(t, g, user), "-s"), args...)...)
	}
	dir := t.TempDir()
	if r := scp("alice", "-p", "gate:/main/"+private.Name, dir+"/one"); r.code != 0 {
		t.Errorf("alice: %+v", r)
	}
	holds(t, dir+"/one", private.Content)
	if r := scp("bob", "gate:/main/"+private.Name, dir+"/none"); r.code == 0 || !strings.Contains(r.err, "not found") && !strings.Contains(strings.ToLower(r.err), "no such file") {
		t.Errorf("bob: %+v", r)
	}
	all := []gwtest.Object{public, gwtest.NewSiginfo(public), private, gwtest.NewSiginfo(private)}
	for user, want := range map[string][]gwtest.Object{"alice": all, "bob": all[:2]} {
		if r := scp(user, "-rp", "gate:/main", filepath.Join(dir, user)); r.code != 0 {
			t.Errorf("%s: %+v", user, r)
		}
		sameFiles(t, user, filepath.Join(dir, user), want...)
	}
	o, tree := sized(t, "new", 1<<20), filepath.Join(dir, "universal")
	file := filepath.Join(dir, o.Name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, o.Content, 0o600), os.WriteFile(file+gateway.StatementSuffix, g.Seal(g.Statement([]gwtest.Object{o}, publicSource)), 0o600)); err != nil {
		t.Fatal(err)
	}
	if r := scp("ci", "-rp", tree, "gate:/main"); r.code != 0 {
		t.Errorf("ci: %+v", r)
	}
	if res := g.As("bob").Get("/sstate/main/" + o.Name); !bytes.Equal(res.Bytes, o.Content) {
		t.Errorf("what ci copied: %d", res.StatusCode)
	}
}

// TestLFTPMirror: lftp copies what the user may read, and nothing else.
func TestLFTPMirror(t *testing.T) {
	g, public, private := library(t)
	lftp := func(user, script string) result {
		set := "set cmd:fail-exit yes; set net:max-retries 1; set sftp:auto-confirm no; set sftp:connect-program \"ssh -a -x " + strings.Join(openssh(t, g, user), " ") + "\"; open sftp://git:none@gate; "
		return client(t, "", "lftp", "--norc", "-c", set+script)
	}
	dir := t.TempDir()
	all := []gwtest.Object{public, gwtest.NewSiginfo(public), private, gwtest.NewSiginfo(private)}
	for user, want := range map[string][]gwtest.Object{"alice": all, "bob": all[:2]} {
		if r := lftp(user, "mirror --parallel=4 /main "+filepath.Join(dir, user)+"; cls -l /main"); r.code != 0 {
			t.Errorf("%s: %+v", user, r)
		}
		sameFiles(t, user, filepath.Join(dir, user), want...)
	}
	if r := lftp("alice", "pget -n 4 /main/"+private.Name+" -o "+dir+"/pieces"); r.code != 0 {
		t.Errorf("alice: %+v", r)
	}
	holds(t, dir+"/pieces", private.Content)
	if r := lftp("bob", "get /main/"+private.Name+" -o "+dir+"/none"); r.code == 0 {
		t.Errorf("bob: %+v", r)
	}
	o := sized(t, "new", 1<<20)
	file := filepath.Join(dir, "up", o.Name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, o.Content, 0o600), os.WriteFile(file+gateway.StatementSuffix, g.Seal(g.Statement([]gwtest.Object{o}, publicSource)), 0o600)); err != nil {
		t.Fatal(err)
	}
	if r := lftp("ci", "mirror -R "+filepath.Join(dir, "up")+" /main"); r.code != 0 {
		t.Errorf("ci: %+v", r)
	}
	if res := g.As("bob").Get("/sstate/main/" + o.Name); !bytes.Equal(res.Bytes, o.Content) {
		t.Errorf("what ci mirrored: %d", res.StatusCode)
	}
}

// TestSSHFS: the zone as a directory, where FUSE exists. Where it does not, the test says why and shows nothing.
func TestSSHFS(t *testing.T) {
	g, public, private := library(t)
	all := []gwtest.Object{public, gwtest.NewSiginfo(public), private, gwtest.NewSiginfo(private)}
	for user, want := range map[string][]gwtest.Object{"alice": all, "bob": all[:2]} {
		dir, why := mount(t, g, user)
		if why != "" {
			fmt.Fprintf(os.Stderr, "TestSSHFS shows nothing: this machine lets nobody mount with FUSE: %s\n", why)
			return
		}
		sameFiles(t, user, dir, want...)
		if _, err := os.Stat(filepath.Join(dir, private.Name)); (err == nil) != (user == "alice") {
			t.Errorf("%s: %v", user, err)
		}
		if err := os.Remove(filepath.Join(dir, public.Name)); err == nil {
			t.Errorf("%s removed an object", user)
		}
		if err := os.WriteFile(filepath.Join(dir, private.Name), []byte("x"), 0o600); err == nil {
			t.Errorf("%s wrote an object", user)
		}
	}
}

// mount mounts the main zone as a user until the test ends, or says why this machine cannot.
func mount(t *testing.T, g *gwtest.Gate, user string) (dir, why string) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return "", err.Error()
	}
	f.Close()
	dir = t.TempDir()
	r := client(t, "", "sshfs", append([]string{"gate:/main", dir}, openssh(t, g, user)[2:]...)...)
	switch {
	case r.code != 0 && strings.Contains(r.err, "Operation not permitted"):
		return "", r.err
	case r.code != 0:
		t.Fatalf("sshfs: %+v", r)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("fusermount3", "-u", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v %s", err, out)
		}
	})
	return dir, ""
}
