package sshd_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// Packet types of SFTP version 3 (draft-ietf-secsh-filexfer-02, section 3).
const (
	fxpInit = 1 + iota
	fxpVersion
	fxpOpen
	fxpClose
	fxpRead
	fxpWrite
	fxpLstat
	fxpFstat
	fxpSetstat
	fxpFsetstat
	fxpOpendir
	fxpReaddir
	fxpRemove
	fxpMkdir
	fxpRmdir
	fxpRealpath
	fxpStat
	fxpRename
	fxpReadlink
	fxpSymlink

	fxpStatus        = 101
	fxpHandle        = 102
	fxpData          = 103
	fxpName          = 104
	fxpAttrs         = 105
	fxpExtended      = 200
	fxpExtendedReply = 201

	readFlag, writeFlag, appendFlag, creatFlag, truncFlag, exclFlag = 1, 2, 4, 8, 16, 32
)

// packet builds a packet: numbers of 32 and 64 bits, strings with their lengths, and bytes as they are.
func packet(kind byte, parts ...any) []byte {
	b := []byte{0, 0, 0, 0, kind}
	for _, part := range parts {
		switch v := part.(type) {
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(v))
		case uint64:
			b = binary.BigEndian.AppendUint64(b, v)
		case string:
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
		case []byte:
			b = append(b, v...)
		default:
			panic(fmt.Sprintf("a part of type %T", part))
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// lying gives a packet another length.
func lying(p []byte, length uint32) []byte {
	binary.BigEndian.PutUint32(p, length)
	return p
}

// sftpWire is an SFTP channel that says exactly what it is told.
type sftpWire struct {
	net.Conn
	t testing.TB
}

// dialWire returns a channel of a user, greeted unless raw.
func dialWire(t testing.TB, g *gwtest.Gate, user string, l sshd.Limits, raw bool) *sftpWire {
	t.Helper()
	w := &sftpWire{Conn: serve(t, g, user, l), t: t}
	if err := w.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if !raw {
		if answer := w.ask(packet(fxpInit, 3)); answer[0] != fxpVersion {
			t.Fatalf("INIT is answered with %x", answer)
		}
	}
	return w
}

// say sends bytes while others are read. The gate may hang up before all of them went out.
func (w *sftpWire) say(p []byte) { go func() { _, _ = w.Write(p) }() }

// answer reads one packet, from its type on; nil when the gate hung up.
func (w *sftpWire) answer() []byte {
	w.t.Helper()
	var length [4]byte
	_, err := io.ReadFull(w.Conn, length[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatal("the gate neither answered nor hung up")
	}
	if err != nil {
		return nil
	}
	p := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(w.Conn, p); err != nil {
		return nil
	}
	return p
}

// ask sends one packet and returns the answer.
func (w *sftpWire) ask(p []byte) []byte {
	w.t.Helper()
	w.say(p)
	return w.answer()
}

// handle asks for what is answered with a handle.
func (w *sftpWire) handle(p []byte) string {
	w.t.Helper()
	a := w.ask(p)
	if len(a) < 9 || a[0] != fxpHandle {
		w.t.Fatalf("no handle but %q", a)
	}
	return string(a[9:])
}

// summary prints an answer: the code of a status, else the type.
func summary(a []byte) string {
	switch {
	case a == nil:
		return "closed"
	case a[0] == fxpStatus:
		return strconv.Itoa(int(binary.BigEndian.Uint32(a[5:])))
	case a[0] == fxpData:
		return fmt.Sprintf("data(%d)", binary.BigEndian.Uint32(a[5:]))
	}
	names := map[byte]string{fxpVersion: "version", fxpHandle: "handle", fxpName: "name", fxpAttrs: "attrs", fxpExtendedReply: "extended"}
	return names[a[0]]
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

func unescape(t testing.TB, text string) string {
	return regexp.MustCompile(`\\x[0-9a-f]{2}`).ReplaceAllStringFunc(text, func(e string) string {
		c, err := strconv.ParseUint(e[2:], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		return string([]byte{byte(c)})
	})
}

// publishGood publishes every name of good.txt and returns the content of each.
func publishGood(t testing.TB, g *gwtest.Gate) map[string]string {
	t.Helper()
	content := map[string]string{}
	var list []gwtest.Object
	for _, line := range corpus(t, "good.txt") {
		ref, err := artifact.Parse(artifact.Zone{Name: "main"}, line.path)
		if err != nil {
			t.Fatal(err)
		}
		o := gwtest.Object{Name: ref.Name(), Content: []byte("the bytes of " + ref.Name())}
		if ref.Part == artifact.Siginfo {
			o.Content = gwtest.Siginfo(ref.Task)
		}
		if _, twice := content[o.Name]; !twice {
			list = append(list, o)
		}
		content[o.Name] = string(o.Content)
	}
	g.Publish(list, privateSource)
	return content
}
