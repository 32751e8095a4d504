package hashserv

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
)

// srvHostile is what a hostile client sends after the handshake, and all that may come of it.
type srvHostile struct {
	category, name string
	send           []string // messages
	raw            string   // instead of messages: bytes of lines or frames
	bare           bool     // without a handshake before
	over           string   // the one transport that this is for
	reader         bool     // the peer has no optional commands
	replies        []string
	reached        []string
	end            string // closed unless it is said
	// differs says why the reference server answers otherwise, when it does more than to go on where ours ends.
	differs string
}

const (
	srvBadReport = `{"report":{"method":"m","taskhash":"evil","outhash":"o","unihash":"` + srvOnes + `"}}`
	srvInvalid   = `{"invoke-error":{"message":"Invalid unihash"}}`
	srvNoMark    = `{"invoke-error":{"message":"Could not decode JSONL input"}}`
	srvPing      = `{"ping":{}}`
	srvAlive     = `{"alive":true}`
)

func srvHostiles() (all []srvHostile) {
	for _, part := range [][]srvHostile{
		srvFramings(), srvHellos(), srvConfusions(), srvBodies(), srvStreamDesyncs(), srvChunkDesyncs(), srvAdmins(), srvStreamLines(), srvPoisons(), srvFrameTricks(),
	} {
		all = append(all, part...)
	}
	return all
}

// srvFramings are about where a message ends.
func srvFramings() (all []srvHostile) {
	add := func(name, raw string, replies ...string) {
		all = append(all, srvHostile{category: "framing", name: name, raw: raw, over: "lines", replies: replies, end: "closed"})
	}
	for name, sep := range map[string]string{
		"CR": "\r", "NEL": "\u0085", "LS": "\u2028", "PS": "\u2029", "VT": "\v", "FF": "\f", "NUL": "\x00", "FS": "\x1c",
		"a blank": " ", "a comma": ",", "nothing": "",
	} {
		add("two commands on a line, between them "+name, srvPing+sep+srvBadReport+"\n")
	}
	add("BOM", "\ufeff"+srvPing+"\n")
	add("NUL before", "\x00"+srvPing+"\n")
	add("NUL behind", srvPing+"\x00\n")
	add("a Unicode blank behind", srvPing+"\u00a0\n")
	add("garbage behind", srvPing+"x\n")
	add("a bracket behind", srvPing+"}\n")
	add("a command over two lines", "{\"report\":{\"method\":\"m\",\n\"taskhash\":\"evil\",\"outhash\":\"o\",\"unihash\":\""+srvOnes+"\"}}\n")
	add("an empty line", "\n"+srvBadReport+"\n")
	add("a line of blanks", " \t \n"+srvBadReport+"\n")
	add("too long", strings.Repeat(" ", MaxLine)+srvPing+"\n")
	add("too long, of blanks behind", srvPing+strings.Repeat(" ", MaxLine)+"\n")
	add("endless", strings.Repeat("x", 3*MaxLine))
	add("a command, then not UTF-8", srvPing+"\n\xff\n", srvAlive)
	for name, octets := range map[string]string{
		"overlong slash": "\xc0\xaf", "overlong quote": "\xc0\xa2", "surrogate": "\xed\xa0\x80", "above Unicode": "\xf4\x90\x80\x80",
		"half a rune": "\xe2\x80", "UTF-16": "\xff\xfe{\x00",
	} {
		add("not UTF-8: "+name, `{"get":{"method":"m`+octets+`","taskhash":"t1"}}`+"\n")
	}
	all = append(all,
		srvHostile{category: "framing", name: "no end", raw: srvBadReport, over: "lines", end: "error"},
		srvHostile{category: "framing", name: "CR LF is an end", raw: srvPing + "\r\n", over: "lines", replies: []string{srvAlive}, end: "open"},
		srvHostile{
			category: "framing", name: "LF CR is not", raw: srvPing + "\n\r" + srvPing + "\n", over: "lines",
			replies: []string{srvAlive, srvAlive}, end: "open",
		},
	)
	return all
}

