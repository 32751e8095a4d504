package hashserv

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// srvBenchStore is a store that costs little: what is measured is the server.
type srvBenchStore struct {
	srvPeer
	known map[Task]Mapping
}

func (s *srvBenchStore) Unihash(_ context.Context, tasks []Task, answers []Mapping) error {
	for i, t := range tasks {
		answers[i] = s.known[t]
	}
	return nil
}

func (s *srvBenchStore) May(context.Context, Permission) error { return nil }

func srvBenchServer() (*Server, *srvBenchStore) {
	store := &srvBenchStore{known: map[Task]Mapping{}}
	for i := range 10_000 {
		store.known[Task{srvMethod, srvTaskhash(i)}] = Mapping{Unihash: srvUnihash(byte(i%15 + 1))}
	}
	return NewServer(ServerConfig{}), store
}

const srvMethod = "oe.sstatesig.OEOuthashBasic"

func srvTaskhash(i int) string { return fmt.Sprintf("%064x", i) }

// srvBenchTransport is how a client of a benchmark writes messages, and how long a reply to a lookup is.
type srvBenchTransport struct {
	name    string
	connect func(address string) (net.Conn, error)
	message func(text string) string
	reply   int
}

func srvBenchTransports() []srvBenchTransport {
	return []srvBenchTransport{
		{"tcp", func(address string) (net.Conn, error) { return net.Dial("tcp", address) }, func(s string) string { return s + "\n" }, 64 + 1},
		{"ws", srvUpgrade, func(s string) string { return srvFrame(srvText, s) }, 64 + 2},
	}
}

func srvUpgrade(address string) (net.Conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, srvUpgradeRequest); err != nil {
		return nil, err
	}
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, one...) {
		if _, err := io.ReadFull(conn, one); err != nil {
			return nil, err
		}
	}
	return conn, nil
}

// BenchmarkGetStream is lookups by 40 clients on the loopback, with some in flight each. The clients take part of the time.
func BenchmarkGetStream(b *testing.B) {
	server, store := srvBenchServer()
	serve := func(conn Conn) { _ = server.Serve(context.Background(), conn, store) }
	ws, _ := srvWebsocketServer(b, false, serve)
	addresses := map[string]string{"tcp": srvLineServer(b, "tcp", serve), "ws": strings.TrimPrefix(ws, "ws://")}
	for _, tr := range srvBenchTransports() {
		for _, inFlight := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/inflight=%d", tr.name, inFlight), func(b *testing.B) {
				srvBenchClients(b, addresses[tr.name], tr, inFlight)
			})
		}
	}
}

// srvBenchClients shares b.N lookups between 40 clients. They send a window, and read its replies without looking at them.
func srvBenchClients(b *testing.B, address string, tr srvBenchTransport, inFlight int) {
	const clients = 40
	b.ReportAllocs()
	var all sync.WaitGroup
	begin := make(chan struct{})
	for c := range clients {
		conn, err := tr.connect(address)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, tr.message(clientHello)+tr.message("")+tr.message(`{"get-stream":null}`)); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, len(streamEntered)+tr.reply-64)); err != nil {
			b.Fatal(err)
		}
		var window strings.Builder
		for i := range inFlight {
			window.WriteString(tr.message(srvMethod + " " + srvTaskhash((c*64+i)%10_000)))
		}
		send, replies := []byte(window.String()), make([]byte, tr.reply*inFlight)
		all.Go(func() {
			<-begin
			for done := 0; done < b.N/clients+1; done += inFlight {
				if _, err := conn.Write(send); err != nil {
					b.Error(err)
					return
				}
				if _, err := io.ReadFull(conn, replies); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.ResetTimer()
	close(begin)
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lookups/s")
}
