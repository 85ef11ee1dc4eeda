# Every target does its own set-up: a virtual environment in .venv, the pinned packages, nothing outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test check lint format clean

quickstart: $(VENV)/user  ## train on handwritten digits and open the numbers in runs/quickstart/index.html
	$(BIN)/smallvit quickstart

test: $(VENV)/dev  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

check: lint test  ## everything that CI runs

lint: $(VENV)/dev  ## formatter, linter, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/dev  ## put the sources into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and the tools' caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("smallvit needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/user: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,oracle]'
	touch $@ $(VENV)/user
