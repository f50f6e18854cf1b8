# Stagedoor. Bare `make` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Where cargo builds; both names end in the same directory.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Where the end-to-end tests put what each function calls and what the sweep measures (STAGEDOOR_SEEN): FUNCTION/*.json, lists of AWS
# actions; metrics/*.jsonl, the metrics of sweeps in each scenario.
SEEN ?= $(TARGET)/seen
# Where `make tools` puts cargo-deny and cargo-machete. Debug builds: they run for seconds, and are compiled in half the time.
TOOLS ?= .cache/tools

.PHONY: help
help: ## List the targets
	@echo "Stagedoor: enrols EC2 Auto Scaling instances in Puppet, and removes them before they terminate."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Debug builds always name the whole workspace, so that every crate sees the same features and nothing is compiled twice: the
# EC2 SDK takes longer than everything else together.
# Cargo first starts the crates that most other crates depend on. Few depend on the EC2 SDK, so it would start late. With two more jobs
# than processors, it starts minutes earlier, and the other crates are compiled at the same time (tools/rustc).
BUILD = $(CARGO) build --locked --workspace --jobs $$(($$(getconf _NPROCESSORS_ONLN) + 2))

.PHONY: demo
demo: ## See it work: the built functions against the lab, told as a story (first time: minutes of compiling)
	@tools/cargo-lambda >/dev/null & installing=$$!; \
	echo "Building the functions and the lab (the EC2 SDK alone takes minutes the first time) …"; \
	$(BUILD) --bins --example demo; \
	wait $$installing; \
	bin=$$(tools/cargo-lambda); \
	PATH="$$bin:$$PATH" "$(TARGET)/debug/examples/demo"

.PHONY: bench
bench: ## Measure mass events, 1 to 5,000 terminations in one batch, and a CA with 100,000 certificates (about seven minutes)
	$(CARGO) build --release --locked -p stagedoor-functions
	$(CARGO) build --release --locked -p stagedoor-lab --example mass
	$(CARGO) build --release --locked -p stagedoor-lab --example large_ca
	"$(TARGET)/release/examples/mass"
	"$(TARGET)/release/examples/large_ca"

# Most of what the end-to-end tests do is to wait, for budgets that end and for agents that try again: more of them than cores run at
# once, and beside them the tests that compute, and the checks of infra/.
THREADS ?= 8
TESTING = INSTA_UPDATE=no STAGEDOOR_SEEN="$(abspath $(SEEN))"
.PHONY: test
test: ## Run every test that needs nothing but the workspace
	@echo "Building everything (the EC2 SDK alone takes minutes the first time), and checking infra/ beside it …"
	rm -rf "$(SEEN)"
	$(MAKE) --no-print-directory --jobs=3 infra-check end-to-end other-tests
	$(MAKE) --no-print-directory least-privilege alarms

# Built first, so that the end-to-end tests run while cargo builds the other tests. `cargo test` would build every test before it runs any.
.PHONY: end-to-end-built
end-to-end-built:
	mkdir -p "$(TARGET)"
	$(BUILD) --bins --test end-to-end --message-format json-render-diagnostics \
	  | sed -n 's/.*"name":"end-to-end".*"executable":"\([^"]*\)".*/\1/p' >"$(TARGET)/end-to-end.path"

.PHONY: end-to-end
end-to-end: end-to-end-built
	program=$$(realpath "$$(cat "$(TARGET)/end-to-end.path")"); cd tests; \
	  $(TESTING) "$$program" e2e:: conformance:: --test-threads "$(THREADS)"

.PHONY: other-tests
other-tests: end-to-end-built
	$(BUILD) --all-targets
	$(TESTING) $(CARGO) test --locked --workspace -- --skip e2e:: --skip conformance::

# SEED=n runs one schedule and prints its trace; EXHAUSTIVE=kills, faults, pairs or both runs that set, with FROM and SEEDS a part of it;
# BUDGET=n runs as many seeds as fit into so many seconds; BROKEN=1 says after how many seeds each deliberately broken rule is seen;
# BENCH=1 measures (docs/reliability.md).
FROM ?= 0
SEEDS ?= 1000
WHAT = $(if $(EXHAUSTIVE),--exhaustive $(EXHAUSTIVE) $(FROM) $(if $(filter command line,$(origin SEEDS)),$(SEEDS)),$(if $(BUDGET),--for $(BUDGET) $(FROM),$(if $(BROKEN),--broken $(FROM) $(SEEDS),$(if $(BENCH),--bench,--seeds $(FROM) $(SEEDS)))))
.PHONY: simulate
simulate: ## Run random schedules on simulated time (SEEDS=n FROM=n), or one schedule and print its trace (SEED=n; first time: minutes of compiling)
	$(CARGO) build --locked --profile simulation -p stagedoor-simulation
	"$(TARGET)/simulation/simulate" $(or $(SEED),$(WHAT))

