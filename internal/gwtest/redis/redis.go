// Package redis starts real Redis servers on loopback for one test: alone, with Sentinel or as a cluster. It needs
// redis-server, 6.2 or newer.
//
//	s := redis.Start(t, redis.Options{TLS: true})
//	s.Kill(t); s.Restart(t)   // and other weather
package redis

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/lychgate/lychgate/internal/devca"
	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// patience is how long a server may take for anything.
const patience = 30 * time.Second

// Options say what a server is to be like. The zero Options are a server without persistence that anybody may use.
type Options struct {
	TLS     bool     // and clients must show a certificate of the same authority
	Users   []string // lines of an ACL file; the default user is off then, and "admin" with the password "admin" may do all
	Durable bool     // every write is on the disk before it is answered
	Args    []string // further arguments of redis-server
}

// Server is a running server. It ends with the test.
type Server struct {
	Addr string      // host:port
	TLS  *tls.Config // for clients: the authority, and a certificate; nil without TLS

	// Admin may do everything, and is not tried twice.
	Admin *redis.Client

	args    []string
	dir     string
	process *os.Process
	ended   chan struct{}
}

// Start starts a server and waits until it answers. Without redis-server it skips the test, or fails it where CI=true.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{Addr: FreeAddr(t), dir: t.TempDir()}
	_, port, _ := net.SplitHostPort(s.Addr)
	s.args = []string{
		"--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes",
	}
	if o.Durable {
		s.args = append(s.args, "--appendonly", "yes", "--appendfsync", "always")
	}
	if o.TLS {
		s.args = append(s.args, "--port", "0", "--tls-port", port)
		s.args = append(s.args, s.certify(t)...)
	} else {
		s.args = append(s.args, "--port", port)
	}
	admin := &redis.Options{Addr: s.Addr, TLSConfig: s.TLS, MaxRetries: -1, Protocol: 2, DisableIdentity: true, ReadTimeout: patience}
	if o.Users != nil {
		admin.Username, admin.Password = "admin", "admin"
		s.args = append(s.args, "--aclfile", s.write(t, "users.acl",
			strings.Join(append([]string{"user default off", "user admin on >admin ~* &* +@all"}, o.Users...), "\n")+"\n"))
	}
	s.args = append(s.args, o.Args...)
	s.Admin = redis.NewClient(admin)
	t.Cleanup(func() { s.Admin.Close() })
	s.Restart(t)
	t.Cleanup(s.end)
	return s
}

// FreeAddr returns an address of loopback on which nobody listens.
func FreeAddr(t testing.TB) string {
	t.Helper()
	address, err := loopback.Free()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// certify makes an authority and certificates, and returns the arguments that name them.
func (s *Server) certify(t testing.TB) []string {
	t.Helper()
	ca, err := devca.Open(filepath.Join(s.dir, "ca"), nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Leaf("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	server, err := leaf.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ca.Client("test:client")
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{*client}}
	return []string{
		"--tls-ca-cert-file", ca.File(), "--tls-auth-clients", "yes",
		"--tls-cert-file", s.write(t, "server.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate[0]}))),
		"--tls-key-file", s.write(t, "server.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))),
	}
}

func (s *Server) write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// URL is redis:// or rediss:// with the address.
func (s *Server) URL() string {
	if s.TLS != nil {
		return "rediss://" + s.Addr
	}
	return "redis://" + s.Addr
}

// Restart starts a server that was killed, on the data that it left, and waits until it answers.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.launch(t, s.args)
	Until(t, "redis answers", func() bool { return s.Admin.Ping(t.Context()).Err() == nil })
}

func (s *Server) launch(t testing.TB, args []string) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("redis-server is missing: %v", err)
		}
		t.Skipf("redis-server is missing: %v", err)
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	s.process, s.ended = cmd.Process, ended
	go func() {
		defer close(ended)
		cmd.Wait() // how it ends is of no interest
	}()
}

// end kills the server and waits for its end.
func (s *Server) end() {
	s.process.Kill()
	<-s.ended
}

// Kill ends the server at once, as a power cut does.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.end()
}

