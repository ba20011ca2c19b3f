# The project's commands. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
DEVELOPMENT := $(VENV)/.development

.DEFAULT_GOAL := help
.PHONY: help demo test check lint format types layers migrations bench-kafka bench-sweep bench-xlsx \
	services requirements clean

help: ## List the commands
	@grep -E '^[a-z.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(RUNTIME) .env ## See the whole job work, then browse it; ONCE=1 stops after the table
	$(BIN)/python -m demo $(if $(ONCE),--once)

test: $(DEVELOPMENT) .env ## Run the tests, with every real service that is found
	$(BIN)/python -m pytest $(ARGS)

check: lint types layers migrations test ## Everything that must hold before a commit

lint: $(DEVELOPMENT) ## Format and lint, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(DEVELOPMENT) ## Format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(DEVELOPMENT) .env ## Check the types
	$(BIN)/mypy .

layers: $(DEVELOPMENT) ## Check the direction of imports
	$(BIN)/lint-imports

migrations: $(DEVELOPMENT) .env ## Check that no migration is missing
	$(BIN)/python manage.py makemigrations --check --dry-run

bench-kafka: $(DEVELOPMENT) .env ## Rows to Kafka: C tools, a plain loop, and this product
	$(BIN)/python -m benchmarks.kafka $(if $(ROWS),--rows $(ROWS)) $(if $(DATABASE),--database $(DATABASE))

bench-sweep: $(DEVELOPMENT) .env ## One sweep over 100 to 10,000 items that are all due
	$(BIN)/python -m benchmarks.sweep

bench-xlsx: $(DEVELOPMENT) .env ## Rows to an Excel file: openpyxl, XlsxWriter, pandas, and this product
	$(BIN)/python -m benchmarks.xlsx $(if $(ROWS),--rows $(ROWS)) $(if $(TABLE),--table $(TABLE))

services: ## Install the databases, brokers and programs that the tests use (Debian, root)
	bash tests/services/install.sh

requirements: $(DEVELOPMENT) ## Compile the exact pins from pyproject.toml
	$(BIN)/pip-compile $(PINS) --output-file requirements.txt pyproject.toml
	$(BIN)/pip-compile $(PINS) $(EXTRAS) --output-file requirements-extras.txt pyproject.toml
	$(BIN)/pip-compile $(PINS) $(EXTRAS) --extra dev --output-file requirements-dev.txt pyproject.toml

EXTRAS := --extra parquet --extra s3 --extra sftp --extra smb
PINS := --quiet --strip-extras --no-header --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host

clean: ## Remove the virtual environment and everything that was written
	rm -rf $(VENV) var .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(DEVELOPMENT): requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(RUNTIME)

.env: | $(RUNTIME)
	umask 077 && $(BIN)/python -m queryexport.dotenv > $@.part && mv $@.part $@
