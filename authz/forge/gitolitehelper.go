package forge

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

//go:embed gitolite/lychgate-helper
var gitoliteHelper string

//go:embed gitolite/lychgate-trigger
var gitoliteTrigger string

// GitoliteHelper returns the program that answers the gate at a gitolite server: Perl, which says in its first lines how it is
// installed and what it is asked.
func GitoliteHelper() string { return gitoliteHelper }

// GitoliteTrigger returns the program that tells the gate of changes at a gitolite server: Perl, which says in its first lines how it
// is installed.
func GitoliteTrigger() string { return gitoliteTrigger }

const (
	helperGreeting = "lychgate-helper 1"
	helperLine     = 4096             // longer lines are no answer
	helperSessions = 4                // at a time, on one connection
	helperIdle     = 60 * time.Second // an older connection may be dead without our knowing
)

// errHelper is what the helper itself says is wrong. The session is in order.
var errHelper = errors.New("the helper at the git server")

// helperClient asks the helper. It keeps one connection, with a few sessions in each of which one helper answers one question after
// the other. It is safe for concurrent use.
type helperClient struct {
	server SSHServer
	now    func() time.Time
	slots  chan struct{} // one for each question that is under way
	later  chan struct{} // fewer, for questions that nobody waits for

	mu     sync.Mutex // guards what follows, also while a connection is made: one is enough
	client *ssh.Client
	idle   []*helperSession // of client
	used   time.Time        // when client last answered
}

// helperSession is one running helper.
type helperSession struct {
	client *ssh.Client
	in     io.Writer
	out    *bufio.Reader
	fresh  bool // it has not been asked yet
}

func newHelperClient(server SSHServer, now func() time.Time) *helperClient {
	return &helperClient{server: server, now: now, slots: make(chan struct{}, helperSessions), later: make(chan struct{}, helperSessions-1)}
}

// ask puts a question and returns the lines of the answer. A caller that leaves ends nothing: the answer is read to its end for the
// next one.
func (h *helperClient) ask(ctx context.Context, words ...string) ([]string, error) {
	leave, err := h.enter(ctx)
	if err != nil {
		return nil, err
	}
	var (
		lines  []string
		failed error
		done   = make(chan struct{})
	)
	go func() {
		defer leave()
		defer close(done)
		lines, failed = h.exchange(strings.Join(words, " ") + "\n")
	}()
	select {
	case <-done:
		return lines, failed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// enter waits for a slot.
func (h *helperClient) enter(ctx context.Context) (leave func(), err error) {
	gates := []chan struct{}{h.slots}
	if isBackground(ctx) {
		gates = []chan struct{}{h.later, h.slots}
	}
	for i, gate := range gates {
		select {
		case gate <- struct{}{}:
		case <-ctx.Done():
			for _, passed := range gates[:i] {
				<-passed
			}
			return nil, ctx.Err()
		}
	}
	return func() {
		for _, gate := range gates {
			<-gate
		}
	}, nil
}

// exchange asks once more when a session that had been idle has ended meanwhile.
func (h *helperClient) exchange(question string) ([]string, error) {
	for {
		s, err := h.session()
		if err != nil {
			return nil, err
		}
		fresh := s.fresh
		lines, err := s.exchange(question)
		if err == nil || errors.Is(err, errHelper) {
			h.release(s)
			return lines, err
		}
		h.drop(s)
		if fresh {
			return nil, err
		}
	}
}

// session returns an idle session, or a new one.
func (h *helperClient) session() (*helperSession, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client != nil && h.now().Sub(h.used) > helperIdle {
		h.client.Close()
		h.client, h.idle = nil, nil
	}
	if n := len(h.idle); n > 0 {
		s := h.idle[n-1]
		h.idle = h.idle[:n-1]
		return s, nil
	}
	if h.client != nil {
		if s, err := startHelper(h.client); err == nil {
			return s, nil
		}
		h.client.Close()
	}
	h.client, h.idle = nil, nil
	client, err := h.server.dial(context.Background())
	if err != nil {
		return nil, err
	}
	s, err := startHelper(client)
	if err != nil {
		client.Close()
		return nil, err
	}
	h.client, h.used = client, h.now()
	return s, nil
}

func (h *helperClient) release(s *helperSession) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.fresh = false; s.client == h.client {
		h.idle, h.used = append(h.idle, s), h.now()
	}
}

// drop ends the connection of a session that failed, and with it the others.
func (h *helperClient) drop(s *helperSession) {
	s.client.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.client == h.client {
		h.client, h.idle = nil, nil
	}
}

// startHelper starts the helper, which greets. What is asked for is of no matter: the server has the command.
func startHelper(client *ssh.Client) (*helperSession, error) {
	limit := time.AfterFunc(sshPatience, func() { client.Close() })
	defer limit.Stop()
	session, err := client.NewSession()
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	in, err := session.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := session.Start("lychgate-helper"); err != nil {
		return nil, fmt.Errorf("start the helper: %w", err)
	}
	s := &helperSession{client: client, in: in, out: bufio.NewReaderSize(out, helperLine), fresh: true}
	return s, s.greeted()
}

func (s *helperSession) greeted() error {
	line, err := readHelperLine(s.out)
	switch {
	case err != nil:
		return fmt.Errorf("start the helper: %w", err)
	case line == helperGreeting:
		return nil
	}
	if words, ok := strings.CutPrefix(line, "error "); ok {
		return fmt.Errorf("%w says: %q", errHelper, clip(words))
	}
	return fmt.Errorf("the git server answered %q, not %q: the gate's key in authorized_keys needs command=\"/usr/local/bin/lychgate-helper\"",
		clip(line), helperGreeting)
}

// exchange puts one question. After an error that is not errHelper the session is of no more use.
func (s *helperSession) exchange(question string) ([]string, error) {
	limit := time.AfterFunc(sshPatience, func() { s.client.Close() })
	defer limit.Stop()
	if _, err := io.WriteString(s.in, question); err != nil {
		return nil, fmt.Errorf("ask the helper: %w", err)
	}
	return readHelperAnswer(s.out)
}

// readHelperAnswer reads lines up to "end".
func readHelperAnswer(r *bufio.Reader) (lines []string, err error) {
	for size := 0; size <= maxAnswer; {
		line, err := readHelperLine(r)
		if err != nil {
			return nil, fmt.Errorf("read the helper's answer: %w", err)
		}
		if line == "end" {
			return lines, nil
		}
		if words, ok := strings.CutPrefix(line, "error "); ok {
			return nil, fmt.Errorf("%w says: %q", errHelper, clip(words))
		}
		lines = append(lines, line)
		size += len(line) + 1
	}
	return nil, fmt.Errorf("read the helper's answer: it is longer than %d bytes", maxAnswer)
}

func readHelperLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", fmt.Errorf("a line is longer than %d bytes", helperLine)
	}
	if errors.Is(err, io.EOF) {
		return "", io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", err
	}
	return string(line[:len(line)-1]), nil
}
