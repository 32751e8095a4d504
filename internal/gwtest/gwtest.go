// Package gwtest is a whole gate in a test: the https door over TLS, the gateway, the shipped policy, SQLite, the journal and a
// forge in a YAML file, all real, in one process and one temporary directory.
//
//	g := gwtest.New(t, gwtest.Options{})
//	name := g.Publish(gwtest.Object("hello", "populate_sysroot"), "git://git.example.com/public/hello.git;protocol=https")
//	g.As("bob").Get("/sstate/main/" + name)
package gwtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/hashd"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/gateway/httpd"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/gateway/upstream"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/devca"
	"github.com/lychgate/lychgate/internal/servertls"
	"github.com/lychgate/lychgate/internal/sqldb"
	"github.com/lychgate/lychgate/policy"
)

// Forge is the name of the one forge, and of its host.
const Forge = "git.example.com"

// DefaultForge is a forge file with the users that most tests need: alice reads everything, bob what is under public/, carol
// nothing, mallory is blocked; ci reads everything and may write, and signs as "ci".
const DefaultForge = `hosts: [git.example.com]
users:
  - {id: "1", name: alice, kind: human}
  - {id: "2", name: bob, kind: human}
  - {id: "3", name: carol, kind: human}
  - {id: "4", name: mallory, kind: human, blocked: true}
  - {id: "5", name: ci, kind: ci}
access:
  - {repos: ["**"], users: [alice, ci, mallory]}
  - {repos: ["public/**"], users: [bob]}
`

// Options change what New builds. The zero Options are what most tests want.
type Options struct {
	Forge        string // the forge file; default DefaultForge
	Mirror       upstream.Store
	Public       []string
	Transitive   bool
	Policy       string // a bundle directory; default the built-in rule
	Strict       bool   // the journal's mode
	Limits       httpd.Limits
	ClientCA     bool // take client certificates of the development CA: "spiffe://example.com/USER" is that user
	Dir          string
	Issuers      []authn.Issuer // of ID tokens
	Admins       []string       // users who administer main
	TellWhy      bool           // main tells why something is not there
	Review       bool           // add the zone "review", which has main as its base
	ReviewTells  bool           // review tells why something is not there
	ReviewAdmins []string       // users who administer review
	JournalFS    audit.FS
	Blobs        func(gateway.Blobs) gateway.Blobs     // wraps the blob directory
	Journal      func(gateway.Journal) gateway.Journal // wraps the journal
	SSH          bool                                  // open the ssh door too; every user of the forge file has a key
	SSHAuthority ssh.PublicKey                         // whose user certificates the ssh door takes: their principals are users of the forge
	SSHRules     func(*authn.SSHKeysConfig)            // changes what is known of SSH keys
	NoSSHSignIn  bool                                  // SSH keys are not taken over https
	SSHLimits    sshd.Limits
	SSHObserve   func(sshd.Observation)
	Provider     forge.Provider // asked through a cache in place of the forge file
	ForgeName    string         // of Provider; default Forge
	Bus          forge.Bus      // and Shared: what this gate has in common with other nodes
	Shared       forge.Shared
	Places       map[string]authn.Principal         // whom listeners stand for
	Hash         func(zone string) gateway.HashZone // default: mappings in memory
	HashDB       bool                               // default: mappings in SQLite
	Uploads      gateway.Limits                     // default: 1 GiB an object, 1000 objects, 64 uploads for an hour
}

// Gate is a running gate.
type Gate struct {
	T        testing.TB
	URL      string // https://127.0.0.1:PORT
	Addr     string
	SSHAddr  string // 127.0.0.1:PORT
	HostKeys []ssh.Signer
	HashDoor *hashd.Server
	Hashes   *sqldb.Hashes // with Options.HashDB
	Dir      string
	CA       *devca.CA
	DB       *sqldb.DB
	Journal  *audit.Journal
	Authz    *authz.Authorizer
	Tokens   *authn.Tokens
	Forges   *forge.Multi
	Static   *forge.Static
	Hub      *forge.Hub
	Cache    *forge.Cache // nil without Options.Provider
	Policy   *policy.Engine
	Gateway  *gateway.Gateway
	Upstream *Spy              // what was opened in blobs and mirror
	Signer   provenance.Signer // of "ci", which may sign for every zone
	Outsider provenance.Signer // of "outsider", whose key is trusted and who may sign for none
	Stranger provenance.Signer // whose key nobody trusts

	forge    string     // the name of the one forge
	mu       sync.Mutex // guards users, idle and refusals
	users    map[string]*User
	refusals map[authn.Reason]int
	hasKeys  bool // the users in the forge file have SSH keys
	stop     func()
	idle     []func() // close what clients keep open, which a gate that stops waits for
}

