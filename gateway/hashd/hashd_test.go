package hashd_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway/hashd"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/gwtest"
	"github.com/lychgate/lychgate/internal/servertls"
)

const publicSource = "git://git.example.com/public/hello.git;protocol=https"

// serve opens a listener of a hash door until the test ends, and returns its address.
func serve(t testing.TB, door *hashd.Server, network, address string, l hashd.Listener) string {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := door.Serve(ctx, ln, l); err != nil {
			t.Error("serve:", err)
		}
	})
	t.Cleanup(func() { cancel(); serving.Wait() })
	return ln.Addr().String()
}

// tlsConfig is what the https door speaks.
func tlsConfig(t testing.TB, g *gwtest.Gate, clientCA bool) *tls.Config {
	t.Helper()
	leaf, err := g.CA.Leaf("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	if clientCA {
		return servertls.Config(leaf.GetCertificate, g.CA.Pool(), nil)
	}
	return servertls.Config(leaf.GetCertificate, nil, nil)
}

// sees reports whether an object exists for a client of that kind.
func sees(t testing.TB, o gwtest.Object, c hashserv.ClientConfig) (bool, error) {
	t.Helper()
	client, err := hashserv.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var is [1]bool
	err = client.Exists(t.Context(), []hashserv.Unihash{o.Unihash()}, is[:])
	return is[0], err
}

// published is a gate with one artifact, which alice and bob may read and carol may not.
func published(t testing.TB, o gwtest.Options) (*gwtest.Gate, gwtest.Object) {
	t.Helper()
	g := gwtest.New(t, o)
	object := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{object}, publicSource)
	return g, object
}

