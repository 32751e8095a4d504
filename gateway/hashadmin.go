package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/hashserv"
)

// Accounts keeps the accounts of the hash equivalence protocol. It is safe for concurrent use.
type Accounts interface {
	authn.AccountStore
	// AccountsOf returns the accounts of a zone, sorted by name.
	AccountsOf(ctx context.Context, zone string) ([]authn.Account, error)
	// CreateAccount keeps a new account. An error wraps [authn.ErrAccountExists] when there is one of that name.
	CreateAccount(ctx context.Context, a authn.Account) error
	// UpdateAccount replaces permissions and token of an account, or returns an error that wraps [authn.ErrNoAccount].
	UpdateAccount(ctx context.Context, a authn.Account) error
	// DeleteAccount forgets an account, or returns an error that wraps [authn.ErrNoAccount].
	DeleteAccount(ctx context.Context, zone, name string) error
}

// admin returns the session of somebody who may administer the zone, and records what is done. Everybody else is refused by a text: no
// build sends these commands.
func (h *Hashes) admin(ctx context.Context, need hashserv.Permission, what string) (*Session, error) {
	s := h.who(ctx)
	if s == nil {
		return nil, h.refusal(need)
	}
	answer, ok := h.may(ctx, s, authz.Admin, need)
	e := h.adminEvent(s, what)
	if d := answer.Decision; d != nil {
		e.Decision = audit.Decision{Verdict: verdict(d), Rule: d.Rule, Reasons: d.Reasons, Policy: d.Revision, FactAge: factAge(&answer, s.gate.Now()), Cached: answer.Remembered}
	}
	if !ok {
		e.Decision.Verdict = "deny"
		if err := s.record(e); err != nil {
			return nil, err
		}
		return nil, h.refusal(need)
	}
	if err := h.recordDurably(ctx, e); err != nil {
		return nil, err
	}
	return s, nil
}

func (h *Hashes) adminEvent(s *Session, what string) *audit.Event {
	e := s.event("hash.admin", newRequestID())
	e.Action, e.Zone, e.Detail = string(authz.Admin), h.name, what
	return e
}

// recordDurably returns when an event is on the disk.
func (h *Hashes) recordDurably(ctx context.Context, e *audit.Event) error {
	seq, err := h.gate.Journal.Append(e)
	if err == nil {
		err = h.gate.Journal.Durable(ctx, seq)
	}
	if err != nil {
		return unavailable("record the "+e.Kind, err)
	}
	return nil
}

// keeper returns what maintains the zone's mappings, for an administrator.
func (h *Hashes) keeper(ctx context.Context, what string) (hashserv.Keeper, error) {
	if _, err := h.admin(ctx, hashserv.DBAdmin, what); err != nil {
		return nil, err
	}
	k, ok := h.zone.Hash.Store.(hashserv.Keeper)
	if !ok {
		return nil, fmt.Errorf("the store of zone %s cannot be maintained", h.name)
	}
	return k, nil
}

// May implements [hashserv.Peer].
func (h *Hashes) May(ctx context.Context, need hashserv.Permission) error {
	var err error
	switch need {
	case hashserv.Read:
		_, err = h.reader(ctx)
	default:
		_, err = h.admin(ctx, need, "look at the server")
	}
	return err
}

// Remove implements [hashserv.Keeper], as do the methods below.
func (h *Hashes) Remove(ctx context.Context, w hashserv.Where) (int64, error) {
	k, err := h.keeper(ctx, "remove where "+whereText(w))
	if err != nil {
		return 0, err
	}
	return k.Remove(ctx, w)
}

// whereText is a condition in an event.
func whereText(w hashserv.Where) string {
	var parts []string
	for column, value := range w {
		parts = append(parts, fmt.Sprintf("%.64s=%.128s", column, value))
	}
	slices.Sort(parts)
	return strings.Join(parts[:min(len(parts), 16)], " ")
}

// CleanUnused removes old reports of tasks that are mapped to nothing.
func (h *Hashes) CleanUnused(ctx context.Context, age time.Duration) (int64, error) {
	k, err := h.keeper(ctx, fmt.Sprintf("clean what is unused for %v", age))
	if err != nil {
		return 0, err
	}
	return k.CleanUnused(ctx, age)
}

// Mark marks what the next Sweep keeps.
func (h *Hashes) Mark(ctx context.Context, mark string, w hashserv.Where) (int64, error) {
	k, err := h.keeper(ctx, fmt.Sprintf("mark %.64s where %s", mark, whereText(w)))
	if err != nil {
		return 0, err
	}
	return k.Mark(ctx, mark, w)
}

// Sweep removes what is not marked.
func (h *Hashes) Sweep(ctx context.Context, mark string) (int64, error) {
	k, err := h.keeper(ctx, fmt.Sprintf("sweep all but %.64s", mark))
	if err != nil {
		return 0, err
	}
	return k.Sweep(ctx, mark)
}

