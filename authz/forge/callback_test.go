package forge_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/forge/forgetest"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	callbackName   = "git.example.com"
	callbackSecret = "a secret of two"
)

// service is a callback service as docs/forge-callback.md has it, with an administrator.
type service struct {
	t        *testing.T
	server   *httptest.Server
	provider *forge.Callback

	mu      sync.Mutex // guards what follows
	users   map[string]map[string]any
	repos   map[string]string          // path -> id
	readers map[string]map[string]bool // id -> user ids; "*" is one
	keys    map[string]string          // fingerprint -> user id; "" for a deploy key
	last    int
	fail    int // -1: no
	asked   []map[string]any
	spoil   func(http.ResponseWriter, map[string]any, []byte) bool // answers in its place
}

var (
	_ forgetest.World      = (*service)(nil)
	_ forgetest.Blocker    = (*service)(nil)
	_ forgetest.Keyring    = (*service)(nil)
	_ forgetest.DeployKeys = (*service)(nil)
	_ forgetest.Breaker    = (*service)(nil)
)

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, users: map[string]map[string]any{}, repos: map[string]string{}, readers: map[string]map[string]bool{}, keys: map[string]string{}, fail: -1}
	s.server = httptest.NewServer(s)
	t.Cleanup(s.server.Close)
	s.provider = s.ask(forge.CallbackConfig{})
	return s
}

func (s *service) ask(c forge.CallbackConfig) *forge.Callback {
	s.t.Helper()
	c.Name, c.Hosts, c.Secret = callbackName, []string{callbackName}, authn.NewSecret(callbackSecret)
	if c.URL == "" {
		c.URL = s.server.URL + "/lychgate"
	}
	if c.Questions == nil {
		c.Questions = []string{"resolve", "user", "key", "identity"}
	}
	p, err := forge.NewCallback(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func TestCallback(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World { return newService(t) })
}

func callbackMAC(parts ...string) string {
	mac := hmac.New(sha256.New, []byte(callbackSecret))
	for _, p := range parts {
		mac.Write([]byte(p))
	}
	return hex.EncodeToString(mac.Sum(nil))
}

// sign answers as the protocol says.
func (s *service) sign(w http.ResponseWriter, nonce string, at time.Time, body string) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	w.Header().Set("X-Lychgate-Time", stamp)
	w.Header().Set("X-Lychgate-Signature", callbackMAC("lychgate-answer\n"+stamp+"\n"+nonce+"\n", body))
	io.WriteString(w, body)
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	if r.Method != http.MethodPost || r.Header.Get("X-Lychgate-Signature") != callbackMAC("lychgate-question\n"+r.Header.Get("X-Lychgate-Time")+"\n", string(body)) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var q map[string]any
	if err := json.Unmarshal(body, &q); err != nil {
		s.t.Errorf("a question: %v", err)
		return
	}
	s.asked = append(s.asked, q)
	switch {
	case s.fail == 0:
		panic(http.ErrAbortHandler)
	case s.fail > 0:
		w.WriteHeader(s.fail)
	}
	answer, err := json.Marshal(s.answer(q))
	if err != nil {
		s.t.Error(err)
	}
	if s.spoil == nil || !s.spoil(w, q, answer) {
		s.sign(w, q["nonce"].(string), time.Now(), string(answer))
	}
}

func (s *service) answer(q map[string]any) map[string]any {
	a := map[string]any{"version": 1}
	found := func(what string, value any, ok bool) map[string]any {
		if a["found"] = ok; ok {
			a[what] = value
		}
		return a
	}
	switch q["question"] {
	case "access":
		id := q["principal"].(map[string]any)["id"].(string)
		var results []any
		for _, repo := range q["repos"].([]any) {
			readers := s.readers[repo.(string)]
			access := "none"
			if u := s.users[id]; u != nil && u["blocked"] == false && (readers["*"] || readers[id]) {
				access = "read"
			}
			results = append(results, map[string]any{"repo": repo, "access": access})
		}
		slices.Reverse(results)
		a["results"], a["revision"] = results, "7"
	case "resolve":
		id, ok := s.repos[q["path"].(string)]
		return found("repo", id, ok)
	case "user":
		for id, u := range s.users {
			if q["id"] == id || q["name"] == u["name"] {
				return found("user", u, true)
			}
		}
		a["found"] = false
	case "key":
		id, ok := s.keys[q["key"].(string)]
		if ok && id == "" {
			a["deploy"] = true
			return a
		}
		return found("user", s.users[id], ok)
	case "identity":
		a["found"] = false
	}
	return a
}

