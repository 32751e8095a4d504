package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/gateway"
)

// SSHDoor is a gate's ssh door, as the user's own ssh program reaches it: with its configuration, agent, hardware keys and
// known_hosts.
type SSHDoor struct {
	Program string    // "ssh", or where it is
	User    string    // "" leaves it to ssh; the gate does not look at it
	Host    string    // a name, an address, or a Host of ssh_config
	Port    int       // 0 leaves it to ssh
	Stderr  io.Writer // shows what ssh says, as "touch your key"
}

// ParseSSHDoor reads [USER@]HOST[:PORT]. Nothing of it can be taken for an option of ssh, or for more than a name by a ProxyCommand.
func ParseSSHDoor(text string) (SSHDoor, error) {
	d := SSHDoor{Program: "ssh"}
	rest := text
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		d.User, rest = text[:at], text[at+1:]
		if !isSSHName(d.User) {
			return d, fmt.Errorf("%s: this is no user name: want [USER@]HOST[:PORT]", printable(text))
		}
	}
	d.Host = rest
	if host, port, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return d, fmt.Errorf("%s: %s is no port: want [USER@]HOST[:PORT]", printable(text), printable(port))
		}
		d.Host, d.Port = host, int(n)
	}
	if strings.HasPrefix(d.Host, "[") && strings.HasSuffix(d.Host, "]") {
		d.Host = d.Host[1 : len(d.Host)-1]
	}
	if addr, err := netip.ParseAddr(d.Host); !isSSHName(d.Host) && (err != nil || addr.Zone() != "") {
		return d, fmt.Errorf("%s: this is no host: want [USER@]HOST[:PORT]", printable(text))
	}
	return d, nil
}

// isSSHName takes what names users and hosts, and no option.
func isSSHName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return s != "" && s[0] != '-' && strings.Trim(s, letters) == "" && len(s) <= 255
}

// String returns the door in the form that ParseSSHDoor reads.
func (d SSHDoor) String() string {
	text := d.Host
	if d.Port != 0 {
		text = net.JoinHostPort(d.Host, strconv.Itoa(d.Port))
	}
	if d.User != "" {
		text = d.User + "@" + text
	}
	return text
}

const maxSSHReply = 64 << 10 // bytes

// ViaSSHDoor signs in with ssh at a gate's ssh door.
type ViaSSHDoor struct{ Door SSHDoor }

var _ TokenSource = ViaSSHDoor{}

// Token implements [TokenSource]. The client is not used: the token is for whatever gate the door is of.
func (s ViaSSHDoor) Token(ctx context.Context, _ *Client, r gateway.TokenRequest) (gateway.TokenReply, error) {
	return s.Door.Token(ctx, r)
}

func (s ViaSSHDoor) String() string { return "ssh at " + s.Door.String() }

// Token has the gate make a token for the owner of the SSH key. It is tried once. The errors hold what ssh said.
func (d SSHDoor) Token(ctx context.Context, r gateway.TokenRequest) (gateway.TokenReply, error) {
	args, err := d.args(r)
	if err != nil {
		return gateway.TokenReply{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.Program, args...)
	said := &tail{}
	cmd.Stderr = said
	if d.Stderr != nil {
		cmd.Stderr = io.MultiWriter(d.Stderr, said)
	}
	cmd.WaitDelay = time.Second // a connection that ssh left in the background may hold the pipes
	out, err := cmd.StdoutPipe()
	if err != nil {
		return gateway.TokenReply{}, fmt.Errorf("run ssh: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return gateway.TokenReply{}, fmt.Errorf("run ssh: %w", err)
	}
	text, readErr := io.ReadAll(io.LimitReader(out, maxSSHReply+1))
	if len(text) > maxSSHReply {
		cancel()
		readErr = fmt.Errorf("the answer is longer than %d bytes", maxSSHReply)
	}
	return d.reply(text, readErr, cmd.Wait(), said)
}

// args are those of ssh. The note is quoted as a shell would have it, which is how the gate reads it.
func (d SSHDoor) args(r gateway.TokenRequest) ([]string, error) {
	if strings.ContainsFunc(r.Note, func(c rune) bool { return c < ' ' || c >= 0x7f }) {
		return nil, errors.New("the note: an ssh door takes one line of ASCII")
	}
	args := []string{"-T", "-a", "-x", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no"}
	if d.Port != 0 {
		args = append(args, "-p", strconv.Itoa(d.Port))
	}
	destination := d.Host
	if d.User != "" {
		destination = d.User + "@" + d.Host
	}
	args = append(args, "--", destination, "token", "--json")
	if r.Seconds > 0 {
		args = append(args, "--ttl", strconv.FormatInt(r.Seconds, 10)+"s")
	}
	if r.Note != "" {
		args = append(args, "--note", "'"+strings.ReplaceAll(r.Note, "'", `'\''`)+"'")
	}
	return args, nil
}

// reply reads what came of it.
func (d SSHDoor) reply(text []byte, readErr, exitErr error, said *tail) (gateway.TokenReply, error) {
	var t gateway.TokenReply
	var exit *exec.ExitError
	switch {
	case readErr != nil:
		return t, fmt.Errorf("ask %s for a token: %w", d, readErr)
	case errors.As(exitErr, &exit) && exit.ExitCode() == 255: // ssh's own failures
		return t, fmt.Errorf("ask %s for a token: ssh could not connect or sign in%s", d, said)
	case exitErr != nil && !errors.Is(exitErr, exec.ErrWaitDelay):
		return t, fmt.Errorf("ask %s for a token: %w%s", d, exitErr, said)
	}
	if err := json.Unmarshal(bytes.TrimRight(text, "\r\n"), &t, json.RejectUnknownMembers(true)); err != nil {
		return gateway.TokenReply{}, fmt.Errorf("ask %s for a token: the answer is no gate's: is this its ssh door? %w", d, err)
	}
	return t, checkReply(t)
}

// tail keeps the end of what was written to it.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if over := len(t.text) - maxErrorText; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// String returns it for the end of an error, fit for a terminal.
func (t *tail) String() string {
	if said := words(strings.TrimSpace(string(t.text))); said != "" {
		return ": " + said
	}
	return ""
}
