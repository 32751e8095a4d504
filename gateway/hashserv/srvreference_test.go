//go:build reference

package hashserv

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest/loopback"
)

// srvBitbake returns the checkout of openembedded/bitbake to compare with. Nothing is written into it.
func srvBitbake(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("BITBAKE_DIR")
	if dir == "" {
		t.Fatal("BITBAKE_DIR is not set: it is a checkout of https://github.com/openembedded/bitbake")
	}
	return dir
}

// TestReferenceSuite runs the reference's own suite for an external server against ours, in both of its configurations: anonymous users who
// may do what they may by default, and nothing for anonymous users with an administrator.
func TestReferenceSuite(t *testing.T) {
	dir := srvBitbake(t)
	for _, network := range []string{"tcp", "unix", "ws", "wss"} {
		if strings.HasPrefix(network, "ws") && exec.Command("python3", "-c", "import websockets").Run() != nil {
			t.Log("not over websockets: python3 has no module websockets")
			continue
		}
		for _, admin := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/admin=%v", network, admin), func(t *testing.T) {
				accounts := &srvAccounts{
					store: NewMemory(MemoryConfig{}), anonymous: []Permission{Read, Reporting, DBAdmin},
					users: map[string]*srvAccount{},
				}
				address, authority := srvServeAccounts(t, network, accounts)
				env := append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH="+filepath.Join(dir, "lib")+":"+os.Getenv("PYTHONPATH"),
					"BB_TEST_HASHSERV="+address, "SSL_CERT_FILE="+authority)
				if admin {
					accounts.anonymous = nil
					accounts.users["admin"] = &srvAccount{"secret", []Permission{All}}
					env = append(env, "BB_TEST_HASHSERV_USERNAME=admin", "BB_TEST_HASHSERV_PASSWORD=secret")
				}
				suite := exec.CommandContext(t.Context(), "python3", "-m", "unittest", "-v", "hashserv.tests.TestHashEquivalenceExternalServer")
				suite.Env, suite.Dir = env, t.TempDir()
				out, err := suite.CombinedOutput()
				failed := srvFailures(string(out))
				t.Logf("%d of its tests fail: %q", len(failed), failed)
				want := []string(nil)
				if admin { // with anonymous users who may nothing these connect anonymously, and are refused before their unihash is looked at
					want = []string{"test_equivreport_rejects_invalid_unihash", "test_report_rejects_invalid_unihash"}
				}
				if !slices.Equal(failed, want) {
					t.Errorf("failed %q, want %q: %v\n%s", failed, want, err, out)
				}
				if !strings.Contains(string(out), "\nRan ") {
					t.Errorf("it did not run: %s", out)
				}
			})
		}
	}
}

