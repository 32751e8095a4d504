package authn

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Profile says whose CI jobs a rule is for, and so which claims name a project for ever and which tell a protected ref.
type Profile string

// The profiles.
const (
	GitLab  Profile = "gitlab"  // id_tokens of GitLab CI/CD jobs
	GitHub  Profile = "github"  // GitHub Actions, also of an enterprise server
	Generic Profile = "generic" // any issuer: what the claims say is the operator's to know
)

// CIRule says which jobs of an issuer are a principal, and which one.
//
// GitLab rules bind project_id or namespace_id, GitHub rules repository_id or repository_owner_id: paths and names can be moved,
// and be taken by others afterwards. A generic rule binds at least one claim exactly.
type CIRule struct {
	Profile Profile
	// Claims are what a token must hold: for each claim, one of the values. A claim is compared as the text it is; a number by its
	// decimal digits, if it is a whole one; anything else, such as true or a list, equals nothing. A value may hold one `*`,
	// which stands for one or more characters other than "/": "refs/heads/release-*". Values of immutable ids and of
	// ref_protected may not.
	Claims map[string][]string
	// Protected takes jobs alone that run on a ref which the forge protects, for an event that only those can cause who may write
	// there. For GitLab: ref_protected is the text "true", and the pipeline is not of a merge request. For GitHub: ref_protected is
	// the text "true", and the event is push, schedule, workflow_dispatch or repository_dispatch. For others: what Claims say.
	//
	// When rules of both sorts match a job, the protected one counts. The principal of one that is not protected has Review set.
	Protected bool
	// Principal is who the job is, of kind ci. ID and Name may hold {claim}, for a claim that the rule binds to exact values, or one of
	// project_id and namespace_id (GitLab), repository_id and repository_owner_id (GitHub).
	Principal Principal
}

// ciRule is a CIRule that was checked.
type ciRule struct {
	CIRule
	names []string // of Claims, sorted
}

// immutableClaims are those that a profile's rules must bind one of.
func (p Profile) immutableClaims() []string {
	switch p {
	case GitLab:
		return []string{"project_id", "namespace_id"}
	case GitHub:
		return []string{"repository_id", "repository_owner_id"}
	}
	return nil
}

// exactClaims are those whose values no pattern may stand for, whatever the profile.
func exactClaims() []string {
	return []string{"project_id", "namespace_id", "repository_id", "repository_owner_id", "user_id", "actor_id", "ref_protected"}
}

func compileCIRule(r CIRule) (c ciRule, err error) {
	c = ciRule{CIRule: r, names: slices.Sorted(maps.Keys(r.Claims))}
	for _, name := range c.names {
		if err := checkValues(name, r.Claims[name]); err != nil {
			return c, fmt.Errorf("claim %.60q: %w", name, err)
		}
	}
	if err := c.checkBinding(); err != nil {
		return c, err
	}
	if c.Principal.Kind == "" {
		c.Principal.Kind = CI
	}
	if c.Principal.Kind != CI {
		return c, fmt.Errorf("its principal is of kind %s: want ci", c.Principal.Kind)
	}
	for _, template := range []string{c.Principal.ID, c.Principal.Name} {
		if err := c.checkTemplate(template); err != nil {
			return c, fmt.Errorf("principal %.100q: %w", template, err)
		}
	}
	return c, c.Principal.Validate()
}

func checkValues(name string, values []string) error {
	if name == "" || len(values) == 0 {
		return errors.New("want a name and at least one value")
	}
	for _, value := range values {
		switch err := checkText(value); {
		case value == "":
			return errors.New("a value is empty")
		case err != nil:
			return fmt.Errorf("a value: %w", err)
		case strings.Count(value, "*") > 1:
			return fmt.Errorf("value %q holds more than one *", value)
		case strings.Contains(value, "*") && slices.Contains(exactClaims(), name):
			return fmt.Errorf("value %q holds a *: this claim is compared exactly", value)
		}
	}
	return nil
}

// bindsExactly: every value of the claim is one text.
func (r *ciRule) bindsExactly(claim string) bool {
	values := r.Claims[claim]
	return len(values) > 0 && !slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, "*") })
}

func (r *ciRule) checkBinding() error {
	switch r.Profile {
	case GitLab, GitHub:
		want := r.Profile.immutableClaims()
		if !slices.ContainsFunc(want, r.bindsExactly) {
			return fmt.Errorf("binds none of %s: paths, names and sub can be moved, and taken by others then", strings.Join(want, ", "))
		}
	case Generic:
		if !slices.ContainsFunc(r.names, r.bindsExactly) {
			return errors.New("binds no claim to exact values, and would take jobs of anybody")
		}
	default:
		return fmt.Errorf("profile %.20q: want gitlab, github or generic", r.Profile)
	}
	if r.Profile == GitHub && slices.Contains(r.Claims["event_name"], "pull_request_target") {
		return errors.New("names the event pull_request_target, which runs a fork's wishes with the rights of the base: it is never taken")
	}
	return nil
}

// placeholder is {claim}.
var placeholder = regexp.MustCompile(`\{([^{}]*)\}`)

func (r *ciRule) checkTemplate(template string) error {
	for _, m := range placeholder.FindAllStringSubmatch(template, -1) {
		if !r.bindsExactly(m[1]) && !slices.Contains(r.Profile.immutableClaims(), m[1]) {
			return fmt.Errorf("holds {%s}, which this rule does not bind to exact values", m[1])
		}
	}
	if strings.ContainsAny(placeholder.ReplaceAllString(template, ""), "{}") {
		return errors.New("holds a brace that is no {claim}")
	}
	return nil
}

