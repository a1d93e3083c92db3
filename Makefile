# demo: train and test on made-up walkers; test: the tests; lint: the linter; clean: everything made here.
# soak: kills, damaged files and great sizes, for MINUTES minutes in all (docs/trust.md).
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 2

MINUTES ?= 60

.PHONY: demo test lint soak clean

demo: $(STAMP)
	$(VENV)/bin/bpmt demo --output output/demo

test: export OMP_NUM_THREADS = 1
test: $(STAMP)
	$(VENV)/bin/python -m pytest -n auto --dist worksteal

lint: $(STAMP)
	$(VENV)/bin/ruff check .

soak: $(STAMP)
	$(VENV)/bin/python tools/soak.py --minutes $(MINUTES) --json output/soak.json

clean:
	rm -rf $(VENV) build dist *.egg-info output .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,export]'
	touch $@
