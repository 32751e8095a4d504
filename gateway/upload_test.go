package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/gwtest"
)

func TestUpload(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	a, b := object("hello", noise(1, 300<<10)), object("world", []byte("small"))
	siginfo := gwtest.NewSiginfo(a)
	objects := []gwtest.Object{a, siginfo, b}
	ci := g.As("ci")
	up := begin(t, ci, "main", objects...)
	for i, o := range objects {
		if up.Objects[i].Name != o.Name || up.Objects[i].State != "needed" || up.Objects[i].Offset != 0 {
			t.Errorf("begin: %+v", up.Objects[i])
		}
		if res := stage(ci, up.ID, i, 0, o.Content); res.StatusCode != http.StatusNoContent || res.Header.Get("Upload-Offset") != fmt.Sprint(len(o.Content)) {
			t.Errorf("stage: %d %s", res.StatusCode, res.Header)
		}
		reads(t, g.As("alice"), mount+o.Name, nil)
	}
	st := statement(g, "main", objects, publicSource)
	st.UploadID = up.ID
	code, result, _ := commit(ci, up.ID, g.Seal(st))
	if code != http.StatusCreated || !slices.Equal(results(result), []string{"stored", "stored", "stored"}) {
		t.Fatalf("commit: %d %+v", code, result)
	}
	for _, o := range objects {
		reads(t, g.As("bob"), mount+o.Name, o.Content)
		reads(t, g.As("alice"), mount+o.Name, o.Content)
		reads(t, g.As("carol"), mount+o.Name, nil)
	}
	if code, _, failure := commit(ci, up.ID, g.Seal(st)); code != http.StatusNotFound {
		t.Errorf("a second commit: %d %+v", code, failure)
	}
	// Again, in a new upload: nothing is needed, and all is confirmed.
	up = begin(t, ci, "main", objects...)
	st.UploadID = up.ID
	if code, result, _ := commit(ci, up.ID, g.Seal(st)); code != http.StatusCreated || !slices.Equal(results(result), []string{"confirmed", "confirmed", "confirmed"}) || up.Objects[0].State != "present" {
		t.Errorf("again: %d %+v %+v", code, result, up)
	}
}

// TestUploadResumes cuts an upload at random places, each time asks where to go on, and restarts the gate on the way.
func TestUploadResumes(t *testing.T) {
	o, whole := object("hello", noise(2, 3<<20+77)), object("whole", []byte("all of it came before the restart"))
	dir := t.TempDir()
	g := gwtest.New(t, gwtest.Options{Dir: dir})
	up := begin(t, g.As("ci"), "main", o, whole)
	stage(g.As("ci"), up.ID, 1, 0, whole.Content)
	random := rand.New(rand.NewPCG(1, 2))
	held := 0
	for round := 0; held < len(o.Content); round++ {
		if round == 3 {
			g.Stop()
			g = gwtest.New(t, gwtest.Options{Dir: dir})
		}
		n := min(1+random.IntN(1<<20), len(o.Content)-held)
		var now gateway.Upload
		eventually(t, "the cut body is held", func() bool { // the request before may not have noticed yet that it was cut: 409
			sendCut(t, g.As("ci"), up.ID, held, o.Content[held:], n)
			var err error
			if now, err = g.As("ci").Client().Upload(t.Context(), up.ID); err != nil {
				t.Fatal(err)
			}
			return now.Objects[0].Offset >= int64(held+1)
		})
		held = int(now.Objects[0].Offset)
	}
	st := statement(g, "main", []gwtest.Object{o, whole}, publicSource)
	st.UploadID = up.ID
	if code, result, failure := commit(g.As("ci"), up.ID, g.Seal(st)); code != http.StatusCreated {
		t.Fatalf("commit: %d %+v %+v", code, result, failure)
	}
	reads(t, g.As("bob"), mount+o.Name, o.Content)
	reads(t, g.As("bob"), mount+whole.Name, whole.Content)
}

