package redisdb

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/authz/forge"
)

var testKey = bytes.Repeat([]byte("k"), KeySize)

func testBox(t testing.TB, purpose, prefix string, keys ...[]byte) box {
	t.Helper()
	b, err := newBox(purpose, prefix, keys)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBox: what was sealed opens with its key, purpose, prefix and context, and with nothing else, and says nothing.
func TestBox(t *testing.T) {
	other := bytes.Repeat([]byte("o"), KeySize)
	b := testBox(t, forEvents, "p", testKey)
	plain, where := []byte("plain text"), []byte("context")
	sealed := b.seal([]byte("head"), where, plain)
	if !bytes.HasPrefix(sealed, []byte("head")) || bytes.Contains(sealed, plain) || len(sealed) != 4+sealedBy+len(plain) {
		t.Errorf("sealed %q", sealed)
	}
	sealed = sealed[4:]
	if bytes.Equal(sealed, b.seal(nil, where, plain)) {
		t.Error("sealed twice alike")
	}
	for name, tc := range map[string]struct {
		box  box
		want bool
	}{
		"itself":          {b, true},
		"a later key":     {testBox(t, forEvents, "p", other, testKey), true},
		"another key":     {testBox(t, forEvents, "p", other), false},
		"another purpose": {testBox(t, forValues, "p", testKey), false},
		"another prefix":  {testBox(t, forEvents, "q", testKey), false},
	} {
		got, ok := tc.box.open(where, sealed)
		if ok != tc.want || ok && !bytes.Equal(got, plain) {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
	if _, ok := b.open([]byte("elsewhere"), sealed); ok {
		t.Error("opened in another context")
	}
	for i := range sealed {
		spoilt := bytes.Clone(sealed)
		spoilt[i] ^= 1
		if _, ok := b.open(where, spoilt); ok {
			t.Errorf("opened with byte %d changed", i)
		}
		if _, ok := b.open(where, sealed[:i]); ok {
			t.Errorf("opened %d bytes of it", i)
		}
	}
}

// TestScriptBounds: scripts know how long an entry may be.
func TestScriptBounds(t *testing.T) {
	if !strings.Contains(common, fmt.Sprintf("#fields[2] <= %d then", maxEntry)) {
		t.Errorf("scripts do not let entries of %d bytes pass", maxEntry)
	}
}

func TestAddress(t *testing.T) {
	for url, want := range map[string]address{
		"redis://h":                  {kind: "redis", hosts: []string{"h:6379"}},
		"redis://h:1/":               {kind: "redis", hosts: []string{"h:1"}},
		"redis://h:1/3":              {kind: "redis", hosts: []string{"h:1"}, db: 3},
		"rediss://[::1]:1":           {kind: "redis", tls: true, hosts: []string{"[::1]:1"}},
		"rediss://[::1]":             {kind: "redis", tls: true, hosts: []string{"[::1]:6379"}},
		"redis-sentinel://a,b:2/m":   {kind: "redis-sentinel", hosts: []string{"a:26379", "b:2"}, master: "m"},
		"rediss-sentinel://a/m?db=2": {kind: "redis-sentinel", tls: true, hosts: []string{"a:26379"}, master: "m", db: 2},
		"redis-cluster://a,b:2":      {kind: "redis-cluster", hosts: []string{"a:6379", "b:2"}},
		"rediss-cluster://a":         {kind: "redis-cluster", tls: true, hosts: []string{"a:6379"}},
	} {
		got, err := parseAddress(url)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v, %v", url, got, err)
		}
	}
	for _, url := range []string{
		"", "redis", "redis:", "redis:h", "redis://", "redis://:1", "redis://h:", "redis://h:0", "redis://h:x", "redis://h:65536",
		"redis://h/x", "redis://h/1/2", "redis://h/-1", "redis://a,b", "redis://h?db=1", "redis://h/1?x=y", "redis://u@h", "redis://u:p@h",
		"redis-sentinel://a", "redis-sentinel://a/", "redis-sentinel://a/m/1", "redis-sentinel://a/m?db=x", "redis-sentinel://a,/m",
		"redis-cluster://a/1", "redis-cluster://a?db=1", "unix:///s", "http://h", "redisss://h", "redis-sentinels://h/m", "redis://a b",
		"redis://h?%zz",
	} {
		if got, err := parseAddress(url); err == nil {
			t.Errorf("%q: %+v", url, got)
		}
	}
}

// TestEventText: an event is read back as it was written, and there is one way to write it.
func TestEventText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.Just(""), rapid.StringN(0, 100, 400), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		e := forge.Event{
			Forge: text.Draw(t, "forge"), User: text.Draw(t, "user"), Repo: text.Draw(t, "repo"), Key: text.Draw(t, "key"), Why: text.Draw(t, "why"),
			At: time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds")).UTC(),
		}
		plain, err := encodeEvent(e)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := decodeEvent(plain)
		if !ok || got != e {
			t.Fatalf("wrote %+v, read %+v, %v", e, got, ok)
		}
		for i := range plain {
			if _, ok := decodeEvent(plain[:i]); ok {
				t.Fatalf("read %d bytes of %d", i, len(plain))
			}
		}
	})
	if _, err := encodeEvent(forge.Event{Why: strings.Repeat("x", maxEvent)}); err == nil {
		t.Error("wrote an event of any length")
	}
	longest, err := encodeEvent(forge.Event{Why: strings.Repeat("x", maxEvent-30)})
	if err != nil {
		t.Fatal(err)
	}
	b := testBox(t, forEvents, "p", testKey)
	next, blob := b.sealEvent(place{position: 1}, longest)
	if e, ok := b.openEntry("2-0", string(blob)); !ok || e.place != next {
		t.Error("the longest event makes an entry that is too long")
	}
}

