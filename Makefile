# `make demo` and `make test` set everything up by themselves; PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint audit setup clean

demo: $(VENV)/.installed
	$(BIN)/modernbert train task=classification \
		data.train=examples/support.csv data.test=examples/support_test.csv experiment=support

# A process a core, each with one thread: faster than one process with all of them. A limit of time that passed on a
# busy machine is tried again; a wrong answer is not.
test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
		--reruns 2 --only-rerun '[Tt]ime.?[Oo]ut' --cov --cov-report=term:skip-covered

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Asks PyPI's API for known vulnerabilities; a mirror of PyPI has none.
audit: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt

setup: $(VENV)/.installed-dev

# constraints.txt holds the versions that CI runs; the torch it names is a CPU build where pip offers one.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# Triton's interpreter tests the GPU kernels on a CPU; a CUDA build of torch brings a Triton of its own.
$(VENV)/.installed-dev: pyproject.toml constraints.txt $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/pip install --quiet triton==3.6.0
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
