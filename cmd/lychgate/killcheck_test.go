package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/internal/sqldb"
)

// history is what clients remember. It keeps no contents, only what follows from them.
type history struct {
	mu       sync.Mutex // guards what follows
	tried    map[string]known
	written  []known // acknowledged
	reads    []killRead
	verdicts []killVerdict
	resumes  int
	kept     int
	wrong    []string // what a client saw that it should not have
}

// known is what a client knows of an object.
type known struct {
	name   string
	digest artifact.Digest
	size   int
	secret bool
}

// killRead is a 200 or 206 that a reader got, and the bytes that arrived of it.
type killRead struct {
	user, name string
	off, size  int64
	digest     artifact.Digest
	cut        bool
}

// killVerdict is what a reader was told of a name.
type killVerdict struct {
	user, name, how string // how: "head", "presence", or "get" that was answered with 404
	present, want   bool
	etag            string // of a HEAD
}

func newHistory() *history { return &history{tried: map[string]known{}} }

func (i item) known() known {
	return known{name: i.name, digest: i.digest(), size: len(i.content), secret: i.secret}
}

// attempted notes what is about to be written.
func (h *history) attempted(items ...item) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range items {
		h.tried[i.name] = i.known()
	}
}

// acknowledged notes what the gate said became of a write.
func (h *history) acknowledged(i item, result string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k := i.known(); k == h.tried[k.name] {
		h.written = append(h.written, k)
		return
	}
	h.kept++
	if result != "kept" {
		h.wrong = append(h.wrong, fmt.Sprintf("other bytes for %s were %s", i.name, result))
	}
}

func (h *history) wasRead(r killRead) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads = append(h.reads, r)
}

func (h *history) wasTold(v killVerdict) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.verdicts = append(h.verdicts, v)
}

// resumed notes an upload that goes on after a restart with bytes that were held before.
func (h *history) resumed(held int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held > 0 {
		h.resumes++
	}
}

func (h *history) complain(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wrong = append(h.wrong, fmt.Sprintf(format, args...))
}

// pick returns any acknowledged object.
func (h *history) pick() (known, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.written) == 0 {
		return known{}, false
	}
	return h.written[rand.IntN(len(h.written))], true
}

// acknowledgements returns how many objects were acknowledged.
func (h *history) acknowledgements() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.written)
}

// largest returns the largest acknowledged object.
func (h *history) largest() (known, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.written) == 0 {
		return known{}, false
	}
	return slices.MaxFunc(h.written, func(a, b known) int { return a.size - b.size }), true
}

// all returns every object that anybody tried to write.
func (h *history) all() []known {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.tried), func(a, b known) int { return len(a.name) - len(b.name) })
}

// evidence is what the checker compares. Nothing in it comes from the gate's own answers but the history.
type evidence struct {
	history  *history
	records  map[string]provenance.Record
	blob     func(artifact.Digest) ([]byte, error)
	envelope func(artifact.Digest) (*provenance.Verified, error)
	events   []audit.Event
	trail    error // what audit.Verify found
}

// gather reads the store, the records and the journal of a world.
func gather(w *world, h *history) *evidence {
	t := w.t
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Config{Path: w.cfg.Database.Value})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	signers, err := loadSigners(w.cfg, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	e := &evidence{history: h, records: map[string]provenance.Record{}, blob: func(d artifact.Digest) ([]byte, error) { return os.ReadFile(w.blob(d)) }}
	statements := map[artifact.Digest]*provenance.Verified{}
	for r, err := range db.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		e.records[r.Ref.Name()] = r
		for _, c := range r.Claims {
			if envelope, err := db.Envelope(t.Context(), c.Statement); err == nil && statements[c.Statement] == nil {
				statements[c.Statement], _ = signers.Open(envelope) // nil is a complaint later
			}
		}
	}
	e.envelope = func(d artifact.Digest) (*provenance.Verified, error) {
		if v := statements[d]; v != nil {
			return v, nil
		}
		return nil, fmt.Errorf("no statement %s", d)
	}
	dir := string(w.cfg.Audit.Dir)
	_, e.trail = audit.Verify(t.Context(), dir, audit.VerifyOptions{Live: true})
	for event, err := range audit.Tail(t.Context(), dir, audit.TailOptions{}) {
		if err != nil {
			break // Verify says it
		}
		e.events = append(e.events, event)
	}
	return e
}

