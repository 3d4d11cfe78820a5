# make demo, make test: all they need is Python >= 3.11 and make. Everything is installed into .venv.

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# With PARITY=1 the networks are compared with PyTorch's as well; torch, diffusers and transformers are installed for it.
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu keeps the gigabytes of torch's CUDA build away.
PARITY ?=
TESTED := $(VENV)/.installed-test $(if $(PARITY),$(VENV)/.installed-parity)

.PHONY: demo test test-all lint clean

demo: $(VENV)/.installed
	$(BIN)/python tools/demo.py --output demo

test: $(TESTED)
	$(BIN)/ruff check
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not slow'

# The slow ones too: every stage on every mesh.
test-all: $(TESTED)
	$(BIN)/python -m pytest -n $(WORKERS)

# What .pre-commit-config.yaml runs before each commit.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# The stamps keep a second `make` from installing again; they are as old as the lists they were made from.
$(VENV)/.installed: requirements.txt pyproject.toml | $(BIN)/python
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.installed-parity: $(VENV)/.installed-test
	$(PIP) -e '.[parity]'
	touch $@

$(BIN)/python:
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python -m venv $(VENV)"; exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo 'No Python >= 3.11 with the venv module was found; install one and run make again.' >&2; exit 1

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache
