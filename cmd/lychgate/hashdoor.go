package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/hashd"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/internal/sqldb"
)

// openMappings opens the mappings of hash equivalence.
func openMappings(ctx context.Context, cfg *config.Config, records *sqldb.DB, log *slog.Logger) (*sqldb.Hashes, error) {
	h, err := sqldb.OpenHashes(ctx, sqldb.HashesConfig{
		Path: cfg.Hash.Database.Value, Memory: int64(cfg.Hash.Memory), Keep: keepPublished(cfg, records.Published), Logger: log,
	})
	if err != nil {
		return nil, fmt.Errorf("open the database of hash equivalence: %w", err)
	}
	return h, nil
}

func (g *gate) openHashes(ctx context.Context) (err error) {
	if g.hashes, err = openMappings(ctx, g.cfg, g.db, g.log); err != nil {
		return err
	}
	g.runners, g.closers = append(g.runners, g.hashes.Run), append(g.closers, g.hashes.Close)
	return nil
}

// hashZone is hash equivalence in a zone: kept by the gate, or by a server behind it.
func (g *gate) hashZone(ctx context.Context, z config.Zone) (gateway.HashZone, error) {
	h := gateway.HashZone{Store: g.hashes.Zone(z.Name), Reference: z.Hash.Reference, Equivalents: z.Hash.ReportEquiv}
	if z.Hash.Upstream == "" {
		return h, nil
	}
	dialer, err := hashDialer(z.Hash)
	if err != nil {
		return h, err
	}
	if err := g.probeHashes(ctx, z, dialer); err != nil {
		return h, err
	}
	client, err := hashserv.NewClient(hashserv.ClientConfig{Address: z.Hash.Upstream, Dialer: dialer, Username: z.Hash.User, Token: dialer.Password})
	if err != nil {
		return h, err
	}
	g.closers = append(g.closers, client.Close)
	h.Store = hashserv.Through(g.hashes.Zone(z.Name), client, hashserv.ThroughConfig{State: func(lost error) { g.logHashState(z.Name, lost) }})
	return h, nil
}

func hashDialer(z config.ZoneHash) (*hashserv.Dialer, error) {
	d := &hashserv.Dialer{Username: z.User}
	if !z.Password.IsZero() {
		password, err := z.Password.Read()
		if err != nil {
			return d, err
		}
		d.Password = password.Reveal()
	}
	if z.CA != "" {
		pem, err := os.ReadFile(string(z.CA))
		if err != nil {
			return d, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return d, fmt.Errorf("%s holds no certificate in PEM", z.CA)
		}
		d.TLS = &tls.Config{RootCAs: pool}
	}
	return d, nil
}

// probeEvery is how often a server that did not answer is asked again what it lets anybody do.
const probeEvery = 15 * time.Second

// probeHashes refuses a server that lets anybody write: whoever can reach it would pass the gate by. One that does not answer is asked
// again until it does, and then ends the gate if it must not be used.
func (g *gate) probeHashes(ctx context.Context, z config.Zone, d *hashserv.Dialer) error {
	if z.Hash.AnonymousUpstream {
		return nil
	}
	asked, err := g.probeHashesOnce(ctx, z, d)
	if asked {
		return err
	}
	g.runners = append(g.runners, func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(probeEvery):
			}
			if asked, err := g.probeHashesOnce(ctx, z, d); asked {
				return err
			}
		}
	})
	return nil
}

// probeHashesOnce reports whether the server answered, and why it must not be used.
func (g *gate) probeHashesOnce(ctx context.Context, z config.Zone, d *hashserv.Dialer) (asked bool, err error) {
	may, err := hashserv.Probe(ctx, d, z.Hash.Upstream)
	switch {
	case err != nil:
		g.log.Warn("the hash equivalence server behind a zone does not answer: whether it lets anybody write is not known", "zone", z.Name, "error", err)
		return false, nil
	case may.Report || may.DBAdmin:
		return true, fmt.Errorf("the hash equivalence server behind zone %s lets anybody write, past the gate: start it with --anon-perms @none and give the gate a user, or set hash.anonymous_upstream", z.Name)
	}
	return true, nil
}

func (g *gate) logHashState(zone string, err error) {
	if err != nil {
		g.log.Warn("the hash equivalence server behind a zone does not answer; what is known of it goes on being answered", "zone", zone, "error", err)
		return
	}
	g.log.Info("the hash equivalence server behind a zone answers", "zone", zone)
}

// hashDoor speaks the protocol for the https and ssh doors, and on listeners of its own.
func (g *gate) hashDoor() (*hashd.Server, error) {
	h := g.cfg.Hash
	return hashd.New(hashd.Config{
		Gateway: g.gateway, Protocol: hashserv.NewServer(hashserv.ServerConfig{Idle: h.Idle}), Observe: g.metrics.observeHash, Log: g.log,
		Limits: hashd.Limits{Conns: h.Connections, ConnsPerAddress: h.ConnectionsPerAddress, ConnsPerPrincipal: h.ConnectionsPerPrincipal},
	})
}

// hashListeners are the doors that the configuration opens for hash equivalence alone.
func (g *gate) hashListeners(s *hashd.Server) ([]door, error) {
	var doors []door
	for i, l := range g.cfg.Hash.Listeners {
		serving := hashd.Listener{Zone: l.Zone, Websocket: l.Websocket}
		if l.Principal != (config.Principal{}) {
			serving.Place = l.Listen
		}
		if l.TLS {
			var err error
			if serving.TLS, err = g.tlsConfig(g.cfg.HTTPS.TLS, g.clients, g.cfg.HTTPS.Names); err != nil {
				return nil, fmt.Errorf("hash.listeners[%d]: %w", i, err)
			}
		}
		doors = append(doors, door{
			name: "hash door", address: l.Listen,
			serve: func(ctx context.Context, ln net.Listener) error { return s.Serve(ctx, ln, serving) },
		})
	}
	return doors, nil
}

// places are the listeners that stand for somebody.
func places(cfg *config.Config) authn.Places {
	p := authn.Places{}
	for _, l := range cfg.Hash.Listeners {
		if l.Principal != (config.Principal{}) {
			p[l.Listen] = principal(l.Principal)
		}
	}
	return p
}

// hashZoneName is the zone that "hashserv" alone means at the ssh door: the only one, if there is but one.
func hashZoneName(cfg *config.Config) string {
	if len(cfg.Zones) == 1 {
		return cfg.Zones[0].Name
	}
	return ""
}

// listenUnix opens a socket that only the gate's own user and group may reach. One that a killed gate left behind is replaced.
func listenUnix(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if conn, err := net.Dial("unix", path); err == nil {
			return nil, errors.Join(fmt.Errorf("%s: somebody listens there already", path), conn.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}
