package httpd_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lychgate/lychgate/gateway/httpd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// frames is an HTTP/2 connection (RFC 9113) whose frames a test writes itself.
type frames struct {
	*http2.Framer
	wire  *wire
	block bytes.Buffer
	enc   *hpack.Encoder
	auth  string
}

func dialFrames(t testing.TB, g *gwtest.Gate, u *gwtest.User) *frames {
	t.Helper()
	f := &frames{wire: dial(t, g, "h2"), auth: "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+u.Token))}
	f.Framer = http2.NewFramer(f.wire.Conn, f.wire.r)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.AllowIllegalWrites = true
	f.enc = hpack.NewEncoder(&f.block)
	f.wire.say(http2.ClientPreface)
	_ = f.WriteSettings()
	return f
}

// fields encodes header fields, given as names and values.
func (f *frames) fields(list ...string) []byte {
	f.block.Reset()
	for i := 0; i+1 < len(list); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: list[i], Value: list[i+1]})
	}
	return bytes.Clone(f.block.Bytes())
}

// ask opens a stream with these fields and nothing else.
func (f *frames) ask(stream uint32, list ...string) {
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.fields(list...), EndStream: true, EndHeaders: true})
}

// request is ask for a well-formed request.
func (f *frames) request(stream uint32, method, path string, more ...string) {
	f.ask(stream, append([]string{":method", method, ":scheme", "https", ":authority", "gate", ":path", path, "authorization", f.auth}, more...)...)
}

// outcome waits for what became of a stream: its status, "reset", or "gone" when the connection ended.
func (f *frames) outcome(stream uint32) string {
	f.wire.t.Helper()
	for {
		frame, err := f.ReadFrame()
		var streamFault http2.StreamError
		if errors.As(err, &streamFault) {
			continue
		}
		if err != nil {
			f.wire.notTimeout(err)
			return "gone"
		}
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				return "gone"
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				return "reset"
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamID == stream {
				return frame.PseudoValue("status")
			}
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		}
	}
}

// TestHostileHTTP2 sends requests that only HTTP/2 can express. After each whose connection lives, an ordinary one must be
// answered.
func TestHostileHTTP2(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: impatient})
	g.Publish([]gwtest.Object{gwtest.NewObject("hello", "populate_sysroot")}, privateSource)
	before := len(g.Upstream.Names())
	pseudo := func(method, path string) []string {
		return []string{":method", method, ":scheme", "https", ":authority", "gate", ":path", path}
	}
	for _, row := range []struct {
		name   string
		fields []string // the authorization is added
		want   string
	}{
		{"dots", pseudo("GET", "/sstate/main/../main/x"), "404"},
		{"encoded dots", pseudo("GET", mount+"%2e%2e/x"), "404"},
		{"encoded slash", pseudo("GET", strings.Replace(hello, "universal/", "universal%2f", 1)), "404"},
		{"no leading slash", pseudo("GET", hello[1:]), "reset"},
		{"absolute path", pseudo("GET", "https://gate"+hello), "400"},
		{"empty path", pseudo("GET", ""), "reset"},
		{"asterisk", pseudo("GET", "*"), "400"},
		{"asterisk of OPTIONS", pseudo("OPTIONS", "*"), "400"},
		{"fragment", pseudo("GET", hello+"#x"), "400"},
		{"query", pseudo("GET", hello+"?x"), "404"},
		{"space", pseudo("GET", hello+" x"), "400"},
		{"request line in the path", pseudo("GET", hello+" HTTP/1.1\r\nHost: x\r\n\r\n"), "reset"},
		{"NUL in the path", pseudo("GET", hello+"\x00"), "reset"},
		{"non-ASCII", pseudo("GET", hello+"\xc3\xa9"), "400"},
		{"no path", []string{":method", "GET", ":scheme", "https", ":authority", "gate"}, "reset"},
		{"no method", []string{":scheme", "https", ":authority", "gate", ":path", hello}, "reset"},
		{"no scheme", []string{":method", "GET", ":authority", "gate", ":path", hello}, "reset"},
		{"scheme of a file", []string{":method", "GET", ":scheme", "file", ":authority", "gate", ":path", hello}, "reset"},
		{"two paths", append(pseudo("GET", "/v1/whoami"), ":path", hello), "reset"},
		{"two methods", append(pseudo("GET", hello), ":method", "PUT"), "reset"},
		{"unknown pseudo-header", append(pseudo("GET", hello), ":user", "alice"), "reset"},
		{"response pseudo-header", append(pseudo("GET", hello), ":status", "200"), "reset"},
		{"pseudo-header behind a header", append([]string{"x", "y"}, pseudo("GET", hello)...), "reset"},
		{"protocol of CONNECT", append(pseudo("CONNECT", hello), ":protocol", "websocket"), "reset"},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "169.254.169.254:80"}, "400"},
		{"upper-case header", append(pseudo("GET", hello), "X-User", "alice"), "reset"},
		{"connection header", append(pseudo("GET", hello), "connection", "close"), "400"},
		{"upgrade header", append(pseudo("GET", hello), "upgrade", "h2c"), "400"},
		{"chunks", append(pseudo("GET", hello), "transfer-encoding", "chunked"), "400"},
		{"trailers of chunks", append(pseudo("GET", hello), "te", "chunked"), "400"},
		{"line end in a header", append(pseudo("GET", hello), "x", "a\r\nauthorization: Basic x"), "reset"},
		{"a length without a body", append(pseudo("GET", "/x"), "content-length", "5"), "404"},
		{"another authority", append(pseudo("GET", "/x"), "host", "elsewhere"), "404"},
		{"method override", append(pseudo("POST", hello), "x-http-method-override", "GET"), "405"},
		{"forwarded", append(pseudo("GET", "/x"), "x-original-url", hello, "x-forwarded-user", "alice"), "404"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := dialFrames(t, g, g.As("alice"))
			f.ask(1, append(row.fields, "authorization", f.auth)...)
			if got := f.outcome(1); got != row.want {
				t.Errorf("%q, want %q", got, row.want)
			}
			f.request(3, "GET", "/v1/whoami")
			if got := f.outcome(3); got != "200" {
				t.Errorf("afterwards: %q", got)
			}
		})
	}
	t.Cleanup(func() {
		if names := g.Upstream.Names()[before:]; len(names) > 0 {
			t.Errorf("reached the upstream: %q", names)
		}
	})
}

