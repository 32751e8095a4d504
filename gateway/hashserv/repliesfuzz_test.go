package hashserv

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzReplies: whatever a server says, what is read from it is in the types' terms, or an error.
func FuzzReplies(f *testing.F) {
	u := strings.Repeat("0", 63) + "1"
	for _, seed := range []string{
		u, "", "true", "false", "ok", `"ok"`, "null", "{}", "[]", `{"count":1}`, `{"invoke-error":{"message":"Invalid unihash"}}`,
		`{"method":"m","taskhash":"t","unihash":"` + u + `"}`,
		`{"id":1,"method":"m","taskhash":"t","outhash":"o","created":"2026-03-01T12:00:00.123456+00:00","owner":null,"PN":"zlib","PV":"1","PR":"r0",` +
			`"task":"do_compile","outhash_siginfo":"a\nb","unihash":"` + u + `","gc_mark":""}`,
		`{"username":"ann","permissions":["@all"]}`, `{"users":[{"username":"ann","permissions":[]}]}`, `{"usage":{"t":{"rows":1}}}`,
		`{"keep":1,"remove":2,"mark":null}`, `{"chunk-stream":null}` + "\n{\n}\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, err := parseUnihashLine(text); err == nil && got.String() != string(text) {
			t.Errorf("the line %q is read as %q", text, got)
		}
		if got, err := parseExistsLine(text); err == nil && map[bool]string{true: "true", false: "false"}[got] != string(text) {
			t.Errorf("the line %q is read as %v", text, got)
		}
		task := Task{"m", "t"}
		if got, err := parseMapping(text, task); err == nil && got == (Unihash{}) {
			t.Errorf("%q is read as a mapping to nothing", text)
		}
		for _, q := range []Query{{Method: "m", Outhash: "o"}, {Method: "m", Taskhash: "t"}, {Method: "m", Outhash: "o", Bare: true}} {
			fuzzRow(t, text, q)
		}
		if r := parseRefusal(text); r != nil && (!bytes.Contains(text, []byte(invokeError)) || len(r.Message) > maxRefusal) {
			t.Errorf("%q is read as the refusal %q", text, r.Message)
		}
		var n int64
		if err := readReply(text, func(m *members) { n = m.natural("count") }); err == nil && n < 0 {
			t.Errorf("%q is read as %d", text, n)
		}
		_ = readReply(text, func(m *members) { m.user() })
		_ = readReply(text, func(m *members) { m.users("users") })
		_ = readReply(text, func(m *members) { m.usage() })
	})
}

// fuzzRow: a row that is read can be asked for, and printed to others.
func fuzzRow(t *testing.T, text []byte, q Query) {
	row, err := parseRow(text, q)
	if err != nil || row == nil {
		return
	}
	asked := row.Method == q.Method && (q.Outhash == row.Outhash || q.Outhash == "" && q.Taskhash == row.Taskhash)
	if !asked || !askable(row.Taskhash) || !askable(row.Outhash) || row.Unihash == (Unihash{}) && !q.Bare {
		t.Errorf("%q is read as %+v, for %+v", text, row, q)
	}
	printed, err := marshal(row.reply(true, q.Bare))
	if err != nil {
		t.Fatalf("%q is read as %+v, which cannot be printed: %v", text, row, err)
	}
	again, err := parseRow(printed, q)
	if err != nil || again == nil || again.Task != row.Task || again.Outhash != row.Outhash || again.Details != row.Details {
		t.Errorf("%q is printed as %s, which is read as %+v, %v", text, printed, again, err)
	}
}
