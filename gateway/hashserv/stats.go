package hashserv

import (
	"math"
	"sync"
	"time"
)

// Stats is what the command get-stats tells: how many requests were answered, each line of a stream being one, and the seconds that
// this took.
type Stats struct {
	Requests int64   `json:"num"`
	Total    float64 `json:"total_time"`
	Max      float64 `json:"max_time"`
	Average  float64 `json:"average"`
	Stdev    float64 `json:"stdev"`
}

// counters add up requests. A batch is counted as so many requests of equal length.
type counters struct {
	mu      sync.Mutex // guards all below, together: an average of halves would be wrong
	n       int64
	total   float64 // seconds
	squares float64
	max     float64
}

func (c *counters) add(n int, took time.Duration) {
	each := took.Seconds() / float64(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += int64(n)
	c.total += took.Seconds()
	c.squares += each * each * float64(n)
	c.max = max(c.max, each)
}

// read returns the numbers, and begins again if reset says so.
func (c *counters) read(reset bool) Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{Requests: c.n, Total: c.total, Max: c.max}
	if c.n > 0 {
		s.Average = c.total / float64(c.n)
	}
	if c.n > 1 {
		s.Stdev = math.Sqrt(max(0, c.squares-c.total*s.Average) / float64(c.n-1))
	}
	if reset {
		c.n, c.total, c.squares, c.max = 0, 0, 0, 0
	}
	return s
}
