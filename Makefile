# Every target sets up what it needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# The second lane: newest transformers, datasets, accelerate, huggingface_hub and
# evaluate.
LATEST := .venv-latest
LATEST_STAMP := $(LATEST)/.installed
# Whatever stands on them; tests/contracts/test_second_lane.py holds this to the imports.
LATEST_TESTS := tests/scripts/recipe tests/scripts/budget tests/scripts/training tests/scripts/diagnostics \
  $(patsubst %,tests/scripts/test_%.py,train count_distribution counting_metric) \
  tests/scripts/serving/test_local_server.py tests/scripts/label_checks \
  $(patsubst %,tests/data_prep/test_%.py,push_dataset check_leaks) \
  tests/sagemaker_jobs/test_push_to_hub.py tests/sagemaker_jobs/publishing
# Version 3 of the SageMaker SDK in place of version 2.
SDK3 := .venv-sdk3
SDK3_STAMP := $(SDK3)/.installed-sdk3
# Whatever makes a request through it, or reads what came of one.
SDK3_TESTS := tests/sagemaker_jobs/sdk $(patsubst %,tests/sagemaker_jobs/%, \
  launching/test_launch.py launching/test_local_mode.py launching/test_tuned_hyperparameters.py \
  test_tune.py test_job_report.py test_image_uri.py \
  test_prepare_data.py::test_what_arrives_is_what_the_dry_run_printed_and_in_its_order)
# Jobs launched, watched and stopped with the least rights.
SDK3_SLOW_TESTS := tests/sagemaker_jobs/test_iam.py -k launched
# The programs that exports of an audit are for.
EXPORTS := .venv-exports
EXPORTS_STAMP := $(EXPORTS)/.installed
# Two files at once, the tests of each one after the other: they share what is slow to make, and the
# processes of a job, which only one file's tests start, meet at one port. Each with a thread, where
# two would wait for one another.
WORKERS := 2
# A process that dies ends the run: where xdist puts another in its place, that one waits for ever.
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest $(PARALLEL)
PIP_FLAGS := --quiet --disable-pip-version-check
# Modules are compiled once, not in each of hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=
# Nothing here may reach for the Hub: what the demo and the tests need, they draw or configure.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help environment demo test test-slow test-latest test-sdk3 test-exports docker-test lint \
  format release clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# A changed requirements file rebuilds the environment from nothing, so that it never holds leftovers.
$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed: set PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module: apt-get install python3-venv" >&2; exit 2; }
	@echo "Setting up $(VENV) (once; a few minutes)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install $(PIP_FLAGS) -r requirements.txt -r requirements-dev.txt
	@touch $@

environment: $(STAMP)  ## set up .venv and do nothing else

# On a CPU a third of a step goes into memory that glibc hands back and fetches again.
demo: export MALLOC_TRIM_THRESHOLD_ := 4294967296
demo: export MALLOC_MMAP_THRESHOLD_ := 4294967296
demo: export MALLOC_TOP_PAD_ := 268435456
demo: data/demo_mirror  ## draw synthetic bins, build the dataset, train a small ViT, evaluate it
	$(RUN) data_prep/build_dataset.py --source data/demo_mirror --output_dir data/demo --image_size 64
	$(RUN) scripts/train.py --recipe demo --dataset_dir data/demo --output_dir runs/demo
	$(RUN) metrics/compare_runs.py runs/demo
	@printf '%s\n' '' \
	  'The bins are drawn: the figures say that everything works, and nothing about real bins.' \
	  'Next, on real bins (docs/data.md and docs/training.md say more):' \
	  '  $(RUN) data_prep/build_dataset.py --output_dir data/bins --max_bins 20000' \
	  '  $(RUN) scripts/train.py --recipe vit --dataset_dir data/bins --output_dir runs/vit'

data/demo_mirror: | $(STAMP)
	$(RUN) data_prep/synthetic_bins.py --output_dir $@

lint: $(STAMP)  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP)  ## let ruff mend style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

test: lint  ## lint, types and the quick tests
	$(PYTEST)

test-slow: $(STAMP)  ## the tests that take longer
	$(RUN) docker_debugging/toolkit.py
	cd tests && ../$(RUN) -m stand_ins.model_server
	$(PYTEST) -m slow

