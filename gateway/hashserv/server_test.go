package hashserv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// srvCase is a conversation after the handshake.
type srvCase struct {
	name    string
	send    []string
	replies []string
	reached []string // calls of the peer
	end     string   // "" for open
}

func one(name, send, reply string, reached ...string) srvCase {
	return srvCase{name: name, send: []string{send}, replies: []string{reply}, reached: reached}
}

const (
	srvOnes = "1111111111111111111111111111111111111111111111111111111111111111"
	srvRow1 = `{"id":1,"method":"m","taskhash":"t1","outhash":"o1","unihash":"` + srvOnes + `","created":"2026-01-02T03:04:05.678900+00:00",` +
		`"owner":"\u00f6","PN":"zlib","PV":null,"PR":null,"task":null,"outhash_siginfo":null,"gc_mark":""}`
	srvBareRow1 = `{"id":1,"method":"m","taskhash":"t1","outhash":"o1","created":"2026-01-02T03:04:05.678900+00:00",` +
		`"owner":"\u00f6","PN":"zlib","PV":null,"PR":null,"task":null,"outhash_siginfo":null}`
)

func srvCommands() []srvCase {
	twos := strings.Repeat("2", 64)
	return []srvCase{
		one("ping", `{"ping": {}}`, `{"alive":true}`),
		one("get", `{"get": {"taskhash": "t1", "method": "m", "all": false}}`, `{"taskhash":"t1","method":"m","unihash":"`+srvOnes+`"}`, "Unihash [{m t1}]"),
		one("get without all", `{"get": {"taskhash": "t1", "method": "m"}}`, `{"taskhash":"t1","method":"m","unihash":"`+srvOnes+`"}`, "Unihash [{m t1}]"),
		one("get nothing", `{"get": {"taskhash": "t0", "method": "m"}}`, `null`, "Unihash [{m t0}]"),
		one("get what cannot be", `{"get": {"taskhash": "t 1", "method": "m"}}`, `null`),
		one("get with an empty word", `{"get": {"taskhash": "", "method": "m"}}`, `null`),
		one("get all", `{"get": {"taskhash": "t1", "method": "m", "all": true}}`, srvRow1, "Outhash {m  t1 false}"),
		one("get all of nothing", `{"get": {"taskhash": "t0", "method": "m", "all": true}}`, `null`, "Outhash {m  t0 false}"),
		one("get-outhash", `{"get-outhash": {"outhash": "o1", "taskhash": "x", "method": "m", "with_unihash": true}}`, srvRow1, "Outhash {m o1 x false}"),
		one("get-outhash without with_unihash", `{"get-outhash": {"outhash": "o1", "taskhash": "x", "method": "m"}}`, srvRow1, "Outhash {m o1 x false}"),
		one("get-outhash bare", `{"get-outhash": {"outhash": "o1", "taskhash": "x", "method": "m", "with_unihash": false}}`, srvBareRow1, "Outhash {m o1 x true}"),
		one("get-outhash of nothing", `{"get-outhash": {"outhash": "o0", "taskhash": "x", "method": "m"}}`, `null`, "Outhash {m o0 x false}"),
		one("get-outhash of an empty outhash", `{"get-outhash": {"outhash": "", "taskhash": "t1", "method": "m"}}`, `null`),
		one("report", `{"report": {"taskhash": "new", "method": "m", "outhash": "o", "unihash": "`+twos+`", "PN": "ä", "PV": null, "outhash_siginfo": "text"}}`,
			`{"taskhash":"new","method":"m","unihash":"`+twos+`"}`, "Report m new o 22 4 ä"),
		one("report of a task that is mapped", `{"report": {"taskhash": "t1", "method": "m", "outhash": "o", "unihash": "`+twos+`"}}`,
			`{"taskhash":"t1","method":"m","unihash":"`+srvOnes+`"}`, "Report m t1 o 22 0"),
		one("report-equiv", `{"report-equiv": {"taskhash": "t", "method": "m", "unihash": "`+twos+`"}}`,
			`{"taskhash":"t","method":"m","unihash":"`+twos+`"}`, "Equivalent {m t} 22"),
		one("backfill-wait", `{"backfill-wait": null}`, `{"tasks":11}`, "BackfillWait"),
		one("remove", `{"remove": {"where": {"method": "m", "owner": null, "x": ""}}}`, `{"count":3}`, "Remove map[method:m x:]"),
		one("clean-unused", `{"clean-unused": {"max_age_seconds": 60}}`, `{"count":4}`, "CleanUnused 1m0s"),
		one("clean-unused at once", `{"clean-unused": {"max_age_seconds": 0}}`, `{"count":4}`, "CleanUnused 0s"),
		one("gc-status", `{"gc-status": {}}`, `{"keep":7,"remove":8,"mark":null}`, "Collection"),
		{
			name: "gc-mark, then the status", send: []string{`{"gc-mark": {"mark": "A", "where": {"unihash": "x"}}}`, `{"gc-status": {}}`},
			replies: []string{`{"count":5}`, `{"keep":7,"remove":8,"mark":"A"}`}, reached: []string{"Mark A map[unihash:x]", "Collection"},
		},
		one("gc-sweep", `{"gc-sweep": {"mark": "A"}}`, `{"count":6}`, "Sweep A"),
		one("get-db-usage", `{"get-db-usage": {}}`, `{"usage":{"outhashes_v2":{"rows":10},"unihashes_v3":{"rows":9}}}`, "Usage"),
		one("get-db-query-columns", `{"get-db-query-columns": {}}`,
			`{"columns":["method","taskhash","unihash","gc_mark","outhash","owner","PN","PV","PR","task","outhash_siginfo"]}`),
		one("auth", `{"auth": {"username": "alice", "token": "x"}}`, `{"result":true,"username":"alice","permissions":["@db-admin","@read"]}`, "Auth alice x"),
		one("get-user", `{"get-user": {"username": "alice"}}`, `{"username":"alice","permissions":[]}`, "User alice"),
		one("get-user of oneself", `{"get-user": {}}`, `{"username":"self","permissions":[]}`, "User self"),
		one("get-user of an empty name", `{"get-user": {"username": ""}}`, `{"username":"self","permissions":[]}`, "User self"),
		one("get-user of nobody", `{"get-user": {"username": "nobody"}}`, `null`, "User nobody"),
		one("get-all-users", `{"get-all-users": {}}`, `{"users":[{"username":"alice","permissions":[]},{"username":"root","permissions":["@all"]}]}`, "AllUsers"),
		one("new-user", `{"new-user": {"username": "bob", "permissions": ["@report", "@none", "@read", "@read"]}}`,
			`{"username":"bob","permissions":["@read","@report"],"token":"token"}`, "NewUser bob [@read @report]"),
		one("set-user-perms", `{"set-user-perms": {"username": "bob", "permissions": ["@all"]}}`, `{"username":"bob","permissions":["@all"]}`, "SetPermissions bob [@all]"),
		one("refresh-token", `{"refresh-token": {"username": "bob"}}`, `{"username":"bob","token":"new token"}`, "RefreshToken bob"),
		one("refresh-token of oneself", `{"refresh-token": {}}`, `{"username":"self","token":"new token"}`, "RefreshToken self"),
		one("delete-user", `{"delete-user": {"username": "bob"}}`, `{"username":"bob"}`, "DeleteUser bob"),
		one("delete-user of oneself", `{"delete-user": {}}`, `{"username":"self"}`, "DeleteUser self"),
		one("become-user", `{"become-user": {"username": "bob"}}`, `{"username":"bob","permissions":["@read"]}`, "BecomeUser bob"),
		{
			name: "get-stream", send: []string{`{"get-stream": null}`, "m t1", "m t0", "  m \t t2  ", "END", `{"ping": {}}`},
			replies: []string{`"ok"`, srvOnes, "", twos, "ok", `{"alive":true}`}, reached: []string{"Unihash [{m t1} {m t0} {m t2}]"},
		},
		{
			name: "get-stream left by an empty line", send: []string{`{"get-stream": null}`, "", `{"ping": {}}`},
			replies: []string{`"ok"`, "ok", `{"alive":true}`},
		},
		{
			name: "exists-stream", send: []string{
				`{"exists-stream": null}`, srvOnes, strings.Repeat("f", 64), "x", twos, strings.ToUpper(strings.Repeat("a", 64)), "END",
			},
			replies: []string{`"ok"`, "true", "false", "false", "true", "false", "ok"}, reached: []string{"Exists 3 11"},
		},
		{
			name: "gc-mark-stream", send: []string{
				`{"gc-mark-stream": null}`, `{"mark": "A", "where": {"unihash": "1"}}`, `{"mark": "A", "where": {}}`, "END",
			},
			replies: []string{`"ok"`, `{"count":5}`, `{"count":5}`, "ok"}, reached: []string{"Mark A map[unihash:1]", "Mark A map[]"},
		},
		{
			name: "gc-mark-stream with a bad line", send: []string{
				`{"gc-mark-stream": null}`, `{"mark": "A", "where": {}}`, `{"mark": "A`, `{"mark": "B", "where": {}}`,
			},
			replies: []string{`"ok"`, `{"count":5}`, `{"invoke-error":{"message":"Could not decode JSONL input"}}`}, reached: []string{"Mark A map[]"}, end: "refused",
		},
		{
			name: "one stream after another", send: []string{
				`{"get-stream": null}`, "m t1", "END", `{"exists-stream": null}`, "x", "END", `{"get-stream": null}`, "m t0",
			},
			replies: []string{`"ok"`, srvOnes, "ok", `"ok"`, "false", "ok", `"ok"`, ""}, reached: []string{"Unihash [{m t1}]", "Unihash [{m t0}]"},
		},
		{
			name: "a bare object for what says nothing", send: []string{`{"get-stats": {}}`, `{"ping": null}`}, replies: []string{"stats", `{"alive":true}`},
		},
		{
			name: "an invalid unihash", send: []string{
				`{"report": {"taskhash": "t", "method": "m", "outhash": "o", "unihash": null}}`, `{"ping": {}}`,
			},
			replies: []string{`{"invoke-error":{"message":"Invalid unihash"}}`}, end: "refused",
		},
		{
			name: "unknown permissions", send: []string{`{"new-user": {"username": "bob", "permissions": ["@read", "@write"]}}`},
			replies: []string{`{"invoke-error":{"message":"Unknown permissions"}}`}, end: "refused",
		},
	}
}