// blob is where the bytes with a digest are kept.
func (w *world) blob(d artifact.Digest) string {
	return filepath.Join(w.cfg.Blobs.Value, "sha256", d.Hex()[:2], d.Hex())
}

func (e *evidence) summary() string {
	octets := int64(0)
	cut := 0
	for _, r := range e.history.reads {
		octets += r.size
		if r.cut {
			cut++
		}
	}
	gaps := 0
	for _, ev := range e.events {
		if ev.Kind == audit.KindGap {
			gaps++
		}
	}
	return fmt.Sprintf("%d writes acknowledged, %d kept, %d records, %d names tried, %d uploads resumed; %d reads of %d octets, %d of them cut; %d verdicts; %d events, %d gaps",
		len(e.history.written), e.history.kept, len(e.records), len(e.history.tried), e.history.resumes, len(e.history.reads), octets, cut,
		len(e.history.verdicts), len(e.events), gaps)
}

// complaints compares everything with everything and says what does not fit.
func (e *evidence) complaints() []string {
	found := slices.Clone(e.history.wrong)
	complain := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if e.trail != nil {
		complain("the journal does not verify: %v", e.trail)
	}
	for _, r := range e.records {
		e.checkRecord(r, complain)
	}
	e.checkWrites(complain)
	e.checkReads(complain)
	e.checkVerdicts(complain)
	e.checkTransfers(complain)
	slices.Sort(found)
	return found
}

type complainer func(format string, args ...any)

// checkRecord demands the bytes and the statement that a record promises.
func (e *evidence) checkRecord(r provenance.Record, complain complainer) {
	name := r.Ref.Name()
	content, err := e.blob(r.Digest)
	switch {
	case err != nil:
		complain("the record of %s has no bytes: %v", name, err)
	case sha256.Sum256(content) != r.Digest || int64(len(content)) != r.Size:
		complain("the record of %s has other bytes", name)
	}
	if len(r.Claims) == 0 {
		complain("the record of %s has no claim", name)
	}
	for _, c := range r.Claims {
		v, err := e.envelope(c.Statement)
		if err != nil {
			complain("the record of %s has no statement: %v", name, err)
			continue
		}
		if !slices.ContainsFunc(v.Statement.Subjects, func(s provenance.Subject) bool { return s.Name == name && s.Digest == r.Digest }) {
			complain("the statement of %s does not cover its bytes", name)
		}
	}
}

// checkWrites demands a record and the two events of each acknowledged write.
func (e *evidence) checkWrites(complain complainer) {
	committed, published := map[string]bool{}, map[string]bool{}
	for _, ev := range e.events {
		for _, o := range ev.Objects {
			switch key := ev.Request + o.Path; ev.Kind {
			case "write.commit":
				committed[key] = true
			case "write.publish", "write.divergence":
				if !committed[key] {
					complain("event %d publishes %s without a decision before it", ev.Seq, o.Path)
				}
				published[o.Path+o.Digest] = true
			}
		}
	}
	for _, w := range e.history.written {
		if r, ok := e.records[w.name]; !ok || r.Digest != w.digest {
			complain("the acknowledged write of %s is lost", w.name)
		}
		if !published[w.name+w.digest.String()] {
			complain("the acknowledged write of %s left no event", w.name)
		}
	}
}

