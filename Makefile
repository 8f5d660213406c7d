SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/bin/uv
CHECKOV_VERSION := 3.3.30
CHECKOV := .tools/bin/checkov
READY := .venv/.ready
BENCH_READY := .venv/.bench
SERVERS ?= versitygw ministack
SERVER ?= ministack
BASE ?= python:3.11-slim-bookworm
TAG ?= coalesce:local
WHEELS ?= dist
FLY_TARGET ?= aws-concourse
FLY_UTILITY_TARGET ?= utility
PARTITION ?= -1

.DEFAULT_GOAL := help
.PHONY: help bootstrap demo test test-servers test-readers mutants acceptance rehearsal layers wheel image test-image test-cluster test-deploy update-pipeline update-corporate-storage-coalescer-pipeline lint docs types fmt check bench bench-quick clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf(length($$1) > 16 ? "  %s\n  %16s %s\n" : "  %-16s%s %s\n", $$1, "", $$2)}' $(MAKEFILE_LIST)

$(UV):
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(READY): pyproject.toml uv.lock | $(UV)
	$(UV) sync --quiet --locked --all-extras --python $(PYTHON)
	if git rev-parse --git-dir >/dev/null 2>&1; then git config core.hooksPath ci/hooks; else echo "no git repository here: no hooks are set"; fi
	touch $@

$(BENCH_READY): $(READY)
	$(UV) sync --quiet --locked --all-extras --group bench --compile-bytecode --python $(PYTHON)
	touch $@

bootstrap: $(READY) ## Set up everything a developer needs, with only Python 3.11, venv and make on the machine, and say what the tests will skip
	@.venv/bin/python ci/skipped.py

demo: $(READY) ## Run the main job on an embedded S3 server and check every record
	.venv/bin/coalesce demo $(ARGS)

test: $(READY) ## Run the tests
	.venv/bin/pytest -q -n auto $(ARGS)

test-servers: $(READY) ## Run contract, command, end-to-end, kill and fault tests on real S3 servers, installed and cached: SERVERS="minio s3rver"
	.venv/bin/python ci/test_servers.py $(SERVERS)

test-readers: $(READY) ## Read outputs of both modes with the JDK, the AWS SDK, Hadoop and Spark over a slow connection; needs java, and mvn for all but the first
	COALESCE_TEST_READERS=1 .venv/bin/pytest -q -rs tests/readers

acceptance: $(READY) ## Join 20,000 generated objects of each layout on real S3 servers, with and without kill -9, and compare every record
	set -e; for server in $(SERVERS); do .venv/bin/python ci/with_server.py $$server .venv/bin/python ci/acceptance.py $(ARGS); done

rehearsal: $(READY) ## Play two nights of array jobs that die, then a Monday and a Tuesday on a model of AWS: deploy, a night, a new image, a night with a dead location: SERVER=ministack
	.venv/bin/python ci/with_server.py $(SERVER) .venv/bin/python ci/rehearsal.py
	.venv/bin/python ci/with_server.py $(SERVER) .venv/bin/python ci/rehearsal_on_aws.py

wheel: $(READY) ## Build the wheel that pip, pipx and uv install, into dist
	$(UV) build --quiet --wheel --python .venv/bin/python --out-dir $(WHEELS)

image: ## Build the container image with docker, podman or buildah: BASE=python:3.11-slim-bookworm TAG=coalesce:local
	$(PYTHON) ci/image.py --tag $(TAG) build --base $(BASE)

test-image: $(READY) image ## Build the image and run it on a real server: read-only, without rights, with signals
	COALESCE_TEST_IMAGE=$(TAG) .venv/bin/python ci/with_server.py versitygw .venv/bin/pytest -q tests/deploy/test_image.py

test-cluster: $(READY) ## Apply the Kubernetes manifests to a real API server, built once from source, and try each exit code there; needs go and kubectl
	.venv/bin/python ci/with_cluster.py .venv/bin/pytest -q -n 0 tests/deploy/test_cluster.py $(ARGS)

