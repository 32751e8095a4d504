package config

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the largest document that is read, in bytes.
const MaxSize = 1 << 20

// position is a place in the document.
type position struct{ line, column int }

// parser walks the document's nodes beside the Go types, and collects problems instead of stopping at the first.
// yaml.Decoder's own strict mode knows neither columns nor what a key should have been.
type parser struct {
	dir      string
	places   map[string]position // key path -> where it stands
	problems Problems
}

// Parse reads a document. Relative paths in it are relative to dir. The error is [Problems] with every mistake that
// can be found without looking outside the document.
func Parse(data []byte, dir string) (*Config, error) {
	c, p := parse(data, dir)
	if err := p.err(); err != nil {
		return nil, err
	}
	return c, nil
}

func parse(data []byte, dir string) (*Config, *parser) {
	p := &parser{dir: dir, places: map[string]position{"": {1, 1}}}
	c := defaults()
	root := p.document(data)
	if root == nil {
		return c, p
	}
	p.decode(root, "", reflect.ValueOf(c).Elem())
	host := p.check(c)
	c.fill(host)
	p.checkPlaces(c)
	return c, p
}

func (p *parser) err() error {
	if len(p.problems) == 0 {
		return nil
	}
	p.problems.sort()
	return p.problems
}

// add notes a problem at a key, or at its nearest ancestor that stands in the document.
func (p *parser) add(key, reason, hint string) {
	at := p.places[""]
	for k := key; k != ""; k = parent(k) {
		if where, ok := p.places[k]; ok {
			at = where
			break
		}
	}
	p.problems = append(p.problems, Problem{Line: at.line, Column: at.column, Key: key, Reason: reason, Hint: hint})
}

// sound reports whether nothing was found wrong at key, above or below it; checks that build on a value ask first.
func (p *parser) sound(key string) bool {
	for _, q := range p.problems {
		if q.Key == key || within(q.Key, key) || within(key, q.Key) {
			return false
		}
	}
	return true
}

// given reports whether key stands in the document.
func (p *parser) given(key string) bool {
	_, ok := p.places[key]
	return ok
}

func within(key, ancestor string) bool {
	rest, ok := strings.CutPrefix(key, ancestor)
	return ok && rest != "" && (ancestor == "" || rest[0] == '.' || rest[0] == '[')
}

func parent(key string) string {
	if i := strings.LastIndexAny(key, ".["); i >= 0 {
		return key[:i]
	}
	return ""
}

func child(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// document returns the root mapping, or nil after noting why there is none.
func (p *parser) document(data []byte) *yaml.Node {
	if len(data) > MaxSize {
		p.add("", fmt.Sprintf("longer than %d bytes", MaxSize), "is this the right file?")
		return nil
	}
	if !utf8.Valid(data) {
		p.add("", "not UTF-8 text", "is this the right file?")
		return nil
	}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF) || err == nil && doc.Content[0].Tag == "!!null":
		p.add("", "the document is empty", "lychgate config example prints one to start from")
		return nil
	case err != nil:
		p.syntax(err)
		return nil
	}
	if err := dec.Decode(&second); err == nil {
		p.places[""] = position{second.Line, second.Column}
		p.add("", "a second document", "one file holds one document: remove the '---' line and what follows")
		return nil
	} else if !errors.Is(err, io.EOF) {
		p.syntax(err)
		return nil
	}
	return doc.Content[0]
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)

// syntax notes what the YAML reader did not understand; it knows the line at best.
func (p *parser) syntax(err error) {
	problem := Problem{Line: 1, Reason: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: "), Hint: "indent with spaces, and quote text that holds ': ' or ' #'"}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		problem.Line, _ = strconv.Atoi(m[1])
		problem.Reason = "not YAML: " + m[2]
	}
	p.problems = append(p.problems, problem)
}

// decode fills v from n. The caller has noted n's place under key.
func (p *parser) decode(n *yaml.Node, key string, v reflect.Value) {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		p.add(key, "anchors and aliases are not supported", "write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		p.add(key, fmt.Sprintf("the tag %s is not supported", n.Tag), "remove it")
	default:
		p.decodeKind(n, key, v)
	}
}

