package httpd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/internal/gwtest"
)

const libfoo = "public/libfoo"

// remoteGate is a gate whose forge is asked over a network. Alice may read libfoo, and administers the zone; so may bob, who does not.
func remoteGate(t *testing.T, o gwtest.Options) (*gwtest.Gate, *gwtest.Remote, string) {
	t.Helper()
	r := gwtest.NewRemote()
	for _, user := range []string{"alice", "bob", "ci"} {
		r.Set(user, libfoo, true)
	}
	o.Provider, o.Admins = r, []string{"alice"}
	g := gwtest.New(t, o)
	object := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{object}, "git://git.example.com/"+libfoo+".git;protocol=https")
	return g, r, mount + object.Name
}

// post posts a delivery.
func post(g *gwtest.Gate, forge string, h gwtest.RemoteHook) *gwtest.Response {
	body, signature := gwtest.SignedHook(h)
	return g.WithToken("").Do(http.MethodPost, "/v1/hooks/"+forge, body, "X-Signature", signature)
}

func wantStatus(t *testing.T, what string, res *gwtest.Response, want int) {
	t.Helper()
	if res.StatusCode != want {
		t.Errorf("%s: %d %s, want %d", what, res.StatusCode, res.Bytes, want)
	}
}

// TestHook: what the forge posts is true for the next request, and nothing else is.
func TestHook(t *testing.T) {
	g, r, path := remoteGate(t, gwtest.Options{})
	bob := g.As("bob")
	wantStatus(t, "before", bob.Get(path), http.StatusOK)
	r.Set("bob", libfoo, false)
	wantStatus(t, "unsignalled, for now", bob.Get(path), http.StatusOK)
	wantStatus(t, "another user's event", post(g, gwtest.Forge, gwtest.RemoteHook{ID: "1", User: "1"}), http.StatusNoContent)
	wantStatus(t, "after another's event", bob.Get(path), http.StatusOK)
	wantStatus(t, "the event", post(g, gwtest.Forge, gwtest.RemoteHook{ID: "2", User: "2"}), http.StatusNoContent)
	wantStatus(t, "after the event", bob.Get(path), http.StatusNotFound)
	r.Set("bob", libfoo, true)
	wantStatus(t, "the repository's event", post(g, gwtest.Forge, gwtest.RemoteHook{ID: "3", Repo: libfoo}), http.StatusNoContent)
	wantStatus(t, "granted again", bob.Get(path), http.StatusOK)
	r.Block("bob", true)
	wantStatus(t, "blocked", post(g, gwtest.Forge, gwtest.RemoteHook{ID: "4", User: "2"}), http.StatusNoContent)
	wantStatus(t, "while blocked", bob.Get(path), http.StatusUnauthorized)
	told := 0
	for _, e := range g.Events() {
		if e.Kind == "forge.event" {
			told++
		}
	}
	if told != 4 {
		t.Errorf("%d events in the trail, want 4", told)
	}
}

