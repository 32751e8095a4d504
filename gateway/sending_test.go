package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// sending is a request that has sent a part of an object and keeps quiet.
type sending struct {
	body   *io.PipeWriter
	status chan int // 0 when the request fails
}

// send sends the first bytes of object 0 of an upload, and returns once the gate holds some.
func send(t *testing.T, u *gwtest.User, id string, content []byte) *sending {
	t.Helper()
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("%s/v1/uploads/%s/0", u.Gate.URL, id), r)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("user", u.Token)
	req.Header.Set("Upload-Offset", "0")
	s := &sending{body: w, status: make(chan int, 1)}
	go func() {
		res, err := u.HTTP.Do(req)
		if err != nil {
			s.status <- 0
			return
		}
		res.Body.Close()
		s.status <- res.StatusCode
	}()
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.CloseWithError(io.ErrUnexpectedEOF) })
	return s
}

// TestUploadAnswersWhileBytesMove: a request that sends an object, however slowly, keeps nobody from asking for its upload, from
// removing it, or from sending other objects; only the object itself is its own.
func TestUploadAnswersWhileBytesMove(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	ci := g.As("ci")
	o, other := object("hello", noise(6, 2<<20)), object("other", []byte("other"))
	up := begin(t, ci, "main", o, other)
	ctx, cancel := context.WithTimeout(t.Context(), patience/2) // a gate that waits for the sender would wait for ever
	defer cancel()
	slow := send(t, ci, up.ID, o.Content[:1<<20])
	eventually(t, "the gate tells of the bytes that came", func() bool {
		now, err := ci.Client().Upload(ctx, up.ID)
		if err != nil {
			t.Fatal(err)
		}
		return now.Objects[0].Offset >= 512<<10 && now.Objects[0].State == "needed"
	})
	held, err := ci.Client().Upload(ctx, up.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int{0, int(held.Objects[0].Offset)} {
		if res := stage(ci, up.ID, 0, off, o.Content[off:]); res.StatusCode != http.StatusConflict {
			t.Errorf("a second sender at %d: %d", off, res.StatusCode)
		}
	}
	if res := stage(ci, up.ID, 1, 0, other.Content); res.StatusCode != http.StatusNoContent {
		t.Errorf("another object meanwhile: %d", res.StatusCode)
	}
	st := statement(g, "main", []gwtest.Object{o, other}, publicSource)
	st.UploadID = up.ID
	if code, _, _ := commit(ci, up.ID, g.Seal(st)); code != http.StatusConflict {
		t.Errorf("a commit before all is there: %d", code)
	}
	if _, err := slow.body.Write(o.Content[1<<20:]); err != nil {
		t.Fatal(err)
	}
	slow.body.Close()
	if status := <-slow.status; status != http.StatusNoContent {
		t.Errorf("the slow sender in the end: %d", status)
	}
	if code, _, failure := commit(ci, up.ID, g.Seal(st)); code != http.StatusCreated {
		t.Errorf("commit: %d %+v", code, failure)
	}
	reads(t, g.As("bob"), mount+o.Name, o.Content)
}

// TestUploadRemovedWhileBytesMove: DELETE does not wait for who is sending, whose bytes then belong to nothing.
func TestUploadRemovedWhileBytesMove(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{})
	ci, o := g.As("ci"), object("hello", noise(6, 2<<20))
	up := begin(t, ci, "main", o)
	ctx, cancel := context.WithTimeout(t.Context(), patience/2)
	defer cancel()
	slow := send(t, ci, up.ID, o.Content[:1<<20])
	eventually(t, "bytes are held", func() bool {
		now, err := ci.Client().Upload(ctx, up.ID)
		return err != nil || now.Objects[0].Offset > 0
	})
	if err := ci.Client().Abandon(ctx, up.ID); err != nil {
		t.Errorf("DELETE: %v", err)
	}
	if res := ci.Get("/v1/uploads/" + up.ID); res.StatusCode != http.StatusNotFound {
		t.Errorf("after DELETE: %d", res.StatusCode)
	}
	_, _ = slow.body.Write(o.Content[1<<20:]) // the gate may have hung up
	slow.body.Close()
	<-slow.status
	st := statement(g, "main", []gwtest.Object{o}, publicSource)
	st.UploadID = up.ID
	if code, _, _ := commit(ci, up.ID, g.Seal(st)); code != http.StatusNotFound {
		t.Errorf("a commit of what was removed: %d", code)
	}
	eventually(t, "nothing is left in staging", func() bool { return files(t, g.Path("staging")) == 0 })
}
