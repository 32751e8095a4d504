// Package config reads the gate's configuration: one strict YAML document in which every mistake is reported with its
// place, its reason and what to do about it.
//
// [Parse] is pure: it looks at the document alone. [Load] also looks at the files the document names. Neither reads a
// secret, listens or starts anything.
//
// Conventions of the document: a relative path is relative to the document's own directory; a duration is "5s" or
// "1h30m"; a size is "64KiB" or "16GiB" (units of 1024) or a bare number of bytes; a secret is never written down, only
// where it is: "file:PATH" or "env:NAME". Anchors, aliases, tags and unknown keys are refused.
package config

import (
	"path/filepath"
	"time"
)

// Config is the whole document with every default filled in. Paths in it are absolute when the directory given to
// [Parse] was. It must not be changed after it was returned.
type Config struct {
	// Node names this gate in audit events: 1 to 63 lower-case letters, digits and '-'. Default "gate".
	Node string `yaml:"node"`
	// Contact is whom people ask about what is not there for them: a line of text. Default none.
	Contact string `yaml:"contact"`
	// State is the directory for everything the gate keeps that has no place of its own below. Default /var/lib/lychgate.
	State Path `yaml:"state"`
	// Database is where records, tokens and statements are: "sqlite:PATH". Default sqlite:STATE/lychgate.db.
	Database Location `yaml:"database"`
	// Blobs is where uploaded bytes are, under their digest: "dir:PATH". Default dir:STATE/blobs.
	Blobs Location `yaml:"blobs"`
	// HTTPS is the door BitBake, CI and people use. Required.
	HTTPS HTTPS `yaml:"https"`
	// SSH is the door for SFTP, scp and a few commands. Default closed.
	SSH SSH `yaml:"ssh"`
	// Hash is hash equivalence: where it is kept, and listeners beside the https and ssh doors.
	Hash Hash `yaml:"hash"`
	// OIDC are the providers of ID tokens that people and CI jobs sign in with. Default none.
	OIDC []OIDCIssuer `yaml:"oidc"`
	// Admin is the listener for health and metrics. It never serves artifacts.
	Admin Admin `yaml:"admin"`
	// Zones are the name spaces of artifacts. At least one.
	Zones []Zone `yaml:"zones"`
	// Signers says whose statements are believed at all; a zone's own list says whose it takes.
	Signers Signers `yaml:"signers"`
	// Forges are asked what a principal may read. At least one.
	Forges []Forge `yaml:"forges"`
	// Redis is what several nodes of one gate share: what they have learnt, and that it has changed. Default none: one node.
	Redis Redis `yaml:"redis"`
	// Public lists sources that everybody may read, each as [source.Pattern] has it: [TYPE+]HOST/PATH, where '*' stands
	// for a part of one segment and '**' for whole segments. Default none.
	Public []string `yaml:"public"`
	// Tokens says how gate tokens are kept.
	Tokens Tokens `yaml:"tokens"`
	// Certificates maps client certificates to principals. Needs https.client_ca.
	Certificates []Certificate `yaml:"certificates"`
	// Policy is the rule.
	Policy Policy `yaml:"policy"`
	// Audit is the journal.
	Audit Audit `yaml:"audit"`
	// Limits bounds what a client may cost. Every default is the one the documentation promises.
	Limits Limits `yaml:"limits"`
}

// HTTPS is the https door.
type HTTPS struct {
	// Listen is HOST:PORT; an empty host is every address. Default ":8443".
	Listen string `yaml:"listen"`
	// Mount is the path the zones are served under: zone main is at MOUNT/main. Default "/sstate".
	Mount string `yaml:"mount"`
	// Audience is the address people use, "https://gate.example.com". A signed statement must name it, so that it
	// cannot be replayed at another gate. Required; no path.
	Audience string `yaml:"audience"`
	// Names are the host names and addresses that the development CA puts into the certificate. Default: the
	// audience's host. Excludes tls.cert, whose file says it.
	Names []string `yaml:"names"`
	// TLS is the server certificate. Required.
	TLS TLS `yaml:"tls"`
	// ClientCA is a PEM file of the authorities whose client certificates are taken. Default none: certificates are
	// not asked for. A certificate is never required, since BitBake's presence check cannot send one.
	ClientCA Path `yaml:"client_ca"`
	// ClientCRLs are the revocation lists of those authorities: "file:PATH", which is followed, or "https://HOST/PATH" or
	// "http://HOST/PATH", which is asked every few minutes. Default none. An authority without a list is not checked; that of
	// an authority in the middle of a chain needs its certificate in client_ca. With no list in force certificates are refused.
	ClientCRLs []CRL `yaml:"client_crls"`
	// ClientCRLGrace is how long a list counts beyond the time at which it says the next one comes. Default 0s, at most 168h.
	ClientCRLGrace time.Duration `yaml:"client_crl_grace"`
	// SSHSignIn lets the holders of SSH keys that the gate knows sign in by this door, with a signature. What ssh says of keys and
	// certificates holds there too. Default true.
	SSHSignIn bool `yaml:"ssh_sign_in"`
}

