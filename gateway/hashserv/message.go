package hashserv

import (
	"math"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// request is the body of a command, parsed. A nothing stands for that of a command that says nothing more.
type request any

// The bodies of the commands. Fields that are left out when they are zero may be missing in what comes in; the others must be there.
type (
	nothing    struct{}
	getRequest struct {
		Method   string `json:"method"`
		Taskhash string `json:"taskhash"`
		All      bool   `json:"all,omitzero"`
	}
	getOuthashRequest struct {
		Method   string `json:"method"`
		Outhash  string `json:"outhash"`
		Taskhash string `json:"taskhash"`
		// Unihash is true when it is missing.
		Unihash bool `json:"with_unihash"`
	}
	reportRequest struct {
		Method   string `json:"method"`
		Taskhash string `json:"taskhash"`
		Outhash  string `json:"outhash"`
		// Unihash is zero when there was none, or anything that is not one.
		Unihash Unihash `json:"unihash"`
		detailsMembers
	}
	reportEquivRequest struct {
		Method   string  `json:"method"`
		Taskhash string  `json:"taskhash"`
		Unihash  Unihash `json:"unihash"`
	}
	whereRequest struct {
		Where Where `json:"where"`
	}
	cleanUnusedRequest struct {
		Seconds int64 `json:"max_age_seconds"` // what a Duration can hold
	}
	gcMarkRequest struct {
		Mark  string `json:"mark"`
		Where Where  `json:"where"`
	}
	gcSweepRequest struct {
		Mark string `json:"mark"`
	}
	authRequest struct {
		Username string `json:"username"`
		Token    string `json:"token"`
	}
	// userRequest names a user, and no one when the asker is meant.
	userRequest struct {
		Username string `json:"username,omitzero"`
	}
	permissionsRequest struct {
		Username    string       `json:"username"`
		Permissions []Permission `json:"permissions"`
	}
)

// detailsMembers is [Details] on the wire. What is missing and what is null is "".
type detailsMembers struct {
	Owner   string `json:"owner,omitzero"`
	PN      string `json:"PN,omitzero"`
	PV      string `json:"PV,omitzero"`
	PR      string `json:"PR,omitzero"`
	Task    string `json:"task,omitzero"`
	Siginfo string `json:"outhash_siginfo,omitzero"`
}

// MarshalText returns 64 hex digits, or nothing for none.
func (u Unihash) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// The names of the commands.
const (
	cmdPing         = "ping"
	cmdGet          = "get"
	cmdGetOuthash   = "get-outhash"
	cmdGetStream    = "get-stream"
	cmdExistsStream = "exists-stream"
	cmdReport       = "report"
	cmdReportEquiv  = "report-equiv"
	cmdGetStats     = "get-stats"
	cmdResetStats   = "reset-stats"
	cmdBackfillWait = "backfill-wait"
	cmdRemove       = "remove"
	cmdCleanUnused  = "clean-unused"
	cmdGCMark       = "gc-mark"
	cmdGCMarkStream = "gc-mark-stream"
	cmdGCSweep      = "gc-sweep"
	cmdGCStatus     = "gc-status"
	cmdDBUsage      = "get-db-usage"
	cmdDBColumns    = "get-db-query-columns"
	cmdAuth         = "auth"
	cmdGetUser      = "get-user"
	cmdGetAllUsers  = "get-all-users"
	cmdNewUser      = "new-user"
	cmdSetUserPerms = "set-user-perms"
	cmdRefreshToken = "refresh-token"
	cmdDeleteUser   = "delete-user"
	cmdBecomeUser   = "become-user"
)

// parseRequest reads one command from JSON: an object with exactly one member, whose value has the members of that command and no
// others, each once and of its type. The error wraps [ErrMalformed].
func parseRequest(text []byte) (command string, body request, err error) {
	var outer map[string]jsontext.Value
	if err := json.Unmarshal(text, &outer); err != nil {
		return "", nil, malformed("not exact JSON of an object")
	}
	if len(outer) != 1 {
		return "", nil, malformed("a request does not name exactly one command")
	}
	for name, value := range outer {
		command = name
		body, err = parseBody(name, value)
	}
	return command, body, err
}

func parseBody(command string, value jsontext.Value) (request, error) {
	m := &members{}
	if value.Kind() != 'n' && json.Unmarshal(value, &m.values) != nil {
		return nil, malformed("the body of a command is no object")
	}
	m.null = value.Kind() == 'n'
	body := m.body(command)
	if body == nil {
		return nil, malformed("an unknown command")
	}
	_, takesNull := body.(nothing)
	if m.wrong || len(m.values) > 0 || m.null && !takesNull {
		return nil, malformed("the body of a command does not have the members it should")
	}
	return body, nil
}

// body reads what the command has, nil for a command that there is not.
func (m *members) body(command string) request {
	switch command {
	case cmdPing, cmdGetStream, cmdExistsStream, cmdGCMarkStream, cmdGetStats, cmdResetStats, cmdBackfillWait,
		cmdGCStatus, cmdDBUsage, cmdDBColumns, cmdGetAllUsers:
		return nothing{}
	case cmdGet:
		return getRequest{m.text("method"), m.text("taskhash"), m.flag("all", false)}
	case cmdGetOuthash:
		return getOuthashRequest{m.text("method"), m.text("outhash"), m.text("taskhash"), m.flag("with_unihash", true)}
	case cmdReport:
		return reportRequest{m.text("method"), m.text("taskhash"), m.text("outhash"), m.unihash("unihash"), m.details()}
	case cmdReportEquiv:
		return reportEquivRequest{m.text("method"), m.text("taskhash"), m.unihash("unihash")}
	case cmdRemove:
		return whereRequest{m.where("where")}
	case cmdCleanUnused:
		return cleanUnusedRequest{m.seconds("max_age_seconds")}
	case cmdGCMark:
		return gcMarkRequest{m.word("mark"), m.where("where")}
	case cmdGCSweep:
		return gcSweepRequest{m.word("mark")}
	default:
		return m.userBody(command)
	}
}

func (m *members) userBody(command string) request {
	switch command {
	case cmdAuth:
		return authRequest{m.word("username"), m.word("token")}
	case cmdGetUser, cmdRefreshToken, cmdDeleteUser:
		return userRequest{m.optionalText("username")}
	case cmdBecomeUser:
		return userRequest{m.word("username")}
	case cmdNewUser, cmdSetUserPerms:
		return permissionsRequest{m.word("username"), m.permissions("permissions")}
	}
	return nil
}

// members is an object that is being read: what was read is taken out of it.
type members struct {
	values map[string]jsontext.Value
	null   bool
	wrong  bool // something was missing, or of another type
}

func (m *members) take(name string, kinds ...jsontext.Kind) (value jsontext.Value, ok bool) {
	value, ok = m.values[name]
	delete(m.values, name)
	if ok && !slices.Contains(kinds, value.Kind()) {
		m.wrong = true
		return nil, false
	}
	return value, ok
}

// must is take for what may not be missing.
func (m *members) must(name string, into any, kinds ...jsontext.Kind) {
	value, ok := m.take(name, kinds...)
	if !ok || json.Unmarshal(value, into) != nil {
		m.wrong = true
	}
}

func (m *members) text(name string) (s string) {
	m.must(name, &s, '"')
	return s
}

// word is a text that is not empty.
func (m *members) word(name string) string {
	s := m.text(name)
	m.wrong = m.wrong || s == ""
	return s
}

// optionalText is "" when it is missing or null.
func (m *members) optionalText(name string) (s string) {
	if value, ok := m.take(name, '"', 'n'); ok && json.Unmarshal(value, &s) != nil {
		m.wrong = true
	}
	return s
}

func (m *members) flag(name string, missing bool) bool {
	value, ok := m.take(name, 't', 'f')
	if !ok {
		return missing
	}
	return value.Kind() == 't'
}

// unihash is zero for anything that is not one: this has an answer of its own.
func (m *members) unihash(name string) Unihash {
	var text string
	if value, ok := m.take(name, '"', 'n', 't', 'f', '0', '{', '['); ok && value.Kind() == '"' {
		_ = json.Unmarshal(value, &text)
	}
	u, _ := ParseUnihash(text)
	return u
}

func (m *members) details() detailsMembers {
	return detailsMembers{
		m.optionalText("owner"), m.optionalText("PN"), m.optionalText("PV"), m.optionalText("PR"), m.optionalText("task"),
		m.optionalText("outhash_siginfo"),
	}
}

// where leaves out what is null, as the reference server does.
func (m *members) where(name string) Where {
	var values map[string]jsontext.Value
	m.must(name, &values, '{')
	w := make(Where, len(values))
	for column, value := range values {
		var text string
		switch {
		case value.Kind() == 'n':
		case value.Kind() != '"' || json.Unmarshal(value, &text) != nil:
			m.wrong = true
		default:
			w[column] = text
		}
	}
	return w
}

func (m *members) seconds(name string) (n int64) {
	m.must(name, &n, '0')
	if n < 0 || n > math.MaxInt64/int64(time.Second) {
		m.wrong = true
	}
	return n
}

func (m *members) permissions(name string) []Permission {
	var texts []jsontext.Value
	m.must(name, &texts, '[')
	all := make([]Permission, 0, len(texts))
	for _, value := range texts {
		var p Permission
		if value.Kind() != '"' || json.Unmarshal(value, &p) != nil {
			m.wrong = true
		}
		all = append(all, p)
	}
	return all
}

// parseMark reads a line of the command gc-mark-stream. The error is a [Refusal] when the line is not JSON or something is missing, as that of
// the reference server is; else it wraps [ErrMalformed].
func parseMark(text []byte) (gcMarkRequest, error) {
	m := &members{}
	if !jsontext.Value(text).IsValid() {
		return gcMarkRequest{}, &Refusal{"Could not decode JSONL input"}
	}
	if json.Unmarshal(text, &m.values) != nil || m.values == nil {
		return gcMarkRequest{}, malformed("a mark is no object")
	}
	if m.values["mark"] == nil || m.values["where"] == nil {
		return gcMarkRequest{}, &Refusal{"Input line is missing a key"}
	}
	body := gcMarkRequest{m.word("mark"), m.where("where")}
	if m.wrong || len(m.values) > 0 {
		return gcMarkRequest{}, malformed("a mark does not have the members it should")
	}
	return body, nil
}

// marshalRequest prints a command in its canonical form, which parseRequest reads.
func marshalRequest(command string, body request) ([]byte, error) {
	if _, ok := body.(nothing); ok {
		return []byte(`{"` + command + `":null}`), nil
	}
	return marshal(map[string]request{command: body})
}

// The replies.
type (
	aliveReply struct {
		Alive bool `json:"alive"`
	}
	mappingReply struct {
		Taskhash string  `json:"taskhash"`
		Method   string  `json:"method"`
		Unihash  Unihash `json:"unihash"`
	}
	// rowReply has the members that clients rely on.
	rowReply struct {
		Method   string  `json:"method"`
		Taskhash string  `json:"taskhash"`
		Outhash  string  `json:"outhash"`
		Unihash  Unihash `json:"unihash,omitzero"`
	}
	wholeRowReply struct {
		ID int64 `json:"id"`
		rowReply
		Created *string `json:"created"`
		Owner   *string `json:"owner"`
		PN      *string `json:"PN"`
		PV      *string `json:"PV"`
		PR      *string `json:"PR"`
		Task    *string `json:"task"`
		Siginfo *string `json:"outhash_siginfo"`
		Mark    *string `json:"gc_mark,omitzero"`
	}
	statsReply struct {
		Requests Stats `json:"requests"`
	}
	tasksReply struct {
		Tasks int64 `json:"tasks"`
	}
	countReply struct {
		Count int64 `json:"count"`
	}
	collectionReply struct {
		Keep   int64   `json:"keep"`
		Remove int64   `json:"remove"`
		Mark   *string `json:"mark"`
	}
	rowsMember struct {
		Rows int64 `json:"rows"`
	}
	usageReply struct {
		Usage map[string]rowsMember `json:"usage"`
	}
	columnsReply struct {
		Columns []string `json:"columns"`
	}
	userReply struct {
		Username    string       `json:"username"`
		Permissions []Permission `json:"permissions"`
	}
	authReply struct {
		Result bool `json:"result"`
		userReply
	}
	newUserReply struct {
		userReply
		Token string `json:"token"`
	}
	usersReply struct {
		Users []userReply `json:"users"`
	}
	tokenReply struct {
		Username string `json:"username"`
		Token    string `json:"token"`
	}
	usernameReply struct {
		Username string `json:"username"`
	}
	errorMember struct {
		Message string `json:"message"`
	}
)

func (d detailsMembers) details() Details { return Details(d) }

// orNull is nil for "".
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// reply returns a row as it is told: the members that clients rely on, or all. A row that was asked for bare has nothing about what its
// task is mapped to.
func (r *Row) reply(whole, bare bool) any {
	short := rowReply{Method: r.Method, Taskhash: r.Taskhash, Outhash: r.Outhash, Unihash: r.Unihash}
	if bare {
		short.Unihash = Unihash{}
	}
	if !whole {
		return short
	}
	long := wholeRowReply{
		ID: r.ID, rowReply: short, Created: orNull(timestamp(r.Created)), Owner: orNull(r.Owner), PN: orNull(r.PN), PV: orNull(r.PV),
		PR: orNull(r.PR), Task: orNull(r.Details.Task), Siginfo: orNull(r.Siginfo),
	}
	if !bare {
		long.Mark = &r.Mark
	}
	return long
}

func (u User) reply() userReply {
	return userReply{u.Name, append([]Permission{}, u.Permissions...)}
}

func usage(tables map[string]int64) usageReply {
	rows := make(map[string]rowsMember, len(tables))
	for table, n := range tables {
		rows[table] = rowsMember{n}
	}
	return usageReply{rows}
}
