package servertls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/internal/servertls"
)

// lists opens lists with a clock and a log, and with cfg's other members.
func lists(t testing.TB, cfg servertls.RevocationConfig, clock *manualClock) *servertls.RevocationLists {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Now = clock.now
	l, err := servertls.NewRevocationLists(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// put replaces a file at once, as tools do.
func put(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// file puts a list into a new file and returns where it is.
func file(t testing.TB, text []byte) servertls.ListSource {
	t.Helper()
	path := filepath.Join(t.TempDir(), "list.crl")
	put(t, path, text)
	return servertls.ListSource{File: path}
}

func certs(as ...*authority) (all []*x509.Certificate) {
	for _, a := range as {
		all = append(all, a.cert)
	}
	return all
}

// told says what CheckRevoked answered: "good", "revoked" or "unknown".
func told(err error) string {
	switch {
	case err == nil:
		return "good"
	case errors.Is(err, authn.ErrRevoked):
		return "revoked"
	}
	return "unknown"
}

// TestRevokedChains looks up leaves and authorities in the middle, with lists of the root, of the middle, of both and of none.
func TestRevokedChains(t *testing.T) {
	clock := newClock()
	root := newAuthority(t, "root", 1, nil, nil)
	middle := newAuthority(t, "middle", 20, root, nil)
	other := newAuthority(t, "other", 2, nil, nil)
	namesake := newAuthority(t, "root", 3, nil, nil) // the root's next key
	all := certs(root, middle, other, namesake)
	now := clock.now()
	ofRoot, ofRootOnMiddle := root.list(now, 1, nil, 10, 11), root.list(now, 1, nil, 20)
	ofMiddle := middle.list(now, 1, nil, 10)
	long := new(big.Int).Lsh(big.NewInt(1), 159)
	for _, tc := range []struct {
		name  string
		lists [][]byte
		chain []*x509.Certificate
		want  string
	}{
		{"no lists", nil, root.chain(10), "good"},
		{"on the list", [][]byte{ofRoot}, root.chain(10), "revoked"},
		{"on the list in PEM", [][]byte{armour(ofRoot)}, root.chain(11), "revoked"},
		{"not on the list", [][]byte{ofRoot}, root.chain(12), "good"},
		{"serial of another issuer", [][]byte{ofRoot}, middle.chain(10), "good"},
		{"on the list of the middle", [][]byte{ofRoot, ofMiddle}, middle.chain(10), "revoked"},
		{"of the middle, not on its list", [][]byte{ofRoot, ofMiddle}, middle.chain(12), "good"},
		{"under a revoked middle", [][]byte{ofRootOnMiddle}, middle.chain(12), "revoked"},
		{"under a revoked middle where TLS ended the chain", [][]byte{ofRootOnMiddle}, middle.chain(12)[:2], "revoked"},
		{"under a good middle where TLS ended the chain", [][]byte{ofRoot}, middle.chain(12)[:2], "good"},
		{"authority without a list", [][]byte{ofRoot, ofMiddle}, other.chain(10), "good"},
		{"a root on its own list", [][]byte{root.list(now, 1, nil, 1)}, root.chain(12), "good"},
		{"old key, on the new key's list", [][]byte{namesake.list(now, 2, nil, 10)}, root.chain(10), "revoked"},
		{"old key, on one of two lists", [][]byte{ofRoot, namesake.list(now, 2, nil, 30)}, root.chain(30), "revoked"},
		{"on hold", [][]byte{root.list(now, 1, func(l *listTemplate) {
			l.tbs.Revoked = []listEntry{{big.NewInt(10), now.UTC(), []pkix.Extension{extension(t, 21, false, asn1.Enumerated(6))}}}
		})}, root.chain(10), "revoked"},
		{"the newer of two lists of one key", [][]byte{root.list(now, 7, nil, 10), root.list(now, 6, nil)}, root.chain(10), "revoked"},
		{"the newer of two lists, the other way", [][]byte{root.list(now, 6, nil, 10), root.list(now, 7, nil)}, root.chain(10), "good"},
		{"a long serial", [][]byte{root.list(now, 1, func(l *listTemplate) { l.tbs.Revoked = []listEntry{{Serial: long, Time: now.UTC()}} })}, root.chain(10), "good"},
		{"no chain", [][]byte{ofRoot}, nil, "unknown"},
	} {
		cfg := servertls.RevocationConfig{Authorities: all}
		for _, text := range tc.lists {
			cfg.Lists = append(cfg.Lists, file(t, text))
		}
		l := lists(t, cfg, clock)
		if got := l.CheckRevoked(tc.chain); told(got) != tc.want {
			t.Errorf("%s: %v, want %s", tc.name, got, tc.want)
		}
	}
}

// TestAuthoritiesInACircle: two authorities that signed each other have no end to look up.
func TestAuthoritiesInACircle(t *testing.T) {
	clock := newClock()
	a, b := newAuthority(t, "a", 1, nil, nil), newAuthority(t, "b", 2, nil, nil)
	template := *a.cert
	aByB := a.create(&template, b.cert, a.key, b.key)
	template = *b.cert
	bByA := a.create(&template, a.cert, b.key, a.key)
	l := lists(t, servertls.RevocationConfig{Authorities: []*x509.Certificate{aByB, bByA}}, clock)
	if err := l.CheckRevoked([]*x509.Certificate{a.client(3).Leaf, aByB}); told(err) != "unknown" {
		t.Errorf("CheckRevoked = %v, want that it cannot be told", err)
	}
}

// hostileLists must not be taken, neither at a start nor in place of a good list.
func hostileLists(t testing.TB, clock *manualClock, root, stranger, noSign *authority) map[string]struct {
	list []byte
	want string
} {
	now := clock.now()
	good := root.list(now, 9, nil)
	with := func(change func(*listTemplate)) []byte { return root.list(now, 9, change) }
	extra := func(e pkix.Extension) []byte {
		return with(func(l *listTemplate) { l.tbs.Extensions = append(l.tbs.Extensions, e) })
	}
	entry := func(e pkix.Extension) []byte {
		return with(func(l *listTemplate) { l.tbs.Revoked = []listEntry{{big.NewInt(1), now.UTC(), []pkix.Extension{e}}} })
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-3] ^= 1
	body := bytes.Clone(good)
	body[bytes.Index(body, []byte("root"))] = 'R'
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw})
	return map[string]struct {
		list []byte
		want string
	}{
		"nothing":                      {nil, "neither PEM nor DER"},
		"text":                         {[]byte("<html>sign in</html>"), "neither PEM nor DER"},
		"a certificate in PEM":         {certificate, "not a revocation list"},
		"a certificate in DER":         {root.cert.Raw, "unsupported crl version"},
		"cut in DER":                   {good[:len(good)-1], "malformed"},
		"cut in the middle":            {good[:len(good)/2], "malformed"},
		"cut in PEM":                   {armour(good)[:100], "neither PEM nor DER"},
		"tail in DER":                  {append(bytes.Clone(good), 0), "goes on after its end"},
		"two in PEM":                   {append(armour(good), armour(good)...), "more than one list"},
		"tail in PEM":                  {append(armour(good), 'x'), "more than one list"},
		"too long":                     {append(bytes.Clone(good), make([]byte, 16<<20)...), "longer than"},
		"endless length":               {[]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, "malformed"},
		"bad signature":                {flipped, "signature"},
		"other issuer in the body":     {body, "none of the authorities"},
		"signature of a stranger":      {with(func(l *listTemplate) { l.sign = stranger.sign }), "signature"},
		"empty signature":              {with(func(l *listTemplate) { l.sign = func([]byte) []byte { return nil } }), "signature"},
		"by a stranger":                {stranger.list(now, 9, nil), "none of the authorities"},
		"by a stranger of the name":    {newAuthority(t, "root", 5, nil, nil).list(now, 9, nil), "not in client_ca"},
		"by an authority that may not": {noSign.list(now, 9, nil), "signature"},
		"unknown algorithm":            {with(func(l *listTemplate) { l.tbs.Signature.Algorithm = asn1.ObjectIdentifier{1, 2, 3} }), "signature"},
		"version 1":                    {with(func(l *listTemplate) { l.tbs.Version, l.tbs.Extensions = 0, nil }), "unsupported crl version"},
		"version 3":                    {with(func(l *listTemplate) { l.tbs.Version = 2 }), "unsupported crl version"},
		"no next update":               {with(func(l *listTemplate) { l.tbs.NextUpdate = time.Time{} }), "when the next one comes"},
		"ended":                        {with(func(l *listTemplate) { l.tbs.NextUpdate = now.UTC() }), "ended at"},
		"in the future":                {with(func(l *listTemplate) { l.tbs.ThisUpdate = now.Add(5*time.Minute + time.Second).UTC() }), "in the future"},
		"negative number":              {root.list(now, -1, nil), "negative"},
		"long number": {with(func(l *listTemplate) {
			l.tbs.Extensions[0] = extension(t, 20, false, new(big.Int).Lsh(big.NewInt(1), 170))
		}), "longer than 20 octets"},
		"number that is none":     {with(func(l *listTemplate) { l.tbs.Extensions[0] = extension(t, 20, false, "seven") }), "malformed crl number"},
		"delta":                   {extra(extension(t, 27, true, big.NewInt(1))), "not complete"},
		"delta, not critical":     {extra(extension(t, 27, false, big.NewInt(1))), "not complete"},
		"one distribution point":  {extra(extension(t, 28, true, struct{}{})), "not complete"},
		"its point, not critical": {extra(extension(t, 28, false, struct{}{})), "not complete"},
		"unknown and critical":    {extra(extension(t, 99, true, 1)), "not understood"},
		"entry of another issuer": {entry(extension(t, 29, true, struct{}{})), "not complete"},
		"the same, not critical":  {entry(extension(t, 29, false, struct{}{})), "not complete"},
		"entry with the unknown":  {entry(extension(t, 99, true, 1)), "not understood"},
	}
}

// TestHostileLists: none is taken at a start, and none in place of the list in force, which says that 10 is revoked.
func TestHostileLists(t *testing.T) {
	clock := newClock()
	root, stranger := newAuthority(t, "root", 1, nil, nil), newAuthority(t, "stranger", 2, nil, nil)
	noSign := newAuthority(t, "no CRL sign", 3, nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })
	rows := hostileLists(t, clock, root, stranger, noSign)
	if len(rows) < 25 {
		t.Errorf("%d rows", len(rows))
	}
	authorities := certs(root, noSign)
	for name, tc := range rows {
		t.Run(name, func(t *testing.T) {
			place := file(t, root.list(clock.now(), 8, nil, 10))
			var log bytes.Buffer
			l := lists(t, servertls.RevocationConfig{Authorities: authorities, Lists: []servertls.ListSource{place}, Log: slog.New(slog.NewTextHandler(&log, nil))}, clock)
			put(t, place.File, tc.list)
			for range 2 {
				if err := l.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("Refresh = %v, want %q", err, tc.want)
				}
			}
			if n := strings.Count(log.String(), "revocation list not loaded"); n != 1 {
				t.Errorf("logged %d times, want once:\n%s", n, &log)
			}
			if got := told(l.CheckRevoked(root.chain(10))) + told(l.CheckRevoked(root.chain(11))); got != "revokedgood" {
				t.Errorf("10 and 11 are %s, want the list before in force", got)
			}
			if s := l.Status()[0]; s.Number != "8" || !strings.Contains(s.Error, tc.want) {
				t.Errorf("Status = %+v", s)
			}
			put(t, place.File, root.list(clock.now(), 9, nil, 11))
			if err := l.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
			if got := told(l.CheckRevoked(root.chain(10))) + told(l.CheckRevoked(root.chain(11))); got != "goodrevoked" {
				t.Errorf("10 and 11 are %s, want the next good list in force", got)
			}
			put(t, place.File, tc.list)
			if _, err := servertls.NewRevocationLists(servertls.RevocationConfig{
				Authorities: authorities, Lists: []servertls.ListSource{place}, Now: clock.now, Log: slog.New(slog.DiscardHandler),
			}); err == nil {
				t.Error("a start with it is not refused")
			}
		})
	}
}

