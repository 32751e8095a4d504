package authn_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

var ciBot = authn.Principal{Forge: "git.example.com", ID: "7", Name: "ci-bot", Kind: authn.CI, Roles: []string{"writer:main"}}

func authorized(t testing.TB, text string) *authn.AuthorizedKeyList {
	t.Helper()
	list, err := authn.ParseAuthorizedKeys("authorized_keys", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func listOf(t testing.TB, p authn.Principal, text string) authn.AuthorizedKeys {
	t.Helper()
	return authn.AuthorizedKeys{Keys: authn.Fixed[*authn.AuthorizedKeyList]{Value: authorized(t, text)}, Principal: p}
}

// TestAuthorizedKeyRestrictions shows each restriction that is kept being kept.
func TestAuthorizedKeyRestrictions(t *testing.T) {
	for _, c := range []struct {
		options, from string
		at            time.Time
		want          authn.Reason
	}{
		{"", "203.0.113.9", start, ""},
		{`restrict,no-pty,no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-user-rc `, "203.0.113.9", start, ""},
		{`RESTRICT `, "203.0.113.9", start, ""},
		{`from="192.0.2.7" `, "192.0.2.7", start, ""},
		{`from="192.0.2.7" `, "192.0.2.8", start, authn.KeyRefused},
		{`from="192.0.2.0/24" `, "192.0.2.8", start, ""},
		{`from="192.0.2.0/24" `, "192.0.3.8", start, authn.KeyRefused},
		{`from="192.0.2.0/24,!192.0.2.8" `, "192.0.2.8", start, authn.KeyRefused},
		{`from="!192.0.2.8,192.0.2.0/24" `, "192.0.2.8", start, authn.KeyRefused},
		{`from="!192.0.2.8,192.0.2.0/24" `, "192.0.2.9", start, ""},
		{`from="192.0.2.0/24" `, "::ffff:192.0.2.8", start, ""},
		{`from="2001:db8::/32" `, "2001:db8::1", start, ""},
		{`from="2001:db8::/32" `, "192.0.2.8", start, authn.KeyRefused},
		{`from="fe80::/10" `, "fe80::1%eth0", start, ""},
		{`from="0.0.0.0/0,::/0" `, "", start, authn.KeyRefused}, // from nowhere that anybody knows
		{`FROM="192.0.2.7" `, "192.0.2.8", start, authn.KeyRefused},
		{`expiry-time="20260301120001Z" `, "192.0.2.7", start, ""},
		{`expiry-time="20260301120000Z" `, "192.0.2.7", start, authn.KeyRefused},
		{`expiry-time="202603011200Z" `, "192.0.2.7", start.Add(-time.Second), ""},
		{`expiry-time="20260301Z" `, "192.0.2.7", start, authn.KeyRefused},
		{`expiry-time="20260301" `, "192.0.2.7", time.Date(2026, 3, 1, 0, 0, 0, 0, time.Local), authn.KeyRefused},
		{`expiry-time="20260301" `, "192.0.2.7", time.Date(2026, 2, 28, 23, 59, 59, 0, time.Local), ""},
		{`restrict,from="192.0.2.7",expiry-time="20990101Z" `, "192.0.2.7", start, ""},
		{`restrict,from="192.0.2.7",expiry-time="20990101Z" `, "192.0.2.8", start, authn.KeyRefused},
	} {
		s := mustSSH(t, authn.SSHKeysConfig{
			AuthorizedKeys: []authn.AuthorizedKeys{listOf(t, ciBot, c.options+keyLine(t, "ed25519"))},
			Now:            func() time.Time { return c.at },
		})
		remote, _ := netip.ParseAddr(c.from)
		p, err := s.Authenticate(t.Context(), authn.Credential{Key: authn.NewSSHKey(publicKey(t, "ed25519"), remote)})
		if reasonOf(err) != c.want || (err == nil) != (p.ID == ciBot.ID) {
			t.Errorf("%s from %q at %s: %+v, %v; want %q", c.options, c.from, c.at, p, err, c.want)
		}
	}
}

// TestAuthorizedKeysFailClosed: a line whose restrictions cannot be kept stops the file, with its line and a hint.
func TestAuthorizedKeysFailClosed(t *testing.T) {
	key := keyLine(t, "ed25519")
	for name, c := range map[string]struct{ line, want string }{
		"an authority":               {`cert-authority ` + key, `option "cert-authority"`},
		"an authority's principals":  {`cert-authority,principals="alice" ` + key, `option "cert-authority"`},
		"principals alone":           {`principals="alice" ` + key, `option "principals"`},
		"a command":                  {`command="/bin/true" ` + key, `option "command"`},
		"a command with quotes":      {`command="echo \"ssh-ed25519 AAAA\"" ` + key, `option "command"`},
		"a command in capitals":      {`COMMAND="/bin/true" ` + key, `option "command"`},
		"a command after good ones":  {`restrict,from="192.0.2.7",command="/bin/true" ` + key, `option "command"`},
		"environment":                {`environment="A=b" ` + key, `option "environment"`},
		"permitopen":                 {`permitopen="host:22" ` + key, `option "permitopen"`},
		"permitlisten":               {`permitlisten="22" ` + key, `option "permitlisten"`},
		"a tunnel":                   {`tunnel="0" ` + key, `option "tunnel"`},
		"verify-required":            {`verify-required ` + key, `option "verify-required"`},
		"no-touch-required":          {`no-touch-required ` + key, `option "no-touch-required"`},
		"a pty":                      {`restrict,pty ` + key, `option "pty"`},
		"an unknown option":          {`no-such-thing ` + key, `option "no-such-thing"`},
		"a misspelt restriction":     {`expire-time="20990101Z" ` + key, `option "expire-time"`},
		"an empty option":            {`,restrict ` + key, `option ""`},
		"a comma too many":           {`restrict, ` + key, `option ""`},
		"a value where none is":      {`restrict="yes" ` + key, `option "restrict" has a value`},
		"from without a value":       {`from ` + key, `option "from"`},
		"from of nothing":            {`from="" ` + key, `option "from"`},
		"from without quotes":        {`from=192.0.2.7 ` + key, "double quotes"},
		"from of a name":             {`from="ci.example.com" ` + key, `"ci.example.com" is neither`},
		"from of a wildcard name":    {`from="*.example.com" ` + key, "is neither"},
		"from of anywhere":           {`from="*" ` + key, "is neither"},
		"from of a wildcard":         {`from="192.0.2.*" ` + key, "is neither"},
		"from of exceptions alone":   {`from="!192.0.2.7" ` + key, "only excepts"},
		"from inside a network":      {`from="192.0.2.7/24" ` + key, "not a network's first address"},
		"from of a mapped address":   {`from="::ffff:192.0.2.7" ` + key, "IPv4 written as IPv6"},
		"from of a scoped address":   {`from="fe80::1%eth0" ` + key, "is neither"},
		"from of a leading zero":     {`from="192.0.02.7" ` + key, "is neither"},
		"from with a space":          {`from="192.0.2.7, 192.0.2.8" ` + key, "is neither"},
		"from with an empty entry":   {`from="192.0.2.7," ` + key, "is neither"},
		"from twice":                 {`from="192.0.2.7",from="0.0.0.0/0" ` + key, "stands twice"},
		"from twice, other case":     {`from="192.0.2.7",From="0.0.0.0/0" ` + key, "stands twice"},
		"expiry without a value":     {`expiry-time ` + key, `option "expiry-time"`},
		"expiry of nothing":          {`expiry-time="" ` + key, "want YYYYMMDD"},
		"expiry in the thirteenth":   {`expiry-time="20261301Z" ` + key, "no such time"},
		"expiry of a short time":     {`expiry-time="2026030112Z" ` + key, "want YYYYMMDD"},
		"expiry before all time":     {`expiry-time="00010101Z" ` + key, "no such time"},
		"a quote without end":        {`from="192.0.2.7 ` + key, "a quote does not end"},
		"an option that goes on":     {`from="192.0.2.7"no-pty ` + key, "not followed by"},
		"no key":                     {`restrict`, "no key"},
		"half a key":                 {`ssh-ed25519`, "no key"},
		"a damaged key":              {`ssh-ed25519 AAAA`, "read key"},
		"a key of another type":      {`ssh-rsa ` + strings.Fields(key)[1], "key type mismatch"},
		"a DSA key":                  {dsaKey, `"ssh-dss" are not accepted`},
		"a short RSA key":            {rsa1024Key, "at least 2048 bits"},
		"a key twice":                {key + "\n" + `from="192.0.2.7" ` + key + " again", "stands twice"},
		"a certificate":              {string(marshalLine(t, certificate(t, nil))), "this is a certificate"},
		"NUL":                        {key + "\x00", "not UTF-8"},
		"not UTF-8":                  {key + " \xff", "not UTF-8"},
		"an options file of Windows": {"\xef\xbb\xbf" + key, "option"},
	} {
		_, err := authn.ParseAuthorizedKeys("keys", []byte("# first\n\n"+c.line+"\n"))
		var fe *authn.FileError
		if !errors.As(err, &fe) || fe.Line < 3 || fe.Hint == "" || fe.File != "keys" || !strings.Contains(fe.Reason, c.want) {
			t.Errorf("%s: %v; want a FileError of line 3 with a hint and %q", name, err, c.want)
		}
	}
}

func TestAuthorizedKeysFile(t *testing.T) {
	text := "\r\n  # comment\n\t" + keyLine(t, "ed25519") + " alice@laptop, \"at home\" \r\nrestrict\t" + keyLine(t, "p256") + "\n" + keyLine(t, "rsa")
	if n := authorized(t, text).Len(); n != 3 {
		t.Errorf("%d keys, want 3", n)
	}
	if n := authorized(t, "").Len(); n != 0 {
		t.Errorf("%d keys in an empty file", n)
	}
	_, err := authn.ParseAuthorizedKeys("keys", make([]byte, 1<<20+1))
	if err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Errorf("a file of more than 1 MiB: %v", err)
	}
}

func TestSSHKeySet(t *testing.T) {
	ca := keyLine(t, "ed25519 ca")
	if _, err := authn.ParseSSHKeySet("ca.pub", []byte("# ours\n"+ca+" ca@example.com\n"+keyLine(t, "rsa")+"\n")); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"nothing":          {"# to come\n", "there is no key"},
		"an option":        {"restrict " + ca, "read key"},
		"an authority":     {"cert-authority " + ca, "read key"},
		"a short RSA key":  {rsa1024Key, "at least 2048 bits"},
		"a DSA key":        {dsaKey, "not accepted"},
		"a key twice":      {ca + "\n" + ca, "stands twice"},
		"a certificate":    {string(marshalLine(t, certificate(t, nil))), "this is a certificate"},
		"something else":   {"-----BEGIN OPENSSH PRIVATE KEY-----", "read key"},
		"words of no kind": {"ca", "there is no key"},
	} {
		_, err := authn.ParseSSHKeySet("ca.pub", []byte(c.text))
		var fe *authn.FileError
		if !errors.As(err, &fe) || fe.Hint == "" || !strings.Contains(fe.Reason, c.want) {
			t.Errorf("%s: %v; want a FileError with a hint and %q", name, err, c.want)
		}
	}
	if _, err := authn.NewSSHKeySet(); err == nil {
		t.Error("a set of no keys was made")
	}
	if _, err := authn.NewSSHKeySet(certificate(t, nil)); err == nil {
		t.Error("a certificate is an authority")
	}
}

