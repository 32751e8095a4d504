package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/internal/gwtest/server"
)

// settings are what a gate's configuration has beside the quickstart's.
type settings struct {
	transitive bool   // the policy asks for all that an object was built with
	mirror     string // directory that the zone has as its mirror; empty for none
}

// openGate starts a gate whose forge has these readers, each with a token and an SSH key, and the writer ci.
func openGate(ctx context.Context, w *world, name string, users []reader, s settings) (*gate, error) {
	keys, err := w.makeKeys(ctx, name, users)
	if err != nil {
		return nil, err
	}
	if err := w.writeMode(name+"/forge.yaml", forge(users, keys), 0o600); err != nil {
		return nil, err
	}
	g, err := startGate(ctx, w, name) // for its authority, and for what ci has
	if err != nil {
		return nil, err
	}
	g.stop()
	if err := errors.Join(g.mintTokens(ctx, users), g.configure(s)); err != nil {
		return nil, err
	}
	return g, g.serveConfig(ctx, "users.yaml")
}

// makeKeys makes an SSH key for each user in a directory, and returns the public halves.
func (w *world) makeKeys(ctx context.Context, dir string, users []reader) (map[string]string, error) {
	if err := os.MkdirAll(w.path(dir), 0o700); err != nil {
		return nil, err
	}
	keys := map[string]string{}
	for _, u := range users {
		key := w.path(dir + "/" + u.name + ".key")
		if err := command(ctx, w.dir, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key); err != nil {
			return nil, err
		}
		public, err := os.ReadFile(key + ".pub")
		if err != nil {
			return nil, err
		}
		keys[u.name] = strings.TrimSpace(string(public))
	}
	return keys, nil
}

// configure writes the configuration: the quickstart's, and the settings.
func (g *gate) configure(s settings) error {
	text, err := os.ReadFile(g.path("lychgate.yaml"))
	if err != nil {
		return err
	}
	config := fmt.Sprintf("%spolicy: {transitive: %v}\n", text, s.transitive)
	if s.mirror != "" {
		const zone = "  - name: main\n"
		before, after, ok := strings.Cut(config, zone)
		if !ok {
			return errors.New("the quickstart's configuration has no zone main")
		}
		config = before + zone + fmt.Sprintf("    mirror: %q\n", "dir:"+s.mirror) + after
	}
	return os.WriteFile(g.path("users.yaml"), []byte(config), 0o600)
}

func (g *gate) mintTokens(ctx context.Context, users []reader) error {
	for _, u := range users {
		out, err := exec.CommandContext(ctx, g.w.o.gate, "token", "create", "--config", g.path("lychgate.yaml"), "--user", u.name).Output()
		if err != nil {
			return fmt.Errorf("token of %s: %w", u.name, err)
		}
		if err := os.WriteFile(g.path(u.name+".token"), out, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// serveConfig starts the gate with a configuration in its directory, and waits until it is ready.
func (g *gate) serveConfig(ctx context.Context, file string) (err error) {
	p, err := server.Start(ctx, g.w.dir, g.name, nil, g.ready, g.w.o.gate, "serve", "--config", g.path(file))
	if err == nil {
		g.process = p
	}
	return err
}

// token is what a user shows.
func (g *gate) token(user string) (string, error) {
	text, err := os.ReadFile(g.path(user + ".token"))
	return strings.TrimSpace(string(text)), err
}

// netrc is what a user's .netrc says of the gate.
func (g *gate) netrc(user string) (string, error) {
	token, err := g.token(user)
	return "machine 127.0.0.1 login token password " + token + "\n", err
}

// sshConfig is how OpenSSH's programs reach the gate as a user.
func (g *gate) sshConfig(user string) (string, error) {
	host, port, err := net.SplitHostPort(g.ssh)
	return fmt.Sprintf("Host gate\n  HostName %s\n  Port %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n",
		host, port, g.path(user+".key"), g.path("known_hosts")), err
}

// sharedConnection is what OpenSSH's configuration says for all connections of a build to be one.
func (w *world) sharedConnection(name string) string {
	return fmt.Sprintf("  ControlMaster auto\n  ControlPath %s\n  ControlPersist 10s\n", w.path(name))
}

// httpsMirror is what conf/local.conf says of the gate as a mirror.
func (g *gate) httpsMirror() string {
	return fmt.Sprintf("SSTATE_MIRRORS = \"file://.* https://%s/sstate/main/PATH;downloadfilename=PATH\"\n", g.https) +
		fmt.Sprintf("SSL_CERT_FILE = \"%[1]s\"\nFETCHCMD_wget = \"wget --tries=2 --timeout=100 --ca-certificate=%[1]s\"\n", g.path("ca.pem"))
}

// sshMirror is the same over ssh or sftp.
func sshMirror(scheme string) string {
	return fmt.Sprintf("SSTATE_MIRRORS = \"file://.* %s://gate/main/PATH;downloadfilename=PATH\"\n", scheme)
}

// checkAllowed looks in a user's events for a decision to give them what they may not read, or, where they may read anything, for none to
// give them something.
func checkAllowed(v view, events []audit.Event) error {
	var allowed []string
	for _, e := range events {
		if e.Decision.Verdict == "allow" && e.Object.Path != "" {
			allowed = append(allowed, e.Object.Path)
		}
		for _, o := range e.Objects {
			if o.Verdict == "allow" && strings.Contains(o.Path, "sstate:") {
				allowed = append(allowed, o.Path)
			}
		}
	}
	for _, path := range allowed {
		if !v.reads(recipeOf(path)) {
			return fmt.Errorf("%s was allowed to read %s", v.user.name, path)
		}
	}
	if (len(allowed) > 0) != (len(v.user.below) > 0) {
		return fmt.Errorf("%d reads of %s were allowed", len(allowed), v.user.name)
	}
	return nil
}
