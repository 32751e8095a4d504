package sshd_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// world is a gate with an object that bob may read, and one that only alice may.
func world(t testing.TB, o gwtest.Options) (g *gwtest.Gate, hello, secret gwtest.Object) {
	t.Helper()
	o.SSH = true
	g = gwtest.New(t, o)
	hello, secret = gwtest.NewObject("hello", "package"), gwtest.NewObject("secret", "package")
	g.Publish([]gwtest.Object{hello}, publicSource)
	g.Publish([]gwtest.Object{secret}, privateSource)
	return g, hello, secret
}

// TestTests: the answers of test and [ are exit statuses alone; denied, absent and misnamed are one.
func TestTests(t *testing.T) {
	g, hello, secret := world(t, gwtest.Options{})
	alice, bob, carol := dial(t, g, "alice"), dial(t, g, "bob"), dial(t, g, "carol")
	opened := len(g.Upstream.Names())
	for path, want := range map[string][3]int{ // of alice, bob and carol
		"/main/" + hello.Name:  {0, 0, 1},
		"main/" + hello.Name:   {0, 0, 1},
		"/main/" + secret.Name: {0, 1, 1},
		"/main/" + gwtest.NewObject("absent", "package").Name: {1, 1, 1},
		"/other/" + hello.Name:                                {1, 1, 1},
		"/main/" + strings.Replace(hello.Name, ":", "%3A", 1): {1, 1, 1},
		"/main/../main/" + hello.Name:                         {1, 1, 1},
		"/main//" + hello.Name:                                {1, 1, 1},
		"/main/universal":                                     {1, 1, 1},
		"/main":                                               {1, 1, 1},
		"/":                                                   {1, 1, 1},
		"/etc/passwd":                                         {1, 1, 1},
	} {
		for i, c := range []result{run(t, alice, "[ -f "+path+" ]"), run(t, bob, "test -f '"+path+"'"), run(t, carol, `[ -f "`+path+`" ]`)} {
			if c != (result{code: want[i]}) {
				t.Errorf("-f %s as %d: %+v, want %d", path, i, c, want[i])
			}
		}
	}
	for path, want := range map[string][2]int{ // of bob and carol
		"/main/" + hello.Name: {0, 1}, "/main/" + secret.Name: {1, 1}, "/main": {0, 1}, "/main/universal": {0, 1}, "/main/nowhere": {1, 1}, "/other": {1, 1},
	} {
		for i, c := range []result{run(t, bob, "[ -e "+path+" ]"), run(t, carol, "test -e "+path)} {
			if c != (result{code: want[i]}) {
				t.Errorf("-e %s as %d: %+v, want %d", path, i, c, want[i])
			}
		}
	}
	if names := g.Upstream.Names()[opened:]; len(names) > 0 {
		t.Errorf("a test reached the upstream: %q", names)
	}
}

// TestMisuse: what is not understood is refused with words that help, and does nothing.
func TestMisuse(t *testing.T) {
	g, hello, _ := world(t, gwtest.Options{})
	c := dial(t, g, "alice")
	path := "/main/" + hello.Name
	for command, want := range map[string]int{
		"":                           2,
		"  ":                         2,
		"[ -f " + path:               2,
		"[ ]":                        2,
		"[ -f ]":                     2,
		"[ -d /main ]":               2,
		"[ ! -f " + path + " ]":      2,
		"test " + path:               2,
		"test -f " + path + " x":     2,
		"test -f " + path + "; id":   2,
		"test -f $(id)":              2,
		"[ -f /main/* ]":             2,
		"ls":                         127,
		"sh -c id":                   127,
		"/bin/sh":                    127,
		"git-upload-pack '/x.git'":   127,
		"rsync --server --sender":    127,
		"/usr/lib/sftp-server":       127,
		"Whoami":                     127,
		"''":                         127,
		"whoami x":                   2,
		"whoami --xml":               2,
		"token --ttl":                2,
		"token --ttl=soon":           2,
		"token --ttl=-1h":            2,
		"token --ttl=100h":           1,
		"token --json --netrc":       2,
		"token --note from laptop":   2,
		"explain":                    2,
		"explain a b":                2,
		"presence x":                 2,
		"scp -t /main":               1,
		"scp -r -d -t /main":         1,
		"scp":                        1,
		"scp -f":                     1,
		"scp -x -f " + path:          1,
		"scp --rsh=x -f " + path:     1,
		strings.Repeat("x ", 4<<10):  -1, // longer than a command may be
		"whoami\nid":                 2,
		"help\x1b[2J":                2,
		"no\tsuch 'quoted command'x": 127,
	} {
		r := run(t, c, command)
		if r.code != want || r.err == "" && !strings.HasPrefix(r.out, "\x01scp: ") && want != -1 {
			t.Errorf("%q: %+v, want %d", command, r, want)
		}
		if strings.ContainsAny(r.err, "\x1b") || want == 127 && !strings.Contains(r.err, "explain PATH") {
			t.Errorf("%q: %q", command, r.err)
		}
	}
	if n := len(tokens(t, g)); n != 0 {
		t.Errorf("%d tokens were made", n)
	}
}

