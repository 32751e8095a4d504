package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// CIJob is where the ID token of a CI job may be found.
type CIJob struct {
	File     string              // a file with the token; "" for none
	Env      func(string) string // the job's environment
	Audience string              // of the token: the gate's own address
	HTTP     *http.Client        // for GitHub's token service
}

// InCI reports whether the environment is a CI job's.
func InCI(env func(string) string) bool {
	return env("LYCHGATE_ID_TOKEN") != "" || env("GITLAB_CI") != "" || env("GITHUB_ACTIONS") != ""
}

// IDToken finds the job's ID token: in the file, in LYCHGATE_ID_TOKEN, which a GitLab job names under id_tokens, or from the
// token service of GitHub Actions, which makes one for the audience. from says where it was.
func (j CIJob) IDToken(ctx context.Context) (token authn.Secret, from string, err error) {
	var text string
	from = j.where()
	switch {
	case j.File != "":
		text, err = readTokenFile(j.File)
	case j.Env("LYCHGATE_ID_TOKEN") != "":
		text = j.Env("LYCHGATE_ID_TOKEN")
	case j.Env("ACTIONS_ID_TOKEN_REQUEST_URL") != "":
		text, err = j.github(ctx)
	default:
		return authn.Secret{}, "", j.missing()
	}
	if err != nil {
		return authn.Secret{}, from, fmt.Errorf("get the job's ID token from %s: %w", from, err)
	}
	text = strings.TrimSpace(text)
	if err := checkIDToken(text); err != nil {
		return authn.Secret{}, from, fmt.Errorf("get the job's ID token from %s: %w", from, err)
	}
	return authn.NewSecret(text), from, nil
}

// where says where the ID token is looked for.
func (j CIJob) where() string {
	switch {
	case j.File != "":
		return "the file " + j.File
	case j.Env("LYCHGATE_ID_TOKEN") == "" && j.Env("ACTIONS_ID_TOKEN_REQUEST_URL") != "":
		return "GitHub Actions"
	}
	return "LYCHGATE_ID_TOKEN"
}

// ViaJob signs in with the ID token of a CI job. An ID token is good for one sign-in: what renews must be able to get another, as from a file
// that somebody replaces, or from GitHub Actions.
type ViaJob struct {
	Job CIJob

	mu    sync.Mutex // guards spent
	spent [32]byte   // digest of the ID token that bought the last token
}

var _ TokenSource = (*ViaJob)(nil)

func (s *ViaJob) String() string { return "the ID token of " + printable(s.Job.where()) }

// Token implements [TokenSource].
func (s *ViaJob) Token(ctx context.Context, c *Client, r gateway.TokenRequest) (gateway.TokenReply, error) {
	idToken, from, err := s.Job.IDToken(ctx)
	if err != nil {
		return gateway.TokenReply{}, err
	}
	digest := authn.IDTokenDigest(idToken)
	s.mu.Lock()
	defer s.mu.Unlock()
	if digest == s.spent {
		return gateway.TokenReply{}, fmt.Errorf("the ID token of %s was used already, and there is no other", printable(from))
	}
	reply, err := c.As(idToken).Token(ctx, r)
	if isRefusal(err) {
		return reply, fmt.Errorf("%w\nThe gate did not take the job's ID token. Its audience must be %s, it can be used once, "+
			"and the gate's configuration must have a rule for this job: ask who runs the gate", err, printable(s.Job.Audience))
	}
	if err == nil {
		s.spent = digest
	}
	return reply, err
}

// missing explains what the job lacks.
func (j CIJob) missing() error {
	switch {
	case j.Env("GITHUB_ACTIONS") != "":
		return errors.New("this GitHub job has no ID token; give the job, or the workflow, these lines:\npermissions:\n  id-token: write\n  contents: read")
	case j.Env("GITLAB_CI") != "":
		return fmt.Errorf("this GitLab job has no ID token; give the job these lines:\nid_tokens:\n  LYCHGATE_ID_TOKEN:\n    aud: %s", printable(j.Audience))
	}
	return fmt.Errorf("there is no ID token: set LYCHGATE_ID_TOKEN, or give --id-token-file FILE; its audience must be %s", printable(j.Audience))
}

func readTokenFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIDToken+1))
	return string(text), err
}

// checkIDToken looks whether text has the form of a signed JSON Web Token (RFC 7515, section 3.1). What it says is the gate's to judge.
func checkIDToken(text string) error {
	parts := strings.Split(text, ".")
	switch {
	case text == "":
		return errors.New("it is empty")
	case len(text) > maxIDToken:
		return fmt.Errorf("it is longer than %d bytes", maxIDToken)
	case len(parts) != 3:
		return errors.New("it is no JSON Web Token")
	}
	for _, part := range parts {
		if strings.Trim(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" || part == "" {
			return errors.New("it is no JSON Web Token")
		}
	}
	return nil
}

// github asks the token service of GitHub Actions for a token that is for the gate.
func (j CIJob) github(ctx context.Context) (string, error) {
	u, err := url.Parse(j.Env("ACTIONS_ID_TOKEN_REQUEST_URL"))
	if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no https URL")
	}
	q := u.Query()
	q.Set("audience", j.Audience)
	u.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, tokenTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no https URL")
	}
	req.Header.Set("Authorization", "Bearer "+j.Env("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
	req.Header.Set("Accept", "application/json")
	var reply struct {
		Value string `json:"value"`
	}
	err = getJSON(j.HTTP, req, &reply)
	return reply.Value, err
}

// maxDocument bounds a JSON document of somebody who is not the gate, in bytes.
const maxDocument = 1 << 20

// getJSON reads one document, with members that we do not know. It follows no redirect.
func getJSON(c *http.Client, req *http.Request, into any) error {
	direct := *c
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := direct.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %d", printable(req.URL.Host), resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return err
	}
	if len(text) > maxDocument {
		return fmt.Errorf("the answer of %s is longer than %d bytes", printable(req.URL.Host), maxDocument)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("the answer of %s is not understood: %w", printable(req.URL.Host), err)
	}
	return nil
}
