package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
)

// login is a sign-in: how, and what becomes of the token.
type login struct {
	remote
	ssh, key, issuer, oidcCA, idTokenFile, audience, note string
	viaSSH, viaKeys, oidc, ci, device, browser, link      bool
	print, replace, asJSON                                bool
	ttl                                                   time.Duration

	cmd *cobra.Command
	c   *client.Client // shows no token
}

// bareSSH is the value of --ssh when none is given; it is no host.
const bareSSH = "-"

func newLogin() *cobra.Command {
	var l login
	cmd := &cobra.Command{
		Use: "login", Short: "Sign in at a gate, and keep the token in .netrc",
		Long: `Login gets a token from a gate and puts it into .netrc, where BitBake, wget and the other verbs find it. You sign in with
what you have already:

  --ssh-agent   the SSH keys that ssh-agent holds, over https; --key FILE is one key
  --ssh    the SSH key that the git server knows; your own ssh program runs, so its configuration, agent and hardware keys work
  --oidc   single sign-on, in a browser on this machine (--browser) or on any other (--device)
  --ci     the ID token of a CI job: of GitLab (id_tokens), of GitHub Actions (permissions: id-token: write), or a file
  --tls-cert and --tls-key   a client certificate

Without any of them it takes --ci in a CI job, --ssh-agent where ssh-agent holds keys and the gate takes one of them, --ssh where the gate
has an ssh door, else --oidc, and says which.

The entry of the gate's host is replaced, and its old token revoked. Everything else in the file stays as it is. Host names stand
there without port: two gates on one host share the entry. The token ends by itself, as the gate's configuration says, or
after --ttl. Run login again then, or lychgate logout before.

The gate may not know which user of the git server your single sign-on is. Tell it once: sign in with your SSH key, then run
lychgate login --oidc --link.`,
		Example: `  lychgate login --gate https://gate.example.com:8443
  lychgate login --gate https://gate.example.com:8443 --ssh gate.example.com:2222
  lychgate login --gate https://gate.example.com:8443 --oidc --device
  lychgate login --ci --print >token      # with LYCHGATE_GATE set`,
		Args: l.args,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l.cmd = cmd
			return l.run(cmd.Context())
		},
	}
	l.flags(cmd)
	l.remote.flags(cmd)
	return cmd
}

func (l *login) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.ssh, "ssh", "", "sign in at the ssh door `[USER@]HOST[:PORT]`; without a value, at the one that the gate names")
	f.Lookup("ssh").NoOptDefVal = bareSSH
	f.BoolVar(&l.viaKeys, "ssh-agent", false, "sign in over https with the SSH keys that ssh-agent holds")
	f.StringVar(&l.key, "key", "", "sign in over https with the SSH key in `file`; a .pub file or SHA256:... picks a key of ssh-agent")
	f.BoolVar(&l.oidc, "oidc", false, "sign in at an OpenID provider")
	f.BoolVar(&l.ci, "ci", false, "sign in with the ID token of a CI job")
	f.BoolVar(&l.browser, "browser", false, "with --oidc: in a browser on this machine")
	f.BoolVar(&l.device, "device", false, "with --oidc: in a browser on any machine, with a code")
	f.StringVar(&l.issuer, "issuer", "", "with --oidc: `NAME` or URL of the provider, when the gate has several")
	f.StringVar(&l.oidcCA, "oidc-ca", "", "PEM `file` that verifies the provider, beside --ca and the system's")
	f.BoolVar(&l.link, "link", false, "with --oidc: tell the gate that this is the user whose token is in .netrc")
	f.StringVar(&l.idTokenFile, "id-token-file", "", "with --ci: `file` that holds the ID token; LYCHGATE_ID_TOKEN holds one itself")
	f.StringVar(&l.audience, "audience", "", "what the gate calls itself, when that is another `URL` than --gate")
	f.DurationVar(&l.ttl, "ttl", 0, "how long the token lives; default: as long as the gate gives")
	f.StringVar(&l.note, "note", "", "`text` to recognise the token by; default: this host, or the CI job")
	f.BoolVar(&l.print, "print", false, "print the token and leave .netrc alone")
	f.BoolVar(&l.replace, "replace", false, "replace the host's entry in .netrc also when its password is no gate token")
	f.BoolVar(&l.asJSON, "json", false, "print JSON")
	noValues := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, name := range []string{"ssh", "issuer", "audience", "note"} {
		_ = cmd.RegisterFlagCompletionFunc(name, noValues) // an error would mean that the flag is not there
	}
	_ = cmd.RegisterFlagCompletionFunc("ttl", cobra.FixedCompletions([]string{"1h", "8h", "12h"}, cobra.ShellCompDirectiveNoFileComp))
}

