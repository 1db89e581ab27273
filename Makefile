SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# The first of these whose version TensorFlow supports.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$python; break; }; done)
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# The exact versions with which everything was tested; pip checks every file's checksum.
LOCKS := -r .ci/requirements.txt $(if $(GPU),-r .ci/requirements-gpu.txt)
INSTALLED := $(VENV)/installed$(if $(GPU),-gpu)
DEV := $(VENV)/installed-dev

.PHONY: run lab serve test test-lowest install lint fuzz publish baseline bench bench-gpu bench-serve report clean help
.DEFAULT_GOAL := run

run: install  ## run notebooks 01 to 04 into build/ (ONLY="06 09" runs those instead)
	@$(BIN)/python -m catsdogs run $(ONLY)

lab: install  ## open working copies of the notebooks in JupyterLab (FRESH="02 03" copies those anew)
	@$(BIN)/python -m catsdogs lab $(if $(FRESH),--fresh $(FRESH))

serve: install  ## serve the web page and the HTTP API on this machine
	@$(BIN)/python -m catsdogs serve

test: $(DEV)  ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile  # each file in one of two processes

test-lowest: $(DEV)  ## train and predict with the lowest versions that the requirements allow
	@bash .ci/lowest

install: $(INSTALLED)  ## only create the environment in .venv (GPU=1: with CUDA)

lint: $(DEV)  ## check style (ruff) and types (mypy)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

fuzz: $(DEV)  ## send COUNT (20000) corrupt photos and requests to the service
	@CATSDOGS_FUZZ=$(or $(COUNT),20000) $(BIN)/python -m pytest tests/test_fuzz.py -s

publish: $(DEV)  ## maintainers: run all notebooks on the real photos, update notebooks/, models/ and all numbers
	@$(BIN)/python -m tools.publish

baseline: $(DEV)  ## maintainers: train the baseline and our network on the split baseline-8000
	@$(BIN)/python -m tools.baseline

bench: $(DEV)  ## maintainers: measure reading, training and memory against the usual pipelines
	@$(BIN)/python -m tools.bench

bench-gpu: $(DEV)  ## maintainers: measure training and features on a GPU, with JAX and PyTorch (SIZE=tiny tries it)
	@$(BIN)/python -m tools.bench_gpu --size $(or $(SIZE),full)

bench-serve: $(DEV)  ## maintainers: measure the service against Flask and model.predict
	@$(BIN)/python -m tools.bench_serve

report: $(DEV)  ## maintainers: write the numbers and figures of the documents from the run records
	@$(BIN)/python -m tools.report

clean:  ## delete build/ and caches
	rm -rf build .pytest_cache .ruff_cache .mypy_cache

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do \
		printf 'make %-12s %s\n' "$$name" "$$text"; done

$(INSTALLED): pyproject.toml $(wildcard .ci/requirements*.txt)
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.11, 3.12 or 3.13 found: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@test -x $(BIN)/python || { echo "Making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); } || \
		{ echo "Python's venv module is missing: on Debian and Ubuntu, apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "Installing: about 800 MB, a few minutes"
	@$(PIP) --require-hashes $(LOCKS)
	@# No build isolation: it would download setuptools again, unchecked.
	@$(PIP) --no-deps --no-build-isolation -e .
	@# No photo gets into a commit, even from a notebook that was run in notebooks/.
	@test -n "$$(git rev-parse --show-cdup 2>&1)" || git config filter.drop-photos.clean "python3 tools/drop_photos.py"
	@touch $@

$(DEV): $(INSTALLED)
	@$(PIP) --require-hashes $(LOCKS) -r .ci/requirements-dev.txt
	@touch $@
