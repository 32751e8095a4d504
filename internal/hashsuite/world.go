package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lychgate/lychgate/internal/gwtest/hashref"
	"github.com/lychgate/lychgate/internal/gwtest/loopback"
	"github.com/lychgate/lychgate/internal/gwtest/server"
)

// subject is what the suite is run against.
type subject int

const (
	reference subject = iota // BitBake's own server
	gate                     // a gate
	proxy                    // a gate in front of BitBake's own server
)

func subjects() []subject { return []subject{reference, gate, proxy} }

func (s subject) String() string { return [...]string{"reference", "gate", "proxy"}[s] }

// configuration is who the suite is. The tests of the one are skipped, or cannot pass, in the other.
type configuration int

const (
	open  configuration = iota // without a login: whoever connects may read, report and maintain
	login                      // with one: without it nobody may do anything
)

func configurations() []configuration { return []configuration{open, login} }

func (c configuration) String() string { return [...]string{"open", "login"}[c] }

// transport is how the suite connects.
type transport string

const (
	tcp  transport = "tcp"
	unix transport = "unix"
	ws   transport = "ws"
	wss  transport = "wss"
)

func transports() []transport { return []transport{tcp, unix, ws, wss} }

// transports are those that the subject has: BitBake's server has no TLS.
func (s subject) transports() []transport {
	if s == reference {
		return []transport{tcp, unix, ws}
	}
	return transports()
}

// suite is one run of the suite.
type suite struct {
	subject       subject
	configuration configuration
	transport     transport
}

func (s suite) String() string {
	return fmt.Sprintf("%s-%s-%s", s.subject, s.configuration, s.transport)
}

