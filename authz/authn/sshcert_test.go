package authn_test

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
)

const testForge = "git.example.com"

// certificate makes a good certificate for alice by "ed25519 ca", valid an hour around start, lets change spoil it, and signs
// it unless change did.
func certificate(t testing.TB, change func(*ssh.Certificate)) *ssh.Certificate {
	t.Helper()
	cert := &ssh.Certificate{
		Key: publicKey(t, "ed25519"), Serial: 5, CertType: ssh.UserCert, KeyId: "alice@laptop", ValidPrincipals: []string{"alice"},
		ValidAfter: uint64(start.Add(-time.Hour).Unix()), ValidBefore: uint64(start.Add(time.Hour).Unix()),
	}
	if change != nil {
		change(cert)
	}
	if cert.Signature == nil {
		certify(t, cert, newKey(t, "ed25519 ca"))
	}
	return cert
}

func certify(t testing.TB, cert *ssh.Certificate, ca ssh.Signer) {
	t.Helper()
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
}

func marshalLine(t testing.TB, key ssh.PublicKey) []byte {
	t.Helper()
	return ssh.MarshalAuthorizedKey(key)
}

func keySet(t testing.TB, names ...string) authn.Fixed[*authn.SSHKeySet] {
	t.Helper()
	var keys []ssh.PublicKey
	for _, name := range names {
		keys = append(keys, publicKey(t, name))
	}
	set, err := authn.NewSSHKeySet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return authn.Fixed[*authn.SSHKeySet]{Value: set}
}

// authority believes certificates of up to a day by an ed25519 and an RSA key, whose principals are users of testForge.
func authority(t testing.TB, rules ...authn.PrincipalRule) authn.SSHAuthority {
	t.Helper()
	return authn.SSHAuthority{
		Name: "corp", Keys: keySet(t, "ed25519 ca", "rsa ca"), Forge: testForge, MaxLifetime: 24 * time.Hour, Rules: rules,
	}
}

func directory() *folk {
	return &folk{names: map[string]authn.Principal{
		testForge + "/alice": user("42", "alice"), testForge + "/bob": user("43", "bob"), "other/carol": user("44", "carol"),
	}}
}

// certs returns what believes in authority, with a clock.
func certs(t testing.TB, rules ...authn.PrincipalRule) (*authn.SSHKeys, *clock) {
	t.Helper()
	clock := &clock{start}
	return mustSSH(t, authn.SSHKeysConfig{
		Directory: directory(), Authorities: []authn.SSHAuthority{authority(t, rules...)}, Now: clock.now,
	}), clock
}

func TestSSHCertificate(t *testing.T) {
	s, clock := certs(t)
	cert := certificate(t, nil)
	p, err := s.Authenticate(t.Context(), shown(cert))
	if err != nil || p.Key() != testForge+"/42" || p.Name != "alice" || !p.Expires.Equal(start.Add(time.Hour)) {
		t.Fatalf("%+v, %v", p, err)
	}
	want := "ssh-cert:ca=" + ssh.FingerprintSHA256(publicKey(t, "ed25519 ca")) + ",serial=5,key=" + ssh.FingerprintSHA256(cert.Key) + ",id=alice@laptop"
	if p.Credential != want {
		t.Errorf("the credential is %q, want %q", p.Credential, want)
	}
	clock.at = start.Add(time.Hour - time.Second)
	if _, err := s.Authenticate(t.Context(), shown(cert)); err != nil {
		t.Errorf("in its last second: %v", err)
	}
	clock.at = start.Add(time.Hour)
	if _, err := s.Authenticate(t.Context(), shown(cert)); reasonOf(err) != authn.KeyRefused {
		t.Errorf("after its end, on a connection that it opened: %v", err)
	}
}

