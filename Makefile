# make run: the demo.  make test: every check.  Both need only Python 3.11+ with venv, and make.
# make docs: the manual, from docs/ into build/docs.
# make bench: the figures, side by side with the peers that are installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test lint docs bench clean

run: $(VENV)/.has-cli
	@$(BIN)/keepalive demo

# One worker per core; PYTEST_ARGS="tests/pool -x" runs some of them, in one process.
PYTEST_ARGS ?= -n auto --dist worksteal

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.has-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.has-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet -b html docs build/docs
	@echo "The manual is in build/docs/index.html"

bench: $(VENV)/.has-bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second call quick; a changed pyproject.toml installs anew.
$(VENV)/.has-cli: $(BIN)/python pyproject.toml
	@echo "Installing keepalive for the demo into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[cli]'
	@touch $@

$(VENV)/.has-dev: $(BIN)/python pyproject.toml
	@echo "Installing keepalive and its development tools into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.has-cli

$(VENV)/.has-docs: $(BIN)/python pyproject.toml
	@echo "Installing keepalive and what builds its manual into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

$(VENV)/.has-bench: $(BIN)/python pyproject.toml
	@echo "Installing keepalive and what it is measured against into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[bench]'
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "error: $(PYTHON) was not found; say which Python to use: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), but keepalive needs Python 3.11 or newer;" \
	       "say which one to use: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments;" \
	       "install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
