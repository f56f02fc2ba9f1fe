# Every target makes the virtual environment it runs in; `make` alone says what there is to make.
# Nothing is written outside this checkout and $TMPDIR.

PYTHON ?= python3
PY     := .venv/bin/python
STAMP  := .venv/.installed
PIP    := $(PY) -m pip --disable-pip-version-check --no-cache-dir -qq install -c constraints.txt
PYTEST := $(PY) -m pytest -q

# As an activated environment does: Spark takes the python of its workers from PATH.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# ONNX Runtime 1.29 and later, unless told otherwise, keeps a device id in ~/.cache and reports to its makers.
export ORT_DISABLE_TELEMETRY := 1
# Hypothesis keeps its examples beside the other caches.
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.cache/hypothesis

# Evaluated only by the recipes that ask. Spark starts JAVA_HOME's java, else the one on PATH.
JAVA         = $(if $(JAVA_HOME),$(JAVA_HOME)/bin/java,java)
JAVA_VERSION = $(shell "$(JAVA)" -version 2>&1 | sed -n 's/.*version "\([^"]*\)".*/\1/p')
JAVA_WHERE   = $(if $(JAVA_HOME),JAVA_HOME ($(JAVA_HOME)),PATH)
JAVA_IS_GOOD = $(filter 17 17.% 21 21.%,$(JAVA_VERSION))
PYTHON_IS_GOOD = $(shell "$(PYTHON)" -c 'import sys; print(*["yes"] * (sys.version_info >= (3, 11)))' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help venv demo test faults check bench clean java

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-11s %s\n", $$1, $$2 }'

venv: $(STAMP) ## the virtual environment .venv, with everything in it

demo: java $(STAMP) ## train, register and run a network from SQL
	@$(PY) examples/demo.py

test: java $(STAMP) ## the tests, and the examples
	$(PYTEST) --durations=15 -m "not large" tests

faults: java $(STAMP) ## trainings and predictions whose executors, drivers, hosts and disks fail; for a machine that does nothing else
	$(PYTEST) --durations=15 tests/faults tests/test_large.py

check: $(STAMP) ## style, types, doctests and the tests that need no Spark
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PYTEST) --doctest-modules -m "not (spark or slow or jdbc or large)" tests dlsql udfs

bench: java $(STAMP) ## the benchmarks of the README
	@$(PIP) -e '.[peers]'
	@$(PY) -m bench

clean: ## remove what Spark, the tests and the build left; .venv and the data sets stay
	rm -rf dist build metastore_db spark-warehouse artifacts derby.log .cache/mypy .cache/pytest .cache/ruff .cache/hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

java:
	@$(if $(JAVA_IS_GOOD),,$(error Spark needs Java 17 or 21; $(JAVA_WHERE) has $(or $(JAVA_VERSION),none). \
	Install one (Debian: apt-get install openjdk-17-jre-headless) or point JAVA_HOME at it)):

# torch first and alone: the build in reach of pip that the pin names, before anything else can ask for another.
$(STAMP): pyproject.toml constraints.txt
	@$(if $(PYTHON_IS_GOOD),,$(error dlsql needs Python 3.11 or newer; `$(PYTHON)` is \
	$(or $(shell "$(PYTHON)" --version 2>&1 | grep ^Python),not there). Install it (Debian: apt-get install python3 python3-venv) or run make PYTHON=/path/to/python3.11)):
	@test -x .venv/bin/pip || { echo "Making .venv (a few minutes, once) ..."; "$(PYTHON)" -m venv .venv; }
	@$(PIP) torch
	@$(PIP) -e '.[dev,jdbc,bench,keras,tensorboard]'
	@touch $@
