package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/internal/devca"
)

// quickstart is a gate with everything embedded, ready to try.
type quickstart struct {
	dir, https, ssh, admin, sstate string
	hosts                          []string // where the sources of that cache are; nil for the example's
	out                            io.Writer
}

func newQuickstart() *cobra.Command {
	var q quickstart
	cmd := &cobra.Command{
		Use: "quickstart", Short: "Start a gate with everything embedded, filled and ready to try", Args: noArgs,
		Long: `Quickstart makes a directory with a configuration, a development CA, a forge in a YAML file, keys and tokens,
starts the gate on it, publishes a small cache through the signed-write path, and prints commands to try.

The forge is git.example.com, or with --sstate whatever hosts that cache's sources are at. Its users: alice may read every
repository, bob those under public/ only, ci may write.
Start it again and it goes on with the same directory. It is for trying, not for work: lychgate config example prints
a configuration to begin with.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q.out = cmd.OutOrStdout()
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			return q.run(cmd.Context(), log)
		},
	}
	cmd.Flags().StringVar(&q.dir, "dir", filepath.Join("var", "quickstart"), "`directory` for everything it keeps")
	cmd.Flags().StringVar(&q.https, "https", "127.0.0.1:8443", "`address` of the https door")
	cmd.Flags().StringVar(&q.ssh, "ssh", "127.0.0.1:2222", "`address` of the ssh door")
	cmd.Flags().StringVar(&q.admin, "admin", "127.0.0.1:9443", "`address` of the admin listener: health, metrics")
	cmd.Flags().StringVar(&q.sstate, "sstate", "", "`directory` of a shared-state cache to publish instead of the example")
	return cmd
}

func (q *quickstart) run(ctx context.Context, log *slog.Logger) (err error) {
	if q.sstate != "" {
		if q.hosts, err = sourceHosts(ctx, q.sstate); err != nil {
			return fmt.Errorf("read %s: %w", q.sstate, err)
		}
	}
	cfg, err := q.prepare()
	if err != nil {
		return fmt.Errorf("prepare %s: %w", q.dir, err)
	}
	g, err := newGate(ctx, cfg, log)
	if err != nil {
		return err
	}
	err = q.tokens(ctx, g)
	if err == nil {
		err = q.serve(ctx, g)
	}
	return errors.Join(err, g.close())
}

// sourceHosts returns the hosts that a cache's sources are at, sorted.
func sourceHosts(ctx context.Context, dir string) ([]string, error) {
	cache, err := client.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	derived, err := client.Derive(ctx, cache, client.DeriveOptions{})
	if err = errors.Join(err, cache.Close()); err != nil {
		return nil, err
	}
	hosts := map[string]bool{}
	for _, b := range derived.Builds {
		for _, s := range b.Inputs() {
			hosts[s.Locator.Host] = true
		}
	}
	delete(hosts, "") // of what has no place
	return slices.Sorted(maps.Keys(hosts)), nil
}

// serve runs the gate and, beside it, fills it and says what to try.
func (q *quickstart) serve(ctx context.Context, g *gate) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { defer cancel(); return g.serve(ctx) })
	group.Go(func() error {
		if err := q.fill(ctx); err != nil {
			return fmt.Errorf("publish the example: %w", err)
		}
		return q.greet(ctx, g)
	})
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (q *quickstart) path(name string) string { return filepath.Join(q.dir, name) }

// url is where a client on this machine finds the gate.
func (q *quickstart) url() string {
	host, port, err := net.SplitHostPort(q.https)
	if err != nil || host == "" || net.ParseIP(host).IsUnspecified() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, port)
}

// prepare writes what is not there yet. The configuration is written each time: it follows the flags.
func (q *quickstart) prepare() (*config.Config, error) {
	if _, _, err := net.SplitHostPort(q.https); err != nil {
		return nil, usageError("--https %s: %w", q.https, err)
	}
	if err := os.MkdirAll(q.dir, 0o700); err != nil {
		return nil, err
	}
	if err := q.signingKey(); err != nil {
		return nil, err
	}
	people, err := q.forge()
	if err != nil {
		return nil, err
	}
	if err := writeOnce(q.path("forge.yaml"), people); err != nil {
		return nil, err
	}
	if err := os.WriteFile(q.path("lychgate.yaml"), []byte(q.config()), 0o600); err != nil {
		return nil, err
	}
	cfg, err := config.Load(q.path("lychgate.yaml"))
	if err != nil {
		return nil, err
	}
	if err := q.knownHosts(cfg); err != nil {
		return nil, err
	}
	ca, err := devca.Open(cfg.DevelopmentCADir(), time.Now)
	if err != nil {
		return nil, err
	}
	return cfg, os.WriteFile(q.path("ca.pem"), ca.PEM(), 0o644)
}

// config is the configuration of the quickstart, as short as one can be.
func (q *quickstart) config() string {
	host, _, _ := net.SplitHostPort(strings.TrimPrefix(q.url(), "https://"))
	return fmt.Sprintf(`# Written by lychgate quickstart each time it starts. Copy it before you change it.
node: quickstart
state: state
https:
  listen: %q
  audience: %q
  names: [%q, localhost]
  tls: {development_ca: true}
ssh:
  listen: %q
admin:
  listen: %q
zones:
  - name: main
    writers: {users: [git.example.com/ci]}
    admins: {users: [git.example.com/alice]}
    signers: [ci]
signers:
  keys:
    - {identity: ci, file: ci.pub}
forges:
  - {name: git.example.com, type: static, file: forge.yaml}
`, q.https, q.url(), host, q.ssh, q.admin)
}

// quickstartForge is the git server of the quickstart. Edit it while the gate runs: it takes a second.
const quickstartForge = `hosts: [git.example.com]
users:
  - {id: alice, name: alice, kind: human}
  - {id: bob, name: bob, kind: human}
  - {id: ci, name: ci, kind: ci}
access:
  - {repos: ["**"], users: [alice, ci]}
  - {repos: ["public/**"], users: [bob]}
`

// signingKey makes the key pair that CI signs with.
func (q *quickstart) signingKey() error {
	if _, err := os.Stat(q.path("ci.key")); err == nil {
		return nil
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
	if err := os.WriteFile(q.path("ci.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(q.path("ci.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER}), 0o600)
}

// forge is quickstartForge with the hosts of the cache and the SSH keys of its people.
func (q *quickstart) forge() (string, error) {
	text := quickstartForge
	if len(q.hosts) > 0 {
		text = strings.Replace(text, "[git.example.com]", hostList(q.hosts), 1)
	}
	for _, user := range []string{"alice", "bob"} {
		key, err := q.sshKey(user)
		if err != nil {
			return "", err
		}
		line := fmt.Sprintf("name: %s, kind: human", user)
		text = strings.Replace(text, line, fmt.Sprintf("%s, keys: [%q]", line, key), 1)
	}
	return text, nil
}

// hostList is hosts as a list in YAML.
func hostList(hosts []string) string {
	quoted := make([]string, len(hosts))
	for i, h := range hosts {
		quoted[i] = strconv.Quote(h)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// sshKey makes the key that a user shows at the ssh door, unless it is there, and returns its public half.
func (q *quickstart) sshKey(user string) (string, error) {
	path := q.path(user + ".key")
	text, err := os.ReadFile(path)
	if err == nil {
		key, err := ssh.ParsePrivateKey(text)
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		return authorizedKey(key.PublicKey()), nil
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, user)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return "", err
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		return "", err
	}
	return authorizedKey(public), nil
}

// authorizedKey is a key in the form of a .pub file's line.
func authorizedKey(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// knownHosts writes down the ssh door's host key, so that trying it asks no questions.
func (q *quickstart) knownHosts(cfg *config.Config) error {
	keys, err := hostKeys(cfg)
	if err != nil {
		return err
	}
	return os.WriteFile(q.path("known_hosts"), []byte(sshd.KnownHosts(sshAddress(cfg), keys)), 0o600)
}

// writeOnce writes a file that a person may have changed since.
func writeOnce(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// quickstartTTL is how long the tokens of the quickstart live; each start makes new ones.
const quickstartTTL = 30 * 24 * time.Hour

// tokens gives each user a token. Those of earlier starts are revoked: their files are overwritten.
func (q *quickstart) tokens(ctx context.Context, g *gate) error {
	old, err := g.tokens.List(ctx)
	if err != nil {
		return err
	}
	for _, t := range old {
		if t.Note == quickstartNote {
			if err := g.tokens.Revoke(ctx, t.ID); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"alice", "bob", "ci"} {
		p, err := g.findUser(ctx, "", name)
		if err != nil {
			return err
		}
		secret, _, err := g.tokens.Mint(ctx, authn.Order{Principal: p, TTL: quickstartTTL, Note: quickstartNote})
		if err != nil {
			return err
		}
		if err := os.WriteFile(q.path(name+".token"), []byte(secret.Reveal()+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

const quickstartNote = "quickstart"

// fill publishes the cache as CI would.
func (q *quickstart) fill(ctx context.Context) error {
	dir := q.sstate
	if dir == "" {
		dir = q.path("example")
		if err := writeExample(dir); err != nil {
			return err
		}
	}
	r := remote{gate: q.url(), caFile: q.path("ca.pem"), tokenFile: q.path("ci.token")}
	report, err := pushDir(ctx, r, pushFlags{zone: "main", key: q.path("ci.key"), builder: q.url() + "/quickstart", jobs: 2}, dir, nil)
	if err != nil {
		return err
	}
	if report.ExitCode() == 0 {
		fmt.Fprintf(q.out, "%d objects are published.\n", report.Objects)
	} else if err := report.WriteText(q.out); err != nil {
		return err
	}
	return q.tellUnowned()
}

// tellUnowned says which hosts the forge does not know: it was written for another cache, or by a person.
func (q *quickstart) tellUnowned() error {
	static, err := forge.LoadStatic(forge.StaticConfig{Name: "git.example.com", File: q.path("forge.yaml")})
	if err != nil {
		return err
	}
	owned := static.Hosts()
	unowned := slices.DeleteFunc(slices.Clone(q.hosts), func(h string) bool { return slices.Contains(owned, h) })
	if len(unowned) > 0 {
		fmt.Fprintf(q.out, "Nobody may read what is built from sources at %s: add to hosts in %s.\n", hostList(unowned), q.path("forge.yaml"))
	}
	return nil
}

// greet prints what to try.
func (q *quickstart) greet(ctx context.Context, g *gate) error {
	name, err := q.secretArtifact(ctx, g)
	if err != nil {
		return err
	}
	self := os.Args[0]
	get := func(user string) string {
		return fmt.Sprintf("%s get --gate %s --ca %s --token-file %s -o %s '%s'", self, q.url(), q.path("ca.pem"), q.path(user+".token"), q.path("got"), name)
	}
	_, err = fmt.Fprintf(q.out, `
The gate is open: %s, ssh on %s, admin on http://%s (healthz, readyz, metrics).
Try these in another terminal:

1. alice may read every repository, and gets this artifact:
   %s

2. bob may not read what it was built from. For him it does not exist:
   %s

3. Why?
   %s explain --config %s --as bob '%s'

4. The same by the SSH keys of the two, which the git server knows; whoami, token and help are commands too:
   %s
   %s

5. Build through it, with the agent beside BitBake; the second line says what conf/local.conf needs:
   %s agent --gate %s --ca %s --key %s
   %s agent env

Stop it with Ctrl-C. Everything it keeps is in %s.
`, q.url(), q.ssh, q.admin, get("alice"), get("bob"), self, q.path("lychgate.yaml"), name,
		q.sshLine("scp -P", "alice", "gate:/main/"+name+" "+q.path("got")), q.sshLine("ssh -p", "bob", "gate whoami"),
		self, q.url(), q.path("ca.pem"), q.path("alice.key"), self, q.dir)
	return err
}

// sshLine is a command line of an OpenSSH program that comes as user. In what follows, "gate" stands for the door's host.
func (q *quickstart) sshLine(program, user, rest string) string {
	host, port, _ := net.SplitHostPort(q.ssh)
	if host == "" {
		host = "127.0.0.1"
	}
	return fmt.Sprintf("%s %s -i %s -o IdentitiesOnly=yes -o UserKnownHostsFile=%s %s",
		program, port, q.path(user+".key"), q.path("known_hosts"), strings.Replace(rest, "gate", host, 1))
}

// secretArtifact finds an archive, or else any object, that alice may read and bob may not.
func (q *quickstart) secretArtifact(ctx context.Context, g *gate) (string, error) {
	asked := map[string]*client.Client{}
	for _, user := range []string{"alice", "bob"} {
		r := remote{gate: q.url(), caFile: q.path("ca.pem"), tokenFile: q.path(user + ".token")}
		c, err := r.open()
		if err != nil {
			return "", err
		}
		asked[user] = c
	}
	records, err := g.db.List(ctx, "main", "", "", 10000)
	if err != nil {
		return "", err
	}
	var names []string
	for _, r := range records {
		names = append(names, r.Ref.Name())
	}
	if len(names) == 0 {
		return "", errors.New("nothing is published: is the cache empty?")
	}
	alice, err := asked["alice"].Presence(ctx, "main", names)
	if err != nil {
		return "", err
	}
	bob, err := asked["bob"].Presence(ctx, "main", names)
	if err != nil {
		return "", err
	}
	found := names[0]
	for i, name := range names {
		if alice[i] && !bob[i] {
			found = name
			if strings.HasSuffix(name, ".tar.zst") {
				break
			}
		}
	}
	return found, nil
}
