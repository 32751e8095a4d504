package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/limit"
)

// The tests of the pace run on a clock of their own, and over connections without buffers, so that a client moves exactly as
// they say.

const (
	window = 30 * time.Second
	floor  = 30 << 10
)

// pipes is a listener whose connections are pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.conns <- server
	return client, nil
}

// paced runs do in a bubble, with a client of a server with the door's own limits, on which PUT reads its body to the end and GET
// sends size bytes. ended gets how a body ended.
func paced(t *testing.T, http2 bool, size int64, do func(t *testing.T, client *http.Client, ended <-chan error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Gateway: &gateway.Gateway{}, TLS: &tls.Config{}, Mount: "/", Limits: Limits{ProgressWindow: window, ProgressBytes: floor, IdleTimeout: 24 * time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var err error
			if r.Method == http.MethodPut {
				_, err = io.Copy(io.Discard, newPacedReader(w, r.Body, s.limits))
			} else {
				_, err = io.CopyN(newPacedWriter(w, s.limits), zeros{}, size)
			}
			ended <- err
		})
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!http2)
		protocols.SetUnencryptedHTTP2(http2)
		s.http.Protocols = protocols
		ln := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- s.http.Serve(ln) }()
		transport := &http.Transport{DialContext: ln.dial, Protocols: protocols}
		defer transport.CloseIdleConnections()
		do(t, &http.Client{Transport: transport}, ended)
		s.http.Close()
		<-served
		time.Sleep(window) // lets a body that is between two ticks see that its connection is gone
	})
}

// zeros is an endless object.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// ticking gives step bytes at each tick, and after ticks of them ends, or never does.
type ticking struct {
	tick  time.Duration
	step  int
	ticks int
	stops <-chan struct{} // when it has stopped, waits for this to break off; nil to end well
}

func (b *ticking) Read(p []byte) (int, error) {
	if b.ticks == 0 && b.stops != nil {
		<-b.stops
		return 0, io.ErrUnexpectedEOF
	}
	if b.ticks == 0 {
		return 0, io.EOF
	}
	b.ticks--
	time.Sleep(b.tick)
	return copy(p, make([]byte, b.step)), nil
}

func overBoth(t *testing.T, test func(t *testing.T, http2 bool)) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) { test(t, http2) })
	}
}

// ticks do not divide the window: its end falls between two of them. Each moves much more than its part of the floor.
const (
	tick  = 7 * time.Second
	step  = 16 << 10
	ticks = 30 // are seven windows
)

// TestSteadyWriterIsNotCut: a client that sends steadily, well above the floor, may take as many windows as it likes.
func TestSteadyWriterIsNotCut(t *testing.T) {
	overBoth(t, func(t *testing.T, http2 bool) {
		paced(t, http2, 0, func(t *testing.T, client *http.Client, ended <-chan error) {
			req, _ := http.NewRequest(http.MethodPut, "http://gate/", &ticking{tick: tick, step: step, ticks: ticks})
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if err := <-ended; err != nil || res.StatusCode != http.StatusOK {
				t.Errorf("%d, %v", res.StatusCode, err)
			}
		})
	})
}

// TestStoppedWriterIsCut: a client that sends no more is cut two windows later at most, however well it went before.
func TestStoppedWriterIsCut(t *testing.T) {
	overBoth(t, func(t *testing.T, http2 bool) {
		for ticks := range 10 {
			paced(t, http2, 0, func(t *testing.T, client *http.Client, ended <-chan error) {
				began, stops := time.Now(), make(chan struct{})
				req, _ := http.NewRequest(http.MethodPut, "http://gate/", &ticking{tick: tick, step: step, ticks: ticks, stops: stops})
				answered := make(chan struct{})
				go func() {
					defer close(answered)
					if res, err := client.Do(req); err == nil {
						res.Body.Close()
					}
				}()
				err := <-ended
				if idle := time.Since(began) - time.Duration(ticks)*tick; err == nil || idle > 2*window {
					t.Errorf("after %d ticks: %v, %s after it stopped", ticks, err, idle)
				}
				close(stops)
				<-answered
			})
		}
	})
}

// TestTricklingWriterIsCut: what moves below the floor does not count as moving.
func TestTricklingWriterIsCut(t *testing.T) {
	overBoth(t, func(t *testing.T, http2 bool) {
		paced(t, http2, 0, func(t *testing.T, client *http.Client, ended <-chan error) {
			req, _ := http.NewRequest(http.MethodPut, "http://gate/", &ticking{tick: time.Second, step: 1000, ticks: 3600})
			if res, err := client.Do(req); err == nil {
				res.Body.Close()
			}
			if err := <-ended; !errors.Is(err, limit.ErrSlow) {
				t.Errorf("%v", err)
			}
		})
	})
}

// An object is longer than what HTTP/2 lets be under way, so that its client's pace is the server's. It is read in bites.
const (
	object = 40 << 20
	bite   = 1 << 20
)

// TestSteadyReaderIsNotCut is TestSteadyWriterIsNotCut for a client that takes.
func TestSteadyReaderIsNotCut(t *testing.T) {
	overBoth(t, func(t *testing.T, http2 bool) {
		paced(t, http2, object, func(t *testing.T, client *http.Client, ended <-chan error) {
			began := time.Now()
			body := fetch(t, client)
			defer body.Close()
			got, err := take(body, object/bite)
			if failed := <-ended; err != nil || failed != nil || got != object {
				t.Errorf("%d bytes, %v, %v", got, err, failed)
			}
			if took := time.Since(began); took < 3*window {
				t.Fatalf("the transfer took %s: too short to tell", took)
			}
		})
	})
}

func fetch(t *testing.T, client *http.Client) io.ReadCloser {
	t.Helper()
	res, err := client.Get("http://gate/")
	if err != nil {
		t.Fatal(err)
	}
	return res.Body
}

// take reads what a tick brings, at each of some ticks.
func take(body io.Reader, ticks int) (got int, err error) {
	buf := make([]byte, bite)
	for range ticks {
		time.Sleep(tick)
		n, err := io.ReadFull(body, buf)
		if got += n; err != nil {
			return got, err
		}
	}
	return got, nil
}

// TestStoppedReaderIsCut is TestStoppedWriterIsCut for a client that takes.
func TestStoppedReaderIsCut(t *testing.T) {
	overBoth(t, func(t *testing.T, http2 bool) {
		for ticks := range 10 {
			paced(t, http2, object, func(t *testing.T, client *http.Client, ended <-chan error) {
				body := fetch(t, client)
				defer body.Close()
				if _, err := take(body, ticks); err != nil {
					t.Fatal(err)
				}
				stopped := time.Now()
				if err, idle := <-ended, time.Since(stopped); err == nil || idle > 2*window {
					t.Errorf("after %d ticks: %v, %s after it stopped", ticks, err, idle)
				}
			})
		}
	})
}
