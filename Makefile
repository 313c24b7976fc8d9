# The everyday commands; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run build web setup setup-test test test-rust test-doc test-web ci fmt fmt-check lint clippy \
        lint-web deny advisories notices config-example fuzz-build fuzz clean-root clean

# What scripts/setup.sh installs: its Node.js comes before one that is too old, its tools after one's own.
export PATH := $(CURDIR)/.cache/node/bin:$(PATH):$(CURDIR)/.cache/tools/bin:$(HOME)/.cargo/bin

WEB_SOURCES := $(shell find web -type f -not -path '*/node_modules/*' -not -path 'web/dist/*' 2>/dev/null)

help: ## List these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

run: build ## Install what is missing, build, start a development server and print its address
	@exec target/release/zynk dev $(ARGS)

build: setup web ## Build the web client and the release binary, target/release/zynk
	cargo build --release --locked --package zynk

web: web/dist/index.html ## Build the web client that the binary embeds

web/node_modules/.package-lock.json: web/package-lock.json
	npm ci --prefix web --no-audit --no-fund --loglevel=error
	@touch $@

web/dist/index.html: $(WEB_SOURCES) | setup
	$(MAKE) --no-print-directory web/node_modules/.package-lock.json
	npm run build --prefix web --silent
	@touch $@

setup: ## Install what the build needs
	@scripts/setup.sh build

setup-test: ## Install what tests and lints need, browsers and SDKs included
	@scripts/setup.sh test

test: setup-test test-rust test-doc test-web ## Install what the tests need and run all of them

test-rust: web
	@cargo nextest run --workspace --locked && ended=0 || ended=$$?; scripts/compatibility.py || ended=1; exit $$ended

test-doc:
	cargo test --workspace --locked --doc --quiet

test-web: web
	npm test --prefix web --silent

ci: setup-test fmt-check web lint test-rust test-doc test-web ## What CI runs: formatting, lints, all tests

fmt: ## Format the Rust code
	cargo fmt --all

fmt-check:
	cargo fmt --all --check

lint: clippy lint-web deny ## All lints

clippy: web
	cargo clippy --workspace --locked --all-targets -- --deny warnings

lint-web: web
	npm run lint --prefix web --silent

deny:
	cargo deny --locked --log-level error check --hide-inclusion-graph bans licenses sources

advisories: ## Look for known vulnerabilities (needs the network)
	cargo deny --locked check advisories

notices: web ## Write THIRD-PARTY-NOTICES.md anew
	cargo fetch --locked
	scripts/notices.py > THIRD-PARTY-NOTICES.md

config-example: web ## Write deploy/config.example.toml anew
	cargo run --quiet --package zynk -- config example > deploy/config.example.toml

FUZZ_SECONDS ?= 600

fuzz-build:
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/fuzz/cover.sh cargo build --release --locked --package zynk-fuzz \
	    --features libfuzzer --bins --target-dir target/fuzz

fuzz: fuzz-build ## Fuzz a target, say with TARGET=rtp (ls fuzz/corpus), for FUZZ_SECONDS=600
	@mkdir -p target/fuzz/found/$(TARGET)
	target/fuzz/release/$(TARGET) -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -timeout=10 \
	    -artifact_prefix=target/fuzz/found/$(TARGET)- target/fuzz/found/$(TARGET) fuzz/corpus/$(TARGET)

clean-root: ## Run `make run` and `make test` in a fresh Debian (root, debootstrap; takes long)
	tests/clean-root.sh

clean: ## Remove what was built and installed here
	rm -rf target .cache web/dist web/node_modules tests/{browser,interop}/node_modules tests/interop/.venv
