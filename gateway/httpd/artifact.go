package httpd

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/lychgate/lychgate/gateway"
)

// artifact answers GET, HEAD and PUT of an object, and of the statement about one.
func (h *handler) artifact(zone, path string) {
	name, isStatement := strings.CutSuffix(path, gateway.StatementSuffix)
	read := h.r.Method == http.MethodHead || h.r.Method == http.MethodGet
	switch {
	case read && isStatement:
		h.statement(zone, name)
	case h.r.Method == http.MethodHead:
		h.head(zone, path)
	case read:
		h.get(zone, path)
	case h.r.Method == http.MethodPut:
		h.put(zone, path)
	default:
		h.methodNotAllowed("GET, HEAD, PUT")
	}
}

func (h *handler) methodNotAllowed(allow string) {
	h.w.Header().Set("Allow", allow)
	answer(h.w, http.StatusMethodNotAllowed, "method not allowed")
}

// bodyless reports whether a read comes without a body, as it must: two servers that disagree on where a body ends
// are how requests are smuggled.
func (h *handler) bodyless() bool {
	if h.r.ContentLength == 0 && len(h.r.TransferEncoding) == 0 {
		return true
	}
	h.w.Header().Set("Connection", "close")
	answer(h.w, http.StatusBadRequest, "a read has no body")
	return false
}

func (h *handler) head(zone, path string) {
	if !h.bodyless() {
		return
	}
	obj, err := h.session.Stat(h.r.Context(), zone, path)
	if err != nil {
		h.fail(err)
		return
	}
	h.describe(obj)
	if noneMatch(h.r.Header["If-None-Match"], h.w.Header()["Etag"][0]) {
		h.w.WriteHeader(http.StatusNotModified)
		return
	}
	h.w.Header()["Content-Length"] = []string{strconv.FormatInt(obj.Size, 10)}
	h.w.WriteHeader(http.StatusOK)
}

func (h *handler) get(zone, path string) {
	if !h.bodyless() {
		return
	}
	content, err := h.session.Open(h.r.Context(), zone, path)
	if err != nil {
		h.fail(err)
		return
	}
	h.describe(content.Object)
	etag := h.w.Header()["Etag"][0]
	if noneMatch(h.r.Header["If-None-Match"], etag) {
		h.w.WriteHeader(http.StatusNotModified)
		content.Close(http.StatusNotModified, "")
		return
	}
	span, ok := h.span(content.Size, etag)
	if !ok {
		h.unsatisfiable(content)
		return
	}
	h.send(content, span)
}

// span is a section of an object. status is 200 for the whole.
type span struct {
	off, length int64
	status      int
}

// span reads the Range header (RFC 9110, section 14): one range, of bytes. Anything else means the whole object, as
// does a failing If-Range. ok is false when the range lies beyond the end.
func (h *handler) span(size int64, etag string) (s span, ok bool) {
	whole := span{length: size, status: http.StatusOK}
	values := h.r.Header["Range"]
	if len(values) != 1 || len(h.r.Header["If-Range"]) > 0 && h.r.Header["If-Range"][0] != etag {
		return whole, true
	}
	spec, isBytes := strings.CutPrefix(values[0], "bytes=")
	first, last, isRange := strings.Cut(spec, "-")
	if !isBytes || !isRange || strings.Contains(spec, ",") {
		return whole, true
	}
	if first == "" {
		n, ok := position(last)
		if !ok {
			return whole, true
		}
		n = min(n, size)
		return span{off: size - n, length: n, status: http.StatusPartialContent}, n > 0
	}
	off, ok := position(first)
	end, open := size-1, last == ""
	if !open {
		var okEnd bool
		end, okEnd = position(last)
		ok = ok && okEnd && off <= end
	}
	if !ok {
		return whole, true
	}
	end = min(end, size-1)
	return span{off: off, length: end - off + 1, status: http.StatusPartialContent}, off < size
}

// position reads an unsigned decimal number; strconv alone would take a sign.
func position(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}

// unsatisfiable answers a range beyond the end. wget takes it to mean that its copy is complete. The body is not the object.
func (h *handler) unsatisfiable(content *gateway.Content) {
	header := h.w.Header()
	delete(header, "Repr-Digest")
	header["Content-Range"] = []string{"bytes */" + strconv.FormatInt(content.Size, 10)}
	answer(h.w, http.StatusRequestedRangeNotSatisfiable, "range not satisfiable")
	content.Close(http.StatusRequestedRangeNotSatisfiable, "")
}

