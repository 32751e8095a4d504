package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Forge is a git server with users and permissions. Which keys a type takes, and needs, is said with each.
type Forge struct {
	// Name is how records and principals name it: usually its host. Required, unique. It is part of every record: it is never
	// changed.
	Name string `yaml:"name"`
	// Type is "static" for users, groups and rights in a YAML file, "gitlab", "github" (also an Enterprise Server), "gitea" (also
	// Forgejo), "bitbucket" (Data Center), "gerrit", "gitolite", "callback" for a program of your own that is asked over HTTP, or
	// "probe" for any server that people show their own token to. Required.
	Type string `yaml:"type"`
	// File is the YAML file of a static forge. Required there. Reread when it changes.
	File Path `yaml:"file"`
	// URL is where the server is: https://HOST[:PORT][/PATH]. Required but for static and gitolite.
	URL string `yaml:"url"`
	// Hosts are the hosts that sources name, HOST or HOST:PORT. Default: the URL's. A static forge has its own in the file.
	Hosts []string `yaml:"hosts"`
	// Token is what the gate shows the server. The operator guide lists the rights that it needs. It is read anew for each
	// request. Required for gitlab, github, gitea, bitbucket and gerrit.
	Token Secret `yaml:"token"`
	// TokenUser is the user of an HTTP password, for gerrit, or what goes with a token where HTTP wants a user, for probe.
	TokenUser string `yaml:"token_user"`
	// RunAs asks gerrit for all that a user sees at once, as that user. It needs the capability Run As. Default false.
	RunAs bool `yaml:"run_as"`
	// Refs must all be readable to who reads a project of gerrit, such as refs/heads/main. Default: any branch is enough.
	Refs []string `yaml:"refs"`
	// Questions are those that a callback answers beside access: of resolve, user, key and identity.
	Questions []string `yaml:"questions"`
	// Prefixes are what the tokens begin with that are shown to probe, such as glpat-. Required there: whatever begins so is shown to
	// the server.
	Prefixes []string `yaml:"prefixes"`
	// PlainPaths asks for repositories without .git at the end, for probe.
	PlainPaths bool `yaml:"plain_paths"`
	// CA is a PEM file with the authorities that verify the server. Default: the system's.
	CA Path `yaml:"ca"`
	// Client is the certificate that the gate shows the server. Default none.
	Client KeyPair `yaml:"client"`
	// HookSecret signs what the server posts to /v1/hooks/NAME. Default: nothing that it posts is believed.
	HookSecret Secret `yaml:"hook_secret"`
	// Secret authenticates questions and answers of a callback, and is required there.
	Secret Secret `yaml:"secret"`
	// Rate is how many requests a second the server is asked at most. Default 20.
	Rate int `yaml:"rate"`
	// Concurrency is how many requests it is asked at once. Default 16.
	Concurrency int `yaml:"concurrency"`
	// Identities says what gitlab calls the issuers of the oidc section in its own table of users' identities.
	Identities []ForgeIdentity `yaml:"identities"`
	// Orgs are the organizations of github whose members' SSH keys are known.
	Orgs []string `yaml:"orgs"`
	// SiteAdmin says that the token is a site administrator's of a GitHub Enterprise Server.
	SiteAdmin bool `yaml:"site_admin"`
	// Nobody is a user of bitbucket who may read nothing that is not public: if that one may, no answer is believed.
	Nobody string `yaml:"nobody"`
	// Check is the path of a repository that everybody with an account may read, for probe: a token that cannot is nobody's.
	Check string `yaml:"check"`
	// SSH is how gitolite is asked, and where gerrit tells what changes.
	SSH ForgeSSH `yaml:"ssh"`
}

// ForgeIdentity ties an issuer of ID tokens to the name that a forge has for it.
type ForgeIdentity struct {
	// Issuer is as in the iss of its tokens. Required.
	Issuer string `yaml:"issuer"`
	// Provider is the forge's name for it, as "openid_connect". Required.
	Provider string `yaml:"provider"`
}

