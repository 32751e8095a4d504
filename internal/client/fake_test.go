package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
)

// fakeGate is a gate that referees the wire contract: whatever a client may not do fails the test.
type fakeGate struct {
	t      testing.TB
	server *httptest.Server
	token  string
	signer provenance.Signer
	// fault may answer in the gate's place; it returns true when it did. It is called with the lock held.
	fault func(w http.ResponseWriter, r *http.Request) bool
	gaps  bool // a statement may rest on inputs that were not published, since the test has some refused

	mu         sync.Mutex // guards what follows
	uploads    map[string]*fakeUpload
	published  map[string][]byte
	statements []*provenance.Statement
	hidden     map[string]bool // published, but presence denies it
	mirror     map[string][]byte
	requests   map[string]int // by route
	moved      int64          // bytes received
}

type fakeUpload struct {
	gateway.Upload
	inPlace  bool
	announce []gateway.UploadObject
	held     [][]byte
}

const (
	fakeToken = "lyg_secret"
	fakeZone  = "main"
)

func newFakeGate(t testing.TB) *fakeGate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := provenance.NewSSHSigner(s)
	if err != nil {
		t.Fatal(err)
	}
	g := &fakeGate{
		t: t, token: fakeToken, signer: signer, uploads: map[string]*fakeUpload{}, published: map[string][]byte{},
		hidden: map[string]bool{}, mirror: map[string][]byte{}, requests: map[string]int{},
	}
	g.server = httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.server.Close)
	return g
}

// client returns a client that does not really wait between attempts; it notes how long it would have.
func (g *fakeGate) client() (*Client, *waits) {
	g.t.Helper()
	w := &waits{}
	c, err := New(Config{Gate: g.server.URL, Token: authn.NewSecret(g.token), Wait: w.wait})
	if err != nil {
		g.t.Fatal(err)
	}
	return c, w
}

type waits struct {
	mu   sync.Mutex
	list []time.Duration
}

func (w *waits) wait(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, d)
	return ctx.Err()
}

func (g *fakeGate) options(cache Cache) PushOptions {
	return PushOptions{
		Cache: cache, Zone: fakeZone, Signer: g.signer, Audience: "https://gate.example.com", Builder: "https://ci.example.com/builder",
		Invocation: "https://ci.example.com/run/1", Jobs: 3,
	}
}

func refuse(w http.ResponseWriter, status int, text, hint string) {
	w.WriteHeader(status)
	body, _ := json.Marshal(gateway.APIError{Error: text, Hint: hint})
	_, _ = w.Write(body)
}

func (g *fakeGate) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+fakeToken {
		refuse(w, http.StatusUnauthorized, "no valid credential", "")
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	route := r.Method + " " + parts[0]
	if len(parts) > 1 {
		route += "/" + parts[1]
	}
	if len(parts) == 4 && parts[1] == "uploads" && r.Method == http.MethodPost {
		route += "/commit"
	}
	if g.faulty(w, r, route) {
		return
	}
	switch route {
	case "POST v1/presence":
		g.presence(w, r)
	case "POST v1/zones":
		g.begin(w, r, parts[2])
	case "GET v1/uploads":
		g.status(w, parts[2])
	case "PUT v1/uploads":
		g.stage(w, r, parts[2], parts[3])
	case "POST v1/uploads/commit":
		g.commit(w, r, parts[2])
	case "DELETE v1/uploads":
		g.forget(w, parts[2])
	case "GET v1/whoami":
		g.reply(w, 200, gateway.Whoami{Forge: "git.example.com", ID: "7", Name: "ci", Kind: "ci", Groups: []string{}, Roles: []string{"writer:main"}})
	default:
		g.t.Errorf("no such route: %s %s", r.Method, r.URL.Path)
		refuse(w, http.StatusNotFound, "not found", "")
	}
}

func (g *fakeGate) faulty(w http.ResponseWriter, r *http.Request, route string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests[route]++
	return g.fault != nil && g.fault(w, r)
}

func (g *fakeGate) reply(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		g.t.Error(err)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func (g *fakeGate) read(w http.ResponseWriter, r *http.Request, into any) bool {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, into, json.RejectUnknownMembers(true))
	}
	if err != nil {
		g.t.Errorf("%s %s: bad body: %v", r.Method, r.URL.Path, err)
		refuse(w, http.StatusBadRequest, "bad body", "")
	}
	return err == nil
}

