# Every command of the project. Each one sets up what it needs in .venv first, and again only after the requirements have changed.

SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
PIP = $(PY) -m pip install --disable-pip-version-check --retries 3
PYTHON ?=
MIN_FREE_GB ?= 4
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-gpu bench bench-training safety audit reliability mutants lint lock demo-model programs clean
.DELETE_ON_ERROR:

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/app.stamp  ## chat in the browser; ARGS="--adapter outputs/mine --port 8000" are handed on
	@$(PY) -m app $(ARGS)

test: $(VENV)/all.stamp programs  ## all tests but the slow ones, with coverage; ARGS="-k stop" are handed to pytest
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered $(ARGS)

test-slow: $(VENV)/all.stamp programs  ## the tests that take minutes
	$(PY) -m pytest -m slow $(ARGS)

test-gpu: $(VENV)/all.stamp  ## the tests that need an NVIDIA card
	$(PY) -m pytest -m gpu $(ARGS)

bench: $(VENV)/all.stamp  ## measure loading, first token and tokens a second on this machine
	$(PY) -m tests.bench $(ARGS)

bench-training: $(VENV)/all.stamp  ## measure training, the original script against ours; ARGS="--base ... --base-4bit ... --data ..."
	$(PY) -m tests.bench_training $(ARGS)

reliability: $(VENV)/all.stamp  ## load, bad requests and faults against a real server, about 20 minutes; ARGS="--seconds 30 --requests 500"
	@$(PY) -m tests.reliability $(ARGS)

safety: $(VENV)/app.stamp  ## precision and recall of the rules for notices; ARGS="CARDS.jsonl" counts alarms on cards
	@$(PY) -m tests.safety $(ARGS)

audit: $(VENV)/all.stamp  ## known vulnerabilities of the installed packages; asks the package index's service, so it needs a network
	@$(PY) -m pip_audit --strict --disable-pip --no-deps --progress-spinner off -r <($(PY) -m pip freeze | sed 's/+.*//') $(ARGS) || { echo \
	"Something above is vulnerable, or could not be looked up: then the index's service was not reached, and nothing has been audited."; exit 1; }

mutants: $(VENV)/all.stamp  ## whether tests notice when the code says something else, by mutmut; hours; ARGS="'*.gate.*'" tries a part
	rm -rf mutants
	OMP_NUM_THREADS=1 $(VENV)/bin/mutmut run $(ARGS)
	OMP_NUM_THREADS=1 $(PY) -m tests.mutants

lint: $(VENV)/all.stamp  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Not after the rest is installed: it mends pins that stand in the way of that.
lock: | $(VENV)/python.stamp  ## pin every package anew after requirements changed; ARGS="--upgrade-package gradio" moves one
	@$(PIP) -c constraints.txt uv || $(INSTALL_FAILED)
	@$(PY) -m tests.pins $(ARGS)

# On a CPU a seventh of a step or more would go into asking the system for memory and giving it back: it is kept instead.
demo-model: export MALLOC_MMAP_MAX_ := 0
demo-model: export MALLOC_TRIM_THRESHOLD_ := 17179869184
demo-model: $(VENV)/all.stamp  ## train the demo base and adapter anew, into assets/demo
	$(PY) -m finetune.training.pretrain
	rm -rf outputs/demo
	$(PY) -m finetune train --config demo
	rm -rf assets/demo/adapter && mkdir -p assets/demo/adapter
	find outputs/demo -maxdepth 1 -type f ! -name '*.svg' -exec cp {} assets/demo/adapter/ \;
	$(PY) -m finetune evaluate --adapter assets/demo/adapter --suite full

clean:  ## delete the virtual environment and caches; trained adapters in outputs/ stay
	rm -rf $(VENV) .coverage* .mypy_cache .pytest_cache .ruff_cache unsloth_compiled_cache mutants
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each complaint is one sentence with the cure.
define CHECK_AND_MAKE_VENV
for candidate in $(or $(PYTHON),python3.11 python3.12 python3 python); do
    "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && found=$$candidate && break
done
if [ -z "$$found" ]; then
    echo "Python 3.11 or 3.12 is needed, and $(or $(PYTHON),python3) says \"$$($(or $(PYTHON),python3) --version 2>&1 | head -n 1)\":" \
        "install one of them, or say where it is with PYTHON=/path/to/python3.12."
    exit 1
fi
free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1048576) }')
if [ "$$free" -lt $(MIN_FREE_GB) ]; then
    echo "The packages need $(MIN_FREE_GB) GB or more, and $$free GB are free here: free some space, or clone the repository onto another disk."
    exit 1
fi
if ! "$$found" -m venv $(VENV); then
    echo "$$found could not make a virtual environment in $(VENV): install its venv package (Debian and Ubuntu: apt install python3-venv)."
    exit 1
fi
endef
export CHECK_AND_MAKE_VENV

INSTALL_FAILED = { echo "pip could not install the packages: if it was \"Retrying\" or found no versions above, no package index was reached, so check \
the network or name one in PIP_INDEX_URL; if the disk is full, free some space. Then run the same command again."; exit 1; }

$(VENV)/python.stamp:
	@bash -c "$$CHECK_AND_MAKE_VENV"
	@touch $@

# First what has hashes, which pip checks, then PyTorch, which has none: tests/pins.py says why.
$(VENV)/app.stamp: requirements.txt requirements.lock constraints.txt | $(VENV)/python.stamp
	@echo "Installing the packages of the app into $(VENV); this takes a few minutes, once."
	@$(PIP) --no-deps -r requirements.lock && $(PIP) -c constraints.txt -r requirements.txt || $(INSTALL_FAILED)
	@touch $@

$(VENV)/all.stamp: $(wildcard finetune/requirements* tests/requirements.*) $(VENV)/app.stamp
	@echo "Installing the packages for training and tests into $(VENV); this takes a few minutes, once."
	@$(PIP) --no-deps -r tests/requirements.lock && $(PIP) -c constraints.txt -r tests/requirements.txt || $(INSTALL_FAILED)
	@touch $@

# Chromium for the browser tests and nginx for those behind a proxy; only root may have them installed. Without one its tests skip.
programs:
	@missing=; command -v chromium chromium-browser google-chrome >/dev/null || missing=chromium; \
	command -v nginx /usr/sbin/nginx >/dev/null || missing="$$missing nginx-light"; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing for the tests:" $$missing; \
	    { apt-get update && apt-get install -y --no-install-recommends $$missing; } >/dev/null || echo "That failed: the tests that need it skip."; \
	else echo "Not here, so that tests skip:" $$missing; fi
