// Package hashref runs BitBake's own hash equivalence server, the reference that the gate is compared with, from a checkout of BitBake.
package hashref

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Reference is a checkout of BitBake and a Python that runs it.
type Reference struct {
	Dir    string // absolute
	Python string // absolute
}

// Find looks at a checkout, and for a Python that can speak websockets, which is not always the first on the path. Errors say what to
// install or to give.
func Find(ctx context.Context, dir string) (Reference, error) {
	if dir == "" {
		return Reference{}, errors.New("BITBAKE_DIR is not given: git clone https://github.com/openembedded/bitbake, then BITBAKE_DIR=bitbake")
	}
	abs, err := filepath.Abs(dir)
	if err == nil {
		_, err = os.Stat(filepath.Join(abs, "lib/hashserv/tests.py"))
	}
	if err != nil {
		return Reference{}, fmt.Errorf("BITBAKE_DIR: %w: git clone https://github.com/openembedded/bitbake, then BITBAKE_DIR=bitbake", err)
	}
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		// What runs may be a wrapper that looks at the directory it is in, so the interpreter itself is asked where it is.
		out, err := exec.CommandContext(ctx, path, "-c", "import sys, websockets; print(sys.executable)").Output()
		if err == nil {
			return Reference{Dir: abs, Python: strings.TrimSpace(string(out))}, nil
		}
	}
	return Reference{}, errors.New("no Python that has websockets; run: sudo apt-get install python3 python3-websockets")
}

// Env is what programs of the checkout need beside their arguments. Nothing is written into the checkout.
func (r Reference) Env() []string {
	return []string{"PYTHONPATH=" + filepath.Join(r.Dir, "lib"), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"}
}

// Server is the command line of the reference server. bind is HOST:PORT, unix://PATH or ws://HOST:PORT.
func (r Reference) Server(bind, database string, args ...string) []string {
	return append([]string{r.Python, filepath.Join(r.Dir, "bin/bitbake-hashserv"), "--bind", bind, "--database", database}, args...)
}

// Process is a server that runs.
type Process struct {
	cmd  *exec.Cmd
	log  string
	done chan error
}

// Start runs a server in dir, where its log and its database are, and returns when it listens. It ends with this process.
func (r Reference) Start(ctx context.Context, dir, name, bind string, args ...string) (*Process, error) {
	return Start(ctx, dir, name, r.Env(), func() bool { return Listens(bind) }, r.Server(bind, filepath.Join(dir, name+".sqlite"), args...)...)
}

// Start runs any server in dir, and returns when ready says so. Its log is NAME.log.
func Start(ctx context.Context, dir, name string, env []string, ready func() bool, argv ...string) (*Process, error) {
	p := &Process{log: filepath.Join(dir, name+".log"), done: make(chan error, 1)}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	if err := p.await(ctx, ready); err != nil {
		p.Stop()
		return nil, fmt.Errorf("%s: %w: %s", name, err, p.LastWords())
	}
	return p, nil
}

func (p *Process) await(ctx context.Context, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !ready() {
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("it ended: %w", errors.Join(err, errors.New("before it listened")))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// Stop ends the server, by force if it takes longer than ten seconds. It may be called again.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }

// Kill ends the server as a crash would.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

func (p *Process) end(how syscall.Signal) {
	group := -p.cmd.Process.Pid
	_ = syscall.Kill(group, how)
	select {
	case err := <-p.done:
		p.done <- err
	case <-time.After(10 * time.Second):
		_ = syscall.Kill(group, syscall.SIGKILL)
		p.done <- <-p.done
	}
}

// LastWords is the end of the server's log.
func (p *Process) LastWords() string {
	text, _ := os.ReadFile(p.log)
	return string(bytes.TrimSpace(text[max(0, len(text)-2000):]))
}

// Listens reports whether something listens at HOST:PORT, ws://HOST:PORT[/PATH], wss://HOST:PORT[/PATH] or unix://PATH.
func Listens(address string) bool {
	network, where := "tcp", address
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		network, where = "unix", path
	}
	for _, scheme := range []string{"ws://", "wss://"} {
		where = strings.TrimPrefix(where, scheme)
	}
	if network == "tcp" {
		where, _, _ = strings.Cut(where, "/")
	}
	conn, err := net.DialTimeout(network, where, time.Second)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}
