package provenance_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
	"github.com/lychgate/lychgate/authz/source"
)

func TestStatementLayout(t *testing.T) {
	want := must[[]byte](t)(os.ReadFile("testdata/statement.json"))
	if got := encode(t, sample()); string(got) != strings.TrimSpace(string(want)) {
		t.Fatalf("layout differs from testdata/statement.json:\n%s", got)
	}
}

func TestStatementRoundTrip(t *testing.T) {
	want := sample()
	got := must[*provenance.Statement](t)(provenance.ParseStatement(encode(t, want)))
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Fatalf("differs (-want +got):\n%s", diff)
	}
}

func TestStatementWithoutSources(t *testing.T) {
	s := sample()
	s.Sources, s.Inputs, s.Artifacts = nil, nil, nil
	got := must[*provenance.Statement](t)(provenance.ParseStatement(encode(t, s)))
	if len(got.Sources)+len(got.Inputs)+len(got.Artifacts) != 0 {
		t.Fatalf("sources from nowhere: %+v", got)
	}
}

func TestEncodeIsCanonical(t *testing.T) {
	want := encode(t, sample())
	for range 20 {
		s := sample()
		s.Sources = append(s.Sources, s.Sources...)
		s.Artifacts = append(s.Artifacts, s.Artifacts...)
		plain := s.Artifacts[1] // which is recorded
		plain.Recorded = false
		s.Artifacts = append(s.Artifacts, plain)
		rand.Shuffle(len(s.Artifacts), func(i, j int) { s.Artifacts[i], s.Artifacts[j] = s.Artifacts[j], s.Artifacts[i] })
		rand.Shuffle(len(s.Subjects), func(i, j int) { s.Subjects[i], s.Subjects[j] = s.Subjects[j], s.Subjects[i] })
		rand.Shuffle(len(s.Sources), func(i, j int) { s.Sources[i], s.Sources[j] = s.Sources[j], s.Sources[i] })
		s.IssuedAt = s.IssuedAt.In(time.FixedZone("elsewhere", 3600)).Add(999 * time.Millisecond)
		s.Sources[0].Repo = "git.example.com:17" // the gate's to say
		if got := encode(t, s); string(got) != string(want) {
			t.Fatalf("order or repeats show:\n%s\n%s", got, want)
		}
	}
}

