# make demo and make test each work alone on a machine with only Python 3.11 or newer: they make .venv first.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
# Versions of TransformerLens that the hook tests run against, beside the pinned one, each in an environment of its own.
VERSIONS := 2.18.0 3.9.0
# And those in the table of docs/hooks.md, which `make table` writes: the range in pyproject.toml, from end to end.
TABLE_VERSIONS := 2.16.1 2.18.0 3.9.0 4.0.0 4.2.0

.PHONY: demo test test-slow test-versions table notebooks measured lint bench bench-corpora clean

demo: $(STAMP)
	$(BIN)/mi-probe run dimension_pairs --out mi_probe_out

# Two processes share the tests, each with one thread: tiny models take many times as long where threads wait for each other.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m slow tests

test-versions: $(STAMP) $(VERSIONS:%=test-version-%)
	$(BIN)/python -m pytest -q tests/versions

test-version-%: $(VENV)-%/.installed
	$(VENV)-$*/bin/python -m pytest -q tests/versions

table: $(STAMP) $(TABLE_VERSIONS:%=$(VENV)-%/.installed)
	rm -rf build/hook_table
	for version in $(TABLE_VERSIONS); do $(VENV)-$$version/bin/python tools/hook_table.py run || exit 1; done
	$(BIN)/python tools/hook_table.py run
	$(BIN)/python tools/hook_table.py write docs/hooks.md

notebooks: $(STAMP)
	$(BIN)/python tools/notebooks.py

measured: $(STAMP)
	$(BIN)/python benchmarks/correction_errors.py --out docs/measured/corrections.md
	$(BIN)/python benchmarks/continuous_accuracy.py --slopes > docs/measured/continuous.md
	$(BIN)/python benchmarks/false_positives.py > docs/measured/false_positives.md
	$(BIN)/python benchmarks/course.py > docs/measured/course.md

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(BENCH_STAMP)
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/calibrate.py

bench-corpora: $(BENCH_STAMP)
	$(BIN)/python benchmarks/corpora.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[bench]"
	touch $@

.PRECIOUS: $(VENV)-%/.installed
$(VENV)-%/.installed: pyproject.toml constraints/transformer-lens-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q --disable-pip-version-check -c constraints/transformer-lens-$*.txt -e . pytest hypothesis
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-[0-9]* mi_probe_out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
