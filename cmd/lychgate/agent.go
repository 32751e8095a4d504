package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/agent"
	"github.com/lychgate/lychgate/internal/client"
)

// Where an agent listens for BitBake unless it is told.
const (
	agentPlace     = "127.0.0.1:8474"
	agentHashPlace = "127.0.0.1:8475"
	agentZone      = "main"
	noHash         = "none"
	unixPlace      = "unix:" // begins a place that is a socket
)

// agentFlags is how an agent is to run.
type agentFlags struct {
	remote
	signIn                     agentSignIn
	verify                     agentVerify
	control, spool, cache, log string
	listen, hash               []string
	spoolGiB, cacheGiB         int64
	anyUser, shared            bool
}

func newAgent() *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{
		Use: "agent", Short: "Stand beside BitBake and talk to the gate for it", Args: noArgs,
		Long: `Agent serves BitBake on this machine over plain http, and talks to the gate with your credential over one HTTP/2 connection.
It gathers BitBake's thousands of questions into few, and downloads an object whole, and verifies it, before it tells BitBake that it is
there. Whatever goes wrong, the gate away or the token at its end, is a miss and a warning here, and never a failed build.

It listens on loopback or a unix socket alone, and serves nobody but the user that runs it; with --shared, every user who has joined, each by
their own token. It runs until it gets SIGTERM or an
interrupt. It logs to standard error. What to write into local.conf is printed by lychgate agent env; how it is doing, by
lychgate agent status. Sockets that systemd hands over are served too, and then the default places are not.

It signs in by itself with the SSH keys that ssh-agent holds and the git server knows, single sign-on, or a CI job's ID token, and renews its
token (--sign-in). Where there is a token already, as lychgate login leaves it in .netrc, it uses that: it is read again when its file changes, and
a running agent goes on with the new one.

With --verify neither the gate's word nor its mirror's is enough: what the signed statement about it does not name, by a key that you give, is
not there, and lychgate agent status says why.`,
		Example: `  lychgate agent --gate https://gate.example.com:8443
  lychgate agent --gate https://gate.example.com:8443 --hash main=127.0.0.1:8475
  lychgate agent --gate https://gate.example.com:8443 --verify --signers allowed_signers
  lychgate agent env >> conf/local.conf`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.flags(cmd)
	f.signIn.flags(cmd)
	f.verify.flags(cmd)
	f.controlFlag(cmd)
	cmd.Flags().StringArrayVar(&f.listen, "listen", nil, "`HOST:PORT` of loopback, or unix:PATH, for BitBake; may be given again; default "+agentPlace)
	cmd.Flags().StringArrayVar(&f.hash, "hash", nil, "serve hash equivalence of a zone: `ZONE=HOST:PORT` of loopback; may be given again; none serves none; default "+agentZone+"="+agentHashPlace+" beside the default of --listen")
	cmd.Flags().StringVar(&f.spool, "spool", "", "`directory` with room for what is downloaded at once; default: lychgate in the user's cache directory")
	cmd.Flags().Int64Var(&f.spoolGiB, "spool-size", 16, "how many `GiB` the spool may hold at once")
	cmd.Flags().StringVar(&f.cache, "cache", "", "keep what was downloaded in a `directory` that nobody else can enter, for the next build; the gate is asked before each use")
	cmd.Flags().Int64Var(&f.cacheGiB, "cache-size", 32, "how many `GiB` the cache may hold")
	cmd.Flags().BoolVar(&f.anyUser, "any-user", false, "serve every user of this machine on TCP, where the system does not tell whose a connection is")
	cmd.Flags().StringVar(&f.log, "log", "text", "log `format`: text or json")
	cmd.Flags().BoolVar(&f.shared, "shared", false, "serve each user of this machine who has joined (lychgate agent join) by their own token; the control socket is then "+agent.SharedControlPath)
	cmd.AddCommand(newAgentEnv(), newAgentStatus(), newAgentJoin(), newAgentLeave())
	return cmd
}

func (f *agentFlags) controlFlag(cmd *cobra.Command) { controlFlag(cmd, &f.control) }

// controlFlag says where an agent is asked how it is.
func controlFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "control", os.Getenv("LYCHGATE_AGENT"), "control `socket` of the agent; LYCHGATE_AGENT names it too; default: lychgate/agent.sock in $XDG_RUNTIME_DIR, or that of a shared agent")
}

// controlPath returns where to ask an agent: one's own, else the shared one of this machine if there is one.
func controlPath(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	path, err := agent.ControlPath(os.Getenv)
	if err == nil && isSocket(path) {
		return path, nil
	}
	if isSocket(agent.SharedControlPath) {
		return agent.SharedControlPath, nil
	}
	if err != nil {
		return "", usageError("%w", err)
	}
	return path, nil
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == os.ModeSocket
}

