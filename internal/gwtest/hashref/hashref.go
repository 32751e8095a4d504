// Package hashref runs BitBake's own hash equivalence server, the reference that the gate is compared with, from a checkout of BitBake.
package hashref

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest/server"
)

// Reference is a checkout of BitBake and a Python that runs it.
type Reference struct {
	Dir    string // absolute
	Python string // absolute
}

// Find looks at a checkout, and for a Python that can speak websockets, which is not always the first on the path. Errors say what to
// install or to give.
func Find(ctx context.Context, dir string) (Reference, error) {
	if dir == "" {
		return Reference{}, errors.New("BITBAKE_DIR is not given: git clone https://github.com/openembedded/bitbake, then BITBAKE_DIR=bitbake")
	}
	abs, err := filepath.Abs(dir)
	if err == nil {
		_, err = os.Stat(filepath.Join(abs, "lib/hashserv/tests.py"))
	}
	if err != nil {
		return Reference{}, fmt.Errorf("BITBAKE_DIR: %w: git clone https://github.com/openembedded/bitbake, then BITBAKE_DIR=bitbake", err)
	}
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		// What runs may be a wrapper that looks at the directory it is in, so the interpreter itself is asked where it is.
		out, err := exec.CommandContext(ctx, path, "-c", "import sys, websockets; print(sys.executable)").Output()
		if err == nil {
			return Reference{Dir: abs, Python: strings.TrimSpace(string(out))}, nil
		}
	}
	return Reference{}, errors.New("no Python that has websockets; run: sudo apt-get install python3 python3-websockets")
}

// Env is what programs of the checkout need beside their arguments. Nothing is written into the checkout.
func (r Reference) Env() []string {
	return []string{"PYTHONPATH=" + filepath.Join(r.Dir, "lib"), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"}
}

// Server is the command line of the reference server. bind is HOST:PORT, unix://PATH or ws://HOST:PORT.
func (r Reference) Server(bind, database string, args ...string) []string {
	return append([]string{r.Python, filepath.Join(r.Dir, "bin/bitbake-hashserv"), "--bind", bind, "--database", database}, args...)
}

// Start runs a server in dir, where its log and its database are, and returns when it listens. It ends with this process.
func (r Reference) Start(ctx context.Context, dir, name, bind string, args ...string) (*server.Process, error) {
	return server.Start(ctx, dir, name, r.Env(), func() bool { return Listens(bind) }, r.Server(bind, filepath.Join(dir, name+".sqlite"), args...)...)
}

// Listens reports whether something listens at HOST:PORT, ws://HOST:PORT[/PATH], wss://HOST:PORT[/PATH] or unix://PATH.
func Listens(address string) bool {
	network, where := "tcp", address
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		network, where = "unix", path
	}
	for _, scheme := range []string{"ws://", "wss://"} {
		where = strings.TrimPrefix(where, scheme)
	}
	if network == "tcp" {
		where, _, _ = strings.Cut(where, "/")
	}
	conn, err := net.DialTimeout(network, where, time.Second)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}