// chain makes a life of n entries, of which the first begins it.
func chain(t testing.TB, b box, n int) (ids, texts []string) {
	t.Helper()
	at, blob := b.beginLife(100)
	for i := range n {
		ids, texts = append(ids, formatID(at.position)), append(texts, string(blob))
		plain, err := encodeEvent(forge.Event{Why: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		at, blob = b.sealEvent(at, plain)
	}
	return ids, texts
}

// FuzzEvent: whatever is in an entry, it is read as one event that is written in one way, or not at all.
func FuzzEvent(f *testing.F) {
	for _, e := range []forge.Event{{}, {Forge: "f", User: "u", Repo: "r", Key: "k", Why: "w", At: time.Unix(1, 2)}} {
		plain, err := encodeEvent(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	f.Add([]byte{})
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, plain []byte) {
		e, ok := decodeEvent(plain)
		if !ok {
			return
		}
		again, err := encodeEvent(e)
		if err != nil {
			return // too long for an entry
		}
		if back, ok := decodeEvent(again); !ok || back != e {
			t.Fatalf("%+v is read back as %+v, %v", e, back, ok)
		}
	})
}

// ownKey is another one in each process: workers of a fuzz target make entries of their own.
func ownKey() []byte {
	key := make([]byte, KeySize)
	rand.Read(key)
	return key
}

// FuzzEntry: no entry opens but those that were made, at the place that they were made for.
func FuzzEntry(f *testing.F) {
	b := testBox(f, forEvents, "p", ownKey())
	ids, texts := chain(f, b, 4)
	f.Add("", "")
	for i := range ids {
		f.Add(ids[i], texts[i])
		f.Add(ids[i], texts[0])
		f.Add(ids[i]+"0", texts[i])
		f.Add("0"+ids[i], texts[i])
	}
	made := map[string]string{}
	for i := range ids {
		made[ids[i]] = texts[i]
	}
	f.Fuzz(func(t *testing.T, id, text string) {
		if _, ok := b.openEntry(id, text); ok != (text != "" && made[id] == text) {
			t.Fatalf("opened: %v", ok)
		}
	})
}

// FuzzBeat: as FuzzEntry.
func FuzzBeat(f *testing.F) {
	b := testBox(f, forNodes, "p", ownKey())
	genuine := string(b.sealBeat("n/boot", beat{1, 2}))
	f.Add("n/boot", genuine)
	f.Add("m/boot", genuine)
	f.Add("n/boot", genuine+"x")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, field, text string) {
		said, ok := b.openBeat(field, text)
		if ok != (field == "n/boot" && text == genuine) || ok && said != (beat{1, 2}) {
			t.Fatalf("opened: %v, %+v", ok, said)
		}
	})
}

// FuzzAnswer: whatever Redis says is taken for nothing that it is not.
func FuzzAnswer(f *testing.F) {
	f.Add("s", "1-0", "text", 2, true)
	f.Add("", "", "", 1, false)
	f.Fuzz(func(t *testing.T, server, id, text string, n int, nested bool) {
		list := []any{}
		for range n & 7 {
			list = append(list, text)
		}
		var entries any = list
		if !nested {
			entries = text
		}
		a, err := parseAnswer([]any{server, id, text, entries, list})
		if want := server != "" && nested && n&1 == 0; (err == nil) != want {
			t.Fatalf("%+v, %v", a, err)
		}
	})
}

// told remembers what a follower says.
type told struct{ words []string }

func (l *told) Apply(position uint64, e forge.Event) {
	l.words = append(l.words, fmt.Sprintf("%d %s", position, e.Why))
}
func (l *told) Lost(position uint64) { l.words = append(l.words, fmt.Sprintf("%d lost", position)) }
func (l *told) Heard(time.Time)      {}