// tokens lists the tokens that are not a test user's.
func tokens(t testing.TB, g *gwtest.Gate) (notes []string) {
	t.Helper()
	all, err := g.Tokens.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range all {
		if token.Note != "test" {
			notes = append(notes, token.Note)
		}
	}
	return notes
}

// TestToken: a token that was made over ssh works over https, for whom it was made and as long as was asked.
func TestToken(t *testing.T) {
	g, hello, secret := world(t, gwtest.Options{})
	bob := dial(t, g, "bob")
	r := run(t, bob, "token --ttl 5m --note 'from the laptop'")
	text := strings.TrimSuffix(r.out, "\n")
	if r.code != 0 || r.err != "" || strings.ContainsAny(text, " \n") {
		t.Fatalf("%+v", r)
	}
	u := g.WithToken(text)
	if res := u.Get("/sstate/main/" + hello.Name); res.StatusCode != http.StatusOK || string(res.Bytes) != string(hello.Content) {
		t.Errorf("bob's object: %s", res.Status)
	}
	if res := u.Get("/sstate/main/" + secret.Name); res.StatusCode != http.StatusNotFound {
		t.Errorf("alice's object: %s", res.Status)
	}
	var reply gateway.TokenReply
	if r := run(t, bob, "token --json --ttl=90s"); r.code != 0 || json.Unmarshal([]byte(r.out), &reply, json.RejectUnknownMembers(true)) != nil {
		t.Fatalf("%+v", r)
	}
	expires, err := time.Parse(time.RFC3339, reply.Expires)
	if left := time.Until(expires); err != nil || left > 90*time.Second || left < 30*time.Second || reply.User != gwtest.Forge+"/2" || reply.Name != "bob" {
		t.Errorf("%+v", reply)
	}
	if res := g.WithToken(reply.Token).Get("/v1/whoami"); res.StatusCode != http.StatusOK || !strings.Contains(string(res.Bytes), `"bob"`) {
		t.Errorf("%s %s", res.Status, res.Bytes)
	}
	r = run(t, bob, "token --netrc")
	words := strings.Fields(r.out)
	if r.code != 0 || len(words) != 6 || !slices.Equal(words[:5], []string{"machine", "gate.example.com", "login", "token", "password"}) || !strings.HasSuffix(r.out, "\n") {
		t.Fatalf("%+v", r)
	}
	if res := g.WithToken(words[5]).Get("/v1/whoami"); res.StatusCode != http.StatusOK {
		t.Errorf("%s", res.Status)
	}
	if notes := tokens(t, g); !slices.Equal(notes, []string{"from the laptop", "", ""}) {
		t.Errorf("%q", notes)
	}
}

func TestWhoamiAndHelp(t *testing.T) {
	g, _, _ := world(t, gwtest.Options{Admins: []string{"alice"}})
	alice := dial(t, g, "alice")
	if r := run(t, alice, "whoami"); r != (result{out: "alice (human) at git.example.com, id 1\nroles: admin:main\n"}) {
		t.Errorf("%+v", r)
	}
	var me gateway.Whoami
	if r := run(t, alice, "whoami --json"); json.Unmarshal([]byte(r.out), &me, json.RejectUnknownMembers(true)) != nil || me.ID != "1" || me.Name != "alice" {
		t.Errorf("%+v", r)
	}
	if r := run(t, alice, "help"); r.code != 0 || r.err != "" || strings.Count(r.out, "\n") < 6 {
		t.Errorf("%+v", r)
	}
	s, err := alice.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out strings.Builder
	s.Stderr = &out
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err == nil || !strings.Contains(err.Error(), "status 1") || !strings.HasPrefix(out.String(), "Hello alice.") {
		t.Errorf("a shell: %v, %q", err, out.String())
	}
}

