# SPDX-License-Identifier: Apache-2.0
# What a person types. `make` prints the targets; each runs a script of hatch.toml in a private
# environment below .hatch/, so that Python 3.11 and make are all that must be installed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
HATCH := .hatch/bin/hatch
export HATCH_DATA_DIR := $(CURDIR)/.hatch/data
export PATH := $(CURDIR)/.hatch/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo playground praetorctl test check fmt vet build docs publish release generate manifests e2e clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(HATCH): requirements/hatch.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Python 3.11 or later is needed; name one with 'make PYTHON=/path/to/python3'" >&2; exit 1; }
	@echo "Setting up a private environment in .hatch/ (once, about a minute)" >&2
	@"$(PYTHON)" -m venv .hatch || \
	  { echo "make: Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@.hatch/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/hatch.txt
	@touch $@

demo: $(HATCH) ## run the whole system here and show a rollout; ARGS=--stay keeps it running
	@$(HATCH) run demo $(ARGS)

playground: $(HATCH) ## start what the example of docs/first-rollout.md needs, until Ctrl-C
	@$(HATCH) run playground $(ARGS)

praetorctl: $(HATCH) ## run praetorctl, as in: make praetorctl ARGS="rollout status beacon"
	@$(HATCH) run praetorctl $(ARGS)

test: $(HATCH) ## run every test that needs no root and no cluster
	@$(HATCH) run test $(ARGS)

check: $(HATCH) ## format, lint, types, imports, dependencies, vocabulary
	@$(HATCH) run check

e2e: $(HATCH) ## run the end-to-end suite on the embedded control plane
	@$(HATCH) run e2e $(ARGS)

fmt: $(HATCH) ## format the code
	@$(HATCH) run fmt

vet: check ## the same as check

build: $(HATCH) ## build wheels into dist/ and the programs into bin/
	@$(HATCH) run build
	@"$(PYTHON)" -m venv bin/.venv
	@bin/.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements/controller.txt -r requirements/gateway.txt -r requirements/agent.txt
	@bin/.venv/bin/pip install --quiet --disable-pip-version-check --no-index dist/praetor_api-*.whl \
	  dist/praetor_controller-*.whl dist/praetor_gateway-*.whl dist/praetor_agent-*.whl
	@for name in controller gateway agent; do \
	  ln -sf .venv/bin/apollo-deviceprocess-$$name bin/apollo-deviceprocess-$$name; done

docs: $(HATCH) ## build the docs site into dist/site
	@$(HATCH) run docs $(ARGS)

publish: $(HATCH) ## commit a version of the docs site to the branch gh-pages; ARGS="deploy VERSION"
	@$(HATCH) run site:publish $(ARGS)

release: $(HATCH) ## make all that a release needs; ARGS=--dry-run, or ARGS=WHEEL for a tag
	@$(HATCH) run release $(ARGS)

generate: manifests ## the same as manifests

manifests: $(HATCH) ## write crds/ again
	@$(HATCH) run manifests

clean: ## remove the private environment and what was built
	@rm -rf .hatch bin dist
