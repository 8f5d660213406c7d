SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/bin/uv
READY := .venv/.ready
SERVERS ?= versitygw ministack

.DEFAULT_GOAL := help
.PHONY: help bootstrap demo test test-servers acceptance lint types fmt check bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(UV):
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(READY): pyproject.toml uv.lock | $(UV)
	$(UV) sync --quiet --locked --all-extras --python $(PYTHON)
	if git rev-parse --git-dir >/dev/null 2>&1; then git config core.hooksPath ci/hooks; fi
	touch $@

bootstrap: $(READY) ## Set up everything a developer needs, with only Python 3.11, venv and make on the machine

demo: $(READY) ## Run the main job on an embedded S3 server and check every record
	.venv/bin/coalesce demo $(ARGS)

test: $(READY) ## Run the tests
	.venv/bin/pytest -q -n auto $(ARGS)

test-servers: $(READY) ## Run contract, command, end-to-end, kill and fault tests on real S3 servers, installed and cached: SERVERS="minio s3rver"
	.venv/bin/python ci/test_servers.py $(SERVERS)

acceptance: $(READY) ## Join 20,000 generated objects of each layout on real S3 servers, with and without kill -9, and compare every record
	set -e; for server in $(SERVERS); do .venv/bin/python ci/with_server.py $$server .venv/bin/python ci/acceptance.py $(ARGS); done

lint: $(READY) ## Check format, style, layers and the Dockerfile
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/lint-imports
	.venv/bin/hadolint Dockerfile

types: $(READY) ## Check types
	.venv/bin/mypy

fmt: $(READY) ## Format and mend what can be mended
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

check: lint types test ## Everything that must hold before a commit

bench: $(READY) ## Compare with a script of threads and whole objects in memory
	.venv/bin/python -m bench $(ARGS)

clean: ## Remove everything that bootstrap and the tests made
	rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
