# Needs Python 3.11 or newer and make; everything else is installed into .venv.

PYTHON ?= python3
SIZE ?= 1GB
BENCH ?=
SCALE ?=
REV ?= HEAD~1
AGAINST ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench against faults profile scale shootout clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' $(MAKEFILE_LIST) | \
		while IFS=: read -r target text; do printf 'make %-10s%s\n' "$$target" "$$text"; done

demo: .venv/demo.stamp ## Write a real dump (SIZE=1GB) and evaluate it
	$(BIN)/daskxent demo --size $(SIZE)

test: .venv/test.stamp ## Run the tests, doctests included
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

faults: .venv/test.stamp ## Of the tests only those that kill real schedulers, workers and clients
	$(BIN)/python -m pytest tests/test_faults.py

lint: .venv/lint.stamp ## Check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: .venv/lint.stamp ## Format the code and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: .venv/bench.stamp ## Compare speed and memory with what was promised, and with zarr, Dask and torch (BENCH='--rounds 3')
	$(BIN)/python benchmarks/bench.py $(BENCH)

against: .venv/against.stamp ## Compare bits, times and memory with those of another revision (REV=HEAD~1 AGAINST='--bits')
	$(BIN)/python benchmarks/against.py $(REV) $(AGAINST)

profile: .venv/bench.stamp ## Show where the time of an evaluation goes
	$(BIN)/python benchmarks/stages.py

scale: .venv/test.stamp ## Show what a cluster run costs: memory, parts per second, two workers for one (SCALE='workers')
	$(BIN)/python benchmarks/scale.py $(SCALE)

shootout: .venv/demo.stamp ## Compare answers with those of other packages; the table goes into README.md
	$(BIN)/python benchmarks/shootout.py --readme README.md

clean: ## Remove the environment, caches, and the data of demo and bench
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist demo benchmarks/data benchmarks/.peers benchmarks/.against
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp tells that its installation was finished for the pyproject.toml of that time.

.venv/pip.stamp:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade 'pip>=25.1' # the first to know --group
	@touch $@

.venv/demo.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable '.[demo]'
	@touch $@

.venv/bench.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable '.[bfloat16]'
	@touch $@

.venv/against.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable '.[bfloat16,distributed]'
	@touch $@

.venv/test.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable . --group test
	@touch $@

.venv/lint.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable '.[demo]' --group lint
	@touch $@
