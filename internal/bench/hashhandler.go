package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"io"
	"net"
)

// serveHashHandler is the least that a Go server can do for a lookup: to answer a line with its last word, whatever is asked. How fast it is
// says what the machine leaves room for.
func serveHashHandler(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("hashhandler", flag.ContinueOnError)
	addr := flags.String("addr", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = answerLines(conn)
		}()
	}
}

// answerLines answers what comes, together where it came together.
func answerLines(conn io.ReadWriter) error {
	in, out := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriterSize(conn, 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		switch {
		case bytes.HasPrefix(line, []byte(`{"get-stream"`)):
			out.WriteString("\"ok\"\n")
		case bytes.HasPrefix(line, []byte(hashMethod)):
			out.Write(line[len(hashMethod)+1:])
		}
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}
