package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/internal/client"
)

// TestKill kills the gate with SIGKILL at random moments under mixed load, starts it again, and lets an independent checker
// compare what clients saw with the store, the records and the journal. KILL_CYCLES says how often; make test-full sets 200.
func TestKill(t *testing.T) {
	t.Parallel()
	cycles := 8
	if text := os.Getenv("KILL_CYCLES"); text != "" {
		var err error
		if cycles, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	k := &killRun{world: newWorld(t, buildBinary(t), nil), history: newHistory()}
	began := time.Now()
	done := 0
	for ; done < cycles || done < cycles+30 && len(k.missing()) > 0; done++ { // on a slow machine a cycle holds little
		k.cycle(done)
	}
	e := k.finish()
	for _, complaint := range e.complaints() {
		t.Error(complaint)
	}
	for _, kind := range k.missing() {
		t.Errorf("the load brought about no %s: the run shows nothing", kind)
	}
	t.Logf("%d cycles in %s: %s", done, time.Since(began).Round(time.Second), e.summary())
}

// killRun kills a gate under load.
type killRun struct {
	*world
	*history

	mu   sync.Mutex // guards next
	next int
	slow slowUpload // the one upload that takes many cycles
}

// cycle starts the gate, loads it, and kills it: mostly while it serves, at times while it starts.
func (k *killRun) cycle(i int) {
	k.t.Helper()
	p := k.launch()
	if i%6 == 5 {
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond) // the random moment
		p.kill()
		return
	}
	p.await("the gate is ready", func() bool { status, _ := k.admin("/readyz"); return status == http.StatusOK })
	k.checkStaging()
	k.sample()
	ctx, cancel := context.WithCancel(k.t.Context())
	defer cancel()
	var load sync.WaitGroup
	for _, work := range []func(context.Context){
		k.uploads, k.uploads, k.plainPuts, k.slowly, k.reads("alice"), k.reads("bob"), k.slowReads, k.checks("alice"), k.checks("bob"),
	} {
		load.Go(func() { work(ctx) })
	}
	time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond) // the random moment
	p.kill()
	cancel()
	load.Wait()
	if _, err := audit.Verify(k.t.Context(), string(k.cfg.Audit.Dir), audit.VerifyOptions{Live: true}); err != nil {
		k.t.Errorf("cycle %d: %v", i, err)
	}
}

// checkStaging demands that what an earlier start left half-made is gone: every upload that is left says what it is.
func (k *killRun) checkStaging() {
	for _, u := range k.stagedUploads() {
		if _, err := os.Stat(k.q.path("state/staging/" + u + "/upload.json")); err != nil {
			k.t.Errorf("the upload %s was left half-made: %v", u, err)
		}
	}
}

func (k *killRun) stagedUploads() []string {
	entries, err := os.ReadDir(k.q.path("state/staging"))
	if err != nil {
		k.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// sample asks a gate that has just started for some of what it acknowledged, and for what nobody ever wrote.
func (k *killRun) sample() {
	for _, user := range []string{"alice", "bob"} {
		p := k.person(user)
		for range 5 {
			if i, ok := k.pick(); ok {
				k.head(k.t.Context(), p, i.name, user == "alice" || !i.secret)
			}
		}
		k.head(k.t.Context(), p, newItem("never-written"+strconv.Itoa(rand.Int()), 1, false).name, false)
	}
}

// fresh returns an item that nobody has seen. A third is built from public sources only, and some are larger than what fits
// into the buffers on the way.
func (k *killRun) fresh() item {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	size := 100 + rand.IntN(60<<10)
	if k.next%60 == 1 {
		size = 4 << 20
	}
	i := newItem(fmt.Sprintf("kill%d-native", k.next), size, k.next%3 != 0)
	k.attempted(i, i.siginfo())
	return i
}

// uploads publishes one to three objects at a time by begin, stage and commit. At times it tries other bytes under a name
// that is taken.
func (k *killRun) uploads(ctx context.Context) {
	c, signer := k.client("ci"), k.signer()
	for ctx.Err() == nil {
		i := k.fresh()
		items := []item{i, i.siginfo()}[:1+rand.IntN(2)]
		if rand.IntN(3) == 0 {
			other := k.fresh()
			other.secret = i.secret
			k.attempted(other)
			items = append(items, other)
		}
		if taken, ok := k.pick(); ok && rand.IntN(6) == 0 {
			items = []item{{name: taken.name, secret: taken.secret, content: []byte("other bytes " + strconv.Itoa(rand.Int()))}}
			if strings.HasSuffix(taken.name, ".siginfo") {
				continue // it would have to be one
			}
		}
		result, err := k.publish(ctx, c, signer, items...)
		if err != nil {
			k.failed(ctx, err)
			continue
		}
		for n, o := range result.Objects {
			k.acknowledged(items[n], o.Result)
		}
	}
}

// failed complains of a refusal; a fault of the network or a 503 is what a kill looks like.
func (h *history) failed(ctx context.Context, err error) {
	var refused *client.Error
	if ctx.Err() == nil && errors.As(err, &refused) && refused.Status < 500 {
		h.complain("a good request was refused: %v", err)
	}
}

// plainPuts publishes an archive, its siginfo and their statement as plain files, in any order. After a kill it sends all
// again, as an upload script would.
func (k *killRun) plainPuts(ctx context.Context) {
	p, signer := k.person("ci"), k.signer()
	for ctx.Err() == nil {
		i := k.fresh()
		items := []item{i, i.siginfo()}
		envelope, err := k.statement(signer, "", items...)
		if err != nil {
			k.complain("%v", err)
			return
		}
		k.putAll(ctx, p, items, append(items, item{name: i.name + gateway.StatementSuffix, content: envelope}))
	}
}

func (k *killRun) putAll(ctx context.Context, p *person, items, files []item) {
	last := 0
	for _, n := range rand.Perm(len(files)) {
		res, err := p.send(ctx, http.MethodPut, at(files[n].name), files[n].content)
		if err != nil {
			return
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if last = res.StatusCode; last >= 500 {
			return // it cannot write just now
		}
		if last >= 400 {
			k.complain("PUT %s: %d %s", files[n].name, last, text)
		}
	}
	switch last {
	case http.StatusCreated:
		for _, i := range items {
			k.acknowledged(i, "stored")
		}
	case http.StatusAccepted:
		k.complain("%s and all that belongs to it were sent, and it still waits", items[0].name)
	}
}

// slowUpload is an upload of one object that goes on over many lives of the gate.
type slowUpload struct {
	item      item
	id        string
	held      int64 // bytes that the gate said it holds
	committed bool  // a commit was sent
}

// slowly adds to the slow upload until ctx ends.
func (k *killRun) slowly(ctx context.Context) {
	c := k.client("ci")
	for ctx.Err() == nil {
		if err := k.slowStep(ctx, c); err != nil {
			k.failed(ctx, err)
			return
		}
	}
}

// slowStep resumes the slow upload, or begins one, and carries it to its end.
func (k *killRun) slowStep(ctx context.Context, c *client.Client) error {
	s := &k.slow
	if s.id == "" {
		i := k.fresh()
		i.content = bytes.Repeat(i.content[:100], 8<<10)
		k.attempted(i)
		up, err := begin(ctx, c, i)
		if err != nil {
			return err
		}
		*s = slowUpload{item: i, id: up.ID}
	} else if gone, err := k.resume(ctx, c); err != nil || gone {
		return err
	}
	p := k.person("ci")
	for s.held < int64(len(s.item.content)) {
		end := min(s.held+32<<10, int64(len(s.item.content)))
		res, err := p.send(ctx, http.MethodPut, "/v1/uploads/"+s.id+"/0", s.item.content[s.held:end], "Upload-Offset", strconv.FormatInt(s.held, 10))
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNoContent {
			return fmt.Errorf("a piece was answered with %d", res.StatusCode)
		}
		s.held = end
	}
	envelope, err := k.statement(k.signer(), s.id, s.item)
	if err != nil {
		return err
	}
	s.committed = true
	if _, err = c.Commit(ctx, s.id, envelope); err != nil {
		return err
	}
	k.acknowledged(s.item, "stored")
	*s = slowUpload{}
	return nil
}

// resume asks where to go on. An upload whose commit was sent may be gone: then it must have been published.
func (k *killRun) resume(ctx context.Context, c *client.Client) (gone bool, err error) {
	s := &k.slow
	up, err := c.Upload(ctx, s.id)
	var refused *client.Error
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound:
		if !s.committed {
			k.complain("the upload %s, of which %d bytes were held, is gone", s.id, s.held)
		}
		k.acknowledged(s.item, "stored")
		*s = slowUpload{}
		return true, nil
	case err != nil:
		return false, err
	case up.Objects[0].Offset < s.held && !s.committed:
		k.complain("%d bytes of the upload %s were acknowledged, %d are held", s.held, s.id, up.Objects[0].Offset)
	}
	k.resumed(s.held)
	s.held = up.Objects[0].Offset
	return false, nil
}

// reads returns a load that downloads what was acknowledged, whole or in part.
func (k *killRun) reads(user string) func(context.Context) {
	return func(ctx context.Context) {
		p := k.person(user)
		for ctx.Err() == nil {
			if i, ok := k.pick(); !ok {
				time.Sleep(time.Millisecond)
			} else if rand.IntN(2) == 0 {
				k.get(ctx, p, i, 0, 0)
			} else {
				k.get(ctx, p, i, rand.IntN(i.size), 0)
			}
		}
	}
}

// slowReads reads the largest objects so slowly that a kill cuts the transfer.
func (k *killRun) slowReads(ctx context.Context) {
	p := k.person("alice")
	for ctx.Err() == nil {
		if i, ok := k.largest(); ok {
			k.get(ctx, p, i, 0, time.Millisecond)
		} else {
			time.Sleep(time.Millisecond)
		}
	}
}

// get downloads an object from off on, and notes what arrived.
func (k *killRun) get(ctx context.Context, p *person, i known, off int, pause time.Duration) {
	var headers []string
	if off > 0 {
		headers = []string{"Range", fmt.Sprintf("bytes=%d-", off)}
	}
	res, err := p.send(ctx, http.MethodGet, at(i.name), nil, headers...)
	if err != nil {
		return
	}
	defer res.Body.Close()
	may := p.name == "alice" || !i.secret
	switch res.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		digest, n, err := digestOf(res.Body, pause)
		k.wasRead(killRead{user: p.name, name: i.name, off: int64(off), size: n, digest: digest, cut: err != nil})
	case http.StatusNotFound:
		k.wasTold(killVerdict{user: p.name, name: i.name, how: "get", want: may})
	case http.StatusServiceUnavailable:
	default:
		k.complain("GET %s as %s: %s", i.name, p.name, res.Status)
	}
}

// digestOf reads r, pausing between pieces, and returns the digest of what came before its end or its error.
func digestOf(r io.Reader, pause time.Duration) (artifact.Digest, int64, error) {
	h, buf, total := sha256.New(), make([]byte, 16<<10), int64(0)
	for {
		n, err := r.Read(buf)
		h.Write(buf[:n])
		total += int64(n)
		if err == io.EOF {
			return artifact.Digest(h.Sum(nil)), total, nil
		}
		if err != nil {
			return artifact.Digest(h.Sum(nil)), total, err
		}
		time.Sleep(pause)
	}
}

// checks returns a load of HEADs and of presence batches.
func (k *killRun) checks(user string) func(context.Context) {
	return func(ctx context.Context) {
		p := k.person(user)
		for ctx.Err() == nil {
			i, ok := k.pick()
			switch {
			case !ok:
				time.Sleep(time.Millisecond)
			case rand.IntN(3) > 0:
				k.head(ctx, p, i.name, user == "alice" || !i.secret)
			default:
				k.presence(ctx, p)
			}
		}
	}
}

func (k *killRun) head(ctx context.Context, p *person, name string, want bool) {
	res, err := p.send(ctx, http.MethodHead, at(name), nil)
	if err != nil {
		return
	}
	res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK, http.StatusNotFound:
		k.wasTold(killVerdict{user: p.name, name: name, how: "head", present: res.StatusCode == http.StatusOK, want: want, etag: res.Header.Get("Etag")})
	case http.StatusServiceUnavailable:
	default:
		k.complain("HEAD %s as %s: %s", name, p.name, res.Status)
	}
}

