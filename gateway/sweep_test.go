package gateway

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// TestSweepWaitsForNobody: uploads that have expired are removed although others, which have expired too, are being sent or
// committed; one that is being committed is left to the next sweep.
func TestSweepWaitsForNobody(t *testing.T) {
	var age atomic.Int64
	start := time.Now()
	s, err := openStaging(t.TempDir(), Limits{OpenUploads: 10}, func() time.Time { return start.Add(time.Duration(age.Load())) })
	if err != nil {
		t.Fatal(err)
	}
	made := make([]*upload, 3)
	for i := range made {
		made[i], err = s.begin(uploadMeta{
			ID: newUploadID(), Kind: begun, Owner: "forge/ci", Zone: "main", Expires: start.Add(time.Hour), Objects: []stagedEntry{{Name: fmt.Sprint(i), Size: 1 << 20}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	idle, sent, committed := made[0], made[1], made[2]
	r, w := io.Pipe()
	received := make(chan struct{})
	go func() {
		defer close(received)
		_, _ = sent.objects[0].receive(r, 0, 1<<20, s.room)
	}()
	if _, err := w.Write(make([]byte, 1000)); err != nil { // returns when it is read
		t.Fatal(err)
	}
	committed.mu.Lock()
	age.Store(int64(2 * time.Hour))

	swept := make(chan struct{})
	go func() { s.sweep(); close(swept) }()
	select {
	case <-swept:
	case <-time.After(10 * time.Second):
		t.Error("the sweep waits")
	}
	for name, u := range map[string]*upload{"idle": idle, "being sent": sent} {
		if _, err := os.Stat(u.dir); !os.IsNotExist(err) {
			t.Errorf("the upload that is %s is still there: %v", name, err)
		}
	}
	if _, err := os.Stat(committed.dir); err != nil {
		t.Errorf("the upload that is being committed: %v", err)
	}
	committed.mu.Unlock()
	<-swept
	s.sweep()
	if _, err := os.Stat(committed.dir); !os.IsNotExist(err) {
		t.Errorf("the upload that was being committed is still there: %v", err)
	}
	w.Close()
	<-received
}
