package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// renewSource makes tokens that live for life, each after it took so long; or fails.
type renewSource struct {
	mu    sync.Mutex // guards what follows
	life  time.Duration
	takes time.Duration
	err   error
	asked []time.Time
	busy  int
}

func (s *renewSource) String() string { return "a made-up source" }

func (s *renewSource) Token(ctx context.Context, _ *Client, r gateway.TokenRequest) (gateway.TokenReply, error) {
	s.mu.Lock()
	s.asked = append(s.asked, time.Now())
	n, takes := len(s.asked), s.takes
	s.busy++
	if s.busy > 1 || r.Note != "agent" {
		panic("two at once, or not what was ordered")
	}
	s.mu.Unlock()
	var err error
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	if err == nil {
		err = s.err
	}
	if err != nil {
		return gateway.TokenReply{}, err
	}
	return gateway.TokenReply{
		Token: fmt.Sprintf("lyg_%d", n), ID: fmt.Sprintf("tok-%d", n), User: "forge/1", Name: "alice", Expires: time.Now().Add(s.life).UTC().Format(time.RFC3339),
	}, nil
}

func (s *renewSource) set(change func(*renewSource)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// times is when it was asked, since the first time.
func (s *renewSource) times() (since []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.asked {
		since = append(since, at.Sub(s.asked[0]))
	}
	return since
}

func newRenewer(t *testing.T, s TokenSource) *Renewer {
	t.Helper()
	c, err := New(Config{Gate: "https://gate.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRenewer(RenewerConfig{Client: c, Source: s, Order: gateway.TokenRequest{Note: "agent"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// renewToken wants a token at once.
func renewToken(t *testing.T, r *Renewer, want string) {
	t.Helper()
	token, err := r.Token(t.Context())
	if err != nil || token.Reveal() != want {
		t.Errorf("%v: %q, %v, want %q", time.Now(), token.Reveal(), err, want)
	}
}

// renewRun runs r until stop is called.
func renewRun(t *testing.T, r *Renewer) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// TestRenewer: a token is there before anybody asks, is replaced when two thirds of its life are over, and nobody waits for that.
func TestRenewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &renewSource{life: 12 * time.Hour, takes: 2 * time.Second}
		r := newRenewer(t, s)
		stop := renewRun(t, r)
		defer stop()
		time.Sleep(3 * time.Second)
		began := time.Now()
		renewToken(t, r, "lyg_1")
		if status := r.Status(); status.Name != "alice" || status.User != "forge/1" || status.TokenID != "tok-1" || status.Err != nil ||
			status.Source != "a made-up source" || status.Expires.Sub(began) < 11*time.Hour || status.Next.Sub(began) < 7*time.Hour || status.Renewing {
			t.Errorf("%+v", status)
		}
		time.Sleep(7 * time.Hour)
		renewToken(t, r, "lyg_1")
		time.Sleep(100 * time.Minute)
		renewToken(t, r, "lyg_2")
		time.Sleep(24 * time.Hour)
		for i, at := range s.times() {
			if i == 0 {
				continue
			}
			if life := at - s.times()[i-1]; life < 7*time.Hour || life > 9*time.Hour {
				t.Errorf("renewed at %v", s.times())
			}
		}
		if n := len(s.times()); n != 4 && n != 5 { // 32.7 hours, in steps of 7.4 to 8.4
			t.Errorf("%d tokens", n)
		}
	})
}

// TestRenewerWithoutRun: who asks starts what has to be done, and a token that is good enough is given out meanwhile.
func TestRenewerWithoutRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &renewSource{life: time.Hour, takes: 5 * time.Second}
		r := newRenewer(t, s)
		began := time.Now()
		renewToken(t, r, "lyg_1")
		if time.Since(began) != 5*time.Second {
			t.Errorf("waited %v", time.Since(began))
		}
		time.Sleep(50 * time.Minute)
		renewToken(t, r, "lyg_1")
		if !r.Status().Renewing {
			t.Error("it is not renewed")
		}
		time.Sleep(6 * time.Second)
		renewToken(t, r, "lyg_2")
		time.Sleep(2 * time.Hour)
		if status := r.Status(); !status.Expires.IsZero() || status.User != "" {
			t.Errorf("the token has ended, and the status is %+v", status)
		}
		renewToken(t, r, "lyg_3")
	})
}

// TestRenewerSingleFlight: a hundred who ask at once cost one attempt, and one of them who leaves does not end it.
func TestRenewerSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &renewSource{life: time.Hour, takes: 5 * time.Second}
		r := newRenewer(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("who left: %v", err)
			}
		})
		synctest.Wait()
		for range 100 {
			wg.Go(func() { renewToken(t, r, "lyg_1") })
		}
		wg.Wait()
		if n := len(s.times()); n != 1 {
			t.Errorf("%d attempts", n)
		}
	})
}