// presence asks for a batch of acknowledged names and one that nobody wrote.
func (k *killRun) presence(ctx context.Context, p *person) {
	items := []known{newItem("never-written-either", 1, true).known()}
	wants := []bool{false}
	for range 1 + rand.IntN(20) {
		if i, ok := k.pick(); ok {
			items, wants = append(items, i), append(wants, p.name == "alice" || !i.secret)
		}
	}
	k.ask(ctx, p, items, wants)
}

// ask sends a presence batch and notes the answers.
func (k *killRun) ask(ctx context.Context, p *person, items []known, wants []bool) {
	var names []string
	for _, i := range items {
		names = append(names, i.name)
	}
	res, err := p.send(ctx, http.MethodPost, "/v1/presence?zone=main", []byte(strings.Join(names, "\n")), "Content-Type", "text/plain")
	if err != nil {
		return
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return
	}
	answers := strings.Fields(string(text))
	if len(answers) != len(names) {
		k.complain("%d answers to %d names", len(answers), len(names))
		return
	}
	for n, a := range answers {
		k.wasTold(killVerdict{user: p.name, name: names[n], how: "presence", present: a == "1", want: wants[n]})
	}
}

// finish starts the gate once more, finishes what is unfinished, asks for every name that anybody ever tried to write, stops the gate
// in good order, and collects the evidence.
func (k *killRun) finish() *evidence {
	k.t.Helper()
	p := k.start()
	k.checkStaging()
	if k.slow.id != "" {
		if err := k.slowStep(k.t.Context(), k.client("ci")); err != nil {
			k.t.Errorf("the upload that survived %s cannot be finished: %v", k.slow.id, err)
		}
	}
	k.checkResumable()
	e := gather(k.world, k.history)
	for _, user := range []string{"alice", "bob"} {
		items := k.all()
		wants := make([]bool, len(items))
		for n, i := range items {
			_, recorded := e.records[i.name]
			wants[n] = recorded && (user == "alice" || !k.isSecret(i.name))
		}
		k.ask(k.t.Context(), k.person(user), items, wants)
	}
	p.stop()
	return gather(k.world, k.history)
}

