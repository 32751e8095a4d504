package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"strconv"

	"golang.org/x/crypto/ssh"
)

func startSSHHandler(ctx context.Context, w *world, addr string) ([]*process, error) {
	cmd, err := ourselves(ctx, "sshhandler", "-addr", addr, "-key", w.path("host_key"), "-length", strconv.Itoa(smallBytes))
	if err != nil {
		return nil, err
	}
	return w.startOne(ctx, "sshhandler", func() bool { return accepts(addr) }, cmd.Args...)
}

// serveSSHHandler is the least that a server can do for a STAT with the library that the gate's door has: it takes any key, and answers
// the same attributes whatever is asked.
func serveSSHHandler(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("sshhandler", flag.ContinueOnError)
	addr, key, length := flags.String("addr", "", ""), flags.String("key", "", ""), flags.Uint64("length", 0, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*key)
	if err != nil {
		return err
	}
	host, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(host)
	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go answerSSH(conn, config, *length)
	}
}

// answerSSH answers one connection.
func answerSSH(conn net.Conn, config *ssh.ServerConfig, length uint64) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				_ = r.Reply(r.Type == "subsystem", nil)
			}
		}()
		go func() {
			defer channel.Close()
			_ = answerStats(channel, length)
		}()
	}
}

// answerStats answers INIT, and every other packet as if it were a STAT, until the client has no more.
func answerStats(channel io.ReadWriter, length uint64) error {
	in := bufio.NewReader(channel)
	var answer []byte
	for {
		var head [9]byte // length, type, id
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		if _, err := in.Discard(max(0, n-5)); err != nil {
			return err
		}
		if answer = append(answer[:0], 0, 0, 0, 5, fxpVersion, 0, 0, 0, 3); head[4] != fxpInit {
			answer = append(append(answer[:0], 0, 0, 0, 17, fxpAttrs), head[5:]...)
			answer = binary.BigEndian.AppendUint64(append(answer, 0, 0, 0, attrSize), length)
		}
		if _, err := channel.Write(answer); err != nil {
			return err
		}
	}
}