// TestHookRefused: what is not from the forge does nothing, looks the same whether there is such a forge, and is throttled.
func TestHookRefused(t *testing.T) {
	g, _, path := remoteGate(t, gwtest.Options{})
	wantStatus(t, "before", g.As("bob").Get(path), http.StatusOK)
	before := g.Hub.Generation()
	body, signature := gwtest.SignedHook(gwtest.RemoteHook{ID: "1", User: "2"})
	anybody := g.WithToken("")
	want := anybody.Do(http.MethodPost, "/v1/hooks/nowhere.example.com", body, "X-Signature", signature)
	wantStatus(t, "a forge that does not exist", want, http.StatusUnauthorized)
	for name, res := range map[string]*gwtest.Response{
		"no signature":  anybody.Do(http.MethodPost, "/v1/hooks/"+gwtest.Forge, body),
		"another body":  anybody.Do(http.MethodPost, "/v1/hooks/"+gwtest.Forge, append(body, ' '), "X-Signature", signature),
		"bad signature": anybody.Do(http.MethodPost, "/v1/hooks/"+gwtest.Forge, body, "X-Signature", strings.Repeat("0", 64)),
		"old":           post(g, gwtest.Forge, gwtest.RemoteHook{ID: "2", At: time.Now().Add(-time.Hour), User: "2"}),
		"future":        post(g, gwtest.Forge, gwtest.RemoteHook{ID: "3", At: time.Now().Add(time.Hour), User: "2"}),
	} {
		if res.StatusCode != want.StatusCode || !bytes.Equal(res.Bytes, want.Bytes) {
			t.Errorf("%s: %d %q, want what a forge that does not exist gets", name, res.StatusCode, res.Bytes)
		}
	}
	for _, path := range []string{"/v1/hooks/", "/v1/hooks/a/b", "/v1/hooks/A", "/v1/hooks/%2e%2e", "/v1/hooks/" + gwtest.Forge + "?x=1"} {
		wantStatus(t, path, anybody.Do(http.MethodPost, path, body, "X-Signature", signature), http.StatusUnauthorized)
	}
	wantStatus(t, "too large", anybody.Do(http.MethodPost, "/v1/hooks/"+gwtest.Forge, make([]byte, 2<<20)), http.StatusRequestEntityTooLarge)
	wantStatus(t, "GET", anybody.Get("/v1/hooks/"+gwtest.Forge), http.StatusUnauthorized)
	if g.Hub.Generation() != before {
		t.Error("something was believed")
	}
	for range 500 {
		if anybody.Do(http.MethodPost, "/v1/hooks/"+gwtest.Forge, body).StatusCode == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("nobody is throttled")
}

// TestHookReplay: a delivery that is posted again does nothing.
func TestHookReplay(t *testing.T) {
	g, _, _ := remoteGate(t, gwtest.Options{})
	h := gwtest.RemoteHook{ID: "once", At: time.Now(), User: "2"}
	wantStatus(t, "first", post(g, gwtest.Forge, h), http.StatusNoContent)
	told := g.Hub.Generation()
	for range 20 {
		wantStatus(t, "again", post(g, gwtest.Forge, h), http.StatusNoContent)
	}
	if g.Hub.Generation() != told {
		t.Error("a replay was told")
	}
}

// TestHookStorm: a thousand deliveries about one user are a few questions to the forge, and the last one counts.
func TestHookStorm(t *testing.T) {
	g, r, path := remoteGate(t, gwtest.Options{})
	bob := g.As("bob")
	wantStatus(t, "before", bob.Get(path), http.StatusOK)
	before := g.Hub.Generation()
	posted := make(chan int)
	for worker := range 16 {
		go func() {
			for i := range 64 {
				if worker == 0 && i == 63 {
					r.Set("bob", libfoo, false)
				}
				posted <- post(g, gwtest.Forge, gwtest.RemoteHook{ID: fmt.Sprint(worker, "/", i), User: "2"}).StatusCode
			}
		}()
	}
	for range 16 * 64 {
		if status := <-posted; status != http.StatusNoContent {
			t.Fatalf("a delivery: %d", status)
		}
	}
	wantStatus(t, "after the last", bob.Get(path), http.StatusNotFound)
	if told := g.Hub.Generation() - before; told > 16*64/4 {
		t.Errorf("%d of 1024 deliveries were told one by one", told)
	}
}

// revoke asks an administrator's gate to revoke.
func revoke(t *testing.T, u *gwtest.User, body string) (gateway.RevokeReply, *gwtest.Response) {
	t.Helper()
	res := u.Do(http.MethodPost, "/v1/revoke", []byte(body))
	var reply gateway.RevokeReply
	if res.StatusCode == http.StatusOK {
		if err := json.Unmarshal(res.Bytes, &reply, json.RejectUnknownMembers(true)); err != nil {
			t.Fatal(err)
		}
	}
	return reply, res
}

// TestRevokeUser: an administrator ends a user's tokens, transfers and SSH connections, also idle ones, within seconds.
func TestRevokeUser(t *testing.T) {
	g, r, path := remoteGate(t, gwtest.Options{SSH: true})
	alice, bob := g.As("alice"), g.As("bob")
	wantStatus(t, "before", bob.Get(path), http.StatusOK)
	connection, idle := idleSSH(t, g, "bob")
	r.Block("bob", true)
	reply, res := revoke(t, alice, `{"forge": "git.example.com", "user": "bob"}`)
	wantStatus(t, "revoke", res, http.StatusOK)
	if reply.Tokens != 1 || len(reply.Late) != 0 {
		t.Errorf("%+v", reply)
	}
	wantStatus(t, "with a token that has ended", bob.Get(path), http.StatusUnauthorized)
	select {
	case <-idle:
	case <-time.After(20 * time.Second):
		t.Error("an idle SSH connection of a blocked user stays")
	}
	_ = connection.Close()
	if _, res := revoke(t, alice, `{"forge": "git.example.com", "user": "#2"}`); res.StatusCode != http.StatusOK {
		t.Errorf("by id: %d %s", res.StatusCode, res.Bytes)
	}
}

// TestRevokeKey: a key that the forge has forgotten ends its connections when an administrator says so.
func TestRevokeKey(t *testing.T) {
	g, r, _ := remoteGate(t, gwtest.Options{SSH: true})
	connection, idle := idleSSH(t, g, "bob")
	defer connection.Close()
	key := ssh.FingerprintSHA256(gwtest.SSHSigner("bob").PublicKey())
	r.RemoveKey("bob")
	_, res := revoke(t, g.As("alice"), `{"key": "`+key+`"}`)
	wantStatus(t, "revoke", res, http.StatusOK)
	select {
	case <-idle:
	case <-time.After(20 * time.Second):
		t.Error("an SSH connection whose key was removed stays")
	}
}

// idleSSH opens a connection and leaves it, after one operation. The channel is closed when the gate ends it.
func idleSSH(t *testing.T, g *gwtest.Gate, user string) (net.Conn, <-chan struct{}) {
	t.Helper()
	raw, err := net.Dial("tcp", g.SSHAddr)
	if err != nil {
		t.Fatal(err)
	}
	conn, channels, requests, err := ssh.NewClientConn(raw, g.SSHAddr, &ssh.ClientConfig{
		User: "git", Auth: []ssh.AuthMethod{ssh.PublicKeys(gwtest.SSHSigner(user))}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(conn, channels, requests)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := session.Output("whoami"); err != nil || !bytes.Contains(out, []byte(user)) {
		t.Fatalf("whoami: %q, %v", out, err)
	}
	ended := make(chan struct{})
	go func() { _ = client.Wait(); close(ended) }()
	return raw, ended
}

// TestRevokeToken: one token ends, and no other.
func TestRevokeToken(t *testing.T) {
	g, _, path := remoteGate(t, gwtest.Options{})
	bob, alice := g.As("bob"), g.As("alice")
	id := tokensOf(t, bob)[0].ID
	if reply, res := revoke(t, alice, `{"token": "`+id+`"}`); res.StatusCode != http.StatusOK || reply.Tokens != 1 {
		t.Errorf("%d %+v", res.StatusCode, reply)
	}
	wantStatus(t, "the token that has ended", bob.Get(path), http.StatusUnauthorized)
	wantStatus(t, "another's", alice.Get(path), http.StatusOK)
	_, res := revoke(t, alice, `{"token": "tok-none"}`)
	wantStatus(t, "no such token", res, http.StatusNotFound)
}

// TestRevokeIsForAdministrators: to others it does not exist, and what is not clear does nothing.
func TestRevokeIsForAdministrators(t *testing.T) {
	g, _, path := remoteGate(t, gwtest.Options{})
	bob, alice := g.As("bob"), g.As("alice")
	for _, body := range []string{`{"forge": "git.example.com", "user": "alice"}`, `{"token": "` + tokensOf(t, alice)[0].ID + `"}`, `{}`} {
		_, res := revoke(t, bob, body)
		wantStatus(t, "revoke by bob", res, http.StatusNotFound)
	}
	wantStatus(t, "invalidate by bob", bob.Do(http.MethodPost, "/v1/invalidate", []byte(`{}`)), http.StatusNotFound)
	for _, body := range []string{
		`{}`, `{"user": "bob"}`, `{"forge": "git.example.com"}`, `{"forge": "git.example.com", "user": "bob", "key": "SHA256:x"}`,
		`{"key": "SHA256:x", "token": "tok-1"}`, `{"Forge": "git.example.com", "user": "bob"}`, `[]`,
	} {
		_, res := revoke(t, alice, body)
		wantStatus(t, body, res, http.StatusBadRequest)
	}
	_, res := revoke(t, alice, `{"forge": "git.example.com", "user": "nobody"}`)
	wantStatus(t, "nobody", res, http.StatusNotFound)
	wantStatus(t, "alice still", alice.Get(path), http.StatusOK)
}

// TestInvalidate: an administrator's word makes the gate ask again.
func TestInvalidate(t *testing.T) {
	for _, body := range []string{
		`{}`, `{"forge": "git.example.com"}`, `{"forge": "git.example.com", "user": "bob"}`, `{"forge": "git.example.com", "user": "#2"}`,
		`{"forge": "git.example.com", "repo": "` + libfoo + `"}`,
	} {
		g, r, path := remoteGate(t, gwtest.Options{})
		bob, alice := g.As("bob"), g.As("alice")
		wantStatus(t, "before", bob.Get(path), http.StatusOK)
		r.Set("bob", libfoo, false)
		wantStatus(t, body, alice.Do(http.MethodPost, "/v1/invalidate", []byte(body)), http.StatusNoContent)
		wantStatus(t, "after "+body, bob.Get(path), http.StatusNotFound)
		wantStatus(t, "without its forge", alice.Do(http.MethodPost, "/v1/invalidate", []byte(`{"user": "bob"}`)), http.StatusBadRequest)
	}
}

// TestForgeAway: while a forge is away, what was known is used as long as it may be, and what must be asked is a 503, not a miss.
func TestForgeAway(t *testing.T) {
	g, r, path := remoteGate(t, gwtest.Options{})
	bob := g.As("bob")
	wantStatus(t, "before", bob.Get(path), http.StatusOK)
	r.Fail(io.ErrUnexpectedEOF)
	wantStatus(t, "known", bob.Get(path), http.StatusOK)
	wantStatus(t, "the event", post(g, gwtest.Forge, gwtest.RemoteHook{ID: "1", User: "2"}), http.StatusNoContent)
	wantStatus(t, "not known", bob.Get(path), http.StatusServiceUnavailable)
	r.Fail(nil)
	wantStatus(t, "back", bob.Get(path), http.StatusOK)
}

// TestHookIsHeardWhoeverFailed: others at the forge's address, with bad credentials or bad signatures, do not keep its word from
// being heard; nor does a delivery that came late count as a failure.
func TestHookIsHeardWhoeverFailed(t *testing.T) {
	g, r, path := remoteGate(t, gwtest.Options{})
	bob := g.As("bob")
	wantStatus(t, "before", bob.Get(path), http.StatusOK)
	throttled := func() bool {
		return g.WithToken("").Do(http.MethodPost, "/v1/hooks/"+gwtest.Forge, nil).StatusCode == http.StatusTooManyRequests
	}
	for range 250 {
		wantStatus(t, "late", post(g, gwtest.Forge, gwtest.RemoteHook{ID: "late", At: time.Now().Add(-time.Hour), User: "2"}), http.StatusUnauthorized)
	}
	if throttled() {
		t.Error("late deliveries count as failures")
	}
	for range 500 {
		if throttled() {
			break
		}
	}
	r.Set("bob", libfoo, false)
	wantStatus(t, "the forge's word", post(g, gwtest.Forge, gwtest.RemoteHook{ID: "1", User: "2"}), http.StatusNoContent)
	wantStatus(t, "after it", bob.Get(path), http.StatusNotFound)
}

// fullJournal refuses every event of some kinds, as a disk that is full.
type fullJournal struct {
	gateway.Journal
	kinds []string
}

func (j fullJournal) Append(e *audit.Event) (uint64, error) {
	if slices.Contains(j.kinds, e.Kind) {
		return 0, errors.New("no space left on device")
	}
	return j.Journal.Append(e)
}

// TestHookFullJournal: a journal that cannot be written does not keep a revocation from being enforced; who brought it is told to try
// again.
func TestHookFullJournal(t *testing.T) {
	g, r, path := remoteGate(t, gwtest.Options{Journal: func(j gateway.Journal) gateway.Journal { return fullJournal{j, []string{"forge.event", "revoke"}} }})
	bob, alice := g.As("bob"), g.As("alice")
	wantStatus(t, "before", bob.Get(path), http.StatusOK)
	r.Set("bob", libfoo, false)
	wantStatus(t, "the event", post(g, gwtest.Forge, gwtest.RemoteHook{ID: "1", User: "2"}), http.StatusServiceUnavailable)
	wantStatus(t, "after it", bob.Get(path), http.StatusNotFound)
	_, res := revoke(t, alice, `{"forge": "git.example.com", "user": "bob"}`)
	wantStatus(t, "revoke", res, http.StatusServiceUnavailable)
	wantStatus(t, "after the revocation", bob.Get(path), http.StatusUnauthorized)
}
