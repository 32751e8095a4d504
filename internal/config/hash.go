package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Hash is hash equivalence. The https door serves it for every zone at wss://GATE/hash/ZONE without any of the keys below.
type Hash struct {
	// Database is where mappings are: "sqlite:PATH". Default sqlite:STATE/hashes.db.
	Database Location `yaml:"database"`
	// Memory is what the index of mappings may take; about 100 bytes a mapping are held as long as they fit. Default 512MiB.
	Memory Size `yaml:"memory"`
	// Listeners speak the protocol without HTTP: lines over TLS, or on this machine alone. Default none.
	Listeners []HashListener `yaml:"listeners"`
	// Connections is how many connections the hash door holds at once, those of the https and ssh doors included. Default 10000.
	Connections int `yaml:"connections"`
	// ConnectionsPerAddress is how many of them one address may have. Default 4096.
	ConnectionsPerAddress int `yaml:"connections_per_address"`
	// ConnectionsPerPrincipal is how many of them one principal may have. Default 4096.
	ConnectionsPerPrincipal int `yaml:"connections_per_principal"`
	// Idle is how long a connection may rest. BitBake holds one for a whole build. Default 24h.
	Idle time.Duration `yaml:"idle"`
}

// HashListener is where one zone's hash equivalence is served.
type HashListener struct {
	// Listen is HOST:PORT, or unix:PATH. Required. Without tls the host must be a loopback address.
	Listen string `yaml:"listen"`
	// Zone is the zone that is served. Required.
	Zone string `yaml:"zone"`
	// TLS shows the https door's certificate, and takes client certificates as it does. Default false.
	TLS bool `yaml:"tls"`
	// Websocket speaks websockets in place of lines. Default false.
	Websocket bool `yaml:"websocket"`
	// Principal is whoever connects and has not signed in: for programs of this machine that cannot. Default nobody. Not with tls.
	Principal Principal `yaml:"principal"`
}

// ZoneHash is hash equivalence in one zone.
type ZoneHash struct {
	// Upstream is a server that keeps the mappings: HOST:PORT, unix://PATH, ws://HOST[:PORT]/PATH or wss://. Default: the gate
	// is the server.
	Upstream string `yaml:"upstream"`
	// User and Password are what the gate signs in with there. Default: nothing.
	User     string `yaml:"user"`
	Password Secret `yaml:"password"`
	// CA is a PEM file with the authorities that verify a wss upstream. Default: the system's.
	CA Path `yaml:"ca"`
	// AnonymousUpstream takes an upstream that lets anybody write, past the gate. Default false: the gate does not start.
	AnonymousUpstream bool `yaml:"anonymous_upstream"`
	// Reference answers as BitBake's own server does: also about what is not published, and with an error, of which builds die, for
	// a right that is missing. Default false.
	Reference bool `yaml:"reference"`
	// ReportEquiv lets writers map a task to a hash without showing an output. Default false.
	ReportEquiv bool `yaml:"report_equiv"`
}

// IsZero reports whether nothing was configured.
func (z ZoneHash) IsZero() bool { return z == ZoneHash{} }

// Unix returns the path of a Unix socket to listen on, or "" for an address.
func (l *HashListener) Unix() string {
	path, ok := strings.CutPrefix(l.Listen, "unix:")
	if !ok {
		return ""
	}
	return path
}

// maxUnixPath is what the kernel takes: sun_path of unix(7), with its end.
const maxUnixPath = 107

func (p *parser) checkHash(c *Config, forges []string) {
	p.scheme("hash.database", c.Hash.Database, "sqlite")
	var before []string
	for i := range c.Hash.Listeners {
		l := &c.Hash.Listeners[i]
		key := fmt.Sprintf("hash.listeners[%d]", i)
		if p.required(key+".listen", l.Listen == "", "such as 127.0.0.1:8686, or unix:PATH") && p.sound(key+".listen") {
			p.unique(key+".listen", l.Listen, before)
			before = append(before, l.Listen)
			p.checkHashListen(c, key, l)
		}
		if p.required(key+".zone", l.Zone == "", "the zone that is served") {
			p.zoneOf(key+".zone", l.Zone, c.Zones)
		}
		if l.Principal == (Principal{}) {
			continue
		}
		if l.TLS {
			p.add(key+".principal", "everybody who can reach a TLS listener would be that principal", "remove it: clients sign in; or listen on this machine alone")
		}
		p.checkPrincipal(key+".principal", l.Principal, forges)
	}
	servers := map[string]string{} // which zone has an upstream
	for i, z := range c.Zones {
		key := fmt.Sprintf("zones[%d].hash", i)
		p.checkZoneHash(key, z.Hash)
		if other, ok := servers[z.Hash.Upstream]; ok && z.Hash.Upstream != "" && p.sound(key) {
			p.add(key+".upstream", fmt.Sprintf("zone %q has this server: what the writers of one report, the readers of the other would be told", other), "give each zone a server of its own")
		}
		servers[z.Hash.Upstream] = z.Name
	}
}