func (s *service) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *service) next() string {
	s.last++
	return fmt.Sprintf("n%d", s.last)
}

func (s *service) id(user string) string {
	for id, u := range s.users {
		if u["name"] == user {
			return id
		}
	}
	s.t.Fatalf("no user %s", user)
	return ""
}

func (s *service) Provider() forge.Provider { return s.provider }
func (s *service) Name() string             { return callbackName }
func (s *service) Host() string             { return callbackName }
func (s *service) Settle()                  {}
func (s *service) Path(name string) string  { return "team/" + name }

func (s *service) AddUser(name string) {
	s.change(func() {
		id := s.next()
		s.users[id] = map[string]any{"id": id, "name": name, "kind": "human", "groups": []string{}, "blocked": false}
	})
}

func (s *service) AddRepo(path string, public bool) {
	s.change(func() {
		id := s.next()
		s.repos[path], s.readers[id] = id, map[string]bool{"*": public}
	})
}

func (s *service) Grant(user, path string) {
	s.change(func() { s.readers[s.repos[path]][s.id(user)] = true })
}

func (s *service) Withdraw(user, path string) {
	s.change(func() { delete(s.readers[s.repos[path]], s.id(user)) })
}

func (s *service) Rename(from, to string) {
	s.change(func() { s.repos[to] = s.repos[from]; delete(s.repos, from) })
}

func (s *service) Delete(path string) {
	s.change(func() { delete(s.readers, s.repos[path]); delete(s.repos, path) })
}

func (s *service) Block(user string, blocked bool) {
	s.change(func() { s.users[s.id(user)]["blocked"] = blocked })
}

func (s *service) addKey(owner string) string {
	sum := make([]byte, 32)
	rand.Read(sum)
	key := "SHA256:" + base64.RawStdEncoding.EncodeToString(sum)
	s.keys[key] = owner
	return key
}

func (s *service) AddKey(user string) (key string) {
	s.change(func() { key = s.addKey(s.id(user)) })
	return key
}

func (s *service) RemoveKey(_, key string) { s.change(func() { delete(s.keys, key) }) }

func (s *service) AddDeployKey(string) (key string) {
	s.change(func() { key = s.addKey("") })
	return key
}

func (s *service) Fail(status int) { s.change(func() { s.fail = status }) }
func (s *service) Heal()           { s.change(func() { s.fail = -1 }) }
func (s *service) Faults() []int {
	return []int{0, 201, 204, 302, 400, 401, 403, 404, 429, 500, 502, 503, 504}
}

