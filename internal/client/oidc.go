package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/oauth2"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway"
)

// Person signs a person in at an OpenID provider (OpenID Connect Core 1.0), for the ID token that the gate exchanges for one of its own.
// The program is a public client: it has no secret.
type Person struct {
	Issuer gateway.SignInIssuer
	HTTP   *http.Client // reaches the provider
	Out    io.Writer    // says what to do
	// Browser opens an address in a browser on this machine. Nil, or an error: the person is asked to.
	Browser func(address string) error
	// Stays asks for a refresh token (OpenID Connect Core 1.0, section 11) where the provider offers one, so that Again works.
	Stays bool
}

// Identity is who a provider says is there. Nothing of it was verified: that is the gate's.
type Identity struct {
	IDToken authn.Secret
	Issuer  string
	Subject string

	refresh authn.Secret // buys another ID token; zero: the provider gave none
	nonce   string
}

// codeTime is how long a person may take in the browser.
const codeTime = 5 * time.Minute

// NewProviderClient returns an HTTP client for providers, which trusts the system's certificates and those of the PEM files.
func NewProviderClient(userAgent string, caFiles ...string) (*http.Client, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, name := range caFiles {
		if name == "" {
			continue
		}
		pem, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %q holds no PEM certificate", name)
		}
	}
	transport, err := transportOf(Config{CA: pool})
	if err != nil {
		return nil, err
	}
	named := roundTripper(func(r *http.Request) (*http.Response, error) {
		r = r.Clone(r.Context())
		r.Header.Set("User-Agent", cmp.Or(userAgent, "lychgate"))
		return transport.RoundTrip(r)
	})
	return &http.Client{
		Transport: named, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// ChooseIssuer picks the provider that name is the name or the URL of; the only one when name is empty.
func ChooseIssuer(s gateway.SignIn, name string) (gateway.SignInIssuer, error) {
	var names []string
	for _, i := range s.People {
		if name != "" && (i.Name == name || i.Issuer == name) {
			return i, nil
		}
		names = append(names, printable(i.Name))
	}
	switch {
	case len(s.People) == 0:
		return gateway.SignInIssuer{}, errors.New("people cannot sign in at this gate with OpenID Connect: use lychgate login --ssh, or ask who runs it")
	case name != "":
		return gateway.SignInIssuer{}, fmt.Errorf("the gate knows no issuer %s: it knows %s", printable(name), strings.Join(names, ", "))
	case len(s.People) > 1:
		return gateway.SignInIssuer{}, fmt.Errorf("there are several issuers: say which with --issuer: %s", strings.Join(names, ", "))
	}
	return s.People[0], nil
}

// provider is what a provider says about itself (OpenID Connect Discovery 1.0, section 3).
type provider struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Device        string   `json:"device_authorization_endpoint"` // RFC 8628, section 4
	Scopes        []string `json:"scopes_supported"`
}

// discover asks the provider for its addresses.
func (p Person) discover(ctx context.Context) (*oauth2.Config, error) {
	if !isSafeURL(p.Issuer.Issuer) {
		return nil, fmt.Errorf("the issuer %s is no https URL", printable(p.Issuer.Issuer))
	}
	at := strings.TrimSuffix(p.Issuer.Issuer, "/") + "/.well-known/openid-configuration"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the issuer: %w", err)
	}
	var d provider
	if err := getJSON(p.HTTP, req, &d); err != nil {
		return nil, fmt.Errorf("ask the issuer for its addresses: %w", err)
	}
	if d.Issuer != p.Issuer.Issuer {
		return nil, fmt.Errorf("the issuer %s calls itself %s: the gate's configuration must have that", printable(p.Issuer.Issuer), printable(d.Issuer))
	}
	for _, address := range []string{d.Authorization, d.Token, d.Device} {
		if address != "" && !isSafeURL(address) {
			return nil, fmt.Errorf("the issuer names %s, which is no https URL", printable(address))
		}
	}
	if d.Token == "" {
		return nil, errors.New("the issuer names no token endpoint")
	}
	scopes := slices.Clone(p.Issuer.Scopes)
	if !slices.Contains(scopes, "openid") {
		scopes = append([]string{"openid"}, scopes...)
	}
	if p.Stays && slices.Contains(d.Scopes, offlineAccess) && !slices.Contains(scopes, offlineAccess) {
		scopes = append(scopes, offlineAccess)
	}
	return &oauth2.Config{
		ClientID: p.Issuer.ClientID, Scopes: scopes,
		Endpoint: oauth2.Endpoint{AuthURL: d.Authorization, TokenURL: d.Token, DeviceAuthURL: d.Device, AuthStyle: oauth2.AuthStyleInParams},
	}, nil
}

