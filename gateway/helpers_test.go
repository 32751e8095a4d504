package gateway_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

const (
	publicSource  = "git://git.example.com/public/hello.git;protocol=https"
	privateSource = "git://git.example.com/team/secret.git;protocol=ssh"

	mount  = "/sstate/main/"
	review = "/sstate/review/"
	// patience bounds every wait for something that must happen. Nothing depends on how long it takes.
	patience = 60 * time.Second
)

// noise is size bytes that follow from seed.
func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// object is an archive of a recipe's task "package" with this content.
func object(recipe string, content []byte) gwtest.Object {
	return gwtest.Object{Name: gwtest.NewObject(recipe, "package").Name, Content: content}
}

func digest(content []byte) artifact.Digest { return sha256.Sum256(content) }

// announce is the request that begins an upload of objects.
func announce(objects ...gwtest.Object) gateway.UploadRequest {
	var req gateway.UploadRequest
	for _, o := range objects {
		sum := digest(o.Content)
		req.Objects = append(req.Objects, gateway.UploadObject{Name: o.Name, Size: int64(len(o.Content)), SHA256: hex.EncodeToString(sum[:])})
	}
	return req
}

// begin opens an upload that must be taken.
func begin(t testing.TB, u *gwtest.User, zone string, objects ...gwtest.Object) gateway.Upload {
	t.Helper()
	up, err := u.Client().Begin(t.Context(), zone, announce(objects...))
	if err != nil {
		t.Fatal(err)
	}
	return up
}

// stage sends bytes of an object of an upload from an offset on.
func stage(u *gwtest.User, id string, index, off int, content []byte) *gwtest.Response {
	u.Gate.T.Helper()
	return u.Do(http.MethodPut, fmt.Sprintf("/v1/uploads/%s/%d", id, index), content, "Upload-Offset", fmt.Sprint(off))
}

// commit ends an upload and returns the status and the answer.
func commit(u *gwtest.User, id string, envelope []byte) (int, gateway.CommitResult, gateway.APIError) {
	u.Gate.T.Helper()
	res := u.Do(http.MethodPost, "/v1/uploads/"+id+"/commit", envelope)
	var result gateway.CommitResult
	var failure gateway.APIError
	into := any(&failure)
	if res.StatusCode == http.StatusCreated {
		into = &result
	}
	if err := json.Unmarshal(res.Bytes, into, json.RejectUnknownMembers(true)); err != nil {
		u.Gate.T.Errorf("commit: %d %q: %v", res.StatusCode, res.Bytes, err)
	}
	return res.StatusCode, result, failure
}

// put sends a plain PUT and returns the status and the text.
func put(u *gwtest.User, path string, content []byte) (int, string) {
	u.Gate.T.Helper()
	res := u.Do(http.MethodPut, path, content)
	return res.StatusCode, strings.TrimSuffix(string(res.Bytes), "\n")
}

// statement is one about objects in a zone.
func statement(g *gwtest.Gate, zone string, objects []gwtest.Object, sources ...string) *provenance.Statement {
	st := g.Statement(objects, sources...)
	st.Zone = zone
	return st
}

// publish writes objects to a zone as somebody, and returns what became of them.
func publish(t testing.TB, u *gwtest.User, st *provenance.Statement, objects ...gwtest.Object) []string {
	t.Helper()
	result, err := u.Gate.TryPublish(u, st, objects)
	if err != nil {
		t.Fatal(err)
	}
	return results(result)
}

func results(r gateway.CommitResult) (list []string) {
	for _, o := range r.Objects {
		list = append(list, o.Result)
	}
	return list
}

// record returns the record of a name, nil when there is none.
func record(t testing.TB, g *gwtest.Gate, zone, name string) *provenance.Record {
	t.Helper()
	ref, err := artifact.ParseName(artifact.Zone{Name: zone}, name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := g.DB.Lookup(t.Context(), ref)
	if errors.Is(err, provenance.ErrNoRecord) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

// reads wants somebody to get the content of a path, by HEAD, GET and presence alike; nil content means that it looks absent.
func reads(t testing.TB, u *gwtest.User, path string, content []byte) {
	t.Helper()
	want := http.StatusOK
	if content == nil {
		want = http.StatusNotFound
	}
	zone, name, _ := strings.Cut(strings.TrimPrefix(path, "/sstate/"), "/")
	present, err := u.Client().Presence(t.Context(), zone, []string{name})
	if err != nil {
		t.Fatal(err)
	}
	head, get := u.Head(path), u.Get(path)
	if head.StatusCode != want || get.StatusCode != want || present[0] != (content != nil) {
		t.Errorf("%s: HEAD %d, GET %d, presence %v, want %d", path, head.StatusCode, get.StatusCode, present[0], want)
	} else if content != nil && string(get.Bytes) != string(content) {
		t.Errorf("%s: GET gave %d other bytes", path, len(get.Bytes))
	}
}

// unresolvable is a source that nobody can find.
func unresolvable() source.Source {
	return source.Parse("git://${HOST}/x.git", strings.Repeat("a", 40))
}

// eventually waits until ok reports true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
