# Two commands: `make fit` (first result) and `make test` (the suite). Only Python, make and a package index are
# needed. A stamp in .venv says what is installed, so a second run starts at once; a changed pyproject.toml installs again.
# Besides: `make check` (lint, and tests of what changed since BASE, in two minutes), `make test-all` (with its thorough tests), `make docs` (the site, in build/site), `make pictures` (those of the README), `make dist` (what is released, tried).
PYTHON ?= python3
BASE ?= HEAD~1  # a commit or a branch, for `make check`
JOBS ?= 2  # processes of the suite, a thread each: more threads would only wait for each other
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: fit test test-all check lint style imports types index docs pictures dist clean

fit: $(VENV)/.installed-fit
	$(BIN)/vladapt fit --domain medical

# What is compiled is kept, whatever the environment says: tests start many processes.
SUITE := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed-dev
	$(SUITE) -m "not thorough" $(PYTEST_ARGS)

test-all: $(VENV)/.installed-dev
	VLADAPT_FUZZ=60 $(SUITE) $(PYTEST_ARGS)

# Lint, then the tests nearest to what changed.
check: lint
	files="$$($(BIN)/python benchmarks/changed_tests.py $(BASE))" && if [ -n "$$files" ]; then $(SUITE) -m "not thorough" $$files; fi

lint: style imports types

style: $(VENV)/.installed-dev
	$(BIN)/ruff check .

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/type_errors.py

# What domains and tasks take, for the command line: after an option was added or changed.
index: $(VENV)/.installed-dev
	$(BIN)/python -m vladapt.core.commands.option_index

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pictures: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/pictures.py

# sdist and wheel, checked; then the wheel alone in an environment of its own, away from the repository.
dist: $(VENV)/.installed-release
	rm -rf dist build/release
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/release
	build/release/bin/python -m pip install --quiet "$$(ls $(CURDIR)/dist/*.whl)[embedded,medical]"
	cd build/release && bin/vladapt fit --domain medical

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-fit: pyproject.toml setup.py | $(BIN)/python
	$(PIP) install --quiet -e '.[embedded,medical]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml setup.py | $(BIN)/python
	$(PIP) install --quiet -e '.[dev]'
	touch $@ $(VENV)/.installed-fit

$(VENV)/.installed-docs: pyproject.toml setup.py | $(BIN)/python
	$(PIP) install --quiet -e '.[docs]'
	touch $@

$(VENV)/.installed-release: pyproject.toml setup.py | $(BIN)/python
	$(PIP) install --quiet -e '.[release]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