// TestRenewerRefused: a token that the gate refuses is replaced at once; another one, or one that was replaced, is not; a gate that refuses
// what it just made is not kept busy.
func TestRenewerRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &renewSource{life: 12 * time.Hour}
		r := newRenewer(t, s)
		stop := renewRun(t, r)
		defer stop()
		renewToken(t, r, "lyg_1")
		time.Sleep(10 * time.Minute)
		r.Refused(authn.NewSecret("lyg_other"))
		r.Refused(authn.Secret{})
		synctest.Wait()
		renewToken(t, r, "lyg_1")
		r.Refused(authn.NewSecret("lyg_1"))
		synctest.Wait()
		if id := r.Status().TokenID; id != "tok-2" {
			t.Errorf("the token is %s before anybody asks", id)
		}
		renewToken(t, r, "lyg_2")
		r.Refused(authn.NewSecret("lyg_1"))
		renewToken(t, r, "lyg_2")
		r.Refused(authn.NewSecret("lyg_2")) // somebody revoked it as soon as it was made
		renewToken(t, r, "lyg_3")
		for end := time.Now().Add(time.Hour); time.Now().Before(end); time.Sleep(time.Second) {
			if token, err := r.Token(t.Context()); err == nil {
				r.Refused(token)
			} else if !strings.Contains(err.Error(), "a token that it had just made") {
				t.Error(err)
			}
		}
		if n := len(s.times()); n < 20 || n > 60 {
			t.Errorf("%d attempts in an hour", n)
		}
	})
}

// TestRenewerOutage: while the gate is away the token that is there goes on; then whoever asks is told at once, and the gate is asked ever more
// seldom; when it is back, the first attempt does.
func TestRenewerOutage(t *testing.T) {
	for _, row := range []struct {
		name        string
		err         error
		least, most int // attempts in the hour after the token ended
	}{
		{"away", errors.New("connection refused"), 25, 45},
		{"busy", &Error{Status: 503}, 10, 20},
		{"busy for long", &Error{Status: 503, retryAfter: 10 * time.Minute}, 4, 8},
		{"nobody", &Error{Status: 401}, 4, 10},
		{"a person is needed", fmt.Errorf("%w at sso", ErrPerson), 4, 10},
		{"no key in the agent", &noKeyError{text: "ssh-agent holds no key"}, 300, 500},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &renewSource{life: 12 * time.Hour}
				r := newRenewer(t, s)
				stop := renewRun(t, r)
				defer stop()
				renewToken(t, r, "lyg_1")
				s.set(func(s *renewSource) { s.err = row.err })
				time.Sleep(11 * time.Hour)
				synctest.Wait() // an attempt may be made at this very moment
				renewToken(t, r, "lyg_1")
				if status := r.Status(); !errors.Is(status.Err, row.err) || status.User == "" || !status.Next.After(time.Now()) {
					t.Errorf("%+v", status)
				}
				time.Sleep(time.Hour)
				before := len(s.times())
				for range 3600 {
					asked := time.Now()
					if token, err := r.Token(t.Context()); !errors.Is(err, row.err) || !token.IsZero() || time.Since(asked) != 0 {
						t.Fatalf("%q, %v after %v", token.Reveal(), err, time.Since(asked))
					}
					time.Sleep(time.Second)
				}
				if n := len(s.times()) - before; n < row.least || n > row.most {
					t.Errorf("%d attempts in an hour", n)
				}
				s.set(func(s *renewSource) { s.err = nil })
				time.Sleep(13 * time.Minute)
				if status := r.Status(); status.Err != nil || status.User == "" {
					t.Errorf("it is back: %+v", status)
				}
			})
		})
	}
}

// TestRenewerClocks: whatever the gate's clock says of a token, it is tried, and the gate is not asked for one after another.
func TestRenewerClocks(t *testing.T) {
	for _, life := range []time.Duration{-24 * time.Hour, 0, time.Second, 366 * 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			s := &renewSource{life: life}
			r := newRenewer(t, s)
			stop := renewRun(t, r)
			defer stop()
			time.Sleep(time.Minute)
			if token, err := r.Token(t.Context()); err != nil || token.IsZero() {
				t.Errorf("%v: %v", life, err)
			}
			time.Sleep(time.Hour)
			if n := len(s.times()); n > 110 {
				t.Errorf("%v: %d attempts", life, n)
			}
		})
	}
}

// TestRenewerStops: what Run began ends with it, and is no failure; who asks later gets a token.
func TestRenewerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &renewSource{life: time.Hour, takes: time.Minute}
		r := newRenewer(t, s)
		stop := renewRun(t, r)
		time.Sleep(time.Second)
		stop()
		synctest.Wait()
		if status := r.Status(); status.Renewing || status.Err != nil {
			t.Errorf("%+v", status)
		}
		renewToken(t, r, "lyg_2")
		s.set(func(s *renewSource) { s.takes = time.Hour })
		time.Sleep(time.Hour)
		if _, err := r.Token(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an attempt without end: %v", err)
		}
	})
}

func TestNewRenewer(t *testing.T) {
	if _, err := NewRenewer(RenewerConfig{Source: &renewSource{}}); err == nil {
		t.Error("without a client")
	}
	if _, err := NewRenewer(RenewerConfig{Client: &Client{}}); err == nil {
		t.Error("without a source")
	}
}
