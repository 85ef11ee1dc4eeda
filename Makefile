# Every target does its own set-up: a virtual environment in .venv, the pinned packages, nothing outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable
# By all processors, where pip takes one; some files are of a later Python.
BYTE_COMPILE = $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true

.PHONY: quickstart test check lint format clean gpu-bench results

quickstart: $(VENV)/user  ## train on handwritten digits and open the numbers in runs/quickstart/index.html
	$(BIN)/smallvit quickstart

test: $(VENV)/dev  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

check: lint test  ## everything that CI runs

lint: $(VENV)/dev  ## formatter, linter, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/dev  ## put the sources into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

results: $(VENV)/user  ## the tables of results/ and README.md, from the records in results/runs
	$(BIN)/python results/make_results.py

# BENCH_PYTHON=python3 takes an environment that is there already, where none can be made.
OUT ?= runs/gpu-bench
DEVICE ?= cuda
BENCH_PYTHON ?= $(BIN)/python

gpu-bench: $(if $(filter $(BIN)/python,$(BENCH_PYTHON)),$(VENV)/dev)  ## on a GPU machine: its tests, speeds and a training stretch, in nine minutes
	PYTHONPATH=src$(if $(PYTHONPATH),:$(PYTHONPATH)) $(BENCH_PYTHON) benchmarks/gpu_bench.py --device $(DEVICE) --out $(OUT) $(if $(DATA_ROOT),--data-root $(DATA_ROOT)) $(if $(WHOLE),--whole)

clean:  ## remove the environment and the tools' caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("smallvit needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/user: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) .
	$(BYTE_COMPILE)
	touch $@

$(VENV)/dev: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) '.[dev,oracle,ray,slurm]'
	$(BYTE_COMPILE)
	touch $@ $(VENV)/user
