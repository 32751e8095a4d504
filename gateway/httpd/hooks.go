package httpd

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/limit"
)

const (
	hookPath        = "/v1/hooks/"
	maxHook         = 1 << 20 // bytes
	hooksPerAddress = 16      // at once: a forge posts from one address
)

// hookOf returns the forge for which r is a delivery. Forges sign what they post, and show no credential.
func hookOf(r *http.Request) (forge string, ok bool) {
	forge, ok = strings.CutPrefix(r.RequestURI, hookPath)
	return forge, ok && r.Method == http.MethodPost && forge != "" && strings.IndexFunc(forge, notInForge) < 0
}

func notInForge(c rune) bool {
	return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-')
}

// hook takes a delivery. To a sender who is not the forge, every forge looks like one that does not exist.
func (s *Server) hook(w *response, r *http.Request, forge string) {
	address := limit.Address(net.TCPAddrFromAddrPort(door(r).Remote))
	if !s.hooks.Enter(address) {
		busy(w)
		return
	}
	defer s.hooks.Leave(address)
	body, err := io.ReadAll(http.MaxBytesReader(w, io.NopCloser(newPacedReader(w, r.Body, s.limits)), maxHook))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		answer(w, http.StatusRequestEntityTooLarge, "the delivery is too large")
		return
	case err != nil:
		answer(w, http.StatusBadRequest, "the body broke off")
		return
	}
	err = s.gate.Hook(r.Context(), door(r), forge, r.Header, body)
	switch {
	case errors.Is(err, gateway.ErrThrottled):
		s.refuse(w, err)
	case errors.Is(err, gateway.ErrUnauthenticated):
		answer(w, http.StatusUnauthorized, "this is not signed by a forge of that name")
	case err != nil:
		s.log.Error("a forge's delivery was not taken", "error", err)
		busy(w)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// invalidate makes the gate ask forges again.
func (h *handler) invalidate() {
	var req gateway.InvalidateRequest
	if !h.read(&req, 8) {
		return
	}
	if err := h.session.Invalidate(h.r.Context(), req); err != nil {
		h.fail(err)
		return
	}
	h.w.WriteHeader(http.StatusNoContent)
}

// revokeNow ends what somebody may do, everywhere.
func (h *handler) revokeNow() {
	var req gateway.RevokeRequest
	if !h.read(&req, 8) {
		return
	}
	reply, err := h.session.RevokeNow(h.r.Context(), req)
	if err != nil {
		h.fail(err)
		return
	}
	h.reply(http.StatusOK, reply)
}