// sources draws what package source could make of SRC_URI entries, and somewhat more.
func sources() *rapid.Generator[source.Source] {
	types := []source.Type{
		source.Git, source.Hg, source.Svn, source.Perforce, source.ClearCase, source.HTTP, source.SSH, source.Bucket,
		source.NPM, source.Crate, source.GoModule, source.Unresolvable,
	}
	segment := rapid.StringMatching(`[a-zA-Z0-9 ._~:@+!$&'()*,;=äß-]{1,8}`)
	return rapid.Custom(func(t *rapid.T) source.Source {
		s := source.Source{Type: rapid.SampledFrom(types).Draw(t, "type")}
		s.Rev = rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[0-9a-f]{40}|[0-9a-f]{64}|[a-zA-Z0-9._+/:~^=-]{1,20}`)).Draw(t, "rev")
		if s.Type == source.Unresolvable {
			s.Reason = rapid.StringMatching(`[ -~]{1,20}`).Draw(t, "reason")
			return s
		}
		s.Locator.Host = rapid.StringMatching(`[a-z][a-z0-9_]{0,5}(\.[a-z]{2,3})?(:[1-9][0-9]{0,3})?|\[2001:db8::[1-9]\](:22)?`).Draw(t, "host")
		s.Locator.Path = strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(t, "path"), "/")
		return s
	}).Filter(func(s source.Source) bool { return s.Check() == nil })
}

func TestSourcesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := sample()
		s.Sources = rapid.SliceOfNDistinct(sources(), 0, 8, rapid.ID).Draw(t, "sources")
		s.Inputs = rapid.SliceOfNDistinct(sources(), 0, 8, rapid.ID).Draw(t, "inputs")
		payload, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := provenance.ParseStatement(payload)
		if err != nil {
			t.Fatalf("%v\n%s", err, payload)
		}
		less := cmpopts.SortSlices(func(a, b source.Source) bool { return fmt.Sprintf("%#v", a) < fmt.Sprintf("%#v", b) })
		if diff := gocmp.Diff(s, got, less, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("differs (-want +got):\n%s", diff)
		}
		if again, err := got.Encode(); err != nil || string(again) != string(payload) {
			t.Fatalf("encoding again gives %s, %v", again, err)
		}
	})
}

// TestHostileStatements spoils one thing at a time in a payload that is good.
func TestHostileStatements(t *testing.T) {
	good := encode(t, sample())
	if _, err := provenance.ParseStatement(good); err != nil {
		t.Fatalf("the control is refused: %v", err)
	}
	cases := []struct{ name, old, new, want string }{
		{"other type", `in-toto.io/Statement/v1`, `in-toto.io/Statement/v0.1`, "_type"},
		{"no type", `"_type":"https://in-toto.io/Statement/v1",`, ``, "_type"},
		{"other predicate", `slsa.dev/provenance/v1`, `slsa.dev/provenance/v0.2`, "predicateType"},
		{"other build type", `lychgate.dev/sstate/v1`, `lychgate.dev/sstate/v2`, "buildType"},
		{"case-folded member", `"subject"`, `"Subject"`, "unknown"},
		{"member of another alphabet", `"zone"`, `"\u007aone "`, "unknown"},
		{"unknown member", `{"_type"`, `{"extra":1,"_type"`, "unknown"},
		{"unknown parameter", `{"zone"`, `{"Zone":"main","zone"`, "unknown"},
		{"unknown member in a digest", `{"sha256":`, `{"sha1":"00","sha256":`, "unknown"},
		{"internal parameters", `"externalParameters"`, `"internalParameters":{},"externalParameters"`, "unknown"},
		{"byproducts", `"runDetails":{`, `"runDetails":{"byproducts":[],`, "unknown"},
		{"duplicate member", `"zone":"main"`, `"zone":"main","zone":"main"`, "duplicate"},
		{"duplicate member, escaped", `"zone":"main"`, `"zone":"main","z\u006fne":"review"`, "duplicate"},
		{"duplicate subject list", `{"_type"`, `{"subject":[],"_type"`, "duplicate"},
		{"invalid UTF-8", `zlib-native"}`, "zlib\xff\"}", "UTF-8"},
		{"overlong UTF-8", `zlib-native"}`, "zlib\xc0\xae\"}", "UTF-8"},
		{"lone surrogate", `"recipe":"zlib-native"`, `"recipe":"\ud800"`, "surrogate"},
		{"swapped surrogates", `"recipe":"zlib-native"`, `"recipe":"\udc00\ud800"`, "surrogate"},
		{"NUL in a text", `"recipe":"zlib-native"`, `"recipe":"a\u0000b"`, "control"},
		{"raw NUL", `"recipe":"zlib-native"`, "\"recipe\":\"a\x00b\"", "invalid"},
		{"newline in a text", `runs/42"`, `runs/42\nallowed"`, "control"},
		{"C1 control in a text", `runs/42"`, `runs/42\u009b31m"`, "control"},
		{"trailing data", `"}}}}`, `"}}}}{}`, "after top-level"},
		{"truncated", `"}}}}`, `"}}}`, "unexpected EOF"},
		{"byte order mark", `{"_type"`, "\ufeff{\"_type\"", "invalid"},
		{"comment", `{"_type"`, `/**/{"_type"`, "invalid"},
		{"not an object", `{"_type"`, `[{"_type"`, "unmarshal JSON"},
		{"subject is an object", `"subject":[`, `"subject":{`, "unmarshal JSON"},
		{"empty name", `"name":"` + nameB, `"name":"`, "name"},
		{"name missing", `"name":"` + nameB + `",`, ``, "name"},
		{"percent-encoded name", nameB, strings.Replace(nameB, ":", "%3A", 1), "octet"},
		{"dot segment in a name", nameB, "universal/../" + nameB, "not an artifact name"},
		{"absolute name", nameB, "/" + nameB, "not an artifact name"},
		{"empty segment", nameB, strings.Replace(nameB, "/", "//", 1), "not an artifact name"},
		{"directory of another hash", nameB, strings.Replace(nameB, "ab/cd", "ab/ce", 1), "not an artifact name"},
		{"upper-case hash", nameB, strings.Replace(nameB, hashA, strings.ToUpper(hashA), 1), "not an artifact name"},
		{"backslash in a name", nameB, strings.Replace(nameB, "/", `\\`, 1), "octet"},
		{"no sstate name", nameB, "universal/ab/cd/passwd", "not an artifact name"},
		{"subject twice", nameB, nameA, "twice"},
		{"size is a number", `"size":"1234"`, `"size":1234`, "unmarshal JSON"},
		{"size is null", `"size":"1234"`, `"size":null`, "decimal"},
		{"size is missing", `{"size":"1234"}`, `{}`, "decimal"},
		{"size is negative", `"size":"1234"`, `"size":"-1"`, "size"},
		{"size has a sign", `"size":"1234"`, `"size":"+1234"`, "decimal"},
		{"size has leading zeros", `"size":"1234"`, `"size":"01234"`, "decimal"},
		{"size is hexadecimal", `"size":"1234"`, `"size":"0x12"`, "decimal"},
		{"size is a float", `"size":"1234"`, `"size":"1e3"`, "decimal"},
		{"size is too large", `"size":"1234"`, `"size":"9223372036854775808"`, "decimal"},
		{"digest has a prefix", `"sha256":"01`, `"sha256":"sha256:01`, "64 hex"},
		{"digest in upper case", `"sha256":"01`, `"sha256":"AB`, "lower-case"},
		{"digest too short", `"sha256":"01`, `"sha256":"1`, "64 hex"},
		{"digest of zeros", digest(1).Hex(), artifact.Digest{}.Hex(), "no digest"},
		{"digest by another algorithm only", `"sha256":"01`, `"sha512":"01`, "unknown"},
		{"zone missing", `"zone":"main",`, ``, "zone"},
		{"zone in upper case", `"zone":"main"`, `"zone":"Main"`, "zone"},
		{"zone with a slash", `"zone":"main"`, `"zone":"main/x"`, "zone"},
		{"zone too long", `"zone":"main"`, `"zone":"` + strings.Repeat("a", 64) + `"`, "zone"},
		{"audience missing", `"audience":"https://gate.example.com",`, ``, "audience"},
		{"audience is a list", `"audience":"https://gate.example.com"`, `"audience":["https://gate.example.com"]`, "unmarshal JSON"},
		{"text too long", `"upload_id":"7f3c"`, `"upload_id":"` + strings.Repeat("x", 2049) + `"`, "at most"},
		{"builder missing", `"builder":{"id":"https://ci.example.com/runners/1"}`, `"builder":{}`, "builder"},
		{"time missing", `,"startedOn":"2026-03-01T12:00:00Z"`, ``, "startedOn"},
		{"time with an offset", `2026-03-01T12:00:00Z`, `2026-03-01T12:00:00+00:00`, "startedOn"},
		{"time with a fraction", `2026-03-01T12:00:00Z`, `2026-03-01T12:00:00.5Z`, "startedOn"},
		{"time before Unix", `2026-03-01T12:00:00Z`, `1026-03-01T12:00:00Z`, "issued"},
		{"time is a number", `"2026-03-01T12:00:00Z"`, `1772366400`, "unmarshal JSON"},
		{"thirteenth month", `2026-03-01`, `2026-13-01`, "startedOn"},
		{"unknown role", `"lychgate.role":"input"`, `"lychgate.role":"public"`, "role"},
		{"no role", `"lychgate.role":"input"`, `"lychgate.role":""`, "role"},
		{"source listed twice", `"lychgate.role":"input"`, `"lychgate.role":"source"`, "twice"},
		{"unknown scheme", `git+https://`, `file://`, "scheme"},
		{"scheme in upper case", `git+https://`, `GIT+https://`, "scheme"},
		{"other git scheme", `git+https://`, `git+ssh://`, "scheme"},
		{"user in a host", `//git.example.com/`, `//git@git.example.com/`, "normalised"},
		{"password in a host", `//git.example.com/`, `//a:b%40git.example.com/`, "normalised"},
		{"host in upper case", `//git.example.com/`, `//Git.example.com/`, "normalised"},
		{"no path", `//git.example.com/team/zlib`, `//git.example.com`, "path"},
		{"dot segment in a source", `/team/zlib"`, `/public/../team/zlib"`, "normalised"},
		{"encoded dot segment", `/team/zlib"`, `/public/%2e%2e/team/zlib"`, "normalised"},
		{"encoded slash in a path", `/team/zlib"`, `/team%2Fzlib"`, "one form"},
		{"encoded letter in a path", `/team/zlib"`, `/team/zl%69b"`, "one form"},
		{"lower-case escape", `/team/zlib"`, `/team/zlib%c3%a4"`, "one form"},
		{"bad escape", `/team/zlib"`, `/team/zlib%zz"`, "escape"},
		{"NUL in a path", `/team/zlib"`, `/team/zlib%00"`, "normalised"},
		{"bad UTF-8 in a path", `/team/zlib"`, `/team/zlib%FF"`, "normalised"},
		{"query in a source", `/team/zlib"`, `/team/zlib?x=1"`, "normalised"},
		{"revision in upper case", `"gitCommit":"50ff`, `"gitCommit":"50FF`, "one form"},
		{"revision under another name", `"gitCommit":`, `"sha256":`, "one form"},
		{"revision in two places", `"lychgate.role":"input"`, `"lychgate.role":"input","lychgate.rev":"x"`, "one form"},
		{"reason at a good source", `"lychgate.role":"input"`, `"lychgate.role":"input","lychgate.reason":"x"`, "reason"},
		{"unresolvable with a type of git", `"lychgate.type":"unresolvable"`, `"lychgate.type":"git"`, "one form"},
		{"unresolvable dressed as resolved", `"lychgate:unresolvable"`, `"git+https://git.example.com/public/x"`, "reason"},
		{"artifact with a uri", `"lychgate.role":"artifact"`, `"lychgate.role":"artifact","lychgate.rev":"x"`, "nothing else"},
		{"recorded is a boolean", `"lychgate.recorded":"true"`, `"lychgate.recorded":true`, "unmarshal JSON"},
		{"recorded in words", `"lychgate.recorded":"true"`, `"lychgate.recorded":"yes"`, "nothing else"},
		{"recorded in capitals", `"lychgate.recorded":"true"`, `"lychgate.recorded":"TRUE"`, "nothing else"},
		{"recorded is false", `"lychgate.recorded":"true"`, `"lychgate.recorded":"false"`, "nothing else"},
		{"recorded under another name", `"lychgate.recorded"`, `"lychgate.Recorded"`, "unknown"},
		{"recorded twice", `"lychgate.recorded":"true"`, `"lychgate.recorded":"true","lychgate.recorded":"true"`, "duplicate"},
		{"recorded source", `"lychgate.role":"input"`, `"lychgate.role":"input","lychgate.recorded":"true"`, "one form"},
		{"recorded and not", `{"name":"universal/ab/cd/sstate:make-`, `{"name":"universal/ab/cd/sstate:make-` + nameA[len("universal/ab/cd/sstate:zlib-"):] + `","digest":{"sha256":"` + digest(4).Hex() + `"},"annotations":{"lychgate.role":"artifact"}},{"name":"universal/ab/cd/sstate:make-`, "twice"},
		{"artifact without a digest", `"sha256":"03`, `"gitCommit":"03`, "64 hex"},
		{"artifact with a bad name", "universal/ab/cd/sstate:gcc", "universal/ab/../ab/cd/sstate:gcc", "not an artifact name"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := provenance.ParseStatement(replaceOnce(t, good, c.old, c.new))
			refused(t, err, c.want)
		})
	}
}

// TestHostileShapes builds what a replacement cannot.
func TestHostileShapes(t *testing.T) {
	many := sample()
	many.Subjects, many.Artifacts = nil, nil
	for i := range provenance.MaxSubjects {
		hash := fmt.Sprintf("%064x", i)
		many.Subjects = append(many.Subjects, provenance.Subject{
			Name: hash[:2] + "/" + hash[2:4] + "/sstate:zlib::1:r0::14:" + hash + "_fetch.tar.zst.siginfo", Digest: digest(1),
		})
	}
	payload := encode(t, many) // exactly as many as allowed
	must[*provenance.Statement](t)(provenance.ParseStatement(payload))

	dependencies := sample()
	for i := range provenance.MaxDependencies + 1 {
		dependencies.Sources = append(dependencies.Sources, git(fmt.Sprint("team/", i), ""))
	}
	one := encode(t, sample())
	first := string(one[strings.Index(string(one), `[{"name"`)+1 : strings.Index(string(one), `},{"name"`)+1])
	cases := map[string]struct {
		payload []byte
		want    string
	}{
		"empty":              {nil, "EOF"},
		"null":               {[]byte("null"), "_type"},
		"a text":             {[]byte(`"statement"`), "unmarshal JSON"},
		"huge":               {append(slices.Clone(one), strings.Repeat(" ", provenance.MaxStatement)...), "at most"},
		"too many subjects":  {replaceOnce(t, payload, `"subject":[`, `"subject":[`+first+`,`), "more than 4096 subjects"},
		"too many sources":   {replaceOnce(t, one, `"resolvedDependencies":[`, `"resolvedDependencies":[`+strings.Repeat(`{"uri":"git+https://a/b","annotations":{"lychgate.role":"source"}},`, 4096)), "dependencies"},
		"a million subjects": {replaceOnce(t, one, `"subject":[`, `"subject":[`+strings.Repeat(`{},`, 1_000_000)), "more than 4096 subjects"},
		"long type":          {replaceOnce(t, one, `in-toto.io/Statement/v1`, strings.Repeat("x", 1_000_000)), "_type"},
		"long member":        {replaceOnce(t, one, `"subject"`, `"`+strings.Repeat("x", 1_000_000)+`"`), "unknown"},
		"long size":          {replaceOnce(t, one, `"1234"`, `"`+strings.Repeat("1", 1_000_000)+`"`), "decimal"},
		"long name":          {replaceOnce(t, one, nameB, strings.Repeat("\\u0001", 500_000)), "too long"},
		"deep nesting":       {[]byte(strings.Repeat("[", 100_000)), "unmarshal JSON"},
		"deep unknown":       {[]byte(`{"x":` + strings.Repeat("[", 100_000)), "unknown"},
		"no subjects":        {[]byte(strings.Replace(string(one), string(one[strings.Index(string(one), `"subject":[`):strings.Index(string(one), `"predicateType"`)]), `"subject":[],`, 1)), "no subjects"},
		"subjects null":      {[]byte(strings.Replace(string(one), string(one[strings.Index(string(one), `"subject":[`):strings.Index(string(one), `"predicateType"`)]), `"subject":null,`, 1)), "no subjects"},
		"subjects missing":   {[]byte(strings.Replace(string(one), string(one[strings.Index(string(one), `"subject":[`):strings.Index(string(one), `"predicateType"`)]), ``, 1)), "no subjects"},
		"a null subject":     {replaceOnce(t, one, `"subject":[`, `"subject":[null,`), "digest"},
		"a null dependency":  {replaceOnce(t, one, `"resolvedDependencies":[`, `"resolvedDependencies":[null,`), "role"},
		"predicate is null":  {append(one[:strings.Index(string(one), `"predicate":`)+len(`"predicate":`):strings.Index(string(one), `"predicate":`)+len(`"predicate":`)], "null}"...), "buildType"},
		"UTF-16":             {[]byte("\xff\xfe{\x00}\x00"), "invalid"},
		"two in one payload": {slices.Concat(one, one), "after top-level"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := provenance.ParseStatement(c.payload)
			refused(t, err, c.want)
		})
	}
	t.Run("encode too many sources", func(t *testing.T) {
		_, err := dependencies.Encode()
		refused(t, err, "split the statement")
	})
}

// TestEncodeRefuses shows that nobody is asked to sign what nobody will accept.
func TestEncodeRefuses(t *testing.T) {
	cases := map[string]struct {
		spoil func(*provenance.Statement)
		want  string
	}{
		"no subjects":      {func(s *provenance.Statement) { s.Subjects = nil }, "no subjects"},
		"too many":         {func(s *provenance.Statement) { s.Subjects = make([]provenance.Subject, 4097) }, "split"},
		"no zone":          {func(s *provenance.Statement) { s.Zone = "" }, "zone"},
		"no audience":      {func(s *provenance.Statement) { s.Audience = "" }, "audience"},
		"no builder":       {func(s *provenance.Statement) { s.Builder = "" }, "builder"},
		"no time":          {func(s *provenance.Statement) { s.IssuedAt = time.Time{} }, "issued"},
		"bad text":         {func(s *provenance.Statement) { s.Recipe = "a\xff" }, "UTF-8"},
		"unknown type":     {func(s *provenance.Statement) { s.Sources[0].Type = "cvs" }, "type"},
		"empty source":     {func(s *provenance.Statement) { s.Sources[0] = source.Source{} }, "type"},
		"empty locator":    {func(s *provenance.Statement) { s.Sources[0].Locator = source.Locator{} }, "host"},
		"located nowhere":  {func(s *provenance.Statement) { s.Sources[1].Locator.Host = "a" }, "locator"},
		"negative size":    {func(s *provenance.Statement) { s.Subjects[0].Size = -1 }, "size"},
		"nameless input":   {func(s *provenance.Statement) { s.Artifacts[0].Name = "" }, "name"},
		"input, no digest": {func(s *provenance.Statement) { s.Artifacts[0].Digest = artifact.Digest{} }, "digest"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := sample()
			c.spoil(s)
			_, err := s.Encode()
			refused(t, err, c.want)
		})
	}
}

func FuzzStatement(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		s, err := provenance.ParseStatement(payload)
		if err != nil {
			return
		}
		// What is accepted can be written, and reads back as the same.
		canonical, err := s.Encode()
		if err != nil {
			t.Fatalf("accepted, but not encodable: %v", err)
		}
		again, err := provenance.ParseStatement(canonical)
		if err != nil {
			t.Fatalf("its own encoding is refused: %v", err)
		}
		if twice, err := again.Encode(); err != nil || string(twice) != string(canonical) {
			t.Fatalf("encoding is not stable: %v", err)
		}
	})
}
