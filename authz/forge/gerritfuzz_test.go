package forge

import (
	"strings"
	"testing"
)

// FuzzGerritStream: whatever a line holds, what comes of it is about this forge, and no wider or narrower than it must be.
func FuzzGerritStream(f *testing.F) {
	f.Add(`{"type":"ref-updated","refUpdate":{"refName":"refs/users/42/1000042","project":"All-Users"}}`)
	f.Add(`{"type":"batch-ref-updated","refUpdates":[{"refName":"refs/meta/config","project":"x"}]}`)
	f.Add(`{"type":"comment-added"}`)
	f.Add(``)
	f.Add(`{`)
	g := &Gerrit{config: GerritConfig{Name: "g", AllUsers: "All-Users"}}
	f.Fuzz(func(t *testing.T, line string) {
		for _, e := range g.readEvent([]byte(line)) {
			if e.Forge != "g" || e.Repo != "" || e.Key != "" || e.Why == "" || e.User != "" && !isGerritAccount(e.User) {
				t.Errorf("%q: %+v", line, e)
			}
			if e.User != "" && !strings.Contains(line, e.User[:1]) {
				t.Errorf("%q: %+v", line, e)
			}
		}
		if id, ok := gerritUserRef(line); ok && "refs/users/"+id[max(0, len(id)-2):]+"/"+id != line && len(id) > 1 {
			t.Errorf("%q is of %q", line, id)
		}
	})
}
