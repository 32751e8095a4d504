package gateway_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestReadAt: ReadAt answers like a file, wherever it is asked, counts what it returned, and opens the object no more often than it
// must.
func TestReadAt(t *testing.T) {
	g, o := throughReview(t)
	content := opened(t, g, o)
	size, before := int64(len(o.Content)), len(g.Upstream.Names())
	const step = 32 << 10
	var want int64
	for _, off := range []int64{0, 2 * step, step, 3 * step, 7 * step, 6 * step, 5 * step, 4 * step, 8 * step, 8*step + 1, size - 1, size - step, 17} {
		buf := make([]byte, step)
		n, err := content.ReadAt(t.Context(), buf, off)
		if left := size - off; left < step && err != io.EOF || left >= step && err != nil || int64(n) != min(step, left) || !bytes.Equal(buf[:n], o.Content[off:off+int64(n)]) {
			t.Errorf("at %d: %d, %v", off, n, err)
		}
		want += int64(n)
	}
	for _, off := range []int64{-1, size, size + 1, 1<<63 - 1} {
		if n, err := content.ReadAt(t.Context(), make([]byte, step), off); n != 0 || err != io.EOF {
			t.Errorf("at %d: %d, %v", off, n, err)
		}
	}
	if n := len(g.Upstream.Names()) - before; n > 5 { // at the start, back by one byte, at the end, back again, and at 17
		t.Errorf("opened %d times", n)
	}
	content.Close(http.StatusOK, "")
	if n, err := content.ReadAt(t.Context(), make([]byte, 1), 0); n != 0 || err == nil || err == io.EOF {
		t.Errorf("after Close: %d, %v", n, err)
	}
	if e := eventsOf(g, "transfer"); len(e) != 1 || e[0].Result.Bytes != want || !e[0].Result.Complete {
		t.Errorf("recorded %+v, read %d", e, want)
	}
}

// TestReadAtAsksAgain: a right that is withdrawn ends ReadAt within a second of reading on, for good, and an event says so.
func TestReadAtAsksAgain(t *testing.T) {
	g, o := throughReview(t)
	content := opened(t, g, o)
	withdraw(t, g, review+o.Name)
	var err error
	eventually(t, "ReadAt fails", func() bool {
		_, err = content.ReadAt(t.Context(), make([]byte, 1), 0)
		return err != nil
	})
	if !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("%v", err)
	}
	g.WriteForge(gwtest.DefaultForge)
	eventually(t, "bob may read again", func() bool { return g.As("bob").Head(review+o.Name).StatusCode == http.StatusOK })
	if _, err := content.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("a transfer that was cut goes on: %v", err)
	}
	content.Close(http.StatusOK, "")
	if n := len(eventsOf(g, "transfer.cut")); n != 1 {
		t.Errorf("%d transfers are said to be cut", n)
	}
}

// TestMayWrite: only who may write in a zone is told that it is there.
func TestMayWrite(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	for user, want := range map[string]error{"ci": nil, "alice": gateway.ErrNotFound, "bob": gateway.ErrNotFound} {
		s, err := g.Gateway.Session(t.Context(), gateway.Door{Name: "test"}, authn.Credential{Token: authn.NewSecret(g.As(user).Token)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.MayWrite(t.Context(), "main"); err != want {
			t.Errorf("%s: %v, want %v", user, err, want)
		}
		if err := s.MayWrite(t.Context(), "nowhere"); err != gateway.ErrNotFound {
			t.Errorf("%s, nowhere: %v", user, err)
		}
	}
}
