# run    notebooks 01 to 04 into build/ (ONLY="06 09"     test     the tests
#        runs these instead)
# lab    the notebooks in JupyterLab                      install  only the environment (GPU=1: with CUDA)
# serve  a page that classifies photos                    fuzz     thousands of broken photos at the service

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# The first of these that is a version TensorFlow comes for.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$python; break; }; done)
# TensorFlow's wheels with CUDA come through this extra.
GPU_EXTRA := $(if $(GPU),"tensorflow[and-cuda]")
INSTALLED := $(VENV)/installed$(if $(GPU),-gpu)
TESTS := $(VENV)/installed-tests

.PHONY: run test lab serve fuzz install publish baseline bench bench-serve report clean
.DEFAULT_GOAL := run

run: install
	@$(BIN)/python -m catsdogs run $(ONLY)

test: $(TESTS)
	@$(BIN)/python -m pytest

# As in `make test`, but more of it.
fuzz: $(TESTS)
	@CATSDOGS_FUZZ=$(or $(COUNT),20000) $(BIN)/python -m pytest tests/test_fuzz.py -s

serve: install
	@$(BIN)/python -m catsdogs serve

lab: install
	@$(BIN)/jupyter lab notebooks

install: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-serve.txt .ci/constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.11, 3.12 or 3.13 found: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@test -x $(BIN)/python || { echo "Making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); } || \
		{ echo "Python's venv module is missing: on Debian and Ubuntu, apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "Installing: about 800 MB, a few minutes"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt -r requirements-serve.txt -c .ci/constraints.txt $(GPU_EXTRA)
	@touch $@

$(TESTS): $(INSTALLED) tests/requirements.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r tests/requirements.txt -c .ci/constraints.txt
	@touch $@

# For maintainers: run on all real photos and bring notebooks/, models/ and the README up to date.
publish: install
	@$(BIN)/python -m tools.publish

baseline: install
	@$(BIN)/python benchmarks/baseline_8000.py

bench: install
	@$(BIN)/python -m tools.bench

bench-serve: $(TESTS)
	@$(BIN)/python -m tools.bench_serve

report: install
	@$(BIN)/python -m tools.report

clean:
	rm -rf build .pytest_cache
