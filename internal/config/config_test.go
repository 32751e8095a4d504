package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/internal/config"
)

// minimal is the smallest document that passes. Rows of TestBad append to it or replace lines of it.
const minimal = `https:
  audience: https://gate.example.com
  tls: {development_ca: true}
zones:
  - name: main
forges:
  - {name: git.example.com, type: static, file: users.yaml}
`

func TestDefaults(t *testing.T) {
	got, err := config.Parse([]byte(minimal), "/etc/lychgate")
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Node: "gate", State: "/var/lib/lychgate",
		Database: config.Location{Scheme: "sqlite", Value: "/var/lib/lychgate/lychgate.db"},
		Blobs:    config.Location{Scheme: "dir", Value: "/var/lib/lychgate/blobs"},
		HTTPS: config.HTTPS{
			Listen: ":8443", Mount: "/sstate", Audience: "https://gate.example.com", SSHSignIn: true,
			Names: []string{"gate.example.com"}, TLS: config.TLS{DevelopmentCA: true},
		},
		SSH: config.SSH{Connections: 10000, ConnectionsPerAddress: 4096, ConnectionsPerPrincipal: 4096, Idle: 10 * time.Minute},
		Hash: config.Hash{
			Database: config.Location{Scheme: "sqlite", Value: "/var/lib/lychgate/hashes.db"}, Memory: 512 << 20,
			Connections: 10000, ConnectionsPerAddress: 4096, ConnectionsPerPrincipal: 4096, Idle: 24 * time.Hour,
		},
		Admin:  config.Admin{Listen: "127.0.0.1:9443"},
		Zones:  []config.Zone{{Name: "main"}},
		Forges: []config.Forge{{Name: "git.example.com", Type: "static", File: "/etc/lychgate/users.yaml"}},
		Tokens: config.Tokens{Life: 12 * time.Hour, CILife: 6 * time.Hour},
		Audit:  config.Audit{Dir: "/var/lib/lychgate/audit", Sync: "batch", Segment: 64 << 20, MinFree: 64 << 20},
		Limits: config.Limits{
			HeaderRead: 5 * time.Second, Idle: time.Minute, ProgressWindow: 30 * time.Second, ProgressRate: 1024,
			Drain: 30 * time.Second, Connections: 10000, ConnectionsPerAddress: 4096, RequestsPerPrincipal: 4096,
			Streams: 100, ObjectSize: 16 << 30, UploadObjects: 1000, UploadExpiry: time.Hour, UploadMinFree: 256 << 20, StatementSize: 4 << 20,
			PresenceNames: 50000,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if got, want := got.TokenKeyFile(), "/var/lib/lychgate/token.key"; got != want {
		t.Errorf("TokenKeyFile() = %q, want %q", got, want)
	}
}

func TestExample(t *testing.T) {
	c, err := config.Parse(config.Example(), "/etc/lychgate")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Zones[0].MirrorCredentials.Password.String(), "file:/etc/lychgate/secrets/mirror-password"; got != want {
		t.Errorf("password reference = %q, want %q", got, want)
	}
	if got, want := c.Zones[0].Writers.Users[0], (config.Subject{Forge: "git.example.com", Name: "#1001"}); got != want {
		t.Errorf("writer = %v, want %v", got, want)
	}
	if got, want := c.Zones[1].Base, "main"; got != want {
		t.Errorf("base = %q, want %q", got, want)
	}
}

// TestExampleHoldsEveryKey keeps the example honest: each key of the types stands in it, live or behind '#', and a
// default it shows is the default.
func TestExampleHoldsEveryKey(t *testing.T) {
	text := string(config.Example())
	for _, key := range keys(reflect.TypeOf(config.Config{})) {
		if !strings.Contains(text, key+":") {
			t.Errorf("the example does not show the key %q", key)
		}
	}
	shown, err := config.Parse([]byte(minimal+defaultsShown(text)), "/etc/lychgate")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := config.Parse([]byte(minimal), "/etc/lychgate")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain, shown); diff != "" {
		t.Errorf("the example shows other defaults than the code has (-code +example):\n%s", diff)
	}
}

// defaultsShown uncomments the "# key: value" lines of the sections whose every comment shows a default.
func defaultsShown(text string) string {
	_, text, _ = strings.Cut(text, "\naudit:\n")
	var b strings.Builder
	b.WriteString("audit:\n")
	for line := range strings.Lines(text) {
		live := strings.Replace(line, "# ", "", 1)
		key, rest, ok := strings.Cut(strings.TrimSpace(live), ":")
		if ok && !strings.Contains(rest, ":") && !strings.HasPrefix(key, "#") && strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_") == "" {
			b.WriteString(live)
		}
	}
	return b.String()
}

func keys(t reflect.Type) []string {
	var all []string
	for i := range t.NumField() {
		f := t.Field(i)
		all = append(all, f.Tag.Get("yaml"))
		inner := f.Type
		if inner.Kind() == reflect.Slice || inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.NumField() > 0 && inner.Field(0).Tag.Get("yaml") != "" {
			all = append(all, keys(inner)...)
		}
	}
	return all
}

// replace returns minimal with one line replaced.
// forgeOf is the minimal document with another forge: what it holds besides its name.
func forgeOf(rest string) string {
	return replace("type: static, file: users.yaml", rest)
}

func replace(old, with string) string {
	if !strings.Contains(minimal, old) {
		panic("minimal does not hold " + old)
	}
	return strings.Replace(minimal, old, with, 1)
}

// withCA is minimal with client certificates.
var withCA = replace("https:\n", "https:\n  client_ca: c\n")

