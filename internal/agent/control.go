package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
)

// maxStatus bounds the answer of an agent in bytes.
const maxStatus = 16 << 20

// ErrNoAgent is wrapped when no agent answers on a control socket.
var ErrNoAgent = errors.New("no agent answers")

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

// ListenUnix listens on a socket that its user alone can reach: in a directory of mode 0700, which it makes if there is none. What an agent that
// was killed left there is replaced; where another one answers it is refused.
func ListenUnix(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	if err := checkPrivate(dir, "the socket"); err != nil {
		return nil, err
	}
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
	if err := os.Chmod(path, 0o600); err != nil {
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
	server := &http.Server{Handler: a.controls(), ReadHeaderTimeout: headerTime, WriteTimeout: whyTime + headerTime, IdleTimeout: time.Minute, MaxHeaderBytes: maxHead}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(a.guard(ln)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// controls answers what people ask an agent.
func (a *Agent) controls() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, a.Status()) })
	mux.HandleFunc("GET /v1/recipes", func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, a.Recipes()) })
	mux.HandleFunc("GET /v1/why", func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, a.Why(r.Context(), r.URL.Query().Get("recipe")))
	})
	return mux
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.MarshalWrite(w, v) // to somebody who has gone
}

// Ask asks the agent behind a control socket for its status. That there is none is an error that wraps [ErrNoAgent].
func Ask(ctx context.Context, path string) (s Status, err error) {
	err = askControl(ctx, path, "/v1/status", &s)
	return s, err
}

// AskRecipes asks the agent behind a control socket for [Agent.Recipes].
func AskRecipes(ctx context.Context, path string) (list []RecipeCount, err error) {
	err = askControl(ctx, path, "/v1/recipes", &list)
	return list, err
}

// AskWhy asks the agent behind a control socket for [Agent.Why].
func AskWhy(ctx context.Context, path, recipe string) (w RecipeWhy, err error) {
	err = askControl(ctx, path, "/v1/why?recipe="+url.QueryEscape(recipe), &w)
	return w, err
}

func askControl(ctx context.Context, path, target string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, whyTime+headerTime)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+target, nil)
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w on %s: start one with lychgate agent --gate URL", ErrNoAgent, path)
	}
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxStatus))
	if err != nil || res.StatusCode != http.StatusOK {
		return errors.Join(fmt.Errorf("ask the agent: it answered %d", res.StatusCode), err)
	}
	if err := json.Unmarshal(text, into, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("ask the agent: its answer is not understood (is it of another version?): %w", err)
	}
	return nil
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
