// Package storetest is the conformance suite of provenance.Store: what every implementation must do, whatever keeps
// its data.
package storetest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

// Run runs the suite. Each case calls open once and expects an empty store that lives until the case ends.
// Times in it are whole seconds, so a store may keep less than a nanosecond's precision.
func Run(t *testing.T, open func(t *testing.T) provenance.Store) {
	cases := []struct {
		name string
		run  func(*testing.T, provenance.Store)
	}{
		{"absent", testAbsent},
		{"stored reads back", testRoundTrip},
		{"parts are looked up apart", testParts},
		{"zones are apart", testZones},
		{"the same digest adds a claim", testConfirmed},
		{"the same statement adds no claim", testSameStatement},
		{"a claim that repeats one is not added", testRepeated},
		{"claims are bounded", testMaxClaims},
		{"a record once returned does not change", testSnapshot},
		{"another digest keeps the first bytes", testKept},
		{"one publication, three outcomes", testMixed},
		{"mirror becomes blob", testUpgrade},
		{"a missing set refuses all", testMissingSet},
		{"a stored set need not come again", testStoredSet},
		{"a bad publication changes nothing", testBadPublication},
		{"a cancelled put changes nothing", testCancelled},
		{"sets", testSets},
		{"input sets", testInputSets},
		{"chunks", testChunks},
		{"envelopes", testEnvelopes},
		{"many records at once", testMany},
		{"concurrent puts of other bytes", testConcurrentOther},
		{"concurrent puts of the same bytes", testConcurrentSame},
		{"readers beside a writer", testReaders},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// refOf names artifact n in zone.
func refOf(zone string, n int, part artifact.Part) artifact.Ref {
	hash := fmt.Sprintf("%064x", sha256.Sum256([]byte{byte(n >> 8), byte(n)}))
	name := hash[:2] + "/" + hash[2:4] + "/sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:14:" + hash + "_populate_sysroot.tar.zst"
	ref, err := artifact.ParseName(artifact.Zone{Name: zone}, name)
	if err != nil {
		panic(err)
	}
	return ref.WithPart(part)
}

func digestOf(text string) artifact.Digest { return sha256.Sum256([]byte(text)) }

func setOf(paths ...string) *source.Set {
	var sources []source.Source
	for _, p := range paths {
		sources = append(sources, source.Source{
			Type: source.Git, Locator: source.Locator{Host: "git.example.com", Path: p},
			Rev: "50ff9644b9f2a2a4b2d5a4cbe2b9b3d0a8f1c2d3", Repo: "git.example.com:" + p,
		})
	}
	return source.NewSet(sources)
}

// publication publishes records under one statement that reads text, resting on direct and inputs. It sets the
// records' claims, in the caller's slice too.
func publication(text string, direct, inputs *source.Set, records ...provenance.Record) provenance.Publication {
	envelope := []byte(text)
	claim := provenance.Claim{
		Statement: sha256.Sum256(envelope), Sources: direct.ID(), Inputs: inputs.ID(), Signer: "ci-" + text,
	}
	for i := range records {
		records[i].Claims = []provenance.Claim{claim}
	}
	return provenance.Publication{Envelope: envelope, Records: records, Sets: []*source.Set{direct, inputs}}
}

func record(ref artifact.Ref, content string) provenance.Record {
	return provenance.Record{
		Ref: ref, Digest: digestOf(content), Size: int64(len(content)), Writer: "git.example.com/42", Time: start,
	}
}

// simple publishes one record of artifact n in zone main.
func simple(text string, n int, content string) provenance.Publication {
	set := setOf("team/" + text)
	return publication(text, set, set, record(refOf("main", n, artifact.Payload), content))
}

func put(t *testing.T, s provenance.Store, p provenance.Publication, want ...provenance.Outcome) {
	t.Helper()
	got, err := s.Put(t.Context(), p)
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("put outcomes %v, want %v", got, want)
	}
}

func lookup(t *testing.T, s provenance.Store, ref artifact.Ref) provenance.Record {
	t.Helper()
	r, err := s.Lookup(t.Context(), ref)
	if err != nil {
		t.Fatalf("look up %s: %v", ref.Name(), err)
	}
	return r
}

func same(t *testing.T, got, want provenance.Record) {
	t.Helper()
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Fatalf("record differs (-want +got):\n%s", diff)
	}
}

func absent(t *testing.T, s provenance.Store, ref artifact.Ref) {
	t.Helper()
	if r, err := s.Lookup(t.Context(), ref); !errors.Is(err, provenance.ErrNoRecord) {
		t.Fatalf("look up %s: got %+v, %v; want ErrNoRecord", ref.Name(), r, err)
	}
}

func noEnvelope(t *testing.T, s provenance.Store, text string) {
	t.Helper()
	if b, err := s.Envelope(t.Context(), digestOf(text)); !errors.Is(err, provenance.ErrNoRecord) {
		t.Fatalf("envelope %q: got %q, %v; want ErrNoRecord", text, b, err)
	}
}

func testAbsent(t *testing.T, s provenance.Store) {
	absent(t, s, refOf("main", 1, artifact.Payload))
	absent(t, s, artifact.Ref{})
	noEnvelope(t, s, "a")
}

func testRoundTrip(t *testing.T, s provenance.Store) {
	direct, inputs := setOf("team/a"), setOf("team/a", "team/b")
	r := record(refOf("main", 1, artifact.Payload), "bytes")
	r.Place = provenance.Mirror
	p := publication("a", direct, inputs, r)
	want := p.Records[0]
	put(t, s, p, provenance.Stored)
	same(t, lookup(t, s, want.Ref), want)
}

func testParts(t *testing.T, s provenance.Store) {
	payload, siginfo := refOf("main", 1, artifact.Payload), refOf("main", 1, artifact.Siginfo)
	set := setOf("team/a")
	put(t, s, publication("a", set, set, record(siginfo, "siginfo")), provenance.Stored)
	absent(t, s, payload)
	absent(t, s, refOf("main", 1, artifact.Sig))
	put(t, s, publication("b", set, set, record(payload, "payload")), provenance.Stored)
	if got := lookup(t, s, siginfo).Digest; got != digestOf("siginfo") {
		t.Fatalf("siginfo has digest %v", got)
	}
	if got := lookup(t, s, payload).Digest; got != digestOf("payload") {
		t.Fatalf("payload has digest %v", got)
	}
}

func testZones(t *testing.T, s provenance.Store) {
	set := setOf("team/a")
	put(t, s, publication("a", set, set, record(refOf("review", 1, artifact.Payload), "theirs")), provenance.Stored)
	absent(t, s, refOf("main", 1, artifact.Payload))
	put(t, s, publication("b", set, set, record(refOf("main", 1, artifact.Payload), "ours")), provenance.Stored)
	if got := lookup(t, s, refOf("review", 1, artifact.Payload)).Digest; got != digestOf("theirs") {
		t.Fatalf("zone review has digest %v", got)
	}
}

func testConfirmed(t *testing.T, s provenance.Store) {
	a, b, c := simple("a", 1, "bytes"), simple("b", 1, "bytes"), simple("c", 1, "bytes")
	b.Records[0].Writer, b.Records[0].Time = "git.example.com/43", start.Add(time.Hour)
	want := a.Records[0]
	want.Claims = []provenance.Claim{a.Records[0].Claims[0], b.Records[0].Claims[0], c.Records[0].Claims[0]}
	put(t, s, a, provenance.Stored)
	put(t, s, b, provenance.Confirmed)
	put(t, s, c, provenance.Confirmed)
	same(t, lookup(t, s, want.Ref), want)
}

func testSameStatement(t *testing.T, s provenance.Store) {
	put(t, s, simple("a", 1, "bytes"), provenance.Stored)
	put(t, s, simple("b", 1, "bytes"), provenance.Confirmed)
	before := lookup(t, s, refOf("main", 1, artifact.Payload))
	put(t, s, simple("a", 1, "bytes"), provenance.Confirmed)
	put(t, s, simple("b", 1, "bytes"), provenance.Confirmed)
	same(t, lookup(t, s, before.Ref), before)
}

