package forge

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/authn"
)

// What the providers of servers that are asked over HTTP have in common.

// parallelQuestions bounds the repositories that one call of Access asks about at a time.
const parallelQuestions = 8

// errOtherThing says that a forge answered about something else than it was asked about. Nothing it says is believed then.
var errOtherThing = errors.New("the forge answered about something else than it was asked about")

// numericID reads an id as those forges count: positive, decimal, in the one way there is to write it.
func numericID(text string) (int64, bool) {
	id, err := strconv.ParseInt(text, 10, 64)
	return id, err == nil && id > 0 && strconv.FormatInt(id, 10) == text
}

// locatorHost returns the host of u as a source's locator has it: in lower case, without the port that goes without saying.
func locatorHost(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		return strings.TrimSuffix(host, ":443")
	case "http":
		return strings.TrimSuffix(host, ":80")
	}
	return host
}

// boundBodies makes c stop reading an answer that is longer than [maxAnswer]: client libraries read to the end.
func boundBodies(c *http.Client) *http.Client {
	next := c.Transport
	c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		answer, err := next.RoundTrip(r)
		if err == nil {
			answer.Body = http.MaxBytesReader(nil, answer.Body, maxAnswer)
		}
		return answer, err
	})
	return c
}

// sameSecret compares in constant time, whatever the lengths. No secret is like none.
func sameSecret(want authn.Secret, got string) bool {
	a, b := sha256.Sum256([]byte(want.Reveal())), sha256.Sum256([]byte(got))
	return !want.IsZero() && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// fingerprintOf returns the fingerprint of a line as authorized_keys has it, or "" when it holds no key.
func fingerprintOf(line string) string {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(key)
}

// verdict is what a forge said about one repository.
type verdict struct {
	access Access
	at     time.Time // before the first request it rests on
	until  time.Time // when it ends by itself; zero for never
	why    string    // one of few
}

// fact makes a verdict one, for a forge that is called origin.
func (v verdict) fact(r Repo, origin string) Fact {
	after := v.at.Add(hardLimit)
	if !v.until.IsZero() && v.until.Before(after) {
		after = v.until
	}
	return Fact{Repo: r, Access: v.access, At: v.at, NotAfter: after, Origin: origin + ": " + v.why}
}

// noneOf gives every repository the same verdict, as for a user whom the forge does not know, or has blocked.
func noneOf(repos []Repo, origin string, v verdict) []Fact {
	facts := make([]Fact, len(repos))
	for i, r := range repos {
		facts[i] = v.fact(r, origin)
	}
	return facts
}

// askEach asks about each repository, several at a time. One that fails is Unknown with the reason as its Origin; it is an error
// only when all do.
func askEach(ctx context.Context, repos []Repo, origin string, judge func(context.Context, Repo) (verdict, error)) ([]Fact, error) {
	facts := make([]Fact, len(repos))
	errs := make([]error, len(repos))
	var asking errgroup.Group
	asking.SetLimit(parallelQuestions)
	for i, r := range repos {
		asking.Go(func() error {
			v, err := judge(ctx, r)
			if err != nil {
				facts[i], errs[i] = Fact{Repo: r, Origin: origin + ": " + clip(err.Error())}, err
				return nil
			}
			facts[i] = v.fact(r, origin)
			return nil
		})
	}
	asking.Wait() // no question returns an error
	if len(repos) > 0 && !slices.Contains(errs, nil) {
		return nil, fmt.Errorf("ask about %d repositories: %w", len(repos), errs[0])
	}
	return facts, nil
}

// oneLine makes a server's words fit for a line that people read.
func oneLine(text string) string { return clip(strings.Trim(strconv.QuoteToASCII(text), `"`)) }

// hookPath is the end of the address that a forge of that name posts to.
func hookPath(name string) string { return "/v1/hooks/" + name }

// isHookOf reports whether a hook's address is this gate's, as far as its path can tell.
func isHookOf(address, name string) bool {
	u, err := url.Parse(address)
	return err == nil && strings.HasSuffix(u.Path, hookPath(name))
}
