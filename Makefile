# Lychgate. `make` lists what there is; the words behind ## are its text.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO          ?= go
STATICCHECK := bin/tools/staticcheck-v0.8.2
GOFUMPT     := bin/tools/gofumpt-v0.12.0
T           ?= 30s

.PHONY: help run build test test-full test-gitea test-bitbake test-hashserv check bench fuzz packages clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

run: build ## Build and start the quickstart on 127.0.0.1:8443 (ARGS="--sstate DIR" for another cache)
	bin/lychgate quickstart $(ARGS)

build: ## Build bin/lychgate: one static binary, without cgo
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/lychgate ./cmd/lychgate

test: packages ## Run the whole suite with the race detector
	$(GO) vet ./...
	$(GO) test -race -timeout 20m ./...

test-full: test test-gitea ## Run the suite, then with a real Gitea, revoke 1,000 times, load a cache, kill the gate 200 times, fuzz for T each
	REVOCATIONS=1000 $(GO) test -count=1 -timeout 30m -v -run '^TestRevocationLatency$$' ./internal/gwtest
	LOAD=full $(GO) test -count=1 -timeout 30m -v -run '^TestLoad$$' ./authz/forge
	KILL_CYCLES=200 $(GO) test -count=1 -timeout 30m -v -run '^TestKill$$' ./cmd/lychgate
	@$(MAKE) fuzz

test-gitea: packages ## Run the forge suite against a real Gitea, which is built once: that takes minutes
	LYCHGATE_GITEA=1 $(GO) test -count=1 -timeout 30m -run '^TestGiteaReal$$' ./internal/gwtest/gitea

test-bitbake: build ## Run unmodified BitBake against a gate (BITBAKE_DIR=DIR OECORE_DIR=DIR, two checkouts; ARGS="-only ssh")
	$(GO) run ./internal/bitbake -bitbake "$(BITBAKE_DIR)" -oecore "$(OECORE_DIR)" $(ARGS)

test-hashserv: build ## Run BitBake's suite of its hash equivalence server against a gate (BITBAKE_DIR=DIR; ARGS="-only gate")
	$(GO) run ./internal/hashsuite -bitbake "$(BITBAKE_DIR)" $(ARGS)

check: $(STATICCHECK) $(GOFUMPT) ## Vet, lint, format, floors, versions, documentation, a build without cgo
	$(GO) mod verify
	$(GO) vet ./...
	$(STATICCHECK) ./...
	@unformatted=$$($(GOFUMPT) -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "run: $(GOFUMPT) -w" $$unformatted >&2; exit 1; }
	$(GO) test -count=1 .
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/lychgate ./cmd/lychgate
	bin/lychgate version

bench: build ## Measure: the Go benchmarks, then the gate beside its peers (ARGS="-quick"; ARGS="-o docs/performance.md")
	$(GO) test -run '^$$' -bench . -benchmem -timeout 60m ./...
	$(GO) run ./internal/bench $(ARGS)

# A target that fails is run again: what it found is in its corpus then and fails at once, and a worker that was only slow to
# stop does not count.
fuzz: ## Run every fuzz target for T each (make fuzz T=10m)
	@grep -rHoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . | sort | while IFS=: read -r file name; do \
		echo "$${name#func } in $$(dirname "$$file") for $(T)"; \
		run() { $(GO) test -run "^$${name#func }$$" -fuzz "^$${name#func }$$" -fuzztime $(T) "$$(dirname "$$file")" </dev/null; }; \
		run || run; \
	done

packages:
	@.ci/packages

$(STATICCHECK):
	GOBIN=$(CURDIR)/bin/tools $(GO) install honnef.co/go/tools/cmd/staticcheck@v0.8.2
	mv bin/tools/staticcheck $@

$(GOFUMPT):
	GOBIN=$(CURDIR)/bin/tools $(GO) install mvdan.cc/gofumpt@v0.12.0
	mv bin/tools/gofumpt $@

clean: ## Remove what was built, and the quickstart's state
	rm -rf bin var
