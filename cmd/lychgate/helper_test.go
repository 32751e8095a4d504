package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// patience is how long a test waits for something that comes in milliseconds on an idle machine.
const patience = time.Minute

// buildBinary builds the command as make build does, for tests that need a process of its own, without the race detector.
func buildBinary(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "lychgate")
	cmd := exec.Command("go", "build", "-trimpath", "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// raceBinary is this test binary under the command's name, so with the race detector when the tests have it.
func raceBinary(t *testing.T) string { return tool(t, "lychgate") }

// tool finds a program of the system that the test needs.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	t.Fatalf("%s is missing: .ci/packages installs what the tests need", name)
	return ""
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := loopback.Free()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// world is a gate's directory as quickstart prepares it, with tokens for alice, bob and ci, and nothing running.
type world struct {
	t      *testing.T
	binary string
	q      quickstart
	cfg    *config.Config
	ca     *x509.CertPool
}

// newWorld prepares a world. edit, when it is not nil, changes the configuration, and what it likes in the directory, before there is
// anything in it.
func newWorld(t *testing.T, binary string, edit func(dir, text string) string) *world {
	t.Helper()
	w := &world{t: t, binary: binary}
	w.q = quickstart{dir: t.TempDir(), https: freeAddress(t), admin: freeAddress(t), out: io.Discard}
	text := w.q.config()
	if edit != nil {
		text = edit(w.q.dir, text)
	}
	_, err := w.q.prepare()
	if err != nil {
		t.Fatal(err)
	}
	w.configure(text)
	if w.cfg, err = config.Load(w.q.path("lychgate.yaml")); err != nil {
		t.Fatal(err)
	}
	g, err := newGate(t.Context(), w.cfg, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.q.tokens(t.Context(), g); err != nil {
		t.Error(err)
	}
	if err := g.close(); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(w.q.path("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	w.ca = x509.NewCertPool()
	w.ca.AppendCertsFromPEM(pem)
	return w
}

func (w *world) configure(text string) { w.write("lychgate.yaml", text) }

// write replaces a file of the world as an editor would, at once.
func (w *world) write(name, text string) {
	w.t.Helper()
	path := w.q.path(name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

// run runs the command in the world and returns what it printed and its exit code.
func (w *world) run(args ...string) (string, int) {
	w.t.Helper()
	cmd := exec.Command(w.binary, args...)
	cmd.Env = append(os.Environ(), "LYCHGATE_GATE="+w.q.url(), "LYCHGATE_CA="+w.q.path("ca.pem"), "LYCHGATE_CONFIG="+w.q.path("lychgate.yaml"))
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		w.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// process is a gate that serves.
type process struct {
	world *world
	cmd   *exec.Cmd
	log   *syncBuffer
	done  chan struct{} // closed once it has ended
}

// syncBuffer is a bytes.Buffer that may be read while a process writes it.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// launch starts a gate and does not wait for it. The test's end kills it.
func (w *world) launch() *process {
	w.t.Helper()
	p := &process{world: w, log: &syncBuffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(w.binary, "serve", "--config", w.q.path("lychgate.yaml"))
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState says it
		close(p.done)
	}()
	w.t.Cleanup(p.kill)
	return p
}

// start starts a gate and waits until it serves.
func (w *world) start() *process {
	w.t.Helper()
	p := w.launch()
	p.await("the gate is ready", func() bool { status, _ := w.admin("/readyz"); return status == http.StatusOK })
	return p
}

// await polls until ok, and fails the test when the gate ends before that or patience does.
func (p *process) await(what string, ok func() bool) {
	p.world.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		select {
		case <-p.done:
			p.world.t.Fatalf("the gate ended before: %s\n%s", what, p.log)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.world.t.Fatalf("still waiting for: %s\n%s", what, p.log)
		}
	}
}

// kill ends the gate as a power cut would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// terminate asks the gate to stop.
func (p *process) terminate() {
	p.world.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.world.t.Fatal(err)
	}
}

// stop asks the gate to stop, waits, and demands exit code 0.
func (p *process) stop() {
	p.world.t.Helper()
	p.terminate()
	<-p.done
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.world.t.Errorf("the gate stopped with exit code %d\n%s", code, p.log)
	}
}

// admin asks the admin listener. A gate that does not answer has status 0.
func (w *world) admin(path string) (int, string) {
	res, err := http.Get("http://" + w.q.admin + path)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(text)
}

// metric returns the value of a metric without labels, as it is printed.
func (w *world) metric(name string) string {
	_, text := w.admin("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			return value
		}
	}
	return ""
}

// client returns the project's own client as a user.
func (w *world) client(user string) *client.Client {
	w.t.Helper()
	r := remote{gate: w.q.url(), caFile: w.q.path("ca.pem"), tokenFile: w.q.path(user + ".token")}
	c, err := r.open()
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// person sends plain requests as a user, with connections of its own.
type person struct {
	world *world
	name  string
	token string
	http  *http.Client
}

func (w *world) person(user string) *person {
	w.t.Helper()
	text, err := os.ReadFile(w.q.path(user + ".token"))
	if err != nil {
		w.t.Fatal(err)
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok {
			err = tcp.SetReadBuffer(64 << 10) // so that what is not read is not sent either
		}
		return conn, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.ca}, DialContext: dial, DisableCompression: true}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &person{world: w, name: user, token: strings.TrimSpace(string(text)), http: &http.Client{Transport: transport}}
}

// send sends one request. The caller closes the answer's body.
func (p *person) send(ctx context.Context, method, path string, body []byte, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.world.q.url()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return p.http.Do(req)
}

// answer is a whole answer.
type answered struct {
	status int
	header http.Header
	body   []byte
	err    error // of the body
}

// do sends one request and reads its answer; the gate must be there.
func (p *person) do(method, path string, body []byte, headers ...string) answered {
	p.world.t.Helper()
	res, err := p.send(p.world.t.Context(), method, path, body, headers...)
	if err != nil {
		p.world.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answered{res.StatusCode, res.Header, text, err}
}

// at is where an object of zone main is.
func at(name string) string { return "/sstate/main/" + name }

// item is an object that tests publish.
type item struct {
	name    string
	content []byte
	secret  bool // built from what bob may not read
}

func (i item) digest() artifact.Digest { return sha256.Sum256(i.content) }

// newItem returns an archive of a recipe with as many bytes as asked for, which follow from the recipe's name.
func newItem(recipe string, size int, secret bool) item {
	hash := exampleHash(recipe, "populate_sysroot")
	return item{exampleName(recipe, "populate_sysroot", hash), bytes.Repeat([]byte(hash), size/len(hash)+1)[:size], secret}
}

// siginfo returns the siginfo of an archive.
func (i item) siginfo() item {
	text := storedFrame([]byte(`{"task": "do_populate_sysroot", "runtaskdeps": [], "varvals": {}}`))
	return item{i.name + ".siginfo", text, i.secret}
}

// statement returns a signed statement about items, which are all secret or all not.
func (w *world) statement(signer provenance.Signer, upload string, items ...item) ([]byte, error) {
	repository := "public/hello"
	if items[0].secret {
		repository = "teamA/secret-tool"
	}
	st := &provenance.Statement{
		Zone: "main", Audience: w.q.url(), UploadID: upload, Recipe: "made-up", Builder: "https://ci.example.com", IssuedAt: time.Now(),
		Sources: []source.Source{source.Parse("git://git.example.com/"+repository+".git;protocol=https", strings.Repeat("a", 40))},
	}
	for _, i := range items {
		st.Subjects = append(st.Subjects, provenance.Subject{Name: i.name, Digest: i.digest(), Size: int64(len(i.content))})
	}
	st.Inputs = st.Sources
	payload, err := st.Encode()
	if err != nil {
		return nil, err
	}
	return provenance.Seal(payload, signer)
}

func (w *world) signer() provenance.Signer {
	w.t.Helper()
	signer, err := client.LoadSigner(client.SignerOptions{Key: w.q.path("ci.key")})
	if err != nil {
		w.t.Fatal(err)
	}
	return signer
}

// begin announces items.
func begin(ctx context.Context, c *client.Client, items ...item) (gateway.Upload, error) {
	var req gateway.UploadRequest
	for _, i := range items {
		req.Objects = append(req.Objects, gateway.UploadObject{Name: i.name, Size: int64(len(i.content)), SHA256: i.digest().Hex()})
	}
	return c.Begin(ctx, "main", req)
}

// publish writes items by begin, stage and commit, with one attempt at each step.
func (w *world) publish(ctx context.Context, c *client.Client, signer provenance.Signer, items ...item) (gateway.CommitResult, error) {
	up, err := begin(ctx, c, items...)
	if err != nil {
		return gateway.CommitResult{}, err
	}
	for n, i := range items {
		if up.Objects[n].State == "present" {
			continue
		}
		src := client.UploadSource{Name: i.name, Size: int64(len(i.content)), Digest: i.digest(), Cache: oneObject(i)}
		if _, err := c.UploadObject(ctx, up.ID, n, src); err != nil {
			return gateway.CommitResult{}, err
		}
	}
	envelope, err := w.statement(signer, up.ID, items...)
	if err != nil {
		return gateway.CommitResult{}, err
	}
	return c.Commit(ctx, up.ID, envelope)
}

// mustPublish writes one item.
func (w *world) mustPublish(items ...item) {
	w.t.Helper()
	if _, err := w.publish(w.t.Context(), w.client("ci"), w.signer(), items...); err != nil {
		w.t.Fatal(err)
	}
}

// oneObject is a cache that holds one object.
type oneObject item

func (o oneObject) List(context.Context) (*client.Listing, error) {
	return nil, fmt.Errorf("not a cache to list")
}

func (o oneObject) Open(_ context.Context, _ string, off int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(o.content[off:])), nil
}
