package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/internal/agent"
)

// TestAgentSockets: an agent serves the sockets that systemd has opened for it, and none beside them.
func TestAgentSockets(t *testing.T) {
	dir := t.TempDir()
	control := filepath.Join(dir, "run", "agent.sock")
	ln, err := agent.ListenUnix(control)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	handed, err := ln.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer handed.Close()
	cmd, places := activated(t, "objects:hash-main:hash-review", handed, "agent", "--gate", "https://127.0.0.1:1", "--token-file", "token", "--spool", filepath.Join(dir, "spool"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var s agent.Status
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if s, err = agent.Ask(t.Context(), control); err == nil && len(s.Listen) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the agent does not come up: %v", err)
		}
	}
	if !slices.Equal(s.Listen, places[:1]) || len(s.Hash) != 2 || s.Hash["main"] != places[1] || s.Hash["review"] != places[2] {
		t.Errorf("it listens on %v and %v, was handed %v", s.Listen, s.Hash, places)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended: %v", err)
	}
}

// TestAgentSocketsRefused: sockets that do not say what they are for stop the start.
func TestAgentSocketsRefused(t *testing.T) {
	for names, want := range map[string]string{
		"hash-main:hash-main:x": `the socket "hash-main" that was handed over: want FileDescriptorName=hash-ZONE, each zone once`,
		"hash-:a:b":             "want FileDescriptorName=hash-ZONE",
		"control:a:b":           `the socket "control" that was handed over: want one, and a path`,
	} {
		cmd, _ := activated(t, names, nil, "agent", "--gate", "https://127.0.0.1:1", "--token-file", "token", "--control", filepath.Join(t.TempDir(), "run", "agent.sock"))
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != exitUsage || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %s", names, err, out)
		}
	}
}

// activated prepares the command as systemd starts it, with one socket for each name and a control socket unless it is nil, and returns where
// the first are.
func activated(t *testing.T, names string, control *os.File, args ...string) (cmd *exec.Cmd, places []string) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), "sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, raceBinary(t)}, args...)...)
	for range strings.Split(names, ":") {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		places = append(places, ln.Addr().String())
		ln.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if control != nil {
		names += ":control"
		cmd.ExtraFiles = append(cmd.ExtraFiles, control)
	}
	cmd.Env = append(os.Environ(), "LISTEN_FDS="+strconv.Itoa(len(cmd.ExtraFiles)), "LISTEN_FDNAMES="+names)
	return cmd, places
}

// TestAgentUnits: the sockets of the example's units are where lychgate agent env says that an agent is, and are for what it says.
func TestAgentUnits(t *testing.T) {
	for unit, want := range map[string][]string{
		"lychgate-agent.socket":      {"ListenStream=" + agentPlace, "FileDescriptorName=objects"},
		"lychgate-agent-hash.socket": {"ListenStream=" + agentHashPlace, "FileDescriptorName=" + hashSocket + agentZone},
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", "examples", "systemd", "user", unit))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range want {
			if !slices.Contains(strings.Split(string(text), "\n"), line) {
				t.Errorf("%s does not say %s", unit, line)
			}
		}
	}
}
