package agent

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// vouchVerify has an agent verify by the keys of signers.
func vouchVerify(g *gwtest.Gate, names ...string) func(*Config) {
	return func(c *Config) { c.Verifier = g.Verifier(names...) }
}

// vouchAnswer is a gate that gives an answer of the test's own about every statement.
func vouchAnswer(status int, body io.Reader) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		if !strings.HasSuffix(r.URL.Path, gateway.StatementSuffix) {
			return nil, nil
		}
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(body), Request: r}, nil
	}
}

// vouchQuestions counts statements that were asked for.
func vouchQuestions(h *host) *int {
	n := new(int)
	var mu sync.Mutex
	h.spy.breaks(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasSuffix(r.URL.Path, gateway.StatementSuffix) {
			*n++
		}
		return nil, nil
	})
	return n
}

// TestVerified: what a trusted signer vouches for is handed out, every part of it, and a statement is asked for once for all that it is about.
func TestVerified(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	info, sig := gwtest.NewSiginfo(hello), gwtest.Object{Name: hello.Name + ".sig", Content: []byte("a signature")}
	objects := []gwtest.Object{hello, info, sig}
	g.Publish(objects, publicSource)
	h := start(t, g, "bob", vouchVerify(g, "stranger", "ci"))
	asked := vouchQuestions(h)
	for _, o := range objects {
		h.want("HEAD", h.status("HEAD", "/main/"+o.Name, true), 200)
		if res, body := h.ask("GET", "/main/"+o.Name, true); res.StatusCode != 200 || !bytes.Equal(body, o.Content) {
			t.Errorf("GET: %s, %q", res.Status, body)
		}
	}
	h.want("statements", *asked, 1)
	h.clock.pass(promiseTime) // which is longer than a statement counts
	h.want("HEAD later", h.status("HEAD", "/main/"+hello.Name, true), 200)
	h.want("statements", *asked, 2)
	if s := h.agent.Status(); s.Unverified != 0 || !s.Verifying || len(s.Warnings) != 0 {
		t.Errorf("%+v", s)
	}
}

// TestUnverified: what nobody who is trusted vouches for is not there, neither before a download nor at it, and the reason is said once.
func TestUnverified(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	hello, world := gwtest.NewObject("hello", "populate_sysroot"), gwtest.NewObject("world", "populate_sysroot")
	objects := []gwtest.Object{hello, world}
	g.Publish(objects, publicSource)
	other := []gwtest.Object{{Name: hello.Name, Content: []byte("other bytes")}, {Name: world.Name, Content: hello.Content}}
	good := g.Seal(g.Statement(objects, publicSource))
	review := g.Statement(objects, publicSource)
	review.Zone = "review"
	elsewhere := g.Statement([]gwtest.Object{gwtest.NewObject("else", "package")}, publicSource)
	for _, row := range []struct {
		name    string
		signers []string
		zones   []string
		status  int
		body    []byte
		cause   string
		says    string
		there   bool
	}{
		{name: "a good one", body: good, there: true},
		{name: "another key is trusted", signers: []string{"outsider"}, body: good, cause: "signer", says: "no trusted signature"},
		{name: "somebody else signed", body: g.SealBy(g.Statement(objects, publicSource), g.Stranger), cause: "signer", says: "no trusted signature"},
		{name: "none", status: 404, cause: "unsigned", says: "no signed statement about it"},
		{name: "one of other bytes", body: g.Seal(g.Statement(other, publicSource)), cause: "signed", says: "its bytes are others than those that ci signed"},
		{name: "one of another object", body: g.Seal(elsewhere), cause: "signed", says: "does not name it"},
		{name: "cut", body: good[:len(good)-2], cause: "signer", says: "open envelope"},
		{name: "nothing in it", body: []byte{}, cause: "signer", says: "open envelope"},
		{name: "another zone's", zones: []string{"main"}, body: g.Seal(review), cause: "signer", says: `it was made for zone \"review\"`},
		{name: "any zone's", body: g.Seal(review), there: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.signers == nil {
				row.signers = []string{"ci"}
			}
			h := start(t, g, "bob", func(c *Config) {
				vouchVerify(g, row.signers...)(c)
				c.VerifyZones = row.zones
			})
			status := row.status
			if status == 0 {
				status = 200
			}
			h.spy.breaks(func(r *http.Request) (*http.Response, error) {
				return vouchAnswer(status, bytes.NewReader(row.body))(r)
			})
			want := 404
			if row.there {
				want = 200
			}
			for _, o := range objects {
				h.want("presence, a hint", h.status("HEAD", "/main/"+o.Name, false), 200)
				h.want("HEAD", h.status("HEAD", "/main/"+o.Name, true), want)
				h.want("GET", h.status("GET", "/main/"+o.Name, false), want)
			}
			s := h.agent.Status()
			if row.there {
				h.want("unverified", int(s.Unverified), 0)
				return
			}
			h.want("unverified", int(s.Unverified), 4)
			h.want("withheld or failed", int(s.Withheld+s.Failed), 0)
			h.want("objects held", s.Objects, 0)
			h.want("bytes fetched", int(s.Fetched), 0)
			h.want("warnings", h.log.count("level=WARN"), 1)
			h.want("their cause", h.log.count("cause="+row.cause), 1)
			if len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0].Text, strings.ReplaceAll(row.says, `\"`, `"`)) || s.Warnings[0].Count != 4 {
				t.Errorf("warnings %+v, want %q", s.Warnings, row.says)
			}
		})
	}
}

