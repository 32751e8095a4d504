package audit

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestLine pins the line down, octet by octet: docs/audit.md shows the same.
func TestLine(t *testing.T) {
	e := Event{
		Seq: 7, Boot: "B", Node: "n1", Time: time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC), Mono: 12, Prev: "00",
		Kind: "decision", Request: "r1", Actor: Actor{Forge: "f", ID: "1", Name: "a", Kind: "human", Credential: "c", Remote: "192.0.2.7:1"},
		Door: "https", Action: "read", Zone: "main", Object: Object{Path: "p", Digest: "sha256:00", Size: 5, Verdict: "v", Outcome: "o", Request: "r"},
		Objects: []Object{{Path: "q"}, {}}, Sources: []string{"s", ""},
		Decision: Decision{Verdict: "allow", Rule: "r", Reasons: []string{"x", "y"}, Policy: "p", FactAge: -1, Cached: true},
		Result:   Result{Status: 206, Bytes: 5, Range: "0-4", Complete: true, Micros: 9}, Detail: "d",
	}
	want := `{"v":1,"seq":7,"boot":"B","node":"n1","time":"2026-03-04T05:06:07.000000089Z","mono":12,"prev":"00",` +
		`"kind":"decision","request":"r1","actor":{"forge":"f","id":"1","name":"a","kind":"human","credential":"c","remote":"192.0.2.7:1"},` +
		`"door":"https","action":"read","zone":"main","object":{"path":"p","digest":"sha256:00","size":5,"verdict":"v","outcome":"o","request":"r"},` +
		`"objects":[{"path":"q"},{}],"sources":["s",""],` +
		`"decision":{"verdict":"allow","rule":"r","reasons":["x","y"],"policy":"p","fact_age_ms":-1,"cached":true},` +
		`"result":{"status":206,"bytes":5,"range":"0-4","complete":true,"micros":9},"detail":"d"}`
	if d := cmp.Diff(want, string(e.AppendJSON(nil))); d != "" {
		t.Error(d)
	}
	frame, _ := closeFrame(append(appendFramePrefix(nil), `{"v":1}`...), 0)
	if string(frame) != "00000007 e8a3bafd {\"v\":1}\n" {
		t.Errorf("frame = %q", frame)
	}
}

