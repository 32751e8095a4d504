package agent

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest"
)

func TestHeadAndGetAgree(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	info := gwtest.NewSiginfo(hello)
	g.Publish([]gwtest.Object{hello, info}, publicSource)
	secret := gwtest.NewObject("tool", "populate_sysroot")
	g.Publish([]gwtest.Object{secret}, privateSource)
	h := start(t, g, "bob", nil)
	for _, o := range []gwtest.Object{hello, info} {
		path := "/main/" + o.Name
		h.want("presence", h.status("HEAD", path, false), 200)
		res, _ := h.ask("HEAD", path, true)
		h.want("HEAD", res.StatusCode, 200)
		h.want("Content-Length", int(res.ContentLength), len(o.Content))
		res, body := h.ask("GET", path, true)
		if h.want("GET", res.StatusCode, 200); !bytes.Equal(body, o.Content) {
			t.Errorf("other bytes: %q", body)
		}
		res, body = h.ask("GET", path, true, "Range", "bytes=3-")
		if h.want("GET of a range", res.StatusCode, 206); !bytes.Equal(body, o.Content[3:]) {
			t.Errorf("other bytes of a range: %q", body)
		}
		res, _ = h.ask("GET", path, true, "Range", fmt.Sprintf("bytes=%d-", len(o.Content)))
		h.want("GET of what is complete", res.StatusCode, 416)
	}
	for _, name := range []string{secret.Name, gwtest.NewObject("nothing", "package").Name} {
		path := "/main/" + name
		h.want("presence", h.status("HEAD", path, false), 404)
		h.want("HEAD", h.status("HEAD", path, true), 404)
		h.want("GET", h.status("GET", path, true), 404)
	}
	if h.log.count("level=WARN") != 0 {
		t.Errorf("what is not there is warned of: %s", h.log.buf.String())
	}
	h.want("downloads at the gate", h.spy.count("GET object"), 2+2*2)
}

func TestGetWithoutHead(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	if res, body := h.ask("GET", "/main/"+strings.ReplaceAll(hello.Name, ":", "%3A"), false); res.StatusCode != 200 || !bytes.Equal(body, hello.Content) {
		t.Errorf("%s, %q", res.Status, body)
	}
}

func TestNamesAreParsedHere(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	h := start(t, g, "alice", nil)
	name := gwtest.NewObject("hello", "package").Name
	for _, path := range []string{"/", "/main", "/main/", "/main/x", "/Main/" + name, "/main/../main/" + name, "//" + name, "/main/" + name + "?x", "/main/" + name + ".siginfo.sig", "/v1/whoami", "/main/%2e%2e/x"} {
		for _, once := range []bool{false, true} {
			h.want("HEAD "+path, h.status("HEAD", path, once), 404)
			h.want("GET "+path, h.status("GET", path, once), 404)
		}
	}
	h.want("POST", h.status("POST", "/main/"+name, true), 405)
	if len(h.spy.seen) != 0 {
		t.Errorf("the gate was asked: %v", h.spy.seen)
	}
}

