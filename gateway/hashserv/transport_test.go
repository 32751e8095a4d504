package hashserv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// srvWebsocketServer serves each websocket with serve, at the returned ws or wss address.
func srvWebsocketServer(t testing.TB, secure bool, serve func(Conn)) (address string, conf *tls.Config) {
	t.Helper()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := AcceptWebsocket(w, r)
		if err != nil {
			return
		}
		serve(conn)
	})
	s := httptest.NewUnstartedServer(handler)
	if secure {
		s.StartTLS()
		conf = s.Client().Transport.(*http.Transport).TLSClientConfig
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "http", "ws", 1), conf
}

// srvEcho sends back what it receives. What was buffered leaves together.
func srvEcho(conn Conn) {
	defer conn.Close()
	for {
		message, err := conn.Receive()
		if err != nil || conn.Send(message) != nil {
			return
		}
		if !conn.Buffered() && conn.Flush() != nil {
			return
		}
	}
}

func TestTransportsCarryMessages(t *testing.T) {
	plain, _ := srvWebsocketServer(t, false, srvEcho)
	secure, conf := srvWebsocketServer(t, true, srvEcho)
	for name, address := range map[string]string{"tcp": srvLineServer(t, "tcp", srvEcho), "unix": srvLineServer(t, "unix", srvEcho), "ws": plain, "wss": secure} {
		t.Run(name, func(t *testing.T) {
			conn, err := (&Dialer{TLS: conf}).Dial(t.Context(), address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			var sent []string
			for i := range 300 {
				sent = append(sent, strings.Repeat("ä", i)+fmt.Sprint(i))
			}
			sent = append(sent, "", strings.Repeat("long ", 10000)+".", "x")
			for _, s := range sent {
				if err := conn.Send([]byte(s)); err != nil {
					t.Fatal(err)
				}
			}
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			for _, s := range sent {
				got, err := conn.Receive()
				if err != nil || string(got) != s {
					t.Fatalf("sent %.40q, got back %.40q, %v", s, got, err)
				}
			}
			if conn.Buffered() {
				t.Error("more is buffered than was sent")
			}
		})
	}
}

// srvLineServer serves each connection with serve, at the returned address.
func srvLineServer(t testing.TB, network string, serve func(Conn)) string {
	t.Helper()
	at, prefix := "127.0.0.1:0", ""
	if network == "unix" {
		at, prefix = t.TempDir()+"/s", "unix://"
	}
	ln, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(NewLineConn(conn, MaxLine))
		}
	}()
	return prefix + ln.Addr().String()
}

func TestLinesAreBounded(t *testing.T) {
	for _, tc := range []struct {
		name, sent, want string
		err              error
	}{
		{"the longest", strings.Repeat("x", 100) + "\n", strings.Repeat("x", 100), nil},
		{"one more", strings.Repeat("x", 101) + "\n", "", errLongLine},
		{"with blanks", strings.Repeat("x", 98) + " \t\n", strings.Repeat("x", 98), nil},
		{"blanks count", strings.Repeat("x", 98) + " \t \n", "", errLongLine},
		{"endless", strings.Repeat("x", 1000), "", errLongLine},
		{"no end", "abc", "", io.ErrUnexpectedEOF},
		{"nothing", "", "", io.EOF},
		{"white space at the end", " a \t\r\v\f\n", " a", nil},
		{"a blank that is not ASCII stays", "a\u00a0\n", "a\u00a0", nil},
		{"not UTF-8", "a\xff\n", "", errNotUTF8},
		{"a surrogate", "a\xed\xa0\x80\n", "", errNotUTF8},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, server := net.Pipe()
			defer server.Close()
			go func() {
				_, _ = io.WriteString(client, tc.sent)
				client.Close()
			}()
			got, err := NewLineConn(server, 100).Receive()
			if string(got) != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("%.20q, %v; want %.20q, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestLineEndInAMessageIsRefused(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	if err := NewLineConn(server, 100).Send([]byte("a\nb")); !errors.Is(err, errLineEnd) {
		t.Errorf("%v", err)
	}
}

// srvCountingConn counts writes.
type srvCountingConn struct {
	net.Conn
	writes *int
}

func (c srvCountingConn) Write(p []byte) (int, error) {
	*c.writes++
	return c.Conn.Write(p)
}

func TestRepliesLeaveInOneWrite(t *testing.T) {
	address, _ := srvWebsocketServer(t, false, srvEcho)
	writes := 0
	d := &Dialer{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return srvCountingConn{conn, &writes}, err
	}}
	for _, address := range []string{address, srvLineServer(t, "tcp", srvEcho)} {
		conn, err := d.Dial(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		before := writes
		for range 100 {
			if err := conn.Send([]byte("message")); err != nil {
				t.Fatal(err)
			}
		}
		if writes != before {
			t.Errorf("%s: messages left before Flush", address)
		}
		if err := conn.Flush(); err != nil || writes != before+1 {
			t.Errorf("%s: %d writes, %v", address, writes-before, err)
		}
	}
}

func TestWebsocketRefuses(t *testing.T) {
	end := make(chan error, 1)
	address, _ := srvWebsocketServer(t, false, func(conn Conn) {
		defer conn.Close()
		_, err := conn.Receive()
		end <- err
	})
	for _, tc := range []struct {
		name string
		kind websocket.MessageType
		text string
		want error
	}{
		{"binary", websocket.MessageBinary, "OEHASHEQUIV 1.1", errBinary},
		{"not UTF-8", websocket.MessageText, "a\xff", errNotUTF8},
		{"too long", websocket.MessageText, strings.Repeat("x", MaxMessage+1), websocket.ErrMessageTooBig},
		{"the longest", websocket.MessageText, strings.Repeat("x", MaxMessage), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, mode := range []websocket.CompressionMode{websocket.CompressionDisabled, websocket.CompressionContextTakeover} {
				ws, _, err := websocket.Dial(t.Context(), address, &websocket.DialOptions{CompressionMode: mode})
				if err != nil {
					t.Fatal(err)
				}
				if err := ws.Write(t.Context(), tc.kind, []byte(tc.text)); err != nil {
					t.Fatal(err)
				}
				if err := <-end; !errors.Is(err, tc.want) {
					t.Errorf("%v, want %v", err, tc.want)
				}
				ws.CloseNow()
			}
		})
	}
}

