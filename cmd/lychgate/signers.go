package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/config"
)

// signersPoll is how often the files of signers are looked at.
const signersPoll = 2 * time.Second

// signers verifies statements by the configured keys, certifies the keys of jobs, and follows the files they are in. Files that cannot be understood
// leave the last good ones in force.
type signers struct {
	cfg     *config.Config
	log     *slog.Logger
	current atomic.Pointer[provenance.Verifier]
	jobs    atomic.Pointer[provenance.JobAuthority] // nil: jobs are not vouched for
	seen    [sha256.Size]byte                       // of the files last looked at; used by run alone after loadSigners
}

func loadSigners(cfg *config.Config, log *slog.Logger) (*signers, error) {
	s := &signers{cfg: cfg, log: log}
	if err := s.reload(); err != nil {
		return nil, fmt.Errorf("load the signers: %w", err)
	}
	return s, nil
}

// Open verifies an envelope by the keys in force.
func (s *signers) Open(envelope []byte) (*provenance.Verified, error) {
	return s.current.Load().Open(envelope)
}

// Certify implements [gateway.Certifier].
func (s *signers) Certify(key, identity string, from, until time.Time) (string, error) {
	return s.jobs.Load().Certify(key, identity, from, until)
}

// certifier returns s if it can certify, else nil.
func (s *signers) certifier() gateway.Certifier {
	if s.jobs.Load() == nil {
		return nil
	}
	return s
}

// run follows the files until ctx ends.
func (s *signers) run(ctx context.Context) error {
	tick := time.NewTicker(signersPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.reload(); err != nil {
				s.log.Error("the signers' files are not good: the last good ones stay in force", "error", err)
			}
		}
	}
}

// reload reads the files and, if they changed, builds a verifier of them.
func (s *signers) reload() error {
	vc := provenance.VerifierConfig{}
	sum := sha256.New()
	if path := s.cfg.Signers.AllowedSigners; path != "" {
		text, err := os.ReadFile(string(path))
		if err != nil {
			return err
		}
		sum.Write(text)
		vc.AllowedSigners = text
	}
	var jobs *provenance.JobAuthority
	if path := s.cfg.Signers.JobAuthority; path != "" {
		text, err := os.ReadFile(string(path))
		if err != nil {
			return err
		}
		sum.Write(text)
		if jobs, err = provenance.NewJobAuthority(text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		vc.AllowedSigners = append(append(vc.AllowedSigners, '\n'), jobs.AllowedSigner()...)
	}
	for _, k := range s.cfg.Signers.Keys {
		text, err := os.ReadFile(string(k.File))
		if err != nil {
			return err
		}
		sum.Write(text)
		key, err := parsePublicKey(text)
		if err != nil {
			return fmt.Errorf("%s: %w", k.File, err)
		}
		vc.Keys = append(vc.Keys, provenance.PlainKey{Identity: k.Identity, Key: key})
	}
	seen := [sha256.Size]byte(sum.Sum(nil))
	if s.current.Load() != nil && seen == s.seen {
		return nil
	}
	s.seen = seen
	v, err := provenance.NewVerifier(vc)
	if err != nil {
		return err
	}
	s.current.Store(v)
	s.jobs.Store(jobs)
	return nil
}

func parsePublicKey(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("want one PEM block PUBLIC KEY: openssl pkey -pubout writes it")
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}
