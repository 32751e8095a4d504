package gateway_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// benchSession is alice at a gate that holds a thousand objects, whose names it returns.
func benchSession(b *testing.B) (*gwtest.Gate, []string) {
	b.Helper()
	g := gwtest.New(b, gwtest.Options{})
	var objects []gwtest.Object
	var names []string
	for i := range 1000 {
		o := gwtest.NewObject(fmt.Sprintf("recipe%d", i), "populate_sysroot")
		objects, names = append(objects, o), append(names, o.Name)
	}
	g.Publish(objects, "git://git.example.com/team/a.git;protocol=https", "git://git.example.com/team/b.git;protocol=https")
	return g, names
}

func signIn(b *testing.B, g *gwtest.Gate) *gateway.Session {
	b.Helper()
	door := gateway.Door{Name: "https", Remote: netip.MustParseAddrPort("127.0.0.1:50000")}
	s, err := g.Gateway.Session(context.Background(), door, authn.Credential{Token: authn.NewSecret(g.As("alice").Token)})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkStat is a HEAD without its door: the credential, the decision, the event in the journal.
func BenchmarkStat(b *testing.B) {
	g, names := benchSession(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := signIn(b, g).Stat(context.Background(), "main", names[i%len(names)]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPresence is a batch of 20,000 names without its door.
func BenchmarkPresence(b *testing.B) {
	g, few := benchSession(b)
	names := make([]string, 20_000)
	for i := range names {
		names[i] = few[i%len(few)]
	}
	s := signIn(b, g)
	b.ReportAllocs()
	for b.Loop() {
		present, err := s.Presence(context.Background(), "main", names)
		if err != nil || !present[0] || !present[len(present)-1] {
			b.Fatal(err)
		}
	}
}

// BenchmarkHashLookups is a flush of look-ups without its door and protocol: mapping, artifact, decision, event.
func BenchmarkHashLookups(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g := gwtest.New(b, gwtest.Options{HashDB: true})
			var objects []gwtest.Object
			var tasks []hashserv.Task
			ci := ask(b, g, "ci", "main")
			for i := range 256 {
				o := gwtest.NewObject(fmt.Sprintf("recipe%d", i), "populate_sysroot")
				ci.report(o.Name, o.Name, o.Unihash())
				objects, tasks = append(objects, o), append(tasks, task(o.Name))
			}
			g.Publish(objects, "git://git.example.com/team/a.git;protocol=https", "git://git.example.com/team/b.git;protocol=https")
			s := signIn(b, g)
			h := g.Gateway.Hashes(gateway.Door{Name: "hash", Remote: netip.MustParseAddrPort("127.0.0.1:50000")}, "main", s)
			answers := make([]hashserv.Mapping, n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i += n {
				at := i % (len(tasks) - n + 1)
				if err := h.Unihash(context.Background(), tasks[at:at+n], answers); err != nil || answers[0].Unihash != objects[at].Unihash() {
					b.Fatal(answers[0], err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/lookup")
		})
	}
}
