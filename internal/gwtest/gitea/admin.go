package gitea

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"
)

// Do asks the server's interface with Token, as path below /api/v1/ has it, and reads the answer into receive unless it is nil. It returns
// the status, and fails the test unless that is one of want; none is any of 2xx.
func (s *Server) Do(method, path string, send, receive any, want ...int) int {
	s.T.Helper()
	return s.do(method, path, func(r *http.Request) { r.Header.Set("Authorization", "token "+s.Token) }, send, receive, want)
}

func (s *Server) do(method, path string, sign func(*http.Request), send, receive any, want []int) int {
	s.T.Helper()
	var body bytes.Buffer
	if send != nil {
		s.must(json.MarshalWrite(&body, send))
	}
	req, err := http.NewRequestWithContext(s.T.Context(), method, s.URL+"/api/v1/"+path, &body)
	s.must(err)
	sign(req)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	s.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	s.must(err)
	expected := len(want) == 0 && resp.StatusCode/100 == 2
	for _, status := range want {
		expected = expected || status == resp.StatusCode
	}
	if !expected {
		s.T.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, text)
	}
	if receive != nil && resp.StatusCode/100 == 2 {
		s.must(json.Unmarshal(text, receive))
	}
	return resp.StatusCode
}

// NewToken makes a token of Admin with the scopes alone.
func (s *Server) NewToken(name string, scopes ...string) string {
	s.T.Helper()
	var token struct {
		SHA1 string `json:"sha1"`
	}
	sign := func(r *http.Request) { r.SetBasicAuth(Admin, adminPassword) }
	s.do(http.MethodPost, "users/"+Admin+"/tokens", sign, map[string]any{"name": name, "scopes": scopes}, &token, nil)
	return token.SHA1
}

// AddUser adds a user who may sign in, and returns the user's id. A user who is there is left alone.
func (s *Server) AddUser(name string) int64 {
	s.T.Helper()
	var u struct {
		ID int64 `json:"id"`
	}
	if s.Do(http.MethodGet, "users/"+name, nil, &u, http.StatusOK, http.StatusNotFound) == http.StatusOK {
		return u.ID
	}
	s.Do(http.MethodPost, "admin/users", map[string]any{
		"username": name, "email": name + "@example.com", "password": "only-for-this-test-2", "must_change_password": false,
	}, &u)
	return u.ID
}

// ChangeUser sets members of a user, such as "prohibit_login", "active" and "restricted".
func (s *Server) ChangeUser(name string, set map[string]any) {
	s.T.Helper()
	all := map[string]any{"login_name": name, "source_id": 0}
	for k, v := range set {
		all[k] = v
	}
	s.Do(http.MethodPatch, "admin/users/"+name, all, nil)
}

// Block forbids a user to sign in, or allows it again.
func (s *Server) Block(name string, blocked bool) {
	s.T.Helper()
	s.ChangeUser(name, map[string]any{"prohibit_login": blocked})
}

// RenameUser gives a user another name. The old one leads to the user until somebody else takes it.
func (s *Server) RenameUser(from, to string) {
	s.T.Helper()
	s.Do(http.MethodPost, "admin/users/"+from+"/rename", map[string]any{"new_username": to}, nil)
}

// Purge deletes a user with all that is the user's, if there is one.
func (s *Server) Purge(name string) {
	s.T.Helper()
	s.Do(http.MethodDelete, "admin/users/"+name+"?purge=true", nil, nil, http.StatusNoContent, http.StatusNotFound)
}

// NewSigner makes an SSH key of nobody.
func (s *Server) NewSigner() ssh.Signer {
	s.T.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	s.must(err)
	signer, err := ssh.NewSignerFromKey(private)
	s.must(err)
	return signer
}

