package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

const (
	// maxStatus bounds the answer of an agent in bytes, maxRefusal what is shown of one that refuses.
	maxStatus  = 16 << 20
	maxRefusal = 500
)

// ErrNoAgent is wrapped when no agent answers on a control socket.
var ErrNoAgent = errors.New("no agent answers")

// Ask asks the agent behind a control socket for its status. That there is none is an error that wraps [ErrNoAgent].
func Ask(ctx context.Context, path string) (s Status, err error) {
	err = question{path: path, target: "/v1/status"}.ask(ctx, &s)
	return s, err
}

// AskRecipes asks the agent behind a control socket for [Agent.Recipes].
func AskRecipes(ctx context.Context, path string) (list []RecipeCount, err error) {
	err = question{path: path, target: "/v1/recipes"}.ask(ctx, &list)
	return list, err
}

// AskWhy asks the agent behind a control socket for [Agent.Why].
func AskWhy(ctx context.Context, path, recipe string) (w RecipeWhy, err error) {
	err = question{path: path, target: "/v1/why?recipe=" + url.QueryEscape(recipe)}.ask(ctx, &w)
	return w, err
}

// AskJoin has a shared agent serve the asker by a token, and returns whom the gate takes the asker for. The token is sent only to the user, or
// to root, whom the socket's place belongs to.
func AskJoin(ctx context.Context, path string, token authn.Secret) (me gateway.Whoami, err error) {
	body, err := json.Marshal(joinRequest{Token: token.Reveal()})
	if err != nil {
		return me, err
	}
	err = question{path: path, method: http.MethodPost, target: "/v1/join", body: body}.ask(ctx, &me)
	return me, err
}

// AskLeave has a shared agent forget the asker's token.
func AskLeave(ctx context.Context, path string) error {
	return question{path: path, method: http.MethodPost, target: "/v1/leave"}.ask(ctx, &struct{}{})
}

// question is what an agent is asked on its control socket.
type question struct {
	path   string // of the socket
	method string // "" is GET
	target string
	body   []byte // a secret: it is sent only where nobody else can have put a socket
}

func (q question) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", q.path)
	if err != nil || q.body == nil {
		return c, err
	}
	owner, err := ownerOf(c)
	if err == nil {
		err = checkSteady(filepath.Dir(q.path), owner)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// ask decodes the answer into a value.
func (q question) ask(ctx context.Context, into any) error {
	ctx, cancel := context.WithTimeout(ctx, whyTime+headerTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, q.method, "http://localhost"+q.target, bytes.NewReader(q.body))
	if err != nil {
		return err
	}
	res, err := (&http.Transport{DialContext: q.dial, DisableKeepAlives: true}).RoundTrip(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w on %s: start one with lychgate agent --gate URL", ErrNoAgent, q.path)
	}
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxStatus))
	switch {
	case err != nil:
		return fmt.Errorf("ask the agent: %w", err)
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("the agent on %s refuses: %q", q.path, bytes.TrimSpace(text[:min(len(text), maxRefusal)]))
	}
	if err := json.Unmarshal(text, into, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("ask the agent: its answer is not understood (is it of another version?): %w", err)
	}
	return nil
}
