package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// sshLogin is how the load generator comes in at a server that speaks SFTP. Both have the same host key, and know the same user key.
type sshLogin struct {
	User   string `json:"user"`
	Key    string `json:"key"`    // file of the private key
	Known  string `json:"known"`  // a known_hosts file
	Client string `json:"client"` // who asks: see below
	Flight int    `json:"flight"` // STATs under way at once on one connection
}

// The clients. For STATs the generator has one of its own, which does as little as it can; for downloads there are those that people have.
const (
	ownClient     = ""
	goClient      = "pkg/sftp's client"
	opensshClient = "OpenSSH's sftp"
)

// What all clients and servers agree on.
const (
	sshCipher = ssh.CipherAES128GCM
	sshKex    = ssh.KeyExchangeCurve25519
)

// getsEach is how many downloads one run of OpenSSH's client makes, so that its connecting is a small part of them.
const getsEach = 4

// run drives a server until the time is up, then finishes what is under way: unlike an HTTP answer, nothing here is cut short.
func (s *sshLogin) run(ctx context.Context, l *load) (outcome, error) {
	d := &loader{load: l}
	var err error
	if d.requests, err = l.requests(); err != nil {
		return outcome{}, err
	}
	config, err := s.config()
	if err != nil {
		return outcome{}, err
	}
	began := time.Now()
	all := make([]sshWorker, l.Conns)
	var group sync.WaitGroup
	for i := range all {
		w := &all[i]
		w.worker, w.login, w.config, w.until = worker{loader: d, next: i * len(d.requests) / l.Conns}, s, config, began.Add(l.Duration)
		group.Go(func() { w.err = w.work(ctx) })
	}
	group.Wait()
	workers := make([]worker, l.Conns)
	for i := range all {
		workers[i] = all[i].worker
	}
	return d.collect(workers, time.Since(began))
}

// config is that of the clients that are written in Go.
func (s *sshLogin) config() (*ssh.ClientConfig, error) {
	text, err := os.ReadFile(s.Key)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Key, err)
	}
	known, err := os.ReadFile(s.Known)
	if err != nil {
		return nil, err
	}
	_, _, host, _, _, err := ssh.ParseKnownHosts(known)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Known, err)
	}
	return &ssh.ClientConfig{
		Config: ssh.Config{Ciphers: []string{sshCipher}, KeyExchanges: []string{sshKex}},
		User:   s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.FixedHostKey(host), HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	}, nil
}

// sshWorker is one connection to an SFTP server, or one after another.
type sshWorker struct {
	worker
	login  *sshLogin
	config *ssh.ClientConfig
	until  time.Time
}

func (w *sshWorker) work(ctx context.Context) error {
	switch method, _, _ := strings.Cut(w.Request, " "); {
	case method == "READ" && w.login.Client == opensshClient:
		return w.rounds(ctx, w.runProgram)
	case method == "READ":
		return w.download(ctx)
	case method == "STAT" && w.Connect:
		return w.rounds(ctx, w.connectAndStat)
	case method == "STAT":
		return w.stat(ctx)
	}
	return fmt.Errorf("no such request: %s", w.Request)
}

// rounds does one thing after another, once at least.
func (w *sshWorker) rounds(ctx context.Context, one func(context.Context) error) error {
	for {
		if err := one(ctx); err != nil {
			return err
		}
		if time.Now().After(w.until) {
			return nil
		}
	}
}

// path is what is asked for next.
func (w *sshWorker) path() string {
	_, path, _ := strings.Cut(string(w.requests[w.next]), " ")
	w.next = (w.next + 1) % len(w.requests)
	return path
}

