package client

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/lychgate/lychgate/authz/source"
)

// Report says what a push did. Its lists are sorted.
type Report struct {
	DryRun     bool
	Objects    int       // that the cache holds
	Builds     int       // that they belong to
	Statements int       // that were signed and accepted
	Stored     int       // objects that are new at the gate
	Confirmed  int       // objects that were there with the same bytes, and got this statement too
	Kept       int       // objects whose name keeps other bytes that were there first
	Skipped    int       // objects that the gate already had
	Underived  []Problem // what the gate has is not counted, save in a dry run
	Refused    []Problem
	Notes      []Problem
	Ignored    []Ignored
	Plan       []PlannedBuild // with DryRun only
	Recipes    []RecipeReport // sorted by name
	Bytes      int64          // sent
	Elapsed    time.Duration
}

// PlannedBuild is a build that would be published.
type PlannedBuild struct {
	Recipe  string   `json:"recipe"`
	Objects int      `json:"objects"`
	Sources []string `json:"sources"`
	Inputs  []string `json:"inputs"`
	// Recorded are objects that it used whose sources are not among Inputs: the gate adds what it has on record.
	Recorded []string `json:"recorded,omitempty"`
}

// RecipeReport is what became of the objects of one recipe that could be derived. All its builds are in it.
type RecipeReport struct {
	Recipe    string `json:"recipe"`
	Objects   int    `json:"objects"`
	Bytes     int64  `json:"bytes"`   // of these objects; -1 when the cache does not know their sizes
	Sources   int    `json:"sources"` // direct ones
	Stored    int    `json:"stored"`
	Confirmed int    `json:"confirmed"`
	Kept      int    `json:"kept"`
	Skipped   int    `json:"skipped"`
	Refused   int    `json:"refused"`
}

func newReport(d *Derivation) *Report {
	r := &Report{Objects: d.Objects, Builds: len(d.Builds), Underived: d.Underived, Notes: d.Notes, Ignored: d.Ignored}
	sources := map[string]map[source.Source]bool{}
	for i := range d.Builds {
		b := &d.Builds[i]
		of := r.recipe(b.Recipe)
		for _, o := range b.Objects {
			of.Objects++
			if of.Bytes += o.Size; o.Size < 0 {
				of.Bytes = math.MinInt64 / 2
			}
		}
		if sources[b.Recipe] == nil {
			sources[b.Recipe] = map[source.Source]bool{}
		}
		for _, s := range b.Sources {
			sources[b.Recipe][s] = true
		}
		of.Sources = len(sources[b.Recipe])
	}
	for i := range r.Recipes {
		r.Recipes[i].Bytes = max(r.Recipes[i].Bytes, -1)
	}
	return r
}

// recipe returns the report of a recipe, which it makes if need be. It is good until the next call.
func (r *Report) recipe(name string) *RecipeReport {
	i, ok := slices.BinarySearchFunc(r.Recipes, name, func(of RecipeReport, name string) int { return strings.Compare(of.Recipe, name) })
	if !ok {
		r.Recipes = slices.Insert(r.Recipes, i, RecipeReport{Recipe: name})
	}
	return &r.Recipes[i]
}

// refuse counts objects that the gate did not take.
func (r *Report) refuse(p Problem) {
	r.Refused = append(r.Refused, p)
	r.recipe(p.Recipe).Refused++
}

// plan makes r the report of a dry run.
func (r *Report) plan(d *Derivation) {
	r.DryRun = true
	for _, b := range d.Builds {
		r.Plan = append(r.Plan, PlannedBuild{b.Recipe, len(b.Objects), sourceTexts(b.Sources), sourceTexts(b.Inputs()), b.Recorded})
	}
	if len(r.Underived) > 0 {
		r.Notes = append(r.Notes, Problem{Reason: "a dry run does not ask the gate: what could not be derived may be there already, and is then no fault"})
	}
}

func sourceTexts(list []source.Source) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.String()
	}
	return out
}

func (r *Report) sort() {
	sortProblems(r.Underived)
	sortProblems(r.Refused)
	sortProblems(r.Notes)
	r.Notes = slices.Compact(r.Notes)
}

// ExitCode is what a command that pushed should exit with: 0 when everything is published, 1 when anything was
// refused, 3 when nothing was refused but the sources of some objects that the gate does not have could not be derived, so
// that they were left out.
func (r *Report) ExitCode() int {
	switch {
	case len(r.Refused) > 0:
		return 1
	case len(r.Underived) > 0:
		return 3
	}
	return 0
}

// reportJSON is the layout of WriteJSON.
type reportJSON struct {
	DryRun         bool           `json:"dry_run"`
	Objects        int            `json:"objects"`
	Builds         int            `json:"builds"`
	Statements     int            `json:"statements"`
	Stored         int            `json:"stored"`
	Confirmed      int            `json:"confirmed"`
	Kept           int            `json:"kept"`
	Skipped        int            `json:"skipped"`
	Underived      []Problem      `json:"underived"`
	Refused        []Problem      `json:"refused"`
	Notes          []Problem      `json:"notes"`
	Ignored        []Ignored      `json:"ignored"`
	Recipes        []RecipeReport `json:"recipes"`
	Plan           []PlannedBuild `json:"plan,omitempty"`
	Bytes          int64          `json:"bytes"`
	ElapsedSeconds float64        `json:"elapsed_seconds"`
}

