package main

import (
	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/internal/agent"
)

// agentVerify is whose word counts about what the agent hands out.
type agentVerify struct {
	signerFlags
	on    bool
	zones []string
}

func (f *agentVerify) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.on, "verify", false, "hand out only what a signed statement names, by the keys of --signers and --verify-key, as lychgate verify does; the rest is not there")
	f.signerFlags.flags(cmd, "verify-key")
	cmd.Flags().StringArrayVar(&f.zones, "verify-zone", nil, "`zone` that statements must be for; may be repeated; default: any")
}

// verifier returns what opens statements; nil when none are asked for.
func (f *agentVerify) verifier() (agent.Verifier, error) {
	if !f.on {
		if len(f.signers)+len(f.keys)+len(f.revoked)+len(f.zones) > 0 {
			return nil, usageError("--signers, %s, --revoked and --verify-zone say how to verify: give --verify, too", f.keyFlag)
		}
		return nil, nil
	}
	if _, err := f.signerFlags.verifier(); err != nil {
		return nil, err
	}
	return pinned{&f.signerFlags}, nil
}

// pinned opens statements by the keys that the files hold now: a key that is taken out of them counts no more. While they cannot be read none
// counts.
type pinned struct{ flags *signerFlags }

// Open implements [agent.Verifier].
func (p pinned) Open(envelope []byte) (*provenance.Verified, error) {
	v, err := p.flags.verifier()
	if err != nil {
		return nil, err
	}
	return v.Open(envelope)
}
