# Every target makes the environment it needs first. VARIANT=gpu uses the GPU lock.
VARIANT ?= cpu
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
# Two workers: one for what uses Ray, with one cluster for all of it, the other for the rest, file by file.
WORKERS ?= -n 2 --dist loadscope

.PHONY: quickstart test test-fast lint setup lock clean

quickstart: setup  ## train the embedded model end to end, and report
	$(BIN)/bolt-ray train configs/quickstart.yaml $(ARGS)

test: setup  ## all tests, with the real Ray, vLLM and DeepSpeed
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-fast: setup  ## the tests that need neither Ray nor vLLM: seconds
	$(BIN)/python -m pytest $(WORKERS) -m "not ray and not vllm and not slow and not gpu" $(ARGS)

lint: setup  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup:
	@scripts/setup.sh $(VARIANT) $(VENV)

lock: setup  ## resolve the locks anew
	cd requirements && ../$(BIN)/uv pip compile cpu.in --override overrides.txt $(LOCK_FLAGS) -o cpu.lock
	cd requirements && ../$(BIN)/uv pip compile extra.in --no-deps $(LOCK_FLAGS) -o extra.lock
	cd requirements && ../$(BIN)/uv pip compile gpu.in $(LOCK_FLAGS) -o gpu.lock

LOCK_FLAGS = --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
	--no-emit-find-links --no-emit-index-url --no-header --no-annotate --quiet

clean:
	rm -rf $(VENV) .cache runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
