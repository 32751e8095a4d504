package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/devca"
	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

const (
	objects    = 20_000   // small ones, to be asked for
	perBuild   = 100      // of them under one statement
	smallBytes = 1 << 10  // of each
	largeBytes = 64 << 20 // of the one to be downloaded
	repos      = 40       // that they were built from, three each
)

// world is one tree of objects that every server serves, and what they need to do so. Names, sources and rights are made up
// by rule, so that any run has the same.
type world struct {
	options
	dir     string
	servers *servers
	cert    string // digest of the certificate
	token   string // of alice, who may read everything
	writer  string // the token of ci

	adminAddr, opaAddr string
	details            []detail
	prepared           bool
	hashPrepared       bool
}

func newWorld(ctx context.Context, o options) (*world, error) {
	if _, err := os.Stat("internal/bench/opaserver"); err != nil {
		return nil, errors.New("run it in the root of the repository: go run ./internal/bench")
	}
	gate, err := filepath.Abs(o.gate)
	if err == nil {
		_, err = os.Stat(gate)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: run make build", err)
	}
	o.gate = gate
	// Beside the source, not in /tmp, which may be memory: the journal is to meet a disk.
	if err := os.MkdirAll("var", 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("var", "bench-")
	if err != nil {
		return nil, err
	}
	w := &world{options: o}
	if w.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := w.lay(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// lay gives everybody an address and builds OPA's server. Nothing is published yet.
func (w *world) lay(ctx context.Context) (err error) {
	if w.servers, err = newServers(w); err != nil {
		return err
	}
	if w.adminAddr, err = loopback.Free(); err != nil {
		return err
	}
	if w.opaAddr, err = loopback.Free(); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-C", "internal/bench/opaserver", "-o", w.path("opaserver"), ".")
	if text, err := build.CombinedOutput(); err != nil {
		w.servers.guarded.lacks = "what go build -C internal/bench/opaserver asks for: " + string(text)
	}
	return ctx.Err()
}

func (w *world) close() error {
	if w.keep {
		fmt.Fprintln(os.Stderr, "kept:", w.dir)
		return nil
	}
	return os.RemoveAll(w.dir)
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// missing says which peers were left out, and how to get them.
func (w *world) missing() (list []string) {
	s := w.servers
	for _, p := range []server{s.nginx, s.guarded, s.caddy, s.openssh, s.hash.reference} {
		if p.lacks != "" {
			list = append(list, p.name+" was left out. It needs: "+p.lacks)
		}
	}
	return list
}

// prepare fills the world, once.
func (w *world) prepare(ctx context.Context) error {
	if w.prepared {
		return nil
	}
	w.prepared = true
	for _, step := range []func(context.Context) error{w.writeCertificate, w.writeSSHKeys, w.writeTree, w.writeGateFiles, w.publish, w.writePeerData} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("set up: %w", err)
		}
	}
	return nil
}

// writeCertificate makes the one key and certificate, ECDSA P-256, that all servers show.
func (w *world) writeCertificate(context.Context) error {
	ca, err := devca.Open(w.path("ca"), time.Now)
	if err != nil {
		return err
	}
	leaf, err := ca.Leaf("127.0.0.1")
	if err != nil {
		return err
	}
	cert, err := leaf.GetCertificate(nil)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	w.cert = fmt.Sprintf("%x", sha256.Sum256(cert.Certificate[0]))
	return errors.Join(
		os.WriteFile(w.path("ca.pem"), ca.PEM(), 0o600),
		writePEM(w.path("cert.pem"), "CERTIFICATE", cert.Certificate[0]),
		writePEM(w.path("key.pem"), "PRIVATE KEY", key))
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// objectName is the name of the n-th object.
func objectName(recipe string, n int) string {
	hash := objectHash(recipe, n)
	return fmt.Sprintf("universal/%s/%s/sstate:%s%05d-native:x86_64-linux:1.0:r0:x86_64:14:%s_populate_sysroot.tar.zst", hash[:2], hash[2:4], recipe, n, hash)
}

func objectHash(recipe string, n int) string {
	h := sha256.Sum256([]byte(recipe + strconv.Itoa(n)))
	return hex.EncodeToString(h[:])
}

func smallName(n int) string { return objectName("small", n) }

// The large object lies in the mirror under one name, and in the gate's own directory under another.
func mirroredName() string { return objectName("large", 1) }
func blobName() string     { return objectName("large", 2) }

// smallContent follows from n.
func smallContent(n int) []byte { return fill(uint64(n), smallBytes) }

func largeContent() []byte { return fill(1<<40, largeBytes) }

// fill returns bytes that no layer can compress.
func fill(seed uint64, n int) []byte {
	var key [32]byte
	copy(key[:], strconv.FormatUint(seed, 10))
	content := make([]byte, n)
	_, _ = mathrand.NewChaCha8(key).Read(content) // never fails
	return content
}

// writeTree writes what static servers and the mirror serve, and lists of names for the load generator.
func (w *world) writeTree(context.Context) error {
	var names strings.Builder
	for n := range objects {
		if err := w.writeObject(smallName(n), smallContent(n)); err != nil {
			return err
		}
		names.WriteString(smallName(n) + "\n")
	}
	large := largeContent()
	return errors.Join(
		w.writeObject(mirroredName(), large), w.writeObject(blobName(), large),
		os.WriteFile(w.path("small.names"), []byte(names.String()), 0o600),
		os.WriteFile(w.path("mirrored.names"), []byte(mirroredName()+"\n"), 0o600),
		os.WriteFile(w.path("blob.names"), []byte(blobName()+"\n"), 0o600))
}

func (w *world) writeObject(name string, content []byte) error {
	path := filepath.Join(w.path("www/sstate/main"), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// reposOf returns the three repositories that a build was made from. Each number below 9,880 has three of its own.
func reposOf(build int) []string {
	for a := range repos {
		for b := a + 1; b < repos; b++ {
			rest := repos - b - 1
			if build < rest {
				return []string{repoName(a), repoName(b), repoName(b + 1 + build)}
			}
			build -= rest
		}
	}
	panic("bench: more builds than combinations of repositories")
}

func repoName(n int) string { return "team/repo-" + strconv.Itoa(n) }

func sourcesOf(build int) (list []source.Source) {
	for _, name := range reposOf(build) {
		list = append(list, source.Parse("git://git.example.com/"+name+".git;protocol=https", strings.Repeat("a", 40)))
	}
	return list
}

// writePeerData gives OPA the facts that the gate has.
func (w *world) writePeerData(context.Context) error {
	records := map[string][]string{}
	for n := range objects {
		records[smallName(n)] = reposOf(n / perBuild)
	}
	readable := map[string]bool{}
	for n := range repos {
		readable[repoName(n)] = true
	}
	text, err := json.Marshal(map[string]any{
		"records": records, "readable": map[string]any{"alice": readable}, "tokens": map[string]string{w.token: "alice"},
	})
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(w.path("peer.json"), text, 0o600), os.WriteFile(w.path("peer.rego"), []byte(peerPolicy), 0o600))
}

const gateConfig = `node: bench
state: gate
https:
  listen: %[1]q
  audience: "https://%[1]s"
  tls: {cert: cert.pem, key: key.pem}
ssh: {listen: %[4]q, host_keys: [host_key]}
admin: {listen: %[2]q}
hash:
  listeners:
    - {listen: %[5]q, zone: main}
    - {listen: %[6]q, zone: main, websocket: true}
zones:
  - {name: main, mirror: %[3]q, writers: {users: [git.example.com/ci]}, admins: {users: [git.example.com/ci]}, signers: [ci]}
signers:
  keys: [{identity: ci, file: ci.pub}]
forges:
  - {name: git.example.com, type: static, file: forge.yaml}
`

const gateForge = `hosts: [git.example.com]
users:
  - {id: "1", name: alice, kind: human, keys: [%q]}
  - {id: "2", name: ci, kind: ci}
access:
  - {repos: ["team/**"], users: [alice, ci]}
`

func (w *world) writeGateFiles(context.Context) error {
	mirror := "http://" + w.servers.mirror.addr + "/sstate/main"
	if w.servers.mirror.lacks != "" {
		mirror = "dir:" + w.path("www/sstate/main")
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return err
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(w.path("ci.pub"), "PUBLIC KEY", publicDER), writePEM(w.path("ci.key"), "PRIVATE KEY", privateDER),
		os.WriteFile(w.path("forge.yaml"), fmt.Appendf(nil, gateForge, strings.TrimSpace(readText(w.path("alice.pub")))), 0o600),
		os.WriteFile(w.path("lychgate.yaml"), fmt.Appendf(nil, gateConfig, w.servers.gate.addr, w.adminAddr, mirror, w.servers.ssh.addr,
			w.servers.hash.gate.addr, w.servers.hash.gateWeb.addr), 0o600))
}

// publish writes every object through the gate: the large one once by an upload, everything else where it lies.
func (w *world) publish(ctx context.Context) (err error) {
	p := publisher{world: w}
	if err := p.open(ctx); err != nil {
		return err
	}
	running, err := w.startGateAndMirror(ctx)
	if err != nil {
		return err
	}
	defer stopAll(running)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for build := range objects / perBuild {
		group.Go(func() error {
			contents := map[string][]byte{}
			for n := build * perBuild; n < (build+1)*perBuild; n++ {
				contents[smallName(n)] = smallContent(n)
			}
			return p.publish(ctx, sourcesOf(build), contents, true)
		})
	}
	large := largeContent()
	group.Go(func() error {
		return p.publish(ctx, sourcesOf(0), map[string][]byte{mirroredName(): large}, true)
	})
	group.Go(func() error { return p.publish(ctx, sourcesOf(0), map[string][]byte{blobName(): large}, false) })
	return group.Wait()
}

func (w *world) startGateAndMirror(ctx context.Context) (running []*process, err error) {
	for _, s := range []server{w.servers.mirror, w.servers.gate} {
		if s.lacks != "" {
			continue
		}
		more, err := s.start(ctx)
		if err != nil {
			stopAll(running)
			return nil, err
		}
		running = append(running, more...)
	}
	return running, nil
}

// publisher writes as CI does. Tokens are made before the gate starts.
type publisher struct {
	*world
	client *client.Client
	signer provenance.Signer
}

func (p *publisher) open(ctx context.Context) error {
	var err error
	if p.writer, err = p.mint(ctx, "ci"); err != nil {
		return err
	}
	if p.world.token, err = p.mint(ctx, "alice"); err != nil {
		return err
	}
	if p.signer, err = client.LoadSigner(client.SignerOptions{Key: p.path("ci.key")}); err != nil {
		return err
	}
	p.client, err = client.New(client.Config{Gate: "https://" + p.servers.gate.addr, Token: authn.NewSecret(p.writer), CAFile: p.path("ca.pem")})
	return err
}

func (p *publisher) mint(ctx context.Context, user string) (string, error) {
	text, err := exec.CommandContext(ctx, p.gate, "token", "create", "--config", p.path("lychgate.yaml"), "--user", user).Output()
	if err != nil {
		return "", fmt.Errorf("make a token for %s: %w", user, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// publish is one signed write of objects, uploaded or in place.
func (p *publisher) publish(ctx context.Context, sources []source.Source, contents map[string][]byte, inPlace bool) error {
	request := gateway.UploadRequest{InPlace: inPlace}
	st := &provenance.Statement{
		Zone: "main", Audience: "https://" + p.servers.gate.addr, Recipe: "bench", Builder: "https://ci.example.com",
		IssuedAt: time.Now(), Sources: sources, Inputs: sources,
	}
	for name, content := range contents {
		digest := artifact.Digest(sha256.Sum256(content))
		request.Objects = append(request.Objects, gateway.UploadObject{Name: name, Size: int64(len(content)), SHA256: digest.Hex()})
		st.Subjects = append(st.Subjects, provenance.Subject{Name: name, Digest: digest, Size: int64(len(content))})
	}
	up, err := p.client.Begin(ctx, "main", request)
	if err != nil {
		return err
	}
	for i, s := range st.Subjects {
		if inPlace {
			break
		}
		src := client.UploadSource{Name: s.Name, Size: s.Size, Digest: s.Digest, Cache: inMemory(contents)}
		if _, err := p.client.UploadObject(ctx, up.ID, i, src); err != nil {
			return err
		}
	}
	return p.commit(ctx, st, up.ID)
}

func (p *publisher) commit(ctx context.Context, st *provenance.Statement, id string) error {
	st.UploadID = id
	payload, err := st.Encode()
	if err != nil {
		return err
	}
	envelope, err := provenance.Seal(payload, p.signer)
	if err != nil {
		return err
	}
	result, err := p.client.Commit(ctx, id, envelope)
	if err != nil {
		return err
	}
	for _, o := range result.Objects {
		if o.Result != "stored" {
			return fmt.Errorf("publish %s: %s", o.Name, o.Result)
		}
	}
	return nil
}

// inMemory is a cache whose objects are here.
type inMemory map[string][]byte

// List is not asked for.
func (inMemory) List(context.Context) (*client.Listing, error) {
	return nil, errors.New("not a cache to list")
}

// Open returns an object's bytes from off on.
func (m inMemory) Open(_ context.Context, name string, off int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(m[name][off:]))), nil
}