func (w *sshWorker) connectAndStat(ctx context.Context) error {
	began := time.Now()
	c, err := w.dialSFTP(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.sendStat(0, w.path()); err != nil {
		return err
	}
	if _, err := c.attrs(w.Length); err != nil {
		return err
	}
	c.close()
	w.times = append(w.times, time.Since(began))
	return nil
}

// stat keeps as many STATs under way on one connection as the order says. The id of each is its place among them.
func (w *sshWorker) stat(ctx context.Context) error {
	c, err := w.dialSFTP(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	began := make([]time.Time, max(1, w.login.Flight))
	send := func(id uint32) error {
		began[id] = time.Now()
		return c.sendStat(id, w.path())
	}
	for id := range began {
		if err := send(uint32(id)); err != nil {
			return err
		}
	}
	for {
		id, err := c.attrs(w.Length)
		switch {
		case err != nil:
			return err
		case id >= uint32(len(began)):
			return fmt.Errorf("an answer to request %d, which was not made", id)
		}
		now := time.Now()
		w.times = append(w.times, now.Sub(began[id]))
		if now.After(w.until) {
			return nil
		}
		if err := send(id); err != nil {
			return err
		}
	}
}

// dial connects and authenticates.
func (w *sshWorker) dial(ctx context.Context) (*ssh.Client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", w.Addr)
	if err != nil {
		return nil, err
	}
	conn, channels, requests, err := ssh.NewClientConn(nc, w.Addr, w.config)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("handshake with %s: %w", w.Addr, err)
	}
	if a, ok := conn.(ssh.AlgorithmsConnMetadata); ok && w.protocol.Load() == nil {
		w.protocol.Store("SSH " + a.Algorithms().Read.Cipher + " " + a.Algorithms().KeyExchange)
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// The packets of SFTP version 3 that the generator knows (draft-ietf-secsh-filexfer-02, section 3).
const (
	fxpInit    = 1
	fxpVersion = 2
	fxpStat    = 17
	fxpAttrs   = 105

	attrSize = 1 // the flag of ATTRS that a size follows
)

// sftpConn is a connection with one channel that speaks SFTP.
type sftpConn struct {
	client  *ssh.Client
	channel ssh.Channel
	packet  []byte
}

func (w *sshWorker) dialSFTP(ctx context.Context) (*sftpConn, error) {
	client, err := w.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &sftpConn{client: client}
	if err := c.open(); err != nil {
		c.close()
		return nil, fmt.Errorf("open an SFTP channel at %s: %w", w.Addr, err)
	}
	return c, nil
}

// open asks for SFTP and says INIT.
func (c *sftpConn) open() error {
	channel, requests, err := c.client.OpenChannel("session", nil)
	if err != nil {
		return err
	}
	c.channel = channel
	go ssh.DiscardRequests(requests)
	ok, err := channel.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"}))
	if err == nil && !ok {
		err = errors.New("no SFTP here")
	}
	if err != nil {
		return err
	}
	if _, err := channel.Write([]byte{0, 0, 0, 5, fxpInit, 0, 0, 0, 3}); err != nil {
		return err
	}
	kind, _, err := c.receive()
	if err == nil && kind != fxpVersion {
		err = fmt.Errorf("INIT was answered by a packet of type %d", kind)
	}
	return err
}

func (c *sftpConn) close() {
	if c.channel != nil {
		_ = c.channel.Close()
	}
	_ = c.client.Close()
}

func (c *sftpConn) sendStat(id uint32, path string) error {
	p := append(c.packet[:0], 0, 0, 0, 0, fxpStat)
	p = binary.BigEndian.AppendUint32(p, id)
	p = binary.BigEndian.AppendUint32(p, uint32(len(path)))
	p = append(p, path...)
	binary.BigEndian.PutUint32(p, uint32(len(p)-4))
	c.packet = p
	_, err := c.channel.Write(p)
	return err
}

// attrs reads the answer to a STAT, which must have a size.
func (c *sftpConn) attrs(size int64) (id uint32, err error) {
	kind, body, err := c.receive()
	switch {
	case err != nil:
		return 0, err
	case kind != fxpAttrs || len(body) < 16:
		return 0, fmt.Errorf("STAT was answered by a packet of type %d: %.100q", kind, body)
	case binary.BigEndian.Uint32(body[4:])&attrSize == 0 || int64(binary.BigEndian.Uint64(body[8:])) != size:
		return 0, fmt.Errorf("STAT was answered with another size than %d", size)
	}
	return binary.BigEndian.Uint32(body), nil
}

// receive reads a packet. Its body, valid until the next packet is sent or received, begins with the id.
func (c *sftpConn) receive() (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c.channel, head[:]); err != nil {
		return 0, nil, fmt.Errorf("read an answer: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > 64<<10 {
		return 0, nil, fmt.Errorf("an answer of %d bytes", n)
	}
	if cap(c.packet) < int(n) {
		c.packet = make([]byte, n)
	}
	body = c.packet[:n-1]
	_, err = io.ReadFull(c.channel, body)
	return head[4], body, err
}

// download reads the object again and again with the client of pkg/sftp, on one connection.
func (w *sshWorker) download(ctx context.Context) error {
	conn, err := w.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	client, err := sftp.NewClient(conn)
	if err != nil {
		return fmt.Errorf("open an SFTP channel at %s: %w", w.Addr, err)
	}
	defer client.Close()
	return w.rounds(ctx, func(context.Context) error { return w.readOnce(client) })
}

func (w *sshWorker) readOnce(client *sftp.Client) error {
	began := time.Now()
	f, err := client.Open(w.path())
	if err != nil {
		return err
	}
	n, err := f.WriteTo(io.Discard)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return w.got(n, began)
}

// got notes a download.
func (w *sshWorker) got(n int64, began time.Time) error {
	if n != w.Length {
		return fmt.Errorf("%d bytes, want %d", n, w.Length)
	}
	w.bytes += n
	w.times = append(w.times, time.Since(began))
	return nil
}

// runProgram has OpenSSH's client download the object a few times to where it costs nothing.
func (w *sshWorker) runProgram(ctx context.Context) error {
	host, port, err := net.SplitHostPort(w.Addr)
	if err != nil {
		return err
	}
	batch := strings.Repeat("get "+w.path()+" /dev/null\n", getsEach)
	cmd := exec.CommandContext(ctx, "sftp", "-q", "-b", "-", "-B", "261120", "-c", sshCipher, "-P", port, "-F", "none",
		"-i", w.login.Key, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "UserKnownHostsFile="+w.login.Known,
		"-o", "StrictHostKeyChecking=yes", "-o", "KexAlgorithms="+sshKex, w.login.User+"@"+host)
	cmd.Stdin = strings.NewReader(batch)
	began := time.Now()
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("sftp: %w: %s", err, bytes.TrimSpace(text))
	}
	w.protocol.CompareAndSwap(nil, "SSH "+sshCipher+" "+sshKex)
	took := time.Since(began) / getsEach
	for range getsEach {
		w.bytes += w.Length
		w.times = append(w.times, took)
	}
	return nil
}