func TestCommands(t *testing.T) {
	for _, over := range []string{"lines", "websocket"} {
		for _, tc := range srvCommands() {
			t.Run(over+"/"+tc.name, func(t *testing.T) {
				peer := srvNewPeer(t)
				tr := srvServe(t, NewServer(ServerConfig{}), peer)
				ex := tr.talk(t, over, append(srvHandshake(), tc.send...))
				srvCompare(t, tc, ex, peer.reached())
			})
		}
	}
}

// srvCompare checks an exchange. Calls for lines that were next to each other may have come in one or several: they are compared by their text
// without brackets.
func srvCompare(t testing.TB, tc srvCase, ex srvExchange, reached []string) {
	t.Helper()
	for i, reply := range ex.replies {
		if strings.HasPrefix(reply, `{"requests":{"num":`) {
			ex.replies[i] = "stats"
		}
	}
	if diff := gocmp.Diff(tc.replies, ex.replies); diff != "" {
		t.Errorf("replies (-want +got):\n%.2000s", diff)
	}
	if want, got := srvFlat(tc.reached), srvFlat(reached); want != got {
		t.Errorf("reached the peer: %s\nwant: %s", got, want)
	}
	if want := cmp.Or(tc.end, "open"); srvEnd(ex.end) != want {
		t.Errorf("ended %s: %v; want %s", srvEnd(ex.end), ex.end, want)
	}
}

