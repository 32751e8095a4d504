package main

import (
	"context"
	"crypto/tls"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// server is something that serves the same tree under the same certificate.
type server struct {
	name  string
	addr  string
	lacks string // what must be installed first; empty when nothing
	start func(ctx context.Context) ([]*process, error)
}

// servers are all contenders. The gate is the last, but for its other door.
type servers struct {
	nginx, guarded, caddy, handler, mirror, openssh, bareSSH, gate, ssh server
	hash                                                                hashServers
}

func newServers(w *world) (*servers, error) {
	var addrs [14]string
	for i := range addrs {
		var err error
		if addrs[i], err = loopback.Free(); err != nil {
			return nil, err
		}
	}
	nginx, caddy := lacking("nginx", "nginx-light"), lacking("caddy", "caddy")
	s := &servers{
		nginx:   server{name: "nginx, static", addr: addrs[0], lacks: nginx},
		guarded: server{name: "nginx, auth_request to OPA's server", addr: addrs[1], lacks: nginx},
		caddy:   server{name: "Caddy, file_server", addr: addrs[2], lacks: caddy},
		handler: server{name: "a bare Go net/http handler", addr: addrs[3]},
		mirror:  server{name: "nginx, plain HTTP", addr: addrs[4], lacks: nginx},
		openssh: server{name: "OpenSSH", addr: addrs[6], lacks: lacking("sshd", "openssh-server")},
		gate:    server{name: "the gate", addr: addrs[5]},
		bareSSH: server{name: "a bare Go SSH server", addr: addrs[8]},
		ssh:     server{name: "the gate's ssh door", addr: addrs[7]},
	}
	s.hash = newHashServers(w, s.gate.addr, addrs[9:])
	s.nginx.start = func(ctx context.Context) ([]*process, error) {
		return startNginx(ctx, w, "static", s.nginx.addr, w.tlsLines(s.nginx.addr))
	}
	s.mirror.start = func(ctx context.Context) ([]*process, error) {
		return startNginx(ctx, w, "mirror", s.mirror.addr, fmt.Sprintf("server { listen %s; root %s; }", s.mirror.addr, w.path("www")))
	}
	s.guarded.start = func(ctx context.Context) ([]*process, error) { return startGuarded(ctx, w, s.guarded.addr) }
	s.caddy.start = func(ctx context.Context) ([]*process, error) { return startCaddy(ctx, w, s.caddy.addr) }
	s.handler.start = func(ctx context.Context) ([]*process, error) { return startHandler(ctx, w, s.handler.addr) }
	s.openssh.start = func(ctx context.Context) ([]*process, error) { return startOpenSSH(ctx, w, s.openssh.addr) }
	s.bareSSH.start = func(ctx context.Context) ([]*process, error) { return startSSHHandler(ctx, w, s.bareSSH.addr) }
	s.ssh.start = func(ctx context.Context) ([]*process, error) { return startGate(ctx, w, s.gate.addr) }
	s.gate.start = func(ctx context.Context) ([]*process, error) { return startGate(ctx, w, s.gate.addr) }
	return s, nil
}

// lacking returns how to install a program that is not there.
func lacking(program, pkg string) string {
	if findProgram(program) != "" {
		return ""
	}
	return "apt-get install --no-install-recommends " + pkg
}

// findProgram also looks where Debian puts servers, which is not on everybody's path.
func findProgram(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path := filepath.Join("/usr/sbin", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return ""
}

// nginxFrame is the configuration around a server block: as Debian ships it where speed is concerned, but with connections
// that never have to be made again, and without a log.
const nginxFrame = `daemon off;
%s
worker_processes auto;
pid %[2]s/nginx.pid;
error_log %[2]s/error.log warn;
events { worker_connections 1024; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  client_body_temp_path %[2]s/body;
  proxy_temp_path %[2]s/proxy;
  fastcgi_temp_path %[2]s/fastcgi;
  uwsgi_temp_path %[2]s/uwsgi;
  scgi_temp_path %[2]s/scgi;
  default_type application/octet-stream;
  %[3]s
}
`

// tlsLines is a server block that serves the tree.
func (w *world) tlsLines(addr string, more ...string) string {
	return fmt.Sprintf(`server {
    listen %s ssl;
    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_protocols TLSv1.3;
    root %s;
    %s
  }`, addr, w.path("cert.pem"), w.path("key.pem"), w.path("www"), strings.Join(more, "\n    "))
}

func startNginx(ctx context.Context, w *world, name, addr, lines string) ([]*process, error) {
	dir := w.path("nginx-" + name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // the tree is in a directory that only we may read
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxFrame, user, dir, lines), 0o600); err != nil {
		return nil, err
	}
	return w.startOne(ctx, "nginx-"+name, func() bool { return accepts(addr) }, findProgram("nginx"), "-p", dir, "-c", conf)
}

// startOne starts one process and waits until it is ready.
func (w *world) startOne(ctx context.Context, name string, ready func() bool, argv ...string) ([]*process, error) {
	p, err := startProcess(w.dir, name, argv...)
	if err != nil {
		return nil, err
	}
	if err := p.await(ctx, ready); err != nil {
		p.stop()
		return nil, err
	}
	return []*process{p}, nil
}

// peerPolicy is what the gate's own rule says of a read, over the same facts: who has this token, what was this built from,
// may they read all of it. Tokens are kept in the clear, which costs the peer less than ours cost us. A denial is undefined,
// which OPA answers with 404.
const peerPolicy = `package peer

allow if {
	user := data.tokens[password]
	sources := data.records[trim_prefix(input.path, "/sstate/main/")]
	count(sources) > 0
	every s in sources { data.readable[user][s] }
}

password := split(base64.decode(trim_prefix(input.authorization, "Basic ")), ":")[1]
`

// guardLines has nginx ask OPA before each answer. It connects anew for each question, since nginx drops a connection whose
// answer's body it has no use for; over a Unix socket that costs the least.
const guardLines = `location / { auth_request /ask; }
    location = /ask {
      internal;
      proxy_pass http://unix:%s:/v0/data/peer/allow;
      proxy_method POST;
      proxy_pass_request_headers off;
      proxy_set_header Content-Type application/json;
      proxy_set_body '{"path":"$request_uri","authorization":"$http_authorization"}';
    }`

func startGuarded(ctx context.Context, w *world, addr string) ([]*process, error) {
	opa, err := startOPA(ctx, w)
	if err != nil {
		return nil, err
	}
	nginx, err := startNginx(ctx, w, "guarded", addr, w.tlsLines(addr, fmt.Sprintf(guardLines, w.opaSocket())))
	if err != nil {
		stopAll(opa)
		return nil, err
	}
	return append(nginx, opa...), nil
}

func startOPA(ctx context.Context, w *world) ([]*process, error) {
	ready := func() bool { return healthy("http://" + w.opaAddr + "/health") }
	return w.startOne(ctx, "opaserver", ready, w.path("opaserver"), "-addr", w.opaAddr, "-addr", "unix://"+w.opaSocket(), "-policy", w.path("peer.rego"), "-data", w.path("peer.json"))
}

// opaSocket is below /tmp, since the path of a socket is short (unix(7)).
func (w *world) opaSocket() string { return filepath.Join(os.TempDir(), filepath.Base(w.dir)+".opa") }

func stopAll(all []*process) {
	for _, p := range all {
		p.stop()
	}
}

func startCaddy(ctx context.Context, w *world, addr string) ([]*process, error) {
	conf := fmt.Sprintf("{\n\tadmin off\n\tauto_https off\n}\nhttps://%s {\n\ttls %s %s\n\troot * %s\n\tfile_server\n}\n",
		addr, w.path("cert.pem"), w.path("key.pem"), w.path("www"))
	if err := os.WriteFile(w.path("Caddyfile"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return w.startOne(ctx, "caddy", func() bool { return accepts(addr) }, findProgram("caddy"), "run", "--config", w.path("Caddyfile"), "--adapter", "caddyfile")
}

func startHandler(ctx context.Context, w *world, addr string) ([]*process, error) {
	cmd, err := ourselves(ctx, "handler", "-addr", addr, "-cert", w.path("cert.pem"), "-key", w.path("key.pem"), "-length", strconv.Itoa(smallBytes))
	if err != nil {
		return nil, err
	}
	return w.startOne(ctx, "handler", func() bool { return accepts(addr) }, cmd.Args...)
}

// serveHandler is the least that a Go server can do for a HEAD: the headers of an object, whatever is asked.
func serveHandler(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("handler", flag.ContinueOnError)
	addr, cert, key := flags.String("addr", "", ""), flags.String("cert", "", ""), flags.String("key", "", "")
	length := flags.String("length", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	modified := time.Now().UTC().Format(http.TimeFormat)
	server := &http.Server{
		Addr: *addr, ReadHeaderTimeout: 5 * time.Second, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Content-Type", "application/octet-stream")
			h.Set("Content-Length", *length)
			h.Set("Last-Modified", modified)
			w.WriteHeader(http.StatusOK)
		}),
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServeTLS(*cert, *key); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func startGate(ctx context.Context, w *world, _ string) ([]*process, error) {
	ready := func() bool { return healthy("http://" + w.adminAddr + "/readyz") }
	return w.startOne(ctx, "gate", ready, w.gate, "serve", "--config", w.path("lychgate.yaml"))
}

// versions says what was measured.
func (w *world) versions(ctx context.Context) []string {
	list := []string{commit(ctx), firstLine(ctx, w.gate, "version")}
	if nginx := findProgram("nginx"); nginx != "" {
		list = append(list, firstLine(ctx, nginx, "-v"))
	}
	if sshd := findProgram("sshd"); sshd != "" {
		list = append(list, opensshVersion(ctx, sshd))
	}
	if caddy := findProgram("caddy"); caddy != "" {
		list = append(list, "Caddy "+firstLine(ctx, caddy, "version"))
	}
	if info, err := buildinfo.ReadFile(w.path("opaserver")); err == nil {
		for _, dep := range info.Deps {
			if dep.Path == "github.com/open-policy-agent/opa" {
				list = append(list, "OPA "+dep.Version+", its own server with a policy of the same rule over the same facts")
			}
		}
	}
	return list
}

func firstLine(ctx context.Context, argv ...string) string {
	text, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return filepath.Base(argv[0]) + ": " + err.Error()
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