// TestListsDoNotGoBack: a list that is older than the one in force never replaces it.
func TestListsDoNotGoBack(t *testing.T) {
	clock := newClock()
	root, other := newAuthority(t, "root", 1, nil, nil), newAuthority(t, "other", 2, nil, nil)
	next := newAuthority(t, "root", 3, nil, nil)
	now := clock.now()
	noNumber := func(l *listTemplate) { l.tbs.Extensions = l.tbs.Extensions[1:] }
	older := func(l *listTemplate) { l.tbs.ThisUpdate = now.Add(-2 * time.Minute).UTC() }
	newer := func(l *listTemplate) { l.tbs.ThisUpdate = now.Add(-30 * time.Second).UTC() }
	for _, tc := range []struct {
		name          string
		before, after []byte
		want          string // a part of the error; empty when it is taken
	}{
		{"higher number", root.list(now, 5, nil), root.list(now, 6, nil, 10), ""},
		{"same number, newer", root.list(now, 5, nil), root.list(now, 5, newer, 10), ""},
		{"lower number", root.list(now, 5, nil), root.list(now, 4, nil, 10), "lower than the one in force"},
		{"lower number, newer", root.list(now, 5, nil), root.list(now, 4, newer, 10), "lower than the one in force"},
		{"higher number, older", root.list(now, 5, nil), root.list(now, 6, older, 10), "older than the one in force"},
		{"number lost", root.list(now, 5, nil), root.list(now, 5, noNumber, 10), "the number none, lower"},
		{"number gained", root.list(now, 5, noNumber), root.list(now, 1, nil, 10), ""},
		{"never a number, newer", root.list(now, 5, noNumber), root.list(now, 5, func(l *listTemplate) { noNumber(l); newer(l) }, 10), ""},
		{"never a number, older", root.list(now, 5, noNumber), root.list(now, 5, func(l *listTemplate) { noNumber(l); older(l) }, 10), "older than the one in force"},
		{"next key, lower number", root.list(now, 5, nil), next.list(now, 1, newer, 10), ""},
		{"next key, older", root.list(now, 5, nil), next.list(now, 9, older, 10), "older than the one in force"},
		{"another authority", root.list(now, 5, nil), other.list(now, 9, nil, 10), "place of its own"},
	} {
		place := file(t, tc.before)
		l := lists(t, servertls.RevocationConfig{Authorities: certs(root, other, next), Lists: []servertls.ListSource{place}}, clock)
		put(t, place.File, tc.after)
		err := l.Refresh(t.Context())
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Refresh = %v, want %q", tc.name, err, tc.want)
		}
		want := "revoked"
		if tc.want != "" {
			want = "good"
		}
		if got := l.CheckRevoked(root.chain(10)); told(got) != want {
			t.Errorf("%s: %v, want %s", tc.name, got, want)
		}
	}
}