// TestExplain: the whole answer to who may read, or administers the zone; to others one that does not tell denied from absent.
func TestExplain(t *testing.T) {
	g, hello, secret := world(t, gwtest.Options{Admins: []string{"carol"}})
	bob, carol := dial(t, g, "bob"), dial(t, g, "carol")
	if r := run(t, bob, "explain /main/"+hello.Name); r.code != 0 || !strings.HasPrefix(r.out, "allow: /main/"+hello.Name+", by rule ") {
		t.Errorf("%+v", r)
	}
	var x authz.Explanation
	if r := run(t, bob, "explain --json /main/"+hello.Name); r.code != 0 || json.Unmarshal([]byte(r.out), &x) != nil || x.Verdict != "allow" {
		t.Errorf("%+v", r)
	}
	denied := run(t, bob, "explain /main/"+secret.Name)
	for _, path := range []string{"/main/" + gwtest.NewObject("absent", "package").Name, "/other/" + hello.Name, "/main", "/", "/main/%2e", "nonsense"} {
		if absent := run(t, bob, "explain "+path); absent != denied || absent.code != 3 || absent.out != "" {
			t.Errorf("%s: %+v; denied is %+v", path, absent, denied)
		}
	}
	if r := run(t, carol, "explain /main/"+secret.Name); r.code != 0 || !strings.HasPrefix(r.out, "deny: ") {
		t.Errorf("an administrator: %+v", r)
	}
}

// TestPresence: a batch says what each test alone would.
func TestPresence(t *testing.T) {
	g, hello, secret := world(t, gwtest.Options{Uploads: gateway.Limits{
		ObjectBytes: 1 << 20, UploadObjects: 10, OpenUploads: 10, UploadAge: time.Hour, EnvelopeBytes: 1 << 20, PresenceNames: 10,
	}})
	bob := dial(t, g, "bob")
	absent := gwtest.NewObject("absent", "package").Name
	for name, c := range map[string]struct{ command, input, want string }{
		"nothing":     {"presence", "", ""},
		"paths":       {"presence", "/main/" + hello.Name + "\n/main/" + secret.Name + "\n/main/" + absent + "\n", "1\n0\n0\n"},
		"in a zone":   {"presence --zone main", hello.Name + "\n" + secret.Name, "1\n0\n"},
		"mixed":       {"presence --zone=main", hello.Name + "\n/main/" + hello.Name + "\n/other/" + hello.Name + "\n", "1\n1\n0\n"},
		"other zone":  {"presence --zone other", hello.Name + "\n", "0\n"},
		"strange":     {"presence", "\n/\n//\n/main/\n/main/..\n\x00\xff\n" + hello.Name + "\n", "0\n0\n0\n0\n0\n0\n0\n"},
		"escaped":     {"presence --zone main", strings.Replace(hello.Name, ":", "%3A", 1) + "\n", "0\n"},
		"other order": {"presence", "/other/x\n/main/" + hello.Name + "\n/another/x\n", "0\n1\n0\n"},
	} {
		if r := runWith(t, bob, c.command, c.input); r != (result{out: c.want}) {
			t.Errorf("%s: %+v, want %q", name, r, c.want)
		}
	}
	for name, input := range map[string]string{"many": strings.Repeat("/main/x\n", 11), "much": strings.Repeat("x", 17<<20)} {
		if r := runWith(t, bob, "presence", input); r.code != 1 || r.out != "" || !strings.Contains(r.err, "split the batch") {
			t.Errorf("too %s: %+v", name, r)
		}
	}
}

// TestObservedOperations: metrics see what was asked for and how it went, and nothing that tells denied from absent.
func TestObservedOperations(t *testing.T) {
	g, hello, secret := world(t, gwtest.Options{})
	seen := make(chan sshd.Observation, 10)
	addr, _ := open(t, doorOf(t, g, sshd.Limits{}, func(o sshd.Observation) {
		if o.Route != "handshake" {
			seen <- o
		}
	}))
	c := dialAs(t, g, addr, "bob")
	absent := gwtest.NewObject("absent", "package")
	for _, step := range []struct{ command, want string }{
		{"[ -f /main/" + hello.Name + " ]", "test ok"},
		{"[ -f /main/" + secret.Name + " ]", "test failed"},
		{"[ -f /main/" + absent.Name + " ]", "test failed"},
		{"whoami", "whoami ok"},
		{"explain /main/" + secret.Name, "explain failed"},
		{"explain /main/" + absent.Name, "explain failed"},
		{"ls", "other failed"},
		{"$x", "other failed"},
	} {
		run(t, c, step.command)
		if o := <-seen; fmt.Sprint(o.Route, " ", o.Outcome) != step.want {
			t.Errorf("%s: %+v", step.command, o)
		}
	}
}
