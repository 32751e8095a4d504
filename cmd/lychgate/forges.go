package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/internal/redisdb"
)

// openRedis returns what the nodes of a gate share; nil when this one is alone.
func openRedis(cfg *config.Config, rejected func(what string), log *slog.Logger) (*redisdb.DB, error) {
	r := &cfg.Redis
	if r.IsZero() {
		return nil, nil
	}
	key, err := redisKey(r.Key)
	if err != nil {
		return nil, fmt.Errorf("redis.key: %w", err)
	}
	others := make([][]byte, len(r.OtherKeys))
	for i, other := range r.OtherKeys {
		if others[i], err = redisKey(other); err != nil {
			return nil, fmt.Errorf("redis.other_keys[%d]: %w", i, err)
		}
	}
	var tlsConfig *tls.Config
	if strings.HasPrefix(r.URL, "rediss") {
		if tlsConfig, err = clientTLS(r.CA, r.Client); err != nil {
			return nil, fmt.Errorf("redis: %w", err)
		}
	}
	return redisdb.New(redisdb.Config{
		URL: r.URL, TLS: tlsConfig, Username: r.Username, Password: optional(r.Password),
		SentinelUsername: r.SentinelUsername, SentinelPassword: optional(r.SentinelPassword),
		Key: key, OtherKeys: others, Node: cfg.Node, Prefix: r.Prefix, Replicas: r.Replicas, Rejected: rejected, Logger: log,
	})
}

// redisKey reads a key of 32 bytes in base64.
func redisKey(where config.Secret) ([]byte, error) {
	text, err := where.Read()
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(text.Reveal())
	if err != nil || len(key) != redisdb.KeySize {
		return nil, fmt.Errorf("want %d bytes in base64: openssl rand -base64 %[1]d makes one", redisdb.KeySize)
	}
	return key, nil
}

// optional reads a secret each time that it is needed; nil for none.
func optional(where config.Secret) redisdb.SecretSource {
	if where.IsZero() {
		return nil
	}
	return where.Read
}

// clientTLS is how the gate speaks to a server: with the authorities of a file, or the system's, and its own certificate, if any.
func clientTLS(ca config.Path, own config.KeyPair) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(string(ca))
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM", ca)
		}
	}
	if !own.IsZero() {
		// Read for each connection, so that a certificate that was renewed is shown without a restart.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(string(own.Cert), string(own.Key))
			return &cert, err
		}
	}
	return c, nil
}

// loadForges makes the providers of all forges. Those that are asked over a network are asked through caches.
func (d *decider) loadForges() error {
	named := make([]forge.Named, 0, len(d.cfg.Forges))
	d.providers = make(map[string]forge.Provider)
	for i := range d.cfg.Forges {
		f := &d.cfg.Forges[i]
		p, err := d.loadForge(f)
		if err != nil {
			return fmt.Errorf("load the forge %s: %w", f.Name, err)
		}
		named = append(named, forge.Named{Name: f.Name, Provider: p})
	}
	var err error
	d.forges, err = forge.NewMulti(named...)
	return err
}

func (d *decider) loadForge(f *config.Forge) (forge.Provider, error) {
	if f.Type == "static" {
		static, err := forge.LoadStatic(forge.StaticConfig{
			Name: f.Name, File: string(f.File), Logger: d.log,
			OnChange: func() { d.told(forge.Event{Forge: f.Name, Why: "its file changed", At: time.Now()}) },
		})
		if err != nil {
			return nil, err
		}
		d.runners = append(d.runners, static.Run)
		d.providers[f.Name] = static
		return static, nil
	}
	p, err := d.newProvider(f)
	if err != nil {
		return nil, err
	}
	d.providers[f.Name] = p
	cache, err := forge.NewCache(forge.CacheConfig{
		Name: f.Name, Provider: p, Hub: d.hub, Shared: d.shared(), Logger: d.log, Asked: d.watched.asked, Used: d.watched.used,
		Changed: func(forge, user string) { d.authorizer.Invalidate(forge, user) },
	})
	if err != nil {
		return nil, err
	}
	d.caches = append(d.caches, cache)
	d.runners = append(d.runners, func(ctx context.Context) error { return cache.Follow(ctx, d.emit(ctx, f.Name)) })
	return cache, nil
}

// shared is the second level of memory; a nil interface for none.
func (d *decider) shared() forge.Shared {
	if d.redis == nil {
		return nil
	}
	return d.redis
}

// forget passes on that what forges said may not be true any more.
func (d *decider) forget(e forge.Event) {
	for _, c := range d.caches {
		c.Forget(e)
	}
}

// told passes on to those who remember what followed from it, once nothing learnt before counts.
func (d *decider) told(e forge.Event) {
	if d.authorizer != nil {
		d.authorizer.Told(e)
	}
	d.watched.told(e)
}

// emit tells every node what a forge's stream or a poll has seen.
func (d *decider) emit(ctx context.Context, name string) func(forge.Event) {
	return func(e forge.Event) {
		e.Forge = name
		ctx, cancel := context.WithTimeout(ctx, forge.Fence)
		defer cancel()
		if _, err := d.hub.Tell(ctx, e); err != nil && !errors.Is(err, context.Canceled) {
			d.log.Error("the other nodes are not told yet of a change at a forge", "forge", name, "error", err)
		}
	}
}

