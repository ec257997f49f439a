# From nothing but Python 3.11 and a C compiler: `make demo`, `make test`. PYTHON= and CC= choose others.
#
# The package is installed into .venv, as its users have it, and Python is told to leave the working directory out of its
# path (PYTHONSAFEPATH): so ./backprop, which has no compiled module, never shadows what is tested. For work on the sources
# `pip install -e .` puts the compiled module beside them instead.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
BENCH := .venv-bench
THREADS := $(shell getconf _NPROCESSORS_ONLN)
SOURCES := setup.py pyproject.toml MANIFEST.in LICENSE $(shell find csrc backprop -type f \
	! -name '*.so' ! -name '*.pyc' | sort)

export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test bench examples wheel clean

demo: $(STAMP)
	$(BIN)/python -m backprop demo

test: $(STAMP)
	$(BIN)/python -m pytest -q

# The peers are large, so they have an environment of their own. With more than one processor all threads are measured too, and
# the sweep shows every width and batch on all of them beside one.
RESULTS := bench/results
bench: $(BENCH)/installed
	$(BENCH)/bin/python bench --threads 1 --json $(RESULTS)/threads-1.json --picture $(RESULTS)/steps.svg
	if [ $(THREADS) -gt 1 ]; then \
		$(BENCH)/bin/python bench --threads $(THREADS) --json $(RESULTS)/threads-$(THREADS).json; \
		$(BENCH)/bin/python bench/sweep.py --threads $(THREADS) --json $(RESULTS)/sweep.json --picture $(RESULTS)/sweep.svg; \
	fi

examples: $(STAMP)
	@set -e; for example in examples/*.py; do \
		if [ ! -e "$$example" ]; then echo "there is no example yet"; exit; fi; \
		echo "== $$example"; $(BIN)/python "$$example"; \
	done

wheel: $(BIN)/python
	$(BIN)/python -m pip wheel -q --no-deps --wheel-dir dist .

clean:
	rm -rf .venv $(BENCH) build dist backprop-demo.safetensors backprop-demo.png backprop-*.svg *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "backprop needs Python 3.11 or newer")'
	$(PYTHON) -m venv $*

# build/lib would bring back modules that have been deleted since; the objects beside it are kept and reused.
$(STAMP): $(BIN)/python $(SOURCES)
	@find build -name "*.py" -delete 2>/dev/null || true
	$(BIN)/python -m pip install -q '.[test]'
	touch $@

$(BENCH)/installed: $(BENCH)/bin/python $(SOURCES) bench/requirements.txt
	@find build -name "*.py" -delete 2>/dev/null || true
	$(BENCH)/bin/python -m pip install -q . -r bench/requirements.txt
	-$(BENCH)/bin/python -m pip install -q fasttext-wheel==0.9.2  # for bench/reviews.py; needs a C++ compiler
	touch $@
