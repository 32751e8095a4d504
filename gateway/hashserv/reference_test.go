//go:build reference

package hashserv_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/gateway/hashserv"
	"github.com/lychgate/lychgate/gateway/hashserv/hashtest"
	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// TestReference runs the suite against the reference server, by way of Client: what the suite asks of ours is what that one does, but
// for the differences that are listed here. BITBAKE_DIR is a checkout of openembedded/bitbake, in which nothing is written.
//
//	go test -tags reference -run TestReference ./gateway/hashserv
func TestReference(t *testing.T) {
	differences := []hashtest.Difference{
		hashtest.OverWire, // the protocol is what it is
		hashtest.OwnClock, // it takes the machine's
		hashtest.KeepsNothing,
		hashtest.RemapsDuplicates, // on SQLite it takes every insert for one that succeeded
		hashtest.LosesBlanks,      // it cuts long messages at any character
		hashtest.CleansAnyAge,     // it negates the age twice
	}
	for _, network := range []string{"unix", "tcp", "ws"} {
		t.Run(network, func(t *testing.T) {
			if network == "ws" && exec.Command("python3", "-c", "import websockets").Run() != nil {
				t.Fatal("the reference server needs python3-websockets for it: apt-get install python3-websockets")
			}
			hashtest.Run(t, func(t testing.TB, _ hashtest.Config) hashserv.Store {
				return clClient(t, hashserv.ClientConfig{Address: clReference(t, network)})
			}, differences...)
		})
	}
	t.Run("through", func(t *testing.T) {
		hashtest.Run(t, func(t testing.TB, c hashtest.Config) hashserv.Store {
			upstream := clClient(t, hashserv.ClientConfig{Address: clReference(t, "unix")})
			return hashserv.Through(hashserv.NewMemory(hashserv.MemoryConfig{}), upstream, hashserv.ThroughConfig{})
		}, differences...)
	})
}

// TestReferenceProbe: what the reference server lets anonymous users do is what Probe says.
func TestReferenceProbe(t *testing.T) {
	for permissions, want := range map[string]hashserv.Anonymous{
		"@none":                   {},
		"@read":                   {Read: true},
		"@read,@report":           {Read: true, Report: true},
		"@read,@db-admin":         {Read: true, DBAdmin: true},
		"@read,@report,@db-admin": {Read: true, Report: true, DBAdmin: true},
	} {
		address := clReference(t, "unix", "--anon-perms", permissions)
		got, err := hashserv.Probe(t.Context(), nil, address)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", permissions, got, err)
		}
	}
	address := clReference(t, "tcp", "--read-only")
	if got, err := hashserv.Probe(t.Context(), nil, address); err != nil || got != (hashserv.Anonymous{Read: true, DBAdmin: true}) {
		t.Errorf("read-only: %+v, %v", got, err)
	}
}

// TestReferenceUsers: Client signs in there and manages its users.
func TestReferenceUsers(t *testing.T) {
	ctx := t.Context()
	address := clReference(t, "tcp", "--anon-perms", "@none", "--admin-user", "root", "--admin-password", "secret")
	clUsers(t, ctx, address, "root", "secret")
}

// clReference starts a reference server and returns its address.
func clReference(t testing.TB, network string, more ...string) string {
	t.Helper()
	dir := os.Getenv("BITBAKE_DIR")
	if dir == "" {
		t.Fatal("BITBAKE_DIR is not set: it is a checkout of https://github.com/openembedded/bitbake")
	}
	where, err := os.MkdirTemp("", "hashserv")
	if err != nil {
		t.Fatal(err)
	}
	bind, err := loopback.Free()
	if err != nil {
		t.Fatal(err)
	}
	dial := bind
	switch network {
	case "unix":
		dial = filepath.Join(where, "s")
		bind = "unix://" + dial
	case "ws":
		network, bind = "tcp", "ws://"+dial
	}
	cmd := exec.Command("python3", append([]string{filepath.Join(dir, "bin", "bitbake-hashserv"), "--bind", bind, "--database", filepath.Join(where, "db")}, more...)...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		os.RemoveAll(where)
	})
	clListens(t, network, dial)
	return bind
}

func clListens(t testing.TB, network, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			conn.Close()
			return
		}
		if ctx.Err() != nil || strings.Contains(err.Error(), "permission") {
			t.Fatalf("the server does not listen: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// clUsers goes through the commands about users, as an administrator of a server that has no other users.
func clUsers(t *testing.T, ctx context.Context, address, name, token string) {
	t.Helper()
	admin := clClient(t, hashserv.ClientConfig{Address: address, Username: name, Token: token})
	all := []hashserv.Permission{hashserv.Read, hashserv.Reporting}
	ann, secret, err := admin.NewUser(ctx, "ann", all)
	if err != nil || ann.Name != "ann" || secret == "" || !slices.Equal(ann.Permissions, all) {
		t.Fatalf("NewUser = %v, %q, %v", ann, secret, err)
	}
	var refusal *hashserv.Refusal
	if _, _, err = admin.NewUser(ctx, "ann", nil); !errors.As(err, &refusal) {
		t.Fatalf("the same user again: %v", err)
	}
	asAnn := clClient(t, hashserv.ClientConfig{Address: address, Username: "ann", Token: secret})
	if got, err := asAnn.User(ctx, ""); err != nil || got == nil || got.Name != "ann" {
		t.Fatalf("ann's own user: %v, %v", got, err)
	}
	if got, err := asAnn.Report(ctx, hashserv.Report{Task: hashserv.Task{Method: "m", Taskhash: "t"}, Outhash: "o", Unihash: hashtest.U(1)}); err != nil || got.Unihash != hashtest.U(1) {
		t.Fatalf("ann reports: %v, %v", got, err)
	}
	if row, err := asAnn.Outhash(ctx, hashserv.Query{Method: "m", Outhash: "o"}); err != nil || row == nil || row.Owner != "ann" {
		t.Fatalf("ann's report: %v, %v", row, err)
	}
	if _, err := asAnn.Usage(ctx); !errors.As(err, &refusal) {
		t.Fatalf("ann asks what only an administrator may: %v", err)
	}
	become := clClient(t, hashserv.ClientConfig{Address: address, Username: name, Token: token, As: "ann"})
	if got, err := become.User(ctx, ""); err != nil || got == nil || got.Name != "ann" {
		t.Fatalf("an administrator as ann: %v, %v", got, err)
	}
	if got, err := admin.SetPermissions(ctx, "ann", []hashserv.Permission{hashserv.Read}); err != nil || len(got.Permissions) != 1 {
		t.Fatalf("SetPermissions = %v, %v", got, err)
	}
	if users, err := admin.AllUsers(ctx); err != nil || len(users) != 2 {
		t.Fatalf("AllUsers = %v, %v", users, err)
	}
	if _, fresh, err := admin.RefreshToken(ctx, "ann"); err != nil || fresh == secret {
		t.Fatalf("RefreshToken: %v", err)
	}
	late := clClient(t, hashserv.ClientConfig{Address: address, Username: "ann", Token: secret})
	if err := late.Ping(ctx); !errors.Is(err, hashserv.ErrUnavailable) || errors.As(err, &refusal) {
		t.Fatalf("an old token: %v", err)
	}
	if got, err := admin.DeleteUser(ctx, "ann"); err != nil || got != "ann" {
		t.Fatalf("DeleteUser = %q, %v", got, err)
	}
	if got, err := admin.User(ctx, "ann"); err != nil || got != nil {
		t.Fatalf("a user that is gone: %v, %v", got, err)
	}
}
