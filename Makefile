# The two commands are `make demo` and `make test`; both do their own set-up.

VENV    ?= .venv
PYTHON  := $(VENV)/bin/python
DATASET ?= digits
export UV_COMPILE_BYTECODE = 1

.PHONY: demo test artifacts lint benchmarks clean

demo: $(VENV)/.installed
	$(PYTHON) examples/demo.py --dataset $(DATASET)

test: $(VENV)/.installed
	$(PYTHON) -m pytest

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

artifacts: $(VENV)/.installed
	$(PYTHON) -m deepledger.contracts.build

benchmarks: $(VENV)/.installed
	$(PYTHON) benchmarks/data_path.py

# uv installs torch in seconds. Its CPU index spares users gigabytes; where that cannot be reached, PyPI's build serves.
$(VENV)/.installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --torch-backend=auto -c constraints.txt -e '.[dev]' \
	  || $(VENV)/bin/uv pip install --quiet --python $(PYTHON) -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .demo
