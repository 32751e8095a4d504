package sshd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/lychgate/lychgate/gateway"
)

// The scp protocol, as old clients and `scp -O` speak it (OpenSSH's scp.c): the side that sends, `scp -f`, writes a line and waits
// for a byte, 0 for go on.
//
//	T<mtime> 0 <atime> 0     times of what follows, with -p
//	C<mode> <size> <name>    a file: its bytes follow, then a 0
//	D<mode> 0 <name>         a directory: its entries follow, then E
//	E
//	\1<text>                 a warning
const (
	maxScpDepth = 16   // of directories; no name in a zone is as deep
	maxScpLine  = 1024 // of what the client says is wrong
)

// scpSource sends files to a client.
type scpSource struct {
	call      *call
	tree      *tree
	in        *bufio.Reader
	recursive bool // -r
	times     bool // -p
	isFaulty  bool // something was not sent
}

var (
	// errOutOfStep ends a transfer: the client wants no more, or does not speak the protocol.
	errOutOfStep = errors.New("the scp client does not go on")
	// errSkip says that the client does not take a file or a directory; it may take the next one.
	errSkip = errors.New("the scp client refuses a file")
)

// scp sends what the client asks for.
func scp(ctx context.Context, c *call) uint32 {
	s := &scpSource{call: c, tree: c.channel.tree(), in: bufio.NewReaderSize(c.channel.pacedInput(0), maxScpLine)}
	paths, problem := s.options(c.args)
	if problem != "" {
		_, _ = fmt.Fprintf(c.out, "\x01scp: %s\n", problem)
		return exitFailed
	}
	if err := s.acknowledged(); err != nil {
		return exitFailed
	}
	for _, p := range paths {
		if err := s.send(ctx, p); err != nil {
			return exitFailed
		}
	}
	if s.isFaulty {
		return exitFailed
	}
	return exitOK
}

// options reads the flags, which clients send one by one.
func (s *scpSource) options(args []string) (paths []string, problem string) {
	source := false
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "-" {
		flags := args[0][1:]
		args = args[1:]
		if flags == "-" {
			break
		}
		for _, f := range flags {
			switch f {
			case 'f':
				source = true
			case 'r':
				s.recursive = true
			case 'p':
				s.times = true
			case 'd', 'v', 'q':
			case 't':
				return nil, "this way only leads out: upload with sftp, or scp without -O"
			default:
				return nil, "unknown option"
			}
		}
	}
	if !source || len(args) == 0 {
		return nil, "only scp -f PATH is understood"
	}
	return args, ""
}

// send sends a file or a directory that was asked for. What there is not is a warning.
func (s *scpSource) send(ctx context.Context, name string) error {
	n, err := s.tree.stat(ctx, name)
	switch {
	case err != nil:
		return s.warn(name, err)
	case n.dir && !s.recursive:
		return s.warning(name, "not a regular file")
	case n.dir:
		return s.directory(ctx, name, n, 0)
	}
	return s.file(ctx, name, n)
}

// skipped makes nothing of what only the client did not take.
func skipped(err error) error {
	if errors.Is(err, errSkip) {
		return nil
	}
	return err
}

// file sends one file: what it is, its bytes, and that they were right.
func (s *scpSource) file(ctx context.Context, name string, n node) error {
	content, err := s.tree.open(ctx, name)
	if err != nil {
		return s.warn(name, err)
	}
	if err := s.announce(n, fmt.Sprintf("C0644 %d %s\n", content.Size, scpName(name))); err != nil {
		content.Close(http.StatusNoContent, "")
		return skipped(err)
	}
	if err := content.Copy(ctx, s.call.out, 0, content.Size); err != nil {
		content.Close(http.StatusServiceUnavailable, "")
		s.call.complain("the transfer broke off")
		return err
	}
	content.Close(http.StatusOK, "")
	return skipped(s.say("\x00"))
}

// directory sends a directory and what it shows to the asker.
func (s *scpSource) directory(ctx context.Context, name string, n node, depth int) error {
	base := scpName(name)
	if base == "/" || depth > maxScpDepth {
		return s.warning(name, "name a directory in a zone")
	}
	entries, err := s.tree.readDir(ctx, name)
	if err != nil {
		return s.warn(name, err)
	}
	if err := s.announce(n, fmt.Sprintf("D0755 0 %s\n", base)); err != nil {
		return skipped(err)
	}
	for _, e := range entries {
		inner := path.Join(name, e.name)
		if e.dir {
			err = s.directory(ctx, inner, e, depth+1)
		} else {
			err = s.file(ctx, inner, e)
		}
		if err != nil {
			return err
		}
	}
	return skipped(s.say("E\n"))
}

// scpName is what a path is called at the other end.
func scpName(name string) string { return clean(path.Base(path.Clean("/" + name))) }

// announce sends the line of a file or directory, after that of its times if they were asked for.
func (s *scpSource) announce(n node, line string) error {
	if s.times {
		mtime := max(n.time.Unix(), 0)
		if err := s.say(fmt.Sprintf("T%d 0 %d 0\n", mtime, mtime)); err != nil {
			return err
		}
	}
	return s.say(line)
}

// say writes and waits until the client says to go on.
func (s *scpSource) say(text string) error {
	if _, err := io.WriteString(s.call.out, text); err != nil {
		return err
	}
	return s.acknowledged()
}

// acknowledged reads the client's answer: 0, or 1 or 2 and what is wrong, which its user has been told.
func (s *scpSource) acknowledged() error {
	answer, err := s.in.ReadByte()
	switch {
	case err != nil:
		return err
	case answer == 0:
		return nil
	}
	s.isFaulty = true
	if _, err := s.in.ReadSlice('\n'); err != nil || answer != 1 {
		return errOutOfStep
	}
	return errSkip
}

// warn reports what could not be sent, in words that do not tell denied from absent.
func (s *scpSource) warn(name string, err error) error {
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return s.warning(name, "No such file or directory")
	case errors.Is(err, gateway.ErrUnauthenticated):
		return s.warning(name, "Permission denied")
	}
	s.call.channel.conn.server.log.Error("command not served", "command", "scp", "error", err)
	return s.warning(name, "the gate cannot answer now; try again")
}

func (s *scpSource) warning(name, text string) error {
	s.isFaulty = true
	_, err := fmt.Fprintf(s.call.out, "\x01scp: %s: %s\n", clean(name), text)
	return err
}
