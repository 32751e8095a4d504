package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server that was started here, with all the processes it started itself.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan error
}

// startProcess starts argv in a process group of its own, which ends with this process.
func startProcess(dir, name string, argv ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	p := &process{name: name, log: log, cmd: exec.Command(argv[0], argv[1:]...), done: make(chan error, 1)}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	p.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}

// stop ends the group: by SIGTERM, and after five seconds by SIGKILL.
func (p *process) stop() {
	group := -p.cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = syscall.Kill(group, syscall.SIGKILL)
		<-p.done
	}
	_ = syscall.Kill(group, syscall.SIGKILL) // what its leader left behind
	_ = p.log.Close()
}

// await returns once ready says so. A process that ends before is an error, with the end of its log.
func (p *process) await(ctx context.Context, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !ready() {
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("%s ended: %v: %s", p.name, err, p.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("%s did not come up: %w: %s", p.name, ctx.Err(), p.lastWords())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func (p *process) lastWords() string {
	text, _ := os.ReadFile(p.log.Name())
	return string(bytes.TrimSpace(text[max(0, len(text)-1000):]))
}

// accepts reports whether something listens on addr.
func accepts(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// healthy reports whether url answers 200.
func healthy(url string) bool {
	res, err := http.Get(url)
	if err != nil {
		return false
	}
	return res.Body.Close() == nil && res.StatusCode == http.StatusOK
}

// tick is the unit of times in /proc: USER_HZ is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// member is a process that a server consists of.
type member struct {
	pid, parent, group int
	used               time.Duration // by it, and by those of its children that have ended
}

// processor returns the processor time that the server has used.
func (p *process) processor() (sum time.Duration) {
	for _, m := range p.members() {
		sum += m.used
	}
	return sum
}

// members are the processes of the group, and all that descend from them: sshd gives each connection a session of its own.
func (p *process) members() (list []member) {
	all := allProcesses()
	inside := map[int]bool{}
	for _, m := range all {
		inside[m.pid] = m.group == p.cmd.Process.Pid
	}
	for found := true; found; {
		found = false
		for _, m := range all {
			if !inside[m.pid] && inside[m.parent] {
				inside[m.pid], found = true, true
			}
		}
	}
	for _, m := range all {
		if inside[m.pid] {
			list = append(list, m)
		}
	}
	return list
}

func allProcesses() (list []member) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ") // the name before may hold spaces
		fields := strings.Fields(rest)
		if len(fields) < 15 {
			continue
		}
		m := member{parent: number(fields[1]), group: number(fields[2])} // proc_pid_stat(5), as what follows
		m.pid = number(filepath.Base(filepath.Dir(name)))
		for _, field := range fields[11:15] { // utime, stime, cutime, cstime
			m.used += time.Duration(number(field)) * tick
		}
		list = append(list, m)
	}
	return list
}

// number reads what the kernel printed.
func number(field string) int {
	n, _ := strconv.Atoi(field)
	return n
}

// memory returns the bytes that the server keeps in memory. Pages that its processes share are counted once.
func (p *process) memory() (sum int64, err error) {
	for _, m := range p.members() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", m.pid))
		if errors.Is(err, syscall.ESRCH) || errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return 0, fmt.Errorf("read the memory of %s: %w", p.name, err)
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Pss:" {
				sum += int64(number(fields[1])) << 10
			}
		}
	}
	return sum, nil
}

// settle waits until the server's processes have stayed the same for a while: those of connections that were closed end by and by.
func (p *process) settle(ctx context.Context) error {
	const steady = 5
	for same, last := 0, 0; same < steady; same++ {
		if n := len(p.members()); n != last {
			same, last = 0, n
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// ourselves is a command that runs this program in another role.
func ourselves(ctx context.Context, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// loadAverage is how busy the machine has been for a minute, as the kernel counts.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
