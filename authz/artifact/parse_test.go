package artifact_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/authz/artifact"
)

var zone = artifact.Zone{Name: "main"}

const hash = "4a3c0123456789abcdef0123456789abcdef0123456789abcdef0123456789ab"

func TestParse(t *testing.T) {
	dir := "4a/3c/"
	tests := []struct {
		name string
		path string
		want artifact.Ref
	}{
		{
			"native",
			"universal/4a/3c/sstate:libfoo-native:x86_64-linux:1.0:r0:x86_64:14:" + hash + "_populate_sysroot.tar.zst",
			artifact.Ref{Hash: hash, Recipe: "libfoo-native", Version: "1.0", Arch: "x86_64", Task: "populate_sysroot"},
		},
		{
			"siginfo without machine settings",
			dir + "sstate:boot::2.0+git:r0::14:" + hash + "_populate_lic.tar.zst.siginfo",
			artifact.Ref{Hash: hash, Recipe: "boot", Version: "2.0+git", Task: "populate_lic", Part: artifact.Siginfo},
		},
		{
			"signature of an older series",
			dir + "sstate:gtk+3:core2-64-poky-linux:3.24:r0:core2-64:3:" + hash + "_package_write_rpm.tgz.sig",
			artifact.Ref{Hash: hash, Recipe: "gtk+3", Version: "3.24", Arch: "core2-64", Task: "package_write_rpm", Part: artifact.Sig},
		},
		{
			"cut short",
			dir + "sstate:long::::core2-64:14:" + hash + "_package.tar.zst",
			artifact.Ref{Hash: hash, Recipe: "long", Arch: "core2-64", Task: "package"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			want.Zone, want.Kind = "main", artifact.KindSstate
			want.Path = strings.TrimSuffix(tt.path, want.Part.Suffix())
			for _, path := range []string{tt.path, quote(tt.path), strings.ToLower(quote(tt.path))} {
				got, err := artifact.Parse(zone, path)
				if err != nil || got != want {
					t.Errorf("Parse(%q) = %+v, %v, want %+v", path, got, err, want)
				}
			}
			if got, err := artifact.ParseName(zone, tt.path); err != nil || got != want || got.Name() != tt.path {
				t.Errorf("ParseName = %+v, %v, named %q", got, err, got.Name())
			}
		})
	}
}

func TestParseNameDecodesNothing(t *testing.T) {
	for _, line := range readNames(t, "good.txt") {
		_, err := artifact.ParseName(zone, line.path)
		if escaped := strings.Contains(line.path, "%"); escaped != (err != nil) {
			t.Errorf("ParseName(%q) = %v", line.path, err)
		}
	}
}

// TestOctets tries each octet in a recipe's name, raw and escaped.
func TestOctets(t *testing.T) {
	for c := range 256 {
		dir, file := "4a/3c/sstate:z", "lib:t:1:r0:a:14:"+hash+"_package.tar.zst"
		want := c < 0x80 && strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+~-", rune(c))
		for _, escape := range []string{string([]byte{byte(c)}), fmt.Sprintf("%%%02x", c), fmt.Sprintf("%%%02X", c)} {
			if _, err := artifact.Parse(zone, dir+escape+file); (err == nil) != want {
				t.Errorf("with %q: %v", escape, err)
			}
		}
	}
}

func TestWithPart(t *testing.T) {
	for _, line := range readNames(t, "good.txt") {
		r, err := artifact.Parse(zone, line.path)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []artifact.Part{artifact.Payload, artifact.Siginfo, artifact.Sig} {
			other := r.WithPart(p)
			got, err := artifact.ParseName(zone, other.Name())
			if err != nil || got != other || other.WithPart(r.Part) != r {
				t.Errorf("%v of %q: %+v, %v", p, line.path, got, err)
			}
		}
		if _, err := artifact.ParseName(zone, r.WithPart(9).Name()); !errors.Is(err, artifact.ErrBadName) {
			t.Errorf("a part that does not exist has the name %q", r.WithPart(9).Name())
		}
	}
}

