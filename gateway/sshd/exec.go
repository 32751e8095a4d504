package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/lychgate/lychgate/gateway"
)

// The outcomes of operations, for metrics.
const (
	succeeded   = "ok"
	failed      = "failed"
	unavailable = "unavailable"
)

// Exit statuses. That of test is 1 for no and 2 for trouble, as POSIX has it.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotThere    = 3
	exitUnavailable = 75 // EX_TEMPFAIL: asking again may help
	exitNoCommand   = 127
)

// verb is a command that the door understands.
type verb struct {
	name  string
	route string // for metrics
	usage string // after the name; verbs without one are not listed
	about string
	run   func(ctx context.Context, c *call) uint32
}

// verbs are all commands. The first six lines are what clients send; the rest is for people and scripts.
func verbs() []verb {
	return []verb{
		{name: "[", route: "test", run: test},
		{name: "test", route: "test", run: test},
		{name: "scp", route: "scp", run: scp},
		{name: "token", route: "token", usage: "[--ttl DURATION] [--note TEXT] [--json | --netrc]", about: "make a short-lived token for HTTPS", run: token},
		{name: "whoami", route: "whoami", usage: "[--json]", about: "say who the gate takes you for", run: whoami},
		{name: "explain", route: "explain", usage: "PATH [--json]", about: "say why you may or may not read an object", run: explain},
		{name: "presence", route: "presence", usage: "[--zone ZONE]", about: "read a name a line; answer 1 or 0 a line", run: presence},
		{name: "help", route: "help", about: "list these commands", run: help},
	}
}

// call is a command that runs.
type call struct {
	channel  *channel
	verb     string
	args     []string
	out, err io.Writer
	session  *gateway.Session
}

// execute answers an exec request.
func execute(ctx context.Context, ch *channel, line string) (uint32, Observation) {
	c := &call{channel: ch, out: ch.paced(ch), err: ch.paced(ch.Stderr())}
	words, err := split(line)
	if err != nil || len(words) == 0 {
		c.complain("%v; this is no shell: try help", errWords)
		return exitUsage, Observation{Route: "other", Outcome: failed}
	}
	c.verb, c.args = words[0], words[1:]
	for _, v := range verbs() {
		if v.name == c.verb {
			status := c.runAs(ctx, v)
			return status, Observation{Route: v.route, Outcome: outcome(v.route, status)}
		}
	}
	c.complain("no such command")
	c.list()
	return exitNoCommand, Observation{Route: "other", Outcome: failed}
}

// outcome reads an exit status.
func outcome(route string, status uint32) string {
	switch {
	case status == exitOK:
		return succeeded
	case status == exitUnavailable, status == exitUsage && route == "test":
		return unavailable
	}
	return failed
}

// runAs opens a session for the command and runs it.
func (c *call) runAs(ctx context.Context, v verb) uint32 {
	var err error
	if c.session, err = c.channel.session(ctx); err != nil {
		return c.fail(err)
	}
	return v.run(ctx, c)
}

// greet answers a client that asks for a shell.
func greet(ctx context.Context, ch *channel) (uint32, Observation) {
	c := &call{channel: ch, out: ch.paced(ch), err: ch.paced(ch.Stderr())}
	o := Observation{Route: "other", Outcome: failed}
	var err error
	if c.session, err = ch.session(ctx); err != nil {
		return c.fail(err), o
	}
	fmt.Fprintf(c.err, "Hello %s. This is lychgate: it knows you, and there is no shell here.\n", clean(c.session.Principal().Name))
	c.list()
	return exitFailed, o
}

// complain says on standard error what is wrong.
func (c *call) complain(format string, args ...any) {
	fmt.Fprintf(c.err, "lychgate: "+format+"\n", args...)
}

// list names the commands on standard error.
func (c *call) list() { fmt.Fprint(c.err, commands()) }

