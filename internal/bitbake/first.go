package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// firstHit names the trial of docs/yocto.md: a new user types its commands, and they are timed.
type firstHit struct{}

func (firstHit) name() string { return "first" }

// firstTime is how long a new user may take, and firstCommands how many commands that may be.
const (
	firstTime     = 5 * time.Minute
	firstCommands = 6
)

// tryFirst makes the trial, if it is wanted.
func tryFirst(ctx context.Context, w *world, trials []firstHit) error {
	for _, b := range trials {
		if err := tryCommands(ctx, w); err != nil {
			return fmt.Errorf("%s: %w", b.name(), err)
		}
	}
	return nil
}

// tryCommands runs the first block of commands in docs/yocto.md as they stand there, in a home with an SSH key, a build directory and nothing else:
// git clones the commit that is checked out, and Go compiles everything anew. The modules are there, unless GOMODCACHE says otherwise.
func tryCommands(ctx context.Context, w *world) error {
	script, err := firstScript("docs/yocto.md")
	if err != nil {
		return err
	}
	t, err := newTrial(ctx, w)
	if err != nil {
		return err
	}
	defer t.gate.stop()
	agent, err := t.firstHome(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }() // it was told to end
	commands, output, err := t.firstRun(ctx, script)
	if err != nil {
		return fmt.Errorf("docs/yocto.md: %w\n%s", err, output)
	}
	if err := writeCommands(commands); err != nil {
		return err
	}
	var r result
	r.read(output)
	total := commands[len(commands)-1].ended.Sub(commands[0].began)
	if r.mirrors == 0 || r.missed > 0 || len(r.errors) > 0 || len(r.compiled) > 0 || total > firstTime {
		return fmt.Errorf("docs/yocto.md: %d hits, %d misses, %q compiled, in %s:\n%s", r.mirrors, r.missed, r.compiled, total, output)
	}
	return nil
}

var firstBlock = regexp.MustCompile("(?s)\n```sh\n(.*?)```\n")

// firstScript returns the commands of a page's first block.
func firstScript(page string) (string, error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return "", err
	}
	m := firstBlock.FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("%s: no block of commands", page)
	}
	if n := bytes.Count(m[1], []byte("\n")); n > firstCommands {
		return "", fmt.Errorf("%s: %d commands, more than %d", page, n, firstCommands)
	}
	return string(m[1]), nil
}

// firstHome makes the home of a new user, alice: her key, the build directory, and an ssh-agent that holds nothing yet, which it starts.
func (t *trial) firstHome(ctx context.Context) (agent *exec.Cmd, err error) {
	key, err := os.ReadFile(t.gate.path("alice.key"))
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		t.w.home("new", "", ""),
		t.w.writeMode("homes/new/.ssh/id_ed25519", string(key), 0o600),
		t.w.write("homes/new/build/conf/bblayers.conf", fmt.Sprintf("BBPATH = \"${TOPDIR}\"\nBBFILES = \"\"\nBBLAYERS = \"%s/meta %s\"\n", t.w.o.oecore, t.w.path("layer"))),
		t.w.write("homes/new/build/conf/local.conf", buildConf),
	)
	if err != nil {
		return nil, err
	}
	socket := t.w.path("homes/new/run/ssh-agent.sock")
	if err := os.Mkdir(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	agent = exec.CommandContext(ctx, "ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		if _, err := os.Stat(socket); err == nil {
			return agent, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return agent, errors.New("ssh-agent does not start")
}

// typed is a command as bash ran it.
type typed struct {
	text         string
	began, ended time.Time
}

// tracing has bash end at the first command that fails, and tell when it begins each. As root bash takes no PS4 from the environment.
const tracing = "PS4='+$EPOCHREALTIME '; set -ex\n"

// typedAt is a line of the trace. Commands that bash runs within commands begin with more than one plus.
var typedAt = regexp.MustCompile(`(?m)^\+(\d+)\.(\d{6}) (.*)$`)

// firstRun runs the script, with what is the reader's own put in: the repository, the gate, the recipes.
func (t *trial) firstRun(ctx context.Context, script string) (commands []typed, output string, err error) {
	here, err := os.Getwd()
	if err != nil {
		return nil, "", err
	}
	script = strings.NewReplacer("https://github.com/lychgate/lychgate", here+" lychgate", "https://gate.example.com:8443", "https://"+t.gate.https,
		"core-image-minimal", "firmware").Replace(script)
	home := t.w.path("homes/new")
	trace, err := os.Create(filepath.Join(home, "trace"))
	if err != nil {
		return nil, "", err
	}
	defer trace.Close()
	cmd := exec.CommandContext(ctx, "bash", "-c", tracing+script)
	cmd.Dir, cmd.ExtraFiles = home, []*os.File{trace}
	cmd.Env = []string{
		"PATH=" + t.w.path("bin") + ":" + filepath.Join(t.w.o.bitbake, "bin") + ":" + os.Getenv("PATH"), "HOME=" + home, "SSH_AUTH_SOCK=" + filepath.Join(home, "run/ssh-agent.sock"),
		"LC_ALL=en_US.UTF-8", "LOCPATH=" + t.w.path("locale"), "BB_ENV_PASSTHROUGH_ADDITIONS=LOCPATH", "LYCHGATE_CA=" + t.gate.path("ca.pem"),
		"XDG_RUNTIME_DIR=" + filepath.Join(home, "run"), "GOMODCACHE=" + goEnv("GOMODCACHE"), "GOCACHE=" + filepath.Join(home, "go-build"),
		"GOPROXY=" + goEnv("GOPROXY"), "BASH_XTRACEFD=3",
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	ended := time.Now()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // the agent
	text, faults := os.ReadFile(trace.Name())
	commands = readTrace(string(text), ended)
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the agent holds the output open
	}
	if len(commands) == 0 {
		faults = errors.Join(faults, errors.New("bash ran no command"))
	}
	return commands, out.String(), errors.Join(err, faults)
}

func goEnv(name string) string {
	out, _ := exec.Command("go", "env", name).Output() // empty is Go's default
	return strings.TrimSpace(string(out))
}

// readTrace reads when each command began; it ended when the next began.
func readTrace(text string, ended time.Time) (commands []typed) {
	for _, m := range typedAt.FindAllStringSubmatch(text, -1) {
		seconds, _ := strconv.ParseInt(m[1], 10, 64) // digits, as matched
		micros, _ := strconv.ParseInt(m[2], 10, 64)
		began := time.Unix(seconds, micros*1000)
		if n := len(commands); n > 0 {
			commands[n-1].ended = began
		}
		commands = append(commands, typed{m[3], began, ended})
	}
	return commands
}

func writeCommands(commands []typed) error {
	table := tabwriter.NewWriter(os.Stderr, 0, 0, 2, ' ', 0)
	for _, c := range commands {
		fmt.Fprintf(table, "%.1f s\t%s\n", c.ended.Sub(c.began).Seconds(), c.text)
	}
	return table.Flush()
}
