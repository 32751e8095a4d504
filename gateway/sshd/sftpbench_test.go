package sshd_test

import (
	"io"
	"testing"

	"github.com/pkg/sftp"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// BenchmarkDownload gets a whole object over SSH on loopback.
func BenchmarkDownload(b *testing.B) {
	for _, row := range []struct {
		name    string
		packets int
	}{{"32KiB", 32 << 10}, {"255KiB", 255 << 10}} {
		b.Run(row.name, func(b *testing.B) {
			g := gwtest.New(b, gwtest.Options{})
			o := sized(b, "large", 64<<20)
			g.Publish([]gwtest.Object{o}, publicSource)
			c := connectSSH(b, g, "alice", sftp.MaxPacketUnchecked(row.packets), sftp.MaxConcurrentRequestsPerFile(64))
			b.SetBytes(int64(len(o.Content)))
			for b.Loop() {
				f, err := c.Open("/main/" + o.Name)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := f.WriteTo(io.Discard); err != nil || n != int64(len(o.Content)) {
					b.Fatal(n, err)
				}
				f.Close()
			}
		})
	}
}

// BenchmarkStat asks for one object again and again, with one question in flight.
func BenchmarkStat(b *testing.B) {
	g := gwtest.New(b, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, publicSource)
	c := connectSSH(b, g, "alice")
	for b.Loop() {
		if _, err := c.Stat("/main/" + o.Name); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStatPipelined keeps many questions in flight.
func BenchmarkStatPipelined(b *testing.B) {
	g := gwtest.New(b, gwtest.Options{})
	o := gwtest.NewObject("hello", "package")
	g.Publish([]gwtest.Object{o}, publicSource)
	c := connectSSH(b, g, "alice")
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Stat("/main/" + o.Name); err != nil {
				b.Error(err)
			}
		}
	})
}