// checkHashListen checks where a listener is: what is not encrypted does not leave the machine.
func (p *parser) checkHashListen(c *Config, key string, l *HashListener) {
	at := key + ".listen"
	if path := l.Unix(); path != "" {
		switch {
		case !strings.HasPrefix(path, "/"):
			p.add(at, "a socket's path that is not absolute", "write unix:/run/lychgate/hash.sock")
		case len(path) > maxUnixPath:
			p.add(at, fmt.Sprintf("a socket's path of %d bytes", len(path)), fmt.Sprintf("%d are possible", maxUnixPath))
		case l.TLS:
			p.add(key+".tls", "TLS on a socket of this machine", "remove it")
		}
		return
	}
	p.listen(at, l.Listen)
	if !p.sound(at) {
		return
	}
	if host, _, err := net.SplitHostPort(l.Listen); err == nil && !l.TLS && !loopbackHost(host) {
		p.add(at, "hash equivalence in the clear beyond this machine", "listen on 127.0.0.1 or [::1], or give tls: true")
	}
	for _, other := range []struct{ key, address string }{
		{"https.listen", c.HTTPS.Listen}, {"admin.listen", c.Admin.Listen}, {"ssh.listen", c.SSH.Listen},
	} {
		if p.sound(other.key) && overlap(other.address, l.Listen) {
			p.add(at, fmt.Sprintf("%s is %s already", other.key, other.address), "choose another port")
		}
	}
}

// zoneOf checks that a zone is one of the document's.
func (p *parser) zoneOf(key, name string, zones []Zone) {
	var names []string
	for _, z := range zones {
		names = append(names, z.Name)
	}
	if slices.Contains(names, name) || !p.sound(key) || !p.sound("zones") {
		return
	}
	hint := "declare it under zones"
	if near := nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	p.add(key, fmt.Sprintf("no zone is named %q", name), hint)
}

func (p *parser) checkZoneHash(key string, z ZoneHash) {
	if z.Upstream == "" {
		for _, other := range []struct {
			name  string
			given bool
		}{{"user", z.User != ""}, {"password", !z.Password.IsZero()}, {"ca", z.CA != ""}, {"anonymous_upstream", z.AnonymousUpstream}} {
			if other.given && p.sound(key) {
				p.add(key+"."+other.name, "for an upstream, and there is none", "give upstream, or remove it")
			}
		}
		return
	}
	if p.sound(key+".upstream") && !validHashServer(z.Upstream) {
		p.add(key+".upstream", "not the address of a hash equivalence server", "write HOST:PORT, unix://PATH, ws://HOST:PORT/PATH or wss://HOST/PATH, without user and password")
	}
	if p.sound(key) && (z.User == "") != z.Password.IsZero() {
		p.add(key+".password", "user and password come together", "give both or none")
	}
	if p.sound(key) && !z.Password.IsZero() && !private(z.Upstream) {
		p.add(key+".password", "a password in the clear beyond this machine", "write wss://, or reach the server on this machine")
	}
	if p.sound(key) && z.CA != "" && !strings.HasPrefix(z.Upstream, "wss://") {
		p.add(key+".ca", "an upstream without TLS shows no certificate", "remove it, or write wss://")
	}
}

// private reports whether what is said to a server stays between it and the gate: by TLS, or on this machine.
func private(address string) bool {
	host := address
	if u, err := url.Parse(address); err == nil && u.Scheme == "ws" {
		host = u.Host
	} else if strings.Contains(address, "://") {
		return true
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return loopbackHost(strings.Trim(host, "[]"))
}

// validHashServer reports whether text is an address as BB_HASHSERVE has it.
func validHashServer(text string) bool {
	if path, ok := strings.CutPrefix(text, "unix://"); ok {
		return strings.HasPrefix(path, "/") && len(path) <= maxUnixPath
	}
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		return err == nil && (u.Scheme == "ws" || u.Scheme == "wss") && u.Hostname() != "" && u.User == nil && u.Fragment == ""
	}
	host, port, err := net.SplitHostPort(text)
	n, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && n > 0 && host != ""
}

// checkHashFiles looks at what the hash keys name.
func (p *parser) checkHashFiles(c *Config) {
	for i, z := range c.Zones {
		key := fmt.Sprintf("zones[%d].hash", i)
		p.file(key+".ca", z.Hash.CA)
		p.secret(key+".password", z.Hash.Password)
	}
}
