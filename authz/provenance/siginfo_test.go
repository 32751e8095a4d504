package provenance_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
)

const sampleDir = "../../../shared/sstate-sample/sstate"

// sampleSiginfos returns the siginfos of the sample cache, by path within it.
func sampleSiginfos(t testing.TB) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	err := filepath.WalkDir(sampleDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".siginfo") {
			return err
		}
		rel, _ := filepath.Rel(sampleDir, path)
		files[filepath.ToSlash(rel)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatalf("the sample cache is needed beside the repository: %v", err)
	}
	return files
}

func TestSampleSiginfos(t *testing.T) {
	files := sampleSiginfos(t)
	if len(files) != 92 {
		t.Fatalf("%d siginfos, want 92", len(files))
	}
	sources := make(map[string]string)
	for name, packed := range files {
		s, err := provenance.ParseSiginfo(bytes.NewReader(packed))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		ref := must[artifact.Ref](t)(artifact.ParseName(artifact.Zone{Name: "main"}, name))
		if s.Task != "do_"+ref.Task || s.UniHash != ref.Hash || len(s.TaskHash) != 64 || len(s.BaseHash) != 64 {
			t.Errorf("%s: task %s, unihash %s", name, s.Task, s.UniHash)
		}
		for _, dep := range s.RunTaskDeps {
			if len(s.RunTaskHashes[dep]) != 64 {
				t.Errorf("%s: no hash of %s", name, dep)
			}
		}
		if s.Task == "do_fetch" {
			sources[ref.Recipe] = strings.TrimSpace(s.VarVals["SRC_URI"])
		}
	}
	if !strings.HasPrefix(sources["libfoo-native"], "git://git.example.com/public/libfoo.git;") {
		t.Errorf("SRC_URI of libfoo-native: %q", sources["libfoo-native"])
	}
}

func pack(t testing.TB, text []byte, options ...zstd.EOption) []byte {
	t.Helper()
	enc := must[*zstd.Encoder](t)(zstd.NewWriter(nil, options...))
	defer enc.Close()
	return enc.EncodeAll(text, nil)
}