func TestSSHCertificateKinds(t *testing.T) {
	s, _ := certs(t)
	keys := []ssh.PublicKey{securityKey(t, ssh.KeyAlgoSKED25519), securityKey(t, ssh.KeyAlgoSKECDSA256)}
	for _, name := range []string{"ed25519", "p256", "p384", "p521", "rsa"} {
		keys = append(keys, publicKey(t, name))
	}
	for _, key := range keys {
		for _, ca := range []string{"ed25519 ca", "rsa ca"} {
			cert := certificate(t, func(c *ssh.Certificate) {
				c.Key = key
				certify(t, c, newKey(t, ca))
			})
			// As it comes over the wire.
			parsed, err := ssh.ParsePublicKey(cert.Marshal())
			if err != nil {
				t.Fatal(err)
			}
			if p, err := s.Authenticate(t.Context(), shown(parsed)); err != nil || p.ID != "42" {
				t.Errorf("%s by %s: %+v, %v", key.Type(), ca, p, err)
			}
		}
	}
}

// TestHostileCertificates: certificates that something is wrong with, most of them by the right authority. Some cannot come over
// the wire, since the library refuses them first; whether it does must not matter.
func TestHostileCertificates(t *testing.T) {
	options := func(o map[string]string) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) { c.CriticalOptions = o }
	}
	principals := func(names ...string) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) { c.ValidPrincipals = names }
	}
	valid := func(after, before uint64) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = after, before }
	}
	at := uint64(start.Unix())
	signed := func(ca string, change func(*ssh.Certificate)) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) {
			certify(t, c, newKey(t, ca))
			if change != nil {
				change(c)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*ssh.Certificate)
		reason authn.Reason
		want   string
	}{
		"without principals":             {principals(), authn.KeyRefused, "0 principals"},
		"with too many principals":       {principals(slices.Repeat([]string{"alice"}, 65)...), authn.KeyRefused, "65 principals"},
		"with an empty principal":        {principals("alice", ""), authn.KeyRefused, "empty principal"},
		"with an unprintable principal":  {principals("alice", "bo\nb"), authn.KeyRefused, "unprintable"},
		"with a principal not of UTF-8":  {principals("\xff"), authn.KeyRefused, "UTF-8"},
		"with a long principal":          {principals(strings.Repeat("a", 256)), authn.KeyRefused, "255"},
		"for nobody":                     {principals("mallory"), authn.KeyRefused, "nobody's"},
		"for a user of another forge":    {principals("carol"), authn.KeyRefused, "nobody's"},
		"for two users":                  {principals("alice", "bob"), authn.KeyRefused, "are those of"},
		"for a name in another case":     {principals("Alice"), authn.KeyRefused, "nobody's"},
		"for a wildcard":                 {principals("*"), authn.KeyRefused, "nobody's"},
		"for alice by its key id alone":  {principals("root"), authn.KeyRefused, "nobody's"},
		"not yet valid":                  {valid(at+1, at+3600), authn.KeyRefused, "not valid before"},
		"expired":                        {valid(at-3600, at), authn.KeyRefused, "expired"},
		"valid for ever":                 {valid(at-1, ssh.CertTimeInfinity), authn.KeyRefused, "never ends"},
		"valid always":                   {valid(0, ssh.CertTimeInfinity), authn.KeyRefused, "never ends"},
		"valid to the end of int64":      {valid(at-1, 1<<63-1), authn.KeyRefused, "spans"},
		"valid beyond int64":             {valid(at-1, 1<<63), authn.KeyRefused, "never ends"},
		"valid at the end of int64":      {valid(1<<63-3600, 1<<63-1), authn.KeyRefused, "not valid before"},
		"valid backwards":                {valid(at+3600, at-3600), authn.KeyRefused, "before it begins"},
		"valid for no time":              {valid(at, at), authn.KeyRefused, "before it begins"},
		"valid for a day and a second":   {valid(at-1, at+24*3600), authn.KeyRefused, "spans"},
		"valid since always":             {valid(0, at+3600), authn.KeyRefused, "spans"},
		"of a host":                      {func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, authn.KeyRefused, "type 2"},
		"of no type":                     {func(c *ssh.Certificate) { c.CertType = 0 }, authn.KeyRefused, "type 0"},
		"of an unknown type":             {func(c *ssh.Certificate) { c.CertType = 3 }, authn.KeyRefused, "type 3"},
		"with a forced command":          {options(map[string]string{"force-command": "/bin/true"}), authn.KeyRefused, `"force-command"`},
		"with an empty forced command":   {options(map[string]string{"force-command": ""}), authn.KeyRefused, `"force-command"`},
		"with verify-required":           {options(map[string]string{"verify-required": ""}), authn.KeyRefused, `"verify-required"`},
		"with an unknown option":         {options(map[string]string{"x@example.com": "y"}), authn.KeyRefused, `"x@example.com"`},
		"with a good and a bad option":   {options(map[string]string{"source-address": "192.0.2.7", "z": ""}), authn.KeyRefused, `"z"`},
		"for another address":            {options(map[string]string{"source-address": "192.0.2.8"}), authn.KeyRefused, "from 192.0.2.7"},
		"for another network":            {options(map[string]string{"source-address": "10.0.0.0/8,2001:db8::/32"}), authn.KeyRefused, "from 192.0.2.7"},
		"for an empty address":           {options(map[string]string{"source-address": ""}), authn.KeyRefused, "is neither"},
		"for an address and a half":      {options(map[string]string{"source-address": "192.0.2.7,192.0.2"}), authn.KeyRefused, "is neither"},
		"for an excepted address":        {options(map[string]string{"source-address": "0.0.0.0/0,!10.0.0.0/8"}), authn.KeyRefused, "excepted"},
		"for a host name":                {options(map[string]string{"source-address": "ci.example.com"}), authn.KeyRefused, "is neither"},
		"for anywhere":                   {options(map[string]string{"source-address": "*"}), authn.KeyRefused, "is neither"},
		"for a bent network":             {options(map[string]string{"source-address": "192.0.2.7/8"}), authn.KeyRefused, "first address"},
		"Source-Address":                 {options(map[string]string{"Source-Address": "192.0.2.7"}), authn.KeyRefused, `"Source-Address"`},
		"by another authority":           {signed("ed25519 mallory", nil), authn.UnknownKey, "no configured authority"},
		"by its own key":                 {signed("ed25519", nil), authn.UnknownKey, "no configured authority"},
		"by a DSA authority":             {claims(t, dsaKey), authn.KeyRefused, "authority's key"},
		"by a short RSA authority":       {signed("rsa1024 ca", nil), authn.KeyRefused, "authority's key"},
		"by another's signature":         {signed("ed25519 mallory", func(c *ssh.Certificate) { c.SignatureKey = publicKey(t, "ed25519 ca") }), authn.KeyRefused, "does not verify"},
		"changed: principal":             {signed("ed25519 ca", principals("bob")), authn.KeyRefused, "does not verify"},
		"changed: end":                   {signed("ed25519 ca", valid(at-3600, at+7200)), authn.KeyRefused, "does not verify"},
		"changed: key":                   {signed("ed25519 ca", func(c *ssh.Certificate) { c.Key = publicKey(t, "ed25519 mallory") }), authn.KeyRefused, "does not verify"},
		"changed: options":               {signed("ed25519 ca", options(map[string]string{"source-address": "192.0.2.7"})), authn.KeyRefused, "does not verify"},
		"changed: serial":                {signed("ed25519 ca", func(c *ssh.Certificate) { c.Serial++ }), authn.KeyRefused, "does not verify"},
		"signed with SHA-1":              {sha1Signed(t), authn.KeyRefused, `"ssh-rsa"`},
		"signed by an unknown algorithm": {signed("ed25519 ca", func(c *ssh.Certificate) { c.Signature.Format = "rot13" }), authn.KeyRefused, `"rot13"`},
		"not signed":                     {signed("ed25519 ca", func(c *ssh.Certificate) { c.Signature.Blob = nil }), authn.KeyRefused, "does not verify"},
		"for a short RSA key":            {func(c *ssh.Certificate) { c.Key = publicKey(t, "rsa1024") }, authn.KeyRefused, "certified key"},
		"for a DSA key":                  {func(c *ssh.Certificate) { c.Key = parsePublic(t, dsaKey) }, authn.KeyRefused, "certified key"},
		"for a certificate":              {signed("ed25519 ca", func(c *ssh.Certificate) { c.Key = certificate(t, nil) }), authn.BadCredential, "no key that"},
		"by an authority's certificate":  {signed("ed25519 ca", func(c *ssh.Certificate) { c.SignatureKey = authorityCert(t) }), authn.KeyRefused, "itself a certificate"},
	} {
		s, _ := certs(t)
		cert := certificate(t, c.change)
		for range 2 { // a refusal is not remembered as anything else
			p, err := s.Authenticate(t.Context(), shown(cert))
			if reasonOf(err) != c.reason || !strings.Contains(fmt.Sprint(err), c.want) || p.ID != "" {
				t.Errorf("a certificate %s: %+v, %v; want %s and %q", name, p, err, c.reason, c.want)
			}
		}
	}
}