// TestListEnds: at the end of a list and its grace all certificates of its authority are refused, those of others are not, and
// a new list mends it.
func TestListEnds(t *testing.T) {
	for _, grace := range []time.Duration{0, 10 * time.Minute} {
		clock := newClock()
		root, other, bare := newAuthority(t, "root", 1, nil, nil), newAuthority(t, "other", 2, nil, nil), newAuthority(t, "bare", 3, nil, nil)
		place := file(t, root.list(clock.now(), 1, nil, 10))
		long := file(t, other.list(clock.now(), 1, func(l *listTemplate) { l.tbs.NextUpdate = clock.now().Add(100 * time.Hour).UTC() }))
		var log bytes.Buffer
		l := lists(t, servertls.RevocationConfig{
			Authorities: certs(root, other, bare), Lists: []servertls.ListSource{place, long}, Grace: grace, Log: slog.New(slog.NewTextHandler(&log, nil)),
		}, clock)
		if left := l.Left(); left != time.Hour+grace {
			t.Errorf("Left = %v, want %v", left, time.Hour+grace)
		}
		clock.move(time.Hour + grace - time.Second)
		if err := l.CheckRevoked(root.chain(11)); err != nil {
			t.Errorf("a second before: %v", err)
		}
		clock.move(time.Second)
		for range 2 {
			if err := l.Refresh(t.Context()); err != nil {
				t.Error(err) // nothing new is no error
			}
		}
		if err := l.CheckRevoked(root.chain(11)); told(err) != "unknown" || !strings.Contains(err.Error(), "ended at") {
			t.Errorf("after: %v, want a refusal that says when the list ended", err)
		}
		if err := l.CheckRevoked(root.chain(10)); told(err) != "revoked" {
			t.Errorf("after: %v, want that 10 stays revoked", err)
		}
		for _, a := range []*authority{other, bare} {
			if err := l.CheckRevoked(a.chain(11)); err != nil {
				t.Errorf("%v: %v", a.cert.Subject, err)
			}
		}
		clock.move(time.Second)
		if left := l.Left(); left != -time.Second {
			t.Errorf("Left = %v, want one second ago", left)
		}
		if n := strings.Count(log.String(), "revocation list ended"); n != 1 {
			t.Errorf("the log has the end %d times, want once:\n%s", n, &log)
		}
		put(t, place.File, root.list(clock.now(), 2, nil))
		if err := l.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		if err := l.CheckRevoked(root.chain(10)); err != nil {
			t.Errorf("with a new list: %v", err)
		}
	}
}