// TestEveryWayIn: each transport knows who comes, by each credential that it takes.
func TestEveryWayIn(t *testing.T) {
	places := map[string]authn.Principal{"here": {Forge: gwtest.Forge, ID: "2", Name: "bob", Kind: authn.Human}}
	g, o := published(t, gwtest.Options{ClientCA: true, Places: places})
	token := g.As("bob").Token
	login := hashserv.ClientConfig{Username: "whoever", Token: token}
	verify := &hashserv.Dialer{TLS: &tls.Config{RootCAs: g.CA.Pool()}}
	cert, err := g.CA.Client("spiffe://example.com/alice")
	if err != nil {
		t.Fatal(err)
	}
	certified := &hashserv.Dialer{TLS: &tls.Config{RootCAs: g.CA.Pool(), Certificates: []tls.Certificate{*cert}}}
	socket := filepath.Join(t.TempDir(), "s")

	lines := serve(t, g.HashDoor, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main"})
	place := serve(t, g.HashDoor, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main", Place: "here"})
	secure := "tls://" + serve(t, g.HashDoor, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main", TLS: tlsConfig(t, g, true)})
	unix := "unix://" + serve(t, g.HashDoor, "unix", socket, hashd.Listener{Zone: "main"})
	ws := "ws://" + serve(t, g.HashDoor, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main", Websocket: true})
	wsPlace := "ws://" + serve(t, g.HashDoor, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main", Websocket: true, Place: "here"})
	wss := "wss://" + g.Addr + "/hash/main"
	basic := func(d hashserv.Dialer) *hashserv.Dialer { d.Username, d.Password = "whoever", token; return &d }

	for _, tt := range []struct {
		name string
		hashserv.ClientConfig
		address string
		want    bool
	}{
		{"lines, nobody", hashserv.ClientConfig{}, lines, false},
		{"lines, a token", login, lines, true},
		{"a place", hashserv.ClientConfig{}, place, true},
		{"TLS, nobody", hashserv.ClientConfig{Dialer: verify}, secure, false},
		{"TLS, a token", hashserv.ClientConfig{Dialer: verify, Username: "x", Token: token}, secure, true},
		{"TLS, a certificate", hashserv.ClientConfig{Dialer: certified}, secure, true},
		{"a socket, nobody", hashserv.ClientConfig{}, unix, false},
		{"a socket, a token", login, unix, true},
		{"a websocket, nobody", hashserv.ClientConfig{}, ws, false},
		{"a websocket, a token as Basic", hashserv.ClientConfig{Dialer: basic(hashserv.Dialer{})}, ws, true},
		{"a websocket, a token by auth", login, ws, true},
		{"a websocket of a place", hashserv.ClientConfig{}, wsPlace, true},
		{"the https door, nobody", hashserv.ClientConfig{Dialer: verify}, wss, false},
		{"the https door, a token as Basic", hashserv.ClientConfig{Dialer: basic(*verify)}, wss, true},
		{"the https door, a token by auth", hashserv.ClientConfig{Dialer: verify, Username: "x", Token: token}, wss, true},
		{"the https door, a certificate", hashserv.ClientConfig{Dialer: certified}, wss, true},
		{"a zone that is none", hashserv.ClientConfig{Dialer: basic(*verify)}, "wss://" + g.Addr + "/hash/other", false},
		{"a zone that has no name", hashserv.ClientConfig{Dialer: basic(*verify)}, "wss://" + g.Addr + "/hash/%2e%2e", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.ClientConfig.Address = tt.address
			if got, err := sees(t, o, tt.ClientConfig); got != tt.want || err != nil {
				t.Errorf("it exists: %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

// TestWrongCredentials: what is shown and wrong is refused before anything is answered, and never with an error that BitBake dies of.
func TestWrongCredentials(t *testing.T) {
	g, o := published(t, gwtest.Options{ClientCA: true})
	verify := &hashserv.Dialer{TLS: &tls.Config{RootCAs: g.CA.Pool()}}
	stranger, err := g.CA.Client("spiffe://example.com/stranger")
	if err != nil {
		t.Fatal(err)
	}
	lines := serve(t, g.HashDoor, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main"})
	secure := "tls://" + serve(t, g.HashDoor, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main", TLS: tlsConfig(t, g, true)})
	for _, tt := range []struct {
		name string
		c    hashserv.ClientConfig
	}{
		{"a token by auth", hashserv.ClientConfig{Address: lines, Username: "alice", Token: "lgt_wrong"}},
		{"an empty token", hashserv.ClientConfig{Address: lines, Username: "alice"}},
		{"a token as Basic", hashserv.ClientConfig{Address: "wss://" + g.Addr + "/hash/main", Dialer: &hashserv.Dialer{TLS: verify.TLS, Username: "alice", Password: "wrong"}}},
		{"a certificate of nobody", hashserv.ClientConfig{Address: secure, Dialer: &hashserv.Dialer{TLS: &tls.Config{RootCAs: g.CA.Pool(), Certificates: []tls.Certificate{*stranger}}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var refusal *hashserv.Refusal
			if got, err := sees(t, o, tt.c); err == nil || got || errors.As(err, &refusal) {
				t.Errorf("answered %v, %v; want no answer, and no invoke-error, of which BitBake dies", got, err)
			}
		})
	}
	// The bad ones did not harm the good ones.
	if got, err := sees(t, o, hashserv.ClientConfig{Address: lines, Username: "bob", Token: g.As("bob").Token}); !got || err != nil {
		t.Errorf("bob sees %v, %v", got, err)
	}
}

// TestWrongLogin: a login that is wrong makes the connection nobody's, whoever's it was, and ends neither it nor BitBake, which dies of an
// error, and signs in for ever when the connection ends.
func TestWrongLogin(t *testing.T) {
	g, o := published(t, gwtest.Options{})
	addr := serve(t, g.HashDoor, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main"})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	read := bufio.NewReader(conn)
	auth := func(token string) string { return `{"auth": {"username": "bob", "token": "` + token + `"}}` + "\n" }
	for _, step := range []struct{ say, want string }{
		{"OEHASHEQUIV 1.1\nneeds-headers: false\n\n" + auth("wrong"), `"result":false`},
		{auth(g.As("bob").Token), `"result":true`},
		{"{\"exists-stream\": null}\n", `"ok"`},
		{o.Unihash().String() + "\n", "true"},
		{"END\n", "ok"},
		{auth("wrong"), `"result":false`},
		{"{\"exists-stream\": null}\n", `"ok"`},
		{o.Unihash().String() + "\n", "false"},
	} {
		if _, err := io.WriteString(conn, step.say); err != nil {
			t.Fatal(err)
		}
		if line, err := read.ReadString('\n'); err != nil || !strings.Contains(line, step.want) {
			t.Fatalf("%.40q is answered by %q, %v; want %s", step.say, line, err, step.want)
		}
	}
}

// TestHTTPAtTheHashPath: what is no websocket gets an answer of HTTP, and one from another site's page none.
func TestHTTPAtTheHashPath(t *testing.T) {
	g, _ := published(t, gwtest.Options{})
	if res := g.As("bob").Get("/hash/main"); res.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("a plain GET: %d", res.StatusCode)
	}
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}
	if res := g.As("bob").Get("/hash/main", append(upgrade, "Origin", "https://evil.example.com")...); res.StatusCode != http.StatusForbidden {
		t.Errorf("a page of another site: %d", res.StatusCode)
	}
	for _, path := range []string{"/hash/", "/hash/main/", "/hash/main?x", "/hash/main/x"} {
		if res := g.As("bob").Get(path, upgrade...); res.StatusCode != http.StatusNotFound && path != "/hash/" {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	if res := g.WithToken("").Get("/hash/main/x", upgrade...); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("another path without a credential: %d", res.StatusCode)
	}
}

// TestConnectionLimits: an address has so many connections, whatever they are made of; one that ends makes room.
func TestConnectionLimits(t *testing.T) {
	t.Run("lines", func(t *testing.T) {
		testConnectionLimits(t, hashd.Listener{Zone: "main"}, "OEHASHEQUIV 1.1\n\n{\"ping\": {}}\n")
	})
	t.Run("websockets, before the upgrade", func(t *testing.T) {
		testConnectionLimits(t, hashd.Listener{Zone: "main", Websocket: true}, "GET / HTTP/1.1\r\nHost: gate\r\n\r\n")
	})
}

// testConnectionLimits says something that is answered on each connection.
func testConnectionLimits(t *testing.T, l hashd.Listener, say string) {
	g, _ := published(t, gwtest.Options{})
	var mu sync.Mutex
	full := 0
	door, err := hashd.New(hashd.Config{
		Gateway: g.Gateway, Protocol: hashserv.NewServer(hashserv.ServerConfig{}), Limits: hashd.Limits{ConnsPerAddress: 2},
		Observe: func(o hashd.Observation) {
			mu.Lock()
			defer mu.Unlock()
			if o.Outcome == "full" {
				full++
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, door, "tcp", "127.0.0.1:0", l)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	alive := func(c net.Conn) bool {
		_, _ = c.Write([]byte(say))
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, _ := c.Read(make([]byte, 64))
		return n > 0
	}
	first, second := dial(), dial()
	defer second.Close()
	if !alive(first) || !alive(second) {
		t.Fatal("a connection within the limit is not served")
	}
	third := dial()
	defer third.Close()
	if alive(third) {
		t.Error("a third connection is served")
	}
	mu.Lock()
	if full != 1 {
		t.Errorf("%d connections counted as too many", full)
	}
	mu.Unlock()
	first.Close()
	for end := time.Now().Add(time.Minute); ; {
		c := dial()
		ok := alive(c)
		c.Close()
		if ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a connection that ended makes no room")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestChannelsCount: a channel of the ssh door is one of its address's connections.
func TestChannelsCount(t *testing.T) {
	g, _ := published(t, gwtest.Options{})
	door, err := hashd.New(hashd.Config{Gateway: g.Gateway, Protocol: hashserv.NewServer(hashserv.ServerConfig{}), Limits: hashd.Limits{ConnsPerAddress: 1}})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	open := func() net.Conn {
		here, there := net.Pipe()
		serving.Go(func() { door.Stream(t.Context(), there, netip.MustParseAddrPort("192.0.2.1:1000"), nil, "main") })
		return here
	}
	alive := func(c net.Conn) bool {
		_, _ = c.Write([]byte("OEHASHEQUIV 1.1\n\n{\"ping\": {}}\n"))
		n, _ := c.Read(make([]byte, 64))
		return n > 0
	}
	first, second := open(), net.Conn(nil)
	if !alive(first) {
		t.Fatal("the first channel is not served")
	}
	if second = open(); alive(second) {
		t.Error("a second channel of one address is served")
	}
	first.Close()
	second.Close()
	serving.Wait()
}

// slowEnd is a connection whose end waits for others, as that of TLS does for a peer that does not read.
type slowEnd struct {
	net.Conn
	others *sync.WaitGroup
	once   sync.Once
}

func (c *slowEnd) Close() error {
	c.once.Do(c.others.Done)
	c.others.Wait()
	return c.Conn.Close()
}

// TestRunEndsAllAtOnce: a connection that takes long to end holds up no other.
func TestRunEndsAllAtOnce(t *testing.T) {
	g, _ := published(t, gwtest.Options{})
	door, err := hashd.New(hashd.Config{Gateway: g.Gateway, Protocol: hashserv.NewServer(hashserv.ServerConfig{})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- door.Run(ctx) }()
	var both sync.WaitGroup
	both.Add(2)
	for range 2 {
		here, there := net.Pipe()
		defer here.Close()
		go door.Stream(t.Context(), &slowEnd{Conn: there, others: &both}, netip.AddrPort{}, nil, "main")
		_, _ = here.Write([]byte("OEHASHEQUIV 1.1\n\n{\"ping\": {}}\n"))
		if n, err := here.Read(make([]byte, 64)); n == 0 {
			t.Fatal(err)
		}
	}
	cancel()
	select {
	case err := <-ran:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("one connection waits for another")
	}
}

// TestRunEndsConnections: when the door stops, connections that rest do not hold it up.
func TestRunEndsConnections(t *testing.T) {
	g, _ := published(t, gwtest.Options{})
	door, err := hashd.New(hashd.Config{Gateway: g.Gateway, Protocol: hashserv.NewServer(hashserv.ServerConfig{})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- door.Run(ctx) }()
	address := serve(t, door, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main"})
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("OEHASHEQUIV 1.1\n\n{\"ping\": {}}\n"))
	if n, err := c.Read(make([]byte, 64)); n == 0 {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-ran:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("a resting connection holds up the end")
	}
	if n, _ := c.Read(make([]byte, 1)); n != 0 {
		t.Error("it is still answered")
	}
}

// TestConnectionsOfAPrincipal: one principal has so many connections, whichever addresses they come from; others are not kept out by it.
func TestConnectionsOfAPrincipal(t *testing.T) {
	places := map[string]authn.Principal{
		"bob": {Forge: gwtest.Forge, ID: "2", Name: "bob", Kind: authn.Human}, "alice": {Forge: gwtest.Forge, ID: "1", Name: "alice", Kind: authn.Human},
	}
	g, o := published(t, gwtest.Options{Places: places})
	door, err := hashd.New(hashd.Config{Gateway: g.Gateway, Protocol: hashserv.NewServer(hashserv.ServerConfig{}), Limits: hashd.Limits{ConnsPerPrincipal: 1}})
	if err != nil {
		t.Fatal(err)
	}
	bob := serve(t, door, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main", Place: "bob"})
	alice := serve(t, door, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main", Place: "alice"})
	first, err := net.Dial("tcp", bob)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, _ = first.Write([]byte("OEHASHEQUIV 1.1\n\n{\"ping\": {}}\n"))
	if n, err := first.Read(make([]byte, 64)); n == 0 {
		t.Fatal(err)
	}
	if got, err := sees(t, o, hashserv.ClientConfig{Address: bob, Connections: 1}); got || err == nil {
		t.Errorf("bob's second connection is answered %v, %v", got, err)
	}
	if got, err := sees(t, o, hashserv.ClientConfig{Address: alice, Connections: 1}); !got || err != nil {
		t.Errorf("alice is kept out: %v, %v", got, err)
	}
}
