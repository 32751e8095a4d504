package authz

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

// viewKey names a principal with one of its credentials.
type viewKey struct{ forge, id, credential string }

// view is what is known of one principal, for one epoch and 60 s at most. Who it is never changes; what was learnt of it
// only grows, and dies with the view.
type view struct {
	principal authn.Principal
	epoch     uint64
	some      *atomic.Uint64 // the part of the epoch that is the principal's
	until     time.Time      // soft age, or when the credential expires
	used      atomic.Int64   // Unix seconds, for eviction
	degraded  atomic.Int64   // Unix nanoseconds: until then a forge counts as away

	mu      sync.RWMutex // guards what follows
	facts   map[forge.Repo]heldFact
	memo    map[memoKey]remembered
	changes uint64 // how often a new fact contradicted an old one
}

// heldFact is a fact with the time until which it is used without asking again.
type heldFact struct {
	forge.Fact
	until time.Time
}

// remembered is an answer with the time until which every fact behind it is used.
type remembered struct {
	decision *Decision
	until    time.Time
	oldest   time.Time // when the oldest fact was learnt; zero for none
}

// current reports whether no invalidation has overtaken v.
func (a *Authorizer) current(v *view) bool { return a.all.Load()+v.some.Load() == v.epoch }

func (a *Authorizer) usable(v *view, now time.Time) bool {
	a.check(now)
	return v != nil && a.current(v) && now.Before(v.until)
}

// Identify completes the principal that an Authenticator returned: with the name, kind and groups its forge gives it now,
// and the roles that grants give it. An error wraps [authn.ErrRefused] when the forge does not know the user, or has
// blocked it, or the credential has expired; one that wraps [ErrUnavailable] says that the forge could not tell. Of a
// principal without a forge, name, kind and groups are the credential's; roles are always the grants'.
//
// The result is shared by all who ask with this credential, and must not be changed.
func (a *Authorizer) Identify(ctx context.Context, p authn.Principal) (*authn.Principal, error) {
	v, err := a.view(ctx, &p)
	if err != nil {
		return nil, err
	}
	return &v.principal, nil
}

// viewOf returns the view of a principal that Identify returned, or of any other.
func (a *Authorizer) viewOf(ctx context.Context, p *authn.Principal, now time.Time) (*view, error) {
	a.mu.RLock()
	v := a.byPrincipal[p]
	a.mu.RUnlock()
	if a.usable(v, now) {
		v.touch(now)
		return v, nil
	}
	return a.view(ctx, p)
}

func (a *Authorizer) view(ctx context.Context, p *authn.Principal) (*view, error) {
	now := a.now()
	key := viewKey{p.Forge, p.ID, p.Credential}
	a.mu.RLock()
	v := a.views[key]
	a.mu.RUnlock()
	if a.usable(v, now) && v.shows(p) {
		v.touch(now)
		return v, nil
	}
	for range tries {
		v, err := a.newView(ctx, p)
		if err != nil {
			return nil, err
		}
		if a.current(v) {
			a.publish(key, v)
			return v, nil
		}
	}
	return nil, fmt.Errorf("identify %s/%s: its state changed while it was read: %w", p.Forge, p.ID, ErrUnavailable)
}

// touch notes that v is in use, once a second, so that readers do not fight for the cache line.
func (v *view) touch(now time.Time) {
	if s := now.Unix(); v.used.Load() != s {
		v.used.Store(s)
	}
}

// shows reports whether p, with the same forge, id and credential, is what v was made of. What Identify fills in is not
// compared, so that what it returned once may be asked with for ever.
func (v *view) shows(p *authn.Principal) bool {
	w := &v.principal
	if !p.Expires.Equal(w.Expires) || p.Review != w.Review || !sameClaims(p.Claims, w.Claims) {
		return false
	}
	return p.Forge != "" || p.Name == w.Name && p.Kind == w.Kind && slices.Equal(p.Groups, w.Groups)
}

// sameClaims compares contents, but looks first whether it is the same map: claims of one token are shared.
func sameClaims(a, b map[string]any) bool {
	if len(a) != len(b) {
		return false
	}
	return len(a) == 0 || reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() || reflect.DeepEqual(a, b)
}

// newView learns who p is. The epoch is read before the forge is asked: an answer that an invalidation overtook makes a
// view that is not current.
func (a *Authorizer) newView(ctx context.Context, p *authn.Principal) (*view, error) {
	some := a.epochOf(p.Forge, p.ID)
	epoch := a.all.Load() + some.Load()
	principal, until, err := a.complete(ctx, *p)
	if err != nil {
		return nil, err
	}
	now := a.now()
	v := &view{
		principal: principal, epoch: epoch, some: some, until: earlier(now.Add(softAge), until),
		facts: make(map[forge.Repo]heldFact), memo: make(map[memoKey]remembered),
	}
	v.touch(now)
	return v, nil
}

