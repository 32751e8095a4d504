package audit

import (
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
)

// version is the "v" of every line. Members are only added, renamed or removed together with it.
const version = 1

// timeLayout has a fixed width, so that lines sort and align.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// AppendJSON appends the event as one line of JSON, without the newline: the members of docs/audit.md in their order, empty
// ones left out. The output holds printable text only: every other rune is \u-escaped, and an octet that is not UTF-8
// becomes the four characters \xNN.
func (e *Event) AppendJSON(dst []byte) []byte {
	dst = appendString(appendHead(dst, e), e.Prev)
	return appendBody(dst, e)
}

// appendHead appends the members that the journal sets, up to the value of "prev". Those are the ones that it knows under its
// lock only.
func appendHead(dst []byte, e *Event) []byte {
	dst = append(dst, `{"v":1,"seq":`...)
	dst = strconv.AppendUint(dst, e.Seq, 10)
	dst = append(dst, `,"boot":`...)
	dst = appendString(dst, e.Boot)
	dst = append(dst, `,"node":`...)
	dst = appendString(dst, e.Node)
	dst = append(dst, `,"time":"`...)
	dst = e.Time.UTC().AppendFormat(dst, timeLayout)
	dst = append(dst, `","mono":`...)
	dst = strconv.AppendInt(dst, e.Mono, 10)
	return append(dst, `,"prev":`...)
}

// appendBody appends everything after the head, from the comma before "kind" to the closing brace.
func appendBody(dst []byte, e *Event) []byte {
	dst = append(dst, `,"kind":`...)
	dst = appendString(dst, e.Kind)
	dst = appendMember(dst, `,"request":`, e.Request)
	if e.Actor != (Actor{}) {
		dst = appendActor(append(dst, `,"actor":`...), &e.Actor)
	}
	dst = appendMember(dst, `,"door":`, e.Door)
	dst = appendMember(dst, `,"action":`, e.Action)
	dst = appendMember(dst, `,"zone":`, e.Zone)
	if e.Object != (Object{}) {
		dst = appendObject(append(dst, `,"object":`...), &e.Object)
	}
	if len(e.Objects) > 0 {
		dst = append(dst, `,"objects":`...)
		for i := range e.Objects {
			dst = appendObject(append(dst, listMark(i)), &e.Objects[i])
		}
		dst = append(dst, ']')
	}
	dst = appendList(dst, `,"sources":`, e.Sources)
	if !e.Decision.isZero() {
		dst = appendDecision(append(dst, `,"decision":`...), &e.Decision)
	}
	if e.Result != (Result{}) {
		dst = appendResult(append(dst, `,"result":`...), &e.Result)
	}
	dst = appendMember(dst, `,"detail":`, e.Detail)
	return append(dst, '}')
}

func appendActor(dst []byte, a *Actor) []byte {
	start := len(dst)
	dst = appendMember(dst, `,"forge":`, a.Forge)
	dst = appendMember(dst, `,"id":`, a.ID)
	dst = appendMember(dst, `,"name":`, a.Name)
	dst = appendMember(dst, `,"kind":`, a.Kind)
	dst = appendMember(dst, `,"credential":`, a.Credential)
	dst = appendMember(dst, `,"remote":`, a.Remote)
	return closeObject(dst, start)
}

func appendObject(dst []byte, o *Object) []byte {
	start := len(dst)
	dst = appendMember(dst, `,"path":`, o.Path)
	dst = appendMember(dst, `,"digest":`, o.Digest)
	dst = appendNumber(dst, `,"size":`, o.Size)
	dst = appendMember(dst, `,"verdict":`, o.Verdict)
	dst = appendMember(dst, `,"outcome":`, o.Outcome)
	dst = appendMember(dst, `,"request":`, o.Request)
	return closeObject(dst, start)
}