// srvFailures returns the tests that unittest says have failed.
func srvFailures(out string) (names []string) {
	for line := range strings.Lines(out) {
		for _, kind := range []string{"FAIL: ", "ERROR: "} {
			if rest, ok := strings.CutPrefix(line, kind); ok {
				names = append(names, strings.Fields(rest)[0])
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// srvServeAccounts returns the address of a server, and the file of the authority that vouches for it.
func srvServeAccounts(t *testing.T, network string, accounts *srvAccounts) (address, authority string) {
	server := NewServer(ServerConfig{})
	serve := func(conn Conn) { _ = server.Serve(context.Background(), conn, &srvAccountPeer{srvAccounts: accounts}) }
	if network == "tcp" || network == "unix" {
		return srvLineServer(t, network, serve), ""
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, err := AcceptWebsocket(w, r); err == nil {
			serve(conn)
		}
	})
	web := httptest.NewUnstartedServer(handler)
	t.Cleanup(web.Close)
	if network == "ws" {
		web.Start()
		return strings.Replace(web.URL, "http", "ws", 1), ""
	}
	web.StartTLS()
	authority = filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(web.URL, "http", "ws", 1), authority
}

// srvAccounts is a store with users, as the reference server has them.
type srvAccounts struct {
	store     *Memory
	anonymous []Permission

	mu    sync.Mutex
	users map[string]*srvAccount
	last  int
}

type srvAccount struct {
	token       string
	permissions []Permission
}

// srvAccountPeer is somebody who uses them.
type srvAccountPeer struct {
	*srvAccounts
	self string
}

func (p *srvAccountPeer) has(anonymous bool, need ...Permission) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	account := cmp.Or(p.users[p.self], &srvAccount{})
	return !slices.ContainsFunc(need, func(n Permission) bool {
		return !slices.Contains(account.permissions, All) && !slices.Contains(account.permissions, n) && !(anonymous && slices.Contains(p.anonymous, n))
	})
}

func (p *srvAccountPeer) may(anonymous bool, need ...Permission) error {
	if p.has(anonymous, need...) {
		return nil
	}
	return &Refusal{fmt.Sprintf("%s is not allowed to access permissions(s) %v", cmp.Or(p.self, "Anonymous user"), need)}
}

func (p *srvAccountPeer) May(_ context.Context, need Permission) error { return p.may(true, need) }
func (p *srvAccountPeer) Whole(context.Context) bool                   { return true }

func (p *srvAccountPeer) Unihash(ctx context.Context, tasks []Task, answers []Mapping) error {
	return cmp.Or(p.may(true, Read), p.store.Unihash(ctx, tasks, answers))
}

func (p *srvAccountPeer) Exists(ctx context.Context, unihashes []Unihash, answers []bool) error {
	return cmp.Or(p.may(true, Read), p.store.Exists(ctx, unihashes, answers))
}

func (p *srvAccountPeer) Outhash(ctx context.Context, q Query) (*Row, error) {
	if err := p.may(true, Read); err != nil {
		return nil, err
	}
	return p.store.Outhash(ctx, q)
}

func (p *srvAccountPeer) Report(ctx context.Context, r Report) (Mapping, error) {
	if err := p.may(true, Read); err != nil {
		return Mapping{}, err
	}
	if !p.has(true, Reporting) {
		row, err := p.store.Outhash(ctx, Query{Method: r.Method, Outhash: r.Outhash})
		if err != nil || row == nil {
			return Mapping{Unihash: r.Unihash}, err
		}
		return Mapping{Unihash: row.Unihash}, nil
	}
	if p.self != "" {
		r.Owner = p.self
	}
	return p.store.Report(ctx, r)
}

func (p *srvAccountPeer) Equivalent(ctx context.Context, t Task, m Mapping) (Mapping, error) {
	if err := p.may(true, Read, Reporting); err != nil {
		return Mapping{}, err
	}
	return p.store.Equivalent(ctx, t, m)
}

func (p *srvAccountPeer) Remove(ctx context.Context, w Where) (int64, error) {
	if err := p.may(true, DBAdmin); err != nil {
		return 0, err
	}
	return p.store.Remove(ctx, w)
}

func (p *srvAccountPeer) CleanUnused(ctx context.Context, age time.Duration) (int64, error) {
	if err := p.may(true, DBAdmin); err != nil {
		return 0, err
	}
	return p.store.CleanUnused(ctx, age)
}

func (p *srvAccountPeer) Mark(ctx context.Context, mark string, w Where) (int64, error) {
	if err := p.may(true, DBAdmin); err != nil {
		return 0, err
	}
	return p.store.Mark(ctx, mark, w)
}

func (p *srvAccountPeer) Sweep(ctx context.Context, mark string) (int64, error) {
	if err := p.may(true, DBAdmin); err != nil {
		return 0, err
	}
	return p.store.Sweep(ctx, mark)
}

func (p *srvAccountPeer) Collection(ctx context.Context) (Collection, error) {
	if err := p.may(true, DBAdmin); err != nil {
		return Collection{}, err
	}
	return p.store.Collection(ctx)
}

func (p *srvAccountPeer) Usage(ctx context.Context) (map[string]int64, error) {
	if err := p.may(true, DBAdmin); err != nil {
		return nil, err
	}
	return p.store.Usage(ctx)
}

// find returns a user whom the asker may see or change: itself, or anybody with the permission for it.
func (p *srvAccountPeer) find(name string, self bool) (string, *srvAccount, error) {
	if !self || p.self == "" || name != "" && name != p.self {
		if err := p.may(false, UserAdmin); err != nil {
			return "", nil, err
		}
	} else {
		name = p.self
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	account := p.users[name]
	if account == nil {
		return "", nil, &Refusal{fmt.Sprintf("No user named '%s' exists", name)}
	}
	return name, account, nil
}

func (a *srvAccount) user(name string) User {
	if slices.Contains(a.permissions, All) {
		return User{name, []Permission{All, DBAdmin, Read, Reporting, UserAdmin}}
	}
	return User{name, a.permissions}
}

func (p *srvAccountPeer) Auth(_ context.Context, name, token string) (User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	account := p.users[name]
	if account == nil || account.token != token {
		return User{}, &Refusal{"Unable to authenticate as " + name}
	}
	p.self = name
	return User{name, account.permissions}, nil
}

func (p *srvAccountPeer) User(_ context.Context, name string) (*User, error) {
	name, account, err := p.find(name, true)
	switch {
	case err != nil && p.has(false, UserAdmin):
		return nil, nil
	case err != nil:
		return nil, err
	}
	user := account.user(name)
	return &user, nil
}

func (p *srvAccountPeer) AllUsers(context.Context) (all []User, err error) {
	if err := p.may(false, UserAdmin); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, account := range p.users {
		all = append(all, account.user(name))
	}
	return all, nil
}

func (p *srvAccountPeer) newToken() string {
	p.last++
	return fmt.Sprint("token ", p.last)
}

func (p *srvAccountPeer) NewUser(_ context.Context, name string, permissions []Permission) (User, string, error) {
	if err := p.may(false, UserAdmin); err != nil {
		return User{}, "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users[name] != nil {
		return User{}, "", &Refusal{fmt.Sprintf("Cannot create new user '%s'", name)}
	}
	account := &srvAccount{p.newToken(), permissions}
	p.users[name] = account
	return account.user(name), account.token, nil
}

func (p *srvAccountPeer) SetPermissions(_ context.Context, name string, permissions []Permission) (User, error) {
	name, account, err := p.find(name, false)
	if err != nil {
		return User{}, err
	}
	account.permissions = permissions
	return account.user(name), nil
}

func (p *srvAccountPeer) RefreshToken(_ context.Context, name string) (string, string, error) {
	name, account, err := p.find(name, true)
	if err != nil {
		return "", "", err
	}
	account.token = p.newToken()
	return name, account.token, nil
}

func (p *srvAccountPeer) DeleteUser(_ context.Context, name string) (string, error) {
	name, _, err := p.find(name, true)
	if err == nil {
		delete(p.users, name)
	}
	return name, err
}

func (p *srvAccountPeer) BecomeUser(_ context.Context, name string) (User, error) {
	name, account, err := p.find(name, false)
	if err != nil {
		return User{}, err
	}
	p.self = name
	return account.user(name), nil
}

// TestReferenceCorpus sends the commands and the hostile corpus to the reference server and to ours, which hold the same. What ours replies
// the reference server replies too, in this order; where ours ends the connection the reference server may have more to say. Other
// differences are in the corpus, with their reasons.
func TestReferenceCorpus(t *testing.T) {
	reference := srvStartReference(t)
	var rows []srvHostile
	for _, tc := range srvCommands() {
		rows = append(rows, srvHostile{category: "commands", name: tc.name, send: tc.send, end: cmp.Or(tc.end, "open")})
	}
	compared, stricter := 0, 0
	for _, h := range append(rows, srvHostiles()...) {
		if h.over == "websocket" || strings.Contains(strings.Join(h.send, " "), "user") || strings.Contains(strings.Join(h.send, " "), "backfill-wait") {
			continue // users are the peer's business, and ours knows none here; the reference has nothing to fill here
		}
		compared++
		t.Run(h.category+"/"+h.name, func(t *testing.T) {
			text := h.bytes("lines")
			theirs := srvMeanings(reference.talk(t, text))
			store := NewMemory(MemoryConfig{})
			srvFillMemory(t, store)
			tr := srvServe(t, NewServer(ServerConfig{}), &srvAccountPeer{srvAccounts: &srvAccounts{store: store, anonymous: []Permission{Read, Reporting, DBAdmin}, users: map[string]*srvAccount{}}})
			ex := tr.talkLines(t, text)
			ours := srvMeanings(ex.replies)
			if len(theirs) > len(ours) && srvEnd(ex.end) != "open" {
				stricter++
				theirs = theirs[:len(ours)]
			}
			if h.differs != "" {
				if reflect.DeepEqual(ours, theirs) {
					t.Errorf("no difference, though there shall be one: %s", h.differs)
				}
				return
			}
			if !reflect.DeepEqual(ours, theirs) {
				t.Errorf("sent %.300q\nours:   %.600v\ntheirs: %.600v", text, ours, theirs)
			}
		})
	}
	t.Logf("%d compared; in %d ours ends where the reference server goes on", compared, stricter)
}

// srvMeanings reads replies as JSON where they are, without what depends on the time, on numbers of rows, or is text for people.
func srvMeanings(replies []string) []any {
	all := []any{}
	for _, reply := range replies {
		var v any = reply
		if json.Unmarshal([]byte(reply), &v) != nil {
			v = reply
		}
		if m, ok := v.(map[string]any); ok {
			for _, name := range []string{"created", "id", "invoke-error", "requests", "usage", "columns"} {
				if _, ok := m[name]; ok {
					m[name] = "…"
				}
			}
		}
		all = append(all, v)
	}
	return all
}

func srvRows() (reports []Report) {
	for i := range byte(9) {
		reports = append(reports, Report{
			Task: Task{"m", fmt.Sprint("t", i+1)}, Outhash: fmt.Sprint("o", i+1), Unihash: srvUnihash(i + 1), Details: Details{Owner: "ö", PN: "zlib"},
		})
	}
	return reports
}

func srvFillMemory(t testing.TB, m *Memory) {
	for _, r := range srvRows() {
		if _, err := m.Report(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

// srvReference is a reference server.
type srvReference struct{ address string }

func srvStartReference(t testing.TB) *srvReference {
	t.Helper()
	address, err := loopback.Free()
	if err != nil {
		t.Fatal(err)
	}
	server := exec.Command("python3", filepath.Join(srvBitbake(t), "bin", "bitbake-hashserv"), "--bind", address, "--database", filepath.Join(t.TempDir(), "db"), "--log", "CRITICAL")
	server.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	for range 400 {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return &srvReference{address}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the reference server does not listen")
	return nil
}

// talk fills the server anew, sends it what a client says, and returns what it replies until it ends the connection.
func (r *srvReference) talk(t testing.TB, text string) []string {
	t.Helper()
	fill := append(srvHandshake(), `{"gc-mark":{"mark":"none","where":{}}}`, `{"gc-sweep":{"mark":"none"}}`, `{"clean-unused":{"max_age_seconds":0}}`)
	for _, row := range srvRows() {
		text, err := marshalRequest(cmdReport, reportRequest{row.Method, row.Taskhash, row.Outhash, row.Unihash, detailsMembers(row.Details)})
		if err != nil {
			t.Fatal(err)
		}
		fill = append(fill, string(text))
	}
	if replies := r.say(t, strings.Join(fill, "\n")+"\n"); len(replies) != 3+9 {
		t.Fatalf("the reference server could not be filled: %q", replies)
	}
	return r.say(t, text)
}

func (r *srvReference) say(t testing.TB, text string) (replies []string) {
	t.Helper()
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(conn, text)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return replies
		}
		replies = append(replies, strings.TrimSuffix(line, "\n"))
	}
}