// srvFlat joins calls, and lookups that follow each other to one.
func srvFlat(calls []string) string {
	s := strings.Join(calls, "; ")
	return strings.ReplaceAll(s, "]; Unihash [", " ")
}

func TestHandshakes(t *testing.T) {
	ping := `{"ping":{}}`
	many := func(n int) []string {
		lines := []string{clientHello}
		for i := range n {
			lines = append(lines, fmt.Sprintf("header-%d: x", i))
		}
		return append(lines, "", ping)
	}
	alive := []string{`{"alive":true}`}
	for _, tc := range []srvCase{
		{name: "as BitBake does", send: append(srvHandshake(), ping), replies: alive},
		{name: "no headers", send: []string{clientHello, "", ping}, replies: alive},
		{name: "a version below", send: []string{"OEHASHEQUIV 1.0", "", ping}, end: "closed"},
		{name: "a version above", send: []string{"OEHASHEQUIV 1.2", "", ping}, end: "closed"},
		{name: "a longer version", send: []string{"OEHASHEQUIV 1.1.5", "", ping}, end: "closed"},
		{name: "a shorter version", send: []string{"OEHASHEQUIV 1", "", ping}, end: "closed"},
		{name: "between the versions", send: []string{"OEHASHEQUIV 1.0.5", "", ping}, replies: alive},
		{name: "another protocol", send: []string{"OEHASHEQUIW 1.1", "", ping}, end: "closed"},
		{name: "needs headers", send: []string{clientHello, "Needs-Headers:  true ", "", ping}, replies: []string{"", alive[0]}},
		{
			name: "needs headers, said later", send: []string{clientHello, "needs-headers: false", "needs-headers:true", "", ping},
			replies: []string{"", alive[0]},
		},
		{name: "needs no headers, said later", send: []string{clientHello, "needs-headers: true", "needs-headers: no", "", ping}, replies: alive},
		{name: "needs headers, in capitals", send: []string{clientHello, "needs-headers: TRUE", "", ping}, replies: alive},
		{name: "a blank before the colon", send: []string{clientHello, "needs-headers : true", "", ping}, replies: alive},
		{name: "a header without colon", send: []string{clientHello, "needs-headers", "", ping}, end: "closed"},
		{name: "the most headers", send: many(maxHeaders), replies: alive},
		{name: "too many headers", send: many(maxHeaders + 1), end: "closed"},
		{name: "nothing", end: ""},
	} {
		for _, over := range []string{"lines", "websocket"} {
			t.Run(over+"/"+tc.name, func(t *testing.T) {
				peer := srvNewPeer(t)
				tr := srvServe(t, NewServer(ServerConfig{}), peer)
				if tc.send == nil && over == "lines" {
					srvCompare(t, tc, tr.talkLines(t, ""), peer.reached())
					return
				}
				srvCompare(t, tc, tr.talk(t, over, tc.send), peer.reached())
			})
		}
	}
}

