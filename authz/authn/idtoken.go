package authn

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The bounds of an ID token. Real ones have one to four KiB and hold nothing deep.
const (
	maxIDToken   = 16 << 10
	maxJSONDepth = 16
	maxAudiences = 16
)

// IDTokenDigest returns the SHA-256 of what the issuer signed, to know a token again that was exchanged before. It leaves the
// signature out, which in ECDSA has two forms. For a token that [OIDC] accepted, there is no other spelling of what was signed
// and so no other digest; for other text it means nothing.
func IDTokenDigest(token Secret) [32]byte {
	signed := token.Reveal()
	if end := strings.LastIndexByte(signed, '.'); end >= 0 {
		signed = signed[:end]
	}
	return sha256.Sum256([]byte(signed))
}

// members are those of a JSON object, each as it stands in the text.
type members map[string]jsontext.Value

// idToken is a token that was taken apart. Nothing in it is proven.
type idToken struct {
	alg, kid string
	payload  []byte
	claims   members

	issuer, subject string
	authorized      string // azp: whom it was issued to; may be empty
	audience        []string
	issued, expires int64 // seconds since 1970
	notBefore       int64 // 0: not given
}

// parseIDToken takes apart a JWS in compact form (RFC 7515 section 7.1) that is an ID token (OpenID Connect Core 1.0 section 2),
// in its one spelling. Its errors quote no more than names and short values.
func parseIDToken(text string) (*idToken, error) {
	if len(text) > maxIDToken {
		return nil, fmt.Errorf("larger than %d bytes", maxIDToken)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("has %d parts, want 3: is it encrypted, or no ID token?", len(parts))
	}
	var raw [3][]byte
	for i, part := range parts {
		var err error
		if raw[i], err = decodePart(part); err != nil {
			return nil, fmt.Errorf("part %d: %w", i+1, err)
		}
	}
	t := &idToken{payload: raw[1]}
	if err := t.readHeader(raw[0]); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if err := t.readClaims(raw[1]); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	return t, nil
}

// decodePart takes base64url without padding, spare bits, or the line breaks that the decoder would pass over.
func decodePart(part string) ([]byte, error) {
	if part == "" {
		return nil, errors.New("is empty")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil || base64.RawURLEncoding.EncodedLen(len(raw)) != len(part) {
		return nil, errors.New("is not base64url")
	}
	return raw, nil
}

// parseMembers reads one JSON object: exact names, none twice at any depth, valid UTF-8, nothing deep.
func parseMembers(raw []byte) (members, error) {
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	for {
		_, err := d.ReadToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.New("no exact JSON: malformed, invalid UTF-8, or a name twice")
		}
		if d.StackDepth() > maxJSONDepth {
			return nil, fmt.Errorf("deeper than %d", maxJSONDepth)
		}
	}
	var m members
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		return nil, errors.New("no JSON object")
	}
	return m, nil
}

// readHeader refuses what brings a key along, what asks for an extension, and other kinds of tokens.
func (t *idToken) readHeader(raw []byte) error {
	m, err := parseMembers(raw)
	if err != nil {
		return err
	}
	for _, name := range [...]string{"crit", "jwk", "jku", "x5u", "x5c", "b64", "enc", "zip"} {
		if _, ok := m[name]; ok {
			return fmt.Errorf("holds %s, which no ID token needs", name)
		}
	}
	if t.alg, err = m.text("alg"); err != nil {
		return err
	}
	if !slices.Contains(signingAlgs(), t.alg) {
		return fmt.Errorf("algorithm %.20q: want one of %s", t.alg, strings.Join(signingAlgs(), " "))
	}
	if t.kid, err = m.text("kid"); err != nil {
		return err
	}
	if t.kid == "" {
		return errors.New("names no key (kid)")
	}
	typ, err := m.text("typ")
	if err != nil {
		return err
	}
	// Other tokens of the same issuer are signed by the same keys: access tokens are "at+jwt", logout tokens "logout+jwt".
	if _, ok := m["typ"]; ok && !strings.EqualFold(typ, "JWT") {
		return fmt.Errorf("is of type %.20q, no ID token", typ)
	}
	return nil
}

