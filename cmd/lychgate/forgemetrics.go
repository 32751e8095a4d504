package main

import (
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lychgate/lychgate/authz/forge"
)

// forgeMetrics are what operators watch of the forges and of what the nodes tell each other.
type forgeMetrics struct {
	questions *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	ages      prometheus.Histogram
	enforced  prometheus.Histogram
	events    *prometheus.CounterVec
	rejected  *prometheus.CounterVec
	canary    *prometheus.GaugeVec
	lost      prometheus.Counter
}

func newForgeMetrics() *forgeMetrics {
	return &forgeMetrics{
		questions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lychgate_forge_questions_total", Help: "Questions to forges, by forge, what was asked, whether somebody waited or it was asked again in the background, and outcome: answered, failed, resting, or busy for somebody who waited in vain.",
		}, []string{"forge", "what", "lane", "outcome"}),
		ages: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lychgate_fact_age_seconds", Help: "Age of the oldest answer of a forge that a decision rested on, when it was not remembered.",
			Buckets: []float64{1, 5, 10, 30, 60, 90, 120, 180, 240, 300},
		}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lychgate_forge_question_seconds", Help: "Time from a question to a forge to its answer, with the wait for a turn.",
			Buckets: prometheus.ExponentialBuckets(0.002, 3, 9),
		}, []string{"forge", "what"}),
		enforced: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lychgate_revocation_enforced_seconds", Help: "Time from when a node first learnt of a change to when this node enforced it, by the clocks of both.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 2, 5, 10},
		}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lychgate_forge_events_total", Help: "Events that made the gate ask again, by forge and what they were about.",
		}, []string{"forge", "about"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lychgate_redis_rejected_total", Help: "What Redis held that no node of this gate had put there, by kind. Above 0 somebody else writes to it.",
		}, []string{"what"}),
		canary: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lychgate_canary_seconds", Help: "Time of the last revocation of the gate's canary, which is revoked every 30 seconds: here, and at every node.",
		}, []string{"where"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lychgate_canary_lost_total", Help: "Revocations of the canary that were not enforced everywhere in time.",
		}),
	}
}

// flown shows how the canary fared.
func (m *forgeMetrics) flown(log *slog.Logger) func(here, everywhere time.Duration, err error) {
	return func(here, everywhere time.Duration, err error) {
		if err != nil {
			m.lost.Inc()
			log.Error("a revocation of the canary was not enforced everywhere in time", "error", err)
			return
		}
		m.canary.WithLabelValues("here").Set(here.Seconds())
		m.canary.WithLabelValues("everywhere").Set(everywhere.Seconds())
	}
}

// asked counts one question.
func (m *forgeMetrics) asked(a forge.Asked) {
	outcome := "answered"
	switch {
	case errors.Is(a.Err, forge.ErrResting):
		outcome = "resting"
	case errors.Is(a.Err, forge.ErrBusy):
		outcome = "busy"
	case a.Err != nil:
		outcome = "failed"
	}
	lane := "waited"
	if a.Background {
		lane = "background"
	}
	m.questions.WithLabelValues(a.Forge, a.What, lane, outcome).Inc()
	m.seconds.WithLabelValues(a.Forge, a.What).Observe(a.Took.Seconds())
}

// used notes how old what was used is.
func (m *forgeMetrics) used(age time.Duration) { m.ages.Observe(age.Seconds()) }

// told counts one event that has been enforced here.
func (m *forgeMetrics) told(e forge.Event) {
	if e.Forge == forge.CanaryName {
		return
	}
	about := "forge"
	switch {
	case e.Forge == "" && e.Key == "":
		about = "everything"
	case e.User != "":
		about = "user"
	case e.Repo != "":
		about = "repository"
	case e.Key != "":
		about = "key"
	}
	m.events.WithLabelValues(e.Forge, about).Inc()
	if !e.At.IsZero() {
		m.enforced.Observe(max(time.Since(e.At), 0).Seconds())
	}
}

func (m *forgeMetrics) refused(what string) { m.rejected.WithLabelValues(what).Inc() }

// register adds what a decider has to show.
func (m *forgeMetrics) register(r *prometheus.Registry, d *decider) {
	for name := range d.providers { // so that a forge that never tells of anything is seen
		m.events.WithLabelValues(name, "user").Add(0)
	}
	r.MustRegister(
		m.questions, m.seconds, m.ages, m.enforced, m.events, m.rejected, m.canary, m.lost,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lychgate_oldest_fact_seconds", Help: "Age of the oldest answer of a forge that was used since the last scrape; never above 300.",
		}, d.oldestFact),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lychgate_in_touch", Help: "1 while this node hears from the others, or is alone; at 0 it asks forges again and again.",
		}, func() float64 { return oneIf(d.hub.Whole()) }),
	)
}

func (d *decider) oldestFact() float64 {
	var oldest time.Duration
	for _, c := range d.caches {
		oldest = max(oldest, c.OldestUsed())
	}
	return oldest.Seconds()
}