// TestCommandsThatAPeerLacks: they end the connection as an unknown one does.
func TestCommandsThatAPeerLacks(t *testing.T) {
	has := []string{cmdPing, cmdGet, cmdGetOuthash, cmdReport, cmdGetStats, cmdDBColumns, cmdGetStream, cmdExistsStream}
	for _, tc := range srvCommands() {
		command, _, err := parseRequest([]byte(tc.send[0]))
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(has, command) {
			continue
		}
		for _, over := range []string{"lines", "websocket"} {
			t.Run(over+"/"+tc.name, func(t *testing.T) {
				peer := srvNewPeer(t)
				tr := srvServe(t, NewServer(ServerConfig{}), srvReader{peer})
				ex := tr.talk(t, over, append(srvHandshake(), tc.send...))
				srvCompare(t, srvCase{end: "closed"}, ex, peer.reached())
			})
		}
	}
}

// TestPermissions: what the server answers by itself it asks the peer about, and what the peer refuses is told as an invoke-error.
func TestPermissions(t *testing.T) {
	for _, tc := range []struct{ send, asked string }{
		{`{"get-stream": null}`, "May @read"},
		{`{"exists-stream": null}`, "May @read"},
		{`{"gc-mark-stream": null}`, "May @db-admin"},
		{`{"get-stats": null}`, "May @read"},
		{`{"reset-stats": null}`, "May @db-admin"},
		{`{"get-db-query-columns": {}}`, "May @db-admin"},
		{`{"get": {"taskhash": "", "method": "m"}}`, "May @read"},
		{`{"get-outhash": {"outhash": "", "taskhash": "t1", "method": "m"}}`, "May @read"},
		{`{"report": {"taskhash": "t", "method": "m", "outhash": "o", "unihash": "x"}}`, "May @read"},
	} {
		t.Run(tc.send, func(t *testing.T) {
			peer := srvNewPeer(t)
			peer.fails["May"] = &Refusal{"\u00fc\n is not allowed"}
			tr := srvServe(t, NewServer(ServerConfig{}), peer)
			ex := tr.talk(t, "lines", append(srvHandshake(), tc.send, `{"ping": {}}`))
			if len(peer.calls) != 1 || peer.calls[0] != tc.asked {
				t.Errorf("calls %q, want %q", peer.calls, tc.asked)
			}
			srvCompare(t, srvCase{replies: []string{`{"invoke-error":{"message":"\u00fc\n is not allowed"}}`}, end: "refused"}, ex, nil)
		})
	}
}

