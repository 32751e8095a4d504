package lychgate_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/lychgate/lychgate/authz/forge"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/internal/config"
	"github.com/lychgate/lychgate/policy"
)

func example(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func exampleConfig(t *testing.T) *config.Config {
	t.Helper()
	cfg, err := config.Parse(example(t, "lychgate.yaml"), "/etc/lychgate")
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestExampleGate: the example's configuration is taken, and whom it names its forge and its signers know.
func TestExampleGate(t *testing.T) {
	cfg := exampleConfig(t)
	if _, err := provenance.ParseAllowedSigners(example(t, "allowed_signers"), time.UTC); err != nil {
		t.Fatal(err)
	}
	users, err := forge.LoadStatic(forge.StaticConfig{Name: cfg.Forges[0].Name, File: filepath.Join("examples", "forge.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	for _, z := range cfg.Zones {
		for _, name := range z.Signers {
			if !strings.Contains(string(example(t, "allowed_signers")), "\n"+name+" namespaces=\""+provenance.Namespace+"\" ") {
				t.Errorf("zone %s takes statements of %s, whom allowed_signers does not have", z.Name, name)
			}
		}
		for _, who := range slices.Concat(z.Writers.Users, z.Admins.Users) {
			id, ok := strings.CutPrefix(who.Name, "#")
			if _, err := users.User(t.Context(), id); !ok || err != nil || who.Forge != cfg.Forges[0].Name {
				t.Errorf("zone %s names %v by something else than the id of a user: %v", z.Name, who, err)
			}
		}
	}
}

// TestExamplePolicy: the example's bundle loads, its answers can be remembered, its tests pass, and it opens every zone
// of the example's configuration to somebody.
func TestExamplePolicy(t *testing.T) {
	dir := filepath.Join("examples", "policy")
	report, err := policy.Check(dir)
	if err != nil || !report.OK || !report.Remember {
		t.Fatalf("%+v, %v", report, err)
	}
	tests, err := policy.Test(t.Context(), dir, policy.TestOptions{})
	if err != nil || !tests.OK || tests.Passed < 10 {
		t.Errorf("%+v, %v", tests, err)
	}
	for _, z := range exampleConfig(t).Zones {
		if !strings.Contains(string(example(t, "policy/lychgate.rego")), `"`+z.Name+`"`) {
			t.Errorf("the bundle has no rule for zone %s", z.Name)
		}
	}
}

// TestExampleCommands: what the unit and the CI job run are verbs and flags of the command.
func TestExampleCommands(t *testing.T) {
	var jobs map[string]struct {
		Script      []string `yaml:"script"`
		AfterScript []string `yaml:"after_script"`
	}
	if err := yaml.Unmarshal(example(t, "gitlab-ci.yml"), &jobs); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, job := range jobs {
		lines = slices.Concat(lines, job.Script, job.AfterScript)
	}
	for _, m := range regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindAllStringSubmatch(string(example(t, "systemd/lychgate.service")), -1) {
		lines = append(lines, m[1])
	}
	verbs, flags := commands(t)
	checked := 0
	for _, m := range commandLine.FindAllStringSubmatch(strings.Join(lines, "\n"), -1) {
		checked++
		checkCommand(t, "examples", strings.Fields(m[1]), verbs, flags)
	}
	if checked != 2 {
		t.Errorf("%d commands were checked", checked)
	}
}

// TestExampleBuild: the build's mirror is a zone of the example's gate, and docs/bitbake.md says the same.
func TestExampleBuild(t *testing.T) {
	site, page := string(example(t, "bitbake/site.conf")), documents(t)["docs/bitbake.md"]
	https := exampleConfig(t).HTTPS
	if want := `"file://.* ` + https.Audience + https.Mount + `/main/PATH;downloadfilename=PATH"`; !strings.Contains(site, want) {
		t.Errorf("site.conf does not have %s", want)
	}
	settings := regexp.MustCompile(`(?m)^[A-Za-z_]+ = .*$`).FindAllString(site, -1)
	for _, want := range append(settings, strings.TrimSpace(string(example(t, "bitbake/netrc")))) {
		if !strings.Contains(page, want) {
			t.Errorf("docs/bitbake.md does not show %s", want)
		}
	}
	if len(settings) != 3 {
		t.Errorf("site.conf has %d settings", len(settings))
	}
}
