package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestGateAway: a gate that is lost means misses and one warning, at once; and it is found again.
func TestGateAway(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	path := "/main/" + hello.Name
	h.want("HEAD", h.status("HEAD", path, true), 200)
	h.spy.breaks(pulled)
	h.want("GET of what was promised", h.status("GET", path, true), 200)
	h.clock.pass(maxRemember)
	for i := range 10 {
		h.want("presence without a gate", h.status("HEAD", "/main/"+gwtest.NewObject(strconv.Itoa(i), "package").Name, false), 404)
	}
	h.want("questions to the lost gate", h.spy.count("POST /v1/presence"), presenceAttempts)
	h.want("HEAD without a gate", h.status("HEAD", path, true), 404)
	h.want("warnings", h.log.count("cause=gate"), 1)
	if s := h.agent.Status(); s.GateState != "lost" || !strings.Contains(s.GateFault, errCable.Error()) || s.Unanswered != 10 || s.Failed != 1 {
		t.Errorf("%+v", s)
	}
	h.clock.pass(firstPause)
	h.want("presence, asked once more", h.status("HEAD", path, false), 404)
	h.want("questions to the lost gate", h.spy.count("POST /v1/presence"), presenceAttempts+1)
	h.spy.breaks(nil)
	h.clock.pass(longestPause)
	h.want("presence with the gate", h.status("HEAD", path, false), 200)
	h.want("HEAD with the gate", h.status("HEAD", path, true), 200)
	if s := h.agent.Status(); s.GateState != "ok" || !s.Warnings[0].Over {
		t.Errorf("%+v", s)
	}
}

// TestGateStops: the same with a real gate that is stopped in the middle.
func TestGateStops(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	path := "/main/" + hello.Name
	h.want("HEAD", h.status("HEAD", path, true), 200)
	g.Stop()
	res, body := h.ask("GET", path, true)
	if h.want("GET of what was promised", res.StatusCode, 200); !bytes.Equal(body, hello.Content) {
		t.Error("other bytes")
	}
	h.clock.pass(maxRemember)
	h.want("presence", h.status("HEAD", path, false), 404)
	h.want("HEAD", h.status("HEAD", path, true), 404)
	h.want("warnings", h.log.count("level=WARN"), 1)
}

// TestCorruptBytes: bytes that are not the recorded ones are never handed out, not even in part.
func TestCorruptBytes(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	h.spy.breaks(func(r *http.Request) (*http.Response, error) {
		res, err := h.spy.RoundTripper.RoundTrip(r)
		if err == nil && r.Method == http.MethodGet {
			res.Body = io.NopCloser(io.MultiReader(strings.NewReader("B"), io.LimitReader(res.Body, 1<<20)))
			res.ContentLength = -1
		}
		return res, err
	})
	path := "/main/" + hello.Name
	h.want("HEAD", h.status("HEAD", path, true), 404)
	res, body := h.ask("GET", path, true)
	if h.want("GET", res.StatusCode, 404); bytes.Contains(body, hello.Content[:4]) {
		t.Error("corrupt bytes were sent")
	}
	h.want("warnings", h.log.count("cause=bytes"), 1)
	h.want("bytes held", int(h.agent.Status().Spooled), 0)
}

// TestCutTransfer: a transfer that is cut goes on where it was.
func TestCutTransfer(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	hello.Content = bytes.Repeat([]byte("0123456789abcdef"), 50_000)
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	h.spy.breaks(func(r *http.Request) (*http.Response, error) {
		res, err := h.spy.RoundTripper.RoundTrip(r)
		if err == nil && r.Method == http.MethodGet {
			res.Body = cut{io.LimitReader(res.Body, 200_000), res.Body}
		}
		return res, err
	})
	res, body := h.ask("GET", "/main/"+hello.Name, true)
	if h.want("GET", res.StatusCode, 200); !bytes.Equal(body, hello.Content) {
		t.Errorf("other bytes: %d", len(body))
	}
	h.want("transfers", h.spy.count("GET object"), 4)
}

// cut is a body that breaks off.
type cut struct {
	io.Reader
	io.Closer
}

func (c cut) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// fullDisk is a file without room.
type fullDisk struct{ *os.File }

