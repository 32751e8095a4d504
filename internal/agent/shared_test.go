package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// Users of the build host that tests act as; the test itself is another.
const (
	sharedOther    = 61001
	sharedStranger = 61002
)

// sharedHost is a shared agent that serves, and the builds of several users beside it. The test's own user asks as a host does.
type sharedHost struct {
	*host
	shared  *Shared
	control string // socket
	socket  string // for objects
	hashAt  string
	stopped func() error
}

// startShared runs a shared agent that nobody has joined.
func startShared(t *testing.T, g *gwtest.Gate, change func(*Config)) *sharedHost {
	t.Helper()
	dir, err := os.MkdirTemp("", "shared")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{T: t, clock: newClock(), log: &logText{}}
	h.spy = &spy{RoundTripper: g.WithToken("").Transport(), seen: map[string]int{}}
	gate, err := client.New(client.Config{Gate: g.URL, Transport: h.spy, Wait: func(context.Context, time.Duration) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	lines, objects := mustListen(t), mustListen(t)
	conf := Config{Client: gate, Gate: g.URL, Spool: t.TempDir(), Now: h.clock.Now, Log: slog.New(slog.NewTextHandler(h.log, nil))}
	conf.Hash = []Hash{{Zone: "main", Listener: lines, Address: gate.HashURL("main"), Dialer: hashserv.Dialer{TLS: &tls.Config{RootCAs: g.CA.Pool()}}}}
	if change != nil {
		change(&conf)
	}
	s := &sharedHost{host: h, control: filepath.Join(dir, "agent.sock"), socket: filepath.Join(dir, "objects.sock"), hashAt: lines.Addr().String()}
	if s.shared, err = NewShared(conf); err != nil {
		t.Fatal(err)
	}
	h.url = "http://" + objects.Addr().String()
	h.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	s.run(objects, sharedListen(t, s.socket), sharedListen(t, s.control))
	return s
}

func sharedListen(t *testing.T, path string) net.Listener {
	t.Helper()
	ln, err := ListenShared(path)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (s *sharedHost) run(objects, socket, control net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- s.shared.Serve(ctx, objects, socket) }()
	go func() { ended <- s.shared.ServeControl(ctx, control) }()
	s.stopped = sync.OnceValue(func() error {
		s.http.CloseIdleConnections()
		cancel()
		return errors.Join(<-ended, <-ended)
	})
	s.Cleanup(func() {
		s.clock.pass(time.Hour) // no promise holds up the end
		if err := s.stopped(); err != nil {
			s.Errorf("the agent ended: %v", err)
		}
	})
}

// join has the test's own user join as a user of the gate.
func (s *sharedHost) join(g *gwtest.Gate, user string) {
	s.Helper()
	if me, err := AskJoin(s.Context(), s.control, gwtestToken(g, user)); err != nil || me.Name != user {
		s.Fatalf("join: %+v, %v", me, err)
	}
}

// needUsers skips what takes several users.
func needUsers(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("it takes root to be another user")
	}
	t.Skip("it takes root to be another user")
}

// sharedSpeak sends text to an address, "unix:PATH" or "HOST:PORT", and prints what comes back until the other end has no more to say.
const sharedSpeak = `
import socket, sys
at, half = sys.argv[1], sys.argv[2] == "half"
if at.startswith("unix:"):
    s = socket.socket(socket.AF_UNIX)
    s.connect(at[5:])
else:
    host, port = at.rsplit(":", 1)
    s = socket.create_connection((host, int(port)))
s.settimeout(20)
s.sendall(sys.stdin.buffer.read())
if half:
    s.shutdown(socket.SHUT_WR)
while True:
    try:
        got = s.recv(65536)
    except ConnectionError:
        break
    if not got:
        break
    sys.stdout.buffer.write(got)
`

// speak has a user of the build host say something.
func (s *sharedHost) speak(uid uint32, at, text string, half bool) string {
	s.Helper()
	how := "whole"
	if half {
		how = "half"
	}
	cmd := exec.Command("/usr/bin/python3", "-c", sharedSpeak, at, how)
	cmd.Dir, cmd.Env, cmd.Stdin = "/", []string{"PATH=/usr/bin:/bin"}, strings.NewReader(text)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var faults bytes.Buffer
	cmd.Stderr = &faults
	out, err := cmd.Output()
	if err != nil {
		s.Fatalf("user id %d: %v\n%s", uid, err, faults.String())
	}
	return string(out)
}

// request has a user of the build host send an HTTP request, and returns the status and the body.
func (s *sharedHost) request(uid uint32, at, method, path, body string) (status int, answer string) {
	s.Helper()
	text := s.speak(uid, at, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body), false)
	if _, err := fmt.Sscanf(text, "HTTP/1.1 %d", &status); err != nil {
		s.Fatalf("user id %d, %s %s: %q", uid, method, path, text)
	}
	_, answer, _ = strings.Cut(text, "\r\n\r\n")
	return status, answer
}

