# make run    find the IOI circuit in SmolLM2-135M-Instruct, from nothing
# make test   install what the tests need and run them
# make check  ruff, its formatter, and the types of interp/
# make app    open the workbench in the browser
# make test-tl4   the tests that apply to transformer-lens 4, in an environment of its own, without sae-lens
# make docs   build the documents as a searchable site in site/
#
# PYTHON=python3.12   which Python makes the virtual environment (3.11 to 3.13)
# PIP_ARGS="…"        passed to pip, e.g. --extra-index-url of a CPU-only torch build, or a mirror

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
export PIP_ARGS

.PHONY: run test test-tl4 check app docs bench screenshots clean

run: $(VENV)/.installed
	$(BIN)/interp discover ioi

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder -rs --durations=20

# sae-lens needs transformer-lens below 4, so that this environment has none
TL4_TESTS ?= tests/models tests/activations tests/scores tests/circuits tests/programs tests/bottlenecks tests/evaluation
test-tl4: $(VENV)-tl4/.installed
	$(VENV)-tl4/bin/python -m pytest -rs -m "not slow and not browser" $(TL4_TESTS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

app: $(VENV)/.installed
	$(BIN)/streamlit run app/main.py

# docstrings are read, not imported: an environment of its own needs neither torch nor this package
docs: $(VENV)-docs/.installed
	$(VENV)-docs/bin/mkdocs build --strict

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.discover

screenshots: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.screenshots screenshots

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)-tl4/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-tl4
	$(VENV)-tl4/bin/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*(d for d in project["dependencies"] + project["optional-dependencies"]["test"] if not d.startswith("sae-lens")), "transformer-lens>=4,<5", sep="\n")' > $(VENV)-tl4/requirements.txt
	$(VENV)-tl4/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r $(VENV)-tl4/requirements.txt
	$(VENV)-tl4/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) --no-deps -e .
	@touch $@

$(VENV)-docs/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(VENV)-docs/requirements.txt
	$(VENV)-docs/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r $(VENV)-docs/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs $(VENV)-tl4 build dist site *.egg-info
