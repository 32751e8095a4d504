package source_test

import (
	"crypto/sha256"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/authz/source"
)

var (
	zlib   = source.Source{Type: source.Git, Locator: source.Locator{Host: "git.example.com", Path: "team/zlib"}, Rev: rev, Repo: "git.example.com:17"}
	tarred = source.Source{Type: source.HTTP, Locator: source.Locator{Host: "example.com:8080", Path: "a/b c.tar.gz"}, Rev: "sha256:00"}
	unread = source.Source{Type: source.Unresolvable, Reason: "a variable is not expanded"}
)

const emptyText = "lychgate source set 1\n"

func TestSet(t *testing.T) {
	in := []source.Source{unread, zlib, tarred, zlib}
	s := source.NewSet(in)
	if want := []source.Source{zlib, tarred, unread}; !slices.Equal(s.Sources(), want) {
		t.Errorf("the set is %v, want %v", s.Sources(), want)
	}
	if !slices.Equal(in, []source.Source{unread, zlib, tarred, zlib}) {
		t.Errorf("the argument became %v", in)
	}
	if s.Empty() || !source.NewSet(nil).Empty() {
		t.Error("Empty is wrong")
	}
	text, err := s.MarshalText()
	want := emptyText +
		"git\tgit.example.com\tteam/zlib\t" + rev + "\tgit.example.com:17\t\n" +
		"http\texample.com:8080\ta/b c.tar.gz\tsha256:00\t\t\n" +
		"unresolvable\t\t\t\t\ta variable is not expanded\n"
	if err != nil || string(text) != want {
		t.Errorf("text %q, %v, want %q", text, err, want)
	}
	if s.ID() != sha256.Sum256(text) {
		t.Error("the id is not the digest of the text")
	}
	in[0] = tarred
	if back, err := source.UnmarshalSet(text); err != nil || back.ID() != s.ID() || !slices.Equal(back.Sources(), s.Sources()) {
		t.Errorf("read back %v, %v", back, err)
	}
}

func TestEmptySet(t *testing.T) {
	for _, s := range []*source.Set{source.NewSet(nil), source.NewSet([]source.Source{}), source.Union()} {
		if text, err := s.MarshalText(); err != nil || string(text) != emptyText || s.ID().IsZero() {
			t.Errorf("text %q, %v, id %v", text, err, s.ID())
		}
	}
	if s, err := source.UnmarshalSet([]byte(emptyText)); err != nil || !s.Empty() {
		t.Errorf("read back %v, %v", s, err)
	}
}

// TestNewSetFailsClosed gives NewSet what Parse never makes.
func TestNewSetFailsClosed(t *testing.T) {
	change := func(f func(*source.Source)) source.Source {
		s := zlib
		f(&s)
		return s
	}
	tests := map[string]source.Source{
		"zero":             {},
		"unknown type":     change(func(s *source.Source) { s.Type = "cvs" }),
		"no host":          change(func(s *source.Source) { s.Locator.Host = "" }),
		"host in capitals": change(func(s *source.Source) { s.Locator.Host = "Git.example.com" }),
		"root dot":         change(func(s *source.Source) { s.Locator.Host = "git.example.com." }),
		"userinfo":         change(func(s *source.Source) { s.Locator.Host = "u:p@git.example.com" }),
		"empty port":       change(func(s *source.Source) { s.Locator.Host = "git.example.com:" }),
		"port 0":           change(func(s *source.Source) { s.Locator.Host = "git.example.com:0" }),
		"address":          change(func(s *source.Source) { s.Locator.Host = "127.1" }),
		"long IPv6":        change(func(s *source.Source) { s.Locator.Host = "[::0:1]" }),
		"no path":          change(func(s *source.Source) { s.Locator.Path = "" }),
		"leading slash":    change(func(s *source.Source) { s.Locator.Path = "/team/zlib" }),
		"trailing slash":   change(func(s *source.Source) { s.Locator.Path = "team/zlib/" }),
		"parent":           change(func(s *source.Source) { s.Locator.Path = "team/../zlib" }),
		"tab":              change(func(s *source.Source) { s.Locator.Path = "team\tzlib" }),
		"line feed":        change(func(s *source.Source) { s.Locator.Path = "team\nzlib" }),
		"not NFC":          change(func(s *source.Source) { s.Locator.Path = "cafe\u0301" }),
		"wiki":             change(func(s *source.Source) { s.Locator.Path = "team/zlib.wiki" }),
		"bad UTF-8":        change(func(s *source.Source) { s.Locator.Path = "\xff" }),
		"rev":              change(func(s *source.Source) { s.Rev = "a\tb" }),
		"repo":             change(func(s *source.Source) { s.Repo = "a\nb" }),
		"reason":           change(func(s *source.Source) { s.Reason = "because" }),
		"no reason":        {Type: source.Unresolvable},
		"bad reason":       {Type: source.Unresolvable, Reason: "a\nb"},
		"long reason":      {Type: source.Unresolvable, Reason: strings.Repeat("a", 1025)},
		"located":          {Type: source.Unresolvable, Reason: "a", Locator: zlib.Locator},
	}
	for name, s := range tests {
		t.Run(name, func(t *testing.T) {
			got := source.NewSet([]source.Source{s}).Sources()
			if len(got) != 1 || got[0].Type != source.Unresolvable || got[0].Check() != nil {
				t.Errorf("became %v", got)
			}
		})
	}
}

