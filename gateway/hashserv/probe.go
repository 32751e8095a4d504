package hashserv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
)

// Anonymous is what a server lets do who does not sign in.
type Anonymous struct{ Read, Report, DBAdmin bool }

// Probe asks a server what it lets anonymous users do, each thing on a connection of its own, without the credentials of d or address. It
// writes nothing: the report that it sends has no unihash, which the reference server finds out after it has looked at the permission. A
// server that ends the connection instead of an answer has no such command, or refuses without saying so: it does not let do it.
//
// The error says that the server could not be asked.
func Probe(ctx context.Context, d *Dialer, address string) (a Anonymous, err error) {
	if d, address, err = withoutCredentials(d, address); err != nil {
		return a, err
	}
	equivalent := reportEquivRequest{Method: "probe", Taskhash: "probe"}
	for _, probe := range []struct {
		may     *bool
		command string
		body    request
	}{{&a.Read, cmdGetStream, nothing{}}, {&a.Report, cmdReportEquiv, equivalent}, {&a.DBAdmin, cmdDBUsage, nothing{}}} {
		if *probe.may, err = probeOne(ctx, d, address, probe.command, probe.body); err != nil {
			return a, fmt.Errorf("ask %s what anonymous users may do: %w", probe.command, err)
		}
	}
	return a, nil
}

func withoutCredentials(d *Dialer, address string) (*Dialer, string, error) {
	bare := Dialer{}
	if d != nil {
		bare = *d
	}
	bare.Username, bare.Password = "", ""
	if !strings.HasPrefix(address, "ws://") && !strings.HasPrefix(address, "wss://") {
		return &bare, address, nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, "", fmt.Errorf("address of a hash server: %w", errBadAddress) // url.Error quotes what it parsed
	}
	u.User = nil
	return &bare, u.String(), nil
}

// probeOne reports whether a command was not refused. To be told that there is no unihash is not to be refused.
func probeOne(ctx context.Context, d *Dialer, address, command string, body request) (bool, error) {
	conn, err := greet(ctx, d, address)
	var status notUpgraded
	switch {
	case errors.As(err, &status) && (status == http.StatusUnauthorized || status == http.StatusForbidden):
		return false, nil
	case err != nil:
		return false, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	text, err := marshalRequest(command, body)
	if err != nil {
		return false, err
	}
	if err := errors.Join(conn.Send(text), conn.Flush()); err != nil {
		return false, err
	}
	reply, _, err := receiveMessage(conn, nil)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return false, nil
	case err != nil:
		return false, err
	}
	refusal := parseRefusal(reply)
	return refusal == nil || error(refusal) == ErrInvalidUnihash, nil
}
