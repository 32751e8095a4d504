package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/hashd"
	"github.com/lychgate/lychgate/gateway/httpd"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/internal/devca"
	"github.com/lychgate/lychgate/internal/servertls"
)

func newServe() *cobra.Command {
	var configPath, logFormat string
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the gate", Args: noArgs,
		Long: `Serve opens the doors that the configuration names and runs until it gets SIGTERM or an interrupt. Then it
takes no new connections, lets open transfers finish for as long as limits.drain says, and exits 0.

It logs to standard error. Who did what is not in the log: lychgate audit tail shows the audit trail.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog(cmd, logFormat)
			if err != nil {
				return err
			}
			cfg, err := loadConfig(configPath)
			if err != nil {
				return err
			}
			g, err := newGate(cmd.Context(), cfg, log)
			if err != nil {
				return err
			}
			return errors.Join(g.serve(cmd.Context()), g.close())
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().StringVar(&logFormat, "log", "text", "log `format`: text or json")
	return cmd
}

func newLog(cmd *cobra.Command, format string) (*slog.Logger, error) {
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil)), nil
	}
	return nil, usageError("--log %s: want text or json", format)
}

// serve listens, runs every part until ctx ends or one of them fails, and returns once all have stopped.
func (g *gate) serve(ctx context.Context) error {
	adminTLS, err := g.tlsConfig(g.cfg.Admin.TLS, clientCerts{}, []string{"localhost", "127.0.0.1", "::1"})
	if err != nil {
		return fmt.Errorf("admin.tls: %w", err)
	}
	hash, err := g.hashDoor()
	if err != nil {
		return err
	}
	https, err := g.httpsDoor(hash)
	if err != nil {
		return err
	}
	doors := []door{
		{"https door", g.cfg.HTTPS.Listen, https.Serve},
		{"admin listener", g.cfg.Admin.Listen, newAdmin(g, adminTLS).serve},
	}
	if g.cfg.SSH.Listen != "" {
		ssh, err := g.sshDoor(hash)
		if err != nil {
			return err
		}
		doors = append(doors, door{"ssh door", g.cfg.SSH.Listen, ssh.Serve})
	}
	listeners, err := g.hashListeners(hash)
	if err != nil {
		return err
	}
	runners, err := listen(append(doors, listeners...))
	if err != nil {
		return err
	}
	return g.runAll(ctx, append(runners, hash.Run))
}

// door is something that serves a listener until its context ends.
type door struct {
	name, address string
	serve         func(ctx context.Context, ln net.Listener) error
}

// listen opens every door's listener, or none.
func listen(doors []door) ([]runner, error) {
	var open []net.Listener
	var runners []runner
	for _, d := range doors {
		ln, err := listenOn(d.address)
		if err != nil {
			errs := []error{fmt.Errorf("open the %s: %w", d.name, err)}
			for _, other := range open {
				errs = append(errs, other.Close())
			}
			return nil, errors.Join(errs...)
		}
		open = append(open, ln)
		runners = append(runners, func(ctx context.Context) error { return d.serve(ctx, ln) })
	}
	return runners, nil
}

// listenOn listens at HOST:PORT, or unix:PATH.
func listenOn(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(path)
	}
	return net.Listen("tcp", address)
}

// runAll runs the doors and the parts behind them. The parts outlive the doors, so that what the doors still serve while
// they drain is recorded.
func (g *gate) runAll(ctx context.Context, open []runner) error {
	behind, stopParts := context.WithCancel(context.WithoutCancel(ctx))
	defer stopParts()
	parts, behind := errgroup.WithContext(behind)
	for _, run := range g.runners {
		parts.Go(func() error {
			if err := run(behind); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		})
	}
	doors, ctx := errgroup.WithContext(ctx)
	for _, serve := range open {
		doors.Go(func() error { return serve(ctx) })
	}
	doors.Go(func() error {
		select {
		case <-behind.Done(): // a part failed
			return errors.New("a part of the gate stopped")
		case <-ctx.Done():
			return nil
		}
	})
	g.lifecycle("start")
	g.log.Info("the gate is open", "https", g.cfg.HTTPS.Listen, "ssh", orWord(g.cfg.SSH.Listen, "closed"), "admin", g.cfg.Admin.Listen, "zones", len(g.cfg.Zones), "records", g.db.Len())
	err := doors.Wait()
	g.lifecycle("stop")
	stopParts()
	return errors.Join(err, parts.Wait())
}

// lifecycle records that the gate starts or stops.
func (g *gate) lifecycle(what string) {
	e := &audit.Event{Kind: "lifecycle", Action: what, Detail: "lychgate " + version(), Decision: audit.Decision{FactAge: -1}}
	if _, err := g.journal.Append(e); err != nil {
		g.log.Error("could not record the "+what, "error", err)
	}
}

func (g *gate) httpsDoor(hash *hashd.Server) (*httpd.Server, error) {
	tlsConfig, err := g.tlsConfig(g.cfg.HTTPS.TLS, g.clients, g.cfg.HTTPS.Names)
	if err != nil {
		return nil, fmt.Errorf("https.tls: %w", err)
	}
	l := g.cfg.Limits
	return httpd.New(httpd.Config{
		Gateway: g.gateway, TLS: tlsConfig, Mount: g.cfg.HTTPS.Mount, Observe: g.metrics.observe, Log: g.log, SignIn: g.signIn(), Hash: hash,
		Limits: httpd.Limits{
			Conns: l.Connections, ConnsPerAddress: l.ConnectionsPerAddress, RequestsPerPrincipal: l.RequestsPerPrincipal,
			Streams: l.Streams, HeaderTimeout: l.HeaderRead, IdleTimeout: l.Idle, ProgressWindow: l.ProgressWindow,
			ProgressBytes: int64(l.ProgressRate) * int64(l.ProgressWindow/time.Second), DrainTimeout: l.Drain,
			EnvelopeBytes: int64(l.StatementSize),
		},
	})
}

// tlsConfig returns what a listener speaks, nil when t is zero, and adds what keeps its certificate current to the
// runners.
func (g *gate) tlsConfig(t config.TLS, clients clientCerts, names []string) (*tls.Config, error) {
	switch {
	case t.DevelopmentCA:
		ca, err := devca.Open(g.cfg.DevelopmentCADir(), time.Now)
		if err != nil {
			return nil, err
		}
		leaf, err := ca.Leaf(names...)
		if err != nil {
			return nil, err
		}
		return servertls.Config(leaf.GetCertificate, clients.pool, clients.revoked()), nil
	case t.IsZero():
		return nil, nil
	}
	r, err := servertls.NewReloader(servertls.Files{Cert: string(t.Cert), Key: string(t.Key), Log: g.log})
	if err != nil {
		return nil, err
	}
	g.runners = append(g.runners, r.Run)
	return servertls.Config(r.GetCertificate, clients.pool, clients.revoked()), nil
}

// admin serves health and metrics, on a listener of its own.
type admin struct {
	gate *gate
	http *http.Server
}

func newAdmin(g *gate, tlsConfig *tls.Config) *admin {
	a := &admin{gate: g}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", a.ready)
	mux.Handle("GET /metrics", g.metrics.handler())
	a.http = &http.Server{
		Handler: mux, TLSConfig: tlsConfig, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	return a
}

// ready says whether the gate can serve: with a journal that cannot be written it serves nothing.
func (a *admin) ready(w http.ResponseWriter, _ *http.Request) {
	if err := a.gate.journal.Err(); err != nil {
		http.Error(w, "not ready: the audit journal is not writable: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (a *admin) serve(ctx context.Context, ln net.Listener) error {
	failed := make(chan error, 1)
	go func() {
		if a.http.TLSConfig != nil {
			failed <- a.http.ServeTLS(ln, "", "")
			return
		}
		failed <- a.http.Serve(ln)
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return a.http.Close()
	}
}
