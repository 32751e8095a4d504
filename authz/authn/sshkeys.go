package authn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"
)

// AuthorizedKeys is a list of keys and whom each of them stands for.
type AuthorizedKeys struct {
	Keys      Source[*AuthorizedKeyList] // a [File] or a [Fixed]
	Principal Principal
}

// SSHKeysConfig is what [NewSSHKeys] needs. Without directory, lists and authorities nobody comes in.
type SSHKeysConfig struct {
	// Directory finds the users whose keys or names they are. nil: the lists and the authorities' rules say who comes.
	Directory      Directory
	AuthorizedKeys []AuthorizedKeys
	Authorities    []SSHAuthority
	// Revoked overrules all of them. While one of these lists cannot be had, nobody comes in by SSH.
	Revoked []Source[*RevocationList]
	Now     func() time.Time // nil is time.Now
}

// SSHKeys recognises SSH keys and user certificates. It does not ask whether who shows a key also has it: a handshake or a
// signature does, and only a key that one of them has proven may be shown here.
//
// A key is looked for in the revocation lists, then in the lists of authorized keys, then at the forges. It comes in if all
// that know it mean one principal, and under all restrictions that any of them makes. A deploy key is nobody's, which the
// [Directory] must see to: a key alone does not tell what it is.
//
// It is safe for concurrent use, and cheap enough to be asked again at each operation: a key costs a few looks into maps, and
// a certificate's signature is verified once.
type SSHKeys struct {
	directory   Directory
	lists       []AuthorizedKeys
	authorities []SSHAuthority
	revoked     []Source[*RevocationList]
	now         func() time.Time
	verified    *certCache
}

var _ Authenticator = (*SSHKeys)(nil)

// errNoList says that a [Source] holds nothing.
var errNoList = errors.New("there is none")

// maxVerified bounds the certificates whose verification is remembered, at some hundred bytes each.
const maxVerified = 8192

// NewSSHKeys checks the configuration.
func NewSSHKeys(cfg SSHKeysConfig) (*SSHKeys, error) {
	s := &SSHKeys{
		directory: cfg.Directory, lists: slices.Clone(cfg.AuthorizedKeys), authorities: slices.Clone(cfg.Authorities),
		revoked: slices.Clone(cfg.Revoked), now: cfg.Now,
		verified: &certCache{limit: maxVerified, certs: make(map[keySum]time.Time)},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if slices.Contains(s.revoked, nil) {
		return nil, errors.New("a revocation list is missing")
	}
	described := make(descriptions)
	for i, list := range s.lists {
		if list.Keys == nil {
			return nil, fmt.Errorf("list %d of authorized keys is missing", i+1)
		}
		if err := described.add(list.Principal); err != nil {
			return nil, fmt.Errorf("list %d of authorized keys: %w", i+1, err)
		}
	}
	for i := range s.authorities {
		if err := s.authorities[i].validate(s.directory, described); err != nil {
			return nil, fmt.Errorf("SSH authority %q: %w", s.authorities[i].Name, err)
		}
	}
	return s, nil
}

// descriptions are the principals that the configuration names, by their Key. One that is named in several places must be
// described in one way, since one credential may come in by all of them.
type descriptions map[string]Principal

// add asks for a principal that a credential can stand for.
func (d descriptions) add(p Principal) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if p.Kind == Anonymous {
		return errors.New("names an anonymous principal: name somebody")
	}
	if other, ok := d[p.Key()]; ok && !reflect.DeepEqual(other, p) {
		return fmt.Errorf("describes %q otherwise than another place does: make them the same", p.Key())
	}
	d[p.Key()] = p
	return nil
}

// Authenticate returns whose the key or certificate is. Credential is the key's fingerprint, "SHA256:...", or the
// certificate's name, "ssh-cert:..."; Expires is when the key or the certificate does, if it does.
func (s *SSHKeys) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	if c.Key == nil {
		return Principal{}, ErrNotMine
	}
	k := c.Key
	switch {
	case k.proven.fingerprint == "":
		return Principal{}, refuse(BadCredential, "", "it is no key that can be proven")
	case k.proven.cert != nil:
		return s.certificate(ctx, k.proven.cert, k.Remote)
	}
	return s.key(ctx, k)
}

func (s *SSHKeys) key(ctx context.Context, k *SSHKey) (Principal, error) {
	name, sum := k.proven.fingerprint, k.proven.key
	if err := CheckSSHKey(k.proven.public); err != nil {
		return Principal{}, refuse(KeyRefused, name, "%v", err)
	}
	if err := s.checkRevoked(name, func(l *RevocationList) string { return l.revokedKey(sum, k.proven.public) }); err != nil {
		return Principal{}, err
	}
	p, expires, err := s.listed(k)
	if err != nil {
		return Principal{}, err
	}
	owner, err := s.owner(ctx, name)
	switch {
	case err != nil:
		return Principal{}, err
	case p == nil && owner == nil:
		return Principal{}, refuse(UnknownKey, name, "no list of authorized keys and no forge knows it")
	case p == nil:
		p = owner
	case owner != nil && p.Key() != owner.Key():
		return Principal{}, refuse(KeyRefused, name, "it stands for %q in a list of authorized keys and belongs to %q", p.Key(), owner.Key())
	}
	return s.finish(*p, name, expires)
}

// checkRevoked asks every list. A list that cannot be had may hold anything.
func (s *SSHKeys) checkRevoked(subject string, why func(*RevocationList) string) error {
	for _, source := range s.revoked {
		list, err := source.Current()
		if err != nil || list == nil {
			return fmt.Errorf("read a list of revoked keys: %w", cmp.Or(err, errNoList))
		}
		if why := why(list); why != "" {
			return refuse(RevokedCredential, subject, "%s", why)
		}
	}
	return nil
}

// listed returns whom the lists say the key stands for, nil for nobody, and the earliest time at which it expires.
// A list that is too old still tells what it is about: its keys are a fault, others are not.
func (s *SSHKeys) listed(k *SSHKey) (found *Principal, expires time.Time, err error) {
	for i := range s.lists {
		list, err := s.lists[i].Keys.Current()
		if list == nil {
			return nil, expires, fmt.Errorf("read a list of authorized keys: %w", cmp.Or(err, errNoList))
		}
		entry, ok := list.keys[k.proven.key]
		if !ok {
			continue
		}
		if err != nil {
			return nil, expires, fmt.Errorf("read a list of authorized keys: %w", err)
		}
		p := &s.lists[i].Principal
		if found != nil && found.Key() != p.Key() {
			return nil, expires, refuse(KeyRefused, k.proven.fingerprint,
				"it stands for %q in one list of authorized keys and for %q in another", found.Key(), p.Key())
		}
		if err := entry.check(k.Remote, s.now()); err != nil {
			return nil, expires, refuse(KeyRefused, k.proven.fingerprint, "it %v", err)
		}
		found, expires = p, earlier(expires, entry.expires)
	}
	return found, expires, nil
}

// owner returns the user whose key it is at a forge, nil for nobody.
func (s *SSHKeys) owner(ctx context.Context, fingerprint string) (*Principal, error) {
	if s.directory == nil {
		return nil, nil
	}
	p, err := s.directory.KeyOwner(ctx, fingerprint)
	switch {
	case errors.Is(err, ErrNobody):
		return nil, nil
	case errors.Is(err, ErrAmbiguous):
		return nil, refuse(KeyRefused, fingerprint, "%v", err)
	case err != nil:
		return nil, fmt.Errorf("look up the owner of an SSH key: %w", err)
	}
	return &p, nil
}

// finish completes a principal that a credential of that name stands for until expires.
func (s *SSHKeys) finish(p Principal, credential string, expires time.Time) (Principal, error) {
	if p.ID == "" {
		return Principal{}, refuse(KeyRefused, credential, "it belongs to somebody without an id")
	}
	p.Credential, p.Expires = credential, earlier(p.Expires, expires)
	if !p.Expires.IsZero() && !s.now().Before(p.Expires) {
		return Principal{}, refuse(KeyRefused, credential, "whom it stands for expired at %s", p.Expires.UTC().Format(time.RFC3339))
	}
	return p, nil
}

// earlier returns the earlier of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