// publisher is an authority's web server.
type publisher struct {
	mu     sync.Mutex // guards what follows
	answer http.HandlerFunc
	list   []byte
	etag   int
	asked  []string // If-None-Match of each request
}

func (p *publisher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	answer, list, etag := p.answer, p.list, `"`+strconv.Itoa(p.etag)+`"`
	p.asked = append(p.asked, r.Header.Get("If-None-Match"))
	p.mu.Unlock()
	switch {
	case answer != nil:
		answer(w, r)
	case r.Header.Get("If-None-Match") == etag:
		w.WriteHeader(http.StatusNotModified)
	default:
		w.Header().Set("ETag", etag)
		_, _ = w.Write(list) // a client that went away is the test's to see
	}
}

// publish puts a list, or an answer in its place.
func (p *publisher) publish(list []byte, answer http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list, p.answer = list, answer
	p.etag++
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// TestListByURL publishes lists, none, bad ones and slow ones. What was good stays in force until it ends.
func TestListByURL(t *testing.T) {
	clock := newClock()
	root := newAuthority(t, "root", 1, nil, nil)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(root.list(clock.now(), 99, nil))
	}))
	defer elsewhere.Close()
	p := &publisher{list: root.list(clock.now(), 1, nil, 10)}
	server := httptest.NewServer(p)
	defer server.Close()
	l := lists(t, servertls.RevocationConfig{
		Authorities: certs(root), Lists: []servertls.ListSource{{URL: server.URL + "/root.crl"}}, Timeout: 500 * time.Millisecond,
	}, clock)
	if err := l.CheckRevoked(root.chain(11)); told(err) != "unknown" {
		t.Errorf("before the first answer: %v", err)
	}
	if err := l.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	if want := []string{"", `"0"`}; !slices.Equal(p.asked, want) {
		t.Errorf("asked with If-None-Match %q, want %q", p.asked, want)
	}
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"not found", status(http.StatusNotFound), "status 404"},
		{"broken", status(500), "status 500"},
		{"not modified, unasked", status(304), "status 304"},
		{"nothing", status(200), "neither PEM nor DER"},
		{"no content", status(204), "status 204"},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "neither PEM nor DER"},
		{"another host", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, "another host"},
		{"itself", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, "more than three redirects"},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write(root.list(clock.now(), 2, nil)[:100])
		}, "read the answer"},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			for chunk := make([]byte, 1<<20); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, ""}, // too long, or too slow on a slow machine
		{"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "imeout"},
		{"older", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(root.list(clock.now(), 0, nil)) }, "lower than"},
	} {
		p.publish(nil, tc.answer)
		err := l.Refresh(t.Context())
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Refresh = %v, want %q", tc.name, err, tc.want)
		}
		if got := told(l.CheckRevoked(root.chain(10))) + told(l.CheckRevoked(root.chain(11))); got != "revokedgood" {
			t.Errorf("%s: 10 and 11 are %s, want the list before in force", tc.name, got)
		}
	}
	p.publish(root.list(clock.now(), 3, nil, 11), nil)
	if err := l.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	if got := told(l.CheckRevoked(root.chain(10))) + told(l.CheckRevoked(root.chain(11))); got != "goodrevoked" {
		t.Errorf("up again: 10 and 11 are %s", got)
	}
	server.Close()
	if err := l.Refresh(t.Context()); err == nil {
		t.Error("a server that is down is no error")
	}
	clock.move(time.Hour)
	if err := l.CheckRevoked(root.chain(10)); told(err) != "unknown" {
		t.Errorf("down until the list ended: %v", err)
	}
}

