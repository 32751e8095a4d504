package servertls

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/authn"
)

// RevocationConfig is what [NewRevocationLists] needs.
type RevocationConfig struct {
	// Authorities are the certificates that client certificates are verified with. A list counts when one of them signed it.
	Authorities []*x509.Certificate
	Lists       []ListSource
	// Grace is how long a list stays in force after its nextUpdate. Default 0.
	Grace time.Duration
	// FileInterval and URLInterval are how often files and URLs are looked at; after a failure a URL is asked again after RetryInterval.
	// Defaults 2 s, 5 min and 30 s.
	FileInterval, URLInterval, RetryInterval time.Duration
	// Timeout is for one answer of a URL, its body included. Default 30 s.
	Timeout time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Log is told of every new list, of every new reason to keep the old one, and when one ends. Required.
	Log *slog.Logger
}

// RevocationLists are certificate revocation lists (RFC 5280 section 5) from files and URLs, kept current while the gate runs.
// It is safe for concurrent use.
//
// An authority with a list is held to it: when its list ends (at nextUpdate and the grace) and no newer one is there, every
// certificate it issued is refused until one is. An authority without a list is not checked. A URL whose list was never
// there might be any authority's: until it is, certificates are refused unless their issuer's own list is in force.
type RevocationLists struct {
	cfg     RevocationConfig
	above   map[string]*x509.Certificate // an authority's certificate to the authority that signed it
	sources []*source

	mu      sync.Mutex // guards what sources hold
	current atomic.Pointer[inForce]
}

var _ authn.RevocationChecker = (*RevocationLists)(nil)

// inForce is one moment's answer. It is immutable.
type inForce struct {
	byIssuer map[string][]*crl // the issuer's name to the newest list of each of its keys
	missing  []string          // the sources that no list came from yet
}