// ForgeSSH is how a forge is reached over SSH.
type ForgeSSH struct {
	// Address is HOST:PORT. Required with the others.
	Address string `yaml:"address"`
	// User is whom the gate signs in as. Default git.
	User string `yaml:"user"`
	// Key is a private key in OpenSSH's format. Required with the others.
	Key Path `yaml:"key"`
	// HostKeys is a file as ssh's known_hosts, with the server's keys. Required with the others.
	HostKeys Path `yaml:"host_keys"`
}

// KeyPair is a certificate and its key, in PEM.
type KeyPair struct {
	Cert Path `yaml:"cert"`
	Key  Path `yaml:"key"`
}

// IsZero reports whether nothing was configured.
func (k KeyPair) IsZero() bool { return k == KeyPair{} }

// The requests that a forge is asked when the document says nothing.
const (
	defaultForgeRate        = 20
	defaultForgeConcurrency = 16
)

// forgeKeys are the keys each type takes besides name and type. Those with a '!' are required.
var forgeKeys = map[string][]string{
	"static":    {"file!"},
	"gitlab":    {"url!", "hosts", "token!", "ca", "client", "hook_secret", "rate", "concurrency", "identities"},
	"github":    {"url!", "hosts", "token!", "ca", "client", "hook_secret", "rate", "concurrency", "orgs", "site_admin"},
	"gitea":     {"url!", "hosts", "token!", "ca", "client", "hook_secret", "rate", "concurrency"},
	"bitbucket": {"url!", "hosts", "token!", "ca", "client", "hook_secret", "rate", "concurrency", "nobody"},
	"gerrit":    {"url!", "hosts", "token!", "token_user!", "run_as", "refs", "ca", "client", "rate", "concurrency", "ssh"},
	"gitolite":  {"hosts!", "ssh!", "hook_secret"},
	"callback":  {"url!", "hosts!", "secret!", "questions", "ca", "client", "hook_secret", "rate", "concurrency"},
	"probe":     {"url!", "hosts", "check!", "prefixes!", "plain_paths", "token", "token_user", "ca", "client", "rate", "concurrency"},
}

// forgeTypes is their order in messages.
var forgeTypes = []string{"static", "gitlab", "github", "gitea", "bitbucket", "gerrit", "gitolite", "callback", "probe"}

func (p *parser) checkForges(forges []Forge) (names []string) {
	p.required("forges", len(forges) == 0, "without a forge nobody may read anything that is not public; begin with one of type static")
	for i := range forges {
		f := &forges[i]
		key := fmt.Sprintf("forges[%d]", i)
		if p.required(key+".name", f.Name == "", "usually the git server's host, such as git.example.com") {
			p.unique(key+".name", f.Name, names)
			if !forgeName.MatchString(f.Name) || f.Name == "canary.lychgate" {
				p.add(key+".name", fmt.Sprintf("not a forge name: %q", f.Name), "lower-case letters, digits, '.' and '-'")
			}
			names = append(names, f.Name)
		}
		if p.required(key+".type", f.Type == "", "write type: static") {
			p.checkForge(key, f)
		}
	}
	return names
}

func (p *parser) checkForge(key string, f *Forge) {
	takes, known := forgeKeys[f.Type]
	if !known {
		if p.sound(key + ".type") {
			last := len(forgeTypes) - 1
			p.add(key+".type", fmt.Sprintf("no such type of forge: %q", f.Type), "known are "+strings.Join(forgeTypes[:last], ", ")+" and "+forgeTypes[last])
		}
		return
	}
	for _, name := range takes {
		if bare, needed := strings.CutSuffix(name, "!"); needed {
			p.required(key+"."+bare, !p.given(key+"."+bare), forgeHints[bare])
		}
	}
	for name := range forgeHints {
		if p.given(key+"."+name) && !slices.Contains(takes, name) && !slices.Contains(takes, name+"!") && p.sound(key+"."+name) {
			p.add(key+"."+name, "a forge of type "+f.Type+" has no use for it", "remove it")
		}
	}
	p.checkForgeValues(key, f)
}

