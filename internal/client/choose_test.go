package client

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh/agent"

	"github.com/lychgate/lychgate/gateway"
)

// servedAgent is an ssh-agent in this process that holds one key, at a socket.
func servedAgent(t *testing.T) (socket string) {
	t.Helper()
	keyring := agent.NewKeyring()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := keyring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "agent") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close(); os.RemoveAll(dir) })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keyring, conn) }()
		}
	}()
	return socket
}

// TestViaJob: an ID token is shown once; another in its place renews.
func TestViaJob(t *testing.T) {
	c, shown := ssoGate(t)
	n := writeNetrc(t, madeUpToken(`{"n":1}`))
	s := &ViaJob{Job: CIJob{File: n.path, Env: func(string) string { return "" }}}
	if _, err := s.Token(t.Context(), c, gateway.TokenRequest{}); err != nil || !strings.HasPrefix(s.String(), "the ID token of the file ") {
		t.Fatal(err, s)
	}
	if _, err := s.Token(t.Context(), c, gateway.TokenRequest{}); err == nil || !strings.Contains(err.Error(), "was used already") {
		t.Error(err)
	}
	put(t, "", n.path, []byte(madeUpToken(`{"n":2}`)))
	if _, err := s.Token(t.Context(), c, gateway.TokenRequest{}); err != nil || len(shown()) != 2 {
		t.Errorf("%v, shown %q", err, shown())
	}
	refusing, _ := gateOf(t, "", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) })
	put(t, "", n.path, []byte(madeUpToken(`{"n":3}`)))
	if _, err := s.Token(t.Context(), refusing, gateway.TokenRequest{}); !isRefusal(err) || !strings.Contains(err.Error(), "did not take the job's ID token") {
		t.Error(err)
	}
	if _, err := s.Token(t.Context(), c, gateway.TokenRequest{}); err != nil {
		t.Errorf("one that bought nothing: %v", err)
	}
	for env, want := range map[string]string{"LYCHGATE_ID_TOKEN": "LYCHGATE_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL": "GitHub Actions"} {
		s := &ViaJob{Job: CIJob{Env: func(k string) string { return map[string]string{env: "x"}[k] }}}
		if s.String() != "the ID token of "+want {
			t.Errorf("%s: %s", env, s)
		}
	}
}

// choiceAt is what a gate says of how to sign in.
func choiceAt(t *testing.T, change func(*gateway.SignIn)) *Client {
	t.Helper()
	s := &gateway.SignIn{}
	c, url := gateOf(t, "", func(w http.ResponseWriter, _ *http.Request) { _ = json.MarshalWrite(w, s) })
	s.Resource = url
	change(s)
	return c
}