// claims names an authority's key that cannot sign any more.
func claims(t *testing.T, key string) func(*ssh.Certificate) {
	return func(c *ssh.Certificate) {
		certify(t, c, newKey(t, "ed25519 ca"))
		c.SignatureKey = parsePublic(t, key)
	}
}

// sha1Signed signs with the authority's RSA key as OpenSSH did before version 8.2.
func sha1Signed(t *testing.T) func(*ssh.Certificate) {
	ca, err := ssh.NewSignerWithAlgorithms(newKey(t, "rsa ca").(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSA})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *ssh.Certificate) { certify(t, c, ca) }
}

// authorityCert is a certificate for a key that may certify others, so it seems.
func authorityCert(t *testing.T) *ssh.Certificate {
	return certificate(t, func(c *ssh.Certificate) { c.Key = publicKey(t, "ed25519 ca") })
}

// TestAuthorityThatIsACertificate: the library refuses such a certificate when it comes over the wire.
func TestAuthorityThatIsACertificate(t *testing.T) {
	cert := certificate(t, func(c *ssh.Certificate) {
		certify(t, c, newKey(t, "ed25519 ca"))
		c.SignatureKey = authorityCert(t)
	})
	if _, err := ssh.ParsePublicKey(cert.Marshal()); err == nil {
		t.Error("the library takes a certificate by a certificate: a chain of them would be followed")
	}
}

