# The targets people use; `make help` lists them.
SHELL      := bash
.SHELLFLAGS := -eu -o pipefail -c
GO         ?= go
BIN        := build/tidewire
VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SOURCES    := $(shell find . -name '*.go' -not -name '*_test.go') go.mod go.sum
GOTEST     := $(GO) tool gotestsum --format pkgname --
FUZZTIME   ?= 30s

.PHONY: help demo build test unit race lint fuzz bench nightly generate clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: $(BIN) ## build the binary into build/

$(BIN): $(SOURCES)
	$(GO) build -trimpath -ldflags "-X main.commit=$(VERSION)" -o $@ ./cmd/tidewire

demo: build ## publish a real text, kill -9 the node, read everything back [FILE=path] [KEEP=1]
	$(BIN) demo $(if $(FILE),--file "$(FILE)") $(if $(KEEP),--keep)

test: lint unit race ## everything that must pass: lint, all tests (root, for disks and power cuts), race detector

unit: build ## all tests, with real disks, kills and power cuts; needs root
	$(GOTEST) -tags faults -timeout 20m ./...

race: ## the tests under the race detector, and the node of the kill tests too
	$(GOTEST) -race -timeout 20m $$($(GO) list ./... | grep -v /test)
	$(GOTEST) -race -timeout 20m -run '^(TestKill|TestTerm|TestFilters|TestResume|TestSlowReaders|TestMillion|TestDamage)$$' ./test

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go'))" || { gofmt -d $$(git ls-files '*.go') | head -50; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags faults ./test/...
	$(GO) tool staticcheck ./...

fuzz: ## every fuzz target for FUZZTIME each (30s)
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep ^Fuzz || true); do \
			echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; done

bench: ## the Go benchmarks, ten runs, through benchstat
	@mkdir -p build
	$(GO) test -run '^$$' -bench . -benchmem -count 10 ./proto/wire ./storage ./raft ./client/go | tee build/bench.txt
	$(GO) tool benchstat build/bench.txt

nightly: build ## what is too long for test: 500 power cuts, 200 kills, fuzzing, 2 GiB restart; writes docs/results/nightly.md
	$(GO) run ./test/nightly

generate: ## make the Go code and the reference of proto/admin/v1/*.proto again
	cd proto/gen && $(GO) run .
	$(GO) test ./proto/admin/v1 -update

clean: ## remove what was built
	rm -rf build