// New builds a gate and stops it when the test ends. A gate in the directory of one that was stopped goes on where that one
// was: the keys of its signers are the same.
func New(t testing.TB, o Options) *Gate {
	t.Helper()
	if o.ForgeName == "" {
		o.ForgeName = Forge
	}
	g := &Gate{T: t, Dir: o.Dir, forge: o.ForgeName, users: map[string]*User{}, refusals: map[authn.Reason]int{}, Upstream: &Spy{}}
	if g.Dir == "" {
		g.Dir = t.TempDir()
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.storage(ctx, o)
	g.rules(o)
	g.assemble(o)
	stopped := g.serve(ctx, o)
	g.stop = sync.OnceFunc(func() {
		g.mu.Lock()
		for _, closeIdle := range g.idle {
			closeIdle()
		}
		g.mu.Unlock()
		cancel()
		stopped()
		if g.Hashes != nil {
			g.must(g.Hashes.Close(), "close the database of hash equivalence")
		}
		g.must(g.DB.Close(), "close the database")
		g.must(g.Journal.Close(), "close the journal")
	})
	t.Cleanup(g.stop)
	return g
}

// Stop lets the requests under way finish and stops the gate before its test ends.
func (g *Gate) Stop() { g.stop() }

func (g *Gate) must(err error, what string) {
	g.T.Helper()
	if err != nil {
		g.T.Fatalf("%s: %v", what, err)
	}
}

// Path returns a path in the gate's directory.
func (g *Gate) Path(name string) string { return filepath.Join(g.Dir, name) }

func (g *Gate) storage(ctx context.Context, o Options) {
	var err error
	g.DB, err = sqldb.Open(ctx, sqldb.Config{Path: g.Path("lychgate.db")})
	g.must(err, "open the database")
	g.Journal, err = audit.Open(audit.Config{Dir: g.Path("audit"), Node: "test", Strict: o.Strict, FS: o.JournalFS})
	g.must(err, "open the journal")
	g.CA, err = devca.Open(g.Path("ca"), time.Now)
	g.must(err, "open the development CA")
	g.Tokens, err = authn.NewTokens(authn.TokensConfig{Store: g.DB, Key: bytes.Repeat([]byte("k"), 32)})
	g.must(err, "make the tokens")
}

func (g *Gate) rules(o Options) {
	text := o.Forge
	if text == "" {
		text = DefaultForge
	}
	g.hasKeys = o.SSH
	g.WriteForge(text)
	var err error
	g.Static, err = forge.LoadStatic(forge.StaticConfig{Name: Forge, File: g.Path("forge.yaml"), OnChange: func() { g.Authz.InvalidateAll() }})
	g.must(err, "load the forge")
	g.Hub = forge.NewHub(forge.HubConfig{Bus: o.Bus, Forget: []func(forge.Event){g.forget}, Told: []func(forge.Event){func(e forge.Event) { g.Authz.Told(e) }}})
	g.Forges, err = forge.NewMulti(forge.Named{Name: g.forge, Provider: g.provider(o)})
	g.must(err, "combine the forges")
	signers := map[string]any{"signers": []any{"ci"}}
	g.Policy, err = policy.New(policy.Config{Dir: o.Policy, Data: map[string]any{
		"transitive": o.Transitive, "zones": map[string]any{"main": signers, "review": signers},
	}})
	g.must(err, "load the policy")
	cfg := authz.Config{
		Records: g.DB, Forge: g.Forges, Directory: g.Forges, Policy: g.Policy, Check: g.Hub.Check, Zones: []artifact.Zone{{Name: "main"}},
		Grants: []authz.Grant{{Role: "writer", Zone: "main", Users: []string{g.forge + "/ci"}}},
	}
	for _, name := range o.Admins {
		cfg.Grants = append(cfg.Grants, authz.Grant{Role: "admin", Zone: "main", Users: []string{g.forge + "/" + name}})
	}
	if o.Review {
		cfg.Zones = append(cfg.Zones, artifact.Zone{Name: "review", Base: "main", Review: true})
		cfg.Grants = append(cfg.Grants, authz.Grant{Role: "writer", Zone: "review", Users: []string{Forge + "/ci", Forge + "/bob"}})
		for _, name := range o.ReviewAdmins {
			cfg.Grants = append(cfg.Grants, authz.Grant{Role: "admin", Zone: "review", Users: []string{Forge + "/" + name}})
		}
	}
	for _, p := range o.Public {
		pattern, err := source.ParsePattern(p)
		g.must(err, "parse a public pattern")
		cfg.Public = append(cfg.Public, pattern)
	}
	g.Authz, err = authz.New(cfg)
	g.must(err, "make the authorizer")
}

// provider is who is asked what users may read.
func (g *Gate) provider(o Options) forge.Provider {
	if o.Provider == nil {
		return g.Static
	}
	var err error
	g.Cache, err = forge.NewCache(forge.CacheConfig{
		Name: g.forge, Provider: o.Provider, Hub: g.Hub, Shared: o.Shared,
		Changed: func(forge, user string) { g.Authz.Invalidate(forge, user) },
	})
	g.must(err, "make a cache")
	return g.Cache
}

// forget passes on that what the forge said may not be true any more.
func (g *Gate) forget(e forge.Event) {
	if g.Cache != nil {
		g.Cache.Forget(e)
	}
}

// WriteForge replaces the forge file; Static.Reload or time makes the gate follow.
func (g *Gate) WriteForge(text string) {
	if g.hasKeys {
		text = withKeys(text)
	}
	g.must(os.WriteFile(g.Path("forge.yaml"), []byte(text), 0o600), "write the forge file")
}

func (g *Gate) assemble(o Options) {
	ci, outsider := g.signer("ci", &g.Signer), g.signer("outsider", &g.Outsider)
	g.signer("stranger", &g.Stranger)
	verifier, err := provenance.NewVerifier(provenance.VerifierConfig{Keys: []provenance.PlainKey{ci, outsider}})
	g.must(err, "make a verifier")
	dir, err := upstream.NewDir(g.mkdir("blobs"))
	g.must(err, "open the blob directory")
	var blobs gateway.Blobs = dir
	if o.Blobs != nil {
		blobs = o.Blobs(dir)
	}
	main := gateway.Zone{Zone: artifact.Zone{Name: "main"}, TellWhy: o.TellWhy}
	if o.Mirror != nil {
		main.Mirror = g.Upstream.watch(o.Mirror)
	}
	var journal gateway.Journal = g.Journal
	if o.Journal != nil {
		journal = o.Journal(journal)
	}
	if o.Uploads == (gateway.Limits{}) {
		o.Uploads = gateway.Limits{ObjectBytes: 1 << 30, UploadObjects: 1000, OpenUploads: 64, UploadAge: time.Hour, EnvelopeBytes: 4 << 20, PresenceNames: 50000}
	}
	zones := []gateway.Zone{main}
	if o.Review {
		zones = append(zones, gateway.Zone{Zone: artifact.Zone{Name: "review", Base: "main", Review: true}, TellWhy: o.ReviewTells})
	}
	if o.Hash == nil {
		o.Hash = g.hashZone(o)
	}
	for i := range zones {
		zones[i].Hash = o.Hash(zones[i].Name)
	}
	certificates, err := authn.NewCertificates(authn.CertificatesConfig{Rules: certificateRules(o)})
	g.must(err, "make the certificate rules")
	keys := g.sshKeys(o)
	ids, err := authn.NewOIDC(authn.OIDCConfig{Issuers: o.Issuers, Directory: g.Forges, Links: g.DB})
	g.must(err, "know ID tokens")
	var challenges gateway.Challenges
	if !o.NoSSHSignIn {
		challenges, err = authn.NewChallenges(authn.ChallengesConfig{Key: bytes.Repeat([]byte("k"), 32), URL: "https://gate.example.com"})
		g.must(err, "make challenges")
	}
	g.Gateway, err = gateway.New(gateway.Config{
		Authenticator: authn.Chain{g.Tokens, certificates, keys, ids, authn.Accounts{Store: g.DB, Epoch: g.Tokens.Epoch}, authn.Places(o.Places)}, Authorizer: g.Authz, Records: g.DB, Verifier: verifier,
		Resolver: g.Forges, Journal: journal, Zones: zones, Blobs: &spyBlobs{Blobs: blobs, spy: g.Upstream},
		Staging: g.Path("staging"), Audience: "https://gate.example.com",
		Names: g.DB, Tokens: g.Tokens, Challenges: challenges, Identities: ids, Links: g.DB, Hooks: g.Forges, Events: g.Hub, Ender: g.Tokens, Published: g.DB, Accounts: g.DB, TokenLife: gateway.TokenLife{Human: 12 * time.Hour, CI: 6 * time.Hour},
		Limits: o.Uploads, Refused: g.countRefusal,
	})
	g.must(err, "make the gateway")
}

func (g *Gate) countRefusal(_ string, why authn.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refusals[why]++
}

// Refusals counts the credentials that were refused so far, by reason.
func (g *Gate) Refusals() map[authn.Reason]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.refusals)
}

