package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"

	"github.com/lychgate/lychgate/gateway"
)

// Way is a way to sign in.
type Way int

// The ways.
const (
	// AnyWay is a client certificate if there is one, the ID token of a CI job in one, the SSH keys that ssh-agent holds where the gate takes
	// them over https, ssh where the gate has a door for it, or else single sign-on. Where the gate takes none of the agent's keys, it is what
	// comes after them.
	AnyWay     Way = iota
	ByKeys         // SSH keys over https
	ByDoor         // ssh at the ssh door
	ByProvider     // single sign-on
	ByJob          // the ID token of a CI job
)

// Choice says how somebody wants to sign in, and what there is to do it with.
type Choice struct {
	Way      Way
	Audience string // what the gate calls itself, when that is not the URL that the client has

	Certificate string        // file of the certificate that the client shows; empty: none
	Key         SignerOptions // for ByKeys

	Door    string // [USER@]HOST[:PORT] of the ssh door; empty: the one that the gate names
	Program string // "ssh", or where it is; empty: there is none
	Stderr  io.Writer

	Issuer    string // name or URL of the provider; empty: the only one
	CanAsk    bool   // a person is there to sign in
	InBrowser bool   // on this machine, not on another
	Browser   func(address string) error
	Out       io.Writer // says to the person what to do
	Stays     bool      // the sign-in is to be renewed, without asking again

	IDTokenFile string
	Env         func(string) string // of a job; nil: it is none

	Web func() (*http.Client, error) // reaches what is not the gate; nil: by the system's certificates
	Say func(string)                 // tells the person of a change of ways; may be nil
}

// MistakeError says that a choice cannot be, and what to say in its place.
type MistakeError struct{ Err error }

func (e *MistakeError) Error() string { return e.Err.Error() }
func (e *MistakeError) Unwrap() error { return e.Err }

// ChooseSource finds the way to sign in at the gate that c talks to. It asks the gate what there is, unless the choice leaves nothing to ask. Its
// error is a [MistakeError] when the choice itself is at fault.
func ChooseSource(ctx context.Context, c *Client, w Choice) (TokenSource, error) {
	w = w.withDefaults()
	switch {
	case w.Way == ByDoor && w.Door != "":
		return w.door(w.Door)
	case w.Way == AnyWay && w.Certificate != "":
		return ClientCertificate{Name: w.Certificate}, nil
	case w.Way == ByKeys:
		return w.keys(), nil
	}
	info, err := c.SignIn(ctx, w.Audience)
	if err != nil {
		return nil, err
	}
	switch {
	case w.Way == ByDoor:
		return w.namedDoor(c, info)
	case w.Way == ByProvider:
		return w.person(info)
	case w.Way == ByJob || InCI(w.Env):
		return w.job(info)
	}
	return w.best(c, info)
}

// withDefaults fills what is nil.
func (w Choice) withDefaults() Choice {
	if w.Env == nil {
		w.Env = func(string) string { return "" }
	}
	if w.Web == nil {
		w.Web = func() (*http.Client, error) { return NewProviderClient("") }
	}
	if w.Say == nil {
		w.Say = func(string) {}
	}
	return w
}

// best is AnyWay of a person.
func (w Choice) best(c *Client, info gateway.SignIn) (TokenSource, error) {
	var other TokenSource
	var err error
	switch {
	case info.SSH != "" && w.hasProgram():
		other, err = w.namedDoor(c, info)
	case len(info.People) > 0:
		other, err = w.person(info)
	default:
		err = errors.New("the gate names no way to sign in that works here: start ssh-agent and ssh-add your key if the git server knows one, " +
			"or ask who runs the gate for its ssh door (--ssh HOST:PORT) or for a token (--token-file)")
	}
	switch hasKeys := info.SSHKeys && AgentHasKeys(w.Key.AgentSocket); {
	case !hasKeys:
		return other, err
	case err != nil:
		return w.keys(), nil
	}
	return &keysElse{keys: w.keys(), other: other, say: w.Say}, nil
}

func (w Choice) keys() *SSHKeys { return &SSHKeys{SignerOptions: w.Key, Audience: w.Audience} }

func (w Choice) hasProgram() bool {
	_, err := exec.LookPath(w.Program)
	return err == nil
}

func (w Choice) door(at string) (TokenSource, error) {
	door, err := ParseSSHDoor(at)
	if err != nil {
		return nil, &MistakeError{fmt.Errorf("--ssh %w", err)}
	}
	door.Program, door.Stderr = w.Program, w.Stderr
	return ViaSSHDoor{door}, nil
}

// namedDoor is the ssh door that the gate names. It must be the gate's own: a token of another gate, made with this person's key, would be shown
// to this one.
func (w Choice) namedDoor(c *Client, info gateway.SignIn) (TokenSource, error) {
	if info.SSH == "" {
		return nil, errors.New("the gate names no ssh door: give it as --ssh HOST:PORT, or use --ssh-agent or --oidc")
	}
	door, err := ParseSSHDoor(info.SSH)
	if err != nil {
		return nil, fmt.Errorf("the gate's ssh door: %w", err)
	}
	if host := strings.ToLower(door.Host); host != c.Host() && !strings.HasSuffix(host, "."+c.Host()) {
		return nil, fmt.Errorf("the gate names an ssh door on another host: if that is right, give it as --ssh %s", door)
	}
	return w.door(info.SSH)
}

func (w Choice) job(info gateway.SignIn) (TokenSource, error) {
	web, err := w.Web()
	if err != nil {
		return nil, &MistakeError{err}
	}
	return &ViaJob{Job: CIJob{File: w.IDTokenFile, Env: w.Env, Audience: info.Resource, HTTP: web}}, nil
}

func (w Choice) person(info gateway.SignIn) (TokenSource, error) {
	issuer, err := ChooseIssuer(info, w.Issuer)
	if err != nil {
		return nil, &MistakeError{err}
	}
	web, err := w.Web()
	if err != nil {
		return nil, &MistakeError{err}
	}
	s := &SingleSignOn{Person: Person{Issuer: issuer, HTTP: web, Out: w.Out, Browser: w.Browser, Stays: w.Stays}}
	switch {
	case !w.CanAsk:
	case w.InBrowser:
		s.Flow = s.Person.Code
	default:
		s.Flow = s.Person.Device
	}
	return s, nil
}

// Later returns a source that chooses when it is first asked for a token, and again as long as it cannot: for what starts while the gate is away.
// It is safe for concurrent use.
func Later(w Choice) TokenSource { return &laterSource{choice: w} }

type laterSource struct {
	choice Choice

	mu     sync.Mutex // guards chosen
	chosen TokenSource
}

// Token implements [TokenSource].
func (l *laterSource) Token(ctx context.Context, c *Client, r gateway.TokenRequest) (gateway.TokenReply, error) {
	source, err := l.choose(ctx, c)
	if err != nil {
		return gateway.TokenReply{}, err
	}
	return source.Token(ctx, c, r)
}

func (l *laterSource) choose(ctx context.Context, c *Client) (TokenSource, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.chosen != nil {
		return l.chosen, nil
	}
	var err error
	l.chosen, err = ChooseSource(ctx, c, l.choice)
	if err != nil {
		l.chosen = nil
	}
	return l.chosen, err
}

// String says what was chosen.
func (l *laterSource) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.chosen == nil {
		return "a way to sign in that is still to be found"
	}
	return l.chosen.String()
}
