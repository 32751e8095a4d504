package hashd_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/lychgate/lychgate/gateway/hashd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// BenchmarkConnect is a connection that signs in, asks one thing and ends: client and gate in one process.
func BenchmarkConnect(b *testing.B) {
	g, o := published(b, gwtest.Options{HashDB: true})
	address := serve(b, g.HashDoor, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main"})
	ask := fmt.Sprintf("OEHASHEQUIV 1.1\nneeds-headers: false\n\n{\"auth\": {\"username\": \"x\", \"token\": %q}}\n{\"exists-stream\": null}\n%s\n", g.As("bob").Token, o.Unihash())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.WriteString(conn, ask); err != nil {
				b.Fatal(err)
			}
			r := bufio.NewReaderSize(conn, 512)
			for range 3 {
				if _, err := r.ReadSlice('\n'); err != nil {
					b.Fatal(err)
				}
			}
			conn.Close()
		}
	})
}

// BenchmarkLookups are look-ups on 40 connections, each waiting for its answer: clients and gate in one process.
func BenchmarkLookups(b *testing.B) {
	g, o := published(b, gwtest.Options{HashDB: true})
	address := serve(b, g.HashDoor, "tcp", "127.0.0.1:0", hashd.Listener{Zone: "main"})
	ask := fmt.Sprintf("OEHASHEQUIV 1.1\nneeds-headers: false\n\n{\"auth\": {\"username\": \"x\", \"token\": %q}}\n{\"exists-stream\": null}\n", g.As("bob").Token)
	line := []byte(o.Unihash().String() + "\n")
	b.ReportAllocs()
	b.SetParallelism(20)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, ask); err != nil {
			b.Fatal(err)
		}
		r := bufio.NewReaderSize(conn, 512)
		read := func() {
			if _, err := r.ReadSlice('\n'); err != nil {
				b.Fatal(err)
			}
		}
		read()
		read()
		for pb.Next() {
			if _, err := conn.Write(line); err != nil {
				b.Fatal(err)
			}
			read()
		}
	})
}