// signer makes the signer with a key that follows from its name, and returns what a verifier needs to know it.
func (g *Gate) signer(name string, into *provenance.Signer) provenance.PlainKey {
	seed := sha256.Sum256([]byte("signing key of " + name))
	private := ed25519.NewKeyFromSeed(seed[:])
	var err error
	*into, err = provenance.NewKeySigner(private)
	g.must(err, "make a signer")
	return provenance.PlainKey{Identity: name, Key: private.Public()}
}

// Verifier knows the keys of signers by their names: ci, outsider and stranger are those of the gate.
func (g *Gate) Verifier(names ...string) *provenance.Verifier {
	g.T.Helper()
	var cfg provenance.VerifierConfig
	for _, name := range names {
		var unused provenance.Signer
		cfg.Keys = append(cfg.Keys, g.signer(name, &unused))
	}
	v, err := provenance.NewVerifier(cfg)
	g.must(err, "make a verifier")
	return v
}

func (g *Gate) mkdir(name string) string {
	g.must(os.MkdirAll(g.Path(name), 0o700), "make a directory")
	return g.Path(name)
}

func certificateRules(o Options) []authn.CertificateRule {
	if !o.ClientCA {
		return nil
	}
	return []authn.CertificateRule{{URI: "spiffe://example.com/alice", Principal: authn.Principal{Forge: Forge, ID: "1", Name: "alice", Kind: authn.Human}}}
}

