package gwtest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/internal/gwtest"
	"github.com/lychgate/lychgate/internal/gwtest/redis"
	"github.com/lychgate/lychgate/internal/redisdb"
)

const sharedRepo = "public/libfoo"

// cluster is two gates that share a Redis, each behind a network of its own, and a forge.
type cluster struct {
	*testing.T
	remote *gwtest.Remote
	redis  *redis.Server
	links  [2]*redis.Proxy
	gates  [2]*gwtest.Gate
	path   string
	posts  atomic.Int64
	judge  judge
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{T: t, remote: gwtest.NewRemote(), redis: redis.Start(t, redis.Options{})}
	c.remote.Slow(5 * time.Millisecond)
	object := gwtest.NewObject("hello", "package")
	c.path = "/sstate/main/" + object.Name
	for _, user := range []string{"alice", "bob", "carol", "ci"} {
		c.remote.Set(user, sharedRepo, true)
	}
	for i := range c.gates {
		c.links[i] = redis.StartProxy(t, c.redis.Addr)
		db, err := redisdb.New(redisdb.Config{URL: "redis://" + c.links[i].Addr + "/0", Key: bytes.Repeat([]byte("k"), redisdb.KeySize), Node: "node-" + strconv.Itoa(i)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		c.gates[i] = gwtest.New(t, gwtest.Options{Provider: c.remote, Bus: db, Shared: db, Admins: []string{"alice"}})
		c.gates[i].Publish([]gwtest.Object{object}, "git://git.example.com/"+sharedRepo+".git;protocol=https")
	}
	c.inTouch()
	return c
}

// inTouch waits until both nodes hear from each other.
func (c *cluster) inTouch() {
	c.Helper()
	redis.Until(c, "both nodes are in touch", func() bool { return c.gates[0].Hub.Whole() && c.gates[1].Hub.Whole() })
}

// head asks a node as a user, and lets the judge see a yes.
func (c *cluster) head(node int, user string) int {
	began := time.Now()
	status := c.gates[node].As(user).Head(c.path).StatusCode
	if status == http.StatusOK {
		c.judge.saw(user, node, began)
	}
	return status
}

// post posts an event about a user to a node. It returns when the node had it, and whether it could tell the other.
func (c *cluster) post(node int, user string) (at time.Time, accepted bool) {
	c.Helper()
	id := map[string]string{"alice": "1", "bob": "2", "carol": "3"}[user]
	body, signature := gwtest.SignedHook(gwtest.RemoteHook{ID: strconv.FormatInt(c.posts.Add(1), 10), User: id})
	res := c.gates[node].WithToken("").Do(http.MethodPost, "/v1/hooks/"+gwtest.Forge, body, "X-Signature", signature)
	if res.StatusCode != http.StatusNoContent && res.StatusCode != http.StatusServiceUnavailable {
		c.Fatalf("post: %d %s", res.StatusCode, res.Bytes)
	}
	return time.Now(), res.StatusCode == http.StatusNoContent
}

// revoke takes a user's right away, tells a node, and tells the judge. A node that cannot tell the others answers 503, and whoever
// posts tries again, which leads to the other node.
func (c *cluster) revoke(node int, user string) time.Time {
	c.Helper()
	c.remote.Set(user, sharedRepo, false)
	at, accepted := c.post(node, user)
	limits := [2]time.Time{at.Add(forge.Fence), at.Add(forge.Fence)}
	limits[node] = at
	if !accepted {
		at, _ = c.post(1-node, user)
		limits[1-node] = at
	}
	c.judge.revoked(user, limits)
	return at
}

// grant gives it back, and waits until both nodes know.
func (c *cluster) grant(user string) {
	c.Helper()
	c.judge.granted(user)
	c.remote.Set(user, sharedRepo, true)
	redis.Until(c, user+" may read again at both nodes", func() bool {
		if c.head(0, user) == http.StatusOK && c.head(1, user) == http.StatusOK {
			return true
		}
		c.post(0, user)
		return false
	})
}

// judge looks for a yes that came later than a revocation and its bound: none at the node that was told, [forge.Fence] at the other.
type judge struct {
	mu      sync.Mutex // guards what follows
	limits  map[string][2]time.Time
	crimes  []string
	allowed int
}

func (j *judge) revoked(user string, limits [2]time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.limits == nil {
		j.limits = map[string][2]time.Time{}
	}
	j.limits[user] = limits
}

func (j *judge) granted(user string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.limits, user)
}

// saw judges a yes to a request that began at a time.
func (j *judge) saw(user string, node int, began time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.allowed++
	if limits, ok := j.limits[user]; ok && began.After(limits[node]) {
		j.crimes = append(j.crimes, fmt.Sprintf("node %d lets %s read %s after it had to know", node, user, began.Sub(limits[node])))
	}
}

func (c *cluster) verdict() {
	c.Helper()
	c.judge.mu.Lock()
	defer c.judge.mu.Unlock()
	if len(c.judge.crimes) > 0 {
		c.Errorf("%d of %d answers break the promise; the first: %s", len(c.judge.crimes), c.judge.allowed, c.judge.crimes[0])
	}
	if c.judge.allowed == 0 {
		c.Error("nobody was let in: the judge saw nothing")
	}
}

// load has users read at both nodes until it is stopped.
func (c *cluster) load(workers int, users ...string) (stop func()) {
	ctx, cancel := context.WithCancel(c.Context())
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			for ctx.Err() == nil {
				c.head(w%2, users[rand.IntN(len(users))])
			}
		})
	}
	return func() { cancel(); running.Wait() }
}