// send copies a section to the client. Once the header has gone out, the only way left to say that something is wrong is to
// break off.
func (h *handler) send(content *gateway.Content, s span) {
	rng := ""
	header := h.w.Header()
	header["Content-Length"] = []string{strconv.FormatInt(s.length, 10)}
	if s.status == http.StatusPartialContent {
		rng = strconv.FormatInt(s.off, 10) + "-" + strconv.FormatInt(s.off+s.length-1, 10)
		header["Content-Range"] = []string{"bytes " + rng + "/" + strconv.FormatInt(content.Size, 10)}
	}
	body := &lateHeader{w: newPacedWriter(h.w, h.server.limits), status: s.status, header: h.w}
	err := content.Copy(h.r.Context(), body, s.off, s.length)
	if err == nil || body.sent {
		content.Close(s.status, rng)
	} else {
		content.Close(http.StatusServiceUnavailable, rng)
	}
	switch {
	case err != nil && !body.sent:
		clear(header)
		setCommonHeaders(header)
		h.fail(err)
	case err != nil:
		panic(http.ErrAbortHandler)
	}
}

// lateHeader sends the header with the first bytes, so that a fault before them is still an honest status.
type lateHeader struct {
	w      *pacedWriter
	header *response
	status int
	sent   bool
}

// Cut implements gateway.Cutter.
func (l *lateHeader) Cut() { l.w.cut() }

func (l *lateHeader) Write(p []byte) (int, error) {
	if !l.sent {
		l.sent = true
		l.header.WriteHeader(l.status)
	}
	return l.w.Write(p)
}

// describe sets the headers of an object that may be read: RFC 9110 for all, RFC 9530 for Repr-Digest.
func (h *handler) describe(obj gateway.Object) {
	header := h.w.Header()
	var text [1 + 64 + 1]byte
	text[0], text[65] = '"', '"'
	hex.Encode(text[1:65], obj.Digest[:])
	header["Etag"] = []string{string(text[:])}
	header["Repr-Digest"] = []string{"sha-256=:" + base64.StdEncoding.EncodeToString(obj.Digest[:]) + ":"}
	header["Accept-Ranges"] = bytesUnit
	header["Content-Type"] = octetStream
	header["Last-Modified"] = []string{obj.Time.UTC().Format(http.TimeFormat)}
}

// noneMatch reports whether one of the client's entity tags is the object's.
func noneMatch(values []string, etag string) bool {
	for _, v := range values {
		for tag := range strings.SplitSeq(v, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == etag || tag == "*" {
				return true
			}
		}
	}
	return false
}

// statement answers with the envelope of the statement about an object. net/http leaves the body out of the answer to a HEAD.
func (h *handler) statement(zone, name string) {
	if !h.bodyless() {
		return
	}
	envelope, err := h.session.Statement(h.r.Context(), zone, name)
	if err != nil {
		h.fail(err)
		return
	}
	header := h.w.Header()
	header["Content-Type"] = []string{"application/vnd.dsse.envelope.v1+json"}
	header["Content-Length"] = []string{strconv.Itoa(len(envelope))}
	_, _ = newPacedWriter(h.w, h.server.limits).Write(envelope) // an error is the client's, who has gone
}

// put takes a plain PUT.
func (h *handler) put(zone, path string) {
	result, err := h.session.Put(h.r.Context(), zone, path, h.body())
	if err != nil {
		h.fail(err)
		return
	}
	switch result {
	case gateway.Pending:
		answer(h.w, http.StatusAccepted, "held; it is published once its signed statement and all that the statement names are here")
	case "stored":
		answer(h.w, http.StatusCreated, "stored=true")
	default:
		answer(h.w, http.StatusOK, "stored=false "+result)
	}
}

// body returns the request's body, which must keep moving.
func (h *handler) body() *pacedReader { return newPacedReader(h.w, h.r.Body, h.server.limits) }

// fail answers an error of the gateway. What the log sees is not what the client sees.
func (h *handler) fail(err error) {
	var mistake *gateway.RequestError
	switch {
	case errors.As(err, &mistake):
		h.mistake(mistake)
	case errors.Is(err, gateway.ErrNotFound):
		notFound(h.w)
	default:
		h.server.log.Error("request not served", "error", err)
		busy(h.w)
	}
}