// sendCut announces all of content and breaks off after n bytes.
func sendCut(t testing.TB, u *gwtest.User, id string, off int, content []byte, n int) {
	t.Helper()
	body := io.MultiReader(bytes.NewReader(content[:n]), brokenReader{})
	if n == len(content) {
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequest(http.MethodPut, fmt.Sprintf("%s/v1/uploads/%s/0", u.Gate.URL, id), body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(content))
	req.SetBasicAuth("user", u.Token)
	req.Header.Set("Upload-Offset", fmt.Sprint(off))
	if res, err := u.HTTP.Do(req); err == nil {
		res.Body.Close()
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the cable was cut") }

// TestStageRefuses sends what an upload does not expect.
func TestStageRefuses(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	there := object("there", []byte("here already"))
	g.Publish([]gwtest.Object{there}, publicSource)
	o := object("hello", noise(3, 1000))
	ci, bob := g.As("ci"), g.As("bob")
	up := begin(t, ci, "main", o, there)
	if res := stage(ci, up.ID, 0, 0, o.Content[:400]); res.StatusCode != 204 {
		t.Fatal(res.StatusCode)
	}
	for _, row := range []struct {
		name string
		res  *gwtest.Response
		want int
		held string
	}{
		{"offset 0 again", stage(ci, up.ID, 0, 0, o.Content), 409, "400"},
		{"offset beyond", stage(ci, up.ID, 0, 401, o.Content[401:]), 409, "400"},
		{"negative offset", stage(ci, up.ID, 0, -1, o.Content), 400, ""},
		{"no offset", ci.Do("PUT", "/v1/uploads/"+up.ID+"/0", o.Content), 400, ""},
		{"no such object", stage(ci, up.ID, 2, 0, o.Content), 404, "0"},
		{"object that is present", stage(ci, up.ID, 1, 0, there.Content), 404, "0"},
		{"index that is no number", ci.Do("PUT", "/v1/uploads/"+up.ID+"/x", o.Content, "Upload-Offset", "0"), 400, ""},
		{"huge index", ci.Do("PUT", "/v1/uploads/"+up.ID+"/99999999999", o.Content, "Upload-Offset", "0"), 400, ""},
		{"no such upload", stage(ci, strings.Repeat("0", 32), 0, 0, o.Content), 404, "0"},
		{"another's upload", stage(bob, up.ID, 0, 400, o.Content[400:]), 404, "0"},
		{"another's status", bob.Get("/v1/uploads/" + up.ID), 404, ""},
		{"another's commit", bob.Do("POST", "/v1/uploads/"+up.ID+"/commit", []byte("{}")), 404, ""},
		{"another's delete", bob.Do("DELETE", "/v1/uploads/"+up.ID, nil), 404, ""},
		{"commit with missing bytes", ci.Do("POST", "/v1/uploads/"+up.ID+"/commit", []byte("{}")), 409, ""},
		{"wrong method", ci.Do("PATCH", "/v1/uploads/"+up.ID, nil), 405, ""},
		{"too many bytes", stage(ci, up.ID, 0, 400, append(o.Content[400:], 'x')), 413, "400"},
	} {
		if row.res.StatusCode != row.want || row.res.Header.Get("Upload-Offset") != row.held {
			t.Errorf("%s: %d, offset %q %s; want %d, %q", row.name, row.res.StatusCode, row.res.Header.Get("Upload-Offset"), row.res.Bytes, row.want, row.held)
		}
	}
	stranger := stage(bob, strings.Repeat("0", 32), 0, 0, o.Content)
	if another := stage(bob, up.ID, 0, 0, o.Content); !bytes.Equal(another.Bytes, stranger.Bytes) {
		t.Errorf("another's upload: %q, none: %q", another.Bytes, stranger.Bytes)
	}
	if res := stage(ci, up.ID, 0, 400, noise(4, 600)); res.StatusCode != 422 || res.Header.Get("Upload-Offset") != "0" {
		t.Errorf("wrong bytes: %d, offset %s", res.StatusCode, res.Header.Get("Upload-Offset"))
	}
	if res := stage(ci, up.ID, 0, 0, o.Content); res.StatusCode != 204 {
		t.Errorf("after wrong bytes: %d %s", res.StatusCode, res.Bytes)
	}
	if res := ci.Do("DELETE", "/v1/uploads/"+up.ID, nil); res.StatusCode != 204 {
		t.Errorf("delete: %d", res.StatusCode)
	}
	if res := ci.Get("/v1/uploads/" + up.ID); res.StatusCode != 404 {
		t.Errorf("after delete: %d", res.StatusCode)
	}
}

// TestStageRaces: of many that send the same bytes at once, one is taken, and the others are told where to go on.
func TestStageRaces(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o, ci := object("hello", noise(5, 600<<10)), g.As("ci")
	up := begin(t, ci, "main", o)
	var wg sync.WaitGroup
	taken := make(chan int, 8)
	for range cap(taken) {
		wg.Go(func() { taken <- stage(ci, up.ID, 0, 0, o.Content).StatusCode })
	}
	wg.Wait()
	close(taken)
	count := map[int]int{}
	for code := range taken {
		count[code]++
	}
	if count[http.StatusNoContent] != 1 || count[http.StatusConflict] != cap(taken)-1 {
		t.Errorf("%v, want one 204 and else 409", count)
	}
	st := statement(g, "main", []gwtest.Object{o}, publicSource)
	st.UploadID = up.ID
	codes := make(chan int, 4)
	for range cap(codes) {
		wg.Go(func() { code, _, _ := commit(ci, up.ID, g.Seal(st)); codes <- code })
	}
	wg.Wait()
	close(codes)
	count = map[int]int{}
	for code := range codes {
		count[code]++
	}
	if count[http.StatusCreated] != 1 || count[http.StatusNotFound] != cap(codes)-1 {
		t.Errorf("commits: %v, want one 201 and else 404", count)
	}
	reads(t, g.As("bob"), mount+o.Name, o.Content)
}

// TestBeginRefuses announces what no upload may hold.
func TestBeginRefuses(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Uploads: gateway.Limits{ObjectBytes: 1000, UploadObjects: 3, OpenUploads: 2, UploadAge: time.Hour, EnvelopeBytes: 4 << 20, PresenceNames: 3}})
	good := announce(object("hello", []byte("x"))).Objects[0]
	with := func(change func(o *gateway.UploadObject)) gateway.UploadRequest {
		o := good
		change(&o)
		return gateway.UploadRequest{Objects: []gateway.UploadObject{o}}
	}
	for _, row := range []struct {
		name string
		req  gateway.UploadRequest
	}{
		{"nothing", gateway.UploadRequest{}},
		{"too many", announce(object("a", []byte("x")), object("b", []byte("x")), object("c", []byte("x")), object("d", []byte("x")))},
		{"twice", gateway.UploadRequest{Objects: []gateway.UploadObject{good, good}}},
		{"no name", with(func(o *gateway.UploadObject) { o.Name = "" })},
		{"bad name", with(func(o *gateway.UploadObject) { o.Name = "../" + o.Name })},
		{"percent-encoded name", with(func(o *gateway.UploadObject) { o.Name = strings.ReplaceAll(o.Name, ":", "%3A") })},
		{"statement's name", with(func(o *gateway.UploadObject) { o.Name += gateway.StatementSuffix })},
		{"empty", with(func(o *gateway.UploadObject) { o.Size = 0 })},
		{"negative", with(func(o *gateway.UploadObject) { o.Size = -1 })},
		{"too large", with(func(o *gateway.UploadObject) { o.Size = 1001 })},
		{"no digest", with(func(o *gateway.UploadObject) { o.SHA256 = "" })},
		{"short digest", with(func(o *gateway.UploadObject) { o.SHA256 = o.SHA256[1:] })},
		{"zero digest in capitals", with(func(o *gateway.UploadObject) { o.SHA256 = strings.ToUpper(o.SHA256) })},
		{"in place without a mirror", gateway.UploadRequest{Objects: []gateway.UploadObject{good}, InPlace: true}},
	} {
		_, err := g.As("ci").Client().Begin(t.Context(), "main", row.req)
		var refusal *client.Error
		if !errors.As(err, &refusal) || refusal.Status != http.StatusBadRequest && (row.name != "too many" || refusal.Status != http.StatusRequestEntityTooLarge) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	for _, text := range []string{"", "{", "[]", "null x", `{"objects":[],"extra":1}`, `{"Objects":[]}`, `{"objects":[],"objects":[]}`, "{\"objects\":[{\"name\":\"\xff\"}]}"} {
		if res := g.As("ci").Do("POST", "/v1/zones/main/uploads", []byte(text)); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %d", text, res.StatusCode)
		}
	}
	for i, want := range []int{201, 201, 429} {
		res := g.As("ci").Do("POST", "/v1/zones/main/uploads", fmt.Appendf(nil, `{"objects":[{"name":%q,"size":1,"sha256":%q}]}`, good.Name, good.SHA256))
		if res.StatusCode != want {
			t.Errorf("upload %d: %d", i, res.StatusCode)
		}
	}
	if res := g.As("bob").Do("POST", "/v1/presence?zone=main", []byte("a\nb\nc\nd\n")); res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("too many names: %d", res.StatusCode)
	}
}

