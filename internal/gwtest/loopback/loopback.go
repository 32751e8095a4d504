// Package loopback finds addresses for servers of tests that cannot be told to take any.
package loopback

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Free returns 127.0.0.1:PORT on which nobody listens. The port is below those that the system gives to others meanwhile.
func Free() (address string, err error) {
	for range 100 {
		var ln net.Listener
		if ln, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))); err == nil {
			return ln.Addr().String(), ln.Close()
		}
	}
	return "", err
}
