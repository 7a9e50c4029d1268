# Everything happens inside the checkout, with a Python 3.11 or newer: `make PYTHON=python3.12 test`.
PYTHON ?= python3
BIN := .venv/bin
PLUGINS := $(wildcard plugins/*/pyproject.toml)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What the plugins of this checkout cost is no part of its figures.
export KWORKER_WITHOUT_PLUGINS ?= prometheus,opentelemetry

.PHONY: install test lint demo faults mutants bench docs clean
install: .venv/installed

# Most tests wait for a Kafka, so three processes keep two cores busy; each has a Kafka of its own.
test: install
	$(BIN)/python -m pytest -n $(or $(JOBS),3) --dist loadfile

# The fault scenarios at full length, and their table in the docs; `make test` runs a short pass of
# each. `make faults SEED=42` runs the schedules of one seed.
faults: install
	KWORKER_FAULTS=full KWORKER_FAULTS_PUBLISH=1 KWORKER_FAULTS_SEED=$(SEED) \
		$(BIN)/python -m pytest tests/faults -n $(or $(JOBS),2) --dist loadfile
	$(BIN)/python docs/generate.py

# Deliberate bugs in copies of the package: the scenarios must catch each.
mutants: install
	$(BIN)/python -m tests.faults.mutants
	$(BIN)/python docs/generate.py

bench: install
	$(BIN)/python benchmarks/throughput.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: install
	$(BIN)/python examples/demo.py

# The pages as a site, in build/docs; a warning, as of a broken link, is a failure.
docs: install
	$(BIN)/python -m pip install --quiet --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python docs/build.py

clean:
	rm -rf .venv .kworker .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The pip that comes with a Python may be too old for dependency groups.
.venv/installed: pyproject.toml $(PLUGINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "kworker needs Python 3.11 or newer, and $(PYTHON) is not: run make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dev --editable . $(patsubst %/pyproject.toml,--editable %,$(PLUGINS))
	@touch $@
