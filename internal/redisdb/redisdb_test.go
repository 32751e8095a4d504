package redisdb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/bustest"
	"github.com/lychgate/lychgate/internal/gwtest/redis"
	"github.com/lychgate/lychgate/internal/redisdb"
)

// key is what the nodes of these tests share.
var key = []byte("0123456789abcdef0123456789abcdef")

// open makes a DB that ends with the test.
func open(t testing.TB, cfg redisdb.Config) *redisdb.DB {
	t.Helper()
	if cfg.Key == nil {
		cfg.Key = key
	}
	if cfg.Node == "" {
		cfg.Node = "n"
	}
	db, err := redisdb.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// counts counts what was rejected, by kind.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[what]++
}

func (c *counts) of(whats ...string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, what := range whats {
		n += c.n[what]
	}
	return n
}

// node is a DB that runs.
type node struct {
	*redisdb.DB
	in       *bustest.Recorder
	rejected *counts
	stop     func()
}

// start runs a node and waits until it has heard something.
func start(t testing.TB, cfg redisdb.Config) *node {
	t.Helper()
	n := &node{in: bustest.NewRecorder(t, cfg.Node), rejected: new(counts)}
	cfg.Rejected = n.rejected.add
	n.DB = open(t, cfg)
	n.stop = n.in.Follow(n.DB)
	n.in.WaitFresh()
	return n
}

func event(why string, args ...any) forge.Event {
	return forge.Event{Forge: "git.example.com", Why: fmt.Sprintf(why, args...)}
}

// publish tries until the event is published, as a gate does.
func publish(t testing.TB, n *node, e forge.Event) (position uint64) {
	t.Helper()
	redis.Until(t, "published "+e.Why, func() (ok bool) {
		var err error
		position, err = n.Publish(t.Context(), e)
		return err == nil
	})
	return position
}

// tell publishes an event at one node and waits until all have applied it.
func tell(t testing.TB, e forge.Event, from *node, to ...*node) {
	t.Helper()
	publish(t, from, e)
	for _, n := range append(to, from) {
		n.in.WaitFor(e)
	}
}

func gate(t testing.TB, cfg redisdb.Config) bustest.Gate {
	return func(name string) bustest.Node {
		cfg.Node = name
		db := open(t, cfg)
		return bustest.Node{Bus: db, Shared: db}
	}
}

// conform runs the suites; each case has a gate of its own.
func conform(t *testing.T, cfg redisdb.Config) {
	n := 0
	fresh := func(t *testing.T) bustest.Gate {
		n++
		own := cfg
		own.Prefix = fmt.Sprintf("%s%d", cfg.Prefix, n)
		return gate(t, own)
	}
	bustest.Run(t, fresh)
	bustest.RunShared(t, fresh)
}

func TestConformance(t *testing.T) {
	t.Parallel()
	conform(t, redisdb.Config{URL: redis.Start(t, redis.Options{}).URL()})
}

