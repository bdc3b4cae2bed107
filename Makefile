# Two commands: `make demo` and `make test`. Each sets up .venv by itself. Windows: see README, "Without make".
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.skipstone-ready
PEERS := stable-diffusion-sdkit==2.1.5 ca-tome==0.1.3 deepcache hicache-pp==1.3.0 cache-dit==1.5.3
# What is imported is compiled then; compiling all of it first takes longer than most test runs save.
INSTALL := -m pip install --quiet --no-compile
# Threads that wait should sleep: on a busy machine spinning ones make everything several times slower.
export OMP_WAIT_POLICY ?= passive

.PHONY: setup demo test lint bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python $(INSTALL) --constraint constraints.txt torch
	$(BIN)/python $(INSTALL) --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python $(INSTALL) --no-deps $(PEERS)
	@touch $(STAMP)

demo: setup
	$(BIN)/skipstone demo

# One worker per core, four at most; a file's tests stay together, and files keep their order: the last ones are short.
# Bytecode is kept also where the environment forbids it: tests start many processes that import the same.
# ARGS come last: `make test ARGS="-n 0 tests/cli"`.
test: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy core pipelines lab cli tools nodes a1111_extension

bench: setup
	$(BIN)/skipstone bench tokens

clean:
	rm -rf $(VENV) out build *.egg-info