// TestStatementRefused changes one thing in a good statement. Each must be refused with 422, and publish nothing.
func TestStatementRefused(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	a, b := object("hello", []byte("hello")), object("world", []byte("world"))
	objects := []gwtest.Object{a, b}
	ci := g.As("ci")
	up := begin(t, ci, "main", objects...)
	for i, o := range objects {
		stage(ci, up.ID, i, 0, o.Content)
	}
	other := begin(t, ci, "main", objects...)
	seal := func(change func(st *provenance.Statement)) []byte {
		st := statement(g, "main", objects, publicSource)
		st.UploadID = up.ID
		change(st)
		return g.Seal(st)
	}
	good := seal(func(*provenance.Statement) {})
	for _, row := range []struct {
		name     string
		envelope []byte
		says     string
	}{
		{"another zone", seal(func(st *provenance.Statement) { st.Zone = "review" }), "zone"},
		{"an unknown zone", seal(func(st *provenance.Statement) { st.Zone = "nowhere" }), "zone"},
		{"another audience", seal(func(st *provenance.Statement) { st.Audience = "https://other.example.com" }), "gate"},
		{"audience with a slash", seal(func(st *provenance.Statement) { st.Audience += "/" }), "gate"},
		{"no upload", seal(func(st *provenance.Statement) { st.UploadID = "" }), "another upload"},
		{"another upload", seal(func(st *provenance.Statement) { st.UploadID = other.ID }), "another upload"},
		{"old", seal(func(st *provenance.Statement) { st.IssuedAt = time.Now().Add(-11 * time.Minute) }), "older"},
		{"of the future", seal(func(st *provenance.Statement) { st.IssuedAt = time.Now().Add(2 * time.Minute) }), "future"},
		{"one subject less", seal(func(st *provenance.Statement) { st.Subjects = st.Subjects[:1] }), "subjects"},
		{"one subject more", seal(func(st *provenance.Statement) {
			st.Subjects = append(st.Subjects, provenance.Subject{Name: object("more", nil).Name, Digest: digest([]byte("x")), Size: 1})
		}), "subjects"},
		{"another subject", seal(func(st *provenance.Statement) { st.Subjects[1].Name = object("more", nil).Name }), "does not cover"},
		{"another digest", seal(func(st *provenance.Statement) { st.Subjects[0].Digest = digest([]byte("x")) }), "does not cover"},
		{"swapped digests", seal(func(st *provenance.Statement) {
			st.Subjects[0].Digest, st.Subjects[1].Digest = st.Subjects[1].Digest, st.Subjects[0].Digest
		}), "does not cover"},
		{"another size", seal(func(st *provenance.Statement) { st.Subjects[0].Size++ }), "does not cover"},
		{"a part of a subject", seal(func(st *provenance.Statement) { st.Subjects[0].Name += ".sig" }), "does not cover"},
		{"unknown key", func() []byte {
			st := statement(g, "main", objects, publicSource)
			st.UploadID = up.ID
			return g.SealBy(st, g.Stranger)
		}(), "refused"},
		{"signer without the right", func() []byte {
			st := statement(g, "main", objects, publicSource)
			st.UploadID = up.ID
			return g.SealBy(st, g.Outsider)
		}(), "signer_not_allowed"},
		{"payload changed", bytes.Replace(good, []byte(`"payload":"`), []byte(`"payload":"A`), 1), "refused"},
		{"no signature", []byte(`{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[]}`), "refused"},
		{"not an envelope", []byte("hello"), "refused"},
		{"nothing", []byte{}, "refused"},
		{"trailing bytes", append(slices.Clone(good), " {}"...), "refused"},
	} {
		code, _, failure := commit(ci, up.ID, row.envelope)
		if code != http.StatusUnprocessableEntity || !strings.Contains(failure.Error, row.says) {
			t.Errorf("%s: %d %+v", row.name, code, failure)
		}
		for _, o := range objects {
			if record(t, g, "main", o.Name) != nil {
				t.Fatalf("%s: a record appeared", row.name)
			}
		}
	}
	if code, _, failure := commit(ci, up.ID, good); code != http.StatusCreated {
		t.Errorf("the good statement after them: %d %+v", code, failure)
	}
}

