package forge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeForge answers requests in memory.
type fakeForge struct {
	mu       sync.Mutex // guards what follows
	status   int
	header   http.Header
	err      error
	took     time.Duration
	requests int
	running  int
	most     int
}

func (f *fakeForge) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	f.requests++
	f.running++
	f.most = max(f.most, f.running)
	status, header, err, took := f.status, f.header, f.err, f.took
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running--
	}()
	select {
	case <-time.After(took):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, nil
}

func (f *fakeForge) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

// peak returns how many requests were under way at once.
func (f *fakeForge) peak() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most
}

func limited(t *testing.T, f *fakeForge, change func(*TransportConfig)) *Transport {
	t.Helper()
	if f.status == 0 {
		f.status = http.StatusOK
	}
	c := TransportConfig{Forge: theForge, Base: f, PerSecond: 10, Burst: 10, Concurrent: 4}
	if change != nil {
		change(&c)
	}
	tr, err := NewTransport(c)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// get asks once, with a token, and reads the answer to its end.
func get(ctx context.Context, tr *Transport) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://git.example.com/x", nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer token")
	answer, err := tr.RoundTrip(r)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// TestTransportRate: a burst goes at once, and what is more goes at the rate.
func TestTransportRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeForge{}
		tr := limited(t, f, nil)
		began := time.Now()
		for range 30 {
			if err := get(t.Context(), tr); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("30 requests took %s, want 2 s for those beyond the burst", took)
		}
	})
}

// TestTransportConcurrency: so many are under way at once, and a request keeps its place until its answer is closed.
func TestTransportConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeForge{took: 100 * time.Millisecond}
		tr := limited(t, f, func(c *TransportConfig) { c.PerSecond, c.Burst = 1000, 1000 })
		var asking sync.WaitGroup
		for range 40 {
			asking.Go(func() {
				if err := get(t.Context(), tr); err != nil {
					t.Error(err)
				}
			})
		}
		asking.Wait()
		if most := f.peak(); most != 4 {
			t.Errorf("%d at once, want 4", most)
		}
		var open []io.Closer
		for range 4 {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://git.example.com/x", nil)
			answer, err := tr.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, answer.Body)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := get(ctx, tr); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a fifth beside four that are not closed: %v", err)
		}
		for _, c := range open {
			c.Close()
			c.Close() // twice gives one place
		}
		for range 8 {
			if err := get(t.Context(), tr); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestTransportLanes: somebody who waits goes before what nobody waits for, which leaves half of everything to others.
func TestTransportLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeForge{took: time.Second}
		tr := limited(t, f, nil)
		background, stop := context.WithCancel(InBackground(t.Context()))
		var asking sync.WaitGroup
		for range 200 {
			asking.Go(func() { _ = get(background, tr) })
		}
		time.Sleep(10 * time.Second)
		if most := f.peak(); most != 2 {
			t.Errorf("%d in the background at once, want 2 of 4", most)
		}
		for range 3 {
			began := time.Now()
			if err := get(t.Context(), tr); err != nil || time.Since(began) != time.Second {
				t.Errorf("somebody waited for %s: %v", time.Since(began), err)
			}
		}
		stop()
		asking.Wait()
	})
}

