package hashserv

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The grammar, in the order of a connection. A line stands for one message of a [Conn].
//
//	connection = hello *header "" [*header ""] *( request reply | stream )
//	hello      = "OEHASHEQUIV" blank version          versions above 1.0, up to 1.1
//	header     = name ":" value                       needs-headers: true asks for the second list
//	request    = {NAME: BODY} | {"chunk-stream": null} *piece ""
//	stream     = {STREAM: null} "\"ok\"" *( line reply ) ( "END" | "" ) "ok"
const (
	protocolName  = "OEHASHEQUIV"
	clientHello   = protocolName + " 1.1"
	needsHeaders  = "needs-headers"
	chunkStream   = "chunk-stream"
	invokeError   = "invoke-error"
	endOfStream   = "END"
	streamEntered = `"ok"`
	streamLeft    = "ok"

	// maxPiece is how long a piece is that we send: what the reference server reads at once, less the line end.
	maxPiece = 32<<10 - 1
	// maxChunks is how many pieces a message may come in, and maxHeaders how many headers.
	maxChunks  = 64
	maxHeaders = 16
	// maxWord is how long a method, a taskhash or an outhash can be, in bytes. A longer one is none that a store has.
	maxWord = 4 << 10
)

// ErrMalformed is wrapped by the error about a peer that does not speak the protocol, or wants what it may not even ask. The text holds
// nothing that the peer sent.
var ErrMalformed = errors.New("malformed")

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }

// validHello reports whether a client may begin so.
func validHello(line []byte) bool {
	name, version, ok := twoWords(string(line))
	if !ok || name != protocolName {
		return false
	}
	var numbers []int
	for part := range strings.SplitSeq(version, ".") {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return false
		}
		numbers = append(numbers, int(n))
	}
	return slices.Compare(numbers, []int{1, 0}) > 0 && slices.Compare(numbers, []int{1, 1}) <= 0
}

// readHeaders reads up to the empty line, and returns what it was told of name. The last of several counts.
func readHeaders(conn Conn, name string) (value string, err error) {
	for range maxHeaders + 1 {
		line, err := conn.Receive()
		if err != nil {
			return "", midway(err)
		}
		if len(line) == 0 {
			return value, nil
		}
		tag, text, ok := strings.Cut(string(line), ":")
		if !ok {
			return "", malformed("a header without a colon")
		}
		if strings.EqualFold(tag, name) && isASCII(tag) {
			value = strings.Trim(text, blanks)
		}
	}
	return "", malformed("too many headers")
}

// receiveMessage returns the next JSON text, put together from its pieces. It is valid until the next call of Receive, or of this with the
// same room.
func receiveMessage(conn Conn, room []byte) (text, newRoom []byte, err error) {
	text, err = conn.Receive()
	if err != nil {
		return text, room, err
	}
	return wholeMessage(conn, text, room)
}

// wholeMessage is receiveMessage when the first line of it was received already.
func wholeMessage(conn Conn, first, room []byte) (text, newRoom []byte, err error) {
	if !conn.Chunked() || !beginsChunks(first) {
		return first, room, nil
	}
	room = room[:0]
	for range maxChunks + 1 {
		piece, err := conn.Receive()
		switch {
		case err != nil:
			return nil, room, midway(err)
		case len(piece) == 0:
			return room, room, nil
		case len(room)+len(piece) > MaxMessage:
			return nil, room, malformed("a message is too long")
		}
		room = append(room, piece...)
	}
	return nil, room, malformed("a message has too many pieces")
}

// midway is an error of receiving when more had to come.
func midway(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// beginsChunks reports whether text is {"chunk-stream": null}, in whatever spelling.
func beginsChunks(text []byte) bool {
	if len(text) > 200 { // more than anyone needs to say so
		return false
	}
	var members map[string]jsontext.Value
	if json.Unmarshal(text, &members) != nil || len(members) != 1 {
		return false
	}
	value, ok := members[chunkStream]
	return ok && value.Kind() == 'n'
}

// sendMessage sends a JSON text that marshal made, in pieces when it is long and conn wants that.
func sendMessage(conn Conn, text []byte) error {
	if !conn.Chunked() || len(text) < maxPiece {
		return conn.Send(text)
	}
	if err := conn.Send([]byte(`{"` + chunkStream + `":null}`)); err != nil {
		return err
	}
	for len(text) > 0 {
		var piece []byte
		piece, text = cutPiece(text)
		if err := conn.Send(piece); err != nil {
			return err
		}
	}
	return conn.Send(nil)
}

// cutPiece cuts off what fits into a piece, and does not let it end with a space, which the receiver would take off. Where there are nothing
// but spaces the last is escaped: canonical JSON has spaces in strings alone.
func cutPiece(text []byte) (piece, rest []byte) {
	n := min(maxPiece, len(text))
	for n > maxPiece/2 && text[n-1] == ' ' {
		n--
	}
	piece, rest = text[:n:n], text[n:]
	if piece[n-1] == ' ' {
		piece = append(piece[:n-1:n-1], `\u0020`...)
	}
	return piece, rest
}

// marshal returns v as JSON in one line of ASCII: members in the order of their fields, of maps sorted.
func marshal(v any) ([]byte, error) {
	text, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return escapeNonASCII(text), nil
}

// escapeNonASCII replaces what is not ASCII, and DEL, by \u escapes. In JSON both stand in strings alone.
func escapeNonASCII(text []byte) []byte {
	first := slices.IndexFunc(text, func(c byte) bool { return c >= 0x7f })
	if first < 0 {
		return text
	}
	out := append(make([]byte, 0, len(text)+64), text[:first]...)
	for _, r := range string(text[first:]) {
		switch {
		case r < 0x7f:
			out = append(out, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// blanks are the characters between words. Others that Unicode calls white space separate nothing, and are part of no word.
const blanks = " \t\r\v\f"

// twoWords splits a line at its blanks, and reports whether it has exactly two words.
func twoWords(line string) (first, second string, ok bool) {
	if i := strings.IndexByte(line, ' '); i > 0 && cleanWord(line[:i]) && cleanWord(line[i+1:]) {
		return line[:i], line[i+1:], true // as everybody writes it
	}
	line = strings.Trim(line, blanks)
	i := strings.IndexAny(line, blanks)
	if i < 0 {
		return "", "", false
	}
	first, second = line[:i], strings.TrimLeft(line[i:], blanks)
	return first, second, cleanWord(first) && cleanWord(second)
}

// cleanWord reports whether a word is neither empty nor has anything in it that any program takes for white space or an end of line. What
// is checked here goes into lines to other servers.
func cleanWord(word string) bool {
	for i := range len(word) {
		if c := word[i]; c <= ' ' || c >= 0x7f {
			return cleanRunes(word)
		}
	}
	return word != ""
}

func cleanRunes(word string) bool {
	for _, r := range word {
		if r == utf8.RuneError || !strconv.IsPrint(r) || r == ' ' {
			return false
		}
	}
	return true
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// timestamp is a time as Python's isoformat writes it; "" for none.
func timestamp(t time.Time) string {
	switch t = t.UTC(); {
	case t.IsZero():
		return ""
	case t.Nanosecond() < 1000:
		return t.Format("2006-01-02T15:04:05-07:00")
	}
	return t.Format("2006-01-02T15:04:05.000000-07:00")
}
