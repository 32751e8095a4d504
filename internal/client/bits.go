package client

import bits64 "math/bits"

// bits is a set of small numbers. Its zero value is empty.
type bits []uint64

func (b *bits) set(i int) {
	for len(*b) <= i/64 {
		*b = append(*b, 0)
	}
	(*b)[i/64] |= 1 << (i % 64)
}

func (b bits) has(i int) bool { return i/64 < len(b) && b[i/64]&(1<<(i%64)) != 0 }

func (b bits) clone() bits { return append(bits(nil), b...) }

func (b *bits) add(other bits) {
	for len(*b) < len(other) {
		*b = append(*b, 0)
	}
	for i, word := range other {
		(*b)[i] |= word
	}
}

// renumbered returns the set with each member i replaced by to[i].
func (b bits) renumbered(to []int) bits {
	var out bits
	for i := range to {
		if b.has(i) {
			out.set(to[i])
		}
	}
	return out
}

// count returns the number of members.
func (b bits) count() int {
	n := 0
	for _, word := range b {
		n += bits64.OnesCount64(word)
	}
	return n
}

// components returns the strongly connected components of a graph of n nodes, each after those it leads to (Tarjan).
func components(n int, next func(int32) []int32) [][]int32 {
	t := tarjan{next: next, order: make([]int32, n), low: make([]int32, n), on: make([]bool, n)}
	for v := range int32(n) {
		if t.order[v] == 0 {
			t.visit(v)
		}
	}
	return t.found
}

type tarjan struct {
	next  func(int32) []int32
	count int32
	order []int32 // 0: not visited
	low   []int32
	on    []bool // on the stack
	stack []int32
	found [][]int32
}

func (t *tarjan) visit(v int32) {
	t.count++
	t.order[v], t.low[v] = t.count, t.count
	t.stack = append(t.stack, v)
	t.on[v] = true
	for _, w := range t.next(v) {
		if t.order[w] == 0 {
			t.visit(w)
			t.low[v] = min(t.low[v], t.low[w])
		} else if t.on[w] {
			t.low[v] = min(t.low[v], t.order[w])
		}
	}
	if t.low[v] != t.order[v] {
		return
	}
	var members []int32
	for {
		w := t.stack[len(t.stack)-1]
		t.stack = t.stack[:len(t.stack)-1]
		t.on[w] = false
		members = append(members, w)
		if w == v {
			break
		}
	}
	t.found = append(t.found, members)
}