// serve opens the door on a free port and returns what waits for everything to stop.
func (g *Gate) serve(ctx context.Context, o Options) (stopped func()) {
	leaf, err := g.CA.Leaf("127.0.0.1", "localhost")
	g.must(err, "make a server certificate")
	var clientCAs *x509.CertPool
	if o.ClientCA {
		clientCAs = g.CA.Pool()
	}
	g.HashDoor, err = hashd.New(hashd.Config{Gateway: g.Gateway, Protocol: hashserv.NewServer(hashserv.ServerConfig{})})
	g.must(err, "make the hash door")
	door, err := httpd.New(httpd.Config{
		Gateway: g.Gateway, Hash: g.HashDoor, TLS: servertls.Config(leaf.GetCertificate, clientCAs, nil), Mount: "/sstate", Limits: o.Limits,
		SignIn: gateway.SignIn{Resource: "https://gate.example.com", SSHKeys: !o.NoSSHSignIn},
		Log:    slog.New(slog.NewTextHandler(testWriter{g.T}, nil)),
	})
	g.must(err, "make the https door")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	g.must(err, "listen")
	g.Addr = ln.Addr().String()
	g.URL = "https://" + g.Addr
	behind, stopBehind := context.WithCancel(context.Background())
	var doors, parts sync.WaitGroup
	doors.Go(func() { _ = door.Serve(ctx, ln) })
	doors.Go(func() { _ = g.HashDoor.Run(ctx) })
	if o.SSH {
		door, ln := g.sshDoor(o)
		doors.Go(func() { _ = door.Serve(ctx, ln) })
	}
	for _, run := range []func(context.Context) error{g.Journal.Run, g.DB.Run, g.Static.Run, g.Gateway.Run, g.Hub.Run} {
		parts.Go(func() { _ = run(behind) })
	}
	return func() { doors.Wait(); stopBehind(); parts.Wait() }
}

