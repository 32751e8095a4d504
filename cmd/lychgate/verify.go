package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
)

// signerFlags say whose signatures count.
type signerFlags struct {
	signers, keys, revoked []string
	keyFlag                string // how keys are given
}

// flags adds them. keyFlag is the name of the one for plain keys.
func (f *signerFlags) flags(cmd *cobra.Command, keyFlag string) {
	f.keyFlag = "--" + keyFlag
	cmd.Flags().StringArrayVar(&f.signers, "signers", nil, "`file` of allowed signers whose SSH keys count; may be repeated")
	cmd.Flags().StringArrayVar(&f.keys, keyFlag, nil, "`IDENTITY=FILE`: a PEM public key that counts; may be repeated")
	cmd.Flags().StringArrayVar(&f.revoked, "revoked", nil, "`fingerprint` (SHA256:...) of a key that counts no more; may be repeated")
}

// verifyFlags say whose word counts, and where statements are.
type verifyFlags struct {
	signerFlags
	statements, zones []string
	fetch             string
	jobs              int
	quiet, asJSON     bool
}

func newVerify() *cobra.Command {
	var r remote
	var f verifyFlags
	cmd := &cobra.Command{
		Use: "verify SSTATE_DIR [NAME...]", Short: "Verify objects by the keys that signed them",
		Long: `Verify compares the bytes of a shared-state cache with the signed statements about them, by keys that you have and not by
anybody's word: neither the gate nor its mirror is trusted. It needs no network, unless --fetch gets statements from a gate.

--signers is a file as ssh-keygen calls it, allowed_signers: who may sign, a line each. --key adds a PEM public key. Statements
are files that end in .intoto.json, in the cache or in --statements. One is about a whole build.

A statement says what an object was built from. A gate gives it to whoever may read all of that; what it withholds fails here.

Exit codes: 0 all are verified, 3 some are not, 1 it could not be done.`,
		Example: `  lychgate verify build/sstate-cache --signers allowed_signers --fetch statements --gate https://gate.example.com
  lychgate verify build/sstate-cache --signers allowed_signers --statements statements`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, r, args[0], args[1:])
		},
	}
	f.signerFlags.flags(cmd, "key")
	cmd.Flags().StringArrayVar(&f.statements, "statements", nil, "`directory` with statements, beside those in the cache; may be repeated")
	cmd.Flags().StringArrayVar(&f.zones, "zone", nil, "`zone` that statements must be for; may be repeated; default: any, and main for --fetch")
	cmd.Flags().StringVar(&f.fetch, "fetch", "", "get the statements that are missing from the gate, and keep them in `directory`")
	cmd.Flags().IntVarP(&f.jobs, "jobs", "j", 4, "objects that are read at once")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON, with every object")
	r.flags(cmd)
	return cmd
}

func (f *verifyFlags) run(cmd *cobra.Command, r remote, dir string, names []string) error {
	verifier, err := f.verifier()
	if err != nil {
		return err
	}
	o := client.VerifyOptions{
		Names: names, Statements: append([]string{dir}, f.statements...), Verifier: verifier, Zones: f.zones, Jobs: f.jobs,
		Progress: progress(cmd, f.quiet),
	}
	if f.fetch != "" {
		if o.Fetch, err = f.fetcher(r); err != nil {
			return err
		}
		o.Statements = append(o.Statements, f.fetch)
	}
	cache, err := client.OpenDir(dir)
	if err != nil {
		return err
	}
	o.Cache = cache
	found, err := client.Verify(cmd.Context(), o)
	if err := errors.Join(err, cache.Close()); err != nil {
		return err
	}
	write := found.WriteText
	if f.asJSON {
		write = found.WriteJSON
	}
	if err := write(cmd.OutOrStdout()); err != nil {
		return err
	}
	switch {
	case len(found.Failed) > 0:
		return &exitError{code: exitRefused}
	case len(found.Verified) == 0:
		return fmt.Errorf("%s: %w", dir, client.ErrNoObjects)
	}
	return nil
}

// verifier reads the keys.
func (f *signerFlags) verifier() (*provenance.Verifier, error) {
	if len(f.signers)+len(f.keys) == 0 {
		return nil, usageError("whose signatures count? Give --signers FILE, which ssh-keygen calls allowed_signers, or %s IDENTITY=FILE", f.keyFlag)
	}
	cfg := provenance.VerifierConfig{Revoked: f.revoked}
	for _, path := range f.signers {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, usageError("--signers: %w", err)
		}
		cfg.AllowedSigners = append(append(cfg.AllowedSigners, text...), '\n')
	}
	for _, given := range f.keys {
		identity, path, ok := strings.Cut(given, "=")
		if !ok {
			return nil, usageError("%s %s: want IDENTITY=FILE", f.keyFlag, given)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, usageError("%s: %w", f.keyFlag, err)
		}
		key, err := parsePublicKey(text)
		if err != nil {
			return nil, usageError("%s: %s: %w", f.keyFlag, path, err)
		}
		cfg.Keys = append(cfg.Keys, provenance.PlainKey{Identity: identity, Key: key})
	}
	v, err := provenance.NewVerifier(cfg)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return v, nil
}

// fetcher returns what gets statements from the gate and keeps each, by its digest.
func (f *verifyFlags) fetcher(r remote) (func(context.Context, string) ([]byte, error), error) {
	c, err := r.open()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(f.fetch, 0o777); err != nil {
		return nil, usageError("--fetch: %w", err)
	}
	zone := "main"
	if len(f.zones) > 0 {
		zone = f.zones[0]
	}
	return func(ctx context.Context, name string) ([]byte, error) {
		envelope, err := c.Statement(ctx, zone, name)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(f.fetch, fmt.Sprintf("%x%s", sha256.Sum256(envelope), gateway.StatementSuffix))
		return envelope, os.WriteFile(path, envelope, 0o666)
	}, nil
}
