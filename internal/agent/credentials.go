package agent

import (
	"context"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

// Stored is [Credentials] that somebody else keeps up: a token in a file, a .netrc, or none at all beside a client certificate. It is read
// again when its file has changed, and after the gate has refused it.
type Stored struct {
	path string
	load func() (authn.Secret, error)

	mu    sync.Mutex // guards what follows
	held  bool
	token authn.Secret
	of    stamp
}

// stamp tells one content of a file from another.
type stamp struct {
	size     int64
	modified time.Time
	info     fs.FileInfo
}

var _ Credentials = (*Stored)(nil)

// NewStored returns the token that load finds in the file at path. An empty path is for what does not change: load is called until it succeeds, and after a
// refusal.
func NewStored(path string, load func() (authn.Secret, error)) *Stored {
	return &Stored{path: path, load: load}
}

// Token implements [Credentials].
func (s *Stored) Token(context.Context) (authn.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.stamp()
	if s.held && now.same(s.of) {
		return s.token, nil
	}
	token, err := s.load()
	if err != nil {
		s.held = false
		return authn.Secret{}, err
	}
	s.token, s.of, s.held = token, now, true
	return token, nil
}

// Refused implements [Credentials].
func (s *Stored) Refused(token authn.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token.Reveal() == s.token.Reveal() {
		s.held = false
	}
}

// stamp looks at the file. s.mu is held.
func (s *Stored) stamp() stamp {
	if s.path == "" {
		return stamp{}
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return stamp{size: -1}
	}
	return stamp{size: info.Size(), modified: info.ModTime(), info: info}
}

func (a stamp) same(b stamp) bool {
	if a.size != b.size || !a.modified.Equal(b.modified) {
		return false
	}
	return a.info == nil && b.info == nil || a.info != nil && b.info != nil && os.SameFile(a.info, b.info)
}