// testWriter sends the gate's log to the test's.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// User acts at the gate as somebody.
type User struct {
	Gate  *Gate
	Token string
	HTTP  *http.Client // speaks HTTP/1.1

	http2 *http.Transport // of Client
}

// As returns a user of the forge with a token of its own.
func (g *Gate) As(name string) *User {
	g.T.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if u, ok := g.users[name]; ok {
		return u
	}
	account, err := g.Forges.UserByName(context.Background(), g.forge, name)
	g.must(err, "find the user "+name)
	p := authn.Principal{Forge: g.forge, ID: account.ID, Name: account.Name, Kind: account.Kind}
	secret, _, err := g.Tokens.Mint(context.Background(), authn.Order{Principal: p, TTL: time.Hour, Note: "test"})
	g.must(err, "mint a token")
	g.users[name] = g.withToken(secret.Reveal())
	return g.users[name]
}

// Revoke ends the tokens of a user. As makes a new one.
func (g *Gate) Revoke(name string) {
	g.T.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.users, name)
	tokens, err := g.Tokens.List(context.Background())
	g.must(err, "list the tokens")
	for _, token := range tokens {
		if token.Principal.Name == name {
			g.must(g.Tokens.Revoke(context.Background(), token.ID), "revoke a token")
		}
	}
}

// WithToken returns a user that shows any text as its token; "" shows none.
func (g *Gate) WithToken(token string) *User {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.withToken(token)
}

// WithCertificate returns a user that shows a client certificate of the development CA with that URI. It needs Options.ClientCA.
func (g *Gate) WithCertificate(uri string) *User {
	g.T.Helper()
	cert, err := g.CA.Client(uri)
	g.must(err, "make a client certificate")
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.withToken("")
	for _, t := range []*http.Transport{u.HTTP.Transport.(*http.Transport), u.http2} {
		t.TLSClientConfig.Certificates = []tls.Certificate{*cert}
	}
	return u
}

func (g *Gate) withToken(token string) *User {
	return &User{Gate: g, Token: token, HTTP: &http.Client{Transport: g.transport(false)}, http2: g.transport(true)}
}

// transport returns connections of their own. g.mu is held.
func (g *Gate) transport(http2 bool) *http.Transport {
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: g.CA.Pool()}, MaxIdleConnsPerHost: 64, ForceAttemptHTTP2: http2}
	g.idle = append(g.idle, t.CloseIdleConnections)
	return t
}

// Response is an answer with its whole body.
type Response struct {
	*http.Response
	Bytes []byte
	Err   error // of the body: a transfer that broke off
}