// TestCallbackAnswersThatAreNone: whatever is wrong with an answer, nothing may be read for it, and nobody is said to be unknown.
func TestCallbackAnswersThatAreNone(t *testing.T) {
	s := newService(t)
	s.AddUser("alice")
	s.AddRepo("team/lib", true)
	alice, repo := s.id("alice"), s.repos["team/lib"]
	signed := func(body string) func(http.ResponseWriter, map[string]any, []byte) bool {
		return func(w http.ResponseWriter, q map[string]any, _ []byte) bool {
			s.sign(w, q["nonce"].(string), time.Now(), body)
			return true
		}
	}
	old := map[string]string{}
	for what, spoil := range map[string]func(http.ResponseWriter, map[string]any, []byte) bool{
		"unsigned": func(w http.ResponseWriter, _ map[string]any, answer []byte) bool {
			w.Write(answer)
			return true
		},
		"of another question": func(w http.ResponseWriter, q map[string]any, answer []byte) bool {
			s.sign(w, strings.Repeat("0", 32), time.Now(), string(answer))
			return true
		},
		"changed on the way": func(w http.ResponseWriter, q map[string]any, answer []byte) bool {
			recorder := httptest.NewRecorder()
			s.sign(recorder, q["nonce"].(string), time.Now(), string(answer)+" ")
			for name, values := range recorder.Header() {
				w.Header()[name] = values
			}
			w.Write(answer)
			return true
		},
		"the question's own signature": func(w http.ResponseWriter, q map[string]any, answer []byte) bool {
			stamp := strconv.FormatInt(time.Now().Unix(), 10)
			w.Header().Set("X-Lychgate-Time", stamp)
			w.Header().Set("X-Lychgate-Signature", callbackMAC("lychgate-question\n"+stamp+"\n", string(answer)))
			w.Write(answer)
			return true
		},
		"an hour old": func(w http.ResponseWriter, q map[string]any, answer []byte) bool {
			s.sign(w, q["nonce"].(string), time.Now().Add(-time.Hour), string(answer))
			return true
		},
		"replayed": func(w http.ResponseWriter, q map[string]any, answer []byte) bool {
			if old["body"] == "" {
				recorder := httptest.NewRecorder()
				s.sign(recorder, strings.Repeat("1", 32), time.Now(), string(answer))
				old["body"], old["mac"] = string(answer), recorder.Header().Get("X-Lychgate-Signature")
			}
			w.Header().Set("X-Lychgate-Time", strconv.FormatInt(time.Now().Unix(), 10))
			w.Header().Set("X-Lychgate-Signature", old["mac"])
			io.WriteString(w, old["body"])
			return true
		},
		"another version":     signed(`{"version":2,"found":true,"user":{"id":"` + alice + `","name":"alice","kind":"human","groups":[],"blocked":false},"repo":"x","results":[{"repo":"` + repo + `","access":"read"}]}`),
		"an unknown member":   signed(`{"version":1,"found":true,"tll":60,"repo":"x","results":[{"repo":"` + repo + `","access":"read"}]}`),
		"true as text":        signed(`{"version":1,"found":"true","repo":"x","results":[{"repo":"` + repo + `","access":"read"}]}`),
		"a member twice":      signed(`{"version":1,"found":false,"found":true,"repo":"x","results":[]}`),
		"a folded member":     signed(`{"Version":1,"version":1,"found":true,"repo":"x"}`),
		"access as a boolean": signed(`{"version":1,"results":[{"repo":"` + repo + `","access":true}]}`),
		"another word":        signed(`{"version":1,"results":[{"repo":"` + repo + `","access":"READ"}]}`),
		"a repository twice":  signed(`{"version":1,"results":[{"repo":"` + repo + `","access":"read"},{"repo":"` + repo + `","access":"none"}]}`),
		"one more":            signed(`{"version":1,"results":[{"repo":"` + repo + `","access":"read"},{"repo":"other","access":"none"}]}`),
		"no lifetime":         signed(`{"version":1,"ttl":0,"results":[{"repo":"` + repo + `","access":"read"}]}`),
		"less than none":      signed(`{"version":1,"ttl":-5,"results":[{"repo":"` + repo + `","access":"read"}]}`),
		"nothing":             signed(``), "null": signed(`null`), "a list": signed(`[]`), "no results": signed(`{"version":1}`),
		"an unprintable revision": signed("{\"version\":1,\"revision\":\"a\\nb\",\"results\":[{\"repo\":\"" + repo + `","access":"read"}]}`),
		"no found":                signed(`{"version":1,"repo":"x","user":{"id":"` + alice + `","name":"alice","kind":"human","groups":[],"blocked":false}}`),
		"a user without a kind":   signed(`{"version":1,"found":true,"user":{"id":"` + alice + `","name":"alice","kind":"","groups":[],"blocked":false}}`),
		"an anonymous user":       signed(`{"version":1,"found":true,"user":{"id":"` + alice + `","name":"alice","kind":"anonymous","groups":[],"blocked":false}}`),
		"another user":            signed(`{"version":1,"found":true,"user":{"id":"x","name":"x","kind":"human","groups":[],"blocked":false}}`),
		"blocked as text":         signed(`{"version":1,"found":true,"user":{"id":"` + alice + `","name":"alice","kind":"human","groups":[],"blocked":"false"}}`),
		"found and no user":       signed(`{"version":1,"found":true}`),
		"two answers":             signed(`{"version":1,"found":false}{"version":1,"found":true}`),
	} {
		t.Run(what, func(t *testing.T) {
			s.change(func() { s.spoil = spoil })
			facts, err := s.provider.Access(t.Context(), authn.Principal{Forge: callbackName, ID: alice}, []forge.Repo{{Forge: callbackName, ID: repo}})
			if err == nil && facts[0].Access != forge.Unknown {
				t.Errorf("access: %+v", facts)
			}
			if u, err := s.provider.User(t.Context(), alice); err == nil || errors.Is(err, forge.ErrNoUser) {
				t.Errorf("user: %+v, %v", u, err)
			}
		})
	}
	s.change(func() { s.spoil = nil })
	if got := access(t, s.provider, alice, repo); got != forge.Read {
		t.Errorf("the answer as it should be: %s", got)
	}
}