# It holds the newest releases alone, and sees the packages of .venv behind them.
$(LATEST_STAMP): requirements-latest.txt $(STAMP)
	@echo "Setting up $(LATEST) (once; a minute)"
	@rm -rf $(LATEST)
	@$(RUN) -m venv $(LATEST)
	@echo "$(CURDIR)/$$(echo $(VENV)/lib/python*/site-packages)" > \
	  $$(echo $(LATEST)/lib/python*/site-packages)/behind.pth
	@$(LATEST)/bin/python -m pip install $(PIP_FLAGS) --upgrade -r $<
	@touch $@

test-latest: $(LATEST_STAMP)  ## all that stands on them, on the newest releases
	@$(LATEST)/bin/python -m pip list --disable-pip-version-check 2>/dev/null | \
	  grep -E '^(transformers|datasets|accelerate|huggingface_hub|evaluate|torch) '
	OMP_NUM_THREADS=1 $(LATEST)/bin/python -m pytest $(PARALLEL) $(LATEST_TESTS)
	$(LATEST)/bin/python -m pytest -m slow tests/scripts/test_interrupted_trainings.py

# Copies of the packages, of which pip replaces some; hard links, where there are any, cost no disk.
$(SDK3_STAMP): requirements-sdk3.txt $(STAMP)
	@echo "Setting up $(SDK3) (once; two minutes)"
	@rm -rf $(SDK3)
	@$(RUN) -m venv --without-pip $(SDK3)
	@cp -al $(VENV)/lib/. $(SDK3)/lib/ 2>/dev/null || cp -a $(VENV)/lib/. $(SDK3)/lib/
	@$(SDK3)/bin/python -m pip install $(PIP_FLAGS) -r $<
	@touch $@

test-sdk3: $(SDK3_STAMP)  ## all that makes SageMaker jobs, on version 3 of its SDK
	OMP_NUM_THREADS=1 $(SDK3)/bin/python -m pytest $(PARALLEL) $(SDK3_TESTS)
	$(SDK3)/bin/python -m pytest -m slow $(SDK3_SLOW_TESTS)

# It holds these programs alone, which the tests start: what they bring does not get on with .venv.
$(EXPORTS_STAMP): requirements-exports.txt $(STAMP)
	@echo "Setting up $(EXPORTS) (once; some minutes)"
	@rm -rf $(EXPORTS)
	@$(RUN) -m venv $(EXPORTS)
	@$(EXPORTS)/bin/python -m pip install $(PIP_FLAGS) -r $<
	@touch $@

test-exports: $(EXPORTS_STAMP)  ## exports of an audit, opened by FiftyOne and Label Studio
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m 'slow or not slow' tests/scripts/audit_exports

# -s shows what takes minutes. As root on Debian this installs Docker and starts it for the tests.
docker-test: $(STAMP)  ## the tests in Docker; skipped aloud where it cannot be had
	$(RUN) -m pytest -m docker -s

# Of what is committed: the archive, what is new in it, and a checksum.
VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
RELEASE = bin-counting-$(VERSION)
release:  ## put what is attached to a release into dist/
	@[ -z "$$(git status --porcelain)" ] || { echo "Commit first: a release is what is committed" >&2; exit 2; }
	@git describe --exact-match --match 'v$(VERSION)' >/dev/null 2>&1 || \
	  { echo "Tag first: git tag -s v$(VERSION)" >&2; exit 2; }
	@mkdir -p dist
	git archive --prefix=$(RELEASE)/ --output dist/$(RELEASE).tar.gz v$(VERSION)
	awk '/^## / {on = $$2 == "$(VERSION)"; next} on' CHANGELOG.md > dist/notes.md
	@[ -s dist/notes.md ] || { echo "CHANGELOG.md says nothing of $(VERSION)" >&2; exit 2; }
	cd dist && $$(command -v sha256sum || echo shasum -a 256) $(RELEASE).tar.gz > SHA256SUMS

clean:  ## remove the environments, the demo's data and runs
	rm -rf $(VENV) $(LATEST) $(SDK3) $(EXPORTS) .venv-toolkit .venv-serving .docker-test data/demo_mirror data/demo runs/demo
