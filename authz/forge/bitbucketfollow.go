package forge

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	// bitbucketPoll is how often the audit log is read.
	bitbucketPoll = 15 * time.Second
	// bitbucketOverlap is how far back each reading goes beyond the newest entry there was: entries are written late, and not in order.
	bitbucketOverlap = time.Minute
	// bitbucketEntries is how many entries one reading takes in. More than that count as a gap.
	bitbucketEntries = 200
)

// bitbucketHook is what an event posts. The event's name is taken from here, since the header is not signed.
type bitbucketHook struct {
	Event string `json:"eventKey"`
	Date  string `json:"date"`
	New   struct {
		ID int64 `json:"id"`
	} `json:"new"`
}

// ReadHook implements [Hooks]. Bitbucket posts a change of a project's or a repository's name and visibility; of permissions it posts
// nothing.
func (b *Bitbucket) ReadHook(header http.Header, body []byte) (Delivery, error) {
	signature, ok := strings.CutPrefix(header.Get("X-Hub-Signature"), "sha256=")
	if !ok || len(header.Values("X-Hub-Signature")) != 1 || !signedBody(b.config.HookSecret, body, signature) {
		return Delivery{}, hookError(b.config.Name, "the signature is missing or wrong: the webhook's secret must be the one configured here")
	}
	d := Delivery{ID: bodyID(body)}
	var hook bitbucketHook
	if err := json.Unmarshal(body, &hook); err != nil {
		return Delivery{}, hookError(b.config.Name, "the body is not the JSON of an event")
	}
	d.At, _ = time.Parse("2006-01-02T15:04:05-0700", hook.Date) // zero when it is not told
	e := Event{Forge: b.config.Name, Why: "bitbucket hook " + hook.Event}
	switch hook.Event {
	case "project:modified": // which of its repositories are concerned is not said
	case "repo:modified":
		if hook.New.ID > 0 {
			e.Repo = strconv.FormatInt(hook.New.ID, 10)
		}
	default:
		return d, nil
	}
	d.Events = []Event{e}
	return d, nil
}

// bitbucketEntry is one entry of the audit log.
type bitbucketEntry struct {
	Timestamp string `json:"timestamp"`
	Type      struct {
		Category    string `json:"category"`
		CategoryKey string `json:"categoryI18nKey"`
		Action      string `json:"action"`
		ActionKey   string `json:"actionI18nKey"`
	} `json:"type"`
	Objects []struct {
		Type string `json:"type"`
		ID   string `json:"id"`
	} `json:"affectedObjects"`
}

// Follow implements [Follower] by reading the audit log every 15 s. Entries that it has seen are known by their digest. A reading that
// fails is made up for by the next, which begins where the last good one ended.
func (b *Bitbucket) Follow(ctx context.Context, emit func(Event)) error {
	log := bitbucketLog{seen: make(map[[32]byte]time.Time)}
	ticker := time.NewTicker(bitbucketPoll)
	defer ticker.Stop()
	for {
		if err := b.readLog(ctx, &log, emit); err != nil && ctx.Err() == nil {
			b.config.Logger.Warn("the audit log cannot be read: changes of permissions are noticed late", "forge", b.config.Name, "error", err)
		}
		if err := b.readAll(ctx); err != nil && ctx.Err() == nil { // so that nobody waits for it at the ssh door
			b.config.Logger.Warn("the users' SSH keys cannot be read", "forge", b.config.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// bitbucketLog is how far the audit log was read.
type bitbucketLog struct {
	begun  bool
	newest time.Time // by the server's clock; zero while the log is empty
	seen   map[[32]byte]time.Time
}

// readLog emits what is new. The first reading only finds where the log ends.
func (b *Bitbucket) readLog(ctx context.Context, log *bitbucketLog, emit func(Event)) error {
	query := url.Values{"limit": {strconv.Itoa(bitbucketEntries)}}
	if !log.newest.IsZero() {
		query.Set("from", log.newest.Add(-bitbucketOverlap).UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	var page struct {
		Entities []jsontext.Value `json:"entities"`
		Paging   struct {
			Last bool `json:"lastPage"`
		} `json:"pagingInfo"`
	}
	err := b.api.get(ctx, query, &page, "rest", "auditing", "1.0", "events")
	if hasStatus(err, http.StatusNotFound) { // where other versions have it
		err = b.api.get(ctx, query, &page, "rest", "audit", "latest", "events")
	}
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	events, fresh := []Event{}, 0
	newest := log.newest
	for _, text := range page.Entities {
		var entry bitbucketEntry
		if err := json.Unmarshal(text, &entry); err != nil {
			return fmt.Errorf("read an entry of the audit log: %w", err)
		}
		at, err := time.Parse(time.RFC3339, entry.Timestamp)
		if err != nil {
			return fmt.Errorf("read an entry of the audit log: %w", err)
		}
		if at.After(newest) {
			newest = at
		}
		if err := text.Canonicalize(); err != nil { // members come in any order
			return fmt.Errorf("read an entry of the audit log: %w", err)
		}
		sum := sha256.Sum256(text)
		if _, known := log.seen[sum]; !known {
			fresh++
			events = append(events, entry.events(b.config.Name)...)
		}
		log.seen[sum] = at
	}
	log.newest = newest
	for sum, at := range log.seen {
		if at.Before(newest.Add(-2 * bitbucketOverlap)) {
			delete(log.seen, sum)
		}
	}
	if !log.begun {
		log.begun = true
		return nil
	}
	if !page.Paging.Last && fresh == len(page.Entities) && fresh > 0 {
		events = []Event{{Forge: b.config.Name, Why: "bitbucket audit log: more entries than were read"}}
	}
	for _, e := range events {
		emit(e)
	}
	return nil
}

// events returns what an entry makes doubtful: the users and repositories that it names, or all of the forge when it names
// others, such as groups and projects.
func (e bitbucketEntry) events(forge string) []Event {
	kind := strings.ToLower(strings.Join([]string{e.Type.Category, e.Type.CategoryKey, e.Type.Action, e.Type.ActionKey}, " "))
	concerns := false
	for _, word := range []string{"permission", "user", "group", "project", "repositor", "access", "licen", "key", "directory"} {
		concerns = concerns || strings.Contains(kind, word)
	}
	if !concerns {
		return nil
	}
	const why = "bitbucket audit log"
	all := []Event{{Forge: forge, Why: why}}
	var named []Event
	for _, o := range e.Objects {
		_, ok := numericID(o.ID)
		switch kind := strings.ToUpper(o.Type); {
		case ok && kind == "REPOSITORY":
			named = append(named, Event{Forge: forge, Repo: o.ID, Why: why})
		case ok && kind == "USER":
			named = append(named, Event{Forge: forge, User: o.ID, Why: why})
		default:
			return all
		}
	}
	if len(named) == 0 {
		return all
	}
	return named
}