// presence has a user of the build host ask as BitBake does at the beginning: a HEAD on a connection that is kept, and then another request.
func (s *sharedHost) presence(uid uint32, at, path string) (status int) {
	s.Helper()
	text := s.speak(uid, at, "HEAD "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\nHEAD /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", false)
	if _, err := fmt.Sscanf(text, "HTTP/1.1 %d", &status); err != nil {
		s.Fatalf("user id %d: %q", uid, text)
	}
	return status
}

func (s *sharedHost) places() []string {
	return []string{strings.TrimPrefix(s.url, "http://"), "unix:" + s.socket}
}

func (s *sharedHost) joinOther(g *gwtest.Gate, uid uint32, user string) {
	s.Helper()
	status, answer := s.request(uid, "unix:"+s.control, "POST", "/v1/join", `{"token":"`+g.As(user).Token+`"}`)
	if status != 200 || !strings.Contains(answer, `"`+user+`"`) {
		s.Fatalf("user id %d joins as %s: %d, %s", uid, user, status, answer)
	}
}

// TestSharedUsers: nobody gets what only another user may read, neither by what the agent remembers nor by what it promised, holds or keeps; and who
// has not joined gets nothing.
func TestSharedUsers(t *testing.T) {
	needUsers(t)
	g := gwtest.New(t, gwtest.Options{})
	hello, secret := gwtest.NewObject("hello", "populate_sysroot"), gwtest.NewObject("tool", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	g.Publish([]gwtest.Object{secret}, privateSource)
	h := startShared(t, g, keeping(filepath.Join(t.TempDir(), "cache")))
	h.join(g, "alice")
	h.joinOther(g, sharedOther, "bob")
	public, private := "/main/"+hello.Name, "/main/"+secret.Name
	for round, at := range h.places() {
		// The gate said no to bob, which is nothing to alice; then yes to alice, which is nothing to bob.
		h.want("bob's question before alice's", h.presence(sharedOther, at, private), 404)
		h.want("alice's question", h.status("HEAD", private, false), 200)
		h.want("alice's HEAD", h.status("HEAD", private, true), 200) // promised, held and kept
		h.want("bob's question", h.presence(sharedOther, at, private), 404)
		h.want("the stranger's question", h.presence(sharedStranger, at, private), 404)
		for _, uid := range []uint32{sharedOther, sharedStranger} {
			for _, method := range []string{"HEAD", "GET"} {
				status, body := h.request(uid, at, method, private, "")
				if h.want(fmt.Sprintf("%s of user id %d", method, uid), status, 404); strings.Contains(body, string(secret.Content)) {
					t.Errorf("user id %d has got %q", uid, body)
				}
			}
		}
		if res, body := h.ask("GET", private, true); res.StatusCode != 200 || !bytes.Equal(body, secret.Content) {
			t.Errorf("alice's GET: %s, %q", res.Status, body)
		}
		// What both may read each is given by their own right, and the stranger by none.
		h.want("alice's HEAD", h.status("HEAD", public, true), 200)
		asked := h.spy.count("HEAD object")
		if status, body := h.request(sharedOther, at, "GET", public, ""); status != 200 || body != string(hello.Content) {
			t.Errorf("bob's GET: %d, %q", status, body)
		}
		if n := h.spy.count("HEAD object") - asked; round == 0 && n != 1 {
			t.Errorf("the gate was asked %d times whether bob may have what is kept", n)
		}
		h.want("the stranger's question", h.presence(sharedStranger, at, public), 404)
		status, _ := h.request(sharedStranger, at, "GET", public, "")
		h.want("the stranger's GET", status, 404)
	}
	h.want("downloads of hello and tool", h.spy.count("GET object"), 2)
	h.want("warnings of the stranger", h.log.count("runs lychgate agent join"), 1)

	// In a container with users of its own, one user id stands for many.
	h.want("a connection of whom the kernel does not tell", len(h.speak(uint32(unmappedUser()), h.places()[0], "GET "+public+" HTTP/1.1\r\nHost: localhost\r\n\r\n", false)), 0)

	// A token that was given for one user is nothing to another, and what a user has left is closed to them.
	status, _ := h.request(sharedOther, "unix:"+h.control, "POST", "/v1/leave", "")
	h.want("leave", status, 200)
	for _, at := range h.places() {
		h.want("bob's question after he left", h.presence(sharedOther, at, public), 404)
		status, _ := h.request(sharedOther, at, "HEAD", public, "")
		h.want("bob's HEAD after he left", status, 404)
	}
	h.want("alice's HEAD", h.status("HEAD", public, true), 200)
}

// TestSharedFlight: who asks for what another user's download is bringing does not wait for that, and is not given it.
func TestSharedFlight(t *testing.T) {
	needUsers(t)
	g := gwtest.New(t, gwtest.Options{})
	secret := gwtest.NewObject("tool", "populate_sysroot")
	g.Publish([]gwtest.Object{secret}, privateSource)
	h := startShared(t, g, nil)
	h.join(g, "alice")
	h.joinOther(g, sharedOther, "bob")
	coming, hold := make(chan struct{}), make(chan struct{})
	h.spy.breaks(func(r *http.Request) (*http.Response, error) {
		if strings.Contains(r.Header.Get("Authorization"), g.As("alice").Token) && r.Method == http.MethodGet {
			close(coming)
			<-hold
		}
		return nil, nil
	})
	got := make(chan int)
	go func() { got <- h.status("HEAD", "/main/"+secret.Name, true) }()
	<-coming
	status, _ := h.request(sharedOther, h.places()[0], "HEAD", "/main/"+secret.Name, "")
	h.want("bob's HEAD", status, 404)
	close(hold)
	h.want("alice's HEAD", <-got, 200)
}

// TestSharedHash: hash equivalence is each user's own, and neutral for who has not joined.
func TestSharedHash(t *testing.T) {
	needUsers(t)
	g := gwtest.New(t, gwtest.Options{})
	h := startShared(t, g, nil)
	h.join(g, "ci")
	h.joinOther(g, sharedOther, "bob")
	own := &hashHost{host: h.host, at: h.hashAt}
	c := own.bitbake()
	if got := own.report(c, "hello"); got != unihash("hello") {
		t.Errorf("report: %v", got)
	}
	if got := own.mapped(c, "hello"); got != unihash("hello") {
		t.Errorf("mapped to %v", got)
	}
	task := hashTask("hello")
	question := fmt.Sprintf("OEHASHEQUIV 1.1\n\n"+`{"get": {"taskhash": "%s", "method": "%s", "all": false}}`+"\n", task.Taskhash, task.Method)
	for _, uid := range []uint32{sharedOther, sharedStranger} {
		if got := strings.TrimSpace(h.speak(uid, h.hashAt, question, true)); got != "null" {
			t.Errorf("user id %d is told %q", uid, got)
		}
	}
	if got := h.speak(0, h.hashAt, question, true); !strings.Contains(got, unihash("hello").String()) {
		t.Errorf("its own user is told %q", got)
	}
}

// TestSharedControl: a user is told about their own builds alone.
func TestSharedControl(t *testing.T) {
	needUsers(t)
	g := gwtest.New(t, gwtest.Options{})
	secret, mine := gwtest.NewObject("tool", "populate_sysroot"), gwtest.NewObject("mine", "package")
	g.Publish([]gwtest.Object{secret}, privateSource)
	h := startShared(t, g, nil)
	h.join(g, "alice")
	h.joinOther(g, sharedOther, "bob")
	h.want("alice's HEAD", h.status("HEAD", "/main/"+secret.Name, true), 200)
	h.want("alice's HEAD", h.status("HEAD", "/main/"+mine.Name, true), 404)
	own, err := Ask(t.Context(), h.control)
	if err != nil || own.Promised != 1 || own.Withheld != 1 || own.TokenState != "ok" || len(own.Listen) != 2 || own.Hash["main"] != h.hashAt {
		t.Errorf("alice's status: %+v, %v", own, err)
	}
	status, answer := h.request(sharedOther, "unix:"+h.control, "GET", "/v1/status", "")
	if status != 200 || !strings.Contains(answer, `"promised":0`) || !strings.Contains(answer, `"withheld":0`) {
		t.Errorf("bob's status: %d, %s", status, answer)
	}
	for _, path := range []string{"/v1/recipes", "/v1/why?recipe=mine", "/v1/why?recipe=tool"} {
		if status, answer := h.request(sharedOther, "unix:"+h.control, "GET", path, ""); status != 200 || strings.Contains(answer, secret.Name) || strings.Contains(answer, mine.Name) || strings.Contains(answer, `"missed":1`) {
			t.Errorf("bob asks %s: %d, %s", path, status, answer)
		}
		if status, answer := h.request(sharedStranger, "unix:"+h.control, "GET", path, ""); status != 403 || !strings.Contains(answer, "run lychgate login, then lychgate agent join") {
			t.Errorf("the stranger asks %s: %d, %s", path, status, answer)
		}
	}
	status, answer = h.request(sharedStranger, "unix:"+h.control, "GET", "/v1/status", "")
	if status != 200 || !strings.Contains(answer, `"token_state":"none"`) || !strings.Contains(answer, "agent join") || !strings.Contains(answer, h.hashAt) {
		t.Errorf("the stranger's status: %d, %s", status, answer)
	}
}

// TestSharedJoin: what the gate does not take is not held, and what it takes no more is let go.
func TestSharedJoin(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := startShared(t, g, nil)
	path := "/main/" + hello.Name
	h.want("HEAD before", h.status("HEAD", path, true), 404)
	for token, says := range map[string]string{"my password": "no gate token", "lyg_nobody": "401", "": "no gate token"} {
		if _, err := AskJoin(t.Context(), h.control, authn.NewSecret(token)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("join with %q: %v", token, err)
		}
	}
	h.spy.breaks(pulled)
	if _, err := AskJoin(t.Context(), h.control, gwtestToken(g, "bob")); err == nil || !strings.Contains(err.Error(), "cable") {
		t.Errorf("join while the gate is away: %v", err)
	}
	h.spy.breaks(nil)
	h.want("HEAD after what failed", h.status("HEAD", path, true), 404)
	if _, err := AskWhy(t.Context(), h.control, "hello"); err == nil || !strings.Contains(err.Error(), "lychgate agent join") {
		t.Errorf("why before joining: %v", err)
	}

	h.join(g, "bob")
	h.want("HEAD", h.status("HEAD", path, true), 200)
	h.join(g, "carol") // who may read nothing, and is the same user of the host
	h.want("presence as carol", h.status("HEAD", path, false), 404)
	h.want("HEAD as carol", h.status("HEAD", path, true), 404)
	h.join(g, "bob")
	h.want("HEAD as bob again", h.status("HEAD", path, true), 200)

	g.Revoke("bob")
	h.clock.pass(promiseTime)
	h.want("HEAD when the token was revoked", h.status("HEAD", path, true), 404)
	if s, err := Ask(t.Context(), h.control); err != nil || s.TokenState != "none" || !strings.Contains(s.TokenFault, "lychgate agent join") {
		t.Errorf("status: %+v, %v", s, err)
	}
	if h.shared.user(os.Getuid()).creds.held() {
		t.Error("a token that the gate does not take is held")
	}
	h.join(g, "bob")
	h.want("HEAD with a new token", h.status("HEAD", path, true), 200)
	if err := AskLeave(t.Context(), h.control); err != nil {
		t.Fatal(err)
	}
	h.want("GET of what was promised", h.status("GET", path, true), 200)
	h.want("HEAD after leaving", h.status("HEAD", path, true), 404)
	h.clock.pass(promiseTime)
	h.want("GET after leaving", h.status("GET", path, true), 404)
}

// TestSharedJoinAnew: the connections of who has not joined are kept, and closed when that user joins: they lead to where nothing is found.
func TestSharedJoinAnew(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	h := startShared(t, g, nil)
	var kept []*bufio.Reader
	for at, first := range map[string]string{
		h.places()[0]: "HEAD /x HTTP/1.1\r\nHost: localhost\r\n\r\n",
		h.hashAt:      "OEHASHEQUIV 1.1\n\n{\"ping\": null}\n",
	} {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		for range 2 { // it is answered, and goes on
			if _, err := io.WriteString(c, first); err != nil {
				t.Fatal(err)
			}
			if line, err := r.ReadString('\n'); err != nil {
				t.Fatalf("%q, %v", line, err)
			}
			if first = "{\"ping\": null}\n"; at != h.hashAt {
				break
			}
		}
		kept = append(kept, r)
	}
	h.join(g, "bob")
	for _, r := range kept {
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("a connection of before is not closed: %v", err)
		}
	}
}

// TestSharedEnds: what was promised to a user is still served when the agent is to end, and nothing more is promised.
func TestSharedEnds(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello, world := gwtest.NewObject("hello", "populate_sysroot"), gwtest.NewObject("world", "package")
	g.Publish([]gwtest.Object{hello, world}, publicSource)
	h := startShared(t, g, nil)
	h.join(g, "bob")
	h.want("HEAD", h.status("HEAD", "/main/"+hello.Name, true), 200)
	ended := make(chan error, 1)
	go func() { ended <- h.stopped() }()
	mine := h.shared.user(os.Getuid())
	for !mine.draining.Load() {
		time.Sleep(time.Millisecond)
	}
	h.want("HEAD of another object", h.status("HEAD", "/main/"+world.Name, true), 404)
	if res, body := h.ask("GET", "/main/"+hello.Name, true); res.StatusCode != 200 || !bytes.Equal(body, hello.Content) {
		t.Errorf("GET of what was promised: %s, %q", res.Status, body)
	}
	h.clock.pass(time.Hour)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := h.shared.Join(t.Context(), 1, gwtestToken(g, "bob")); !errors.Is(err, errNotServing) {
		t.Errorf("joined what has ended: %v", err)
	}
}

// TestSharedIsBounded: connections of a user and users are bounded, and who has left makes room.
func TestSharedIsBounded(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	h := startShared(t, g, nil)
	h.shared.mu.Lock()
	for i := range maxUsers {
		h.shared.users[-i-1] = &tenant{creds: &joined{token: authn.NewSecret("lyg_x")}, end: func() {}}
	}
	h.shared.mu.Unlock()
	if _, err := AskJoin(t.Context(), h.control, gwtestToken(g, "bob")); err == nil || !strings.Contains(err.Error(), "as many as may") {
		t.Errorf("one too many joined: %v", err)
	}
	h.shared.Leave(-7)
	h.join(g, "bob")
	if h.shared.user(-7) != nil || h.shared.user(-8) == nil {
		t.Error("it is not who has left that made room")
	}
	h.idle()
	h.shared.mu.Lock()
	for i := range maxUsers {
		delete(h.shared.users, -i-1)
	}
	h.shared.open[os.Getuid()] = userConnections
	h.shared.mu.Unlock()
	if _, err := h.http.Get(h.url + "/"); err == nil {
		t.Error("one connection too many was answered")
	}
	if _, err := Ask(t.Context(), h.control); err == nil {
		t.Error("one connection too many was answered on the control socket")
	}
	h.shared.mu.Lock()
	delete(h.shared.open, os.Getuid())
	h.shared.mu.Unlock()
	if _, err := Ask(t.Context(), h.control); err != nil {
		t.Error(err)
	}
	h.idle()
}

// idle waits until no connection is counted.
func (s *sharedHost) idle() {
	s.Helper()
	s.http.CloseIdleConnections()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		s.shared.mu.Lock()
		open := len(s.shared.open)
		s.shared.mu.Unlock()
		if open == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.Fatal("connections that were closed are counted")
		}
	}
}

