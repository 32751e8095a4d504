package redisdb

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// address is where Redis is, as a URL says it. See [Config.URL].
type address struct {
	kind   string // "redis", "redis-sentinel" or "redis-cluster"
	tls    bool
	hosts  []string // host:port
	master string   // the name that Sentinel knows the master by
	db     int
}

var errURL = errors.New(`write redis://HOST:PORT/DB, redis-sentinel://HOST:PORT,HOST:PORT/MASTER?db=DB or ` +
	`redis-cluster://HOST:PORT,HOST:PORT; rediss:// and so on for TLS`)

// parseAddress reads a URL. It is taken apart by hand: the hosts of several servers are no host to net/url.
func parseAddress(text string) (a address, err error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if a.kind, a.tls = scheme, strings.HasPrefix(scheme, "rediss"); a.tls {
		a.kind = "redis" + strings.TrimPrefix(scheme, "rediss")
	}
	if !ok || !slices.Contains([]string{"redis", "redis-sentinel", "redis-cluster"}, a.kind) {
		return address{}, errURL
	}
	if strings.ContainsRune(rest, '@') {
		return address{}, errors.New("the URL holds a user or a password: it is printed where people look; give them apart from it")
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, path, _ := strings.Cut(rest, "/")
	if a.hosts, err = splitHosts(hosts, map[string]string{"redis-sentinel": "26379"}[a.kind]); err != nil {
		return address{}, err
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return address{}, fmt.Errorf("the part behind \"?\": %w", err)
	}
	return a.complete(path, values)
}

// splitHosts returns each host with its port.
func splitHosts(list, port string) (hosts []string, err error) {
	if port == "" {
		port = "6379"
	}
	for host := range strings.SplitSeq(list, ",") {
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		name, number, err := net.SplitHostPort(host)
		n, bad := strconv.ParseUint(number, 10, 16)
		if err != nil || bad != nil || n == 0 || name == "" || strings.ContainsAny(name, " /[]") {
			return nil, fmt.Errorf("%q is no host and port: %w", host, errURL)
		}
		hosts = append(hosts, host)
	}
	return hosts, nil
}

// complete reads what stands behind the hosts.
func (a address) complete(path string, query url.Values) (address, error) {
	db := path
	switch a.kind {
	case "redis-sentinel":
		if a.master, db = path, query.Get("db"); a.master == "" || strings.ContainsRune(a.master, '/') {
			return address{}, fmt.Errorf("the master's name is missing: %w", errURL)
		}
		query.Del("db")
	case "redis-cluster":
		if path != "" {
			return address{}, fmt.Errorf("a cluster has no databases to choose from: %w", errURL)
		}
	case "redis":
		if len(a.hosts) != 1 {
			return address{}, fmt.Errorf("several hosts, but neither sentinel nor cluster: %w", errURL)
		}
	}
	if len(query) > 0 {
		return address{}, fmt.Errorf("the part behind \"?\" is not understood: %w", errURL)
	}
	if db == "" {
		return a, nil
	}
	n, err := strconv.ParseUint(db, 10, 15)
	if err != nil {
		return address{}, fmt.Errorf("%q is no database: %w", db, errURL)
	}
	a.db = int(n)
	return a, nil
}
