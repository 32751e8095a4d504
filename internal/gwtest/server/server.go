// Package server runs servers as processes of their own, for tests and for programs that compare.
package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Process is a server that runs.
type Process struct {
	cmd  *exec.Cmd
	log  string
	done chan error
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

// Pid is the number of its process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

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
