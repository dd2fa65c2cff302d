# Two commands do everything, set-up included: `make demo` and `make test`. What is there is reused.
#
#   make demo                        train a Franka policy from frozen Toto features, and watch it
#   make demo ARGS="encoder=none out=runs/none"    the same with other settings (configs/train.yaml)
#   make demo TORCH=cuda             with a torch for NVIDIA cards (several GB; default: cpu)
#   make arm                         the way of a real arm, on its twin: record, train, deploy, evaluate
#   make test                        all checks, and the tests of what changes often: minutes
#   make test-all                    the slow ones, too: kills, clusters, processes by the dozen
#   make test-python PYTHON=python3.12    the library's tests and the wheels on another Python
#   make check                       format, lint, import rules and types alone: seconds
#   make doctor                      what this machine has, and how quickly it draws
#   make bench                       speeds of the parts, on this machine
#   make gpu                         tests and speeds on an NVIDIA GPU, beside the CPU: ten minutes
#   make compat                      wrap popular third-party environments, write docs/compatibility.md,
#                                    and run the recipes of docs/frameworks.md
#   make clean                       remove .venv*, dist and caches; never runs/
#   PYTHON=/path/to/python3.12       the interpreter to build .venv from

TORCH ?= cpu
ARGS ?=
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
STAMP := $(VENV)/.installed-$(TORCH)
ARM_STAMP := $(VENV)/.installed-$(TORCH)-arm
TEST_STAMP := $(VENV)/.installed-$(TORCH)-test
WARP_STAMP := $(VENV)/.installed-$(TORCH)-warp
LIBRARY_STAMP := $(VENV)/.installed-$(TORCH)-library
PYTHONS := $(PYTHON) python3.11 python3.12 python3.13 python3

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo arm test test-slow test-all test-python test-library check doctor bench gpu compat clean \
    install install-test rendering

ifeq ($(filter $(TORCH),cpu cuda),)
$(error TORCH=$(TORCH) is not one of: cpu cuda)
endif

demo: install rendering
	$(BIN)/python -m policies.train $(ARGS)

# One thread a process: the twin wants a core for itself.
arm: export OMP_NUM_THREADS = 1
arm: $(ARM_STAMP) rendering
	$(BIN)/python -m real_robot.first_grasp $(ARGS)

# One thread a process, since there is a process per core: pytest's workers. What needs a twin, the
# simulated arm, has the machine for itself.
test test-slow test-library: export OMP_NUM_THREADS = 1
test: install-test rendering check
	$(check-wheels)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not gpu and not slow and not twin"
	$(BIN)/python -m pytest -q -p no:xdist -m "twin and not slow" tests/real_robot

test-slow: install-test $(WARP_STAMP) rendering
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "slow and not gpu and not twin"
	$(BIN)/python -m pytest -q -p no:xdist -m "slow and twin" tests/real_robot

test-all:
	$(MAKE) test
	$(MAKE) test-slow

# Another interpreter has a virtual environment of its own, .venv-3.12; see CONTRIBUTING.md.
test-python:
	$(MAKE) test-library PYTHON="$(PYTHON)" \
	    VENV=.venv-$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

test-library: $(LIBRARY_STAMP)
	$(check-wheels)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not gpu and not slow" tests/toto_robot

