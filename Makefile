# Two commands do everything: `make demo` and `make test`. Both set up .venv on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ALONE := tests/journeys tests/interop tests/notebooks

.PHONY: help install system demo test lint types unit format proto notebook clean

help:  ## Show what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP)  ## Make .venv and install everything in it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hivemind_p2p needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@# libp2p brings trio-typing, whose stubs of a trio long gone hide the types that trio now has itself.
	@rm -rf $(VENV)/lib/python3*/site-packages/trio-stubs
	@touch $@

system:  ## Install what tests need from the system (Debian, as root); elsewhere say what is missing
	@sh tools/system.sh

demo: install  ## Start a hive on this machine and show all that it does
	$(BIN)/hivemind-peer demo

test: install system lint types unit  ## Lint, check types, run every test

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m hivemind_p2p.proto.generate --check

types: install
	$(BIN)/mypy

unit: install  ## Run the tests, or those of PYTEST_ARGUMENTS
ifdef PYTEST_ARGUMENTS
	$(BIN)/pytest $(PYTEST_ARGUMENTS)
else
	@# What starts many processes of its own has the machine for itself.
	$(BIN)/pytest --numprocesses auto --dist loadfile tests $(addprefix --ignore ,$(ALONE))
	$(BIN)/pytest $(ALONE)
endif

format: install  ## Format the code and mend what can be mended by machine
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: install  ## Regenerate the protobuf modules
	$(BIN)/python -m hivemind_p2p.proto.generate

notebook: install  ## Open the first notebook in JupyterLab
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt jupyterlab
	$(BIN)/jupyter lab notebooks/01_first_hive.ipynb

clean:  ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