func TestSiginfoRefused(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	name := object("hello", nil).Name + ".siginfo"
	for what, content := range map[string][]byte{
		"another task":  gwtest.Siginfo("compile"),
		"not a siginfo": []byte("hello"),
		"no task":       gwtest.Siginfo(`", "x": "`),
		"truncated":     gwtest.Siginfo("package")[:20],
	} {
		o := gwtest.Object{Name: name, Content: content}
		_, err := g.TryPublish(g.As("ci"), g.Statement([]gwtest.Object{o}, publicSource), []gwtest.Object{o})
		var refusal *client.Error
		if !errors.As(err, &refusal) || refusal.Status != http.StatusUnprocessableEntity || !strings.Contains(refusal.Text, "siginfo") {
			t.Errorf("%s: %v", what, err)
		}
		if record(t, g, "main", name) != nil {
			t.Errorf("%s was published", what)
		}
	}
}

// TestFirstBytesStay: another digest under a published name is kept as evidence and changes nothing.
func TestFirstBytesStay(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	first, second := object("hello", []byte("first")), object("hello", []byte("second"))
	ci := g.As("ci")
	publish(t, ci, statement(g, "main", []gwtest.Object{first}, privateSource), first)
	st := statement(g, "main", []gwtest.Object{second}, publicSource)
	if got := publish(t, ci, st, second); got[0] != "kept" {
		t.Errorf("another digest: %v", got)
	}
	reads(t, g.As("alice"), mount+first.Name, first.Content)
	reads(t, g.As("bob"), mount+first.Name, nil)
	if r := record(t, g, "main", first.Name); r.Digest != digest(first.Content) || len(r.Claims) != 1 {
		t.Errorf("the record: %+v", r)
	}
	evidence := false
	for _, e := range g.Events() {
		evidence = evidence || e.Kind == "write.divergence" && e.Objects[0].Outcome == "kept"
	}
	if _, err := g.DB.Envelope(t.Context(), digest(g.Seal(st))); err != nil || !evidence {
		t.Errorf("the second statement is not evidence: %v, event %v", err, evidence)
	}
}