func (g *fakeGate) presence(w http.ResponseWriter, r *http.Request) {
	var req gateway.PresenceRequest
	if !g.read(w, r, &req) {
		return
	}
	if len(req.Names) > presenceBatch || req.Zone != fakeZone {
		g.t.Errorf("presence of %d names in %q", len(req.Names), req.Zone)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	reply := gateway.PresenceReply{Present: make([]bool, len(req.Names))}
	for i, n := range req.Names {
		_, there := g.published[n]
		reply.Present[i] = there && !g.hidden[n]
	}
	g.reply(w, 200, reply)
}

func (g *fakeGate) begin(w http.ResponseWriter, r *http.Request, zone string) {
	var req gateway.UploadRequest
	if !g.read(w, r, &req) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if zone != fakeZone || len(req.Objects) == 0 || len(req.Objects) > provenance.MaxSubjects {
		g.t.Errorf("begin of %d objects in zone %q", len(req.Objects), zone)
	}
	u := &fakeUpload{announce: req.Objects, inPlace: req.InPlace, held: make([][]byte, len(req.Objects))}
	u.ID, u.Zone, u.Expires = fmt.Sprintf("u%d", len(g.uploads)+1), zone, "2026-01-01T00:00:00Z"
	seen := map[string]bool{}
	for _, o := range req.Objects {
		if _, err := artifact.ParseName(artifact.Zone{Name: zone}, o.Name); err != nil || seen[o.Name] || o.Size <= 0 || len(o.SHA256) != 64 {
			g.t.Errorf("announced %+v (%v)", o, err)
		}
		seen[o.Name] = true
		state := "needed"
		if have, ok := g.published[o.Name]; ok && sum(have) == o.SHA256 {
			state = "present"
		} else if req.InPlace {
			state = "staged"
		}
		u.Objects = append(u.Objects, gateway.UploadStatus{Name: o.Name, State: state})
	}
	g.uploads[u.ID] = u
	g.reply(w, 201, u.Upload)
}

func sum(b []byte) string { s := sha256.Sum256(b); return artifact.Digest(s).Hex() }

func (g *fakeGate) find(w http.ResponseWriter, id string) *fakeUpload {
	u := g.uploads[id]
	if u == nil {
		refuse(w, http.StatusNotFound, "no such upload", "begin again")
	}
	return u
}

func (g *fakeGate) status(w http.ResponseWriter, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if u := g.find(w, id); u != nil {
		g.reply(w, 200, u.now())
	}
}

func (u *fakeUpload) now() gateway.Upload {
	now := u.Upload
	now.Objects = append([]gateway.UploadStatus(nil), u.Objects...)
	for i := range now.Objects {
		if now.Objects[i].State != "needed" {
			continue
		}
		now.Objects[i].Offset = int64(len(u.held[i]))
		if now.Objects[i].Offset == u.announce[i].Size {
			now.Objects[i].State = "staged"
		}
	}
	return now
}

func (g *fakeGate) stage(w http.ResponseWriter, r *http.Request, id, index string) {
	g.mu.Lock()
	u := g.find(w, id)
	g.mu.Unlock()
	if u == nil {
		return
	}
	i, err := strconv.Atoi(index)
	off, err2 := strconv.ParseInt(r.Header.Get("Upload-Offset"), 10, 64)
	if err != nil || err2 != nil || i >= len(u.announce) || u.Objects[i].State != "needed" || u.inPlace {
		g.t.Errorf("PUT of object %s at %q, which nobody asked for", index, r.Header.Get("Upload-Offset"))
		refuse(w, http.StatusBadRequest, "bad", "")
		return
	}
	g.mu.Lock()
	held := int64(len(u.held[i]))
	g.mu.Unlock()
	if off != held {
		refuse(w, http.StatusConflict, fmt.Sprintf("%d bytes are held", held), "send from there")
		return
	}
	if r.ContentLength != u.announce[i].Size-off {
		g.t.Errorf("PUT of %d bytes at %d of %d", r.ContentLength, off, u.announce[i].Size)
	}
	body, err := io.ReadAll(r.Body)
	g.mu.Lock()
	defer g.mu.Unlock()
	u.held[i] = append(u.held[i], body...)
	g.moved += int64(len(body))
	if err != nil {
		return // the connection is gone; what came stays
	}
	if int64(len(u.held[i])) == u.announce[i].Size && sum(u.held[i]) != u.announce[i].SHA256 {
		u.held[i] = nil
		refuse(w, http.StatusUnprocessableEntity, "the bytes have another digest than announced", "push again")
		return
	}
	w.Header().Set("Upload-Offset", strconv.Itoa(len(u.held[i])))
	w.WriteHeader(http.StatusNoContent)
}

func (g *fakeGate) commit(w http.ResponseWriter, r *http.Request, id string) {
	envelope, _ := io.ReadAll(r.Body)
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.find(w, id)
	if u == nil {
		return
	}
	s, err := openEnvelope(envelope)
	if err != nil {
		g.t.Errorf("commit: %v", err)
		refuse(w, 422, err.Error(), "")
		return
	}
	if s.UploadID != id || s.Zone != u.Zone || s.Audience != "https://gate.example.com" || len(s.Subjects) != len(u.announce) {
		g.t.Errorf("statement for upload %q in zone %q at %q with %d subjects", s.UploadID, s.Zone, s.Audience, len(s.Subjects))
	}
	result := gateway.CommitResult{Statement: "sha256:" + sum(envelope)}
	subjects := map[string]provenance.Subject{}
	for _, sub := range s.Subjects {
		subjects[sub.Name] = sub
	}
	for i, o := range u.announce {
		if sub := subjects[o.Name]; sub.Digest.Hex() != o.SHA256 || sub.Size != o.Size {
			g.t.Errorf("subject %+v, announced %+v", sub, o)
		}
		result.Objects = append(result.Objects, gateway.CommitStatus{Name: o.Name, Result: g.publish(u, i)})
	}
	// What a build used must be known before it: the gate looks it up at the commit.
	for _, a := range s.Artifacts {
		if have, ok := g.published[a.Name]; !g.gaps && (!ok || sum(have) != a.Digest.Hex()) {
			g.t.Errorf("%s used %s, which is not published yet", s.Recipe, a.Name)
		}
	}
	g.statements = append(g.statements, s)
	g.close(id)
	g.reply(w, 201, result)
}

func (g *fakeGate) publish(u *fakeUpload, i int) string {
	o := u.announce[i]
	content := u.held[i]
	if u.inPlace {
		content = g.mirror[o.Name]
	}
	have, there := g.published[o.Name]
	switch {
	case there && sum(have) == o.SHA256:
		return "confirmed"
	case sum(content) != o.SHA256:
		g.t.Errorf("committed %s without its bytes", o.Name)
		return "refused"
	case there:
		return "kept"
	}
	g.published[o.Name] = content
	return "stored"
}

func (g *fakeGate) forget(w http.ResponseWriter, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.find(w, id) == nil {
		return
	}
	g.close(id)
	w.WriteHeader(http.StatusNoContent)
}

// close forgets an upload; ids are not used twice.
func (g *fakeGate) close(id string) {
	delete(g.uploads, id)
	g.uploads["gone "+id] = nil
}

// openEnvelope reads a DSSE envelope without checking its signature, which is the provenance package's to test.
func openEnvelope(envelope []byte) (*provenance.Statement, error) {
	var e struct {
		PayloadType string           `json:"payloadType"`
		Payload     string           `json:"payload"`
		Signatures  []map[string]any `json:"signatures"`
	}
	if err := json.Unmarshal(envelope, &e, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	if len(e.Signatures) != 1 {
		return nil, fmt.Errorf("%d signatures", len(e.Signatures))
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		return nil, err
	}
	return provenance.ParseStatement(payload)
}

// matches fails the test unless the gate now has exactly the objects of a cache.
func (g *fakeGate) matches(files map[string][]byte) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, content := range files {
		if !bytes.Equal(g.published[name], content) {
			g.t.Errorf("%s is not published as it is", name)
		}
	}
	if len(g.published) != len(files) {
		g.t.Errorf("%d objects are published, want %d", len(g.published), len(files))
	}
	for id, u := range g.uploads {
		if u != nil {
			g.t.Errorf("upload %s was left open", id)
		}
	}
}