// srvHellos are about how a connection begins.
func srvHellos() (all []srvHostile) {
	for _, hello := range []string{
		"", "OEHASHEQUIV", "OEHASHEQUIV 1.1 x", "oehashequiv 1.1", "OEHASHEQUIV\u00a01.1", "OEHASHEQUIV 1,1", "OEHASHEQUIV 1.1.0",
		"OEHASHEQUIV +1.1", "OEHASHEQUIV 1.-1",
		"OEHASHEQUIV \uff11.\uff11", "OEHASHEQUIV 1.1\u0000", "OEHASHEQUIV 1_1.1", "OEHASHEQUIV 1.", "OEHASHEQUIV .1",
		"OEHASHEQUIV 1..1", "OEHASHEQUIV 0x1.1", "OEHASHEQUIV 1.1e0",
		"OEHASHEQUIV 99999999999999999999.1", "OEHASHEQUIV 1.99999999999999999999", "\ufeffOEHASHEQUIV 1.1", "OEHASHEQUIV:1.1",
		"PRSERVICE 1.0", srvPing, srvBadReport,
		"GET / HTTP/1.1", "POST / HTTP/1.1", "SSH-2.0-OpenSSH_9.2", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "PROXY TCP4 1.2.3.4 1.2.3.4 1 1",
	} {
		all = append(all, srvHostile{
			category: "handshake", name: fmt.Sprintf("%.40q", hello), bare: true, send: []string{hello, "", srvBadReport},
			end: "closed",
		})
	}
	for name, header := range map[string]string{
		"no colon": "needs-headers", "a command": srvPing[1:5], "a Unicode colon": "a\uff1ab", "a line": "m t1", "blanks and no colon": "a b c",
	} {
		all = append(all, srvHostile{
			category: "handshake", name: "header: " + name, bare: true, send: []string{clientHello, header, "", srvBadReport},
			end: "closed",
		})
	}
	many := append([]string{clientHello}, strings.Split(strings.Repeat("a: b\n", 10_000), "\n")...)
	all = append(all,
		srvHostile{category: "handshake", name: "endless headers", bare: true, send: many, end: "closed"},
		srvHostile{
			category: "handshake", name: "a long header", bare: true,
			raw: clientHello + "\na: " + strings.Repeat("x", MaxLine) + "\n\n", over: "lines", end: "closed",
		},
		// A command where a header may stand is a header: it has a colon.
		srvHostile{
			category: "handshake", name: "a command among the headers", bare: true,
			send: []string{clientHello, srvBadReport, "", srvPing}, replies: []string{srvAlive}, end: "open",
		},
		srvHostile{
			category: "handshake", name: "a long s in a name", bare: true,
			send: []string{clientHello, "need\u017f-headers: true", "", srvPing}, replies: []string{srvAlive}, end: "open",
		},
		srvHostile{category: "handshake", name: "a second hello", send: srvHandshake()},
	)
	return all
}

// srvConfusions are about which command a message is.
func srvConfusions() (all []srvHostile) {
	report := strings.TrimSuffix(strings.TrimPrefix(srvBadReport, "{"), "}")
	for _, text := range []string{
		`{"ping":{},` + report + `}`, `{` + report + `,"ping":{}}`, `{"get":{"method":"m","taskhash":"t1"},` + report + `}`,
		`{"get-stream":null,` + report + `}`,
		`{"ping":{},"ping":{}}`, `{"ping":{},"\u0070ing":{}}`, `{` + report + `,` + report + `}`, `{"":{},` + report + `}`,
		`{"x":{},` + report + `}`, `{"chunk-stream":null,` + report + `}`,
		`"report"`, `"get-stream"`, `["report"]`, `["get-stream"]`, `[` + srvBadReport + `]`,
		`"` + strings.ReplaceAll(srvBadReport, `"`, `\"`) + `"`, `null`, `true`, `0`, `{}`, `[]`, `""`, `report`,
		`{"Report"` + report[8:] + `}`, `{"REPORT"` + report[8:] + `}`, `{" report"` + report[8:] + `}`,
		`{"report "` + report[8:] + `}`, `{"report\u0000"` + report[8:] + `}`,
		`{"report\u200b"` + report[8:] + `}`, `{"repor\uff54"` + report[8:] + `}`, `{"get-\u017ftream":null}`, `{"get_stream":null}`,
		`{"GET-STREAM":null}`, `{"get-stream":true}`, `{"get-stream":{"x":1}}`,
		`{"get-stream":[]}`, `{"get-stream":""}`, `{"get-stream":0}`, `{"ping":[]}`, `{"ping":{"x":{}}}`, `{"ping":{` + report + `}}`,
		`{"get":` + srvBadReport + `}`, `{"__class__":null}`, `{"stream":null}`,
		`{"invoke-error":{"message":"x"}}`, `{"ok":null}`, `{"END":null}`, `{'ping':{}}`, `{ping:{}}`, `{"ping":{},}`, `{"ping":{}}//`,
		`/**/{"ping":{}}`, `{"ping":NaN}`, `{"ping":Infinity}`,
		`{"ping":None}`, `{"ping":{}`, `{"ping"}`, `{"ping":{}} {}`, `{"ping":{}}null`, strings.Repeat("[", 20_000),
		strings.Repeat(`{"ping":`, 8_000), `{"ping":` + strings.Repeat("9", 50_000) + `}`,
	} {
		all = append(all, srvHostile{
			category: "command confusion", name: fmt.Sprintf("%.60q", text), send: []string{text, srvBadReport}, end: "closed",
		})
	}
	return append(all, srvHostile{
		category: "command confusion", name: "a name in escapes is the name", send: []string{`{"\u0067et":{"m\u0065thod":"\u006d","taskhash":"t1"}}`},
		replies: []string{`{"taskhash":"t1","method":"m","unihash":"` + srvOnes + `"}`}, reached: []string{"Unihash [{m t1}]"}, end: "open",
	})
}