// TestSecondStatementWidens: equal bytes under a second statement are for the readers of either.
func TestSecondStatementWidens(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	o := object("hello", []byte("the same"))
	ci := g.As("ci")
	publish(t, ci, statement(g, "main", []gwtest.Object{o}, privateSource), o)
	reads(t, g.As("bob"), mount+o.Name, nil)
	if got := publish(t, ci, statement(g, "main", []gwtest.Object{o}, publicSource), o); got[0] != "confirmed" {
		t.Errorf("the same bytes: %v", got)
	}
	reads(t, g.As("bob"), mount+o.Name, o.Content)
	reads(t, g.As("carol"), mount+o.Name, nil)
	if r := record(t, g, "main", o.Name); len(r.Claims) != 2 {
		t.Errorf("%d claims", len(r.Claims))
	}
}

// TestHiddenSources: what cannot be traced is recorded, and nobody sees it.
func TestHiddenSources(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	for name, sources := range map[string][]source.Source{
		"none":         {},
		"unresolvable": {unresolvable()},
		"half":         append(g.Statement(nil, publicSource).Sources, unresolvable()),
		"foreign":      g.Statement(nil, "git://elsewhere.example.org/x.git;protocol=https").Sources,
	} {
		o := object("hidden-"+name, []byte(name))
		st := statement(g, "main", []gwtest.Object{o})
		st.Sources, st.Inputs = sources, sources
		if got := publish(t, g.As("ci"), st, o); got[0] != "stored" {
			t.Errorf("%s: %v", name, got)
		}
		if record(t, g, "main", o.Name) == nil {
			t.Errorf("%s: no record", name)
		}
		for _, who := range []string{"alice", "bob", "ci"} {
			reads(t, g.As(who), mount+o.Name, nil)
		}
	}
}

// TestReview: a zone with a base reads through to it, and never writes to it.
func TestReview(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	bob, ci := g.As("bob"), g.As("ci")
	inMain, both := object("main", []byte("of main")), object("both", []byte("of main too"))
	publish(t, ci, statement(g, "main", []gwtest.Object{inMain, both}, publicSource), inMain, both)
	reads(t, bob, review+inMain.Name, inMain.Content)
	other, only := object("both", []byte("of review")), object("review", []byte("of review alone"))
	if got := publish(t, bob, statement(g, "review", []gwtest.Object{other, only}, publicSource), other, only); !slices.Equal(got, []string{"stored", "stored"}) {
		t.Errorf("in review: %v", got)
	}
	reads(t, bob, review+both.Name, other.Content)
	reads(t, bob, mount+both.Name, both.Content)
	reads(t, bob, review+only.Name, only.Content)
	reads(t, bob, mount+only.Name, nil)
	if _, err := g.TryPublish(bob, statement(g, "main", []gwtest.Object{only}, publicSource), []gwtest.Object{only}); err == nil {
		t.Error("a writer of review wrote to main")
	}
	up := begin(t, bob, "review", object("crossing", []byte("x")))
	stage(bob, up.ID, 0, 0, []byte("x"))
	st := statement(g, "main", []gwtest.Object{object("crossing", []byte("x"))}, publicSource)
	st.UploadID = up.ID
	if code, _, _ := commit(bob, up.ID, g.Seal(st)); code != http.StatusUnprocessableEntity {
		t.Errorf("a statement for main ended an upload to review: %d", code)
	}
}

