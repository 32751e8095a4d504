package httpd

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/limit"
)

// maxAPIBody bounds JSON and batches of names, in bytes.
const maxAPIBody = 16 << 20

// api answers everything below /v1 and notes the route's name, for metrics.
func (h *handler) api(segments []string, name *string) {
	last := len(segments) - 1
	path, query, _ := strings.Cut(segments[last], "?")
	segments[last] = path
	switch {
	case match(segments, "v1", "presence"):
		*name = "presence"
		h.only(http.MethodPost, func() { h.presence(query) })
	case query != "":
		notFound(h.w)
	case match(segments, "v1", "names"):
		*name = "presence"
		h.only(http.MethodPost, h.names)
	case match(segments, "v1", "why"):
		*name = "presence"
		h.only(http.MethodPost, h.why)
	case match(segments, "v1", "whoami"):
		*name = "whoami"
		h.only(http.MethodGet, h.whoami)
	case match(segments, "v1", "token"):
		*name = "token"
		h.only(http.MethodPost, h.mint)
	case match(segments, "v1", "tokens"):
		*name = "token"
		h.only(http.MethodGet, h.tokens)
	case match(segments, "v1", "tokens", "*"):
		*name = "token"
		h.only(http.MethodDelete, func() { h.revoke(segments[2]) })
	case match(segments, "v1", "certificate"):
		*name = "token"
		h.only(http.MethodPost, h.certify)
	case match(segments, "v1", "link"):
		*name = "token"
		h.only(http.MethodPost, h.link)
	case match(segments, "v1", "invalidate"):
		*name = "admin"
		h.only(http.MethodPost, h.invalidate)
	case match(segments, "v1", "revoke"):
		*name = "admin"
		h.only(http.MethodPost, h.revokeNow)
	case match(segments, "v1", "zones", "*", "uploads"):
		*name = "upload"
		h.only(http.MethodPost, func() { h.begin(segments[2]) })
	case match(segments, "v1", "uploads", "*"):
		*name = "upload"
		h.upload(segments[2])
	case match(segments, "v1", "uploads", "*", "commit"):
		*name = "upload"
		h.only(http.MethodPost, func() { h.commit(segments[2]) })
	case match(segments, "v1", "uploads", "*", "*"):
		*name = "upload"
		h.only(http.MethodPut, func() { h.stage(segments[2], segments[3]) })
	default:
		notFound(h.w)
	}
}

// match compares segments with a pattern whose "*" stands for any one segment.
func match(segments []string, pattern ...string) bool {
	if len(segments) != len(pattern) {
		return false
	}
	for i, p := range pattern {
		if p != "*" && segments[i] != p {
			return false
		}
	}
	return true
}

func (h *handler) only(method string, f func()) {
	if h.r.Method != method {
		h.methodNotAllowed(method)
		return
	}
	f()
}

func (h *handler) names() {
	var req gateway.NamesRequest
	if !h.read(&req, h.server.gate.Limits.PresenceNames+1) {
		return
	}
	names, err := h.session.Names(h.r.Context(), req.Zone, req.Hashes)
	if err != nil {
		h.fail(err)
		return
	}
	h.reply(http.StatusOK, gateway.NamesReply{Names: names})
}

func (h *handler) why() {
	var req gateway.WhyRequest
	if !h.read(&req, 1) {
		return
	}
	why, err := h.session.Why(h.r.Context(), req.Zone, req.Name)
	if err != nil {
		h.fail(err)
		return
	}
	h.reply(http.StatusOK, why)
}

// presence answers a batch: JSON for JSON, else a line a name.
func (h *handler) presence(query string) {
	names := h.server.gate.Limits.PresenceNames
	if mediaType(h.r) == "application/json" {
		var req gateway.PresenceRequest
		if !h.read(&req, names+1) {
			return
		}
		if present, ok := h.present(req.Zone, req.Names); ok {
			h.reply(http.StatusOK, gateway.PresenceReply{Present: present})
		}
		return
	}
	values, err := url.ParseQuery(query)
	if err != nil || len(values) != 1 || len(values["zone"]) != 1 {
		h.mistake(&gateway.RequestError{Status: http.StatusBadRequest, Problem: "the zone is missing", Hint: "POST /v1/presence?zone=ZONE with a name a line"})
		return
	}
	body, ok := h.readAll(maxAPIBody)
	if !ok || !h.bounded(body, "\n", names) {
		return
	}
	text := strings.TrimSuffix(string(body), "\n")
	var lines []string
	if text != "" {
		lines = strings.Split(text, "\n")
	}
	if present, ok := h.present(values.Get("zone"), lines); ok {
		h.lines(present)
	}
}

// bounded refuses a body with more separators than its limit allows elements, before anything is made of it: a few
// megabytes of empty elements would make a gigabyte of structs.
func (h *handler) bounded(body []byte, separator string, limit int) bool {
	if bytes.Count(body, []byte(separator)) <= limit {
		return true
	}
	h.mistake(&gateway.RequestError{Status: http.StatusRequestEntityTooLarge, Problem: "the body lists too much at once", Hint: "split it"})
	return false
}

func (h *handler) present(zone string, names []string) ([]bool, bool) {
	present, err := h.session.Presence(h.r.Context(), zone, names)
	if err != nil {
		h.fail(err)
		return nil, false
	}
	return present, true
}