func (p *parser) decodeKind(n *yaml.Node, key string, v reflect.Value) {
	_, isValue := v.Addr().Interface().(value)
	switch {
	case v.Kind() == reflect.Pointer: // a section that may be absent
		v.Set(reflect.New(v.Type().Elem()))
		p.decodeKind(n, key, v.Elem())
	case v.Kind() == reflect.Struct && !isValue:
		p.mapping(n, key, v)
	case v.Kind() == reflect.Slice:
		p.sequence(n, key, v)
	default:
		p.scalar(n, key, v)
	}
}

func (p *parser) mapping(n *yaml.Node, key string, v reflect.Value) {
	if n.Tag == "!!null" {
		return // a section whose keys are all commented out has its defaults
	}
	if n.Kind != yaml.MappingNode {
		p.add(key, "want keys and values here, found "+kindOf(n), "known keys: "+strings.Join(keysOf(v.Type()), ", "))
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, val := n.Content[i], n.Content[i+1]
		path := child(key, printable(name.Value))
		if line, ok := first[name.Value]; ok {
			p.problems = append(p.problems, Problem{
				Line: name.Line, Column: name.Column, Key: path,
				Reason: fmt.Sprintf("given twice; the first is on line %d", line), Hint: "keep one",
			})
			continue
		}
		first[name.Value] = name.Line
		p.places[path] = position{name.Line, name.Column}
		field, ok := fieldOf(v, name)
		if !ok {
			p.unknown(path, name.Value, v.Type())
			continue
		}
		p.decode(val, path, field)
	}
}

func (p *parser) unknown(path, name string, t reflect.Type) {
	known := keysOf(t)
	hint := "known keys here: " + strings.Join(known, ", ")
	if near := nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	p.add(path, "unknown key", hint)
}

const maxItems = 10000

func (p *parser) sequence(n *yaml.Node, key string, v reflect.Value) {
	if n.Tag == "!!null" {
		p.add(key, "has no value", "write [] for none, or remove the key")
		return
	}
	if n.Kind != yaml.SequenceNode {
		p.add(key, "want a list here, found "+kindOf(n), "write each item on a line of its own after '- '")
		return
	}
	if len(n.Content) > maxItems {
		p.add(key, fmt.Sprintf("more than %d items", maxItems), "use groups or patterns")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", key, i)
		p.places[path] = position{item.Line, item.Column}
		p.decode(item, path, v.Index(i))
	}
}

func (p *parser) scalar(n *yaml.Node, key string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		p.add(key, "want a single value here, found "+kindOf(n), "")
		return
	}
	if n.Tag == "!!null" {
		p.add(key, "has no value", "give it one, or remove the key to get the default")
		return
	}
	if strings.ContainsFunc(n.Value, unicode.IsControl) || !utf8.ValidString(n.Value) {
		p.add(key, "holds a control character", "write printable text on one line")
		return
	}
	p.places[key] = position{n.Line, n.Column}
	if f := setScalar(v, n.Value, p.dir); f != nil {
		p.add(key, f.reason, f.hint)
	}
}

// setScalar takes text as it was written: YAML's idea of numbers, dates and "no" does not enter.
func setScalar(v reflect.Value, text, dir string) *fault {
	switch target := v.Addr().Interface().(type) {
	case value:
		return target.parse(text, dir)
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return &fault{fmt.Sprintf("not a duration: %q", text), "write a number and ms, s, m or h, such as 30s"}
		}
		*target = d
	case *string:
		*target = text
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return &fault{fmt.Sprintf("not a whole number: %q", text), "write digits only"}
		}
		*target = n
	case *bool:
		if text != "true" && text != "false" {
			return &fault{fmt.Sprintf("neither true nor false: %q", text), "write true or false"}
		}
		*target = text == "true"
	}
	return nil
}

func fieldOf(v reflect.Value, name *yaml.Node) (reflect.Value, bool) {
	if name.Kind != yaml.ScalarNode || name.Anchor != "" || name.Style&yaml.TaggedStyle != 0 {
		return reflect.Value{}, false
	}
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == name.Value {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		keys = append(keys, t.Field(i).Tag.Get("yaml"))
	}
	return keys
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys and values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	}
	return "a single value"
}

// printable makes a key of the document safe to print, and short.
func printable(s string) string {
	if len(s) > 60 {
		s = s[:60] + "..."
	}
	q := strconv.QuoteToASCII(s)
	if q[1:len(q)-1] == s && s != "" {
		return s
	}
	return q
}
