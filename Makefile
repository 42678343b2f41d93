# The targets people use; `make help` lists them.
SHELL      := bash
.SHELLFLAGS := -eu -o pipefail -c
GO         ?= go
BIN        := build/tidewire
VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SOURCES    := $(shell find . -name '*.go' -not -name '*_test.go') go.mod go.sum
GOTEST     := $(GO) tool gotestsum --format pkgname --
FUZZTIME   ?= 30s

.PHONY: help demo build test unit race lint smoke fuzz bench summary profile microbench nightly generate clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: $(BIN) ## build the binary into build/

$(BIN): $(SOURCES)
	$(GO) build -trimpath -ldflags "-X main.commit=$(VERSION)" -o $@ ./cmd/tidewire

demo: build ## publish a real text, kill -9 the node, read everything back [FILE=path] [KEEP=1]
	$(BIN) demo $(if $(FILE),--file "$(FILE)") $(if $(KEEP),--keep)

test: lint unit race smoke ## everything that must pass: lint, all tests (root, for disks and power cuts), race detector, a look at bench

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
	staticcheck=$$($(GO) tool -n staticcheck); cd bench/peers && $(GO) vet ./... && $$staticcheck ./...

fuzz: ## every fuzz target for FUZZTIME each (30s)
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep ^Fuzz || true); do \
			echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; done

# The peers are a module of their own: what only they need is no dependency of Tidewire.
build/peers: $(SOURCES) bench/peers/go.mod bench/peers/page.html
	cd bench/peers && $(GO) build -trimpath -o ../../$@ .

build/nats-server: bench/peers/go.mod
	cd bench/peers && $(GO) build -trimpath -o ../../$@ github.com/nats-io/nats-server/v2

bench: build build/peers build/nats-server ## Tidewire beside JetStream and Redis: table, JSON, page in build/bench [QUICK=1] [ALL=1] [CASES=regexp] [ROUNDS=5] [DIR=disk]
	build/peers $(if $(QUICK),-quick) $(if $(ALL),-all) $(if $(CASES),-cases "$(CASES)") $(if $(ROUNDS),-rounds $(ROUNDS)) $(if $(DIR),-dir "$(DIR)")

summary: build/peers ## one table in Markdown of several runs of bench: make summary RUNS="first.json second.json"
	build/peers -summary $(RUNS)

profile: build build/peers ## profiles of node and client under a case of bench, in build/profile: make profile CASE="1024 in flight"
	build/peers -profile "$(CASE)"

smoke: build build/peers build/nats-server ## the tests of bench/peers, and one short round of everything it measures
	cd bench/peers && $(GO) test ./...
	build/peers -quick -all -out build/smoke > build/smoke.txt || { cat build/smoke.txt; exit 1; }

microbench: ## the Go benchmarks, ten runs, through benchstat
	@mkdir -p build
	$(GO) test -run '^$$' -bench . -benchmem -count 10 ./proto/wire ./storage ./raft ./client/go | tee build/microbench.txt
	$(GO) tool benchstat build/microbench.txt

nightly: build ## what is too long for test: 500 power cuts, 200 kills, fuzzing, 2 GiB restart; writes docs/results/nightly.md
	$(GO) run ./test/nightly

generate: ## make the Go code and the reference of proto/admin/v1/*.proto again
	cd proto/gen && $(GO) run .
	$(GO) test ./proto/admin/v1 -update

clean: ## remove what was built
	rm -rf build
