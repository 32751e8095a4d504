// Package redisdb lets the nodes of one gate share a Redis: it is their [forge.Bus], and a second level of memory.
//
// Redis is never believed. What is stored is sealed with a key that only the nodes hold, bound to where it stands; a node
// trusts its own memory only while it can write to Redis and read what was written last; and all that whoever else may
// write to Redis can do is to make nodes forget, or to hide from all of them at once what none has told another way. A
// gate without Redis asks its git servers more often, and nothing else.
//
// Under a prefix, "lychgate" unless configured, stand
//
//	{lychgate}:events      a stream: the events, each with the tag of the one before
//	{lychgate}:nodes       a hash: the beat of each process
//	{lychgate}:v:DIGEST    values, with an expiry
//
// The braces put all keys of a gate into one slot of a cluster.
package redisdb

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
)

// DefaultPrefix is the prefix of keys that a gate has when none is configured.
const DefaultPrefix = "lychgate"

// A SecretSource returns a secret as it is now. It is called for each connection, so that a password that was replaced is
// taken without a restart. It is safe for concurrent use.
type SecretSource func() (authn.Secret, error)

// Config is what [New] needs. URL, Key and Node are required.
type Config struct {
	// URL says where Redis is; ports and databases may be left out:
	//
	//	redis://HOST:PORT/DB
	//	redis-sentinel://HOST:PORT,HOST:PORT/MASTER?db=DB
	//	redis-cluster://HOST:PORT,HOST:PORT
	//
	// and rediss://, rediss-sentinel:// and rediss-cluster:// for TLS. It holds no user and no password.
	URL string
	// TLS is for the rediss schemes alone: the authorities that are trusted, and the gate's own certificate. Nil trusts
	// those of the system.
	TLS *tls.Config
	// Username is an ACL user; empty is Redis's default user.
	Username string
	// Password may be nil for none.
	Password SecretSource
	// SentinelUsername and SentinelPassword are for the sentinels, which have their own.
	SentinelUsername string
	SentinelPassword SecretSource

	// Key is [KeySize] random bytes that all nodes of a gate share and nobody else knows.
	Key []byte
	// OtherKeys open events and beats too, but seal nothing: Key is replaced by giving every node the new one here, then
	// every node the new one as Key and the old one here, then the new one alone.
	OtherKeys [][]byte
	// Node is the name of this node in what [DB.Await] returns: up to 64 of A-Z a-z 0-9 . _ -
	Node string
	// Prefix sets gates apart that share a Redis: as Node. Empty is DefaultPrefix.
	Prefix string
	// Replicas is how many replicas of the master must confirm an event before it counts as published, and a beat before
	// this node trusts what it knows. With 0 an event may be lost in a fail-over, and a node that is cut off together with
	// an old master may go on trusting until Redis's own min-replicas-to-write stops that.
	Replicas int

	Rejected func(what string) // told of each "event", "order", "node" or "value" that was not authentic; may be nil
	Now      func() time.Time  // nil is time.Now
	Logger   *slog.Logger      // nil discards
}

// DB is a gate's Redis. It is safe for concurrent use.
type DB struct {
	client   redis.UniversalClient
	replicas int
	rejected func(what string)
	now      func() time.Time
	log      *slog.Logger

	events, nodes, values string // names of keys; values is the beginning of one
	field                 string // of this process in the hash of nodes
	eventBox, valueBox    box
	nameKey               []byte

	history    history
	peers      peers
	running    atomic.Bool
	publishing chan struct{} // holds one token while an event of this process is under way: they would only refuse each other
	contact    atomic.Pointer[contact]
	resting    atomic.Int64 // nanoseconds from start until which values are left alone
	start      time.Time
}

var (
	_ forge.Bus    = (*DB)(nil)
	_ forge.Shared = (*DB)(nil)
)

// contact is the last time that this node knew all that Redis did.
type contact struct {
	at   time.Time
	life mark
}

var printable = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// New returns a DB that has not dialled yet. The caller closes it.
func New(cfg Config) (*DB, error) {
	db, err := newDB(cfg)
	if err != nil {
		return nil, fmt.Errorf("configure redis: %w", err)
	}
	return db, nil
}

func newDB(cfg Config) (_ *DB, err error) {
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	switch {
	case !printable.MatchString(cfg.Node):
		return nil, fmt.Errorf("node %q: give it a name of up to 64 of A-Z a-z 0-9 . _ -", cfg.Node)
	case !printable.MatchString(cfg.Prefix):
		return nil, fmt.Errorf("prefix %q: take up to 64 of A-Z a-z 0-9 . _ -", cfg.Prefix)
	case cfg.Replicas < 0:
		return nil, errors.New("the number of replicas is below 0")
	}
	db := &DB{
		replicas: cfg.Replicas, rejected: cfg.Rejected, now: cfg.Now, log: cfg.Logger,
		events: "{" + cfg.Prefix + "}:events", nodes: "{" + cfg.Prefix + "}:nodes", values: "{" + cfg.Prefix + "}:v:",
		field: cfg.Node + "/" + rand.Text(), publishing: make(chan struct{}, 1),
	}
	if db.rejected == nil {
		db.rejected = func(string) {}
	}
	if db.now == nil {
		db.now = time.Now
	}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	db.start = db.now()
	if err := db.deriveKeys(cfg); err != nil {
		return nil, err
	}
	db.client, err = newClient(cfg)
	return db, err
}

func (db *DB) deriveKeys(cfg Config) (err error) {
	keys := append([][]byte{cfg.Key}, cfg.OtherKeys...)
	if db.eventBox, err = newBox(forEvents, cfg.Prefix, keys); err != nil {
		return err
	}
	if db.peers.box, err = newBox(forNodes, cfg.Prefix, keys); err != nil {
		return err
	}
	db.peers.known, db.peers.rejected = map[string]peer{}, db.rejected
	if db.valueBox, err = newBox(forValues, cfg.Prefix, keys[:1]); err != nil {
		return err
	}
	names, err := newBox(forNames, cfg.Prefix, keys[:1])
	if err != nil {
		return err
	}
	db.nameKey = names.keys[0]
	return nil
}

// Close closes the connections. Nothing else may be called during or after it.
func (db *DB) Close() error { return db.client.Close() }
