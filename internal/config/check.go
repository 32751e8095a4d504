package config

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

var (
	zoneName  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	forgeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	hostName  = regexp.MustCompile(`^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	mountPath = regexp.MustCompile(`^(/[a-z0-9][a-z0-9._-]*)+$`)
)

// reserved are the first path segments that the https door keeps for itself.
var reserved = []string{"v1", "hash", "healthz", "readyz", "metrics", ".well-known"}

// check finds contradictions between keys. It returns the audience's host name, or "" when there is none.
func (p *parser) check(c *Config) string {
	if p.sound("node") && !zoneName.MatchString(c.Node) {
		p.add("node", fmt.Sprintf("not a node name: %q", c.Node), "1 to 63 lower-case letters, digits and '-'")
	}
	p.scheme("database", c.Database, "sqlite")
	p.scheme("blobs", c.Blobs, "dir")
	host := p.checkHTTPS(&c.HTTPS)
	p.checkAdmin(c)
	forges := p.checkForges(c.Forges)
	p.checkRedis(&c.Redis)
	signers := p.checkSigners(c.Signers)
	p.checkZones(c, forges, signers)
	p.checkSSH(c, forges)
	p.checkHash(c, forges)
	p.checkOIDC(c, forges)
	p.checkPublic(c.Public)
	p.checkCertificates(c, forges)
	if c.Policy.Bundle != "" && c.Policy.Transitive {
		p.add("policy.transitive", "a switch of the built-in rule, which policy.bundle replaces", "remove one of the two")
	}
	if p.sound("audit.sync") && c.Audit.Sync != "batch" && c.Audit.Sync != "strict" {
		p.add("audit.sync", fmt.Sprintf("no such mode: %q", c.Audit.Sync), "batch or strict")
	}
	p.checkBounds(c)
	return host
}

// required notes an absent key, and reports whether it is there.
func (p *parser) required(key string, absent bool, hint string) bool {
	if absent && p.sound(key) {
		p.add(key, "required, and not given", hint)
	}
	return !absent
}

func (p *parser) scheme(key string, l Location, allowed ...string) {
	if l.IsZero() || !p.sound(key) || slices.Contains(allowed, l.Scheme) {
		return
	}
	p.add(key, fmt.Sprintf("cannot be kept at %s:", l.Scheme), "write "+strings.Join(allowed, ": or ")+":")
}

func (p *parser) checkHTTPS(h *HTTPS) (host string) {
	if !p.required("https", !p.given("https"), "the door needs at least audience and tls") {
		return ""
	}
	p.listen("https.listen", h.Listen)
	if p.sound("https.mount") {
		first, _, _ := strings.Cut(strings.TrimPrefix(h.Mount, "/"), "/")
		switch {
		case !mountPath.MatchString(h.Mount):
			p.add("https.mount", fmt.Sprintf("not a path to mount zones under: %q", h.Mount), "write /sstate, without a slash at the end")
		case slices.Contains(reserved, first):
			p.add("https.mount", fmt.Sprintf("/%s is the gate's own", first), "write /sstate")
		}
	}
	if p.required("https.audience", h.Audience == "", "write the address people use, such as https://gate.example.com") && p.sound("https.audience") {
		host = p.audience(h.Audience)
	}
	for i, name := range h.Names {
		key := fmt.Sprintf("https.names[%d]", i)
		if _, err := netip.ParseAddr(name); err != nil && !hostName.MatchString(name) && p.sound(key) {
			p.add(key, fmt.Sprintf("neither a host name nor an address: %q", name), "no scheme, no port, lower-case")
		}
	}
	if len(h.Names) > 0 && h.TLS.Cert != "" {
		p.add("https.names", "only for tls.development_ca: with tls.cert the certificate says its names", "remove https.names")
	}
	if p.required("https.tls", h.TLS.IsZero(), "give cert and key, or development_ca: true for a trial") {
		p.checkTLS("https.tls", h.TLS)
	}
	p.checkCRLs(h)
	return host
}

func (p *parser) checkCRLs(h *HTTPS) {
	if len(h.ClientCRLs) > 0 && h.ClientCA == "" && p.sound("https.client_ca") {
		p.add("https.client_crls", "revocation lists without the authorities that sign them", "give https.client_ca")
	}
	if len(h.ClientCRLs) == 0 && h.ClientCRLGrace != 0 && p.sound("https.client_crls") {
		p.add("https.client_crl_grace", "for revocation lists, and there are none", "give https.client_crls, or remove it")
	}
	var before []string
	for i, l := range h.ClientCRLs {
		if key := fmt.Sprintf("https.client_crls[%d]", i); p.sound(key) {
			p.unique(key, l.String(), before)
			before = append(before, l.String())
		}
	}
}

func (p *parser) audience(text string) (host string) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(text, "#") || u.ForceQuery {
		p.add("https.audience", fmt.Sprintf("not an https address without a path: %q", text), "write the address people use, such as https://gate.example.com")
		return ""
	}
	if u.Host != strings.ToLower(u.Host) {
		p.add("https.audience", "upper-case letters in a host name", "statements are compared letter by letter: write "+strings.ToLower(text))
		return ""
	}
	return u.Hostname()
}

func (p *parser) checkTLS(key string, t TLS) {
	switch {
	case t.DevelopmentCA && (t.Cert != "" || t.Key != ""):
		p.add(key, "both a certificate and the development CA", "remove development_ca, or remove cert and key")
	case t.Cert != "" && t.Key == "":
		p.required(key+".key", true, "a certificate needs its private key")
	case t.Key != "" && t.Cert == "":
		p.required(key+".cert", true, "a private key needs its certificate")
	case t.IsZero() && p.sound(key):
		p.add(key, "neither a certificate nor the development CA", "give cert and key, or development_ca: true for a trial")
	}
}

// listen checks HOST:PORT.
func (p *parser) listen(key, text string) {
	if !p.sound(key) {
		return
	}
	_, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		p.add(key, fmt.Sprintf("not HOST:PORT: %q", text), "write an address and a port, such as 127.0.0.1:8443 or :8443")
	}
}

func (p *parser) checkAdmin(c *Config) {
	p.listen("admin.listen", c.Admin.Listen)
	if !c.Admin.TLS.IsZero() || p.given("admin.tls") {
		p.checkTLS("admin.tls", c.Admin.TLS)
	}
	if !p.sound("admin") || !p.sound("https.listen") {
		return
	}
	if !c.Admin.Loopback() && c.Admin.TLS.IsZero() {
		p.add("admin.listen", "plain HTTP beyond this machine", "listen on 127.0.0.1 or [::1], or give admin.tls")
	}
	if overlap(c.HTTPS.Listen, c.Admin.Listen) {
		p.add("admin.listen", fmt.Sprintf("the https door listens on %s already", c.HTTPS.Listen), "choose another port")
	}
}

// Loopback reports whether the admin listener can be reached from this machine alone. A host name is never taken
// for one: what it resolves to may change.
func (a Admin) Loopback() bool {
	host, _, err := net.SplitHostPort(a.Listen)
	if err != nil {
		return false
	}
	return loopbackHost(host)
}

func loopbackHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// overlap reports whether two listen addresses want the same port of the same address.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	every := func(host string) bool { return host == "" || host == "0.0.0.0" || host == "::" }
	return hostA == hostB || every(hostA) || every(hostB)
}

func (p *parser) unique(key, name string, before []string) {
	if i := slices.Index(before, name); i >= 0 {
		p.add(key, fmt.Sprintf("%q is given twice", name), "names are unique: rename or remove one")
	}
}

func (p *parser) checkSigners(s Signers) (identities []string) {
	for i, k := range s.Keys {
		key := fmt.Sprintf("signers.keys[%d]", i)
		if p.required(key+".identity", k.Identity == "", "what zones call the holder of this key") {
			p.unique(key+".identity", k.Identity, identities)
			identities = append(identities, k.Identity)
		}
		p.required(key+".file", k.File == "", "the public key in PEM")
	}
	return identities
}

func (p *parser) checkZones(c *Config, forges, signers []string) {
	p.required("zones", len(c.Zones) == 0, "declare at least one, such as: - name: main")
	bases, reviewed := map[string]string{}, map[string]bool{}
	var names []string
	for i, z := range c.Zones {
		key := fmt.Sprintf("zones[%d]", i)
		if p.required(key+".name", z.Name == "", "such as main") && p.sound(key+".name") {
			p.unique(key+".name", z.Name, names)
			if !zoneName.MatchString(z.Name) {
				p.add(key+".name", fmt.Sprintf("not a zone name: %q", z.Name), "1 to 63 lower-case letters, digits and '-'")
			}
		}
		names = append(names, z.Name)
		bases[z.Name], reviewed[z.Name] = z.Base, z.Review
	}
	for i, z := range c.Zones {
		key := fmt.Sprintf("zones[%d]", i)
		p.checkBase(key+".base", z, bases, reviewed, names)
		p.checkMirror(key, z)
		p.checkMembers(key+".writers", z.Writers, forges)
		p.checkMembers(key+".admins", z.Admins, forges)
		p.checkZoneSigners(key, z, c.Signers, signers)
	}
}

func (p *parser) checkBase(key string, z Zone, bases map[string]string, reviewed map[string]bool, names []string) {
	if z.Base == "" || !p.sound(key) {
		return
	}
	if _, ok := bases[z.Base]; !ok {
		hint := "declare it under zones"
		if near := nearest(z.Base, names); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		p.add(key, fmt.Sprintf("no zone is named %q", z.Base), hint)
		return
	}
	if reviewed[z.Base] && !z.Review {
		p.add(key, fmt.Sprintf("%q is a review zone, and %q is none", z.Base, z.Name), "protected builds must not read what nobody vouches for: turn the two around")
		return
	}
	walk := []string{z.Name}
	for at := z.Base; at != "" && len(walk) <= len(bases); at = bases[at] {
		walk = append(walk, at)
		if at == z.Name {
			p.add(key, "the zones are each other's base: "+strings.Join(walk, " -> "), "remove one base")
			return
		}
	}
}

func (p *parser) checkMirror(key string, z Zone) {
	p.scheme(key+".mirror", z.Mirror, "dir", "https", "http")
	cred, at := z.MirrorCredentials, key+".mirror_credentials"
	if cred.IsZero() {
		if p.given(at) && p.sound(at) {
			p.add(at, "neither user and password nor bearer", "give one, or remove the key")
		}
		return
	}
	if z.Mirror.Scheme != "https" && p.sound(key+".mirror") {
		p.add(at, "only an https mirror is shown credentials", "write mirror: https://HOST/PATH, or remove them")
	}
	switch {
	case !cred.Bearer.IsZero() && (cred.User != "" || !cred.Password.IsZero()):
		p.add(at, "both bearer and user and password", "keep one")
	case cred.User != "" && cred.Password.IsZero():
		p.required(at+".password", true, "write file:PATH or env:NAME")
	case cred.User == "" && !cred.Password.IsZero():
		p.required(at+".user", true, "the name that goes with the password")
	}
	if strings.Contains(cred.User, ":") {
		p.add(at+".user", "holds ':', which Basic authentication cannot carry", "write the name alone")
	}
}

// checkMirrorURL returns what is wrong with the address of a mirror; it never repeats a password.
func checkMirrorURL(text string) *fault {
	const hint = "write https://HOST/PATH"
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "":
		return &fault{"not an address of a mirror", hint}
	case u.User != nil:
		return &fault{"a user or password in an address", "write them under mirror_credentials"}
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return &fault{"an address with '?' or '#'", hint}
	case slices.Contains(strings.Split(u.Path, "/"), ".."):
		return &fault{"an address with '..'", hint}
	}
	return nil
}

func (p *parser) checkMembers(key string, m Members, forges []string) {
	for i, s := range m.Users {
		p.checkForgeOf(fmt.Sprintf("%s.users[%d]", key, i), s.Forge, forges)
	}
	for i, s := range m.Groups {
		at := fmt.Sprintf("%s.groups[%d]", key, i)
		if strings.HasPrefix(s.Name, "#") && p.sound(at) {
			p.add(at, "a group by an id", "write FORGE/GROUP")
		}
		p.checkForgeOf(at, s.Forge, forges)
	}
}

func (p *parser) checkForgeOf(key, forge string, forges []string) {
	if forge == "" || slices.Contains(forges, forge) || !p.sound(key) || !p.sound("forges") {
		return
	}
	hint := "declare it under forges"
	if near := nearest(forge, forges); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	p.add(key, fmt.Sprintf("no forge is named %q", forge), hint)
}

func (p *parser) checkZoneSigners(key string, z Zone, s Signers, identities []string) {
	if !z.Writers.IsZero() && len(z.Signers) == 0 && p.sound(key+".signers") {
		p.add(key+".signers", "writers without signers: nobody's statement would be taken", "list the identities that may sign for this zone")
	}
	var before []string
	for i, id := range z.Signers {
		at := fmt.Sprintf("%s.signers[%d]", key, i)
		if !p.required(at, id == "", "an identity, as signers names it") {
			continue
		}
		p.unique(at, id, before)
		before = append(before, id)
		// allowed_signers names identities too, and may change while the gate runs.
		job := s.JobAuthority != "" && (strings.HasPrefix(id, provenance.JobPrefix) || strings.HasPrefix(id, provenance.ReviewJobPrefix))
		if s.AllowedSigners == "" && !job && !slices.Contains(identities, id) && p.sound("signers") {
			hint := "add it under signers.keys, or give signers.allowed_signers"
			if near := nearest(id, identities); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			p.add(at, fmt.Sprintf("no signer is named %q", id), hint)
		}
	}
}

func (p *parser) checkPublic(patterns []string) {
	for i, text := range patterns {
		key := fmt.Sprintf("public[%d]", i)
		if _, err := source.ParsePattern(text); err != nil && p.sound(key) {
			p.add(key, err.Error(), "write HOST/PATH, such as github.com/openembedded/*")
		}
	}
}

func (p *parser) checkCertificates(c *Config, forges []string) {
	if len(c.Certificates) > 0 && c.HTTPS.ClientCA == "" && p.sound("https.client_ca") {
		p.add("certificates", "client certificates without an authority to check them against", "give https.client_ca")
	}
	for i, cert := range c.Certificates {
		key := fmt.Sprintf("certificates[%d]", i)
		p.checkCertificate(key, cert)
		p.checkCertified(key, cert)
		p.checkForgeOf(key+".principal.forge", cert.Principal.Forge, forges)
		p.checkKind(key+".principal.kind", cert.Principal.Kind)
	}
}

// checkCertified: either the document says who shows the certificate, or the certificate does.
func (p *parser) checkCertified(key string, cert Certificate) {
	placeholder, err := authn.URIPlaceholder(cert.URI)
	at := key + ".principal"
	switch {
	case err != nil && cert.URI != "": // said already
	case placeholder == "":
		p.required(at+".id", cert.Principal.ID == "", whoHint)
	case cert.Principal.ID != "" || cert.Principal.Name != "":
		p.add(at, "says who it is, and so does "+placeholder+" of the uri", "leave id and name out")
	default:
		p.required(at+".forge", cert.Principal.Forge == "", "the forge whose users the certificates name")
	}
}

// byName reports whether the certificate says the name of a user.
func (c *Certificate) byName() bool {
	placeholder, err := authn.URIPlaceholder(c.URI)
	return err == nil && placeholder == authn.NamePlaceholder
}

func (p *parser) checkCertificate(key string, cert Certificate) {
	if !p.sound(key) {
		return
	}
	u, err := url.Parse(cert.URI)
	_, uriErr := authn.URIPlaceholder(cert.URI)
	digest, isDigest := strings.CutPrefix(cert.SPKI, "sha256:")
	raw, hexErr := hex.DecodeString(digest)
	switch {
	case cert.URI == "" && cert.SPKI == "":
		p.add(key, "neither uri nor spki", "say which certificate this is")
	case cert.URI != "" && (err != nil || u.Scheme == "" || u.Host == ""):
		p.add(key+".uri", fmt.Sprintf("not a URI: %q", cert.URI), "as in the certificate, such as spiffe://example.com/ci/main")
	case cert.URI != "" && uriErr != nil:
		p.add(key+".uri", fmt.Sprintf("no certificate can match %q: %v", cert.URI, uriErr), "write SCHEME://HOST/PATH, with '*', {id} or {name} in the path")
	case cert.SPKI != "" && (!isDigest || hexErr != nil || len(raw) != 32 || digest != strings.ToLower(digest)):
		p.add(key+".spki", "not the digest of a public key", "write sha256: and 64 lower-case hex digits")
	}
}

// bound is the range of one key.
type bound struct {
	key         string
	value       int64
	least, most int64
	asText      func(int64) string
}

func (p *parser) checkBounds(c *Config) {
	l := &c.Limits
	duration := func(n int64) string { return time.Duration(n).String() }
	size := func(n int64) string { return Size(n).String() }
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	second, minute, hour := int64(time.Second), int64(time.Minute), int64(time.Hour)
	bounds := []bound{
		{"https.client_crl_grace", int64(c.HTTPS.ClientCRLGrace), 0, 7 * 24 * hour, duration},
		{"audit.segment", int64(c.Audit.Segment), 1 << 20, 16 << 30, size},
		{"audit.min_free", int64(c.Audit.MinFree), 1 << 20, 1 << 40, size},
		{"ssh.connections", int64(c.SSH.Connections), 1, 1 << 20, number},
		{"ssh.connections_per_address", int64(c.SSH.ConnectionsPerAddress), 1, 1 << 20, number},
		{"ssh.connections_per_principal", int64(c.SSH.ConnectionsPerPrincipal), 1, 1 << 20, number},
		{"ssh.idle", int64(c.SSH.Idle), second, 24 * hour, duration},
		{"hash.memory", int64(c.Hash.Memory), 1 << 20, 1 << 40, size},
		{"hash.connections", int64(c.Hash.Connections), 1, 1 << 20, number},
		{"hash.connections_per_address", int64(c.Hash.ConnectionsPerAddress), 1, 1 << 20, number},
		{"hash.connections_per_principal", int64(c.Hash.ConnectionsPerPrincipal), 1, 1 << 20, number},
		{"hash.idle", int64(c.Hash.Idle), second, 7 * 24 * hour, duration},
		{"tokens.life", int64(c.Tokens.Life), minute, 31 * 24 * hour, duration},
		{"tokens.ci_life", int64(c.Tokens.CILife), minute, 7 * 24 * hour, duration},
		{"limits.header_read", int64(l.HeaderRead), second / 10, minute, duration},
		{"limits.idle", int64(l.Idle), second, hour, duration},
		{"limits.progress_window", int64(l.ProgressWindow), second, hour, duration},
		{"limits.progress_rate", int64(l.ProgressRate), 1, 1 << 30, size},
		{"limits.drain", int64(l.Drain), second, hour, duration},
		{"limits.connections", int64(l.Connections), 1, 1 << 20, number},
		{"limits.connections_per_address", int64(l.ConnectionsPerAddress), 1, 1 << 20, number},
		{"limits.requests_per_principal", int64(l.RequestsPerPrincipal), 1, 1 << 20, number},
		{"limits.streams", int64(l.Streams), 1, 1000, number},
		{"limits.object_size", int64(l.ObjectSize), 1, 1 << 40, size},
		{"limits.upload_objects", int64(l.UploadObjects), 1, 4096, number},
		{"limits.upload_expiry", int64(l.UploadExpiry), minute, 24 * hour, duration},
		{"limits.upload_min_free", int64(l.UploadMinFree), 1 << 20, 1 << 50, size},
		{"limits.statement_size", int64(l.StatementSize), 1 << 10, 8 << 20, size},
		{"limits.presence_names", int64(l.PresenceNames), 1, 50000, number},
	}
	for _, b := range bounds {
		p.checkBound(b)
	}
}

func (p *parser) checkBound(b bound) {
	if !p.sound(b.key) || b.value >= b.least && b.value <= b.most {
		return
	}
	p.add(b.key, b.asText(b.value)+" is out of range", fmt.Sprintf("from %s to %s", b.asText(b.least), b.asText(b.most)))
}

// checkPlaces runs after defaults are filled in: two kinds of data may not share a directory.
func (p *parser) checkPlaces(c *Config) {
	if !p.sound("blobs") || !p.sound("audit") {
		return
	}
	if nested(string(c.Audit.Dir), c.Blobs.Value) {
		p.add("audit.dir", "lies in the same place as blobs", "give each a directory of its own")
	}
	for i, z := range c.Zones {
		if z.Mirror.Scheme == "dir" && nested(z.Mirror.Value, c.Blobs.Value) {
			p.add(fmt.Sprintf("zones[%d].mirror", i), "lies in the same place as blobs", "blobs is the gate's own: give it another directory")
		}
	}
}

// nested reports whether one path is the other or lies below it.
func nested(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}
