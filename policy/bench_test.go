package policy

import (
	"fmt"
	"testing"

	"github.com/lychgate/lychgate/authz"
	"github.com/lychgate/lychgate/authz/forge"
)

// BenchmarkEvaluate measures one fresh decision of the shipped default, the input document included.
func BenchmarkEvaluate(b *testing.B) {
	e := newEngine(b, Config{Data: map[string]any{"transitive": false}})
	for _, n := range []int{1, 10, 100} {
		for _, access := range []forge.Access{forge.Read, forge.None} {
			b.Run(fmt.Sprintf("sources=%d/access=%s", n, access), func(b *testing.B) {
				r, f := question(n)
				for i := range f.Sources {
					f.Sources[i].Fact.Access = access
				}
				want := authz.Deny
				if access == forge.Read {
					want = authz.Allow
				}
				b.ReportAllocs()
				for b.Loop() {
					if d, err := e.Evaluate(b.Context(), r, f); err != nil || d.Verdict != want {
						b.Fatal(d, err)
					}
				}
			})
		}
	}
}

// BenchmarkInput measures the input document alone.
func BenchmarkInput(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("sources=%d", n), func(b *testing.B) {
			in := newInputs()
			r, f := question(n)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := in.document(&r, f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLoad measures the start: the embedded bundle parsed, compiled and analysed.
func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := New(Config{}); err != nil {
			b.Fatal(err)
		}
	}
}