func TestWebsocketAnswersPings(t *testing.T) {
	address, _ := srvWebsocketServer(t, false, srvEcho)
	ws, _, err := websocket.Dial(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.CloseRead(t.Context())
	if err := ws.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWebsocketCredentials(t *testing.T) {
	var got []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		got = append(got, user+":"+password+" "+r.RequestURI)
		http.Error(w, "no", http.StatusUnauthorized)
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	d := &Dialer{Username: "gate", Password: "secret"}
	for _, address := range []string{"ws://" + host + "/hash/main?a=b", "ws://alice:p%40ss@" + host + "/x"} {
		if _, err := d.Dial(t.Context(), address); err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "p@ss") || strings.Contains(err.Error(), "p%40ss") {
			t.Errorf("%v", err)
		}
	}
	if want := "gate:secret /hash/main?a=b, alice:p@ss /x"; strings.Join(got, ", ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBadAddresses(t *testing.T) {
	for _, address := range []string{"http://host", "ws://", "ws://a b", "wss://%zz", "tls://host", "ftp://x:1"} {
		if _, err := (&Dialer{}).Dial(t.Context(), address); !errors.Is(err, errBadAddress) {
			t.Errorf("%q: %v", address, err)
		}
	}
	address, err := loopback.Free()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Dialer{}).Dial(t.Context(), address); err == nil || errors.Is(err, errBadAddress) {
		t.Errorf("nobody listens, and: %v", err)
	}
}

// TestUpgrades: what a websocket may be asked for, and what is answered to others.
func TestUpgrades(t *testing.T) {
	address, _ := srvWebsocketServer(t, false, srvEcho)
	good := http.Header{
		"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
		"Sec-Websocket-Extensions": {"permessage-deflate; client_max_window_bits"},
	}
	for _, tc := range []struct {
		name, method, header, value string
		status                      int
	}{
		{"as BitBake asks", "GET", "User-Agent", "Python/3.11 websockets/10.4", http.StatusSwitchingProtocols},
		{"not GET", "POST", "", "", http.StatusMethodNotAllowed},
		{"no upgrade", "GET", "Upgrade", "", http.StatusUpgradeRequired},
		{"another upgrade", "GET", "Upgrade", "h2c", http.StatusUpgradeRequired},
		{"no connection", "GET", "Connection", "close", http.StatusUpgradeRequired},
		{"another version", "GET", "Sec-Websocket-Version", "8", http.StatusBadRequest},
		{"no key", "GET", "Sec-Websocket-Key", "", http.StatusBadRequest},
		{"a short key", "GET", "Sec-Websocket-Key", "AAAA", http.StatusBadRequest},
		{"from a page of another site", "GET", "Origin", "https://evil.example", http.StatusForbidden},
		{"from a page whose site resolves to here", "GET", "Origin", strings.Replace(address, "ws", "http", 1), http.StatusForbidden},
		{"from a page of nowhere", "GET", "Origin", "null", http.StatusForbidden},
		{"a window that is not spoken", "GET", "Sec-Websocket-Extensions", "permessage-deflate; server_max_window_bits=9", http.StatusSwitchingProtocols},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), tc.method, strings.Replace(address, "ws", "http", 1), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header = good.Clone()
			if tc.header != "" {
				r.Header.Set(tc.header, tc.value)
			}
			response, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != tc.status {
				t.Errorf("%s, want %d", response.Status, tc.status)
			}
			want := "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
			if tc.status != http.StatusSwitchingProtocols || tc.header == "Sec-Websocket-Extensions" {
				want = ""
			}
			if got := response.Header.Get("Sec-Websocket-Extensions"); got != want {
				t.Errorf("extensions %q, want %q", got, want)
			}
		})
	}
}
