package forge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

const (
	gerritEventLine = 4 << 20          // bytes of one event
	gerritSettle    = 5 * time.Second  // after which a stream that was accepted is sure to be one
	gerritKeepalive = 15 * time.Second // how often a silent connection is tried
	gerritBackoff   = 30 * time.Second // at most, between attempts to connect
)

// Follow implements [Follower]: it reads `gerrit stream-events` over ssh, where that is configured, and reads the keys of all accounts every
// few minutes. The stream holds what its account may see. Groups that Gerrit gets from LDAP or elsewhere are not in it.
func (g *Gerrit) Follow(ctx context.Context, emit func(Event)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.readKeys(ctx) })
	if g.config.Stream.Address != "" {
		group.Go(func() error { return g.follow(ctx, func(e Event) { g.Forget(e); emit(e) }) })
	}
	return group.Wait()
}

func (g *Gerrit) readKeys(ctx context.Context) error {
	for failed := false; ; {
		err := g.keys.inBackground(InBackground(ctx))
		if err != nil && ctx.Err() == nil && !failed {
			g.config.Logger.Warn("the keys of a gerrit are not read", "forge", g.config.Name, "error", err)
		}
		failed = err != nil
		if !sleep(ctx, gerritKeysEvery) {
			return ctx.Err()
		}
	}
}

// inBackground reads all keys when nobody else does.
func (k *gerritKeys) inBackground(ctx context.Context) error {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
		return k.readAll(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sleep waits, and reports false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (g *Gerrit) follow(ctx context.Context, emit func(Event)) error {
	wait, down := time.Second, false
	for {
		began := g.config.Now()
		err := g.stream(ctx, emit)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !down {
			g.config.Logger.Warn("the stream of a gerrit has ended, and is opened again", "forge", g.config.Name, "error", err)
		}
		if down = g.config.Now().Sub(began) < time.Minute; !down {
			wait = time.Second
		}
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
		wait = min(2*wait, gerritBackoff)
	}
}

// stream connects and reads events until the connection ends. What came before it is not known: it begins with an event about all, and
// has another when it is sure that Gerrit had begun to listen.
func (g *Gerrit) stream(ctx context.Context, tell func(Event)) error {
	var mu sync.Mutex // tell is called by one at a time, and not after the end
	ended := false
	emit := func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			tell(e)
		}
	}
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
	}()
	client, err := g.config.Stream.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	session, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("open a session: %w", err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	if err := session.Start("gerrit stream-events"); err != nil {
		return fmt.Errorf("start stream-events: %w", err)
	}
	emit(g.all("gerrit stream-events: connected"))
	settled := time.AfterFunc(gerritSettle, func() { emit(g.all("gerrit stream-events: connected for a while")) })
	defer settled.Stop()
	alive := make(chan struct{})
	defer close(alive)
	go keepAlive(client, alive)
	lines := bufio.NewScanner(out)
	lines.Buffer(make([]byte, 64<<10), gerritEventLine)
	for lines.Scan() {
		for _, e := range g.readEvent(lines.Bytes()) {
			emit(e)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read stream-events: %w", err)
	}
	return errors.New("stream-events has ended")
}

// keepAlive closes a connection that does not answer. Any answer will do, also that the request is not known.
func keepAlive(client *ssh.Client, done <-chan struct{}) {
	ticker := time.NewTicker(gerritKeepalive)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
		late := time.AfterFunc(sshPatience, func() { client.Close() })
		client.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
	}
}

func (g *Gerrit) all(why string) Event { return Event{Forge: g.config.Name, Why: why} }

type gerritRef struct {
	Project string `json:"project"`
	RefName string `json:"refName"`
}

// readEvent returns what one line of the stream means for permissions. A line that is not understood may mean anything.
func (g *Gerrit) readEvent(line []byte) []Event {
	if len(strings.TrimSpace(string(line))) == 0 {
		return nil
	}
	var e struct {
		Type       string      `json:"type"`
		RefUpdate  *gerritRef  `json:"refUpdate"`
		RefUpdates []gerritRef `json:"refUpdates"`
	}
	if err := json.Unmarshal(line, &e); err != nil || e.Type == "" {
		return []Event{g.all("gerrit stream-events: a line that is not understood")}
	}
	switch e.Type {
	case "ref-updated":
		if e.RefUpdate == nil {
			return []Event{g.all("gerrit ref-updated without a ref")}
		}
		return g.refUpdated(nil, *e.RefUpdate)
	case "batch-ref-updated":
		var events []Event
		for _, r := range e.RefUpdates {
			events = g.refUpdated(events, r)
		}
		return events
	case "dropped-output": // "Sent to notify a client that events have been dropped"
		return []Event{g.all("gerrit dropped-output")}
	}
	return nil
}

