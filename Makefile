# Every target sets up what it needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Nothing here may reach for the Hub: what the demo and the tests need, they draw or configure.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test test-slow lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# A changed requirements file rebuilds the environment from nothing, so that it never holds leftovers.
$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: set PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module: apt-get install python3-venv" >&2; exit 2; }
	@echo "Setting up $(VENV) (once; a few minutes)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

demo: $(STAMP)  ## draw synthetic bins, build the dataset, train a small ViT, evaluate it
	@$(RUN) demo.py

lint: $(STAMP)  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP)  ## let ruff mend style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

test: lint  ## lint, types and the quick tests
	$(RUN) -m pytest

test-slow: $(STAMP)  ## the tests that take longer
	$(RUN) -m pytest -m slow

clean:  ## remove the environment, the demo's data and runs
	rm -rf $(VENV) data/demo_mirror data/demo runs/demo