func (t *idToken) readClaims(raw []byte) (err error) {
	if t.claims, err = parseMembers(raw); err != nil {
		return err
	}
	for name, to := range map[string]*string{"iss": &t.issuer, "sub": &t.subject, "azp": &t.authorized} {
		if *to, err = t.claims.text(name); err != nil {
			return err
		}
	}
	for name, to := range map[string]*int64{"iat": &t.issued, "exp": &t.expires, "nbf": &t.notBefore} {
		if *to, err = t.claims.seconds(name); err != nil {
			return err
		}
	}
	if t.issuer == "" || t.subject == "" || t.issued == 0 || t.expires == 0 {
		return errors.New("iss, sub, iat and exp are required")
	}
	t.audience, err = t.claims.texts("aud")
	if err == nil && (len(t.audience) == 0 || len(t.audience) > maxAudiences) {
		err = fmt.Errorf("aud: want 1 to %d audiences", maxAudiences)
	}
	return err
}

// text returns a member that must be a line of printable text if it is there, and not empty.
func (m members) text(name string) (string, error) {
	raw, ok := m[name]
	if !ok {
		return "", nil
	}
	text, ok := unquote(raw)
	if !ok || text == "" {
		return "", fmt.Errorf("%s is no text", name)
	}
	if err := checkText(text); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}

// texts returns a member that is one text, or a list of them.
func (m members) texts(name string) ([]string, error) {
	raw, ok := m[name]
	if !ok {
		return nil, nil
	}
	if text, ok := unquote(raw); ok {
		return []string{text}, nil
	}
	list, ok := unquoteList(raw)
	if !ok {
		return nil, fmt.Errorf("%s is neither text nor a list of texts", name)
	}
	return list, nil
}

// seconds returns a member that is a whole number of seconds since 1970, before the year 10000; 0 if it is not there.
func (m members) seconds(name string) (int64, error) {
	raw, ok := m[name]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n <= 0 || n > 253402300799 {
		return 0, fmt.Errorf("%s is no whole number of seconds", name)
	}
	return n, nil
}

// scalar returns what a rule compares with: a text as it is, a whole number in its one decimal form. Nothing else is a scalar: true
// is not "true", and 1e3 is not 1000.
func (m members) scalar(name string) (string, bool) {
	raw, ok := m[name]
	if !ok {
		return "", false
	}
	if text, ok := unquote(raw); ok {
		return text, true
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil && strconv.FormatInt(n, 10) == string(raw) {
		return string(raw), true
	}
	return "", false
}

func unquote(raw jsontext.Value) (string, bool) {
	if raw.Kind() != '"' {
		return "", false
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	return string(text), err == nil
}

func unquoteList(raw jsontext.Value) ([]string, bool) {
	if raw.Kind() != '[' {
		return nil, false
	}
	var items []jsontext.Value
	if json.Unmarshal(raw, &items) != nil {
		return nil, false
	}
	list := make([]string, len(items))
	for i, item := range items {
		var ok bool
		if list[i], ok = unquote(item); !ok {
			return nil, false
		}
	}
	return list, true
}

// expose returns the named claims as a policy sees them: texts, booleans, whole numbers, and lists of texts, in the types that
// they would come back in from a store that keeps JSON. Claims of other shapes are left out; one that cannot be shown on a line is
// an error, for a policy that denies by it must not miss it.
func (m members) expose(names []string) (map[string]any, error) {
	shown := make(map[string]any)
	for _, name := range names {
		raw, ok := m[name]
		if !ok {
			continue
		}
		v, texts := exposed(raw)
		if len(texts) > maxList {
			return nil, fmt.Errorf("%s lists more than %d", name, maxList)
		}
		for _, text := range texts {
			if err := checkText(text); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		if v != nil {
			shown[name] = v
		}
	}
	return shown, nil
}

// exposed returns the value, nil if it is of no shape that is shown, and the texts in it.
func exposed(raw jsontext.Value) (v any, texts []string) {
	switch raw.Kind() {
	case 't', 'f':
		return raw.Kind() == 't', nil
	case '"':
		text, _ := unquote(raw)
		return text, []string{text}
	case '0':
		// Up to 2^53 a float64 holds every whole number.
		if n, err := strconv.ParseInt(string(raw), 10, 54); err == nil {
			return float64(n), nil
		}
	case '[':
		if list, ok := unquoteList(raw); ok {
			values := make([]any, len(list))
			for i, text := range list {
				values[i] = text
			}
			return values, list
		}
	}
	return nil, nil
}