func (f fullDisk) Write(p []byte) (int, error) {
	n, _ := f.File.Write(p[:min(len(p), 7)])
	return n, fmt.Errorf("write %s: %w", "object", syscall.ENOSPC)
}

func TestDiskFull(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", func(c *Config) {
		c.create = func(dir string) (spoolFile, error) {
			f, err := os.CreateTemp(dir, "full")
			return fullDisk{f}, err
		}
	})
	path := "/main/" + hello.Name
	h.want("presence", h.status("HEAD", path, false), 200)
	for range 3 {
		h.want("HEAD", h.status("HEAD", path, true), 404)
		h.want("GET", h.status("GET", path, true), 404)
	}
	h.want("warnings", h.log.count("cause=disk"), 1)
	h.want("warnings that name the fault", h.log.count(syscall.ENOSPC.Error()), 1)
	h.want("bytes held", int(h.agent.Status().Spooled), 0)
	if s := h.agent.Status(); s.Failed != 6 || s.GateState != "ok" {
		t.Errorf("%+v", s)
	}
}

// smallDisk is a disk that has room for so many bytes, in files that write to it.
type smallDisk struct {
	mu   sync.Mutex
	room int
}

// smallFile takes room, and gives it back when it is closed.
type smallFile struct {
	*os.File
	disk  *smallDisk
	taken int
}

func (f *smallFile) Write(p []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n, err := f.File.Write(p[:min(len(p), f.disk.room)])
	f.disk.room -= n
	if f.taken += n; err == nil && n < len(p) {
		err = fmt.Errorf("write %s: %w", "object", syscall.ENOSPC)
	}
	return n, err
}

func (f *smallFile) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.room += f.taken
	f.taken = 0
	return f.File.Close()
}

// TestFullDiskIsUsed: on a disk that is smaller than the spool may be, what was read already makes room, what is waited for does not, and there is one
// warning. With room again all is found.
func TestFullDiskIsUsed(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	one, two := gwtest.NewObject("one", "package"), gwtest.NewObject("two", "package")
	for _, o := range []*gwtest.Object{&one, &two} {
		o.Content = bytes.Repeat([]byte(o.Name[:1]), 1000)
	}
	g.Publish([]gwtest.Object{one, two}, publicSource)
	disk := &smallDisk{room: 1500}
	h := start(t, g, "bob", func(c *Config) {
		c.create = func(dir string) (spoolFile, error) {
			f, err := os.CreateTemp(dir, "small")
			return &smallFile{File: f, disk: disk}, err
		}
	})
	h.want("HEAD one", h.status("HEAD", "/main/"+one.Name, true), 200)
	for range 3 {
		h.want("HEAD two, without room", h.status("HEAD", "/main/"+two.Name, true), 404)
	}
	res, body := h.ask("GET", "/main/"+one.Name, true)
	if h.want("GET one, as promised", res.StatusCode, 200); !bytes.Equal(body, one.Content) {
		t.Error("other bytes")
	}
	for h.agent.spool.promises() > 0 {
		time.Sleep(time.Millisecond)
	}
	h.want("HEAD two, in the room of one", h.status("HEAD", "/main/"+two.Name, true), 200)
	if res, body = h.ask("GET", "/main/"+two.Name, true); !bytes.Equal(body, two.Content) {
		t.Errorf("other bytes: %s", res.Status)
	}
	h.want("warnings", h.log.count("level=WARN"), 1)
	h.want("warnings that say what to do", h.log.count("make room there, or choose another with --spool: "), 1)
}

