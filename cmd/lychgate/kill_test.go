package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/internal/sqldb"
)

// TestKill kills the gate with SIGKILL at random moments under mixed load, starts it again, and at the end lets an
// independent checker compare what clients saw with the store, the records and the journal. KILL_CYCLES says how often;
// make test-full sets 200.
func TestKill(t *testing.T) {
	cycles := 8
	if text := os.Getenv("KILL_CYCLES"); text != "" {
		var err error
		if cycles, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	k := newKillRun(t)
	for i := range cycles {
		k.cycle(i)
	}
	k.check()
	t.Logf("%d cycles: %d writes acknowledged, %d reads served, %d reads hidden", cycles, len(k.written), len(k.reads), k.hidden)
	if len(k.written) == 0 || len(k.reads) == 0 || k.hidden == 0 {
		t.Error("the load did not reach every kind of request")
	}
}

// killRun is what clients remember over all cycles.
type killRun struct {
	t      *testing.T
	binary string
	q      quickstart
	cfg    *config.Config

	mu      sync.Mutex // guards what follows
	written []killObject
	reads   []killRead
	hidden  int
	next    int
}

// killObject is a write that the gate acknowledged.
type killObject struct {
	name   string
	digest artifact.Digest
}

// killRead is bytes that a reader got.
type killRead struct {
	user, name string
	whole      bool
	digest     artifact.Digest // of what arrived, when it is whole
}

func newKillRun(t *testing.T) *killRun {
	k := &killRun{t: t, binary: buildBinary(t)}
	k.q = quickstart{dir: t.TempDir(), https: freeAddress(t), admin: freeAddress(t), out: io.Discard}
	var err error
	if k.cfg, err = k.q.prepare(); err != nil {
		t.Fatal(err)
	}
	g, err := newGate(t.Context(), k.cfg, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.q.tokens(t.Context(), g), g.close()); err != nil {
		t.Fatal(err)
	}
	return k
}

// cycle starts the gate, loads it, and kills it.
func (k *killRun) cycle(i int) {
	k.t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(k.binary, "serve", "--config", k.q.path("lychgate.yaml"))
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(k.t.Context())
	defer cancel()
	if err := k.ready(ctx); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		k.t.Fatalf("cycle %d: the gate did not come up: %v\n%s", i, err, log.String())
	}
	var load sync.WaitGroup
	for w := range 3 {
		load.Go(func() { k.writeLoad(ctx, w) })
	}
	for _, user := range []string{"alice", "alice", "bob"} {
		load.Go(func() { k.readLoad(ctx, user) })
	}
	time.Sleep(time.Duration(rand.IntN(400)+20) * time.Millisecond) // the random moment
	if err := cmd.Process.Kill(); err != nil {
		k.t.Fatal(err)
	}
	_ = cmd.Wait()
	cancel()
	load.Wait()
}

// ready waits until the gate answers.
func (k *killRun) ready(ctx context.Context) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		res, err := http.Get("http://" + k.q.admin + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (k *killRun) client(user string) *client.Client {
	r := remote{gate: k.q.url(), caFile: k.q.path("ca.pem"), tokenFile: k.q.path(user + ".token")}
	c, err := r.open()
	if err != nil {
		k.t.Error(err)
	}
	return c
}

// writeLoad publishes objects until ctx ends, and notes what was acknowledged.
func (k *killRun) writeLoad(ctx context.Context, worker int) {
	signer, err := client.LoadSigner(client.SignerOptions{Key: k.q.path("ci.key")})
	if err != nil {
		k.t.Error(err)
		return
	}
	c := k.client("ci")
	for ctx.Err() == nil {
		k.mu.Lock()
		k.next++
		n := k.next
		k.mu.Unlock()
		name, content := killContent(n)
		err := publishOne(ctx, c, signer, k.q.url(), name, content)
		if err != nil {
			continue // killed, or refused after a restart: nothing was acknowledged
		}
		k.mu.Lock()
		k.written = append(k.written, killObject{name, sha256.Sum256(content)})
		k.mu.Unlock()
	}
}

// killContent returns the n-th object: up to 300 KiB that follow from n.
func killContent(n int) (string, []byte) {
	h := sha256.Sum256([]byte(strconv.Itoa(n)))
	hash := hex.EncodeToString(h[:])
	content := bytes.Repeat(h[:], 1+int(h[0])*40)
	return fmt.Sprintf("universal/%s/%s/sstate:kill%d-native:x86_64-linux:1.0:r0:x86_64:14:%s_populate_sysroot.tar.zst", hash[:2], hash[2:4], n, hash), content
}

// oneObject is a cache that holds one object.
type oneObject struct {
	name    string
	content []byte
}

func (o oneObject) List(context.Context) (*client.Listing, error) {
	return nil, errors.New("not a cache to list")
}

func (o oneObject) Open(_ context.Context, _ string, off int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(o.content[off:])), nil
}