func TestEscaping(t *testing.T) {
	for in, want := range map[string]string{
		"plain ü 漢 😀":           `plain ü 漢 😀`,
		"q\"b\\s":               `q\"b\\s`,
		"a\nb\tc\rd":            `a\nb\tc\rd`,
		"\x00\x1b\x7f":          `\u0000\u001b\u007f`,
		"\u0085\u009b":          `\u0085\u009b`, // C1 controls
		"\u202e\u2066\u200f":    `\u202e\u2066\u200f`,
		"\u2028\ufeff\u00a0":    `\u2028\ufeff\u00a0`,
		"\U000e0041\U0010ffff":  `\udb40\udc41\udbff\udfff`, // tags, private use
		"\xff\xc3(\xed\xa0\x80": `\\xff\\xc3(\\xed\\xa0\\x80`,
		"\ufffd":                "\ufffd",
	} {
		if got := string(appendString(nil, in)); got != `"`+want+`"` {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// checkLine: any event's line is printable, parses, and says again what it said.
func checkLine(t interface {
	Helper()
	Fatalf(string, ...any)
}, e *Event,
) {
	t.Helper()
	line := e.AppendJSON(nil)
	for _, r := range string(line) {
		if !unicode.IsPrint(r) {
			t.Fatalf("rune %U in %q", r, line)
		}
	}
	var generic map[string]any
	if err := json.Unmarshal(line, &generic); err != nil {
		t.Fatalf("%v: %q", err, line)
	}
	got, err := decode(line)
	if err != nil {
		t.Fatalf("%v: %q", err, line)
	}
	if again := got.AppendJSON(nil); !bytes.Equal(line, again) {
		t.Fatalf("%q became %q", line, again)
	}
	if utf8.ValidString(e.Detail) && got.Detail != e.Detail {
		t.Fatalf("%q became %q", e.Detail, got.Detail)
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		object := rapid.Custom(func(t *rapid.T) Object {
			return Object{text.Draw(t, "path"), text.Draw(t, "digest"), rapid.Int64().Draw(t, "size"), text.Draw(t, "v"), text.Draw(t, "o"), text.Draw(t, "r")}
		})
		e := Event{
			Seq: rapid.Uint64Min(1).Draw(t, "seq"), Boot: text.Draw(t, "boot"), Node: text.Draw(t, "node"),
			Time: time.Unix(rapid.Int64Range(0, 1<<37).Draw(t, "sec"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC(), Mono: rapid.Int64().Draw(t, "mono"),
			Prev: text.Draw(t, "prev"), Kind: "k" + text.Draw(t, "kind"), Request: text.Draw(t, "request"),
			Actor:  Actor{text.Draw(t, "f"), text.Draw(t, "i"), text.Draw(t, "n"), text.Draw(t, "k"), text.Draw(t, "c"), text.Draw(t, "r")},
			Door:   text.Draw(t, "door"),
			Object: object.Draw(t, "object"), Objects: rapid.SliceOf(object).Draw(t, "objects"), Sources: rapid.SliceOf(text).Draw(t, "sources"),
			Decision: Decision{text.Draw(t, "v"), text.Draw(t, "r"), rapid.SliceOf(text).Draw(t, "reasons"), text.Draw(t, "p"), rapid.Int64().Draw(t, "age"), rapid.Bool().Draw(t, "cached")},
			Result:   Result{rapid.IntRange(0, 599).Draw(t, "status"), rapid.Int64().Draw(t, "bytes"), text.Draw(t, "range"), rapid.Bool().Draw(t, "c"), rapid.Int64().Draw(t, "us")},
			Detail:   text.Draw(t, "detail"),
		}
		checkLine(t, &e)
		got, err := decode(e.AppendJSON(nil))
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range []*[]string{&e.Sources, &e.Decision.Reasons} {
			if len(*list) == 0 {
				*list = nil
			}
		}
		if len(e.Objects) == 0 {
			e.Objects = nil
		}
		if d := cmp.Diff(e, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	good := string(sampleLine())
	for name, line := range map[string]string{
		"other version":    strings.Replace(good, `"v":1`, `"v":2`, 1),
		"no version":       strings.Replace(good, `"v":1,`, ``, 1),
		"unknown member":   strings.Replace(good, `"kind"`, `"extra":1,"kind"`, 1),
		"folded case":      strings.Replace(good, `"kind"`, `"Kind"`, 1),
		"duplicate member": strings.Replace(good, `"kind"`, `"seq":9,"kind"`, 1),
		"invalid UTF-8":    strings.Replace(good, `stat`, "st\xff", 1),
		"trailing":         good + "{}",
		"no sequence":      strings.Replace(good, `"seq":3`, `"seq":0`, 1),
	} {
		if line == good {
			t.Fatalf("%s: not changed", name)
		}
		if _, err := decode([]byte(line)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func sampleLine() []byte {
	e := sampleEvent(1)
	e.Seq, e.Boot, e.Node, e.Prev, e.Time = 3, "b", "n", "00", time.Unix(0, 0)
	return e.AppendJSON(nil)
}

func FuzzEncode(f *testing.F) {
	f.Add("plain", "x\n\x1b[31m", int64(1))
	f.Add("\u202eevil", "\xff\xfe\\\"", int64(-1))
	f.Fuzz(func(t *testing.T, a, b string, n int64) {
		e := Event{
			Seq: 1, Kind: "k", Request: a, Detail: b, Actor: Actor{Name: b}, Object: Object{Path: a, Size: n}, Sources: []string{a, b},
			Decision: Decision{Reasons: []string{b}, FactAge: n}, Result: Result{Bytes: n, Range: a},
		}
		checkLine(t, &e)
	})
}
