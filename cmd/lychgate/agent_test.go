package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/internal/agent"
)

func TestInheritedSockets(t *testing.T) {
	for _, c := range []struct {
		pid, fds, names string
		want            string
	}{
		{"1", "2", "http:control", ""}, // another process's
		{"", "", "", ""},
		{"us", "2", "http", "do not agree"},
		{"us", "x", "http", "do not agree"},
		{"us", "1", "admin", "http, control or hash-ZONE"},
	} {
		env := map[string]string{"LISTEN_PID": strings.Replace(c.pid, "us", "7", 1), "LISTEN_FDS": c.fds, "LISTEN_FDNAMES": c.names}
		all, err := inherited(func(name string) string { return env[name] }, 7, 1000)
		if len(all) > 0 || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, %v", c, all, err)
		}
	}
}

// TestSocketActivation: the agent serves on the sockets that it is handed, as systemd hands them, and opens none itself.
func TestSocketActivation(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	control, err := agent.ListenUnix(filepath.Join(dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	var places []string
	for range 2 {
		ln, err := agent.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		files, places = append(files, f), append(places, ln.Addr().String())
	}
	f, err := control.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := exec.LookPath("lychgate") // this binary, which TestMain lets be the command
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" agent --gate http://127.0.0.1:1 --spool "$1"`, exe, filepath.Join(dir, "spool"))
	cmd.ExtraFiles = append(files, f)
	cmd.Env = append(os.Environ(), "LISTEN_FDS=3", "LISTEN_FDNAMES=http:hash-main:control", "LYCHGATE_TOKEN=x", "HOME="+dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s, err := agent.Ask(t.Context(), filepath.Join(dir, "agent.sock"))
	for deadline := time.Now().Add(patience); len(s.Listen) == 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // it answers before it serves
		s, err = agent.Ask(t.Context(), filepath.Join(dir, "agent.sock"))
	}
	if err != nil || len(s.Listen) != 1 || s.Listen[0] != places[0] || s.Hash["main"] != places[1] {
		t.Errorf("%+v, %v", s, err)
	}
	err = cmd.Process.Signal(os.Interrupt)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Error("the agent ended: " + strconv.Quote(err.Error()))
	}
}
