package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// callback is where a browser brings the answer of a provider: one path, for one answer, on a port of this machine.
type callback struct {
	state  string // what makes an answer ours
	issuer string
	addr   string
	server *http.Server
	answer chan answer // holds the one answer
	taken  atomic.Bool // there was one
}

type answer struct {
	code string
	err  error
}

// callbackPath is what gates register with their providers: http://127.0.0.1/callback, with any port (RFC 8252, section 7.3).
const callbackPath = "/callback"

// listenBack opens the port.
func listenBack(issuer string) (*callback, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the browser: %w", err)
	}
	b := &callback{state: rand.Text(), issuer: issuer, addr: ln.Addr().String(), answer: make(chan answer, 1)}
	b.server = &http.Server{Handler: b, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	b.server.SetKeepAlivesEnabled(false)
	go func() { _ = b.server.Serve(ln) }() // until close
	return b, nil
}

func (b *callback) url() string { return "http://" + b.addr + callbackPath }

// close lets the page reach the browser, and ends.
func (b *callback) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if b.server.Shutdown(ctx) != nil {
		_ = b.server.Close()
	}
}

// wait returns the authorization code.
func (b *callback) wait(ctx context.Context) (string, error) {
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case a := <-b.answer:
		return a.code, a.err
	}
}

// ServeHTTP takes the answer. A name that was bound to this address (DNS rebinding), another path and an answer that nobody asked
// for change nothing.
func (b *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	q := r.URL.Query()
	switch {
	case r.Host != b.addr || r.URL.Path != callbackPath:
		page(w, http.StatusNotFound, "There is nothing here.")
	case r.Method != http.MethodGet:
		page(w, http.StatusMethodNotAllowed, "There is nothing here.")
	case len(q["state"]) != 1 || q.Get("state") != b.state:
		page(w, http.StatusBadRequest, "This is not the sign-in that the command waits for.")
	default:
		b.take(w, q)
	}
}

// take hands on the first answer.
func (b *callback) take(w http.ResponseWriter, q map[string][]string) {
	if b.taken.Swap(true) {
		page(w, http.StatusGone, "This sign-in is over.")
		return
	}
	a := b.read(q)
	b.answer <- a
	if a.err != nil {
		page(w, http.StatusOK, "You are not signed in. The command says why; you can close this window.")
		return
	}
	page(w, http.StatusOK, "The command has what it needs, and goes on in its terminal. You can close this window.")
}

// read makes a code or an error of an answer (RFC 6749, section 4.1.2). Its iss says whose it is (RFC 9207).
func (b *callback) read(q map[string][]string) answer {
	one := func(name string) string {
		if len(q[name]) == 1 {
			return q[name][0]
		}
		return ""
	}
	switch {
	case len(q["iss"]) > 0 && one("iss") != b.issuer:
		return answer{err: errors.New("the answer comes from another issuer than was asked: sign in again, and tell who runs the gate")}
	case one("error") == "access_denied":
		return answer{err: errors.New("the issuer did not sign you in: you, or a rule of the issuer, declined")}
	case len(q["error"]) > 0:
		return answer{err: fmt.Errorf("the issuer did not sign you in: %s", words(one("error")+": "+one("error_description")))}
	case one("code") == "":
		return answer{err: errors.New("the issuer's answer holds no code")}
	}
	return answer{code: one("code")}
}

// page writes a page of one sentence, which is ours.
func page(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Lychgate</title>\n<p>"+text+"</p>\n</html>\n")
}
