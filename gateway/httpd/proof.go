package httpd

import (
	"net"
	"net/http"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/limit"
)

const (
	challengePath    = "/v1/ssh/challenge"
	maxProof         = 64 << 10 // bytes of an order with a proof; a certificate by a large RSA key takes 8 KiB
	proofsPerAddress = 16       // being read at once
)

// giveChallenge answers with what an SSH key is to sign.
func (s *Server) giveChallenge(w *response, r *http.Request) {
	challenge, err := s.gate.Challenge(door(r))
	if err != nil {
		s.refuse(w, err)
		return
	}
	h := handler{server: s, w: w, r: r}
	h.reply(http.StatusOK, challenge)
}

// mayProve reports whether the body of a POST may hold the credential: nothing else was shown, and this is where it is taken.
func mayProve(r *http.Request) bool {
	return r.RequestURI == exchangePath && r.ContentLength != 0 &&
		len(r.Header["Authorization"]) == 0 && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0)
}

// prove makes a token for the holder of an SSH key. A body without a proof is a request without a credential, as any other.
func (s *Server) prove(w *response, r *http.Request) {
	h := &handler{server: s, w: w, r: r}
	address := limit.Address(net.TCPAddrFromAddrPort(door(r).Remote))
	body, ok := h.readOf(s.proofs, address, maxProof)
	var req gateway.TokenRequest
	if !ok || !h.decode(body, &req, maxNoteCommas) {
		return
	}
	var err error
	if req.SSH == nil {
		h.session, err = s.gate.Session(r.Context(), door(r), authn.Credential{})
	} else {
		h.session, err = s.gate.SessionByProof(r.Context(), door(r), *req.SSH)
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	key := h.session.Principal().Key()
	if !s.inFlight.Enter(key) {
		busy(w)
		return
	}
	defer s.inFlight.Leave(key)
	h.mintFor(req)
}
