package httpd

import (
	"errors"
	"net/http"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// maxNoteCommas is how many commas an order for a token may have: a note may hold some.
const maxNoteCommas = 300

// mint makes a token for who asks.
func (h *handler) mint() {
	var req gateway.TokenRequest
	if !h.read(&req, maxNoteCommas) {
		return
	}
	if req.SSH != nil {
		h.mistake(&gateway.RequestError{Status: http.StatusBadRequest, Problem: "an SSH key was shown beside another credential", Hint: "show one of them"})
		return
	}
	h.mintFor(req)
}

func (h *handler) mintFor(req gateway.TokenRequest) {
	if req.Seconds < 0 || req.Seconds > int64(authn.MaxTokenLife/time.Second) {
		h.mistake(&gateway.RequestError{Status: http.StatusBadRequest, Problem: "seconds is no length of a token's life", Hint: "leave it out for the longest that the gate gives"})
		return
	}
	secret, info, err := h.session.Mint(h.r.Context(), time.Duration(req.Seconds)*time.Second, req.Note)
	if err != nil {
		h.failAccount(err)
		return
	}
	h.reply(http.StatusCreated, gateway.TokenReply{
		Token: secret.Reveal(), ID: info.ID, User: info.Principal.Key(), Name: info.Principal.Name, Expires: stamp(info.Expires),
	})
}

// tokens lists the asker's own.
func (h *handler) tokens() {
	own, err := h.session.Tokens(h.r.Context())
	if err != nil {
		h.failAccount(err)
		return
	}
	list := gateway.TokenList{Tokens: make([]gateway.TokenStatus, len(own))}
	for i, t := range own {
		list.Tokens[i] = gateway.TokenStatus{
			ID: t.ID, Created: stamp(t.Created), Expires: stamp(t.Expires), Note: t.Note, Current: t.ID == h.session.CurrentToken(),
		}
	}
	h.reply(http.StatusOK, list)
}

// revoke ends one of the asker's own.
func (h *handler) revoke(id string) {
	if id == "current" {
		id = h.session.CurrentToken()
	}
	if err := h.session.Revoke(h.r.Context(), id); err != nil {
		h.failAccount(err)
		return
	}
	h.w.WriteHeader(http.StatusNoContent)
}

// link ties the subject of an ID token to who asks.
func (h *handler) link() {
	var req gateway.LinkRequest
	if !h.read(&req, 1) {
		return
	}
	if err := h.session.Link(h.r.Context(), authn.NewSecret(req.IDToken)); err != nil {
		h.failAccount(err)
		return
	}
	h.w.WriteHeader(http.StatusNoContent)
}

func (h *handler) certify() {
	var req gateway.CertificateRequest
	if !h.read(&req, 1) {
		return
	}
	certificate, err := h.session.Certify(h.r.Context(), req.Key)
	if err != nil {
		h.failAccount(err)
		return
	}
	h.reply(http.StatusCreated, certificate)
}

// failAccount answers an error about the asker's own credentials. They may have ended since the session began.
func (h *handler) failAccount(err error) {
	var mistake *gateway.RequestError
	if errors.Is(err, gateway.ErrUnauthenticated) && !errors.As(err, &mistake) {
		h.server.refuse(h.w, err)
		return
	}
	h.fail(err)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
