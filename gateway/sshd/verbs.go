package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/gateway"
)

// options reads the options of a command: flags, and names with a value, which follows or is behind "=". The rest it returns.
func (c *call) options(flags map[string]*bool, values map[string]*string) (rest []string, err error) {
	args := c.args
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, joined := strings.Cut(arg, "=")
		switch {
		case arg == "--":
			return append(rest, args...), nil
		case !strings.HasPrefix(arg, "-"):
			rest = append(rest, arg)
		case flags[arg] != nil:
			*flags[arg] = true
		case values[name] != nil && joined:
			*values[name] = value
		case values[name] != nil && len(args) > 0:
			*values[name], args = args[0], args[1:]
		case values[name] != nil:
			return nil, fmt.Errorf("%s needs a value", name)
		default:
			return nil, fmt.Errorf("unknown option %s", arg)
		}
	}
	return rest, nil
}

// token makes a token for the asker.
func token(ctx context.Context, c *call) uint32 {
	var asJSON, asNetrc bool
	var life, note string
	rest, err := c.options(map[string]*bool{"--json": &asJSON, "--netrc": &asNetrc}, map[string]*string{"--ttl": &life, "--note": &note})
	switch {
	case err != nil:
		return c.misused(err.Error())
	case len(rest) > 0:
		return c.misused("too many words (quote a note twice: ssh joins its words)")
	case asJSON && asNetrc:
		return c.misused("--json or --netrc, not both")
	case asNetrc && c.channel.conn.server.host == "":
		return c.misused("the gate does not know its own host name")
	}
	var ttl time.Duration
	if life != "" {
		if ttl, err = time.ParseDuration(life); err != nil || ttl <= 0 {
			return c.misused("a duration is a number and s, m or h: 90m")
		}
	}
	secret, info, err := c.session.Mint(ctx, ttl, note)
	if err != nil {
		return c.fail(err)
	}
	expires := info.Expires.UTC().Format(time.RFC3339)
	switch {
	case asJSON:
		p := info.Principal
		return c.reply(gateway.TokenReply{Token: secret.Reveal(), ID: info.ID, User: p.Forge + "/" + p.ID, Name: p.Name, Expires: expires})
	case asNetrc:
		_, err = fmt.Fprintf(c.out, "machine %s login token password %s\n", c.channel.conn.server.host, secret.Reveal())
	default:
		_, err = fmt.Fprintf(c.out, "%s\n", secret.Reveal())
	}
	return written(err)
}

// whoami says who the asker is.
func whoami(_ context.Context, c *call) uint32 {
	var asJSON bool
	if rest, err := c.options(map[string]*bool{"--json": &asJSON}, nil); err != nil || len(rest) > 0 {
		return c.misused("only --json is understood")
	}
	p := c.session.Principal()
	me := gateway.Whoami{Forge: p.Forge, ID: p.ID, Name: p.Name, Kind: string(p.Kind), Groups: p.Groups, Roles: p.Roles}
	if !p.Expires.IsZero() {
		me.Expires = p.Expires.UTC().Format(time.RFC3339)
	}
	if asJSON {
		return c.reply(me)
	}
	text := fmt.Sprintf("%s (%s) at %s, id %s\n", clean(me.Name), clean(me.Kind), clean(me.Forge), clean(me.ID))
	for _, list := range []struct {
		what  string
		items []string
	}{{"groups", me.Groups}, {"roles", me.Roles}} {
		if len(list.items) > 0 {
			text += list.what + ": " + clean(strings.Join(list.items, ", ")) + "\n"
		}
	}
	if me.Expires != "" {
		text += "until " + me.Expires + "\n"
	}
	_, err := c.out.Write([]byte(text))
	return written(err)
}