func testRepeated(t *testing.T, s provenance.Store) {
	put(t, s, simple("a", 1, "bytes"), provenance.Stored)
	before := lookup(t, s, refOf("main", 1, artifact.Payload))
	again := simple("a", 1, "bytes")
	again.Envelope = []byte("signed again")
	again.Records[0].Claims[0].Statement = digestOf("signed again")
	put(t, s, again, provenance.Confirmed)
	same(t, lookup(t, s, before.Ref), before)
	if got, err := s.Envelope(t.Context(), digestOf("signed again")); err != nil || string(got) != "signed again" {
		t.Fatalf("evidence: got %q, %v", got, err)
	}
}

func testMaxClaims(t *testing.T, s provenance.Store) {
	for i := range provenance.MaxClaims + 2 {
		want := provenance.Confirmed
		if i == 0 {
			want = provenance.Stored
		}
		put(t, s, simple(fmt.Sprintf("a%d", i), 1, "bytes"), want)
	}
	if got := lookup(t, s, refOf("main", 1, artifact.Payload)); len(got.Claims) != provenance.MaxClaims {
		t.Fatalf("%d claims, want %d", len(got.Claims), provenance.MaxClaims)
	}
}

func testSnapshot(t *testing.T, s provenance.Store) {
	p := simple("a", 1, "bytes")
	claim := p.Records[0].Claims[0]
	put(t, s, p, provenance.Stored)
	p.Records[0].Claims[0] = provenance.Claim{} // the caller may reuse what it gave
	clear(p.Envelope)
	held := lookup(t, s, refOf("main", 1, artifact.Payload))
	for _, text := range []string{"b", "c", "d"} {
		put(t, s, simple(text, 1, "bytes"), provenance.Confirmed)
	}
	if !slices.Equal(held.Claims, []provenance.Claim{claim}) {
		t.Fatalf("a held record changed: %+v", held.Claims)
	}
	if got, err := s.Envelope(t.Context(), claim.Statement); err != nil || string(got) != "a" {
		t.Fatalf("envelope: got %q, %v", got, err)
	}
}

func testKept(t *testing.T, s provenance.Store) {
	put(t, s, simple("a", 1, "bytes"), provenance.Stored)
	before := lookup(t, s, refOf("main", 1, artifact.Payload))
	put(t, s, simple("b", 1, "other bytes"), provenance.Kept)
	same(t, lookup(t, s, before.Ref), before)
	if got, err := s.Envelope(t.Context(), digestOf("b")); err != nil || string(got) != "b" {
		t.Fatalf("evidence: got %q, %v", got, err)
	}
	ids, err := s.InputSets(t.Context(), "main", []artifact.Digest{digestOf("other bytes")})
	if err != nil || len(ids) != 0 {
		t.Fatalf("input sets of bytes that were not kept: %x, %v", ids, err)
	}
}

func testMixed(t *testing.T, s provenance.Store) {
	put(t, s, simple("a", 1, "one"), provenance.Stored)
	put(t, s, simple("b", 2, "two"), provenance.Stored)
	set := setOf("team/c")
	put(t, s, publication("c", set, set,
		record(refOf("main", 2, artifact.Payload), "other"),
		record(refOf("main", 3, artifact.Payload), "three"),
		record(refOf("main", 1, artifact.Payload), "one"),
	), provenance.Kept, provenance.Stored, provenance.Confirmed)
	for n, claims := range map[int]int{1: 2, 2: 1, 3: 1} {
		if got := lookup(t, s, refOf("main", n, artifact.Payload)); len(got.Claims) != claims {
			t.Fatalf("artifact %d has %d claims, want %d", n, len(got.Claims), claims)
		}
	}
}

func testUpgrade(t *testing.T, s provenance.Store) {
	place := func(text, content string, p provenance.Place, want provenance.Outcome) {
		t.Helper()
		pub := simple(text, 1, content)
		pub.Records[0].Place = p
		put(t, s, pub, want)
	}
	expect := func(want provenance.Place) {
		t.Helper()
		if got := lookup(t, s, refOf("main", 1, artifact.Payload)).Place; got != want {
			t.Fatalf("place %d, want %d", got, want)
		}
	}
	place("a", "bytes", provenance.Mirror, provenance.Stored)
	place("b", "bytes", provenance.Mirror, provenance.Confirmed)
	expect(provenance.Mirror)
	place("c", "other", provenance.Blob, provenance.Kept)
	expect(provenance.Mirror)
	place("b", "bytes", provenance.Blob, provenance.Confirmed) // no new claim, but the bytes came
	expect(provenance.Blob)
	place("d", "bytes", provenance.Mirror, provenance.Confirmed)
	expect(provenance.Blob)
}

