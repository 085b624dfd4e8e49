# Needs Python 3.11 or newer and make; everything else is installed into .venv.

PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
SIZE ?= 1GB
BENCH ?=
SCALE ?=
REV ?= HEAD~1
FUZZ ?= 100
AGAINST ?=
WORKERS ?= 3 # one more than two cores: tests also wait, for clusters and clocks

# Tests and benchmarks start hundreds of processes: each would compile the package's own modules again (0.3 s).
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PIP = $(@D)/bin/python -m pip install --quiet --disable-pip-version-check

# Tests of the numbers, the sources and the runners without clusters: what other versions of the dependencies could break.
CORE := records scores kernels state statistics sources chunks zstd engine journal lazy losses missing

.DEFAULT_GOAL := help
.PHONY: help demo test docs wheels quick lowest newest newest-now lint format bench against faults fuzz profile scale shootout clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' $(MAKEFILE_LIST) | \
		while IFS=: read -r target text; do printf 'make %-10s%s\n' "$$target" "$$text"; done

demo: .venv/demo.stamp ## Write a real dump (SIZE=1GB) and evaluate it
	$(BIN)/daskxent demo --size $(SIZE)

test: .venv/test.stamp ## Run the tests, doctests included
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

quick: .venv/test.stamp ## Of the tests only those that take no processes and no patience, with fewer examples
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'not slow' --hypothesis-profile quick

fuzz: .venv/test.stamp ## Try damaged files, journals, reports and command lines, FUZZ=100 times as many as the tests do
	$(BIN)/python -m pytest --numprocesses 2 --timeout 0 -m fuzz --fuzz $(FUZZ)

faults: .venv/test.stamp ## Of the tests only those that kill real schedulers, workers and clients
	$(BIN)/python -m pytest tests/test_faults.py

lowest: .venv/lowest/test.stamp ## Run the core of the tests with the lowest versions of the dependencies (PYTHON=python3.11)
	.venv/lowest/bin/python -m pytest --numprocesses 2 --dist worksteal $(CORE:%=tests/test_%.py)

newest: .venv/newest/test.stamp ## Run the core of the tests with the newest versions of the dependencies (PYTHON=python3.13)
	.venv/newest/bin/python -m pytest --numprocesses 2 --dist worksteal $(CORE:%=tests/test_%.py)

lint: .venv/lint.stamp ## Check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: .venv/lint.stamp ## Format the code and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: .venv/bench.stamp ## Compare speed and memory with what was promised, and with eight peers (BENCH='--rounds 3': no peers)
	$(BIN)/python benchmarks/bench.py $(BENCH)
	$(if $(BENCH),,$(BIN)/python benchmarks/peers.py)

against: .venv/against.stamp ## Compare bits, times and memory with those of another revision (REV=HEAD~1 AGAINST='--bits')
	$(BIN)/python benchmarks/against.py $(REV) $(AGAINST)

profile: .venv/bench.stamp ## Show where the time of an evaluation goes
	$(BIN)/python benchmarks/stages.py

scale: .venv/test.stamp ## Show what a cluster run costs: memory, parts per second, two workers for one (SCALE='workers')
	$(BIN)/python benchmarks/scale.py $(SCALE)

wheels: .venv/test.stamp ## Build a wheel; install and run it alone, on each of PYTHONS that is there
	rm -rf dist && $(BIN)/python -m hatchling build
	for python in $(PYTHONS); do if $$python -c 'print()' >/dev/null 2>&1; then \
		rm -rf .venv/wheel && $$python -m venv .venv/wheel && .venv/wheel/bin/pip install --quiet dist/*.whl && \
		(cd /tmp && $(CURDIR)/.venv/wheel/bin/python -W error -m daskxent --version && \
		$(CURDIR)/.venv/wheel/bin/python -c 'import daskxent as dx, numpy as np, sys; \
		x = np.tile(np.eye(10, dtype="f4"), (10_000, 1)); y = np.arange(100_000) % 10; \
		assert dx.evaluate(y, x, from_logits=True)["accuracy"] == 1; print(sys.version.split()[0], "evaluates")') \
	|| exit 1; else echo "$$python is not here"; fi; done

docs: .venv/docs.stamp ## Build the documentation site into docs/_build/html; warnings are errors
	rm -rf docs/notebooks && cp -r examples/notebooks docs/notebooks
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html

shootout: .venv/demo.stamp ## Compare answers with those of other packages; the table goes into docs/comparison.md
	$(BIN)/python benchmarks/shootout.py --page docs/comparison.md

clean: ## Remove the environment, caches, and the data of demo and bench
	rm -rf docs/_build docs/notebooks .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist demo benchmarks/data benchmarks/.peers benchmarks/.against
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp says that its installation was finished for the pyproject.toml of that time.

.venv/pip.stamp .venv/lowest/pip.stamp .venv/newest/pip.stamp:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(@D)
	$(PIP) --upgrade 'pip>=25.1' # the first to know --group
	@touch $@

.venv/demo.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable '.[demo]'
	@touch $@

.venv/bench.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable '.[bfloat16]' --group peers
	@touch $@

.venv/docs.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable . --group docs
	@touch $@

.venv/against.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable '.[bfloat16,distributed]'
	@touch $@

.venv/test.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable . --group test
	@touch $@

.venv/lowest/test.stamp: pyproject.toml .venv/lowest/pip.stamp
	sed -n '/^dependencies/,/^demo/s/.*"\([a-z0-9_-]*\)[^"]*>=\([0-9.]*\)".*/\1==\2/p' pyproject.toml >$(@D)/floors.txt
	$(PIP) --editable . --group core --constraint $(@D)/floors.txt
	@touch $@

.venv/newest/test.stamp: newest-now .venv/newest/pip.stamp
	$(PIP) --upgrade --upgrade-strategy eager --editable . --group core
	@touch $@

newest-now: # no file: what was the newest at the last time need not be so now

.venv/lint.stamp: pyproject.toml .venv/pip.stamp
	$(PIP) --editable . --group lint
	@touch $@