// TestPeerErrors: a refusal is told, any other error ends the connection without a reply.
func TestPeerErrors(t *testing.T) {
	for method, send := range map[string][]string{
		"Unihash":        {`{"get-stream": null}`, "m t1"},
		"Exists":         {`{"exists-stream": null}`, srvOnes},
		"Outhash":        {`{"get": {"taskhash": "t1", "method": "m", "all": true}}`},
		"Report":         {`{"report": {"taskhash": "t", "method": "m", "outhash": "o", "unihash": "` + srvOnes + `"}}`},
		"Equivalent":     {`{"report-equiv": {"taskhash": "t", "method": "m", "unihash": "` + srvOnes + `"}}`},
		"Remove":         {`{"remove": {"where": {"method": "m"}}}`},
		"CleanUnused":    {`{"clean-unused": {"max_age_seconds": 1}}`},
		"Mark":           {`{"gc-mark-stream": null}`, `{"mark": "A", "where": {}}`},
		"Sweep":          {`{"gc-sweep": {"mark": "A"}}`},
		"Collection":     {`{"gc-status": {}}`},
		"Usage":          {`{"get-db-usage": {}}`},
		"BackfillWait":   {`{"backfill-wait": null}`},
		"Auth":           {`{"auth": {"username": "a", "token": "x"}}`},
		"User":           {`{"get-user": {}}`},
		"AllUsers":       {`{"get-all-users": {}}`},
		"NewUser":        {`{"new-user": {"username": "a", "permissions": []}}`},
		"SetPermissions": {`{"set-user-perms": {"username": "a", "permissions": []}}`},
		"RefreshToken":   {`{"refresh-token": {}}`},
		"DeleteUser":     {`{"delete-user": {}}`},
		"BecomeUser":     {`{"become-user": {"username": "a"}}`},
	} {
		t.Run(method, func(t *testing.T) {
			want := []string{}
			if len(send) > 1 {
				want = append(want, `"ok"`)
			}
			peer := srvNewPeer(t)
			tr := srvServe(t, NewServer(ServerConfig{}), peer)
			peer.fails[method] = errors.New("the disk burns")
			ex := tr.talk(t, "lines", append(append(srvHandshake(), send...), `{"ping": {}}`))
			if !slices.Equal(ex.replies, want) || srvEnd(ex.end) != "error" {
				t.Errorf("any error: %q, %v", ex.replies, ex.end)
			}
			peer.fails[method] = fmt.Errorf("wrapped: %w", &Refusal{"no"})
			ex = tr.talk(t, "lines", append(append(srvHandshake(), send...), `{"ping": {}}`))
			if !slices.Equal(ex.replies, append(want, `{"invoke-error":{"message":"no"}}`)) || srvEnd(ex.end) != "refused" {
				t.Errorf("a refusal: %q, %v", ex.replies, ex.end)
			}
		})
	}
}

func TestRowsInPart(t *testing.T) {
	peer := srvNewPeer(t)
	peer.whole = false
	tr := srvServe(t, NewServer(ServerConfig{}), peer)
	four := `{"method":"m","taskhash":"t1","outhash":"o1","unihash":"` + srvOnes + `"}`
	ex := tr.talk(t, "lines", append(srvHandshake(), `{"get": {"taskhash": "t1", "method": "m", "all": true}}`,
		`{"get-outhash": {"outhash": "o1", "taskhash": "x", "method": "m"}}`, `{"get-outhash": {"outhash": "o1", "taskhash": "x", "method": "m", "with_unihash": false}}`))
	if want := []string{four, four, `{"method":"m","taskhash":"t1","outhash":"o1"}`}; !slices.Equal(ex.replies, want) {
		t.Errorf("replies %q", ex.replies)
	}
}

