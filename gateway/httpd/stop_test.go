package httpd_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway/httpd"
	"github.com/lychgate/lychgate/gateway/upstream"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// stuck is a mirror of one object whose second half, once it is armed, comes only when free is closed; and then it does not come.
type stuck struct {
	content []byte
	armed   atomic.Bool
	waiting chan struct{} // closed when somebody waits for it
	once    sync.Once
	free    chan struct{}
}

func (m *stuck) Stat(context.Context, string) (upstream.Info, error) {
	return upstream.Info{Size: int64(len(m.content))}, nil
}

func (m *stuck) Open(_ context.Context, _ string, off int64) (*upstream.Object, error) {
	half := len(m.content) / 2
	if !m.armed.Load() {
		half = len(m.content)
	}
	r := io.MultiReader(strings.NewReader(string(m.content[:half])), readerFunc(func([]byte) (int, error) {
		if !m.armed.Load() {
			return 0, io.EOF
		}
		m.once.Do(func() { close(m.waiting) })
		<-m.free
		return 0, fs.ErrClosed
	}))
	if _, err := io.CopyN(io.Discard, r, off); err != nil {
		return nil, err
	}
	return &upstream.Object{ReadCloser: io.NopCloser(r), Info: upstream.Info{Size: int64(len(m.content))}}, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// stuckGate is a gate with an object in a mirror that is stuck.
func stuckGate(t *testing.T) (*gwtest.Gate, *stuck, gwtest.Object) {
	t.Helper()
	o := gwtest.Object{Name: gwtest.NewObject("hello", "package").Name, Content: noise(3, 4<<20)}
	m := &stuck{content: o.Content, waiting: make(chan struct{}), free: make(chan struct{})}
	g := gwtest.New(t, gwtest.Options{Mirror: m})
	importAll(t, g, o)
	m.armed.Store(true)
	return g, m, o
}

// TestServeReturnsAfterItsHandlers: when a door that was told to stop has, nothing of it uses the gate any more, however long an
// upstream holds a request; and that is no error.
func TestServeReturnsAfterItsHandlers(t *testing.T) {
	g, mirror, o := stuckGate(t)
	seen := make(chan httpd.Observation, 10)
	door := serverOf(t, g, httpd.Limits{DrainTimeout: time.Millisecond}, func(o httpd.Observation) { seen <- o })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- door.Serve(ctx, ln) }()

	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: g.CA.Pool()}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodGet, "https://"+ln.Addr().String()+mount+o.Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("user", g.As("bob").Token)
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-mirror.waiting
	stop()
	if n, err := io.Copy(io.Discard, res.Body); err == nil || n >= int64(len(o.Content)) {
		t.Errorf("%d bytes came, then %v", n, err)
	}
	select { // the connection is closed; the handler still waits for the mirror
	case err := <-served:
		t.Errorf("Serve returned %v while a request was being answered", err)
		close(mirror.free)
		return
	case <-time.After(100 * time.Millisecond):
	}
	if len(seen) != 0 {
		t.Fatalf("the request has ended: %+v", <-seen)
	}
	close(mirror.free)
	if err := <-served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if len(seen) != 1 {
		t.Errorf("%d requests had ended when Serve returned, want 1", len(seen))
	}
}

// TestBrokenTransfersAreObserved: metrics see a transfer that is broken off, once.
func TestBrokenTransfersAreObserved(t *testing.T) {
	g, mirror, o := stuckGate(t)
	close(mirror.free)
	var seen []httpd.Observation
	handler := serverOf(t, g, httpd.Limits{}, func(o httpd.Observation) { seen = append(seen, o) }).Handler()
	req := httptest.NewRequest(http.MethodGet, mount+o.Name, nil)
	req.SetBasicAuth("user", g.As("bob").Token)
	func() {
		defer func() {
			if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) {
				t.Errorf("the transfer ended with %v", err)
			}
		}()
		handler.ServeHTTP(recorder{httptest.NewRecorder()}, req)
	}()
	if len(seen) != 1 || seen[0].Route != "artifact" || seen[0].Method != http.MethodGet || seen[0].Status != http.StatusOK {
		t.Errorf("metrics saw %+v", seen)
	}
}
