package httpd_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// TestUnknownZoneLooksUnreadable: a batch about a zone that does not exist is answered as one about a zone in which the asker may
// read nothing: nobody learns which zones there are.
func TestUnknownZoneLooksUnreadable(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{Limits: impatient})
	o := gwtest.NewObject("secret", "package")
	g.Publish([]gwtest.Object{o}, privateSource)
	for _, way := range []struct{ kind, target, body, want string }{
		{"text/plain", "/v1/presence?zone={ZONE}", "{NAME}\n{NAME}.siginfo\nno name\n", "0\n0\n0\n"},
		{"text/plain", "/v1/presence?zone={ZONE}", "", ""},
		{"application/json", "/v1/presence", `{"zone":"{ZONE}","names":["{NAME}","no name"]}`, `{"present":[false,false]}`},
		{"application/json", "/v1/presence", `{"zone":"{ZONE}","names":[]}`, `{"present":[]}`},
	} {
		ask := func(zone string) string {
			fill := strings.NewReplacer("{ZONE}", zone, "{NAME}", o.Name)
			body := fill.Replace(way.body)
			head := request(http.MethodPost, fill.Replace(way.target), basic(g.As("bob")), "Content-Type: "+way.kind+"\r\n", fmt.Sprintf("Content-Length: %d\r\n", len(body)))
			return undated(t, exchange(t, g, head+body))
		}
		want := ask("main")
		if !strings.HasPrefix(want, "HTTP/1.1 200 ") || !strings.HasSuffix(want, "\r\n\r\n"+way.want) {
			t.Errorf("%s %q: %q", way.kind, way.body, want)
		}
		for _, zone := range []string{"none", "review", "Main", ""} {
			if got := ask(zone); got != want {
				t.Errorf("%s %q in zone %q:\n%q\nin main:\n%q", way.kind, way.body, zone, got, want)
			}
		}
	}
}