// offlineAccess is the scope of refresh tokens. It needs the person's consent (OpenID Connect Core 1.0, section 11).
const offlineAccess = "offline_access"

// consent returns what goes with the scopes of cfg.
func consent(cfg *oauth2.Config) []oauth2.AuthCodeOption {
	if !slices.Contains(cfg.Scopes, offlineAccess) {
		return nil
	}
	return []oauth2.AuthCodeOption{oauth2.SetAuthURLParam("prompt", "consent")}
}

// isSafeURL takes https, and http to this machine.
func isSafeURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Host != "" && u.User == nil && (u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()))
}

// over makes the oauth2 package use the client, and end its requests with ctx, which it forgets at times.
func (p Person) over(ctx context.Context) context.Context {
	c := *p.HTTP
	next := c.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) { return next.RoundTrip(r.WithContext(ctx)) })
	return context.WithValue(ctx, oauth2.HTTPClient, &c)
}

// Bounds of what a provider can make a person wait for.
const (
	maxDeviceInterval = 60 // seconds
	maxDeviceTime     = 30 * time.Minute
)

// Device signs in with a browser on any machine (RFC 8628).
func (p Person) Device(ctx context.Context) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, maxDeviceTime)
	defer cancel()
	cfg, err := p.discover(ctx)
	if err != nil {
		return Identity{}, err
	}
	if cfg.Endpoint.DeviceAuthURL == "" {
		return Identity{}, fmt.Errorf("the issuer %s has no device flow: use --browser", printable(p.Issuer.Name))
	}
	ctx = p.over(ctx)
	code, err := cfg.DeviceAuth(ctx, consent(cfg)...)
	if err != nil {
		return Identity{}, fmt.Errorf("ask the issuer for a code: %w", oauthError(err))
	}
	code.Interval = min(max(code.Interval, 0), maxDeviceInterval)
	p.inviteDevice(code)
	token, err := cfg.DeviceAccessToken(ctx, code)
	if errors.Is(err, context.DeadlineExceeded) {
		return Identity{}, errors.New("nobody confirmed the code in time: run it again")
	}
	if err != nil {
		return Identity{}, fmt.Errorf("wait for the issuer: %w", oauthError(err))
	}
	return identity(token, "")
}

func (p Person) inviteDevice(code *oauth2.DeviceAuthResponse) {
	fmt.Fprintf(p.Out, "Open this page in a browser on any machine, and sign in:\n\n  %s\n\nIt asks for this code:\n\n  %s\n\n",
		printable(code.VerificationURI), printable(code.UserCode))
	if code.VerificationURIComplete != "" {
		fmt.Fprintf(p.Out, "This address has the code in it already:\n\n  %s\n\n", words(code.VerificationURIComplete))
	}
	left := ""
	if !code.Expiry.IsZero() {
		left = fmt.Sprintf(" The code is good until %s.", code.Expiry.Local().Format("15:04"))
	}
	fmt.Fprintf(p.Out, "Waiting for you to confirm it.%s Ctrl-C gives up.\n", left)
}

// Code signs in with a browser on this machine: an authorization code with PKCE (RFC 7636) comes back on a loopback port (RFC 8252).
func (p Person) Code(ctx context.Context) (Identity, error) {
	cfg, err := p.discover(ctx)
	if err != nil {
		return Identity{}, err
	}
	if cfg.Endpoint.AuthURL == "" {
		return Identity{}, fmt.Errorf("the issuer %s has no authorization endpoint: use --device", printable(p.Issuer.Name))
	}
	back, err := listenBack(p.Issuer.Issuer)
	if err != nil {
		return Identity{}, err
	}
	defer back.close()
	cfg.RedirectURL = back.url()
	nonce, verifier := rand.Text(), oauth2.GenerateVerifier()
	p.inviteCode(cfg.AuthCodeURL(back.state, append(consent(cfg), oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("nonce", nonce))...))
	waiting, cancel := context.WithTimeout(ctx, codeTime)
	defer cancel()
	code, err := back.wait(waiting)
	switch {
	case ctx.Err() != nil:
		return Identity{}, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return Identity{}, fmt.Errorf("nobody signed in within %v: run it again, or with --device", codeTime)
	case err != nil:
		return Identity{}, err
	}
	token, err := cfg.Exchange(p.over(ctx), code, oauth2.VerifierOption(verifier))
	if err != nil {
		return Identity{}, fmt.Errorf("exchange the code at the issuer: %w", oauthError(err))
	}
	return identity(token, nonce)
}

