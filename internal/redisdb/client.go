package redisdb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// askTimeout bounds one question to Redis, so that two fit into a Fence.
	askTimeout = 900 * time.Millisecond
	// confirmTimeout bounds how long a master waits for its replicas, within askTimeout.
	confirmTimeout = 600 * time.Millisecond
)

// newClient makes a client that has not dialled. It tries nothing twice: callers know what may be repeated.
func newClient(cfg Config) (redis.UniversalClient, error) {
	a, err := parseAddress(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.TLS != nil && !a.tls {
		return nil, fmt.Errorf("TLS is configured, but %s:// goes without it: write rediss", a.kind)
	}
	sentinelPassword, err := reveal(cfg.SentinelPassword)
	if err != nil {
		return nil, fmt.Errorf("read the sentinels' password: %w", err)
	}
	options := &redis.UniversalOptions{
		Addrs: a.hosts, MasterName: a.master, IsClusterMode: a.kind == "redis-cluster", DB: a.db,
		SentinelUsername: cfg.SentinelUsername, SentinelPassword: sentinelPassword,
		MaxRetries: -1, ContextTimeoutEnabled: true, Protocol: 2, DisableIdentity: true,
		DialTimeout: askTimeout, DialerRetries: 1, ReadTimeout: askTimeout, WriteTimeout: askTimeout, PoolTimeout: askTimeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if cfg.Password != nil {
		options.CredentialsProviderContext = func(context.Context) (string, string, error) {
			password, err := reveal(cfg.Password)
			return cfg.Username, password, err
		}
	}
	if a.tls {
		options.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.TLS != nil {
			options.TLSConfig = cfg.TLS.Clone()
		}
	}
	// The library writes to standard error what it also returns.
	redis.SetLogger(silent{})
	return redis.NewUniversalClient(options), nil
}

func reveal(source SecretSource) (string, error) {
	if source == nil {
		return "", nil
	}
	secret, err := source()
	return secret.Reveal(), err
}

// silent is a logger that says nothing.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// master returns the client of the one server that takes what the gate writes.
func (db *DB) master(ctx context.Context) (*redis.Client, error) {
	switch c := db.client.(type) {
	case *redis.Client:
		return c, nil // Sentinel's too: it dials whichever is the master
	case *redis.ClusterClient:
		return c.MasterForKey(ctx, db.events)
	}
	return nil, errors.New("no way to a redis server")
}

// eval runs a script at the master, once.
func (db *DB) eval(ctx context.Context, script string, keys []string, args ...any) (reply any, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	master, err := db.master(ctx)
	if err == nil {
		reply, err = master.Eval(ctx, script, keys, args...).Result()
	}
	return reply, db.noticed(ctx, err)
}

// evalConfirmed is eval for scripts that write. It reports whether enough replicas have what was written; WAIT counts that
// for what its own connection wrote.
func (db *DB) evalConfirmed(ctx context.Context, script string, keys []string, args ...any) (reply any, confirmed bool, err error) {
	if db.replicas == 0 {
		reply, err = db.eval(ctx, script, keys, args...)
		return reply, true, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	master, err := db.master(ctx)
	if err != nil {
		return nil, false, db.noticed(ctx, err)
	}
	pipe := master.Pipeline()
	written, wait := pipe.Eval(ctx, script, keys, args...), pipe.Do(ctx, "WAIT", db.replicas, confirmTimeout.Milliseconds())
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, false, db.noticed(ctx, err)
	}
	count, err := wait.Int()
	return written.Val(), count >= db.replicas, err
}

// noticed looks for the master of a cluster anew after an error.
func (db *DB) noticed(ctx context.Context, err error) error {
	if c, ok := db.client.(*redis.ClusterClient); ok && err != nil {
		c.ReloadState(ctx)
	}
	return err
}
