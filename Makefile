# From nothing but Python 3.11 and a C compiler: `make demo`, `make test`. PYTHON= and CC= choose others.
#
# The package is installed into .venv, as its users have it, and Python is told to leave the working directory out of its
# path (PYTHONSAFEPATH): so ./backprop, which has no compiled module, never shadows what is tested. For work on the sources
# `pip install -e .` puts the compiled module beside them instead.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
SOURCES := setup.py pyproject.toml MANIFEST.in LICENSE $(shell find csrc backprop -type f \
	! -name '*.so' ! -name '*.pyc' | sort)

export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test bench examples wheel clean

demo: $(STAMP)
	$(BIN)/python -m backprop demo

test: $(STAMP)
	$(BIN)/python -m pytest -q

bench: $(STAMP)
	$(BIN)/python bench

examples: $(STAMP)
	@set -e; for example in examples/*.py; do echo "== $$example"; $(BIN)/python $$example; done

wheel: $(BIN)/python
	$(BIN)/python -m pip wheel -q --no-deps --wheel-dir dist .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "backprop needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

# build/lib would bring back modules that have been deleted since; the objects beside it are kept and reused.
$(STAMP): $(BIN)/python $(SOURCES)
	rm -rf build/bdist* && find build -name "*.py" -delete 2>/dev/null || true
	$(BIN)/python -m pip install -q '.[test]'
	touch $@
