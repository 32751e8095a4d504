package authn_test

import (
	stdjson "encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lychgate/lychgate/authz/authn"
)

// gitlabJob is what GitLab says of a job on the default branch.
var gitlabJob = map[string]any{
	"aud": gateURI, "sub": "project_path:team/bsp:ref_type:branch:ref:main",
	"namespace_id": "72", "namespace_path": "team", "project_id": "20", "project_path": "team/bsp", "user_id": "1", "user_login": "alice",
	"pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main",
	"ref_protected": "true", "runner_id": 1, "runner_environment": "self-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
	"project_visibility": "private", "ci_config_ref_uri": "git.example.com/team/bsp//.gitlab-ci.yml@refs/heads/main", "jti": "x",
}

// githubJob is what GitHub Actions say of one.
var githubJob = map[string]any{
	"aud": gateURI, "sub": "repo:team/bsp:ref:refs/heads/main", "repository": "team/bsp", "repository_id": "74", "repository_owner": "team",
	"repository_owner_id": "65", "repository_visibility": "private", "actor": "alice", "actor_id": "12", "event_name": "push",
	"ref": "refs/heads/main", "ref_type": "branch", "ref_protected": "true", "base_ref": "", "head_ref": "", "run_id": "30433642",
	"run_attempt": "2", "run_number": "10", "workflow": "build", "workflow_ref": "team/bsp/.github/workflows/build.yml@refs/heads/main",
	"job_workflow_ref": "team/bsp/.github/workflows/build.yml@refs/heads/main", "runner_environment": "github-hosted", "sha": "714a629c",
}

// jenkinsJob is what a plug-in of Jenkins may say.
var jenkinsJob = map[string]any{"aud": gateURI, "sub": "https://jenkins.example.com/job/bsp/", "build_number": 7}

// bind makes Claims of one claim.
func bind(claim string, values ...string) map[string][]string { return map[string][]string{claim: values} }

var (
	ciMain   = authn.Principal{ID: "gitlab:{project_id}", Name: "ci of {project_id}", Roles: []string{"writer:main"}}
	ciReview = authn.Principal{ID: "gitlab:{project_id}:review", Name: "review of {project_id}"}

	// What a team would write: the protected refs of a project into main, all else of it into review.
	gitlabRules = []authn.CIRule{
		{Profile: authn.GitLab, Claims: bind("project_id", "20", "21"), Protected: true, Principal: ciMain},
		{Profile: authn.GitLab, Claims: bind("project_id", "20", "21"), Principal: ciReview},
	}
	githubRules = []authn.CIRule{
		{
			Profile: authn.GitHub, Protected: true, Principal: authn.Principal{ID: "github:{repository_id}"},
			Claims: map[string][]string{"repository_id": {"74"}, "job_workflow_ref": {"team/bsp/.github/workflows/*.yml@refs/heads/main"}},
		},
		{Profile: authn.GitHub, Claims: bind("repository_owner_id", "65"), Principal: authn.Principal{ID: "github:{repository_id}:review"}},
	}
	genericRules = []authn.CIRule{
		{
			Profile: authn.Generic, Protected: true, Principal: authn.Principal{ID: "jenkins:{sub}"},
			Claims: map[string][]string{"sub": {"https://jenkins.example.com/job/bsp/"}, "build_number": {"7", "8"}},
		},
	}
)