// denied returns how long after a time a node first denied, asking again and again.
func (c *cluster) denied(node int, user string, since time.Time) time.Duration {
	for {
		status := c.head(node, user)
		if status == http.StatusNotFound || status == http.StatusServiceUnavailable {
			return time.Since(since)
		}
		if time.Since(since) > time.Minute {
			c.Fatalf("node %d still answers %d", node, status)
		}
	}
}

// TestRevocationLatency measures how long an event at one node takes to a denial at both, under load, and has a judge look at
// every answer meanwhile. REVOCATIONS sets how many are made.
func TestRevocationLatency(t *testing.T) {
	n := 40
	if text := os.Getenv("REVOCATIONS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			t.Fatalf("REVOCATIONS=%s: want a number", text)
		}
	}
	c := newCluster(t)
	stop := c.load(4, "alice", "carol", "bob")
	var here, there []time.Duration
	for i := range n {
		node := i % 2
		c.grant("bob")
		began := time.Now()
		c.revoke(node, "bob")
		var local, remote time.Duration
		var asking sync.WaitGroup
		asking.Go(func() { local = c.denied(node, "bob", began) })
		asking.Go(func() { remote = c.denied(1-node, "bob", began) })
		asking.Wait()
		here, there = append(here, local), append(there, remote)
	}
	stop()
	c.verdict()
	t.Logf("%d revocations, from the post of the event to the first denial, under load: at that node p50 %s p99 %s, at the other p50 %s p99 %s; %d answers judged",
		n, quantile(here, .5), quantile(here, .99), quantile(there, .5), quantile(there, .99), c.judge.allowed)
}

func quantile(d []time.Duration, q float64) time.Duration {
	slices.Sort(d)
	return d[int(q*float64(len(d)-1))].Round(100 * time.Microsecond)
}