// Do sends a request. headers are pairs of names and values.
func (u *User) Do(method, path string, body []byte, headers ...string) *Response {
	u.Gate.T.Helper()
	req, err := http.NewRequest(method, u.Gate.URL+path, bytes.NewReader(body))
	u.Gate.must(err, "make a request")
	if body == nil {
		req.Body = nil
	}
	if u.Token != "" {
		req.SetBasicAuth("user", u.Token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := u.HTTP.Do(req)
	u.Gate.must(err, method+" "+path)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return &Response{Response: res, Bytes: text, Err: err}
}

// Get is Do for GET.
func (u *User) Get(path string, headers ...string) *Response {
	u.Gate.T.Helper()
	return u.Do(http.MethodGet, path, nil, headers...)
}

// Head is Do for HEAD.
func (u *User) Head(path string, headers ...string) *Response {
	u.Gate.T.Helper()
	return u.Do(http.MethodHead, path, nil, headers...)
}

// Client returns the project's own client for this user. It speaks HTTP/2.
func (u *User) Client() *client.Client {
	c, err := client.New(client.Config{Gate: u.Gate.URL, Token: authn.NewSecret(u.Token), Transport: u.http2})
	u.Gate.must(err, "make a client")
	return c
}

// Transport returns connections of this user's. They speak HTTP/2.
func (u *User) Transport() http.RoundTripper { return u.http2 }

// Object is a name of the sstate grammar with its content.
type Object struct {
	Name    string
	Content []byte
}

// NewObject returns an archive of a recipe's task with made-up content. The hash in its name follows from recipe and task.
func NewObject(recipe, task string) Object {
	h := sha256.Sum256([]byte(recipe + " " + task))
	hash := hex.EncodeToString(h[:])
	return Object{
		Name:    fmt.Sprintf("universal/%s/%s/sstate:%s:x86_64-linux:1.0:r0:x86_64:14:%s_%s.tar.zst", hash[:2], hash[2:4], recipe, hash, task),
		Content: []byte("bytes of " + recipe + " " + task),
	}
}

// Statement returns a statement of ci about objects in main. Sources are entries of SRC_URI.
func (g *Gate) Statement(objects []Object, sources ...string) *provenance.Statement {
	st := &provenance.Statement{Zone: "main", Audience: "https://gate.example.com", Recipe: "test", Builder: "https://ci.example.com", IssuedAt: time.Now()}
	for _, o := range objects {
		st.Subjects = append(st.Subjects, provenance.Subject{Name: o.Name, Digest: sha256.Sum256(o.Content), Size: int64(len(o.Content))})
	}
	for _, s := range sources {
		st.Sources = append(st.Sources, source.Parse(s, strings.Repeat("a", 40)))
	}
	st.Inputs = st.Sources
	return st
}

// Seal signs a statement as ci.
func (g *Gate) Seal(st *provenance.Statement) []byte { return g.SealBy(st, g.Signer) }

// SealBy signs a statement.
func (g *Gate) SealBy(st *provenance.Statement, signer provenance.Signer) []byte {
	g.T.Helper()
	payload, err := st.Encode()
	g.must(err, "encode the statement")
	envelope, err := provenance.Seal(payload, signer)
	g.must(err, "seal the statement")
	return envelope
}

// Publish writes objects to main through begin, stage and commit, as ci, and returns the first name.
func (g *Gate) Publish(objects []Object, sources ...string) string {
	g.T.Helper()
	_, err := g.TryPublish(g.As("ci"), g.Statement(objects, sources...), objects)
	g.must(err, "publish")
	return objects[0].Name
}

// TryPublish writes objects under a statement as somebody.
func (g *Gate) TryPublish(u *User, st *provenance.Statement, objects []Object) (gateway.CommitResult, error) {
	ctx := context.Background()
	c := u.Client()
	var req gateway.UploadRequest
	for _, o := range objects {
		sum := sha256.Sum256(o.Content)
		req.Objects = append(req.Objects, gateway.UploadObject{Name: o.Name, Size: int64(len(o.Content)), SHA256: hex.EncodeToString(sum[:])})
	}
	up, err := c.Begin(ctx, st.Zone, req)
	if err != nil {
		return gateway.CommitResult{}, err
	}
	for i, status := range up.Objects {
		if status.State != "needed" {
			continue
		}
		res := u.Do(http.MethodPut, fmt.Sprintf("/v1/uploads/%s/%d", up.ID, i), objects[i].Content, "Upload-Offset", "0")
		if res.StatusCode != http.StatusNoContent {
			return gateway.CommitResult{}, fmt.Errorf("stage: %s %s", res.Status, res.Bytes)
		}
	}
	st.UploadID = up.ID
	return c.Commit(ctx, up.ID, g.Seal(st))
}

// Events returns the audit trail so far, after checking it.
func (g *Gate) Events() []audit.Event {
	g.T.Helper()
	_, err := audit.Verify(context.Background(), g.Path("audit"), audit.VerifyOptions{Live: true})
	g.must(err, "verify the audit trail")
	var events []audit.Event
	for e, err := range audit.Tail(context.Background(), g.Path("audit"), audit.TailOptions{}) {
		g.must(err, "read the audit trail")
		events = append(events, e)
	}
	return events
}

// NewSiginfo returns the siginfo of an object.
func NewSiginfo(of Object) Object {
	file := of.Name[strings.LastIndexByte(of.Name, ':')+1:]
	_, task, _ := strings.Cut(file, "_")
	task, _, _ = strings.Cut(task, ".")
	return Object{Name: of.Name + ".siginfo", Content: Siginfo(task)}
}

// Siginfo returns what BitBake would write about a task, as far as the gate looks at it.
func Siginfo(task string) []byte {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err) // the options are constant
	}
	defer enc.Close()
	return enc.EncodeAll([]byte(`{"task": "do_`+task+`", "runtaskdeps": [], "varvals": {}}`), nil)
}
