package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	longestStart = 3 * time.Second
	mostResident = 300 // bytes per record
)

// measureStart runs the benchmark that internal/sqldb has of opening a database of a million records.
func measureStart(ctx context.Context, w *world) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute) // the first run on a machine makes the database
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkStart$", "-benchtime", strconv.Itoa(w.rounds)+"x", "./internal/sqldb")
	text, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	values, err := benchmarkValues(text, "BenchmarkStart")
	if err != nil {
		return nil, err
	}
	took := time.Duration(values["ns/op"])
	resident := values["resident-B/record"]
	return []row{
		{work: "start with 1,000,000 records", gate: fmt.Sprintf("%.2f s", took.Seconds()), target: "< 3 s", met: verdict(took < longestStart)},
		{
			work: "memory for 1,000,000 records, resident", gate: fmt.Sprintf("%.0f B each", resident), target: "≤ 300 B each",
			met: verdict(resident <= mostResident),
		},
	}, nil
}

// benchmarkValues reads the line of one benchmark: its name, how often it ran, then pairs of a value and a unit.
func benchmarkValues(text []byte, name string) (map[string]float64, error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || strings.TrimRight(fields[0], "-0123456789") != name {
			continue
		}
		values := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", lines.Text(), err)
			}
			values[fields[i+1]] = v
		}
		return values, nil
	}
	return nil, fmt.Errorf("no result of %s in %q", name, text)
}