func TestPart(t *testing.T) {
	tests := []struct {
		part         artifact.Part
		word, suffix string
	}{
		{artifact.Payload, "payload", ""},
		{artifact.Siginfo, "siginfo", ".siginfo"},
		{artifact.Sig, "sig", ".sig"},
		{7, "part(7)", ".invalid"},
	}
	for _, tt := range tests {
		if tt.part.String() != tt.word || tt.part.Suffix() != tt.suffix {
			t.Errorf("Part(%d) = %q, %q", tt.part, tt.part, tt.part.Suffix())
		}
	}
}

func TestValidZoneName(t *testing.T) {
	for _, s := range []string{"main", "a", "0", "review-1", "a--b", strings.Repeat("z", 63)} {
		if !artifact.ValidZoneName(s) {
			t.Errorf("ValidZoneName(%q) = false", s)
		}
	}
	for _, s := range []string{"", "-", "-a", "a-", "Main", "a.b", "a/b", "a_b", "..", "a b", "é", "a\x00", strings.Repeat("z", 64)} {
		if artifact.ValidZoneName(s) {
			t.Errorf("ValidZoneName(%q) = true", s)
		}
	}
}

func TestHostileNames(t *testing.T) {
	lines := readNames(t, "hostile.txt")
	if len(lines) < 220 {
		t.Fatalf("%d hostile names, want 220 or more", len(lines))
	}
	for _, line := range lines {
		r, err := artifact.Parse(zone, line.path)
		if !errors.Is(err, artifact.ErrBadName) || r != (artifact.Ref{}) {
			t.Errorf("%s: Parse(%q) = %+v, %v", line.category, line.path, r, err)
		}
		r, err = artifact.ParseName(zone, line.path)
		if !errors.Is(err, artifact.ErrBadName) || r != (artifact.Ref{}) {
			t.Errorf("%s: ParseName(%q) = %+v, %v", line.category, line.path, r, err)
		}
	}
}

func TestGoodNames(t *testing.T) {
	lines := readNames(t, "good.txt")
	if len(lines) < 25 {
		t.Fatalf("%d good names, want 25 or more", len(lines))
	}
	for _, line := range lines {
		r, err := artifact.Parse(zone, line.path)
		if err != nil {
			t.Errorf("%s: Parse(%q): %v", line.category, line.path, err)
			continue
		}
		checkRoundTrip(t, r)
	}
}

// TestSampleCache reads the name of every file that a real build left.
func TestSampleCache(t *testing.T) {
	root := "../../../shared/sstate-sample/sstate"
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) && os.Getenv("CI") != "true" {
		t.Logf("no sample cache at %s; nothing was read", root)
		return
	}
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		r, err := artifact.ParseName(zone, filepath.ToSlash(name))
		if err != nil {
			t.Errorf("ParseName(%q): %v", name, err)
			return nil
		}
		checkRoundTrip(t, r)
		if native := strings.HasPrefix(name, "universal/"); native && !strings.HasSuffix(r.Recipe, "-native") {
			t.Errorf("%q is of recipe %q", name, r.Recipe)
		}
		return nil
	})
	if err != nil || n != 127 {
		t.Errorf("read %d names, want 127: %v", n, err)
	}
}

// TestGenerated builds names by BitBake's rules and wants every field back.
func TestGenerated(t *testing.T) {
	word := rapid.StringMatching(`[A-Za-z0-9._+~-]{1,12}`)
	short := rapid.StringMatching(`[A-Za-z0-9._+~-]{0,12}`)
	rapid.Check(t, func(t *rapid.T) {
		want := artifact.Ref{
			Zone: "main", Kind: artifact.KindSstate,
			Hash:    rapid.StringMatching(`[0-9a-f]{64}`).Draw(t, "hash"),
			Recipe:  word.Draw(t, "pn"),
			Version: short.Draw(t, "pv"),
			Arch:    short.Draw(t, "arch"),
			Task:    rapid.StringMatching(`[a-zA-Z0-9_]{1,24}`).Draw(t, "task"),
			Part:    rapid.SampledFrom([]artifact.Part{artifact.Payload, artifact.Siginfo, artifact.Sig}).Draw(t, "part"),
		}
		triplet := ""
		if want.Arch != "" {
			triplet = short.Draw(t, "triplet")
		}
		want.Path = fmt.Sprintf("%s%s/%s/sstate:%s:%s:%s:%s:%s:%s:%s_%s%s",
			rapid.SampledFrom([]string{"", "universal/", "debian-12/"}).Draw(t, "extra"), want.Hash[:2], want.Hash[2:4],
			want.Recipe, triplet, want.Version, short.Draw(t, "pr"), want.Arch,
			rapid.StringMatching(`[0-9]{1,3}`).Draw(t, "ver"), want.Hash, want.Task,
			rapid.SampledFrom([]string{".tar.zst", ".tgz"}).Draw(t, "ext"))
		for _, path := range []string{want.Name(), quote(want.Name())} {
			if got, err := artifact.Parse(zone, path); err != nil || got != want {
				t.Fatalf("Parse(%q) = %+v, %v, want %+v", path, got, err, want)
			}
		}
	})
}

func TestParseAllocates(t *testing.T) {
	r, err := artifact.Parse(zone, readNames(t, "good.txt")[0].path)
	if err != nil {
		t.Fatal(err)
	}
	plain, quoted := r.Name(), quote(r.Name())
	tests := []struct {
		name string
		path string
		most float64
	}{
		{"plain", plain, 0},
		{"plain siginfo", plain + ".siginfo", 0},
		{"quoted", quoted, 1},
		{"refused", "../" + plain, 0},
	}
	for _, tt := range tests {
		n := testing.AllocsPerRun(100, func() { _, _ = artifact.Parse(zone, tt.path) })
		if n > tt.most {
			t.Errorf("%s: %v allocations, want at most %v", tt.name, n, tt.most)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"good.txt", "hostile.txt"} {
		for _, line := range readNames(f, file) {
			f.Add(line.path)
		}
	}
	f.Fuzz(func(t *testing.T, path string) {
		for _, parse := range []func(artifact.Zone, string) (artifact.Ref, error){artifact.Parse, artifact.ParseName} {
			r, err := parse(zone, path)
			switch {
			case err == nil:
				checkRoundTrip(t, r)
			case !errors.Is(err, artifact.ErrBadName) || r != artifact.Ref{}:
				t.Errorf("parse(%q) = %+v, %v", path, r, err)
			}
		}
	})
}

// checkRoundTrip wants r back from each form of its name, and the name to be as safe as the package promises.
func checkRoundTrip(t *testing.T, r artifact.Ref) {
	t.Helper()
	name := r.Name()
	if got, err := artifact.ParseName(zone, name); err != nil || got != r {
		t.Errorf("ParseName(%q) = %+v, %v, want %+v", name, got, err, r)
	}
	if got, err := artifact.Parse(zone, quote(name)); err != nil || got != r {
		t.Errorf("Parse(%q) = %+v, %v, want %+v", quote(name), got, err, r)
	}
	if !fs.ValidPath(name) || len(filepath.Base(name)) > 254 {
		t.Errorf("%q is no path to open", name)
	}
}

// quote percent-encodes as Python's urllib.parse.quote does, which BitBake and wget use.
func quote(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("_.-~/", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

type namedPath struct{ category, path string }

// readNames reads a file of testdata; its header says the form.
func readNames(t testing.TB, file string) []namedPath {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var lines []namedPath
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		category, escaped, ok := strings.Cut(line, "\t")
		if !ok || category == "" || escaped == "" {
			t.Fatalf("%s: bad line %q", file, line)
		}
		lines = append(lines, namedPath{category, unescape(t, escaped)})
	}
	return lines
}

// unescape replaces each \xNN with the octet NN.
func unescape(t testing.TB, s string) string {
	t.Helper()
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\x`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		if len(after) < 2 {
			t.Fatalf("bad escape in %q", s)
		}
		c, err := strconv.ParseUint(after[:2], 16, 8)
		if err != nil {
			t.Fatalf("bad escape in %q: %v", s, err)
		}
		b.WriteByte(byte(c))
		s = after[2:]
	}
}

func BenchmarkParse(b *testing.B) {
	r, err := artifact.Parse(zone, readNames(b, "good.txt")[1].path)
	if err != nil {
		b.Fatal(err)
	}
	for _, bm := range []struct{ name, path string }{{"plain", r.Name()}, {"quoted", quote(r.Name())}, {"refused", "../" + r.Name()}} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = artifact.Parse(zone, bm.path)
			}
		})
	}
}
