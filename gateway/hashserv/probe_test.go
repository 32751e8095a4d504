package hashserv_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

// clProbed plays a server to Probe: reply to each command, "" for the end of the connection.
func clProbed(t *testing.T, reply func(command string) string) (got hashserv.Anonymous, lines []string, err error) {
	t.Helper()
	wire := &clWire{serve: func(_ int, c *clLines) {
		c.hello()
		line, _ := c.line()
		lines = append(lines, line)
		if text := reply(line); text != "" {
			c.say(text)
			c.line()
		}
	}}
	got, err = hashserv.Probe(t.Context(), &hashserv.Dialer{DialContext: wire.dial}, "wire")
	wire.all.Wait()
	return got, lines, err
}

func TestProbe(t *testing.T) {
	refused := `{"invoke-error": {"message": "Anonymous user is not allowed to access permissions(s) @x"}}`
	for _, tc := range []struct {
		name                 string
		stream, equiv, usage string
		want                 hashserv.Anonymous
	}{
		{"everything", `"ok"`, `{"invoke-error": {"message": "Invalid unihash"}}`, `{"usage": {}}`, hashserv.Anonymous{Read: true, Report: true, DBAdmin: true}},
		{"nothing", refused, refused, refused, hashserv.Anonymous{}},
		{"reading", `"ok"`, refused, refused, hashserv.Anonymous{Read: true}},
		{"no such command", `"ok"`, "", "", hashserv.Anonymous{Read: true}},
		{"writes whatever it is told", `"ok"`, `{"method": "probe", "taskhash": "probe", "unihash": ""}`, refused, hashserv.Anonymous{Read: true, Report: true}},
	} {
		got, lines, err := clProbed(t, func(command string) string {
			switch {
			case strings.Contains(command, "get-stream"):
				return tc.stream
			case strings.Contains(command, "report-equiv"):
				return tc.equiv
			}
			return tc.usage
		})
		if err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
		for _, line := range lines {
			if strings.Contains(line, "auth") || strings.Contains(line, `"report"`) {
				t.Errorf("%s: the server was sent %s", tc.name, line)
			}
		}
	}
}

// TestProbeOurs: what our server has no command for is not allowed.
func TestProbeOurs(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "ws"} {
		s := clServe(t, network, clPeer{hashserv.NewMemory(hashserv.MemoryConfig{})})
		if got, err := hashserv.Probe(t.Context(), nil, s.address); err != nil || got != (hashserv.Anonymous{Read: true, Report: true, DBAdmin: true}) {
			t.Errorf("%s: %+v, %v", network, got, err)
		}
	}
}

// TestProbeSendsNoCredentials: not those of the address, nor those of the dialer. A server that wants some lets anonymous users do nothing.
func TestProbeSendsNoCredentials(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the probe sent credentials")
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer web.Close()
	address := strings.Replace(web.URL, "http://", "ws://user:secret@", 1)
	got, err := hashserv.Probe(t.Context(), &hashserv.Dialer{Username: "user", Password: "secret"}, address)
	if err != nil || got != (hashserv.Anonymous{}) {
		t.Errorf("Probe = %+v, %v", got, err)
	}
}

// TestProbeCannotAsk: a server that cannot be reached is not one that allows nothing.
func TestProbeCannotAsk(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	wire := &clWire{serve: func(_ int, c *clLines) {
		c.hello()
		cancel()
		c.line()
		c.line()
	}}
	if _, err := hashserv.Probe(ctx, &hashserv.Dialer{DialContext: wire.dial}, "wire"); err == nil {
		t.Error("a server that does not answer was asked")
	}
	wire.all.Wait()
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
	if _, err := hashserv.Probe(t.Context(), &hashserv.Dialer{DialContext: refuse}, "wire"); err == nil {
		t.Error("a server that is away was asked")
	}
}