.PHONY: simulate-tests
simulate-tests: ## Run the simulation's tests in full: every broken rule, every kill point, every single fault, 200 random schedules
	STAGEDOOR_SIMULATE=all $(CARGO) test --locked --profile simulation -p stagedoor-simulation --test invariants

.PHONY: simulate-fleets
simulate-fleets: ## Run 50 launches and 1,000 terminations at once on simulated time
	STAGEDOOR_SIMULATE=all $(CARGO) test --locked --profile simulation -p stagedoor-simulation --test fleets

.PHONY: infra-check
infra-check: ## Check the CloudFormation templates, the user data, the event patterns and the roles
	tests/infra/run

.PHONY: least-privilege
least-privilege: ## Compare the calls that the tests saw with what the roles allow (SEEN=directory)
	tests/infra/run least-privilege "$(SEEN)"

.PHONY: alarms
alarms: ## Evaluate the alarms on the metrics that the tests recorded (SEEN=directory)
	tests/infra/run alarms "$(SEEN)"

.PHONY: package
package: ## Package the functions for Lambda (ARCH=arm64 or x86_64; both without it) and report their size (first time: half an hour)
	infra/package $(ARCH)

# BUCKET, SETTINGS (JSON), CONFIG (TOML), STACK, CODE (an earlier code prefix), YES=1: see docs/deployment.md.
DEPLOY = tools/venv infra tests/infra/requirements.txt; .venv/infra/bin/python infra/deploy
OPTIONS = --bucket "$(or $(BUCKET),$(error say where to upload: BUCKET=… (docs/deployment.md)))" $(if $(STACK),--stack "$(STACK)") $(if $(YES),--yes)
.PHONY: deploy
deploy: ## Deploy the controller: upload, show the changes, ask, carry out (docs/deployment.md)
	@$(DEPLOY) controller $(OPTIONS) --settings "$(or $(SETTINGS),controller.json)" \
	  --configuration "$(or $(CONFIG),stagedoor.toml)" --packages "$(TARGET)/lambda" $(if $(CODE),--code "$(CODE)")

.PHONY: deploy-fleet
deploy-fleet: ## Deploy the example fleet of compilers in the same way
	@$(DEPLOY) fleet $(OPTIONS) --settings "$(or $(SETTINGS),fleet.json)"

.PHONY: live
live: boto3 ## Test the clients and functions with real Puppet servers and agents (PUPPET=7 or 8, AGENT=openvox9; root, Debian 12; installs packages)
	PUPPET="$(or $(PUPPET),7)" AGENT="$(AGENT)" tests/live/run

.PHONY: live-both
live-both: boto3 ## The same for Puppet 7 and 8 at once, each in its own namespaces
	tests/live/together 7 8

.PHONY: boto3
boto3: ## Test the lab's AWS side with boto3
	$(BUILD) --bin lab
	LAB_BIN="$(TARGET)/debug/lab" tests/boto3/run

.PHONY: lint
lint: tools ## Check formatting, lints, dependencies and scripts
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	$(TOOLS)/bin/cargo-deny --locked --all-features check bans licenses sources
	$(TOOLS)/bin/cargo-machete
	tools/same-features
	@if command -v shellcheck >/dev/null; then shellcheck -x tools/* tests/live/run tests/live/together tests/live/stage tests/live/agent tests/boto3/run tests/infra/run infra/package .ci/run; \
	else echo "shellcheck is not installed: the scripts were NOT checked (apt-get install shellcheck)"; fi

.PHONY: audit
audit: tools ## Check the dependencies against the advisory database (fetches it)
	$(TOOLS)/bin/cargo-deny --locked --all-features check advisories

.PHONY: tools
tools: ## Install cargo-deny and cargo-machete
	@for tool in cargo-deny@0.20.2 cargo-machete@0.9.2; do \
	  if ! grep -qsF "\"$${tool%@*} $${tool#*@} " "$(TOOLS)/.crates.toml"; then \
	    echo "Installing $$tool (some minutes) …"; \
	    env -u CARGO_TARGET_DIR $(CARGO) install --locked --debug --root "$(TOOLS)" "$$tool"; \
	  fi; \
	done

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all