// publishOne is one signed write, step by step.
func publishOne(ctx context.Context, c *client.Client, signer provenance.Signer, audience, name string, content []byte) error {
	digest := artifact.Digest(sha256.Sum256(content))
	up, err := c.Begin(ctx, "main", gateway.UploadRequest{Objects: []gateway.UploadObject{{Name: name, Size: int64(len(content)), SHA256: digest.Hex()}}})
	if err != nil {
		return err
	}
	upload := client.UploadSource{Name: name, Size: int64(len(content)), Digest: digest, Cache: oneObject{name, content}}
	if _, err = c.UploadObject(ctx, up.ID, 0, upload); err != nil {
		return err
	}
	st := &provenance.Statement{
		Subjects: []provenance.Subject{{Name: name, Digest: digest, Size: int64(len(content))}},
		Zone:     "main", Audience: audience, UploadID: up.ID, Recipe: "kill", Builder: "https://ci.example.com", IssuedAt: time.Now(),
		Sources: []source.Source{source.Parse("git://git.example.com/teamA/secret-tool.git;protocol=https", strings.Repeat("a", 40))},
	}
	st.Inputs = st.Sources
	payload, err := st.Encode()
	if err != nil {
		return err
	}
	envelope, err := provenance.Seal(payload, signer)
	if err != nil {
		return err
	}
	_, err = c.Commit(ctx, up.ID, envelope)
	return err
}

// readLoad reads what was acknowledged, until ctx ends, and notes what arrived.
func (k *killRun) readLoad(ctx context.Context, user string) {
	c := k.client(user)
	for ctx.Err() == nil {
		k.mu.Lock()
		var want killObject
		if len(k.written) > 0 {
			want = k.written[rand.IntN(len(k.written))]
		}
		k.mu.Unlock()
		if want.name == "" {
			time.Sleep(time.Millisecond)
			continue
		}
		k.read(ctx, c, user, want.name)
	}
}

func (k *killRun) read(ctx context.Context, c *client.Client, user, name string) {
	var got bytes.Buffer
	_, _, err := c.Get(ctx, "main", name, &got)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err == nil || got.Len() > 0:
		k.reads = append(k.reads, killRead{user, name, err == nil, sha256.Sum256(got.Bytes())})
	case errors.Is(err, fs.ErrNotExist):
		k.hidden++
		if user == "alice" {
			k.t.Errorf("alice was refused %s, which was acknowledged", name)
		}
	}
}

// check is the independent checker. It knows only what clients saw, the files, the records and the journal.
func (k *killRun) check() {
	t := k.t
	t.Helper()
	allowed := k.checkJournal()
	db, err := sqldb.Open(t.Context(), sqldb.Config{Path: k.cfg.Database.Value})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	recorded := map[string]artifact.Digest{}
	for r, err := range db.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		recorded[r.Ref.Name()] = r.Digest
		k.checkRecord(db, r)
	}
	for _, w := range k.written {
		if recorded[w.name] != w.digest {
			t.Errorf("the acknowledged write of %s is lost: the record says %s", w.name, recorded[w.name])
		}
	}
	served := map[string]int{}
	for _, r := range k.reads {
		served[r.user+" "+r.name]++
		if r.user != "alice" {
			t.Errorf("%s got bytes of %s", r.user, r.name)
		}
		if r.whole && r.digest != recorded[r.name] {
			t.Errorf("%s got other bytes of %s than its record says", r.user, r.name)
		}
	}
	for key, n := range served {
		if allowed[key] < n {
			t.Errorf("%d reads of %q were served, %d allow events are in the journal", n, key, allowed[key])
		}
	}
}

// checkJournal verifies the trail and counts its allow events by user and name.
func (k *killRun) checkJournal() map[string]int {
	t := k.t
	t.Helper()
	dir := string(k.cfg.Audit.Dir)
	if _, err := audit.Verify(t.Context(), dir, audit.VerifyOptions{Live: true}); err != nil {
		t.Error(err)
	}
	allowed := map[string]int{}
	published := map[string]bool{}
	for e, err := range audit.Tail(t.Context(), dir, audit.TailOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == "decision" && e.Action == "read" && e.Decision.Verdict == "allow" {
			allowed[e.Actor.Name+" "+e.Object.Path]++
		}
		if e.Kind == "write.publish" {
			for _, o := range e.Objects {
				published[o.Path] = true
			}
		}
	}
	for _, w := range k.written {
		if !published[w.name] {
			t.Errorf("the acknowledged write of %s left no event", w.name)
		}
	}
	return allowed
}

// checkRecord demands the bytes and the statement that a record promises.
func (k *killRun) checkRecord(db *sqldb.DB, r provenance.Record) {
	t := k.t
	t.Helper()
	h := r.Digest.Hex()
	content, err := os.ReadFile(filepath.Join(k.cfg.Blobs.Value, "sha256", h[:2], h))
	if err != nil || artifact.Digest(sha256.Sum256(content)) != r.Digest || int64(len(content)) != r.Size {
		t.Errorf("the record of %s has no such bytes: %v", r.Ref.Name(), err)
	}
	if len(r.Claims) == 0 {
		t.Errorf("the record of %s has no claim", r.Ref.Name())
		return
	}
	if _, err := db.Envelope(t.Context(), r.Claims[0].Statement); err != nil {
		t.Errorf("the record of %s has no statement: %v", r.Ref.Name(), err)
	}
}