// bad is a table of documents that must be refused, each with the whole error text.
var bad = []struct{ name, doc, want string }{
	{"empty", "", `1:1: the document is empty (lychgate config example prints one to start from)`},
	{"only a comment", "# nothing\n", `1:1: the document is empty (lychgate config example prints one to start from)`},
	{"null document", "---\n", `1:1: the document is empty (lychgate config example prints one to start from)`},
	{"a list", "- a\n", `1:1: want keys and values here, found a list (known keys: node, contact, state, database, blobs, https, ssh, hash, oidc, admin, zones, signers, forges, redis, public, tokens, certificates, policy, audit, limits)`},
	{"a word", "lychgate\n", `1:1: want keys and values here, found a single value (known keys: node, contact, state, database, blobs, https, ssh, hash, oidc, admin, zones, signers, forges, redis, public, tokens, certificates, policy, audit, limits)`},
	{"not UTF-8", minimal + "node: \xff\n", `1:1: not UTF-8 text (is this the right file?)`},
	{"too long", minimal + strings.Repeat("#", config.MaxSize), `1:1: longer than 1048576 bytes (is this the right file?)`},
	{"tab indent", "https:\n\tlisten: \":1\"\n", `2: not YAML: found character that cannot start any token (indent with spaces, and quote text that holds ': ' or ' #')`},
	{"open quote", "node: \"gate\n", `2: not YAML: found unexpected end of stream (indent with spaces, and quote text that holds ': ' or ' #')`},
	{"second document", minimal + "---\nnode: b\n", `8:1: a second document (one file holds one document: remove the '---' line and what follows)`},
	{"broken second document", minimal + "---\n{\n", `9: not YAML: did not find expected node content (indent with spaces, and quote text that holds ': ' or ' #')`},
	{"anchor", minimal + "node: &a gate\n", `8:1: node: anchors and aliases are not supported (write the value out)`},
	{"alias bomb", minimal + "public: [&a x, *a, *a]\n", `8:10: public[0]: anchors and aliases are not supported (write the value out)
8:16: public[1]: anchors and aliases are not supported (write the value out)
8:20: public[2]: anchors and aliases are not supported (write the value out)`},
	{"merge key", minimal + "<<: {node: b}\n", `8:1: <<: unknown key (known keys here: node, contact, state, database, blobs, https, ssh, hash, oidc, admin, zones, signers, forges, redis, public, tokens, certificates, policy, audit, limits)`},
	{"tag", minimal + "node: !!binary Z2F0ZQ==\n", `8:1: node: the tag !!binary is not supported (remove it)`},
	{"duplicate key", minimal + "node: a\nnode: b\n", `9:1: node: given twice; the first is on line 8 (keep one)`},
	{"duplicate section", minimal + "zones: []\n", `8:1: zones: given twice; the first is on line 4 (keep one)`},
	{"unknown key, near", minimal + "nodes: a\n", `8:1: nodes: unknown key (did you mean "node"?)`},
	{"unknown key, inner", replace("- name: main", "- {name: main, bse: x}"), `5:18: zones[0].bse: unknown key (did you mean "base"?)`},
	{"unknown key, far", minimal + "tokens: {password: x}\n", `8:10: tokens.password: unknown key (known keys here: key, life, ci_life)`},
	{"key in other case", minimal + "Node: a\n", `8:1: Node: unknown key (did you mean "node"?)`},
	{"key with long s", minimal + "\u017ftate: /x\n", `8:1: "\u017ftate": unknown key (did you mean "state"?)`},
	{"key is a list", minimal + "? [a]\n: b\n", `8:3: "": unknown key (known keys here: node, contact, state, database, blobs, https, ssh, hash, oidc, admin, zones, signers, forges, redis, public, tokens, certificates, policy, audit, limits)`},
	{"escape in key", minimal + "\"a\\e[31m\": b\n", `8:1: "a\x1b[31m": unknown key (known keys here: node, contact, state, database, blobs, https, ssh, hash, oidc, admin, zones, signers, forges, redis, public, tokens, certificates, policy, audit, limits)`},
	{"no value", minimal + "node:\n", `8:1: node: has no value (give it one, or remove the key to get the default)`},
	{"null value", minimal + "state: ~\n", `8:1: state: has no value (give it one, or remove the key to get the default)`},
	{"list without value", minimal + "public:\n", `8:1: public: has no value (write [] for none, or remove the key)`},
	{"list for a value", minimal + "node: [a]\n", `8:1: node: want a single value here, found a list`},
	{"value for a list", minimal + "public: github.com/a/b\n", `8:1: public: want a list here, found a single value (write each item on a line of its own after '- ')`},
	{"value for a section", minimal + "policy: /etc/policy\n", `8:1: policy: want keys and values here, found a single value (known keys: bundle, transitive)`},
	{"control character", minimal + "node: \"a\\nb\"\n", `8:1: node: holds a control character (write printable text on one line)`},
	{"NUL in a path", minimal + "state: \"/var\\0/x\"\n", `8:1: state: holds a control character (write printable text on one line)`},
	{"yes is not true", minimal + "policy: {transitive: yes}\n", `8:22: policy.transitive: neither true nor false: "yes" (write true or false)`},
	{"node name", minimal + "node: Gate_1\n", `8:7: node: not a node name: "Gate_1" (1 to 63 lower-case letters, digits and '-')`},
	{"tilde", minimal + "state: ~/lychgate\n", `8:8: state: '~' is not expanded (write the whole path)`},
	{"empty path", minimal + "state: \"\"\n", `8:8: state: an empty path (leave the key out, or name a file)`},
	{"database without scheme", minimal + "database: gate.db\n", `8:11: database: "gate.db" does not say what it is (write dir:gate.db for a directory)`},
	{"database in a directory", minimal + "database: dir:/x\n", `8:11: database: cannot be kept at dir: (write sqlite:)`},
	{"database not known yet", minimal + "database: postgres://db/x\n", `8:11: database: no such kind of place: "postgres" (known are dir:PATH, sqlite:PATH, https://HOST/PATH and http://HOST/PATH)`},
	{"blobs on the web", minimal + "blobs: https://x/y\n", `8:8: blobs: cannot be kept at https: (write dir:)`},
	{"no https", "zones: [{name: main}]\nforges: [{name: f, type: static, file: u}]\n", `1:1: https: required, and not given (the door needs at least audience and tls)`},
	{"no audience", replace("  audience: https://gate.example.com\n", ""), `1:1: https.audience: required, and not given (write the address people use, such as https://gate.example.com)`},
	{"audience in the clear", replace("https://gate", "http://gate"), `2:13: https.audience: not an https address without a path: "http://gate.example.com" (write the address people use, such as https://gate.example.com)`},
	{"audience with a path", replace("example.com\n", "example.com/sstate\n"), `2:13: https.audience: not an https address without a path: "https://gate.example.com/sstate" (write the address people use, such as https://gate.example.com)`},
	{"audience in upper case", replace("//gate", "//Gate"), `2:13: https.audience: upper-case letters in a host name (statements are compared letter by letter: write https://gate.example.com)`},
	{"no tls", replace("  tls: {development_ca: true}\n", ""), `1:1: https.tls: required, and not given (give cert and key, or development_ca: true for a trial)`},
	{"cert and development CA", replace("{development_ca: true}", "{development_ca: true, cert: a, key: b}"), `3:3: https.tls: both a certificate and the development CA (remove development_ca, or remove cert and key)`},
	{"cert without key", replace("{development_ca: true}", "{cert: a}"), `3:3: https.tls.key: required, and not given (a certificate needs its private key)`},
	{"key without cert", replace("{development_ca: true}", "{key: a}"), `3:3: https.tls.cert: required, and not given (a private key needs its certificate)`},
	{"listen without port", replace("https:\n", "https:\n  listen: localhost\n"), `2:11: https.listen: not HOST:PORT: "localhost" (write an address and a port, such as 127.0.0.1:8443 or :8443)`},
	{"listen on a large port", replace("https:\n", "https:\n  listen: :70000\n"), `2:11: https.listen: not HOST:PORT: ":70000" (write an address and a port, such as 127.0.0.1:8443 or :8443)`},
	{"mount at the root", replace("https:\n", "https:\n  mount: /\n"), `2:10: https.mount: not a path to mount zones under: "/" (write /sstate, without a slash at the end)`},
	{"mount with dots", replace("https:\n", "https:\n  mount: /a/../b\n"), `2:10: https.mount: not a path to mount zones under: "/a/../b" (write /sstate, without a slash at the end)`},
	{"mount over the API", replace("https:\n", "https:\n  mount: /v1/x\n"), `2:10: https.mount: /v1 is the gate's own (write /sstate)`},
	{"name with a port", replace("https:\n", "https:\n  names: [\"a.example.com:443\"]\n"), `2:11: https.names[0]: neither a host name nor an address: "a.example.com:443" (no scheme, no port, lower-case)`},
	{"names beside a cert", replace("  tls: {development_ca: true}\n", "  tls: {cert: a, key: b}\n  names: [a]\n"), `4:3: https.names: only for tls.development_ca: with tls.cert the certificate says its names (remove https.names)`},
	{"same port", minimal + "admin: {listen: \"127.0.0.1:8443\"}\n", `8:17: admin.listen: the https door listens on :8443 already (choose another port)`},
	{"admin in the clear", minimal + "admin: {listen: \":9443\"}\n", `8:17: admin.listen: plain HTTP beyond this machine (listen on 127.0.0.1 or [::1], or give admin.tls)`},
	{"admin on a name", minimal + "admin: {listen: \"localhost:9443\"}\n", `8:17: admin.listen: plain HTTP beyond this machine (listen on 127.0.0.1 or [::1], or give admin.tls)`},
	{"admin tls of nothing", minimal + "admin: {tls: {}}\n", `8:9: admin.tls: neither a certificate nor the development CA (give cert and key, or development_ca: true for a trial)`},
	{"no zones", replace("zones:\n  - name: main\n", ""), `1:1: zones: required, and not given (declare at least one, such as: - name: main)`},
	{"empty zones", replace("zones:\n  - name: main\n", "zones: []\n"), `4:1: zones: required, and not given (declare at least one, such as: - name: main)`},
	{"zone without a name", replace("- name: main", "- {base: main}"), `5:5: zones[0].name: required, and not given (such as main)
5:12: zones[0].base: no zone is named "main" (declare it under zones)`},
	{"zone name with a slash", replace("- name: main", "- name: a/b"), `5:11: zones[0].name: not a zone name: "a/b" (1 to 63 lower-case letters, digits and '-')`},
	{"zone named ..", replace("- name: main", "- name: .."), `5:11: zones[0].name: not a zone name: ".." (1 to 63 lower-case letters, digits and '-')`},
	{"two zones of one name", replace("- name: main", "- name: main\n  - name: main"), `6:11: zones[1].name: "main" is given twice (names are unique: rename or remove one)`},
	{"review zone as a base", replace("- name: main", "- {name: main, base: review}\n  - {name: review, review: true}"), `5:24: zones[0].base: "review" is a review zone, and "main" is none (protected builds must not read what nobody vouches for: turn the two around)`},
	{"host keys without a door", minimal + "ssh: {host_keys: [a]}\n", `8:1: ssh.listen: required, and not given (such as :2222; without it the door is closed, and the other keys mean nothing)`},
	{"ssh keys that nobody may show", replace("https:\n", "https:\n  ssh_sign_in: false\n") + "ssh: {revoked: [a]}\n", `9:1: ssh.listen: required, and not given (such as :2222; without it the door is closed, and the other keys mean nothing)`},
	{"keys of nobody, without a door", minimal + "ssh: {authorized_keys: [{file: a}]}\n", `8:25: ssh.authorized_keys[0].principal.id: required, and not given (who shows it: the user's id at the forge, or a name of your own without a forge)`},
	{"ssh on the https door", minimal + "ssh: {listen: \":8443\"}\n", `8:15: ssh.listen: https.listen is :8443 already (choose another port)`},
	{"ssh on the admin listener", minimal + "ssh: {listen: \":9443\"}\n", `8:15: ssh.listen: admin.listen is 127.0.0.1:9443 already (choose another port)`},
	{"ssh address without a port", minimal + "ssh: {listen: \":22\", address: gate}\n", `8:31: ssh.address: not HOST:PORT: "gate" (write an address and a port, such as 127.0.0.1:8443 or :8443)`},
	{"keys of nobody", minimal + "ssh: {listen: \":22\", authorized_keys: [{file: a}]}\n", `8:40: ssh.authorized_keys[0].principal.id: required, and not given (who shows it: the user's id at the forge, or a name of your own without a forge)`},
	{"keys of an unknown forge", minimal + "ssh: {listen: \":22\", authorized_keys: [{file: a, principal: {id: a, forge: git.example.org}}]}\n", `8:76: ssh.authorized_keys[0].principal.forge: no forge is named "git.example.org" (did you mean "git.example.com"?)`},
	{"keys without a file", minimal + "ssh: {listen: \":22\", authorized_keys: [{principal: {id: a}}]}\n", `8:40: ssh.authorized_keys[0].file: required, and not given (a file as sshd(8) describes authorized_keys)`},
	{"authority without a name", minimal + "ssh: {listen: \":22\", authorities: [{file: a, forge: git.example.com}]}\n", `8:36: ssh.authorities[0].name: required, and not given (for messages, such as people)`},
	{"authority without users", minimal + "ssh: {listen: \":22\", authorities: [{name: a, file: a}]}\n", `8:36: ssh.authorities[0].forge: required, and not given (where a certificate's principals are names of users; or give rules)`},
	{"authority for ever", minimal + "ssh: {listen: \":22\", authorities: [{name: a, file: a, forge: git.example.com, lifetime: 0s}]}\n", `8:89: ssh.authorities[0].lifetime: not a length of time (write one such as 24h)`},
	{"rule for every certificate", minimal + "ssh: {listen: \":22\", authorities: [{name: a, file: a, rules: [{principal: {id: a}}]}]}\n", `8:63: ssh.authorities[0].rules[0]: neither certified nor key_id (say which certificates these are)`},
	{"too few connections", minimal + "ssh: {listen: \":22\", connections: 0}\n", `8:35: ssh.connections: 0 is out of range (from 1 to 1048576)`},
	{"issuer without a name", minimal + "oidc: [{issuer: \"https://a\", people: {client_id: a, forge: git.example.com}}]\n", `8:8: oidc[0].name: required, and not given (what people choose it by, such as sso)`},
	{"issuer without a URL", minimal + "oidc: [{name: a, people: {client_id: a, forge: git.example.com}}]\n", `8:8: oidc[0].issuer: required, and not given (its URL, as in the iss of its tokens)`},
	{"issuer twice", minimal + "oidc:\n  - {name: a, issuer: \"https://a\", people: {client_id: a, forge: git.example.com}}\n  - {name: b, issuer: \"https://a\", people: {client_id: a, forge: git.example.com}}\n", `10:23: oidc[1].issuer: "https://a" is given twice (names are unique: rename or remove one)`},
	{"issuer over plain http", minimal + "oidc: [{name: a, issuer: \"http://sso.example.com\", people: {client_id: a, forge: git.example.com}}]\n", `8:26: oidc[0].issuer: not an https address: "http://sso.example.com" (keys that came without TLS could be anybody's; write https://HOST/PATH)`},
	{"issuer of nobody", minimal + "oidc: [{name: a, issuer: \"https://a\"}]\n", `8:8: oidc[0]: neither people nor ci (say who comes with its tokens)`},
	{"people without a client", minimal + "oidc: [{name: a, issuer: \"https://a\", people: {forge: git.example.com}}]\n", `8:39: oidc[0].people.client_id: required, and not given (the gate's client at the provider)`},
	{"people without openid", minimal + "oidc: [{name: a, issuer: \"https://a\", people: {client_id: a, forge: git.example.com, scopes: [profile]}}]\n", `8:86: oidc[0].people.scopes: openid is missing (without it the provider gives no ID token)`},
	{"jobs without a match", minimal + "oidc: [{name: a, issuer: \"https://a\", ci: [{profile: gitlab, principal: {id: a}}]}]\n", `8:44: oidc[0].ci[0].match: required, and not given (which jobs these are, such as [project_id=17])`},
	{"jobs of an unknown sort", minimal + "oidc: [{name: a, issuer: \"https://a\", ci: [{profile: jenkins, match: [a=b], principal: {id: a}}]}]\n", `8:54: oidc[0].ci[0].profile: no such profile: "jenkins" (gitlab, github or generic)`},
	{"a match without a value", minimal + "oidc: [{name: a, issuer: \"https://a\", ci: [{profile: generic, match: [a], principal: {id: a}}]}]\n", `8:71: oidc[0].ci[0].match[0]: not CLAIM=VALUE: "a" (such as project_id=17)`},
	{"a job that is a person", minimal + "oidc: [{name: a, issuer: \"https://a\", ci: [{profile: generic, match: [a=b], principal: {id: a, kind: human}}]}]\n", `8:102: oidc[0].ci[0].principal.kind: a job is of kind ci (remove the key)`},
	{"base that is not there", replace("- name: main", "- name: main\n  - {name: review, base: mian}"), `6:26: zones[1].base: no zone is named "mian" (did you mean "main"?)`},
	{"own base", replace("- name: main", "- {name: main, base: main}"), `5:24: zones[0].base: the zones are each other's base: main -> main (remove one base)`},
	{"cycle of three", replace("- name: main", "- {name: a, base: b}\n  - {name: b, base: c}\n  - {name: c, base: a}"), `5:21: zones[0].base: the zones are each other's base: a -> b -> c -> a (remove one base)
6:21: zones[1].base: the zones are each other's base: b -> c -> a -> b (remove one base)
7:21: zones[2].base: the zones are each other's base: c -> a -> b -> c (remove one base)`},
	{"mirror without scheme", replace("- name: main", "- {name: main, mirror: /srv/sstate}"), `5:26: zones[0].mirror: "/srv/sstate" does not say what it is (write dir:/srv/sstate for a directory)`},
	{"mirror in a database", replace("- name: main", "- {name: main, mirror: \"sqlite:x\"}"), `5:26: zones[0].mirror: cannot be kept at sqlite: (write dir: or https: or http:)`},
	{"mirror with a password", replace("- name: main", "- {name: main, mirror: \"https://u:hunter2@h/s\"}"), `5:26: zones[0].mirror: a user or password in an address (write them under mirror_credentials)`},
	{"mirror with a query", replace("- name: main", "- {name: main, mirror: \"https://h/s?x=1\"}"), `5:26: zones[0].mirror: an address with '?' or '#' (write https://HOST/PATH)`},
	{"mirror upwards", replace("- name: main", "- {name: main, mirror: \"https://h/s/../t\"}"), `5:26: zones[0].mirror: an address with '..' (write https://HOST/PATH)`},
	{"mirror without a host", replace("- name: main", "- {name: main, mirror: \"https:///s\"}"), `5:26: zones[0].mirror: not an address of a mirror (write https://HOST/PATH)`},
	{"credentials in the clear", replace("- name: main", "- {name: main, mirror: \"http://h/s\", mirror_credentials: {bearer: \"env:T\"}}"), `5:40: zones[0].mirror_credentials: only an https mirror is shown credentials (write mirror: https://HOST/PATH, or remove them)`},
	{"credentials without a mirror", replace("- name: main", "- {name: main, mirror_credentials: {bearer: \"env:T\"}}"), `5:18: zones[0].mirror_credentials: only an https mirror is shown credentials (write mirror: https://HOST/PATH, or remove them)`},
	{"both credentials", replace("- name: main", "- {name: main, mirror: \"https://h/s\", mirror_credentials: {user: u, password: \"env:P\", bearer: \"env:T\"}}"), `5:41: zones[0].mirror_credentials: both bearer and user and password (keep one)`},
	{"user without a password", replace("- name: main", "- {name: main, mirror: \"https://h/s\", mirror_credentials: {user: u}}"), `5:41: zones[0].mirror_credentials.password: required, and not given (write file:PATH or env:NAME)`},
	{"password without a user", replace("- name: main", "- {name: main, mirror: \"https://h/s\", mirror_credentials: {password: \"env:P\"}}"), `5:41: zones[0].mirror_credentials.user: required, and not given (the name that goes with the password)`},
	{"user with a colon", replace("- name: main", "- {name: main, mirror: \"https://h/s\", mirror_credentials: {user: \"u:x\", password: \"env:P\"}}"), `5:68: zones[0].mirror_credentials.user: holds ':', which Basic authentication cannot carry (write the name alone)`},
	{"no credentials", replace("- name: main", "- {name: main, mirror: \"https://h/s\", mirror_credentials: {}}"), `5:41: zones[0].mirror_credentials: neither user and password nor bearer (give one, or remove the key)`},
	{"literal secret", minimal + "tokens: {key: hunter2}\n", `8:15: tokens.key: a secret may not be written into this file (put it into a file that only its owner can read and write file:PATH, or env:NAME)`},
	{"literal secret with a colon", minimal + "tokens: {key: \"secret:hunter2\"}\n", `8:15: tokens.key: a secret may not be written into this file (put it into a file that only its owner can read and write file:PATH, or env:NAME)`},
	{"secret of no file", minimal + "tokens: {key: \"file:\"}\n", `8:15: tokens.key: a secret may not be written into this file (put it into a file that only its owner can read and write file:PATH, or env:NAME)`},
	{"secret of a bad variable", minimal + "tokens: {key: \"env:A=hunter2\"}\n", `8:15: tokens.key: a secret may not be written into this file (put it into a file that only its owner can read and write file:PATH, or env:NAME)`},
	{"writer without a forge", replace("- name: main", "- {name: main, writers: {users: [ci]}, signers: [x]}\nsigners: {allowed_signers: s}"), `5:36: zones[0].writers.users[0]: "ci" does not say which forge (write FORGE/NAME or FORGE/#ID, such as git.example.com/ci)`},
	{"writer of an unknown forge", replace("- name: main", "- {name: main, writers: {users: [git.exmaple.com/ci]}, signers: [x]}\nsigners: {allowed_signers: s}"), `5:36: zones[0].writers.users[0]: no forge is named "git.exmaple.com" (did you mean "git.example.com"?)`},
	{"nobody", replace("- name: main", "- {name: main, admins: {users: [\"git.example.com/\"]}}"), `5:35: zones[0].admins.users[0]: "git.example.com/" names nobody (write FORGE/NAME or FORGE/#ID)`},
	{"name of no forge", replace("- name: main", "- {name: main, admins: {users: [/root]}}"), `5:35: zones[0].admins.users[0]: "/root" names nobody: without a forge there are only ids (write FORGE/root, or /#root)`},
	{"group by an id", replace("- name: main", "- {name: main, admins: {groups: [\"git.example.com/#7\"]}}"), `5:36: zones[0].admins.groups[0]: a group by an id (write FORGE/GROUP)`},
	{"group of no forge", replace("- name: main", "- {name: main, admins: {groups: [/root]}}"), `5:36: zones[0].admins.groups[0]: "/root" names nobody: without a forge there are only ids (write FORGE/root, or /#root)`},
	{"writers without signers", replace("- name: main", "- {name: main, writers: {users: [/#ci]}}"), `5:5: zones[0].signers: writers without signers: nobody's statement would be taken (list the identities that may sign for this zone)`},
	{"signer nobody knows", replace("- name: main", "- {name: main, signers: [ci-mian]}\nsigners: {keys: [{identity: ci-main, file: k}]}"), `5:28: zones[0].signers[0]: no signer is named "ci-mian" (did you mean "ci-main"?)`},
	{"signer twice", replace("- name: main", "- {name: main, signers: [a, a]}\nsigners: {allowed_signers: s}"), `5:31: zones[0].signers[1]: "a" is given twice (names are unique: rename or remove one)`},
	{"signer key without a file", minimal + "signers: {keys: [{identity: a}]}\n", `8:18: signers.keys[0].file: required, and not given (the public key in PEM)`},
	{"two keys of one identity", minimal + "signers: {keys: [{identity: a, file: x}, {identity: a, file: y}]}\n", `8:53: signers.keys[1].identity: "a" is given twice (names are unique: rename or remove one)`},
	{"no forges", replace("forges:\n  - {name: git.example.com, type: static, file: users.yaml}\n", ""), `1:1: forges: required, and not given (without a forge nobody may read anything that is not public; begin with one of type static)`},
	{"forge without a type", replace(", type: static", ""), `7:5: forges[0].type: required, and not given (write type: static)`},
	{"forge of an unknown type", replace("type: static", "type: gitsrv"), `7:35: forges[0].type: no such type of forge: "gitsrv" (known are static, gitlab, github, gitea, bitbucket, gerrit, gitolite, callback and probe)`},
	{"gitlab without url and token", forgeOf(`type: gitlab`), `7:5: forges[0].url: required, and not given (where the server is, such as https://git.example.com)
7:5: forges[0].token: required, and not given (where the gate's token is: file:PATH or env:NAME)`},
	{"gitlab with a file", forgeOf(`type: gitlab, url: https://g, token: file:t, file: u`), `7:80: forges[0].file: a forge of type gitlab has no use for it (remove it)`},
	{"gitlab with a user in the url", forgeOf(`type: gitlab, url: https://a:b@g, token: file:t`), `7:48: forges[0].url: not the address of a server (write https://HOST[:PORT][/PATH])`},
	{"github with a secret written down", forgeOf(`type: github, url: https://github.com, token: ghp_abc`), `7:75: forges[0].token: a secret may not be written into this file (put it into a file that only its owner can read and write file:PATH, or env:NAME)`},
	{"github with a rate of 1", forgeOf(`type: github, url: https://github.com, token: file:t, rate: 1`), `7:89: forges[0].rate: 1 is out of range (from 2 to 10000)`},
	{"gitlab with half an identity", forgeOf(`type: gitlab, url: https://g, token: file:t, identities: [{issuer: x}]`), `7:87: forges[0].identities[0].provider: required, and not given (what the forge calls it, such as openid_connect)`},
	{"gerrit without a user", forgeOf(`type: gerrit, url: https://g, token: file:t`), `7:5: forges[0].token_user: required, and not given (the user whose HTTP password the token is)`},
	{"gitolite without ssh", forgeOf(`type: gitolite, hosts: [g]`), `7:5: forges[0].ssh: required, and not given (address, key and host_keys)`},
	{"gitolite with half of ssh", forgeOf(`type: gitolite, hosts: [g], ssh: {address: "g:22"}`), `7:57: forges[0].ssh.key: required, and not given (a private key in OpenSSH's format)
7:57: forges[0].ssh.host_keys: required, and not given (a file as known_hosts, with the keys of the server)`},
	{"callback without a secret", forgeOf(`type: callback, url: https://g, hosts: [g]`), `7:5: forges[0].secret: required, and not given (where the secret that the program shares is: file:PATH or env:NAME; or give client, and an https url)`},
	{"callback with a strange question", forgeOf(`type: callback, url: https://g, hosts: [g], secret: file:s, questions: [why]`), `7:101: forges[0].questions[0]: no such question: "why" (known are resolve, user, key and identity)`},
	{"probe without prefixes", forgeOf(`type: probe, url: https://g, check: a/b`), `7:5: forges[0].prefixes: required, and not given (what the forge's tokens begin with, such as [glpat-])`},
	{"gitea with half a client certificate", forgeOf(`type: gitea, url: https://g, token: file:t, client: {cert: c}`), `7:73: forges[0].client.key: required, and not given (its key in PEM)`},
	{"forge with the canary's name", replace("name: git.example.com, type", "name: canary.lychgate, type"), `7:12: forges[0].name: not a forge name: "canary.lychgate" (lower-case letters, digits, '.' and '-')`},
	{"redis without a key", minimal + "redis: {url: \"redis://r:6379/0\"}\n", `8:1: redis.key: required, and not given (make one: openssl rand -base64 32; every node has the same)`},
	{"redis with a password in the url", minimal + "redis: {url: \"redis://u:p@r/0\", key: \"file:k\"}\n", `8:14: redis.url: not the address of a Redis (write redis[s]://HOST:PORT/DB, redis[s]-sentinel:// or redis[s]-cluster://, without user and password)`},
	{"redis without TLS and with an authority", minimal + "redis: {url: \"redis://r/0\", key: \"file:k\", ca: c}\n", `8:14: redis.url: without TLS, and with keys that are for TLS (write rediss, or remove ca and client)`},
	{"redis of too many replicas", minimal + "redis: {url: \"redis://r/0\", key: \"file:k\", replicas: 99}\n", `8:54: redis.replicas: 99 is out of range (from 0 to 16)`},
	{"redis without a url", minimal + "redis: {key: \"file:k\", prefix: \"a b\"}\n", `8:1: redis.url: required, and not given (such as rediss://redis.example.com:6379/0)
8:32: redis.prefix: not a prefix: "a b" (at most 64 letters, digits, '.', '_' and '-')`},
	{"static forge without a file", replace(", file: users.yaml", ""), `7:5: forges[0].file: required, and not given (name the YAML file with its users, groups and rights)`},
	{"forge with a colon", replace("name: git.example.com", "name: \"git.example.com:1\""), `7:12: forges[0].name: not a forge name: "git.example.com:1" (lower-case letters, digits, '.' and '-')`},
	{"two forges of one name", minimal + "  - {name: git.example.com, type: static, file: b.yaml}\n", `8:12: forges[1].name: "git.example.com" is given twice (names are unique: rename or remove one)`},
	{"certificates without a CA", minimal + "certificates: [{uri: \"spiffe://a/b\", principal: {id: a}}]\n", `8:1: certificates: client certificates without an authority to check them against (give https.client_ca)`},
	{"certificate of nothing", replace("https:\n", "https:\n  client_ca: c\n") + "certificates: [{principal: {id: a}}]\n", `9:16: certificates[0]: neither uri nor spki (say which certificate this is)`},
	{"certificate by a name", replace("https:\n", "https:\n  client_ca: c\n") + "certificates: [{uri: ci, principal: {id: a}}]\n", `9:22: certificates[0].uri: not a URI: "ci" (as in the certificate, such as spiffe://example.com/ci/main)`},
	{"short pin", replace("https:\n", "https:\n  client_ca: c\n") + "certificates: [{spki: \"sha256:00\", principal: {id: a}}]\n", `9:23: certificates[0].spki: not the digest of a public key (write sha256: and 64 lower-case hex digits)`},
	{"certificate for nobody", replace("https:\n", "https:\n  client_ca: c\n") + "certificates: [{uri: \"spiffe://a/b\"}]\n", `9:16: certificates[0].principal.id: required, and not given (who shows it: the user's id at the forge, or a name of your own without a forge)`},
	{"certificate of an unknown kind", replace("https:\n", "https:\n  client_ca: c\n") + "certificates: [{uri: \"spiffe://a/b\", principal: {id: a, kind: robot}}]\n", `9:63: certificates[0].principal.kind: no such kind: "robot" (human, ci or service)`},
	{"anonymous certificate", replace("https:\n", "https:\n  client_ca: c\n") + "certificates: [{uri: \"spiffe://a/b\", principal: {id: a, kind: anonymous}}]\n", `9:63: certificates[0].principal.kind: no such kind: "anonymous" (human, ci or service)`},
	{"star in a host", withCA + "certificates: [{uri: \"spiffe://*/b\", principal: {id: a}}]\n", `9:22: certificates[0].uri: no certificate can match "spiffe://*/b": a * or a placeholder may stand in the path only (write SCHEME://HOST/PATH, with '*', {id} or {name} in the path)`},
	{"half a placeholder", withCA + "certificates: [{uri: \"spiffe://a/u-{name}\", principal: {forge: git.example.com}}]\n", `9:22: certificates[0].uri: no certificate can match "spiffe://a/u-{name}": segment "u-{name}" is no placeholder: known are {id} and {name}, as a whole segment (write SCHEME://HOST/PATH, with '*', {id} or {name} in the path)`},
	{"placeholder and an id", withCA + "certificates: [{uri: \"spiffe://a/{id}\", principal: {forge: git.example.com, id: a}}]\n", `9:41: certificates[0].principal: says who it is, and so does {id} of the uri (leave id and name out)`},
	{"placeholder and a name", withCA + "certificates: [{uri: \"spiffe://a/{name}\", principal: {forge: git.example.com, name: a}}]\n", `9:43: certificates[0].principal: says who it is, and so does {name} of the uri (leave id and name out)`},
	{"placeholder without a forge", withCA + "certificates: [{uri: \"spiffe://a/{name}\"}]\n", `9:16: certificates[0].principal.forge: required, and not given (the forge whose users the certificates name)`},
	{"lists without a CA", replace("https:\n", "https:\n  client_crls: [\"file:c.crl\"]\n"), `2:3: https.client_crls: revocation lists without the authorities that sign them (give https.client_ca)`},
	{"a list that is no place", replace("https:\n", "https:\n  client_ca: c\n  client_crls: [c.crl, \"ldap://ca/x\", \"http://\"]\n"), `3:17: https.client_crls[0]: not a place of a revocation list (write file:PATH, https://HOST/PATH or http://HOST/PATH)
3:24: https.client_crls[1]: not a place of a revocation list (write file:PATH, https://HOST/PATH or http://HOST/PATH)
3:39: https.client_crls[2]: not a place of a revocation list (write file:PATH, https://HOST/PATH or http://HOST/PATH)`},
	{"a list behind a password", replace("https:\n", "https:\n  client_ca: c\n  client_crls: [\"https://me:hunter2@ca/x\"]\n"), `3:17: https.client_crls[0]: a user or password in an address (revocation lists are public: remove it)`},
	{"a list at a fragment", replace("https:\n", "https:\n  client_ca: c\n  client_crls: [\"https://ca/x#y\"]\n"), `3:17: https.client_crls[0]: an address with '#' (write file:PATH, https://HOST/PATH or http://HOST/PATH)`},
	{"a list in no file", replace("https:\n", "https:\n  client_ca: c\n  client_crls: [\"file:\"]\n"), `3:17: https.client_crls[0]: an empty path (leave the key out, or name a file)`},
	{"a list twice", replace("https:\n", "https:\n  client_ca: c\n  client_crls: [\"file:a\", \"file:./a\"]\n"), `3:27: https.client_crls[1]: "file:/etc/lychgate/a" is given twice (names are unique: rename or remove one)`},
	{"too much grace", replace("https:\n", "https:\n  client_ca: c\n  client_crls: [\"file:a\"]\n  client_crl_grace: 169h\n"), `4:21: https.client_crl_grace: 169h0m0s is out of range (from 0s to 168h0m0s)`},
	{"grace before the end", replace("https:\n", "https:\n  client_ca: c\n  client_crls: [\"file:a\"]\n  client_crl_grace: -1s\n"), `4:21: https.client_crl_grace: -1s is out of range (from 0s to 168h0m0s)`},
	{"grace for nothing", replace("https:\n", "https:\n  client_ca: c\n  client_crl_grace: 1h\n"), `3:21: https.client_crl_grace: for revocation lists, and there are none (give https.client_crls, or remove it)`},
	{"hash listener of no zone", minimal + "hash: {listeners: [{listen: \"127.0.0.1:1\"}]}\n", `8:20: hash.listeners[0].zone: required, and not given (the zone that is served)`},
	{"hash listener of another zone", minimal + "hash: {listeners: [{listen: \"127.0.0.1:1\", zone: mian}]}\n", `8:50: hash.listeners[0].zone: no zone is named "mian" (did you mean "main"?)`},
	{"hash listener nowhere", minimal + "hash: {listeners: [{zone: main}]}\n", `8:20: hash.listeners[0].listen: required, and not given (such as 127.0.0.1:8686, or unix:PATH)`},
	{"hash in the clear", minimal + "hash: {listeners: [{listen: \":1\", zone: main}]}\n", `8:29: hash.listeners[0].listen: hash equivalence in the clear beyond this machine (listen on 127.0.0.1 or [::1], or give tls: true)`},
	{"hash twice", minimal + "hash: {listeners: [{listen: \"127.0.0.1:1\", zone: main}, {listen: \"127.0.0.1:1\", zone: main}]}\n", `8:66: hash.listeners[1].listen: "127.0.0.1:1" is given twice (names are unique: rename or remove one)`},
	{"hash on the https door", minimal + "hash: {listeners: [{listen: \":8443\", zone: main, tls: true}]}\n", `8:29: hash.listeners[0].listen: https.listen is :8443 already (choose another port)`},
	{"hash on a relative socket", minimal + "hash: {listeners: [{listen: \"unix:s\", zone: main}]}\n", `8:29: hash.listeners[0].listen: a socket's path that is not absolute (write unix:/run/lychgate/hash.sock)`},
	{"hash on a socket with TLS", minimal + "hash: {listeners: [{listen: \"unix:/s\", zone: main, tls: true}]}\n", `8:57: hash.listeners[0].tls: TLS on a socket of this machine (remove it)`},
	{"everybody by TLS", minimal + "hash: {listeners: [{listen: \":1\", zone: main, tls: true, principal: {id: a}}]}\n", `8:58: hash.listeners[0].principal: everybody who can reach a TLS listener would be that principal (remove it: clients sign in; or listen on this machine alone)`},
	{"hash listener for an unknown forge", minimal + "hash: {listeners: [{listen: \"127.0.0.1:1\", zone: main, principal: {id: a, forge: git.example.org}}]}\n", `8:82: hash.listeners[0].principal.forge: no forge is named "git.example.org" (did you mean "git.example.com"?)`},
	{"hash in a directory", minimal + "hash: {database: \"dir:x\"}\n", `8:18: hash.database: cannot be kept at dir: (write sqlite:)`},
	{"hash without memory", minimal + "hash: {memory: 0}\n", `8:16: hash.memory: 0B is out of range (from 1MiB to 1TiB)`},
	{"hash server that is none", replace("- name: main", "- {name: main, hash: {upstream: \"https://h\"}}"), `5:35: zones[0].hash.upstream: not the address of a hash equivalence server (write HOST:PORT, unix://PATH, ws://HOST:PORT/PATH or wss://HOST/PATH, without user and password)`},
	{"hash server with a password", replace("- name: main", "- {name: main, hash: {upstream: \"wss://u:hunter2@h\"}}"), `5:35: zones[0].hash.upstream: not the address of a hash equivalence server (write HOST:PORT, unix://PATH, ws://HOST:PORT/PATH or wss://HOST/PATH, without user and password)`},
	{"hash user without a server", replace("- name: main", "- {name: main, hash: {user: u, password: \"env:P\"}}"), `5:31: zones[0].hash.user: for an upstream, and there is none (give upstream, or remove it)`},
	{"hash user without a password", replace("- name: main", "- {name: main, hash: {upstream: \"h:1\", user: u}}"), `5:18: zones[0].hash.password: user and password come together (give both or none)`},
	{"hash server of two zones", replace("- name: main", "- {name: main, hash: {upstream: \"h:1\"}}\n  - {name: review, base: main, review: true, hash: {upstream: \"h:1\"}}"), `6:63: zones[1].hash.upstream: zone "main" has this server: what the writers of one report, the readers of the other would be told (give each zone a server of its own)`},
	{"hash password in the clear", replace("- name: main", "- {name: main, hash: {upstream: \"ws://h:1/x\", user: u, password: \"env:P\"}}"), `5:68: zones[0].hash.password: a password in the clear beyond this machine (write wss://, or reach the server on this machine)`},
	{"hash authority without TLS", replace("- name: main", "- {name: main, hash: {upstream: \"h:1\", ca: c}}"), `5:46: zones[0].hash.ca: an upstream without TLS shows no certificate (remove it, or write wss://)`},
	{"bundle and switch", minimal + "policy: {bundle: p, transitive: true}\n", `8:33: policy.transitive: a switch of the built-in rule, which policy.bundle replaces (remove one of the two)`},
	{"audit mode", minimal + "audit: {sync: none}\n", `8:15: audit.sync: no such mode: "none" (batch or strict)`},
	{"audit among the blobs", minimal + "audit: {dir: /var/lib/lychgate/blobs/audit}\n", `8:14: audit.dir: lies in the same place as blobs (give each a directory of its own)`},
	{"mirror of the blobs", replace("- name: main", "- {name: main, mirror: \"dir:/var/lib/lychgate/blobs\"}"), `5:26: zones[0].mirror: lies in the same place as blobs (blobs is the gate's own: give it another directory)`},
	{"duration without a unit", minimal + "limits: {idle: 60}\n", `8:16: limits.idle: not a duration: "60" (write a number and ms, s, m or h, such as 30s)`},
	{"no limit", minimal + "limits: {idle: 0s}\n", `8:16: limits.idle: 0s is out of range (from 1s to 1h0m0s)`},
	{"negative duration", minimal + "limits: {idle: -1s}\n", `8:16: limits.idle: -1s is out of range (from 1s to 1h0m0s)`},
	{"overflowing duration", minimal + "limits: {idle: 99999999999h}\n", `8:16: limits.idle: not a duration: "99999999999h" (write a number and ms, s, m or h, such as 30s)`},
	{"decimal size", minimal + "limits: {object_size: 16GB}\n", `8:23: limits.object_size: not a size: "16GB" (write a number and B, KiB, MiB, GiB or TiB, such as 64MiB)`},
	{"negative size", minimal + "limits: {object_size: -1}\n", `8:23: limits.object_size: not a size: "-1" (write a number and B, KiB, MiB, GiB or TiB, such as 64MiB)`},
	{"overflowing size", minimal + "limits: {object_size: 9999999999TiB}\n", `8:23: limits.object_size: not a size: "9999999999TiB" (write a number and B, KiB, MiB, GiB or TiB, such as 64MiB)`},
	{"hex number", minimal + "limits: {streams: 0x10}\n", `8:19: limits.streams: not a whole number: "0x10" (write digits only)`},
	{"too many streams", minimal + "limits: {streams: 100000}\n", `8:19: limits.streams: 100000 is out of range (from 1 to 1000)`},
	{"promise as a key", minimal + "limits: {facts: {hard: 1h}}\n", `8:10: limits.facts: unknown key (known keys here: header_read, idle, progress_window, progress_rate, drain, connections, connections_per_address, requests_per_principal, streams, object_size, upload_objects, upload_min_free, upload_expiry, statement_size, presence_names)`},
	{"several at once", "node: A\nhttps: {listen: x, audience: https://a}\nzones: [{name: m, base: n}]\nfroges: []\n", `1:1: forges: required, and not given (without a forge nobody may read anything that is not public; begin with one of type static)
1:7: node: not a node name: "A" (1 to 63 lower-case letters, digits and '-')
2:1: https.tls: required, and not given (give cert and key, or development_ca: true for a trial)
2:17: https.listen: not HOST:PORT: "x" (write an address and a port, such as 127.0.0.1:8443 or :8443)
3:25: zones[0].base: no zone is named "n" (declare it under zones)
4:1: froges: unknown key (did you mean "forges"?)`},
}

