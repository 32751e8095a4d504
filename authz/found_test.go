package authz_test

import (
	"testing"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
)

// TestDecideFound: about a record that was found otherwise than by its name the answer is the one about its name; what the zone does not read, or
// what is no read, is not decided about.
func TestDecideFound(t *testing.T) {
	w := newWorld(t)
	w.allow("alice", "a", forge.Read)
	a := w.authorizer()
	names := map[string]provenance.Record{}
	for name, sources := range map[string][]string{"a": {"a"}, "b": {"b"}, "both": {"a", "b"}, "public": {}, "nothing": nil} {
		list := list(publicRepo())
		for _, id := range sources {
			list = append(list, repo(id))
		}
		if sources == nil {
			list = nil
		}
		names[name] = w.records[w.publish(name, list)]
	}
	for name, record := range names {
		for _, who := range []*authn.Principal{user("alice"), user("bob"), user("stranger")} {
			for _, zone := range []string{"main", "review"} {
				want := verdict(t, a, ask(authz.Stat, who, ref(zone, name)))
				r := ask(authz.Stat, who, ref(zone, "")) // a policy that reads no names needs none
				answer, err := a.DecideFound(t.Context(), r, record)
				if answer.Decision == nil || answer.Decision.Verdict != want || err != nil && want == allow {
					t.Errorf("%s about %s in %s: %+v, %v, want %v", who.Name, name, zone, answer.Decision, err, want)
				}
			}
		}
	}
	elsewhere := names["public"]
	elsewhere.Ref.Zone = "review"
	for _, tt := range []struct {
		name   string
		r      *authz.Request
		record provenance.Record
	}{
		{"a zone that is not read", ask(authz.Stat, user("alice"), ref("main", "")), elsewhere},
		{"a zone that is none", ask(authz.Stat, user("alice"), ref("none", "")), names["public"]},
		{"a write", ask(authz.Write, user("ci"), ref("main", "")), names["public"]},
		{"administration", ask(authz.Admin, user("alice"), ref("main", "")), names["public"]},
		{"nobody", ask(authz.Stat, nil, ref("main", "")), names["public"]},
		{"no claims", ask(authz.Stat, user("alice"), ref("main", "")), provenance.Record{Ref: ref("main", "x")}},
	} {
		answer, _ := a.DecideFound(t.Context(), tt.r, tt.record)
		if answer.Decision == nil || answer.Decision.Verdict == allow {
			t.Errorf("%s: %+v", tt.name, answer.Decision)
		}
	}
}
