# Every target makes or reuses .venv by itself.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint requirements/lock.txt
WORKERS ?= 2
# Byte code of what was installed: compiled on all cores. Some packages hold templates that are no modules, hence the "|| true".
COMPILE := $(BIN)/python -m compileall -q -q -j 0 $(VENV)/lib || true

export OLMO_DYNAMICS_CACHE ?= $(CURDIR)/cache/olmo_dynamics
# Idle compute threads sleep instead of spinning: on a machine shared with others the rest is several times slower.
export OMP_WAIT_POLICY ?= PASSIVE
# Processes share the byte code of this package, even where the environment would not write it.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test tests slow check lint types format docs notebooks tutorial bench lab lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

demo: $(VENV)/.run  ## pretrain a tiny OLMo offline, collect its revisions, write the report (a minute, two cores)
	$(BIN)/olmo-dyn demo --out cache/demo

test: lint  ## every check, and every test that is not marked slow
	$(MAKE) --no-print-directory --jobs 2 types tests

tests: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) -m "not slow"

slow: $(VENV)/.dev  ## the tests marked slow
	$(BIN)/python -m pytest -m slow

check: lint types  ## lint, format, types, imports

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev  ## fix lint and format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## build docs/ strictly into docs/_build; executes the notebooks first if they were not (minutes)
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/notebook_pages.py || $(MAKE) --no-print-directory notebooks
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --builder html docs docs/_build
	@echo "docs/_build/index.html"

notebooks: $(VENV)/.dev  ## execute every notebook at its quick size, for the docs too (minutes)
	$(BIN)/python -m pytest tests/notebooks -m "slow or not slow"

tutorial: $(VENV)/.dev  ## execute every notebook at its full size, for the docs
	NOTEBOOKS=full $(BIN)/python -m pytest tests/notebooks -m "slow or not slow" -k top_to_bottom --timeout 3600

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
	$(COMPILE)
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	$(COMPILE)
	touch $@
