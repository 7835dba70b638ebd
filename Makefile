# make        set up the environment (.venv) from the lock
# make demo   set up everything, run the default to results/cycle2/eval.json, and write the report
# make test   set up everything, lint, pass the tests
# See also: document, bench, mlflow, report, lint, unit, e2e, peer, test-slurm, chaos, lock.
# Variables: PYTHON, CORES, ARGS (more options for Snakemake), ROOT (a preset's results, of mlflow and report).

SHELL := /bin/bash
PYTHON ?= python3
ROOT ?= results
CORES ?= $(shell nproc)
# Memory that jobs may reserve together, MB: a tenth is left to the rest of the machine.
MEMORY_MB ?= $(shell awk '/MemTotal/ {print int($$2 / 1024 * 0.9)}' /proc/meminfo)
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --resources mem_mb=$(MEMORY_MB) --rerun-incomplete $(ARGS)
# Two jobs side by side with one thread each: spinning threads of small models slow each other down.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive
export TOKENIZERS_PARALLELISM ?= false

.PHONY: env demo test document lint unit e2e peer test-slurm chaos bench mlflow report lock
.DEFAULT_GOAL := env

# Made anew where the lock differs from the one that was installed; otherwise this takes no time.
env:
	@cmp -s envs/requirements.lock .venv/installed.lock || $(MAKE) --no-print-directory .venv/installed.lock

.PHONY: .venv/installed.lock
.venv/installed.lock:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "make: $(PYTHON) is not Python 3.11 or newer. Install it (Debian, Ubuntu: apt install python3 python3-venv)" \
	       "or name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "make: $(PYTHON) cannot make virtual environments." \
	       "Install the module: apt install python3-venv (or python3.X-venv for another Python)" >&2; exit 1; }
	rm -f $@
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@cp envs/requirements.lock $@
	@echo "The environment is ready: . .venv/bin/activate"

demo: env
	$(SNAKEMAKE)
	$(MAKE) --no-print-directory report
	@echo "Results: results/cycle2/eval.json and results/report.html"

# With the comparison of runs, where it was made.
report: env
	$(SNAKEMAKE) --report $(ROOT)/report.html all $(wildcard $(ROOT)/comparison.csv)

bench: env
	$(BIN)/python -m bench.run --output results/bench.json

# The tracking server shows what the runs logged to SQLite; stop it with Ctrl-C.
mlflow: env
	$(BIN)/mlflow server --backend-store-uri sqlite:///$(ROOT)/mlflow.db --workers 1 --host 127.0.0.1 --port $(or $(PORT),5000)

# What is written of the configuration: its schema, docs/configuration.md, the comments of config.yaml.
document: env
	$(BIN)/python -m viarl.config.document

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m viarl.config.document --check

unit: env
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not e2e and not slurm and not gpu and not peer"

e2e: env
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "e2e"

test: lint unit e2e

# Prompts, letters and scores of `evaluation.protocol: lmms-eval` against lmms-eval itself, in an environment of its own.
# Only what its three tasks import is installed beside it (envs/peer.txt): its models' dependencies are many and large.
PEER := .venv-peer/bin/python
peer:
	test -x $(PEER) || $(PYTHON) -m venv .venv-peer
	$(PEER) -m pip install --quiet --disable-pip-version-check -r envs/peer.txt -c envs/requirements.lock
	$(PEER) -m pip install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.3
	$(PEER) -m pytest -m peer tests/peer

# The smoke preset 20 times with one fault each (an hour or two); options: make chaos CHAOS="--runs 3 --seed 5"
chaos: env
	$(BIN)/python -m tests.chaos --folder results/chaos $(CHAOS)

# A real SLURM cluster on this machine, installed by apt where it is missing (root). All faults: TESTS=tests/slurm.
test-slurm: env
	$(BIN)/python -m pytest -m slurm --durations=0 $(or $(TESTS),tests/slurm/test_slurm.py)

# Pins what .venv holds. To raise versions: pip install -U -r envs/requirements.in, then this.
lock:
	( echo '# Every package, pinned: written by `make lock`. What the project itself asks for is in requirements.in.'; \
	  $(BIN)/python -m pip list --format=freeze --exclude viarl --exclude pip ) > envs/requirements.lock
	( echo '# requirements.lock in conda form, for --software-deployment-method conda: written by `make lock`.'; \
	  echo 'channels: [conda-forge, nodefaults]'; echo 'dependencies:'; echo '  - python=3.11'; echo '  - pip'; \
	  echo '  - pip:'; sed '/^#/d; s/^/      - /' envs/requirements.lock ) > envs/viarl.yaml
	cp envs/requirements.lock .venv/installed.lock