func TestSpoolIsBounded(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	one, two, three := gwtest.NewObject("one", "package"), gwtest.NewObject("two", "package"), gwtest.NewObject("three", "package")
	for _, o := range []*gwtest.Object{&one, &two, &three} {
		o.Content = bytes.Repeat([]byte("x"), 1000)
	}
	g.Publish([]gwtest.Object{one, two, three}, publicSource)
	h := start(t, g, "bob", func(c *Config) { c.SpoolBytes = 2500 })
	h.want("HEAD one", h.status("HEAD", "/main/"+one.Name, true), 200)
	h.want("HEAD two", h.status("HEAD", "/main/"+two.Name, true), 200)
	h.want("HEAD three, without room", h.status("HEAD", "/main/"+three.Name, true), 404)
	h.want("warnings", h.log.count("cause=spool"), 1)
	h.want("GET one, as promised", h.status("GET", "/main/"+one.Name, true), 200)
	h.want("HEAD three, in the room of one", h.status("HEAD", "/main/"+three.Name, true), 200)
	h.want("GET two, as promised", h.status("GET", "/main/"+two.Name, true), 200)
	h.want("GET three, as promised", h.status("GET", "/main/"+three.Name, true), 200)
	if n := h.agent.Status().Spooled; n > 2500 {
		t.Errorf("%d bytes", n)
	}
}

// TestToken: a token that ended is replaced, within the request that found it out.
func TestToken(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	path := "/main/" + hello.Name
	h.want("presence", h.status("HEAD", path, false), 200)
	g.Revoke("bob")
	h.clock.pass(maxRemember)
	h.creds.next = authn.NewSecret(g.As("bob").Token)
	h.want("presence with the next token", h.status("HEAD", path, false), 200)
	h.want("refusals", h.creds.refused, 1)
	g.Revoke("bob")
	h.clock.pass(maxRemember)
	for range 5 {
		h.want("presence without a token", h.status("HEAD", path, false), 404)
		h.want("HEAD without a token", h.status("HEAD", path, true), 404)
	}
	h.want("refusals", h.creds.refused, 2)
	h.want("warnings", h.log.count("cause=token"), 1)
	if s := h.agent.Status(); s.TokenState != "refused" || s.GateState != "ok" {
		t.Errorf("%+v", s)
	}
	h.creds.set(g.As("bob").Token)
	h.want("HEAD after signing in", h.status("HEAD", path, true), 200)
	h.creds.err = errors.New("the key is not in ssh-agent")
	h.want("HEAD without any token", h.status("HEAD", "/main/"+gwtest.NewObject("other", "package").Name, true), 404)
	h.want("GET of what was promised", h.status("GET", path, true), 200)
	if s := h.agent.Status(); !strings.Contains(s.TokenFault, "ssh-agent") {
		t.Errorf("%+v", s)
	}
}

// ending is Credentials that get no other token when one is refused.
type ending struct{ *tokens }

func (c ending) Refused(authn.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.New("the key is not in ssh-agent")
}

// TestNoOtherToken: an agent that signs in by itself says why it cannot, and sends nobody to sign in.
func TestNoOtherToken(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	creds := ending{&tokens{}}
	creds.set(g.As("bob").Token)
	h := start(t, g, "bob", func(c *Config) { c.Credentials = creds })
	path := "/main/" + gwtest.NewObject("x", "package").Name
	h.want("presence", h.status("HEAD", path, false), 404)
	g.Revoke("bob")
	h.clock.pass(maxRemember)
	h.want("presence with the revoked token", h.status("HEAD", path, false), 404)
	if s := h.agent.Status(); s.TokenFault != "the gate does not take the token: it has ended or was revoked; the key is not in ssh-agent" {
		t.Errorf("%+v", s)
	}
}

// TestRefusedTokenIsNotRepeated: a token that the gate does not take is tried again by one question in each pause.
func TestRefusedTokenIsNotRepeated(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	h := start(t, g, "bob", nil)
	h.creds.set("lyg_nobody")
	for round := 1; round <= 3; round++ {
		for i := range 5 {
			h.want("presence", h.status("HEAD", "/main/"+gwtest.NewObject(strconv.Itoa(i), "package").Name, false), 404)
		}
		h.want("questions to the gate", h.spy.count("POST /v1/presence"), round)
		h.clock.pass(refusedPause)
	}
}

// TestListenerBreaks: an agent that cannot serve any more ends, hash equivalence and all.
func TestListenerBreaks(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	lines := mustListen(t)
	conf := start(t, g, "bob", nil).agent.conf
	conf.Hash = []Hash{{Zone: "main", Listener: lines, Address: "ws://127.0.0.1:1/"}}
	other, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	ln := mustListen(t)
	ln.Close()
	if err := other.Serve(t.Context(), ln); err == nil {
		t.Error("no error")
	}
	if _, err := net.Dial("tcp", lines.Addr().String()); err == nil {
		t.Error("hash equivalence goes on")
	}
}