// commands lists the commands that are for people.
func commands() string {
	var b strings.Builder
	b.WriteString("Commands:\n")
	for _, v := range verbs() {
		if v.about != "" {
			fmt.Fprintf(&b, "  %-62s %s\n", strings.TrimSpace(v.name+" "+v.usage), v.about)
		}
	}
	b.WriteString("Files: sftp and scp, /ZONE/PATH. Builds: [ -f PATH ]\n")
	return b.String()
}

func help(_ context.Context, c *call) uint32 {
	_, err := io.WriteString(c.out, commands())
	return written(err)
}

// written is the exit status of a command whose last act was to write.
func written(err error) uint32 {
	if err != nil {
		return exitFailed
	}
	return exitOK
}

// fail says what a command failed by, in words that do not tell denied from absent, and returns its exit status.
func (c *call) fail(err error) uint32 {
	var mistake *gateway.RequestError
	switch {
	case errors.As(err, &mistake):
		c.complain("%s", clean(mistake.Error()))
		return exitFailed
	case errors.Is(err, gateway.ErrNotFound):
		c.complain("not there, or not for you")
		return exitNotThere
	case errors.Is(err, gateway.ErrUnauthenticated):
		c.complain("your key is not accepted any more")
		return exitFailed
	}
	c.channel.conn.server.log.Error("command not served", "command", c.verb, "error", err)
	c.complain("the gate cannot answer now; try again")
	return exitUnavailable
}

// misused says how a command is used.
func (c *call) misused(problem string) uint32 {
	for _, v := range verbs() {
		if v.name == c.verb {
			c.complain("%s; usage: %s", clean(problem), strings.TrimSpace(v.name+" "+v.usage))
		}
	}
	return exitUsage
}

// reply prints a value as JSON.
func (c *call) reply(body any) uint32 {
	text, err := json.Marshal(body, jsontext.Multiline(true))
	if err != nil {
		return c.fail(err)
	}
	_, err = c.out.Write(append(text, '\n'))
	return written(err)
}

// clean makes text from outside fit for a terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}

// test answers "-f PATH" and "-e PATH", as BitBake asks before each download. It says nothing.
func test(ctx context.Context, c *call) uint32 {
	args := c.args
	if c.verb == "[" {
		if len(args) == 0 || args[len(args)-1] != "]" {
			return c.misused("the ] is missing")
		}
		args = args[:len(args)-1]
	}
	if len(args) != 2 || args[0] != "-f" && args[0] != "-e" {
		return c.misused("only -f PATH and -e PATH are understood")
	}
	err := c.exists(ctx, args[1], args[0] == "-e")
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, gateway.ErrUnavailable):
		c.channel.conn.server.log.Error("command not served", "command", "test", "error", err)
		c.complain("the gate cannot answer now; try again")
		return exitUsage
	}
	return exitFailed
}

// exists reports by nil that there is an object for the asker at path, or, if dirs is true, a directory.
func (c *call) exists(ctx context.Context, path string, dirs bool) error {
	if dirs {
		_, err := c.channel.tree().stat(ctx, path)
		return err
	}
	zone, rest, ok := objectPath(path)
	if !ok {
		return gateway.ErrNotFound
	}
	_, err := c.session.Stat(ctx, zone, rest)
	return err
}

// objectPath splits "/ZONE/REST". A "%" is not in any name, and would be read as the beginning of an escape further on.
func objectPath(path string) (zone, rest string, ok bool) {
	zone, rest, ok = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return zone, rest, ok && !strings.Contains(path, "%")
}

// readInput reads standard input, of at most limit bytes.
func (c *call) readInput(limit int) ([]byte, error) {
	var b bytes.Buffer
	_, err := io.Copy(&b, io.LimitReader(c.channel.pacedInput(c.channel.conn.server.limits.ProgressBytes), int64(limit)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the names: %w", err)
	case b.Len() > limit:
		return nil, &gateway.RequestError{Problem: "the names are too many bytes", Hint: "split the batch"}
	}
	return b.Bytes(), nil
}