// TestTransportBreaker: a forge that fails again and again is left alone but for a probe every 5 s, and used when it answers.
func TestTransportBreaker(t *testing.T) {
	for name, f := range map[string]*fakeForge{
		"hangs up": {err: io.ErrUnexpectedEOF}, "500": {status: 500}, "502": {status: 502},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := limited(t, f, nil)
				for range 50 {
					_ = get(t.Context(), tr)
				}
				if n := f.count(); n != 5 {
					t.Errorf("asked %d times, want 5", n)
				}
				if err := get(t.Context(), tr); !errors.Is(err, ErrResting) {
					t.Errorf("while it rests: %v", err)
				}
				for range 10 {
					time.Sleep(5100 * time.Millisecond)
					_ = get(t.Context(), tr)
					_ = get(t.Context(), tr)
				}
				if n := f.count(); n != 15 {
					t.Errorf("asked %d times, want 10 probes more", n)
				}
				f.status, f.err = 200, nil
				time.Sleep(5100 * time.Millisecond)
				for range 3 {
					if err := get(t.Context(), tr); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// TestTransportOwnTokenRefused: a forge that does not know the gate is not asked on; other people's tokens say nothing of it.
func TestTransportOwnTokenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeForge{status: http.StatusUnauthorized}
		tr := limited(t, f, nil)
		for range 20 {
			_ = get(t.Context(), tr)
		}
		if n := f.count(); n != 1 {
			t.Errorf("asked %d times with a token that is refused", n)
		}
		f = &fakeForge{status: http.StatusUnauthorized}
		tr = limited(t, f, func(c *TransportConfig) { c.Foreign = true })
		for range 20 {
			if err := get(t.Context(), tr); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestTransportAnonymous: without a token a 401 is an answer, and more such questions are asked.
func TestTransportAnonymous(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := limited(t, &fakeForge{status: http.StatusUnauthorized}, nil)
		for range 20 {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://git.example.com/x", nil)
			answer, err := tr.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
		}
	})
}

// TestTransportForeignLimit: what one person's token has used up does not keep others away.
func TestTransportForeignLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, f := range []*fakeForge{
			{status: 429, header: http.Header{"Retry-After": {"3600"}}}, {status: 200, header: http.Header{"Ratelimit-Remaining": {"0"}}},
		} {
			tr := limited(t, f, func(c *TransportConfig) { c.Foreign = true })
			_ = get(t.Context(), tr)
			time.Sleep(maxForeignRest)
			if err := get(t.Context(), tr); err != nil {
				t.Errorf("after %s: %v", maxForeignRest, err)
			}
		}
	})
}

// TestTransportRests: what a forge says about being asked too much is obeyed, in each of its forms, and not for ever.
func TestTransportRests(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		header map[string]string
		want   time.Duration
	}{
		{"seconds", 429, map[string]string{"Retry-After": "7"}, 7 * time.Second},
		{"a date", 429, map[string]string{"Retry-After": "Sat, 01 Jan 2000 00:00:20 GMT"}, 20 * time.Second},
		{"nothing", 429, nil, time.Second},
		{"nonsense", 429, map[string]string{"Retry-After": "soon"}, time.Second},
		{"in the past", 429, map[string]string{"Retry-After": "Sat, 01 Jan 1999 00:00:20 GMT"}, time.Second},
		{"a day", 429, map[string]string{"Retry-After": "86400"}, maxRest},
		{"403 with a secondary limit", 403, map[string]string{"Retry-After": "60"}, time.Minute},
		{"403 with the quota used up", 403, map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "946684830"}, 30 * time.Second},
		{"403 about the question", 403, map[string]string{"X-RateLimit-Remaining": "10"}, 0},
		{"503 with a rest", 503, map[string]string{"Retry-After": "3"}, 3 * time.Second},
		{"the last one of a quota", 200, map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "946684830"}, 30 * time.Second},
		{"the last one at GitLab", 200, map[string]string{"RateLimit-Remaining": "0", "RateLimit-Reset": "946684830"}, 30 * time.Second},
		{"plenty", 200, map[string]string{"X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "946684830"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // where it is midnight UTC of 2000-01-01
				f := &fakeForge{status: c.status, header: http.Header{}}
				for name, value := range c.header {
					f.header.Set(name, value)
				}
				tr := limited(t, f, nil)
				if err := get(t.Context(), tr); err != nil {
					t.Fatal(err)
				}
				f.status, f.header = 200, http.Header{}
				if c.want > 0 {
					time.Sleep(c.want - time.Millisecond)
					if err := get(t.Context(), tr); !errors.Is(err, ErrResting) {
						t.Errorf("before the rest is over: %v", err)
					}
					time.Sleep(2 * time.Millisecond)
				}
				if err := get(t.Context(), tr); err != nil {
					t.Errorf("after %s: %v", c.want, err)
				}
			})
		})
	}
}

// TestTransportLeaves: a request whose asker leaves gives its place to the next, and is no failure of the forge.
func TestTransportLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeForge{took: time.Hour}
		tr := limited(t, f, func(c *TransportConfig) { c.PerSecond, c.Burst = 1000, 1000 })
		for range 50 {
			ctx, leave := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, leave)
			if err := get(ctx, tr); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		}
		f.took = 0
		if err := get(t.Context(), tr); err != nil {
			t.Errorf("after 50 who left: %v", err)
		}
	})
}

// TestTransportConfig: limits that let nothing through are refused.
func TestTransportConfig(t *testing.T) {
	for _, c := range []TransportConfig{{}, {PerSecond: 1, Burst: 1, Concurrent: 2}, {PerSecond: 1, Burst: 2, Concurrent: 1}, {Burst: 2, Concurrent: 2}} {
		if _, err := NewTransport(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}
