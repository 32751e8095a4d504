package authn

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxAuthorizedKeys bounds an authorized_keys file, in bytes.
const maxAuthorizedKeys = 1 << 20

// keySum is the SHA-256 of a key as it goes over the wire (RFC 4253 section 6.6), which its fingerprint spells in base64.
type keySum [sha256.Size]byte

func sumOf(key ssh.PublicKey) keySum { return sha256.Sum256(key.Marshal()) }

// AuthorizedKeyList is a parsed authorized_keys file. It is immutable and safe for concurrent use.
type AuthorizedKeyList struct{ keys map[keySum]authorizedKey }

// authorizedKey is what a line says of its key beside that it may come in.
type authorizedKey struct {
	from    addressList // nil: from anywhere
	expires time.Time   // zero: never
}

// ParseAuthorizedKeys reads a file in the form of authorized_keys (sshd(8)); name is for messages. It fails closed: a
// restriction that the gate cannot keep is an error, never dropped. Kept are
//
//	from="LIST"           IP addresses and networks; "!" excepts. Names and wildcards are errors.
//	expiry-time="TIME"    YYYYMMDD or YYYYMMDDHHMM[SS], local unless Z follows
//	restrict, no-pty, no-port-forwarding, no-agent-forwarding, no-X11-forwarding, no-user-rc
//
// The last six take away what the gate gives nobody. Every other option is an error, and so are a key that stands twice
// and one that [CheckSSHKey] refuses. Errors are [*FileError]s.
func ParseAuthorizedKeys(name string, data []byte) (*AuthorizedKeyList, error) {
	if len(data) > maxAuthorizedKeys {
		return nil, &FileError{File: name, Reason: "the file is larger than 1 MiB", Hint: "use SSH certificates for that many keys"}
	}
	list := &AuthorizedKeyList{keys: make(map[keySum]authorizedKey)}
	err := textLines(name, data, "write [OPTIONS] TYPE BASE64 [COMMENT], as sshd(8) has it", func(text string) error {
		key, entry, err := parseAuthorizedKey(text)
		if err != nil {
			return err
		}
		sum := sumOf(key)
		if _, twice := list.keys[sum]; twice {
			return &hintedError{fmt.Sprintf("the key %s stands twice", ssh.FingerprintSHA256(key)), "leave one of the lines"}
		}
		list.keys[sum] = entry
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Len returns how many keys there are.
func (l *AuthorizedKeyList) Len() int { return len(l.keys) }

func parseAuthorizedKey(text string) (key ssh.PublicKey, entry authorizedKey, err error) {
	options, rest, err := CutSSHOptions(text)
	if err != nil {
		return nil, entry, err
	}
	for _, o := range options {
		if err := entry.set(o); err != nil {
			return nil, entry, err
		}
	}
	key, err = ParseSSHKey(rest)
	return key, entry, err
}

func (k *authorizedKey) set(o SSHOption) (err error) {
	switch o.Name {
	case "restrict", "no-pty", "no-port-forwarding", "no-agent-forwarding", "no-x11-forwarding", "no-user-rc":
		if o.HasValue {
			return &hintedError{fmt.Sprintf("option %q has a value", o.Name), "remove = and what follows it"}
		}
		return nil
	case "from":
		if k.from, err = parseAddressList(o.Value, true); err != nil {
			return &hintedError{"option \"from\": " + err.Error(), "list IP addresses and networks: host names are not looked up, and wildcards are networks (10.0.0.0/8)"}
		}
		if k.from.onlyExceptions() {
			return &hintedError{"option \"from\" only excepts, and matches nothing", "add what it excepts from, such as 0.0.0.0/0,::/0"}
		}
		return nil
	case "expiry-time":
		if k.expires, err = ParseSSHTime(o.Value, time.Local); err != nil {
			return &hintedError{"option \"expiry-time\": " + err.Error(), "write it as 20270131Z or 202701311200Z"}
		}
		return nil
	}
	return &hintedError{fmt.Sprintf("option %.80q is not one the gate can keep", o.Name), optionHint(o.Name)}
}

// optionHint says what to do instead of an option of sshd's that means nothing here.
func optionHint(name string) string {
	switch name {
	case "cert-authority", "principals":
		return "configure the authority as one, with rules for its principals"
	case "command", "environment", "tunnel", "permitopen", "permitlisten":
		return "the gate runs no commands and forwards nothing; give the key a principal of its own, without what it must not read"
	case "pty", "port-forwarding", "agent-forwarding", "x11-forwarding", "user-rc":
		return "remove it: the gate gives this to nobody"
	case "verify-required", "no-touch-required":
		return "the gate cannot tell whether a PIN was asked for, and always asks for a touch"
	}
	return "remove it, or correct its name; known are from, expiry-time, restrict, and no-pty and its like"
}

// check returns what keeps the key from being used from remote at now.
func (k *authorizedKey) check(remote netip.Addr, now time.Time) error {
	switch {
	case k.from != nil && !k.from.match(remote):
		return fmt.Errorf("may not be used from %s (from=)", remote)
	case !k.expires.IsZero() && !now.Before(k.expires):
		return fmt.Errorf("expired at %s (expiry-time=)", k.expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// SSHKeySet is a set of keys, as authorities have them. It is immutable and safe for concurrent use.
type SSHKeySet struct{ keys map[keySum]bool }

// NewSSHKeySet makes a set of keys, which must be such as [CheckSSHKey] accepts. None, a certificate among them and one that
// stands twice are errors.
func NewSSHKeySet(keys ...ssh.PublicKey) (*SSHKeySet, error) {
	set := &SSHKeySet{keys: make(map[keySum]bool)}
	for _, key := range keys {
		if err := set.add(key); err != nil {
			return nil, err
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("there is no key")
	}
	return set, nil
}

func (s *SSHKeySet) add(key ssh.PublicKey) error {
	if _, ok := key.(*ssh.Certificate); ok {
		return fmt.Errorf("a certificate cannot be an authority")
	}
	if err := CheckSSHKey(key); err != nil {
		return err
	}
	sum := sumOf(key)
	if s.keys[sum] {
		return fmt.Errorf("the key %s stands twice", ssh.FingerprintSHA256(key))
	}
	s.keys[sum] = true
	return nil
}

// ParseSSHKeySet reads a file of authorities, one "TYPE BASE64 [COMMENT]" a line, as TrustedUserCAKeys has it
// (sshd_config(5)); name is for messages. Errors are [*FileError]s.
func ParseSSHKeySet(name string, data []byte) (*SSHKeySet, error) {
	set := &SSHKeySet{keys: make(map[keySum]bool)}
	err := textLines(name, data, "write one public key a line, TYPE BASE64 [COMMENT], without options", func(text string) error {
		key, err := ParseSSHKey(text)
		if err != nil {
			return err
		}
		return set.add(key)
	})
	if err != nil {
		return nil, err
	}
	if len(set.keys) == 0 {
		return nil, &FileError{File: name, Reason: "there is no key in the file", Hint: "put the authority's public key into it"}
	}
	return set, nil
}
