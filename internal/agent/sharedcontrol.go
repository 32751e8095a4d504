package agent

import (
	"context"
	"net"
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
)

// maxJoin bounds what is sent to join, in bytes.
const maxJoin = 8 << 10

// joinRequest is sent to join a shared agent.
type joinRequest struct {
	Token string `json:"token"`
}

// ServeControl answers [Ask], [AskRecipes], [AskWhy], [AskJoin] and [AskLeave] on a unix socket, each user about themselves alone, as soon as the
// agent serves, until ctx is done. It closes the listener.
func (s *Shared) ServeControl(ctx context.Context, ln net.Listener) error {
	select {
	case <-s.serving:
	case <-ctx.Done():
		return ln.Close()
	}
	return serveControl(ctx, ownedListener{ln, s}, &http.Server{
		Handler: s.controls(),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, guardedKey{}, c)
		},
	})
}

// ownedListener finds out whose each connection is.
type ownedListener struct {
	net.Listener
	shared *Shared
}

// Accept implements [net.Listener].
func (l ownedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g, _, err := l.shared.enter(c)
		if err == nil {
			return g, nil
		}
		l.shared.warn.add(causeForeign, "a connection was closed: "+err.Error())
	}
}

// controls answers what users ask a shared agent.
func (s *Shared) controls() *http.ServeMux {
	mux := http.NewServeMux()
	user := func(path string, answer func(w http.ResponseWriter, r *http.Request, uid int)) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			g, ok := r.Context().Value(guardedKey{}).(*guarded)
			if !ok {
				http.Error(w, "it is not known who asks", http.StatusForbidden)
				return
			}
			answer(w, r, g.owner)
		})
	}
	user("GET /v1/status", func(w http.ResponseWriter, _ *http.Request, uid int) { answerJSON(w, s.Status(uid)) })
	user("POST /v1/join", s.answerJoin)
	user("POST /v1/leave", func(w http.ResponseWriter, _ *http.Request, uid int) {
		s.Leave(uid)
		answerJSON(w, struct{}{})
	})
	user("GET /v1/", func(w http.ResponseWriter, r *http.Request, uid int) {
		t := s.user(uid)
		if t == nil {
			http.Error(w, ErrNotJoined.Error(), http.StatusForbidden)
			return
		}
		t.controls().ServeHTTP(w, r)
	})
	return mux
}

func (s *Shared) answerJoin(w http.ResponseWriter, r *http.Request, uid int) {
	var req joinRequest
	if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxJoin), &req, json.RejectUnknownMembers(true)); err != nil {
		http.Error(w, "that is no request to join", http.StatusBadRequest)
		return
	}
	me, err := s.Join(r.Context(), uid, authn.NewSecret(req.Token))
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	answerJSON(w, me)
}
