# make test needs Go, git and an OpenSSH client; it installs the rest where it can (scripts/prepare-test) and says what is missing where it cannot.

SHELL := /bin/bash
.DEFAULT_GOAL := build

GO ?= go
TOOLS := $(CURDIR)/.tools
GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(TOOLS)/bin/golangci-lint-$(GOLANGCI_VERSION)
# Inputs and not seconds: a fuzzer that runs out of time calls that a failure now and then (go.dev/issue/75804).
FUZZTIME ?= 1000000x
BENCH ?= .
BENCHTIME ?= 1s
# One package, or a few: make test PKG=./hostkeys/...
PKG ?= ./...
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

# Of a release; otherwise the go command's own stamp from git says what was built.
VERSION ?=
LDFLAGS := -s -w -X main.buildVersion=$(VERSION)

# Tests find programs on the path like anybody else: ours first, and sshd, which Debian keeps out of an ordinary user's path.
export PATH := $(TOOLS)/bin:$(TOOLS)/venv/bin:$(PATH):/usr/sbin:/sbin

.PHONY: build test test-quick lint fmt bench bench-quick bench-micro demo compat chaos lasting fuzz tools check-cross clean help

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the one binary, into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ssm-ssh-gateway ./cmd/ssm-ssh-gateway

test: ## everything, with the race detector and the real programs; then a little of each fuzz target
	scripts/prepare-test
	# What the race detector makes untrue: it lets sync.Pool forget.
	$(GO) test -count=1 -run 'Allocate' ./ssmproto
	$(GO) run ./internal/tools/testrun -race -count=1 -timeout 20m $(PKG)
	@[ "$(PKG)" != ./... ] || GUIDED=no FUZZTIME=50000x GO=$(GO) scripts/fuzz

test-quick: ## without the race detector and without preparing anything; skipped tests are named at the end
	$(GO) run ./internal/tools/testrun -count=1 -timeout 20m $(PKG)

lint: $(GOLANGCI) ## golangci-lint, pinned
	$(GOLANGCI) run ./...

fmt: $(GOLANGCI) ## gofumpt and import order
	$(GOLANGCI) fmt ./...

bench: ## everything side by side in one run, into docs/performance.md; then the micro benchmarks
	scripts/prepare-test
	$(GO) run ./integration/bench -out docs/performance.md
	@$(MAKE) --no-print-directory bench-micro

bench-quick: ## what has a goal, with smaller files, in under three minutes; one line a row: name, condition, ratio, goal, ok or short
	$(GO) run ./integration/bench -quick

bench-micro: ## go test -bench: BENCH, BENCHTIME, PKG
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem -timeout 30m $(PKG)

demo: ## a gateway, an AWS and a target on this machine; prints what to type
	$(GO) run ./cmd/ssm-ssh-gateway demo

compat: ## every client through the gateway, OpenSSH's own tests, 10,000 commands; writes docs/compatibility.md. RUN= some of it, into the same table; COMPAT_WARM=1 with sessions kept warm
	COMPAT=1 scripts/prepare-test
	cd integration/compat && COMPAT=1 $(GO) test -count=1 -timeout 120m $(if $(RUN),-run '$(RUN)' -record)
	$(if $(RUN),,cd integration/compat && COMPAT=1 COMPAT_WARM=1 $(GO) test -count=1 -timeout 60m -run TestScenarios -record)

chaos: ## random schedules of trouble for SECONDS; a failure names its SEED
	@$(GO) run ./integration/chaos $(if $(SEED),-seed $(SEED) $(if $(SECONDS),-seconds $(SECONDS)),-seconds $(or $(SECONDS),60))

lasting: ## 200 MiB each way while AWS closes every data channel every five seconds; minutes, and a smaller version of it is in test
	scripts/prepare-test
	LASTING=1 $(GO) test -count=1 -timeout 60m -run '^TestTransferOutlastsItsConnections$$' -v ./integration/e2e

fuzz: ## each fuzz target for FUZZTIME inputs
	FUZZTIME=$(FUZZTIME) GO=$(GO) scripts/fuzz

tools: $(GOLANGCI) ## what test and lint need
	scripts/prepare-test

check-cross: ## builds and vets for every platform we ship
	@set -e; for platform in $(PLATFORMS); do \
		echo "== $$platform"; \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} CGO_ENABLED=0 $(GO) build ./...; \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} CGO_ENABLED=0 $(GO) vet ./...; \
	done

$(GOLANGCI):
	mkdir -p $(TOOLS)/bin
	GOBIN=$(TOOLS)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(TOOLS)/bin/golangci-lint $@

clean: ## removes what was built, and the tools
	rm -rf bin dist $(TOOLS)