func (h *handler) lines(present []bool) {
	var b bytes.Buffer
	b.Grow(2 * len(present))
	for _, p := range present {
		if p {
			b.WriteString("1\n")
		} else {
			b.WriteString("0\n")
		}
	}
	h.w.Header()["Content-Type"] = plainText
	h.w.Header()["Content-Length"] = []string{strconv.Itoa(b.Len())}
	_, _ = h.w.Write(b.Bytes())
}

func (h *handler) whoami() {
	p := h.session.Principal()
	me := gateway.Whoami{Forge: p.Forge, ID: p.ID, Name: p.Name, Kind: string(p.Kind), Groups: p.Groups, Roles: p.Roles}
	if !p.Expires.IsZero() {
		me.Expires = p.Expires.UTC().Format(time.RFC3339)
	}
	h.reply(http.StatusOK, me)
}

func (h *handler) begin(zone string) {
	var req gateway.UploadRequest
	if !h.read(&req, 3*h.server.gate.Limits.UploadObjects+1) { // an object has three members
		return
	}
	up, err := h.session.Begin(h.r.Context(), zone, req)
	if err != nil {
		h.failAPI(err)
		return
	}
	h.reply(http.StatusCreated, up)
}

func (h *handler) upload(id string) {
	switch h.r.Method {
	case http.MethodGet:
		up, err := h.session.Resume(id)
		if err != nil {
			h.failAPI(err)
			return
		}
		h.reply(http.StatusOK, up)
	case http.MethodDelete:
		if err := h.session.Abort(id); err != nil {
			h.failAPI(err)
			return
		}
		h.w.WriteHeader(http.StatusNoContent)
	default:
		h.methodNotAllowed("GET, DELETE")
	}
}

func (h *handler) stage(id, index string) {
	i, ok := position(index)
	off, okOff := position(h.r.Header.Get("Upload-Offset"))
	if !ok || !okOff || i > 1<<20 {
		h.mistake(&gateway.RequestError{Status: http.StatusBadRequest, Problem: "no valid Upload-Offset header or object number", Hint: "send the number of bytes that the gate holds"})
		return
	}
	held, err := h.session.Stage(h.r.Context(), id, int(i), off, h.body())
	h.w.Header().Set("Upload-Offset", strconv.FormatInt(held, 10))
	if err != nil {
		h.failAPI(err)
		return
	}
	h.w.WriteHeader(http.StatusNoContent)
}

func (h *handler) commit(id string) {
	envelope, ok := h.readAll(h.server.limits.EnvelopeBytes)
	if !ok {
		return
	}
	result, err := h.session.Commit(h.r.Context(), id, envelope)
	if err != nil {
		h.failAPI(err)
		return
	}
	h.reply(http.StatusCreated, result)
}

// read decodes a JSON body: exact member names, no unknown ones, no duplicates, valid UTF-8, and as many commas at most. What
// is sent here has none in its texts.
func (h *handler) read(into any, commas int) bool {
	body, ok := h.readAll(maxAPIBody)
	return ok && h.decode(body, into, commas)
}

// decode is read for a body that is there.
func (h *handler) decode(body []byte, into any, commas int) bool {
	if !h.bounded(body, ",", commas) {
		return false
	}
	if err := json.Unmarshal(body, into, json.RejectUnknownMembers(true)); err != nil {
		h.mistake(&gateway.RequestError{Status: http.StatusBadRequest, Problem: "the body is not the JSON that is expected here", Hint: "see the HTTPS API in the operator guide"})
		return false
	}
	return true
}

// readAll reads a body into memory, of which one principal may hold only so many at once.
func (h *handler) readAll(limit int64) ([]byte, bool) {
	return h.readOf(h.server.bodies, h.session.Principal().Key(), limit)
}

// readOf is readAll for somebody whom a counter knows by key.
func (h *handler) readOf(bodies *limit.Counter, key string, most int64) ([]byte, bool) {
	if !bodies.Enter(key) {
		busy(h.w)
		return nil, false
	}
	defer bodies.Leave(key)
	body, err := io.ReadAll(http.MaxBytesReader(h.w, io.NopCloser(h.body()), most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		h.mistake(&gateway.RequestError{Status: http.StatusRequestEntityTooLarge, Problem: "the body is larger than " + strconv.FormatInt(most, 10) + " bytes", Hint: "split it"})
	case err != nil:
		h.mistake(&gateway.RequestError{Status: http.StatusBadRequest, Problem: "the body broke off"})
	}
	return body, err == nil
}

// failAPI is fail, with words that fit a write.
func (h *handler) failAPI(err error) {
	if errors.Is(err, gateway.ErrNotFound) {
		h.mistake(&gateway.RequestError{Status: http.StatusNotFound, Problem: "no such zone, or you may not write there", Hint: "GET /v1/whoami shows your roles"})
		return
	}
	h.fail(err)
}

// mistake answers what the author of a request can mend.
func (h *handler) mistake(e *gateway.RequestError) {
	h.reply(e.Status, gateway.APIError{Error: e.Problem, Hint: e.Hint})
}

func (h *handler) reply(status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		h.server.log.Error("encode a reply", "error", err)
		busy(h.w)
		return
	}
	h.w.Header()["Content-Type"] = []string{"application/json"}
	h.w.Header()["Content-Length"] = []string{strconv.Itoa(len(text))}
	h.w.WriteHeader(status)
	_, _ = h.w.Write(text)
}

func mediaType(r *http.Request) string {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(kind))
}
