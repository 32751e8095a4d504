package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/policy"
)

const (
	sets      = 4000 // of three sources each, so that as many answers are fresh
	warmSets  = 100  // which between them name every repository
	deciders  = 5    // users, each of whom everything is fresh for
	maxFresh  = 60 * time.Microsecond
	maxMemory = 500 * time.Nanosecond
)

// measureDecision asks the real Authorizer with the shipped policy, in this process: first about source sets that the principal has
// not met, whose facts are known, then about the same again.
func measureDecision(ctx context.Context, w *world) ([]row, error) {
	d, err := newDecisions(ctx)
	if err != nil {
		return nil, err
	}
	var fresh, remembered []time.Duration
	var allocations float64
	for user := range deciders {
		f, r, a, err := d.measure(ctx, user)
		if err != nil {
			return nil, err
		}
		fresh, remembered, allocations = append(fresh, f), append(remembered, r), max(allocations, a)
	}
	slices.Sort(fresh)
	slices.Sort(remembered)
	f, r := fresh[len(fresh)/2], remembered[len(remembered)/2]
	rows := []row{
		{work: "fresh decision, three sources, facts known", gate: micros(f), target: "≤ 60 µs", met: verdict(f <= maxFresh)},
		{
			work: "remembered decision, one of 4,000", gate: micros(r) + fmt.Sprintf(", %.2g allocations", allocations),
			target: "≤ 0.5 µs, none", met: verdict(r <= maxMemory && allocations < 0.01),
		},
	}
	return rows, w.besideOPA(ctx, &rows[0], f)
}

// besideOPA adds what the same decision costs at OPA's own server.
func (w *world) besideOPA(ctx context.Context, r *row, ours time.Duration) error {
	if _, err := os.Stat(w.path("opaserver")); err != nil {
		return nil // missing says so
	}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	basic := base64.StdEncoding.EncodeToString([]byte("alice:" + w.token))
	body := `{"path":"/sstate/main/{NAME}","authorization":"Basic ` + basic + `"}`
	length := len(strings.Replace(body, "{NAME}", smallName(0), 1))
	opa := contender{
		server: server{name: "OPA's server, by HTTP on one connection", addr: w.opaAddr, start: func(ctx context.Context) ([]*process, error) { return startOPA(ctx, w) }},
		order: load{
			Addr: w.opaAddr, Names: w.path("small.names"), Conns: 1, Length: -1, Duration: w.duration,
			Request: "POST /v0/data/peer/allow HTTP/1.1\r\nHost: opa\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(length) + "\r\n\r\n" + body,
		},
	}
	all, err := w.compare(ctx, opa)
	if err != nil {
		return err
	}
	theirs := time.Duration(float64(time.Second) / all[opa.name].median(turn.rate))
	r.peer, r.figure, r.ratio = opa.name, micros(theirs), float64(theirs)/float64(ours)
	return nil
}

// decisions is an Authorizer over many source sets and a few users.
type decisions struct {
	authorizer *authz.Authorizer
	refs       []artifact.Ref
}

func newDecisions(ctx context.Context) (*decisions, error) {
	forges, err := decisionForge()
	if err != nil {
		return nil, err
	}
	store := provenance.NewMemStore()
	d := &decisions{}
	for n := range sets {
		ref, err := publishSet(ctx, store, forges, n)
		if err != nil {
			return nil, err
		}
		d.refs = append(d.refs, ref)
	}
	engine, err := policy.New(policy.Config{Data: map[string]any{"transitive": false}})
	if err != nil {
		return nil, err
	}
	d.authorizer, err = authz.New(authz.Config{
		Records: store, Forge: forges, Directory: forges, Policy: engine, Zones: []artifact.Zone{{Name: "main"}},
	})
	return d, err
}

func decisionForge() (*forge.Multi, error) {
	f, err := os.CreateTemp("", "lychgate-bench-*.yaml")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	var text strings.Builder
	text.WriteString("hosts: [git.example.com]\nusers:\n")
	for user := range deciders {
		fmt.Fprintf(&text, "  - {id: %q, name: user%d, kind: human}\n", strconv.Itoa(user), user)
	}
	text.WriteString("access:\n")
	for user := range deciders {
		fmt.Fprintf(&text, "  - {repos: [\"team/**\"], users: [user%d]}\n", user)
	}
	_, err = f.WriteString(text.String())
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	static, err := forge.LoadStatic(forge.StaticConfig{Name: "git.example.com", File: f.Name()})
	if err != nil {
		return nil, err
	}
	return forge.NewMulti(forge.Named{Name: "git.example.com", Provider: static})
}

// publishSet records one object built from three repositories that no other was built from together.
func publishSet(ctx context.Context, store *provenance.MemStore, forges *forge.Multi, n int) (artifact.Ref, error) {
	ref, err := artifact.Parse(artifact.Zone{Name: "main"}, smallName(n))
	if err != nil {
		return ref, err
	}
	sources := sourcesOf(n)
	for i := range sources {
		repo, _, err := forges.Resolve(ctx, sources[i].Locator)
		if err != nil {
			return ref, err
		}
		sources[i].Repo = repo.String()
	}
	set := source.NewSet(sources)
	envelope := []byte("statement " + strconv.Itoa(n))
	claim := provenance.Claim{Statement: sha256.Sum256(envelope), Sources: set.ID(), Inputs: set.ID(), Signer: "ci"}
	_, err = store.Put(ctx, provenance.Publication{Envelope: envelope, Sets: []*source.Set{set}, Records: []provenance.Record{{
		Ref: ref, Digest: sha256.Sum256(smallContent(n)), Size: smallBytes, Claims: []provenance.Claim{claim}, Writer: "ci", Time: time.Now().Add(-time.Hour),
	}}})
	return ref, err
}

// measure returns what a fresh and a remembered decision take one user, and how often the latter allocates.
func (d *decisions) measure(ctx context.Context, user int) (fresh, remembered time.Duration, allocations float64, err error) {
	p, err := d.authorizer.Identify(ctx, authn.Principal{Forge: "git.example.com", ID: strconv.Itoa(user), Kind: authn.Human})
	if err != nil {
		return 0, 0, 0, err
	}
	if err := d.decide(ctx, p, d.refs[:warmSets], false); err != nil {
		return 0, 0, 0, err
	}
	rest := d.refs[warmSets:]
	began := time.Now()
	if err := d.decide(ctx, p, rest, false); err != nil {
		return 0, 0, 0, err
	}
	fresh = time.Since(began) / time.Duration(len(rest))

	const again = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began = time.Now()
	for range again {
		if err := d.decide(ctx, p, rest, true); err != nil {
			return 0, 0, 0, err
		}
	}
	decisions := again * len(rest)
	remembered = time.Since(began) / time.Duration(decisions)
	runtime.ReadMemStats(&after)
	return fresh, remembered, float64(after.Mallocs-before.Mallocs) / float64(decisions), nil
}

// decide asks about each name and demands that the answer allows, from memory or not.
func (d *decisions) decide(ctx context.Context, p *authn.Principal, refs []artifact.Ref, remembered bool) error {
	r := authz.Request{Action: authz.Stat, Door: "https", Principal: p}
	for i := range refs {
		r.Ref = refs[i]
		answer, err := d.authorizer.Decide(ctx, &r)
		switch {
		case err != nil:
			return err
		case answer.Decision.Verdict != authz.Allow:
			return fmt.Errorf("decision on %s: %v", refs[i].Path, answer.Decision.Reasons)
		case answer.Remembered != remembered:
			return fmt.Errorf("decision on %s: remembered is %v", refs[i].Path, answer.Remembered)
		}
	}
	return nil
}
