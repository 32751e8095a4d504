package sqldb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

func TestDifferencesApply(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.Custom(func(t *rapid.T) string {
			lines := rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b", "c", "long line", "ü"}), 0, 12).Draw(t, "lines")
			return strings.Join(lines, "\n")
		})
		from, to := text.Draw(t, "from"), text.Draw(t, "to")
		difference, fresh := differ(to, from)
		got, err := apply(difference, from)
		if err != nil || got != to || fresh > len(to) || from == to && fresh != 0 {
			t.Fatalf("%q from %q: %q, %d, %v", to, from, got, fresh, err)
		}
		// A damaged one is refused or gives another text, and harms nothing.
		if at := rapid.IntRange(0, len(difference)).Draw(t, "cut"); at < len(difference) {
			if got, err := apply(difference[:at], from); err == nil && len(got) > len(to) {
				t.Fatalf("cut short: %q", got)
			}
			spoilt := slices.Clone(difference)
			spoilt[at] ^= rapid.Byte().Draw(t, "bits")
			apply(spoilt, from)
		}
	})
}

// Texts of one task of a recipe are kept as differences to the first, which stays as long as one of them does.
func TestHashTextsAreDifferences(t *testing.T) {
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	z := h.Zone("main")
	report := func(n int, text string) {
		t.Helper()
		r := hxReport(n)
		r.PN, r.Siginfo = "zlib", text
		hxReported(t, z, r)
	}
	counts := func(whole, differences int64) {
		t.Helper()
		if a, b := hxCount(t, h, "SELECT count(*) FROM siginfos WHERE base = 0"), hxCount(t, h, "SELECT count(*) FROM siginfos WHERE base <> 0"); a != whole || b != differences {
			t.Fatalf("%d whole texts and %d differences, want %d and %d", a, b, whole, differences)
		}
	}
	remove := func(n int) {
		t.Helper()
		if got, err := z.Remove(t.Context(), hashserv.Where{"outhash": hxHex("out", n)}); err != nil || got != 1 {
			t.Fatalf("removed %d, %v", got, err)
		}
	}
	report(0, hxSiginfo(1, 0))
	report(1, hxSiginfo(1, 1))
	report(2, hxSiginfo(1, 2))
	counts(1, 2)
	if small, large := hxCount(t, h, "SELECT max(length(body)) FROM siginfos WHERE base <> 0"), hxCount(t, h, "SELECT length(body) FROM siginfos WHERE base = 0"); small > large/4 {
		t.Errorf("a difference of %d bytes to a text of %d", small, large)
	}
	remove(0)
	counts(1, 2)
	for n := 1; n <= 2; n++ {
		row, err := z.Outhash(t.Context(), hashserv.Query{Method: hxMethod, Outhash: hxHex("out", n)})
		if err != nil || row.Siginfo != hxSiginfo(1, n) {
			t.Fatalf("text %d: %v", n, err)
		}
	}
	report(3, hxSiginfo(1, 0)) // the text of the first again
	counts(1, 2)
	remove(1)
	remove(2)
	counts(1, 0)
	report(4, hxSiginfo(2, 0)) // unlike it
	counts(2, 0)
	remove(3)
	remove(4)
	counts(0, 0)
	// The base is remembered, but gone.
	report(5, hxSiginfo(2, 1))
	report(6, hxSiginfo(2, 2))
	counts(1, 1)
	remove(5)
	remove(6)
	counts(0, 0)
}

// A base that goes between the making of a difference and its writing is noticed.
func TestHashTextWhoseBaseGoes(t *testing.T) {
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	z := h.Zone("main")
	r := hxReport(0)
	r.Siginfo = hxSiginfo(1, 0)
	hxReported(t, z, r)
	d := r.Details
	d.Siginfo = hxSiginfo(1, 1)
	text, err := h.compress(t.Context(), "main", d)
	if err != nil || text.base.id == 0 {
		t.Fatalf("%+v, %v", text.base, err)
	}
	hxExec(t, hxFile(t, h), "DELETE FROM outhashes")
	other := hxReport(1)
	other.PN, other.Siginfo = "other", "takes the id"
	hxReported(t, z, other)
	if err := h.write(t.Context(), func(ctx context.Context, w *hashWrite) error {
		_, err := w.report(ctx, "main", hxReport(2), text, 1)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	row, err := z.Outhash(t.Context(), hashserv.Query{Method: hxMethod, Outhash: hxHex("out", 2)})
	if err != nil || row.Siginfo != d.Siginfo {
		t.Fatal(row, err)
	}
}

// A text that is not what was reported is not passed off for it.
func TestHashTextThatIsDamaged(t *testing.T) {
	h := hxOpen(t, HashesConfig{Path: hxPath(t)})
	z := h.Zone("main")
	r := hxReport(0)
	r.Siginfo = "one"
	hxReported(t, z, r)
	for _, body := range []string{"x'00'", fmt.Sprintf("x'%x'", h.encoder.EncodeAll([]byte("two"), nil))} {
		hxExec(t, hxFile(t, h), "UPDATE siginfos SET body = "+body)
		if row, err := z.Outhash(t.Context(), hashserv.Query{Method: hxMethod, Outhash: r.Outhash}); err == nil {
			t.Errorf("%s: %v", body, row)
		}
	}
}