// checkResumable demands that every begun upload that is left can be asked for by its owner, and tells how many there are.
func (k *killRun) checkResumable() {
	c := k.client("ci")
	for _, id := range k.stagedUploads() {
		var meta struct {
			Kind string `json:"kind"`
		}
		text, err := os.ReadFile(k.q.path("state/staging/" + id + "/upload.json"))
		if err == nil {
			err = json.Unmarshal(text, &meta)
		}
		if err == nil && meta.Kind == "begun" {
			_, err = c.Upload(k.t.Context(), id)
		}
		if err != nil {
			k.t.Errorf("the upload %s that was left cannot be resumed: %v", id, err)
		}
	}
}

// missing returns the kinds of request that the load has not brought about yet.
func (h *history) missing() []string {
	counts := map[string]int{"acknowledged write": len(h.written), "resumed upload": h.resumes, "name that was kept": h.kept}
	for _, r := range h.reads {
		counts["read"]++
		if r.cut && r.size > 0 {
			counts["read that was cut"]++
		}
		if r.off > 0 {
			counts["range"]++
		}
	}
	for _, v := range h.verdicts {
		counts[fmt.Sprintf("%s answered %t", v.how, v.present)]++
	}
	return slices.DeleteFunc([]string{
		"acknowledged write", "resumed upload", "name that was kept", "read", "read that was cut", "range",
		"head answered true", "head answered false", "presence answered true", "presence answered false", "get answered false",
	}, func(kind string) bool { return counts[kind] > 0 })
}