// TestListNeverThere: while a URL has never answered, nobody knows whose list it is. Certificates whose issuer's list is in
// force are taken, all others refused.
func TestListNeverThere(t *testing.T) {
	clock := newClock()
	root, other := newAuthority(t, "root", 1, nil, nil), newAuthority(t, "other", 2, nil, nil)
	next := newAuthority(t, "root", 3, nil, nil)
	p := &publisher{answer: status(503)}
	server := httptest.NewServer(p)
	defer server.Close()
	var log bytes.Buffer
	l := lists(t, servertls.RevocationConfig{
		Authorities: certs(root, other, next), Lists: []servertls.ListSource{file(t, root.list(clock.now(), 1, nil)), {URL: server.URL}},
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}, clock)
	if err := l.Refresh(t.Context()); err == nil {
		t.Error("Refresh = nil")
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), server.URL) {
		t.Errorf("the log does not say what is missing:\n%s", &log)
	}
	if l.Left() > 0 {
		t.Errorf("Left = %v while a list is missing", l.Left())
	}
	for a, want := range map[*authority]string{root: "good", other: "unknown", next: "unknown"} {
		if err := l.CheckRevoked(a.chain(10)); told(err) != want {
			t.Errorf("%v of serial %v: %v, want %s", a.cert.Subject, a.cert.SerialNumber, err, want)
		}
	}
	p.publish(other.list(clock.now(), 1, nil, 11), nil)
	if err := l.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	for a, want := range map[*authority]string{root: "good", other: "good", next: "good"} {
		if err := l.CheckRevoked(a.chain(10)); told(err) != want {
			t.Errorf("once it is there: %v: %v, want %s", a.cert.Subject, err, want)
		}
	}
	if s := l.Status(); len(s) != 2 || s[1].Source != server.URL || s[1].Issuer != "CN=other" || s[1].Revoked != 1 || s[1].Error != "" || !s[1].Until.Equal(s[1].NextUpdate) {
		t.Errorf("Status = %+v", s)
	}
}