// earlier returns the earlier of two times, of which a zero one is never.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// complete returns p as its forge and the grants see it now, and until when that may be used; zero for as long as any.
func (a *Authorizer) complete(ctx context.Context, p authn.Principal) (_ authn.Principal, until time.Time, err error) {
	if !p.Expires.IsZero() && !a.now().Before(p.Expires) {
		return p, until, fmt.Errorf("identify %s/%s: credential expired: %w", p.Forge, p.ID, authn.ErrRefused)
	}
	if p.Forge != "" {
		user, err := a.directory.User(ctx, p.Forge, p.ID)
		switch {
		case errors.Is(err, forge.ErrNoUser):
			return p, until, fmt.Errorf("identify %s/%s: %w: %w", p.Forge, p.ID, authn.ErrRefused, err)
		case err != nil:
			return p, until, fmt.Errorf("identify %s/%s: %w: %w", p.Forge, p.ID, ErrUnavailable, err)
		case user.Blocked || user.ID != p.ID:
			return p, until, fmt.Errorf("identify %s/%s: blocked at the forge: %w", p.Forge, p.ID, authn.ErrRefused)
		}
		p.Name, p.Kind, p.Groups = user.Name, user.Kind, user.Groups
		until = user.NotAfter
	}
	p.Roles = a.roles(&p)
	return p, earlier(until, p.Expires), nil
}

// publish makes v the view of key. A forge that was away for the view before is away for this one.
func (a *Authorizer) publish(key viewKey, v *view) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sweep(v.used.Load())
	if old := a.views[key]; old != nil {
		v.degraded.Store(old.degraded.Load())
		delete(a.byPrincipal, &old.principal)
	}
	a.views[key] = v
	a.byPrincipal[&v.principal] = v
}

// sweep drops views that nobody has used for longer than they could be used, once in such a time, and makes room for
// one more. The caller holds mu.
func (a *Authorizer) sweep(now int64) {
	age := int64(softAge / time.Second)
	if now-a.swept >= age {
		a.swept = now
		for key, v := range a.views {
			if now-v.used.Load() > age {
				a.drop(key, v)
			}
		}
	}
	for len(a.views) >= maxViews {
		key, v := a.leastUsed()
		a.drop(key, v)
	}
}

func (a *Authorizer) drop(key viewKey, v *view) {
	delete(a.views, key)
	delete(a.byPrincipal, &v.principal)
}

// leastUsed returns the view that was not used for longest, of a few that chance picks.
func (a *Authorizer) leastUsed() (viewKey, *view) {
	var key viewKey
	var least *view
	looked := 0
	for k, v := range a.views {
		if least == nil || v.used.Load() < least.used.Load() {
			key, least = k, v
		}
		if looked++; looked == 8 {
			break
		}
	}
	return key, least
}

// fact returns what v holds of a repository, unless it must be asked for again.
func (v *view) fact(r forge.Repo, now, since time.Time) (heldFact, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h, ok := v.facts[r]
	return h, ok && now.Before(h.until) && !h.At.Before(since)
}

// learn adds facts to v. One that contradicts what v held ends every answer so far, and those under way: they may rest on
// the old one. Open questions are not held, but remembered as the forge being away.
func (v *view) learn(facts []heldFact, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, h := range facts {
		if h.Access == forge.Unknown {
			v.degraded.Store(now.Add(degradedAge).UnixNano())
			continue
		}
		old, ok := v.facts[h.Repo]
		if ok && old.Access != h.Access {
			v.changes++
			clear(v.memo)
		}
		if ok && h.At.Before(old.At) {
			continue
		}
		makeRoom(v.facts, maxFacts)
		v.facts[h.Repo] = h
	}
}

// recall returns the answer to key while every fact behind it is fresh and none is older than since. Otherwise it returns
// the count of changes that a new answer must show to remember.
func (v *view) recall(key *memoKey, now, since time.Time) (m remembered, changes uint64, ok bool) {
	v.mu.RLock()
	m, ok = v.memo[*key]
	changes = v.changes
	v.mu.RUnlock()
	ok = ok && now.Before(m.until) && (m.oldest.IsZero() || !m.oldest.Before(since))
	return m, changes, ok
}

// remember keeps an answer, unless facts have changed since it was sought. The inputs are dropped: a view holds thousands
// of answers, and a set hundreds of inputs.
func (v *view) remember(key memoKey, m remembered, changes uint64) {
	d := *m.decision
	if d.Facts != nil {
		f := *d.Facts
		f.Inputs = nil
		d.Facts = &f
	}
	m.decision = &d
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changes != changes {
		return
	}
	makeRoom(v.memo, maxMemo)
	v.memo[key] = m
}

// veil turns a denial into Unavailable while a forge is away, so that it does not tell recorded names from others.
func (v *view) veil(o outcome, now time.Time) outcome {
	if o.decision.Verdict != Deny || now.UnixNano() >= v.degraded.Load() {
		return o
	}
	d := *o.decision
	d.Verdict = Unavailable
	d.Reasons = append([]string{codeAway + ": a forge left a question of this principal open; asking again may help"}, d.Reasons...)
	o.decision = &d
	return o
}
