package lychgate_test

import (
	"fmt"
	"os"
	"os/exec"
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

// exampleJob is a job of a CI example, and the zone that it writes to.
type exampleJob struct{ file, job, zone string }

var jobExamples = []exampleJob{
	{"gitlab-ci.yml", "build-main", "main"},
	{"gitlab-ci.yml", "build-review", "review"},
	{"github-actions.yml", "build-main", "main"},
	{"github-actions.yml", "build-review", "review"},
	{"Jenkinsfile", "build-main", "main"},
}

// jobScript returns what a job runs, in the shells that it uses.
func jobScript(t *testing.T, j exampleJob) []string {
	t.Helper()
	if j.file == "Jenkinsfile" {
		var shells []string
		for _, m := range regexp.MustCompile(`(?s)sh '''(.*?)'''`).FindAllStringSubmatch(string(example(t, j.file)), -1) {
			shells = append(shells, m[1])
		}
		return shells
	}
	type step struct {
		Run string `yaml:"run"`
	}
	type job struct {
		Script []string `yaml:"script"`
		After  []string `yaml:"after_script"`
		Steps  []step   `yaml:"steps"`
	}
	gitlab := map[string]job{}
	var github struct {
		Jobs map[string]job `yaml:"jobs"`
	}
	if j.file == "github-actions.yml" {
		if err := yaml.Unmarshal(example(t, j.file), &github); err != nil {
			t.Fatal(err)
		}
		var shells []string
		for _, s := range github.Jobs[j.job].Steps {
			if s.Run != "" {
				shells = append(shells, s.Run)
			}
		}
		return shells
	}
	if err := yaml.Unmarshal(example(t, j.file), &gitlab); err != nil {
		t.Fatal(err)
	}
	return []string{strings.Join(gitlab[j.job].Script, "\n"), strings.Join(gitlab[".build"].After, "\n")}
}

// TestExampleCommands: what the unit and the CI jobs run are verbs and flags of the command.
func TestExampleCommands(t *testing.T) {
	var lines []string
	for _, j := range jobExamples {
		lines = append(lines, jobScript(t, j)...)
	}
	for _, unit := range []string{"systemd/lychgate.service", "systemd/lychgate-agent.service", "systemd/user/lychgate-agent.service"} {
		for _, m := range regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindAllStringSubmatch(string(example(t, unit)), -1) {
			lines = append(lines, m[1])
		}
	}
	verbs, flags := commands(t)
	checked := 0
	for _, m := range commandLine.FindAllStringSubmatch(strings.Join(lines, "\n"), -1) {
		checked++
		checkCommand(t, "examples", strings.Fields(m[1]), verbs, flags)
	}
	if checked != 3+3*len(jobExamples) {
		t.Errorf("%d commands were checked", checked)
	}
}

// TestExampleJob runs the CI jobs as a runner would, with stubs for BitBake and the gate's own command: they sign in before anything
// asks the gate, push in any case, sign out, and fail when the build failed or anything was not pushed.
func TestExampleJob(t *testing.T) {
	for _, j := range jobExamples {
		for _, tc := range []struct{ build, push, want int }{
			{0, 0, 0},
			{0, 3, 3},
			{0, 1, 1},
			{1, 0, 1},
			{1, 3, 3},
			{1, 1, 1},
		} {
			code, did := runJob(t, jobScript(t, j), tc.build, tc.push)
			if code != tc.want {
				t.Errorf("%v: build %d, push %d: exit code %d, want %d", j, tc.build, tc.push, code, tc.want)
			}
			want := regexp.MustCompile(`^login --ci\nbuild\npush \S*sstate-cache --zone ` + j.zone + ` --key \S+ --stamps tmp/stamps --quiet\nlogout\n$`)
			if !want.MatchString(did) {
				t.Errorf("%v: build %d, push %d: it did\n%s", j, tc.build, tc.push, did)
			}
		}
	}
}

// reviewMirror is what a job of the zone review tells BitBake.
const reviewMirror = "SSTATE_MIRRORS = \"file://.* https://gate.example.com:8443/sstate/review/PATH;downloadfilename=PATH\"\n"

// runJob runs the shells of a job, the last of them in any case, and returns the first failure's exit code and what was done.
func runJob(t *testing.T, shells []string, build, push int) (code int, did string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"oe-init-build-env": "mkdir -p conf\n",
		"bitbake":           fmt.Sprintf("#!/bin/sh\ntest \"$1\" = -S && exit\necho build >>did\nexit %d\n", build),
		"lychgate":          fmt.Sprintf("#!/bin/sh\necho \"$@\" >>did\ntest \"$1\" != push || exit %d\n", push),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i, shell := range shells {
		if code != 0 && i < len(shells)-1 {
			continue
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-e", "-c", shell)
		cmd.Dir = dir
		cmd.Env = []string{"HOME=" + dir, "PATH=" + dir + ":/usr/bin:/bin", "SSTATE=sstate-cache", "SIGNING_KEY=key", "REVIEW_KEY=key", "LYCHGATE_GATE=https://gate.example.com:8443"}
		out, err := cmd.CombinedOutput()
		if err != nil && code == 0 {
			code = cmd.ProcessState.ExitCode()
			t.Logf("%s", out)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "did"))
	if err != nil {
		t.Error(err)
	}
	if conf, err := os.ReadFile(filepath.Join(dir, "conf/auto.conf")); err == nil && string(conf) != reviewMirror {
		t.Errorf("the job's mirror is %q", conf)
	}
	return code, string(text)
}

// TestExampleAudience: the jobs' ID tokens are made for the example's gate, and it has a rule for each issuer.
func TestExampleAudience(t *testing.T) {
	cfg := exampleConfig(t)
	for _, j := range jobExamples {
		if !regexp.MustCompile(`LYCHGATE_GATE(: | = ')` + regexp.QuoteMeta(cfg.HTTPS.Audience) + `'?\n`).Match(example(t, j.file)) {
			t.Errorf("%v is for another gate than %s", j, cfg.HTTPS.Audience)
		}
	}
	if !strings.Contains(string(example(t, "gitlab-ci.yml")), "aud: "+cfg.HTTPS.Audience+"\n") {
		t.Errorf("the ID tokens of gitlab-ci.yml are for another gate than %s", cfg.HTTPS.Audience)
	}
	var profiles []string
	for _, o := range cfg.OIDC {
		for _, rule := range o.CI {
			profiles = append(profiles, rule.Profile)
		}
	}
	if !slices.Equal(profiles, []string{"gitlab", "gitlab", "github", "github", "generic"}) {
		t.Errorf("the example's gate has rules for %q", profiles)
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
	if over := regexp.MustCompile(`(?m)^#(SSTATE_MIRRORS = .*ssh://.*)$`).FindStringSubmatch(site); over == nil || !strings.Contains(page, over[1]) {
		t.Errorf("docs/bitbake.md does not show the mirror over ssh of site.conf: %q", over)
	}
	if len(settings) != 3 {
		t.Errorf("site.conf has %d settings", len(settings))
	}
}