// TestRowOfAnUnmappedTask: a row is told only with what its task is mapped to, unless it was asked for bare.
func TestRowOfAnUnmappedTask(t *testing.T) {
	peer := srvNewPeer(t)
	peer.rows[0].Unihash = Unihash{}
	peer.whole = false
	tr := srvServe(t, NewServer(ServerConfig{}), peer)
	ex := tr.talk(t, "lines", append(srvHandshake(), `{"get": {"taskhash": "t1", "method": "m", "all": true}}`,
		`{"get-outhash": {"outhash": "o1", "taskhash": "x", "method": "m", "with_unihash": false}}`))
	if want := []string{"null", `{"method":"m","taskhash":"t1","outhash":"o1"}`}; !slices.Equal(ex.replies, want) {
		t.Errorf("replies %q", ex.replies)
	}
}

func TestLongMessages(t *testing.T) {
	siginfo := strings.Repeat("0", 4*32768) + "\u00e4"
	report := func(taskhash string) string {
		return `{"report": {"taskhash": "` + taskhash + `", "method": "m", "outhash": "o", "unihash": "` + srvOnes + `", "outhash_siginfo": "` + siginfo + `"}}`
	}
	for _, piece := range []int{1 << 14, 32767, MaxLine} {
		t.Run(fmt.Sprint(piece), func(t *testing.T) {
			peer := srvNewPeer(t)
			tr := srvServe(t, NewServer(ServerConfig{}), peer)
			send := append(srvHandshake(), `{"chunk-stream": null}`)
			for text := report("new"); text != ""; {
				n := min(piece, len(text))
				send, text = append(send, text[:n]), text[n:]
			}
			ex := tr.talk(t, "lines", append(send, "", `{"ping": {}}`))
			srvCompare(t, srvCase{
				replies: []string{`{"taskhash":"new","method":"m","unihash":"` + srvOnes + `"}`, `{"alive":true}`},
				reached: []string{"Report m new o 11 131074"},
			}, ex, peer.reached())
		})
	}
	t.Run("websocket", func(t *testing.T) {
		peer := srvNewPeer(t)
		peer.rows[0].Siginfo = siginfo
		tr := srvServe(t, NewServer(ServerConfig{}), peer)
		ex := tr.talk(t, "websocket", append(srvHandshake(), report("new"), `{"get": {"taskhash": "t1", "method": "m", "all": true}}`))
		if len(ex.replies) != 2 || !strings.Contains(ex.replies[1], strings.Repeat("0", 4*32768)+`\u00e4`) {
			t.Errorf("%d replies: %.200q", len(ex.replies), ex.replies)
		}
	})
	t.Run("replies", func(t *testing.T) {
		peer := srvNewPeer(t)
		peer.rows[0].Siginfo = siginfo
		tr := srvServe(t, NewServer(ServerConfig{}), peer)
		ex := tr.talk(t, "lines", append(srvHandshake(), `{"get": {"taskhash": "t1", "method": "m", "all": true}}`))
		if len(ex.replies) != 1+5+1 || ex.replies[0] != `{"chunk-stream":null}` || len(ex.replies[1]) != 32767 || ex.replies[6] != "" {
			t.Fatalf("%d replies: %.200q", len(ex.replies), ex.replies)
		}
		if text := strings.Join(ex.replies[1:], ""); !strings.Contains(text, strings.Repeat("0", 4*32768)+`\u00e4`) {
			t.Errorf("%.300q", text)
		}
	})
}

// TestBatches: lines that are there together are one call, up to a bound.
func TestBatches(t *testing.T) {
	send := append(srvHandshake(), `{"get-stream": null}`)
	for range 3000 {
		send = append(send, "m t1")
	}
	for _, over := range []string{"lines", "websocket"} {
		peer := srvNewPeer(t)
		tr := srvServe(t, NewServer(ServerConfig{}), peer)
		ex := tr.talk(t, over, send)
		if len(ex.replies) != 3001 || srvEnd(ex.end) != "open" {
			t.Errorf("%s: %d replies, %v", over, len(ex.replies), ex.end)
		}
		calls := peer.reached()
		if len(calls) > 100 {
			t.Errorf("%s: 3000 lines were %d calls", over, len(calls))
		}
		for _, call := range calls {
			if n := strings.Count(call, "t1"); n > maxBatch {
				t.Errorf("%s: a call for %d lines", over, n)
			}
		}
	}
}