// TestEnds: when it is told to end, the agent promises nothing more and keeps what it promised.
func TestEnds(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello, other := gwtest.NewObject("hello", "package"), gwtest.NewObject("other", "package")
	g.Publish([]gwtest.Object{hello, other}, publicSource)
	h := start(t, g, "bob", nil)
	h.want("HEAD", h.status("HEAD", "/main/"+hello.Name, true), 200)
	go h.agent.drain()
	for !h.agent.draining.Load() {
		time.Sleep(time.Millisecond)
	}
	h.want("presence", h.status("HEAD", "/main/"+hello.Name, false), 404)
	h.want("HEAD", h.status("HEAD", "/main/"+other.Name, true), 404)
	h.want("GET of what was promised", h.status("GET", "/main/"+hello.Name, true), 200)
	h.want("promises", h.agent.spool.promises(), 0)
}

func TestListensNowhereElse(t *testing.T) {
	for _, place := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:80", "nonsense"} {
		if ln, err := Listen(place); err == nil {
			ln.Close()
			t.Errorf("%s: no error", place)
		}
	}
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	h := start(t, gwtest.New(t, gwtest.Options{}), "bob", nil)
	if err := h.agent.Serve(t.Context(), ln); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("Serve: %v", err)
	}
}

// foreign is a user that this test is not.
const foreign = 65534

// TestOtherUsers: a connection of another user is closed, and nothing is said on it.
func TestOtherUsers(t *testing.T) {
	needUsers(t)
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	lines := mustListen(t)
	h := start(t, g, "bob", func(c *Config) { c.Hash = []Hash{{Zone: "main", Listener: lines, Address: "ws://127.0.0.1:1/"}} })
	unix := t.TempDir() + "/private/agent.sock"
	ln, err := ListenUnix(unix)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = h.agent.ServeControl(t.Context(), ln) }()
	_, port, _ := net.SplitHostPort(lines.Addr().String())
	for name, script := range map[string]string{
		"http":  "exec 3<>/dev/tcp/127.0.0.1/" + h.url[strings.LastIndexByte(h.url, ':')+1:] + "; printf 'GET /main/" + hello.Name + " HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
		"lines": "exec 3<>/dev/tcp/127.0.0.1/" + port + "; printf 'OEHASHEQUIV 1.1\\nneeds-headers: true\\n\\n' >&3; timeout 5 head -c1 <&3",
	} {
		run := func(uid uint32) string {
			cmd := exec.Command("bash", "-c", script)
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			out, _ := cmd.Output() // a reset connection is an error of cat's
			return string(out)
		}
		if out := run(foreign); out != "" {
			t.Errorf("%s: another user was answered: %q", name, out)
		}
		if out := run(0); out == "" {
			t.Errorf("%s: its own user was not answered", name)
		}
	}
	h.want("warnings", h.log.count("another user was closed: user id "+strconv.Itoa(foreign)), 1)
	if _, err := Ask(t.Context(), unix); err != nil {
		t.Errorf("its own user: %v", err)
	}
	info, err := os.Stat(unix)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestFindOwner(t *testing.T) {
	table := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 1234 1 0000000000000000 20 4 30 10 -1\n" +
		"   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 1235 1 0000000000000000 20 4 30 10 -1\n" +
		"   2: 0100007F:C351 0100007F:1F90 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000\n" +
		"   3: 0000000000000000FFFF00000100007F:C352 0000000000000000FFFF00000100007F:1F90 01 00000000:00000000 00:00000000 00000000  1002        0 1236 1 0000000000000000\n" +
		"   4: 00000000000000000000000001000000:C353 00000000000000000000000001000000:1F90 01 00000000:00000000 00:00000000 00000000  1003        0 1237 1 0000000000000000\n"
	for _, c := range []struct {
		local, remote string
		uid           int
		found         bool
	}{
		{"127.0.0.1:50000", "127.0.0.1:8080", 1001, true},
		{"127.0.0.1:50001", "127.0.0.1:8080", 0, false}, // nobody's any more
		{"127.0.0.1:50002", "127.0.0.1:8080", 1002, true},
		{"[::1]:50003", "[::1]:8080", 1003, true},
		{"127.0.0.1:50000", "127.0.0.1:8081", 0, false},
	} {
		uid, found, err := findOwner(strings.NewReader(table), mustAddr(t, c.local), mustAddr(t, c.remote))
		if uid != c.uid || found != c.found || err != nil {
			t.Errorf("%s: %d, %v, %v", c.local, uid, found, err)
		}
	}
}

