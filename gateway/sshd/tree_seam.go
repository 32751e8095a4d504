package sshd

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/lychgate/lychgate/gateway"
)

type node struct {
	name string
	dir  bool
	size int64
	time time.Time
}

type tree struct {
	session func(context.Context) (*gateway.Session, error)
}

func (t *tree) stat(ctx context.Context, path string) (node, error) {
	s, err := t.session(ctx)
	if err != nil {
		return node{}, err
	}
	zone, rest, _ := objectPath(path)
	o, err := s.Stat(ctx, zone, rest)
	return node{name: o.Name, size: o.Size, time: o.Time}, err
}

func (t *tree) readDir(ctx context.Context, path string) ([]node, error) {
	return nil, gateway.ErrNotFound
}

func (t *tree) open(ctx context.Context, path string) (*gateway.Content, error) {
	s, err := t.session(ctx)
	if err != nil {
		return nil, err
	}
	zone, rest, _ := objectPath(path)
	return s.Open(ctx, zone, rest)
}

func serveSFTP(ctx context.Context, channel io.ReadWriteCloser, t *tree, l Limits) error {
	return errors.New("no SFTP yet")
}