// args takes the value of --ssh where it follows after a blank, which a flag that needs no value does not.
func (l *login) args(cmd *cobra.Command, args []string) error {
	if l.ssh == bareSSH && len(args) == 1 {
		l.ssh = args[0]
		return nil
	}
	return noArgs(cmd, args)
}

// check looks for flags that do not go together.
func (l *login) check() error {
	l.viaSSH = l.cmd.Flags().Changed("ssh")
	l.oidc = l.oidc || l.device || l.browser || l.issuer != "" || l.link
	l.ci = l.ci || l.idTokenFile != ""
	l.viaKeys = l.viaKeys || l.key != ""
	ways := 0
	for _, way := range []bool{l.viaSSH, l.viaKeys, l.oidc, l.ci} {
		if way {
			ways++
		}
	}
	switch {
	case ways > 1:
		return usageError("--ssh-agent, --ssh, --oidc and --ci, and the flags of each, are different ways: give one")
	case l.device && l.browser:
		return usageError("--device and --browser are different ways: give one")
	case l.ttl < 0 || l.ttl > 0 && l.ttl < time.Second:
		return usageError("--ttl %v: want at least a second", l.ttl)
	}
	return nil
}

func (l *login) run(ctx context.Context) error {
	if err := l.check(); err != nil {
		return err
	}
	netrc, old, err := l.prepare()
	if err != nil {
		return err
	}
	reply, err := l.signIn(ctx)
	if err != nil {
		return err
	}
	if l.print {
		return l.show(reply)
	}
	token := authn.NewSecret(reply.Token)
	notes, err := l.keep(ctx, netrc, token)
	if err != nil {
		// Nobody has the token, so it should not go on living.
		return errors.Join(err, l.c.As(token).RevokeToken(ctx, "current"))
	}
	for _, note := range notes {
		l.say("note: %s", note)
	}
	l.revokeOld(ctx, old)
	return l.report(netrc, reply)
}

// prepare makes the client, and looks whether .netrc can take the token before there is one. old is the token that it holds now.
func (l *login) prepare() (netrc *client.Netrc, old authn.Secret, err error) {
	if l.c, err = l.anonymous(); err != nil || l.print {
		return nil, old, err
	}
	if netrc, err = client.OpenNetrc(l.netrc, os.Getenv); err != nil {
		return nil, old, usageError("%w", err)
	}
	entry, ok, err := lookup(netrc, l.c.Host())
	if err != nil {
		return nil, old, err
	}
	if ok && !client.IsGateToken(entry.Password) && !entry.Password.IsZero() && !l.replace {
		return nil, old, fmt.Errorf("the entry of %s in %s holds a password that is no gate token, and may be needed for something else: "+
			"add --replace to replace it, or --netrc FILE for another file, or --print", l.c.Host(), netrc.Path())
	}
	return netrc, entry.Password, nil
}

// lookup is Netrc.Lookup before a change, which makes a file private that others can read.
func lookup(netrc *client.Netrc, host string) (client.NetrcLogin, bool, error) {
	entry, ok, err := netrc.Lookup(host)
	var exposed *client.ExposedError
	if errors.As(err, &exposed) {
		err = nil
	}
	return entry, ok, err
}

// say tells a person what goes on, beside the output.
func (l *login) say(format string, args ...any) {
	fmt.Fprintf(l.cmd.ErrOrStderr(), "lychgate: "+format+"\n", args...)
}

// order is what is asked of the gate.
func (l *login) order() gateway.TokenRequest {
	note := l.note
	if note == "" {
		builder, run := ciJob(os.Getenv, "")
		note = "lychgate login, " + cmp.Or(run, builder)
		note = printable(strings.ToValidUTF8(note[:min(len(note), 255)], ""))
	}
	return gateway.TokenRequest{Seconds: int64(l.ttl / time.Second), Note: note}
}

