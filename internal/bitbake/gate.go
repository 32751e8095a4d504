package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/internal/devca"
	"github.com/lychgate/lychgate/internal/gwtest/loopback"
	"github.com/lychgate/lychgate/internal/gwtest/server"
)

// gate is a gate that runs: the quickstart, whose forge lets alice and ci read every repository, and bob those below public/.
type gate struct {
	w                 *world
	name              string // of its directory and its log
	https, ssh, admin string // addresses
	conf              string // its configuration, once that is not quickstart's own any more
	process           *server.Process
}

// startGate starts the gate on free ports and waits until it is open.
func startGate(ctx context.Context, w *world, name string) (*gate, error) {
	g := &gate{w: w, name: name}
	for _, address := range []*string{&g.https, &g.ssh, &g.admin} {
		var err error
		if *address, err = loopback.Free(); err != nil {
			return nil, err
		}
	}
	opened := func() bool {
		text, _ := os.ReadFile(w.path(name + ".log"))
		return strings.Contains(string(text), "\nThe gate is open")
	}
	if err := g.serve(ctx, opened); err != nil {
		return nil, err
	}
	return g, nil
}

// serve starts the gate's process, also again, and waits until it is open.
func (g *gate) serve(ctx context.Context, opened func() bool) (err error) {
	args := []string{"quickstart", "--dir", g.path(""), "--https", g.https, "--ssh", g.ssh, "--admin", g.admin}
	if g.conf != "" {
		args = []string{"serve", "--config", g.conf}
	}
	g.process, err = server.Start(ctx, g.w.dir, g.name, nil, opened, append([]string{g.w.o.gate}, args...)...)
	return err
}

// takeCertificates has the gate take client certificates, and makes one for each of some users: USER.pem, with the key in it.
func (g *gate) takeCertificates(ctx context.Context, users ...string) error {
	authority, err := devca.Open(g.path("clients"), time.Now)
	if err != nil {
		return err
	}
	for _, user := range users {
		cert, err := authority.Client("spiffe://example.com/user/" + user)
		if err != nil {
			return err
		}
		key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		if err != nil {
			return err
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
		for _, der := range cert.Certificate {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		if err := os.WriteFile(g.path(user+".pem"), text, 0o600); err != nil {
			return err
		}
	}
	conf, err := os.ReadFile(g.path("lychgate.yaml"))
	if err != nil {
		return err
	}
	text := strings.Replace(string(conf), "https:\n", "https:\n  client_ca: clients.pem\n", 1) +
		"certificates:\n  - {uri: \"spiffe://example.com/user/{name}\", principal: {forge: git.example.com}}\n"
	g.conf = g.path("clients.yaml")
	err = errors.Join(os.WriteFile(g.path("clients.pem"), authority.PEM(), 0o600), os.WriteFile(g.conf, []byte(text), 0o600))
	if err != nil {
		return err
	}
	g.stop()
	return g.serve(ctx, g.ready)
}

func (g *gate) stop() { g.process.Stop() }

func (g *gate) path(name string) string { return g.w.path(g.name + "/" + name) }

// ready reports whether the gate says that it is.
func (g *gate) ready() bool {
	res, err := http.Get("http://" + g.admin + "/readyz")
	if err != nil {
		return false
	}
	return res.Body.Close() == nil && res.StatusCode == http.StatusOK
}

// push publishes a cache as CI would, with further flags.
func (g *gate) push(ctx context.Context, dir string, flags ...string) error {
	return g.run(ctx, "ci", "push", dir, append([]string{"--key", g.path("ci.key")}, flags...)...)
}

// pull fetches into a cache what the signatures below stamps name, as a user.
func (g *gate) pull(ctx context.Context, user, dir, stamps string) error {
	return g.run(ctx, user, "pull", dir, "--stamps", stamps)
}

// run runs a verb as a user.
func (g *gate) run(ctx context.Context, user, verb, dir string, flags ...string) error {
	args := append([]string{verb, dir, "--quiet", "--gate", "https://" + g.https, "--ca", g.path("ca.pem"), "--token-file", g.path(user + ".token")}, flags...)
	return command(ctx, g.w.dir, nil, g.w.o.gate, args...)
}

// agent starts an agent with a token and further flags, and returns what it says that conf/local.conf needs.
func (g *gate) agent(ctx context.Context, name, tokenFile string, flags ...string) (conf string, stop func(), err error) {
	control := g.w.path("agents/" + name + ".sock")
	opened := func() bool {
		if _, err := os.Stat(control); err != nil {
			return false // env would tell the default places
		}
		text, err := exec.CommandContext(ctx, g.w.o.gate, "agent", "env", "--control", control).Output()
		conf = string(text)
		return err == nil
	}
	argv := append([]string{
		g.w.o.gate, "agent", "--gate", "https://" + g.https, "--ca", g.path("ca.pem"), "--token-file", tokenFile,
		"--listen", "127.0.0.1:0", "--control", control, "--spool", g.w.path("agents/spool"),
	}, flags...)
	process, err := server.Start(ctx, g.w.dir, name+"-agent", nil, opened, argv...)
	if err != nil {
		return "", nil, err
	}
	return conf, process.Stop, nil
}

// counts are what the gate has answered so far, by a few words that say what.
type counts map[string]int

// counts reads the gate's metrics.
func (g *gate) counts(ctx context.Context) (counts, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.admin+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New("metrics: " + res.Status)
	}
	c := counts{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), "} ")
		name, labels, _ := strings.Cut(series, "{")
		n, _ := strconv.ParseFloat(value, 64)
		switch label := labelsOf(labels); name {
		case "lychgate_requests_total":
			c[label["method"]+" "+label["status"]] += int(n)
		case "lychgate_ssh_operations_total":
			c[label["route"]+" "+label["outcome"]] += int(n)
		}
	}
	return c, nil
}

// since returns what was answered after before was counted.
func (c counts) since(before counts) counts {
	after := maps.Clone(c)
	for what, n := range before {
		after[what] -= n
	}
	return after
}

// labelsOf reads a="b",c="d"; no value here has a comma or a quote in it.
func labelsOf(text string) map[string]string {
	labels := map[string]string{}
	for _, pair := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(pair, "=")
		labels[name] = strings.Trim(value, `"`)
	}
	return labels
}

// trail returns the events of a user after the one numbered last, and the number of the last of all.
func (g *gate) trail(ctx context.Context, user string, last uint64) (events []audit.Event, end uint64, err error) {
	for e, err := range audit.Tail(ctx, g.path("state/audit"), audit.TailOptions{}) {
		if err != nil {
			return nil, 0, err
		}
		end = e.Seq
		if e.Seq > last && e.Actor.Name == user {
			events = append(events, e)
		}
	}
	return events, end, nil
}