// refUpdated adds what the update of a ref means.
func (g *Gerrit) refUpdated(events []Event, r gerritRef) []Event {
	add := func(e Event) []Event {
		if slices.Contains(events, e) {
			return events
		}
		return append(events, e)
	}
	ref := r.RefName
	if !strings.HasPrefix(ref, "refs/") {
		ref = "refs/heads/" + ref // some versions cut it
	}
	switch {
	case r.Project == "" || r.RefName == "":
		return add(g.all("gerrit ref-updated without a ref"))
	case ref == gerritConfig: // children of the project inherit from it, and Gerrit does not say which there are
		return add(g.all("gerrit ref-updated " + gerritConfig))
	case r.Project != g.config.AllUsers:
		return events
	case strings.HasPrefix(ref, "refs/groups/") || ref == "refs/meta/group-names":
		return add(g.all("gerrit ref-updated refs/groups"))
	case strings.HasPrefix(ref, "refs/users/"):
		if id, ok := gerritUserRef(ref); ok {
			return add(Event{Forge: g.config.Name, User: id, Why: "gerrit ref-updated refs/users"})
		}
		return add(g.all("gerrit ref-updated refs/users"))
	}
	return events
}

// gerritUserRef reads "refs/users/NN/ID", where NN are the last two digits of ID.
func gerritUserRef(ref string) (id string, ok bool) {
	shard, id, _ := strings.Cut(strings.TrimPrefix(ref, "refs/users/"), "/")
	n, err := strconv.ParseInt(id, 10, 64)
	return id, err == nil && isGerritAccount(id) && shard == fmt.Sprintf("%02d", n%100)
}

// Check implements [Checker].
func (g *Gerrit) Check(ctx context.Context, canary string) []Finding {
	var capabilities map[string]any
	if err := g.rest.get(ctx, nil, &capabilities, "accounts", "self", "capabilities"); err != nil {
		return []Finding{{What: "account", Health: Broken, Detail: err.Error(), Hint: "set url, user and the HTTP password of the gate's account"}}
	}
	findings := []Finding{{What: "account", Detail: g.config.User + " is signed in"}}
	findings = append(findings, g.checkCapabilities(capabilities)...)
	if _, err := g.root(ctx, g.config.AllUsers); err != nil {
		findings = append(findings, Finding{
			What: "projects", Health: Doubtful, Detail: fmt.Sprintf("%s of %s: %v", gerritConfig, g.config.AllUsers, err),
			Hint: "grant the gate's account read on refs/meta/config in All-Projects, and on refs/users/* and refs/groups/* in All-Users",
		})
	}
	if canary != "" {
		findings = append(findings, g.checkCanary(ctx, canary))
	}
	return append(findings, g.checkStream(ctx))
}

func (g *Gerrit) checkCapabilities(have map[string]any) (findings []Finding) {
	if have["administrateServer"] == true {
		return []Finding{{What: "capabilities", Health: Doubtful, Detail: "the gate's account administrates the server", Hint: "View Access and View All Accounts are enough"}}
	}
	need := []struct {
		name, what string
		health     Health
	}{
		{"viewAccess", "View Access", Broken},
		{"viewAllAccounts", "View All Accounts", Doubtful},
	}
	if g.config.RunAs {
		need = append(need, struct {
			name, what string
			health     Health
		}{"runAs", "Run As", Broken})
	}
	if g.config.Stream.Address != "" {
		need = append(need, struct {
			name, what string
			health     Health
		}{"streamEvents", "Stream Events", Doubtful})
	}
	for _, n := range need {
		if have[n.name] != true {
			findings = append(findings, Finding{What: "capabilities", Health: n.health, Detail: "the gate's account lacks " + n.what, Hint: "grant it in All-Projects, under Global Capabilities"})
		}
	}
	if len(findings) == 0 {
		return []Finding{{What: "capabilities", Detail: "all that are needed"}}
	}
	return findings
}

func (g *Gerrit) checkCanary(ctx context.Context, canary string) Finding {
	u, err := g.UserByName(ctx, canary)
	switch {
	case err != nil:
		return Finding{What: "canary", Health: Broken, Detail: err.Error(), Hint: "name the user name of an account"}
	case u.Blocked:
		return Finding{What: "canary", Health: Doubtful, Detail: canary + " is not active", Hint: "name an active account"}
	}
	return Finding{What: "canary", Detail: canary + " is account " + u.ID + " and active"}
}

func (g *Gerrit) checkStream(ctx context.Context) Finding {
	if g.config.Stream.Address == "" {
		return Finding{
			What: "revocation", Health: Doubtful, Detail: "nothing tells of changes: they are known when what is remembered ends, after 5 minutes at the latest",
			Hint: "set the ssh server, for stream-events",
		}
	}
	client, err := g.config.Stream.dial(ctx)
	if err != nil {
		return Finding{What: "stream", Health: Broken, Detail: err.Error(), Hint: "add the gate's ssh key to its account, and the server's to known_hosts"}
	}
	client.Close()
	return Finding{What: "revocation", Detail: "rights, groups, accounts and keys are known within 2 s; groups from LDAP within 5 minutes"}
}
