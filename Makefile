# make quickstart   set up .venv and run the main job on embedded data
# make test         set up .venv and run the test suite
# make test-all     the full matrices too, and coverage
# make docs         the pages of docs/ and the API as a site, docs/_build/index.html
PYTHON ?= python3
BIN := .venv/bin
TESTED := losses layers methods engine

.PHONY: quickstart test test-all docs lint clean

quickstart: .venv/.run
	$(BIN)/python launch/train.py --config=configs/quickstart.py --workdir=runs/quickstart

test: .venv/.test
	$(BIN)/python -m pytest -m "not full" -n 2 --dist loadfile

# everything with the emitters that users have, and how much of losses, layers, methods and engine the tests reach
test-all: export XLA_FLAGS := --xla_backend_optimization_level=0
test-all: .venv/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov-fail-under=95 $(TESTED:%=--cov=kd_jax/%)

docs: .venv/.docs
	$(BIN)/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going --conf-dir docs . docs/_build

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/.run: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/.test: .venv/.run
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

.venv/.docs: .venv/.run
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

clean:
	rm -rf .venv runs docs/_build