// checkReads demands of all that was served that it is what the record says, was for who read it, and is covered by events.
func (e *evidence) checkReads(complain complainer) {
	allowed, accounted := e.allowances()
	served, octets := map[string]int{}, map[string]int64{}
	for name, reads := range e.readsByName() {
		var content []byte
		r, ok := e.records[name]
		if ok {
			content, _ = e.blob(r.Digest)
		} else {
			complain("%s was served without a record", name)
		}
		for _, read := range reads {
			key := read.user + " " + name
			served[key]++
			octets[key] += read.size
			if read.user != "alice" && e.history.isSecret(name) {
				complain("%s got bytes of %s", read.user, name)
			}
			if end := read.off + read.size; end > int64(len(content)) || !read.cut && end != int64(len(content)) || sha256.Sum256(content[read.off:end]) != read.digest {
				complain("%s got other bytes of %s than are recorded", read.user, name)
			}
		}
	}
	for key, n := range served {
		if allowed[key] < n {
			complain("%d reads of %q were served, %d were allowed in the journal", n, key, allowed[key])
		}
		if accounted[key] < octets[key] {
			complain("%d octets of %q were read, %d are accounted for in the journal", octets[key], key, accounted[key])
		}
	}
}

func (e *evidence) readsByName() map[string][]killRead {
	byName := map[string][]killRead{}
	for _, r := range e.history.reads {
		byName[r.name] = append(byName[r.name], r)
	}
	return byName
}

func (h *history) isSecret(name string) bool { return h.tried[name].secret }

// allowances counts, by user and name, the reads that the journal allows, and the octets that its transfers and gaps account
// for.
func (e *evidence) allowances() (allowed map[string]int, accounted map[string]int64) {
	allowed, accounted = map[string]int{}, map[string]int64{}
	opened := map[string]string{} // request -> key
	for _, ev := range e.events {
		switch {
		case ev.Kind == audit.KindDecision && ev.Action == "read" && ev.Decision.Verdict == "allow":
			key := ev.Actor.Name + " " + ev.Object.Path
			allowed[key]++
			opened[ev.Request] = key
		case ev.Kind == audit.KindTransfer, ev.Kind == audit.KindMismatch:
			accounted[opened[ev.Request]] += ev.Result.Bytes
		case ev.Kind == audit.KindGap:
			accounted[opened[ev.Request]] += ev.Object.Size
		}
	}
	return allowed, accounted
}

// checkVerdicts demands of what readers were told that it is right, and that the journal says so as often.
func (e *evidence) checkVerdicts(complain complainer) {
	recorded := map[string]int{}
	for _, ev := range e.events {
		switch ev.Kind {
		case audit.KindDecision:
			how := map[string]string{"stat": "head", "read": "get"}[ev.Action]
			recorded[fmt.Sprint(how, ev.Decision.Verdict == "allow", ev.Actor.Name, ev.Object.Path)]++
		case "presence":
			for _, o := range ev.Objects {
				recorded[fmt.Sprint("presence", o.Verdict == "allow", ev.Actor.Name, o.Path)]++
			}
		}
	}
	for _, v := range e.history.verdicts {
		if v.present != v.want {
			complain("%s of %s by %s was answered %t", v.how, v.name, v.user, v.present)
		}
		if r := e.records[v.name]; v.present && r.Digest.IsZero() {
			complain("%s is visible without a record", v.name)
		} else if v.etag != "" && v.etag != `"`+r.Digest.Hex()+`"` {
			complain("%s of %s told another digest than is recorded", v.how, v.name)
		}
		key := fmt.Sprint(v.how, v.present, v.user, v.name)
		if recorded[key]--; recorded[key] == -1 {
			complain("%s of %s by %s was answered %t more often than the journal says", v.how, v.name, v.user, v.present)
		}
	}
}

