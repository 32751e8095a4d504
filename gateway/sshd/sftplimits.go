package sshd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// The packets of SFTP version 3 (draft-ietf-secsh-filexfer-02, section 3) that the filter looks at. A packet is its length, which
// counts what follows; its type; for all but INIT and VERSION an id; and the rest.
const (
	fxpInit          = 1
	fxpVersion       = 2
	fxpOpen          = 3
	fxpClose         = 4
	fxpRead          = 5
	fxpWrite         = 6
	fxpLstat         = 7
	fxpFstat         = 8
	fxpSetstat       = 9
	fxpFsetstat      = 10
	fxpOpendir       = 11
	fxpReaddir       = 12
	fxpRemove        = 13
	fxpMkdir         = 14
	fxpRmdir         = 15
	fxpStat          = 17
	fxpReadlink      = 19
	fxpExtended      = 200
	fxpExtendedReply = 201

	sftpVersion = 3
)

const (
	// maxPacket is the longest packet either side sends; OpenSSH's own server takes as much.
	maxPacket = 256 << 10
	// maxPayload is how much one READ returns and one WRITE brings at most: OpenSSH takes the rest for headers.
	maxPayload = 255 << 10
	// maxLooked is the longest packet that holds paths or attributes.
	maxLooked = 32 << 10
	// maxHead is more than what pkg/sftp writes of a packet before its payload.
	maxHead = 64
	// writePiece is how much the client must take while one ProgressWindow lasts. It is what OpenSSH takes in one SSH packet.
	writePiece = 32 << 10

	// limitsName is OpenSSH's extension (its PROTOCOL, section 4.8): the client asks how long packets may be.
	limitsName = "limits@openssh.com"

	// absentPath names nothing in the tree; it takes the place of paths that pkg/sftp would tidy up into names.
	absentPath = "/%"
)

var (
	errPacketLength = errors.New("a packet whose length is 0 or more than what it may be")
	errNoInit       = errors.New("the client did not begin with INIT of version 3 or higher, or said it twice")
	errStalled      = errors.New("the client takes nothing")
)

// filter stands between a channel and pkg/sftp, which reads and writes it. It lets only packets of bounded length through, in which a
// path is one the tree can take, and it answers limits@openssh.com, which pkg/sftp does not know, and most STATs, which it is slow at.
type filter struct {
	channel io.ReadWriteCloser
	handles uint64        // how many the client is told it may have open
	window  time.Duration // in which the client must take a piece
	ended   func(error)   // called when nothing more will come, and when the client takes nothing
	// stat appends the answer to a STAT with an id, or leaves it to pkg/sftp; nil leaves it all.
	stat func(out, id []byte, path string) (answer []byte, ok bool)

	in      *bufio.Reader
	begun   bool   // INIT was read
	left    int    // bytes of the packet under way that go by unseen
	ready   []byte // bytes of a packet that was looked at
	answers []byte // that are not sent yet

	under atomic.Int64 // requests that pkg/sftp was given and has not answered: each gets one answer

	writing  sync.Mutex // held from the first byte of a packet to its last, by whoever writes it; at the beginning, by VERSION
	greeted  bool
	unsent   int    // bytes of the packet under way that pkg/sftp is still to write
	head     []byte // of it, not sent yet
	watchdog *time.Timer
}

func newFilter(channel io.ReadWriteCloser, l Limits, ended func(error)) *filter {
	f := &filter{channel: channel, handles: uint64(l.OpenHandles), window: l.ProgressWindow, ended: ended, in: bufio.NewReader(channel)}
	f.watchdog = time.AfterFunc(time.Hour, func() { ended(errStalled) })
	f.watchdog.Stop()
	f.writing.Lock()
	return f
}

// Read gives pkg/sftp the client's packets.
func (f *filter) Read(p []byte) (int, error) {
	for len(f.ready) == 0 && f.left == 0 {
		if err := f.next(); err != nil {
			f.ended(err)
			return 0, err
		}
	}
	if len(f.ready) > 0 {
		n := copy(p, f.ready)
		f.ready = f.ready[n:]
		return n, nil
	}
	n, err := f.in.Read(p[:min(len(p), f.left)])
	f.left -= n
	if err != nil {
		f.ended(err)
	}
	return n, err
}

