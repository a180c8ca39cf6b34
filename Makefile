# Two commands are enough on a fresh machine: `make demo` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --no-deps
NPM    := npm install --prefix $(VENV) --no-save --ignore-scripts --prefer-offline --silent --fetch-retries 1 --fetch-timeout 60000
STAMP  := $(VENV)/.installed
JOBS   ?= 2
ORT    := onnxruntime-web@1.30.0
WEB    := $(VENV)/.$(ORT)

.PHONY: setup demo test test-cuda check lint types clean

setup: $(STAMP)

# constraints.txt is the whole environment, so that pip need not look for anything else. basicsr comes after the rest
# and without build isolation: it asks for torch while it builds, and would otherwise download a second one. Its own
# needs would bring tb-nightly, which tensorboard replaces.
$(STAMP): setup.py constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	sed '/^# Apart/,$$d' constraints.txt > $(VENV)/first.txt
	$(PIP) -r $(VENV)/first.txt
	$(PIP) --no-build-isolation $$(grep '^basicsr' constraints.txt)
	$(PIP) --no-build-isolation --editable .
	touch $@

# What the tests of pages for the browser run, from npm; where it is not to be had they are skipped, and make goes on.
$(WEB): | $(STAMP)
	@if ! command -v npm > /dev/null; then echo "npm is missing: the tests of pages for the browser are skipped"; \
	elif $(NPM) $(ORT); then touch $@; \
	else echo "npm cannot install $(ORT): the tests of pages for the browser are skipped"; fi

demo: $(STAMP)
	$(VENV)/bin/kdsr demo

test: $(STAMP) $(WEB) lint types
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) tests

# Where a GPU is; in an environment of one's own, with torch for CUDA: `python -m pytest --device cuda -m device`.
test-cuda: $(STAMP)
	$(PY) -m pytest -n $(JOBS) --device cuda -m device tests

check: $(STAMP) lint types
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) -m "not slow" tests

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