// TestStatementWithheld: who may read an object and not all that it was built with gets no statement, so the object is not there.
func TestStatementWithheld(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	st := g.Statement([]gwtest.Object{hello}, publicSource)
	st.Inputs = g.Statement(nil, publicSource, privateSource).Sources
	if _, err := g.TryPublish(g.As("ci"), st, []gwtest.Object{hello}); err != nil {
		t.Fatal(err)
	}
	path := "/main/" + hello.Name
	trusting := start(t, g, "bob", nil)
	trusting.want("HEAD without verifying", trusting.status("HEAD", path, true), 200)
	alice, bob := start(t, g, "alice", vouchVerify(g, "ci")), start(t, g, "bob", vouchVerify(g, "ci"))
	alice.want("HEAD of alice", alice.status("HEAD", path, true), 200)
	bob.want("HEAD of bob", bob.status("HEAD", path, true), 404)
	bob.want("GET of bob", bob.status("GET", path, true), 404)
	bob.want("warnings", bob.log.count("cause=unsigned"), 1)
}

// vouchHalf is a body that is cut in the middle.
type vouchHalf struct{ io.Reader }

func (b vouchHalf) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = errCable
	}
	return n, err
}

// TestStatementTrouble: a statement that comes late is waited for, one that is cut is asked for again, and one that does not come
// is a fault of the gate and no lack of a signature.
func TestStatementTrouble(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	good, path := g.Seal(g.Statement([]gwtest.Object{hello}, publicSource)), "/main/"+hello.Name
	t.Run("late", func(t *testing.T) {
		h := start(t, g, "bob", vouchVerify(g, "ci"))
		asked, come := make(chan struct{}), make(chan struct{})
		h.spy.breaks(func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, gateway.StatementSuffix) {
				close(asked)
				<-come
			}
			return nil, nil
		})
		answer := make(chan int)
		go func() { answer <- h.status("HEAD", path, true) }()
		<-asked
		select {
		case got := <-answer:
			t.Errorf("answered %d before the statement came", got)
		case <-time.After(50 * time.Millisecond):
		}
		close(come)
		h.want("HEAD", <-answer, 200)
		h.want("GET", h.status("GET", path, true), 200)
	})
	t.Run("cut once", func(t *testing.T) {
		h := start(t, g, "bob", vouchVerify(g, "ci"))
		cut := 0
		h.spy.breaks(func(r *http.Request) (*http.Response, error) {
			if !strings.HasSuffix(r.URL.Path, gateway.StatementSuffix) {
				return nil, nil
			}
			if cut++; cut == 1 {
				return vouchAnswer(200, vouchHalf{bytes.NewReader(good[:len(good)/2])})(r)
			}
			return nil, nil
		})
		h.want("HEAD", h.status("HEAD", path, true), 200)
		h.want("requests", cut, 2)
	})
	t.Run("never whole", func(t *testing.T) {
		h := start(t, g, "bob", vouchVerify(g, "ci"))
		h.spy.breaks(func(r *http.Request) (*http.Response, error) {
			return vouchAnswer(200, vouchHalf{bytes.NewReader(good[:len(good)/2])})(r)
		})
		h.want("HEAD", h.status("HEAD", path, true), 404)
		h.want("GET", h.status("GET", path, true), 404)
		h.want("unverified", int(h.agent.Status().Unverified), 0)
		h.want("warnings of the gate", h.log.count("cause=gate"), 1)
	})
}