// TestControlSocket: it is private, and a dead agent's is replaced.
func TestControlSocket(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(dir + "/agent.sock"); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("in a directory of everybody: %v", err)
	}
	path := dir + "/private/agent.sock"
	if _, err := Ask(context.Background(), path); !errors.Is(err, ErrNoAgent) {
		t.Errorf("without an agent: %v", err)
	}
	ln, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("a second agent: %v", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // as if it were killed
	ln.Close()
	if ln, err = ListenUnix(path); err != nil {
		t.Fatalf("after a killed agent: %v", err)
	}
	ln.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
}

func TestSummary(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	h := start(t, g, "bob", nil)
	h.want("presence", h.status("HEAD", "/main/"+gwtest.NewObject("x", "package").Name, false), 404)
	h.agent.count.sumUp(h.clock.Now(), time.Minute, h.agent.log)
	h.want("summaries of a build under way", h.log.count("a build has ended"), 0)
	h.clock.pass(time.Minute)
	h.agent.count.sumUp(h.clock.Now(), time.Minute, h.agent.log)
	h.agent.count.sumUp(h.clock.Now(), time.Minute, h.agent.log)
	h.want("summaries", h.log.count(`msg="a build has ended" took=0s hits=0 misses=1 unanswered=0`), 1)
}

// TestWho: whom the gate takes one for is told, and forgotten with the token.
func TestWho(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	h := start(t, g, "bob", nil)
	path := "/main/" + gwtest.NewObject("x", "package").Name
	h.want("presence", h.status("HEAD", path, false), 404)
	h.agent.link.introduce(t.Context())
	if s := h.agent.Status(); s.Who != "bob (git.example.com/2)" || time.Until(s.Until) < time.Minute {
		t.Errorf("%q until %v", s.Who, s.Until)
	}
	h.creds.set(g.As("carol").Token)
	h.want("presence", h.status("HEAD", path, false), 404)
	if s := h.agent.Status(); strings.HasPrefix(s.Who, "bob") {
		t.Errorf("%q with the token of carol", s.Who)
	}
	h.agent.link.introduce(t.Context())
	if s := h.agent.Status(); !strings.HasPrefix(s.Who, "carol (") {
		t.Errorf("%q", s.Who)
	}
}

// half begins downloads of an object, of which the clients take a little and then nothing.
func (h *host) half(path string, clients int) (conns []net.Conn) {
	h.Helper()
	for range clients {
		c, err := (&net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10) }) // else the kernel takes it all
		}}).Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			h.Fatal(err)
		}
		h.Cleanup(func() { c.Close() })
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path); err != nil {
			h.Fatal(err)
		}
		head := make([]byte, 12)
		if _, err := io.ReadFull(c, head); err != nil || string(head) != "HTTP/1.1 200" {
			h.Fatalf("%q, %v", head, err)
		}
		conns = append(conns, c)
	}
	return conns
}

// users returns how many read objects now.
func (s *spool) users() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.objects {
		n += o.users
	}
	return n
}

// TestHalfReadDownloads: clients that take nothing share one download and one file, others are served beside them, and what they hold is freed when
// they have gone.
func TestHalfReadDownloads(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello, other := gwtest.NewObject("hello", "populate_sysroot"), gwtest.NewObject("other", "package")
	hello.Content = bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	g.Publish([]gwtest.Object{hello, other}, publicSource)
	h := start(t, g, "bob", nil)
	conns := h.half("/main/"+hello.Name, 60)
	h.want("clients that are served", h.agent.spool.users(), 60)
	h.want("downloads", h.spy.count("GET object"), 1)
	h.want("bytes held", int(h.agent.Status().Spooled), len(hello.Content))
	h.want("HEAD of another", h.status("HEAD", "/main/"+other.Name, true), 200)
	h.want("GET of another", h.status("GET", "/main/"+other.Name, true), 200)
	for h.agent.spool.users() > len(conns) {
		time.Sleep(time.Millisecond)
	}
	h.clock.pass(promiseTime)
	h.agent.spool.sweep()
	h.want("bytes held for who is there", int(h.agent.Status().Spooled), len(hello.Content))
	for _, c := range conns {
		c.Close()
	}
	h.freed()
}