// TestSharedPlaces: a shared socket cannot be replaced by others, and a token is sent to no socket that could have been.
func TestSharedPlaces(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "agent.sock")
	if ln, err := ListenShared(path); err == nil || !strings.Contains(err.Error(), "others can replace the socket") {
		t.Errorf("in a directory of everybody: %v, %v", ln, err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	heard := make(chan []byte, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		text := make([]byte, 1)
		n, _ := c.Read(text)
		heard <- text[:n]
	}()
	if _, err := AskJoin(t.Context(), path, gwtestToken(g, "bob")); err == nil || !strings.Contains(err.Error(), "others can replace the socket") {
		t.Errorf("joined in a directory of everybody: %v", err)
	}
	if text := <-heard; len(text) > 0 {
		t.Errorf("it was sent %q", text)
	}

	// One user's agent is not joined, and a shared one is nobody's.
	h := start(t, g, "alice", nil)
	if _, err := AskJoin(t.Context(), recentControl(h), gwtestToken(g, "bob")); err == nil || !strings.Contains(err.Error(), "serves its own user alone") {
		t.Errorf("joined an agent that is not shared: %v", err)
	}
	conf := h.agent.conf
	if _, err := NewShared(conf); err == nil || !strings.Contains(err.Error(), "no credentials of its own") {
		t.Errorf("with credentials: %v", err)
	}
	conf.Credentials, conf.AnyUser = nil, true
	if _, err := NewShared(conf); err == nil || !strings.Contains(err.Error(), "only where the system tells") {
		t.Errorf("for any user: %v", err)
	}
}