// Collection tells how far garbage collection is.
func (h *Hashes) Collection(ctx context.Context) (hashserv.Collection, error) {
	k, err := h.keeper(ctx, "look at garbage collection")
	if err != nil {
		return hashserv.Collection{}, err
	}
	return k.Collection(ctx)
}

// Usage counts rows.
func (h *Hashes) Usage(ctx context.Context) (map[string]int64, error) {
	k, err := h.keeper(ctx, "count rows")
	if err != nil {
		return nil, err
	}
	return k.Usage(ctx)
}

// Auth implements [hashserv.Users], as do the methods below. The token is a gate token, whatever the name, or that of an account of this
// zone.
func (h *Hashes) Auth(ctx context.Context, name, token string) (hashserv.User, error) {
	secret := authn.NewSecret(token)
	credential := authn.Credential{Token: secret}
	if authn.IsAccountToken(secret) {
		credential = authn.Credential{Account: &authn.Login{Zone: h.name, Name: name, Token: secret}}
	}
	s, err := h.gate.Session(ctx, h.door, credential)
	if err != nil {
		return hashserv.User{}, h.refuseLogin(ctx, name)
	}
	var account *authn.Account
	if credential.Account != nil {
		a, err := h.gate.Accounts.Account(ctx, h.name, name)
		if err != nil {
			return hashserv.User{}, h.refuseLogin(ctx, name)
		}
		account = &a
	}
	h.enter(s, account)
	user := hashserv.User{Name: name, Permissions: h.permissions(ctx, s)}
	return user, nil
}

// loginDelay is how long a refused login waits for its answer where it gets one.
const loginDelay = time.Second

// refuseLogin is the answer to a login that failed. The connection is nobody's then, whoever's it was, and goes on: BitBake dies of an
// error, and of a connection that ends while it signs in.
func (h *Hashes) refuseLogin(ctx context.Context, name string) error {
	if !h.zone.Hash.Reference {
		h.leave()
		return hashserv.ErrLogin
	}
	select {
	case <-time.After(loginDelay):
	case <-ctx.Done():
	}
	return &hashserv.Refusal{Message: fmt.Sprintf("Unable to authenticate as %.128s", name)}
}

// permissions are what the asker has in the zone, in the protocol's words. They inform; every command decides for itself.
func (h *Hashes) permissions(ctx context.Context, s *Session) []hashserv.Permission {
	var out []hashserv.Permission
	add := func(action authz.Action, p hashserv.Permission) {
		if _, ok := h.may(ctx, s, action, p); ok {
			out = append(out, p)
		}
	}
	add(authz.Admin, hashserv.DBAdmin)
	if h.has(hashserv.Read) {
		out = append(out, hashserv.Read)
	}
	add(authz.Report, hashserv.Reporting)
	add(authz.Admin, hashserv.UserAdmin)
	return out
}

// userOf is an account as the protocol shows it.
func userOf(a authn.Account) hashserv.User {
	u := hashserv.User{Name: a.Name, Permissions: []hashserv.Permission{}}
	for _, p := range a.Permissions {
		u.Permissions = append(u.Permissions, hashserv.Permission(p))
	}
	return u
}

// noUser is the refusal that names an account that is not there.
func noUser(name string) error {
	return &hashserv.Refusal{Message: fmt.Sprintf("No user named '%.128s' exists", name)}
}

// resolve returns the name that a command is about, and records who does what to whom. Without a name it is the asker's own account.
func (h *Hashes) resolve(ctx context.Context, name, what string, own bool) (string, error) {
	if s := h.who(ctx); own && s != nil && h.account != nil && (name == "" || name == h.account.Name) {
		e := h.adminEvent(s, what+" "+h.account.Name)
		e.Decision = audit.Decision{Verdict: "allow", Reasons: []string{"it is the asker's own"}, FactAge: -1}
		return h.account.Name, h.recordDurably(ctx, e)
	}
	_, err := h.admin(ctx, hashserv.UserAdmin, fmt.Sprintf("%s %.128s", what, name))
	return name, err
}

// User returns an account, nil for none.
func (h *Hashes) User(ctx context.Context, name string) (*hashserv.User, error) {
	if s := h.who(ctx); s != nil && h.account == nil && (name == "" || name == s.principal.Name) {
		return &hashserv.User{Name: s.principal.Name, Permissions: h.permissions(ctx, s)}, nil
	}
	name, err := h.resolve(ctx, name, "look at account", true)
	if err != nil {
		return nil, err
	}
	a, err := h.gate.Accounts.Account(ctx, h.name, name)
	if errors.Is(err, authn.ErrNoAccount) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	u := userOf(a)
	return &u, nil
}

// AllUsers lists the zone's accounts.
func (h *Hashes) AllUsers(ctx context.Context) ([]hashserv.User, error) {
	if _, err := h.admin(ctx, hashserv.UserAdmin, "list accounts"); err != nil {
		return nil, err
	}
	accounts, err := h.gate.Accounts.AccountsOf(ctx, h.name)
	if err != nil {
		return nil, err
	}
	users := make([]hashserv.User, len(accounts))
	for i, a := range accounts {
		users[i] = userOf(a)
	}
	return users, nil
}

// NewUser makes an account that acts for the asker.
func (h *Hashes) NewUser(ctx context.Context, name string, permissions []hashserv.Permission) (hashserv.User, string, error) {
	s, err := h.admin(ctx, hashserv.UserAdmin, fmt.Sprintf("make account %.128s with %v", name, permissions))
	if err != nil {
		return hashserv.User{}, "", err
	}
	if !validAccount(name) {
		return hashserv.User{}, "", &hashserv.Refusal{Message: "an account's name is 1 to 64 letters, digits and . _ @ -"}
	}
	epoch, err := h.gate.Tokens.Epoch(ctx, *s.principal)
	if err != nil {
		return hashserv.User{}, "", err
	}
	token := authn.NewAccountToken()
	a := authn.Account{
		Zone: h.name, Name: name, Permissions: permissionTexts(permissions), Token: authn.AccountToken(token),
		Principal: *s.principal, Epoch: epoch, Created: h.gate.Now().UTC(),
	}
	err = h.gate.Accounts.CreateAccount(ctx, a)
	if errors.Is(err, authn.ErrAccountExists) {
		return hashserv.User{}, "", &hashserv.Refusal{Message: fmt.Sprintf("Cannot create new user '%s'", name)}
	}
	return userOf(a), token.Reveal(), err
}

// validAccount reports whether an account may have this name: it is printed in messages and lists.
func validAccount(name string) bool {
	if name == "" || len(name) > 64 {
		return false
	}
	for _, c := range []byte(name) {
		isLetter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !isLetter && (c < '0' || c > '9') && !strings.ContainsRune("._@-", rune(c)) {
			return false
		}
	}
	return true
}

// permissionTexts are permissions as they are kept: sorted, and all of them where @all is among them.
func permissionTexts(permissions []hashserv.Permission) []string {
	if slices.Contains(permissions, hashserv.All) {
		permissions = []hashserv.Permission{hashserv.All, hashserv.DBAdmin, hashserv.Read, hashserv.Reporting, hashserv.UserAdmin}
	}
	out := make([]string, len(permissions))
	for i, p := range permissions {
		out[i] = string(p)
	}
	slices.Sort(out)
	return out
}

// change updates an account that acts for the asker. What acts for another is the other's: its token would be a way to that one's rights.
func (h *Hashes) change(ctx context.Context, name string, how func(*authn.Account)) (authn.Account, error) {
	a, err := h.gate.Accounts.Account(ctx, h.name, name)
	s := h.who(ctx)
	if errors.Is(err, authn.ErrNoAccount) || err == nil && (s == nil || a.Principal.Key() != s.principal.Key()) {
		return a, noUser(name)
	}
	if err != nil {
		return a, err
	}
	how(&a)
	return a, h.gate.Accounts.UpdateAccount(ctx, a)
}

// SetPermissions changes what an account may do.
func (h *Hashes) SetPermissions(ctx context.Context, name string, permissions []hashserv.Permission) (hashserv.User, error) {
	if _, err := h.admin(ctx, hashserv.UserAdmin, fmt.Sprintf("give account %.128s %v", name, permissions)); err != nil {
		return hashserv.User{}, err
	}
	a, err := h.change(ctx, name, func(a *authn.Account) { a.Permissions = permissionTexts(permissions) })
	return userOf(a), err
}

// RefreshToken gives an account another token.
func (h *Hashes) RefreshToken(ctx context.Context, name string) (resolved, token string, err error) {
	if resolved, err = h.resolve(ctx, name, "make a new token for account", true); err != nil {
		return "", "", err
	}
	secret := authn.NewAccountToken()
	_, err = h.change(ctx, resolved, func(a *authn.Account) { a.Token = authn.AccountToken(secret) })
	return resolved, secret.Reveal(), err
}

// DeleteUser ends an account, whoever's it is.
func (h *Hashes) DeleteUser(ctx context.Context, name string) (resolved string, err error) {
	if resolved, err = h.resolve(ctx, name, "delete account", true); err != nil {
		return "", err
	}
	err = h.gate.Accounts.DeleteAccount(ctx, h.name, resolved)
	if errors.Is(err, authn.ErrNoAccount) {
		return "", noUser(resolved)
	}
	return resolved, err
}

// BecomeUser makes the connection that of an account which acts for the asker.
func (h *Hashes) BecomeUser(ctx context.Context, name string) (hashserv.User, error) {
	s, err := h.admin(ctx, hashserv.UserAdmin, fmt.Sprintf("become account %.128s", name))
	if err != nil {
		return hashserv.User{}, err
	}
	a, err := h.gate.Accounts.Account(ctx, h.name, name)
	if errors.Is(err, authn.ErrNoAccount) || err == nil && a.Principal.Key() != s.principal.Key() {
		return hashserv.User{}, noUser(name)
	}
	if err != nil {
		return hashserv.User{}, err
	}
	h.enter(s, &a)
	return userOf(a), nil
}
