package audit

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// segment is one file of the journal, "audit-GENERATION-FIRST.log".
//
// FIRST is the sequence number of its first line. GENERATION counts how often the journal had to give up a segment whose state on
// disk it could not trust: the segment of the next generation holds again every line that was not known to be durable, and
// takes the place of everything that earlier generations hold from its FIRST on. File names sort in reading order.
type segment struct {
	name  string
	gen   uint32
	first uint64
	limit uint64 // lines from this one on are superseded by a later generation
}

const (
	lockName   = "audit.lock"
	tempSuffix = ".tmp"
)

func segmentName(gen uint32, first uint64) string {
	return fmt.Sprintf("audit-%06d-%020d.log", gen, first)
}

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(name string) (segment, bool) {
	middle, ok := strings.CutPrefix(name, "audit-")
	middle, ok2 := strings.CutSuffix(middle, ".log")
	g, f, ok3 := strings.Cut(middle, "-")
	gen, err := strconv.ParseUint(g, 10, 32)
	first, err2 := strconv.ParseUint(f, 10, 64)
	s := segment{name: name, gen: uint32(gen), first: first, limit: math.MaxUint64}
	return s, ok && ok2 && ok3 && err == nil && err2 == nil && first > 0 && segmentName(s.gen, first) == name
}

// segments lists the segments of dir in reading order, without those that a later generation holds entirely.
func segments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("list audit directory: %w", err)
	}
	var all []segment
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, "audit-") || !strings.HasSuffix(name, ".log") {
			continue
		}
		s, ok := parseSegmentName(name)
		if !ok {
			return nil, fmt.Errorf("audit directory %q: %q is not the name of a segment: move it out of the directory", dir, name)
		}
		all = append(all, s)
	}
	return supersede(all), nil
}

// supersede sets the limits and drops what lies beyond them.
func supersede(all []segment) []segment {
	limit := uint64(math.MaxUint64)
	for i := len(all) - 1; i >= 0; i-- {
		if i+1 < len(all) && all[i+1].gen > all[i].gen {
			limit = min(limit, all[i+1].first)
		}
		all[i].limit = limit
	}
	return slices.DeleteFunc(all, func(s segment) bool { return s.first >= s.limit })
}
