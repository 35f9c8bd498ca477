# The README's commands. Everything is set up in ./.venv; nothing else on the machine is changed,
# except that a missing venv module, and for the tests Slurm, are installed with apt-get when run as root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
TORCH ?= cpu
STOKER_HOME ?= $(CURDIR)/.stoker
BIN := .venv/bin

.PHONY: help run test check fuzz chaos bench peers setup clean

help:
	@echo "make run        private text becomes a trained model, the whole way, on this machine"
	@echo "make test       every check and every test"
	@echo "make check      ruff, mypy --strict, import-linter"
	@echo "make fuzz       every parser of untrusted bytes, FUZZ_SECONDS (60) each, guided by coverage"
	@echo "make chaos      CHAOS_FAULTS (200) faults on one run, in an order that CHAOS_SEED (1) gives"
	@echo "make bench      the benchmarks, as tables"
	@echo "make peers      what benchmarks compare with, in ./.venv-peers"
	@echo "make run TORCH=cuda   the same with PyTorch's CUDA build"

setup: .venv/ready-$(TORCH)

.venv/ready-$(TORCH): pyproject.toml constraints.txt requirements.lock scripts/setup.sh
	@bash scripts/setup.sh "$(PYTHON)" "$(TORCH)"
	@rm -f .venv/ready-* && touch $@

run: setup
	@STOKER_HOME="$(STOKER_HOME)" $(BIN)/stoker quickstart

check: setup
	@echo "== ruff, mypy --strict, import-linter"
	@$(BIN)/ruff format --check src tests bench
	@$(BIN)/ruff check src tests bench
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: check
	@bash scripts/test_services.sh
	@echo "== pytest on both cores"
	@$(BIN)/pytest -n 2 --dist worksteal

FUZZ_SECONDS ?= 60
FUZZ_CORPUS ?= tests/fuzz/corpus

fuzz: setup
	@PYTHONPATH=tests $(BIN)/python -c "from support.fuzz_targets import TARGETS; print(*TARGETS, sep='\n')" | \
	    xargs -P 2 -I{} bash -c 'out=$$($(BIN)/python tests/fuzz/run.py {} $(FUZZ_SECONDS) $(FUZZ_CORPUS) 2>&1) && \
	    echo "{}: $$(grep -o "number_of_executed_units: .*" <<<"$$out")" || { echo "$$out"; exit 255; }'

CHAOS_FAULTS ?= 200
CHAOS_SEED ?= 1

chaos: setup
	@PYTHONPATH=tests $(BIN)/python -m support.chaos --faults $(CHAOS_FAULTS) --seed $(CHAOS_SEED)

bench: setup
	@for bench in bench/*.py; do echo "== $$bench"; $(BIN)/python "$$bench"; done

peers:
	@bash scripts/peers.sh "$(PYTHON)"

clean:
	rm -rf .venv .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis
