package provenance

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
)

// AllowedSigners is a parsed allowed_signers file, the one that `ssh-keygen -Y verify` reads (ssh-keygen(1)):
//
//	principals [options] keytype base64 [comment]
//
// principals is a list of patterns parted by commas, with "*", "?" and a leading "!" to except. Options are
// cert-authority, namespaces="LIST", valid-after="TIME" and valid-before="TIME", parted by commas, in any case. A TIME
// is YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, local unless "Z" or "UTC" follows.
//
// ssh-keygen is told whom to expect and asks whether the key is his. We are not told, so each key must name one signer:
// on a key's line it is the first principal without a wildcard, and there must be one; for a certificate it
// is the first of the certificate's own principals that the authority's line covers.
//
// It is immutable and safe for concurrent use.
type AllowedSigners struct{ lines []signerLine }

type signerLine struct {
	number        int
	principals    string // pattern list
	identity      string // of a key; empty for an authority
	authority     bool
	namespaces    string // pattern list; empty: any
	after, before time.Time
	key           ssh.PublicKey
}

const (
	maxAllowedSigners = 1 << 20
	maxIdentity       = 256
)

// ParseAllowedSigners reads an allowed_signers file. Times without "Z" are in loc; nil means time.Local, as ssh-keygen
// takes them. One key may stand on several lines only under one identity.
func ParseAllowedSigners(file []byte, loc *time.Location) (*AllowedSigners, error) {
	if len(file) > maxAllowedSigners {
		return nil, fmt.Errorf("parse allowed signers: %d bytes, at most %d are allowed", len(file), maxAllowedSigners)
	}
	if loc == nil {
		loc = time.Local
	}
	a := &AllowedSigners{}
	names := make(map[string]string)
	number := 0
	for text := range bytes.Lines(file) {
		number++
		line, err := parseSignerLine(strings.TrimRight(string(text), "\r\n"), loc)
		if err != nil {
			return nil, fmt.Errorf("parse allowed signers: line %d: %w", number, err)
		}
		if line == nil {
			continue
		}
		line.number = number
		if !line.authority {
			print := fingerprint(line.key)
			if old, ok := names[print]; ok && old != line.identity {
				return nil, fmt.Errorf("parse allowed signers: line %d: key %s belongs to %q already; one key names one signer", number, print, old)
			}
			names[print] = line.identity
		}
		a.lines = append(a.lines, *line)
	}
	return a, nil
}

// parseSignerLine returns nil for a comment or an empty line.
func parseSignerLine(text string, loc *time.Location) (*signerLine, error) {
	if strings.IndexByte(text, 0) >= 0 || !utf8.ValidString(text) {
		return nil, errors.New("it is not UTF-8 text")
	}
	text = strings.TrimLeft(text, " \t")
	if text == "" || text[0] == '#' {
		return nil, nil
	}
	l := &signerLine{}
	var err error
	if l.principals, text, err = cutPrincipals(text); err != nil {
		return nil, err
	}
	options, text, err := authn.CutSSHOptions(text)
	if err != nil {
		return nil, err
	}
	for _, o := range options {
		if err := l.setOption(o, loc); err != nil {
			return nil, err
		}
	}
	if l.key, err = authn.ParseSSHKey(text); err != nil {
		return nil, err
	}
	return l, l.check()
}

// cutPrincipals cuts the first field, which may stand in quotes.
func cutPrincipals(text string) (principals, rest string, err error) {
	if quoted, ok := strings.CutPrefix(text, `"`); ok {
		principals, rest, ok = strings.Cut(quoted, `"`)
		if !ok {
			return "", "", errors.New("a quote does not end")
		}
	} else {
		i := strings.IndexAny(text, " \t")
		if i < 0 {
			return "", "", errors.New("there is no key")
		}
		principals, rest = text[:i], text[i:]
	}
	if principals == "" || strings.ContainsAny(principals, " \t") {
		return "", "", errors.New("the principals are missing, or a space stands in them")
	}
	return principals, strings.TrimLeft(rest, " \t"), nil
}

func (l *signerLine) setOption(o authn.SSHOption, loc *time.Location) (err error) {
	if o.HasValue == (o.Name == "cert-authority") {
		return fmt.Errorf("option %.80q is not a known one, or its value is missing or too much", o.Name)
	}
	switch o.Name {
	case "cert-authority":
		l.authority = true
	case "namespaces":
		if l.namespaces = o.Value; o.Value == "" {
			return errors.New("option \"namespaces\" is empty")
		}
	case "valid-after":
		l.after, err = authn.ParseSSHTime(o.Value, loc)
	case "valid-before":
		l.before, err = authn.ParseSSHTime(o.Value, loc)
	default:
		err = fmt.Errorf("option %.80q is not a known one", o.Name)
	}
	return err
}

func (l *signerLine) check() error {
	if !l.after.IsZero() && !l.before.IsZero() && !l.after.Before(l.before) {
		return errors.New("valid-before is not later than valid-after")
	}
	if l.authority {
		return nil
	}
	for name := range strings.SplitSeq(l.principals, ",") {
		if name != "" && !strings.ContainsAny(name, "*?!") {
			l.identity = name
			break
		}
	}
	if l.identity == "" {
		return fmt.Errorf("principals %.200q name nobody: put the signer's own name first, or use cert-authority", l.principals)
	}
	if !matchList(l.principals, l.identity) {
		return fmt.Errorf("principals %.200q except %q again", l.principals, l.identity)
	}
	return checkIdentity(l.identity)
}

func checkIdentity(name string) error {
	if name == "" || len(name) > maxIdentity {
		return fmt.Errorf("a signer's name has %d bytes, want 1 to %d", len(name), maxIdentity)
	}
	return checkText(name)
}

// Identity says whose key it is: who may sign in namespace with it at time now. An error says why nobody is.
func (a *AllowedSigners) Identity(key ssh.PublicKey, namespace string, now time.Time) (string, error) {
	err := fmt.Errorf("key %s is not an allowed signer's", fingerprint(key))
	for i := range a.lines {
		l := &a.lines[i]
		if !l.covers(key) {
			continue
		}
		name, lineErr := l.identityOf(key, namespace, now)
		if lineErr == nil {
			return name, nil
		}
		err = fmt.Errorf("allowed signers line %d: key %s: %w", l.number, fingerprint(key), lineErr)
	}
	return "", err
}

// covers says whether the line is about key: the very key, or a certificate by the authority. A listed key does not
// vouch for a certificate of itself: the certificate's limits would be lost.
func (l *signerLine) covers(key ssh.PublicKey) bool {
	cert, isCert := key.(*ssh.Certificate)
	if isCert != l.authority {
		return false
	}
	if isCert {
		key = cert.SignatureKey
	}
	return bytes.Equal(l.key.Marshal(), key.Marshal())
}

func (l *signerLine) identityOf(key ssh.PublicKey, namespace string, now time.Time) (string, error) {
	switch {
	case l.namespaces != "" && !matchList(l.namespaces, namespace):
		return "", fmt.Errorf("it may not sign in the namespace %q", namespace)
	case !l.after.IsZero() && now.Before(l.after):
		return "", fmt.Errorf("it is valid only after %s", l.after.UTC().Format(time.RFC3339))
	case !l.before.IsZero() && now.After(l.before):
		return "", fmt.Errorf("it was valid only before %s", l.before.UTC().Format(time.RFC3339))
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		return l.certIdentity(cert, now)
	}
	return l.identity, nil
}

// certIdentity checks a certificate by the line's authority. Critical options are refused whole: none of those
// that OpenSSH knows has a meaning for a signature, and an unknown one must not be ignored.
func (l *signerLine) certIdentity(cert *ssh.Certificate, now time.Time) (string, error) {
	switch {
	case cert.CertType != ssh.UserCert:
		return "", errors.New("the certificate is not a user certificate")
	case len(cert.ValidPrincipals) == 0:
		return "", errors.New("the certificate has no principals, so it names nobody")
	case len(cert.CriticalOptions) != 0:
		return "", errors.New("the certificate has critical options, which cannot be kept for a signature")
	case cert.Signature.Format == ssh.KeyAlgoRSA:
		return "", errors.New("the certificate is signed with SHA-1")
	}
	i := slices.IndexFunc(cert.ValidPrincipals, func(p string) bool { return matchList(l.principals, p) })
	if i < 0 {
		return "", fmt.Errorf("none of the certificate's principals %.200q matches %.200q", cert.ValidPrincipals, l.principals)
	}
	name := cert.ValidPrincipals[i]
	if err := checkIdentity(name); err != nil {
		return "", err
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return now }}
	if err := checker.CheckCert(name, cert); err != nil {
		return "", err
	}
	return name, nil
}

// matchList says whether text matches a pattern of the list, and none of those that "!" excepts (ssh_config(5), PATTERNS).
func matchList(list, text string) bool {
	found := false
	for pattern := range strings.SplitSeq(list, ",") {
		positive, negated := strings.CutPrefix(pattern, "!")
		if !matchPattern(positive, text) {
			continue
		}
		if negated {
			return false
		}
		found = true
	}
	return found
}

// matchPattern matches "*" and "?" over bytes, in time proportional to the product of the lengths.
func matchPattern(pattern, text string) bool {
	star, mark := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