// TestBadLineInABatch: the lines before it are answered, those behind it are not.
func TestBadLineInABatch(t *testing.T) {
	for _, bad := range []string{"one", "one two three", "m t\u00a01", "m t1\x1fx", "m \u2028", strings.Repeat("x", MaxLine+1)} {
		peer := srvNewPeer(t)
		tr := srvServe(t, NewServer(ServerConfig{}), peer)
		ex := tr.talk(t, "lines", append(srvHandshake(), `{"get-stream": null}`, "m t1", "m t2", bad, "m t3"))
		srvCompare(t, srvCase{
			replies: []string{`"ok"`, srvOnes, strings.Repeat("2", 64)}, reached: []string{"Unihash [{m t1} {m t2}]"}, end: "closed",
		}, ex, peer.reached())
	}
}

// TestWordsThatNoStoreHas are answered, and not asked for.
func TestWordsThatNoStoreHas(t *testing.T) {
	peer := srvNewPeer(t)
	tr := srvServe(t, NewServer(ServerConfig{}), peer)
	long := strings.Repeat("x", maxWord+1)
	ex := tr.talk(t, "lines", append(srvHandshake(), `{"get-stream": null}`, "m t1", "m "+long, long+" t2", "m t3"))
	srvCompare(t, srvCase{
		replies: []string{`"ok"`, srvOnes, "", "", strings.Repeat("3", 64)}, reached: []string{"Unihash [{m t1} {m t3}]"},
	}, ex, peer.reached())
}

func TestStats(t *testing.T) {
	s := NewServer(ServerConfig{})
	tr := srvServe(t, s, srvNewPeer(t))
	tr.talk(t, "lines", append(srvHandshake(), `{"ping":{}}`, `{"get-stream": null}`, "m t1", "m t2", "m t3", "END", `{"ping":{}}`))
	got := s.Stats()
	if got.Requests != 5 || got.Total <= 0 || got.Max <= 0 || got.Max > got.Total || got.Average != got.Total/5 {
		t.Errorf("%+v", got)
	}
	ex := tr.talk(t, "lines", append(srvHandshake(), `{"reset-stats": null}`))
	if len(ex.replies) != 1 || !strings.HasPrefix(ex.replies[0], `{"requests":{"num":5,"total_time":`) {
		t.Errorf("%q", ex.replies)
	}
	if got := s.Stats(); got.Requests != 1 { // the reset itself
		t.Errorf("after a reset: %+v", got)
	}
}

func TestCounters(t *testing.T) {
	var c counters
	c.add(1, 2*time.Second)
	if got := c.read(false); got != (Stats{1, 2, 2, 2, 0}) {
		t.Errorf("%+v", got)
	}
	c.add(2, 8*time.Second)
	got := c.read(true)
	if got.Stdev < 1.1547 || got.Stdev > 1.1548 {
		t.Errorf("the deviation of 2, 4, 4 is %v", got.Stdev)
	}
	if got.Stdev = 0; got != (Stats{3, 10, 4, 10. / 3, 0}) {
		t.Errorf("%+v", got)
	}
	if got := c.read(false); got != (Stats{}) {
		t.Errorf("after a reset: %+v", got)
	}
}

// srvPipe serves one end of a pipe within a bubble of simulated time.
func srvPipe(ctx context.Context, s *Server, peer Peer) (client *srvPipeEnd, ended chan error) {
	a, b := srvNewPipe()
	ended = make(chan error, 1)
	go func() { ended <- s.Serve(ctx, NewLineConn(b, MaxLine), peer) }()
	return a, ended
}

func TestIdlePeers(t *testing.T) {
	conf := ServerConfig{Handshake: time.Second, Idle: time.Hour, Write: time.Minute}
	for _, tc := range []struct {
		name, sent string
		after      time.Duration
	}{
		{"says nothing", "", time.Second},
		{"endless headers", clientHello + "\na:b\n", time.Second},
		{"no command", clientHello + "\n\n", time.Hour},
		{"half a command", clientHello + "\n\n{\"ping\"", time.Hour},
		{"half a chunked command", clientHello + "\n\n{\"chunk-stream\":null}\n{\n", time.Hour},
		{"no line", clientHello + "\n\n{\"get-stream\":null}\n", time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, ended := srvPipe(t.Context(), NewServer(conf), srvNewPeer(t))
				defer client.Close()
				go client.drain()
				began := time.Now()
				client.send(tc.sent)
				if err := <-ended; srvEnd(err) != "error" || time.Since(began) != tc.after {
					t.Errorf("ended after %v: %v", time.Since(began), err)
				}
			})
		})
	}
}

