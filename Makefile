# The two commands that matter: `make quickstart` and `make test`. Each sets up all it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Tests on the original files of GLUE and SQuAD run where PRUNEONCE_TEST_DATA names them, as a folder beside the checkout may.
ifneq ($(wildcard ../shared/data/glue),)
export PRUNEONCE_TEST_DATA ?= $(abspath ../shared/data)
endif

.PHONY: quickstart test quick test-lowest test-ray lint check campaign sanitize check-arm stub docs site bench \
  bench-serving bench-encoders rivals dist dist-arm clean

quickstart: .venv/train.done
	$(BIN)/pruneonce quickstart

# Files of tests are shared out among processes of one thread each: torch's threads would wait for each other.
TEST_PROCESSES ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
test: .venv/dev.done
	@# Real-model tests want the quickstart's assets; without a network they are skipped with a reason.
	-$(BIN)/pruneonce quickstart --assets-only
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

# The inner loop: under a minute on two cores.
quick: .venv/dev.done
	$(BIN)/python -m pytest -m "not slow"

# All tests with the lowest versions that pyproject.toml allows, in an environment of their own. Its torch is the CUDA
# build on Linux: 3 GB to fetch, 5 GB on disk. Old libraries warn of what newer ones replace: no error here. The stub is
# written by the newest nanobind.
test-lowest: .venv-lowest/done
	.venv-lowest/bin/python -m pytest -W default --deselect tests/test_package.py::test_the_stub_of_the_native_module_is_up_to_date

# `--on ray` on a cluster of two nodes on this machine, with an S3 on it too, in an environment of its own: Ray is 80 MB
# to fetch.
test-ray: .venv-ray/done
	.venv-ray/bin/python -m pytest tests/test_ray.py

lint: .venv/dev.done
	$(BIN)/ruff check src tests benchmarks packaging docs/*.py
	$(BIN)/ruff format --check src tests benchmarks packaging docs/*.py
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

# docs/api.md, recipes.md and commands.md from signatures, docstrings and dataclasses, models.md from configs; a test
# fails when one is out of date.
docs: .venv/dev.done
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_models.py

# The documentation site, into build/site; a link or an anchor that leads nowhere is an error.
site: .venv-site/done
	.venv-site/bin/mkdocs build --quiet

# Source archive and wheels into dist/, each installed and tested without a compiler, the last one with [train] and the
# quickstart. DIST_PYTHONS: interpreters by name or path; DIST_OPTIONS: see packaging/make_dist.py.
DIST_PYTHONS ?= python3.10 python3.11 python3.12 python3.13
DIST_OPTIONS ?=
dist: .venv/dev.done .venv-dist/done
	$(BIN)/python packaging/make_sample.py build/sample
	.venv-dist/bin/python packaging/make_dist.py --sample build/sample $(DIST_OPTIONS) $(DIST_PYTHONS)

# A wheel for 64-bit ARM, cross-built and run under an emulator; what it needs is as for check-arm, on Debian.
dist-arm: .venv/dev.done .venv-dist/done
	$(BIN)/python packaging/make_sample.py build/sample
	packaging/cross_arm.sh build/sample

bench: .venv/dev.done
	$(BIN)/python benchmarks/bench_spmm.py
	$(BIN)/python benchmarks/bench_masks.py

# The tables of docs/serving.md: ten minutes on two cores with nothing else running (SHORT=--short: six).
RIVALS ?= .rivals
bench-serving: .venv/dev.done
	$(BIN)/python benchmarks/serving/run.py $(SHORT) --rivals $(RIVALS)

# The table of docs/embeddings.md, likewise. SPARSE: a folder of `pruneonce compress --int8`; DATA: as studies take it.
bench-encoders: .venv/dev.done
	$(BIN)/python benchmarks/encoders.py --sparse $(SPARSE) --rivals $(RIVALS) --data $(DATA)

# Other libraries that serve the same model, each in an environment of its own: 8 GB. One that cannot be installed is
# left out of the table. (uv resolves these in seconds where pip takes minutes.)
CPU_TORCH := --constraint constraints.txt
ASGI := starlette uvicorn httptools uvloop orjson
rivals:
	@for each in onnx openvino fastembed infinity; do $(PYTHON) -m venv $(RIVALS)/$$each || exit 1; done
	-$(RIVALS)/onnx/bin/pip install -q $(CPU_TORCH) "sentence-transformers[onnx]" $(ASGI)
	-$(RIVALS)/openvino/bin/pip install -q $(CPU_TORCH) "sentence-transformers[openvino]" nncf $(ASGI)
	-$(RIVALS)/fastembed/bin/pip install -q fastembed $(ASGI)
	-$(RIVALS)/infinity/bin/pip install -q "infinity-emb[server,torch]" $(shell grep ^torch== constraints.txt) # old pins

clean:
	rm -rf .venv .venv-lowest .venv-ray .venv-dist .venv-site .rivals build dist \
	  .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.venv/train.done: pyproject.toml constraints.txt
	$(MAKE) --no-print-directory .venv/bin/python
	$(PIP) --editable ".[train,onnxruntime]"
	@touch $@

.venv/dev.done: pyproject.toml constraints.txt
	$(MAKE) --no-print-directory .venv/bin/python
	$(PIP) --editable ".[dev]"
	@touch $@ .venv/train.done

.venv-dist/done: packaging/requirements.txt
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet --disable-pip-version-check --requirement packaging/requirements.txt
	@touch $@

.venv-site/done: docs/requirements.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/python -m pip install --quiet --disable-pip-version-check --requirement docs/requirements.txt
	@touch $@

.venv-lowest/done: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	PIP_CONSTRAINT=$(CURDIR)/constraints-lowest.txt .venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check \
	  --editable ".[train,onnxruntime]" pytest hypothesis scipy scikit-learn
	@touch $@

.venv-ray/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable ".[train,ray,remote]" pytest hypothesis "moto[server]"
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "pruneonce needs Python 3.10 or newer"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "no venv module: install it first (on Debian: apt install python3-venv)"; exit 1; }