// forgeHints says for each key what belongs there.
var forgeHints = map[string]string{
	"file":        "name the YAML file with its users, groups and rights",
	"url":         "where the server is, such as https://git.example.com",
	"hosts":       "the hosts that SRC_URI names, such as [git.example.com]",
	"token":       "where the gate's token is: file:PATH or env:NAME",
	"token_user":  "the user whose HTTP password the token is",
	"run_as":      "true or false",
	"refs":        "a list such as [refs/heads/main]",
	"questions":   "a list of resolve, user, key and identity",
	"prefixes":    "what the forge's tokens begin with, such as [glpat-]",
	"plain_paths": "true or false",
	"ca":          "a PEM file",
	"client":      "cert and key in PEM",
	"hook_secret": "where the secret of its hooks is: file:PATH or env:NAME",
	"secret":      "where the secret that the program shares is: file:PATH or env:NAME",
	"rate":        "requests a second",
	"concurrency": "requests at once",
	"identities":  "a list of issuer and provider",
	"orgs":        "the organizations whose members build",
	"site_admin":  "true or false",
	"nobody":      "a user who may read nothing",
	"check":       "the path of a repository that everybody with an account may read",
	"ssh":         "address, key and host_keys",
}

func (p *parser) checkForgeValues(key string, f *Forge) {
	if f.URL != "" && p.sound(key+".url") {
		u, err := url.Parse(f.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			p.add(key+".url", "not the address of a server", "write https://HOST[:PORT][/PATH]")
		}
	}
	for _, bound := range []struct {
		name  string
		value *int
		usual int
	}{
		{"rate", &f.Rate, defaultForgeRate}, {"concurrency", &f.Concurrency, defaultForgeConcurrency},
	} {
		if !slices.Contains(forgeKeys[f.Type], bound.name) {
			continue
		}
		if !p.given(key + "." + bound.name) {
			*bound.value = bound.usual
		} else if (*bound.value < 2 || *bound.value > 10_000) && p.sound(key+"."+bound.name) {
			p.add(key+"."+bound.name, fmt.Sprintf("%d is out of range", *bound.value), "from 2 to 10000")
		}
	}
	for i, id := range f.Identities {
		at := fmt.Sprintf("%s.identities[%d]", key, i)
		p.required(at+".issuer", id.Issuer == "", "as in the iss of its tokens")
		p.required(at+".provider", id.Provider == "", "what the forge calls it, such as openid_connect")
	}
	for i, q := range f.Questions {
		if !slices.Contains([]string{"resolve", "user", "key", "identity"}, q) {
			p.add(fmt.Sprintf("%s.questions[%d]", key, i), fmt.Sprintf("no such question: %q", q), "known are resolve, user, key and identity")
		}
	}
	if p.given(key + ".client") {
		p.required(key+".client.cert", f.Client.Cert == "", "the certificate in PEM")
		p.required(key+".client.key", f.Client.Key == "", "its key in PEM")
	}
	if p.given(key + ".ssh") {
		p.required(key+".ssh.address", f.SSH.Address == "", "HOST:PORT of its ssh server")
		p.required(key+".ssh.key", f.SSH.Key == "", "a private key in OpenSSH's format")
		p.required(key+".ssh.host_keys", f.SSH.HostKeys == "", "a file as known_hosts, with the keys of the server")
		if f.SSH.User == "" {
			f.SSH.User = "git"
		}
	}
}

// checkForgeFiles looks at what the document names.
func (p *parser) checkForgeFiles(forges []Forge) {
	for i := range forges {
		f := &forges[i]
		key := fmt.Sprintf("forges[%d]", i)
		p.file(key+".file", f.File)
		p.secret(key+".token", f.Token)
		p.secret(key+".hook_secret", f.HookSecret)
		p.secret(key+".secret", f.Secret)
		p.file(key+".ca", f.CA)
		p.tlsFiles(key+".client", TLS{Cert: f.Client.Cert, Key: f.Client.Key})
		if p.file(key+".ssh.key", f.SSH.Key) {
			p.secret(key+".ssh.key", Secret{"file", string(f.SSH.Key)})
		}
		p.file(key+".ssh.host_keys", f.SSH.HostKeys)
	}
}
