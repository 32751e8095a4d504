// Package lychgate holds no code. It is where the tests stand that look at the whole tree: who may import whom
// (deps_test.go), and whether the documentation says what is so (docs_test.go).
package lychgate
