package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/internal/client"
)

// patienceTime is how often a client that waits for a download is told to go on waiting. BitBake gives up after 100 s of silence.
const patienceTime = 25 * time.Second

// unreadTime is how long a client may take nothing of an object that it downloads: then its connection is closed, and the room freed that the object
// takes. wget comes back for the rest when somebody wakes it.
const unreadTime = 2 * time.Minute

// ServeHTTP answers BitBake: /ZONE/PATH, HEAD and GET. Whatever cannot be had is 404, and nothing else.
func (a *Agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !isLocal(r) {
		a.warn.add(causeForeign, "a request that a web browser sent, or one for another host, was refused")
		http.Error(w, "this is for BitBake on this machine", http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "there is nothing here but objects to read", http.StatusMethodNotAllowed)
		return
	}
	began := a.conf.Now()
	k, ok := parse(r.RequestURI)
	switch {
	case !ok:
		a.count.malformed.Add(1)
		http.NotFound(w, r)
	case r.Method == http.MethodHead && !r.Close:
		a.answerPresence(w, r, k)
		a.count.presence.add(a.conf.Now().Sub(began))
	default:
		a.answerObject(w, r, k)
	}
	a.count.touch(a.conf.Now())
}

// parse reads a request's target, /ZONE/PATH. What is no object's name is not asked for.
func parse(target string) (key, bool) {
	zone, path, ok := strings.Cut(strings.TrimPrefix(target, "/"), "/")
	if !ok || target[0] != '/' || !artifact.ValidZoneName(zone) {
		return key{}, false
	}
	ref, err := artifact.Parse(artifact.Zone{Name: zone}, path)
	if err != nil {
		return key{}, false
	}
	return keyOf(ref), true
}

// isLocal reports whether a request can come from a program of this machine that means us. A browser says where the page is from that has it
// ask, and has our address under the name of the page's host if somebody made it resolve to loopback.
func isLocal(r *http.Request) bool {
	if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
		return false
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	at, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && at.IsLoopback()
}

// answerPresence answers a question of the burst that a build begins with. What it says of an object is a hint: BitBake asks again before it
// fetches it.
func (a *Agent) answerPresence(w http.ResponseWriter, r *http.Request, k key) {
	if g, ok := r.Context().Value(guardedKey{}).(*guarded); ok {
		g.asks(&a.waiting)
	}
	there, err := false, errors.New("the agent is about to end")
	if !a.draining.Load() {
		there, err = a.presence.ask(r.Context(), k)
	}
	if err != nil {
		a.complain(r.Context(), err)
	}
	a.note(r.Context(), k, there, err)
	a.count.answered(there, err)
	if !there {
		w.WriteHeader(http.StatusNotFound)
	}
}

// answerObject answers the HEAD before a download, and the GET: both with the whole object at hand, so that what the one says the other keeps.
func (a *Agent) answerObject(w http.ResponseWriter, r *http.Request, k key) {
	promised := r.Method == http.MethodGet
	if a.draining.Load() && !promised {
		http.NotFound(w, r)
		return
	}
	o, err := a.obtain(w, r, k, promised)
	if err != nil {
		a.complain(r.Context(), err)
		a.note(r.Context(), k, false, err)
		a.count.failed(err)
		http.NotFound(w, r)
		return
	}
	a.note(r.Context(), k, true, nil)
	client := http.NewResponseController(w)
	alive := func() { _ = client.SetWriteDeadline(time.Now().Add(a.conf.unread)) } // where there is none, a client may take all day
	body := &objectReader{SectionReader: io.NewSectionReader(o.file, 0, o.size), size: o.size, alive: alive}
	defer func() { a.spool.release(o, body.ended) }()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+o.digest.Hex()+`"`)
	http.ServeContent(w, r, "", time.Time{}, body)
	_ = client.SetWriteDeadline(time.Time{}) // the connection may be kept
	a.count.served.Add(body.sent)
	if r.Method == http.MethodHead {
		a.count.promised.Add(1)
	} else if body.ended {
		a.count.downloads.Add(1)
	}
}

// obtain waits for an object. A client that waits long is told that the answer is still to come.
func (a *Agent) obtain(w http.ResponseWriter, r *http.Request, k key, promised bool) (*object, error) {
	type result struct {
		object *object
		err    error
	}
	got := make(chan result, 1)
	go func() {
		o, err := a.spool.obtain(r.Context(), k, promised)
		got <- result{o, err}
	}()
	tick := time.NewTicker(a.conf.patience)
	defer tick.Stop()
	for {
		select {
		case r := <-got:
			return r.object, r.err
		case <-tick.C:
			if r.ProtoAtLeast(1, 1) {
				w.WriteHeader(http.StatusContinue)
			}
		}
	}
}

// note remembers what BitBake is told, unless it does not wait for it.
func (a *Agent) note(ctx context.Context, k key, there bool, err error) {
	if ctx.Err() == nil {
		a.recent.note(k, there, err, a.conf.Now())
	}
}

// complain says why something cannot be had. Each cause is said once.
func (a *Agent) complain(ctx context.Context, err error) {
	var refusal *client.Error
	var token *tokenError
	var disk *diskError
	var unverified *unverifiedError
	switch {
	case isAbsent(err), errors.Is(err, errLost), errors.Is(err, errSlow), errors.As(err, &token), client.Unreachable(err):
		// The first is no fault; the others were said when they were found.
	case ctx.Err() != nil: // nobody waits for the answer
	case errors.As(err, &unverified):
		a.warn.add(unverified.cause, "an object is withheld, since nobody you trust vouches for it: "+err.Error())
	case errors.As(err, &disk):
		a.warn.add(causeDisk, "objects cannot be fetched, since the spool's disk fails; make room there, or choose another with --spool: "+err.Error())
	case errors.Is(err, errSpoolFull):
		a.warn.add(causeSpool, "objects cannot be fetched: "+err.Error())
	case errors.Is(err, client.ErrBytes):
		a.warn.add(causeBytes, "an object is withheld; tell who runs the gate: "+err.Error())
	case errors.As(err, &refusal):
		a.warn.add(causeAnswer, "objects cannot be had: "+err.Error())
	default:
		a.warn.add(causeOther, "objects cannot be had: "+err.Error())
	}
}

// objectReader notes what was read of an object. It calls alive before each read: what was read before has been taken then.
type objectReader struct {
	*io.SectionReader
	size, at, sent int64
	ended          bool
	alive          func()
}

func (o *objectReader) Seek(offset int64, whence int) (n int64, err error) {
	n, err = o.SectionReader.Seek(offset, whence)
	o.at = n
	return n, err
}

func (o *objectReader) Read(p []byte) (int, error) {
	o.alive()
	n, err := o.SectionReader.Read(p)
	o.at += int64(n)
	o.sent += int64(n)
	o.ended = o.ended || o.at == o.size && n > 0
	return n, err
}