// TestWriterLearnsNothing: a writer that may not read what is there is told what it would be told of a fresh name.
func TestWriterLearnsNothing(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Review: true})
	bob := g.As("bob")
	same, other, fresh := object("same", []byte("same")), object("other", []byte("first")), object("fresh", []byte("fresh"))
	publish(t, g.As("ci"), statement(g, "review", []gwtest.Object{same, other}, privateSource), same, other)
	mine := []gwtest.Object{same, object("other", []byte("second")), fresh}
	up := begin(t, bob, "review", mine...)
	for i, o := range mine {
		if up.Objects[i].State != "needed" {
			t.Errorf("begin tells of %s: %+v", o.Name, up.Objects[i])
		}
		stage(bob, up.ID, i, 0, o.Content)
	}
	st := statement(g, "review", mine, privateSource)
	st.UploadID = up.ID
	if code, result, _ := commit(bob, up.ID, g.Seal(st)); code != http.StatusCreated || !slices.Equal(results(result), []string{"stored", "stored", "stored"}) {
		t.Errorf("commit tells: %d %v", code, results(result))
	}
	if r := record(t, g, "review", other.Name); r.Digest != digest(other.Content) {
		t.Error("the bytes changed")
	}
	// The same by plain PUT, with a statement that comes before its bytes.
	publish(t, g.As("ci"), statement(g, "review", []gwtest.Object{object("plain", []byte("plain"))}, privateSource), object("plain", []byte("plain")))
	for _, recipe := range []string{"plain", "absent"} {
		o := object(recipe, []byte(recipe))
		envelope := g.Seal(statement(g, "review", []gwtest.Object{o}, privateSource))
		code1, text1 := put(bob, review+o.Name+gateway.StatementSuffix, envelope)
		code2, text2 := put(bob, review+o.Name, o.Content)
		if code1 != http.StatusAccepted || code2 != http.StatusCreated {
			t.Errorf("plain PUT tells of %s: %d %q, %d %q", recipe, code1, text1, code2, text2)
		}
	}
}

// TestOneOfManyWriters: of writers that race for one name with bytes of their own, exactly one stores, as the journal tells. A
// writer itself is told of the others only where it could know of them before.
func TestOneOfManyWriters(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	ci, name := g.As("ci"), object("hello", nil).Name
	const writers = 8
	told := make(chan string, writers)
	var wg sync.WaitGroup
	for i := range writers {
		o := object("hello", fmt.Appendf(nil, "bytes of writer %d", i))
		wg.Go(func() {
			result, err := g.TryPublish(ci, g.Statement([]gwtest.Object{o}, publicSource), []gwtest.Object{o})
			if err != nil {
				t.Error(err)
				return
			}
			told <- result.Objects[0].Result
		})
	}
	wg.Wait()
	close(told)
	for result := range told {
		if result != "stored" && result != "kept" {
			t.Errorf("a writer is told %q", result)
		}
	}
	count := map[string]int{}
	for _, e := range g.Events() {
		if e.Kind != "write.publish" && e.Kind != "write.divergence" {
			continue
		}
		count[e.Objects[0].Outcome]++
		if r := record(t, g, "main", name); (e.Objects[0].Outcome == "stored") != (e.Objects[0].Digest == r.Digest.String()) {
			t.Errorf("%s was %s, and the record says %s", e.Objects[0].Digest, e.Objects[0].Outcome, r.Digest)
		}
	}
	if count["stored"] != 1 || count["kept"] != writers-1 {
		t.Errorf("%v, want one stored", count)
	}
	if content := g.As("bob").Get(mount + name); digest(content.Bytes) != record(t, g, "main", name).Digest {
		t.Errorf("%q is served", content.Bytes)
	}
}

// TestUploadsExpire: an upload that nobody ends is gone after its time.
func TestUploadsExpire(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Uploads: gateway.Limits{ObjectBytes: 1000, UploadObjects: 3, OpenUploads: 2, UploadAge: time.Nanosecond, EnvelopeBytes: 4 << 20, PresenceNames: 3}})
	up := begin(t, g.As("ci"), "main", object("hello", []byte("x")))
	if _, err := g.As("ci").Client().Upload(context.Background(), up.ID); err == nil {
		t.Error("an expired upload can be resumed")
	}
	if res := stage(g.As("ci"), up.ID, 0, 0, []byte("x")); res.StatusCode != http.StatusNotFound {
		t.Errorf("an expired upload takes bytes: %d", res.StatusCode)
	}
}
