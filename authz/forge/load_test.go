package forge_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

// demand is how much is asked of a cache.
type demand struct {
	users, repos, perUser int // each decision is about so many repositories of one user
	perSecond             int // decisions
	rate, burst           int // requests that the forge takes
	cold, warm            time.Duration
}

// TestLoad asks a cache in front of a forge that takes 50 ms for each answer as a busy gate does, and has the forge count: its limit is
// never exceeded. LOAD=full asks for 10,000 users of 500 repositories.
func TestLoad(t *testing.T) {
	l := demand{users: 300, repos: 50, perUser: 10, perSecond: 500, rate: 200, burst: 100, cold: 3 * time.Second, warm: 2 * time.Second}
	if os.Getenv("LOAD") == "full" {
		l = demand{users: 10_000, repos: 500, perUser: 10, perSecond: 2000, rate: 500, burst: 250, cold: 30 * time.Second, warm: 30 * time.Second}
	}
	s := newBusyForge(t, l)
	cache := s.cache(t)
	before := heap()
	cold := s.run(t, cache, l.cold)
	t.Logf("cold: %s; %d questions", cold, s.count())
	s.fill(t, cache)
	asked := s.count()
	warm := s.run(t, cache, l.warm)
	t.Logf("warm: %s; %d questions", warm, s.count()-asked)
	t.Logf("%d users of %d repositories, each known of each: %d MiB, %d bytes a user", l.users, l.repos, (heap()-before)>>20, (heap()-before)/uint64(l.users))
	if s.over > 0 {
		t.Errorf("the forge's limit of %d a second and %d in a burst was exceeded %d times", l.rate, l.burst, s.over)
	}
	if warm.failed > 0 {
		t.Errorf("%d decisions of a warm cache failed", warm.failed)
	}
	runtime.KeepAlive(cache)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// busyForge is a forge over HTTP that counts what it is asked against its limit.
type busyForge struct {
	demand
	*httptest.Server

	mu     sync.Mutex // guards what follows
	asked  int
	tokens float64 // of the limit, as the forge counts
	last   time.Time
	over   int
}

func newBusyForge(t *testing.T, l demand) *busyForge {
	s := &busyForge{demand: l, tokens: float64(l.burst), last: time.Now()}
	s.Server = httptest.NewServer(http.HandlerFunc(s.answer))
	t.Cleanup(s.Close)
	return s
}

// atOnce is how many requests are under way at most. So many may arrive later than they were allowed to go, with others.
const atOnce = 64

func (s *busyForge) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	now := time.Now()
	s.tokens = min(float64(s.burst), s.tokens+now.Sub(s.last).Seconds()*float64(s.rate))
	s.last = now
	s.asked++
	if s.tokens--; s.tokens < -atOnce {
		s.over++
	}
	s.mu.Unlock()
	time.Sleep(50 * time.Millisecond)
	repos, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var answers []bool
	for _, id := range strings.Split(string(repos), "\n") {
		answers = append(answers, mayRead(r.URL.Query().Get("user"), id))
	}
	_ = json.MarshalWrite(w, answers)
}

// mayRead is the truth: half of the repositories.
func mayRead(user, repo string) bool { return len(user+repo)%2 == 0 }

func (s *busyForge) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// busyProvider asks a busyForge.
type busyProvider struct {
	url    string
	client *http.Client
}

func (s *busyForge) cache(t *testing.T) *forge.Cache {
	limited, err := forge.NewTransport(forge.TransportConfig{
		Forge: "busy", PerSecond: float64(s.rate), Burst: s.burst, Concurrent: atOnce,
		Base: &http.Transport{MaxIdleConnsPerHost: atOnce},
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := forge.NewCache(forge.CacheConfig{
		Name: "busy", Hub: forge.NewHub(forge.HubConfig{}), Provider: &busyProvider{s.URL, &http.Client{Transport: limited}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Access implements [forge.Provider].
func (p *busyProvider) Access(ctx context.Context, who authn.Principal, repos []forge.Repo) ([]forge.Fact, error) {
	ids := make([]string, len(repos))
	for i, r := range repos {
		ids[i] = r.ID
	}
	at := time.Now()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"?user="+who.ID, strings.NewReader(strings.Join(ids, "\n")))
	if err != nil {
		return nil, err
	}
	answer, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var may []bool
	if err := json.UnmarshalRead(answer.Body, &may); err != nil {
		return nil, err
	}
	facts := make([]forge.Fact, len(repos))
	for i, r := range repos {
		facts[i] = forge.Fact{Repo: r, Access: forge.None, At: at, NotAfter: at.Add(time.Hour), Origin: "a busy forge"}
		if may[i] {
			facts[i].Access = forge.Read
		}
	}
	return facts, nil
}

// Batch implements [forge.Bulk].
func (p *busyProvider) Batch() int { return 500 }

// outcome is how decisions went.
type outcome struct {
	made, failed  int
	p50, p99, max time.Duration
}

func (o outcome) String() string {
	return fmt.Sprintf("%d decisions, %d without an answer in time, p50 %s p99 %s max %s", o.made, o.failed, o.p50, o.p99, o.max)
}

// run asks at the load's pace for a while: each decision is about some repositories of some user.
func (s *busyForge) run(t *testing.T, cache *forge.Cache, length time.Duration) outcome {
	var (
		mu     sync.Mutex // guards took and failed
		took   []time.Duration
		failed int
		asking sync.WaitGroup
	)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); <-tick.C {
		for range s.perSecond / 100 {
			user, first := rand.IntN(s.users), rand.IntN(s.repos)
			asking.Go(func() {
				began := time.Now()
				err := s.decide(t, cache, user, first)
				mu.Lock()
				defer mu.Unlock()
				if took = append(took, time.Since(began)); err != nil {
					failed++
				}
			})
		}
	}
	asking.Wait()
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond) }
	return outcome{len(took), failed, at(.5), at(.99), at(1)}
}

// decide asks about some repositories of a user and compares the answers with the truth.
func (s *busyForge) decide(t *testing.T, cache *forge.Cache, user, first int) error {
	repos := make([]forge.Repo, s.perUser)
	for i := range repos {
		repos[i] = forge.Repo{Forge: "busy", ID: fmt.Sprint((first + i) % s.repos)}
	}
	return s.ask(t, cache, user, repos)
}

func (s *busyForge) ask(t *testing.T, cache *forge.Cache, user int, repos []forge.Repo) error {
	p := authn.Principal{Forge: "busy", ID: fmt.Sprint("u", user), Kind: authn.Human}
	facts, err := cache.Access(t.Context(), p, repos)
	if err != nil {
		return err
	}
	for i, f := range facts {
		if want := mayRead(p.ID, repos[i].ID); (f.Access == forge.Read) != want {
			t.Errorf("%s may read %s: %s, want %t", p.ID, repos[i].ID, f.Access, want)
		}
	}
	return nil
}

// fill asks about every repository of every user, as fast as the forge takes it.
func (s *busyForge) fill(t *testing.T, cache *forge.Cache) {
	repos := make([]forge.Repo, s.repos)
	for i := range repos {
		repos[i] = forge.Repo{Forge: "busy", ID: fmt.Sprint(i)}
	}
	var asking sync.WaitGroup
	slots := make(chan struct{}, 32)
	for user := range s.users {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			for s.ask(t, cache, user, repos) != nil && t.Context().Err() == nil {
				continue // what was asked before is still being answered
			}
		})
	}
	asking.Wait()
}
