# Every verb of the project. `make demo` and `make test` work on a fresh machine: they install into .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint types imports serve worker migrate bench chaos load clean

help: ## List the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e '.[dev]'
	touch $(STAMP)

setup: $(STAMP) ## Install everything into .venv

demo: $(STAMP) ## The whole loop on procedural identities: train, audit, repair, audit again
	$(BIN)/auditor demo

test: $(STAMP) ## Every test that runs on this machine, on real PostgreSQL and Redis
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -q

test-fast: $(STAMP) ## The tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "not slow and not integration and not e2e"

lint: $(STAMP) ## Style and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP) ## Static types
	$(BIN)/mypy

worker: $(STAMP) ## A Celery worker (needs AUDITOR_BROKER_URL)
	$(BIN)/auditor worker

serve: $(STAMP) ## The HTTP API on this machine; without a broker it also runs the jobs
	$(BIN)/auditor migrate
	$(BIN)/auditor serve

migrate: $(STAMP) ## Bring the database up to date (AUDITOR_DATABASE_URL, default SQLite)
	$(BIN)/auditor migrate

bench: $(STAMP) ## The benchmark tables, as ratios measured in one run
	$(BIN)/python -m benchmarks.attacks
	$(BIN)/python -m benchmarks.fisher
	$(BIN)/python -m benchmarks.priors

chaos: $(STAMP) ## Seventy-two faults on real PostgreSQL, Redis, API servers and workers: is anything lost or doubled?
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.chaos

load: $(STAMP) ## Many submissions at once: latencies, and whether the queue drains in order of fairness
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.load

clean: ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
