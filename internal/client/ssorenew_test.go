package client_test

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/client"
	"github.com/lychgate/lychgate/internal/gwtest"
	"github.com/lychgate/lychgate/internal/gwtest/oidcprovider"
)

// TestSSORenews: a person signs in once at a real provider, in either way; from then on its refresh tokens buy ID tokens, and those tokens of
// a real gate.
func TestSSORenews(t *testing.T) {
	p := oidcprovider.Start(t)
	g := gwtest.New(t, gwtest.Options{
		Forge: strings.Replace(gwtest.DefaultForge, `name: alice, kind: human`, `name: alice, kind: human, identities: [{issuer: "`+p.Issuer+`", subject: u-alice}]`, 1),
		Issuers: []authn.Issuer{{
			URL: p.Issuer, Keys: authn.KeyFetch{PlainLoopback: true},
			People: &authn.PeopleMapping{ClientID: oidcprovider.ClientID, Forge: gwtest.Forge},
		}},
	})
	web, err := client.NewProviderClient("lychgate/test")
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{"browser", "device"} {
		t.Run(way, func(t *testing.T) {
			var asked atomic.Int32
			person := client.Person{
				Issuer: gateway.SignInIssuer{Name: "sso", Issuer: p.Issuer, ClientID: oidcprovider.ClientID, Scopes: []string{"openid", "profile"}},
				HTTP:   web, Stays: true,
			}
			source := &client.SingleSignOn{}
			if way == "browser" {
				person.Out = &bytes.Buffer{}
				person.Browser = func(address string) error {
					asked.Add(1)
					go p.SignIn(t, address)
					return nil
				}
				source.Person = person
				source.Flow = source.Person.Code
			} else {
				person.Out = ssoDevice(func(address string) { asked.Add(1); p.Approve(t, address) })
				source.Person = person
				source.Flow = source.Person.Device
			}
			for i := range 3 {
				if i > 0 {
					time.Sleep(1100 * time.Millisecond) // two ID tokens of one second may be one and the same, which is good once
				}
				if who := agentWho(t, g, source); who != "alice" {
					t.Errorf("signed in as %q", who)
				}
			}
			if asked.Load() != 1 {
				t.Errorf("the person was asked %d times", asked.Load())
			}
		})
	}
}

// ssoDevice is a screen: it calls confirm with the first address on it that holds the code.
func ssoDevice(confirm func(address string)) *ssoScreen { return &ssoScreen{confirm: confirm} }

type ssoScreen struct{ confirm func(string) }

func (s *ssoScreen) Write(p []byte) (int, error) {
	for _, word := range strings.Fields(string(p)) {
		if strings.Contains(word, "/device?user_code=") && s.confirm != nil {
			confirm := s.confirm
			s.confirm = nil
			go confirm(word)
		}
	}
	return len(p), nil
}