func TestBad(t *testing.T) {
	for _, tc := range bad {
		t.Run(tc.name, func(t *testing.T) {
			c, err := config.Parse([]byte(tc.doc), "/etc/lychgate")
			if c != nil || err == nil {
				t.Fatalf("Parse took it: %+v", c)
			}
			if got := err.Error(); got != tc.want {
				t.Errorf("error is\n%s\nwant\n%s", got, tc.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error repeats a secret")
			}
		})
	}
}

// TestBadPublic leaves the words to the grammar of patterns: what counts is that each is refused, at its place.
func TestBadPublic(t *testing.T) {
	for _, pattern := range []string{
		"**", "*.com/**", "*/x", "https://github.com/a/b", "github.com/a/b.git", "github.com", "git@github.com/a",
		"github.com/a/../b", "github.com/a**/b", "",
	} {
		_, reason := source.ParsePattern(pattern)
		if reason == nil {
			t.Errorf("%q is a pattern", pattern)
			continue
		}
		_, err := config.Parse(fmt.Appendf(nil, "%spublic: [%q]\n", minimal, pattern), "/etc/lychgate")
		if want := fmt.Sprintf("8:10: public[0]: %v (write HOST/PATH, such as github.com/openembedded/*)", reason); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", pattern, err, want)
		}
	}
}

