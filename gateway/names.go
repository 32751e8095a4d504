package gateway

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/artifact"
)

// Names returns the names of the archives that the principal may read in a zone or its bases, of those published under hashes: 64 hex digits each.
// It is for who knows what a build will want and not what it is called. Like Presence, it fails as a whole only when the answers could not be
// recorded or decided.
func (s *Session) Names(ctx context.Context, zone string, hashes []string) ([]string, error) {
	if limit := s.gate.Limits.PresenceNames; len(hashes) > limit {
		return nil, &RequestError{Status: http.StatusRequestEntityTooLarge, Problem: fmt.Sprintf("%d hashes in one batch; %d are allowed", len(hashes), limit), Hint: "split the batch"}
	}
	var wanted [][32]byte
	for _, text := range hashes {
		var hash [32]byte
		if n, err := hex.Decode(hash[:], []byte(text)); err != nil || n != len(hash) || len(text) != 2*len(hash) {
			return nil, &RequestError{Status: http.StatusBadRequest, Problem: "a hash that is none", Hint: "want 64 hex digits each"}
		}
		wanted = append(wanted, hash)
	}
	if _, err := s.zone(zone); err != nil {
		return nil, nil // nothing is there; which zones there are is nobody's to learn
	}
	b := presenceBatch{session: s, zone: zone, id: newRequestID(), left: len(hashes)}
	var names []string
	seen := map[artifact.Ref]bool{}
	for _, in := range s.gate.Authorizer.Chain(zone) {
		for _, hash := range wanted {
			refs, err := s.namesOf(ctx, in, hash)
			if err != nil {
				return nil, err
			}
			for _, ref := range refs {
				if ref.Zone = zone; seen[ref] {
					continue
				}
				seen[ref] = true
				there, err := s.isThere(ctx, &b, ref)
				if err != nil {
					return nil, err
				}
				if there {
					names = append(names, ref.Name())
				}
			}
		}
	}
	return names, b.close()
}

// namesOf returns what is published under a hash in exactly this zone.
func (s *Session) namesOf(ctx context.Context, zone string, hash [32]byte) ([]artifact.Ref, error) {
	if len(s.gate.Published.ByHash(nil, zone, hash)) == 0 { // from memory, which most hashes go no further than
		return nil, nil
	}
	refs, err := s.gate.Published.NamesByHash(ctx, zone, hash)
	if err != nil {
		return nil, unavailable("look up names", err)
	}
	return refs, nil
}

// isThere decides about one of a batch.
func (s *Session) isThere(ctx context.Context, b *presenceBatch, ref artifact.Ref) (bool, error) {
	if ctx.Err() != nil {
		return false, unavailable("answer a batch", ctx.Err())
	}
	r := authz.Request{Action: authz.Stat, Door: s.door.Name, Principal: s.principal, Ref: ref}
	answer, err := s.gate.Authorizer.Decide(ctx, &r)
	err = outcome(&answer, err)
	if errors.Is(err, ErrUnavailable) {
		return false, err
	}
	b.add(&r, &answer)
	return err == nil, nil
}