func TestSourceAddress(t *testing.T) {
	s, _ := certs(t)
	cert := certificate(t, func(c *ssh.Certificate) {
		c.CriticalOptions = map[string]string{"source-address": "192.0.2.0/24,2001:db8::1"}
	})
	for remote, want := range map[string]authn.Reason{
		"192.0.2.7": "", "::ffff:192.0.2.7": "", "2001:db8::1": "", "2001:db8::2": authn.KeyRefused, "198.51.100.1": authn.KeyRefused, "": authn.KeyRefused,
	} {
		address, _ := netip.ParseAddr(remote)
		_, err := s.Authenticate(t.Context(), authn.Credential{Key: authn.NewSSHKey(cert, address)})
		if reasonOf(err) != want {
			t.Errorf("from %q: %v, want %q", remote, err, want)
		}
	}
}

func TestPrincipalRules(t *testing.T) {
	deploy := authn.Principal{ID: "deployer", Name: "deployer", Kind: authn.Service, Roles: []string{"writer:main"}}
	rules := []authn.PrincipalRule{
		{Principal: "ci-main", As: ciBot},
		{KeyID: "deploy 1", As: deploy},
		{Principal: "both", KeyID: "both", As: deploy},
		{Principal: "again", As: ciBot},
	}
	for name, c := range map[string]struct {
		keyID      string
		principals []string
		want       string // the principal's Key, or the reason
	}{
		"by principal":                          {"x", []string{"ci-main"}, ciBot.Key()},
		"by key id":                             {"deploy 1", []string{"x"}, deploy.Key()},
		"by a key id that differs":              {"deploy 10", []string{"x"}, "key_refused"},
		"by both":                               {"both", []string{"both"}, deploy.Key()},
		"by one of both":                        {"x", []string{"both"}, "key_refused"},
		"by the other of both":                  {"both", []string{"x"}, "key_refused"},
		"by two rules that agree":               {"x", []string{"ci-main", "again"}, ciBot.Key()},
		"by two rules that do not":              {"deploy 1", []string{"ci-main"}, "key_refused"},
		"a rule goes before a user":             {"x", []string{"ci-main", "alice"}, ciBot.Key()},
		"a user's name":                         {"x", []string{"alice"}, testForge + "/42"},
		"a user's name twice":                   {"x", []string{"alice", "alice"}, testForge + "/42"},
		"a user's name among names of nobody":   {"x", []string{"root", "alice", "ubuntu"}, testForge + "/42"},
		"a principal in another case":           {"x", []string{"CI-main"}, "key_refused"},
		"a principal with a space":              {"x", []string{"ci-main "}, "key_refused"},
		"a key id that is a rule's principal":   {"ci-main", []string{"x"}, "key_refused"},
		"a key id that is the name of somebody": {"alice", []string{"x"}, "key_refused"},
	} {
		s, _ := certs(t, rules...)
		p, err := s.Authenticate(t.Context(), shown(certificate(t, func(cert *ssh.Certificate) {
			cert.KeyId, cert.ValidPrincipals = c.keyID, c.principals
		})))
		got := string(reasonOf(err))
		if err == nil {
			got = p.Key()
		}
		if got != c.want {
			t.Errorf("%s: %+v, %v; want %s", name, p, err, c.want)
		}
	}
}