func testMissingSet(t *testing.T, s provenance.Store) {
	known, unknown := setOf("team/a"), setOf("team/unknown")
	for name, claim := range map[string][2]source.SetID{
		"direct": {unknown.ID(), known.ID()}, "inputs": {known.ID(), unknown.ID()},
	} {
		p := publication(name, known, known,
			record(refOf("main", 1, artifact.Payload), "good"), record(refOf("main", 2, artifact.Payload), "bad"))
		bad := p.Records[0].Claims[0]
		bad.Sources, bad.Inputs = claim[0], claim[1]
		p.Records[1].Claims = []provenance.Claim{bad}
		if got, err := s.Put(t.Context(), p); err == nil {
			t.Fatalf("%s set is missing: put says %v, want an error", name, got)
		}
		absent(t, s, p.Records[0].Ref)
		absent(t, s, p.Records[1].Ref)
		noEnvelope(t, s, name)
	}
	if set, err := s.Set(t.Context(), known.ID()); err == nil {
		t.Fatalf("a refused publication left the set %v", set)
	}
}

func testStoredSet(t *testing.T, s provenance.Store) {
	put(t, s, simple("a", 1, "one"), provenance.Stored)
	set := setOf("team/a")
	p := publication("b", set, set, record(refOf("main", 2, artifact.Payload), "two"))
	p.Sets = nil
	put(t, s, p, provenance.Stored)
}

func testBadPublication(t *testing.T, s provenance.Store) {
	put(t, s, simple("first", 9, "nine"), provenance.Stored)
	bad := map[string]func(*provenance.Publication){
		"no envelope":      func(p *provenance.Publication) { p.Envelope = nil },
		"no records":       func(p *provenance.Publication) { p.Records = nil },
		"no claim":         func(p *provenance.Publication) { p.Records[1].Claims = nil },
		"foreign claim":    func(p *provenance.Publication) { p.Records[1].Claims = []provenance.Claim{{Statement: digestOf("x")}} },
		"no digest":        func(p *provenance.Publication) { p.Records[1].Digest = artifact.Digest{} },
		"no name":          func(p *provenance.Publication) { p.Records[1].Ref = artifact.Ref{} },
		"negative size":    func(p *provenance.Publication) { p.Records[1].Size = -1 },
		"unknown place":    func(p *provenance.Publication) { p.Records[1].Place = 7 },
		"one name twice":   func(p *provenance.Publication) { p.Records[1].Ref = p.Records[0].Ref },
		"one digest twice": func(p *provenance.Publication) { p.Records[1].Digest = p.Records[0].Digest; p.Records[1].Size++ },
		"nil set":          func(p *provenance.Publication) { p.Sets = append(p.Sets, nil) },
		"chunks of nothing": func(p *provenance.Publication) {
			p.Chunks = map[artifact.Digest][]artifact.Digest{digestOf("nothing"): make([]artifact.Digest, 2)}
		},
		"too few chunks": func(p *provenance.Publication) {
			p.Records[1].Size = 3 * provenance.ChunkSize
			p.Chunks = map[artifact.Digest][]artifact.Digest{p.Records[1].Digest: make([]artifact.Digest, 2)}
		},
	}
	for name, spoil := range bad {
		set := setOf("team/a")
		p := publication(name, set, set, record(refOf("main", 1, artifact.Payload), "one"), record(refOf("main", 2, artifact.Payload), "two"))
		spoil(&p)
		if got, err := s.Put(t.Context(), p); err == nil {
			t.Fatalf("%s: put says %v, want an error", name, got)
		}
		absent(t, s, refOf("main", 1, artifact.Payload))
		absent(t, s, refOf("main", 2, artifact.Payload))
		noEnvelope(t, s, name)
	}
}

func testCancelled(t *testing.T, s provenance.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := simple("a", 1, "bytes")
	if got, err := s.Put(ctx, p); err == nil {
		t.Fatalf("put says %v, want an error", got)
	}
	absent(t, s, p.Records[0].Ref)
	noEnvelope(t, s, "a")
	put(t, s, p, provenance.Stored)
}

