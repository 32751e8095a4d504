package client

import (
	"fmt"
	"slices"
	"testing"
)

// BenchmarkDerive derives a cache of 2,000 recipes, each built with ten others: 8,000 siginfos.
func BenchmarkDerive(b *testing.B) {
	const recipes = 2000
	var tasks [][]task
	for i := range recipes {
		var uses []string
		for j := 1; j <= 10 && i-j*j >= 0; j++ {
			uses = append(uses, fmt.Sprintf("r%d:populate_sysroot=s%04d", i-j*j, i-j*j))
		}
		tasks = append(tasks, chain(fmt.Sprintf("r%d", i), fmt.Sprintf("%04d", i), git(fmt.Sprintf("team/r%d", i)), rev1, uses...))
	}
	cache := cacheOf(b, slices.Concat(tasks...)...)
	for b.Loop() {
		d, err := Derive(b.Context(), cache, DeriveOptions{})
		if err != nil || len(d.Builds) != recipes {
			b.Fatalf("%d builds, %v", len(d.Builds), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/(4*recipes), "us/siginfo")
}

// BenchmarkDeriveSample derives the real cache, from a directory.
func BenchmarkDeriveSample(b *testing.B) {
	dir := sampleDir(b)
	if dir == "" {
		return
	}
	cache, err := OpenDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer cache.Close()
	for b.Loop() {
		if _, err := Derive(b.Context(), cache, DeriveOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
