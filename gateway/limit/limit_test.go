package limit_test

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/gateway/limit"
)

// TestConnections: neither the whole nor one address holds more than it may, and what leaves makes room. A refusal holds nothing.
func TestConnections(t *testing.T) {
	c := limit.NewConnections(3, 2)
	admit := func(address string, want bool) (leave func()) {
		t.Helper()
		leave, ok := c.Admit(address)
		if ok != want {
			t.Errorf("%s: %v", address, ok)
		}
		return leave
	}
	leaveA := admit("a", true)
	admit("a", true)
	admit("a", false)
	leaveB := admit("b", true)
	admit("b", false)
	leaveA()
	admit("b", true)
	admit("a", false)
	leaveB()
	admit("a", true)
	admit("c", false)
}

func TestAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:22": "192.0.2.1", "[::ffff:192.0.2.1]:22": "192.0.2.1", "[2001:db8:1:2:3:4:5:6]:22": "2001:db8:1:2::/64", "[fe80::1%eth0]:22": "fe80::/64",
	} {
		a, err := net.ResolveTCPAddr("tcp", remote)
		if err != nil {
			t.Fatal(err)
		}
		if got := limit.Address(a); got != want {
			t.Errorf("%s is counted by %q, want %q", remote, got, want)
		}
	}
	if got := limit.Address(&net.UnixAddr{Name: "pipe"}); got != "" {
		t.Errorf("no address is counted by %q", got)
	}
}

// TestPace: what moves enough in each window goes on, what does not is slow at the next step, and the deadline is never sooner than
// a window from now.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limit.NewPace(10*time.Second, 100)
		for i := range 50 {
			deadline, err := p.Step()
			if left := time.Until(deadline); err != nil || left < 10*time.Second || left > 20*time.Second {
				t.Fatalf("step %d: %v, %v", i, left, err)
			}
			p.Moved(50)
			time.Sleep(3 * time.Second)
		}
		time.Sleep(10 * time.Second)
		_, _ = p.Step() // the window in which it moved last
		time.Sleep(10 * time.Second)
		if _, err := p.Step(); !errors.Is(err, limit.ErrSlow) {
			t.Errorf("a transfer that stopped: %v", err)
		}
	})
}
