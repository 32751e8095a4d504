package provenance

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/zstd"
)

// The bounds of a siginfo. A real one has 2 to 30 KiB.
const (
	MaxSiginfo       = 16 << 20 // bytes, unpacked and packed alike
	maxSiginfoWindow = 8 << 20
	maxSiginfoRatio  = 200
	// siginfoFloor is what any siginfo may unpack to: a small, repetitive one may well have a high ratio.
	siginfoFloor = 1 << 20
	maxBlock     = 128 << 10 // bytes that one block of zstd unpacks to (RFC 8878, section 3.1.1.2.4)
)

// ErrOldSiginfo says that a siginfo is a Python pickle, as BitBake wrote it before the release "kirkstone". A pickle is
// a program; it is not run here.
var ErrOldSiginfo = errors.New("siginfo is a Python pickle of a BitBake before kirkstone (2022), which cannot be read safely; build the artifact again with a newer BitBake")

// Siginfo is what BitBake noted of one task: the values its hash was made from. Nothing signs it; it is as
// trustworthy as whoever may write to the cache.
type Siginfo struct {
	Task     string // "do_fetch"
	BaseHash string // of the task's own variables; 64 hex digits, as all hashes here, or empty
	TaskHash string // of those and of what it depends on
	UniHash  string // under which its output is filed
	// RunTaskDeps are the tasks it was run after, "pn:do_task" or "mc:MC:pn:do_task", and RunTaskHashes their unihashes.
	RunTaskDeps   []string
	RunTaskHashes map[string]string
	// VarVals are values of variables, unexpanded. Numbers and booleans stand as JSON writes them; null is left out.
	VarVals       map[string]string
	FileChecksums []FileChecksum
	Taint         string // set when somebody forced the task to run again
}

// FileChecksum is a local file that a task read. Sum is empty for a file that was not there.
type FileChecksum struct{ Name, Sum string }

// siginfoJSON is the part of BitBake's layout that matters here. The format is BitBake's, not ours: it grows with
// releases, so unknown members are let pass. Names still match exactly and may not occur twice anywhere, so that
// Python and we see the same values.
type siginfoJSON struct {
	Task          string                    `json:"task"`
	BaseHash      string                    `json:"basehash"`
	TaskHash      string                    `json:"taskhash"`
	UniHash       string                    `json:"unihash"`
	RunTaskDeps   pythonSet                 `json:"runtaskdeps"`
	RunTaskHashes map[string]string         `json:"runtaskhashes"`
	VarVals       map[string]jsontext.Value `json:"varvals"`
	FileChecksums [][]*string               `json:"file_checksum_values"`
	Taint         string                    `json:"taint"`
}

// pythonSet is a list, or a set as BitBake's encoder writes one: {"_set_object": [...]}.
type pythonSet []string

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (s *pythonSet) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if dec.PeekKind() != '{' {
		return json.UnmarshalDecode(dec, (*[]string)(s))
	}
	var set struct {
		Members []string `json:"_set_object"`
	}
	if err := json.UnmarshalDecode(dec, &set, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	*s = set.Members
	return nil
}

// ParseSiginfo reads a siginfo file: one zstd frame without a dictionary, of compact JSON. Every bound is counted
// here: window at most 8 MiB, output at most 16 MiB and, beyond 1 MiB, 200 times the input. An error that wraps
// [ErrOldSiginfo] means the format before.
func ParseSiginfo(r io.Reader) (*Siginfo, error) {
	s, err := parseSiginfo(r)
	if err != nil {
		return nil, fmt.Errorf("parse siginfo: %w", err)
	}
	return s, nil
}

func parseSiginfo(r io.Reader) (*Siginfo, error) {
	packed, err := io.ReadAll(io.LimitReader(r, MaxSiginfo+1))
	if err != nil {
		return nil, err
	}
	if len(packed) > MaxSiginfo {
		return nil, fmt.Errorf("more than %d bytes", MaxSiginfo)
	}
	if isPickle(packed) {
		return nil, ErrOldSiginfo
	}
	text, err := unpackSiginfo(packed)
	if err != nil {
		return nil, err
	}
	if isPickle(text) {
		return nil, ErrOldSiginfo
	}
	var j siginfoJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, clip(err)
	}
	return j.siginfo()
}

// isPickle knows pickles of protocol 2 and later by their first opcode, PROTO. Neither zstd nor JSON begins so.
func isPickle(data []byte) bool {
	return len(data) >= 2 && data[0] == 0x80 && data[1] >= 2 && data[1] <= 5
}

// unpackSiginfo unpacks within the bounds. The decoder's own memory limit does not bound a stream, so it gets a buffer of
// the size that the blocks can fill, or that we allow, and may not grow it. A stream would cost its whole window as well.
func unpackSiginfo(packed []byte) ([]byte, error) {
	blocks, err := checkFrame(packed)
	if err != nil {
		return nil, err
	}
	limit := min(MaxSiginfo, max(siginfoFloor, maxSiginfoRatio*len(packed)))
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxSiginfoWindow),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	text, err := dec.DecodeAll(packed, make([]byte, 0, min(limit, blocks*maxBlock)))
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || len(text) > limit {
		return nil, fmt.Errorf("%d bytes unpack to more than %d", len(packed), limit)
	}
	return text, err
}

