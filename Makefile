# Two commands, each doing all its own set-up:
#   make train   set up, then train RELAX on CartPole-v1
#   make test    set up, then lint, types and the whole test suite, with the lines that it runs
PYTHON ?= python3
VENV ?= .venv
JOBS ?= auto
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: train test lint types clean

train: $(VENV)/.installed
	$(BIN)/rlgrad train CartPole-v1 --estimator relax

test: $(VENV)/.installed-dev
	$(PIP) check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --line-coverage

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rlgrad needs Python 3.11 or newer; name one: make PYTHON=python3.12 train"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
