package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strings"

	"golang.org/x/crypto/ssh"
)

// opensshConfig is as Debian ships it where speed is concerned, but without PAM, which would do more for each connection than the
// gate, and without the limit on connections that begin at once.
const opensshConfig = `ListenAddress %s
HostKey %s
AuthorizedKeysFile %s
AuthenticationMethods publickey
PermitRootLogin yes
UsePAM no
StrictModes no
UseDNS no
PidFile none
LogLevel ERROR
MaxStartups 10000
MaxSessions 1000
Ciphers %s
KexAlgorithms %s
Subsystem sftp internal-sftp
`

// writeSSHKeys makes the host key that both servers have, and alice's.
func (w *world) writeSSHKeys(context.Context) error {
	host, err := w.sshKey("host_key")
	if err != nil {
		return err
	}
	alice, err := w.sshKey("alice")
	if err != nil {
		return err
	}
	var known strings.Builder
	for _, s := range []server{w.servers.openssh, w.servers.ssh} {
		address, port, _ := strings.Cut(s.addr, ":")
		known.WriteString("[" + address + "]:" + port + " " + host)
	}
	return errors.Join(
		os.WriteFile(w.path("known_hosts"), []byte(known.String()), 0o600),
		os.WriteFile(w.path("alice.pub"), []byte(alice), 0o600))
}

// sshKey makes a key and returns its public half as a line.
func (w *world) sshKey(name string) (string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, name)
	if err != nil {
		return "", err
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		return "", err
	}
	return string(ssh.MarshalAuthorizedKey(public)), os.WriteFile(w.path(name), pem.EncodeToMemory(block), 0o600)
}

// privilegeSeparation is the directory that sshd run by root wants to be there (sshd(8)); Debian makes it when the service starts.
const privilegeSeparation = "/run/sshd"

func startOpenSSH(ctx context.Context, w *world, addr string) ([]*process, error) {
	if os.Geteuid() == 0 {
		if err := os.MkdirAll(privilegeSeparation, 0o755); err != nil {
			return nil, err
		}
	}
	conf := fmt.Appendf(nil, opensshConfig, addr, w.path("host_key"), w.path("alice.pub"), sshCipher, sshKex)
	if err := os.WriteFile(w.path("sshd_config"), conf, 0o600); err != nil {
		return nil, err
	}
	return w.startOne(ctx, "sshd", func() bool { return accepts(addr) }, findProgram("sshd"), "-D", "-e", "-f", w.path("sshd_config"))
}

// opensshVersion is what the server calls itself. Old ones know no -V, and say who they are before they fail.
func opensshVersion(ctx context.Context, program string) string {
	text, _ := exec.CommandContext(ctx, program, "-V").CombinedOutput()
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "OpenSSH") {
			return strings.TrimSpace(line)
		}
	}
	return "OpenSSH of unknown version"
}

// login is how the generator comes in at both servers. sshd takes the one who runs it, whoever that is; to the gate the name is nothing.
func (w *world) login() (*sshLogin, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	return &sshLogin{User: me.Username, Key: w.path("alice"), Known: w.path("known_hosts")}, nil
}

// sftps are contenders that are asked the same over SFTP. change makes of the least order what is wanted.
func (w *world) sftps(method, names string, change func(*load), all ...server) (list []contender, err error) {
	if err := w.prepare(context.Background()); err != nil {
		return nil, err
	}
	for _, s := range all {
		login, err := w.login()
		if err != nil {
			return nil, err
		}
		tree := w.path("www/sstate")
		if s.addr == w.servers.ssh.addr {
			tree = "" // it shows zones, not files
		}
		o := load{
			Addr: s.addr, Names: w.path(names), Duration: w.duration, Conns: 1, Length: smallBytes,
			Request: method + " " + tree + "/main/{NAME}", SSH: login,
		}
		change(&o)
		list = append(list, contender{server: s, order: o})
	}
	return list, nil
}

// besideOpenSSH has OpenSSH and the gate do the same in turn.
func (w *world) besideOpenSSH(ctx context.Context, name, method string, least float64, change func(*load)) (row, error) {
	s := w.servers
	both, err := w.sftps(method, "small.names", change, s.openssh, s.ssh)
	if err != nil {
		return row{}, err
	}
	all, err := w.compare(ctx, both...)
	return rates(name, s.openssh, all, all[s.ssh.name].median(turn.rate), least, true), err
}

// What is asked of one connection, and of many.
const (
	sftpJobs  = 8
	sftpAhead = 16 // STATs in flight on one connection
)

func measureSFTPConnect(ctx context.Context, w *world) ([]row, error) {
	one, err := w.besideOpenSSH(ctx, "SFTP: connect, stat, close; one at a time", "STAT", 10, func(l *load) { l.Connect = true })
	if err != nil {
		return nil, err
	}
	many, err := w.besideOpenSSH(ctx, fmt.Sprintf("SFTP: connect, stat, close; %d at once", sftpJobs), "STAT", 10, func(l *load) {
		l.Connect, l.Conns = true, sftpJobs
	})
	return []row{one, many}, err
}

func measureSFTPStat(ctx context.Context, w *world) (rows []row, err error) {
	for _, k := range []struct {
		name          string
		least         float64
		conns, flight int
	}{
		{"SFTP: stats on one connection, one in flight", 1.5, 1, 1},
		{fmt.Sprintf("SFTP: stats on one connection, %d in flight", sftpAhead), 1.5, 1, sftpAhead},
		{fmt.Sprintf("SFTP: stats on %d connections, one in flight each", sftpJobs), 0, sftpJobs, 1},
	} {
		r, err := w.besideOpenSSH(ctx, k.name, "STAT", k.least, func(l *load) { l.Conns, l.SSH.Flight = k.conns, k.flight })
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func measureSFTPGet(ctx context.Context, w *world) (rows []row, err error) {
	for _, k := range []struct {
		client string
		least  float64
	}{{opensshClient, 1}, {goClient, 0}} {
		more, err := w.downloads(ctx, k.client, k.least)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// downloads has one client download the large object from the gate's own directory, from its mirror, and from OpenSSH.
func (w *world) downloads(ctx context.Context, client string, least float64) ([]row, error) {
	s := w.servers
	change := func(l *load) { l.Length, l.SSH.Client = largeBytes, client }
	both, err := w.sftps("READ", "blob.names", change, s.openssh, s.ssh)
	if err != nil {
		return nil, err
	}
	mirrored, err := w.sftps("READ", "mirrored.names", change, s.ssh)
	if err != nil {
		return nil, err
	}
	remote := mirrored[0]
	remote.name, remote.beside, remote.lacks = s.ssh.name+", verified from a mirror", []server{s.mirror}, s.mirror.lacks
	contenders := append(both, remote)
	if client == opensshClient && findProgram("sftp") == "" {
		for i := range contenders {
			contenders[i].lacks = lacking("sftp", "openssh-client")
		}
	}
	all, err := w.compare(ctx, contenders...)
	if err != nil {
		return nil, err
	}
	own, far := all[s.ssh.name].median(turn.byteRate), all[remote.name].median(turn.byteRate)
	name := "SFTP: download of 64 MiB by " + client
	return []row{
		rates(name+", from the gate's own directory", contenders[0].server, all, own, least, false),
		rates(name+", every byte verified from a remote mirror", contenders[0].server, all, far, 0, false),
	}, nil
}