// TestCacheIsVouchedFor: what the cache holds is handed out by the keys of now, whoever vouched for it when it came.
func TestCacheIsVouchedFor(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	dir, path := filepath.Join(t.TempDir(), "cache"), "/main/"+hello.Name
	with := func(verify func(*Config)) func(*Config) {
		return func(c *Config) {
			keeping(dir)(c)
			if verify != nil {
				verify(c)
			}
		}
	}
	for _, row := range []struct {
		name      string
		verify    func(*Config)
		status    int
		downloads int
	}{
		{"filled without verifying", nil, 200, 1},
		{"trusted", vouchVerify(g, "ci"), 200, 0},
		{"other keys", vouchVerify(g, "outsider"), 404, 0},
		{"trusted again", vouchVerify(g, "ci"), 200, 0},
	} {
		h := start(t, g, "bob", with(row.verify))
		asked := vouchQuestions(h)
		h.want(row.name+": HEAD", h.status("HEAD", path, true), row.status)
		h.want(row.name+": GET", h.status("GET", path, true), row.status)
		h.want(row.name+": downloads", h.spy.count("GET object")-*asked, row.downloads)
		if hits := int(h.agent.Status().CacheHits); row.status == 404 && hits != 0 {
			t.Errorf("%s: out of the cache", row.name)
		}
		h.stop()
	}
}

// vouchKeys is a Verifier whose keys a test takes away.
type vouchKeys struct {
	mu sync.Mutex
	Verifier
}

func (k *vouchKeys) Open(envelope []byte) (*provenance.Verified, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Verifier == nil {
		return nil, errors.New("the key is not listed")
	}
	return k.Verifier.Open(envelope)
}

// TestKeyIsTakenBack: a key that is not listed any more counts for a minute at most, and what it vouched for is not held on to.
func TestKeyIsTakenBack(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	keys := &vouchKeys{Verifier: g.Verifier("ci")}
	h := start(t, g, "bob", func(c *Config) { c.Verifier = keys })
	path := "/main/" + hello.Name
	h.want("HEAD", h.status("HEAD", path, true), 200)
	keys.mu.Lock()
	keys.Verifier = nil
	keys.mu.Unlock()
	h.want("GET of what was promised", h.status("GET", path, true), 200)
	h.clock.pass(vouchedTime)
	h.want("HEAD", h.status("HEAD", path, true), 404)
	h.want("GET, also within the time of the promise", h.status("GET", path, true), 404)
	h.want("objects held", h.agent.Status().Objects, 0)
}

// TestUnverifiedOtherBytes: bytes that changed between the question and the download are not those that were vouched for.
func TestUnverifiedOtherBytes(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	hello := gwtest.NewObject("hello", "populate_sysroot")
	g.Publish([]gwtest.Object{hello}, publicSource)
	h := start(t, g, "bob", vouchVerify(g, "ci"))
	h.spy.breaks(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodGet || strings.HasSuffix(r.URL.Path, gateway.StatementSuffix) {
			return nil, nil
		}
		header := http.Header{"Repr-Digest": {"sha-256=:vw1tPxSwBFPLl+ysVRiGKxERKb2tJAmClIJX+xzGEAw=:"}} // of "evil bytes"
		return &http.Response{StatusCode: 200, Header: header, ContentLength: 10, Body: io.NopCloser(strings.NewReader("evil bytes")), Request: r}, nil
	})
	path := "/main/" + hello.Name
	h.want("HEAD", h.status("HEAD", path, true), 404)
	h.want("GET", h.status("GET", path, true), 404)
	h.want("warnings", h.log.count("cause=signed"), 1)
	h.want("unverified", int(h.agent.Status().Unverified), 2)
	h.want("bytes held", int(h.agent.Status().Spooled), 0)
}
