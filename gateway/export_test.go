package gateway

import "context"

// Recheck asks once what Copy asks every second.
func (c *Content) Recheck(ctx context.Context) error { return c.recheck(ctx) }

// RecheckEvery is how often Copy asks.
const RecheckEvery = recheckEvery

// Prove is what a gateway that calls itself audience makes of a proof: the fingerprint of the key that it proves.
func Prove(challenges Challenges, audience string, proof SSHProof) (fingerprint string, err error) {
	g := Gateway{Config: Config{Challenges: challenges, Audience: audience}}
	_, key, err := g.prove(Door{}, proof)
	if err != nil {
		return "", err
	}
	return key.Fingerprint, nil
}
