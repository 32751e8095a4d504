package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// hashPeer is a server that knows one user, who may do all.
type hashPeer struct {
	hashserv.Store
}

func (hashPeer) May(context.Context, hashserv.Permission) error { return nil }
func (hashPeer) Whole(context.Context) bool                     { return true }

func (hashPeer) Auth(_ context.Context, name, token string) (hashserv.User, error) {
	if token != "right" {
		return hashserv.User{}, &hashserv.Refusal{Message: "no"}
	}
	return hashserv.User{Name: name}, nil
}

var errNoAccounts = errors.New("no accounts")

func (hashPeer) User(context.Context, string) (*hashserv.User, error) { return nil, errNoAccounts }

func (hashPeer) AllUsers(context.Context) ([]hashserv.User, error) { return nil, errNoAccounts }

func (hashPeer) DeleteUser(context.Context, string) (string, error) { return "", errNoAccounts }

func (hashPeer) BecomeUser(context.Context, string) (hashserv.User, error) {
	return hashserv.User{}, errNoAccounts
}

func (hashPeer) NewUser(context.Context, string, []hashserv.Permission) (hashserv.User, string, error) {
	return hashserv.User{}, "", errNoAccounts
}

func (hashPeer) SetPermissions(context.Context, string, []hashserv.Permission) (hashserv.User, error) {
	return hashserv.User{}, errNoAccounts
}

func (hashPeer) RefreshToken(context.Context, string) (string, string, error) {
	return "", "", errNoAccounts
}

// newHashPeer serves mappings of three hashes to themselves, as lines and as websockets, and returns both addresses and a file of the hashes.
func newHashPeer(t *testing.T) (lines, web, names string) {
	t.Helper()
	store := hashserv.NewMemory(hashserv.MemoryConfig{})
	var text strings.Builder
	for n := range 3 {
		hash := objectHash("test", n)
		u, _ := hashserv.ParseUnihash(hash)
		r := hashserv.Report{Task: hashserv.Task{Method: hashMethod, Taskhash: hash}, Outhash: hash, Unihash: u}
		if _, err := store.Report(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&text, hash)
	}
	names = filepath.Join(t.TempDir(), "names")
	if err := os.WriteFile(names, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	s, peer := hashserv.NewServer(hashserv.ServerConfig{}), hashPeer{Store: store}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _ = s.Serve(t.Context(), hashserv.NewLineConn(conn, 64<<10), peer) }()
		}
	}()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, err := hashserv.AcceptWebsocket(w, r); err == nil {
			_ = s.Serve(t.Context(), conn, peer)
		}
	}))
	t.Cleanup(h.CloseClientConnections)
	return ln.Addr().String(), h.Listener.Addr().String(), names
}

// TestHashLoad: the generator counts right answers, over both transports, and takes every other for an error.
func TestHashLoad(t *testing.T) {
	lines, web, names := newHashPeer(t)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte(strings.Repeat("a", 64)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const stream = "get-stream " + hashMethod + " {NAME}"
	for name, tc := range map[string]struct {
		request string
		change  func(*load)
		want    string // in the error; "" for none
		count   int    // of requests; 0 for any
	}{
		"one in flight":    {stream, func(*load) {}, "", 0},
		"many in flight":   {stream, func(l *load) { l.Hash.Flight = 64 }, "", 0},
		"a burst":          {stream, func(l *load) { l.Hash.Flight, l.Hash.Count, l.Duration = 7, 100, time.Minute }, "", 300},
		"a small burst":    {stream, func(l *load) { l.Hash.Flight, l.Hash.Count, l.Duration = 7, 3, time.Minute }, "", 9},
		"paced":            {stream, func(l *load) { l.Hash.Rate, l.Hash.Count, l.Duration = 1000, 5, time.Minute }, "", 15},
		"connect":          {stream, func(l *load) { l.Connect, l.Hash.Count, l.Duration = true, 4, time.Minute }, "", 12},
		"exists":           {"exists-stream {NAME}", func(*load) {}, "", 0},
		"report":           {"report " + hashMethod + " {NAME}", func(l *load) { l.Hash.Count = 3 }, "", 9},
		"report a new one": {"report " + hashMethod, func(*load) {}, "", 0},
		"signed in":        {stream, func(l *load) { l.Hash.Token = "right" }, "", 0},
		"not signed in":    {stream, func(l *load) { l.Hash.Token = "wrong" }, "was answered by", 0},
		"unknown":          {stream, func(l *load) { l.Names = other }, `was answered by ""`, 0},
		"absent":           {"exists-stream {NAME}", func(l *load) { l.Names = other }, `was answered by "false"`, 0},
		"nobody":           {stream, func(l *load) { l.Addr = "127.0.0.1:1" }, "refused", 0},
	} {
		for path, addr := range map[string]string{"": lines, "/hash": web} {
			t.Run(name+path, func(t *testing.T) {
				l := load{Addr: addr, Request: tc.request, Names: names, Conns: 3, Duration: 100 * time.Millisecond, Hash: &hashOrder{Path: path, Flight: 1}}
				tc.change(&l)
				o, err := l.run(t.Context())
				if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("%v, want %q", err, tc.want)
				}
				if err == nil && (o.Requests == 0 || tc.count > 0 && o.Requests != tc.count || o.P99 < o.Median || o.Protocol == "") {
					t.Errorf("%+v, want %d requests", o, tc.count)
				}
			})
		}
	}
}

// TestHashHandler: the bare server answers lookups, and ends when it is told to.
func TestHashHandler(t *testing.T) {
	_, _, names := newHashPeer(t)
	addr, err := loopback.Free()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveHashHandler(ctx, []string{"-addr", addr}) }()
	for !accepts(addr) {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	l := load{
		Addr: addr, Request: "get-stream " + hashMethod + " {NAME}", Names: names, Conns: 2, Duration: time.Minute,
		Hash: &hashOrder{Flight: 5, Count: 20},
	}
	if o, err := l.run(t.Context()); err != nil || o.Requests != 40 {
		t.Errorf("%+v, %v", o, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
