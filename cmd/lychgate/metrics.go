package main

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/gateway/hashd"
	"github.com/lychgate/lychgate/gateway/httpd"
	"github.com/lychgate/lychgate/gateway/sshd"
	"github.com/lychgate/lychgate/internal/servertls"
)

// metrics are what operators watch. No label is a user or an artifact, and none tells denied from absent.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	refusals *prometheus.CounterVec
	ssh      *prometheus.CounterVec
	sshTime  *prometheus.HistogramVec
	hash     *prometheus.CounterVec
	counters sync.Map // observed to counters: finding them by their labels costs more than counting
}

// observed is what tells requests apart, and counters are what counts them.
type observed struct {
	route, method string
	status        int
}

type counters struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
}

func newMetrics(g *gate) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lychgate_requests_total", Help: "Requests answered, by door, route, method and status.",
		}, []string{"door", "route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lychgate_request_seconds", Help: "Time from a request's headers to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}, []string{"door", "route"}),
	}
	m.refusals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "lychgate_auth_refused_total", Help: "Credentials refused, by door and reason.",
	}, []string{"door", "reason"})
	m.ssh = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "lychgate_ssh_operations_total", Help: "Handshakes and operations of the ssh door, by route and outcome.",
	}, []string{"route", "outcome"})
	m.sshTime = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "lychgate_ssh_operation_seconds", Help: "Time of handshakes and operations of the ssh door.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
	}, []string{"route"})
	m.hash = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "lychgate_hash_connections_total", Help: "Connections of the hash door that have ended, by transport and outcome.",
	}, []string{"transport", "outcome"})
	m.registry.MustRegister(
		m.requests, m.seconds, m.refusals, m.ssh, m.sshTime, m.hash, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lychgate_records", Help: "Published objects.",
		}, func() float64 { return float64(g.db.Len()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lychgate_journal_writable", Help: "1 while the audit journal can be written; at 0 nothing is served.",
		}, func() float64 { return oneIf(g.journal.Err() == nil) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lychgate_policy_current", Help: "1 while the policy in force is the one on disk; at 0 the last good one is kept.",
		}, func() float64 { return oneIf(g.policy.Status().Error == "") }),
	)
	g.watched.register(m.registry, g.decider)
	return m
}

// watchLists adds what a gate with revocation lists has to show.
func (m *metrics) watchLists(lists *servertls.RevocationLists) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lychgate_client_crl_seconds_left",
		Help: "Until the first revocation list of client certificates ends; at 0 and below certificates are refused.",
	}, func() float64 { return lists.Left().Seconds() }))
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// observe counts one request of the https door.
func (m *metrics) observe(o httpd.Observation) {
	key := observed{o.Route, o.Method, o.Status}
	found, ok := m.counters.Load(key)
	if !ok {
		found, _ = m.counters.LoadOrStore(key, &counters{
			requests: m.requests.WithLabelValues("https", o.Route, o.Method, strconv.Itoa(o.Status)),
			seconds:  m.seconds.WithLabelValues("https", o.Route),
		})
	}
	c := found.(*counters)
	c.requests.Inc()
	c.seconds.Observe(o.Took.Seconds())
}

// observeSSH counts a handshake or an operation of the ssh door.
func (m *metrics) observeSSH(o sshd.Observation) {
	m.ssh.WithLabelValues(o.Route, o.Outcome).Inc()
	m.sshTime.WithLabelValues(o.Route).Observe(o.Took.Seconds())
}

// observeHash counts a connection of the hash door.
func (m *metrics) observeHash(o hashd.Observation) {
	m.hash.WithLabelValues(o.Transport, o.Outcome).Inc()
}

// refused counts a credential that was not taken.
func (m *metrics) refused(door string, why authn.Reason) {
	m.refusals.WithLabelValues(door, string(why)).Inc()
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
