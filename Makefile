# make demo   installs what the demo needs (TensorFlow only) and runs it, about 6 minutes
# make demo-classifier   runs the recipe for classifiers, about a minute
# make demo-basis   runs the recipe for transfer and basis scaling, a few minutes
# make demo-imaging   runs the other recipes for imaging, a few minutes each
# make pretrained   trains the networks that ship with the package, about an hour
# make test   adds the other backends and the development tools, and runs the tests
# make postgres   installs the PostgreSQL server that the tests of many workers start (Debian, root)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
RECIPE := recipes/mri_unrolled_quickstart.toml
CLASSIFIER := recipes/classifier_latency.toml
BASIS := recipes/classifier_basis_scaling.toml
IMAGING := mri_deq_quickstart mri_e2e_varnet_fastmri mri_self_supervised sr_usrnet_quickstart
BACKENDS := tensorflow jax torch
PYTEST := $(BIN)/python -m pytest

.DELETE_ON_ERROR:
.PHONY: setup demo demo-classifier demo-basis demo-imaging pretrained test doctest lint sweep postgres clean

setup: $(VENV)/.all-installed

demo: $(VENV)/.demo-installed
	$(BIN)/spade-keras run $(RECIPE)

demo-classifier: $(VENV)/.demo-installed
	$(BIN)/spade-keras run $(CLASSIFIER)

demo-basis: $(VENV)/.demo-installed
	$(BIN)/spade-keras run $(BASIS)

demo-imaging: $(VENV)/.demo-installed
	@set -e; for recipe in $(IMAGING); do $(BIN)/spade-keras run recipes/$$recipe.toml; done

pretrained: $(VENV)/.demo-installed
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/pretrain.py

# JAX compiles every new shape: without XLA's optimizations its tests take half as long.
# Two tests at a time, but for those that measure time or kill processes.
test: export JAX_DISABLE_MOST_OPTIMIZATIONS = 1
test: $(VENV)/.all-installed
	@set -e; for backend in $(BACKENDS); do \
		echo "=== tests, KERAS_BACKEND=$$backend"; \
		KERAS_BACKEND=$$backend $(PYTEST) -m "not alone" -n 2 --dist worksteal; \
		KERAS_BACKEND=$$backend $(PYTEST) -m alone; \
	done
	@$(MAKE) --no-print-directory doctest

# The files of the backends that are not in use cannot be imported beside the one that is.
doctest: $(VENV)/.all-installed
	@echo "=== doctests, KERAS_BACKEND=tensorflow"
	@KERAS_BACKEND=tensorflow $(PYTEST) --doctest-modules \
		--ignore-glob='*/backend/*jax.py' --ignore-glob='*/backend/*torch.py' spade_keras

lint: $(VENV)/.all-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sweep: $(VENV)/.all-installed
	KERAS_BACKEND=tensorflow $(BIN)/python tests/pruning/sweep_applications.py

postgres:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
		apt-get update && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql; }

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find spade_keras search recipes tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "spade-keras needs Python 3.11 or newer. Received: `$(PYTHON) --version 2>&1`." \
			"Next: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable ".[tensorflow,recipes,report]"
	@touch $@

$(VENV)/.all-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable ".[tensorflow,jax,torch,recipes,report,postgres,proxy,dashboard,dev]"
	@# It asks for an older absl-py than the one that is pinned, and runs with that as well.
	$(INSTALL) --no-deps tensorflow-model-optimization tf_keras
	@touch $@ $(VENV)/.demo-installed