// srvBodies are about what a command says.
func srvBodies() (all []srvHostile) {
	for _, body := range []string{
		`null`, `[]`, `""`, `{}`, `{"method":"m"}`, `{"taskhash":"t1"}`, `{"method":"m","taskhash":"t1","taskhash":"t2"}`,
		`{"method":"m","taskhash":"t1","taskhas\u0068":"t2"}`,
		`{"method":"m","Taskhash":"t1"}`, `{"method":"m","TASKHASH":"t1"}`, `{"method":"m","ta\u017fkhash":"t1"}`,
		`{"method":"m","taskhash":"t1","Taskhash":"t2"}`, `{"method":"m","taskhash":"t1","x":1}`,
		`{"method":"m","taskhash":"t1","outhash":"o1"}`, `{"method":"m","taskhash":null}`, `{"method":"m","taskhash":1}`,
		`{"method":"m","taskhash":true}`, `{"method":"m","taskhash":["t1"]}`,
		`{"method":"m","taskhash":{"t1":"t1"}}`, `{"method":["m"],"taskhash":"t1"}`, `{"method":"m","taskhash":"t1","all":null}`,
		`{"method":"m","taskhash":"t1","all":1}`,
		`{"method":"m","taskhash":"t1","all":"true"}`, `{"method":"m","taskhash":"t1","all":{}}`, `{"method":"m","taskhash":"t\ud800"}`,
		`{"method":"m","taskhash":"t\udc00\ud800"}`,
		`{"method":"m","taskhash":"t\x41"}`, "{\"method\":\"m\",\"taskhash\":\"t\t1\"}", "{\"method\":\"m\",\"taskhash\":\"t\x001\"}",
		`{"method":"m","taskhash":"t1"},{}`, `{"method":"m" "taskhash":"t1"}`,
	} {
		all = append(all, srvHostile{
			category: "command confusion", name: fmt.Sprintf("get %.80q", body), send: []string{`{"get":` + body + `}`, srvBadReport},
			end: "closed",
		})
	}
	for _, send := range []string{
		`{"get-outhash":{"method":"m","outhash":"o1"}}`, `{"get-outhash":{"method":"m","outhash":"o1","taskhash":"t","with_unihash":"false"}}`,
		`{"get-outhash":{"method":"m","outhash":"o1","taskhash":"t","with_unihash":0}}`,
		`{"report":{"method":"m","taskhash":"t1","unihash":"` + srvOnes + `"}}`,
		`{"report":{"method":"m","taskhash":"t","outhash":"o","unihash":"` + srvOnes + `","created":"2020-01-01"}}`,
		`{"report":{"method":"m","taskhash":"t","outhash":"o","unihash":"` + srvOnes + `","PN":1}}`,
		`{"report":{"method":"m","taskhash":"t","outhash":"o","unihash":"` + srvOnes + `","pn":"x"}}`,
		`{"report":{"method":"m","taskhash":"t","outhash":"o","unihash":"` + srvOnes + `","gc_mark":"x"}}`,
		`{"report":{"method":"m","taskhash":"t","outhash":"o","unihash":"` + srvOnes + `","unihash":"` + srvOnes + `"}}`,
		`{"report":{"method":"m","taskhash":"t","outhash":"o","unihash":"` + srvOnes + `","owner":["x"]}}`,
		`{"remove":{"where":[]}}`, `{"remove":{"where":null}}`, `{"remove":{"where":"method"}}`, `{"remove":{}}`,
		`{"remove":{"where":{"method":1}}}`, `{"remove":{"where":{"method":["m"]}}}`,
		`{"remove":{"where":{"method":"m","method":"n"}}}`, `{"remove":{"where":{"method":"m"},"all":true}}`,
		`{"remove":{"method":"m"}}`, `{"clean-unused":{}}`, `{"clean-unused":{"max_age_seconds":null}}`,
		`{"clean-unused":{"max_age_seconds":"0"}}`, `{"clean-unused":{"max_age_seconds":-1}}`,
		`{"clean-unused":{"max_age_seconds":0.5}}`, `{"clean-unused":{"max_age_seconds":1e99}}`,
		`{"clean-unused":{"max_age_seconds":9223372036854775807}}`, `{"clean-unused":{"max_age_seconds":9223372037}}`,
		`{"clean-unused":{"max_age_seconds":true}}`, `{"gc-mark":{"mark":"A"}}`,
		`{"gc-mark":{"where":{}}}`, `{"gc-mark":{"mark":"","where":{}}}`, `{"gc-mark":{"mark":null,"where":{}}}`,
		`{"gc-mark":{"mark":1,"where":{}}}`, `{"gc-sweep":{}}`, `{"gc-sweep":{"mark":null}}`, `{"gc-sweep":{"mark":""}}`,
		`{"auth":{}}`, `{"auth":{"username":"root"}}`, `{"auth":{"username":"root","token":null}}`,
		`{"auth":{"username":"root","token":0}}`, `{"auth":{"username":"","token":""}}`, `{"auth":{"username":["root"],"token":"x"}}`,
		`{"auth":{"username":"root","token":"x","result":true}}`, `{"become-user":{}}`, `{"become-user":{"username":""}}`,
		`{"become-user":{"username":null}}`, `{"become-user":"root"}`, `{"become-user":{"username":"root","permissions":["@all"]}}`,
		`{"new-user":{"username":"x"}}`, `{"new-user":{"username":"x","permissions":"@all"}}`,
		`{"new-user":{"username":"x","permissions":null}}`, `{"new-user":{"username":"x","permissions":{"@all":1}}}`,
		`{"new-user":{"username":"x","permissions":[1]}}`, `{"new-user":{"username":"x","permissions":[["@all"]]}}`,
		`{"new-user":{"username":"","permissions":[]}}`, `{"set-user-perms":{"permissions":["@all"]}}`, `{"get-user":{"username":1}}`,
		`{"get-user":{"user":"root"}}`, `{"refresh-token":{"username":"root","token":"x"}}`, `{"delete-user":["root"]}`,
		`{"delete-user":null}`, `{"get-user":null}`,
	} {
		all = append(all, srvHostile{
			category: "command confusion", name: fmt.Sprintf("%.80q", send), send: []string{send, srvBadReport}, end: "closed",
		})
	}
	return all
}