# In a place of its own: it pins other versions of what the program uses.
$(CHECKOV): | $(UV)
	UV_TOOL_DIR=$(CURDIR)/.tools/share UV_TOOL_BIN_DIR=$(CURDIR)/.tools/bin $(UV) tool install --quiet --python $(PYTHON) checkov==$(CHECKOV_VERSION)

test-deploy: $(READY) $(CHECKOV) ## Check everything that deploys something, with the tools that are on the PATH; the rest is skipped and named
	$(UV) sync --quiet --locked --inexact --all-extras --group deploy
	PATH="$(CURDIR)/.tools/bin:$$PATH" COALESCE_TEST_SYSTEMD=1 .venv/bin/pytest -q -n 2 -rs tests/deploy $(ARGS)

needs = @command -v $(1) >/dev/null || { echo "make $@ needs $(1), which comes from $(2)" >&2; exit 1; }
needs-aviator = $(call needs,aviator,https://github.com/herrjulz/aviator/releases)
needs-fly = $(call needs,fly,the first page of your Concourse)

update-pipeline: ## Set the infrastructure pipeline from this working tree: FLY_TARGET=aws-concourse BRANCH=main; needs aviator and fly, and a login: fly -t aws-concourse login
	$(needs-aviator)
	$(needs-fly)
	sed -E -e 's|^( *target:).*|\1 $(FLY_TARGET)|' -e 's|^( *branch:).*|\1 "$(BRANCH)"|' aviator.yml > aviator_set_pipeline.yml
	aviator -f aviator_set_pipeline.yml

update-corporate-storage-coalescer-pipeline: ## Set the pipeline that runs the job by hand: DATE=2026-11-01 PREFIX=... PARTITION=3 DEADLINE=11h, or what each location has
	$(needs-aviator)
	$(needs-fly)
	sed -E -e 's|^( *target:).*|\1 $(FLY_UTILITY_TARGET)|' -e 's|^( *branch:).*|\1 "$(BRANCH)"|' -e 's|^( *date:).*|\1 "$(DATE)"|' \
	  -e 's|^( *deadline:).*|\1 "$(DEADLINE)"|' -e 's|^( *partition:).*|\1 "$(PARTITION)"|' -e 's|^( *prefix:).*|\1 "$(PREFIX)"|' \
	  aviator-corporate-storage-coalescer.yml > aviator_set_pipeline.yml
	aviator -f aviator_set_pipeline.yml

mutants: $(READY) ## Remove each guard of the program in turn; a test must notice: ARGS="words of a guard"
	.venv/bin/python ci/mutants.py $(ARGS)

lint: $(READY) ## Check format, style, layers and the Dockerfile
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/lint-imports
	.venv/bin/hadolint Dockerfile

docs: $(READY) ## Write what is generated: options, metrics, schemas, the configuration file, the tables of scale and recipes, dashboards
	.venv/bin/python ci/options.py
	.venv/bin/python ci/configuration.py
	.venv/bin/python ci/ledger.py
	.venv/bin/python ci/metrics.py
	.venv/bin/python ci/schemas.py
	.venv/bin/python -m bench.scale
	.venv/bin/python -m bench.backfill

layers: $(READY) ## Check which package may import which
	.venv/bin/lint-imports

types: $(READY) ## Check types
	.venv/bin/mypy

fmt: $(READY) ## Format and mend what can be mended
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

check: lint types test ## Everything that must hold before a commit

bench: $(BENCH_READY) ## Measure beside every rival, and write the tables and the chart of docs/performance.md (about 45 minutes on 2 quiet cores; ARGS=--resume goes on with one that was cut short)
	.venv/bin/python -m bench $(ARGS)

bench-quick: $(BENCH_READY) ## The same with fewer contestants and less data, only printed (about 4 minutes)
	.venv/bin/python -m bench --quick $(ARGS)

clean: ## Remove everything that bootstrap and the tests made
	rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
