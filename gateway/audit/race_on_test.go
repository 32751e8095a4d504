//go:build race

package audit

// raceEnabled: the race detector makes sync.Pool drop buffers at random.
const raceEnabled = true