// run listens and serves until the command's context is done.
func (f *agentFlags) run(cmd *cobra.Command) error {
	log, err := newLog(cmd, f.log)
	if err != nil {
		return err
	}
	if err := f.checkShared(cmd); err != nil {
		return err
	}
	c, err := f.anonymous()
	if err != nil {
		return err
	}
	verifier, err := f.verify.verifier()
	if err != nil {
		return err
	}
	places, err := f.open()
	if err != nil {
		return err
	}
	defer places.close()
	conf, err := f.config(c, verifier, places, log)
	if err != nil {
		return err
	}
	a, renewer, err := f.agent(cmd, conf)
	if err != nil {
		return err
	}
	for _, ln := range places.http {
		log.Info("the agent serves BitBake", "listen", ln.Addr().String(), "gate", f.gate)
	}
	running, ctx := errgroup.WithContext(cmd.Context())
	if renewer != nil {
		defer endToken(renewer)
		running.Go(func() error { return renewer.Run(ctx) })
	}
	running.Go(func() error { return a.Serve(ctx, places.http...) })
	running.Go(func() error { return a.ServeControl(ctx, places.control) })
	return running.Wait()
}

// servedAgent is an agent of one user, or a shared one.
type servedAgent interface {
	Serve(ctx context.Context, listeners ...net.Listener) error
	ServeControl(ctx context.Context, ln net.Listener) error
}

// agent makes the agent, and what keeps its token up; nil for what nobody needs to.
func (f *agentFlags) agent(cmd *cobra.Command, conf agent.Config) (a servedAgent, renewer *client.Renewer, err error) {
	if f.shared {
		a, err = agent.NewShared(conf)
	} else {
		if conf.Credentials, renewer, err = f.credentials(cmd, conf.Client); err != nil {
			return nil, nil, err
		}
		a, err = agent.New(conf)
	}
	if err != nil {
		return nil, nil, &exitError{code: exitUsage, err: err}
	}
	return a, renewer, nil
}

// checkShared refuses what a shared agent has no use for: a credential of its own, which it would show for others.
func (f *agentFlags) checkShared(cmd *cobra.Command) error {
	if !f.shared {
		return nil
	}
	for _, flag := range []string{"tls-cert", "tls-key", "token-file", "netrc", "sign-in", "key", "ssh", "issuer", "audience", "id-token-file", "any-user"} {
		if cmd.Flags().Changed(flag) {
			return usageError("--%s does not go with --shared: each user joins with their own token", flag)
		}
	}
	return nil
}

// config is what the flags say of the agent, its credentials apart.
func (f *agentFlags) config(c *client.Client, verifier agent.Verifier, places *agentPlaces, log *slog.Logger) (conf agent.Config, err error) {
	if f.spoolGiB < 1 {
		return conf, usageError("--spool-size %d: want at least 1", f.spoolGiB)
	}
	if f.cacheGiB < 1 {
		return conf, usageError("--cache-size %d: want at least 1", f.cacheGiB)
	}
	spool := f.spool
	if spool == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return conf, usageError("there is no place for the spool: %w: give --spool DIRECTORY", err)
		}
		spool = filepath.Join(dir, "lychgate", "spool")
	}
	conf = agent.Config{
		Client: c, Gate: f.gate, Spool: spool, SpoolBytes: f.spoolGiB << 30, Cache: f.cache, CacheBytes: f.cacheGiB << 30,
		Verifier: verifier, VerifyZones: f.verify.zones, AnyUser: f.anyUser, Log: log,
	}
	for zone, ln := range places.hash {
		conf.Hash = append(conf.Hash, agent.Hash{Zone: zone, Listener: ln, Address: c.HashURL(zone), Dialer: hashserv.Dialer{TLS: c.TLS()}})
	}
	return conf, nil
}

// agentPlaces is where an agent listens.
type agentPlaces struct {
	http    []net.Listener
	hash    map[string]net.Listener // by zone
	control net.Listener
}

// open listens everywhere.
func (f *agentFlags) open() (p *agentPlaces, err error) {
	p = &agentPlaces{hash: map[string]net.Listener{}}
	defer func() {
		if err != nil {
			p.close()
			err = &exitError{code: exitUsage, err: err}
		}
	}()
	if err := p.inherit(os.Getenv); err != nil {
		return p, err
	}
	if err := f.openControl(p); err != nil {
		return p, err
	}
	if len(f.listen) == 0 && len(p.http) == 0 {
		f.listen = []string{agentPlace}
		if len(f.hash) == 0 && len(p.hash) == 0 {
			f.hash = []string{agentZone + "=" + agentHashPlace}
		}
	}
	for _, place := range f.listen {
		ln, err := f.listenAt(place)
		if err != nil {
			return p, err
		}
		p.http = append(p.http, ln)
	}
	return p, f.openHash(p)
}