// checkTransfers demands that each read that was allowed ends exactly once, in a transfer, a mismatch or a gap after it, and that
// none of these comes without one before it, of the same reader and object.
func (e *evidence) checkTransfers(complain complainer) {
	open := map[string]audit.Event{}
	for _, ev := range e.events {
		switch ev.Kind {
		case audit.KindDecision:
			if ev.Action == "read" && ev.Decision.Verdict == "allow" {
				open[ev.Request] = ev
			}
		case audit.KindTransfer, audit.KindMismatch, audit.KindGap:
			was, ok := open[ev.Request]
			delete(open, ev.Request)
			if !ok || was.Object.Path != ev.Object.Path || ev.Kind != audit.KindGap && was.Actor.ID != ev.Actor.ID {
				complain("event %d ends a transfer that no event before it allows", ev.Seq)
			}
		}
	}
	for _, ev := range open {
		complain("the transfer that event %d allows has no end in the journal", ev.Seq)
	}
}

// TestKillCheckerCanFail gives the checker what a good run left, with one thing that is not as it should be, and expects the
// complaint.
func TestKillCheckerCanFail(t *testing.T) {
	t.Parallel()
	k := &killRun{world: newWorld(t, raceBinary(t), nil), history: newHistory()}
	hasGap := func(ev audit.Event) bool { return ev.Kind == audit.KindGap }
	for i := 0; i < 30 && (i < 2 || len(k.missing()) > 0 || !slices.ContainsFunc(gather(k.world, k.history).events, hasGap)); i++ {
		k.cycle(i % 5)
	}
	e := k.finish()
	if found := e.complaints(); len(found) > 0 {
		t.Fatalf("the good run is not good: %q", found)
	}
	for _, c := range brokenFiles() {
		t.Run(c.name, func(t *testing.T) {
			w := copyWorld(t, k.world)
			c.spoil(w, e)
			expectComplaint(t, gather(w, k.history), c.want)
		})
	}
	for _, c := range brokenEvidence() {
		t.Run(c.name, func(t *testing.T) {
			spoiled := e.clone()
			if !c.spoil(spoiled) {
				t.Fatal("the run holds nothing to spoil this way")
			}
			expectComplaint(t, spoiled, c.want)
		})
	}
}

func expectComplaint(t *testing.T, e *evidence, want string) {
	t.Helper()
	found := e.complaints()
	if !slices.ContainsFunc(found, func(c string) bool { return strings.Contains(c, want) }) {
		t.Errorf("no complaint that something %q, only %q", want, found[:min(len(found), 5)])
	}
}

// copyWorld copies what a gate that is stopped left.
func copyWorld(t *testing.T, w *world) *world {
	t.Helper()
	c := &world{t: t, binary: w.binary, q: w.q}
	c.q.dir = filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(c.q.dir, os.DirFS(w.q.dir)); err != nil {
		t.Fatal(err)
	}
	var err error
	if c.cfg, err = config.Load(c.q.path("lychgate.yaml")); err != nil {
		t.Fatal(err)
	}
	return c
}

// clone copies the evidence so that it can be spoiled.
func (e *evidence) clone() *evidence {
	c := *e
	c.records, c.events = maps.Clone(e.records), slices.Clone(e.events)
	h := e.history
	c.history = &history{
		tried: maps.Clone(h.tried), written: slices.Clone(h.written), reads: slices.Clone(h.reads), verdicts: slices.Clone(h.verdicts), wrong: slices.Clone(h.wrong),
	}
	return &c
}