define check-wheels
	rm -rf dist
	$(PIP) wheel -q --no-deps --no-build-isolation -w dist . ./wheels/envs
	$(BIN)/python tests/smoke_wheel.py dist/*.whl
endef

check: install-test
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/lint-imports
	$(BIN)/pyrefly check --summary=none

doctor: install
	$(BIN)/python -m envs.doctor

bench: install-test rendering
	@for name in encode stream onnx ceiling against_vit feature_cache train_step token_pipeline decode_video \
	    generate env_step; do \
	    echo "# $$name, one core"; \
	    OMP_NUM_THREADS=1 LP_NUM_THREADS=0 $(BIN)/python -m benchmarks.$$name; \
	done
	@for name in vector_env dagger_collect control_loop franka_tracking; do \
	    echo "# $$name, all cores"; $(BIN)/python -m benchmarks.$$name; \
	done

# Installs a torch for NVIDIA GPUs in .venv (several GB), so it checks for a GPU first.
gpu:
	@nvidia-smi -L >/dev/null 2>&1 || { echo "make gpu needs an NVIDIA GPU; nvidia-smi finds none"; exit 2; }
	$(MAKE) install-test rendering TORCH=cuda
	$(BIN)/python -m benchmarks.gpu $(ARGS)

compat: install
	$(BIN)/python -m benchmarks.compatibility
	$(BIN)/python -m benchmarks.compatibility.frameworks
	$(BIN)/python -m benchmarks.compatibility.lerobot

clean:
	rm -rf $(VENV) .venv-3.* dist build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(STAMP)
install-test: $(TEST_STAMP)

# Root installs what the system lacks; others get one line that names the packages.
$(BIN)/python:
	@find_python() { \
	    for name in $(PYTHONS); do \
	        if "$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	            2>/dev/null; then echo "$$name"; return; fi; \
	    done; \
	}; \
	python=$$(find_python); \
	if [ -z "$$python" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "# no Python >= 3.11 with the venv module: trying apt-get"; \
	    { apt-get update -qq && { apt-get install -y -qq python3.11-venv \
	        || apt-get install -y -qq python3-venv; }; } >/dev/null 2>&1 || true; \
	    python=$$(find_python); \
	fi; \
	if [ -z "$$python" ]; then \
	    echo "Python >= 3.11 with its venv module is needed: sudo apt-get install python3-venv" \
	        "(or python3.11-venv), or set PYTHON="; exit 1; \
	fi; \
	echo "# virtual environment in $(VENV), by $$("$$python" --version)"; \
	"$$python" -m venv $(VENV)

# torch comes first and by itself, so that no resolver gets the idea of the CUDA build: on the public
# index that is the default, and several GB. Where the CPU index is not reachable, whatever build the
# configured index has is taken. --timeout and --retries keep an unreachable index to seconds.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "# installing, once: about three minutes"
	@rm -f $(VENV)/.installed-*
	@$(PIP) --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip  # a stopped set-up left no pip
	$(PIP) install -q -U -c constraints.txt pip
	@built=$$($(BIN)/python -c 'import torch; print("cuda" if torch.version.cuda else "cpu")' \
	    2>/dev/null || true); \
	if [ -n "$$built" ] && [ "$$built" != $(TORCH) ]; then $(PIP) uninstall -q -y torch; fi
ifeq ($(TORCH),cpu)
	$(PIP) install -q --no-deps --timeout 15 --retries 0 --index-url $(CPU_INDEX) torch==$(TORCH_VERSION) \
	    2>/dev/null || { \
	    echo "# $(CPU_INDEX) is not reachable: taking torch from the default index"; \
	    $(PIP) install -q -c constraints.txt torch==$(TORCH_VERSION); }
else
	$(PIP) install -q -c constraints.txt torch==$(TORCH_VERSION)
endif
	$(PIP) install -q -c constraints.txt -e ".[sim,train]"
	@touch $@

# franka-sim pins NumPy 1.26 and MuJoCo 3.2; ours overrides what it needs of them (real_robot/twin).
$(ARM_STAMP): $(STAMP)
	$(PIP) install -q -c constraints.txt -e ".[sim,train,lerobot,franka]"
	$(PIP) install -q -c constraints.txt --no-deps franka-sim
	@touch $@

# The wheel with libOSMesa is here for the tests of that route; without it they test that it is missed.
$(TEST_STAMP): $(ARM_STAMP)
	$(PIP) install -q -c constraints.txt -e ".[sim,train,sb3,export,lerobot,ray,viewer,robomimic,dev]"
	$(PIP) install -q -c constraints.txt --no-deps pylibfranka
	$(PIP) install -q -c constraints.txt --no-deps lavavu-osmesa || true
	@touch $@

# Only the slow tests use it: its kernels are compiled for minutes before the first step.
$(WARP_STAMP): $(TEST_STAMP)
	$(PIP) install -q -c constraints.txt -e ".[warp]" || \
	    echo "# MuJoCo Warp cannot be installed here: its tests are skipped"
	@touch $@

$(LIBRARY_STAMP): $(STAMP)
	$(PIP) install -q -c constraints.txt -e ".[sim,train,sb3,export,lerobot,dev]"
	@touch $@

# Nothing is installed where rendering works already (a check of 0.3 s).
rendering: install
	@$(BIN)/python -m toto_robot.rendering >/dev/null 2>&1 && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "# no way to render: trying apt-get install libegl1 libgl1"; \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends libegl1 libgl1; } \
	        >/dev/null 2>&1 || true; \
	    $(BIN)/python -m toto_robot.rendering >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "# no way to render: trying the wheel lavavu-osmesa"; \
	$(PIP) install -q --no-deps -c constraints.txt lavavu-osmesa || true; \
	$(BIN)/python -m toto_robot.rendering