func (f *agentFlags) openControl(p *agentPlaces) error {
	if p.control != nil {
		return nil
	}
	path := f.control
	switch {
	case path != "":
	case f.shared:
		path = agent.SharedControlPath
	default:
		var err error
		if path, err = agent.ControlPath(os.Getenv); err != nil {
			return err
		}
	}
	var err error
	p.control, err = f.listenAt(unixPlace + path)
	return err
}

// listenAt listens where the agent's user alone can come, or every user when the agent is shared.
func (f *agentFlags) listenAt(place string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(place, unixPlace); ok && f.shared {
		return agent.ListenShared(path)
	}
	return agent.Listen(place)
}

func (f *agentFlags) openHash(p *agentPlaces) error {
	if slices.Equal(f.hash, []string{noHash}) {
		return nil
	}
	for _, word := range f.hash {
		zone, place, ok := strings.Cut(word, "=")
		if !ok || !artifact.ValidZoneName(zone) {
			return fmt.Errorf("--hash %s: want ZONE=HOST:PORT", word)
		}
		if p.hash[zone] != nil {
			return fmt.Errorf("--hash %s: zone %s has a place already", word, zone)
		}
		ln, err := f.listenAt(place)
		if err != nil {
			return err
		}
		p.hash[zone] = ln
	}
	return nil
}

// close frees what nobody serves.
func (p *agentPlaces) close() {
	all := slices.Clone(p.http)
	for _, ln := range p.hash {
		all = append(all, ln)
	}
	if p.control != nil {
		all = append(all, p.control)
	}
	for _, ln := range all {
		_ = ln.Close() // closed by who served it, as a rule
	}
}

func newAgentEnv() *cobra.Command {
	var control string
	var zones []string
	cmd := &cobra.Command{
		Use: "env", Short: "Print the lines for local.conf", Args: noArgs,
		Long: `Env asks the running agent where it listens, and prints what BitBake needs in conf/local.conf to use it. When no agent answers, it
prints that for one in the default places. Several zones are looked in one after the other. Hash equivalence is that of the first zone.`,
		Example: `  lychgate agent env >> conf/local.conf`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := askAgent(cmd.Context(), control)
			if errors.Is(err, agent.ErrNoAgent) {
				fmt.Fprintf(cmd.ErrOrStderr(), "note: %v; these are the default places\n", err)
				s, err = agent.Status{Listen: []string{agentPlace}, Hash: map[string]string{agentZone: agentHashPlace}}, nil
			}
			if err != nil {
				return err
			}
			text, err := agentEnv(s, zones, os.Getenv)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	controlFlag(cmd, &control)
	cmd.Flags().StringArrayVar(&zones, "zone", []string{agentZone}, "`zone` to read from; may be given again")
	return cmd
}

func askAgent(ctx context.Context, control string) (agent.Status, error) {
	path, err := controlPath(control)
	if err != nil {
		return agent.Status{}, err
	}
	return agent.Ask(ctx, path)
}

// agentEnv prints the lines of local.conf for an agent.
func agentEnv(s agent.Status, zones []string, env func(string) string) (string, error) {
	i := slices.IndexFunc(s.Listen, func(place string) bool { return !strings.HasPrefix(place, unixPlace) })
	if i < 0 {
		return "", errors.New("the agent listens on a unix socket alone, which BitBake cannot use: start it with --listen 127.0.0.1:PORT")
	}
	var mirrors []string
	for _, zone := range zones {
		if !artifact.ValidZoneName(zone) {
			return "", usageError("--zone %s: a zone has lower-case letters, digits and '-'", printable(zone))
		}
		mirrors = append(mirrors, "file://.* http://"+s.Listen[i]+"/"+zone+"/PATH;downloadfilename=PATH")
	}
	text := `SSTATE_MIRRORS = "` + strings.Join(mirrors, " ") + "\"\n"
	if place, ok := s.Hash[zones[0]]; ok {
		if path, ok := strings.CutPrefix(place, unixPlace); ok {
			place = "unix://" + path // as BitBake writes it
		}
		text += "BB_SIGNATURE_HANDLER = \"OEEquivHash\"\nBB_HASHSERVE = \"" + place + "\"\n"
	}
	host, _, _ := net.SplitHostPort(s.Listen[i])
	proxy := cmp.Or(env("http_proxy"), env("HTTP_PROXY"))
	if proxy != "" && !slices.Contains(strings.Split(cmp.Or(env("no_proxy"), env("NO_PROXY")), ","), host) {
		text += "# http_proxy is set: add " + host + " to no_proxy, or the proxy is asked in place of the agent.\n"
	}
	return text, nil
}
