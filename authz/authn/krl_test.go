package authn_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz/authn"
)

func revocations(t testing.TB, data []byte) *authn.RevocationList {
	t.Helper()
	l, err := authn.ParseRevocationList("revoked", data)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// krl writes a key revocation list of the given sections.
func krl(sections ...[]byte) []byte {
	head := append([]byte("SSHKRL\n\x00"), ssh.Marshal(struct {
		Format               uint32
		Version, Date, Flags uint64
		Reserved, Comment    string
	}{Format: 1, Version: 3, Date: 1, Comment: "of the tests"})...)
	for _, s := range sections {
		head = append(head, s...)
	}
	return head
}

// section is "byte type, string contents".
func section(kind byte, contents ...[]byte) []byte {
	var all []byte
	for _, c := range contents {
		all = append(all, c...)
	}
	return ssh.Marshal(struct {
		Kind     byte
		Contents []byte
	}{kind, all})
}

func wireString(s string) []byte { return ssh.Marshal(struct{ S string }{s}) }

func wireNumbers(numbers ...uint64) (b []byte) {
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// certSection is a section of certificates by the authority called ca, "" for any.
func certSection(t testing.TB, ca string, sections ...[]byte) []byte {
	t.Helper()
	authority := ""
	if ca != "" {
		authority = string(publicKey(t, ca).Marshal())
	}
	return section(1, append([][]byte{wireString(authority), wireString("")}, sections...)...)
}

// TestRevoked revokes a certificate and a key in each way there is.
func TestRevoked(t *testing.T) {
	key := publicKey(t, "ed25519")
	sha1Sum, sha256Sum := sums(key.Marshal())
	_, caSum := sums(publicKey(t, "ed25519 ca").Marshal())
	const plain, certified, none = 1, 2, 0 // what is revoked
	for name, c := range map[string]struct {
		list []byte
		want int
	}{
		"an empty list":                {krl(), none},
		"the key":                      {krl(section(2, wireString(string(key.Marshal())))), plain | certified},
		"another key":                  {krl(section(2, wireString(string(publicKey(t, "p256").Marshal())))), none},
		"the key's SHA-1":              {krl(section(3, wireString(sha1Sum))), plain | certified},
		"the key's SHA-256":            {krl(section(5, wireString(sha256Sum))), plain | certified},
		"the authority":                {krl(section(2, wireString(string(publicKey(t, "ed25519 ca").Marshal())))), certified},
		"the authority's SHA-256":      {krl(section(5, wireString(caSum))), certified},
		"the serial":                   {krl(certSection(t, "ed25519 ca", section(0x20, wireNumbers(3, 5, 9)))), certified},
		"other serials":                {krl(certSection(t, "ed25519 ca", section(0x20, wireNumbers(3, 4, 6)))), none},
		"the serial of another":        {krl(certSection(t, "rsa ca", section(0x20, wireNumbers(5)))), none},
		"the serial of any":            {krl(certSection(t, "", section(0x20, wireNumbers(5)))), certified},
		"a range":                      {krl(certSection(t, "ed25519 ca", section(0x21, wireNumbers(1, 5)))), certified},
		"a range from it":              {krl(certSection(t, "ed25519 ca", section(0x21, wireNumbers(5, 1<<64-1)))), certified},
		"ranges that meet":             {krl(certSection(t, "ed25519 ca", section(0x21, wireNumbers(1, 9)), section(0x21, wireNumbers(2, 3)))), certified},
		"a range before":               {krl(certSection(t, "ed25519 ca", section(0x21, wireNumbers(1, 4)))), none},
		"a range after":                {krl(certSection(t, "ed25519 ca", section(0x21, wireNumbers(6, 9)))), none},
		"a bitmap":                     {krl(certSection(t, "ed25519 ca", section(0x22, wireNumbers(3), wireString("\x05")))), certified},
		"a bitmap with a hole":         {krl(certSection(t, "ed25519 ca", section(0x22, wireNumbers(3), wireString("\x00\xfb")))), none},
		"a bitmap of two octets":       {krl(certSection(t, "ed25519 ca", section(0x22, wireNumbers(1<<64-1), wireString("")), section(0x22, wireNumbers(4), wireString("\x01\x02")))), certified},
		"the key id":                   {krl(certSection(t, "ed25519 ca", section(0x23, wireString("bob"), wireString("alice@laptop")))), certified},
		"the key id of another":        {krl(certSection(t, "rsa ca", section(0x23, wireString("alice@laptop")))), none},
		"the key id of any":            {krl(certSection(t, "", section(0x23, wireString("alice@laptop")))), certified},
		"half the key id":              {krl(certSection(t, "", section(0x23, wireString("alice")))), none},
		"the last of several sections": {krl(certSection(t, ""), certSection(t, "ed25519 ca"), certSection(t, "ed25519 ca", section(0x20, wireNumbers(5)))), certified},
		"after what may be ignored": {krl(section(255, wireString("x"), []byte{0}, wireString("y")),
			certSection(t, "ed25519 ca", section(0x39, wireString("x"), []byte{0}, wireString("y")), section(0x20, wireNumbers(5)))), certified},

		"text: nobody":        {[]byte("# nobody yet\n"), none},
		"text: the key":       {[]byte("# lost\n\n " + keyLine(t, "ed25519") + " alice@laptop\r\n"), plain | certified},
		"text: the authority": {[]byte(keyLine(t, "p256") + "\n" + keyLine(t, "ed25519 ca")), certified},
		"text: others":        {[]byte(keyLine(t, "p256") + "\n" + dsaKey + "\n" + rsa1024Key), none},
	} {
		l := revocations(t, c.list)
		s, who := sshKeys(t, func(cfg *authn.SSHKeysConfig) {
			cfg.Authorities = []authn.SSHAuthority{authority(t)}
			cfg.Revoked = []authn.Source[*authn.RevocationList]{authn.Fixed[*authn.RevocationList]{Value: revocations(t, krl())}, authn.Fixed[*authn.RevocationList]{Value: l}}
		})
		who.names = directory().names
		for what, key := range map[int]ssh.PublicKey{plain: key, certified: certificate(t, nil)} {
			want := authn.Reason("")
			if c.want&what != 0 {
				want = authn.RevokedCredential
			}
			p, err := s.Authenticate(t.Context(), shown(key))
			if reasonOf(err) != want || (err == nil) != (p.ID == "42") || (l.Revoked(key) != "") != (want != "") {
				t.Errorf("%s: %s: %+v, %v; want %q", name, key.Type(), p, err, want)
			}
		}
	}
}

// TestRevocationIsAskedEachTime: a certificate that came in once is out as soon as the list says so, and while there is none
// nobody comes in.
func TestRevocationIsAskedEachTime(t *testing.T) {
	list := &changing{value: revocations(t, krl())}
	s, who := sshKeys(t, func(cfg *authn.SSHKeysConfig) {
		cfg.Authorities, cfg.Revoked = []authn.SSHAuthority{authority(t)}, []authn.Source[*authn.RevocationList]{list}
	})
	who.names = directory().names
	cert, key := shown(certificate(t, nil)), shown(publicKey(t, "ed25519"))
	expect := func(wantCert, wantKey authn.Reason) {
		t.Helper()
		if _, err := s.Authenticate(t.Context(), cert); reasonOf(err) != wantCert {
			t.Errorf("the certificate: %v, want %q", err, wantCert)
		}
		if _, err := s.Authenticate(t.Context(), key); reasonOf(err) != wantKey {
			t.Errorf("the key: %v, want %q", err, wantKey)
		}
	}
	expect("", "")
	list.value = revocations(t, krl(certSection(t, "", section(0x20, wireNumbers(5)))))
	expect(authn.RevokedCredential, "")
	list.value, list.err = revocations(t, krl()), errors.New("not usable for 300 s")
	expect("fault", "fault")
	list.value, list.err = nil, nil
	expect("fault", "fault")
	list.value = revocations(t, krl())
	expect("", "")
}

type changing struct {
	value *authn.RevocationList
	err   error
}

func (c *changing) Current() (*authn.RevocationList, error) { return c.value, c.err }

// TestSerialZero: authorities that do not count give every certificate this number, which therefore revokes none.
func TestSerialZero(t *testing.T) {
	cert := certificate(t, func(c *ssh.Certificate) { c.Serial = 0 })
	l := revocations(t, krl(certSection(t, "", section(0x21, wireNumbers(1, 1<<64-1)))))
	if why := l.Revoked(cert); why != "" {
		t.Errorf("serial 0 is revoked: %s", why)
	}
	cert.Serial = 1<<64 - 1
	if l.Revoked(cert) == "" {
		t.Error("the largest serial is not revoked")
	}
}

func TestHostileRevocationLists(t *testing.T) {
	good := krl(certSection(t, "", section(0x20, wireNumbers(5))))
	withFlags := krl()
	withFlags[8+4+8+8+7] = 1
	other := krl()
	other[11] = 2
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":                             {nil, "the file is empty"},
		"a magic number":                      {[]byte("SSHKRL\n\x00"), "version 0"},
		"another format":                      {other, "version 2"},
		"unknown flags":                       {withFlags, "flags 0x1"},
		"half a head":                         {krl()[:30], "too early"},
		"half a section":                      {good[:len(good)-1], "too early"},
		"half a section's head":               {append(krl(), 1, 0, 0), "too early"},
		"a section larger than all":           {append(krl(), 2, 0xff, 0xff, 0xff, 0xff), "too early"},
		"an unknown section":                  {krl(section(6)), "unknown type 6"},
		"section 0":                           {krl(section(0)), "unknown type 0"},
		"a signature":                         {krl(section(4, wireString("x"), wireString("y"))), "it is signed"},
		"a critical extension":                {krl(section(255, wireString("x"), []byte{1}, wireString(""))), "critical extension"},
		"half an extension":                   {krl(section(255, wireString("x"), []byte{0})), "too early"},
		"an extension and more":               {krl(section(255, wireString("x"), []byte{0}, wireString(""), []byte{0})), "something follows"},
		"certificates without authority":      {krl(section(1)), "too early"},
		"certificates without the reserved":   {krl(section(1, wireString(""))), "too early"},
		"an unknown section of certificates":  {krl(certSection(t, "", section(0x24))), "unknown type 0x24"},
		"a critical extension there":          {krl(certSection(t, "", section(0x39, wireString("x"), []byte{1}, wireString("")))), "critical extension"},
		"half a serial":                       {krl(certSection(t, "", section(0x20, wireNumbers(5)[:7]))), "too early"},
		"serial 0":                            {krl(certSection(t, "", section(0x20, wireNumbers(0)))), "from 0 to 0"},
		"a range backwards":                   {krl(certSection(t, "", section(0x21, wireNumbers(5, 4)))), "from 5 to 4"},
		"a range from 0":                      {krl(certSection(t, "", section(0x21, wireNumbers(0, 4)))), "from 0 to 4"},
		"half a range":                        {krl(certSection(t, "", section(0x21, wireNumbers(1)))), "too early"},
		"a range and more":                    {krl(certSection(t, "", section(0x21, wireNumbers(1, 2, 3)))), "something follows"},
		"a bitmap that wraps":                 {krl(certSection(t, "", section(0x22, wireNumbers(1<<64-1), wireString("\x02")))), "beyond the largest"},
		"a bitmap that is negative":           {krl(certSection(t, "", section(0x22, wireNumbers(1), wireString("\x80")))), "negative"},
		"a bitmap of serial 0":                {krl(certSection(t, "", section(0x22, wireNumbers(0), wireString("\x01")))), "from 0 to 0"},
		"a bitmap that is too long":           {krl(certSection(t, "", section(0x22, wireNumbers(1), wireString("\x01"+strings.Repeat("\x00", 2048))))), "more than 2048 bytes"},
		"half a bitmap":                       {krl(certSection(t, "", section(0x22, wireNumbers(1)))), "too early"},
		"a bitmap and more":                   {krl(certSection(t, "", section(0x22, wireNumbers(1), wireString("\x01"), []byte{0}))), "something follows"},
		"half a key id":                       {krl(certSection(t, "", section(0x23, []byte{0, 0, 0, 9}))), "too early"},
		"a SHA-1 of 19 bytes":                 {krl(section(3, wireString(strings.Repeat("x", 19)))), "a SHA-1 has 19 bytes"},
		"a SHA-256 of 20 bytes":               {krl(section(5, wireString(strings.Repeat("x", 20)))), "a SHA-256 has 20 bytes"},
		"a certificate among the keys":        {krl(section(2, wireString(string(certificate(t, nil).Marshal())))), "this is a certificate"},
		"an authority that is a certificate":  {krl(section(1, wireString(string(certificate(t, nil).Marshal())), wireString(""))), "this is a certificate"},
		"too many":                            {krl(certSection(t, "", section(0x20, wireNumbers(make1(1<<20+1)...)))), "more than 1048576 entries"},
		"text: a word":                        {[]byte("key"), "there is no key"},
		"text: a broken magic number":         {[]byte("SSHKRL\n\n"), "there is no key"},
		"text: not base64":                    {[]byte("ssh-ed25519 !"), "not a key in base64"},
		"text: another type":                  {[]byte("ssh-rsa " + strings.Fields(keyLine(t, "ed25519"))[1]), "not of the type"},
		"text: an option":                     {[]byte("restrict " + keyLine(t, "ed25519")), "not a key in base64"},
		"text: a certificate":                 {marshalLine(t, certificate(t, nil)), "this is a certificate"},
		"text: NUL":                           {[]byte(keyLine(t, "ed25519") + "\x00"), "not UTF-8"},
		"text: a serial, as ssh-keygen reads": {[]byte("serial: 5"), "not a key in base64"},
	} {
		_, err := authn.ParseRevocationList("revoked", c.data)
		var fe *authn.FileError
		if !errors.As(err, &fe) || fe.Hint == "" || !strings.Contains(fe.Reason, c.want) {
			t.Errorf("%s: %v; want a FileError with a hint and %q", name, err, c.want)
		}
	}
}

// make1 returns n ones.
func make1(n int) []uint64 {
	ones := make([]uint64, n)
	for i := range ones {
		ones[i] = 1
	}
	return ones
}

// TestRevocationListsAgree asks ssh-keygen and us about the same lists, which ssh-keygen writes.
func TestRevocationListsAgree(t *testing.T) {
	dir := t.TempDir()
	for _, ca := range []string{"ca1", "ca2", "key1", "key2", "key3"} {
		mustKeygen(t, dir, "-q", "-t", "ed25519", "-N", "", "-C", ca, "-f", ca)
	}
	mustKeygen(t, dir, "-q", "-t", "rsa", "-b", "2048", "-N", "", "-C", "", "-f", "key4")
	shownFiles := []string{"key1.pub", "key2.pub", "key3.pub", "key4.pub", "ca1.pub"}
	for i, c := range []struct {
		ca, key, id string
		serial      uint64
	}{
		{"ca1", "key1", "alice", 1},
		{"ca1", "key2", "bob", 2},
		{"ca2", "key1", "alice", 2},
		{"ca2", "key2", "carol", 1000},
		{"ca1", "key3", "dave", 0},
		{"ca1", "key4", "erin", 1<<64 - 1},
		{"ca2", "key4", "", 1 << 40},
	} {
		mustKeygen(t, dir, "-q", "-s", c.ca, "-I", c.id, "-n", "alice", "-z", fmt.Sprint(c.serial), "-V", "+1h", c.key+".pub")
		name := fmt.Sprintf("%d-cert.pub", i)
		writeFile(t, dir, name, readFile(t, dir, c.key+"-cert.pub"))
		shownFiles = append(shownFiles, name)
	}
	fingerprint := strings.Fields(must[string](t)(sshKeygen(t, dir, "-l", "-f", "key2.pub")))[1]
	for name, c := range map[string]struct {
		ca   string // file of the authority whose certificates the specification is about; "" for any
		spec string
	}{
		"nothing":             {"ca1.pub", ""},
		"a serial":            {"ca1.pub", "serial: 2\n"},
		"serials":             {"ca1.pub", "serial: 1\nserial: 2\nserial: 1000\n"},
		"a range":             {"ca2.pub", "serial: 2-1000\n"},
		"a wide range":        {"ca1.pub", "serial: 2-18446744073709551615\n"},
		"many, for a bitmap":  {"ca2.pub", "serial: 1\nserial: 2\nserial: 4\nserial: 5\nserial: 8\nserial: 12\nserial: 997\nserial: 1000\n"},
		"far ones":            {"ca2.pub", "serial: 1099511627776\nserial: 3\n"},
		"of any":              {"none", "serial: 2\n"},
		"ids":                 {"ca1.pub", "id: alice\nid: dave\n"},
		"ids of any":          {"none", "id: alice\n"},
		"keys":                {"none", "key: " + string(readFile(t, dir, "key1.pub")) + "\n"},
		"SHA-1":               {"none", "sha1: " + string(readFile(t, dir, "key4.pub")) + "\n"},
		"SHA-256":             {"none", "sha256: " + string(readFile(t, dir, "key3.pub")) + "\n"},
		"a hash":              {"none", "hash: " + fingerprint + "\n"},
		"an authority":        {"none", "key: " + string(readFile(t, dir, "ca1.pub")) + "\n"},
		"an authority's hash": {"none", "sha256: " + string(readFile(t, dir, "ca2.pub")) + "\n"},
		"a mixture":           {"ca1.pub", "serial: 1-9\nid: erin\nkey: " + string(readFile(t, dir, "key2.pub")) + "\nsha1: " + string(readFile(t, dir, "key1.pub")) + "\n"},
	} {
		writeFile(t, dir, "spec", []byte(c.spec))
		mustKeygen(t, dir, "-q", "-k", "-f", "krl", "-s", c.ca, "-z", "7", "spec")
		agree(t, dir, name, shownFiles)
		mustKeygen(t, dir, "-q", "-k", "-u", "-f", "krl", "-s", "ca2.pub", "spec") // the same of ca2, added
		agree(t, dir, name+", updated", shownFiles)
	}
	writeFile(t, dir, "krl", []byte("# text\n"+string(readFile(t, dir, "key1.pub"))+"\n"+string(readFile(t, dir, "ca2.pub"))+"\n"))
	l := revocations(t, readRaw(t, dir, "krl"))
	for _, file := range shownFiles { // ssh-keygen -Q takes binary lists alone; this is what sshd_config(5) says
		key := parsePublic(t, string(readFile(t, dir, file)))
		want := strings.Contains("key1.pub 0-cert.pub 2-cert.pub 3-cert.pub 6-cert.pub", file)
		if got := l.Revoked(key) != ""; got != want {
			t.Errorf("a list of keys: %s is revoked: %v, want %v", file, got, want)
		}
	}
}

// agree compares what is said of each of files by the list called krl.
func agree(t *testing.T, dir, name string, files []string) {
	t.Helper()
	l := revocations(t, readRaw(t, dir, "krl"))
	out, err := sshKeygen(t, dir, append([]string{"-Q", "-f", "krl"}, files...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(files) || (err != nil) != strings.Contains(out, "REVOKED") {
		t.Fatalf("%s: ssh-keygen says %v: %s", name, err, out)
	}
	for i, file := range files {
		theirs := strings.HasSuffix(lines[i], "REVOKED")
		if !theirs && !strings.HasSuffix(lines[i], "ok") || !strings.HasPrefix(lines[i], file) {
			t.Fatalf("%s: ssh-keygen says of %s: %s", name, file, lines[i])
		}
		if why := l.Revoked(parsePublic(t, string(readFile(t, dir, file)))); (why != "") != theirs {
			t.Errorf("%s: of %s we say %q, ssh-keygen %s", name, file, why, lines[i])
		}
	}
}

func FuzzRevocationList(f *testing.F) {
	f.Add([]byte(keyLine(f, "ed25519")))
	f.Add(krl(section(2, wireString(string(publicKey(f, "ed25519").Marshal()))), section(3, wireString(strings.Repeat("x", 20)))))
	f.Add(krl(certSection(f, "ed25519 ca", section(0x20, wireNumbers(5, 7)), section(0x21, wireNumbers(1, 9)),
		section(0x22, wireNumbers(1), wireString("\x05\x05")), section(0x23, wireString("alice")), section(0x39, wireString("x"), []byte{0}, wireString("")))))
	cert, key := certificate(f, nil), publicKey(f, "ed25519")
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := authn.ParseRevocationList("revoked", data)
		if err != nil {
			var fe *authn.FileError
			if !errors.As(err, &fe) || fe.Hint == "" || l != nil {
				t.Fatalf("%v, %v: no FileError with a hint", l, err)
			}
			return
		}
		if l.Revoked(key) != "" && l.Revoked(cert) == "" {
			t.Fatal("a revoked key comes in with a certificate")
		}
	})
}