// next looks at the head of a packet. What has no path goes by; the rest is looked through.
func (f *filter) next() error {
	if !f.holdsPacket() {
		if err := f.flush(); err != nil {
			return err
		}
	}
	head, err := f.in.Peek(5)
	if err != nil {
		if len(head) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	length := binary.BigEndian.Uint32(head)
	if length < 1 || length > maxPacket {
		return errPacketLength
	}
	kind := head[4]
	if f.begun == (kind == fxpInit) {
		return errNoInit
	}
	switch kind {
	case fxpClose, fxpRead, fxpWrite, fxpFstat, fxpFsetstat, fxpReaddir:
		f.left = 4 + int(length)
		f.under.Add(1)
		return f.flush()
	}
	if length > maxLooked {
		return errPacketLength
	}
	packet := make([]byte, 4+length)
	if _, err := io.ReadFull(f.in, packet); err != nil {
		return err
	}
	if f.answer(packet) {
		return nil
	}
	if err := f.flush(); err != nil {
		return err
	}
	if f.ready, err = f.look(packet); len(f.ready) > 0 {
		f.under.Add(1)
	}
	return err
}

// look returns what pkg/sftp shall see of a packet, if anything.
func (f *filter) look(packet []byte) ([]byte, error) {
	switch packet[4] {
	case fxpInit:
		if len(packet) < 9 || binary.BigEndian.Uint32(packet[5:]) < sftpVersion {
			return nil, errNoInit
		}
		f.begun = true
		return packet[:9:9], putLength(packet[:9]) // pkg/sftp has no use for the client's extensions
	case fxpOpen, fxpLstat, fxpSetstat, fxpOpendir, fxpRemove, fxpMkdir, fxpRmdir, fxpStat, fxpReadlink:
		return tidy(packet), nil
	case fxpExtended:
		if name, _, ok := cutString(packet, 9); ok && name == limitsName {
			return nil, f.answerLimits(packet[5:9])
		}
	}
	return packet, nil
}

// putLength makes a packet's length field true.
func putLength(packet []byte) error {
	binary.BigEndian.PutUint32(packet, uint32(len(packet)-4))
	return nil
}

// cutString reads the string at an offset of a packet and returns the offset behind it.
func cutString(packet []byte, at int) (s string, end int, ok bool) {
	if len(packet) < at+4 {
		return "", 0, false
	}
	n := binary.BigEndian.Uint32(packet[at:])
	if uint64(n) > uint64(len(packet)-at-4) {
		return "", 0, false
	}
	end = at + 4 + int(n)
	return string(packet[at+4 : end]), end, true
}

// tidy returns the packet with a path that the tree can take: pkg/sftp resolves detours before it asks, so that one to an object
// would be found. A packet that cannot be read goes on as it is; pkg/sftp ends the session over it.
func tidy(packet []byte) []byte {
	p, end, ok := cutString(packet, 9)
	if !ok {
		return packet
	}
	if _, ok := parsePath(p); ok {
		return packet
	}
	out := make([]byte, 0, 9+4+len(absentPath)+len(packet)-end)
	out = append(out, packet[:9]...)
	out = appendString(out, absentPath)
	out = append(out, packet[end:]...)
	_ = putLength(out)
	return out
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// answerLimits tells the lengths in bytes of packets, of what a READ returns and of what a WRITE brings, and the number of handles.
func (f *filter) answerLimits(id []byte) error {
	out := append([]byte{0, 0, 0, 0, fxpExtendedReply}, id...)
	for _, n := range []uint64{maxPacket, maxPayload, maxPayload, f.handles} {
		out = binary.BigEndian.AppendUint64(out, n)
	}
	_ = putLength(out)
	f.writing.Lock()
	defer f.writing.Unlock()
	_, err := f.send(out)
	return err
}

// version is what the gate answers to INIT. pkg/sftp would announce extensions that change things.
func version() []byte {
	out := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0, fxpVersion}, sftpVersion)
	out = appendString(appendString(out, limitsName), "1")
	_ = putLength(out)
	return out
}

// Write takes a packet, or its beginning or its rest, from pkg/sftp, which writes heads alone. They wait here for what they are of:
// each write makes an SSH packet.
func (f *filter) Write(p []byte) (int, error) {
	if !f.greeted {
		f.greeted = true
		defer f.writing.Unlock()
		if len(p) < 5 || p[4] != fxpVersion {
			return 0, fmt.Errorf("pkg/sftp answers INIT with %.9x", p)
		}
		f.under.Add(-1)
		_, err := f.send(version())
		return len(p), err
	}
	if f.unsent == 0 {
		if len(p) < 4 {
			return 0, io.ErrShortWrite
		}
		f.writing.Lock()
		f.unsent = 4 + int(binary.BigEndian.Uint32(p))
	}
	f.unsent -= len(p)
	if f.unsent > 0 && len(p) <= maxHead {
		f.head = append(f.head, p...)
		return len(p), nil
	}
	if f.unsent <= 0 {
		// Before the last of it leaves, or a client that has read it could be ahead of us. What the filter answers from now on
		// waits for writing, so it overtakes nothing.
		f.under.Add(-1)
	}
	err := f.sendBehindHead(p)
	if f.unsent <= 0 || err != nil {
		f.unsent = 0
		f.writing.Unlock()
	}
	return len(p), err
}

// sendBehindHead sends the head that waits, if any, and p.
func (f *filter) sendBehindHead(p []byte) error {
	if len(f.head) > 0 {
		n := min(len(p), writePiece-len(f.head))
		f.head = append(f.head, p[:n]...)
		_, err := f.send(f.head)
		if f.head = f.head[:0]; err != nil {
			return err
		}
		p = p[n:]
	}
	_, err := f.send(p)
	return err
}

// send writes to the channel, which waits for the client, for a window at most at each piece.
func (f *filter) send(p []byte) (sent int, err error) {
	for sent < len(p) && err == nil {
		f.watchdog.Reset(f.window)
		var n int
		n, err = f.channel.Write(p[sent:min(len(p), sent+writePiece)])
		f.watchdog.Stop()
		sent += n
	}
	return sent, err
}

// Close closes the channel.
func (f *filter) Close() error { return f.channel.Close() }