// TestCallbackTTLOnlyShortens: a lifetime of the service's cannot make an answer live longer.
func TestCallbackTTLOnlyShortens(t *testing.T) {
	s := newService(t)
	s.AddUser("alice")
	s.AddRepo("team/lib", true)
	for ttl, want := range map[string]time.Duration{
		`,"ttl":60`: time.Minute, "": 300 * time.Second, `,"ttl":null`: 300 * time.Second, `,"ttl":301`: 300 * time.Second,
		`,"ttl":9223372036854775807`: 300 * time.Second, `,"ttl":18446744074`: 300 * time.Second, `,"ttl":1`: time.Second,
	} {
		s.change(func() {
			s.spoil = func(w http.ResponseWriter, q map[string]any, _ []byte) bool {
				s.sign(w, q["nonce"].(string), time.Now(), `{"version":1,"results":[{"repo":"`+s.repos["team/lib"]+`","access":"read"}]`+ttl+`}`)
				return true
			}
		})
		f := fact(t, s.provider, s.id("alice"), s.repos["team/lib"])
		if got := f.NotAfter.Sub(f.At); f.Access != forge.Read || got != want {
			t.Errorf("%q: %s for %v, want %v", ttl, f.Access, got, want)
		}
	}
}

// TestCallbackAgeCountsFromTheQuestion: a service that thinks long gives an answer that is as old as the question.
func TestCallbackAgeCountsFromTheQuestion(t *testing.T) {
	s := newService(t)
	s.AddUser("alice")
	s.AddRepo("team/lib", true)
	clock := time.Now()
	p := s.ask(forge.CallbackConfig{Now: func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return clock }})
	before := clock
	s.change(func() {
		s.spoil = func(http.ResponseWriter, map[string]any, []byte) bool { clock = clock.Add(time.Minute); return false }
	})
	if f := fact(t, p, s.id("alice"), s.repos["team/lib"]); !f.At.Equal(before) || f.Access != forge.Read {
		t.Errorf("%s since %v, want %v", f.Access, f.At, before)
	}
}

// TestCallbackBatches: no question holds more than 500 repositories, each stands once, and what an answer leaves out is unknown.
func TestCallbackBatches(t *testing.T) {
	s := newService(t)
	s.AddUser("alice")
	var repos []forge.Repo
	for i := range 1201 {
		path := fmt.Sprintf("team/r%d", i)
		s.AddRepo(path, true)
		repos = append(repos, forge.Repo{Forge: callbackName, ID: s.repos[path]})
	}
	repos = append(repos, repos[0])
	s.change(func() {
		s.spoil = func(w http.ResponseWriter, q map[string]any, answer []byte) bool {
			if len(q["repos"].([]any)) < 500 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			left := regexp.MustCompile(`\{[^{}]*"` + repos[7].ID + `"[^{}]*\},?`)
			s.sign(w, q["nonce"].(string), time.Now(), left.ReplaceAllString(string(answer), ""))
			return true
		}
	})
	facts, err := s.provider.Access(t.Context(), authn.Principal{Forge: callbackName, ID: s.id("alice")}, repos)
	if err == nil {
		err = forge.CheckFacts(repos, facts)
	}
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, q := range s.asked {
		asked += len(q["repos"].([]any))
		if n := len(q["repos"].([]any)); n > 500 {
			t.Errorf("a question about %d repositories", n)
		}
	}
	if asked != 1201 {
		t.Errorf("%d repositories were asked about, want 1201", asked)
	}
	for i, f := range facts {
		want := forge.Read
		if i >= 1000 && i < 1201 || i == 7 {
			want = forge.Unknown
		}
		if f.Access != want {
			t.Fatalf("repository %d: %s, want %s", i, f.Access, want)
		}
	}
}