// TestRunFollowsLists waits for Run to take in a new file and a new answer, and to stop.
func TestRunFollowsLists(t *testing.T) {
	clock := newClock()
	root, other := newAuthority(t, "root", 1, nil, nil), newAuthority(t, "other", 2, nil, nil)
	p := &publisher{answer: status(503)}
	server := httptest.NewServer(p)
	defer server.Close()
	place := file(t, root.list(clock.now(), 1, nil))
	l := lists(t, servertls.RevocationConfig{
		Authorities: certs(root, other), Lists: []servertls.ListSource{place, {URL: server.URL}},
		FileInterval: time.Millisecond, URLInterval: 4 * time.Millisecond, RetryInterval: 2 * time.Millisecond,
	}, clock)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	put(t, place.File, root.list(clock.now(), 2, nil, 10))
	p.publish(other.list(clock.now(), 1, nil, 10), nil)
	for _, a := range []*authority{root, other} {
		chain := a.chain(10)
		for told(l.CheckRevoked(chain)) != "revoked" {
			select {
			case <-t.Context().Done():
				t.Fatal("Run does not follow")
			case <-time.After(time.Millisecond):
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNewRevocationListsRefuses(t *testing.T) {
	root := newAuthority(t, "root", 1, nil, nil)
	log := slog.New(slog.DiscardHandler)
	for name, cfg := range map[string]servertls.RevocationConfig{
		"no log":       {},
		"no place":     {Log: log, Lists: []servertls.ListSource{{}}},
		"two places":   {Log: log, Lists: []servertls.ListSource{{File: "x", URL: "http://ca/x"}}},
		"no such file": {Log: log, Lists: []servertls.ListSource{{File: filepath.Join(t.TempDir(), "none")}}},
		"ldap":         {Log: log, Lists: []servertls.ListSource{{URL: "ldap://ca/x"}}},
		"password":     {Log: log, Lists: []servertls.ListSource{{URL: "http://me:hunter2@ca/x"}}},
		"no host":      {Log: log, Lists: []servertls.ListSource{{URL: "http:///x"}}},
	} {
		cfg.Authorities = certs(root)
		if _, err := servertls.NewRevocationLists(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// doors returns a server's configuration that asks for client certificates of the authorities, and a client's with one.
func doors(t testing.TB, l *servertls.RevocationLists, cert tls.Certificate, as ...*authority) (server, client *tls.Config) {
	t.Helper()
	p := newPair(t, nil)
	roots, clients := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(p.cert)
	for _, a := range as {
		clients.AddCert(a.cert)
	}
	client = &tls.Config{RootCAs: roots, ServerName: "gate.test", ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return servertls.Config(get(p.tls(t)), clients, l), client
}

// TestRevokedHandshake: a revoked leaf, a leaf under a revoked authority, and one whose list ended are refused at the handshake;
// without a certificate there is nothing to revoke.
func TestRevokedHandshake(t *testing.T) {
	clock := newClock()
	root := newAuthority(t, "root", 1, nil, nil)
	middle, bad := newAuthority(t, "middle", 20, root, nil), newAuthority(t, "bad", 21, root, nil)
	place := file(t, root.list(clock.now(), 1, nil, 10, 21))
	l := lists(t, servertls.RevocationConfig{Authorities: certs(root), Lists: []servertls.ListSource{place}}, clock)
	for _, tc := range []struct {
		name string
		cert tls.Certificate
		ok   bool
	}{
		{"good", root.client(11), true},
		{"revoked", root.client(10), false},
		{"under a good authority", middle.client(10), true},
		{"under a revoked authority", bad.client(11), false},
		{"none", tls.Certificate{}, true},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			server, client := doors(t, l, tc.cert, root)
			client.MaxVersion = version
			if _, _, err := handshake(t, server, client); (err == nil) != tc.ok {
				t.Errorf("%s by %s: %v, want success = %v", tc.name, tls.VersionName(version), err, tc.ok)
			}
		}
	}
	clock.move(2 * time.Hour)
	server, client := doors(t, l, root.client(11), root)
	if _, _, err := handshake(t, server, client); err == nil {
		t.Error("the list ended, and the handshake succeeds")
	}
}

// TestRevokedResumption switches tickets on, which a gate with client certificates has off, so that a session can be resumed:
// once its certificate is revoked it cannot.
func TestRevokedResumption(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		clock := newClock()
		root := newAuthority(t, "root", 1, nil, nil)
		place := file(t, root.list(clock.now(), 1, nil))
		l := lists(t, servertls.RevocationConfig{Authorities: certs(root), Lists: []servertls.ListSource{place}}, clock)
		server, client := doors(t, l, root.client(10), root)
		server.SessionTicketsDisabled, client.MaxVersion = false, version
		for i := range 3 {
			_, state, err := handshake(t, server, client)
			if err != nil || state.DidResume != (i > 0) {
				t.Fatalf("%s: handshake %d: resumed = %v, %v", tls.VersionName(version), i, state.DidResume, err)
			}
		}
		put(t, place.File, root.list(clock.now(), 2, nil, 10))
		if err := l.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, state, err := handshake(t, server, client); err == nil {
			t.Errorf("%s: a revoked certificate still opens the door, resumed = %v", tls.VersionName(version), state.DidResume)
		}
	}
}

// TestListSwapUnderHandshakes replaces the list hundreds of times, by good and by half written ones, while clients connect: those
// with a good certificate always succeed, the one on every list never does.
func TestListSwapUnderHandshakes(t *testing.T) {
	clock := newClock()
	root := newAuthority(t, "root", 1, nil, nil)
	place := file(t, root.list(clock.now(), 1, nil, 10))
	l := lists(t, servertls.RevocationConfig{Authorities: certs(root), Lists: []servertls.ListSource{place}}, clock)
	stop := make(chan struct{})
	var succeeded, refused atomic.Int64
	var wg sync.WaitGroup
	for _, serial := range []int64{10, 11, 12} {
		server, client := doors(t, l, root.client(serial), root)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, _, err := handshake(t, server, client)
				if (err == nil) != (serial != 10) {
					t.Errorf("certificate %d: %v", serial, err)
					return
				}
				if err == nil {
					succeeded.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	const swaps = 300
	kept := 0
	for i := range swaps {
		list := root.list(clock.now(), int64(2+i), nil, 10, 100000+int64(i))
		if i%3 == 0 {
			list = list[:len(list)-10]
		}
		put(t, place.File, list)
		if l.Refresh(t.Context()) != nil {
			kept++
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d swaps, %d kept out, %d handshakes succeeded, %d were refused", swaps, kept, succeeded.Load(), refused.Load())
	if kept != (swaps+2)/3 || succeeded.Load() == 0 || refused.Load() == 0 {
		t.Error("nothing was shown")
	}
}

// TestOpenSSLLists takes what the openssl command makes, and finds on it what that command revoked.
func TestOpenSSLLists(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	for name, text := range map[string]string{
		"index.txt": "", "number": "1000\n", "serial": "0A\n",
		"ca.cnf": `[ca]
default_ca = it
[it]
database = index.txt
serial = serial
crlnumber = number
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 30
default_crl_days = 1
policy = any
crl_extensions = list
x509_extensions = client
[any]
commonName = supplied
[list]
authorityKeyIdentifier = keyid:always
[client]
extendedKeyUsage = clientAuth
[req]
distinguished_name = any
`,
	} {
		put(t, filepath.Join(dir, name), []byte(text))
	}
	run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "30",
		"-subj", "/CN=by openssl", "-config", "ca.cnf", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
		"-addext", "subjectKeyIdentifier=hash")
	for _, name := range []string{"good", "bad"} {
		run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name+".key", "-out", name+".csr", "-subj", "/CN="+name, "-config", "ca.cnf")
		run("ca", "-batch", "-config", "ca.cnf", "-in", name+".csr", "-out", name+".pem", "-notext")
	}
	run("ca", "-gencrl", "-config", "ca.cnf", "-out", "list.pem")
	read := func(name string) *x509.Certificate {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	ca, good, bad := read("ca.pem"), read("good.pem"), read("bad.pem")
	clock := newClock()
	clock.move(time.Second) // it was cut to the second, and the list is of this one
	l := lists(t, servertls.RevocationConfig{
		Authorities: []*x509.Certificate{ca}, Lists: []servertls.ListSource{{File: filepath.Join(dir, "list.pem")}},
	}, clock)
	ask := func() string {
		return told(l.CheckRevoked([]*x509.Certificate{good, ca})) + " " + told(l.CheckRevoked([]*x509.Certificate{bad, ca}))
	}
	if got := ask(); got != "good good" {
		t.Errorf("before: %s", got)
	}
	run("ca", "-config", "ca.cnf", "-revoke", "bad.pem", "-crl_reason", "keyCompromise")
	run("ca", "-gencrl", "-config", "ca.cnf", "-out", "next.pem")
	run("crl", "-in", "next.pem", "-outform", "DER", "-out", "list.pem")
	if err := l.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "good revoked" {
		t.Errorf("after: %s", got)
	}
	if s := l.Status()[0]; s.Number != "4097" || s.Issuer != "CN=by openssl" || s.Revoked != 1 {
		t.Errorf("Status = %+v", s)
	}
}

// FuzzRevocationList: whatever bytes a place holds, what is taken is what the authority signed.
func FuzzRevocationList(f *testing.F) {
	clock := newClock()
	root, stranger := newAuthority(f, "root", 1, nil, nil), newAuthority(f, "stranger", 2, nil, nil)
	noSign := newAuthority(f, "no CRL sign", 3, nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })
	signed := map[string]bool{}
	for _, list := range [][]byte{root.list(clock.now(), 1, nil), root.list(clock.now(), 2, nil, 10, 11)} {
		tbs, err := servertls.ParseList(list, certs(root), clock.now())
		if err != nil {
			f.Fatal(err)
		}
		signed[string(tbs)] = true
		f.Add(list)
		f.Add(armour(list))
	}
	for name, row := range hostileLists(f, clock, root, stranger, noSign) {
		if len(row.list) < 1<<16 {
			f.Log(name)
			f.Add(row.list)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tbs, err := servertls.ParseList(data, certs(root), clock.now())
		if err == nil && !signed[string(tbs)] {
			t.Fatalf("taken, and never signed: %x", data)
		}
	})
}
