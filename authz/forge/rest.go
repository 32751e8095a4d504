package forge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
)

// maxAnswer bounds one answer of a forge, in bytes.
const maxAnswer = 16 << 20

// A TokenSource returns the token that the gate shows a forge. It is called for each request, so that a token that was
// replaced is taken without a restart. It is safe for concurrent use.
type TokenSource func() (authn.Secret, error)

// authorized returns base with the header that set puts on each request, and without redirects to other hosts, which
// would be shown the token.
func authorized(base *http.Client, token TokenSource, set func(h http.Header, token string)) *http.Client {
	c := http.Client{}
	if base != nil {
		c = *base
	}
	next := c.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		secret, err := token()
		if err != nil {
			return nil, fmt.Errorf("read the token: %w", err)
		}
		r = r.Clone(r.Context())
		set(r.Header, secret.Reveal())
		return next.RoundTrip(r)
	})
	c.CheckRedirect = sameHost
	return &c
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// errRedirect says that a forge sent the gate elsewhere.
var errRedirect = errors.New("redirected to another host")

// sameHost follows up to five redirects, as forges answer for repositories that were renamed, at one host and scheme.
func sameHost(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	if r.URL.Host != first.Host || r.URL.Scheme != first.Scheme || len(via) > 5 {
		return errRedirect
	}
	return nil
}

// statusError is an answer of a forge that is not 2xx.
type statusError struct{ status int }

func (e *statusError) Error() string {
	return fmt.Sprintf("answered %d %s", e.status, http.StatusText(e.status))
}

// hasStatus reports whether err is an answer with one of the statuses.
func hasStatus(err error, statuses ...int) bool {
	var s *statusError
	if !errors.As(err, &s) {
		return false
	}
	for _, status := range statuses {
		if s.status == status {
			return true
		}
	}
	return false
}

// rest asks an interface that speaks JSON over HTTP.
type rest struct {
	base   *url.URL // without a slash at the end
	client *http.Client
	prefix string // of each body, to be dropped: Gerrit's guard against scripts
}

// newREST checks a forge's URL: https, or http to try things out, without user, query and fragment.
func newREST(base string, client *http.Client) (*rest, error) {
	u, err := url.Parse(strings.TrimRight(base, "/"))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("its url: want https://HOST[:PORT][/PATH], without user and password") // which must not be printed
	}
	return &rest{base: u, client: client}, nil
}

// get asks for a path under the base and reads the answer into out, of which members that nobody knows are dropped. Each
// segment is escaped: what it holds cannot name another resource. An answer other than 2xx is a [*statusError].
func (r *rest) get(ctx context.Context, query url.Values, out any, segments ...string) error {
	return r.do(ctx, http.MethodGet, query, nil, nil, out, segments...)
}

func (r *rest) do(ctx context.Context, method string, query url.Values, header http.Header, body io.Reader, out any, segments ...string) error {
	target, err := r.url(query, segments)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("Accept", "application/json")
	answer, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case answer.StatusCode/100 != 2:
		return &statusError{answer.StatusCode}
	case err != nil:
		return fmt.Errorf("read the answer: %w", err)
	case len(data) > maxAnswer:
		return fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	case out == nil:
		return nil
	}
	text := strings.TrimPrefix(string(data), r.prefix)
	if err := json.UnmarshalRead(strings.NewReader(text), out); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// url joins segments to the base. Segments that a server may take for a step elsewhere are refused.
func (r *rest) url(query url.Values, segments []string) (string, error) {
	u := strings.Builder{}
	u.WriteString(r.base.String())
	for _, s := range segments {
		if s == "" || s == "." || s == ".." {
			return "", fmt.Errorf("path segment %q: %w", s, &statusError{http.StatusNotFound})
		}
		u.WriteString("/" + url.PathEscape(s))
	}
	if len(query) > 0 {
		u.WriteString("?" + query.Encode())
	}
	return u.String(), nil
}