func testSets(t *testing.T, s provenance.Store) {
	empty := source.NewSet(nil)
	full := source.NewSet([]source.Source{
		{Type: source.Unresolvable, Reason: "a variable is not expanded"},
		{Type: source.HTTP, Locator: source.Locator{Host: "example.com:8080", Path: "a/b c.tar.gz"}, Rev: "sha256:00"},
		{Type: source.Git, Locator: source.Locator{Host: "git.example.com", Path: "team/a"}},
	})
	put(t, s, publication("a", empty, full, record(refOf("main", 1, artifact.Payload), "one")), provenance.Stored)
	for _, want := range []*source.Set{empty, full} {
		got, err := s.Set(t.Context(), want.ID())
		if err != nil {
			t.Fatalf("set: %v", err)
		}
		if got.ID() != want.ID() || !slices.Equal(got.Sources(), want.Sources()) {
			t.Fatalf("set %v, want %v", got.Sources(), want.Sources())
		}
	}
	if got, err := s.Set(t.Context(), setOf("team/never").ID()); err == nil {
		t.Fatalf("a missing set is %v, want an error", got)
	}
}

func testInputSets(t *testing.T, s provenance.Store) {
	inputs := []*source.Set{setOf("in/0"), setOf("in/1"), setOf("in/2"), setOf("in/3")}
	direct := setOf("team/a")
	add := func(zone, text string, n, set int, content string, want provenance.Outcome) {
		t.Helper()
		put(t, s, publication(text, direct, inputs[set], record(refOf(zone, n, artifact.Payload), content)), want)
	}
	add("main", "a", 1, 0, "shared", provenance.Stored)
	add("main", "b", 1, 1, "shared", provenance.Confirmed) // a second claim of the same bytes
	add("main", "c", 2, 2, "shared", provenance.Stored)    // the same bytes under another name
	add("main", "d", 3, 2, "single", provenance.Stored)
	add("review", "e", 1, 3, "shared", provenance.Stored) // another zone says nothing about this one

	ask := func(zone string, contents []string, want ...int) {
		t.Helper()
		var digests []artifact.Digest
		for _, c := range contents {
			digests = append(digests, digestOf(c))
		}
		got, err := s.InputSets(t.Context(), zone, digests)
		if err != nil {
			t.Fatalf("input sets of %q: %v", contents, err)
		}
		var ids []source.SetID
		for _, n := range want {
			ids = append(ids, inputs[n].ID())
		}
		slices.SortFunc(ids, func(a, b source.SetID) int { return bytes.Compare(a[:], b[:]) })
		if !slices.Equal(got, ids) {
			t.Fatalf("input sets of %q in %s: %x, want %x", contents, zone, got, ids)
		}
	}
	ask("main", nil)
	ask("main", []string{"unknown"})
	ask("main", []string{"single"}, 2)
	ask("main", []string{"shared"}, 0, 1, 2)
	ask("main", []string{"unknown", "single", "shared", "single"}, 0, 1, 2)
	ask("review", []string{"shared", "single"}, 3)
	ask("nowhere", []string{"shared"})
}

func testChunks(t *testing.T, s provenance.Store) {
	big := simple("a", 1, "big")
	big.Records[0].Size = 2*provenance.ChunkSize + 1
	chunks := []artifact.Digest{digestOf("1"), digestOf("2"), digestOf("3")}
	big.Chunks = map[artifact.Digest][]artifact.Digest{digestOf("big"): slices.Clone(chunks)}
	put(t, s, big, provenance.Stored)
	big.Chunks[digestOf("big")][0] = artifact.Digest{} // the caller may reuse what it gave
	put(t, s, simple("b", 2, "small"), provenance.Stored)
	for content, want := range map[string][]artifact.Digest{"big": chunks, "small": nil, "unknown": nil} {
		if got, err := s.Chunks(t.Context(), digestOf(content)); err != nil || !slices.Equal(got, want) || (want == nil) != (got == nil) {
			t.Fatalf("chunks of %s: %v, %v; want %v", content, got, err, want)
		}
	}
}

func testEnvelopes(t *testing.T, s provenance.Store) {
	text := "{\"payload\": \"\x00\xff\"}\n"
	put(t, s, simple(text, 1, "bytes"), provenance.Stored)
	if got, err := s.Envelope(t.Context(), digestOf(text)); err != nil || string(got) != text {
		t.Fatalf("envelope: %q, %v", got, err)
	}
}