// TestCallbackIsNotSentElsewhere: a redirect is no answer, and where it leads is told nothing.
func TestCallbackIsNotSentElsewhere(t *testing.T) {
	s := newService(t)
	s.AddUser("alice")
	away := httptest.NewServer(http.RedirectHandler(s.server.URL+"/lychgate", http.StatusTemporaryRedirect))
	t.Cleanup(away.Close)
	p := s.ask(forge.CallbackConfig{URL: away.URL})
	if u, err := p.User(t.Context(), s.id("alice")); err == nil {
		t.Errorf("a redirected answer: %+v", u)
	}
	if len(s.asked) > 0 {
		t.Errorf("the redirect was followed: %v", s.asked)
	}
}

// TestCallbackWithClientCertificate: without a secret, TLS tells who asks and who answers.
func TestCallbackWithClientCertificate(t *testing.T) {
	answers := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Lychgate-Signature") != "" {
			t.Error("signed without a secret")
		}
		io.WriteString(w, `{"version":1,"results":[{"repo":"r1","access":"read"}]}`)
	})
	server := httptest.NewUnstartedServer(answers)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	certificate := server.TLS.Certificates[0]
	for _, tc := range []struct {
		what string
		tls  *tls.Config
		want bool
	}{
		{"both", &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}, true},
		{"no client certificate", &tls.Config{RootCAs: roots}, false},
		{"an unknown server", &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{certificate}}, false},
	} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: tc.tls}}
		p, err := forge.NewCallback(forge.CallbackConfig{Name: callbackName, URL: server.URL, HTTP: client})
		if err != nil {
			t.Fatal(err)
		}
		facts, err := p.Access(t.Context(), authn.Principal{Forge: callbackName, ID: "17"}, []forge.Repo{{Forge: callbackName, ID: "r1"}})
		if read := err == nil && facts[0].Access == forge.Read; read != tc.want {
			t.Errorf("%s: %+v, %v", tc.what, facts, err)
		}
		client.CloseIdleConnections()
	}
	if _, err := forge.NewCallback(forge.CallbackConfig{Name: callbackName, URL: strings.Replace(server.URL, "https", "http", 1)}); err == nil {
		t.Error("neither a secret nor TLS")
	}
}

// TestCallbackHook: only what is signed is believed, and an event is as wide as it says.
func TestCallbackHook(t *testing.T) {
	s := newService(t)
	p := s.ask(forge.CallbackConfig{HookSecret: authn.NewSecret(callbackSecret)})
	hook := func(body string) (forge.Delivery, error) {
		return p.ReadHook(http.Header{"X-Lychgate-Signature": {callbackMAC(body)}}, []byte(body))
	}
	d, err := hook(`{"version":1,"id":"d-4711","time":1790000000,"events":[{"user":"17"},{"repo":"r1","why":"made private"},{}]}`)
	want := []forge.Event{
		{Forge: callbackName, User: "17", Why: "callback git.example.com"},
		{Forge: callbackName, Repo: "r1", Why: "callback git.example.com: made private"},
		{Forge: callbackName, Why: "callback git.example.com"},
	}
	if err != nil || d.ID != "d-4711" || d.At.Unix() != 1790000000 || !slices.Equal(d.Events, want) {
		t.Errorf("%+v, %v", d, err)
	}
	for what, body := range map[string]string{
		"a member that nobody knows": `{"version":1,"id":"x","time":1,"events":[{"usr":"17"}]}`,
		"no id":                      `{"version":1,"id":"","time":1,"events":[]}`,
		"no time":                    `{"version":1,"id":"x","events":[]}`,
		"unprintable":                `{"version":1,"id":"x","time":1,"events":[{"user":"a\nb"}]}`,
		"an answer":                  `{"version":1,"results":[]}`,
	} {
		if d, err := hook(body); !errors.Is(err, forge.ErrHook) {
			t.Errorf("%s: %+v, %v", what, d, err)
		}
	}
	body := []byte(`{"version":1,"id":"x","time":1,"events":[]}`)
	if _, err := p.ReadHook(http.Header{"X-Lychgate-Signature": {callbackMAC("lychgate-answer\n", string(body))}}, body); !errors.Is(err, forge.ErrHook) {
		t.Errorf("another signature: %v", err)
	}
	if _, err := s.provider.ReadHook(http.Header{"X-Lychgate-Signature": {callbackMAC(string(body))}}, body); !errors.Is(err, forge.ErrHook) {
		t.Errorf("without a secret: %v", err)
	}
}

