// Package hashserv speaks OEHASHEQUIV, the protocol of BitBake's hash equivalence server: what it says on the wire, a [Server], a
// [Client], and a [Store] in memory. It knows no users; whoever serves a connection hands the server a [Peer] that does.
//
// The wire is that of BitBake 2.19, which its programs bitbake-hashserv and bitbake-hashclient speak. Messages are parsed into the types
// here and printed from them. Nothing that came in is ever passed on as it was.
package hashserv

import (
	"context"
	"encoding/hex"
	"errors"
	"time"
)

// Unihash is the hash that an artifact is found by: on the wire 64 lower-case hex digits. The zero Unihash is none.
type Unihash [32]byte

// ParseUnihash reads 64 lower-case hex digits. It reports false for anything else, and for 64 zeros.
func ParseUnihash(text string) (u Unihash, ok bool) {
	if len(text) != 2*len(u) {
		return u, false
	}
	for i := range len(text) {
		if c := text[i]; 'A' <= c && c <= 'F' {
			return Unihash{}, false
		}
	}
	if _, err := hex.Decode(u[:], []byte(text)); err != nil {
		return Unihash{}, false
	}
	return u, u != Unihash{}
}

// String returns 64 hex digits, or "" for none.
func (u Unihash) String() string {
	if u == (Unihash{}) {
		return ""
	}
	return hex.EncodeToString(u[:])
}

// Task is what a unihash is looked up by: the method that made the hash, and the hash of the task's inputs. Both are free text without
// white space or control characters, and are not empty.
type Task struct{ Method, Taskhash string }

// Author stands for who reported the unihash of a mapping, so that it can be told whether it was the asker, who then knows it. Whoever reports
// an equal output later is not that. 0 is nobody that is known: a mapping that was imported or came from another server.
type Author uint64

// Mapping is what a task is mapped to. The zero Mapping is none.
type Mapping struct {
	Unihash Unihash
	Author  Author
}

// Query asks for a row of outhashes.
type Query struct {
	Method string
	// Outhash is the hash of a task's output. When it is empty the oldest row of Taskhash is asked for, otherwise the oldest row with
	// this outhash.
	Outhash  string
	Taskhash string
	// Bare takes also rows whose task is mapped to nothing.
	Bare bool
}

// Row is one report: that a task had an output. Unihash is what the task is mapped to, zero for nothing.
type Row struct {
	Task
	Outhash string
	Created time.Time // UTC
	Unihash Unihash
	Author  Author // of the mapping
	Details
	ID   int64
	Mark string // the generation of garbage collection that the mapping is in
}

// Details is what a report says beside its hashes. All of it is for people, and any of it may be empty.
type Details struct{ Owner, PN, PV, PR, Task, Siginfo string }

// Report says that a task had an output, and which unihash it shall be mapped to unless the output is known.
type Report struct {
	Task
	Outhash string
	Unihash Unihash
	Author  Author
	Details
}

// Store keeps mappings. It is safe for concurrent use. Its methods fail as a whole.
//
// A mapping is written once: the first unihash of a task stays until it is removed.
type Store interface {
	// Unihash fills answers, which is as long as tasks: what each is mapped to, zero for nothing.
	Unihash(ctx context.Context, tasks []Task, answers []Mapping) error
	// Exists fills answers, which is as long as unihashes: whether any task is mapped to it.
	Exists(ctx context.Context, unihashes []Unihash, answers []bool) error
	// Outhash returns the oldest row that q asks for, nil for none.
	Outhash(ctx context.Context, q Query) (*Row, error)
	// Report records the row, unless there is one of the same task and outhash, and maps the task unless it is mapped: to what
	// the oldest other task with the same method and outhash is mapped to, else to r.Unihash. It returns what the task is mapped to now.
	// The mapping is durable when it returns.
	Report(ctx context.Context, r Report) (Mapping, error)
}

// Equivalents is a Store that maps a task without an output: the command report-equiv.
type Equivalents interface {
	// Equivalent maps a task unless it is mapped, and returns what it is mapped to now, durably.
	Equivalent(ctx context.Context, t Task, m Mapping) (Mapping, error)
}

// Where chooses rows: those that have each value in its column. Column names are those of [Columns]; others are ignored, and a
// condition without any usable column chooses nothing.
type Where map[string]string

