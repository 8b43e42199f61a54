# Every target but `docs` and `clean` makes its own virtual environment first (tools/bootstrap.py; quick when nothing
# changed). CONTRIBUTING.md says which tests to run when.
#   make test ARGS="-k frames"      make demo ARGS=--app      make PYTHON=python3.12 VENV=.venv312 test
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Processes that share the tests, file by file; each has a database of its own. WORKERS=0: none but pytest itself.
WORKERS ?= 2
IN_VENV = $(VENV)/bin/python

.PHONY: demo test quick screenshots bench lint docs clean environment environment-with-browser environment-without-weights

demo: environment
	$(IN_VENV) -m fiftyone_ntt demo $(ARGS)

# Without ARGS the tests of the browser come afterwards, in one process: two browsers that draw without a graphics card
# on two cores take each other's time.
test: environment-with-browser
	$(IN_VENV) -m pytest --numprocesses $(WORKERS) --dist loadfile $(if $(ARGS),$(ARGS),--ignore tests/e2e)
	$(if $(ARGS),,$(IN_VENV) -m pytest tests/e2e)

# A tenth of the tests, some of every room.
quick: environment
	$(IN_VENV) -m pytest --quick $(ARGS)

# The pictures of docs/app.md, made by the test that walks through the App.
screenshots: environment-with-browser
	FIFTYONE_NTT_EVERY_EDIT=1 FIFTYONE_NTT_SCREENSHOTS=docs/images/app $(IN_VENV) -m pytest tests/e2e $(ARGS)

# Speed on the CPU with the offline preset; ARGS go to the first. `python -m benchmarks` names all benchmarks there are.
bench: environment
	$(IN_VENV) -m benchmarks.pipeline --preset lite $(ARGS)
	$(IN_VENV) -m benchmarks.decoder
	$(IN_VENV) -m benchmarks.matching

lint: environment-without-weights
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m mypy
	MYPYPATH=examples $(IN_VENV) -m mypy examples/*.py

# docs/api.md, from the docstrings; a test fails if it is not up to date.
docs:
	$(PYTHON) tools/api_docs.py

environment:
	@$(PYTHON) tools/bootstrap.py $(VENV)

environment-with-browser:
	@$(PYTHON) tools/bootstrap.py --browser $(VENV)

environment-without-weights:
	@$(PYTHON) tools/bootstrap.py --no-weights $(VENV)

clean:
	rm -rf build dist *.egg-info demo_output .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf $(VENV)