// aclLine is the line that docs/redis.md gives to operators.
func aclLine(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^user lychgate .*$`).Find(page)
	if line == nil {
		t.Fatal("docs/redis.md has no line for the ACL file")
	}
	return string(line)
}

// TestConformanceTLS: a server that wants a certificate, and a user that may do what the documentation says and no more.
func TestConformanceTLS(t *testing.T) {
	t.Parallel()
	line := strings.NewReplacer("PASSWORD", "secret", "~{lychgate}:*", "~{lychgate*}:*").Replace(aclLine(t))
	s := redis.Start(t, redis.Options{TLS: true, Users: []string{line}})
	cfg := redisdb.Config{
		URL: s.URL() + "/0", TLS: s.TLS, Username: "lychgate", Prefix: "lychgate", Replicas: 0,
		Password: func() (authn.Secret, error) { return authn.NewSecret("secret"), nil },
	}
	conform(t, cfg)

	for name, spoil := range map[string]func(*redisdb.Config){
		"another user's keys": func(c *redisdb.Config) { c.Prefix = "other" },
		"no certificate":      func(c *redisdb.Config) { c.TLS = c.TLS.Clone(); c.TLS.Certificates = nil },
		"another authority":   func(c *redisdb.Config) { c.TLS = nil },
		"no TLS":              func(c *redisdb.Config) { c.TLS = nil; c.URL = "redis://" + s.Addr },
		"no password":         func(c *redisdb.Config) { c.Password = nil },
		"another password": func(c *redisdb.Config) {
			c.Password = func() (authn.Secret, error) { return authn.NewSecret("x"), nil }
		},
		"no password to be had": func(c *redisdb.Config) {
			c.Password = func() (authn.Secret, error) { return authn.Secret{}, errors.New("gone") }
		},
	} {
		wrong := cfg
		spoil(&wrong)
		if position, err := open(t, wrong).Publish(t.Context(), event("wrong")); err == nil {
			t.Errorf("%s: published at %d", name, position)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func TestConformanceCluster(t *testing.T) {
	t.Parallel()
	servers := redis.StartCluster(t)
	// One that need not be the master of our slot.
	conform(t, redisdb.Config{URL: "redis-cluster://" + servers[0].Addr})
}

func TestConformanceSentinel(t *testing.T) {
	t.Parallel()
	conform(t, redisdb.Config{URL: redis.StartReplicated(t).URL(), Replicas: 1})
}

func TestNewRefuses(t *testing.T) {
	good := redisdb.Config{URL: "redis://127.0.0.1", Key: key, Node: "n"}
	if db, err := redisdb.New(good); err != nil {
		t.Error(err)
	} else if err := db.Close(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*redisdb.Config){
		"32 random bytes":    func(c *redisdb.Config) { c.Key = key[1:] },
		"a key is 0 bytes":   func(c *redisdb.Config) { c.Key = nil },
		"a key is 1 bytes":   func(c *redisdb.Config) { c.OtherKeys = [][]byte{{1}} },
		"give it a name":     func(c *redisdb.Config) { c.Node = "a/b" },
		"prefix":             func(c *redisdb.Config) { c.Prefix = "a}b" },
		"number of replicas": func(c *redisdb.Config) { c.Replicas = -1 },
		"write rediss":       func(c *redisdb.Config) { c.TLS = redis.Start(t, redis.Options{TLS: true}).TLS },
		"write redis://HOST": func(c *redisdb.Config) { c.URL = "" },
		"give them apart":    func(c *redisdb.Config) { c.URL = "redis://u:p@127.0.0.1" },
		"the sentinels' password": func(c *redisdb.Config) {
			c.SentinelPassword = func() (authn.Secret, error) { return authn.Secret{}, errors.New("gone") }
		},
	} {
		cfg := good
		spoil(&cfg)
		if _, err := redisdb.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestAway: without Redis everything fails, and soon; when it comes, all works without anybody's help.
func TestAway(t *testing.T) {
	t.Parallel()
	s := redis.Start(t, redis.Options{})
	s.Kill(t)
	n := &node{in: bustest.NewRecorder(t, "n"), DB: open(t, redisdb.Config{URL: s.URL()})}
	n.in.Follow(n.DB)
	for range 3 {
		if position, err := n.Publish(t.Context(), event("away")); err == nil {
			t.Errorf("published at %d", position)
		}
		if value, err := n.Get(t.Context(), "k"); err == nil {
			t.Errorf("found %q", value)
		}
		if err := n.Put(t.Context(), "k", nil, time.Now().Add(time.Hour)); err == nil {
			t.Error("put")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if late, err := n.Await(ctx, 1); err == nil {
		t.Errorf("awaited: %v", late)
	}
	if !n.in.Fresh().IsZero() || len(n.in.Words()) > 0 {
		t.Errorf("heard of %v, told %v", n.in.Fresh(), n.in.Words())
	}
	s.Restart(t)
	n.in.WaitFresh()
	tell(t, event("there"), n)
}

// TestOneName: two processes that were given one name are two, and both are waited for.
func TestOneName(t *testing.T) {
	t.Parallel()
	cfg := redisdb.Config{URL: redis.Start(t, redis.Options{}).URL(), Node: "same"}
	a, b := start(t, cfg), start(t, cfg)
	position := publish(t, a, event("e"))
	if late, err := a.Await(t.Context(), position); len(late) > 0 || err != nil {
		t.Fatalf("late: %v, %v", late, err)
	}
	for _, n := range []*node{a, b} {
		if !slices.Contains(n.in.Events(), event("e")) {
			t.Error("nobody is late, and one has not applied the event")
		}
	}
}

// TestNewKey: the key is replaced while the gate runs, one node after the other, and no node loses anything.
func TestNewKey(t *testing.T) {
	t.Parallel()
	s := redis.Start(t, redis.Options{})
	another := []byte("another 89abcdef0123456789abcdef")
	witness := start(t, redisdb.Config{URL: s.URL(), Node: "witness", OtherKeys: [][]byte{another}})
	for i, cfg := range []redisdb.Config{
		{Key: key, OtherKeys: [][]byte{another}},
		{Key: another, OtherKeys: [][]byte{key}},
		{Key: another, OtherKeys: [][]byte{key}},
	} {
		cfg.URL, cfg.Node = s.URL(), fmt.Sprintf("n%d", i)
		n := start(t, cfg)
		tell(t, event("from the new %d", i), n, witness)
		tell(t, event("to the new %d", i), witness, n)
	}
	tell(t, event("the last"), witness)
	last := start(t, redisdb.Config{URL: s.URL(), Key: another, Node: "last", OtherKeys: [][]byte{key}})
	tell(t, event("without the old"), last, witness)
	if witness.in.Losses() != 1 || witness.rejected.of("event", "order", "node") > 0 {
		t.Errorf("lost %d times, rejected %v", witness.in.Losses(), witness.rejected.n)
	}
}

// TestStranger: a node with another key is heard by nobody, and hears nobody, and whatever it does is safe.
func TestStranger(t *testing.T) {
	t.Parallel()
	s := redis.Start(t, redis.Options{})
	a := start(t, redisdb.Config{URL: s.URL(), Node: "a"})
	stranger := open(t, redisdb.Config{URL: s.URL(), Key: []byte("strange 89abcdef0123456789abcdef")})
	losses := a.in.Losses()
	if _, err := stranger.Publish(t.Context(), event("strange")); err != nil {
		t.Fatal(err)
	}
	a.in.Until("has lost something", func() bool { return a.in.Losses() > losses })
	tell(t, event("ours"), a)
	if slices.Contains(a.in.Events(), event("strange")) {
		t.Error("applied a stranger's event")
	}
}
