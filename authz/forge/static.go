package forge

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	// hardLimit is the age at which a fact is worth nothing, whatever happened to the forge.
	hardLimit = 300 * time.Second
	// pollEvery is how often [Static.Run] reads the file.
	pollEvery = time.Second
)

// StaticConfig is what a [Static] forge needs.
type StaticConfig struct {
	Name     string           // the forge's name: the Forge of its principals and repositories
	File     string           // a YAML file; the operator guide has a sample
	Now      func() time.Time // time.Now when nil
	OnChange func()           // called after a new file took effect; must not block; may be nil
	Logger   *slog.Logger     // nil: silent
}

// Static is a forge kept in a YAML file. It is safe for concurrent use.
//
// While the file can be read, its facts are current. A file that cannot be read, or not understood, leaves the last
// good one in force, but its facts then age: 300 s after the file was last good they are worth nothing.
type Static struct {
	config StaticConfig
	state  atomic.Pointer[staticState]
}

// staticState is swapped as a whole, so that no answer mixes two files.
type staticState struct {
	*snapshot
	good time.Time // when the file was last seen to be good
	err  error     // why it is not now; nil when it is
}

var (
	_ Provider   = (*Static)(nil)
	_ Resolver   = (*Static)(nil)
	_ Directory  = (*Static)(nil)
	_ KeyOwners  = (*Static)(nil)
	_ Identities = (*Static)(nil)
	_ People     = (*Static)(nil)
	_ Checker    = (*Static)(nil)
)

// LoadStatic reads the file once. What is wrong in it is a [*FileError] with line and hint.
func LoadStatic(c StaticConfig) (*Static, error) {
	if err := prepare(c.Name, &c.Now, &c.Logger); err != nil {
		return nil, err
	}
	s := &Static{config: c}
	data, err := readBounded(c.File)
	if err != nil {
		return nil, fmt.Errorf("read forge %q: %w", c.Name, err)
	}
	snap, err := s.parse(data, 1)
	if err != nil {
		return nil, fmt.Errorf("read forge %q: %w", c.Name, err)
	}
	s.state.Store(&staticState{snapshot: snap, good: c.Now()})
	return s, nil
}

// readBounded reads a file through whatever links lead to it now, as Kubernetes swaps them. One byte over the limit is
// enough for the parser to refuse it.
func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxStaticFile+1))
}

func (s *Static) parse(data []byte, revision int) (*snapshot, error) {
	base := filepath.Base(s.config.File)
	snap, err := parseStatic(base, data)
	if err != nil {
		return nil, err
	}
	snap.revision = revision
	snap.origin = fmt.Sprintf("static forge %s: %s revision %d", s.config.Name, base, revision)
	return snap, nil
}

// Run reads the file every second until ctx ends, and returns ctx's error. Contents are compared, not times, so any
// way of replacing the file is seen.
func (s *Static) Run(ctx context.Context) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			s.poll()
		}
	}
}

// poll looks at the file once. Only Run calls it, so that revisions count up one by one.
func (s *Static) poll() {
	old := s.state.Load()
	now := s.config.Now()
	data, err := readBounded(s.config.File)
	if err == nil && sha256.Sum256(data) == old.sum {
		s.state.Store(&staticState{snapshot: old.snapshot, good: now})
		return
	}
	var snap *snapshot
	if err == nil {
		snap, err = s.parse(data, old.revision+1)
	}
	if err != nil {
		s.keepLastGood(old, err)
		return
	}
	s.state.Store(&staticState{snapshot: snap, good: now})
	s.config.Logger.Info("forge file took effect", "forge", s.config.Name, "revision", snap.revision)
	if s.config.OnChange != nil {
		s.config.OnChange()
	}
}

func (s *Static) keepLastGood(old *staticState, err error) {
	if old.err == nil || old.err.Error() != err.Error() {
		s.config.Logger.Error("forge file is not usable: the last good one stays in force for 300 s",
			"forge", s.config.Name, "revision", old.revision, "error", err)
	}
	s.state.Store(&staticState{snapshot: old.snapshot, good: old.good, err: err})
}

// Status is how a [Static] forge is.
type Status struct {
	Revision int       // of the file in force, counted from 1 since the start
	Good     time.Time // when the file was last seen to be good
	Err      error     // why it is not now; nil when it is
}

