package sshd

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"path"

	"github.com/pkg/sftp"

	"github.com/lychgate/lychgate/gateway"
)

// Mostly SFTP clients ask whether something is there. pkg/sftp passes a request through four goroutines before its answer leaves, which
// costs more than the answer itself. So the filter answers STAT and LSTAT, with the same bytes that pkg/sftp would send, whenever pkg/sftp
// has nothing under way: then nothing is overtaken, and answers leave in the order of their requests, as section 7 of the draft has it.

// The answers (draft-ietf-secsh-filexfer-02, sections 5 and 7).
const (
	fxpStatus = 101
	fxpAttrs  = 105

	attrAll = 1 | 2 | 4 | 8 // size, owner and group, permissions, times

	modeFile = 0o100000
	modeDir  = 0o040000
)

// stat answers STAT and LSTAT of a path without detours: there are no links.
func (h *handlers) stat(clean string) (n node, err error) {
	defer h.recovered(&err)
	n, err = h.tree.stat(h.life(), clean)
	if errors.Is(err, gateway.ErrNotFound) {
		if own, ok := h.remembered(clean); ok {
			n, err = own, nil
		}
	}
	return n, statusOf(err)
}

// answerStat appends the answer to a STAT or LSTAT of p. It is false if pkg/sftp shall answer: while something is open, since a slow
// answer would hold up its transfer.
func (h *handlers) answerStat(out, id []byte, p string) ([]byte, bool) {
	h.mu.Lock()
	busy := h.open > 0
	h.mu.Unlock()
	if busy {
		return out, false
	}
	n, err := h.stat(path.Clean("/" + p))
	if err != nil {
		return appendStatus(out, id, err), true
	}
	return appendAttrs(out, id, n), true
}

func appendAttrs(out, id []byte, n node) []byte {
	mode := uint32(modeFile)
	if n.dir {
		mode = modeDir
	}
	at := len(out)
	out = append(append(out, 0, 0, 0, 0, fxpAttrs), id...)
	out = binary.BigEndian.AppendUint32(out, attrAll)
	out = binary.BigEndian.AppendUint64(out, uint64(n.size))
	out = binary.BigEndian.AppendUint32(out, n.Uid())
	out = binary.BigEndian.AppendUint32(out, n.Gid())
	out = binary.BigEndian.AppendUint32(out, mode|uint32(n.Mode()&fs.ModePerm))
	when := uint32(n.time.Unix())
	out = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(out, when), when)
	_ = putLength(out[at:])
	return out
}

func appendStatus(out, id []byte, err error) []byte {
	code := uint32(sftp.ErrSSHFxFailure)
	switch {
	case errors.Is(err, sftp.ErrSSHFxNoSuchFile):
		code = uint32(sftp.ErrSSHFxNoSuchFile)
	case errors.Is(err, sftp.ErrSSHFxPermissionDenied):
		code = uint32(sftp.ErrSSHFxPermissionDenied)
	}
	at := len(out)
	out = append(append(out, 0, 0, 0, 0, fxpStatus), id...)
	out = binary.BigEndian.AppendUint32(out, code)
	out = appendString(appendString(out, err.Error()), "") // in no language
	_ = putLength(out[at:])
	return out
}

// answer answers a packet if it is a STAT or LSTAT and pkg/sftp has nothing under way. The answer leaves with the next flush.
func (f *filter) answer(packet []byte) (answered bool) {
	if kind := packet[4]; kind != fxpStat && kind != fxpLstat || f.stat == nil || f.under.Load() > 0 {
		return false
	}
	p, _, ok := cutString(packet, 9)
	if !ok {
		return false // pkg/sftp ends the session over it
	}
	if _, ok := parsePath(p); !ok {
		p = absentPath
	}
	f.answers, answered = f.stat(f.answers, packet[5:9], p)
	return answered
}

// flush sends the answers that wait.
func (f *filter) flush() error {
	if len(f.answers) == 0 {
		return nil
	}
	f.writing.Lock()
	defer f.writing.Unlock()
	_, err := f.send(f.answers)
	f.answers = f.answers[:0]
	return err
}

// holdsPacket reports whether a whole packet can be read without waiting. Until then answers wait, so that clients which ask much at
// once are answered at once: each write makes an SSH packet.
func (f *filter) holdsPacket() bool {
	held := f.in.Buffered()
	if held < 4 {
		return false
	}
	head, err := f.in.Peek(4)
	return err == nil && uint64(held) >= 4+uint64(binary.BigEndian.Uint32(head))
}