// signIn gets a token in the way that was asked for, or in the best that there is.
func (l *login) signIn(ctx context.Context) (gateway.TokenReply, error) {
	source, err := client.ChooseSource(ctx, l.c, l.choice())
	var mistake *client.MistakeError
	if errors.As(err, &mistake) {
		return gateway.TokenReply{}, usageError("%w", err)
	}
	if err != nil {
		return gateway.TokenReply{}, err
	}
	if person, ok := source.(*client.SingleSignOn); ok && l.link {
		return l.signInAndLink(ctx, person)
	}
	l.say("signing in with %s", source)
	return source.Token(ctx, l.c, l.order())
}

// signInAndLink is signIn for a person whom the gate is told who it is.
func (l *login) signInAndLink(ctx context.Context, person *client.SingleSignOn) (gateway.TokenReply, error) {
	holder, err := l.open() // before a person is sent to a browser for nothing
	if err != nil {
		return gateway.TokenReply{}, usageError("--link needs a token that was made with your SSH key: %w", err)
	}
	l.say("signing in with %s", person)
	who, err := person.SignIn(ctx)
	if err != nil {
		return gateway.TokenReply{}, err
	}
	if err := l.tie(ctx, holder, who); err != nil {
		return gateway.TokenReply{}, err
	}
	return person.Token(ctx, l.c, l.order())
}

// choice is what the flags and the environment say of how to sign in.
func (l *login) choice() client.Choice {
	w := client.Choice{
		Audience: l.audience, Certificate: l.certFile, Key: client.SignerOptions{Key: l.key, AgentSocket: os.Getenv("SSH_AUTH_SOCK"), Passphrase: askPassphrase},
		Program: sshProgram(), Stderr: l.cmd.ErrOrStderr(),
		Issuer: l.issuer, CanAsk: true, Browser: browserHere(), Out: l.cmd.ErrOrStderr(),
		IDTokenFile: l.idTokenFile, Env: os.Getenv, Web: l.web, Say: func(text string) { l.say("%s", text) },
	}
	w.InBrowser = l.browser || !l.device && w.Browser != nil && isTerminal(l.cmd)
	switch {
	case l.viaSSH:
		w.Way = client.ByDoor
		if l.ssh != bareSSH {
			w.Door = l.ssh
		}
	case l.viaKeys:
		w.Way = client.ByKeys
	case l.oidc:
		w.Way = client.ByProvider
	case l.ci:
		w.Way = client.ByJob
	}
	return w
}

func sshProgram() string { return cmp.Or(os.Getenv("LYCHGATE_SSH"), "ssh") }

