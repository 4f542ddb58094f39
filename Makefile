# Every target says what it does and installs what it needs; `make help` lists them. These are CI's jobs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export CARGO_PROFILE_DEV_DEBUG ?= line-tables-only
# mold links several times faster than the default linker; everything also works without it.
ifneq ($(shell command -v mold),)
export RUSTFLAGS ?= -C link-arg=-fuse-ld=mold
endif
# Programs are run from here and not with `cargo run -p`, which would choose other features and build everything again.
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
DEBUG := $(or $(CARGO_TARGET_DIR),target)/debug

# How long `make sim` runs, and on how many threads.
SECONDS_SIM ?= 120
JOBS_SIM ?= $(shell nproc 2>/dev/null || echo 1)
# How long `make fuzz` runs each target.
SECONDS_FUZZ ?= 20

# Where `make install` puts the programs.
PREFIX ?= /usr/local/bin

# Options of `make images`.
IMAGES ?=

# How long `make jepsen` hurts its store, and further options (JEPSEN=--help).
MINUTES ?= 2
JEPSEN ?=

.PHONY: help setup build install demo test e2e procedures smoke sim soak jepsen mutations fuzz fuzz-corpus lint bench timings scale generate images cluster-up cluster-down cluster-test chart-test chart-live clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## Install the system packages that are missing (or say which)
	@./tools/setup

build: setup ## Build the engine module, the proxy and masctl (release)
	@echo "== build: engine module, proxy, masctl (release; the first build takes some minutes)"
	cargo build --release -p mas-engine -p mas-proxy -p operator -p e2e

install: build ## masctl (also as kubectl's plugin kubectl-mas), the proxy and the engine into PREFIX (/usr/local/bin)
	install -d "$(PREFIX)"
	install -m 755 "$(RELEASE)/masctl" "$(RELEASE)/mas-proxy" "$(PREFIX)"
	install -m 644 "$(RELEASE)/libmas_engine.so" "$(PREFIX)"
	ln -sf masctl "$(PREFIX)/kubectl-mas"

demo: build ## Two regions on this machine: write in both, cut, conflict, heal, compare (stays up at a terminal)
	@echo "== demo: two regions, real servers, one story"
	@$(RELEASE)/demo

test: setup ## All tests, on real redis-servers and real RabbitMQ brokers
	@echo "== test: building servers and tests"
	cargo build --workspace --bins --lib
	./tools/test

sim: ## Simulated stores under failures, judged by independent checkers, for SECONDS_SIM (120) seconds
	@echo "== sim: seeds for $(SECONDS_SIM) s (docs/correctness.md says how to replay one)"
	cargo run --quiet -p sim -- --seconds $(SECONDS_SIM) --jobs $(JOBS_SIM) $(if $(SEEDS_SIM),--seeds $(SEEDS_SIM))

soak: ## The same with ever new seeds, until stopped
	cargo run --quiet -p sim -- --soak --jobs $(JOBS_SIM)

mutations: ## Plant every known bug in turn: the simulator must find each
	cargo run --quiet -p sim --features mutations -- --mutations --jobs $(JOBS_SIM)

fuzz: setup ## Fuzz every parser, each target for SECONDS_FUZZ (20) seconds (installs cargo-fuzz if it is missing)
	./tools/fuzz $(SECONDS_FUZZ)

fuzz-corpus: setup ## The same, and adds a few of the inputs that were found to fuzz/corpus
	GROW=1 ./tools/fuzz $(SECONDS_FUZZ)

jepsen: setup ## Real servers under faults for MINUTES (2); checkers judge what clients were told (JEPSEN=--help: options)
	@echo "== jepsen: building servers and clients"
	cargo build --workspace --bins --lib
	@$(DEBUG)/jepsen --minutes $(MINUTES) $(JEPSEN)

lint: ## Formatting, clippy, documentation, licences (installs cargo-deny if it is missing: some minutes, once)
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p sim --features mutations --all-targets -- -D warnings
	cargo clippy --manifest-path fuzz/Cargo.toml --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet
	@command -v cargo-deny >/dev/null || { echo "== lint: installing cargo-deny"; cargo install --locked --quiet cargo-deny; }
	cargo deny --log-level error check licenses bans sources

bench: build ## Plain Redis, nutcracker and a region of this store, side by side in one run (BENCH=--help: options)
	@$(RELEASE)/bench $(BENCH)

timings: build ## How long failover, handover, scale-out, rebuild and verification take here (TIMINGS=--help: options)
	@$(RELEASE)/timings $(TIMINGS)

scale: setup ## What the operator costs for 1, 10 and 100 stores (SCALE=--help: options)
	cargo build --workspace --bins --lib
	@$(DEBUG)/scale $(SCALE)

generate: ## Write the generated files again (docs/commands.md, crds/*.yaml ...)
	./tools/generate

smoke: setup ## The chart installed on a Kubernetes with nodes, used from inside, hurt, uninstalled (some four minutes)
	cargo build --workspace --bins --lib
	@./tools/e2e smoke

e2e: setup ## That, and everything that happens to stores that run for years (KIND=1: on kind; docs/e2e.md)
	cargo build --workspace --bins --lib
	@./tools/e2e all

procedures: setup ## All tests of procedures under load: scale-out, removal, rebuild, handover; the supervisor dies at every action (half an hour)
	cargo build --workspace --bins --lib
	cargo test --workspace --no-fail-fast --test scale_out --test removal --test rebuild --test handover -- --nocapture

images: setup ## Container images of redis with the engine, broker, proxy, operator (IMAGES=--help: options; docs/images.md)
	@./tools/images $(IMAGES)

cluster-up: ## A real Kubernetes on this machine, for tests (docs/cluster.md; with KUBECONFIG set, that cluster is used instead)
	@if [ -n "$$KUBECONFIG" ]; then echo "== cluster: KUBECONFIG is set: $$KUBECONFIG is used, and nothing is started"; else ./tools/cluster up; fi

cluster-down: ## End that cluster and remove its files
	@./tools/cluster down

cluster-test: ## The tests of that cluster: start it, use it, end it in every way; nothing may be left
	@./tools/cluster test

chart-test: ## The Helm chart: lint, rendered objects, alert rules; installed on a real API server (brings Helm and promtool)
	@./tools/chart test
	@./tools/chart cluster

chart-live: setup ## A real store, operator and Prometheus: the dashboard's queries return data, alerts are quiet, and then not
	cargo build --workspace --bins --lib
	@PROGRAMS=$(DEBUG) ./tools/chart live

clean: ## Remove build output
	cargo clean
