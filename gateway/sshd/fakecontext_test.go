package sshd

import (
	"context"

	"github.com/gliderlabs/ssh"
)

// fakeContext is the context of a handshake that knows its connection and nothing else.
type fakeContext struct {
	ssh.Context
	conn *conn
}

// Value implements context.Context.
func (f *fakeContext) Value(key any) any {
	if key == (connKey{}) {
		return f.conn
	}
	return nil
}

// Done implements context.Context.
func (f *fakeContext) Done() <-chan struct{} { return context.Background().Done() }

// Err implements context.Context.
func (f *fakeContext) Err() error { return nil }