// brokenFiles are stores and journals that were changed on the disk.
func brokenFiles() []struct {
	name, want string
	spoil      func(*world, *evidence)
} {
	someBlob := func(w *world, e *evidence) string { return w.blob(e.records[e.history.written[0].name].Digest) }
	change := func(w *world, path string, f func([]byte) []byte) {
		text, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, f(text), 0o600)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	journal := func(w *world) string {
		segments, err := filepath.Glob(filepath.Join(string(w.cfg.Audit.Dir), "*"))
		if err != nil {
			w.t.Fatal(err)
		}
		return slices.MaxFunc(segments, func(a, b string) int { return int(fileSize(w.t, a) - fileSize(w.t, b)) })
	}
	return []struct {
		name, want string
		spoil      func(*world, *evidence)
	}{
		{"a blob is lost", "has no bytes", func(w *world, e *evidence) {
			if err := os.Remove(someBlob(w, e)); err != nil {
				w.t.Fatal(err)
			}
		}},
		{"a blob is changed", "has other bytes", func(w *world, e *evidence) {
			change(w, someBlob(w, e), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}},
		{"a blob is cut short", "has other bytes", func(w *world, e *evidence) {
			change(w, someBlob(w, e), func(b []byte) []byte { return b[:len(b)-1] })
		}},
		{"an octet of the journal is changed", "does not verify", func(w *world, _ *evidence) {
			change(w, journal(w), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}},
		{"a line of the journal is taken out", "does not verify", func(w *world, _ *evidence) {
			change(w, journal(w), func(b []byte) []byte {
				lines := bytes.SplitAfter(b, []byte("\n"))
				return bytes.Join(slices.Delete(lines, len(lines)/2, len(lines)/2+1), nil)
			})
		}},
		{"the end of the journal is taken off", "in the journal", func(w *world, _ *evidence) {
			change(w, journal(w), func(b []byte) []byte {
				lines := bytes.SplitAfter(b, []byte("\n"))
				return bytes.Join(lines[:len(lines)/2], nil)
			})
		}},
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func isServed(ev audit.Event) bool {
	return ev.Kind == audit.KindDecision && ev.Action == "read" && ev.Decision.Verdict == "allow"
}

// without drops every event that match accepts, and reports whether there was one.
func (e *evidence) without(match func(audit.Event) bool) bool {
	before := len(e.events)
	e.events = slices.DeleteFunc(e.events, match)
	return len(e.events) < before
}

// oneWritten returns the record of an acknowledged write.
func (e *evidence) oneWritten() provenance.Record { return e.records[e.history.written[0].name] }

// wholeRead returns the first read of a whole object.
func (e *evidence) wholeRead() *killRead {
	return &e.history.reads[slices.IndexFunc(e.history.reads, func(r killRead) bool { return !r.cut && r.size > 1 })]
}

// spoilVerdict changes the first verdict that match accepts.
func (e *evidence) spoilVerdict(match func(killVerdict) bool, change func(*killVerdict)) bool {
	i := slices.IndexFunc(e.history.verdicts, match)
	if i >= 0 {
		change(&e.history.verdicts[i])
	}
	return i >= 0
}

// brokenEvidence are records, journals and histories in which one invariant does not hold.
func brokenEvidence() []struct {
	name, want string
	spoil      func(*evidence) bool
} {
	type event = audit.Event
	return []struct {
		name, want string
		spoil      func(*evidence) bool
	}{
		{"an acknowledged write has no record", "is lost", func(e *evidence) bool { delete(e.records, e.oneWritten().Ref.Name()); return true }},
		{"a record changes its digest", "is lost", func(e *evidence) bool {
			r, other := e.oneWritten(), e.records[e.history.written[1].name]
			r.Digest, r.Size = other.Digest, other.Size
			e.records[r.Ref.Name()] = r
			return r.Digest != e.history.written[0].digest
		}},
		{"a record has no claim", "has no claim", func(e *evidence) bool {
			r := e.oneWritten()
			r.Claims = nil
			e.records[r.Ref.Name()] = r
			return true
		}},
		{"a record has no statement", "has no statement", func(e *evidence) bool {
			e.envelope = func(artifact.Digest) (*provenance.Verified, error) { return nil, fs.ErrNotExist }
			return true
		}},
		{"a statement is about other bytes", "does not cover", func(e *evidence) bool {
			e.envelope = func(artifact.Digest) (*provenance.Verified, error) {
				return &provenance.Verified{Statement: &provenance.Statement{}}, nil
			}
			return true
		}},
		{"an object is visible without a record", "is visible without a record", func(e *evidence) bool {
			i := slices.IndexFunc(e.history.verdicts, func(v killVerdict) bool { return v.present })
			delete(e.records, e.history.verdicts[i].name)
			return true
		}},
		{"an object is served without a record", "was served without a record", func(e *evidence) bool {
			delete(e.records, e.history.reads[0].name)
			return true
		}},
		{"other bytes are served", "got other bytes", func(e *evidence) bool { e.wholeRead().digest[0] ^= 1; return true }},
		{"a transfer ends early and looks whole", "got other bytes", func(e *evidence) bool { e.wholeRead().size--; return true }},
		{"part of other bytes is served", "got other bytes", func(e *evidence) bool {
			i := slices.IndexFunc(e.history.reads, func(r killRead) bool { return r.cut && r.size > 0 })
			if i >= 0 {
				e.history.reads[i].digest[0] ^= 1
			}
			return i >= 0
		}},
		{"bob is served what is secret", "bob got bytes", func(e *evidence) bool {
			i := slices.IndexFunc(e.history.reads, func(r killRead) bool { return e.history.isSecret(r.name) })
			e.history.reads[i].user = "bob"
			return true
		}},
		{"a read was never allowed", "were allowed", func(e *evidence) bool { return e.without(isServed) }},
		{"a read is allowed after its transfer", "no event before it allows", func(e *evidence) bool {
			i := slices.IndexFunc(e.events, func(ev event) bool { return ev.Kind == audit.KindTransfer })
			j := slices.IndexFunc(e.events, func(ev event) bool { return isServed(ev) && ev.Request == e.events[i].Request })
			e.events[i], e.events[j] = e.events[j], e.events[i]
			return true
		}},
		{"a transfer that was cut is not accounted for", "has no end", func(e *evidence) bool {
			return e.without(func(ev event) bool { return ev.Kind == audit.KindGap })
		}},
		{"a transfer tells too few octets", "are accounted for", func(e *evidence) bool {
			read := e.wholeRead()
			for i, ev := range e.events {
				if ev.Kind == audit.KindTransfer && ev.Object.Path == read.name && ev.Actor.Name == read.user {
					e.events[i].Result.Bytes = 0
				}
			}
			e.without(func(ev event) bool { return ev.Kind == audit.KindGap })
			return true
		}},
		{"a write was never decided", "without a decision", func(e *evidence) bool {
			return e.without(func(ev event) bool { return ev.Kind == "write.commit" })
		}},
		{"a write was never published", "left no event", func(e *evidence) bool {
			name := e.history.written[0].name
			return e.without(func(ev event) bool {
				return ev.Kind == "write.publish" && slices.ContainsFunc(ev.Objects, func(o audit.Object) bool { return o.Path == name })
			})
		}},
		{"a HEAD is answered wrongly", "was answered", func(e *evidence) bool {
			return e.spoilVerdict(func(v killVerdict) bool { return v.how == "head" }, func(v *killVerdict) { v.present = !v.present })
		}},
		{"a HEAD tells another digest", "told another digest", func(e *evidence) bool {
			return e.spoilVerdict(func(v killVerdict) bool { return v.etag != "" }, func(v *killVerdict) { v.etag = `"0"` })
		}},
		{"a HEAD was never decided", "more often than the journal says", func(e *evidence) bool {
			return e.without(func(ev event) bool { return ev.Kind == audit.KindDecision && ev.Action == "stat" })
		}},
		{"a presence batch was never decided", "more often than the journal says", func(e *evidence) bool {
			return e.without(func(ev event) bool { return ev.Kind == "presence" })
		}},
		{"a hidden GET was never decided", "more often than the journal says", func(e *evidence) bool {
			return e.without(func(ev event) bool { return ev.Action == "read" && ev.Decision.Verdict == "deny" })
		}},
		{"a client saw something wrong", "bytes were lost", func(e *evidence) bool {
			e.history.complain("bytes were lost")
			return true
		}},
	}
}
