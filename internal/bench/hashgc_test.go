package main

import (
	"testing"

	"github.com/lychgate/lychgate/gateway/hashserv"
)

// TestGCReports: what is asked for is kept, half of all goes, and no two tasks are the same.
func TestGCReports(t *testing.T) {
	const n = objects + 1000
	seen := map[hashserv.Task]bool{}
	old := 0
	for i := range n {
		r := gcReport(i)
		if seen[r.Task] {
			t.Fatalf("report %d is of a task that is there", i)
		}
		seen[r.Task] = true
		if r.Unihash.String() != r.Taskhash {
			t.Fatalf("report %d maps %s to %s", i, r.Taskhash, r.Unihash)
		}
		if r.Method == oldMethod {
			old++
		}
	}
	if want := (n - objects) / 2; old != want {
		t.Errorf("%d of %d go, want %d", old, n, want)
	}
	for i := range objects {
		if !seen[hashserv.Task{Method: hashMethod, Taskhash: objectHash("small", i)}] {
			t.Fatalf("small object %d is not there to be asked for", i)
		}
	}
}

// TestWithoutBitBake: without a checkout the reference is left out, and it is said what it needs.
func TestWithoutBitBake(t *testing.T) {
	h := newHashServers(&world{}, "", make([]string, 5))
	if h.reference.lacks == "" || h.referenceWeb.lacks == "" || h.gate.lacks != "" {
		t.Errorf("%q, %q, %q", h.reference.lacks, h.referenceWeb.lacks, h.gate.lacks)
	}
	w := &world{servers: &servers{hash: h}}
	if r := took("burst", h.reference, map[string]turns{}, h.gate); r.figure != "not installed" {
		t.Error(r)
	}
	if got := w.hashOrder(h.gateTLS, "get-stream x {NAME}", func(*load) {}).order.Hash.Path; got != "/hash/main" {
		t.Error(got)
	}
}