func TestGood(t *testing.T) {
	for name, doc := range map[string]string{
		"every admin address":     minimal + "admin: {listen: \":9443\", tls: {cert: a, key: b}}\n",
		"admin on IPv6 loopback":  minimal + "admin: {listen: \"[::1]:9443\"}\n",
		"same port, two hosts":    replace("https:\n", "https:\n  listen: 192.0.2.1:8443\n") + "admin: {listen: \"127.0.0.1:8443\"}\n",
		"two free ports":          replace("https:\n", "https:\n  listen: 127.0.0.1:0\n") + "admin: {listen: \"127.0.0.1:0\"}\n",
		"actor without a forge":   replace("- name: main", "- {name: main, writers: {users: [/#release]}, signers: [a]}\nsigners: {allowed_signers: s}"),
		"revocation lists":        replace("https:\n", "https:\n  client_ca: c\n  client_crls: [\"file:a\", \"http://ca/x?cmd=crl\", \"https://ca:8080/x\"]\n  client_crl_grace: 168h\n"),
		"user by certificate":     withCA + "certificates: [{uri: \"spiffe://a/u/{name}\", principal: {forge: git.example.com}}, {uri: \"spiffe://b/{id}/x\", principal: {forge: git.example.com, kind: human}}]\n",
		"number as an id":         replace("https:\n", "https:\n  client_ca: c\n") + "certificates: [{uri: \"spiffe://a/b\", principal: {id: 0042}}]\n",
		"chain of bases":          replace("- name: main", "- {name: a, base: b}\n  - {name: b, base: c}\n  - name: c"),
		"sections left empty":     minimal + "admin:\nlimits:\n",
		"plain http mirror":       replace("- name: main", "- {name: main, mirror: \"http://h/s/\"}"),
		"bytes without a unit":    minimal + "limits: {object_size: 1048576}\n",
		"audience with a port":    replace("example.com\n", "example.com:8443\n"),
		"public repository":       minimal + "public: [\"github.com/a/b\", \"git.example.com:8443/x/**\"]\n",
		"development CA by names": replace("https:\n", "https:\n  names: [localhost, 127.0.0.1, \"::1\"]\n"),
	} {
		if _, err := config.Parse([]byte(doc), "/etc/lychgate"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNumbersAreTakenAsWritten(t *testing.T) {
	doc := replace("https:\n", "https:\n  client_ca: c\n") + "certificates: [{uri: \"spiffe://a/b\", principal: {id: 0042}}]\n"
	c, err := config.Parse([]byte(doc), "")
	if err != nil {
		t.Fatal(err)
	}
	want := config.Principal{ID: "0042", Name: "0042", Kind: "ci"}
	if got := c.Certificates[0].Principal; got != want {
		t.Errorf("principal = %+v, want %+v", got, want)
	}
}

// TestCertificateSaysWho: what the certificate says has no default in the document.
func TestCertificateSaysWho(t *testing.T) {
	c, err := config.Parse([]byte(withCA+"certificates: [{uri: \"spiffe://a/{name}\", principal: {forge: git.example.com}}, {uri: \"spiffe://b/{id}\", principal: {forge: git.example.com}}]\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []config.Principal{{Forge: "git.example.com"}, {Forge: "git.example.com", Kind: "ci"}} {
		if got := c.Certificates[i].Principal; got != want {
			t.Errorf("principal %d = %+v, want %+v", i, got, want)
		}
	}
}

// TestCRLFileIsLookedAt: Load says when the file of a list is not there.
func TestCRLFileIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"lychgate.yaml": replace("https:\n", "https:\n  client_ca: users.yaml\n  client_crls: [\"http://ca/x\", \"file:none.crl\"]\n"), "users.yaml": "x\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := config.Load(filepath.Join(dir, "lychgate.yaml"))
	var problems config.Problems
	if !errors.As(err, &problems) || len(problems) != 1 || problems[0].Key != "https.client_crls[1]" {
		t.Errorf("Load = %v, want a problem at https.client_crls[1]", err)
	}
}

// TestLoad shows that Load finds what Parse cannot: files that are not there or not safe.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "lychgate.yaml")
	write("lychgate.yaml", string(config.Example()), 0o644)

	_, err := config.Load(path)
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("Load = %v, want Problems", err)
	}
	var missing []string
	for _, p := range problems {
		missing = append(missing, p.Key)
		if p.File != path || p.Line == 0 || p.Column == 0 || !strings.Contains(p.Reason, "no such file") {
			t.Errorf("problem %+v does not say the file, the place and the reason", p)
		}
	}
	want := []string{
		"https.tls.cert", "https.tls.key", "https.client_ca",
		"ssh.authorized_keys[0].file", "ssh.authorities[0].file", "oidc[0].people.users", "zones[0].mirror_credentials.password", "zones[0].hash.password",
		"signers.allowed_signers", "signers.keys[0].file", "forges[0].file",
	}
	if diff := cmp.Diff(want, missing); diff != "" {
		t.Errorf("missing files (-want +got):\n%s", diff)
	}

	for _, name := range []string{"tls/gate.pem", "tls/clients.pem", "allowed_signers", "keys/ci-review.pub.pem", "users.yaml", "ssh/builders", "ssh/user_ca.pub", "sso-users"} {
		write(name, "x\n", 0o644)
	}
	write("tls/gate.key", "x\n", 0o640)
	write("secrets/hashserv-password", "hunter2\n", 0o600)
	write("secrets/mirror-password", "hunter2\n", 0o644)
	_, err = config.Load(path)
	before, _, _ := strings.Cut(string(config.Example()), "      password: ")
	wantText := fmt.Sprintf("%s:%d:17: zones[0].mirror_credentials.password: read secret %q: mode 0644 lets others at it; run: chmod 600 mirror-password (the secret must be there before the gate starts)",
		path, strings.Count(before, "\n")+1, filepath.Join(dir, "secrets/mirror-password"))
	if err == nil || err.Error() != wantText {
		t.Errorf("Load = %v, want %s", err, wantText)
	}

	write("secrets/mirror-password", "hunter2\r\n", 0o600)
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := c.Zones[0].MirrorCredentials.Password.Read()
	if err != nil || secret.Reveal() != "hunter2" {
		t.Errorf("Read() = %q, %v", secret.Reveal(), err)
	}
}

func TestLoadOfNothing(t *testing.T) {
	if _, err := config.Load(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load = %v, want an error that wraps os.ErrNotExist", err)
	}
}

func TestSecretRead(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) config.Secret {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return config.Secret{Kind: "file", Name: path}
	}
	t.Setenv("LYCHGATE_TEST_SECRET", "from the environment")
	for _, tc := range []struct {
		name   string
		secret config.Secret
		want   string // the secret, or "error: " and a part of the error
	}{
		{"none", config.Secret{}, "error: none was configured"},
		{"env", config.Secret{Kind: "env", Name: "LYCHGATE_TEST_SECRET"}, "from the environment"},
		{"env not set", config.Secret{Kind: "env", Name: "LYCHGATE_TEST_NOT_SET"}, "error: it is empty"},
		{"owner", file("a", "a\n", 0o600), "a"},
		{"owner reads", file("b", "b", 0o400), "b"},
		{"group reads", file("c", "c", 0o440), "c"},
		{"group writes", file("d", "d", 0o660), "error: mode 0660 lets others at it"},
		{"others read", file("e", "e", 0o604), "error: mode 0604 lets others at it"},
		{"empty", file("f", "\n", 0o600), "error: it is empty"},
		{"long", file("g", strings.Repeat("x", 70000), 0o600), "error: longer than 65536 bytes"},
		{"directory", config.Secret{Kind: "file", Name: dir}, "error: not a regular file"},
		{"pipe", pipe(t, filepath.Join(dir, "pipe")), "error: not a regular file"},
		{"absent", config.Secret{Kind: "file", Name: filepath.Join(dir, "none")}, "error: no such file"},
	} {
		got, err := tc.secret.Read()
		text := got.Reveal()
		if err != nil {
			text = "error: " + err.Error()
		}
		if part, isError := strings.CutPrefix(tc.want, "error: "); isError != (err != nil) || isError && !strings.Contains(text, part) || !isError && text != tc.want {
			t.Errorf("%s: Read = %q, want %q", tc.name, text, tc.want)
		}
	}
}

