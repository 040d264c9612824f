# Every target does its own set-up in .venv; a second call is fast. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# Tests run on as many workers as there are cores, four at most: each may hold 2 GB. A file's tests stay on one worker,
# with what they share, and start in the order of tests/conftest.py. One thread each, as the bitwise promises need.
WORKERS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 4 ? cores : 4)))
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

.PHONY: help setup demo up test test-slow test-full check format demo-base demo-base-eval demo-data bench-ingest bench-train bench-plan compat clean

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install everything the project needs into it

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Patina needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e '.[train,serve,postgres,dev]'
	touch $@

demo: $(STAMP) ## Upload a training set, train a LoRA, register it, generate with it; the result is in demo/
	$(BIN)/patina demo

up: $(STAMP) ## Start the server, the broker and the workers; Ctrl-C stops them all
	$(BIN)/patina up

test: $(STAMP) ## Every test but the slow ones and the guards of `make check`: real processes, files and broker
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow and not full and not gpu" --ignore=tests/guards $(PARALLEL)

test-slow: $(STAMP) ## The real but long tests
	$(ONE_THREAD) $(BIN)/python -m pytest -m "slow and not gpu" $(PARALLEL)

test-full: $(STAMP) ## Full-size SDXL with random weights: train 3 steps, register, generate (16 GB of memory)
	$(BIN)/python -m pytest -m "full and not gpu" --timeout=3600 -s

check: $(STAMP) ## Lint, types, layers, guards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/guards

format: $(STAMP) ## Rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.recipes: $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[recipes]'
	touch $@

demo-base: $(VENV)/.recipes ## Train the demo base from nothing (hours on 2 cores; start it again to go on)
	cd bases/emoji-xl/recipe && ../../../$(BIN)/python make_base.py fetch
	cd bases/emoji-xl/recipe && ../../../$(BIN)/torchrun --standalone --nproc_per_node 2 make_base.py train
	$(MAKE) demo-base-eval

demo-base-eval: $(VENV)/.recipes ## Judge the demo base: name and subcategory accuracy, VAE round trip, sample sheet
	cd bases/emoji-xl/recipe && ../../../$(BIN)/python make_base.py evaluate

demo-data: $(VENV)/.recipes ## Make datasets/ again from the npm packages and fit the style judge
	cd bases/emoji-xl/recipe && ../../../$(BIN)/python make_data.py

bench-ingest: $(STAMP) ## Ingest against bare decode and encode of the same files, and its growth to 10 000 pictures
	$(BIN)/python -m benchmarks.ingest

bench-train: $(STAMP) ## The trainer beside its floor and diffusers' example script; FULL=1 at full size, AGAIN=1 anew, PEER_DIR=DIR
	$(BIN)/python -m benchmarks.train $(if $(FULL),--full) $(if $(AGAIN),--again)

bench-plan: $(STAMP) ## Planned memory beside counted tensor bytes and the rise of RSS, 21 configurations; FULL_BASE=DIR, AGAIN=1 anew
	$(ONE_THREAD) $(BIN)/python -m benchmarks.plan $(if $(FULL_BASE),--full-base $(FULL_BASE)) $(if $(AGAIN),--again)

compat: $(STAMP) ## ComfyUI's, sd-scripts' and Forge's own loaders over our files: make compat PEER_DIR=folder with clones of them
	@test -n "$(PEER_DIR)" || { echo "PEER_DIR is not set: make compat PEER_DIR=folder with clones of the peers"; exit 2; }
	$(BIN)/python -m benchmarks.compat $(PEER_DIR)

clean: ## Remove build/, demo/ and out/; what `make up` keeps in .patina/ stays
	rm -rf build demo out
