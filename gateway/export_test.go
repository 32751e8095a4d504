package gateway

import "context"

// Recheck asks once what Copy asks every second.
func (c *Content) Recheck(ctx context.Context) error { return c.recheck(ctx) }

// RecheckEvery is how often Copy asks.
const RecheckEvery = recheckEvery