// Columns returns the columns that a [Where] may name, as the reference server lists them. Of a mapping these are method, taskhash, unihash and gc_mark; the
// rest are of outhash rows, which have method and taskhash too.
func Columns() []string {
	return []string{"method", "taskhash", "unihash", "gc_mark", "outhash", "owner", "PN", "PV", "PR", "task", "outhash_siginfo"}
}

// Collection is the state of garbage collection.
type Collection struct {
	Keep, Remove int64  // mappings with the current mark, and others
	Mark         string // empty when none is under way
}

// Keeper is a Store that can be maintained. What it does to many rows it does in steps that hold up no reader.
type Keeper interface {
	// Remove removes the mappings and the rows that w chooses, and returns how many both were.
	Remove(ctx context.Context, w Where) (int64, error)
	// CleanUnused removes rows older than age of tasks that are mapped to nothing.
	CleanUnused(ctx context.Context, age time.Duration) (int64, error)
	// Mark makes mark the current one and gives it to the mappings that w chooses; it returns how many these were. New mappings
	// have the current mark.
	Mark(ctx context.Context, mark string, w Where) (int64, error)
	// Sweep removes the mappings that have another mark than the current one, which must be mark: otherwise the error is a [Refusal].
	// After it there is no current mark.
	Sweep(ctx context.Context, mark string) (int64, error)
	Collection(ctx context.Context) (Collection, error)
	// Usage returns the number of rows of each table.
	Usage(ctx context.Context) (map[string]int64, error)
}

// User is an account of the protocol. Permissions are sorted.
type User struct {
	Name        string
	Permissions []Permission
}

// Users is a [Peer] that knows accounts. An empty name means the asker itself where one is allowed to leave it out. Errors that a client
// shall see are Refusals.
type Users interface {
	Auth(ctx context.Context, name, token string) (User, error)
	// User returns nil for one that does not exist.
	User(ctx context.Context, name string) (*User, error)
	AllUsers(ctx context.Context) ([]User, error)
	NewUser(ctx context.Context, name string, permissions []Permission) (u User, token string, err error)
	SetPermissions(ctx context.Context, name string, permissions []Permission) (User, error)
	RefreshToken(ctx context.Context, name string) (resolved, token string, err error)
	DeleteUser(ctx context.Context, name string) (resolved string, err error)
	BecomeUser(ctx context.Context, name string) (User, error)
}

// Permission is what a command needs.
type Permission string

// The permissions of the protocol.
const (
	Read      Permission = "@read"
	Reporting Permission = "@report"
	DBAdmin   Permission = "@db-admin"
	UserAdmin Permission = "@user-admin"
	// All is every other, and is listed beside them.
	All Permission = "@all"
)

// Peer answers one connection. What it implements beyond Store says which commands the connection has: [Equivalents], [Keeper] and
// [Users]. A command that it does not have ends the connection without a reply, like one that does not exist. Every method decides by
// itself whether the asker may have its answer.
//
// An error that wraps a [Refusal] is told to the client as an invoke-error; any other ends the connection without a reply. BitBake dies
// of an invoke-error, and not of a lost connection.
type Peer interface {
	Store
	// May returns nil when the asker may begin a stream of look-ups (Read), or have what the server answers by itself: the names of
	// columns (DBAdmin), and statistics (Read, and Whole; DBAdmin to reset them).
	May(ctx context.Context, need Permission) error
	// Whole reports whether the asker may see more than what clients rely on: all members of rows in place of four, and statistics.
	Whole(ctx context.Context) bool
}

// Refusal is an error whose text a client is told, as an invoke-error. The server escapes it.
type Refusal struct{ Message string }

func (r *Refusal) Error() string { return r.Message }

// ErrInvalidUnihash is the refusal of a unihash that is not 64 lower-case hex digits.
var ErrInvalidUnihash error = &Refusal{"Invalid unihash"}

// ErrLogin is wrapped by [Users].Auth when a login is wrong and the connection goes on as nobody's: the reply says "result": false, which
// BitBake does not look at. It dies of a refusal, and signs in again and again when the connection ends.
var ErrLogin = errors.New("wrong name or token")

// ErrUnavailable is wrapped when a Store could not answer, and asking again may help.
var ErrUnavailable = errors.New("hash equivalence is unavailable")
