# Everything runs in .venv/ from locked versions; a second run finds its stamps and does nothing.
#
#   make demo | test | lint | bench | bench-NAME | lock | clean | help
#
# PYTHON=/usr/bin/python3.12 picks the interpreter that .venv/ is made with (3.11 or later).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
KERNEL := build/kernel
OLD_PYTHON := build/python3.7
CHECKED := $(wildcard src tests bench tools/*.py)

# Much of a test's time is waiting for a guest or a program to answer. A file's tests stay together.
SIDE_BY_SIDE := -n 2 --dist loadfile

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# Debian puts the FreeIPMI tools where the PATH of an ordinary user does not look.
export PATH := $(PATH):/usr/sbin
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

.PHONY: demo
demo: $(STAMPS)/runtime ## a rack of simulated BMCs, four of them sick, healed before your eyes
	$(BIN)/bmcmedic demo --once

.PHONY: test
test: peers kernel old-python lint pyz ## lint, then every test but the long ones, real clients and a real kernel in QEMU included
	$(BIN)/pytest $(SIDE_BY_SIDE)

.PHONY: test-long
test-long: peers kernel $(STAMPS)/dev ## on a real kernel: driver and agent struck in every way, from many seeds, and under systemd
	$(BIN)/pytest -m long

.PHONY: lint
lint: $(STAMPS)/dev ## ruff, mypy --strict, the direction of imports, and the subjects of commits
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy $(CHECKED)
	$(BIN)/lint-imports --no-logo
	tools/check-commits

.PHONY: format
format: $(STAMPS)/dev ## rewrite the code as `make lint` wants it
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

.PHONY: pyz
pyz: $(STAMPS)/dev ## dist/bmcmedic-triage.pyz: triage and relief in one file, for hosts without us
	$(BIN)/python tools/build_pyz.py dist/bmcmedic-triage.pyz

.PHONY: draw
draw: $(STAMPS)/dev ## the diagrams in docs/ anew, from the tables in the code
	$(BIN)/python tools/draw_states.py

.PHONY: bench
bench: $(STAMPS)/dev ## list the benchmarks; `make bench-NAME ARGS="…"` runs one
	@$(BIN)/python -m bench

bench-%: peers $(STAMPS)/dev
	@$(BIN)/python -m bench $* $(ARGS)

# ---------------------------------------------------------------------------------------- set-up
.PHONY: setup
setup: peers kernel old-python $(STAMPS)/dev ## all the set-up of `make test`, and nothing else

# These cost a few milliseconds where nothing is missing, so they are asked each time.
.PHONY: peers
peers:
	@tools/setup-debian peers

.PHONY: kernel
kernel:
	@tools/setup-debian kernel
	@tools/setup-kernel $(KERNEL)

.PHONY: old-python
old-python:
	@tools/setup-old-python $(OLD_PYTHON)

$(STAMPS)/venv: tools/setup-venv tools/setup-debian tools/debian-packages
	@PYTHON="$(PYTHON)" tools/setup-venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: requirements/runtime.lock pyproject.toml tools/setup-packages $(STAMPS)/venv
	@tools/setup-packages $(VENV) $<
	@touch $@

$(STAMPS)/dev: requirements/dev.lock $(STAMPS)/runtime
	@tools/setup-packages $(VENV) $<
	@touch $@

# ----------------------------------------------------------------------------------------- locks
# Keeps the versions that still fit; `make lock UPGRADE=1` takes the newest of everything.
COMPILE = UV_SYSTEM_CERTS=1 UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet \
	--no-config --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links $(if $(UPGRADE),--upgrade) \
	pyproject.toml

.PHONY: lock
lock: $(STAMPS)/venv ## pin every Python dependency anew in requirements/ (UPGRADE=1: the newest)
	@[ -x $(BIN)/uv ] || tools/setup-packages $(VENV) requirements/dev.lock
	$(COMPILE) --extra lab --group dev --output-file requirements/dev.lock
	$(COMPILE) --group build --constraint requirements/dev.lock --output-file requirements/runtime.lock

.PHONY: clean
clean: ## remove .venv/, caches and build results (Debian packages stay)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