func TestMappingIsAskedEachTime(t *testing.T) {
	who := directory()
	s := mustSSH(t, authn.SSHKeysConfig{Directory: who, Authorities: []authn.SSHAuthority{authority(t)}, Now: func() time.Time { return start }})
	cert := certificate(t, nil)
	for _, step := range []struct {
		name   string
		change func()
		want   authn.Reason
	}{
		{"a good name", func() {}, ""},
		{"the forge is down", func() { who.err = errForgeDown }, "fault"},
		{"the name is gone", func() { who.err = nil; delete(who.names, testForge+"/alice") }, authn.KeyRefused},
		{"the name is another's", func() { who.names[testForge+"/alice"] = user("99", "alice") }, ""},
	} {
		step.change()
		p, err := s.Authenticate(t.Context(), shown(cert))
		if reasonOf(err) != step.want {
			t.Errorf("%s: %+v, %v; want %q", step.name, p, err, step.want)
		}
		if step.name == "the name is another's" && p.ID != "99" {
			t.Errorf("%s: %+v", step.name, p)
		}
	}
}

// TestCertificateNameIsPlain: whatever the key id holds, an audit trail can show the name.
func TestCertificateNameIsPlain(t *testing.T) {
	s, _ := certs(t)
	seen := make(map[string]bool)
	for _, id := range []string{"", "alice", "a,id=b", "a\x00\n\x1b[2J", "\u202eevil", "\xff\xfe", strings.Repeat("é", 500), strings.Repeat("x", 70000)} {
		p, err := s.Authenticate(t.Context(), shown(certificate(t, func(c *ssh.Certificate) { c.KeyId, c.Serial = id, 1<<64-1 })))
		if err != nil {
			t.Errorf("key id %.40q: %v", id, err)
			continue
		}
		strange := func(r rune) bool { return r <= ' ' || r > '~' }
		if len(p.Credential) > 255 || strings.ContainsFunc(p.Credential, strange) || strings.Count(p.Credential, ",") != 3 {
			t.Errorf("key id %.40q: the name is %q", id, p.Credential)
		}
		seen[p.Credential] = true
	}
	if len(seen) < 6 {
		t.Errorf("only %d names: %q", len(seen), slices.Collect(maps.Keys(seen)))
	}
}

