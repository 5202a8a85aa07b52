# The two-command set-up. Everything lives in .venv; nothing outside this folder is touched.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Two threads that spin while waiting for each other starve as soon as anything else computes.
export OMP_WAIT_POLICY := passive
export TOKENIZERS_PARALLELISM := false

.PHONY: demo install test test-fast test-vllm lint clean

demo: install
	$(BIN)/r1 run configs/tiny.yaml

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 install")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,deepspeed]'
	touch $(STAMP)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two files at a time, since each process computes with one thread; what has tight deadlines or measures time runs by itself.
test: install lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not pair and not alone and not gpu and not vllm"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "pair and not gpu and not vllm" --durations=10
	$(BIN)/python -m pytest -m "alone and not gpu and not vllm" --durations=10

# Without the trainings; two files at a time, since each test computes with one thread.
test-fast: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu and not vllm"

test-vllm: .venv-vllm/.installed
	VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m pytest -m vllm --durations=5

.venv-vllm/.installed: launch/install_vllm_cpu.sh pyproject.toml constraints.txt
	PYTHON=$(PYTHON) launch/install_vllm_cpu.sh .venv-vllm
	touch $@

clean:
	rm -rf .venv .venv-vllm runs
