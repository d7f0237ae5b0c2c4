# make run: set up .venv and run the main job.  make test: set up .venv and run linters and tests.
# The same by hand:
#   python3 -m venv .venv && . .venv/bin/activate
#   pip install -e .              then: groundup train
#   pip install -e '.[test]'      then: ruff check && ruff format --check && lint-imports && pytest
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test help
help:
	@echo "make run    set up .venv, then train for three minutes on the Python standard library"
	@echo "make test   set up .venv, then linters and tests"

run: .venv/installed
	$(BIN)/groundup train

test: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pytest

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e .
	@touch $@

.venv/installed-test: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e '.[test]'
	@touch $@