// FuzzAuthorizedKeys: no line that is taken drops a word of its options.
func FuzzAuthorizedKeys(f *testing.F) {
	key := keyLine(f, "ed25519")
	for _, options := range []string{
		"", "restrict ", `from="192.0.2.7,!10.0.0.0/8" `, `expiry-time="20990101Z",no-pty `, `command="a \" b" `, "\t# ", `from="a" b="c" `, "ssh-", `from="\"`,
	} {
		f.Add(options + key)
	}
	kept := map[string]bool{
		"from": true, "expiry-time": true, "restrict": true, "no-pty": true, "no-port-forwarding": true,
		"no-agent-forwarding": true, "no-x11-forwarding": true, "no-user-rc": true,
	}
	f.Fuzz(func(t *testing.T, line string) {
		list, err := authn.ParseAuthorizedKeys("keys", []byte(line))
		if err != nil {
			var fe *authn.FileError
			if !errors.As(err, &fe) || fe.Hint == "" {
				t.Fatalf("%q: %v is no FileError with a hint", line, err)
			}
			return
		}
		if list.Len() != 1 || strings.ContainsAny(line, "\n") {
			return
		}
		options, rest, err := authn.CutSSHOptions(strings.Trim(line, " \t\r"))
		if err != nil {
			t.Fatalf("%q was taken: %v", line, err)
		}
		if _, err := authn.ParseSSHKey(rest); err != nil {
			t.Fatalf("%q was taken: %v", line, err)
		}
		for _, o := range options {
			if !kept[o.Name] {
				t.Fatalf("%q was taken with the option %q", line, o.Name)
			}
		}
	})
}