// Status tells how the forge is.
func (s *Static) Status() Status {
	st := s.state.Load()
	return Status{Revision: st.revision, Good: st.good, Err: st.err}
}

// Hosts returns the hosts the file owns now.
func (s *Static) Hosts() []string { return slices.Clone(s.state.Load().hosts) }

// at returns when the facts of st were true: now, as long as the file is good.
func (s *Static) at(st *staticState) time.Time {
	if st.err != nil {
		return st.good
	}
	return s.config.Now()
}

// Access implements [Provider]. Principals of other forges, users that the file does not know and blocked ones may read
// nothing.
func (s *Static) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	st := s.state.Load()
	at := s.at(st)
	facts := make([]Fact, len(repos))
	for i, r := range repos {
		facts[i] = Fact{Repo: r, Access: None, At: at, NotAfter: at.Add(hardLimit), Origin: st.origin}
		if p.Forge == s.config.Name && r.Forge == s.config.Name {
			facts[i].Access = st.access(p.ID, r.ID)
		}
	}
	return facts, nil
}

// Resolve implements [Resolver]: the declared id of the path, else the path itself unless repos_closed is set.
func (s *Static) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	st := s.state.Load()
	if !slices.Contains(st.hosts, l.Host) {
		return Repo{}, false, nil
	}
	id, ok := st.repo(l.Path)
	if !ok {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.Host+"/"+l.Path), ErrNoRepo)
	}
	return Repo{Forge: s.config.Name, ID: id}, true, nil
}

// User implements [Directory].
func (s *Static) User(ctx context.Context, id string) (User, error) {
	return s.user(func(st *staticState) *account { return st.byID[id] }, "id", id)
}

// UserByName implements [Directory].
func (s *Static) UserByName(ctx context.Context, name string) (User, error) {
	return s.user(func(st *staticState) *account { return st.byName[name] }, "name", name)
}

// KeyOwner implements [KeyOwners]. A blocked user's key is still the user's: whether he may come in is asked when it is
// known who he is.
func (s *Static) KeyOwner(ctx context.Context, fingerprint string) (User, error) {
	var repo string // whose deploy key it is
	user, err := s.user(func(st *staticState) *account {
		repo = st.deploy[fingerprint]
		return st.byKey[fingerprint]
	}, "key", fingerprint)
	if repo != "" && errors.Is(err, ErrNoUser) {
		return User{}, fmt.Errorf("look up user by key %q of repository %q: %w", clip(fingerprint), clip(repo), ErrDeployKey)
	}
	return user, err
}

// IdentityOwner implements [Identities], blocked users as in KeyOwner.
func (s *Static) IdentityOwner(ctx context.Context, issuer, subject string) (User, error) {
	return s.user(func(st *staticState) *account { return st.byIdent[staticIdentity{issuer, subject}] }, "identity", subject)
}

// People implements [People].
func (s *Static) People(ctx context.Context) ([]User, error) {
	st := s.state.Load()
	people := make([]User, 0, len(st.byID))
	for _, a := range st.byID {
		people = append(people, a.user)
	}
	return people, ctx.Err()
}

// Check implements [Checker].
func (s *Static) Check(ctx context.Context, canary string) []Finding {
	st := s.state.Load()
	file := Finding{What: "file", Detail: fmt.Sprintf("%d users, %d hosts", len(st.byID), len(st.hosts))}
	if st.err != nil {
		file = Finding{"file", Broken, st.err.Error(), "mend the file: what was read last is in force for 300 s"}
	}
	findings := []Finding{file}
	if canary != "" {
		findings = append(findings, canaryFinding(ctx, s, canary))
	}
	return append(findings, Finding{What: "revocation", Detail: "1 s after the file changes, at each node that has the new file"})
}

// errStale says that the file has been unusable for longer than a fact may live.
var errStale = errors.New("the forge's file has not been usable for 300 s")

func (s *Static) user(find func(*staticState) *account, what, value string) (User, error) {
	st := s.state.Load()
	if now := s.config.Now(); !now.Before(s.at(st).Add(hardLimit)) {
		return User{}, fmt.Errorf("look up user of forge %q: %w: %w", s.config.Name, errStale, st.err)
	}
	a := find(st)
	if a == nil {
		return User{}, fmt.Errorf("look up user by %s %q: %w", what, clip(value), ErrNoUser)
	}
	return a.user, nil
}
