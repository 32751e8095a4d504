package sshd

import (
	"errors"
	"strings"
)

// errWords says that a command is more than words.
var errWords = errors.New("only plain words are understood, and words in quotes")

// Outside quotes, a shell acts on these bytes wherever they are, and on those at the beginning of a word. Braces are plain to some
// shells only.
const (
	special      = "$`;&|<>()*?[{}"
	specialFirst = "#~"
)

// split takes a command line apart as a POSIX shell does (Shell Command Language, sections 2.2 and 2.6.5): words between blanks,
// '...', "...", and backslashes. What a shell would expand, or act on, is refused: nothing here is ever given to one. So are control
// bytes, and bytes beyond ASCII.
func split(line string) ([]string, error) {
	s := splitter{rest: line}
	for {
		s.rest = strings.TrimLeft(s.rest, blanks)
		if s.rest == "" {
			return s.words, nil
		}
		if err := s.word(); err != nil {
			return nil, err
		}
	}
}

const blanks = " \t"

type splitter struct {
	rest  string
	words []string
}

// word takes one word from the rest, which begins with it.
func (s *splitter) word() error {
	if s.bracket() {
		return nil
	}
	var b strings.Builder
	for s.rest != "" && strings.IndexByte(blanks, s.rest[0]) < 0 {
		c := s.rest[0]
		s.rest = s.rest[1:]
		switch {
		case c == '\'':
			if err := s.quoted(&b, '\'', ""); err != nil {
				return err
			}
			continue
		case c == '"':
			if err := s.quoted(&b, '"', "$`"); err != nil {
				return err
			}
			continue
		case c == '\\' && s.rest != "":
			c, s.rest = s.rest[0], s.rest[1:]
		case c == '\\', strings.IndexByte(special, c) >= 0, b.Len() == 0 && strings.IndexByte(specialFirst, c) >= 0:
			return errWords
		}
		if !plain(c) {
			return errWords
		}
		b.WriteByte(c)
	}
	s.words = append(s.words, b.String())
	return nil
}

// quoted takes what is left of a quoted part, to the end of its quotes. Within double ones a shell still acts on some bytes, and a
// backslash before one of them, before another, or before the quote, is not part of the word.
func (s *splitter) quoted(b *strings.Builder, quote byte, acts string) error {
	for s.rest != "" {
		c := s.rest[0]
		s.rest = s.rest[1:]
		switch {
		case c == quote:
			return nil
		case c == '\\' && quote == '"' && s.rest != "" && strings.IndexByte("$`\"\\", s.rest[0]) >= 0:
			c, s.rest = s.rest[0], s.rest[1:]
		case strings.IndexByte(acts, c) >= 0:
			return errWords
		}
		if !plain(c) {
			return errWords
		}
		b.WriteByte(c)
	}
	return errWords // the quotes are not closed
}

// bracket takes a word that is "[" and nothing else: the other name of test, which a shell takes for no pattern.
func (s *splitter) bracket() bool {
	if s.rest != "[" && !strings.HasPrefix(s.rest, "[ ") && !strings.HasPrefix(s.rest, "[\t") {
		return false
	}
	s.words, s.rest = append(s.words, "["), s.rest[1:]
	return true
}

// plain is for bytes that come with a meaning of their own: it takes the blank, which is quoted then.
func plain(c byte) bool { return c >= ' ' && c < 0x7f }
