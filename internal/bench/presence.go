package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// measurePresence asks about every small object in one request. The server's time is what the gate itself counts, from the end of the
// headers to the end of the answer: it includes reading three megabytes of names.
func measurePresence(ctx context.Context, w *world) ([]row, error) {
	if err := w.prepare(ctx); err != nil {
		return nil, err
	}
	served, seen, err := w.presence(ctx)
	if err != nil {
		return nil, err
	}
	const name = "presence of 20,000 names, warm: one batch"
	rows := []row{
		{work: name + ", server time", gate: millis(served), target: "< 50 ms", met: verdict(served < 50*time.Millisecond)},
		{work: name + ", as the client sees it", gate: millis(seen), target: "for comparison"},
	}
	if w.servers.nginx.lacks != "" {
		return rows, nil
	}
	rate, err := w.freshRate(ctx)
	if err != nil {
		return nil, err
	}
	heads := time.Duration(objects / rate * float64(time.Second))
	rows[1].peer, rows[1].figure = "20,000 `HEAD`s on new connections at nginx, static", fmt.Sprintf("%.1f s", heads.Seconds())
	rows[1].ratio = float64(heads) / float64(seen)
	return rows, nil
}

// presence returns the medians of the gate's own time and of the client's.
func (w *world) presence(ctx context.Context) (served, seen time.Duration, err error) {
	running, err := w.servers.gate.start(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer stopAll(running)
	p, err := newAsker(w)
	if err != nil {
		return 0, 0, err
	}
	var serverTimes, clientTimes []time.Duration
	for i := range 3 + 3*w.rounds {
		before, err := p.counted(ctx)
		if err != nil {
			return 0, 0, err
		}
		began := time.Now()
		if err := p.ask(ctx); err != nil {
			return 0, 0, err
		}
		took := time.Since(began)
		after, err := p.counted(ctx)
		if err != nil {
			return 0, 0, err
		}
		if i < 3 {
			continue // to warm up
		}
		serverTimes, clientTimes = append(serverTimes, after-before), append(clientTimes, took)
	}
	slices.Sort(serverTimes)
	slices.Sort(clientTimes)
	return serverTimes[len(serverTimes)/2], clientTimes[len(clientTimes)/2], nil
}

// asker asks about all names at once.
type asker struct {
	*world
	http  *http.Client
	names []byte
}

func newAsker(w *world) (*asker, error) {
	names, err := os.ReadFile(w.path("small.names"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(w.path("ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &asker{world: w, names: names, http: &http.Client{
		Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	}}, nil
}

func (a *asker) ask(ctx context.Context) error {
	url := "https://" + a.servers.gate.addr + "/v1/presence?zone=main"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(a.names))
	if err != nil {
		return err
	}
	req.SetBasicAuth("alice", a.token)
	req.Header.Set("Content-Type", "text/plain")
	res, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || string(answer) != strings.Repeat("1\n", objects) {
		return fmt.Errorf("presence: %s, not every object is there", res.Status)
	}
	return nil
}

// counted returns the time that the gate says it has spent on presence.
func (a *asker) counted(ctx context.Context) (spent time.Duration, err error) {
	err = a.eachSample(ctx, func(series string, value float64) {
		if series == `lychgate_request_seconds_sum{door="https",route="presence"}` {
			spent = time.Duration(value * float64(time.Second))
		}
	})
	return spent, err // 0 before it was asked
}

// eachSample reads the gate's metrics.
func (w *world) eachSample(ctx context.Context, each func(series string, value float64)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.adminAddr+"/metrics", http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New("the gate's metrics: " + res.Status)
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		series, text, _ := strings.Cut(lines.Text(), "} ")
		if value, err := strconv.ParseFloat(text, 64); err == nil { // all that is wanted has labels
			each(series+"}", value)
		}
	}
	return lines.Err()
}
