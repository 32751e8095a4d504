package sqldb

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

const (
	// longestSiginfo bounds what a text may come to when it is read.
	longestSiginfo = 64 << 20
	// mostBases is how many texts are remembered as bases of others.
	mostBases = 100_000
	// mostNew is which part of a text may be new, in percent, for it to be kept as a difference.
	mostNew = 40
)

// siginfoText is a text on its way into the tables: compressed, or as its difference to another, compressed. The zero one is none.
type siginfoText struct {
	sum  [32]byte
	body []byte
	base textBase // whose id is 0 unless body is a difference
	full func() []byte
	key  textKey
}

// textKey is whose texts are alike: those of one task of a recipe.
type textKey struct{ zone, recipe, task string }

// textBase is a text that is kept whole. The sum tells it from another that has got its id since.
type textBase struct {
	id  int64
	sum [32]byte
}

// textBases remembers the text kept whole last for each task. After a start it knows none, and then the next text of each task is kept whole.
type textBases struct {
	mu    sync.Mutex // guards known
	known map[textKey]textBase
}

func (b *textBases) get(key textKey) textBase {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known[key]
}

func (b *textBases) put(key textKey, base textBase) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil || len(b.known) >= mostBases {
		b.known = make(map[textKey]textBase)
	}
	b.known[key] = base
}

// compress makes a text what the tables hold. It reads the text that this one will be kept as a difference to, if there is one.
func (h *Hashes) compress(ctx context.Context, zone string, d hashserv.Details) (siginfoText, error) {
	if d.Siginfo == "" {
		return siginfoText{}, nil
	}
	whole := func() []byte { return h.encoder.EncodeAll([]byte(d.Siginfo), nil) }
	t := siginfoText{sum: sha256.Sum256([]byte(d.Siginfo)), key: textKey{zone, d.PN, d.Task}, full: whole}
	if base := h.bases.get(t.key); base.id != 0 && base.sum != t.sum {
		text, err := h.baseText(ctx, base)
		if err != nil {
			return t, err
		}
		if difference, fresh := differ(d.Siginfo, text); text != "" && fresh <= len(d.Siginfo)/100*mostNew {
			t.base, t.body = base, h.encoder.EncodeAll(difference, nil)
			return t, nil
		}
	}
	t.body = whole()
	return t, nil
}

// baseText returns a text that is kept whole, and "" when it is gone.
func (h *Hashes) baseText(ctx context.Context, base textBase) (string, error) {
	var body []byte
	err := h.reads[selectBase].QueryRowContext(ctx, base.id, base.sum[:]).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	text, err := h.decoder.DecodeAll(body, nil)
	return string(text), err
}

// expand undoes compress. base is empty for a text that is kept whole.
func (h *Hashes) expand(sum, body, base []byte) (string, error) {
	if len(body) == 0 {
		return "", nil
	}
	raw, err := h.decoder.DecodeAll(body, nil)
	if err != nil {
		return "", err
	}
	text := string(raw)
	if len(base) > 0 {
		whole, err := h.decoder.DecodeAll(base, nil)
		if err != nil {
			return "", err
		}
		if text, err = apply(raw, string(whole)); err != nil {
			return "", err
		}
	}
	if got := sha256.Sum256([]byte(text)); string(got[:]) != string(sum) {
		return "", errors.New("a text has another digest")
	}
	return text, nil
}

// siginfo returns the id of a text, which it inserts if need be. It is not remembered: texts go when their last row does.
func (w *hashWrite) siginfo(ctx context.Context, t siginfoText) (int64, error) {
	if len(t.body) == 0 {
		return 0, nil
	}
	id, err := w.one(ctx, selectSiginfo, t.sum[:])
	if !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	if t.base.id != 0 {
		n, err := w.one(ctx, hasBase, t.base.id, t.base.sum[:])
		if err != nil {
			return 0, err
		}
		if n == 0 { // removed meanwhile
			t.base, t.body = textBase{}, t.full()
		}
	}
	id, err = w.one(ctx, insertSiginfo, t.sum[:], t.body, t.base.id)
	if err == nil && t.base.id == 0 {
		w.bases.put(t.key, textBase{id, t.sum})
	}
	return id, err
}

// differ describes text by the lines of base: again and again how many lines to take from base and from which on, then what to take literally
// and how long that is. It also returns the length of all that is literal.
func differ(text, base string) (difference []byte, fresh int) {
	known, at := strings.SplitAfter(base, "\n"), make(map[string]int)
	for i, line := range known {
		if _, ok := at[line]; !ok {
			at[line] = i
		}
	}
	offset := 0 // where in text lines begin
	for lines := strings.SplitAfter(text, "\n"); len(lines) > 0; {
		from, run := at[lines[0]], 0
		for run < len(lines) && from+run < len(known) && lines[run] == known[from+run] {
			offset += len(lines[run])
			run++
		}
		lines = lines[run:]
		literal := 0
		for len(lines) > 0 {
			if _, ok := at[lines[0]]; ok {
				break
			}
			literal += len(lines[0])
			lines = lines[1:]
		}
		difference = binary.AppendUvarint(difference, uint64(run))
		difference = binary.AppendUvarint(difference, uint64(from))
		difference = binary.AppendUvarint(difference, uint64(literal))
		difference = append(difference, text[offset:offset+literal]...)
		offset, fresh = offset+literal, fresh+literal
	}
	return difference, fresh
}

// apply undoes differ.
func apply(difference []byte, base string) (string, error) {
	known := strings.SplitAfter(base, "\n")
	var text strings.Builder
	for len(difference) > 0 {
		var numbers [3]uint64
		for i := range numbers {
			n, size := binary.Uvarint(difference)
			if size <= 0 {
				return "", errors.New("a difference is cut short")
			}
			numbers[i], difference = n, difference[size:]
		}
		run, from, literal := numbers[0], numbers[1], numbers[2]
		if count := uint64(len(known)); from > count || run > count-from || literal > uint64(len(difference)) {
			return "", fmt.Errorf("a difference of %d lines takes %d from line %d", len(known), run, from)
		}
		for _, line := range known[from : from+run] {
			text.WriteString(line)
		}
		text.Write(difference[:literal])
		difference = difference[literal:]
		if text.Len() > longestSiginfo {
			return "", errors.New("a text is too long")
		}
	}
	return text.String(), nil
}