// srvStreamDesyncs are lines of a stream that one program takes for its end and another does not. Behind each comes a command.
func srvStreamDesyncs() (all []srvHostile) {
	for name, line := range map[string]string{
		"NBSP": "\u00a0", "NEL": "\u0085", "LS": "\u2028", "PS": "\u2029", "ideographic space": "\u3000", "ogham space": "\u1680",
		"thin space": "\u2009", "FS": "\x1c", "GS": "\x1d", "RS": "\x1e", "US": "\x1f",
		"zero width space": "\u200b", "BOM": "\ufeff", "word joiner": "\u2060", "NUL": "\x00", "END and NBSP": "END\u00a0",
		"END and NEL": "END\u0085", "END and FS": "END\x1c", "END and NUL": "END\x00", "END and LS": "END\u2028",
		"end": "end", "End": "End", "full width END": "\uff25\uff2e\uff24", "BOM END": "\ufeffEND", "END in quotes": `"END"`,
		"ENDE": "ENDE", "EN": "EN", "blank END": " END", "tab END": "\tEND",
	} {
		mark := srvHostile{
			category: "stream desync", name: "mark: " + name, send: []string{`{"gc-mark-stream":null}`, line, srvBadReport}, replies: []string{`"ok"`, srvNoMark}, end: "refused",
		}
		if line == `"END"` { // is JSON, of another type
			mark.replies, mark.end = []string{`"ok"`}, "closed"
		}
		exists := srvHostile{
			category: "stream desync", name: "exists: " + name, send: []string{`{"exists-stream":null}`, line, srvBadReport}, replies: []string{`"ok"`, "false", "false"}, end: "open",
		}
		if bare := strings.TrimRightFunc(line, srvPythonBlank); bare != line && (bare == "" || bare == "END") {
			mark.differs = "blanks that are not ASCII are cut off there, and what is left ends the stream: so the report is executed"
			exists.differs = mark.differs
		}
		all = append(all, mark, exists,
			srvHostile{
				category: "stream desync", name: "get: " + name, send: []string{`{"get-stream":null}`, line, srvBadReport},
				replies: []string{`"ok"`}, end: "closed",
			})
	}
	for _, line := range []string{`{"report":null}`, srvBadReport, srvPing, `{"exists-stream":null}`, `{"chunk-stream":  null }`, "END END END", "ok", clientHello + " x"} {
		all = append(all, srvHostile{
			category: "stream desync", name: fmt.Sprintf("a command: %.30q", line),
			send: []string{`{"get-stream":null}`, line, srvBadReport}, replies: []string{`"ok"`}, end: "closed",
		})
	}
	for _, line := range []string{"END ", "END\t", "END\r", "END\v\f", " ", "\t", "\r"} {
		all = append(all, srvHostile{
			category: "stream desync", name: fmt.Sprintf("the end with blanks behind: %q", line), over: "lines", send: []string{`{"get-stream":null}`, line, srvPing}, replies: []string{`"ok"`, "ok", srvAlive}, end: "open",
		})
	}
	return append(all,
		srvHostile{
			category: "stream desync", name: "a hello is two words", send: []string{`{"get-stream":null}`, clientHello, "END", srvPing},
			replies: []string{`"ok"`, "", "ok", srvAlive}, reached: []string{"Unihash [{OEHASHEQUIV 1.1}]"}, end: "open",
		},
		srvHostile{category: "stream desync", name: "lines before the stream", send: []string{"m t1", `{"get-stream":null}`}},
		srvHostile{category: "stream desync", name: "END before the stream", send: []string{"END", srvBadReport}},
		srvHostile{
			category: "stream desync", name: "END twice", send: []string{`{"get-stream":null}`, "END", "END", srvBadReport},
			replies: []string{`"ok"`, "ok"},
		},
		srvHostile{
			category: "stream desync", name: "lines behind the stream",
			send: []string{`{"get-stream":null}`, "END", "m t1", srvBadReport}, replies: []string{`"ok"`, "ok"},
		},
	)
}

