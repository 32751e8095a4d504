package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
)

// ControlPath returns where an agent's control socket is for the user of an environment: lychgate/agent.sock in $XDG_RUNTIME_DIR, else in the
// user's cache directory.
func ControlPath(env func(string) string) (string, error) {
	dir := env("XDG_RUNTIME_DIR")
	if dir == "" {
		home := env("HOME")
		if home == "" {
			return "", errors.New("there is no place for the control socket: set XDG_RUNTIME_DIR or HOME, or give --control FILE")
		}
		dir = filepath.Join(home, ".cache")
	}
	return filepath.Join(dir, "lychgate", "agent.sock"), nil
}

// SharedControlPath is where a shared agent's control socket is.
const SharedControlPath = "/run/lychgate/agent.sock"

// ListenUnix listens on a socket that its user alone can reach: in a directory of mode 0700, which it makes if there is none. What an agent that
// was killed left there is replaced; where another one answers it is refused.
func ListenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	if err := checkPrivate(filepath.Dir(path), "the socket"); err != nil {
		return nil, err
	}
	return listenUnix(path, 0o600)
}

// ListenShared is ListenUnix for a socket that every user can reach and nobody else can replace.
func ListenShared(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	if err := checkSteady(filepath.Dir(path), os.Getuid()); err != nil {
		return nil, err
	}
	return listenUnix(path, 0o666)
}

// checkSteady refuses a directory in which others than root and a user can replace the socket.
func checkSteady(dir string, uid int) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 && int(st.Uid) != uid || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others can replace the socket in %s: it must belong to root or to the agent's user, and nobody else may write to it", dir)
	}
	return nil
}

func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		return nil, errors.Join(fmt.Errorf("an agent is running already: it answers on %s", path), c.Close())
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is there and is no socket", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// checkPrivate refuses a directory that others can enter. what is to be in it.
func checkPrivate(dir, what string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others can enter %s, where %s is to be: chmod 700 %s", dir, what, dir)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Getuid() {
		return fmt.Errorf("%s, where %s is to be, belongs to another user", dir, what)
	}
	return nil
}

// ServeControl answers [Ask], [AskRecipes] and [AskWhy] on a unix socket, as soon as the agent serves, until ctx is done. It closes the listener.
func (a *Agent) ServeControl(ctx context.Context, ln net.Listener) error {
	select {
	case <-a.serving:
	case <-ctx.Done():
		return ln.Close()
	}
	return serveControl(ctx, a.guard(ln), &http.Server{Handler: a.controls()})
}

func serveControl(ctx context.Context, ln net.Listener, server *http.Server) error {
	server.ReadHeaderTimeout, server.WriteTimeout, server.IdleTimeout, server.MaxHeaderBytes = headerTime, whyTime+headerTime, time.Minute, maxHead
	server.ReadTimeout = headerTime
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// controls answers what people ask an agent.
func (a *Agent) controls() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		a.link.greet(r.Context())
		answerJSON(w, a.Status())
	})
	mux.HandleFunc("GET /v1/recipes", func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, a.Recipes()) })
	mux.HandleFunc("POST /v1/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "this agent serves its own user alone: there is nothing to join or to leave", http.StatusConflict)
	})
	mux.HandleFunc("GET /v1/why", func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, a.Why(r.Context(), r.URL.Query().Get("recipe")))
	})
	return mux
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.MarshalWrite(w, v) // to somebody who has gone
}

// Listen listens on HOST:PORT, which must be loopback, or on unix:PATH.
func Listen(place string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(place, "unix:"); ok {
		return ListenUnix(path)
	}
	at, err := net.ResolveTCPAddr("tcp", place)
	if err != nil {
		return nil, fmt.Errorf("%q is no HOST:PORT: %w", place, err)
	}
	if !at.IP.IsLoopback() {
		return nil, fmt.Errorf("the agent does not listen on %s: it shows what its user may read, so it takes loopback (127.0.0.1:PORT) or unix:PATH alone", place)
	}
	ln, err := net.ListenTCP("tcp", at)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: is an agent running already, perhaps another user's? Choose another port with --listen 127.0.0.1:PORT", err)
	}
	return ln, err
}
