package forge

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestCanary: the canary says how long a revocation takes, and that it does not arrive where it does not.
func TestCanary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flown []error
		var here, everywhere time.Duration
		bus := newWire()
		end := bus.node()
		h := NewHub(HubConfig{Bus: end})
		n := &node{T: t, hub: h}
		joined(t, n)
		k, err := NewCanary(CanaryConfig{Hub: h, Flown: func(a, b time.Duration, err error) {
			here, everywhere, flown = a, b, append(flown, err)
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- k.Run(ctx) }()
		time.Sleep(2 * canaryEvery)
		synctest.Wait()
		if len(flown) == 0 || flown[0] != nil || here > Fence || everywhere > Fence {
			t.Errorf("%d turns, %v, %s here, %s everywhere", len(flown), flown, here, everywhere)
		}
		bus.setCut(end, true)
		time.Sleep(2 * canaryEvery)
		synctest.Wait()
		if len(flown) < 2 || flown[len(flown)-1] == nil {
			t.Errorf("cut off: %v", flown)
		}
		stop()
		if err := <-ended; err != context.Canceled {
			t.Error(err)
		}
	})
}