func testMany(t *testing.T, s provenance.Store) {
	const n = 1000
	set := setOf("team/a")
	var records []provenance.Record
	var digests []artifact.Digest
	for i := range n {
		r := record(refOf("main", i, artifact.Part(i%3)), fmt.Sprint(i))
		records, digests = append(records, r), append(digests, r.Digest)
	}
	put(t, s, publication("a", set, set, records...), slices.Repeat([]provenance.Outcome{provenance.Stored}, n)...)
	for _, want := range records {
		same(t, lookup(t, s, want.Ref), want)
	}
	ids, err := s.InputSets(t.Context(), "main", digests)
	if err != nil || !slices.Equal(ids, []source.SetID{set.ID()}) {
		t.Fatalf("input sets of %d digests: %x, %v", n, ids, err)
	}
}

// race puts one publication per text at once and returns the outcome of each.
func race(t *testing.T, s provenance.Store, texts []string, content func(string) string) map[string]provenance.Outcome {
	t.Helper()
	var mu sync.Mutex
	outcomes := make(map[string]provenance.Outcome)
	var wg sync.WaitGroup
	gun := make(chan struct{})
	for _, text := range texts {
		wg.Go(func() {
			<-gun
			got, err := s.Put(t.Context(), simple(text, 1, content(text)))
			if err != nil || len(got) != 1 {
				t.Errorf("put %s: %v, %v", text, got, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			outcomes[text] = got[0]
		})
	}
	close(gun)
	wg.Wait()
	return outcomes
}

// winner returns the one text that was stored, and fails unless every other outcome is rest.
func winner(t *testing.T, outcomes map[string]provenance.Outcome, rest provenance.Outcome) string {
	t.Helper()
	won := ""
	for text, o := range outcomes {
		switch {
		case o == provenance.Stored && won == "":
			won = text
		case o != rest:
			t.Fatalf("outcomes %v: want one %d, the rest %d", outcomes, provenance.Stored, rest)
		}
	}
	return won
}

var racers = []string{"a", "b", "c", "d", "e", "f", "g", "h"}

func testConcurrentOther(t *testing.T, s provenance.Store) {
	won := winner(t, race(t, s, racers, func(text string) string { return text }), provenance.Kept)
	got := lookup(t, s, refOf("main", 1, artifact.Payload))
	same(t, got, simple(won, 1, won).Records[0])
}

func testConcurrentSame(t *testing.T, s provenance.Store) {
	won := winner(t, race(t, s, racers, func(string) string { return "bytes" }), provenance.Confirmed)
	claims := slices.Clone(lookup(t, s, refOf("main", 1, artifact.Payload)).Claims)
	if len(claims) != len(racers) || claims[0].Signer != "ci-"+won {
		t.Fatalf("claims %+v, want %d with ci-%s first", claims, len(racers), won)
	}
	slices.SortFunc(claims, func(a, b provenance.Claim) int { return cmp.Compare(a.Signer, b.Signer) })
	for i, text := range racers {
		if claims[i].Signer != "ci-"+text {
			t.Fatalf("claims %+v, want one by each of %v", claims, racers)
		}
	}
}

// testReaders shows that a reader never sees half a publication.
func testReaders(t *testing.T, s provenance.Store) {
	set := setOf("team/a")
	first, last := refOf("main", 0, artifact.Payload), refOf("main", 99, artifact.Payload)
	var records []provenance.Record
	for i := range 100 {
		records = append(records, record(refOf("main", i, artifact.Payload), fmt.Sprint(i)))
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for over := false; !over; {
				select {
				case <-done:
					over = true // one more look: what Put returned for must be there
				default:
				}
				if _, err := s.Lookup(t.Context(), last); err != nil {
					continue
				}
				if _, err := s.Lookup(t.Context(), first); err != nil {
					t.Errorf("the last record is visible, the first is not: %v", err)
				}
				return
			}
			t.Error("a put that returned is not visible")
		})
	}
	put(t, s, publication("a", set, set, records...), slices.Repeat([]provenance.Outcome{provenance.Stored}, len(records))...)
	close(done)
	wg.Wait()
}
