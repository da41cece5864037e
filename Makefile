PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PACKAGES := packages/core $(sort $(wildcard packages/strategies/*)) packages/cli
MODULES := $(wildcard packages/*/prune_*) $(wildcard packages/strategies/*/prune_*)
WORK ?= runs/sst2
PRUNED = $(WORK)/runs/structured-0.48-seed0/model
DATA ?= $(or $(PRUNE_DATA),../shared/data)
RESULTS := docs/results
CODE := packages tests benchmarks docs

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-gpu lint format families docs build bench bench-gpu bench-sst2 clean

help:  ## show this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## create .venv with everything in it, from constraints.txt

$(STAMP): constraints.txt requirements-dev.txt $(PACKAGES:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements-dev.txt $(PACKAGES:%=-e %) \
		-e "packages/core[generation,onnx,openvino,quantization]"
	@touch $@

demo: install  ## fine-prune, compact, verify and measure a small ViT on digits (under 3 minutes)
	$(BIN)/prune run --output runs/demo --overwrite

test: install  ## run the tests, a process of one thread on each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

test-slow: install  ## run the tests that train for minutes
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: install  ## run the tests that need CUDA
	$(BIN)/python -m pytest -m gpu

lint: install  ## check format, style and types
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(MODULES)

format: install  ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

families: install  ## try every family of transformers, and record in docs/families.json what can be done (minutes)
	$(BIN)/python -m tests.contract.test_families

docs: install  ## write docs/recipes.md, docs/tasks.md and docs/families.md
	$(BIN)/python docs/generate.py

build: install  ## build the six wheels into dist/
	rm -rf dist
	for package in $(PACKAGES); do $(BIN)/python -m build --wheel --no-isolation --outdir dist $$package || exit 1; done

bench: install  ## time steps, compaction, loading, compact and sparse models (an hour); results go to docs/results
	for name in help_time first_step step_overhead compaction reload sparse_forms alignment; do \
		OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/$$name.py --output $(RESULTS)/$$name.json || exit 1; done
	for name in random bar published; do \
		OMP_WAIT_POLICY=PASSIVE $(BIN)/prune bench --networks benchmarks/$${name}_networks.json --threads 2 --rounds 11 \
			--batch-sizes 8,1 --runtimes torch,openvino --json > $(RESULTS)/new && mv $(RESULTS)/new \
			$(RESULTS)/$${name}_networks.json || exit 1; done
	$(BIN)/python benchmarks/embedding_bits.py runs/embeddings --output $(RESULTS)/embedding_bits.json
	$(BIN)/python benchmarks/large_model.py runs/large --output $(RESULTS)/large_model.json

bench-gpu: install  ## the same on a GPU, where published networks are measured as they were published
	for name in step_overhead alignment; do \
		$(BIN)/python benchmarks/$$name.py --device cuda --output $(RESULTS)/$${name}_cuda.json || exit 1; done
	$(BIN)/prune bench --networks benchmarks/published_networks.json --device cuda --batch-sizes 128 --lengths 384 \
		--dtypes float32,tf32,bfloat16 --json > $(RESULTS)/new && mv $(RESULTS)/new $(RESULTS)/published_networks_cuda.json
	$(BIN)/prune bench --networks benchmarks/published_networks.json --device cuda --batch-sizes 1 --lengths 128 \
		--runtimes torch,cuda-graphs --json > $(RESULTS)/new && mv $(RESULTS)/new $(RESULTS)/published_networks_cuda_one.json

bench-sst2: install  ## train and measure the table of docs/results (many hours); WORK=DIR keeps what was trained
	test -d $(WORK)/dense || $(BIN)/python benchmarks/dense_sst2.py $(WORK)/dense
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/landing.py $(WORK) --output $(RESULTS)/landing.json
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/sst2_table.py $(WORK) run
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/sst2_table.py $(WORK) table
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/int8.py $(WORK)/dense $(PRUNED) $(DATA)/sst2-validation.parquet \
		$(WORK)/sst2-train90.parquet --output $(RESULTS)/int8.json
	OMP_WAIT_POLICY=PASSIVE $(BIN)/prune bench $(PRUNED) --baseline $(WORK)/dense --batch-sizes 8,1 --threads 2 --json \
		--runtimes torch,compile,onnx,openvino > $(RESULTS)/new && mv $(RESULTS)/new $(RESULTS)/runtimes.json

clean:  ## remove the environment, builds and caches (runs stay)
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find packages tests -name __pycache__ -type d -prune -exec rm -rf {} +
