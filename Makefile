# Two commands: `make fit` (first result) and `make test` (the whole suite). Only Python, make and a package index are
# needed. A stamp in .venv says what is installed, so a second run starts at once; a changed pyproject.toml installs again.
PYTHON ?= python3
JOBS ?= 2  # processes of the suite, a thread each: more threads would only wait for each other
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: fit test lint clean

fit: $(VENV)/.installed-fit
	$(BIN)/vladapt fit --domain medical

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-fit: pyproject.toml setup.py | $(BIN)/python
	$(PIP) install --quiet -e '.[embedded,medical,explain]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml setup.py | $(BIN)/python
	$(PIP) install --quiet -e '.[dev]'
	touch $@ $(VENV)/.installed-fit

clean:
	rm -rf $(VENV) build dist *.egg-info
