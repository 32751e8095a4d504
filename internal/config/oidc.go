package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// OIDCIssuer is a provider of ID tokens: for people, for CI jobs, or for both.
type OIDCIssuer struct {
	// Name is what people choose it by. Required, unique.
	Name string `yaml:"name"`
	// Issuer is its URL, exactly as in the iss of its tokens. Required.
	Issuer string `yaml:"issuer"`
	// KeysURL is where its keys are, when it serves no discovery document. Default: the document says.
	KeysURL string `yaml:"keys_url"`
	// CA is a PEM file that verifies it. Default: the system's.
	CA Path `yaml:"ca"`
	// People says who comes with an ID token of a person. Default: nobody.
	People *OIDCPeople `yaml:"people"`
	// Audience is what the ID tokens of CI jobs must be made for. Default https.audience.
	Audience string `yaml:"audience"`
	// CI says which jobs come, and as whom. Default none.
	CI []OIDCRule `yaml:"ci"`
}

// OIDCPeople maps the subjects of ID tokens to users of a forge. What is given is asked in this order: subject_is_id, the forge's own
// table of identities, what users have linked, users, trust_preferred_username. An e-mail address is never looked at.
type OIDCPeople struct {
	// ClientID is the gate's client at the provider: a public client with device flow, or code and PKCE. Required.
	ClientID string `yaml:"client_id"`
	// Scopes are what people ask for. Default openid.
	Scopes []string `yaml:"scopes"`
	// Forge is whose users they are. Required.
	Forge string `yaml:"forge"`
	// SubjectIsID says that the forge itself is the provider: a subject is a user's id there. Default false.
	SubjectIsID bool `yaml:"subject_is_id"`
	// Users is a file of subjects and ids of users, one pair a line. Reread when it changes.
	Users Path `yaml:"users"`
	// TrustPreferredUsername takes preferred_username for the name of a user. Only where the provider assigns it and never gives it
	// to another. Default false.
	TrustPreferredUsername bool `yaml:"trust_preferred_username"`
}

// OIDCRule says which CI jobs are a principal.
type OIDCRule struct {
	// Profile is "gitlab", "github" or "generic". Required.
	Profile string `yaml:"profile"`
	// Match are CLAIM=VALUE, all of which a job's token must hold; of several values for one claim, one. A value may hold one '*' for a
	// part without a slash. A gitlab rule must name project_id or namespace_id, a github rule repository_id or repository_owner_id.
	Match []string `yaml:"match"`
	// Protected takes jobs on protected refs alone, and no forks, merge or pull requests. Without it, the principal writes to review
	// zones at most. Default false.
	Protected bool `yaml:"protected"`
	// Principal is who the job is. Its id and name may hold {CLAIM} for a claim of match. Required; the kind is ci.
	Principal Principal `yaml:"principal"`
}

// Claims returns what Match says, by claim.
func (r OIDCRule) Claims() map[string][]string {
	claims := map[string][]string{}
	for _, text := range r.Match {
		name, value, _ := strings.Cut(text, "=")
		claims[name] = append(claims[name], value)
	}
	return claims
}

var claimName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_:/.-]{0,99}$`)

func (p *parser) checkOIDC(c *Config, forges []string) {
	var names, issuers []string
	for i, o := range c.OIDC {
		key := fmt.Sprintf("oidc[%d]", i)
		if p.required(key+".name", o.Name == "", "what people choose it by, such as sso") && p.sound(key+".name") {
			p.unique(key+".name", o.Name, names)
			if !zoneName.MatchString(o.Name) {
				p.add(key+".name", fmt.Sprintf("not a name: %q", o.Name), "1 to 63 lower-case letters, digits and '-'")
			}
			names = append(names, o.Name)
		}
		if p.required(key+".issuer", o.Issuer == "", "its URL, as in the iss of its tokens") {
			p.unique(key+".issuer", o.Issuer, issuers)
			p.issuerURL(key+".issuer", o.Issuer)
			issuers = append(issuers, o.Issuer)
		}
		if o.KeysURL != "" {
			p.issuerURL(key+".keys_url", o.KeysURL)
		}
		if o.People == nil && len(o.CI) == 0 && p.sound(key) {
			p.add(key, "neither people nor ci", "say who comes with its tokens")
		}
		if o.People != nil {
			p.checkPeople(key+".people", o.People, forges)
		}
		for j, r := range o.CI {
			p.checkOIDCRule(fmt.Sprintf("%s.ci[%d]", key, j), r, forges)
		}
	}
}

// issuerURL checks an address that the gate asks: https, or http on this machine, as in trials.
func (p *parser) issuerURL(key, text string) {
	if !p.sound(key) {
		return
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		p.add(key, fmt.Sprintf("not the address of a provider: %q", text), "write https://HOST/PATH")
	case u.Scheme != "https" && !(u.Scheme == "http" && loopbackHost(u.Hostname())):
		p.add(key, fmt.Sprintf("not an https address: %q", text), "keys that came without TLS could be anybody's; write https://HOST/PATH")
	}
}

func (p *parser) checkPeople(key string, o *OIDCPeople, forges []string) {
	p.required(key+".client_id", o.ClientID == "", "the gate's client at the provider")
	p.required(key+".forge", o.Forge == "", "whose users they are")
	p.checkForgeOf(key+".forge", o.Forge, forges)
	if len(o.Scopes) > 0 && !slices.Contains(o.Scopes, "openid") && p.sound(key+".scopes") {
		p.add(key+".scopes", "openid is missing", "without it the provider gives no ID token")
	}
}

func (p *parser) checkOIDCRule(key string, r OIDCRule, forges []string) {
	if p.required(key+".profile", r.Profile == "", "gitlab, github or generic") && p.sound(key+".profile") &&
		!slices.Contains([]string{"gitlab", "github", "generic"}, r.Profile) {
		p.add(key+".profile", fmt.Sprintf("no such profile: %q", r.Profile), "gitlab, github or generic")
	}
	p.required(key+".match", len(r.Match) == 0, "which jobs these are, such as [project_id=17]")
	for i, text := range r.Match {
		at := fmt.Sprintf("%s.match[%d]", key, i)
		if name, value, ok := strings.Cut(text, "="); (!ok || value == "" || !claimName.MatchString(name)) && p.sound(at) {
			p.add(at, fmt.Sprintf("not CLAIM=VALUE: %q", text), "such as project_id=17")
		}
	}
	p.checkPrincipal(key+".principal", r.Principal, forges)
	if k := r.Principal.Kind; k != "" && k != "ci" && p.sound(key+".principal.kind") {
		p.add(key+".principal.kind", "a job is of kind ci", "remove the key")
	}
}

// checkOIDCFiles looks at what the providers' keys name.
func (p *parser) checkOIDCFiles(c *Config) {
	for i, o := range c.OIDC {
		p.file(fmt.Sprintf("oidc[%d].ca", i), o.CA)
		if o.People != nil {
			p.file(fmt.Sprintf("oidc[%d].people.users", i), o.People.Users)
		}
	}
}
