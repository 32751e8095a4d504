package sshd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/gateway/sshd"
)

// recorded is a channel whose client said everything before it was listened to.
type recorded struct {
	io.Reader
	answers bytes.Buffer
}

func (r *recorded) Write(p []byte) (int, error) { return r.answers.Write(p) }
func (r *recorded) Close() error                { return nil }

// split takes packets apart. It fails at the first whose length cannot be.
func split(t *testing.T, all []byte) (packets [][]byte) {
	t.Helper()
	for len(all) > 0 {
		if len(all) < 4 {
			return append(packets, all) // cut off in the length
		}
		n := binary.BigEndian.Uint32(all)
		if n < 1 || n > 256<<10 {
			t.Fatalf("a packet of length %d came through", n)
		}
		end := min(len(all), 4+int(n))
		packets, all = append(packets, all[:end]), all[end:]
	}
	return packets
}

// FuzzFilter: whatever a client says, what comes through the filter is packets of lengths that may be, the first and no other INIT,
// whose paths the tree can take; and what does not come through is answered once for each packet that asked for the limits.
func FuzzFilter(f *testing.F) {
	for _, row := range hostilePackets("1", "2") {
		f.Add(append(packet(fxpInit, 3), row.say...), 7)
	}
	f.Add(packet(fxpStat, 1, "/"), 1)
	f.Add(append(packet(fxpInit, 3), packet(fxpWrite, 1, "1", uint64(0), strings.Repeat("x", 10000))...), 4096)
	f.Fuzz(func(t *testing.T, said []byte, step int) {
		channel := &recorded{Reader: bytes.NewReader(said)}
		var end error
		filter := sshd.NewFilter(channel, sshd.Limits{OpenHandles: 9, ProgressWindow: time.Minute}, func(err error) { end = errors.Join(end, err) })
		if _, err := filter.Write(packet(fxpVersion, 3)); err != nil {
			t.Fatal(err)
		}
		greeting := channel.answers.Len()
		through, err := io.ReadAll(&stepped{filter, 1 + step&0xffff})
		if err == nil && !errors.Is(end, io.EOF) || err != nil && !errors.Is(end, err) {
			t.Errorf("ended with %v, but says %v", err, end)
		}
		asked := 0
		for i, p := range split(t, through) {
			if len(p) > 4 && (i == 0) != (p[4] == fxpInit) {
				t.Errorf("packet %d is of type %d", i, p[4])
			}
			checkPath(t, p)
		}
		for rest := said; len(rest) > 4; {
			n := min(uint64(len(rest)), 4+uint64(binary.BigEndian.Uint32(rest)))
			if rest[4] == fxpExtended && n >= 13+18 && string(rest[13:13+18]) == "limits@openssh.com" {
				asked++
			}
			rest = rest[n:]
		}
		if answers := channel.answers.Len() - greeting; answers%41 != 0 || answers/41 > asked {
			t.Errorf("%d bytes of answers to %d questions", answers, asked)
		}
	})
}

// stepped reads a few bytes at a time.
type stepped struct {
	io.Reader
	n int
}

func (s *stepped) Read(p []byte) (int, error) { return s.Reader.Read(p[:min(len(p), s.n)]) }

// checkPath demands that the path of a whole packet is one, or the one that is none.
func checkPath(t *testing.T, p []byte) {
	t.Helper()
	if len(p) < 13 || !bytes.Contains([]byte{fxpOpen, fxpLstat, fxpSetstat, fxpOpendir, fxpRemove, fxpMkdir, fxpRmdir, fxpStat, fxpReadlink}, p[4:5]) {
		return
	}
	n := uint64(binary.BigEndian.Uint32(p[9:]))
	if 13+n > uint64(len(p)) {
		return // pkg/sftp ends the session over it
	}
	path := string(p[13 : 13+n])
	if _, _, ok := sshd.ParsePath(path); !ok && path != "/%" {
		t.Errorf("the path %q came through", path)
	}
}

// FuzzSFTPPath: what a path is parsed to holds nothing but visible ASCII and no percent sign, never leads above the root, and is
// printed as a path that is parsed to the same. An object is found under one path alone.
func FuzzSFTPPath(f *testing.F) {
	for _, file := range []string{"good.txt", "hostile.txt"} {
		for _, row := range corpus(f, file) {
			f.Add("/main/" + row.path)
		}
	}
	for _, path := range []string{"", "/", "//", ".", "..", "/main", "main/", "/main/../..", "/./main", "\x00", "/%"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		zone, rest, ok := sshd.ParsePath(path)
		if !ok {
			return
		}
		printed := "/" + strings.TrimSuffix(zone+"/"+rest, "/")
		if strings.ContainsFunc(printed, func(r rune) bool { return r < 0x21 || r > 0x7e || r == '%' }) || len(path) > 2048 {
			t.Errorf("%q is %q", path, printed)
		}
		for segment := range strings.SplitSeq(printed[1:], "/") {
			if segment == "." || segment == ".." || segment == "" && printed != "/" {
				t.Errorf("%q is %q", path, printed)
			}
		}
		if z, r, ok := sshd.ParsePath(printed); !ok || z != zone || r != rest {
			t.Errorf("%q is %q is %q %q", path, printed, z, r)
		}
		if _, err := artifact.ParseName(artifact.Zone{Name: zone}, rest); err == nil && path != printed && path != printed[1:] {
			t.Errorf("%q names %q", path, printed)
		}
	})
}
