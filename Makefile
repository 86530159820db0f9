# make demo, make test, make docs and make check each install what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export JAX_PLATFORMS ?= cpu
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo docs figures test test-all test-accelerators test-faults check format install native native-sanitize clean

help:
	@echo "make demo     train SGD and SAM on long-tailed digits and compare them on the rare classes"
	@echo "make test     run the tests (about 30 minutes on two cores)"
	@echo "make test-all     run all tests, including the nightly ones"
	@echo "make test-accelerators  compile what we ship for GPUs and TPUs; needs neither (downloads 460 MB, takes hours)"
	@echo "make test-faults  kill, break, and damage real runs (under an hour on two cores)"
	@echo "make check    check format, lint, and types, and run the fast tests"
	@echo "make docs     build the documentation's site in docs/_build/html"
	@echo "make figures  redraw the figures of README and docs/ from recorded data"
	@echo "make format   format the code and apply lint fixes"
	@echo "make install  create the environment in $(VENV)"
	@echo "make native   build the fast CPU kernels (needs Linux on x86-64 and a C++ compiler)"

demo: $(VENV)/installed
	$(BIN)/python -m saddle_jax.modes.demo

figures: $(VENV)/installed
	$(BIN)/python benchmarks/figures.py

# One process takes all tests of a file, because they share fixtures and compiled programs. tests/conftest.py has the
# order of the files.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed-dev $(VENV)/kernels
	$(PYTEST) tests $$(cat $(VENV)/kernels 2>/dev/null)

test-all: $(VENV)/installed-dev $(VENV)/kernels
	$(PYTEST) -m "" tests $$(cat $(VENV)/kernels 2>/dev/null)

# Compilers for TPUs and GPUs, in a folder of their own, so that nothing else tries to use them. Writes
# docs/accelerators.md.
test-accelerators: $(VENV)/installed-compilers
	PYTHONPATH=$(VENV)/compilers $(BIN)/python benchmarks/accelerators.py

$(VENV)/installed-compilers: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/compilers \
	  $$($(BIN)/python -c 'from saddle_jax.host import machines; print(*machines.packages())')
	@touch $@

# Writes its figures to docs/reliability.md.
test-faults: $(VENV)/installed-dev
	PYTHONPATH=tests SADDLE_FIGURES=docs/reliability.md $(BIN)/python -m pytest -p fault_figures -n 2 -m faults

check: $(VENV)/installed-dev $(VENV)/kernels
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(PYTEST) -m "not slow and not nightly"

# Sphinx runs from the repository's root, so that links to notebooks and benchmarks mean the same as on GitHub.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -c docs -W --keep-going --quiet . docs/_build/html
	@echo "open docs/_build/html/index.html"

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/installed

native: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --config-settings=cmake.define.STRICT=ON ./native

# Runs the kernel tests under the address and undefined-behavior sanitizers.
native-sanitize: $(VENV)/installed-dev
	rm -rf $(VENV)/sanitized
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/sanitized \
	  --config-settings=cmake.define.SANITIZE=ON --config-settings=cmake.define.STRICT=ON ./native
	$(BIN)/pip install --quiet --disable-pip-version-check onednn-cpu-gomp==2023.2.0
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$(VENV)/sanitized $(BIN)/python -m pytest native

$(VENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"found Python {v[0]}.{v[1]}, expected 3.11 to 3.13. Fix: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed requirements-docs.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

# This file holds the path of the kernel tests. It is not written if the kernels can't be built.
$(VENV)/kernels: $(VENV)/installed $(wildcard native/*.* native/src/* native/saddle_kernels/*.py)
	@if [ "$$(uname -sm)" = "Linux x86_64" ] && command -v $${CXX:-c++} > /dev/null; then \
	  echo "building the CPU kernels" && $(MAKE) --no-print-directory native && echo native/tests > $@; \
	else echo "no C++ compiler, or not Linux on x86-64: the tests run without the CPU kernels"; fi

clean:
	rm -rf $(VENV) demo docs/_build .pytest_cache .ruff_cache