func pipe(t *testing.T, path string) config.Secret {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Secret{Kind: "file", Name: path}
}

// FuzzParse: any bytes give a configuration or problems with a place and a printable text; never both, never a panic;
// and what is taken holds the promises others rest on.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add(config.Example())
	for _, tc := range bad {
		if len(tc.doc) < 4096 {
			f.Add([]byte(tc.doc))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse(data, "/etc/lychgate")
		if (c == nil) == (err == nil) {
			t.Fatalf("Parse = %v, %v", c, err)
		}
		var problems config.Problems
		if err != nil && (!errors.As(err, &problems) || len(problems) == 0) {
			t.Fatalf("error is %T, want Problems", err)
		}
		for _, p := range problems {
			if p.Line < 1 || p.Reason == "" || strings.ContainsAny(p.Error(), "\n\r\x00\x1b") {
				t.Errorf("problem without a place or with raw text: %q", p.Error())
			}
		}
		if c == nil {
			return
		}
		if len(c.Zones) == 0 || len(c.Forges) == 0 || c.HTTPS.TLS.IsZero() {
			t.Errorf("taken, although it breaks a promise: %+v", c)
		}
	})
}

// TestSSHWithoutDoor: keys and certificates are for the https door too, so what is said of them counts without an ssh door.
func TestSSHWithoutDoor(t *testing.T) {
	c, err := config.Parse([]byte(minimal+"ssh: {revoked: [a], authorities: [{name: a, file: a, forge: git.example.com}]}\n"), "/etc/lychgate")
	if err != nil || len(c.SSH.Revoked) != 1 || len(c.SSH.Authorities) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}
