# The two commands are `make run` and `make test`; `make help` lists the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINES := .venv-engines
SOURCES := $(shell find entrypoint backends -name '*.py' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help run quick test test-all lint bench images schema lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "zen-runner needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 run")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Beam and Spark for the tests, in a Python of their own, as they are in a user's.
$(ENGINES)/.made: tests/engines.txt
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/engines.txt
	@touch $@

run: $(VENV)/.run ## the penguins pipeline: real data, one process per step, no Docker
	$(BIN)/zen-runner run --config examples/penguins/pipeline.yaml

lint: $(VENV)/.dev ## ruff, its formatter and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: $(VENV)/.dev ## the unit tests that start no process: a loop of seconds
	$(BIN)/python -m pytest -q -n auto -m 'not (processes or large or engine or slow)' tests/unit

test: lint $(ENGINES)/.made ## all tests but the minutes-long ones
	$(BIN)/python -m pytest -n auto --dist loadgroup -m 'not slow'

test-all: lint $(ENGINES)/.made ## every test
	$(BIN)/python -m pytest -n auto --dist loadgroup

bench: $(VENV)/.dev ## the budgets of docs/performance.md, as ratios measured in one run
	$(BIN)/python -m benchmarks

images: ## cpu, beam, spark and cuda; makes the base from Debian packages where no registry answers
	images/build

lock: ## images/requirements/*.txt with hashes, from pyproject.toml and the .in files; needs uv
	images/lock

schema: $(VENV)/.run ## docs/schema.json, for editors
	$(BIN)/zen-runner schema > docs/schema.json

clean: ## remove what make made
	rm -rf $(VENV) $(ENGINES) build dist .mypy_cache .ruff_cache .hypothesis