// newProvider makes what asks one forge.
func (d *decider) newProvider(f *config.Forge) (forge.Provider, error) {
	client, err := d.forgeClient(f)
	if err != nil {
		return nil, err
	}
	hookSecret, err := readOptional(f.HookSecret)
	if err != nil {
		return nil, fmt.Errorf("hook_secret: %w", err)
	}
	switch f.Type {
	case "gitlab":
		return forge.NewGitLab(forge.GitLabConfig{
			Name: f.Name, URL: f.URL, Hosts: f.Hosts, Token: f.Token.Read, HTTP: client, HookSecret: hookSecret,
			Providers: identityProviders(f.Identities), Logger: d.log,
		})
	case "github":
		return forge.NewGitHub(forge.GitHubConfig{
			Name: f.Name, URL: f.URL, Hosts: f.Hosts, Token: f.Token.Read, HTTP: client, HookSecret: hookSecret,
			Orgs: f.Orgs, SiteAdmin: f.SiteAdmin, Logger: d.log,
		})
	case "gitea":
		return forge.NewGitea(forge.GiteaConfig{
			Name: f.Name, URL: f.URL, Hosts: f.Hosts, Token: f.Token.Read, HTTP: client, HookSecret: hookSecret, Logger: d.log,
		})
	case "bitbucket":
		return forge.NewBitbucket(forge.BitbucketConfig{
			Name: f.Name, URL: f.URL, Hosts: f.Hosts, Token: f.Token.Read, HTTP: client, HookSecret: hookSecret, Nobody: f.Nobody, Logger: d.log,
		})
	case "gitolite":
		return forge.NewGitolite(forge.GitoliteConfig{Name: f.Name, Server: sshServer(f), Hosts: f.Hosts, HookSecret: hookSecret, Logger: d.log})
	}
	return d.newOtherProvider(f, client, hookSecret)
}

// newOtherProvider makes what asks servers that have an interface of their own, or none.
func (d *decider) newOtherProvider(f *config.Forge, client *http.Client, hookSecret authn.Secret) (forge.Provider, error) {
	switch f.Type {
	case "gerrit":
		return forge.NewGerrit(forge.GerritConfig{
			Name: f.Name, URL: f.URL, Hosts: f.Hosts, User: f.TokenUser, Token: f.Token.Read, RunAs: f.RunAs, Refs: f.Refs,
			Stream: sshServer(f), HTTP: client, Logger: d.log,
		})
	case "callback":
		secret, err := readOptional(f.Secret)
		if err != nil {
			return nil, fmt.Errorf("secret: %w", err)
		}
		return forge.NewCallback(forge.CallbackConfig{
			Name: f.Name, URL: f.URL, Hosts: f.Hosts, Secret: secret, Questions: f.Questions, HTTP: client, HookSecret: hookSecret, Logger: d.log,
		})
	case "probe":
		return d.newProbe(f, client)
	}
	return nil, fmt.Errorf("type %q is not known", f.Type)
}

// What is kept of tokens that people show for a probe.
const (
	heldTokens    = 20_000
	heldTokenLife = 12 * time.Hour
)

// newProbe makes what asks a server with people's own tokens, and what takes those for credentials.
func (d *decider) newProbe(f *config.Forge, client *http.Client) (forge.Provider, error) {
	key, err := tokenKey(d.cfg)
	if err != nil {
		return nil, fmt.Errorf("read the token key: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("ids of held tokens"))
	held, err := authn.NewHeldTokens(authn.NewSecret(hex.EncodeToString(mac.Sum(nil))), heldTokens, heldTokenLife, nil)
	if err != nil {
		return nil, err
	}
	cfg := forge.ProbeConfig{
		Name: f.Name, URL: f.URL, Hosts: f.Hosts, Check: f.Check, BasicUser: f.TokenUser, PlainPaths: f.PlainPaths, Held: held, HTTP: client, Logger: d.log,
	}
	if !f.Token.IsZero() {
		cfg.Token = f.Token.Read
	}
	probe, err := forge.NewProbe(cfg)
	if err != nil {
		return nil, err
	}
	shown, err := authn.NewPassthrough(authn.PassthroughConfig{Forge: f.Name, Prefixes: f.Prefixes, Held: held, Verifier: probe})
	if err != nil {
		return nil, err
	}
	d.passthrough = append(d.passthrough, shown)
	return probe, nil
}

func sshServer(f *config.Forge) forge.SSHServer {
	return forge.SSHServer{Address: f.SSH.Address, User: f.SSH.User, KeyFile: string(f.SSH.Key), KnownHosts: string(f.SSH.HostKeys)}
}

func identityProviders(list []config.ForgeIdentity) map[string]string {
	out := make(map[string]string)
	for _, id := range list {
		out[id.Issuer] = id.Provider
	}
	return out
}

func readOptional(where config.Secret) (authn.Secret, error) {
	if where.IsZero() {
		return authn.Secret{}, nil
	}
	return where.Read()
}

// forgeClient asks a forge within its limits.
func (d *decider) forgeClient(f *config.Forge) (*http.Client, error) {
	if f.URL == "" {
		return nil, nil
	}
	tlsConfig, err := clientTLS(f.CA, f.Client)
	if err != nil {
		return nil, err
	}
	limited, err := forge.NewTransport(forge.TransportConfig{
		Forge: f.Name, PerSecond: float64(f.Rate), Burst: max(2*f.Rate, f.Concurrency), Concurrent: f.Concurrency,
		Foreign: f.Type == "probe", Logger: d.log,
		Base: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true,
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 15 * time.Second,
			MaxIdleConnsPerHost: f.Concurrency, IdleConnTimeout: time.Minute,
		},
	})
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: limited, Timeout: 30 * time.Second}, nil
}
