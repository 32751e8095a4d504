package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/source"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/audit"
	"github.com/lychgate/lychgate/gateway/upstream"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/internal/redisdb"
	"github.com/lychgate/lychgate/internal/sqldb"
	"github.com/lychgate/lychgate/policy"
)

// runner is a part that works beside the doors until its context ends.
type runner func(ctx context.Context) error

// decider is all that is needed to decide: serve puts doors and a journal around it, explain asks it.
type decider struct {
	cfg         *config.Config
	log         *slog.Logger
	db          *sqldb.DB
	redis       *redisdb.DB // nil when this node is alone
	hub         *forge.Hub
	caches      []*forge.Cache
	providers   map[string]forge.Provider // by the forge's name, without their caches
	passthrough []authn.Authenticator     // for tokens of forges
	watched     *forgeMetrics
	forges      *forge.Multi
	policy      *policy.Engine
	authorizer  *authz.Authorizer
	runners     []runner
}

// newDecider opens the database and loads the forges and the policy. It shares nothing with other nodes: a command that asks once
// has no need to.
func newDecider(ctx context.Context, cfg *config.Config, log *slog.Logger) (*decider, error) {
	return openDecider(ctx, &decider{cfg: cfg, log: log, watched: newForgeMetrics()}, nil)
}

func openDecider(ctx context.Context, d *decider, activated func(policy.Activation)) (*decider, error) {
	cfg, log := d.cfg, d.log
	if err := os.MkdirAll(string(cfg.State), 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	var err error
	if d.db, err = sqldb.Open(ctx, sqldb.Config{Path: cfg.Database.Value, Logger: log}); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := d.load(activated); err != nil {
		return nil, errors.Join(err, d.db.Close())
	}
	d.runners = append(d.runners, d.db.Run, d.policy.Run)
	return d, nil
}

func (d *decider) load(activated func(policy.Activation)) error {
	hub := forge.HubConfig{Logger: d.log, Forget: []func(forge.Event){d.forget}, Told: []func(forge.Event){d.told}}
	if d.redis != nil {
		hub.Bus = d.redis
	}
	d.hub = forge.NewHub(hub)
	if err := d.loadForges(); err != nil {
		return err
	}
	engine, err := policy.New(policy.Config{
		Dir: string(d.cfg.Policy.Bundle), Data: policyData(d.cfg), Log: d.log, OnActivate: activated,
	})
	if err != nil {
		return fmt.Errorf("load the policy: %w", err)
	}
	d.policy = engine
	public, err := publicPatterns(d.cfg.Public)
	if err != nil {
		return err
	}
	d.authorizer, err = authz.New(authz.Config{
		Records: d.db, Forge: d.forges, Directory: d.forges, Policy: d.policy, Public: public,
		Zones: zoneNames(d.cfg), Grants: grants(d.cfg), Check: d.hub.Check,
	})
	return err
}

// policyData is what the policy sees of the configuration.
func policyData(cfg *config.Config) map[string]any {
	zones := map[string]any{}
	for _, z := range cfg.Zones {
		signers := make([]any, len(z.Signers))
		for i, s := range z.Signers {
			signers[i] = s
		}
		zones[z.Name] = map[string]any{"signers": signers}
	}
	return map[string]any{"transitive": cfg.Policy.Transitive, "zones": zones}
}

func publicPatterns(texts []string) ([]source.Pattern, error) {
	patterns := make([]source.Pattern, len(texts))
	for i, t := range texts {
		var err error
		if patterns[i], err = source.ParsePattern(t); err != nil {
			return nil, fmt.Errorf("public[%d]: %w", i, err)
		}
	}
	return patterns, nil
}

func zoneNames(cfg *config.Config) []artifact.Zone {
	zones := make([]artifact.Zone, len(cfg.Zones))
	for i, z := range cfg.Zones {
		zones[i] = artifact.Zone{Name: z.Name, Base: z.Base, Review: z.Review}
	}
	return zones
}

// grants turns the zones' writers and admins into roles.
func grants(cfg *config.Config) []authz.Grant {
	var out []authz.Grant
	for _, z := range cfg.Zones {
		out = append(out, grant("writer", z.Name, z.Writers), grant("admin", z.Name, z.Admins))
	}
	return out
}

func grant(role, zone string, m config.Members) authz.Grant {
	g := authz.Grant{Role: role, Zone: zone}
	for _, u := range m.Users {
		g.Users = append(g.Users, u.String())
	}
	for _, group := range m.Groups {
		g.Groups = append(g.Groups, group.String())
	}
	return g
}

// newTokens returns the gate tokens over db. The key is made on first use unless the configuration gives one.
func newTokens(cfg *config.Config, db *sqldb.DB) (*authn.Tokens, error) {
	key, err := tokenKey(cfg)
	if err != nil {
		return nil, fmt.Errorf("read the token key: %w", err)
	}
	return authn.NewTokens(authn.TokensConfig{Store: db, Key: key})
}

// newChallenges returns what SSH keys sign to sign in over HTTPS, nil where the configuration does not take them so. The nodes of a gate
// share the key of tokens, from which the key of challenges follows.
func newChallenges(cfg *config.Config) (gateway.Challenges, error) {
	if !cfg.HTTPS.SSHSignIn {
		return nil, nil
	}
	key, err := tokenKey(cfg)
	if err != nil {
		return nil, fmt.Errorf("read the token key: %w", err)
	}
	return authn.NewChallenges(authn.ChallengesConfig{Key: key, URL: cfg.HTTPS.Audience})
}

func tokenKey(cfg *config.Config) ([]byte, error) {
	where := cfg.Tokens.Key
	if where.IsZero() {
		where = config.Secret{Kind: "file", Name: cfg.TokenKeyFile()}
		if err := makeTokenKey(where.Name); err != nil {
			return nil, err
		}
	}
	secret, err := where.Read()
	return []byte(secret.Reveal()), err
}

// makeTokenKey makes a key file unless there is one. Of several processes that start at once, one wins.
func makeTokenKey(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	raw := make([]byte, 32)
	rand.Read(raw)
	f, err := os.CreateTemp(filepath.Dir(path), ".token.key-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(raw))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// gate is everything that serve runs.
type gate struct {
	*decider
	journal *audit.Journal
	tokens  *authn.Tokens
	oidc    *authn.OIDC
	metrics *metrics
	clients clientCerts
	gateway *gateway.Gateway
	hashes  *sqldb.Hashes
	closers []func() error // of what else was opened, to be called in reverse
}

// newGate puts the gateway together. Nothing listens yet.
func newGate(ctx context.Context, cfg *config.Config, log *slog.Logger) (*gate, error) {
	journal, err := audit.Open(audit.Config{
		Dir: string(cfg.Audit.Dir), Node: cfg.Node, Strict: cfg.Audit.Sync == "strict", SegmentBytes: int64(cfg.Audit.Segment), MinFree: int64(cfg.Audit.MinFree),
		OnState: func(s audit.State) { logJournalState(log, s) },
	})
	if err != nil {
		return nil, fmt.Errorf("open the audit journal: %w", err)
	}
	watched := newForgeMetrics()
	redis, err := openRedis(cfg, watched.refused, log)
	if err != nil {
		return nil, errors.Join(err, journal.Close())
	}
	d, err := openDecider(ctx, &decider{cfg: cfg, log: log, watched: watched, redis: redis}, func(a policy.Activation) { recordActivation(journal, log, a) })
	if err != nil {
		return nil, errors.Join(err, closeRedis(redis), journal.Close())
	}
	g := &gate{decider: d, journal: journal}
	g.metrics = newMetrics(g)
	if err := g.assemble(ctx); err != nil {
		return nil, errors.Join(err, g.close())
	}
	canary, err := forge.NewCanary(forge.CanaryConfig{Hub: d.hub, Flown: watched.flown(log)})
	if err != nil {
		return nil, errors.Join(err, g.close())
	}
	g.runners = append(g.runners, journal.Run, g.gateway.Run, d.hub.Run, canary.Run)
	return g, nil
}

// close releases what newGate opened, last opened first.
func (g *gate) close() error {
	var errs []error
	for _, c := range slices.Backward(g.closers) {
		errs = append(errs, c())
	}
	return errors.Join(append(errs, closeRedis(g.redis), g.db.Close(), g.journal.Close())...)
}

func closeRedis(r *redisdb.DB) error {
	if r == nil {
		return nil
	}
	return r.Close()
}

func (g *gate) assemble(ctx context.Context) error {
	if err := g.openHashes(ctx); err != nil {
		return err
	}
	authenticator, err := g.authenticator(ctx)
	if err != nil {
		return err
	}
	signers, err := loadSigners(g.cfg, g.log)
	if err != nil {
		return err
	}
	g.runners = append(g.runners, signers.run)
	if err := os.MkdirAll(g.cfg.Blobs.Value, 0o700); err != nil {
		return fmt.Errorf("make the blob directory: %w", err)
	}
	blobs, err := upstream.NewDir(g.cfg.Blobs.Value)
	if err != nil {
		return fmt.Errorf("open the blob directory: %w", err)
	}
	if _, err := blobs.Sweep(ctx, time.Now().Add(-24*time.Hour)); err != nil {
		return fmt.Errorf("sweep the blob directory: %w", err)
	}
	zones, err := g.servedZones(ctx)
	if err != nil {
		return err
	}
	challenges, err := newChallenges(g.cfg)
	if err != nil {
		return err
	}
	limits := g.cfg.Limits
	g.gateway, err = gateway.New(gateway.Config{
		Authenticator: authenticator, Authorizer: g.authorizer, Records: g.db, Verifier: signers, Resolver: g.forges,
		Journal: g.journal, Zones: zones, Blobs: blobs, Staging: filepath.Join(string(g.cfg.State), "staging"),
		Audience: g.cfg.HTTPS.Audience, Contact: g.cfg.Contact, Log: g.log, Names: g.db, Tokens: g.tokens, Challenges: challenges, Certifier: signers.certifier(),
		Published: g.db, Accounts: g.db, Identities: g.oidc, Links: g.db, Hooks: g.forges, Events: g.hub, Ender: g.tokens, Refused: g.metrics.refused,
		TokenLife: gateway.TokenLife{Human: g.cfg.Tokens.Life, CI: g.cfg.Tokens.CILife},
		Limits: gateway.Limits{
			ObjectBytes: int64(limits.ObjectSize), UploadObjects: limits.UploadObjects, OpenUploads: 64,
			UploadAge: limits.UploadExpiry, MinFree: int64(limits.UploadMinFree), PresenceNames: limits.PresenceNames, EnvelopeBytes: int64(limits.StatementSize),
		},
	})
	return err
}

// servedZones opens each zone's mirror, and what keeps its hash equivalence.
func (g *gate) servedZones(ctx context.Context) ([]gateway.Zone, error) {
	zones := make([]gateway.Zone, len(g.cfg.Zones))
	for i, z := range g.cfg.Zones {
		zones[i] = gateway.Zone{Zone: artifact.Zone{Name: z.Name, Base: z.Base, Review: z.Review}, TellWhy: z.TellWhy}
		mirror, err := openMirror(z)
		if err != nil {
			return nil, fmt.Errorf("open the mirror of zone %s: %w", z.Name, err)
		}
		zones[i].Mirror = mirror
		if zones[i].Hash, err = g.hashZone(ctx, z); err != nil {
			return nil, fmt.Errorf("open hash equivalence of zone %s: %w", z.Name, err)
		}
	}
	return zones, nil
}

func openMirror(z config.Zone) (upstream.Store, error) {
	switch z.Mirror.Scheme {
	case "":
		return nil, nil
	case "dir":
		return upstream.NewDir(z.Mirror.Value)
	}
	header := http.Header{}
	if c := z.MirrorCredentials; !c.IsZero() {
		value, err := mirrorAuthorization(c)
		if err != nil {
			return nil, err
		}
		header.Set("Authorization", value)
	}
	return upstream.NewHTTP(upstream.HTTPConfig{URL: z.Mirror.Value, Header: header})
}

func mirrorAuthorization(c config.Credentials) (string, error) {
	if !c.Bearer.IsZero() {
		token, err := c.Bearer.Read()
		if err != nil {
			return "", err
		}
		return "Bearer " + token.Reveal(), nil
	}
	password, err := c.Password.Read()
	if err != nil {
		return "", err
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.User+":"+password.Reveal())), nil
}

func logJournalState(log *slog.Logger, s audit.State) {
	if s.Err != nil {
		log.Error("the audit journal is not writable: nothing is served until it is", "error", s.Err)
		return
	}
	log.Info("the audit journal is writable")
}

// recordActivation leaves an event for each policy that comes into force.
func recordActivation(j *audit.Journal, log *slog.Logger, a policy.Activation) {
	e := &audit.Event{Kind: "policy.activate", Detail: a.Revision, Decision: audit.Decision{Policy: a.Revision, FactAge: -1}}
	if _, err := j.Append(e); err != nil {
		log.Error("could not record the policy's activation", "error", err)
	}
}