// TestHTTP2Body: a body on a read is refused before the name is looked at.
func TestHTTP2Body(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: impatient})
	g.Publish([]gwtest.Object{gwtest.NewObject("hello", "populate_sysroot")}, publicSource)
	f := dialFrames(t, g, g.As("bob"))
	block := f.fields(":method", "GET", ":scheme", "https", ":authority", "gate", ":path", hello, "authorization", f.auth)
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
	_ = f.WriteData(1, true, []byte("hello"))
	if got := f.outcome(1); got != "400" {
		t.Errorf("%q, want 400", got)
	}
}

// TestHTTP2Floods: what can only be meant to harm ends its connection; what is merely useless is worked off. Neither disturbs
// anybody else.
func TestHTTP2Floods(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: httpd.Limits{Streams: 10}})
	g.Publish([]gwtest.Object{gwtest.NewObject("hello", "populate_sysroot")}, publicSource)
	for _, row := range []struct {
		name  string
		times int
		want  string
		flood func(f *frames, i uint32) error
	}{
		{"continuations", 10_000, "gone", func(f *frames, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.fields(":method", "GET")})
			}
			return f.WriteContinuation(1, false, f.fields("x", strings.Repeat("y", 4096)))
		}},
		{"rapid resets", 10_000, "gone", func(f *frames, i uint32) error {
			f.request(2*i+1, "GET", hello)
			return f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		}},
		{"window updates", 10_000, "gone", func(f *frames, _ uint32) error { return f.WriteWindowUpdate(0, 1<<30) }},
		{"data on no stream", 1, "gone", func(f *frames, _ uint32) error { return f.WriteData(7, false, []byte("x")) }},
		{"large frame", 1, "gone", func(f *frames, _ uint32) error { return f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 2<<20)) }},
		{"header bomb", 1, "431", func(f *frames, _ uint32) error {
			var list []string
			for range 5000 { // each is one byte, from the table
				list = append(list, "x", strings.Repeat("y", 500))
			}
			f.request(1<<20+1, "GET", "/v1/whoami", list...)
			return nil
		}},
		{"table turnover", 2000, "200", func(f *frames, i uint32) error {
			f.request(2*i+1, "HEAD", hello, "x", strings.Repeat("y", 4000), "z", fmt.Sprint(i))
			f.outcome(2*i + 1)
			return nil
		}},
		{"settings", 1000, "200", func(f *frames, _ uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16})
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := dialFrames(t, g, g.As("bob"))
			var err error
			for i := 0; i < row.times && err == nil; i++ {
				err = row.flood(f, uint32(i))
			}
			if row.want == "200" {
				f.request(1<<20+1, "GET", "/v1/whoami")
			}
			if got := f.outcome(1<<20 + 1); got != row.want {
				t.Errorf("%q, want %q", got, row.want)
			}
			if res := g.As("alice").Get(hello); res.StatusCode != 200 {
				t.Errorf("meanwhile, for somebody else: %d", res.StatusCode)
			}
		})
	}
}

// TestHTTP2Streams: a connection has as many streams as the limit says, and each is answered.
func TestHTTP2Streams(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: httpd.Limits{Streams: 10}})
	o := gwtest.Object{Name: gwtest.NewObject("hello", "package").Name, Content: noise(4, 1<<20)}
	g.Publish([]gwtest.Object{o}, publicSource)
	f := dialFrames(t, g, g.As("bob"))
	for stream := uint32(1); stream <= 25; stream += 2 { // thirteen, and nobody reads their bodies
		f.request(stream, "GET", mount+o.Name)
	}
	got := map[string]int{}
	for range 13 {
		got[f.next()]++
	}
	if got["200"] != 10 || got["reset"] != 3 {
		t.Errorf("%v, want 10 answers and 3 refusals", got)
	}
}

// next waits for the next status or reset of any stream.
func (f *frames) next() string {
	f.wire.t.Helper()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			f.wire.notTimeout(err)
			return "gone"
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		}
	}
}
