# `make demo` and `make test` do all their set-up: they need Python 3.11 or newer, git, make and a network.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
ARGS ?=
JOBS ?= 2

# Where there is no NVIDIA GPU, torch comes from the index of CPU builds: the general one's Linux build brings CUDA,
# some gigabytes of it. An index that does not answer is passed over at once, and pip takes what the others have.
CPU_TORCH := --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu

.PHONY: help venv demo test lint types format clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 14

venv: $(READY) ## create .venv with the tested versions of everything

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "captionmill needs Python 3.11 or newer; none of python3, python3.11 and later is." \
		"Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments." \
		"On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV): some 2 GB and a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	nvidia-smi -L 2>/dev/null | grep -q GPU || $(BIN)/python -m pip install --quiet $(CPU_TORCH) $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY) ## caption the sample shards with the sample checkpoint, and check every caption
	$(BIN)/captionmill demo $(ARGS)

test: lint types ## everything: lint, types and all tests, also the slow ones and those on a real S3 server
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY) ## ruff's rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

format: $(READY) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and everything else that make and the tools put here
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