// srvPythonBlank reports whether the reference server cuts off a character at the end of a line.
func srvPythonBlank(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// srvChunkDesyncs are about where a long message ends.
func srvChunkDesyncs() (all []srvHostile) {
	begin := `{"chunk-stream": null}`
	add := func(name, end string, replies, send []string) {
		all = append(all, srvHostile{
			category: "chunk desync", name: name, over: "lines", send: append([]string{begin}, send...), replies: replies, end: end,
		})
	}
	add("nothing", "closed", nil, []string{"", srvBadReport})
	add("a line of blanks is the end", "open", []string{srvAlive, srvAlive}, []string{srvPing, " \t", srvPing})
	for name, blank := range map[string]string{"NBSP": "\u00a0", "NEL": "\u0085", "LS": "\u2028", "FS": "\x1c", "NUL": "\x00", "BOM": "\ufeff", "zero width space": "\u200b"} {
		add("not the end: "+name, "closed", nil, []string{srvPing, blank, srvBadReport, ""})
	}
	add("END is not the end", "closed", nil, []string{srvPing, "END", srvBadReport, ""})
	add("chunks in chunks", "closed", nil, []string{begin, "", srvBadReport, ""})
	add("chunks that make chunks", "closed", nil, []string{`{"chunk-`, `stream": null}`, "", srvBadReport, ""})
	add("two commands in chunks", "closed", nil, []string{srvPing, srvBadReport, ""})
	add("a command in pieces", "open", []string{srvAlive, srvAlive}, []string{`{"pi`, `ng"`, `:{`, `}}`, "", srvPing})
	add("a rune in pieces", "closed", nil, []string{"{\"get\":{\"method\":\"m\xc3", "\xa4\",\"taskhash\":\"t1\"}}", "", srvPing})
	add("no end", "error", nil, []string{srvBadReport})
	letters := func(n int) []string {
		const before, behind = `{"get":{"method":"m","taskhash":"`, "\u200b\"}}"
		return strings.Split(before+strings.Repeat("t", n-len(before)-4)+behind, "")
	}
	add("the most pieces", "open", []string{"null"}, append(letters(maxChunks), ""))
	add("too many pieces", "closed", nil, append(letters(maxChunks+1), "", srvBadReport))
	add("too many bytes", "closed", nil, append(srvRepeat(strings.Repeat("x", 60_000), 18), "", srvBadReport))
	add("a piece that is too long", "closed", nil, []string{strings.Repeat("x", MaxLine+1), "", srvBadReport})
	for _, marker := range []string{
		`{"chunk-stream": {}}`, `{"chunk-stream": true}`, `{"chunk-stream": ""}`, `{"chunk-stream": 0}`,
		`{"chunk-stream": null, "ping": {}}`, `{"ping": {}, "chunk-stream": null}`, `"chunk-stream"`, `["chunk-stream"]`,
		`{"Chunk-Stream": null}`, `{"chunk_stream": null}`, `{"chunk-stream": null, "chunk-stream": null}`, `{"chunk-stream"}`,
		`{"chunk-stream": null}}`, `{"chunk-stream ": null}`,
		`{"chunk-stream": null` + strings.Repeat(" ", 300) + `}`,
	} {
		all = append(all, srvHostile{
			category: "chunk desync", name: fmt.Sprintf("marker %.50q", marker), send: []string{marker, srvBadReport, ""},
			end: "closed",
		})
	}
	return append(all,
		srvHostile{category: "chunk desync", name: "a websocket has no chunks", over: "websocket", send: []string{begin, srvBadReport, ""}},
		srvHostile{
			category: "chunk desync", name: "a marker in escapes", over: "lines",
			send: []string{`{"\u0063hunk-stream":null}`, srvPing, "", srvPing}, replies: []string{srvAlive, srvAlive}, end: "open",
		},
		srvHostile{
			category: "chunk desync", name: "in a stream", send: []string{`{"exists-stream":null}`, begin, srvBadReport, ""},
			replies: []string{`"ok"`, "false", "false", "ok"}, end: "open",
		},
	)
}

func srvRepeat(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}

// srvAdmins are commands that this peer does not have.
func srvAdmins() (all []srvHostile) {
	for _, send := range []string{
		`{"report-equiv":{"method":"m","taskhash":"evil","unihash":"` + srvOnes + `"}}`, `{"remove":{"where":{"method":"m"}}}`,
		`{"remove":{"where":{}}}`, `{"clean-unused":{"max_age_seconds":0}}`,
		`{"gc-mark":{"mark":"A","where":{}}}`, `{"gc-mark-stream":null}`, `{"gc-sweep":{"mark":"A"}}`, `{"gc-status":{}}`,
		`{"get-db-usage":{}}`, `{"reset-stats":null}`, `{"backfill-wait":null}`, `{"auth":{"username":"root","token":"x"}}`,
		`{"become-user":{"username":"root"}}`, `{"get-user":{}}`, `{"get-all-users":{}}`,
		`{"new-user":{"username":"x","permissions":["@all"]}}`, `{"set-user-perms":{"username":"x","permissions":["@all"]}}`,
		`{"refresh-token":{"username":"root"}}`, `{"delete-user":{"username":"root"}}`,
	} {
		all = append(all, srvHostile{
			category: "admin commands", name: fmt.Sprintf("%.60q", send), reader: true, send: []string{send, srvBadReport},
			end: "closed",
		})
	}
	return append(all, srvHostile{
		category: "admin commands", name: "from within a stream", reader: true, send: []string{
			`{"get-stream":null}`, "m t1", "END", `{"remove":{"where":{"method":"m"}}}`, srvBadReport,
		},
		replies: []string{`"ok"`, srvOnes, "ok"}, reached: []string{"Unihash [{m t1}]"},
	})
}

// srvStreamLines are lines of the right stream that are not what they should be.
func srvStreamLines() (all []srvHostile) {
	for _, line := range []string{
		"m", "m t1 x", "m t1\x00", "m\x00 t1", "m t\x1b[2J", "m\u00a0t1", "m t1\u00a0x", "m t\u200b1", "m t\u202e1", "m t\ufffd",
		"m t1\x7f", "\u0085m t1", "m t\u20281", "m,t1 x y", "a\rb\rc", "m t1 ; drop", strings.Repeat("m ", 5000),
		`{"method":"m", "taskhash":"t1"} x`,
	} {
		all = append(all, srvHostile{
			category: "stream lines", name: fmt.Sprintf("get %.40q", line), send: []string{`{"get-stream":null}`, line, "m t1"},
			replies: []string{`"ok"`}, end: "closed",
		})
	}
	for _, line := range []string{
		srvOnes[1:], srvOnes + "1", "0x" + srvOnes[2:], strings.Repeat("A", 64), strings.Repeat("\uff11", 64), srvOnes[:32] + " " + srvOnes[:31], srvOnes + " " + srvOnes, srvOnes + "\x00", "'" + srvOnes[2:] + "'", strings.Repeat("0", 64),
		srvOnes[:63] + "g", "%", "*", "../" + srvOnes[3:], strings.Repeat("x", 60_000), "true",
	} {
		all = append(all, srvHostile{
			category: "stream lines", name: fmt.Sprintf("exists %.40q", line), send: []string{`{"exists-stream":null}`, line},
			replies: []string{`"ok"`, "false"}, end: "open",
		})
	}
	accepts := "it takes an empty mark, members it does not know, names twice, and values of other types"
	missing := `{"invoke-error":{"message":"Input line is missing a key"}}`
	for _, l := range []struct{ line, reply, differs string }{
		{`'`, srvNoMark, ""},
		{`{"mark":"A","where":{}} x`, srvNoMark, ""},
		{`{"mark":"A","mark":"B","where":{}}`, srvNoMark, accepts},
		{`{"mark":"A","where":{"unihash":"x","unihash":"y"}}`, srvNoMark, accepts},
		{`{}`, missing, ""},
		{`{"mark":"A"}`, missing, ""},
		{`{"where":{}}`, missing, ""},
		{`{"gc-mark":{"mark":"A","where":{}}}`, missing, ""},
		{`[]`, "", ""},
		{`null`, "", ""},
		{`{"mark":1,"where":{}}`, "", ""},
		{`{"mark":"A","where":[]}`, "", ""},
		{`{"mark":"","where":{}}`, "", ""},
		{`{"mark":"A","where":{},"x":1}`, "", ""},
		{`{"mark":"A","where":{"method":1}}`, "", ""},
	} {
		h := srvHostile{
			category: "stream lines", name: fmt.Sprintf("mark %.40q", l.line), send: []string{`{"gc-mark-stream":null}`, l.line, `{"mark":"A","where":{}}`}, replies: []string{`"ok"`}, differs: l.differs,
		}
		if l.reply != "" {
			h.replies, h.end = append(h.replies, l.reply), "refused"
		}
		all = append(all, h)
	}
	return all
}

// srvPoisons are mappings that would harm whoever believes them, or whoever writes them down.
func srvPoisons() (all []srvHostile) {
	report := func(method, taskhash, outhash, unihash string) string {
		return fmt.Sprintf(`{"report":{"method":%s,"taskhash":%s,"outhash":%s,"unihash":%s}}`, srvQuote(method), srvQuote(taskhash), srvQuote(outhash), unihash)
	}
	for _, unihash := range []string{
		`"${@os.system('true')}"`, `"../../../../etc/passwd"`, `"` + srvOnes[1:] + `"`, `"` + srvOnes + `1"`,
		`"` + strings.Repeat("A", 64) + `"`, `"` + strings.Repeat("0", 64) + `"`, `"` + srvOnes[1:] + `\n"`, `" ` + srvOnes[1:] + `"`,
		`"` + srvOnes[:63] + `\u0661"`, `"` + srvOnes + `\u0000"`, `""`, `null`, `0`, `true`, `["` + srvOnes + `"]`,
		`{"` + srvOnes + `":1}`, `1111111111111111111111111111111111111111111111111111111111111111`,
	} {
		differs := ""
		if strings.Contains(unihash, `"0000`) {
			differs = "64 zeros are none here: they stand for nothing"
		}
		all = append(all,
			srvHostile{
				category: "poisoning", differs: differs, name: "report unihash " + unihash,
				send: []string{report("m", "evil", "o", unihash), srvBadReport}, replies: []string{srvInvalid}, end: "refused",
			},
			srvHostile{
				category: "poisoning", differs: differs, name: "report-equiv unihash " + unihash, send: []string{
					`{"report-equiv":{"method":"m","taskhash":"evil","unihash":` + unihash + `}}`, srvBadReport,
				},
				replies: []string{srvInvalid}, end: "refused",
			})
	}
	ok := `"` + srvOnes + `"`
	for _, word := range []string{
		"", " ", "a b", "a\nb", "a\rb", "a\tb", "\x00", "a\x00", "a\u00a0b", "a\u2028b", "a\u200bb", "a\u202eb", "\ufeffa", "a\x1b[0m",
		"a\x7f", "a\ufffdb", "a\u0085", strings.Repeat("x", maxWord+1), "m t1\nEND\n" + srvBadReport,
	} {
		for name, text := range map[string]string{
			"method": report(word, "t", "o", ok), "taskhash": report("m", word, "o", ok), "outhash": report("m", "t", word, ok),
			"report-equiv taskhash": `{"report-equiv":{"method":"m","taskhash":` + srvQuote(word) + `,"unihash":` + ok + `}}`,
		} {
			all = append(all, srvHostile{
				category: "poisoning", name: fmt.Sprintf("%s %.30q", name, word), send: []string{text, srvBadReport}, end: "closed",
			})
		}
		all = append(all, srvHostile{
			category: "poisoning", name: fmt.Sprintf("lookups of %.30q", word), send: []string{
				`{"get":{"method":"m","taskhash":` + srvQuote(word) + `}}`,
				`{"get":{"method":` + srvQuote(word) + `,"taskhash":"t1","all":true}}`,
				`{"get-outhash":{"method":"m","taskhash":"t1","outhash":` + srvQuote(word) + `}}`,
			}, replies: []string{"null", "null", "null"}, end: "open",
		})
	}
	return all
}

func srvQuote(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // every string is JSON
	}
	return string(text)
}