// NewRevocationLists reads the files; one that is not there or not good is an error. It fetches nothing: call
// [RevocationLists.Refresh] before there are clients.
func NewRevocationLists(cfg RevocationConfig) (*RevocationLists, error) {
	if cfg.Log == nil {
		return nil, errors.New("follow revocation lists: no log was given")
	}
	setDefault(&cfg.FileInterval, 2*time.Second)
	setDefault(&cfg.URLInterval, 5*time.Minute)
	setDefault(&cfg.RetryInterval, 30*time.Second)
	setDefault(&cfg.Timeout, 30*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &RevocationLists{cfg: cfg, above: signersOf(cfg.Authorities)}
	client := newHTTPClient(cfg.Timeout)
	for _, where := range cfg.Lists {
		s, err := newSource(where, client)
		if err != nil {
			return nil, fmt.Errorf("revocation list %q: %w", where, err)
		}
		l.sources = append(l.sources, s)
	}
	l.current.Store(l.collect())
	for _, s := range l.sources {
		if s.File != "" {
			if err := l.refresh(context.Background(), s); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

func setDefault(d *time.Duration, otherwise time.Duration) {
	if *d <= 0 {
		*d = otherwise
	}
}

// signersOf finds out which authorities are signed by another of them: TLS ends a chain at any of them, so that what is above
// has to be looked for here.
func signersOf(authorities []*x509.Certificate) map[string]*x509.Certificate {
	above := map[string]*x509.Certificate{}
	for _, a := range authorities {
		if bytes.Equal(a.RawIssuer, a.RawSubject) && a.CheckSignatureFrom(a) == nil {
			continue // a root
		}
		for _, b := range authorities {
			if bytes.Equal(a.RawIssuer, b.RawSubject) && a.CheckSignatureFrom(b) == nil {
				above[string(a.Raw)] = b
				break
			}
		}
	}
	return above
}

// maxChain bounds the authorities above a chain: two that signed each other have no end.
const maxChain = 16

// CheckRevoked implements [authn.RevocationChecker]. Every certificate but a root is looked up in the lists of its issuer.
func (l *RevocationLists) CheckRevoked(chain []*x509.Certificate) error {
	state, now := l.current.Load(), l.cfg.Now()
	for i := 0; i < len(chain)-1; i++ {
		if err := state.check(chain[i], chain[i+1], now); err != nil {
			return err
		}
	}
	if len(chain) == 0 {
		return errors.New("no certificate was verified")
	}
	cert := chain[len(chain)-1]
	for range maxChain {
		issuer, ok := l.above[string(cert.Raw)]
		if !ok {
			return nil
		}
		if err := state.check(cert, issuer, now); err != nil {
			return err
		}
		cert = issuer
	}
	return errors.New("the authorities in client_ca have signed each other in a circle")
}

// check looks one certificate up. An issuer may have lists by several keys, and none says which certificates it is for: all
// count.
func (s *inForce) check(cert, issuer *x509.Certificate, now time.Time) error {
	lists, byItsKey := s.byIssuer[string(cert.RawIssuer)], false
	for _, list := range lists {
		if list.has(cert) {
			return fmt.Errorf("certificate %x of %q is %w", cert.SerialNumber, cert.Issuer, authn.ErrRevoked)
		}
		byItsKey = byItsKey || list.signedBy(issuer)
	}
	for _, list := range lists {
		if !now.Before(list.until) {
			return fmt.Errorf("the revocation list of %q ended at %s, and no newer one came", cert.Issuer, stamp(list.until))
		}
	}
	if !byItsKey && len(s.missing) > 0 {
		return fmt.Errorf("the revocation list %s was never there, and may be that of %q", s.missing[0], cert.Issuer)
	}
	return nil
}

// Refresh looks at every place now and waits for the answers, not longer than ctx. The error is for each list that could not be
// had or is not good; the log has it as well.
func (l *RevocationLists) Refresh(ctx context.Context) error {
	errs := make([]error, len(l.sources))
	var all errgroup.Group
	all.SetLimit(8)
	for i, s := range l.sources {
		all.Go(func() error {
			errs[i] = l.refresh(ctx, s)
			return nil
		})
	}
	return errors.Join(all.Wait(), errors.Join(errs...))
}

// Run keeps the lists current until ctx ends, and returns nil.
func (l *RevocationLists) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, s := range l.sources {
		all.Go(func() { l.follow(ctx, s) })
	}
	all.Wait()
	return nil
}

func (l *RevocationLists) follow(ctx context.Context, s *source) {
	timer := time.NewTimer(l.pause(s))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			_ = l.refresh(ctx, s) // it has logged the reason, once
			timer.Reset(l.pause(s))
		}
	}
}

// pause returns how long a source may rest. URLs are asked a little earlier or later, so that many gates do not ask at once.
func (l *RevocationLists) pause(s *source) time.Duration {
	if s.File != "" {
		return l.cfg.FileInterval
	}
	l.mu.Lock()
	pause := l.cfg.URLInterval
	if s.failed != "" || s.list == nil || s.ended {
		pause = min(pause, l.cfg.RetryInterval)
	}
	l.mu.Unlock()
	return pause - rand.N(pause/8+1)
}

// refresh looks at one place now.
func (l *RevocationLists) refresh(ctx context.Context, s *source) error {
	s.reading.Lock()
	defer s.reading.Unlock()
	l.mu.Lock()
	again := s.list == nil || s.failed != "" // what was refused may be good by now: its time may have come
	l.mu.Unlock()
	data, err := s.reader.read(ctx, again)
	var list *crl
	if err == nil && data != nil {
		list, err = newCRL(data, l.cfg.Authorities, l.cfg.Grace, l.cfg.Now())
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err() // the gate stops: that is nothing to report of a list
	}
	return l.settle(s, list, err)
}

// settle takes a list that was read, or err for why there is none; neither means that there is nothing new.
func (l *RevocationLists) settle(s *source, list *crl, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && list != nil && s.list != nil {
		err = list.follows(s.list)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("load revocation list %q: %w", s, err)
		if s.failed != err.Error() {
			l.cfg.Log.Error("revocation list not loaded", "error", err, "instead", s.instead())
		}
		s.failed = err.Error()
	case list != nil:
		s.list, s.failed, s.ended = list, "", false
		l.current.Store(l.collect())
		l.cfg.Log.Info("revocation list loaded", "from", s.String(), "issuer", list.signer.Subject.String(), "number", list.numberText(),
			"revoked", len(list.revoked), "until", list.until)
	}
	l.noteEnd(s)
	return err
}

// instead says what is in force while a list cannot be had. The caller holds mu.
func (s *source) instead() string {
	if s.list == nil {
		return "client certificates are refused unless another list of their issuer is in force"
	}
	return "the list before it, until " + stamp(s.list.until)
}

// noteEnd logs once that a list ended. The caller holds mu.
func (l *RevocationLists) noteEnd(s *source) {
	if s.list == nil || s.ended || l.cfg.Now().Before(s.list.until) {
		return
	}
	s.ended = true
	l.cfg.Log.Error("revocation list ended", "from", s.String(), "issuer", s.list.signer.Subject.String(), "at", s.list.until,
		"hint", "certificates of this issuer are refused until it publishes a new list")
}

// collect gathers what the sources hold. The caller holds mu, or is alone.
func (l *RevocationLists) collect() *inForce {
	state := &inForce{byIssuer: map[string][]*crl{}}
	for _, s := range l.sources {
		if s.list == nil {
			state.missing = append(state.missing, s.String())
			continue
		}
		issuer := string(s.list.signer.RawSubject)
		state.byIssuer[issuer] = newest(state.byIssuer[issuer], s.list)
	}
	return state
}

// newest adds a list to those of one issuer, of which there is one for each key.
func newest(lists []*crl, list *crl) []*crl {
	for i, other := range lists {
		if list.sameKey(other) {
			if other.before(list) {
				lists[i] = list
			}
			return lists
		}
	}
	return append(lists, list)
}

// ListStatus is what is known of one source.
type ListStatus struct {
	Source     string // "file:PATH" or the URL
	Issuer     string // empty, as is all below but Error, until a list was there
	Number     string
	ThisUpdate time.Time
	NextUpdate time.Time
	Until      time.Time // the hard expiry
	Revoked    int       // certificates on the list
	Error      string    // why what is there now was not taken; empty when it was
}

// Status returns one entry for each source, in their order.
func (l *RevocationLists) Status() []ListStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]ListStatus, len(l.sources))
	for i, s := range l.sources {
		all[i] = ListStatus{Source: s.String(), Error: s.failed}
		if c := s.list; c != nil {
			all[i].Issuer, all[i].Number, all[i].Revoked = c.signer.Subject.String(), c.numberText(), len(c.revoked)
			all[i].ThisUpdate, all[i].NextUpdate, all[i].Until = c.thisUpdate, c.nextUpdate, c.until
		}
	}
	return all
}

// Left returns how long it is to the earliest hard expiry of a list in force. It is negative after one, and zero while a
// list was never there.
func (l *RevocationLists) Left() time.Duration {
	state, now := l.current.Load(), l.cfg.Now()
	var first time.Time
	for _, lists := range state.byIssuer {
		for _, list := range lists {
			if first.IsZero() || list.until.Before(first) {
				first = list.until
			}
		}
	}
	if first.IsZero() {
		return 0
	}
	left := first.Sub(now)
	if len(state.missing) > 0 {
		left = min(left, 0)
	}
	return left
}
