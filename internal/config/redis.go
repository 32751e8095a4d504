package config

import (
	"fmt"
	"regexp"
	"strings"
)

// Redis is the memory that several nodes of one gate share, and what tells them of changes. Without it a node is alone.
type Redis struct {
	// URL is redis://HOST:PORT/DB, redis-sentinel://HOST:PORT,HOST:PORT/MASTER?db=DB or redis-cluster://HOST:PORT,HOST:PORT; rediss,
	// rediss-sentinel and rediss-cluster for TLS. Required with the others.
	URL string `yaml:"url"`
	// Key is a secret of 32 bytes, in base64, that all nodes have and nobody else. Required with the others.
	Key Secret `yaml:"key"`
	// OtherKeys are keys that are believed too, while the key is being replaced.
	OtherKeys []Secret `yaml:"other_keys"`
	// Username is an ACL user. Default: Redis's default user.
	Username string `yaml:"username"`
	// Password is its password. Default none.
	Password Secret `yaml:"password"`
	// SentinelUsername and SentinelPassword are for the sentinels.
	SentinelUsername string `yaml:"sentinel_username"`
	SentinelPassword Secret `yaml:"sentinel_password"`
	// CA is a PEM file with the authorities that verify Redis. Default: the system's.
	CA Path `yaml:"ca"`
	// Client is the certificate that the gate shows. Default none.
	Client KeyPair `yaml:"client"`
	// Prefix sets gates apart that share a Redis. Default "lychgate".
	Prefix string `yaml:"prefix"`
	// Replicas is how many replicas must confirm an event before it counts as told. Default 0.
	Replicas int `yaml:"replicas"`
}

// IsZero reports whether nothing was configured.
func (r *Redis) IsZero() bool { return r.URL == "" }

var (
	redisURL    = regexp.MustCompile(`^rediss?(-sentinel|-cluster)?://[^@/]+(/.*)?$`)
	redisPrefix = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`)
)

func (p *parser) checkRedis(r *Redis) {
	if !p.given("redis") {
		return
	}
	if p.required("redis.url", r.URL == "", "such as rediss://redis.example.com:6379/0") && p.sound("redis.url") && !redisURL.MatchString(r.URL) {
		p.add("redis.url", "not the address of a Redis", "write redis[s]://HOST:PORT/DB, redis[s]-sentinel:// or redis[s]-cluster://, without user and password")
	}
	p.required("redis.key", r.Key.IsZero(), "make one: openssl rand -base64 32; every node has the same")
	if plain := strings.HasPrefix(r.URL, "redis:") || strings.HasPrefix(r.URL, "redis-"); plain && p.sound("redis") && (r.CA != "" || !r.Client.IsZero()) {
		p.add("redis.url", "without TLS, and with keys that are for TLS", "write rediss, or remove ca and client")
	}
	if p.sound("redis.prefix") && !redisPrefix.MatchString(r.Prefix) {
		p.add("redis.prefix", fmt.Sprintf("not a prefix: %q", r.Prefix), "at most 64 letters, digits, '.', '_' and '-'")
	}
	if p.sound("redis.replicas") && (r.Replicas < 0 || r.Replicas > 16) {
		p.add("redis.replicas", fmt.Sprintf("%d is out of range", r.Replicas), "from 0 to 16")
	}
	if p.given("redis.client") {
		p.required("redis.client.cert", r.Client.Cert == "", "the certificate in PEM")
		p.required("redis.client.key", r.Client.Key == "", "its key in PEM")
	}
}

// checkRedisFiles looks at what the document names.
func (p *parser) checkRedisFiles(r *Redis) {
	p.secret("redis.key", r.Key)
	for i, k := range r.OtherKeys {
		p.secret(fmt.Sprintf("redis.other_keys[%d]", i), k)
	}
	p.secret("redis.password", r.Password)
	p.secret("redis.sentinel_password", r.SentinelPassword)
	p.file("redis.ca", r.CA)
	p.tlsFiles("redis.client", TLS{Cert: r.Client.Cert, Key: r.Client.Key})
}
