package httpd_test

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// BenchmarkDeniedOrAbsent asks for denied and absent names in turns on one connection and reports whether their times differ:
// Welch's t of the logarithms, which should stay below 4.5, and the difference of the medians. Run it with -benchtime 20000x.
//
// Every name is asked for once, so that what the gate remembers of names, if anything, does not hide a difference; "warm" asks
// for the same two again and again.
func BenchmarkDeniedOrAbsent(b *testing.B) {
	g := gwtest.New(b, gwtest.Options{})
	const names = 1000
	var denied []gwtest.Object
	var absent []string
	for i := range names {
		denied = append(denied, gwtest.NewObject(fmt.Sprintf("denied%04d", i), "package"))
		absent = append(absent, gwtest.NewObject(fmt.Sprintf("absent%04d", i), "package").Name)
	}
	g.Publish(denied, privateSource)
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		for _, pool := range []int{1, names} {
			b.Run(fmt.Sprintf("%s/names=%d", method, pool), func(b *testing.B) {
				w := dial(b, g)
				took := [2][]float64{}
				for i := range b.N {
					// The order within a pair changes, so that neither class always comes after the other.
					for turn := range 2 {
						class := (i + turn) % 2
						name := absent[i%pool]
						if class == 0 {
							name = denied[i%pool].Name
						}
						text := method + " " + mount + name + " HTTP/1.1\r\nHost: gate\r\n" + basic(g.As("bob")) + "\r\n"
						began := time.Now()
						w.say(text)
						res, _ := w.response(method)
						took[class] = append(took[class], float64(time.Since(began).Nanoseconds()))
						if res == nil || res.StatusCode != http.StatusNotFound {
							b.Fatalf("%s: %v", name, res)
						}
					}
				}
				b.ReportMetric(welch(logs(took[0]), logs(took[1])), "t")
				b.ReportMetric(median(took[0])-median(took[1]), "ns-median-difference")
				b.ReportMetric(median(took[1]), "ns-median-absent")
			})
		}
	}
}

func logs(list []float64) []float64 {
	out := make([]float64, len(list))
	for i, x := range list {
		out[i] = math.Log(x)
	}
	return out
}

// welch is the statistic of Welch's t-test.
func welch(a, b []float64) float64 {
	ma, va := moments(a)
	mb, vb := moments(b)
	return (ma - mb) / math.Sqrt(va/float64(len(a))+vb/float64(len(b)))
}

func moments(list []float64) (mean, variance float64) {
	for _, x := range list {
		mean += x / float64(len(list))
	}
	for _, x := range list {
		variance += (x - mean) * (x - mean) / float64(max(len(list)-1, 1))
	}
	return mean, variance
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}
