package forge

import "testing"

// FuzzCallbackAnswer: of whatever a service sends, an answer grants only what it says of what was asked, in the protocol's words.
func FuzzCallbackAnswer(f *testing.F) {
	f.Add(`{"version":1,"results":[{"repo":"r1","access":"read"},{"repo":"r2","access":"none"}],"ttl":60,"revision":"x"}`)
	f.Add(`{"version":1,"found":true,"user":{"id":"17","name":"alice","kind":"human","groups":["team"],"blocked":false}}`)
	f.Add(`{"version":1,"found":false}`)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := readCallbackAnswer([]byte(text))
		if err != nil {
			return
		}
		if a.Version != 1 || a.TTL != nil && *a.TTL < 1 {
			t.Errorf("%q: %+v", text, a)
		}
		if answers, err := a.access([]string{"r1", "r2"}); err == nil {
			for id, access := range answers {
				if id != "r1" && id != "r2" || access > Read {
					t.Errorf("%q: %v", text, answers)
				}
			}
		}
		if a.User == nil {
			return
		}
		if u, err := a.User.read(); err == nil && (!isShown(u.ID, callbackText) || !isShown(u.Name, callbackText) || !u.Kind.Valid()) {
			t.Errorf("%q: %+v", text, u)
		}
	})
}
