package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// results are those of all suites that were run.
type results map[suite]outcomes

// tests are the names of all tests.
func (r results) tests() (list []string) {
	for _, all := range r {
		list = append(list, all.names()...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// write prints a table of tests and transports for each configuration. A cell has what each subject came to, in their order.
func (r results) write(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var names []string
	for _, s := range subjects() {
		names = append(names, s.String())
	}
	for _, c := range configurations() {
		if !slices.ContainsFunc(r.suites(), func(s suite) bool { return s.configuration == c }) {
			continue
		}
		fmt.Fprintf(table, "\n%s: %s (- is not run)\n", c, strings.Join(names, " / "))
		heads := []string{"test"}
		for _, t := range transports() {
			heads = append(heads, string(t))
		}
		fmt.Fprintln(table, strings.Join(heads, "\t"))
		for _, test := range r.tests() {
			cells := []string{strings.TrimPrefix(test, "test_")}
			for _, t := range transports() {
				cells = append(cells, r.cell(c, t, test))
			}
			fmt.Fprintln(table, strings.Join(cells, "\t"))
		}
	}
	return table.Flush()
}

func (r results) cell(c configuration, t transport, test string) string {
	var parts []string
	for _, s := range subjects() {
		all, ok := r[suite{s, c, t}]
		if !ok {
			parts = append(parts, "-")
			continue
		}
		parts = append(parts, all[test].String())
	}
	return strings.Join(parts, " / ")
}

// judge lists every difference from the reference with its reason. A gate that passes what the reference does not is no difference to
// be excused. wss, which the reference has not, is compared with its ws.
func (r results) judge(w io.Writer) error {
	var faults []error
	used := map[string]bool{}
	fmt.Fprintln(w)
	for _, name := range r.suites() {
		base := r.baseline(name)
		if name.subject == reference || base == nil {
			continue
		}
		for _, test := range r.tests() {
			got := r[name][test]
			if !base[test].passed() || got.passed() {
				continue
			}
			key, reason := excuse(name, test)
			if reason == "" {
				faults = append(faults, fmt.Errorf("%s: %s: %s, and the reference passes: %s", name, test, got, got.brief()))
				continue
			}
			used[key] = true
			fmt.Fprintf(w, "%s: %s: %s, since %s\n", name, test, got, reason)
		}
	}
	if r.complete() {
		for key := range reasons() {
			if !used[key] {
				faults = append(faults, fmt.Errorf("the reason for %q is wanted no more: all of it passes", key))
			}
		}
	}
	return errors.Join(faults...)
}

func (r results) suites() (list []suite) {
	for name := range r {
		list = append(list, name)
	}
	slices.SortFunc(list, func(a, b suite) int { return strings.Compare(a.String(), b.String()) })
	return list
}

// baseline is what the reference came to where name was run, nil when it was not.
func (r results) baseline(name suite) outcomes {
	t := name.transport
	if t == wss {
		t = ws
	}
	return r[suite{reference, name.configuration, t}]
}

// complete reports whether every suite was run.
func (r results) complete() bool {
	n := 0
	for _, s := range subjects() {
		n += len(s.transports())
	}
	return len(r) == n*len(configurations())
}

// reasons are why a test that the reference passes may fail, by the subject and the test: "gate test_x", "proxy test_x".
func reasons() map[string]string {
	return map[string]string{
		"proxy test_auth_is_owner": "the server behind a gate keeps as the owner of a report whoever signed in there, which is the gate",
	}
}

// excuse returns the reason for which a test may fail.
func excuse(name suite, test string) (key, reason string) {
	key = name.subject.String() + " " + test
	return key, reasons()[key]
}