func (p Person) inviteCode(address string) {
	if p.Browser != nil && p.Browser(address) == nil {
		fmt.Fprintf(p.Out, "A browser opens to sign you in. If it does not, open this address on this machine:\n\n  %s\n\n", address)
		return
	}
	fmt.Fprintf(p.Out, "Open this address in a browser on this machine, and sign in:\n\n  %s\n\n", address)
}

// oauthError says what a provider answered. Its body is not shown: only what is meant for people.
func oauthError(err error) error {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.ErrorCode {
	case "access_denied":
		return errors.New("you, or a rule of the issuer, declined")
	case "expired_token":
		return errors.New("nobody confirmed the code in time: run it again")
	case "":
		return fmt.Errorf("the issuer answered %d", refused.Response.StatusCode)
	}
	return fmt.Errorf("the issuer answered %s", words(refused.ErrorCode+": "+refused.ErrorDescription))
}

// Again gets another ID token for somebody who signed in, without asking the person. Its error wraps [ErrPerson] when the provider gave no
// refresh token, or does not take it any more. The refresh token may be good for one time: the next is in what is returned.
func (p Person) Again(ctx context.Context, who Identity) (Identity, error) {
	if who.refresh.IsZero() {
		return Identity{}, fmt.Errorf("%w at %s again: it gave nothing to renew the sign-in with", ErrPerson, printable(p.Issuer.Name))
	}
	cfg, err := p.discover(ctx)
	if err != nil {
		return Identity{}, err
	}
	token, err := cfg.TokenSource(p.over(ctx), &oauth2.Token{RefreshToken: who.refresh.Reveal()}).Token()
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.ErrorCode == "invalid_grant" {
		return Identity{}, fmt.Errorf("%w at %s again: the sign-in there has ended", ErrPerson, printable(p.Issuer.Name))
	}
	if err != nil {
		return Identity{}, fmt.Errorf("renew the sign-in at the issuer: %w", oauthError(err))
	}
	next, err := identity(token, who.nonce)
	if errors.Is(err, errNonce) {
		next, err = identity(token, "") // it need not be repeated (OpenID Connect Core 1.0, section 12.2)
	}
	if err != nil {
		return Identity{}, err
	}
	if next.Issuer != who.Issuer || next.Subject != who.Subject {
		return Identity{}, errors.New("the issuer's new ID token is about somebody else")
	}
	next.nonce = who.nonce
	return next, nil
}

// errNonce says that an ID token is the answer to another question.
var errNonce = errors.New("the issuer's ID token is not for this sign-in (its nonce is another): run it again")

// identity takes the ID token out of an answer. nonce, when there is one, must be in it (OpenID Connect Core, section 3.1.3.7): else
// the answer is to another's question.
func identity(token *oauth2.Token, nonce string) (Identity, error) {
	text, _ := token.Extra("id_token").(string)
	if text == "" {
		return Identity{}, errors.New("the issuer gave no ID token: is the scope openid allowed for the gate's client?")
	}
	if err := checkIDToken(text); err != nil {
		return Identity{}, fmt.Errorf("the issuer's ID token: %w", err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	var claims struct {
		Issuer  string `json:"iss"`
		Subject string `json:"sub"`
		Nonce   string `json:"nonce"`
	}
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("the issuer's ID token: %w", err)
	}
	if claims.Nonce != nonce {
		return Identity{}, errNonce
	}
	return Identity{authn.NewSecret(text), claims.Issuer, claims.Subject, authn.NewSecret(token.RefreshToken), nonce}, nil
}
