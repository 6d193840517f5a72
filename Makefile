# Every target sets up what it needs: python3 (>= 3.10, with venv) and make are enough to start.
PYTHON ?= python3
VENV ?= .venv
PEERS_VENV := .venv-peers
BIN := $(VENV)/bin
QUICKSTART ?=
# as many as cores, each of which computes on one
PROCESSES ?= 2
PYTEST ?=
BENCH ?=
QUALITY ?=
# pip leaves compiling to the first import, since most files are never imported: Python has to keep it
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help quickstart test long docs faults peers bench bench-quality lint format wheel extras clean

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

quickstart: $(VENV)/.installed-test  ## Label, train and compare on the model that ships (QUICKSTART="--seed 1")
	$(BIN)/accelerate launch --config_file configs/accelerate/ddp_cpu.yaml --num_processes $(PROCESSES) \
	    -m sdrpn_core quickstart $(QUICKSTART)

test: $(VENV)/.installed-test  ## Run the test suite (PYTEST="-k geometry" passes options)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(PYTEST)

long: $(VENV)/.installed-test  ## Run the tests that take minutes each
	$(BIN)/python -m pytest -m long -n auto --maxprocesses 8 --dist worksteal $(PYTEST)

# the variable silences an advertisement of another generator, which no option does
docs: $(VENV)/.installed-docs  ## Build the documentation site into site/, strictly and without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

faults: $(VENV)/.installed-test  ## Run the long part of the fault campaign and print its figures
	$(BIN)/python -m pytest -m faults -s tests/faults tests/plugins/test_ray_engine.py $(PYTEST)

peers: $(VENV)/.installed-test  ## Compare metrics and answers with lmms-eval, in an environment of its own
	$(MAKE) VENV=$(PEERS_VENV) $(PEERS_VENV)/.installed-lmms-eval
	$(BIN)/python -m pytest -m peers -s tests/peers $(PYTEST)

bench: $(VENV)/.installed-test  ## Measure costs into benchmarks/RESULTS.md (BENCH="--only growth")
	$(BIN)/python benchmarks/run.py $(BENCH)

bench-quality: $(VENV)/.installed-test  ## Compare all methods into benchmarks/QUALITY.md (QUALITY="--n 300")
	$(BIN)/python benchmarks/quality.py $(QUALITY)

lint: $(VENV)/.installed-dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## Apply automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.installed-test  ## Build wheel and source distribution into dist/
	$(BIN)/python -m build --no-isolation

extras:  ## Check that all extras can be installed side by side (PYTHON=python3.12; installs nothing)
	$(PYTHON) -m pip install --dry-run --quiet --ignore-installed --disable-pip-version-check '.[all]'

clean:  ## Remove the environment, builds, runs and caches
	rm -rf $(VENV) $(PEERS_VENV) build dist runs site .mypy_cache .pytest_cache .ruff_cache .hypothesis

# One stamp per extra: pip runs again only after pyproject.toml has changed.
$(VENV)/.installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --editable '.[$*]'
	touch $@

# make would delete the stamps as intermediate files
.PRECIOUS: $(VENV)/.installed-%
