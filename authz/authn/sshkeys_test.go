package authn_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
)

// stale is a Source whose file has been broken for too long.
type stale[T any] struct{ last T }

func (s stale[T]) Current() (T, error) { return s.last, errors.New("not usable for 300 s") }

// sshKeys knows alice's key at the forge.
func sshKeys(t testing.TB, change func(*authn.SSHKeysConfig)) (*authn.SSHKeys, *folk) {
	t.Helper()
	who := &folk{keys: map[string]authn.Principal{ssh.FingerprintSHA256(publicKey(t, "ed25519")): user("42", "alice")}}
	cfg := authn.SSHKeysConfig{Directory: who, Now: func() time.Time { return start }}
	if change != nil {
		change(&cfg)
	}
	return mustSSH(t, cfg), who
}

func TestSSHKeyOfAUser(t *testing.T) {
	s, who := sshKeys(t, nil)
	key := publicKey(t, "ed25519")
	p, err := s.Authenticate(t.Context(), shown(key))
	if err != nil || p.Key() != testForge+"/42" || p.Credential != ssh.FingerprintSHA256(key) || !p.Expires.IsZero() {
		t.Errorf("alice: %+v, %v", p, err)
	}
	if p, err := s.Authenticate(t.Context(), shown(publicKey(t, "ed25519 mallory"))); reasonOf(err) != authn.UnknownKey || p.ID != "" {
		t.Errorf("mallory: %+v, %v", p, err)
	}
	who.err = errForgeDown
	if p, err := s.Authenticate(t.Context(), shown(key)); !errors.Is(err, errForgeDown) || errors.Is(err, authn.ErrRefused) || p.ID != "" {
		t.Errorf("while the forge is down: %+v, %v; want the fault", p, err)
	}
	who.err = fmt.Errorf("%w: at two forges", authn.ErrAmbiguous)
	if p, err := s.Authenticate(t.Context(), shown(key)); reasonOf(err) != authn.KeyRefused || p.ID != "" {
		t.Errorf("with two owners: %+v, %v", p, err)
	}
	if _, err := s.Authenticate(t.Context(), authn.Credential{Token: authn.NewSecret("x")}); !errors.Is(err, authn.ErrNotMine) {
		t.Errorf("a token: %v, want ErrNotMine", err)
	}
}

func TestSSHKeyKinds(t *testing.T) {
	who := &folk{keys: make(map[string]authn.Principal)}
	s := mustSSH(t, authn.SSHKeysConfig{Directory: who})
	check := func(key ssh.PublicKey, want authn.Reason) {
		t.Helper()
		who.keys[ssh.FingerprintSHA256(key)] = user("42", "alice")
		p, err := s.Authenticate(t.Context(), shown(key))
		if reasonOf(err) != want || (err == nil) != (p.ID == "42") {
			t.Errorf("%s: %+v, %v; want %q", key.Type(), p, err, want)
		}
	}
	for _, name := range []string{"ed25519", "p256", "p384", "p521", "rsa"} {
		check(publicKey(t, name), "")
	}
	check(securityKey(t, ssh.KeyAlgoSKED25519), "")
	check(securityKey(t, ssh.KeyAlgoSKECDSA256), "")
	check(publicKey(t, "rsa1024"), authn.KeyRefused)
	check(parsePublic(t, dsaKey), authn.KeyRefused)
	check(oddKey{}, authn.KeyRefused)
	check(falseRSA{}, authn.KeyRefused)
}

// oddKey is of a kind nobody knows.
type oddKey struct{ ssh.PublicKey }

func (oddKey) Type() string    { return "ssh-rot13" }
func (oddKey) Marshal() []byte { return []byte("odd") }

// falseRSA says that it is RSA, and lets nobody look.
type falseRSA struct{ ssh.PublicKey }

func (falseRSA) Type() string    { return ssh.KeyAlgoRSA }
func (falseRSA) Marshal() []byte { return []byte("false") }

