package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/internal/agent"
	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// TestMain lets scripts run the command, and lets this binary be the command.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"lychgate": main})
}

// TestScripts runs testdata/*.txtar: the specification of the command line, verb by verb.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", Setup: setupScript,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"ready": scriptReady, "example": scriptExample, "revoke": scriptRevoke, "gone": scriptGone, "code": scriptCode, "await": scriptAwait, "fetch": scriptFetch},
	})
}

// setupScript gives each script a gate's directory in $Q, as quickstart prepares it, with its tokens and with nothing running, and two
// free addresses in $HTTPS and $ADMIN. $NAMESPACE is what SSH signatures of statements are for.
func setupScript(env *testscript.Env) error {
	https, err := loopback.Free()
	if err != nil {
		return err
	}
	admin, err := loopback.Free()
	if err != nil {
		return err
	}
	q := quickstart{dir: filepath.Join(env.WorkDir, "q"), https: https, admin: admin}
	cfg, err := q.prepare()
	if err != nil {
		return err
	}
	g, err := newGate(context.Background(), cfg, quietLog())
	if err != nil {
		return err
	}
	if err := q.tokens(context.Background(), g); err != nil {
		return err
	}
	env.Setenv("Q", q.dir)
	env.Setenv("HTTPS", https)
	env.Setenv("ADMIN", admin)
	env.Setenv("GATE", q.url())
	env.Setenv("CI", os.Getenv("CI"))
	env.Setenv("NAMESPACE", provenance.Namespace)
	return g.close()
}

// scriptReady waits until the gate that the script started answers.
func scriptReady(ts *testscript.TestScript, _ bool, _ []string) {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		res, err := http.Get("http://" + ts.Getenv("ADMIN") + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("the gate did not come up")
}

// scriptExample writes the example cache to a directory and sets $HELLO, $SECRET and $APPLIANCE to the names of its archives.
func scriptExample(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(writeExample(ts.MkAbs(args[0])))
	for variable, recipe := range map[string]string{"HELLO": "hello-native", "SECRET": "secret-tool-native", "APPLIANCE": "appliance-native"} {
		ts.Setenv(variable, exampleName(recipe, "populate_sysroot", exampleHash(recipe, "populate_sysroot")))
	}
}

// scriptCode runs lychgate with the arguments after the first, which is the exit code that it must have.
func scriptCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("lychgate", args[1:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, want %s", code, want)
	}
}

// scriptAwait waits until a file is there.
func scriptAwait(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(patience)
	for {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s does not appear", args[0])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// scriptRevoke revokes the token with a note, by the id that list shows.
func scriptRevoke(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("lychgate", "token", "list", "--json"))
	var tokens []tokenLine
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &tokens))
	for _, t := range tokens {
		if t.Note == args[0] {
			ts.Check(ts.Exec("lychgate", "token", "revoke", t.ID))
			return
		}
	}
	ts.Fatalf("no token has the note %q", args[0])
}

// scriptGone waits until whoami is refused.
func scriptGone(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(patience)
	for ts.Exec("lychgate", append([]string{"whoami"}, args...)...) == nil {
		if time.Now().After(deadline) {
			ts.Fatalf("the token still works")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// scriptFetch asks the running agent for the object of main with a name, as BitBake does before and at a download: both answers must have the
// status. The bytes go to a file, when one is named.
func scriptFetch(ts *testscript.TestScript, _ bool, args []string) {
	status, err := agent.Ask(context.Background(), filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "lychgate", "agent.sock"))
	ts.Check(err)
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		req, err := http.NewRequest(method, "http://"+status.Listen[0]+"/main/"+args[1], nil)
		ts.Check(err)
		req.Close = true
		res, err := http.DefaultClient.Do(req)
		ts.Check(err)
		text, err := io.ReadAll(res.Body)
		ts.Check(errors.Join(err, res.Body.Close()))
		if want := args[0]; strconv.Itoa(res.StatusCode) != want {
			ts.Fatalf("%s: %s, want %s", method, res.Status, want)
		}
		if method == http.MethodGet && len(args) > 2 {
			ts.Check(os.WriteFile(ts.MkAbs(args[2]), text, 0o600))
		}
	}
}