func authorizedKey(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// AddKey makes an SSH key and gives it to a user.
func (s *Server) AddKey(user string) ssh.Signer {
	s.T.Helper()
	signer := s.NewSigner()
	s.Do(http.MethodPost, "admin/users/"+user+"/keys", map[string]any{
		"title": ssh.FingerprintSHA256(signer.PublicKey()), "key": authorizedKey(signer.PublicKey()),
	}, nil)
	return signer
}

// RemoveKey takes an SSH key away from a user.
func (s *Server) RemoveKey(user, fingerprint string) {
	s.T.Helper()
	var keys []struct {
		ID          int64  `json:"id"`
		Fingerprint string `json:"fingerprint"`
	}
	s.Do(http.MethodGet, "users/"+user+"/keys?limit=50", nil, &keys)
	for _, k := range keys {
		if k.Fingerprint == fingerprint {
			s.Do(http.MethodDelete, fmt.Sprintf("admin/users/%s/keys/%d", user, k.ID), nil, nil)
			return
		}
	}
	s.T.Fatalf("%s has no key %s", user, fingerprint)
}

// AddDeployKey makes an SSH key and gives it to a repository, for reading.
func (s *Server) AddDeployKey(path string) ssh.Signer {
	s.T.Helper()
	signer := s.NewSigner()
	s.Do(http.MethodPost, "repos/"+path+"/keys", map[string]any{
		"title": ssh.FingerprintSHA256(signer.PublicKey()), "key": authorizedKey(signer.PublicKey()), "read_only": true,
	}, nil)
	return signer
}

// AddRepo adds a repository OWNER/NAME with one commit, and OWNER as a user when there is none. It returns its id.
func (s *Server) AddRepo(path string, public bool) int64 {
	s.T.Helper()
	owner, name, _ := strings.Cut(path, "/")
	s.AddUser(owner)
	return s.addRepo("admin/users/"+owner+"/repos", name, public, true)
}

// AddEmptyRepo is AddRepo without a commit.
func (s *Server) AddEmptyRepo(path string, public bool) int64 {
	s.T.Helper()
	owner, name, _ := strings.Cut(path, "/")
	s.AddUser(owner)
	return s.addRepo("admin/users/"+owner+"/repos", name, public, false)
}

func (s *Server) addRepo(where, name string, public, commit bool) int64 {
	s.T.Helper()
	var repo struct {
		ID int64 `json:"id"`
	}
	s.Do(http.MethodPost, where, map[string]any{"name": name, "private": !public, "auto_init": commit, "default_branch": "main"}, &repo)
	return repo.ID
}

// Grant makes a user a collaborator of a repository who may read it.
func (s *Server) Grant(user, path string) {
	s.T.Helper()
	s.Do(http.MethodPut, "repos/"+path+"/collaborators/"+user, map[string]any{"permission": "read"}, nil)
}

// Withdraw undoes Grant.
func (s *Server) Withdraw(user, path string) {
	s.T.Helper()
	s.Do(http.MethodDelete, "repos/"+path+"/collaborators/"+user, nil, nil)
}

// Rename gives a repository another name under the same owner. The old path leads to it until another takes it.
func (s *Server) Rename(from, to string) {
	s.T.Helper()
	_, name, _ := strings.Cut(to, "/")
	s.Do(http.MethodPatch, "repos/"+from, map[string]any{"name": name}, nil)
}

// Delete deletes a repository.
func (s *Server) Delete(path string) {
	s.T.Helper()
	s.Do(http.MethodDelete, "repos/"+path, nil, nil)
}

// AddOrg adds an organization, whose visibility is "public", "limited" or "private", and returns a function that adds a repository to it.
func (s *Server) AddOrg(name, visibility string) (addRepo func(name string, public bool) int64) {
	s.T.Helper()
	s.Do(http.MethodPost, "orgs", map[string]any{"username": name, "visibility": visibility}, nil)
	return func(repo string, public bool) int64 {
		s.T.Helper()
		return s.addRepo("orgs/"+name+"/repos", repo, public, true)
	}
}

// AddTeam adds a team to an organization, which may read the units of all its repositories, such as "repo.code" and "repo.issues", and
// one member.
func (s *Server) AddTeam(org, name, member string, units ...string) {
	s.T.Helper()
	modes := map[string]string{}
	for _, unit := range units {
		modes[unit] = "read"
	}
	var team struct {
		ID int64 `json:"id"`
	}
	s.Do(http.MethodPost, "orgs/"+org+"/teams", map[string]any{
		"name": name, "permission": "read", "units": units, "units_map": modes, "includes_all_repositories": true,
	}, &team)
	s.Do(http.MethodPut, fmt.Sprintf("teams/%d/members/%s", team.ID, member), nil, nil)
}

// AddHook adds a system webhook for the events, and returns its id.
func (s *Server) AddHook(url, secret string, events ...string) int64 {
	s.T.Helper()
	var hook struct {
		ID int64 `json:"id"`
	}
	s.Do(http.MethodPost, "admin/hooks", map[string]any{
		"type": "gitea", "active": true, "events": events, "config": map[string]any{"url": url, "content_type": "json", "secret": secret, "is_system_webhook": "true"},
	}, &hook)
	return hook.ID
}