// TLS is where a server certificate comes from: cert and key, or development_ca, never both.
type TLS struct {
	// Cert is a PEM file with the certificate and its chain. It is watched, and a good new pair replaces the old one.
	Cert Path `yaml:"cert"`
	// Key is the PEM file of its private key; only its owner and group may read it.
	Key Path `yaml:"key"`
	// DevelopmentCA makes certificates by a CA of the gate's own under STATE/ca. For trials only. Default false.
	DevelopmentCA bool `yaml:"development_ca"`
}

// IsZero reports whether nothing was configured.
func (t TLS) IsZero() bool { return t == TLS{} }

// Admin is the admin listener: /healthz, /readyz and /metrics.
type Admin struct {
	// Listen is HOST:PORT. Default 127.0.0.1:9443. Plain HTTP is spoken on a loopback address and nowhere else.
	Listen string `yaml:"listen"`
	// TLS is required when Listen is not a loopback address, and used whenever it is given.
	TLS TLS `yaml:"tls"`
}

// Zone is a name space of artifacts with its own writers.
type Zone struct {
	// Name is 1 to 63 lower-case letters, digits and '-'. Required, unique.
	Name string `yaml:"name"`
	// Base is the zone that reads fall through to. Default none. No cycles.
	Base string `yaml:"base"`
	// Mirror is where bytes that were imported, not uploaded, lie: "dir:PATH" or "https://HOST/PATH" (or http://,
	// without credentials). They are verified against their record whenever they are read. Default none.
	Mirror Location `yaml:"mirror"`
	// MirrorCredentials are shown to an https mirror. Default none.
	MirrorCredentials Credentials `yaml:"mirror_credentials"`
	// Review marks a zone for builds that nobody vouches for: CI jobs of branches that nobody protects, of forks and of merge or
	// pull requests write there and nowhere else. No other zone may have it as its base. Default false.
	Review bool `yaml:"review"`
	// Hash is hash equivalence in the zone.
	Hash ZoneHash `yaml:"hash"`
	// TellWhy tells whoever signed in and knows an object's name whether it is absent or denied, and which repositories they would have to
	// read (lychgate why). Default false: both look the same.
	TellWhy bool `yaml:"tell_why"`
	// Writers may write to the zone. Default nobody.
	Writers Members `yaml:"writers"`
	// Admins may explain and administer the zone. Default nobody.
	Admins Members `yaml:"admins"`
	// Signers are the identities whose statements the zone takes, as signers names them. Required with writers.
	Signers []string `yaml:"signers"`
}

// Members are users and groups of forges.
type Members struct {
	// Users are "FORGE/#ID", by the forge's immutable id, or "FORGE/NAME", by the name the forge gives its user now. A
	// name may one day belong to somebody else; an id may not. "/#ID" is an actor that no forge knows.
	Users []Subject `yaml:"users"`
	// Groups are "FORGE/GROUP", by the groups the forge gives its user now.
	Groups []Subject `yaml:"groups"`
}

// IsZero reports whether there is nobody.
func (m Members) IsZero() bool { return len(m.Users) == 0 && len(m.Groups) == 0 }

// Credentials are what the gate shows to a mirror: user and password, or bearer.
type Credentials struct {
	// User is the name for Basic authentication. Needs password; excludes bearer.
	User string `yaml:"user"`
	// Password is its password.
	Password Secret `yaml:"password"`
	// Bearer is a token sent as "Authorization: Bearer". Excludes user and password.
	Bearer Secret `yaml:"bearer"`
}

// IsZero reports whether there are none.
func (c Credentials) IsZero() bool { return c == Credentials{} }

// Signers says whose signatures are believed.
type Signers struct {
	// AllowedSigners is a file as ssh-keygen(1) describes it: principals, options, key. Reread when it changes.
	AllowedSigners Path `yaml:"allowed_signers"`
	// JobAuthority is a private key as ssh-keygen writes it, without a passphrase and used for nothing else: the gate certifies keys of CI
	// jobs with it, which then sign as job:FORGE/#ID, or review-job:FORGE/#ID when they are not protected. All nodes have the same.
	// Default none: jobs sign with keys of their own. Reread when it changes.
	JobAuthority Path `yaml:"job_authority"`
	// Keys are plain public keys, in PEM.
	Keys []SignerKey `yaml:"keys"`
}