// checkFrame walks one zstd frame (RFC 8878, section 3.1.1) without unpacking it, and asks that it be all there is. It
// returns how many blocks the frame has.
func checkFrame(packed []byte) (blocks int, err error) {
	var h zstd.Header
	if err := h.Decode(packed); err != nil {
		return 0, fmt.Errorf("read zstd frame: %w", err)
	}
	if err := checkHeader(&h); err != nil {
		return 0, err
	}
	blocks, end, err := walkBlocks(packed, h.HeaderSize)
	if err != nil {
		return 0, err
	}
	if h.HasCheckSum {
		end += 4
	}
	switch {
	case end > len(packed):
		return 0, io.ErrUnexpectedEOF
	case end < len(packed):
		return 0, fmt.Errorf("%d bytes follow the zstd frame", len(packed)-end)
	}
	return blocks, nil
}

func checkHeader(h *zstd.Header) error {
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	switch {
	case h.Skippable:
		return errors.New("the zstd frame is a skippable one")
	case h.DictionaryID != 0:
		return errors.New("the zstd frame asks for a dictionary")
	case window > maxSiginfoWindow:
		return fmt.Errorf("the zstd frame asks for a window of %d bytes, at most %d are allowed", window, maxSiginfoWindow)
	case h.HasFCS && h.FrameContentSize > MaxSiginfo:
		return fmt.Errorf("the zstd frame announces %d bytes, at most %d are allowed", h.FrameContentSize, MaxSiginfo)
	}
	return nil
}

// walkBlocks counts the blocks and returns where the last one ends. A block header is 3 bytes, little endian: last
// (1 bit), type (2), size (21). A block of type RLE has one byte whatever its size.
func walkBlocks(packed []byte, at int) (blocks, end int, err error) {
	for {
		if at+3 > len(packed) {
			return 0, 0, io.ErrUnexpectedEOF
		}
		header := int(packed[at]) | int(packed[at+1])<<8 | int(packed[at+2])<<16
		last, kind, size := header&1 == 1, header>>1&3, header>>3
		const rle, reserved = 1, 3
		switch kind {
		case rle:
			size = 1
		case reserved:
			return 0, 0, errors.New("the zstd frame holds a block of a reserved type")
		}
		if at += 3 + size; at > len(packed) {
			return 0, 0, io.ErrUnexpectedEOF
		}
		blocks++
		if last {
			return blocks, at, nil
		}
	}
}

func (j *siginfoJSON) siginfo() (*Siginfo, error) {
	s := &Siginfo{
		Task: j.Task, BaseHash: j.BaseHash, TaskHash: j.TaskHash, UniHash: j.UniHash,
		RunTaskDeps: j.RunTaskDeps, RunTaskHashes: j.RunTaskHashes, VarVals: make(map[string]string, len(j.VarVals)), Taint: j.Taint,
	}
	for name, raw := range j.VarVals {
		switch raw.Kind() {
		case 'n':
		case '0', 't', 'f':
			s.VarVals[name] = string(raw)
		case '"':
			var text string
			if err := json.Unmarshal(raw, &text); err != nil {
				return nil, fmt.Errorf("varvals %.80q: %w", name, err)
			}
			s.VarVals[name] = text
		default:
			return nil, fmt.Errorf("varvals %.80q: neither a text nor a number", name)
		}
	}
	for _, pair := range j.FileChecksums {
		if len(pair) != 2 || pair[0] == nil {
			return nil, errors.New("file_checksum_values: an entry is not a name and a sum")
		}
		f := FileChecksum{Name: *pair[0]}
		if pair[1] != nil {
			f.Sum = *pair[1]
		}
		s.FileChecksums = append(s.FileChecksums, f)
	}
	return s, s.check()
}

// check keeps what becomes part of a file name later to what BitBake writes there.
func (s *Siginfo) check() error {
	if task, ok := strings.CutPrefix(s.Task, "do_"); !ok || !isWord(task) {
		return fmt.Errorf("task %.80q is not the name of a task", s.Task)
	}
	for name, hash := range map[string]string{"basehash": s.BaseHash, "taskhash": s.TaskHash, "unihash": s.UniHash} {
		if hash != "" && !isHex(hash, 64) {
			return fmt.Errorf("%s %.80q is not 64 hex digits", name, hash)
		}
	}
	for _, dep := range s.RunTaskDeps {
		if _, _, ok := SplitTask(dep); !ok {
			return fmt.Errorf("runtaskdeps: %.200q is not a recipe and a task", dep)
		}
	}
	for dep, hash := range s.RunTaskHashes {
		if _, _, ok := SplitTask(dep); !ok {
			return fmt.Errorf("runtaskhashes: %.200q is not a recipe and a task", dep)
		}
		if !isHex(hash, 64) {
			return fmt.Errorf("runtaskhashes: %.80q is not 64 hex digits", hash)
		}
	}
	return nil
}

// SplitTask parts "pn:do_task" or "mc:MC:pn:do_task" into the recipe, multiconfig prefix included, and the task without
// "do_", as sstate names hold it.
func SplitTask(dep string) (recipe, task string, ok bool) {
	i := strings.LastIndex(dep, ":do_")
	if i <= 0 || !isWord(dep[i+4:]) || !utf8.ValidString(dep) {
		return "", "", false
	}
	for _, c := range []byte(dep[:i]) {
		if c <= ' ' || c == 0x7f {
			return "", "", false
		}
	}
	return dep[:i], dep[i+4:], true
}

// isWord says that s is letters, digits and '_', which is all that the name of a task can hold.
func isWord(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return s != ""
}