// TestCIRules shows who a job is. An id of "" is a refusal whose words are in want.
func TestCIRules(t *testing.T) {
	key := newSigner(t, "k", "EdDSA")
	i := newIssuer(t, key)
	for _, c := range []struct {
		name    string
		rules   []authn.CIRule
		job     map[string]any
		changes map[string]any
		id      string
		review  bool
		want    string
	}{
		// GitLab.
		{"protected branch", gitlabRules, gitlabJob, nil, "gitlab:20", false, ""},
		{"another project of the rule", gitlabRules, gitlabJob, map[string]any{"project_id": "21"}, "gitlab:21", false, ""},
		{"project id as a number", gitlabRules, gitlabJob, map[string]any{"project_id": 20}, "gitlab:20", false, ""},
		{"schedule", gitlabRules, gitlabJob, map[string]any{"pipeline_source": "schedule"}, "gitlab:20", false, ""},
		{"child pipeline", gitlabRules, gitlabJob, map[string]any{"pipeline_source": "parent_pipeline"}, "gitlab:20", false, ""},
		{"feature branch", gitlabRules, gitlabJob, map[string]any{"ref_protected": "false"}, "gitlab:20:review", true, ""},
		{"no word of protection", gitlabRules, gitlabJob, map[string]any{"ref_protected": nil}, "gitlab:20:review", true, ""},
		{"protection true, no text", gitlabRules, gitlabJob, map[string]any{"ref_protected": true}, "gitlab:20:review", true, ""},
		{"protection 1", gitlabRules, gitlabJob, map[string]any{"ref_protected": 1}, "gitlab:20:review", true, ""},
		{"protection True", gitlabRules, gitlabJob, map[string]any{"ref_protected": "True"}, "gitlab:20:review", true, ""},
		{"protection with a blank", gitlabRules, gitlabJob, map[string]any{"ref_protected": "true "}, "gitlab:20:review", true, ""},
		{"protection in a list", gitlabRules, gitlabJob, map[string]any{"ref_protected": []string{"true"}}, "gitlab:20:review", true, ""},
		{"merge request", gitlabRules, gitlabJob, map[string]any{"pipeline_source": "merge_request_event"}, "gitlab:20:review", true, ""},
		{"merge request of elsewhere", gitlabRules, gitlabJob, map[string]any{"pipeline_source": "external_pull_request_event"}, "gitlab:20:review", true, ""},
		{"merge request's child", gitlabRules, gitlabJob, map[string]any{"pipeline_source": "parent_pipeline", "ref_path": "refs/merge-requests/3/head"}, "gitlab:20:review", true, ""},
		{"no pipeline source", gitlabRules, gitlabJob, map[string]any{"pipeline_source": nil}, "gitlab:20:review", true, ""},
		{"fork", gitlabRules, gitlabJob, map[string]any{"project_id": "99", "project_path": "mallory/bsp"}, "", false, `rule 1: project_id is "99"`},
		{"path taken over", gitlabRules, gitlabJob, map[string]any{"project_id": "99"}, "", false, `project_id is "99"`},
		{"no project", gitlabRules, gitlabJob, map[string]any{"project_id": nil}, "", false, "project_id is neither"},
		{"project in a list", gitlabRules, gitlabJob, map[string]any{"project_id": []string{"20"}}, "", false, "project_id is neither"},
		{"project with a zero before", gitlabRules, gitlabJob, map[string]any{"project_id": "020"}, "", false, `"020"`},
		{"project with a fraction", gitlabRules, gitlabJob, map[string]any{"project_id": 20.5}, "", false, "project_id is neither"},
		{"people's audience", gitlabRules, gitlabJob, map[string]any{"aud": clientID}, "", false, "CI job's token"},
		{"both audiences", gitlabRules, gitlabJob, map[string]any{"aud": []string{clientID, gateURI}}, "", false, "two audiences of ours"},
		{"protected alone: feature branch", gitlabRules[:1], gitlabJob, map[string]any{"ref_protected": "false"}, "", false, `ref_protected is "false"`},
		{"two rules", slices.Concat(gitlabRules, gitlabRules[:1]), gitlabJob, nil, "", false, "2 CI rules"},

		// GitHub.
		{"push to main", githubRules, githubJob, nil, "github:74", false, ""},
		{"started by hand", githubRules, githubJob, map[string]any{"event_name": "workflow_dispatch"}, "github:74", false, ""},
		{"pull request", githubRules, githubJob, map[string]any{"event_name": "pull_request", "ref": "refs/pull/1/merge"}, "github:74:review", true, ""},
		{"pull request, protected", githubRules, githubJob, map[string]any{"event_name": "pull_request"}, "github:74:review", true, ""},
		{"review", githubRules, githubJob, map[string]any{"event_name": "pull_request_review"}, "github:74:review", true, ""},
		{"comment", githubRules, githubJob, map[string]any{"event_name": "issue_comment"}, "github:74:review", true, ""},
		{"workflow_run", githubRules, githubJob, map[string]any{"event_name": "workflow_run"}, "github:74:review", true, ""},
		{"merge queue", githubRules, githubJob, map[string]any{"event_name": "merge_group"}, "github:74:review", true, ""},
		{"event of next year", githubRules, githubJob, map[string]any{"event_name": "wish"}, "github:74:review", true, ""},
		{"push with a head", githubRules, githubJob, map[string]any{"head_ref": "feature"}, "github:74:review", true, ""},
		{"pull_request_target", githubRules, githubJob, map[string]any{"event_name": "pull_request_target"}, "", false, "pull_request_target"},
		{"no event", githubRules, githubJob, map[string]any{"event_name": nil}, "", false, "event_name is"},
		{"unprotected", githubRules, githubJob, map[string]any{"ref_protected": "false"}, "github:74:review", true, ""},
		{"another workflow file", githubRules, githubJob, map[string]any{"job_workflow_ref": "team/bsp/.github/workflows/x.yml@refs/heads/main"}, "github:74", false, ""},
		{"workflow of a branch", githubRules, githubJob, map[string]any{"job_workflow_ref": "team/bsp/.github/workflows/x.yml@refs/heads/dev"}, "github:74:review", true, ""},
		{"branch named like a ref", githubRules, githubJob, map[string]any{"job_workflow_ref": "team/bsp/.github/workflows/x.yml@refs/heads/a.yml@refs/heads/main"}, "github:74:review", true, ""},
		{"workflow without a name", githubRules, githubJob, map[string]any{"job_workflow_ref": "team/bsp/.github/workflows/.yml@refs/heads/main"}, "github:74:review", true, ""},
		{"another repository of the owner", githubRules, githubJob, map[string]any{"repository_id": "75"}, "github:75:review", true, ""},
		{"another owner", githubRules, githubJob, map[string]any{"repository_owner_id": "66", "repository_id": "75"}, "", false, `repository_owner_id is "66"`},
		{"repository id no number", githubRules, githubJob, map[string]any{"repository_id": "7/../5"}, "", false, "repository_id of the token is no id"},

		// Any other.
		{"jenkins", genericRules, jenkinsJob, nil, "jenkins:https://jenkins.example.com/job/bsp/", false, ""},
		{"jenkins, another build", genericRules, jenkinsJob, map[string]any{"build_number": "8"}, "jenkins:https://jenkins.example.com/job/bsp/", false, ""},
		{"jenkins, 7 in another form", genericRules, jenkinsJob, map[string]any{"build_number": stdjson.RawMessage("7.0")}, "", false, "build_number is"},
		{"jenkins, another job", genericRules, jenkinsJob, map[string]any{"sub": "https://jenkins.example.com/job/x/"}, "", false, "sub is"},
		{"jenkins, true", genericRules, jenkinsJob, map[string]any{"build_number": true}, "", false, "neither text nor"},
	} {
		p, err := show(t, i.oidc(i.config(c.rules...)), i.token(key, overlay(c.job, c.changes)))
		switch {
		case c.id == "" && (!errors.Is(err, authn.ErrRefused) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %+v, %v, want a refusal with %q", c.name, p, err, c.want)
		case c.id != "" && (err != nil || p.ID != c.id || p.Review != c.review || p.Kind != authn.CI):
			t.Errorf("%s: %+v, %v, want %s, review %v", c.name, p, err, c.id, c.review)
		}
	}
}

func TestCIPrincipal(t *testing.T) {
	key := newSigner(t, "k", "EdDSA")
	i := newIssuer(t, key)
	p, err := show(t, i.oidc(i.config(gitlabRules...)), i.token(key, gitlabJob))
	if err != nil {
		t.Fatal(err)
	}
	p.Credential = ""
	want := authn.Principal{
		ID: "gitlab:20", Name: "ci of 20", Kind: authn.CI, Roles: []string{"writer:main"}, Expires: time.Unix(i.time.now().Unix()+300, 0),
		Claims: map[string]any{
			"iss": i.url, "sub": "project_path:team/bsp:ref_type:branch:ref:main", "namespace_id": "72", "namespace_path": "team",
			"project_id": "20", "project_path": "team/bsp", "user_id": "1", "user_login": "alice", "pipeline_id": "574", "pipeline_source": "push",
			"job_id": "302", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true", "runner_id": float64(1),
			"runner_environment": "self-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
			"ci_config_ref_uri": "git.example.com/team/bsp//.gitlab-ci.yml@refs/heads/main",
		},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestCIRuleFaults: a rule that would let in others than it says stops the start.
func TestCIRuleFaults(t *testing.T) {
	who := authn.Principal{ID: "ci"}
	for name, c := range map[string]struct {
		rule  authn.CIRule
		words string
	}{
		"no profile":              {authn.CIRule{Claims: bind("project_id", "1"), Principal: who}, "want gitlab, github or generic"},
		"no claims":               {authn.CIRule{Profile: authn.GitLab, Principal: who}, "binds none of project_id"},
		"gitlab by path":          {authn.CIRule{Profile: authn.GitLab, Claims: bind("project_path", "team/bsp"), Principal: who}, "can be moved"},
		"gitlab by sub":           {authn.CIRule{Profile: authn.GitLab, Claims: bind("sub", "project_path:x"), Principal: who}, "can be moved"},
		"gitlab by namespace":     {authn.CIRule{Profile: authn.GitLab, Claims: bind("namespace_path", "team"), Principal: who}, "can be moved"},
		"gitlab by GitHub's id":   {authn.CIRule{Profile: authn.GitLab, Claims: bind("repository_id", "1"), Principal: who}, "binds none"},
		"github by name":          {authn.CIRule{Profile: authn.GitHub, Claims: bind("repository", "team/bsp"), Principal: who}, "binds none of repository_id"},
		"github by sub":           {authn.CIRule{Profile: authn.GitHub, Claims: bind("sub", "repo:team/bsp:*"), Principal: who}, "can be moved"},
		"id by pattern":           {authn.CIRule{Profile: authn.GitLab, Claims: bind("project_id", "2*"), Principal: who}, "compared exactly"},
		"protection by pattern":   {authn.CIRule{Profile: authn.Generic, Claims: bind("ref_protected", "*"), Principal: who}, "compared exactly"},
		"two stars":               {authn.CIRule{Profile: authn.Generic, Claims: bind("ref", "a*b*"), Principal: who}, "more than one *"},
		"generic by pattern":      {authn.CIRule{Profile: authn.Generic, Claims: bind("sub", "job/*"), Principal: who}, "binds no claim"},
		"generic by nothing":      {authn.CIRule{Profile: authn.Generic, Principal: who}, "binds no claim"},
		"no values":               {authn.CIRule{Profile: authn.Generic, Claims: bind("sub"), Principal: who}, "at least one value"},
		"empty value":             {authn.CIRule{Profile: authn.Generic, Claims: bind("sub", ""), Principal: who}, "is empty"},
		"empty name":              {authn.CIRule{Profile: authn.Generic, Claims: bind("", "x"), Principal: who}, "want a name"},
		"unprintable value":       {authn.CIRule{Profile: authn.Generic, Claims: bind("sub", "a\n"), Principal: who}, "unprintable"},
		"pull_request_target":     {authn.CIRule{Profile: authn.GitHub, Claims: map[string][]string{"repository_id": {"1"}, "event_name": {"pull_request_target"}}, Principal: who}, "never taken"},
		"no id":                   {authn.CIRule{Profile: authn.GitLab, Claims: bind("project_id", "1")}, "no id"},
		"a person":                {authn.CIRule{Profile: authn.GitLab, Claims: bind("project_id", "1"), Principal: authn.Principal{ID: "1", Kind: authn.Human}}, "want ci"},
		"unbound placeholder":     {authn.CIRule{Profile: authn.GitLab, Claims: bind("project_id", "1"), Principal: authn.Principal{ID: "{ref}"}}, "does not bind"},
		"placeholder by pattern":  {authn.CIRule{Profile: authn.GitLab, Claims: map[string][]string{"project_id": {"1"}, "ref": {"r-*"}}, Principal: authn.Principal{ID: "{ref}"}}, "does not bind"},
		"another's immutable id":  {authn.CIRule{Profile: authn.Generic, Claims: bind("sub", "x"), Principal: authn.Principal{ID: "{project_id}"}}, "does not bind"},
		"placeholder in the name": {authn.CIRule{Profile: authn.GitLab, Claims: bind("project_id", "1"), Principal: authn.Principal{ID: "1", Name: "{user_login}"}}, "does not bind"},
		"empty placeholder":       {authn.CIRule{Profile: authn.GitLab, Claims: bind("project_id", "1"), Principal: authn.Principal{ID: "{}"}}, "does not bind"},
		"brace":                   {authn.CIRule{Profile: authn.GitLab, Claims: bind("project_id", "1"), Principal: authn.Principal{ID: "{project_id"}}, "brace"},
	} {
		_, err := authn.NewOIDC(authn.OIDCConfig{Issuers: []authn.Issuer{
			{URL: "https://ci.example.com", Audience: gateURI, CI: []authn.CIRule{c.rule}},
		}})
		if err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", name, err, c.words)
		}
	}
}

// FuzzIDToken shows text as an ID token, as it is and signed in part: only what the issuer signed is accepted, and all else is a
// refusal, never a fault or a panic.
func FuzzIDToken(f *testing.F) {
	h := newHostile(f)
	o := h.i.oidc(h.i.config(gitlabRules...), h.other.config())
	good := h.i.token(h.es, nil)
	f.Add(good)
	for _, c := range hostileIDTokens {
		if token := c.make(h); len(token) < 4096 {
			f.Add(token)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if text == "" {
			return
		}
		p, err := show(t, o, text)
		end := strings.LastIndexByte(good, '.')
		if err == nil && (len(text) < end || text[:end] != good[:end]) {
			t.Fatalf("accepted %q as %+v", text, p)
		}
		if err != nil && !errors.Is(err, authn.ErrRefused) {
			t.Fatalf("%q: %v is no refusal", text, err)
		}
	})
}

// FuzzCIRule signs any claims that are given, as an issuer might with what its users wrote. A principal that may write elsewhere than
// to review zones exists only for a job that another reader of JSON finds to be protected, too.
func FuzzCIRule(f *testing.F) {
	key := newSigner(f, "k", "EdDSA")
	i := newIssuer(f, key)
	o := i.oidc(i.config(gitlabRules...))
	for _, text := range []string{
		`"project_id":"20","ref_protected":"true","pipeline_source":"push"`,
		`"project_id":20,"ref_protected":"true","pipeline_source":"push"`,
		`"project_id":"20","ref_protected":true,"pipeline_source":"push"`,
		`"project_id":"20","ref_protected":"\u0074rue","pipeline_source":"merge_request_event"`,
		`"project_id":"20","ref_protected":"false","ref_protected":"true","pipeline_source":"push"`,
		`"project_id":"20","REF_PROTECTED":"true","pipeline_source":"push"`,
		`"project_id":2e1,"ref_protected":"true","pipeline_source":"push"`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		payload := strings.TrimSuffix(string(mustJSON(i.claims(map[string]any{"aud": gateURI}))), "}") + "," + text + "}"
		p, err := show(t, o, sign(key, map[string]any{"alg": "EdDSA", "kid": "k"}, []byte(payload)))
		if err != nil {
			if !errors.Is(err, authn.ErrRefused) {
				t.Fatalf("%q: %v is no refusal", text, err)
			}
			return
		}
		var m map[string]any
		d := stdjson.NewDecoder(strings.NewReader(payload))
		d.UseNumber()
		if err := d.Decode(&m); err != nil {
			t.Fatalf("accepted %q, which is no JSON: %v", text, err)
		}
		id, _ := m["project_id"].(string)
		if n, ok := m["project_id"].(stdjson.Number); ok {
			id = n.String()
		}
		source, _ := m["pipeline_source"].(string)
		protected := m["ref_protected"] == "true" && source != "" && source != "merge_request_event" && source != "external_pull_request_event"
		if id != "20" && id != "21" || m["iss"] != i.url || m["aud"] != gateURI || !p.Review && !protected {
			t.Fatalf("%q is %+v", text, p)
		}
	})
}
