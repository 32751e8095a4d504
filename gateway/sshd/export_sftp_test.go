package sshd

import (
	"context"
	"io"

	"github.com/lychgate/lychgate/gateway"
)

// ServeSFTP is serveSFTP with sessions from a function.
func ServeSFTP(ctx context.Context, channel io.ReadWriteCloser, session func(context.Context) (*gateway.Session, error), l Limits) error {
	return serveSFTP(ctx, channel, &tree{session: session}, l)
}

// NewFilter returns the packet filter on a channel.
func NewFilter(channel io.ReadWriteCloser, l Limits, ended func(error)) io.ReadWriteCloser {
	return newFilter(channel, l, ended)
}

// ParsePath returns the zone and the rest of a path.
func ParsePath(path string) (zone, rest string, ok bool) {
	p, ok := parsePath(path)
	return p.zone, p.rest, ok
}