// SignerKey is one plain public key, ed25519 or ECDSA.
type SignerKey struct {
	// Identity is what zones and policy call its holder. Required, unique.
	Identity string `yaml:"identity"`
	// File holds the public key in PEM. Required.
	File Path `yaml:"file"`
}

// Tokens says how gate tokens are kept.
type Tokens struct {
	// Key is the secret under which tokens are hashed at rest; whoever has the database but not the key cannot test a
	// guess. Default: STATE/token.key, made on the first start. Changing it ends every token.
	Key Secret `yaml:"key"`
	// Life is how long a token lives that a person or a service makes for itself by signing in. Default 12h.
	Life time.Duration `yaml:"life"`
	// CILife is the same for CI jobs: as long as the longest job. Default 6h.
	CILife time.Duration `yaml:"ci_life"`
}

// Certificate maps a client certificate to a principal. At least one of URI and SPKI; when both are given, both hold.
type Certificate struct {
	// URI is matched against the certificate's URI SANs, segment by segment. A segment of the path may hold one '*',
	// which stands for one or more characters of that segment. Instead of stars one whole segment may be "{id}" or "{name}":
	// it is the id, or the present name, of a user of principal.forge. The common name is never looked at.
	URI string `yaml:"uri"`
	// SPKI is "sha256:" and the hex digest of the public key (SubjectPublicKeyInfo, DER).
	SPKI string `yaml:"spki"`
	// Principal is who shows it. Required.
	Principal Principal `yaml:"principal"`
}

// Principal is who a credential stands for.
type Principal struct {
	// Forge is a forge of this document; empty for an actor that no forge knows.
	Forge string `yaml:"forge"`
	// ID is the forge's immutable user id. Required, unless the certificate says who it is by {id} or {name}.
	ID string `yaml:"id"`
	// Name is for display. Default: the id. Not with {id} or {name}.
	Name string `yaml:"name"`
	// Kind is "human", "ci" or "service". Default "ci"; with {name} it is what the forge says.
	Kind string `yaml:"kind"`
}

// Policy is the rule that decides.
type Policy struct {
	// Bundle is a directory of Rego, reloaded when it changes; the last good one is kept. Default: the built-in rule.
	Bundle Path `yaml:"bundle"`
	// Transitive asks the built-in rule for every source an artifact was built with, not only its own. Default false.
	// Excludes bundle, which decides for itself.
	Transitive bool `yaml:"transitive"`
}

// Audit is the journal.
type Audit struct {
	// Dir is the journal's directory, best on a file system of its own. Default STATE/audit.
	Dir Path `yaml:"dir"`
	// Sync is "batch": on disk within 5 ms, before the acknowledgement of a write; or "strict": on disk before every
	// reply. Default "batch".
	Sync string `yaml:"sync"`
	// Segment is the size at which a new file is begun. Default 64MiB.
	Segment Size `yaml:"segment"`
	// MinFree is the free space below which the journal's file system counts as full: nothing is served then. Default 64MiB.
	MinFree Size `yaml:"min_free"`
}

// Limits bounds what a client may cost. What is a promise rather than a taste has no key: the age of permissions, the
// sizes of names, headers and siginfo files.
type Limits struct {
	// HeaderRead is how long a request's headers may take. Default 5s.
	HeaderRead time.Duration `yaml:"header_read"`
	// Idle is how long a connection may rest between requests. Default 60s.
	Idle time.Duration `yaml:"idle"`
	// ProgressWindow and ProgressRate are the floor under bodies and replies: fewer than rate bytes a second over the
	// window ends the connection. Default 30s and 1KiB.
	ProgressWindow time.Duration `yaml:"progress_window"`
	// ProgressRate is in bytes per second.
	ProgressRate Size `yaml:"progress_rate"`
	// Drain is how long open transfers may finish after a stop was asked for. Default 30s.
	Drain time.Duration `yaml:"drain"`
	// Connections is how many connections the https door holds at once. Default 10000.
	Connections int `yaml:"connections"`
	// ConnectionsPerAddress is how many of them one address may have. Default 4096.
	ConnectionsPerAddress int `yaml:"connections_per_address"`
	// RequestsPerPrincipal is how many requests one principal may have under way. Default 4096.
	RequestsPerPrincipal int `yaml:"requests_per_principal"`
	// Streams is how many HTTP/2 streams one connection may have open. Default 100.
	Streams int `yaml:"streams"`
	// ObjectSize is the largest object that may be uploaded. Default 16GiB.
	ObjectSize Size `yaml:"object_size"`
	// UploadObjects is how many objects one upload may announce. Default 1000.
	UploadObjects int `yaml:"upload_objects"`
	// UploadMinFree is the free space below which uploads are refused with 503, on the file system of STATE: the rest is for
	// the database and the journal. Default 256MiB.
	UploadMinFree Size `yaml:"upload_min_free"`
	// UploadExpiry is how long an upload may stay uncommitted. Default 1h.
	UploadExpiry time.Duration `yaml:"upload_expiry"`
	// StatementSize is the largest DSSE envelope. Default 4MiB.
	StatementSize Size `yaml:"statement_size"`
	// PresenceNames is how many names one presence request may ask for. Default 50000.
	PresenceNames int `yaml:"presence_names"`
}