// stream packs without announcing the size, as BitBake does through a pipe.
func stream(t testing.TB, text []byte, options ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := must[*zstd.Encoder](t)(zstd.NewWriter(&b, options...))
	for chunk := range slices.Chunk(text, 1<<16) {
		if _, err := enc.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const (
	depHash     = "1111111111111111111111111111111111111111111111111111111111111111"
	goodSiginfo = `{"basehash":"` + depHash + `","basehash_ignore_vars":{"_set_object":["A","B"]},` +
		`"file_checksum_values":[["a.patch","00ff"],["gone.patch",null]],"gendeps":{"SRC_URI":{"_set_object":[]}},` +
		`"runtaskdeps":["gcc-native:do_populate_sysroot","mc:mc1:zlib:do_fetch"],` +
		`"runtaskhashes":{"gcc-native:do_populate_sysroot":"` + depHash + `","mc:mc1:zlib:do_fetch":"` + depHash + `"},` +
		`"task":"do_unpack","taskdeps":{"_set_object":["PV"]},"taskhash":"` + depHash + `","taskhash_ignore_tasks":null,"taint":"nostamp:1",` +
		`"unihash":"` + depHash + `","varvals":{"A":"text","N":1,"F":1.5,"T":true,"Z":null,"SRC_URI":"git://h/${BPN};p=\u00e4"}}`
)

func TestSiginfo(t *testing.T) {
	want := &provenance.Siginfo{
		Task: "do_unpack", BaseHash: depHash, TaskHash: depHash, UniHash: depHash,
		RunTaskDeps:   []string{"gcc-native:do_populate_sysroot", "mc:mc1:zlib:do_fetch"},
		RunTaskHashes: map[string]string{"gcc-native:do_populate_sysroot": depHash, "mc:mc1:zlib:do_fetch": depHash},
		VarVals:       map[string]string{"A": "text", "N": "1", "F": "1.5", "T": "true", "SRC_URI": "git://h/${BPN};p=ä"},
		FileChecksums: []provenance.FileChecksum{{Name: "a.patch", Sum: "00ff"}, {Name: "gone.patch"}},
		Taint:         "nostamp:1",
	}
	set := strings.Replace(goodSiginfo, `["gcc-native:do_populate_sysroot","mc:mc1:zlib:do_fetch"]`, `{"_set_object":["gcc-native:do_populate_sysroot","mc:mc1:zlib:do_fetch"]}`, 1)
	for name, packed := range map[string][]byte{
		"with a size":       pack(t, []byte(goodSiginfo)),
		"without a size":    stream(t, []byte(goodSiginfo)),
		"without a sum":     pack(t, []byte(goodSiginfo), zstd.WithEncoderCRC(false)),
		"single segment":    pack(t, []byte(goodSiginfo), zstd.WithSingleSegment(true)),
		"largest window":    stream(t, []byte(goodSiginfo), zstd.WithWindowSize(8<<20)),
		"set of tasks":      pack(t, []byte(set)),
		"unknown members":   pack(t, []byte(strings.Replace(goodSiginfo, `{`, `{"new":{"x":[1]},`, 1))),
		"other case is new": pack(t, []byte(strings.Replace(goodSiginfo, `{`, `{"Task":"do_other",`, 1))),
		"with spaces":       pack(t, []byte(" "+goodSiginfo+"\n")),
		"small, high ratio": pack(t, []byte(goodSiginfo+strings.Repeat(" ", 1<<20-len(goodSiginfo)))),
	} {
		t.Run(name, func(t *testing.T) {
			got := must[*provenance.Siginfo](t)(provenance.ParseSiginfo(iotest.OneByteReader(bytes.NewReader(packed))))
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Fatalf("differs (-want +got):\n%s", diff)
			}
		})
	}
}

// frame builds a zstd frame by hand (RFC 8878): descriptor, the rest of the header, blocks.
func frame(descriptor byte, header []byte, blocks ...[]byte) []byte {
	return slices.Concat([]byte{0x28, 0xb5, 0x2f, 0xfd, descriptor}, header, slices.Concat(blocks...))
}

// block builds one block of type kind: 0 raw, 1 RLE, 2 compressed, 3 reserved.
func block(last bool, kind, size int, content []byte) []byte {
	n := size<<3 | kind<<1
	if last {
		n |= 1
	}
	return append([]byte{byte(n), byte(n >> 8), byte(n >> 16)}, content...)
}

func TestHostileSiginfos(t *testing.T) {
	good := pack(t, []byte(goodSiginfo))
	edit := func(old, new string) []byte { return pack(t, replaceOnce(t, []byte(goodSiginfo), old, new)) }
	flip := func(at int) []byte {
		b := slices.Clone(good)
		b[(at+len(b))%len(b)] ^= 0x55
		return b
	}
	raw := func(text string) []byte { return block(true, 0, len(text), []byte(text)) }
	const window1K = 0x00
	rle := slices.Repeat(block(false, 1, 1<<17, []byte(" ")), 200) // 25 MiB out of 800 bytes
	empty := pack(t, nil, zstd.WithZeroFrames(true))
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}
	cases := []struct {
		name, want string
		packed     []byte
	}{
		// The frame.
		{"empty file", "zstd", nil},
		{"one byte", "zstd", []byte{0x28}},
		{"not zstd", "zstd", []byte(goodSiginfo)},
		{"gzip", "zstd", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00")},
		{"zstd of an old format", "zstd", append([]byte{0x27, 0xb5, 0x2f, 0xfd}, good[4:]...)},
		{"header only", "EOF", good[:6]},
		{"cut in half", "EOF", good[:len(good)/2]},
		{"cut before the sum", "EOF", good[:len(good)-4]},
		{"cut in the sum", "EOF", good[:len(good)-1]},
		{"broken sum", "CRC", flip(-1)},
		{"broken block", "", flip(len(good) / 2)},
		{"reserved bit", "", frame(0x08, []byte{window1K}, raw("{}"))},
		{"reserved block type", "reserved type", frame(0, []byte{window1K}, block(true, 3, 0, nil))},
		{"no last block", "EOF", frame(0, []byte{window1K}, block(false, 0, 2, []byte("{}")))},
		{"block beyond the end", "EOF", frame(0, []byte{window1K}, block(true, 0, 1000, []byte("{}")))},
		{"block beyond the window", "", frame(0, []byte{window1K}, block(true, 1, 1<<17, []byte(" ")))},
		{"block beyond 128 KiB", "", frame(0, []byte{0x68}, block(true, 1, 1<<20, []byte(" ")))},
		{"RLE without its byte", "EOF", frame(0, []byte{window1K}, block(true, 1, 10, nil))},
		{"skippable frame alone", "skippable", skippable},
		{"skippable frame before", "skippable", slices.Concat(skippable, good)},
		{"skippable frame after", "follow", slices.Concat(good, skippable)},
		{"two frames", "follow", slices.Concat(good, good)},
		{"an empty frame before", "follow", slices.Concat(empty, good)},
		{"many frames", "follow", slices.Repeat(empty, 10_000)},
		{"trailing zeros", "follow", append(slices.Clone(good), 0, 0, 0, 0)},
		{"dictionary of one byte", "dictionary", frame(0x01, []byte{window1K, 7}, raw("{}"))},
		{"dictionary of four bytes", "dictionary", frame(0x03, []byte{window1K, 1, 2, 3, 4}, raw("{}"))},
		{"window of 9 MiB", "window", frame(0, []byte{0x69}, raw("{}"))},
		{"window of 16 MiB", "window", frame(0, []byte{0x70}, raw("{}"))},
		{"window of 3.75 TiB", "", frame(0, []byte{0xff}, raw("{}"))},
		{"single segment of 16 MiB", "window", frame(0xa0, []byte{0, 0, 0, 1}, raw("{}"))},
		{"announces 2^63 bytes", "announces", frame(0xc0, []byte{window1K, 0, 0, 0, 0, 0, 0, 0, 0x80}, raw("{}"))},
		{"announces 17 MiB", "announces", frame(0x80, []byte{window1K, 1, 0, 0, 1}, raw("{}"))},
		{"announces more than there is", "", frame(0x20, []byte{3}, raw("{}"))},
		{"announces less than there is", "", frame(0x20, []byte{1}, raw("{}"))},
		{"bomb of RLE blocks", "unpack to more", frame(0, []byte{0x38}, rle, raw("{}"))},
		{"bomb of zeros", "unpack to more", stream(t, make([]byte, 15<<20))},
		{"bomb just over the floor", "unpack to more", pack(t, []byte(goodSiginfo+strings.Repeat(" ", 1<<20)))},
		{"bomb that announces itself", "announces", pack(t, make([]byte, 17<<20))},
		{"stream of a good ratio", "more than", stream(t, slices.Repeat(noise(1<<20), 17))},
		{"too many bytes packed", "more than", make([]byte, provenance.MaxSiginfo+1)},
		// Pickles.
		{"pickle of protocol 2", "pickle", []byte("\x80\x02}q\x00(X\x04\x00\x00\x00taskq\x01X\x08\x00\x00\x00do_fetchu.")},
		{"pickle of protocol 4", "pickle", []byte("\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94.")},
		{"pickle that runs a program", "pickle", []byte("\x80\x03cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")},
		{"packed pickle", "pickle", pack(t, []byte("\x80\x04}\x94."))},
		// The JSON.
		{"nothing packed", "EOF", empty},
		{"null", "task", pack(t, []byte("null"))},
		{"a list", "unmarshal JSON", pack(t, []byte("[]"))},
		{"Python's repr", "invalid", pack(t, []byte("{'task': 'do_fetch'}"))},
		{"NaN", "invalid", edit(`"N":1`, `"N":NaN`)},
		{"two values", "after top-level", pack(t, []byte(goodSiginfo+goodSiginfo))},
		{"cut", "EOF", pack(t, []byte(goodSiginfo[:len(goodSiginfo)-1]))},
		{"deep nesting", "depth", edit(`{"basehash"`, `{"x":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)+`,"basehash"`)},
		{"invalid UTF-8", "UTF-8", edit(`"text"`, "\"\xff\"")},
		{"lone surrogate", "surrogate", edit(`"text"`, `"\ud800"`)},
		{"duplicate member", "duplicate", edit(`"task":`, `"task":"do_fetch","task":`)},
		{"duplicate variable", "duplicate", edit(`"A":"text"`, `"SRC_URI":"","A":"text"`)},
		{"duplicate in what is ignored", "duplicate", edit(`"gendeps":{`, `"gendeps":{"SRC_URI":1,`)},
		{"duplicate dependency", "duplicate", edit(`"runtaskhashes":{`, `"runtaskhashes":{"mc:mc1:zlib:do_fetch":"",`)},
		{"no task", "task", edit(`"task":"do_unpack",`, ``)},
		{"task of a case-folded name", "task", edit(`"task":`, `"Task":`)},
		{"task is a number", "unmarshal JSON", edit(`"do_unpack"`, `1`)},
		{"task without do_", "task", edit(`"do_unpack"`, `"unpack"`)},
		{"task with a slash", "task", edit(`"do_unpack"`, `"do_../x"`)},
		{"task with a NUL", "task", edit(`"do_unpack"`, `"do_\u0000"`)},
		{"hash too short", "64 hex", edit(`"taskhash":"11`, `"taskhash":"1`)},
		{"hash in upper case", "64 hex", edit(`"taskhash":"11`, `"taskhash":"AA`)},
		{"unihash is a path", "64 hex", edit(`"unihash":"11`, `"unihash":"../`)},
		{"hash is a list", "unmarshal JSON", edit(`"taskhash":"`+depHash+`"`, `"taskhash":[]`)},
		{"dependency's hash is a path", "64 hex", edit(`"gcc-native:do_populate_sysroot":"11`, `"gcc-native:do_populate_sysroot":"/.`)},
		{"dependency's hash is null", "64 hex", edit(`:do_fetch":"`+depHash+`"`, `:do_fetch":null`)},
		{"dependency without a task", "recipe and a task", edit(`["gcc-native:do_populate_sysroot"`, `["gcc-native"`)},
		{"dependency without a recipe", "recipe and a task", edit(`["gcc-native:`, `[":`)},
		{"dependency with a path for a task", "recipe and a task", edit(`["gcc-native:do_populate_sysroot"`, `["gcc-native:do_../../x"`)},
		{"dependency with a line end", "recipe and a task", edit(`["gcc-native:`, `["gcc\nnative:`)},
		{"dependencies are a text", "unmarshal JSON", edit(`["gcc-native:do_populate_sysroot","mc:mc1:zlib:do_fetch"]`, `"all"`)},
		{"set of something else", "unknown", edit(`["gcc-native:do_populate_sysroot","mc:mc1:zlib:do_fetch"]`, `{"_set_object":[],"x":1}`)},
		{"set of numbers", "unmarshal JSON", edit(`["gcc-native:do_populate_sysroot","mc:mc1:zlib:do_fetch"]`, `{"_set_object":[1]}`)},
		{"hashes are a list", "unmarshal JSON", edit(`"runtaskhashes":{`, `"runtaskhashes":[],"x":{`)},
		{"variable is a list", "neither a text", edit(`"A":"text"`, `"A":["text"]`)},
		{"variable is a set", "neither a text", edit(`"A":"text"`, `"A":{"_set_object":[]}`)},
		{"variables are a list", "unmarshal JSON", edit(`"varvals":{`, `"varvals":[],"x":{`)},
		{"checksum of one part", "name and a sum", edit(`["a.patch","00ff"]`, `["a.patch"]`)},
		{"checksum of three parts", "name and a sum", edit(`["a.patch","00ff"]`, `["a.patch","00ff",""]`)},
		{"checksum of nothing", "name and a sum", edit(`["a.patch","00ff"]`, `[null,"00ff"]`)},
		{"checksum is a number", "unmarshal JSON", edit(`["a.patch","00ff"]`, `["a.patch",1]`)},
		{"checksums are an object", "unmarshal JSON", edit(`"file_checksum_values":[`, `"file_checksum_values":{},"x":[`)},
		{"taint is an object", "unmarshal JSON", edit(`"nostamp:1"`, `{}`)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := provenance.ParseSiginfo(bytes.NewReader(c.packed))
			refused(t, err, c.want)
			if old := errors.Is(err, provenance.ErrOldSiginfo); old != (c.want == "pickle") {
				t.Fatalf("ErrOldSiginfo: %v", old)
			}
		})
	}
	t.Run("endless input", func(t *testing.T) {
		_, err := provenance.ParseSiginfo(zeros{})
		refused(t, err, "more than")
	})
	t.Run("failing input", func(t *testing.T) {
		_, err := provenance.ParseSiginfo(io.MultiReader(bytes.NewReader(good), iotest.ErrReader(errors.New("the disk is gone"))))
		refused(t, err, "the disk is gone")
	})
}

// TestBombsCostLittle counts what refusing takes: a decoder that looks at its limit too late would ask for gigabytes.
func TestBombsCostLittle(t *testing.T) {
	for name, packed := range map[string][]byte{
		"RLE blocks, 4 GiB":   frame(0, []byte{0x38}, slices.Repeat(block(false, 1, 1<<17, []byte(" ")), 32<<10), block(true, 0, 0, nil)),
		"announced, 16 MiB":   pack(t, make([]byte, 16<<20)),
		"window, 8 MiB":       frame(0, []byte{0x68}, slices.Repeat(block(false, 1, 1<<17, []byte(" ")), 1000), block(true, 0, 0, nil)),
		"announced 8, has 80": frame(0x20, []byte{8}, slices.Repeat(block(false, 1, 8, []byte(" ")), 10), block(true, 0, 0, nil)),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := provenance.ParseSiginfo(bytes.NewReader(packed))
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("accepted")
			}
			if cost := after.TotalAlloc - before.TotalAlloc; cost > 64<<20 {
				t.Fatalf("refusing %d bytes (%v) took %d MiB", len(packed), err, cost>>20)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// noise is text that packs badly.
func noise(n int) []byte {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

func TestSplitTask(t *testing.T) {
	for dep, want := range map[string][2]string{
		"zlib:do_fetch":             {"zlib", "fetch"},
		"mc:a:zlib-native:do_build": {"mc:a:zlib-native", "build"},
		"a:do_b:do_c":               {"a:do_b", "c"},
		"zlib:do_":                  {},
		":do_fetch":                 {},
		"zlib.do_fetch":             {},
		"zlib:do_fetch ":            {},
		"z lib:do_fetch":            {},
		"zlib\xff:do_fetch":         {},
		"":                          {},
	} {
		recipe, task, ok := provenance.SplitTask(dep)
		if recipe != want[0] || task != want[1] || ok != (want[0] != "") {
			t.Errorf("%q: %q, %q, %v", dep, recipe, task, ok)
		}
	}
}

func FuzzSiginfo(f *testing.F) {
	f.Add(pack(f, []byte(goodSiginfo)))
	f.Add(stream(f, []byte(goodSiginfo)))
	f.Add(frame(0, []byte{0}, block(false, 1, 10, []byte(" ")), block(true, 0, 2, []byte("{}"))))
	f.Add([]byte("\x80\x04."))
	f.Fuzz(func(t *testing.T, packed []byte) {
		s, err := provenance.ParseSiginfo(bytes.NewReader(packed))
		if err == nil && (!strings.HasPrefix(s.Task, "do_") || len(packed) > provenance.MaxSiginfo) {
			t.Fatalf("accepted task %q", s.Task)
		}
	})
}

// FuzzSiginfoJSON gets past the packing, which a fuzzer rarely does.
func FuzzSiginfoJSON(f *testing.F) {
	f.Add(goodSiginfo)
	f.Add(`{"task":"do_x","runtaskdeps":{"_set_object":[]},"varvals":{"a":1e999}}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := provenance.ParseSiginfo(bytes.NewReader(pack(t, []byte(text))))
		if err != nil {
			return
		}
		for _, hash := range s.RunTaskHashes {
			if strings.Trim(hash, "0123456789abcdef") != "" {
				t.Fatalf("accepted hash %q", hash)
			}
		}
	})
}

func BenchmarkParseSiginfo(b *testing.B) {
	var packed []byte
	for _, content := range sampleSiginfos(b) {
		if len(content) > len(packed) {
			packed = content
		}
	}
	b.SetBytes(int64(len(packed)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := provenance.ParseSiginfo(bytes.NewReader(packed)); err != nil {
			b.Fatal(err)
		}
	}
}
