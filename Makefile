# Every target makes or reuses .venv by itself.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint requirements/lock.txt
WORKERS ?= 2

export OLMO_DYNAMICS_CACHE ?= $(CURDIR)/cache/olmo_dynamics
# Idle compute threads sleep instead of spinning: on a machine shared with others the rest is several times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo test slow check format docs notebooks bench lab lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

demo: $(VENV)/.run  ## pretrain a tiny OLMo offline, collect its revisions, write the report (minutes, two cores)
	$(BIN)/olmo-dyn demo --out cache/demo

test: check  ## every check, then every test that is not marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) -m "not slow"

slow: $(VENV)/.dev  ## the tests marked slow
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.dev  ## lint, format, types, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## fix lint and format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## build docs/ strictly into docs/_build
	$(BIN)/python docs/generate.py
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --builder html docs docs/_build
	@echo "docs/_build/index.html"

notebooks: $(VENV)/.dev  ## execute every notebook
	$(BIN)/python -m pytest tests/notebooks -m "slow or not slow"

bench: $(VENV)/.dev  ## measure this package beside comparable tools
	$(BIN)/python -m benchmarks

lab: $(VENV)/.dev  ## put the notebooks in cache/lab and open JupyterLab on them
	$(BIN)/olmo-dyn lab --out cache/lab

lock:  ## rewrite requirements/lock.txt from a fresh environment
	rm -rf cache/lock && $(PYTHON) -m venv cache/lock
	cache/lock/bin/python -m pip --disable-pip-version-check install --quiet torch==2.13.0 --editable '.[dev]'
	{ sed -n '/^#/p' requirements/lock.txt; cache/lock/bin/python -m pip --disable-pip-version-check freeze --exclude-editable | sed 's/+cpu//'; } > cache/lock.txt
	mv cache/lock.txt requirements/lock.txt && rm -rf cache/lock

clean:  ## remove what can be rebuilt
	find cache -mindepth 1 -not -name README.md -delete
	rm -rf docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml requirements/lock.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	touch $@