// srvFrameTricks are about frames of a websocket.
func srvFrameTricks() (all []srvHostile) {
	add := func(name, end, raw string, replies ...string) {
		all = append(all, srvHostile{category: "websocket", name: name, over: "websocket", raw: raw, replies: replies, end: end})
	}
	add("binary", "closed", srvFrame(0x82, srvPing))
	add("not UTF-8", "closed", srvFrame(srvText, "\xff"))
	add("LF between two commands", "closed", srvFrame(srvText, srvPing+"\n"+srvBadReport))
	add("LF in a line of a stream", "closed", srvFrame(srvText, `{"get-stream":null}`)+srvFrame(srvText, "m t1\nm"), `"ok"`)
	add("LF at the end of END", "closed", srvFrame(srvText, `{"get-stream":null}`)+srvFrame(srvText, "END\n")+srvFrame(srvText, srvBadReport), `"ok"`)
	add("blank END of exists", "open", srvFrame(srvText, `{"exists-stream":null}`)+srvFrame(srvText, "END ")+srvFrame(srvText, srvBadReport)+srvClose, `"ok"`, "false", "false")
	add("in fragments", "open", srvFrame(0x01, `{"pi`)+srvFrame(0x00, `ng":`)+srvFrame(0x80, `{}}`)+srvClose, srvAlive)
	add("a ping between fragments", "open", srvFrame(0x01, `{"pi`)+srvFrame(0x89, "x")+srvFrame(0x80, `ng":{}}`)+srvClose, srvAlive)
	add("many empty fragments", "open", srvFrame(0x01, `{"ping":{}}`)+strings.Repeat(srvFrame(0x00, ""), 5000)+srvFrame(0x80, "")+srvClose, srvAlive)
	add("a rune in fragments", "open", srvFrame(0x01, "{\"get\":{\"method\":\"m\xc3")+srvFrame(0x80, "\xa4\",\"taskhash\":\"\"}}")+srvClose, "null")
	add("no first fragment", "error", srvFrame(0x80, srvPing))
	add("a message within another", "error", srvFrame(0x01, `{"pi`)+srvFrame(srvText, srvBadReport))
	add("no last fragment", "error", srvFrame(0x01, srvBadReport))
	add("not masked", "error", "\x81\x0b"+srvPing)
	add("a reserved bit", "error", srvFrame(0xa1, srvPing))
	add("another reserved bit", "error", srvFrame(0x91, srvPing))
	add("an unknown kind", "error", srvFrame(0x83, srvPing))
	add("an unknown kind of control", "error", srvFrame(0x8b, ""))
	add("a long ping", "error", srvFrame(0x89, strings.Repeat("x", 126)))
	add("a fragment of a ping", "error", srvFrame(0x09, "x"))
	add("a compressed ping", "error", srvFrame(0xc9, "x"))
	add("a flood of pings", "open", strings.Repeat(srvFrame(0x89, "x"), 3000)+srvFrame(srvText, srvPing)+srvClose, srvAlive)
	add("a flood of pongs", "open", strings.Repeat(srvFrame(0x8a, "x"), 3000)+srvFrame(srvText, srvPing)+srvClose, srvAlive)
	add("a length of 2^63", "error", "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	add("a length of 2^64-1", "error", "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00")
	add("a length of 2^62, and nothing", "error", "\x81\xff\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00x")
	add("a message that is too long", "error", srvFrame(srvText, strings.Repeat(" ", MaxMessage)+srvPing))
	add("too long in fragments", "error", srvFrame(0x01, strings.Repeat(" ", MaxMessage))+srvFrame(0x80, srvPing))
	add("half a head", "error", "\x81")
	add("half a frame", "error", srvFrame(srvText, srvBadReport)[:40])
	add("the end without a frame", "open", "")
	add("a close code that is none", "error", srvFrame(0x88, "\x03\xed"))
	add("half a close code", "error", srvFrame(0x88, "\x03"))
	add("a close of another kind", "error", srvFrame(0x88, "\x03\xea"))
	add("a command behind the close", "open", srvClose+srvFrame(srvText, srvBadReport))
	add("compressed", "open", srvFrame(0xc1, srvDeflate(srvPing))+srvClose, srvAlive)
	add("compressed garbage", "error", srvFrame(0xc1, "garbage garbage"))
	add("a compressed stream line", "open", srvFrame(0xc1, srvDeflate(`{"exists-stream":null}`))+srvFrame(0xc1, srvDeflate("x"))+srvFrame(srvText, "y")+srvClose, `"ok"`, "false", "false")
	add("a bomb", "error", srvFrame(0xc1, srvDeflate(strings.Repeat(" ", 8<<20))))
	add("a bomb that closes itself", "closed", srvFrame(0xc1, srvDeflate(strings.Repeat(" ", MaxMessage-1)+"x")))
	return all
}

// srvDeflate compresses as a websocket does.
func srvDeflate(text string) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		panic(err) // the level exists
	}
	_, _ = w.Write([]byte(text)) // a buffer takes all
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// bytes returns what is sent over a transport.
func (h srvHostile) bytes(over string) string {
	handshake := srvHandshake()
	if h.bare {
		handshake = nil
	}
	messages := append(handshake, h.send...)
	if over == "lines" {
		text := strings.Join(messages, "\n")
		if len(messages) > 0 {
			text += "\n"
		}
		return text + h.raw
	}
	if h.raw != "" {
		return srvFrames(messages) + h.raw
	}
	return srvFrames(messages) + srvClose
}

