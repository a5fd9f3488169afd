# The two commands that matter: `make quickstart` and `make test`. Each sets up all it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Tests on the original files of GLUE and SQuAD run where PRUNEONCE_TEST_DATA names them, as a folder beside the checkout may.
ifneq ($(wildcard ../shared/data/glue),)
export PRUNEONCE_TEST_DATA ?= $(abspath ../shared/data)
endif

.PHONY: quickstart test quick test-lowest lint check campaign sanitize check-arm stub docs bench clean

quickstart: .venv/train.done
	$(BIN)/pruneonce quickstart

test: .venv/dev.done
	@# Real-model tests want the quickstart's assets; without a network they are skipped with a reason.
	-$(BIN)/pruneonce quickstart --assets-only
	$(BIN)/python -m pytest

# The inner loop: under a minute on two cores.
quick: .venv/dev.done
	$(BIN)/python -m pytest -m "not slow"

# All tests with the lowest versions that pyproject.toml allows, in an environment of their own. Its torch is the CUDA
# build on Linux: 3 GB to fetch, 5 GB on disk. Old libraries warn of what newer ones replace: no error here. The stub is
# written by the newest nanobind.
test-lowest: .venv-lowest/done
	.venv-lowest/bin/python -m pytest -W default --deselect tests/test_package.py::test_the_stub_of_the_native_module_is_up_to_date

lint: .venv/dev.done
	$(BIN)/ruff check src tests benchmarks docs/make_*.py
	$(BIN)/ruff format --check src tests benchmarks docs/make_*.py
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror native/*

# What CI runs.
check: lint test

# Fault campaigns for so many minutes; the next call goes on. Writes its table to docs/reliability.md.
MINUTES ?= 60
campaign: .venv/dev.done
	PYTHONPATH=tests OMP_NUM_THREADS=1 nice $(BIN)/python -m campaign --minutes $(MINUTES) --page docs/reliability.md

# The kernels alone, under AddressSanitizer with leak and undefined-behaviour checks, then under ThreadSanitizer.
SANITIZERS := address,undefined thread
sanitize: .venv/dev.done
	for sanitizer in $(SANITIZERS); do \
	  $(BIN)/cmake -S . -B build/$$sanitizer -DPRUNEONCE_NATIVE_CHECK=ON -DPRUNEONCE_SANITIZE=$$sanitizer >/dev/null && \
	  $(BIN)/cmake --build build/$$sanitizer -j 2 >/dev/null && \
	  build/$$sanitizer/pruneonce_check || exit 1; \
	done

# The kernels alone, compiled for 64-bit ARM and run under an emulator (on Debian: g++-aarch64-linux-gnu, qemu-user).
ARM := aarch64-linux-gnu
check-arm: .venv/dev.done
	@for tool in $(ARM)-g++ qemu-aarch64; do \
	  command -v $$tool >/dev/null || { echo "check-arm: skipped, there is no $$tool here"; exit 0; } \
	done; \
	$(BIN)/cmake -S . -B build/$(ARM) -DPRUNEONCE_NATIVE_CHECK=ON -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(ARM)-g++ >/dev/null && \
	$(BIN)/cmake --build build/$(ARM) -j 2 >/dev/null && \
	qemu-aarch64 -L /usr/$(ARM) build/$(ARM)/pruneonce_check

# Signatures of the compiled module, for type checkers; a test fails when they are out of date.
stub: .venv/dev.done
	$(BIN)/python -m nanobind.stubgen --quiet -m pruneonce._native -o src/pruneonce/_native.pyi

# docs/api.md from signatures and docstrings, docs/models.md from configs; tests fail when they are out of date.
docs: .venv/dev.done
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/make_models.py

bench: .venv/dev.done
	$(BIN)/python benchmarks/bench_spmm.py
	$(BIN)/python benchmarks/bench_masks.py

clean:
	rm -rf .venv .venv-lowest build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.venv/train.done: pyproject.toml constraints.txt
	$(MAKE) --no-print-directory .venv/bin/python
	$(PIP) --editable ".[train,onnxruntime]"
	@touch $@

.venv/dev.done: pyproject.toml constraints.txt
	$(MAKE) --no-print-directory .venv/bin/python
	$(PIP) --editable ".[dev]"
	@touch $@ .venv/train.done

.venv-lowest/done: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	PIP_CONSTRAINT=$(CURDIR)/constraints-lowest.txt .venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check \
	  --editable ".[train,onnxruntime]" pytest hypothesis scipy scikit-learn
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "pruneonce needs Python 3.10 or newer"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "no venv module: install it first (on Debian: apt install python3-venv)"; exit 1; }
