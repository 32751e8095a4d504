package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestQuickstartOwnCache: the forge knows the hosts of the cache that is published, and who starts it again with another is told what is missing.
func TestQuickstartOwnCache(t *testing.T) {
	example := t.TempDir()
	if err := writeExample(example); err != nil {
		t.Fatal(err)
	}
	hosts, err := sourceHosts(t.Context(), example)
	if want := []string{"git.example.com"}; err != nil || !slices.Equal(hosts, want) {
		t.Fatalf("hosts of the example: %q, %v, want %q", hosts, err, want)
	}
	if _, err := sourceHosts(t.Context(), filepath.Join(example, "absent")); err == nil {
		t.Error("a cache that is not there has hosts")
	}

	var out strings.Builder
	q := quickstart{dir: t.TempDir(), https: "127.0.0.1:8443", admin: "127.0.0.1:9443", hosts: []string{"ftp.example.org", "git.example.com:2222"}, out: &out}
	if _, err := q.prepare(); err != nil {
		t.Fatal(err)
	}
	if err := q.tellUnowned(); err != nil || out.String() != "" {
		t.Errorf("the first start: %q, %v", out.String(), err)
	}
	q.hosts = append(q.hosts, "other.example.com")
	if _, err := q.prepare(); err != nil {
		t.Fatal(err)
	}
	if err := q.tellUnowned(); err != nil || !strings.Contains(out.String(), `sources at ["other.example.com"]: add to hosts in `+q.path("forge.yaml")) {
		t.Errorf("another cache: %q, %v", out.String(), err)
	}
	if text, err := os.ReadFile(q.path("forge.yaml")); err != nil || strings.Contains(string(text), "other") {
		t.Errorf("the file was changed: %v\n%s", err, text)
	}
}
