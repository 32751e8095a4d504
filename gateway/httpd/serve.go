package httpd

import (
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// maxTarget bounds a request target, and maxZone a zone's name in one for hash equivalence.
const (
	maxTarget = 2048
	maxZone   = 63
)

// serve is the whole of a request: who, what, answer. A credential is asked for before the path is looked at,
// so that the path makes no difference to who has none.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.handlers.Add(1)
	defer s.handlers.Done()
	o := Observation{Method: knownMethod(r.Method)}
	began, rw := time.Now(), &response{ResponseWriter: w, status: http.StatusOK}
	defer func() { // also when a transfer is broken off by a panic
		if o.Route == "hash" {
			return // a connection, which its own door observes
		}
		o.Status, o.Took = rw.status, time.Since(began)
		s.observe(o)
	}()
	s.route(rw, r, &o.Route)
}

// route finds what answers r, notes its name, and lets it answer.
func (s *Server) route(w *response, r *http.Request, name *string) {
	*name = "other"
	setCommonHeaders(w.Header())
	if s.forAnybody(w, r, name) {
		return
	}
	zone, isHash := s.hashZone(r)
	session, err := s.gate.Session(r.Context(), door(r), credential(r))
	if isHash && (err == nil || errors.Is(err, authn.ErrAnonymous)) {
		*name = "hash"
		s.hash.Upgrade(r.Context(), w, r, session, zone)
		return
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	key := session.Principal().Key()
	if !s.inFlight.Enter(key) {
		busy(w)
		return
	}
	defer s.inFlight.Leave(key)
	segments, ok := target(r)
	if !ok {
		answer(w, http.StatusBadRequest, "bad request target")
		return
	}
	h := handler{server: s, session: session, w: w, r: r}
	if zone, path, ok := s.artifactPath(segments); ok {
		*name = "artifact"
		h.artifact(zone, path)
		return
	}
	h.api(segments, name)
}

// forAnybody answers r if nothing need be shown for it in its headers, nor by TLS, and reports whether it did.
func (s *Server) forAnybody(w *response, r *http.Request, name *string) bool {
	if r.Method == http.MethodGet && r.RequestURI == signInPath {
		*name = "sign-in"
		s.describeSignIn(w)
		return true
	}
	if r.Method != http.MethodPost {
		return false
	}
	forge, isHook := hookOf(r)
	switch {
	case isHook:
		*name = "hook"
		s.hook(w, r, forge)
	case s.gate.Challenges == nil:
		return false
	case r.RequestURI == challengePath:
		*name = "sign-in"
		s.giveChallenge(w, r)
	case mayProve(r):
		*name = "token"
		s.prove(w, r)
	default:
		return false
	}
	return true
}

// hashZone returns the zone of a request for hash equivalence: /hash/ZONE.
func (s *Server) hashZone(r *http.Request) (zone string, ok bool) {
	zone, ok = strings.CutPrefix(r.RequestURI, "/hash/")
	return zone, ok && s.hash != nil && r.Method == http.MethodGet && len(zone) <= maxZone && !strings.ContainsAny(zone, "/?")
}

// handler answers one request of one session.
type handler struct {
	server  *Server
	session *gateway.Session
	w       *response
	r       *http.Request
}

// response notes the status that was sent.
type response struct {
	http.ResponseWriter
	status int
}

func (w *response) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// door tells the gateway where the request came in.
func door(r *http.Request) gateway.Door {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr)
	return gateway.Door{Name: "https", Remote: remote}
}

// credential reads what the client showed: an Authorization header, else its certificate. A header that cannot be read is
// a bad token, not none.
func credential(r *http.Request) authn.Credential {
	if values := r.Header["Authorization"]; len(values) > 0 {
		text := authn.HeaderToken(values)
		if r.RequestURI == exchangePath && isJWT(text.Reveal()) {
			return authn.Credential{IDToken: text}
		}
		return authn.Credential{Token: text}
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return authn.Credential{Chain: r.TLS.VerifiedChains[0]}
	}
	return authn.Credential{}
}

// exchangePath is where an ID token, or the proof of an SSH key, is a credential, and signInPath says how to get one.
const (
	exchangePath = "/v1/token"
	signInPath   = "/.well-known/oauth-protected-resource" // RFC 9728, section 3
)

// isJWT reports whether text has the form of a signed JSON Web Token (RFC 7515, section 3.1): three parts. A gate token has one.
func isJWT(text string) bool { return strings.Count(text, ".") == 2 }

// describeSignIn answers what anybody may know.
func (s *Server) describeSignIn(w *response) {
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(s.signIn))}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(s.signIn)
}

// target splits the request target on "/" before anything is decoded. Only origin-form passes, of visible ASCII
// without a fragment or a backslash. A query is left to those few routes that take one.
func target(r *http.Request) ([]string, bool) {
	t := r.RequestURI
	if len(t) == 0 || len(t) > maxTarget || t[0] != '/' {
		return nil, false
	}
	for i := 0; i < len(t); i++ {
		if c := t[i]; c < 0x21 || c > 0x7e || c == '#' || c == '\\' {
			return nil, false
		}
	}
	return strings.Split(t[1:], "/"), true
}

// artifactPath returns the zone and the still encoded path of a target below the mount point.
func (s *Server) artifactPath(segments []string) (zone, path string, ok bool) {
	n := len(s.mount)
	if len(segments) < n+2 {
		return "", "", false
	}
	for i, m := range s.mount {
		if segments[i] != m {
			return "", "", false
		}
	}
	return segments[n], strings.Join(segments[n+1:], "/"), true
}

// refuse answers an error of Session.
func (s *Server) refuse(w *response, err error) {
	if errors.Is(err, gateway.ErrThrottled) {
		w.Header()["Retry-After"] = retryLater
		answer(w, http.StatusTooManyRequests, "too many refused credentials; try again later, with a good one")
		return
	}
	if errors.Is(err, gateway.ErrUnauthenticated) {
		h := w.Header()
		h["Www-Authenticate"] = challenge
		answer(w, http.StatusUnauthorized, "a credential is needed: a gate token as Basic password or Bearer, or a client certificate")
		return
	}
	s.log.Error("no session", "error", err)
	busy(w)
}

var (
	challenge   = []string{`Basic realm="lychgate", charset="UTF-8"`}
	plainText   = []string{"text/plain; charset=utf-8"}
	octetStream = []string{"application/octet-stream"}
	private     = []string{"private, no-cache"}
	bytesUnit   = []string{"bytes"}
	nosniff     = []string{"nosniff"}
	hsts        = []string{"max-age=31536000"}
	retrySoon   = []string{"2"}
	retryLater  = []string{"30"}
)

// setCommonHeaders sets what every answer carries. net/http does not change the shared slices.
func setCommonHeaders(h http.Header) {
	h["X-Content-Type-Options"] = nosniff
	h["Strict-Transport-Security"] = hsts
	h["Cache-Control"] = private
}

// busy answers that the gate cannot serve just now.
func busy(w *response) {
	w.Header()["Retry-After"] = retrySoon
	answer(w, http.StatusServiceUnavailable, "unavailable for now; try again")
}

// notFound is the one answer for denied, absent and misnamed.
func notFound(w *response) { answer(w, http.StatusNotFound, "not found") }

// answer sends a status with a fixed text.
func answer(w *response, status int, text string) {
	h := w.Header()
	h["Content-Type"] = plainText
	h["Content-Length"] = []string{strconv.Itoa(len(text) + 1)}
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

// knownMethod bounds the methods that metrics can see.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete:
		return m
	}
	return "other"
}
