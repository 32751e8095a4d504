package audit

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// childEnv makes the test binary a gate that is to be killed.
const childEnv = "LYCHGATE_AUDIT_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := appendForever(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// appendForever appends with many goroutines and reports each acknowledged line, as its number and a stamp that its event
// carries, on standard output.
func appendForever(dir string) error {
	j, err := Open(Config{Dir: dir, Node: "n1", SegmentBytes: 50_000, FsyncEvery: time.Millisecond})
	if err != nil {
		return err
	}
	go j.Run(context.Background())
	var failed error
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				stamp := rand.Uint64()
				e := &Event{Kind: KindDecision, Action: "read", Decision: Decision{Verdict: "allow"}, Request: fmt.Sprintf("%016x", stamp)}
				seq, err := j.Append(e)
				if err == nil && i%16 == g {
					err = j.Durable(context.Background(), seq)
				}
				if err != nil {
					failed = err
					return
				}
				var ack [16]byte // fits in PIPE_BUF: a report is whole or absent
				binary.LittleEndian.PutUint64(ack[:], seq)
				binary.LittleEndian.PutUint64(ack[8:], stamp)
				if _, err := os.Stdout.Write(ack[:]); err != nil {
					return
				}
				if i%4 != 0 {
					j.Append(&Event{Kind: KindTransfer, Request: e.Request})
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// TestKill kills a writer at random moments, again and again in one directory, and checks after each time that nothing it had
// acknowledged is lost, nothing is there twice, and the whole trail verifies.
func TestKill(t *testing.T) {
	const cycles = 60
	dir := t.TempDir()
	acked := map[uint64]uint64{}
	for range cycles {
		killOnce(t, dir, acked)
		if t.Failed() {
			return
		}
	}
	// A last start writes the gaps of the last kill; then everything is compared at once.
	mustOpen(t, Config{Dir: dir}).Close()
	report := mustVerify(t, dir)
	opened, closed := map[string]bool{}, map[string]int{}
	found := 0
	for _, e := range collect(t, dir, TailOptions{}) {
		if stamp, ok := acked[e.Seq]; ok {
			found++
			if e.Request != fmt.Sprintf("%016x", stamp) {
				t.Fatalf("line %d was acknowledged as %016x and is %s", e.Seq, stamp, e.Request)
			}
		}
		if opensTransfer(&e) {
			opened[e.Request] = true
		}
		if closesTransfer(&e) {
			closed[e.Request]++
		}
	}
	if found != len(acked) {
		t.Fatalf("%d of %d acknowledged lines are in the trail", found, len(acked))
	}
	for r := range opened {
		if closed[r] != 1 {
			t.Fatalf("transfer %s has %d ends", r, closed[r])
		}
	}
	t.Logf("%d cycles, %d acknowledged lines, %d lines in %d segments", cycles, len(acked), report.Events, report.Segments)
}

// killOnce starts a writer, kills it after a random number of acknowledgements and notes them all.
func killOnce(t *testing.T, dir string, acked map[uint64]uint64) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	kill := rand.IntN(300)
	var ack [16]byte
	for n := 0; ; n++ {
		if n == kill {
			_ = cmd.Process.Signal(syscall.SIGKILL)
		}
		if _, err := io.ReadFull(in, ack[:]); err != nil {
			break
		}
		seq := binary.LittleEndian.Uint64(ack[:])
		if _, twice := acked[seq]; twice {
			t.Errorf("line %d was acknowledged twice", seq)
		}
		acked[seq] = binary.LittleEndian.Uint64(ack[8:])
	}
	_ = cmd.Process.Signal(syscall.SIGKILL)
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() == 1 {
		t.Errorf("the writer failed by itself: %v", err)
	}
}
