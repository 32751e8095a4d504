package gwtest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
)

// Remote is a git server that is asked over a network, in memory: what it answers, how slowly, and whether it tells of changes
// is the test's choice. A repository's id is the path that it had first. It is safe for concurrent use.
type Remote struct {
	mu      sync.Mutex // guards what follows
	users   map[string]forge.User
	reads   map[[2]string]bool // user's id and repository's path
	keys    map[string]string  // fingerprint to user's id
	ids     map[string]string  // of repositories that do not have their path for one; "" for a path without a repository
	delay   time.Duration
	failing error
	lying   bool
}

// HookSecret is the secret of a Remote's hooks.
const HookSecret = "the hook's secret"

// NewRemote returns a Remote with the users of DefaultForge but mallory, who may read nothing. Each has the SSH key of [SSHSigner].
func NewRemote() *Remote {
	r := &Remote{users: map[string]forge.User{}, reads: map[[2]string]bool{}, keys: map[string]string{}, ids: map[string]string{}}
	for _, u := range []forge.User{
		{ID: "1", Name: "alice", Kind: authn.Human},
		{ID: "2", Name: "bob", Kind: authn.Human},
		{ID: "3", Name: "carol", Kind: authn.Human},
		{ID: "5", Name: "ci", Kind: authn.CI},
	} {
		r.users[u.ID] = u
		r.keys[ssh.FingerprintSHA256(SSHSigner(u.Name).PublicKey())] = u.ID
	}
	return r
}

// Rename moves a repository. Nothing is left under the old path.
func (r *Remote) Rename(from, to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids[to], r.ids[from] = r.repo(from), ""
}

// Create puts another repository, with an id of its own, under a path.
func (r *Remote) Create(path, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids[path] = id
}

// repo returns the id of what is under a path. The caller holds mu.
func (r *Remote) repo(path string) string {
	if id, ok := r.ids[path]; ok {
		return id
	}
	return path
}

// Set gives or takes a user's right to read a repository, by its id.
func (r *Remote) Set(user, repo string, may bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads[[2]string{r.id(user), repo}] = may
}

// Block blocks a user, or not any more.
func (r *Remote) Block(user string, blocked bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.users[r.id(user)]
	u.Blocked = blocked
	r.users[u.ID] = u
}

// RemoveKey takes a user's SSH key away.
func (r *Remote) RemoveKey(user string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keys, ssh.FingerprintSHA256(SSHSigner(user).PublicKey()))
}

// Fail makes every question fail with err; nil ends that.
func (r *Remote) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failing = err
}

// Slow makes each answer take so long.
func (r *Remote) Slow(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = d
}

// Lie makes the forge say yes, about another repository than it is asked about; false ends that.
func (r *Remote) Lie(lying bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lying = lying
}

// id returns the id of a user who goes by a name. The caller holds mu.
func (r *Remote) id(name string) string {
	for id, u := range r.users {
		if u.Name == name {
			return id
		}
	}
	return name
}

// fault says why the forge does not answer.
func (r *Remote) fault() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failing
}

func (r *Remote) wait(ctx context.Context) error {
	r.mu.Lock()
	t := time.NewTimer(r.delay)
	r.mu.Unlock()
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Access implements [forge.Provider].
func (r *Remote) Access(ctx context.Context, p authn.Principal, repos []forge.Repo) ([]forge.Fact, error) {
	at := time.Now()
	if err := r.fault(); err != nil {
		return nil, err
	}
	facts := make([]forge.Fact, len(repos))
	r.mu.Lock()
	for i, repo := range repos {
		facts[i] = forge.Fact{Repo: repo, Access: forge.None, At: at, NotAfter: at.Add(time.Hour), Origin: "a forge in memory"}
		if r.reads[[2]string{p.ID, repo.ID}] {
			facts[i].Access = forge.Read
		}
		if r.lying {
			facts[i].Repo.ID, facts[i].Access = repo.ID+"-lie", forge.Read
		}
	}
	r.mu.Unlock()
	return facts, r.wait(ctx)
}

// User implements [forge.Directory].
func (r *Remote) User(ctx context.Context, id string) (forge.User, error) {
	return r.find(ctx, func() string { return id })
}

// UserByName implements [forge.Directory].
func (r *Remote) UserByName(ctx context.Context, name string) (forge.User, error) {
	return r.find(ctx, func() string { return r.id(name) })
}

// KeyOwner implements [forge.KeyOwners].
func (r *Remote) KeyOwner(ctx context.Context, fingerprint string) (forge.User, error) {
	return r.find(ctx, func() string { return r.keys[fingerprint] })
}

func (r *Remote) find(ctx context.Context, id func() string) (forge.User, error) {
	if err := r.fault(); err != nil {
		return forge.User{}, err
	}
	r.mu.Lock()
	u, ok := r.users[id()]
	r.mu.Unlock()
	if !ok {
		return forge.User{}, forge.ErrNoUser
	}
	return u, r.wait(ctx)
}

// Hosts returns the host that the forge owns.
func (r *Remote) Hosts() []string { return []string{Forge} }

// Resolve implements [forge.Resolver].
func (r *Remote) Resolve(ctx context.Context, l source.Locator) (forge.Repo, bool, error) {
	if l.Host != Forge {
		return forge.Repo{}, false, nil
	}
	if err := r.fault(); err != nil {
		return forge.Repo{}, false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.repo(l.Path)
	if id == "" {
		return forge.Repo{}, true, forge.ErrNoRepo
	}
	return forge.Repo{Forge: Forge, ID: id}, true, nil
}

// RemoteHook is what a Remote posts.
type RemoteHook struct {
	ID   string    `json:"id"`
	At   time.Time `json:"at"`
	User string    `json:"user,omitempty"` // the id
	Repo string    `json:"repo,omitempty"`
	Key  string    `json:"key,omitempty"`
}

// SignedHook returns the body of a delivery, and its signature for the header X-Signature.
func SignedHook(h RemoteHook) (body []byte, signature string) {
	body, err := json.Marshal(h)
	if err != nil {
		panic(err) // it holds texts and a time
	}
	return body, hookMAC(body)
}

func hookMAC(body []byte) string {
	m := hmac.New(sha256.New, []byte(HookSecret))
	m.Write(body)
	return hex.EncodeToString(m.Sum(nil))
}

// ReadHook implements [forge.Hooks].
func (r *Remote) ReadHook(header http.Header, body []byte) (forge.Delivery, error) {
	if !hmac.Equal([]byte(header.Get("X-Signature")), []byte(hookMAC(body))) {
		return forge.Delivery{}, fmt.Errorf("%w: the signature does not match", forge.ErrHook)
	}
	var h RemoteHook
	if err := json.Unmarshal(body, &h); err != nil {
		return forge.Delivery{}, errors.Join(forge.ErrHook, err)
	}
	return forge.Delivery{ID: h.ID, At: h.At, Events: []forge.Event{{Forge: Forge, User: h.User, Repo: h.Repo, Key: h.Key, Why: "test"}}}, nil
}
