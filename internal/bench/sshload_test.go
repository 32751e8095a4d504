package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// sftpPeer is an SFTP server that holds one object.
type sftpPeer struct {
	*world
	addr   string
	config *ssh.ServerConfig
	files  sftp.Handlers
	open   atomic.Int64 // connections
	all    atomic.Int64
}

// newSFTPPeer starts a server that ends with the test, whose keys are where a world has them.
func newSFTPPeer(t *testing.T, content []byte) *sftpPeer {
	t.Helper()
	p := &sftpPeer{world: &world{dir: t.TempDir(), servers: &servers{}}, files: sftp.InMemHandler()}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	p.servers.ssh.addr, p.servers.openssh.addr, p.servers.bareSSH.addr = p.addr, p.addr, "127.0.0.1:1"
	if err := p.writeSSHKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	host, err := ssh.ParsePrivateKey([]byte(readText(p.path("host_key"))))
	if err != nil {
		t.Fatal(err)
	}
	p.config = &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(ssh.MarshalAuthorizedKey(key)) != readText(p.path("alice.pub")) {
			return nil, errors.New("not alice")
		}
		return nil, nil
	}}
	p.config.AddHostKey(host)
	w, err := p.files.FilePut.Filewrite(&sftp.Request{Method: "Put", Filepath: "/object", Flags: 0x1a}) // write, create, truncate
	if err == nil {
		_, err = w.WriteAt(content, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return p
}

func (p *sftpPeer) serve(conn net.Conn) {
	defer conn.Close()
	p.all.Add(1)
	p.open.Add(1)
	defer p.open.Add(-1)
	_, channels, requests, err := ssh.NewServerConn(conn, p.config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				_ = r.Reply(r.Type == "subsystem", nil)
			}
		}()
		_ = sftp.NewRequestServer(channel, p.files).Serve()
		_, _ = channel.SendRequest("exit-status", false, make([]byte, 4))
		channel.Close()
	}
}

