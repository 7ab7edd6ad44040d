# Everything here needs Python 3.11 or 3.12, libnuma, make and git; `make setup` fetches the rest.
PYTHON ?= python3
BIN := .venv/bin
# Folder of the public data sets that the router is trained and measured on.
DATA ?= ../shared/data
# Folder of the programs that a Kubernetes is: tests/cluster starts its control plane, `make cluster` a node too.
CLUSTER ?= ../shared/cluster
export CLUSTER := $(abspath $(CLUSTER))

.DEFAULT_GOAL := help
.PHONY: help setup run test check cluster bench fuzz heads chart kustomize lock clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## Create or repair .venv from the pinned lock (CPU or GPU); instant when it is current
	@$(PYTHON) tools/setup.py

run: setup  ## Start the whole stack with the demo company, in the foreground (Ctrl-C stops it)
	@exec $(BIN)/trivium up --demo

test: setup  ## Run the tests, in two processes
	$(BIN)/pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

check: setup  ## Lint, format check, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

cluster: setup  ## Install it on a real Kubernetes of this machine and test it there, as root (CLUSTER=folder)
	@$(BIN)/python -m tools.cluster $(CLUSTER)

bench: setup  ## Measure what Trivium adds to a request, and its router beside its peers (DATA=folder)
	$(BIN)/python -m loadtest.overhead
	$(BIN)/python -m loadtest.router $(if $(wildcard $(DATA)),--data $(DATA))

fuzz: setup  ## Ten minutes of generated requests against a running stack (URL=address), which may lose documents
	$(BIN)/python -m loadtest.fuzz $(if $(URL),--url $(URL))

ROUTER_ROWS = configs/demo/routes.jsonl $(wildcard configs/router/*.jsonl) \
  $(DATA)/volatility/evergreenqa_train.jsonl $(DATA)/volatility/evergreenqa_train_synth.jsonl \
  $(wildcard $(DATA)/complexity/routerbench_*_train.jsonl)
TRAIN_HEADS = $(BIN)/trivium train router --from-scratch $(addprefix --data ,$(ROUTER_ROWS))

heads: setup  ## Train the router heads that come along, and the demo's (DATA=folder of the public sets)
	$(TRAIN_HEADS) --output serve_app/router/heads.safetensors
	$(BIN)/python -m tools.coverage --data $(DATA)
	$(BIN)/python -m tools.outcomes --data $(DATA)
	$(TRAIN_HEADS) --data configs/demo/house_style/utterances.jsonl \
	  --output configs/demo/heads.safetensors

chart: setup  ## Make the chart's schema and README anew of its values
	$(BIN)/python tools/chart.py

kustomize: setup  ## Render the chart as kustomize's base and overlays into build/k8s
	$(BIN)/python -m tools.chart_kustomize build/k8s

lock:  ## Resolve requirements/*.lock from pyproject.toml (ARGS=--upgrade moves every pin)
	@$(PYTHON) tools/setup.py --lock $(ARGS)

clean:  ## Stop a running stack, then remove .venv, .trivium and the caches
	@if [ -x $(BIN)/trivium ]; then $(BIN)/trivium down || true; fi
	rm -rf .venv .trivium .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