func TestAuthorityConfig(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*authn.SSHAuthority)
		want   string
	}{
		"no keys":             {func(a *authn.SSHAuthority) { a.Keys = nil }, "has no keys"},
		"no lifetime":         {func(a *authn.SSHAuthority) { a.MaxLifetime = 0 }, "longest lifetime"},
		"a negative lifetime": {func(a *authn.SSHAuthority) { a.MaxLifetime = -1 }, "longest lifetime"},
		"nobody":              {func(a *authn.SSHAuthority) { a.Forge = "" }, "neither a forge nor rules"},
		"a rule for all":      {func(a *authn.SSHAuthority) { a.Rules = []authn.PrincipalRule{{As: ciBot}} }, "rule 1 has neither"},
		"a rule for nobody":   {func(a *authn.SSHAuthority) { a.Rules = []authn.PrincipalRule{{Principal: "x"}} }, "rule 1: principal kind"},
		"a rule for anonymous": {func(a *authn.SSHAuthority) {
			a.Rules = []authn.PrincipalRule{{Principal: "x", As: authn.Principal{Kind: authn.Anonymous}}}
		}, "anonymous"},
		"two pictures of one": {func(a *authn.SSHAuthority) {
			other := ciBot
			other.Roles = nil
			a.Rules = []authn.PrincipalRule{{Principal: "x", As: ciBot}, {Principal: "y", As: other}}
		}, "otherwise than another"},
	} {
		a := authority(t)
		c.change(&a)
		_, err := authn.NewSSHKeys(authn.SSHKeysConfig{Directory: directory(), Authorities: []authn.SSHAuthority{a}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `"corp"`) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := authn.NewSSHKeys(authn.SSHKeysConfig{Authorities: []authn.SSHAuthority{authority(t)}}); err == nil {
		t.Error("names are looked up in no directory")
	}
}

// TestTwoAuthoritiesOfOneKey: which of them means it is nobody's guess to make.
func TestTwoAuthoritiesOfOneKey(t *testing.T) {
	a, b := authority(t), authority(t)
	b.Name, b.Keys = "other", keySet(t, "ed25519 ca")
	s := mustSSH(t, authn.SSHKeysConfig{Directory: directory(), Authorities: []authn.SSHAuthority{a, b}, Now: func() time.Time { return start }})
	if p, err := s.Authenticate(t.Context(), shown(certificate(t, nil))); reasonOf(err) != "fault" {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestAuthorityKeysThatAreTooOld: what an authority's file said last does not let anybody in, and does not concern others.
func TestAuthorityKeysThatAreTooOld(t *testing.T) {
	a, b := authority(t), authority(t)
	a.Name, a.Keys = "old", stale[*authn.SSHKeySet]{keySet(t, "rsa ca").Value}
	b.Keys = keySet(t, "ed25519 ca")
	s := mustSSH(t, authn.SSHKeysConfig{Directory: directory(), Authorities: []authn.SSHAuthority{a, b}, Now: func() time.Time { return start }})
	if p, err := s.Authenticate(t.Context(), shown(certificate(t, nil))); err != nil {
		t.Errorf("by the other authority: %+v, %v", p, err)
	}
	old := certificate(t, func(c *ssh.Certificate) { certify(t, c, newKey(t, "rsa ca")) })
	if p, err := s.Authenticate(t.Context(), shown(old)); reasonOf(err) != "fault" {
		t.Errorf("by the authority: %+v, %v", p, err)
	}
}

// TestVerifiedOnce: what is remembered of certificates is bounded, and forgotten when they end.
func TestVerifiedOnce(t *testing.T) {
	s, clock := certs(t)
	s.RememberCerts(3)
	show := func(serial uint64) {
		t.Helper()
		cert := certificate(t, func(c *ssh.Certificate) {
			c.Serial, c.ValidAfter = serial, uint64(clock.at.Unix())
			c.ValidBefore = c.ValidAfter + 3600
		})
		for range 2 {
			if _, err := s.Authenticate(t.Context(), shown(cert)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range uint64(10) {
		show(i)
		if n := s.VerifiedCerts(); n != min(int(i)+1, 3) {
			t.Fatalf("%d are remembered after %d", n, i+1)
		}
	}
	clock.at = clock.at.Add(time.Hour)
	show(11)
	if n := s.VerifiedCerts(); n != 1 {
		t.Errorf("%d are remembered, of which all but one expired", n)
	}
}

// TestInteropCertificates makes keys and certificates with ssh-keygen.
func TestInteropCertificates(t *testing.T) {
	dir := t.TempDir()
	for _, ca := range []string{"ed25519", "rsa", "ecdsa"} {
		mustKeygen(t, dir, "-q", "-t", ca, "-N", "", "-C", "ca@example.com", "-f", "ca-"+ca)
	}
	mustKeygen(t, dir, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "key")
	mustKeygen(t, dir, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "mallory")
	var cas []byte
	for _, ca := range []string{"ed25519", "rsa", "ecdsa"} {
		cas = append(append(cas, readFile(t, dir, "ca-"+ca+".pub")...), '\n')
	}
	writeFile(t, dir, "cas", cas)
	keys, err := authn.LoadFile(authn.FileConfig[*authn.SSHKeySet]{Path: filepath.Join(dir, "cas"), Parse: authn.ParseSSHKeySet})
	if err != nil {
		t.Fatal(err)
	}
	a := authority(t)
	a.Keys = keys
	for name, c := range map[string]struct {
		args []string
		want authn.Reason
	}{
		"ed25519":            {[]string{"-s", "ca-ed25519", "-n", "alice", "-V", "+1h"}, ""},
		"rsa, SHA-2":         {[]string{"-s", "ca-rsa", "-n", "alice", "-V", "+1h"}, ""},
		"rsa, SHA-256":       {[]string{"-s", "ca-rsa", "-t", "rsa-sha2-256", "-n", "alice", "-V", "+1h"}, ""},
		"rsa, SHA-1":         {[]string{"-s", "ca-rsa", "-t", "ssh-rsa", "-n", "alice", "-V", "+1h"}, authn.KeyRefused},
		"ecdsa":              {[]string{"-s", "ca-ecdsa", "-n", "alice", "-V", "+1h", "-z", "77"}, ""},
		"from here":          {[]string{"-s", "ca-ed25519", "-n", "alice", "-V", "+1h", "-O", "source-address=192.0.2.0/24"}, ""},
		"from elsewhere":     {[]string{"-s", "ca-ed25519", "-n", "alice", "-V", "+1h", "-O", "source-address=10.0.0.0/8"}, authn.KeyRefused},
		"with a command":     {[]string{"-s", "ca-ed25519", "-n", "alice", "-V", "+1h", "-O", "force-command=/bin/true"}, authn.KeyRefused},
		"with verification":  {[]string{"-s", "ca-ed25519", "-n", "alice", "-V", "+1h", "-O", "verify-required"}, authn.KeyRefused},
		"with an extension":  {[]string{"-s", "ca-ed25519", "-n", "alice", "-V", "+1h", "-O", "clear", "-O", "extension:x@example.com=y"}, ""},
		"with an own option": {[]string{"-s", "ca-ed25519", "-n", "alice", "-V", "+1h", "-O", "critical:x@example.com=y"}, authn.KeyRefused},
		"without principals": {[]string{"-s", "ca-ed25519", "-V", "+1h"}, authn.KeyRefused},
		"two users":          {[]string{"-s", "ca-ed25519", "-n", "alice,bob", "-V", "+1h"}, authn.KeyRefused},
		"for ever":           {[]string{"-s", "ca-ed25519", "-n", "alice"}, authn.KeyRefused},
		"for a week":         {[]string{"-s", "ca-ed25519", "-n", "alice", "-V", "+1w"}, authn.KeyRefused},
		"expired":            {[]string{"-s", "ca-ed25519", "-n", "alice", "-V", "-2h:-1h"}, authn.KeyRefused},
		"not yet":            {[]string{"-s", "ca-ed25519", "-n", "alice", "-V", "+1h:+2h"}, authn.KeyRefused},
		"of a host":          {[]string{"-s", "ca-ed25519", "-h", "-n", "alice", "-V", "+1h"}, authn.KeyRefused},
		"by somebody else":   {[]string{"-s", "mallory", "-n", "alice", "-V", "+1h"}, authn.UnknownKey},
	} {
		mustKeygen(t, dir, append(append([]string{"-q", "-I", "id of " + name}, c.args...), "key.pub")...)
		cert := parsePublic(t, string(readFile(t, dir, "key-cert.pub")))
		s := mustSSH(t, authn.SSHKeysConfig{Directory: directory(), Authorities: []authn.SSHAuthority{a}})
		p, err := s.Authenticate(t.Context(), shown(cert))
		if reasonOf(err) != c.want || (err == nil) != (p.ID == "42") {
			t.Errorf("%s: %+v, %v; want %q", name, p, err, c.want)
		}
	}
}
