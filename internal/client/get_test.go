package client

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
)

func TestGet(t *testing.T) {
	content := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(content)
	digestField := func(b []byte) string {
		s := sha256.Sum256(b)
		return "md5=:AAAA:, sha-256=:" + base64.StdEncoding.EncodeToString(s[:]) + ":"
	}
	whole := digestField(content)
	serve := func(w http.ResponseWriter, r *http.Request, b []byte, field string) {
		w.Header().Set("Repr-Digest", field)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
	cutting := func(cuts int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if cuts--; cuts < 0 {
				serve(w, r, content, whole)
				return
			}
			w.Header().Set("Repr-Digest", whole)
			var from int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
				w.WriteHeader(http.StatusPartialContent)
			}
			_, _ = w.Write(content[from : from+1000*(cuts+1)])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	first := true
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    string // in the error; empty for success
	}{
		{"whole", func(w http.ResponseWriter, r *http.Request) { serve(w, r, content, whole) }, ""},
		{"cut nine times", cutting(9), ""},
		{"absent", http.NotFound, "not there, or not for you"},
		{"no digest", func(w http.ResponseWriter, r *http.Request) { serve(w, r, content, "") }, "no sha-256 digest"},
		{"other bytes", func(w http.ResponseWriter, r *http.Request) { serve(w, r, content[1:], whole) }, "do not use them"},
		{"changed in between", func(w http.ResponseWriter, r *http.Request) {
			if first {
				first = false
				cutting(1)(w, r)
			}
			serve(w, r, content, digestField([]byte("new")))
		}, "changed while it was read"},
		{"redirect", http.RedirectHandler("https://evil.example.com/", http.StatusFound).ServeHTTP, "redirects"},
		{"forbidden", func(w http.ResponseWriter, r *http.Request) { refuse(w, 401, "expired", "") }, "401"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.EscapedPath() != "/sstate/main/ab/cd/sstate:a+b" || r.Header.Get("Authorization") != "Bearer t" {
					t.Errorf("asked for %s as %q", r.URL.EscapedPath(), r.Header.Get("Authorization"))
				}
				tt.handler(w, r)
			}))
			defer server.Close()
			c, err := New(Config{Gate: server.URL, Token: authn.NewSecret("t"), Wait: (&waits{}).wait})
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			_, n, err := c.Get(t.Context(), "main", "ab/cd/sstate:a+b", &out)
			switch {
			case tt.want == "" && (err != nil || n != int64(len(content)) || !bytes.Equal(out.Bytes(), content)):
				t.Errorf("%d bytes, %v", n, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want %q", err, tt.want)
			}
			if tt.name == "absent" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v is not fs.ErrNotExist", err)
			}
		})
	}
}
