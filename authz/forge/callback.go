package forge

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/source"
)

const (
	callbackBatch    = 500              // repositories in one question
	callbackPatience = 10 * time.Second // for one answer
	callbackClocks   = 5 * time.Minute  // how far apart clocks may be
	callbackText     = 255              // bytes of an id or a name
	callbackGroups   = 1000
)

// The names of the headers, and what a MAC is over before its parts: neither a question nor an answer can be taken for the other.
const (
	callbackTime      = "X-Lychgate-Time"
	callbackSignature = "X-Lychgate-Signature"
	callbackAsks      = "lychgate-question\n"
	callbackAnswers   = "lychgate-answer\n"
)

// CallbackConfig is what a [Callback] needs.
type CallbackConfig struct {
	Name  string
	URL   string   // where questions are posted to; https, unless Secret is set
	Hosts []string // as SRC_URI has them; default: the host of URL
	// Secret authenticates both sides. Without one HTTP does, by a client certificate in its Transport, and the URL must be https.
	Secret authn.Secret
	// Questions are those that the service answers beside "access": of "resolve", "user", "key" and "identity". Without resolve, the path
	// of a repository is its id; without user, an id is a user's name and nobody is blocked but by access; without key or identity, nobody
	// is found by one.
	Questions  []string
	HTTP       *http.Client     // nil: http.DefaultClient
	HookSecret authn.Secret     // of what the service posts; zero: deliveries are refused
	Now        func() time.Time // time.Now when nil
	Logger     *slog.Logger     // nil: silent
}

// Callback asks a service over HTTP, by the protocol of docs/forge-callback.md. All its answers are authoritative. What is not an
// answer in every respect is none. It is safe for concurrent use.
type Callback struct {
	config CallbackConfig
	client http.Client
}

var (
	_ Provider   = (*Callback)(nil)
	_ Resolver   = (*Callback)(nil)
	_ Directory  = (*Callback)(nil)
	_ KeyOwners  = (*Callback)(nil)
	_ Identities = (*Callback)(nil)
	_ Hooks      = (*Callback)(nil)
	_ Checker    = (*Callback)(nil)
)

// NewCallback checks the configuration.
func NewCallback(c CallbackConfig) (*Callback, error) {
	if err := prepare(c.Name, &c.Now, &c.Logger); err != nil {
		return nil, err
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("forge %q: url %q: want https://HOST[:PORT]/PATH", c.Name, clip(c.URL))
	}
	if c.Secret.IsZero() && u.Scheme != "https" {
		return nil, fmt.Errorf("forge %q: url %q: without a secret nothing authenticates the answers: set one, or use https with a client certificate", c.Name, clip(c.URL))
	}
	for _, q := range c.Questions {
		if !slices.Contains([]string{"resolve", "user", "key", "identity"}, q) {
			return nil, fmt.Errorf("forge %q: question %q: want resolve, user, key or identity", c.Name, clip(q))
		}
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{locatorHost(u)}
	}
	cb := &Callback{config: c}
	if c.HTTP != nil {
		cb.client = *c.HTTP
	}
	cb.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return cb, nil
}

// Hosts returns the hosts of the forge.
func (c *Callback) Hosts() []string { return slices.Clone(c.config.Hosts) }

// callbackQuestion is what is posted.
type callbackQuestion struct {
	Version   int                `json:"version"`
	Nonce     string             `json:"nonce"` // 32 hexadecimal digits, never twice the same
	Forge     string             `json:"forge"`
	Question  string             `json:"question"`
	Action    string             `json:"action,omitzero"`
	Principal *callbackPrincipal `json:"principal,omitzero"`
	Repos     []string           `json:"repos,omitzero"`
	ID        string             `json:"id,omitzero"`
	Name      string             `json:"name,omitzero"`
	Key       string             `json:"key,omitzero"`
	Issuer    string             `json:"issuer,omitzero"`
	Subject   string             `json:"subject,omitzero"`
	Host      string             `json:"host,omitzero"`
	Path      string             `json:"path,omitzero"`
}

