# make demo, make test: all they need is Python >= 3.11 and make. Everything is installed into .venv.

VENV := .venv
# Of a new environment; another one beside it: make test PYTHON=python3.12 VENV=.venv-3.12
PYTHON ?=
BIN := $(VENV)/bin
WORKERS ?= 2
# A worker gets a part of the list in one piece, so that it runs whole files, which share compiled programs; at the end it
# takes over from the others.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# With PARITY=1 the networks are compared with PyTorch's as well; torch, diffusers and transformers are installed for it.
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu keeps the gigabytes of torch's CUDA build away.
PARITY ?=
TESTED := $(VENV)/.installed-test $(if $(PARITY),$(VENV)/.installed-parity)

# With LOCKED=1 the versions in requirements.lock are installed, each file checked by its hash; else the newest that
# requirements.txt allows.
LOCKED ?=

TABLES := table1 table2 table3 table4 fig8 fig9 kernels cassr-table1 cassr-table2 cassr-table3 blinddiff-table1 blinddiff-table2 blinddiff-table3 blinddiff-table4 blinddiff-table5 blinddiff-fig6

.PHONY: demo $(TABLES) test test-all test-changed lint docs lock clean

demo: $(VENV)/.installed-demo
	$(BIN)/python tools/demo.py --output demo

# Tables and figures of the SSR, BlindDiff and CasSR papers, ours beside theirs:
# make table1 DATA=ROOT [MODEL=DIR] [LIMIT=N] [SEEDS=0,1,2].
$(TABLES): $(VENV)/.installed
	$(BIN)/python tools/paper_tables.py $@ --output paper $(if $(DATA),--data $(DATA)) $(if $(MODEL),--model $(MODEL)) \
	  $(if $(LIMIT),--limit $(LIMIT)) $(if $(SEEDS),--seeds $(SEEDS))

test: $(TESTED)
	$(BIN)/ruff check
	$(PYTEST) -m 'not slow'

# The slow ones too: every stage on every mesh.
test-all: $(TESTED)
	$(PYTEST)

# Of the slow ones those that guard what differs from origin's branch, or from SINCE=COMMIT.
SINCE ?=
test-changed: $(TESTED)
	@tests=$$($(BIN)/python tools/slow_tests.py $(SINCE)); if [ -n "$$tests" ]; then \
	  echo "slow tests of" $$tests; $(PYTEST) -m slow $$tests; fi

# What .pre-commit-config.yaml runs before each commit.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# The site, into site/; a warning, such as a link to nothing, is an error.
docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

# The stamps keep a second `make` from installing again; they are as old as the lists they were made from.
$(VENV)/.installed: requirements.txt requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) $(if $(LOCKED),--require-hashes -r requirements.lock,-r requirements.txt)
	$(PIP) --no-deps -e .
	touch $@

$(VENV)/.installed-demo: $(VENV)/.installed
	$(PIP) -e '.[demo]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	touch $@

$(VENV)/.installed-parity: $(VENV)/.installed-test
	$(PIP) -e '.[parity]'
	touch $@

$(BIN)/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python -m venv $(VENV)"; exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo 'No Python >= 3.11 with the venv module was found; install one and run make again.' >&2; exit 1

# Writes requirements.lock anew: the newest versions that requirements.txt and the extras for tests and
# development allow, for all Pythons and systems. It needs uv.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command 'make lock' --upgrade --extra all --extra test --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) demo paper site build dist *.egg-info .pytest_cache