// TestCallbackCheck: what the command says of a service that works, and of those that do not.
func TestCallbackCheck(t *testing.T) {
	s := newService(t)
	s.AddUser("alice")
	worst := func(p *forge.Callback) (h forge.Health) {
		for _, f := range p.Check(t.Context(), s.id("alice")) {
			h = max(h, f.Health)
			if (f.Health != forge.Fine) != (f.Hint != "") || f.What == "" || f.Detail == "" {
				t.Errorf("%+v", f)
			}
		}
		return h
	}
	if h := worst(s.ask(forge.CallbackConfig{HookSecret: authn.NewSecret("x")})); h != forge.Fine {
		t.Error(h)
	}
	if h := worst(s.ask(forge.CallbackConfig{Questions: []string{}})); h != forge.Doubtful {
		t.Error(h)
	}
	s.change(func() { s.users[s.id("alice")]["blocked"] = true })
	if h := worst(s.provider); h != forge.Doubtful {
		t.Error(h)
	}
	s.change(func() {
		s.spoil = func(w http.ResponseWriter, q map[string]any, answer []byte) bool {
			s.sign(w, q["nonce"].(string), time.Now(), strings.Replace(string(answer), "none", "read", 1))
			return true
		}
	})
	if h := worst(s.provider); h != forge.Broken {
		t.Error("a service that lets everybody read everything:", h)
	}
	s.server.Close()
	if h := worst(s.provider); h != forge.Broken {
		t.Error(h)
	}
}

// TestCallbackDocument runs the service of docs/forge-callback.md as it stands there, and reads its other examples.
func TestCallbackDocument(t *testing.T) {
	text := readFile(t, filepath.Join("..", "..", "docs", "forge-callback.md"))
	blocks := regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	var script string
	examples := 0
	for _, b := range blocks {
		switch b[1] {
		case "python":
			script = b[2]
		case "json":
			examples++
			var v map[string]any
			if err := json.Unmarshal([]byte(b[2]), &v); err != nil || v["version"] != 1.0 {
				t.Errorf("%s: %v", b[2], err)
			}
		}
	}
	if script == "" || examples < 7 {
		t.Fatalf("%d examples", examples)
	}
	file := filepath.Join(t.TempDir(), "service.py")
	write(t, file, script)
	cmd := exec.CommandContext(t.Context(), "python3", file, "0")
	cmd.Env = append(os.Environ(), "SECRET="+callbackSecret)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	p, err := forge.NewCallback(forge.CallbackConfig{
		Name: callbackName, URL: "http://127.0.0.1:" + strings.TrimSpace(port), Hosts: []string{callbackName},
		Secret: authn.NewSecret(callbackSecret), Questions: []string{"resolve", "user"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]map[string]forge.Access{
		"team/lib":   {"17": forge.Read, "18": forge.Read, "19": forge.None},
		"team/other": {"17": forge.None, "18": forge.Read},
	} {
		r, owns, err := p.Resolve(t.Context(), source.Locator{Host: callbackName, Path: path})
		if err != nil || !owns {
			t.Fatal(err)
		}
		for user, want := range want {
			if got := access(t, p, user, r.ID); got != want {
				t.Errorf("%s at %s: %s, want %s", user, path, got, want)
			}
		}
	}
	if u, err := p.UserByName(t.Context(), "alice"); err != nil || u.ID != "17" || !slices.Equal(u.Groups, []string{"team"}) {
		t.Errorf("alice: %+v, %v", u, err)
	}
	if _, err := p.User(t.Context(), "19"); !errors.Is(err, forge.ErrNoUser) {
		t.Errorf("nobody: %v", err)
	}
	if _, _, err := p.Resolve(t.Context(), source.Locator{Host: callbackName, Path: "none"}); !errors.Is(err, forge.ErrNoRepo) {
		t.Errorf("no repository: %v", err)
	}
}
