package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// maxSkew is how far a forge's clock may be from ours before it is told: what it sends is dated by its own.
const maxSkew = 30 * time.Second

// clockFinding compares a forge's clock, as the header Date tells it, with ours.
func clockFinding(ctx context.Context, r *rest, now func() time.Time, segments ...string) Finding {
	target, err := r.url(nil, segments)
	if err != nil {
		return Finding{"clock", Doubtful, err.Error(), "report this"}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return Finding{"clock", Doubtful, err.Error(), "report this"}
	}
	before := now()
	answer, err := r.client.Do(request)
	if err != nil {
		return Finding{"clock", Doubtful, err.Error(), "see whether the server can be reached from here"}
	}
	answer.Body.Close()
	return skewFinding(answer.Header.Get("Date"), before, now())
}

// skewFinding judges a Date that was made between two readings of our clock. It has whole seconds.
func skewFinding(date string, before, after time.Time) Finding {
	at, err := http.ParseTime(date)
	if err != nil {
		return Finding{"clock", Doubtful, "the server does not tell the time", "compare the clocks by hand"}
	}
	skew := max(before.Sub(at.Add(time.Second)), at.Sub(after), 0)
	if skew > maxSkew {
		return Finding{"clock", Doubtful, fmt.Sprintf("the server's differs from ours by %s", skew.Round(time.Second)), "let both follow the same time servers"}
	}
	return Finding{What: "clock", Detail: fmt.Sprintf("the server's is within %s of ours", maxSkew)}
}

// canaryFinding asks for a user who should be there.
func canaryFinding(ctx context.Context, d Directory, canary string) Finding {
	if canary == "" {
		return Finding{"canary", Doubtful, "no user was named", "name a user who is not blocked, to see that users can be looked up"}
	}
	u, err := d.UserByName(ctx, canary)
	switch {
	case errors.Is(err, ErrNoUser):
		return Finding{"canary", Broken, fmt.Sprintf("the server shows no user %q", clip(canary)), "name a user that exists, or give the token the rights to see users"}
	case err != nil:
		return Finding{"canary", Broken, err.Error(), "see the findings about the token"}
	case u.Blocked:
		return Finding{"canary", Doubtful, fmt.Sprintf("the user %q is blocked", clip(canary)), "name a user who is not blocked"}
	}
	return Finding{What: "canary", Detail: fmt.Sprintf("the user %q has the id %s and is not blocked", u.Name, u.ID)}
}