// expand puts the token's claims into a template.
func (r *ciRule) expand(template string, t *idToken) (string, error) {
	var fault error
	text := placeholder.ReplaceAllStringFunc(template, func(at string) string {
		claim := at[1 : len(at)-1]
		value, ok := t.claims.scalar(claim)
		if !ok || !r.bindsExactly(claim) && !isNumber(value) {
			fault = fmt.Errorf("%s of the token is no id", claim)
		}
		return value
	})
	return text, fault
}

// isNumber: the ids of GitLab and GitHub are numbers; nothing else is put into a principal's id unseen.
func isNumber(text string) bool {
	n, err := strconv.ParseUint(text, 10, 64)
	return err == nil && strconv.FormatUint(n, 10) == text
}

// match says why the rule is not for the token; nil: it is.
func (r *ciRule) match(t *idToken) error {
	for _, name := range r.names {
		value, ok := t.claims.scalar(name)
		if !ok {
			return fmt.Errorf("%s is neither text nor a whole number", name)
		}
		if !slices.ContainsFunc(r.Claims[name], func(pattern string) bool { return matchClaim(pattern, value) }) {
			return fmt.Errorf("%s is %.80q", name, value)
		}
	}
	switch r.Profile {
	case GitLab:
		return r.matchGitLab(t)
	case GitHub:
		return r.matchGitHub(t)
	}
	return nil
}

// matchClaim: the star stands for one or more characters other than a slash. It must not, for git allows "@" in names of refs, and
// "ci.yml@refs/heads/x@refs/heads/main" is of the branch "x@refs/heads/main".
func matchClaim(pattern, value string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == value
	}
	if !matchSegment(pattern, value) {
		return false
	}
	return !strings.Contains(value[len(before):len(value)-len(after)], "/")
}

// checkProtected: the claim is a text at both GitLab and GitHub. Any other type is not what they say, so it counts as unprotected.
func checkProtected(t *idToken) error {
	value, _ := unquote(t.claims["ref_protected"])
	if value != "true" {
		return fmt.Errorf(`ref_protected is %.20q, not "true"`, value)
	}
	return nil
}

// matchGitLab: pipelines of merge requests run what its author proposes, from a fork too. A child pipeline has its parent's ref.
func (r *ciRule) matchGitLab(t *idToken) error {
	if !r.Protected {
		return nil
	}
	if err := checkProtected(t); err != nil {
		return err
	}
	source, _ := t.claims.scalar("pipeline_source")
	if source == "" || source == "merge_request_event" || source == "external_pull_request_event" {
		return fmt.Errorf("pipeline_source is %.60q", source)
	}
	if path, _ := t.claims.scalar("ref_path"); strings.HasPrefix(path, "refs/merge-requests/") {
		return fmt.Errorf("ref_path is %.80q", path)
	}
	return nil
}

// matchGitHub: events that are not known to be those of people with write access are not protected, whatever ref they run on.
func (r *ciRule) matchGitHub(t *idToken) error {
	event, _ := t.claims.scalar("event_name")
	if event == "" || event == "pull_request_target" {
		return fmt.Errorf("event_name is %.60q", event)
	}
	if !r.Protected {
		return nil
	}
	if err := checkProtected(t); err != nil {
		return err
	}
	if !slices.Contains([]string{"push", "schedule", "workflow_dispatch", "repository_dispatch"}, event) {
		return fmt.Errorf("event_name is %.60q", event)
	}
	if head, _ := t.claims.scalar("head_ref"); head != "" {
		return fmt.Errorf("head_ref is %.80q: a pull request", head)
	}
	return nil
}

// maxReasons is how many rules are named that did not match.
const maxReasons = 5

// matchCI returns the principal of the one rule that is for the token.
func (c *issuer) matchCI(t *idToken, name string) (Principal, error) {
	var found []*ciRule
	var reasons []string
	for i := range c.rules {
		rule := &c.rules[i]
		if err := rule.match(t); err != nil {
			reasons = append(reasons, fmt.Sprintf("rule %d: %v", i+1, err))
			continue
		}
		found = append(found, rule)
	}
	if slices.ContainsFunc(found, func(r *ciRule) bool { return r.Protected }) {
		found = slices.DeleteFunc(found, func(r *ciRule) bool { return !r.Protected })
	}
	switch len(found) {
	case 0:
		shown := strings.Join(reasons[:min(len(reasons), maxReasons)], "; ")
		return Principal{}, refuse(UnmappedIdentity, name, "no CI rule of %s is for job %q: %s", c.url, t.subject, shown)
	case 1:
	default:
		return Principal{}, refuse(UnmappedIdentity, name, "%d CI rules of %s are for job %q: make them exclude each other", len(found), c.url, t.subject)
	}
	return found[0].principal(t, name)
}

func (r *ciRule) principal(t *idToken, name string) (p Principal, err error) {
	p = r.Principal
	p.Review = p.Review || !r.Protected
	for _, field := range []*string{&p.ID, &p.Name} {
		if *field, err = r.expand(*field, t); err != nil {
			return Principal{}, refuse(UnmappedIdentity, name, "job %q: %v", t.subject, err)
		}
	}
	return p, nil
}
