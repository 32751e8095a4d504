package authn_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

func TestFileIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		writeFile(t, dir, "keys", []byte("one"))
		var logged bytes.Buffer
		f, err := authn.LoadFile(authn.FileConfig[string]{
			Path: filepath.Join(dir, "keys"), Logger: slog.New(slog.NewTextHandler(&logged, nil)),
			Parse: func(name string, data []byte) (string, error) {
				if name != "keys" || bytes.HasPrefix(data, []byte("bad")) {
					return "", &authn.FileError{File: name, Reason: "it is bad", Hint: "mend it"}
				}
				return string(data), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() } // in the bubble's time
		says := func(want string, good bool) {
			t.Helper()
			if got, err := f.Current(); got != want || (err == nil) != good {
				t.Errorf("the file says %q, %v; want %q, good %v", got, err, want, good)
			}
		}
		says("one", true)
		writeFile(t, dir, "keys", []byte("two"))
		wait(2 * time.Second)
		says("two", true)

		writeFile(t, dir, "keys", []byte("bad"))
		wait(298 * time.Second)
		says("two", true) // the last good one
		wait(4 * time.Second)
		says("two", false) // is too old, and still known
		writeFile(t, dir, "keys", []byte("three"))
		wait(2 * time.Second)
		says("three", true)

		if err := os.Remove(filepath.Join(dir, "keys")); err != nil {
			t.Fatal(err)
		}
		wait(400 * time.Second)
		says("three", false)
		if _, err := f.Current(); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a file that is gone: %v", err)
		}
		writeFile(t, dir, "keys", []byte("three"))
		wait(2 * time.Second)
		says("three", true)
		writeFile(t, dir, "keys", make([]byte, 16<<20+1))
		wait(2 * time.Second)
		says("three", true) // it is not read whole, and the last good one holds

		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		if n := strings.Count(logged.String(), "not usable"); n != 3 {
			t.Errorf("%d complaints, want one for each fault:\n%s", n, &logged)
		}
	})
}

func TestLoadFileRefuses(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "keys", []byte("command=\"x\" "+keyLine(t, "ed25519")))
	_, err := authn.LoadFile(authn.FileConfig[*authn.AuthorizedKeyList]{Path: filepath.Join(dir, "keys"), Parse: authn.ParseAuthorizedKeys})
	var fe *authn.FileError
	if !errors.As(err, &fe) || fe.Line != 1 {
		t.Errorf("a bad file: %v", err)
	}
	_, err = authn.LoadFile(authn.FileConfig[*authn.AuthorizedKeyList]{Path: filepath.Join(dir, "gone"), Parse: authn.ParseAuthorizedKeys})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := authn.LoadFile(authn.FileConfig[string]{Path: filepath.Join(dir, "keys")}); err == nil {
		t.Error("a file was loaded that nobody can read")
	}
}