func appendDecision(dst []byte, d *Decision) []byte {
	start := len(dst)
	dst = appendMember(dst, `,"verdict":`, d.Verdict)
	dst = appendMember(dst, `,"rule":`, d.Rule)
	dst = appendList(dst, `,"reasons":`, d.Reasons)
	dst = appendMember(dst, `,"policy":`, d.Policy)
	dst = appendNumber(dst, `,"fact_age_ms":`, d.FactAge)
	if d.Cached {
		dst = append(dst, `,"cached":true`...)
	}
	return closeObject(dst, start)
}

func appendResult(dst []byte, r *Result) []byte {
	start := len(dst)
	dst = appendNumber(dst, `,"status":`, int64(r.Status))
	dst = appendNumber(dst, `,"bytes":`, r.Bytes)
	dst = appendMember(dst, `,"range":`, r.Range)
	if r.Complete {
		dst = append(dst, `,"complete":true`...)
	}
	dst = appendNumber(dst, `,"micros":`, r.Micros)
	return closeObject(dst, start)
}

// closeObject turns members that each begin with a comma, appended since start, into an object.
func closeObject(dst []byte, start int) []byte {
	if len(dst) == start {
		return append(dst, '{', '}')
	}
	dst[start] = '{'
	return append(dst, '}')
}

// listMark is what precedes the i-th element of a list.
func listMark(i int) byte {
	if i == 0 {
		return '['
	}
	return ','
}

func appendMember(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return appendString(append(dst, name...), value)
}

func appendNumber(dst []byte, name string, value int64) []byte {
	if value == 0 {
		return dst
	}
	return strconv.AppendInt(append(dst, name...), value, 10)
}

func appendList(dst []byte, name string, values []string) []byte {
	if len(values) == 0 {
		return dst
	}
	dst = append(dst, name...)
	for i, v := range values {
		dst = appendString(append(dst, listMark(i)), v)
	}
	return append(dst, ']')
}

// appendString appends s as a JSON string of printable text.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plain := 0 // s[plain:i] needs no escaping and is not appended yet
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			dst = appendEscapedASCII(append(dst, s[plain:i]...), c)
			i++
			plain = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			dst = append(append(dst, s[plain:i]...), `\\x`...)
			dst = append(dst, hexDigits[s[i]>>4], hexDigits[s[i]&15])
		} else if !unicode.IsPrint(r) {
			dst = appendEscapedRune(append(dst, s[plain:i]...), r)
		} else {
			i += n
			continue
		}
		i += n
		plain = i
	}
	dst = append(dst, s[plain:]...)
	return append(dst, '"')
}

const hexDigits = "0123456789abcdef"

func appendEscapedASCII(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\t':
		return append(dst, '\\', 't')
	case '\r':
		return append(dst, '\\', 'r')
	}
	return appendUnit(dst, uint16(c))
}

// appendEscapedRune escapes a rune as RFC 8259 section 7 does: above U+FFFF as a surrogate pair.
func appendEscapedRune(dst []byte, r rune) []byte {
	if r <= 0xffff {
		return appendUnit(dst, uint16(r))
	}
	r -= 0x10000
	dst = appendUnit(dst, uint16(0xd800+r>>10))
	return appendUnit(dst, uint16(0xdc00+r&0x3ff))
}

func appendUnit(dst []byte, u uint16) []byte {
	return append(dst, '\\', 'u', hexDigits[u>>12], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
}

// decode reads one line's JSON. Unknown members are refused: a newer version says so in "v".
func decode(line []byte) (Event, error) {
	var w struct {
		V int `json:"v"`
		Event
	}
	if err := json.Unmarshal(line, &w, json.RejectUnknownMembers(true)); err != nil {
		return Event{}, fmt.Errorf("decode audit event: %w", err)
	}
	if w.V != version {
		return Event{}, fmt.Errorf("decode audit event: version %d, this program reads version %d: use a newer lychgate", w.V, version)
	}
	if w.Seq == 0 || w.Kind == "" {
		return Event{}, errors.New("decode audit event: seq or kind is missing")
	}
	w.Time = w.Time.In(time.UTC)
	return w.Event, nil
}
