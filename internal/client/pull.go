package client

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lychgate/lychgate/authz/artifact"
)

// PullOptions says what is fetched, and where to.
type PullOptions struct {
	Zone string
	// Dir is where objects go, under their names: the SSTATE_DIR of a build, which may be running. It is made when it is absent.
	Dir string
	// Names are objects that are wanted.
	Names []string
	// Hashes, of 64 hex digits each, are those that objects are published under whose names are not known.
	Hashes []string
	// Jobs is how many objects are downloaded at once; 0 is 8.
	Jobs     int
	DryRun   bool     // ask what is there, and download nothing
	Progress Progress // nil for none
}

// Pulled says what a pull did. Its lists are sorted.
type Pulled struct {
	DryRun         bool      `json:"dry_run"`
	Wanted         int       `json:"wanted"`  // names that were asked for or found by their hash, with their siginfo files
	Local          int       `json:"local"`   // of them, in the directory before
	Missing        int       `json:"missing"` // of them, not at the gate or not for the asker
	Pulled         int       `json:"pulled"`  // or, in a dry run, would be
	Bytes          int64     `json:"bytes"`
	Failed         []Problem `json:"failed"`
	ElapsedSeconds float64   `json:"elapsed_seconds"`
}

// ErrNothingWanted says that a pull was asked for no object.
var ErrNothingWanted = errors.New("no object is wanted: give names, or hashes in stamps or locked signatures")

// Pull fetches into a directory what a build will want, as far as it is there for the asker. An object appears whole and verified, with its
// siginfo file before it, or not at all. A pull that was broken off is begun again: what is there is left alone. The error is about the whole;
// what became of single objects is in what is returned, with an error too.
func (c *Client) Pull(ctx context.Context, o PullOptions) (*Pulled, error) {
	began := time.Now()
	if o.Progress == nil {
		o.Progress = silence{}
	}
	p := &pull{PullOptions: o, client: c}
	p.out.DryRun = o.DryRun
	err := p.run(ctx)
	sortProblems(p.out.Failed)
	p.out.Bytes, p.out.ElapsedSeconds = p.bytes.Load(), time.Since(began).Seconds()
	return &p.out, err
}

type pull struct {
	PullOptions
	client *Client
	root   *os.Root
	bytes  atomic.Int64

	mu  sync.Mutex // guards out while objects are fetched
	out Pulled
}

func (p *pull) run(ctx context.Context) error {
	wanted, err := p.wanted(ctx)
	if err != nil {
		return err
	}
	if p.out.Wanted = len(wanted); len(wanted) == 0 {
		return ErrNothingWanted
	}
	if !p.DryRun {
		if err := os.MkdirAll(p.Dir, 0o777); err != nil {
			return err
		}
	}
	switch p.root, err = os.OpenRoot(p.Dir); {
	case err == nil:
		defer p.root.Close()
	case !p.DryRun || !errors.Is(err, fs.ErrNotExist):
		return err
	}
	wanted = slices.DeleteFunc(wanted, p.isLocal)
	p.out.Local = p.out.Wanted - len(wanted)
	present, err := p.client.Presence(ctx, p.Zone, wanted)
	if err != nil {
		return err
	}
	var there []string
	for i, name := range wanted {
		if present[i] {
			there = append(there, name)
		}
	}
	p.out.Missing = len(wanted) - len(there)
	if p.DryRun {
		p.out.Pulled = len(there)
		return nil
	}
	if err := p.makeRoom(); err != nil {
		return err
	}
	defer p.root.Remove(pullRoom) // unless another pull is under way
	return p.fetchAll(ctx, there)
}

const (
	// pullRoom is where objects are until they are whole.
	pullRoom = ".lychgate-pull"
	// pullAbandoned is how old one is there when no pull writes it any more.
	pullAbandoned = 24 * time.Hour
)

// makeRoom makes the place for objects under way, and removes what pulls that were killed left there.
func (p *pull) makeRoom() error {
	if err := p.root.MkdirAll(pullRoom, 0o777); err != nil {
		return err
	}
	entries, err := fs.ReadDir(p.root.FS(), pullRoom)
	for _, entry := range entries {
		info, gone := entry.Info()
		if gone == nil && time.Since(info.ModTime()) > pullAbandoned {
			_ = p.root.Remove(filepath.Join(pullRoom, entry.Name())) // another pull may have been faster
		}
	}
	return err
}