// TestBadSSHCredentials: a credential that no door makes is refused, not believed.
func TestBadSSHCredentials(t *testing.T) {
	s, _ := sshKeys(t, nil)
	key := publicKey(t, "ed25519")
	exchanged := authn.NewSSHKey(publicKey(t, "ed25519 mallory"), here)
	exchanged.Public, exchanged.Fingerprint = key, ssh.FingerprintSHA256(key)
	for name, k := range map[string]*authn.SSHKey{
		"another key's proof": exchanged,
		"no key":              {},
		"no proof":            {Public: key, Fingerprint: ssh.FingerprintSHA256(key), Remote: here},
		"a certificate":       {Public: certificate(t, nil), Fingerprint: ssh.FingerprintSHA256(key), Remote: here},
		"an empty one":        {Public: new(ssh.Certificate)},
		"an unsigned one":     authn.NewSSHKey(&ssh.Certificate{Key: key, SignatureKey: key, CertType: ssh.UserCert}, here),
	} {
		p, err := s.Authenticate(t.Context(), authn.Credential{Key: k})
		if !errors.Is(err, authn.ErrRefused) || p.ID != "" {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

// TestKeyOfTwo: a key that stands for two is neither's.
func TestKeyOfTwo(t *testing.T) {
	key := keyLine(t, "ed25519")
	aliceBot := user("42", "alice")
	aliceBot.Roles = []string{"writer:main"}
	for name, c := range map[string]struct {
		lists []authn.AuthorizedKeys
		want  string // the principal's Key, or the reason
	}{
		"in no list":                      {nil, testForge + "/42"},
		"in a list for another":           {[]authn.AuthorizedKeys{listOf(t, ciBot, key)}, "key_refused"},
		"in a list for its owner":         {[]authn.AuthorizedKeys{listOf(t, aliceBot, key)}, testForge + "/42"},
		"restricted, for its owner":       {[]authn.AuthorizedKeys{listOf(t, aliceBot, `from="10.0.0.0/8" `+key)}, "key_refused"},
		"in two lists, one restricts":     {[]authn.AuthorizedKeys{listOf(t, aliceBot, key), listOf(t, aliceBot, `from="10.0.0.0/8" `+key)}, "key_refused"},
		"in a list among others":          {[]authn.AuthorizedKeys{listOf(t, ciBot, keyLine(t, "p256")), listOf(t, aliceBot, key)}, testForge + "/42"},
		"in a list that is too old":       {[]authn.AuthorizedKeys{tooOld(t, aliceBot, key)}, "fault"},
		"beside a list that is too old":   {[]authn.AuthorizedKeys{tooOld(t, ciBot, keyLine(t, "p256"))}, testForge + "/42"},
		"beside a list that never was":    {[]authn.AuthorizedKeys{{Keys: stale[*authn.AuthorizedKeyList]{}, Principal: ciBot}}, "fault"},
		"beside a list of nothing at all": {[]authn.AuthorizedKeys{{Keys: authn.Fixed[*authn.AuthorizedKeyList]{}, Principal: ciBot}}, "fault"},
	} {
		s, _ := sshKeys(t, func(cfg *authn.SSHKeysConfig) { cfg.AuthorizedKeys = c.lists })
		p, err := s.Authenticate(t.Context(), shown(publicKey(t, "ed25519")))
		got := string(reasonOf(err))
		if err == nil {
			got = p.Key()
		}
		if got != c.want {
			t.Errorf("%s: %+v, %v; want %s", name, p, err, c.want)
		}
	}
	s, who := sshKeys(t, func(cfg *authn.SSHKeysConfig) {
		cfg.AuthorizedKeys = []authn.AuthorizedKeys{listOf(t, ciBot, keyLine(t, "p256")), listOf(t, user("43", "bob"), keyLine(t, "p256"))}
	})
	if p, err := s.Authenticate(t.Context(), shown(publicKey(t, "p256"))); reasonOf(err) != authn.KeyRefused {
		t.Errorf("in two lists for two: %+v, %v", p, err)
	}
	// Whether somebody else owns it cannot be told.
	who.err = errForgeDown
	s, _ = sshKeys(t, func(cfg *authn.SSHKeysConfig) {
		cfg.Directory, cfg.AuthorizedKeys = who, []authn.AuthorizedKeys{listOf(t, ciBot, keyLine(t, "p256"))}
	})
	if p, err := s.Authenticate(t.Context(), shown(publicKey(t, "p256"))); reasonOf(err) != "fault" {
		t.Errorf("in a list while the forge is down: %+v, %v", p, err)
	}
}

func tooOld(t testing.TB, p authn.Principal, text string) authn.AuthorizedKeys {
	t.Helper()
	return authn.AuthorizedKeys{Keys: stale[*authn.AuthorizedKeyList]{authorized(t, text)}, Principal: p}
}

func TestAuthorizedKeyPrincipal(t *testing.T) {
	until := start.Add(time.Hour)
	bot := ciBot
	bot.Expires = start.Add(time.Minute)
	for name, c := range map[string]struct {
		p       authn.Principal
		options string
		expires time.Time
	}{
		"without an end":          {ciBot, "", time.Time{}},
		"with the line's":         {ciBot, `expiry-time="20260301130000Z" `, until},
		"with the principal's":    {bot, "", bot.Expires},
		"with the earlier of two": {bot, `expiry-time="20260301130000Z" `, bot.Expires},
	} {
		s := mustSSH(t, authn.SSHKeysConfig{
			AuthorizedKeys: []authn.AuthorizedKeys{listOf(t, c.p, c.options+keyLine(t, "ed25519"))}, Now: func() time.Time { return start },
		})
		p, err := s.Authenticate(t.Context(), shown(publicKey(t, "ed25519")))
		if err != nil || p.Key() != ciBot.Key() || len(p.Roles) != 1 || !p.Expires.Equal(c.expires) || p.Credential == "" {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	bot.Expires = start
	s := mustSSH(t, authn.SSHKeysConfig{
		AuthorizedKeys: []authn.AuthorizedKeys{listOf(t, bot, keyLine(t, "ed25519"))}, Now: func() time.Time { return start },
	})
	if p, err := s.Authenticate(t.Context(), shown(publicKey(t, "ed25519"))); reasonOf(err) != authn.KeyRefused {
		t.Errorf("for a principal that expired: %+v, %v", p, err)
	}
}

// creator is a forge that forgets the rule about deploy keys: it names who added one.
type creator struct{ folk }

// TestDeployKeyMappedToItsCreator shows why a Directory must not name the creator of a deploy key, and that a list of
// authorized keys, where the key is meant to be somebody else's, at least notices.
func TestDeployKeyMappedToItsCreator(t *testing.T) {
	deployKey := publicKey(t, "ed25519 deploy")
	forgetful := &creator{folk{keys: map[string]authn.Principal{ssh.FingerprintSHA256(deployKey): user("42", "alice")}}}
	lists := []authn.AuthorizedKeys{listOf(t, ciBot, keyLine(t, "ed25519 deploy"))}
	s := mustSSH(t, authn.SSHKeysConfig{Directory: forgetful, AuthorizedKeys: lists})
	if p, err := s.Authenticate(t.Context(), shown(deployKey)); reasonOf(err) != authn.KeyRefused {
		t.Errorf("a forgetful forge: %+v, %v", p, err)
	}
	// A forge that keeps the rule knows nobody: alone it lets nobody in, and the list is free to.
	s = mustSSH(t, authn.SSHKeysConfig{Directory: new(folk)})
	if p, err := s.Authenticate(t.Context(), shown(deployKey)); reasonOf(err) != authn.UnknownKey {
		t.Errorf("a good forge: %+v, %v", p, err)
	}
	s = mustSSH(t, authn.SSHKeysConfig{Directory: new(folk), AuthorizedKeys: lists})
	if p, err := s.Authenticate(t.Context(), shown(deployKey)); err != nil || p.Key() != ciBot.Key() {
		t.Errorf("a good forge and a list: %+v, %v", p, err)
	}
}

// TestCertifiedKeyIsNotThePlainOne: a certificate comes in by its authority or not at all, whoever owns its key.
func TestCertifiedKeyIsNotThePlainOne(t *testing.T) {
	s, _ := sshKeys(t, func(cfg *authn.SSHKeysConfig) {
		cfg.AuthorizedKeys = []authn.AuthorizedKeys{listOf(t, user("42", "alice"), keyLine(t, "ed25519"))}
	})
	if p, err := s.Authenticate(t.Context(), shown(certificate(t, nil))); reasonOf(err) != authn.UnknownKey {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestSSHKeysConfig(t *testing.T) {
	other := ciBot
	other.Roles = nil
	for name, c := range map[string]struct {
		cfg  authn.SSHKeysConfig
		want string
	}{
		"no list":            {authn.SSHKeysConfig{AuthorizedKeys: []authn.AuthorizedKeys{{Principal: ciBot}}}, "list 1 of authorized keys is missing"},
		"for nobody":         {authn.SSHKeysConfig{AuthorizedKeys: []authn.AuthorizedKeys{listOf(t, authn.Principal{}, "")}}, "list 1"},
		"for anonymous":      {authn.SSHKeysConfig{AuthorizedKeys: []authn.AuthorizedKeys{listOf(t, authn.Principal{Kind: authn.Anonymous}, "")}}, "anonymous"},
		"two pictures":       {authn.SSHKeysConfig{AuthorizedKeys: []authn.AuthorizedKeys{listOf(t, ciBot, ""), listOf(t, other, "")}}, "list 2"},
		"no revocation list": {authn.SSHKeysConfig{Revoked: []authn.Source[*authn.RevocationList]{nil}}, "revocation list is missing"},
	} {
		if _, err := authn.NewSSHKeys(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	s := mustSSH(t, authn.SSHKeysConfig{})
	if p, err := s.Authenticate(t.Context(), shown(publicKey(t, "ed25519"))); reasonOf(err) != authn.UnknownKey {
		t.Errorf("with nothing configured: %+v, %v", p, err)
	}
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	s, who := sshKeys(t, func(cfg *authn.SSHKeysConfig) { cfg.Authorities = []authn.SSHAuthority{authority(t)} })
	who.names = directory().names
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			cert := certificate(t, func(c *ssh.Certificate) { c.Serial = uint64(i%3) + 1 })
			for range 50 {
				for _, key := range []ssh.PublicKey{cert, publicKey(t, "ed25519")} {
					if p, err := s.Authenticate(context.Background(), shown(key)); err != nil || p.ID != "42" {
						t.Errorf("%+v, %v", p, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkSSHKeys is what each operation of a connection costs.
func BenchmarkSSHKeys(b *testing.B) {
	for name, key := range map[string]ssh.PublicKey{"key": publicKey(b, "ed25519"), "certificate": certificate(b, nil)} {
		b.Run(name, func(b *testing.B) {
			s, who := sshKeys(b, func(cfg *authn.SSHKeysConfig) { cfg.Authorities = []authn.SSHAuthority{authority(b)} })
			who.names = directory().names
			credential := shown(key)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Authenticate(b.Context(), credential); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