// order is one for this server, as change makes it.
func (p *sftpPeer) order(t *testing.T, request string, length int, change func(*load)) load {
	t.Helper()
	names := p.path("names")
	if err := os.WriteFile(names, []byte("object\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := load{
		Addr: p.addr, Names: names, Request: request, Conns: 1, Length: int64(length), Duration: 50 * time.Millisecond,
		SSH: &sshLogin{User: "anybody", Key: p.path("alice"), Known: p.path("known_hosts")},
	}
	change(&l)
	return l
}

// TestSSHLoad: the load generator counts good answers of an SFTP server, and takes every other for an error.
func TestSSHLoad(t *testing.T) {
	content := bytes.Repeat([]byte("object"), 50_000)
	p, other := newSFTPPeer(t, content), newSFTPPeer(t, nil)
	const stat, read = "STAT /{NAME}", "READ /{NAME}"
	for name, tc := range map[string]struct {
		request string
		length  int
		change  func(*load)
		want    string // in the error; "" for none
	}{
		"stat":             {stat, len(content), func(*load) {}, ""},
		"in flight":        {stat, len(content), func(l *load) { l.Conns, l.SSH.Flight = 2, 5 }, ""},
		"connect":          {stat, len(content), func(l *load) { l.Connect, l.Conns = true, 2 }, ""},
		"pkg/sftp":         {read, len(content), func(l *load) { l.SSH.Client = goClient }, ""},
		"OpenSSH":          {read, len(content), func(l *load) { l.SSH.Client = opensshClient }, ""},
		"wrong size":       {stat, 1, func(*load) {}, "another size than 1"},
		"short":            {read, 1, func(l *load) { l.SSH.Client = goClient }, "300000 bytes, want 1"},
		"absent":           {"STAT /absent", 1, func(*load) {}, "packet of type 101"},
		"absent, OpenSSH":  {"READ /absent", 1, func(l *load) { l.SSH.Client = opensshClient }, "not found"},
		"another host key": {stat, len(content), func(l *load) { l.SSH.Known = other.path("known_hosts") }, "host key mismatch"},
		"another user key": {stat, len(content), func(l *load) { l.SSH.Key = other.path("alice") }, "unable to authenticate"},
		"nobody":           {stat, len(content), func(l *load) { l.Addr = "127.0.0.1:1" }, "refused"},
		"no request":       {"DROP /{NAME}", 1, func(*load) {}, "no such request"},
	} {
		t.Run(name, func(t *testing.T) {
			before := p.all.Load()
			l := p.order(t, tc.request, tc.length, tc.change)
			o, err := l.run(t.Context())
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
			if err != nil {
				return
			}
			if o.Requests == 0 || o.Median <= 0 || o.P99 < o.Median || o.Protocol != "SSH aes128-gcm@openssh.com curve25519-sha256" {
				t.Errorf("%+v", o)
			}
			if want := int64(o.Requests * tc.length); tc.request == read && o.Bytes != want || tc.request == stat && o.Bytes != 0 {
				t.Errorf("%d bytes of %d requests", o.Bytes, o.Requests)
			}
			if n := int(p.all.Load() - before); l.Connect && n != o.Requests || !l.Connect && l.SSH.Client != opensshClient && n != l.Conns {
				t.Errorf("%d connections for %d requests", n, o.Requests)
			}
		})
	}
}

// TestHold: as many connections as asked for are held, no more, and for as long as somebody wants them.
func TestHold(t *testing.T) {
	p := newSFTPPeer(t, []byte("object"))
	l := p.order(t, "STAT /{NAME}", 6, func(l *load) { l.Conns = heldJobs + 3 })
	order, err := json.Marshal(l, exactly())
	if err != nil {
		t.Fatal(err)
	}
	leash, let := io.Pipe()
	said, say := io.Pipe()
	var running sync.WaitGroup
	running.Go(func() { say.CloseWithError(serveHold(t.Context(), []string{string(order)}, leash, say)) })
	defer let.Close()
	h, err := readHeld(said)
	if err != nil || h.Error != "" || h.Conns != l.Conns || h.Next <= 0 {
		t.Fatalf("%+v, %v", h, err)
	}
	if made := p.all.Load(); made != int64(l.Conns+heldLater) {
		t.Errorf("%d connections were made, want %d", made, l.Conns+heldLater)
	}
	holds := func(n int64) bool {
		for range 5000 {
			if p.open.Load() == n {
				return true
			}
			time.Sleep(time.Millisecond)
		}
		return false
	}
	if !holds(int64(l.Conns)) {
		t.Errorf("%d connections are open, want %d", p.open.Load(), l.Conns)
	}
	let.Close()
	_, _ = io.Copy(io.Discard, said)
	running.Wait()
	if !holds(0) {
		t.Errorf("%d connections are open after all", p.open.Load())
	}
	l.Addr = "127.0.0.1:1"
	if conns, _, err := l.hold(t.Context()); err == nil || len(conns) != 0 {
		t.Errorf("%d connections to nobody, %v", len(conns), err)
	}
	if err := serveHold(t.Context(), nil, leash, io.Discard); err == nil {
		t.Error("took no order for one")
	}
}

// TestMembers: a server is all processes that descend from the one that was started, also one that leaves its group, and what they
// used counts after they have ended.
func TestMembers(t *testing.T) {
	const busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
	p, err := startProcess(t.TempDir(), "family", "/bin/sh", "-c", "setsid sleep 60 & ("+busy+") & wait $!; wait")
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	var ended bool
	err = p.await(t.Context(), func() bool {
		all := p.members()
		ended = len(all) == 2 && all[0].group != all[1].group && p.processor() > 0
		return ended
	})
	if err != nil {
		t.Errorf("%v: %+v used %v", err, p.members(), p.processor())
	}
	if n, err := p.memory(); n <= 0 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := p.settle(t.Context()); err != nil {
		t.Error(err)
	}
	for _, m := range p.members() {
		if m.group != p.cmd.Process.Pid {
			_ = syscall.Kill(m.pid, syscall.SIGKILL) // it is not of the group that stop ends
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.settle(ctx); err == nil {
		t.Error("waited for the end of nothing")
	}
}

// TestSSHHandler: the bare server answers STATs, and ends when it is told to.
func TestSSHHandler(t *testing.T) {
	p := newSFTPPeer(t, nil)
	addr, err := loopback.Free()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serveSSHHandler(ctx, []string{"-addr", addr, "-key", p.path("host_key"), "-length", "17"})
	}()
	for !accepts(addr) {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	l := p.order(t, "STAT /{NAME}", 17, func(l *load) { l.Addr, l.SSH.Flight = addr, 3 })
	if o, err := l.run(t.Context()); err != nil || o.Requests < 3 {
		t.Errorf("%+v, %v", o, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := serveSSHHandler(t.Context(), []string{"-addr", addr, "-key", p.path("nowhere")}); err == nil {
		t.Error("served without a key")
	}
}

// TestAsked: what was asked is told in words.
func TestAsked(t *testing.T) {
	for _, tc := range []struct {
		load load
		want string
	}{
		{load{Request: "HEAD /x", Conns: 40}, "HEAD, 40 connections"},
		{load{Request: "POST /x", Conns: 1}, "POST, 1 connection"},
		{load{Request: "STAT /x", Conns: 8, Connect: true, SSH: &sshLogin{}}, "STAT, 8 connections, a new one each"},
		{load{Request: "STAT /x", Conns: 1, SSH: &sshLogin{Flight: 16}}, "STAT, 1 connection, 16 in flight"},
		{load{Request: "READ /x", Conns: 1, SSH: &sshLogin{Client: opensshClient}}, "READ, 1 connection, by OpenSSH's sftp"},
		{load{Request: "get-stream m {NAME}", Conns: 40, Hash: &hashOrder{Flight: 64}}, "get-stream, 40 connections, 64 in flight"},
		{load{Request: "get-stream m {NAME}", Conns: 40, Hash: &hashOrder{Flight: 1, Count: 9}}, "get-stream, 40 connections, 9 each"},
		{load{Request: "get-stream m {NAME}", Conns: 40, Hash: &hashOrder{Flight: 1, Rate: 50}}, "get-stream, 40 connections, 50/s each"},
	} {
		if got := tc.load.asked(); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}

// TestSSHWorld: both servers are known by one host key, and the gate's forge knows alice by hers.
func TestSSHWorld(t *testing.T) {
	p := newSFTPPeer(t, nil)
	if known := readText(p.path("known_hosts")); strings.Count(known, "ssh-ed25519 ") != 3 || strings.Count(known, p.addr[strings.Index(p.addr, ":")+1:]) != 2 {
		t.Error(known)
	}
	if err := p.writeGateFiles(t.Context()); err != nil {
		t.Fatal(err)
	}
	if forge := readText(filepath.Join(p.dir, "forge.yaml")); !strings.Contains(forge, strings.TrimSpace(readText(p.path("alice.pub")))) {
		t.Error(forge)
	}
}