// world is the directory that all is in.
type world struct {
	o         options
	reference hashref.Reference
	dir       string
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// authority is the certificate that clients trust.
func (w *world) authority() string { return w.path("state/ca/ca.pem") }

func (w *world) close() error {
	if w.o.keep {
		fmt.Fprintln(os.Stderr, "kept:", w.dir)
		return nil
	}
	return os.RemoveAll(w.dir)
}

// running are the servers of a subject, and where it is to be found.
type running struct {
	processes []*server.Process
	endpoints map[transport]endpoint
}

func (r *running) stop() {
	for _, p := range r.processes {
		p.Stop()
	}
}

// start starts what a subject consists of, with nothing in it.
func (w *world) start(ctx context.Context, name suite) (*running, error) {
	c := name.configuration
	r := &running{endpoints: map[transport]endpoint{}}
	var err error
	switch name.subject {
	case reference:
		err = w.startReference(ctx, r, c, name.transport)
	case gate:
		err = w.startGate(ctx, r, c, "hash: {reference: true}")
	case proxy:
		err = w.startProxy(ctx, r, c)
	}
	if err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

// The user that the reference server and the gate in front of it share.
const (
	admin    = "admin"
	password = "admin-password"
)

// startReference starts BitBake's server, which has one address.
func (w *world) startReference(ctx context.Context, r *running, c configuration, t transport) error {
	bind, err := w.address(t)
	if err != nil {
		return err
	}
	e := endpoint{address: bind}
	var args []string
	if c == login {
		e.user, e.password = admin, password
		args = []string{"--anon-perms", "@none", "--admin-user", admin, "--admin-password", password}
	}
	p, err := w.startServer(ctx, bind, args...)
	if err != nil {
		return err
	}
	r.processes, r.endpoints[t] = append(r.processes, p), e
	return nil
}

// startServer starts BitBake's server with nothing in it.
func (w *world) startServer(ctx context.Context, bind string, args ...string) (*server.Process, error) {
	dir, err := os.MkdirTemp(w.dir, "server")
	if err != nil {
		return nil, err
	}
	return w.reference.Start(ctx, dir, "server", bind, args...)
}

// address is a free one, as BitBake writes it.
func (w *world) address(t transport) (string, error) {
	if t == unix {
		f, err := os.CreateTemp(w.dir, "*.sock")
		if err != nil {
			return "", err
		}
		return "unix://" + f.Name(), errors.Join(f.Close(), os.Remove(f.Name()))
	}
	host, err := loopback.Free()
	if t != tcp {
		host = string(t) + "://" + host
	}
	return host, err
}

// startProxy starts a reference server, and a gate in front of it that logs in there.
func (w *world) startProxy(ctx context.Context, r *running, c configuration) error {
	bind, err := w.address(tcp)
	if err != nil {
		return err
	}
	p, err := w.startServer(ctx, bind, "--anon-perms", "@none", "--admin-user", admin, "--admin-password", password)
	if err != nil {
		return err
	}
	r.processes = append(r.processes, p)
	if err := os.WriteFile(w.path("upstream.password"), []byte(password), 0o600); err != nil {
		return err
	}
	hash := fmt.Sprintf("hash: {reference: true, upstream: %q, user: %s, password: %q}",
		bind, admin, "file:"+w.path("upstream.password"))
	return w.startGate(ctx, r, c, hash)
}

const gateConfig = `node: suite
state: state
https:
  listen: %[1]q
  audience: "https://%[1]s"
  tls: {development_ca: true}
admin: {listen: %[2]q}
hash:
  listeners:
%[3]szones:
  - name: main
    writers: {users: ["git.example.com/#5"]}
    admins: {users: ["git.example.com/#5"]}
    signers: [ci]
    %[4]s
signers:
  keys: [{identity: ci, file: ci.pub}]
forges:
  - {name: git.example.com, type: static, file: forge.yaml}
`

const gateForge = `hosts: [git.example.com]
users:
  - {id: "5", name: builder, kind: ci}
access: []
`

// publicKey is one of a signer. Nothing here is signed, but a zone with writers must name who signs.
const publicKey = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
`

// startGate starts a gate without state, with a listener for each transport. hash is what its zone says.
func (w *world) startGate(ctx context.Context, r *running, c configuration, hash string) error {
	var https, adminAddr string
	for _, address := range []*string{&https, &adminAddr} {
		var err error
		if *address, err = loopback.Free(); err != nil {
			return err
		}
	}
	listeners, err := w.listeners(r, c)
	if err != nil {
		return err
	}
	config := w.path("lychgate.yaml")
	if err := errors.Join(
		os.RemoveAll(w.path("state")),
		os.WriteFile(config, fmt.Appendf(nil, gateConfig, https, adminAddr, listeners, hash), 0o600),
		os.WriteFile(w.path("forge.yaml"), []byte(gateForge), 0o600),
		os.WriteFile(w.path("ci.pub"), []byte(publicKey), 0o600),
	); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, w.o.gate, "token", "create", "--config", config, "--user", "builder").CombinedOutput()
	if err != nil {
		return fmt.Errorf("make a token: %w: %s", err, out)
	}
	token := strings.TrimSpace(string(out))
	r.endpoints[wss] = endpoint{address: "wss://" + https + "/hash/main"}
	if c == open {
		// Nobody is anonymous at the https door: whoever connects shows Basic, as BB_HASHSERVE_UPSTREAM has it.
		r.endpoints[wss] = endpoint{address: "wss://any:" + token + "@" + https + "/hash/main"}
	} else {
		for t, e := range r.endpoints {
			e.user, e.password = "any", token
			r.endpoints[t] = e
		}
	}
	ready := func() bool { return open200("http://" + adminAddr + "/readyz") }
	p, err := server.Start(ctx, w.dir, "gate", nil, ready, w.o.gate, "serve", "--config", config)
	if err != nil {
		return err
	}
	r.processes = append(r.processes, p)
	return nil
}

// listeners are those of the configuration, and sets where they are.
func (w *world) listeners(r *running, c configuration) (string, error) {
	var lines strings.Builder
	for _, t := range []transport{tcp, unix, ws} {
		address, err := w.address(t)
		if err != nil {
			return "", err
		}
		r.endpoints[t] = endpoint{address: address}
		listen, more := strings.TrimPrefix(address, "ws://"), ""
		if t == unix {
			listen = "unix:" + strings.TrimPrefix(address, "unix://")
		}
		if t == ws {
			more = ", websocket: true"
		}
		if c == open {
			more += `, principal: {forge: git.example.com, id: "5"}`
		}
		fmt.Fprintf(&lines, "    - {listen: %q, zone: main%s}\n", listen, more)
	}
	return lines.String(), nil
}

// open200 reports whether url answers 200.
func open200(url string) bool {
	res, err := http.Get(url)
	if err != nil {
		return false
	}
	return res.Body.Close() == nil && res.StatusCode == http.StatusOK
}
