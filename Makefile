PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PACKAGES := packages/core $(sort $(wildcard packages/strategies/*)) packages/cli
MODULES := $(wildcard packages/*/prune_*) $(wildcard packages/strategies/*/prune_*)
WORK ?= runs/sst2
PRUNED = $(WORK)/runs/structured-0.48-1200-seed0/model
DATA ?= $(or $(PRUNE_DATA),../shared/data)
RESULTS := docs/results
CODE := packages tests benchmarks docs

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test test-slow test-gpu lint format families docs build bench bench-speed bench-gpu bench-sst2 bench-data clean

help:  ## show this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## create .venv with everything in it, from constraints.txt

$(STAMP): constraints.txt requirements-dev.txt $(PACKAGES:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements-dev.txt $(PACKAGES:%=-e %) \
		-e "packages/core[generation,onnx,openvino,quantization]"
	@touch $@

demo: install  ## fine-prune, compact, verify and measure a small ViT on digits (under 3 minutes)
	$(BIN)/prune run --output runs/demo --overwrite

test: install  ## run the tests, a process of one thread on each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-slow: install  ## run the tests that train for minutes
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: install  ## run the tests that need CUDA
	$(BIN)/python -m pytest -m gpu

lint: install  ## check format, style and types
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(MODULES)
	$(BIN)/mypy --disable-error-code arg-type benchmarks  # **settings are of many types

format: install  ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

families: install  ## try every family of transformers, and record in docs/families.json what can be done (minutes)
	$(BIN)/python -m tests.contract.test_families

docs: install  ## write the generated pages of docs, and the README's table, from what was measured
	$(BIN)/python docs/generate.py

build: install  ## build the six wheels into dist/
	rm -rf dist
	for package in $(PACKAGES); do $(BIN)/python -m build --wheel --no-isolation --outdir dist $$package || exit 1; done

bench: bench-speed bench-sst2 bench-data docs  ## all that docs/results holds of the CPU (many hours), then its pages

bench-speed: install  ## what needs no trained model: steps, starts, compaction, loading, networks, sparse forms (hours)
	$(BIN)/python benchmarks/speed.py cpu

bench-gpu: install  ## the same on a GPU, and networks as they were published; what fails is told, and the rest kept
	$(BIN)/python benchmarks/speed.py cuda; code=$$?; $(BIN)/python docs/generate.py && exit $$code

bench-sst2: install  ## train and measure the table of the README (many hours); WORK=DIR keeps what was trained
	test -d $(WORK)/dense || $(BIN)/python benchmarks/dense_sst2.py $(WORK)/dense
	$(BIN)/python benchmarks/landing.py $(WORK) --output $(RESULTS)/landing.json
	$(BIN)/python benchmarks/sst2_table.py $(WORK) run
	$(BIN)/python benchmarks/sst2_table.py $(WORK) table
	$(BIN)/python benchmarks/int8.py $(WORK)/dense $(PRUNED) $(DATA)/sst2-validation.parquet \
		$(WORK)/sst2-train90.parquet --output $(RESULTS)/int8.json
	$(BIN)/python benchmarks/report.py $(RESULTS)/runtimes.json $(BIN)/prune bench $(PRUNED) --baseline $(WORK)/dense \
		--batch-sizes 8,1 --threads 2 --runtimes torch,compile,onnx,openvino --json

bench-data: install  ## train and measure a model of every kind of task on real data (hours), kept in runs/data
	$(BIN)/python benchmarks/real_data.py runs/data train
	$(BIN)/python benchmarks/real_data.py runs/data table

clean:  ## remove the environment, builds and caches (runs stay)
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find packages tests -name __pycache__ -type d -prune -exec rm -rf {} +