func hasProgram(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// web reaches what is not the gate.
func (l *login) web() (*http.Client, error) {
	return client.NewProviderClient("lychgate/"+version(), l.caFile, l.oidcCA)
}

// tie links the person to the user whose credential the holder shows.
func (l *login) tie(ctx context.Context, holder *client.Client, who client.Identity) error {
	if err := holder.Link(ctx, who.IDToken); err != nil {
		return fmt.Errorf("%w\n--link needs a credential of your own, of a person whom the git server knows: sign in with your SSH key first: lychgate login --gate %s --ssh, or --ssh-agent", err, l.gate)
	}
	l.say("subject %s of %s is linked to you", printable(who.Subject), printable(who.Issuer))
	return nil
}

func isUnauthorized(err error) bool {
	var refused *client.Error
	return errors.As(err, &refused) && refused.Status == http.StatusUnauthorized
}

func isTerminal(cmd *cobra.Command) bool {
	f, ok := cmd.ErrOrStderr().(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// browserHere returns what opens an address in a browser, or nil where there is no display.
func browserHere() func(string) error {
	program := "xdg-open"
	if runtime.GOOS == "darwin" {
		program = "open"
	} else if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return nil
	}
	if !hasProgram(program) {
		return nil
	}
	return func(address string) error {
		cmd := exec.Command(program, address)
		if err := cmd.Start(); err != nil {
			return err
		}
		go func() { _ = cmd.Wait() }() // it may go on for as long as the browser
		return nil
	}
}

// keep tries the token at the gate, so that .netrc gets none of another, and writes it.
func (l *login) keep(ctx context.Context, netrc *client.Netrc, token authn.Secret) ([]string, error) {
	if _, err := l.c.As(token).Whoami(ctx); err != nil {
		return nil, fmt.Errorf("the new token does not work at %s: %w", l.gate, err)
	}
	return netrc.Set(ctx, l.c.Host(), client.NetrcLogin{Login: "token", Password: token})
}

// revokeOld ends the token that was replaced, as well as that can be done.
func (l *login) revokeOld(ctx context.Context, old authn.Secret) {
	if !client.IsGateToken(old) {
		return
	}
	if err := l.c.As(old).RevokeToken(ctx, "current"); err != nil && !isUnauthorized(err) {
		l.say("note: the token that was in .netrc before lives on until it ends: %v", err)
	}
}

// show prints the token.
func (l *login) show(reply gateway.TokenReply) error {
	if l.asJSON {
		return printJSON(l.cmd.OutOrStdout(), reply)
	}
	l.say("signed in as %s (%s) until %s", printable(reply.Name), printable(reply.User), printable(reply.Expires))
	_, err := fmt.Fprintln(l.cmd.OutOrStdout(), reply.Token)
	return err
}

// signedIn is what login prints as JSON. The token is not among it.
type signedIn struct {
	Gate    string `json:"gate"`
	User    string `json:"user"`
	Name    string `json:"name"`
	ID      string `json:"id"` // of the token
	Expires string `json:"expires"`
	Netrc   string `json:"netrc"`
	Machine string `json:"machine"`
}

// report says who one is now, and what comes next.
func (l *login) report(netrc *client.Netrc, reply gateway.TokenReply) error {
	out := l.cmd.OutOrStdout()
	if l.asJSON {
		return printJSON(out, signedIn{l.gate, reply.User, reply.Name, reply.ID, reply.Expires, netrc.Path(), l.c.Host()})
	}
	_, err := fmt.Fprintf(out, `You are %s (%s) at %s until %s.
The token is in %s, as the password of machine %s.
BitBake finds it there. In conf/local.conf, with your zone in place of main:

SSTATE_MIRRORS = "file://.* %s/PATH;downloadfilename=PATH"
`, printable(reply.Name), printable(reply.User), l.gate, printable(reply.Expires), netrc.Path(), l.c.Host(), l.c.MirrorURL("main"))
	return err
}

func newLogout() *cobra.Command {
	var r remote
	cmd := &cobra.Command{
		Use: "logout", Short: "Revoke the token in .netrc, and take it out", Args: noArgs,
		Long: `Logout revokes the token that .netrc holds for the gate, and removes the entry. Everything else in the file stays as it
is. When the gate cannot be reached the entry is removed all the same, and the exit code is 3: the token lives until it ends.`,
		Example: "  lychgate logout --gate https://gate.example.com:8443",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := r.anonymous()
			if err != nil {
				return err
			}
			netrc, err := client.OpenNetrc(r.netrc, os.Getenv)
			if err != nil {
				return usageError("%w", err)
			}
			return logout(cmd, c, netrc)
		},
	}
	r.whereFlags(cmd)
	return cmd
}

func logout(cmd *cobra.Command, c *client.Client, netrc *client.Netrc) error {
	entry, ok, err := lookup(netrc, c.Host())
	if err != nil {
		return err
	}
	if !ok {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s has no entry for %s: there is nothing to do\n", netrc.Path(), c.Host())
		return err
	}
	if !client.IsGateToken(entry.Password) {
		return fmt.Errorf("the entry of %s in %s holds no gate token: remove it yourself, if it is not needed for something else", c.Host(), netrc.Path())
	}
	revoked := c.As(entry.Password).RevokeToken(cmd.Context(), "current")
	notes, err := netrc.Remove(cmd.Context(), c.Host())
	if err != nil {
		return errors.Join(revoked, err)
	}
	for _, note := range notes {
		fmt.Fprintln(cmd.ErrOrStderr(), "lychgate: note:", note)
	}
	switch {
	case isUnauthorized(revoked):
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "The token of %s had ended already. The entry is out of %s.\n", c.Host(), netrc.Path())
	case revoked != nil:
		err = &exitError{code: exitRefused, err: fmt.Errorf("the entry of %s is out of %s, but the token lives until it ends: %w", c.Host(), netrc.Path(), revoked)}
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "The token of %s is revoked, and out of %s.\n", c.Host(), netrc.Path())
	}
	return err
}
