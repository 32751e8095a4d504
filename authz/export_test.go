package authz

// Forget makes a answer every question anew, from the same views and facts, to compare with.
func Forget(a *Authorizer) { a.forgetful = true }

// Align makes b put the same principals together in an epoch as a does, so that an invalidation costs both the same.
func Align(a, b *Authorizer) { b.seed = a.seed }

// Sizes returns how many views a holds, and the most answers and facts that any of them does.
func Sizes(a *Authorizer) (views, memo, facts int) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, v := range a.views {
		v.mu.RLock()
		memo, facts = max(memo, len(v.memo)), max(facts, len(v.facts))
		v.mu.RUnlock()
	}
	if len(a.views) != len(a.byPrincipal) {
		panic("the two ways to the views disagree")
	}
	return len(a.views), memo, facts
}

// Limits of what is kept.
const (
	MaxViews = maxViews
	MaxMemo  = maxMemo
)