// TestRevocationInBadWeather revokes while Redis is away, cut off from one node or both, slow, stopped, emptied or written to by
// somebody else. In none of it does a node let anybody in after the bound, and afterwards all is well.
func TestRevocationInBadWeather(t *testing.T) {
	c := newCluster(t)
	stop := c.load(2, "alice", "carol", "bob")
	defer stop()
	for _, w := range []struct {
		name       string
		begin, end func()
	}{
		{"fair", func() {}, func() {}},
		{"redis killed", func() { c.redis.Kill(t) }, func() { c.redis.Restart(t) }},
		{"redis frozen", func() { c.redis.Freeze(t) }, func() { c.redis.Thaw(t) }},
		{"the told node cut off", func() { c.links[0].Cut() }, func() { c.links[0].Heal() }},
		{"the other node cut off", func() { c.links[1].Cut() }, func() { c.links[1].Heal() }},
		{"the other node is not heard", func() { c.links[1].Hold(true, false) }, func() { c.links[1].Heal() }},
		{"the other node hears nothing", func() { c.links[1].Hold(false, true) }, func() { c.links[1].Heal() }},
		{"slow", func() { c.links[0].Slow(300 * time.Millisecond); c.links[1].Slow(700 * time.Millisecond) }, func() { c.links[0].Heal(); c.links[1].Heal() }},
		{"emptied", func() { c.redis.Do(t, "FLUSHALL") }, func() {}},
		{"emptied afterwards", func() {}, func() { c.redis.Do(t, "FLUSHALL") }},
		{"killed and empty", func() { c.redis.Kill(t); c.redis.Wipe(t); c.redis.Restart(t) }, func() {}},
		{"the git server fails", func() { c.remote.Fail(io.ErrUnexpectedEOF) }, func() { c.remote.Fail(nil) }},
		{"the git server is slow", func() { c.remote.Slow(3 * time.Second) }, func() { c.remote.Slow(5 * time.Millisecond) }},
		{"the git server rests", func() { c.remote.Fail(forge.ErrResting) }, func() { c.remote.Fail(nil) }},
		{"the git server lies", func() { c.remote.Lie(true) }, func() { c.remote.Lie(false) }},
		{"old values put back", func() { c.putBack(t) }, func() {}},
	} {
		c.inTouch()
		c.grant("bob")
		w.begin()
		at := c.revoke(0, "bob")
		c.denied(0, "bob", at)
		took := c.denied(1, "bob", at)
		time.Sleep(time.Until(at.Add(forge.Fence + time.Second)))
		if status := c.head(1, "bob"); status == http.StatusOK {
			t.Errorf("%s: the other node lets bob in again", w.name)
		}
		w.end()
		c.denied(1, "bob", time.Now())
		t.Logf("%-28s the other node denied %s after the event", w.name, took.Round(time.Millisecond))
	}
	c.inTouch()
	c.grant("bob")
	c.verdict()
}

// putBack has somebody who may write to Redis keep what it says of bob, and put it back, again and again, after the revocation.
func (c *cluster) putBack(t *testing.T) {
	ctx := t.Context()
	keys, err := c.redis.Admin.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	dumps := map[string]string{}
	for _, key := range keys {
		if dump, err := c.redis.Admin.Dump(ctx, key).Result(); err == nil && c.redis.Admin.Type(ctx, key).Val() == "string" {
			dumps[key] = dump
		}
	}
	if len(dumps) == 0 {
		t.Fatal("Redis holds no facts: the test would show nothing")
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		for range 200 {
			for key, dump := range dumps {
				_ = c.redis.Admin.RestoreReplace(ctx, key, time.Hour, dump).Err()
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	t.Cleanup(writing.Wait)
}

// TestRevokeNamesWhoDidNotAnswer: the synchronous revocation returns when every node has it, and names a node that is cut off, which
// trusts nothing by then.
func TestRevokeNamesWhoDidNotAnswer(t *testing.T) {
	c := newCluster(t)
	alice := c.gates[0].As("alice")
	request := []byte(`{"forge": "` + gwtest.Forge + `", "user": "carol"}`)
	c.head(1, "carol")
	res := alice.Do(http.MethodPost, "/v1/revoke", request)
	if res.StatusCode != http.StatusOK || !bytes.Contains(res.Bytes, []byte(`"late":[]`)) {
		t.Errorf("all well: %d %s", res.StatusCode, res.Bytes)
	}
	c.links[1].Hold(false, true)
	res = alice.Do(http.MethodPost, "/v1/revoke", request)
	late := res.StatusCode == http.StatusOK && bytes.Contains(res.Bytes, []byte(`node-1`))
	if !late && c.gates[1].Hub.Whole() {
		t.Errorf("a node that hears nothing: %d %s, and it trusts what it knows", res.StatusCode, res.Bytes)
	}
}