// TestHostile sends the corpus over lines and websockets. Of each entry exactly what it says reaches the peer and comes back, and a client
// beside it that means well sees nothing of it.
func TestHostile(t *testing.T) {
	server, calm := NewServer(ServerConfig{}), srvNewPeer(t)
	friends := map[string]*srvFriend{}
	for _, over := range []string{"lines", "websocket"} {
		friends[over] = srvNewFriend(t, over, srvServe(t, server, calm))
	}
	all := srvHostiles()
	tried := 0
	next := make(chan Peer, 1)
	tr := srvServeEach(t, server, func() Peer { return <-next })
	for _, h := range all {
		for _, over := range []string{"lines", "websocket"} {
			if h.over != "" && h.over != over {
				continue
			}
			tried++
			t.Run(over+"/"+h.category+"/"+h.name, func(t *testing.T) {
				peer := srvNewPeer(t)
				if h.reader {
					next <- srvReader{peer}
				} else {
					next <- peer
				}
				talk := tr.talkLines
				if over == "websocket" {
					talk = tr.talkWebsocket
				}
				ex := talk(t, h.bytes(over))
				if h.end == "" {
					h.end = "closed"
				}
				srvCompare(t, srvCase{replies: h.replies, reached: h.reached, end: h.end}, ex, peer.reached())
				friends[over].ask(t)
			})
		}
	}
	if len(all) < 150 {
		t.Errorf("the corpus has %d inputs", len(all))
	}
	t.Logf("%d inputs, tried %d times", len(all), tried)
}