// TestUnreadDownload: a client that takes nothing for long is cut off, and one that takes its time is not.
func TestUnreadDownload(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	hello.Content = bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", func(c *Config) { c.unread = time.Second })
	stuck := h.half("/main/"+hello.Name, 1)[0]
	for h.agent.spool.users() > 0 {
		time.Sleep(time.Millisecond)
	}
	if n, err := io.Copy(io.Discard, stuck); err == nil && n >= int64(len(hello.Content)) {
		t.Errorf("%d bytes came, %v", n, err)
	}
	h.want("downloads that ended", int(h.agent.Status().Downloads), 0)
	h.clock.pass(promiseTime)
	h.freed()
	// A connection that was served within the time is kept, and may be idle for longer.
	h.want("GET", h.status("GET", "/main/"+hello.Name, false), 200)
	time.Sleep(1200 * time.Millisecond)
	h.want("presence, later on the same connection", h.status("HEAD", "/main/"+hello.Name, false), 200)
}

// freed waits until the spool holds nothing.
func (h *host) freed() {
	h.Helper()
	for h.agent.spool.users() > 0 {
		time.Sleep(time.Millisecond)
	}
	h.agent.spool.sweep()
	h.want("bytes held", int(h.agent.Status().Spooled), 0)
}

// TestRestartIsBridged: a gate that comes back within the attempts has cost nothing but time.
func TestRestartIsBridged(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	var failures atomic.Int64
	h.spy.breaks(func(*http.Request) (*http.Response, error) {
		if failures.Add(1)%7 != 0 {
			return nil, errCable
		}
		return nil, nil
	})
	path := "/main/" + hello.Name
	h.want("presence", h.status("HEAD", path, false), 200)
	h.want("HEAD", h.status("HEAD", path, true), 200)
	h.want("GET", h.status("GET", path, true), 200)
	h.want("attempts", int(failures.Load()), 2*7)
	h.want("warnings", h.log.count("level=WARN"), 0)
}

// TestManyFailuresOnePause: downloads that fail together do not have the gate left alone for longer.
func TestManyFailuresOnePause(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	var together sync.WaitGroup
	together.Add(8)
	var attempts atomic.Int64
	h.spy.breaks(func(*http.Request) (*http.Response, error) {
		if attempts.Add(1) <= 8 { // the first of each
			together.Done()
			together.Wait()
		}
		return nil, errCable
	})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() { h.status("HEAD", "/main/"+gwtest.NewObject(strconv.Itoa(i), "package").Name, true) })
	}
	all.Wait()
	h.want("warnings", h.log.count("level=WARN"), 1)
	h.spy.breaks(nil)
	h.clock.pass(firstPause)
	h.want("HEAD after the first pause", h.status("HEAD", "/main/"+hello.Name, true), 200)
	h.want("lines that say that it is over", h.log.count("the gate answers again"), 1)
}

// TestStaleAnswer: what the gate began to answer before it turned the token away does not take that back.
func TestStaleAnswer(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	asked, answer := make(chan struct{}), make(chan struct{})
	h.spy.breaks(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodGet {
			return nil, nil
		}
		res, err := h.spy.RoundTripper.RoundTrip(r)
		close(asked)
		<-answer
		return res, err
	})
	got := make(chan int)
	go func() { got <- h.status("HEAD", "/main/"+hello.Name, true) }()
	<-asked
	g.Revoke("bob")
	h.want("presence with the revoked token", h.status("HEAD", "/main/"+hello.Name, false), 404)
	close(answer)
	h.want("HEAD, asked before", <-got, 200)
	h.want("presence with the revoked token", h.status("HEAD", "/main/"+hello.Name, false), 404)
	h.want("warnings", h.log.count("level=WARN"), 1)
	if s := h.agent.Status(); s.TokenState != "refused" || s.Warnings[0].Over {
		t.Errorf("%+v", s)
	}
}