func TestBrowsersAreRefused(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	for _, header := range [][]string{{"Origin", "http://127.0.0.1"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Host", "rebound.example.com"}, {"Host", "127.0.0.1.example.com:80"}, {"Host", "10.0.0.1"}} {
		res, body := h.ask("GET", "/main/"+hello.Name, true, header...)
		if h.want(strings.Join(header, ": "), res.StatusCode, 403); bytes.Contains(body, hello.Content) {
			t.Error("the object was sent")
		}
	}
	for _, host := range []string{"localhost", "localhost:1", "127.0.0.1", "[::1]:1", "127.1.2.3:4"} {
		res, _ := h.ask("GET", "/main/"+hello.Name, true, "Host", host)
		h.want(host, res.StatusCode, 200)
	}
}

func TestManyQuestionsFewBatches(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	var objects []gwtest.Object
	for i := range 50 {
		objects = append(objects, gwtest.NewObject(fmt.Sprintf("hello%d", i), "package"))
	}
	g.Publish(objects, publicSource)
	h := start(t, g, "bob", func(c *Config) { c.Gather = 50 * time.Millisecond })
	const threads, each = 50, 20
	var wrong sync.Map
	var all sync.WaitGroup
	for i := range threads {
		all.Go(func() {
			for j := range each {
				name, want := objects[i].Name, 200
				if j > 0 {
					name, want = gwtest.NewObject(fmt.Sprintf("absent%d-%d", i, j), "package").Name, 404
				}
				if got := h.status("HEAD", "/main/"+name, false); got != want {
					wrong.Store(name, got)
				}
			}
		})
	}
	all.Wait()
	wrong.Range(func(k, v any) bool { t.Errorf("%v: %v", k, v); return true })
	if n := h.spy.count("POST /v1/presence"); n < 1 || n > threads*each/4 { // a slow machine gathers less at a time
		t.Errorf("%d batches for %d questions", n, threads*each)
	}
	if s := h.agent.Status(); s.Hits != threads || s.Misses != threads*(each-1) || s.Asked != threads*each {
		t.Errorf("%+v", s)
	}
}

func TestAnswersAreRememberedForSeconds(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", func(c *Config) { c.Remember = time.Hour })
	path := "/main/" + hello.Name
	for range 5 {
		h.want("presence", h.status("HEAD", path, false), 200)
	}
	h.want("questions", h.spy.count("POST /v1/presence"), 1)
	h.clock.pass(maxRemember)
	h.want("presence", h.status("HEAD", path, false), 200)
	h.want("questions", h.spy.count("POST /v1/presence"), 2)
	h.creds.set(g.As("carol").Token) // who may read nothing
	h.want("presence for carol", h.status("HEAD", path, false), 404)
	h.want("HEAD for carol", h.status("HEAD", path, true), 404)
	h.creds.set(g.As("bob").Token)
	h.want("presence for bob again", h.status("HEAD", path, false), 200)
}

func TestRevokedIsNotServed(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	path := "/main/" + hello.Name
	h.want("HEAD", h.status("HEAD", path, true), 200)
	g.WriteForge(strings.Replace(gwtest.DefaultForge, "users: [bob]", "users: [ci]", 1))
	for g.As("bob").Head("/sstate"+path).StatusCode == 200 {
		time.Sleep(20 * time.Millisecond) // until the gate has read the file
	}
	h.want("GET of what was promised", h.status("GET", path, true), 200)
	h.clock.pass(maxRemember)
	h.want("presence after the right is gone", h.status("HEAD", path, false), 404)
	h.want("HEAD after the right is gone", h.status("HEAD", path, true), 404)
	h.want("GET after the right is gone", h.status("GET", path, true), 404)
	h.want("objects held", h.agent.Status().Objects, 0)
}

func TestPromiseEnds(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	path := "/main/" + hello.Name
	h.want("HEAD", h.status("HEAD", path, true), 200)
	g.Revoke("bob")
	h.clock.pass(promiseTime)
	h.want("GET after the promise", h.status("GET", path, true), 404)
	h.want("warnings", h.log.count("cause=token"), 1)
	h.agent.spool.sweep()
	h.want("objects held", h.agent.Status().Objects, 0)
	h.want("bytes held", int(h.agent.Status().Spooled), 0)
}

// TestWget fetches, as BitBake does, also what was cut off.
func TestWget(t *testing.T) {
	wget, err := exec.LookPath("wget")
	if err != nil {
		t.Fatal("wget is not installed: apt-get install wget")
	}
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	hello.Content = bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	for _, held := range []int{0, 777_777, len(hello.Content)} {
		file := filepath.Join(t.TempDir(), "object.tmp")
		if err := os.WriteFile(file, hello.Content[:held], 0o600); err != nil {
			t.Fatal(err)
		}
		h.want("HEAD", h.status("HEAD", "/main/"+hello.Name, true), 200)
		out, err := exec.Command(wget, "--tries=2", "--timeout=100", "--no-config", "--output-document="+file, "--continue", "--progress=dot", "--verbose", h.url+"/main/"+hello.Name).CombinedOutput()
		if err != nil {
			t.Fatalf("wget with %d bytes: %v\n%s", held, err, out)
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, hello.Content) {
			t.Errorf("wget with %d bytes: %d bytes, %v", held, len(got), err)
		}
	}
}

// TestSingleFlight: an object is downloaded once, however many wait for it.
func TestSingleFlight(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", nil)
	hold := make(chan struct{})
	h.spy.breaks(func(*http.Request) (*http.Response, error) { <-hold; return nil, nil })
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { h.want("HEAD", h.status("HEAD", "/main/"+hello.Name, true), 200) })
	}
	for {
		h.agent.spool.mu.Lock()
		f := h.agent.spool.flights[key{"main", hello.Name}]
		n := 0
		if f != nil {
			n = f.waiters
		}
		h.agent.spool.mu.Unlock()
		if n == 20 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(hold)
	all.Wait()
	h.want("downloads at the gate", h.spy.count("GET object"), 1)
}

// headInPython asks as BitBake does, and gives up after a silence of a second.
const headInPython = `
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], timeout=1)
c.request("HEAD", sys.argv[2], headers={"Connection": "close"})
r = c.getresponse()
print(r.status, r.headers["Content-Length"])
`

// TestPatience: who waits long for an object is told again and again that the answer is to come, in a way that Python and wget take.
func TestPatience(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	slow := func(*http.Request) (*http.Response, error) {
		time.Sleep(1800 * time.Millisecond)
		return nil, nil
	}
	patience := func(c *Config) { c.patience = 100 * time.Millisecond }
	python, wget := start(t, g, "bob", patience), start(t, g, "alice", patience)
	python.spy.breaks(slow)
	wget.spy.breaks(slow)
	var all sync.WaitGroup
	all.Go(func() {
		out, err := exec.Command("python3", "-c", headInPython, strings.TrimPrefix(python.url, "http://"), "/main/"+hello.Name).CombinedOutput()
		if want := fmt.Sprintf("200 %d\n", len(hello.Content)); err != nil || string(out) != want {
			t.Errorf("Python: %q, want %q, %v", out, want, err)
		}
	})
	all.Go(func() {
		out, err := exec.Command("wget", "--no-config", "--tries=1", "--timeout=1", "--quiet", "--output-document=-", wget.url+"/main/"+hello.Name).Output()
		if err != nil || !bytes.Equal(out, hello.Content) {
			t.Errorf("wget: %q, %v", out, err)
		}
	})
	all.Wait()
}