// TestFollower: what a follower tells from what Redis says.
func TestFollower(t *testing.T) {
	b := testBox(t, forEvents, "p", testKey)
	ids, texts := chain(t, b, 6) // 100 begins, 101 to 105 are events "0" to "4"
	_, otherTexts := chain(t, b, 6)
	from := func(first, last int) (entries []string) {
		for i := first; i <= last; i++ {
			entries = append(entries, ids[i], texts[i])
		}
		return entries
	}
	start := answer{server: "s", id: ids[2], text: texts[2]}
	for name, tc := range map[string]struct {
		floor uint64
		next  answer
		want  outlook
		words string
	}{
		"nothing new":            {102, answer{"s", ids[2], texts[2], nil, nil}, level, ""},
		"one":                    {102, answer{"s", ids[3], texts[3], from(3, 3), nil}, level, "103 2"},
		"three":                  {102, answer{"s", ids[5], texts[5], from(3, 5), nil}, level, "103 2,104 3,105 4"},
		"another server":         {102, answer{"t", ids[3], texts[3], from(3, 3), nil}, level, "103 lost"},
		"another server, no new": {102, answer{"t", ids[2], texts[2], nil, nil}, level, "102 lost"},
		"a gap":                  {102, answer{"s", ids[5], texts[5], from(4, 5), nil}, level, "105 lost"},
		"cut off":                {102, answer{"s", ids[5], texts[5], from(3, 4), nil}, level, "103 2,104 3,105 lost"},
		"another life":           {102, answer{"s", ids[3], otherTexts[3], []string{ids[3], otherTexts[3]}, nil}, level, "103 lost"},
		"forged":                 {102, answer{"s", ids[4], texts[4], append([]string{ids[3], "x"}, from(4, 4)...), nil}, level, "104 lost"},
		"at another place":       {102, answer{"s", ids[4], texts[4], []string{ids[3], texts[4], ids[4], texts[4]}, nil}, level, "104 lost"},
		"swapped":                {102, answer{"s", ids[4], texts[4], append(from(4, 4), from(3, 3)...), nil}, level, "104 lost"},
		"twice":                  {102, answer{"s", ids[3], texts[3], append(from(3, 3), from(3, 3)...), nil}, level, "103 2,103 lost"},
		"none":                   {102, answer{"s", "", "", nil, nil}, broken, ""},
		"a forged end":           {102, answer{"s", ids[3], "x", nil, nil}, broken, ""},
		"gone back":              {102, answer{"s", ids[1], texts[1], nil, nil}, broken, ""},
		"below what others know": {104, answer{"s", ids[3], texts[3], from(3, 3), nil}, broken, ""},
	} {
		l := &told{}
		f := follower{box: b, listener: l, history: &history{}, rejected: func(string) {}, log: slog.New(slog.DiscardHandler)}
		if got := f.take(t.Context(), 0, start); got != level || !slices.Equal(l.words, []string{"102 lost"}) {
			t.Fatalf("%v: %v", got, l.words)
		}
		l.words = nil
		if got := f.take(t.Context(), tc.floor, tc.next); got != tc.want || strings.Join(l.words, ",") != tc.words {
			t.Errorf("%s: %v, %v", name, got, l.words)
		}
	}
}

// TestPeers: who is late, by what this node saw when.
func TestPeers(t *testing.T) {
	b := testBox(t, forNodes, "p", testKey)
	p := peers{box: b, rejected: func(string) {}, known: map[string]peer{}}
	now := time.Unix(0, 0)
	say := func(field string, said beat) []string { return []string{field, string(b.sealBeat(field, said))} }
	first := say("a/1", beat{1, 10})
	p.observe(now, append(first, say("b/1", beat{7, 5})...))
	if late := p.late(10, now); !slices.Equal(late, []string{"b"}) {
		t.Errorf("late: %v", late)
	}
	// The same, or an older one, is no sign of life, however often it is said.
	now = now.Add(forge.Fence)
	p.observe(now, append(first, say("b/1", beat{6, 9})...))
	if late := p.late(11, now); !slices.Equal(late, []string{"a", "b"}) {
		t.Errorf("late: %v", late)
	}
	now = now.Add(2 * drift)
	p.observe(now, append(first, say("b/1", beat{8, 9})...))
	if late := p.late(11, now); !slices.Equal(late, []string{"b"}) {
		t.Errorf("late: %v", late)
	}
	// Two processes of one name are named once.
	p.observe(now, say("b/2", beat{1, 0}))
	if late := p.late(11, now); !slices.Equal(late, []string{"b"}) {
		t.Errorf("late: %v", late)
	}
	now = now.Add(2 * forgetAfter)
	if dead := p.observe(now, first); len(dead) != 2 || dead[0] != "a/1" {
		t.Errorf("dead: %v", dead)
	}
	p.observe(now.Add(time.Second), nil)
	if len(p.known) > 0 {
		t.Errorf("knows %v", p.known)
	}
}