// TestSeesByItself: that the gate is back, and that somebody signed in, is seen though BitBake asks nothing.
func TestSeesByItself(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	h := start(t, g, "bob", nil)
	path := "/main/" + gwtest.NewObject("x", "package").Name
	h.spy.breaks(pulled)
	h.want("presence", h.status("HEAD", path, false), 404)
	h.spy.breaks(nil)
	if h.agent.link.idle() {
		t.Error("it asks a lost gate in the pause")
	}
	h.clock.pass(firstPause + longestPause)
	for h.agent.Status().GateState != "ok" {
		time.Sleep(time.Millisecond)
	}
	g.Revoke("bob")
	h.clock.pass(maxRemember)
	h.want("presence with the revoked token", h.status("HEAD", path, false), 404)
	if h.agent.link.replaced(t.Context()) {
		t.Error("it shows a refused token by itself")
	}
	h.creds.set(g.As("bob").Token)
	for h.agent.Status().TokenState != "ok" {
		time.Sleep(time.Millisecond)
	}
	h.want("questions of presence", h.spy.count("POST /v1/presence"), presenceAttempts+1)
	h.want("HEAD", h.status("HEAD", path, true), 404)
	h.want("objects that failed", int(h.agent.Status().Failed), 0)
}

// mute is a gate that takes everything and says nothing, or says that there is an object and does not send it.
type mute struct{ begins bool }

func (m mute) RoundTrip(r *http.Request) (*http.Response, error) {
	if !m.begins {
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	}
	digest := sha256.Sum256([]byte("hello"))
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Repr-Digest": {"sha-256=:" + base64.StdEncoding.EncodeToString(digest[:]) + ":"}},
		Body: mutedBody{r.Context()}, Request: r,
	}, nil
}

type mutedBody struct{ ctx context.Context }

func (b mutedBody) Read([]byte) (int, error) {
	<-b.ctx.Done()
	return 0, context.Cause(b.ctx)
}

func (mutedBody) Close() error { return nil }

// TestSilence: a download is given up when the network has been silent for a while, all attempts together, and so is a question.
func TestSilence(t *testing.T) {
	for name, c := range map[string]struct {
		gate  mute
		cache bool // which has the gate asked by HEAD first
		after time.Duration
	}{
		"no answer":          {after: quietTime},
		"no byte":            {gate: mute{begins: true}, after: quietTime},
		"no answer to HEADs": {cache: true, after: presenceTime},
	} {
		t.Run(name, func(t *testing.T) {
			spool, cached := t.TempDir(), ""
			if c.cache {
				cached = t.TempDir() + "/cache"
			}
			synctest.Test(t, func(t *testing.T) {
				gate, err := client.New(client.Config{Gate: "https://gate.example.com", Transport: c.gate})
				if err != nil {
					t.Fatal(err)
				}
				creds := &tokens{}
				creds.set("lyg_x")
				a, err := New(Config{Client: gate, Credentials: creds, Spool: spool, Cache: cached})
				if err != nil {
					t.Fatal(err)
				}
				defer a.spool.close()
				a.spool.start(t.Context())
				began := time.Now()
				_, err = a.spool.obtain(t.Context(), key{"main", gwtest.NewObject("hello", "package").Name}, false)
				if took := time.Since(began); !errors.Is(err, errSlow) || took != c.after {
					t.Errorf("after %v, want %v: %v", took, c.after, err)
				}
				if s := a.Status(); s.GateFault != errSlow.Error() || s.Spooled != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// TestPlain: a fault is told without the request that it befell, and a transfer in which nothing came is not told as one that was called off.
func TestPlain(t *testing.T) {
	for _, c := range []struct{ err, want error }{
		{&url.Error{Op: "Get", URL: "https://gate.example.com/", Err: errCable}, errCable},
		{fmt.Errorf("get: %w", &url.Error{Op: "Get", URL: "https://gate.example.com/", Err: context.Canceled}), errSlow},
		{errCable, errCable},
	} {
		if got := plain(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}
