package forge

import "context"

type laneKey struct{}

// InBackground marks work that nobody waits for: a forge's limits serve it last.
func InBackground(ctx context.Context) context.Context {
	return context.WithValue(ctx, laneKey{}, true)
}

func isBackground(ctx context.Context) bool { return ctx.Value(laneKey{}) != nil }
