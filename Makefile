# `make run` and `make test` are all a newcomer needs; both install into .venv first.
.DELETE_ON_ERROR:
.PHONY: help install lock run test test-slow test-python check format bench bench-gpu test-gpu gpu-day seeds services \
	images supply-chain test-containers test-kill clean
# Some machines and containers set it: each of the thousand processes that tests start would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough; `make PYTHON=…` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Everything is locked, so nothing is resolved. uv installs in a quarter of pip's time (52 s against 204), and several
# environments share its files; where it cannot, as with an index that pip's configuration alone names, pip installs.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
COMPILE = --compile-bytecode
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(COMPILE) $(1) || { \
	echo 'uv could not install; pip does' >&2; $(PIP_INSTALL) $(1); }
TESTS ?= tests
WORKERS ?= 2

help:
	@echo 'make run      install, then train and evaluate the example through the whole pipeline'
	@echo 'make test     install, then run the tests'
	@echo 'make test-slow  the tests that take minutes, such as killing a training 20 times'
	@echo 'make test-python  the main job, in ten epochs, and a short suite, for another Python: make test-python VENV=.venv-3.13 PYTHON=python3.13'
	@echo 'make check    formatting, lint, types, import layers, the Dockerfile'
	@echo 'make bench    measure speed against the usual ways, in ratios'
	@echo 'make bench-gpu  training on a GPU of this machine against other loops, with what each ratio is held to'
	@echo 'make test-gpu  the tests of the captured step, kills and transforms on a GPU of this machine'
	@echo 'make gpu-day  both within nine minutes, in order of weight, with a report in runs/gpu-day (REPORT=…)'
	@echo 'make seeds    accuracy of the example over ten seeds'
	@echo 'make services Kafka, Pub/Sub, GCS and TensorBoard on this machine, until Ctrl-C'
	@echo 'make images   build the images of the steps (needs a Docker engine); BUILD=… are options of docker/build.py'
	@echo 'make supply-chain  SBOM and licences of the images'
	@echo 'make test-containers  the tests of the images'
	@echo 'make test-kill  trainings killed at random moments; SHUTTERLINE_KILLS=0.1 for a tenth of them'
	@echo 'make lock     renew the locked versions and hashes from pyproject.toml; LOCK=--upgrade for the newest'
	@echo 'make install  everything for development into $(VENV)'
	@echo 'make clean    remove $(VENV), caches and runs'

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo 'Shutterline needs Python 3.11 or newer; none was found (make PYTHON=… names one)' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Two stages, so that `make run` downloads nothing that only tests need.
$(VENV)/.run: pyproject.toml requirements/run.txt | $(BIN)/python
	@echo 'installing Shutterline into $(VENV): torch is several gigabytes, so this takes a minute or more the first time'
	@sed -n '/^uv==/,/[^\\]$$/p' requirements/dev.txt | $(PIP_INSTALL) --require-hashes --requirement /dev/stdin || \
		true # where there is none for this machine, pip installs
	@$(call INSTALL,--require-hashes --requirement requirements/run.txt)
	@$(call INSTALL,--no-build-isolation --editable .)
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@$(call INSTALL,--require-hashes --requirement requirements/dev.txt)
	@touch $@

install: $(VENV)/.dev

# The same versions for every purpose, platform and Python; hatchling and editables make the editable install.
LOCKED = $(BIN)/uv pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-header --no-emit-package shutterline
lock: $(VENV)/.dev
	printf 'hatchling\neditables\n' | $(LOCKED) - --extra dev $(LOCK) --output-file requirements/dev.txt
	printf 'hatchling\neditables\n' | $(LOCKED) - --extra all --constraint requirements/dev.txt --output-file requirements/run.txt
	for step in data-prep train evaluate; do \
		$(LOCKED) --extra $$step --extra mlflow --constraint requirements/dev.txt --output-file requirements/$$step.txt || exit 1; done
	$(LOCKED) --extra train-job --constraint requirements/dev.txt --output-file requirements/train-job.txt
	printf 'onnxruntime-gpu[cuda,cudnn]>=1.30\n' | $(LOCKED) - --extra evaluate --extra mlflow --no-emit-package onnxruntime \
		--constraint requirements/dev.txt --output-file requirements/evaluate-cuda.txt

run: $(VENV)/.run
	$(BIN)/shutterline run

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m 'not slow and not containers and not kill' $(TESTS)

# What may depend on the version of Python, by its standard library and by what pydantic and kfp make of annotations.
SHORT = tests/shared/params/test_params.py tests/shared/params/test_params_schema.py tests/shared/artifacts \
	tests/pipelines/test_golden.py tests/data_prep/test_hostile_archives.py tests/evaluate/test_evaluate.py
test-python: $(VENV)/.dev
	$(BIN)/shutterline run --set num_epochs=10
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m 'not slow and not containers and not kill' $(SHORT)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m 'slow and not containers and not kill' --durations 20 $(TESTS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docker/*.py
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

bench-gpu: $(VENV)/.dev
	$(BIN)/python -m tests.bench.gpu $(BENCH)

test-gpu: $(VENV)/.dev
	SHUTTERLINE_TEST_DEVICE=cuda $(BIN)/python -m pytest --confcutdir tests/gpu --numprocesses 4 --dist worksteal tests/gpu

gpu-day: $(VENV)/.dev
	$(BIN)/python -m tests.gpu.day $(DAY)

seeds: $(VENV)/.run
	@for seed in 0 1 2 3 4 17 18 19 20 21; do \
		$(BIN)/shutterline run --set manual_seed=$$seed --out runs/seed-$$seed --json 2>/dev/null \
		| $(BIN)/python -c "import json, sys; print('seed $$seed', json.load(sys.stdin)['metrics']['accuracy'])" || exit 1; done

services: $(VENV)/.dev
	@$(BIN)/python docker/services.py

# The build needs Python alone; nothing is installed for it.
images: | $(BIN)/python
	$(BIN)/python docker/build.py $(BUILD)

supply-chain: $(VENV)/.dev
	$(BIN)/python docker/supply_chain.py

test-containers: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --verbose -m 'containers and not kill' tests/containers

test-kill: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --verbose -m kill tests/kill

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build runs