// srvResting is a peer that may rest for a minute only.
type srvResting struct{ Peer }

func (srvResting) Rest() time.Duration { return time.Minute }

// TestRestingPeers: a peer may say that its connection rests for less long, in a stream and out of it.
func TestRestingPeers(t *testing.T) {
	for _, sent := range []string{"", `{"ping":{}}` + "\n", `{"get-stream":null}` + "\n"} {
		synctest.Test(t, func(t *testing.T) {
			client, ended := srvPipe(t.Context(), NewServer(ServerConfig{Idle: time.Hour}), srvResting{srvNewPeer(t)})
			defer client.Close()
			go client.drain()
			began := time.Now()
			client.send(clientHello + "\n\n" + sent)
			if err := <-ended; srvEnd(err) != "error" || time.Since(began) != time.Minute {
				t.Errorf("%q: ended after %v: %v", sent, time.Since(began), err)
			}
		})
	}
}

// TestPeerThatDoesNotRead: replies that do not leave end the connection.
func TestPeerThatDoesNotRead(t *testing.T) {
	for _, sent := range []string{`{"ping":{}}`, `{"get-stream":null}` + "\nm t1", `{"get":{"method":"m","taskhash":"t1","all":true}}`} {
		synctest.Test(t, func(t *testing.T) {
			peer := srvNewPeer(t)
			peer.rows[0].Siginfo = strings.Repeat("x", MaxMessage)
			client, ended := srvPipe(t.Context(), NewServer(ServerConfig{Idle: 24 * time.Hour, Write: time.Minute}), peer)
			defer client.Close()
			began := time.Now()
			client.send(clientHello + "\n\n" + sent + "\n")
			if err := <-ended; srvEnd(err) != "error" || time.Since(began) != time.Minute {
				t.Errorf("ended after %v: %v", time.Since(began), err)
			}
		})
	}
}

func TestServeStopsWithItsContext(t *testing.T) {
	for _, sent := range []string{"", clientHello + "\n", clientHello + "\n\n", clientHello + "\n\n{\"get-stream\":null}\n"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			client, ended := srvPipe(ctx, NewServer(ServerConfig{}), srvNewPeer(t))
			defer client.Close()
			go client.drain()
			client.send(sent)
			synctest.Wait()
			began := time.Now()
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) || time.Since(began) != 0 {
				t.Errorf("ended after %v: %v", time.Since(began), err)
			}
		})
	}
}

// srvHalfConn is a connection in memory that can be ended one way.
type srvHalfConn struct {
	*srvMemoryConn
	unread int // when the writing end was closed; -1 before
	closed bool
}

func (c *srvHalfConn) CloseWrite() error {
	c.unread = c.in.Len()
	return nil
}

func (c *srvHalfConn) Close() error {
	c.closed = true
	return nil
}

// TestEndIsCivil: what a peer still sends when the server has said its last is taken before the connection is closed, so that the peer is not
// cut off before it reads that.
func TestEndIsCivil(t *testing.T) {
	peer := srvNewPeer(t)
	peer.fails["AllUsers"] = &Refusal{"no"}
	more := strings.Repeat(`{"ping": {}}`+"\n", 10_000)
	for _, said := range []string{`{"get-all-users": {}}`, "no command"} {
		conn := &srvHalfConn{srvMemoryConn: srvMemory(clientHello+"\n\n"+said+"\n"+more, 0), unread: -1}
		err := NewServer(ServerConfig{}).Serve(t.Context(), NewLineConn(conn, MaxLine), peer)
		if srvEnd(err) == "open" || conn.unread <= 0 || conn.in.Len() > 0 || !conn.closed {
			t.Errorf("%s: ended %v; unread %d, then %d; closed %v", said, err, conn.unread, conn.in.Len(), conn.closed)
		}
	}
}
