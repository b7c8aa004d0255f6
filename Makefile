PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What commands import is compiled at the set-up: where Python may not keep what it compiles, it would do so every time.
COMPILED := deepspeed, open_clip, ingest.source, ingest.synth.clips, score.analysis.sql, score.job, train.job, train.models.scoring

.PHONY: help setup demo test soak lint bench docs clean
.DEFAULT_GOAL := help

help: ## say what each target does
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY) ## make the virtual environment from requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
		{ echo "mien needs Python 3.11 or 3.12: name one with 'make PYTHON=python3.11 ...'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --editable .
	@PYTHONDONTWRITEBYTECODE= DS_ACCELERATOR=cpu $(BIN)/python -c 'import $(COMPILED)'
	@touch $@

demo: $(READY) ## synthesise clips, ingest, train, score, compare: all of it under demo/
	$(BIN)/python examples/demo.py demo

# Three processes on two cores: some of the time of tests of servers and workers is waiting.
test: $(READY) ## the test suite, but for what `make soak` runs
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not soak"

soak: $(READY) ## the longer tests: every kind of pool, every real file, every benchmark in short
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m soak

lint: $(READY) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## every side-by-side measurement in full, results dated in benchmarks/results/
	@for file in benchmarks/*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py) --save || exit 1; done

docs: $(READY) ## write docs/tables.md and docs/options.md from the schemas and configurations
	$(BIN)/python -m common.lake.page > docs/tables.md
	$(BIN)/python docs/options.py > docs/options.md

clean: ## remove what the other targets made
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
