# make run   sets up .venv, then trains for three minutes on the Python standard library's own sources.
# make test  sets up .venv, then runs the linters and the tests.
#
# The same by hand:
#   python3 -m venv .venv && . .venv/bin/activate
#   pip install -e .            then   groundup train
#   pip install -e '.[test]'    then   ruff check && ruff format --check && lint-imports && python docs/write_numbers.py --check && pytest -n 2 --dist loadfile
#
# Another interpreter (3.11 or newer): make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help run test
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

run: .venv/installed
	$(BIN)/groundup train

# Tests: threads that wait sleep instead of spinning, for the machine may be doing other things.
test: export OMP_WAIT_POLICY ?= PASSIVE
test: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/python docs/write_numbers.py --check
	$(BIN)/pytest -n 2 --dist loadfile

# Stamps: installing happens again only when pyproject.toml changes. venv leaves an environment that is there as it is.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -e .
	@touch $@

.venv/installed-test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -e '.[test]'
	@touch .venv/installed $@
