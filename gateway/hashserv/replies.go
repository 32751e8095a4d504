package hashserv

import (
	"bytes"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// What a server says is not trusted: it is read into the types here, or it is an error that wraps ErrMalformed.

// newMembers reads an object.
func newMembers(text []byte) (*members, error) {
	m := &members{}
	if json.Unmarshal(text, &m.values) != nil || m.values == nil {
		return nil, malformed("a reply is no object")
	}
	return m, nil
}

// end reports whether all was as it should be, and all was taken.
func (m *members) end() error {
	if m.wrong || len(m.values) > 0 {
		return malformed("a reply does not have the members it should")
	}
	return nil
}

// natural is a number that is not negative.
func (m *members) natural(name string) (n int64) {
	m.must(name, &n, '0')
	m.wrong = m.wrong || n < 0
	return n
}

func (m *members) user() User { return User{m.word("username"), m.permissions("permissions")} }

func (m *members) users(name string) []User {
	var values []jsontext.Value
	m.must(name, &values, '[')
	users := make([]User, 0, len(values))
	for _, value := range values {
		of, err := newMembers(value)
		if err != nil {
			m.wrong = true
			return nil
		}
		users = append(users, of.user())
		m.wrong = m.wrong || of.end() != nil
	}
	return users
}

func (m *members) usage() map[string]int64 {
	var tables map[string]jsontext.Value
	m.must("usage", &tables, '{')
	rows := make(map[string]int64, len(tables))
	for table, value := range tables {
		of, err := newMembers(value)
		if err != nil {
			m.wrong = true
			return nil
		}
		rows[table] = of.natural("rows")
		m.wrong = m.wrong || of.end() != nil
	}
	return rows
}

// word that a server tells: one that could be asked for.
func (m *members) askable(name string) string {
	s := m.text(name)
	m.wrong = m.wrong || !askable(s)
	return s
}

// parseMapping reads what t is mapped to.
func parseMapping(reply []byte, t Task) (u Unihash, err error) {
	err = readReply(reply, func(m *members) {
		m.wrong = m.text("method") != t.Method || m.text("taskhash") != t.Taskhash || m.wrong
		u = m.unihash("unihash")
		m.wrong = m.wrong || u == Unihash{}
	})
	return u, err
}

// parseRow reads a row that was asked for, nil for none.
func parseRow(reply []byte, q Query) (*Row, error) {
	if isNull(reply) {
		return nil, nil
	}
	row := &Row{}
	err := readReply(reply, func(m *members) {
		row.Method, row.Taskhash, row.Outhash = m.askable("method"), m.askable("taskhash"), m.askable("outhash")
		asked := row.Outhash == q.Outhash
		if q.Outhash == "" {
			asked = row.Taskhash == q.Taskhash
		}
		row.Unihash = m.unihash("unihash")
		m.wrong = m.wrong || row.Method != q.Method || !asked || row.Unihash == Unihash{} && !q.Bare
		row.ID = m.optionalNumber("id")
		row.Created = m.created("created")
		row.Details = Details(m.details())
		row.Mark = m.optionalText("gc_mark")
	})
	if err != nil {
		return nil, err
	}
	return row, nil
}

func (m *members) optionalNumber(name string) (n int64) {
	if value, ok := m.take(name, '0', 'n'); ok && json.Unmarshal(value, &n) != nil {
		m.wrong = true
	}
	return n
}

// created is a time as Python's isoformat writes it. The reference server leaves out the offset when it uses another database than SQLite; it
// is taken for UTC then. The zero time is one that is not known.
func (m *members) created(name string) time.Time {
	text := m.optionalText(name)
	if text == "" {
		return time.Time{}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC()
		}
	}
	m.wrong = true
	return time.Time{}
}

// maxRefusal is how much of a refusal's text is kept.
const maxRefusal = 1 << 10

// parseRefusal returns the refusal that a reply is, nil for none.
func parseRefusal(reply []byte) *Refusal {
	if !bytes.Contains(reply, []byte(invokeError)) {
		return nil
	}
	outer, err := newMembers(reply)
	if err != nil || len(outer.values) != 1 {
		return nil
	}
	inner, err := newMembers(outer.values[invokeError])
	if err != nil {
		return nil
	}
	text := inner.text("message")
	if inner.end() != nil {
		return nil
	}
	if text == ErrInvalidUnihash.Error() {
		return ErrInvalidUnihash.(*Refusal)
	}
	return &Refusal{strings.ToValidUTF8(text[:min(len(text), maxRefusal)], "")}
}
