package hashserv_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/gateway/hashserv/hashtest"
)

// clPeer lets everybody do everything with a store in memory.
type clPeer struct{ *hashserv.Memory }

func (clPeer) May(context.Context, hashserv.Permission) error { return nil }
func (clPeer) Whole(context.Context) bool                     { return true }

// clServer serves a peer at an address until it is stopped.
type clServer struct {
	address string
	stop    func() // ends the listener and all connections, and waits for it
}

// clServe listens on tcp, unix or ws. The addresses are those of a Dialer.
func clServe(t testing.TB, network string, peer hashserv.Peer) *clServer {
	t.Helper()
	listen, address := "127.0.0.1:0", ""
	listenOn := "tcp"
	if network == "unix" {
		listenOn, listen = "unix", filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(listenOn, listen)
	if err != nil {
		t.Fatal(err)
	}
	switch network {
	case "unix":
		address = "unix://" + listen
	case "ws":
		address = "ws://" + ln.Addr().String() + "/hash"
	default:
		address = ln.Addr().String()
	}
	s := &clServer{address: address}
	s.stop = clRun(t, network, ln, peer)
	t.Cleanup(s.stop)
	return s
}

func clRun(t testing.TB, network string, ln net.Listener, peer hashserv.Peer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	server := hashserv.NewServer(hashserv.ServerConfig{})
	var all sync.WaitGroup
	if network == "ws" {
		web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			all.Add(1)
			defer all.Done()
			if conn, err := hashserv.AcceptWebsocket(w, r); err == nil {
				_ = server.Serve(ctx, conn, peer)
			}
		})}
		all.Go(func() { _ = web.Serve(ln) })
		return sync.OnceFunc(func() { cancel(); web.Close(); all.Wait() })
	}
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("accept: %v", err)
				}
				return
			}
			all.Go(func() { _ = server.Serve(ctx, hashserv.NewLineConn(conn, hashserv.MaxLine), peer) })
		}
	})
	return sync.OnceFunc(func() { cancel(); ln.Close(); all.Wait() })
}

func clClient(t testing.TB, conf hashserv.ClientConfig) *hashserv.Client {
	t.Helper()
	c, err := hashserv.NewClient(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestClient: a server behind a client is what is behind the server.
func TestClient(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "ws"} {
		differences := []hashtest.Difference{hashtest.OverWire}
		if network != "tcp" {
			differences = append(differences, hashtest.Brief)
		}
		t.Run(network, func(t *testing.T) {
			hashtest.Run(t, func(t testing.TB, c hashtest.Config) hashserv.Store {
				s := clServe(t, network, clPeer{hashserv.NewMemory(hashserv.MemoryConfig{Now: c.Now, Keep: c.Keep})})
				return clClient(t, hashserv.ClientConfig{Address: s.address})
			}, differences...)
		})
	}
}
