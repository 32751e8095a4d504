package forge

import (
	"bufio"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
)

// FuzzGitoliteHelper: of whatever a git server sends, only what has the form of an answer to the question is one.
func FuzzGitoliteHelper(f *testing.F) {
	const stamp = "0123456789abcdef0123456789abcdef"
	f.Add(stamp + " read\nend\n")
	f.Add(stamp + " none\n" + stamp + " read\nend\nerror x\n")
	f.Add("key alice SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nrepo " + stamp + " team/lib\nrepo - x\nend\n")
	f.Add("error \x00\xff\n")
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := readHelperAnswer(bufio.NewReaderSize(strings.NewReader(text), helperLine))
		if err != nil {
			return
		}
		if !strings.HasPrefix(text, strings.Join(append(lines, "end\n"), "\n")) {
			t.Errorf("%q is read as %q", text, lines)
		}
		answers := map[string]Access{}
		if err := readHelperAccess([]string{stamp}, lines, answers); err == nil && (answers[stamp] == Read) != (lines[0] == stamp+" read") {
			t.Errorf("%q is read as %v", lines, answers)
		}
		for _, line := range lines {
			if stamp, name, err := readHelperRepo(line); err == nil && (strings.ContainsAny(name, " \n\r\x00") || stamp != "" && len(stamp) != 32) {
				t.Errorf("%q: the repository %q, %q", line, stamp, name)
			}
			if user, key, err := readHelperKey(line); err == nil && (!isGitoliteUser(user) || "key "+user+" "+key != line) {
				t.Errorf("%q: the key %q of %q", line, key, user)
			}
		}
	})
}

// FuzzGitoliteHook: what is signed and still not understood changes nothing, and no event is wider than what it says.
func FuzzGitoliteHook(f *testing.F) {
	f.Add(`{"version":1,"id":"0123456789abcdef0123456789abcdef","time":1700000000,"event":"POST_CREATE","repo":"x","stamp":""}`)
	f.Add(`{"version":1,"id":"0123456789abcdef0123456789abcdef","time":1700000000,"event":"POST_COMPILE","repo":"","stamp":""}`)
	f.Add(`{"version":1,"version":1}`)
	secret := authn.NewSecret("secret")
	g := &Gitolite{config: GitoliteConfig{Name: "git", HookSecret: secret}}
	f.Fuzz(func(t *testing.T, body string) {
		header := http.Header{"X-Lychgate-Signature": {hex.EncodeToString(macOf(secret, []byte(body)))}}
		d, err := g.ReadHook(header, []byte(body))
		if err != nil && (len(d.Events) > 0 || !errors.Is(err, ErrHook)) {
			t.Errorf("%q: %+v, %v", body, d, err)
		}
		for _, e := range d.Events {
			if e.Forge != "git" || e.Repo == "" && !strings.Contains(body, "POST_COMPILE") {
				t.Errorf("%q: %+v", body, e)
			}
		}
	})
}