// srvFriend is a client that means well, on one connection all the time.
type srvFriend struct{ conn Conn }

func srvNewFriend(t testing.TB, over string, tr *srvTransports) *srvFriend {
	address := tr.lines
	if over == "websocket" {
		address = tr.websocket
	}
	conn, err := (&Dialer{}).Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &srvFriend{conn}
	for _, line := range srvHandshake() {
		f.say(t, line)
	}
	f.ask(t)
	return f
}

func (f *srvFriend) say(t testing.TB, message string) {
	t.Helper()
	if err := f.conn.Send([]byte(message)); err != nil {
		t.Fatal(err)
	}
}

// ask asks one thing of each kind.
func (f *srvFriend) ask(t testing.TB) {
	t.Helper()
	twos := strings.Repeat("2", 64)
	for _, m := range []string{`{"get-stream":null}`, "m t1", "m t0", "END", `{"exists-stream":null}`, twos, "END", `{"get":{"method":"m","taskhash":"t2"}}`} {
		f.say(t, m)
	}
	if err := f.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"ok"`, srvOnes, "", "ok", `"ok"`, "true", "ok", `{"taskhash":"t2","method":"m","unihash":"` + twos + `"}`} {
		got, err := f.conn.Receive()
		if err != nil || string(got) != want {
			t.Fatalf("a client beside it got %q, %v; want %q", got, err, want)
		}
	}
}
