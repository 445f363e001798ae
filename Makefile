# make demo    train nine small tasks through the deepspeed launcher, on the GPUs there are or on the CPU
# make study-demo    baseline, two single tasks and multi-task on four targets, with tables and a heat map
# make test    the fast tests; make test-slow: the longer ones; make test-long: the longest; make lint; make clean
# PYTHON chooses the interpreter (3.10 or newer) that .venv is made with.

PYTHON ?= python3
TORCH ?= 2.13.0
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check
READY := $(VENV)/.ready
HAS_TORCH := $(VENV)/bin/python -c 'import torch; assert torch.__version__.split("+")[0] == "$(TORCH)"' 2> /dev/null
GPUS := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')

# The demo's recipe has 4 packs a step, which the processes share evenly.
ifeq ($(GPUS),0)
  PROCESSES := 2
  STUDY_LAUNCHER :=
  export DS_ACCELERATOR := cpu
  TORCH_INSTALLS := "torch==$(TORCH)+cpu" \
    "torch==$(TORCH)+cpu --extra-index-url https://download.pytorch.org/whl/cpu" \
    "torch==$(TORCH)"
else
  PROCESSES := $(shell echo $$(( $(GPUS) >= 4 ? 4 : $(GPUS) >= 2 ? 2 : 1 )))
  STUDY_LAUNCHER := --launcher "deepspeed --num_gpus $(PROCESSES)"
  TORCH_INSTALLS := "torch==$(TORCH)"
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo study-demo test test-slow test-long lint clean

help:
	@sed -n 's/^# \(make\|PYTHON\)/\1/p' Makefile

setup: $(READY)

# DeepSpeed comes as source: nothing of it needs compiling here, hence DS_BUILD_OPS=0. Where pip's isolated build of it
# fails, it is built with the torch just installed.
$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than Python 3.10; next: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11" >&2; exit 2; }
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@if ! $(HAS_TORCH); then for install in $(TORCH_INSTALLS); do \
	  echo "pip install $$install"; \
	  $(PIP) install --quiet --retries 1 -c constraints.txt $$install 2> $(VENV)/torch.log && break; \
	done; fi; $(HAS_TORCH) || { cat $(VENV)/torch.log >&2; exit 1; }
	DS_BUILD_OPS=0 $(PIP) install --quiet -c constraints.txt deepspeed || { \
	  $(PIP) install --quiet setuptools wheel && \
	  DS_BUILD_OPS=0 $(PIP) install --quiet --no-build-isolation -c constraints.txt deepspeed; }
	$(PIP) install --quiet -c constraints.txt -e '.[test]'
	touch $@

demo: $(READY)
	rm -rf runs/demo
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/deepspeed --num_gpus $(PROCESSES) --log_level error \
	  --module trainer train launch/recipes/demo.yaml

# Cells that are done are skipped: killed and started again, it goes on.
study-demo: $(READY)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/xstilts study launch/recipes/studies/demo.yaml $(STUDY_LAUNCHER)

test: $(READY)
	$(VENV)/bin/python -m pytest

test-slow: $(READY)
	$(VENV)/bin/python -m pytest -m "slow and not long" --durations=20

test-long: $(READY)
	$(VENV)/bin/python -m pytest -m long

lint: $(READY)
	$(VENV)/bin/ruff check .

# What `make` and the demo made. Your own runs and prepared data stay.
clean:
	rm -rf $(VENV) runs/demo runs/studies/demo xstilts.egg-info .pytest_cache .ruff_cache build dist
	find launch tests trainer -name __pycache__ -type d -prune -exec rm -rf {} +