// TestChooseSource: the best way that there is, or the one that was asked for.
func TestChooseSource(t *testing.T) {
	program, _ := fakeSSH(t, "")
	agentSocket := servedAgent(t)
	one := gateway.SignInIssuer{Name: "sso", Issuer: "https://sso.example.com"}
	all := func(s *gateway.SignIn) {
		s.SSH, s.SSHKeys, s.People = "127.0.0.1:2222", true, []gateway.SignInIssuer{one}
	}
	job := map[string]string{"GITLAB_CI": "true"}
	web := func() (*http.Client, error) { return http.DefaultClient, nil }
	if s, err := ChooseSource(t.Context(), choiceAt(t, all), Choice{}); err != nil || !strings.HasPrefix(s.String(), "single sign-on") {
		t.Errorf("nothing is said: %v, %v", s, err)
	}
	for _, tt := range []struct {
		name   string
		gate   func(*gateway.SignIn)
		choice Choice
		env    map[string]string
		want   string // of the source, or in the error
		ok     bool
	}{
		{"keys first", all, Choice{Key: SignerOptions{AgentSocket: agentSocket}, Program: program}, nil, "the SSH keys of ssh-agent", true},
		{"no agent: the door", all, Choice{Program: program}, nil, "ssh at 127.0.0.1:2222", true},
		{"no ssh: the provider", all, Choice{Program: "no-such-program"}, nil, "single sign-on at sso, https://sso.example.com", true},
		{"a gate without keys", func(s *gateway.SignIn) { all(s); s.SSHKeys = false }, Choice{Key: SignerOptions{AgentSocket: agentSocket}, Program: program}, nil, "ssh at 127.0.0.1:2222", true},
		{"keys alone", func(s *gateway.SignIn) { s.SSHKeys = true }, Choice{Key: SignerOptions{AgentSocket: agentSocket}}, nil, "the SSH keys of ssh-agent", true},
		{"keys, and a door elsewhere", func(s *gateway.SignIn) { s.SSHKeys, s.SSH = true, "other.example.com:22" }, Choice{Key: SignerOptions{AgentSocket: agentSocket}, Program: program}, nil, "the SSH keys of ssh-agent", true},
		{"nothing", func(*gateway.SignIn) {}, Choice{Key: SignerOptions{AgentSocket: agentSocket}, Program: program}, nil, "no way to sign in", false},
		{"a job", all, Choice{Key: SignerOptions{AgentSocket: agentSocket}, Program: program}, job, "the ID token of LYCHGATE_ID_TOKEN", true},
		{"a certificate before a job", all, Choice{Certificate: "me.pem", Program: program}, job, "the client certificate me.pem", true},
		{"a key in a job", all, Choice{Way: ByKeys, Key: SignerOptions{Key: "id"}}, job, "the SSH key id", true},
		{"the door", all, Choice{Way: ByDoor, Program: program}, job, "ssh at 127.0.0.1:2222", true},
		{"another door", nil, Choice{Way: ByDoor, Door: "alice@gate:22", Program: program}, nil, "ssh at alice@gate:22", true},
		{"a door that is none", nil, Choice{Way: ByDoor, Door: "-x", Program: program}, nil, "--ssh -x: this is no host", false},
		{"no door", func(*gateway.SignIn) {}, Choice{Way: ByDoor, Program: program}, nil, "names no ssh door", false},
		{"a door elsewhere", func(s *gateway.SignIn) { s.SSH = "other.example.com:22" }, Choice{Way: ByDoor, Program: program}, nil, "an ssh door on another host", false},
		{"the provider", all, Choice{Way: ByProvider, Program: program}, nil, "single sign-on at sso", true},
		{"another provider", all, Choice{Way: ByProvider, Issuer: "x"}, nil, "knows no issuer x", false},
		{"no provider", func(*gateway.SignIn) {}, Choice{Way: ByProvider}, nil, "cannot sign in at this gate with OpenID Connect", false},
		{"another gate", func(s *gateway.SignIn) { s.Resource = "https://other.example.com" }, Choice{}, nil, "the gate calls itself", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c *Client
			if tt.gate != nil {
				c = choiceAt(t, tt.gate)
			}
			tt.choice.Env, tt.choice.Web = func(k string) string { return tt.env[k] }, web
			source, err := ChooseSource(t.Context(), c, tt.choice)
			switch {
			case tt.ok && (err != nil || !strings.HasPrefix(source.String(), tt.want)):
				t.Errorf("%v, %v, want %q", source, err, tt.want)
			case !tt.ok && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want %q", err, tt.want)
			}
			var mistake *MistakeError
			if isMistake := errors.As(err, &mistake); isMistake != (tt.name == "a door that is none" || strings.HasSuffix(tt.name, "provider") && !tt.ok) {
				t.Errorf("a mistake: %v", isMistake)
			}
		})
	}
}

// TestKeysElse: where the gate takes no key of the agent's, the next way is taken, and the keys are not shown again.
func TestKeysElse(t *testing.T) {
	refused, minted := 0, 0
	var url string
	c, url := gateOf(t, "", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/ssh/challenge":
			respond(w, 200, gateway.SSHChallenge{Challenge: "c", Seconds: 60})
		case "/v1/token":
			refused++
			w.WriteHeader(401)
		default:
			respond(w, 200, gateway.SignIn{Resource: url, SSHKeys: true, SSH: "127.0.0.1:2222"})
		}
	})
	reply, err := json.Marshal(goodReply())
	if err != nil {
		t.Fatal(err)
	}
	program, _ := fakeSSH(t, "cat <<'EOF'\n"+string(reply)+"\nEOF\n")
	var said []string
	source, err := ChooseSource(t.Context(), c, Choice{
		Key: SignerOptions{AgentSocket: servedAgent(t)}, Program: program, Env: func(string) string { return "" }, Say: func(text string) { said = append(said, text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if reply, err := source.Token(t.Context(), c, gateway.TokenRequest{}); err != nil || reply != goodReply() {
			t.Errorf("%+v, %v", reply, err)
		}
		minted++
	}
	if refused != 1 || minted != 3 || len(said) != 1 || !strings.Contains(said[0], "signing in with ssh at 127.0.0.1:2222") || source.String() != "ssh at 127.0.0.1:2222" {
		t.Errorf("%d refusals, said %q, %s", refused, said, source)
	}
}

// TestLater: what cannot be chosen yet is chosen later, once.
func TestLater(t *testing.T) {
	asked, away := 0, true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if away {
			refuse(w, http.StatusBadRequest, "not yet", "")
			return
		}
		_ = json.MarshalWrite(w, gateway.SignIn{Resource: "http://" + r.Host})
	}))
	defer server.Close()
	c, err := New(Config{Gate: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	source := Later(Choice{Way: ByJob, IDTokenFile: token})
	if _, err := source.Token(t.Context(), c, gateway.TokenRequest{}); err == nil || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("%v", err)
	}
	if text := source.String(); !strings.Contains(text, "still to be found") {
		t.Error(text)
	}
	away = false
	for range 2 {
		if _, err := source.Token(t.Context(), c, gateway.TokenRequest{}); err == nil || !strings.Contains(err.Error(), token) {
			t.Errorf("%v", err)
		}
	}
	if asked != 2 || strings.Contains(source.String(), "still to be found") {
		t.Errorf("the gate was asked %d times; %s", asked, source)
	}
}