// WriteJSON writes the report as one JSON object, for machines.
func (r *Report) WriteJSON(w io.Writer) error {
	j := reportJSON{
		r.DryRun, r.Objects, r.Builds, r.Statements, r.Stored, r.Confirmed, r.Kept, r.Skipped,
		r.Underived, r.Refused, r.Notes, r.Ignored, r.Recipes, r.Plan, r.Bytes, r.Elapsed.Seconds(),
	}
	return writeJSON(w, j)
}

// writeJSON writes a report as one JSON object.
func writeJSON(w io.Writer, report any) error {
	if err := json.MarshalWrite(w, report, jsontext.WithIndent("  ")); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// shown is how many names the text shows for one reason.
const shown = 3

// WriteText writes the report for people: what happened, then what did not and why.
func (r *Report) WriteText(w io.Writer) error {
	t := &lines{w: w}
	for _, b := range r.Plan {
		t.plan(b)
	}
	for _, of := range r.Recipes {
		t.recipe(of, r.DryRun)
	}
	t.problems("refused", r.Refused)
	t.problems("could not be derived, and was not pushed", r.Underived)
	t.problems("note", r.Notes)
	for _, i := range r.Ignored {
		t.line("ignored %d files: %s (%s)", i.Count, i.Reason, i.Example)
	}
	t.line("%s", r.summary())
	return t.err
}

func (r *Report) summary() string {
	if r.DryRun {
		return fmt.Sprintf("%d objects in %d builds would be pushed; %d could not be derived", r.Objects-len(r.Underived), r.Builds, len(r.Underived))
	}
	text := fmt.Sprintf("%d objects in %d builds: %d stored, %d confirmed, %d kept, %d already there, %d refused, %d not derived; %s sent in %s",
		r.Objects, r.Builds, r.Stored, r.Confirmed, r.Kept, r.Skipped, len(r.Refused), len(r.Underived), byteCount(r.Bytes), r.Elapsed.Round(10*time.Millisecond))
	if r.Kept > 0 {
		text += "\nkept: the name was published before with other bytes, which stay; this statement is stored as evidence"
	}
	return text
}

// byteCount prints bytes in binary units.
func byteCount(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// lines writes lines until one fails.
type lines struct {
	w   io.Writer
	err error
}

func (t *lines) line(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format+"\n", args...)
	}
}

func (t *lines) plan(b PlannedBuild) {
	t.line("%s: %d objects", printable(b.Recipe), b.Objects)
	for _, s := range b.Sources {
		t.line("  built from %s", s)
	}
	for _, s := range b.Inputs {
		if !slices.Contains(b.Sources, s) {
			t.line("  and by inputs from %s", s)
		}
	}
	for _, name := range b.Recorded {
		t.line("  and by what the gate has on record of %s", printable(name))
	}
}

// recipe prints what became of a recipe if anything was done for it, or in a dry run what would be.
func (t *lines) recipe(of RecipeReport, dry bool) {
	size := ""
	if of.Bytes >= 0 {
		size = ", " + byteCount(of.Bytes)
	}
	switch {
	case dry:
		t.line("%s: %d objects%s, %d sources would be pushed", printable(of.Recipe), of.Objects, size, of.Sources)
	case of.Stored+of.Confirmed+of.Kept+of.Refused > 0:
		t.line("%s: %d objects%s, %d sources: %d stored, %d confirmed, %d kept, %d already there, %d refused",
			printable(of.Recipe), of.Objects, size, of.Sources, of.Stored, of.Confirmed, of.Kept, of.Skipped, of.Refused)
	}
}

// problems prints each reason once, with the first few objects or recipes that it concerns.
func (t *lines) problems(what string, list []Problem) {
	byReason := map[string][]Problem{}
	var reasons []string
	for _, p := range list {
		if _, ok := byReason[p.Reason]; !ok {
			reasons = append(reasons, p.Reason)
		}
		byReason[p.Reason] = append(byReason[p.Reason], p)
	}
	for _, reason := range reasons {
		t.group(what, reason, byReason[reason])
	}
}

func (t *lines) group(what, reason string, list []Problem) {
	recipe := list[0].Recipe
	several := slices.ContainsFunc(list, func(p Problem) bool { return p.Recipe != recipe })
	if several || recipe == "" {
		t.line("%s: %s", what, reason)
	} else {
		t.line("%s: %s: %s", what, printable(recipe), reason)
	}
	if !several {
		list = slices.DeleteFunc(list, func(p Problem) bool { return p.Name == "" })
	}
	for _, p := range list[:min(shown, len(list))] {
		t.line("  %s", printable(cmp.Or(p.Name, p.Recipe)))
	}
	if more := len(list) - shown; more > 0 {
		t.line("  and %d more", more)
	}
}
