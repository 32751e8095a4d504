package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/internal/gwtest/loopback"
	"github.com/lychgate/lychgate/internal/gwtest/server"
)

// toxiproxy is what is built when a fault of the network is tried. It takes the Go module proxy, once.
const toxiproxy = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"

// network is the way from a build host to a gate, and what is wrong with it: toxiproxy makes it slow and has it break, and behind that some
// bytes become others.
type network struct {
	address string // what clients connect to
	api     string // toxiproxy's
	process *server.Process
	noise   *noise
}

// toxic is a fault of toxiproxy's, of what comes from the gate.
type toxic struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Attributes map[string]int `json:"attributes"`
}

// startNetwork puts a network in front of a server.
func startNetwork(ctx context.Context, w *world, target string) (*network, error) {
	if _, err := os.Stat(w.path("toxiproxy/server")); err != nil {
		env := []string{"GOBIN=" + w.path("toxiproxy"), "GOFLAGS=-mod=mod"}
		if err := command(ctx, w.dir, env, "go", "install", toxiproxy); err != nil {
			return nil, err
		}
	}
	n := &network{}
	var err error
	if n.noise, err = startNoise(target); err != nil {
		return nil, err
	}
	for _, address := range []*string{&n.address, &n.api} {
		if *address, err = loopback.Free(); err != nil {
			return nil, err
		}
	}
	host, port, _ := net.SplitHostPort(n.api)
	ready := func() bool { return n.call(ctx, http.MethodGet, "/version", nil) == nil }
	n.process, err = server.Start(ctx, w.dir, "toxiproxy", nil, ready, w.path("toxiproxy/server"), "-host", host, "-port", port)
	if err != nil {
		return nil, errors.Join(err, n.noise.Close())
	}
	proxy := map[string]any{"name": "gate", "listen": n.address, "upstream": n.noise.Addr().String(), "enabled": true}
	if err := n.call(ctx, http.MethodPost, "/proxies", proxy); err != nil {
		return nil, errors.Join(err, n.stop())
	}
	return n, nil
}

func (n *network) stop() error {
	n.process.Stop()
	return n.noise.Close()
}

// poison makes something wrong.
func (n *network) poison(ctx context.Context, toxics ...toxic) error {
	for _, t := range toxics {
		if err := n.call(ctx, http.MethodPost, "/proxies/gate/toxics", t); err != nil {
			return err
		}
	}
	return nil
}

// heal makes all well. Connections that stand may break.
func (n *network) heal(ctx context.Context) error {
	n.noise.every.Store(0)
	return n.call(ctx, http.MethodPost, "/reset", struct{}{})
}

// call asks toxiproxy.
func (n *network) call(ctx context.Context, method, path string, send any) error {
	body, err := json.Marshal(send)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.api+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("toxiproxy: %s %s: %s: %s", method, path, res.Status, text)
	}
	return err
}

// noise passes connections on, and changes bytes of what comes back.
type noise struct {
	net.Listener
	target string
	every  atomic.Int64 // how many bytes of a connection come between two that are changed; 0: none is
	count  atomic.Int64 // bytes that were changed
}

func startNoise(target string) (*noise, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &noise{Listener: ln, target: target}
	go n.accept()
	return n, nil
}

func (n *noise) accept() {
	for {
		client, err := n.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", n.target)
		if err != nil {
			client.Close()
			continue
		}
		go carry(server, client)
		go carry(client, &flipping{Reader: server, noise: n})
	}
}

// carry copies one direction until an end closes, and closes where it went.
func carry(to net.Conn, from io.Reader) {
	_, _ = io.Copy(to, from) // an end that goes is what ends a connection
	to.Close()
}

// flipping changes bytes that are read.
type flipping struct {
	io.Reader
	noise *noise
	since int64 // how many bytes came since one was changed
}

func (f *flipping) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	f.since += int64(n)
	if every := f.noise.every.Load(); every > 0 && f.since >= every && n > 0 {
		p[n-1] ^= 0x10
		f.since = 0
		f.noise.count.Add(1)
	}
	return n, err
}
