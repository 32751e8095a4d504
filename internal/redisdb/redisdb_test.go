package redisdb_test

import (
	"testing"

	"github.com/lychgate/lychgate/authz/forge/bustest"
	"github.com/lychgate/lychgate/internal/gwtest/redis"
	"github.com/lychgate/lychgate/internal/redisdb"
)

// key is what the nodes of these tests share.
var key = []byte("0123456789abcdef0123456789abcdef")

// open makes a DB that ends with the test.
func open(t testing.TB, cfg redisdb.Config) *redisdb.DB {
	t.Helper()
	if cfg.Key == nil {
		cfg.Key = key
	}
	db, err := redisdb.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func gate(t testing.TB, cfg redisdb.Config) bustest.Gate {
	return func(name string) bustest.Node {
		cfg.Node = name
		db := open(t, cfg)
		return bustest.Node{Bus: db, Shared: db}
	}
}

func TestConformance(t *testing.T) {
	s := redis.Start(t, redis.Options{})
	fresh := func(t *testing.T) bustest.Gate {
		s.Do(t, "FLUSHALL")
		return gate(t, redisdb.Config{URL: s.URL()})
	}
	bustest.Run(t, fresh)
	bustest.RunShared(t, fresh)
}