// wanted returns the names of all objects, each archive with its siginfo file, in an order that has those beside each other.
func (p *pull) wanted(ctx context.Context) ([]string, error) {
	byHash, err := p.client.Names(ctx, p.Zone, p.Hashes)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, name := range slices.Concat(p.Names, byHash) {
		ref, err := artifact.ParseName(artifact.Zone{Name: p.Zone}, name)
		if err != nil {
			return nil, fmt.Errorf("%s is no object's name: %w", printable(name), err)
		}
		all = append(all, ref.Name())
		if ref.Part == artifact.Payload {
			all = append(all, ref.Name()+".siginfo")
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

func (p *pull) isLocal(name string) bool {
	if p.root == nil {
		return false
	}
	info, err := p.root.Stat(name)
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// fetchAll downloads. An archive comes after its siginfo file, so that a build which finds the one finds the other.
func (p *pull) fetchAll(ctx context.Context, names []string) error {
	p.Progress.Start("pulling", int64(len(names)), "objects")
	defer p.Progress.Finish()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cmp.Or(p.Jobs, 8))
	for len(names) > 0 {
		some := names[:1]
		if len(names) > 1 && names[1] == names[0]+".siginfo" {
			some = []string{names[1], names[0]}
		}
		names = names[len(some):]
		group.Go(func() error {
			for _, name := range some {
				if err := p.fetch(ctx, name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// fetch downloads one object. The error ends the pull: a disk that takes nothing, a gate that is away.
func (p *pull) fetch(ctx context.Context, name string) error {
	defer p.Progress.Add(1)
	n, err := p.download(ctx, name)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.out.Pulled++
		p.bytes.Add(n)
		return nil
	case errors.Is(err, fs.ErrNotExist):
		p.out.Missing++ // withdrawn since it was asked for
		return nil
	}
	p.out.Failed = append(p.out.Failed, Problem{Name: printable(name), Reason: words(err.Error())})
	var refused *Error
	var broken *netError
	var disk *diskFault
	if ctx.Err() != nil || errors.As(err, &refused) || errors.As(err, &broken) || errors.As(err, &disk) {
		return err
	}
	return nil // the bytes were not those that the gate promised
}

// diskFault is opaque: a directory that is gone is no object that is not there.
type diskFault struct{ err error }

func (e *diskFault) Error() string { return e.err.Error() }

// diskWriter tells faults of the disk from those of what is written to it.
type diskWriter struct{ w io.Writer }

func (d diskWriter) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	if err != nil {
		err = &diskFault{err}
	}
	return n, err
}

// download writes an object under another name, and renames it once it is verified.
func (p *pull) download(ctx context.Context, name string) (n int64, err error) {
	if err := mkdirAll(p.root, filepath.Dir(name)); err != nil {
		return 0, &diskFault{err}
	}
	part := filepath.Join(pullRoom, rand.Text())
	f, err := p.root.Create(part)
	if err != nil {
		return 0, &diskFault{err}
	}
	defer func() {
		if err != nil {
			_ = p.root.Remove(part) // the error that matters is there
		}
	}()
	w := bufio.NewWriterSize(diskWriter{f}, 256<<10)
	_, n, err = p.client.Get(ctx, p.Zone, name, w)
	if err = errors.Join(err, w.Flush()); err != nil {
		return 0, errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return 0, &diskFault{err}
	}
	if err := p.root.Rename(part, name); err != nil {
		return 0, &diskFault{err}
	}
	return n, nil
}

func mkdirAll(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	return root.MkdirAll(dir, 0o777)
}

// hashWord is a hash in the text of a file.
var hashWord = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

// StampHashes returns the hashes of the signature files below directories of stamps, as bitbake -S none leaves them.
func StampHashes(ctx context.Context, dirs []string) ([]string, error) {
	s, err := openStamps(ctx, dirs)
	if err != nil {
		return nil, err
	}
	var hashes []string
	for x := range s.files {
		hashes = append(hashes, x.hash)
	}
	slices.Sort(hashes)
	return slices.Compact(hashes), s.close()
}

// TextHashes returns all hashes that stand in a text, such as locked-sigs.inc.
func TextHashes(text io.Reader) ([]string, error) {
	var hashes []string
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		hashes = append(hashes, hashWord.FindAllString(lines.Text(), -1)...)
	}
	slices.Sort(hashes)
	return slices.Compact(hashes), lines.Err()
}

// WriteJSON writes it as one JSON object, for machines.
func (p *Pulled) WriteJSON(w io.Writer) error {
	return writeJSON(w, p)
}

// WriteText writes it for people.
func (p *Pulled) WriteText(w io.Writer) error {
	for _, f := range p.Failed {
		fmt.Fprintf(w, "FAILED %s: %s\n", f.Name, f.Reason)
	}
	verb := "pulled"
	if p.DryRun {
		verb = "would be pulled"
	}
	_, err := fmt.Fprintf(w, "%d objects wanted: %d here already, %d %s (%s), %d not there for you, %d failed\n",
		p.Wanted, p.Local, p.Pulled, verb, byteCount(p.Bytes), p.Missing, len(p.Failed))
	return err
}
