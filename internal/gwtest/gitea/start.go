package gitea

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// Admin is the site administrator, who owns Token.
const Admin = "root1"

const adminPassword = "only-for-this-test-1"

// Server is a running Gitea. Its methods fail the test when the server does.
type Server struct {
	T       testing.TB
	URL     string // http://127.0.0.1:PORT
	SSHAddr string // 127.0.0.1:PORT of its own SSH server, whose user is "git"
	Token   string // of Admin, for everything
	dir     string
	program string
	owner   *syscall.Credential // whom the program runs as; nil for who runs the test
}

// Start starts a Gitea that ends with the test. It refuses to run as root, so there it runs as nobody.
func Start(t testing.TB) *Server {
	t.Helper()
	built := Build(t)
	dir, err := os.MkdirTemp("", "gitea-*") // not below t.TempDir, which another user may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Server{T: t, dir: dir, program: filepath.Join(built, "gitea")}
	static, name := filepath.Join(built, "static"), ""
	if os.Geteuid() == 0 {
		name = s.asNobody(built)
		static = filepath.Join(dir, "static")
	} else if me, err := user.Current(); err == nil {
		name = me.Username
	}
	s.configure(name, static)
	s.hand()
	s.run("migrate")
	s.run("admin", "user", "create", "--username", Admin, "--password", adminPassword, "--email", Admin+"@example.com", "--admin", "--must-change-password=false")
	s.Token = strings.TrimSpace(s.run("admin", "user", "generate-access-token", "--username", Admin, "--token-name", "all", "--scopes", "all", "--raw"))
	s.serve()
	return s
}

// asNobody copies what was built to where nobody may read it.
func (s *Server) asNobody(built string) string {
	s.T.Helper()
	nobody, err := user.Lookup("nobody")
	s.must(err)
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	s.must(err)
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	s.must(err)
	s.owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: false}
	s.must(os.CopyFS(filepath.Join(s.dir, "static"), os.DirFS(filepath.Join(built, "static"))))
	from, err := os.Open(s.program)
	s.must(err)
	defer from.Close()
	s.program = filepath.Join(s.dir, "gitea")
	to, err := os.OpenFile(s.program, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	s.must(err)
	_, err = io.Copy(to, from)
	s.must(errors.Join(err, to.Close()))
	return nobody.Username
}

// hand gives the directory to whom the program runs as.
func (s *Server) hand() {
	s.T.Helper()
	if s.owner == nil {
		return
	}
	s.must(filepath.WalkDir(s.dir, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, int(s.owner.Uid), int(s.owner.Gid))
	}))
}

func (s *Server) configure(runUser, static string) {
	s.T.Helper()
	web, ssh := s.freePort(), s.freePort()
	s.URL, s.SSHAddr = "http://127.0.0.1:"+web, "127.0.0.1:"+ssh
	s.must(os.MkdirAll(filepath.Join(s.dir, "work", "home"), 0o700))
	text := fmt.Sprintf(`RUN_USER = %s
WORK_PATH = %[2]s/work
[database]
DB_TYPE = sqlite3
PATH = %[2]s/work/gitea.db
[repository]
ROOT = %[2]s/work/repos
[server]
ROOT_URL = http://127.0.0.1:%[4]s/
HTTP_ADDR = 127.0.0.1
HTTP_PORT = %[4]s
STATIC_ROOT_PATH = %[3]s
START_SSH_SERVER = true
SSH_LISTEN_HOST = 127.0.0.1
SSH_LISTEN_PORT = %[5]s
SSH_DOMAIN = 127.0.0.1
SSH_PORT = %[5]s
BUILTIN_SSH_SERVER_USER = git
OFFLINE_MODE = true
[security]
INSTALL_LOCK = true
PASSWORD_HASH_ALGO = pbkdf2$1000$50
[log]
LEVEL = Warn
[mailer]
ENABLED = false
[actions]
ENABLED = false
[webhook]
ALLOWED_HOST_LIST = loopback
[cron.update_checker]
ENABLED = false
`, runUser, s.dir, static, web, ssh)
	s.must(os.WriteFile(filepath.Join(s.dir, "app.ini"), []byte(text), 0o600))
}

// freePort returns a port of loopback: Gitea cannot be told to take any.
func (s *Server) freePort() string {
	s.T.Helper()
	address, err := loopback.Free()
	s.must(err)
	_, port, err := net.SplitHostPort(address)
	s.must(err)
	return port
}

func (s *Server) command(ctx context.Context, argv ...string) *exec.Cmd {
	work := filepath.Join(s.dir, "work")
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = work
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(work, "home"), "GITEA_WORK_DIR=" + work, "GIT_CONFIG_NOSYSTEM=1", "TMPDIR=" + filepath.Join(work, "home"),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.owner}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// run runs one of the program's commands and returns what it printed.
func (s *Server) run(args ...string) string {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var printed, log strings.Builder
	cmd := s.command(ctx, append([]string{s.program, "-c", filepath.Join(s.dir, "app.ini")}, args...)...)
	cmd.Stdout, cmd.Stderr = &printed, &log
	if err := cmd.Run(); err != nil {
		s.T.Fatalf("gitea %s: %v\n%s%s", args[0], err, printed.String(), log.String())
	}
	return printed.String()
}

// serve runs the server until the test ends. It ends when its input does, so that no test that was killed leaves one behind.
func (s *Server) serve() {
	s.T.Helper()
	in, alive, err := os.Pipe()
	s.must(err)
	defer in.Close()
	log, err := os.Create(filepath.Join(s.dir, "log"))
	s.must(err)
	defer log.Close()
	cmd := s.command(context.Background(), "/bin/sh", "-c", `"$@" </dev/null & read -r _; kill -9 $!`, "sh", s.program, "-c", filepath.Join(s.dir, "app.ini"), "web")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, log, log
	s.must(cmd.Start())
	s.T.Cleanup(func() {
		alive.Close()
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		if s.T.Failed() {
			text, _ := os.ReadFile(log.Name()) // there may be none
			s.T.Logf("Gitea said:\n%s", text)
		}
	})
	deadline := time.Now().Add(2 * time.Minute)
	for !s.healthy() {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			s.T.Fatalf("Gitea did not start in time:\n%s", text)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *Server) healthy() bool {
	resp, err := http.Get(s.URL + "/api/healthz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (s *Server) must(err error) {
	s.T.Helper()
	if err != nil {
		s.T.Fatal(err)
	}
}
