package client

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The grammar of a .netrc, as ftp, Python's netrc module, wget and curl read it:
//
//	file    = *( machine / default / macro / comment )
//	machine = "machine" WORD *( "login" WORD / "user" WORD / "account" WORD / "password" WORD )
//	default = "default" *( ... the same )          ; readers stop here
//	macro   = "macdef" WORD EOL *( line EOL ) EOL  ; an empty line ends it
//	comment = "#" up to the end of the line, where a keyword may stand
//	WORD    = characters that are not white space, or between double quotes; a backslash takes the next one as it is
//
// Line ends and blanks are alike outside macros and comments.

// netrcWord is a word and where it stands.
type netrcWord struct {
	text       string
	start, end int // of its bytes in the file, quotes included
	line       int
	ok         bool // false at the end of the file
}

// netrcLexer takes a file apart.
type netrcLexer struct {
	text []byte
	pos  int
	line int
	torn bool // the file ended within quotes or behind a backslash
}

// read takes one character. The three line ends are one, as in Python.
func (l *netrcLexer) read() (c byte, ok bool) {
	if l.pos == len(l.text) {
		return 0, false
	}
	c = l.text[l.pos]
	l.pos++
	if c == '\r' {
		if c = '\n'; l.pos < len(l.text) && l.text[l.pos] == '\n' {
			l.pos++
		}
	}
	if c == '\n' {
		l.line++
	}
	return c, true
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// word takes the next word and the white space that ends it.
func (l *netrcLexer) word() netrcWord {
	var c byte
	ok := true
	w := netrcWord{}
	for {
		w.start = l.pos
		if c, ok = l.read(); !ok {
			return netrcWord{start: l.pos, end: l.pos, line: l.line}
		}
		if !isBlank(c) {
			break
		}
	}
	w.line, w.ok = l.line, true
	quoted := c == '"'
	var text []byte
	if quoted {
		w.end = l.pos
		c, ok = l.read()
	}
	for ; ok && !(quoted && c == '"') && (quoted || !isBlank(c)); c, ok = l.read() {
		if c == '\\' {
			if c, ok = l.read(); !ok {
				break
			}
		}
		text = append(text, c)
		w.end = l.pos
	}
	if !ok && (quoted || w.end < l.pos) {
		l.torn = true
	}
	if ok && quoted {
		w.end = l.pos
	}
	w.text = string(text)
	return w
}

// keyword takes the next word that is in no comment.
func (l *netrcLexer) keyword() netrcWord {
	for {
		for l.pos < len(l.text) && isBlank(l.text[l.pos]) {
			l.read()
		}
		if l.pos == len(l.text) || l.text[l.pos] != '#' {
			return l.word()
		}
		l.rest()
	}
}

// rest takes what is left of the line, and reports whether that was nothing but a line end, and whether there was anything.
func (l *netrcLexer) rest() (empty, ok bool) {
	start := l.pos
	for {
		c, more := l.read()
		if !more {
			return false, l.pos > start
		}
		if c == '\n' {
			return len(bytes.TrimRight(l.text[start:l.pos], "\r\n")) == 0, true
		}
	}
}

// macro takes the lines of a macro and reports whether an empty line ended it.
func (l *netrcLexer) macro() bool {
	for {
		empty, ok := l.rest()
		if !ok || empty {
			return ok
		}
	}
}

// netrcEntry is one machine, or the default.
type netrcEntry struct {
	host                     string // as it is written; "" for the default
	isDefault                bool
	name                     netrcWord // the machine's
	words                    []netrcWord
	logins, passwords        []netrcWord // values; the last of each counts
	login, account, password string
}

func (e *netrcEntry) names(host string) bool { return !e.isDefault && strings.EqualFold(e.host, host) }

// netrcText is a file that was taken apart.
type netrcText struct {
	text      []byte
	entries   []*netrcEntry
	openMacro bool // the file ends within a macro
}

// parseNetrc takes a file apart. Words that mean nothing are passed over, as wget does. A file that breaks off in the middle of
// an entry is an error, since what is added to it would become part of that.
func parseNetrc(text []byte) (*netrcText, error) {
	f := &netrcText{text: text}
	l := &netrcLexer{text: text, line: 1}
	var current *netrcEntry
	for {
		w := l.keyword()
		if !w.ok {
			return f, nil
		}
		switch w.text {
		case "machine", "default":
			current = &netrcEntry{isDefault: w.text == "default", words: []netrcWord{w}}
			f.entries = append(f.entries, current)
		case "macdef":
			current = nil
		}
		if err := f.value(l, w, current); err != nil {
			return nil, err
		}
	}
}

// value takes what belongs to a keyword.
func (f *netrcText) value(l *netrcLexer, keyword netrcWord, e *netrcEntry) error {
	switch keyword.text {
	case "machine", "macdef", "login", "user", "account", "password":
	default:
		if l.torn {
			return fmt.Errorf("line %d: a quotation mark or a backslash at the end of the file leaves the last word open", keyword.line)
		}
		return nil
	}
	v := l.word()
	if !v.ok || l.torn {
		return fmt.Errorf("line %d: the value of %s is missing or breaks off", keyword.line, keyword.text)
	}
	if keyword.text == "macdef" {
		f.openMacro = !l.macro()
		return nil
	}
	if e == nil {
		return nil
	}
	if keyword.text == "machine" {
		e.host, e.name = v.text, v
		e.words = append(e.words, v)
		return nil
	}
	e.words = append(e.words, keyword, v)
	switch keyword.text {
	case "login", "user":
		e.login, e.logins = v.text, append(e.logins, v)
	case "account":
		e.account = v.text
	case "password":
		e.password, e.passwords = v.text, append(e.passwords, v)
	}
	return nil
}

// find returns the entries of a host.
func (f *netrcText) find(host string) (found []*netrcEntry) {
	for _, e := range f.entries {
		if e.names(host) {
			found = append(found, e)
		}
	}
	return found
}

// of returns the logins and passwords of a host.
func (f *netrcText) of(host string) (all [][2]string) {
	for _, e := range f.find(host) {
		all = append(all, [2]string{e.login, e.password})
	}
	return all
}

// defaultEntry returns the first default, which is where readers stop, or nil.
func (f *netrcText) defaultEntry() *netrcEntry {
	if i := slices.IndexFunc(f.entries, func(e *netrcEntry) bool { return e.isDefault }); i >= 0 {
		return f.entries[i]
	}
	return nil
}

// edit replaces the bytes of a file from start to end.
type edit struct {
	start, end int
	text       string
}

// apply returns a text with edits, which must not overlap.
func apply(text []byte, edits []edit) []byte {
	slices.SortStableFunc(edits, func(a, b edit) int { return a.start - b.start })
	var out []byte
	at := 0
	for _, e := range edits {
		out = append(append(out, text[at:e.start]...), e.text...)
		at = e.end
	}
	return append(out, text[at:]...)
}

// with returns the file with one entry for host, all else as it was.
func (f *netrcText) with(host, login, password string) ([]byte, error) {
	var edits []edit
	kept := false
	stop := f.defaultEntry()
	for _, e := range f.find(host) {
		if kept || stop != nil && e.words[0].start > stop.words[0].start {
			edits = append(edits, f.cut(e)...)
			continue
		}
		kept = true
		edits = append(edits, e.become(host, login, password)...)
	}
	if !kept {
		edits = append(edits, f.insertion(stop, fmt.Sprintf("machine %s login %s password %s", host, login, password)))
	}
	return f.edited(edits, host, [][2]string{{login, password}})
}

// without returns the file with no entry for host, all else as it was.
func (f *netrcText) without(host string) ([]byte, error) {
	var edits []edit
	for _, e := range f.find(host) {
		edits = append(edits, f.cut(e)...)
	}
	return f.edited(edits, host, nil)
}

// edited applies edits and looks whether they did what they should and no more: whether host has these logins and passwords now.
func (f *netrcText) edited(edits []edit, host string, want [][2]string) ([]byte, error) {
	text := apply(f.text, edits)
	after, err := parseNetrc(text)
	if err == nil && !(slices.Equal(f.others(host), after.others(host)) && slices.Equal(after.of(host), want)) {
		err = errors.New("its entries are written so close that one cannot be changed alone")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: edit the file yourself", err)
	}
	return text, nil
}

// others describes the entries of all other hosts, in their order.
func (f *netrcText) others(host string) (all [][5]string) {
	for _, e := range f.entries {
		if !e.names(host) {
			all = append(all, [5]string{e.host, e.login, e.account, e.password, fmt.Sprint(e.isDefault)})
		}
	}
	return all
}

// become returns the edits that give an entry another login and password, where they stand.
func (e *netrcEntry) become(host, login, password string) (edits []edit) {
	put := func(words []netrcWord, text string) {
		for _, w := range words {
			edits = append(edits, edit{w.start, w.end, text})
		}
	}
	if e.host != host {
		put([]netrcWord{e.name}, host)
	}
	put(e.logins, login)
	put(e.passwords, password)
	missing := ""
	if e.logins == nil {
		missing += " login " + login
	}
	if e.passwords == nil {
		missing += " password " + password
	}
	switch {
	case missing == "":
	case e.host != host:
		edits[0].text += missing
	default:
		edits = append(edits, edit{e.name.end, e.name.end, missing})
	}
	return edits
}

// insertion puts an entry in front of the default, or else at the end, on a line of its own where that can be.
func (f *netrcText) insertion(before *netrcEntry, entry string) edit {
	eol := "\n"
	if bytes.Contains(f.text, []byte("\r\n")) {
		eol = "\r\n"
	}
	if before != nil {
		return edit{before.words[0].start, before.words[0].start, eol[:f.separation(before)*len(eol)] + entry + eol}
	}
	at := len(f.text)
	if at > 0 && f.text[at-1] != '\n' {
		entry = eol + entry
	}
	if f.openMacro {
		entry = eol + entry
	}
	return edit{at, at, entry + eol}
}

// separation is 1 when something stands in front of an entry on its line, else 0.
func (f *netrcText) separation(e *netrcEntry) int {
	before := f.text[:e.words[0].start]
	if len(bytes.Trim(before[bytes.LastIndexAny(before, "\r\n")+1:], " \t")) > 0 {
		return 1
	}
	return 0
}

// cut returns the edits that remove an entry: its words, and a line whole when nothing else but its own comment stands there.
func (f *netrcText) cut(e *netrcEntry) (edits []edit) {
	for i := 0; i < len(e.words); {
		start, end := f.line(e.words[i])
		n := i
		for n < len(e.words) && e.words[n].end <= end {
			n++
		}
		if n > i && f.bare(start, end, e.words[i:n]) {
			edits = append(edits, edit{start, end, ""})
			i = n
			continue
		}
		edits = append(edits, f.cutWord(e.words[i]))
		i++
	}
	return edits
}

// line returns where the line of a word starts and where the next one does.
func (f *netrcText) line(w netrcWord) (start, end int) {
	start = bytes.LastIndexAny(f.text[:w.start], "\r\n") + 1
	if n := bytes.IndexByte(f.text[w.start:], '\n'); n >= 0 {
		return start, w.start + n + 1
	}
	return start, len(f.text)
}

// bare reports whether a line holds nothing but these words, and perhaps a comment behind them.
func (f *netrcText) bare(start, end int, words []netrcWord) bool {
	var left []byte
	for _, w := range words {
		left = append(left, f.text[start:w.start]...)
		start = w.end
	}
	left = bytes.TrimLeft(append(left, f.text[start:end]...), " \t\r\n")
	return len(left) == 0 || left[0] == '#'
}

// cutWord removes a word with the blanks in front of it.
func (f *netrcText) cutWord(w netrcWord) edit {
	start := w.start
	if w.end == len(f.text) || isBlank(f.text[w.end]) {
		for start > 0 && (f.text[start-1] == ' ' || f.text[start-1] == '\t') {
			start--
		}
	}
	return edit{start, w.end, ""}
}

// pythonFault says why Python's netrc module, with which BitBake looks a password up, would refuse the whole file, or nil. It
// refuses more than wget does, and BitBake then goes on without a word. This follows the module of Python 3.11 and later.
func pythonFault(text []byte) error {
	p := &pythonNetrc{lex: netrcLexer{text: text, line: 1}}
	for {
		line := p.lex.line
		w := p.next()
		switch {
		case !w.ok:
			return nil
		case w.text == "":
			return fmt.Errorf("line %d: nothing behind the empty word \"\" is read", w.line)
		case w.text[0] == '#':
			if p.lex.line == line && len(w.text) == 1 {
				p.lex.rest()
			}
		case w.text == "macdef":
			if p.lex.word(); !p.lex.macro() {
				return fmt.Errorf("line %d: an empty line must end the macro", w.line)
			}
		case w.text == "machine" && p.lex.word().text == "":
			return fmt.Errorf("line %d: machine without a name", w.line)
		case w.text == "machine" || w.text == "default":
			if err := p.entry(); err != nil {
				return err
			}
		default:
			return p.fault(w)
		}
	}
}

type pythonNetrc struct {
	lex    netrcLexer
	pushed *netrcWord
}

func (p *pythonNetrc) next() netrcWord {
	if w := p.pushed; w != nil {
		p.pushed = nil
		return *w
	}
	return p.lex.word()
}

// entry follows the module over the words of one entry.
func (p *pythonNetrc) entry() error {
	for {
		line := p.lex.line
		w := p.lex.word()
		switch {
		case strings.HasPrefix(w.text, "#"):
			if p.lex.line == line {
				p.lex.rest()
			}
		case w.text == "" || w.text == "machine" || w.text == "default" || w.text == "macdef":
			p.pushed = &w
			return nil
		case w.text == "login" || w.text == "user" || w.text == "account" || w.text == "password":
			p.lex.word()
		default:
			return p.fault(w)
		}
	}
}

// fault explains a word that the module does not expect. Most are comments: one needs a blank behind its #, and none may follow an
// empty line within the entries.
func (p *pythonNetrc) fault(w netrcWord) error {
	start := bytes.LastIndexAny(p.lex.text[:w.start], "\r\n") + 1
	if before := bytes.TrimLeft(p.lex.text[start:w.start], " \t"); len(before) > 0 && before[0] == '#' {
		return fmt.Errorf("line %d: this comment is not understood: write a blank behind the #, and no empty line above it", w.line)
	}
	return fmt.Errorf("line %d: it expects another word there", w.line) // which may be a part of a password: it is not shown
}