// explain says why the asker may or may not read an object.
func explain(ctx context.Context, c *call) uint32 {
	var asJSON bool
	rest, err := c.options(map[string]*bool{"--json": &asJSON}, nil)
	switch {
	case err != nil:
		return c.misused(err.Error())
	case len(rest) != 1:
		return c.misused("name one object")
	}
	zone, path, ok := objectPath(rest[0])
	if !ok {
		return c.fail(gateway.ErrNotFound)
	}
	x, err := c.session.Explain(ctx, zone, path)
	if err != nil {
		return c.fail(err)
	}
	if asJSON {
		return c.reply(x)
	}
	_, err = c.out.Write([]byte(explanation(x)))
	return written(err)
}

// explanation is an answer of explain in words.
func explanation(x *authz.Explanation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: /%s/%s, by rule %s\n", clean(x.Verdict), clean(x.Zone), clean(x.Name), clean(x.Rule))
	for _, r := range x.Reasons {
		fmt.Fprintf(&b, "  %s\n", clean(r))
	}
	if x.NextStep != "" {
		fmt.Fprintf(&b, "%s\n", clean(x.NextStep))
	}
	return b.String()
}

// maxNames bounds the bytes of a batch of names.
const maxNames = 16 << 20

// presence answers for each line of standard input whether the asker may read an object of that name. It may be in any zone, as
// /ZONE/PATH, or in the zone that is given, as PATH.
func presence(ctx context.Context, c *call) uint32 {
	var zone string
	if rest, err := c.options(nil, map[string]*string{"--zone": &zone}); err != nil || len(rest) > 0 {
		return c.misused("names are read from standard input; only --zone is understood")
	}
	input, err := c.readInput(maxNames)
	if err != nil {
		return c.failBatch(err)
	}
	if limit := c.channel.conn.server.gate.Limits.PresenceNames; bytes.Count(input, []byte("\n")) > limit {
		return c.fail(&gateway.RequestError{Problem: fmt.Sprintf("more than %d names in one batch", limit), Hint: "split the batch"})
	}
	b := newBatch(strings.TrimSuffix(string(input), "\n"), zone)
	if err := b.ask(ctx, c.session); err != nil {
		return c.failBatch(err)
	}
	_, err = c.out.Write(b.answer)
	return written(err)
}

// failBatch is fail for what a client did not send to the end.
func (c *call) failBatch(err error) uint32 {
	if c.session != nil && !errors.Is(err, gateway.ErrUnavailable) && !isMistake(err) {
		c.complain("the names broke off, or came too slowly")
		return exitFailed
	}
	return c.fail(err)
}

func isMistake(err error) bool {
	_, is := errors.AsType[*gateway.RequestError](err)
	return is
}

// batch is a list of names, by zone, with the lines of the answer that they belong to.
type batch struct {
	names  map[string][]string
	lines  map[string][]int
	answer []byte // "0\n" or "1\n" a line
}

func newBatch(text, zone string) *batch {
	b := &batch{names: map[string][]string{}, lines: map[string][]int{}}
	if text == "" {
		return b
	}
	n := 0
	for name := range strings.SplitSeq(text, "\n") {
		b.answer = append(b.answer, "0\n"...)
		in := zone
		if zone == "" || strings.HasPrefix(name, "/") {
			in, name, _ = strings.Cut(strings.TrimPrefix(name, "/"), "/")
		}
		if !strings.Contains(name, "%") {
			b.names[in] = append(b.names[in], name)
			b.lines[in] = append(b.lines[in], n)
		}
		n++
	}
	return b
}

// ask fills the answer. Only the zones that there are cost something.
func (b *batch) ask(ctx context.Context, s *gateway.Session) error {
	zones := make([]string, 0, len(b.names))
	for zone := range b.names {
		zones = append(zones, zone)
	}
	slices.Sort(zones)
	for _, zone := range zones {
		present, err := s.Presence(ctx, zone, b.names[zone])
		if err != nil {
			return err
		}
		for i, is := range present {
			if is {
				b.answer[2*b.lines[zone][i]] = '1'
			}
		}
	}
	return nil
}