func TestUnion(t *testing.T) {
	a, b := source.NewSet([]source.Source{zlib, tarred}), source.NewSet([]source.Source{unread, zlib})
	if got, want := source.Union(a, b), source.NewSet([]source.Source{zlib, tarred, unread}); got.ID() != want.ID() {
		t.Errorf("union %v, want %v", got.Sources(), want.Sources())
	}
	got := source.Union(a, nil)
	if !slices.ContainsFunc(got.Sources(), func(s source.Source) bool { return s.Type == source.Unresolvable }) {
		t.Errorf("a missing set left no trace: %v", got.Sources())
	}
}

func TestUnmarshalSetRefuses(t *testing.T) {
	a := "git\tgit.example.com\ta\t\t\t\n"
	b := "git\tgit.example.com\tb\t\t\t\n"
	if _, err := source.UnmarshalSet([]byte(emptyText + a + b)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":        "",
		"other version":  "lychgate source set 2\n" + a,
		"no header":      a,
		"unsorted":       emptyText + b + a,
		"duplicate":      emptyText + a + a,
		"unknown type":   emptyText + "cvs" + a[3:],
		"no line feed":   emptyText + a[:len(a)-1],
		"trailing text":  emptyText + a + "x",
		"trailing line":  emptyText + a + "\n",
		"trailing NUL":   emptyText + a + "\x00",
		"carriage":       emptyText + a[:len(a)-1] + "\r\n",
		"field too many": emptyText + a[:len(a)-1] + "\t\n",
		"field missing":  emptyText + "git\tgit.example.com\ta\t\t\n",
		"capitals":       emptyText + "git\tGit.example.com\ta\t\t\t\n",
		"parent":         emptyText + "git\tgit.example.com\t../a\t\t\t\n",
		"leading space":  " " + emptyText + a,
		"byte order":     "\ufeff" + emptyText,
	} {
		if s, err := source.UnmarshalSet([]byte(text)); err == nil || s != nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

func TestSetID(t *testing.T) {
	id := source.NewSet(nil).ID()
	if got, err := source.ParseSetID(id.String()); err != nil || got != id {
		t.Errorf("ParseSetID(%v) = %v, %v", id, got, err)
	}
	for _, text := range []string{"", id.String()[1:], id.String() + "0", strings.ToUpper(id.String()), "g" + id.String()[1:], strings.Repeat("é", 32)} {
		if got, err := source.ParseSetID(text); err == nil {
			t.Errorf("ParseSetID(%q) = %v", text, got)
		}
	}
}

// TestSetsAreInjective wants equal texts and ids for equal members in any order, and others for others.
func TestSetsAreInjective(t *testing.T) {
	any := rapid.Custom(func(t *rapid.T) source.Source {
		pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
		s := source.Source{
			Type:    source.Type(pick("type", "git", "http", "gomod", "unresolvable", "x")),
			Locator: source.Locator{Host: pick("host", "a", "b", "a:1", "A", ""), Path: pick("path", "a", "b", "a/b", "a b", "a\tb", "")},
			Rev:     pick("rev", "", "1", "a", "\t"),
			Repo:    pick("repo", "", "a:1", "b:1", "\n"),
		}
		if s.Type == source.Unresolvable {
			s.Locator, s.Repo, s.Reason = source.Locator{}, "", pick("reason", "a", "b", "")
		}
		return s
	})
	list := rapid.SliceOfN(any, 0, 4)
	rapid.Check(t, func(t *rapid.T) {
		a, b := list.Draw(t, "a"), list.Draw(t, "b")
		x, y := source.NewSet(a), source.NewSet(b)
		if same := slices.Equal(x.Sources(), y.Sources()); same != (x.ID() == y.ID()) {
			t.Fatalf("%v and %v: equal %v, ids %v and %v", x.Sources(), y.Sources(), same, x.ID(), y.ID())
		}
		slices.Reverse(a)
		if source.NewSet(append(a, a...)).ID() != x.ID() {
			t.Fatalf("order or number of %v matters", a)
		}
		text, _ := x.MarshalText()
		back, err := source.UnmarshalSet(text)
		if err != nil || back.ID() != x.ID() || !slices.Equal(back.Sources(), x.Sources()) {
			t.Fatalf("%q reads back as %v, %v", text, back, err)
		}
		u := source.Union(x, y)
		for _, s := range slices.Concat(x.Sources(), y.Sources()) {
			if !slices.Contains(u.Sources(), s) {
				t.Fatalf("%v is not in the union %v", s, u.Sources())
			}
		}
	})
}

// FuzzUnmarshalSet wants that there is exactly one text for whatever is accepted.
func FuzzUnmarshalSet(f *testing.F) {
	for _, set := range []*source.Set{source.NewSet(nil), source.NewSet([]source.Source{zlib, tarred, unread})} {
		text, err := set.MarshalText()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := source.UnmarshalSet(text)
		if err != nil {
			return
		}
		if back, _ := set.MarshalText(); string(back) != string(text) || source.NewSet(set.Sources()).ID() != set.ID() {
			t.Errorf("%q is another text for %q", text, back)
		}
	})
}
