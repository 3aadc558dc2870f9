# What a newcomer needs is `make run`; everything it wants (but Python 3.11) it sets up by itself.
# Settings are environment variables, as in `PAYFLOW_WEB_PORT=8001 make run`; .env.example lists them.

PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run serve demo stop test lint openapi bench audit drill clean

help: ## Show this list
	@echo "PayFlow: make ..."
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  %-8s %s\n' "$$name" "$$text"; done

setup: ## Prepare this machine: .venv, pinned requirements, embedded MongoDB (the others do it, too)
	@$(PYTHON) payflow/stack/bootstrap.py

run: setup ## Start everything, play the demo, stay up until Ctrl-C (ARGS=-v shows the logs)
	@$(PY) -m payflow.stack run $(ARGS)

serve: setup ## The same without the demo
	@$(PY) -m payflow.stack serve $(ARGS)

demo: setup ## Start everything, play the demo, stop; fails when anything went wrong
	@$(PY) -m payflow.stack demo $(ARGS)

stop: setup ## Stop the PayFlow that runs on this data folder
	@$(PY) -m payflow.stack stop

test: ## Run the whole suite on a few cores (ARGS="-k saga" for a part of it)
	@$(PYTHON) payflow/stack/bootstrap.py --load
	@.venv/bin/pytest -n auto --maxprocesses 4 $(ARGS)

lint: setup ## Check style, format, types and the OpenAPI document
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@PAYFLOW_ENV=development $(PY) manage.py spectacular --validate --fail-on-warn > /dev/null

openapi: setup ## Write docs/openapi.json anew, after a change of the API
	@PAYFLOW_ENV=development $(PY) manage.py spectacular --validate --fail-on-warn \
		--format openapi-json --file docs/openapi.json

bench: ## Measure throughput, latency and memory; ends with an audit
	@$(PYTHON) payflow/stack/bootstrap.py --load
	@$(PY) -m tests.load.bench $(ARGS)

audit: setup ## Verify every invariant over the whole ledger
	@$(PY) -m payflow.stack exec -- $(PY) manage.py audit $(ARGS)

drill: setup ## Kill everything under load, then audit (ARGS="--seconds 600 --faults redis,flush --seed 7")
	@PAYFLOW_ENV=$${PAYFLOW_ENV:-development} $(PY) manage.py drill $(ARGS)

clean: ## Remove .venv, the embedded engine and caches; the data in .payflow stays
	@rm -rf .venv .payflow/engine .pytest_cache .mypy_cache .ruff_cache .hypothesis staticfiles
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