// Wipe removes what a killed server has left.
func (s *Server) Wipe(t testing.TB) {
	t.Helper()
	for _, name := range []string{"appendonlydir", "dump.rdb"} {
		if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// Freeze stops the server where it is; Thaw lets it go on.
func (s *Server) Freeze(t testing.TB) { s.signal(t, syscall.SIGSTOP) }

// Thaw ends Freeze.
func (s *Server) Thaw(t testing.TB) { s.signal(t, syscall.SIGCONT) }

func (s *Server) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := s.process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Do runs a command as the administrator. Nil counts as an answer.
func (s *Server) Do(t testing.TB, args ...any) any {
	t.Helper()
	reply, err := s.Admin.Do(t.Context(), args...).Result()
	if err != nil && err != redis.Nil {
		t.Fatalf("redis: %.200q: %v", fmt.Sprint(args...), err)
	}
	return reply
}

// Until polls until ok, and fails the test when that takes too long.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the test ended before: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Replicated is a master with one replica, watched by three sentinels. The replica and the sentinels know the master by the
// address of Link: cutting it parts them from a master that goes on.
type Replicated struct {
	Master, Replica *Server
	Link            *Proxy
	Sentinels       []*Server
}

// StartReplicated starts servers and sentinels, and waits until all know each other.
func StartReplicated(t testing.TB) *Replicated {
	t.Helper()
	r := &Replicated{Master: Start(t, Options{})}
	r.Link = StartProxy(t, r.Master.Addr)
	host, port, _ := net.SplitHostPort(r.Link.Addr)
	r.Replica = Start(t, Options{Args: []string{"--replicaof", host, port}})
	for range 3 {
		r.Sentinels = append(r.Sentinels, startSentinel(t, host, port))
	}
	Until(t, "the replica follows", func() bool {
		return strings.Contains(fmt.Sprint(r.Replica.Do(t, "INFO", "replication")), "master_link_status:up")
	})
	Until(t, "the sentinels know each other and the replica", func() bool {
		for _, s := range r.Sentinels {
			info := fmt.Sprint(s.Do(t, "INFO", "sentinel"))
			if !strings.Contains(info, "status=ok") || !strings.Contains(info, "slaves=1,sentinels=3") {
				return false
			}
		}
		return true
	})
	return r
}

func startSentinel(t testing.TB, host, port string) *Server {
	t.Helper()
	s := &Server{Addr: FreeAddr(t), dir: t.TempDir()}
	_, own, _ := net.SplitHostPort(s.Addr)
	config := s.write(t, "sentinel.conf", fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\nsentinel monitor main %s %s 2\n"+
		"sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n", own, s.dir, host, port))
	s.Admin = redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, Protocol: 2, DisableIdentity: true})
	t.Cleanup(func() { s.Admin.Close() })
	s.launch(t, []string{config, "--sentinel"})
	t.Cleanup(s.end)
	Until(t, "the sentinel answers", func() bool { return s.Admin.Ping(t.Context()).Err() == nil })
	return s
}

// URL names the sentinels, in the form of internal/redisdb.
func (r *Replicated) URL() string {
	var hosts []string
	for _, s := range r.Sentinels {
		hosts = append(hosts, s.Addr)
	}
	return "redis-sentinel://" + strings.Join(hosts, ",") + "/main"
}

// Promoted reports whether the replica has become the master.
func (r *Replicated) Promoted(t testing.TB) bool {
	t.Helper()
	info, err := r.Replica.Admin.Info(t.Context(), "replication").Result()
	return err == nil && strings.Contains(info, "role:master") // a new master ends its connections
}

// slots is how many a cluster has.
const slots = 16384

// StartCluster starts a cluster of three masters, and waits until each takes keys.
func StartCluster(t testing.TB) (servers []*Server) {
	t.Helper()
	for range 3 {
		_, bus, _ := net.SplitHostPort(FreeAddr(t))
		servers = append(servers, Start(t, Options{Args: []string{"--cluster-enabled", "yes", "--cluster-port", bus}}))
	}
	for i, s := range servers {
		s.Do(t, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		s.Do(t, "CLUSTER", "ADDSLOTSRANGE", i*slots/3, (i+1)*slots/3-1)
		host, port, _ := net.SplitHostPort(servers[0].Addr)
		if i > 0 {
			s.Do(t, "CLUSTER", "MEET", host, port, busPort(servers[0]))
		}
	}
	for _, s := range servers {
		Until(t, "the cluster is whole", func() bool {
			info := fmt.Sprint(s.Do(t, "CLUSTER", "INFO"))
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return servers
}

func busPort(s *Server) int {
	for i, arg := range s.args {
		if arg == "--cluster-port" {
			port, _ := strconv.Atoi(s.args[i+1])
			return port
		}
	}
	return 0
}