// defaults is the document that says nothing.
func defaults() *Config {
	return &Config{
		Node:   "gate",
		State:  "/var/lib/lychgate",
		HTTPS:  HTTPS{Listen: ":8443", Mount: "/sstate", SSHSignIn: true},
		Admin:  Admin{Listen: "127.0.0.1:9443"},
		SSH:    SSH{Connections: 10000, ConnectionsPerAddress: 4096, ConnectionsPerPrincipal: 4096, Idle: 10 * time.Minute},
		Hash:   Hash{Memory: 512 << 20, Connections: 10000, ConnectionsPerAddress: 4096, ConnectionsPerPrincipal: 4096, Idle: 24 * time.Hour},
		Tokens: Tokens{Life: 12 * time.Hour, CILife: 6 * time.Hour},
		Audit:  Audit{Sync: "batch", Segment: 64 << 20, MinFree: 64 << 20},
		Limits: Limits{
			HeaderRead: 5 * time.Second, Idle: time.Minute,
			ProgressWindow: 30 * time.Second, ProgressRate: 1 << 10, Drain: 30 * time.Second,
			Connections: 10000, ConnectionsPerAddress: 4096, RequestsPerPrincipal: 4096, Streams: 100,
			ObjectSize: 16 << 30, UploadObjects: 1000, UploadExpiry: time.Hour, UploadMinFree: 256 << 20, StatementSize: 4 << 20, PresenceNames: 50000,
		},
	}
}

// fill sets the defaults that depend on other keys.
func (c *Config) fill(audienceHost string) {
	if c.Database.IsZero() {
		c.Database = Location{Scheme: "sqlite", Value: c.under("lychgate.db")}
	}
	if c.Blobs.IsZero() {
		c.Blobs = Location{Scheme: "dir", Value: c.under("blobs")}
	}
	if c.Hash.Database.IsZero() {
		c.Hash.Database = Location{Scheme: "sqlite", Value: c.under("hashes.db")}
	}
	if c.Audit.Dir == "" {
		c.Audit.Dir = Path(c.under("audit"))
	}
	if len(c.HTTPS.Names) == 0 && c.HTTPS.TLS.DevelopmentCA && audienceHost != "" {
		c.HTTPS.Names = []string{audienceHost}
	}
	for _, p := range c.principals() {
		if p.Name == "" {
			p.Name = p.ID
		}
		if p.Kind == "" {
			p.Kind = "ci"
		}
	}
	for i := range c.SSH.Authorities {
		if a := &c.SSH.Authorities[i]; a.Lifetime == 0 {
			a.Lifetime = 24 * time.Hour
		}
	}
	for i := range c.OIDC {
		o := &c.OIDC[i]
		if o.Audience == "" && len(o.CI) > 0 {
			o.Audience = c.HTTPS.Audience
		}
		if o.People != nil && len(o.People.Scopes) == 0 {
			o.People.Scopes = []string{"openid"}
		}
	}
}

// principals are those that the document names itself.
func (c *Config) principals() (all []*Principal) {
	for i := range c.Certificates {
		if !c.Certificates[i].byName() {
			all = append(all, &c.Certificates[i].Principal)
		}
	}
	for i := range c.SSH.AuthorizedKeys {
		all = append(all, &c.SSH.AuthorizedKeys[i].Principal)
	}
	for i := range c.SSH.Authorities {
		for j := range c.SSH.Authorities[i].Rules {
			all = append(all, &c.SSH.Authorities[i].Rules[j].Principal)
		}
	}
	for i := range c.Hash.Listeners {
		if l := &c.Hash.Listeners[i]; l.Principal != (Principal{}) {
			all = append(all, &l.Principal)
		}
	}
	for i := range c.OIDC {
		for j := range c.OIDC[i].CI {
			all = append(all, &c.OIDC[i].CI[j].Principal)
		}
	}
	return all
}

func (c *Config) under(name string) string { return filepath.Join(string(c.State), name) }

// TokenKeyFile is where the key of tokens is made when tokens.key is not given.
func (c *Config) TokenKeyFile() string { return c.under("token.key") }

// DevelopmentCADir is where the development CA is kept.
func (c *Config) DevelopmentCADir() string { return c.under("ca") }