type callbackPrincipal struct {
	ID     string   `json:"id"`
	Name   string   `json:"name"`
	Kind   string   `json:"kind"`
	Groups []string `json:"groups"`
}

// callbackAnswer is what is read. Found says whether there is what was asked for, when that is not access.
type callbackAnswer struct {
	Version  int              `json:"version"`
	Results  []callbackResult `json:"results"`
	TTL      *int64           `json:"ttl"` // seconds
	Revision string           `json:"revision"`
	Found    *bool            `json:"found"`
	Repo     string           `json:"repo"`
	User     *callbackUser    `json:"user"`
	Deploy   bool             `json:"deploy"` // the key is a deploy key
}

type callbackResult struct {
	Repo   string `json:"repo"`
	Access string `json:"access"`
}

type callbackUser struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Groups  []string `json:"groups"`
	Blocked bool     `json:"blocked"`
}

// ask posts a question and reads the answer to it.
func (c *Callback) ask(ctx context.Context, q callbackQuestion) (*callbackAnswer, error) {
	q.Version, q.Forge = 1, c.config.Name
	nonce := make([]byte, 16)
	rand.Read(nonce)
	q.Nonce = hex.EncodeToString(nonce)
	body, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("write the question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callbackPatience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.config.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if !c.config.Secret.IsZero() {
		at := strconv.FormatInt(c.config.Now().Unix(), 10)
		r.Header.Set(callbackTime, at)
		r.Header.Set(callbackSignature, hex.EncodeToString(macOf(c.config.Secret, []byte(callbackAsks+at+"\n"), body)))
	}
	response, err := c.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, &statusError{response.StatusCode}
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(data) > maxAnswer {
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	if err := c.authentic(response.Header, q.Nonce, data); err != nil {
		return nil, err
	}
	return readCallbackAnswer(data)
}

// authentic reports whether an answer is the service's, to the question with that nonce.
func (c *Callback) authentic(header http.Header, nonce string, body []byte) error {
	if c.config.Secret.IsZero() {
		return nil // TLS has told
	}
	at := header.Get(callbackTime)
	if !isHexMAC(header.Get(callbackSignature), c.config.Secret, []byte(callbackAnswers+at+"\n"+nonce+"\n"), body) {
		return fmt.Errorf("the answer's %s does not match: compare the secrets, and what it is over", callbackSignature)
	}
	seconds, err := strconv.ParseInt(at, 10, 64)
	if apart := c.config.Now().Sub(time.Unix(seconds, 0)).Abs(); err != nil || apart > callbackClocks {
		return fmt.Errorf("the answer's %s is %.20q: set the clocks of both machines", callbackTime, at)
	}
	return nil
}

func readCallbackAnswer(data []byte) (*callbackAnswer, error) {
	var a callbackAnswer
	if err := json.Unmarshal(data, &a, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	switch {
	case a.Version != 1:
		return nil, fmt.Errorf("the answer is of version %d, want 1", a.Version)
	case a.TTL != nil && *a.TTL < 1:
		return nil, fmt.Errorf("the answer's ttl is %d s: want at least 1", *a.TTL)
	case !isShown(a.Revision, callbackText) && a.Revision != "":
		return nil, errors.New("the answer's revision is no printable text of at most 255 bytes")
	}
	return &a, nil
}

// isShown reports whether s is something, and can be shown on one line.
func isShown(s string, most int) bool {
	if s == "" || len(s) > most || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// Batch implements [Bulk].
func (c *Callback) Batch() int { return callbackBatch }

// Access implements [Provider]. A batch that fails is unknown, and an error only when all do.
func (c *Callback) Access(ctx context.Context, p authn.Principal, repos []Repo) ([]Fact, error) {
	facts := make([]Fact, len(repos))
	at := c.config.Now()
	ids, places := make([]string, 0, len(repos)), make(map[string][]int)
	for i, r := range repos {
		facts[i] = Fact{Repo: r, Access: None, At: at, NotAfter: at.Add(hardLimit), Origin: "callback " + c.config.Name}
		if p.Forge != c.config.Name || r.Forge != c.config.Name || !isShown(p.ID, callbackText) || !isShown(r.ID, maxRepoID) {
			continue
		}
		if places[r.ID] == nil {
			ids = append(ids, r.ID)
		}
		places[r.ID] = append(places[r.ID], i)
	}
	var errs []error
	batches := 0
	for batch := range slices.Chunk(ids, callbackBatch) {
		batches++
		if err := c.access(ctx, p, batch, places, facts); err != nil {
			errs = append(errs, err)
		}
	}
	if batches > 0 && len(errs) == batches {
		return nil, errors.Join(errs...)
	}
	return facts, nil
}

// maxRepoID is the longest id of a repository.
const maxRepoID = 1100

func (c *Callback) access(ctx context.Context, p authn.Principal, ids []string, places map[string][]int, facts []Fact) error {
	at := c.config.Now()
	for _, id := range ids {
		for _, i := range places[id] {
			facts[i] = Fact{Repo: facts[i].Repo, Origin: "callback " + c.config.Name + " did not answer"}
		}
	}
	q := callbackQuestion{
		Question: "access", Action: "read", Repos: ids,
		Principal: &callbackPrincipal{ID: p.ID, Name: p.Name, Kind: string(p.Kind), Groups: slices.Clone(p.Groups)},
	}
	if q.Principal.Groups == nil {
		q.Principal.Groups = []string{}
	}
	a, err := c.ask(ctx, q)
	if err != nil {
		return fmt.Errorf("ask about access: %w", err)
	}
	answers, err := a.access(ids)
	if err != nil {
		return fmt.Errorf("ask about access: %w", err)
	}
	life := hardLimit
	if a.TTL != nil && *a.TTL < int64(hardLimit/time.Second) {
		life = time.Duration(*a.TTL) * time.Second
	}
	for id, access := range answers {
		for _, i := range places[id] {
			facts[i] = Fact{Repo: facts[i].Repo, Access: access, At: at, NotAfter: at.Add(life), Origin: "callback " + c.config.Name + ": revision " + strconv.Quote(a.Revision)}
		}
	}
	return nil
}

// access returns what the answer says of repositories that were asked about. One that it leaves out is not in it; one that nobody
// asked about, or twice the same, makes all of it worthless: the service means something else.
func (a *callbackAnswer) access(ids []string) (map[string]Access, error) {
	asked := make(map[string]bool, len(ids))
	for _, id := range ids {
		asked[id] = true
	}
	answers := make(map[string]Access, len(a.Results))
	for _, r := range a.Results {
		if _, twice := answers[r.Repo]; twice || !asked[r.Repo] {
			return nil, fmt.Errorf("the answer has %q twice, or unasked", clip(r.Repo))
		}
		switch r.Access {
		case "read":
			answers[r.Repo] = Read
		case "none":
			answers[r.Repo] = None
		case "unknown":
			answers[r.Repo] = Unknown
		default:
			return nil, fmt.Errorf("the answer's access is %q: want read, none or unknown", clip(r.Access))
		}
	}
	return answers, nil
}

func (c *Callback) answers(question string) bool {
	return slices.Contains(c.config.Questions, question)
}

// Resolve implements [Resolver].
func (c *Callback) Resolve(ctx context.Context, l source.Locator) (Repo, bool, error) {
	if !slices.Contains(c.config.Hosts, l.Host) {
		return Repo{}, false, nil
	}
	if !isShown(l.Path, maxRepoID) {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.String()), ErrNoRepo)
	}
	if !c.answers("resolve") {
		return Repo{Forge: c.config.Name, ID: l.Path}, true, nil
	}
	a, err := c.ask(ctx, callbackQuestion{Question: "resolve", Host: l.Host, Path: l.Path})
	switch {
	case err != nil:
	case a.Found == nil || *a.Found && !isShown(a.Repo, maxRepoID):
		err = errors.New("the answer has no found, or no repo")
	case !*a.Found:
		err = ErrNoRepo
	}
	if err != nil {
		return Repo{}, true, fmt.Errorf("resolve %q: %w", clip(l.String()), err)
	}
	return Repo{Forge: c.config.Name, ID: a.Repo}, true, nil
}

// User implements [Directory].
func (c *Callback) User(ctx context.Context, id string) (User, error) {
	return c.named(ctx, id, callbackQuestion{Question: "user", ID: id}, func(u User) bool { return u.ID == id })
}

// UserByName implements [Directory].
func (c *Callback) UserByName(ctx context.Context, name string) (User, error) {
	return c.named(ctx, name, callbackQuestion{Question: "user", Name: name}, func(u User) bool { return u.Name == name })
}

// named asks for a user by text that must be the answer's too.
func (c *Callback) named(ctx context.Context, text string, q callbackQuestion, fits func(User) bool) (User, error) {
	if !isShown(text, callbackText) {
		return User{}, fmt.Errorf("look up user %q: %w", clip(text), ErrNoUser)
	}
	if !c.answers("user") {
		return User{ID: text, Name: text, Kind: authn.Human}, nil
	}
	u, err := c.user(ctx, q)
	if err == nil && !fits(u) {
		err = fmt.Errorf("the answer is about %q", u.ID)
	}
	if err != nil {
		return User{}, fmt.Errorf("look up user %q: %w", clip(text), err)
	}
	return u, nil
}

// KeyOwner implements [KeyOwners], by asking the service each time.
func (c *Callback) KeyOwner(ctx context.Context, fingerprint string) (User, error) {
	err := fmt.Errorf("nobody is found by a key: %w", ErrNoUser)
	var u User
	if c.answers("key") && isFingerprint(fingerprint) {
		u, err = c.user(ctx, callbackQuestion{Question: "key", Key: fingerprint})
	}
	if err != nil {
		return User{}, fmt.Errorf("look up the owner of the key %q: %w", clip(fingerprint), err)
	}
	return u, nil
}

// IdentityOwner implements [Identities].
func (c *Callback) IdentityOwner(ctx context.Context, issuer, subject string) (User, error) {
	err := fmt.Errorf("nobody is found by an identity: %w", ErrNoUser)
	var u User
	if c.answers("identity") && isShown(issuer, callbackText) && isShown(subject, callbackText) {
		u, err = c.user(ctx, callbackQuestion{Question: "identity", Issuer: issuer, Subject: subject})
	}
	if err != nil {
		return User{}, fmt.Errorf("look up the user %q of %q: %w", clip(subject), clip(issuer), err)
	}
	return u, nil
}

func (c *Callback) user(ctx context.Context, q callbackQuestion) (User, error) {
	a, err := c.ask(ctx, q)
	switch {
	case err != nil:
		return User{}, err
	case a.Deploy:
		return User{}, ErrDeployKey
	case a.Found != nil && !*a.Found && a.User == nil:
		return User{}, ErrNoUser
	case a.Found == nil || !*a.Found || a.User == nil:
		return User{}, errors.New("found and user do not go together")
	}
	return a.User.read()
}

func (u *callbackUser) read() (User, error) {
	kind := authn.Kind(u.Kind)
	switch {
	case !isShown(u.ID, callbackText) || !isShown(u.Name, callbackText):
		return User{}, errors.New("the user has no id or name, or one that cannot be shown")
	case !kind.Valid() || kind == authn.Anonymous:
		return User{}, fmt.Errorf("the user is of kind %q: want human, ci or service", clip(u.Kind))
	case len(u.Groups) > callbackGroups:
		return User{}, fmt.Errorf("the user is in more than %d groups", callbackGroups)
	}
	for _, g := range u.Groups {
		if !isShown(g, callbackText) {
			return User{}, errors.New("the user is in a group whose name cannot be shown")
		}
	}
	groups := slices.Clone(u.Groups)
	slices.Sort(groups)
	return User{ID: u.ID, Name: u.Name, Kind: kind, Groups: groups, Blocked: u.Blocked}, nil
}

// callbackDelivery is what the service posts when something has changed. An event that names nothing is about the whole forge.
type callbackDelivery struct {
	Version int             `json:"version"`
	ID      string          `json:"id"`
	Time    int64           `json:"time"`
	Events  []callbackEvent `json:"events"`
}

type callbackEvent struct {
	User string `json:"user,omitzero"`
	Repo string `json:"repo,omitzero"`
	Key  string `json:"key,omitzero"`
	Why  string `json:"why,omitzero"`
}

// ReadHook implements [Hooks]: X-Lychgate-Signature is HMAC-SHA256 of the body under the secret for hooks, in hexadecimal.
func (c *Callback) ReadHook(header http.Header, body []byte) (Delivery, error) {
	switch {
	case c.config.HookSecret.IsZero():
		return Delivery{}, hookError(c.config.Name, "it has no secret for hooks")
	case !signedBody(c.config.HookSecret, body, header.Get(callbackSignature)):
		return Delivery{}, hookError(c.config.Name, callbackSignature+" does not match")
	}
	var d callbackDelivery
	if err := json.Unmarshal(body, &d, json.RejectUnknownMembers(true)); err != nil {
		return Delivery{}, fmt.Errorf("%w: %w", ErrHook, err)
	}
	if d.Version != 1 || !isShown(d.ID, callbackText) || d.Time <= 0 {
		return Delivery{}, fmt.Errorf("%w: want version 1, an id and a time", ErrHook)
	}
	out := Delivery{ID: d.ID, At: time.Unix(d.Time, 0)}
	for _, e := range d.Events {
		for _, text := range []string{e.User, e.Repo, e.Key} {
			if text != "" && !isShown(text, maxRepoID) {
				return Delivery{}, fmt.Errorf("%w: an event about %q", ErrHook, clip(text))
			}
		}
		why := "callback " + c.config.Name
		if isShown(e.Why, callbackText) {
			why += ": " + e.Why
		}
		out.Events = append(out.Events, Event{Forge: c.config.Name, User: e.User, Repo: e.Repo, Key: e.Key, Why: why})
	}
	return out, nil
}

// Check implements [Checker].
func (c *Callback) Check(ctx context.Context, canary string) []Finding {
	var findings []Finding
	user := canary
	if user == "" {
		user = "nobody"
	}
	// A repository that cannot be: what may be read there is not asked, but whether there is an answer.
	const none = "lychgate-check/no-such-repository"
	facts, err := c.Access(ctx, authn.Principal{Forge: c.config.Name, ID: user, Name: user, Kind: authn.Human}, []Repo{{Forge: c.config.Name, ID: none}})
	switch {
	case err != nil:
		return []Finding{{What: "access", Health: Broken, Detail: err.Error(), Hint: "compare the service with docs/forge-callback.md"}}
	case facts[0].Access == Read:
		return []Finding{{What: "access", Health: Broken, Detail: "the service lets " + user + " read a repository that does not exist", Hint: "answer none for what is not there"}}
	}
	findings = append(findings, Finding{What: "access", Detail: "it answers " + facts[0].Access.String() + " for a repository that is not there"})
	if canary != "" {
		findings = append(findings, c.checkCanary(ctx, canary))
	}
	if !c.answers("resolve") {
		findings = append(findings, Finding{
			What: "resolve", Health: Doubtful, Detail: "the path of a repository is its id",
			Hint: "answer resolve, or never give a path to another repository",
		})
	}
	if c.config.HookSecret.IsZero() {
		return append(findings, Finding{
			What: "revocation", Health: Doubtful, Detail: "it is known when what is remembered ends: after ttl, and 5 minutes at the latest",
			Hint: "set a secret for hooks, and post what changes",
		})
	}
	return append(findings, Finding{What: "revocation", Detail: "what the service posts is known within 2 s; what it does not, after ttl, and 5 minutes at the latest"})
}

func (c *Callback) checkCanary(ctx context.Context, canary string) Finding {
	u, err := c.User(ctx, canary)
	switch {
	case err != nil:
		return Finding{What: "canary", Health: Broken, Detail: err.Error(), Hint: "name the id of a user"}
	case u.Blocked:
		return Finding{What: "canary", Health: Doubtful, Detail: canary + " is blocked", Hint: "name the id of a user who is not"}
	}
	return Finding{What: "canary", Detail: canary + " is " + u.Name + " and not blocked"}
}
