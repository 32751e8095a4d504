package httpd_test

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway/httpd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

const (
	publicSource  = "git://git.example.com/public/hello.git;protocol=https"
	privateSource = "git://git.example.com/team/secret.git;protocol=ssh"

	mount = "/sstate/main/"
	// patience bounds every wait for something that must happen. Nothing depends on how long it takes.
	patience = 60 * time.Second
)

// impatient limits let a test see what happens to a client that does not move.
var impatient = httpd.Limits{HeaderTimeout: time.Second, IdleTimeout: time.Second, ProgressWindow: time.Second, ProgressBytes: 1 << 10}

// wire is a TLS connection that says exactly what it is told.
type wire struct {
	*tls.Conn
	t testing.TB
	r *bufio.Reader
}

func dial(t testing.TB, g *gwtest.Gate, protocols ...string) *wire {
	t.Helper()
	conn, err := tls.Dial("tcp", g.Addr, &tls.Config{RootCAs: g.CA.Pool(), NextProtos: protocols})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &wire{Conn: conn, t: t, r: bufio.NewReader(conn)}
}

// say sends text. The server may have hung up before all of it went out; what it answered is still to be read.
func (w *wire) say(text string) { _, _ = io.WriteString(w.Conn, text) }

// response reads one answer with its body. It returns nil when the server hung up instead.
func (w *wire) response(method string) (*http.Response, []byte) {
	w.t.Helper()
	res, err := http.ReadResponse(w.r, &http.Request{Method: method})
	if err != nil {
		w.notTimeout(err)
		return nil, nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	w.notTimeout(err)
	return res, body
}

// rest reads until the server hangs up.
func (w *wire) rest() string {
	w.t.Helper()
	text, err := io.ReadAll(w.r)
	w.notTimeout(err)
	return string(text)
}

func (w *wire) notTimeout(err error) {
	w.t.Helper()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Errorf("the server neither answered nor hung up")
	}
}

// exchange sends text on a new connection and returns all that comes until the server hangs up.
func exchange(t testing.TB, g *gwtest.Gate, text string) string {
	t.Helper()
	w := dial(t, g)
	defer w.Close()
	w.say(text)
	return w.rest()
}

// basic is the header line of a user.
func basic(u *gwtest.User) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+u.Token)) + "\r\n"
}

// request is the text of a request that ends its connection. lines are whole header lines.
func request(method, target string, lines ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n" + strings.Join(lines, "") + "\r\n"
}

var dateLine = regexp.MustCompile(`(?m)^Date: .*\r$`)

// undated takes the Date's value out of an answer.
func undated(t testing.TB, answer string) string {
	t.Helper()
	if n := len(dateLine.FindAllString(answer, -1)); n != 1 {
		t.Errorf("%d Date lines in %q", n, answer)
	}
	return dateLine.ReplaceAllString(answer, "Date: -\r")
}

// statuses lists the status codes of a sequence of answers. Bodies of the gate's own never hold a status line.
func statuses(answers string) string {
	var list []string
	for _, m := range regexp.MustCompile(`HTTP/1\.[01] (\d{3}) `).FindAllStringSubmatch(answers, -1) {
		list = append(list, m[1])
	}
	return strings.Join(list, " ")
}

// namedPath is a line of artifact/testdata: hostile.txt says the form.
type namedPath struct{ category, path string }

func corpus(t testing.TB, file string) []namedPath {
	t.Helper()
	text, err := os.ReadFile("../../authz/artifact/testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var lines []namedPath
	for line := range strings.Lines(string(text)) {
		if category, escaped, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok && !strings.HasPrefix(line, "#") {
			lines = append(lines, namedPath{category, unescape(t, escaped)})
		}
	}
	return lines
}

var escape = regexp.MustCompile(`\\x[0-9a-f]{2}`)

func unescape(t testing.TB, text string) string {
	return escape.ReplaceAllStringFunc(text, func(e string) string {
		c, err := strconv.ParseUint(e[2:], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		return string([]byte{byte(c)})
	})
}

// publishGood publishes every name of good.txt and returns the content of each path.
func publishGood(t testing.TB, g *gwtest.Gate, source string) map[string]string {
	t.Helper()
	content := map[string]string{}
	objects := map[string]gwtest.Object{}
	for _, line := range corpus(t, "good.txt") {
		ref, err := artifact.Parse(artifact.Zone{Name: "main"}, line.path)
		if err != nil {
			t.Fatal(err)
		}
		o := gwtest.Object{Name: ref.Name(), Content: []byte("the bytes of " + ref.Name())}
		if ref.Part == artifact.Siginfo {
			o.Content = gwtest.Siginfo(ref.Task)
		}
		objects[o.Name], content[line.path] = o, string(o.Content)
	}
	var list []gwtest.Object
	for _, o := range objects {
		list = append(list, o)
	}
	g.Publish(list, source)
	return content
}

// eventually waits until ok reports true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
