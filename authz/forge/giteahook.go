package forge

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
)

// giteaHook is what the "repository" event says.
type giteaHook struct {
	Action     string `json:"action"` // "created" or "deleted"
	Repository struct {
		ID int64 `json:"id"`
	} `json:"repository"`
}

// ReadHook implements [Hooks]. Of all that Gitea and Forgejo post, the creation and the deletion of a repository alone concern
// permissions: they tell of no member, team, key, visibility or user.
//
// Source: Gitea's documentation of webhooks; Forgejo signs in its own header, and in Gitea's.
func (g *Gitea) ReadHook(header http.Header, body []byte) (Delivery, error) {
	if !g.signed(header, body) {
		return Delivery{}, hookError(g.config.Name, "the signature is missing or wrong: the webhook's secret must be the one configured here")
	}
	d := Delivery{ID: bodyID(body)}
	event := header.Get("X-Gitea-Event")
	if event == "" {
		event = header.Get("X-Forgejo-Event")
	}
	if event != "repository" {
		return d, nil
	}
	var hook giteaHook
	if err := json.Unmarshal(body, &hook); err != nil {
		return Delivery{}, hookError(g.config.Name, "the body is not the JSON of a repository event")
	}
	e := Event{Forge: g.config.Name, Why: "gitea hook repository"}
	if hook.Action == "created" || hook.Action == "deleted" {
		e.Why += " " + hook.Action
	}
	if hook.Repository.ID > 0 { // else it is about all of the forge
		e.Repo = strconv.FormatInt(hook.Repository.ID, 10)
	}
	d.Events = []Event{e}
	return d, nil
}

// signed reports whether there is a signature, and none is wrong.
func (g *Gitea) signed(header http.Header, body []byte) bool {
	seen := false
	for _, name := range []string{"X-Gitea-Signature", "X-Forgejo-Signature", "X-Hub-Signature-256"} {
		for _, signature := range header.Values(name) {
			if !signedBody(g.config.HookSecret, body, strings.TrimPrefix(signature, "sha256=")) {
				return false
			}
			seen = true
		}
	}
	return seen
}
