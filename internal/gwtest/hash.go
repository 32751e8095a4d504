package gwtest

import (
	"context"
	"crypto/tls"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/sqldb"
)

// hashZone returns what keeps zones' mappings, and those of what is published for good.
func (g *Gate) hashZone(o Options) func(zone string) gateway.HashZone {
	keep := func(zone string, u hashserv.Unihash) bool {
		return g.DB.Published(zone, u) || zone == "review" && g.DB.Published("main", u)
	}
	if !o.HashDB {
		return func(zone string) gateway.HashZone {
			return gateway.HashZone{Store: hashserv.NewMemory(hashserv.MemoryConfig{Keep: func(u hashserv.Unihash) bool { return keep(zone, u) }})}
		}
	}
	var err error
	g.Hashes, err = sqldb.OpenHashes(context.Background(), sqldb.HashesConfig{Path: g.Path("hashes.db"), Memory: 8 << 20, Keep: keep})
	g.must(err, "open the database of hash equivalence")
	return func(zone string) gateway.HashZone { return gateway.HashZone{Store: g.Hashes.Zone(zone)} }
}

// Hash returns a client of a zone's hash equivalence, over a websocket, that shows the token of a user; "" shows none.
func (g *Gate) Hash(name, zone string) *hashserv.Client {
	g.T.Helper()
	token := ""
	if name != "" {
		token = g.As(name).Token
	}
	return g.HashAs(hashserv.ClientConfig{Dialer: g.HashDialer(token)}, zone)
}

// HashDialer connects to the gate's websockets with a token; "" shows none.
func (g *Gate) HashDialer(token string) *hashserv.Dialer {
	d := &hashserv.Dialer{TLS: &tls.Config{RootCAs: g.CA.Pool()}}
	if token != "" {
		d.Username, d.Password = "token", token
	}
	return d
}

// HashAs returns a client of a zone's hash equivalence, over a websocket. It is closed with the gate.
func (g *Gate) HashAs(c hashserv.ClientConfig, zone string) *hashserv.Client {
	g.T.Helper()
	if c.Dialer == nil {
		c.Dialer = g.HashDialer("")
	}
	c.Address = "wss://" + g.Addr + "/hash/" + zone
	client, err := hashserv.NewClient(c)
	g.must(err, "make a hash client")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.idle = append(g.idle, func() { _ = client.Close() })
	return client
}

// Unihash is the hash that an object is found by.
func (o Object) Unihash() hashserv.Unihash {
	ref, err := artifact.Parse(artifact.Zone{Name: "main"}, o.Name)
	if err != nil {
		panic(err)
	}
	u, ok := hashserv.ParseUnihash(ref.Hash)
	if !ok {
		panic("no unihash in " + o.Name)
	}
	return u
}
