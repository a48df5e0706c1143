# The two commands are `make demo` and `make test`; both do their own set-up.

VENV    ?= .venv
PYTHON  := $(VENV)/bin/python
DATASET ?= digits
MODE    ?= open
export UV_COMPILE_BYTECODE = 1
INSTALL := $(VENV)/bin/uv pip install --quiet --python $(PYTHON) -c constraints.txt -e '.[dev]'

# Nothing is left out of `make test ALL=1`, nor where services are required (.ci/run).
QUICK   := $(if $(filter 1,$(ALL) $(DEEPLEDGER_REQUIRE_SERVICES)),,--quick)

SITE    ?= build/site

.PHONY: demo dashboard docs node test test-all artifacts mutations lint benchmarks clean

demo: $(VENV)/.installed $(if $(VIEW),dashboard)
	$(PYTHON) examples/demo.py --dataset $(DATASET) --mode $(MODE) $(if $(VIEW),--view)

test: $(VENV)/.installed
	$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist worksteal $(QUICK)

test-all:
	$(MAKE) test ALL=1

# The page that `deepledger dashboard` serves; with Node.js 20.19 or newer. A wheel that is made afterwards carries it.
dashboard: node dashboard/node_modules/.installed-lock
	npm --prefix dashboard run --silent build

node:
	@command -v npm >/dev/null && node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' \
	|| { echo "the dashboard's page is built by Node.js 20.19 or newer and its npm: install both (https://nodejs.org), then run this again" >&2; exit 1; }

dashboard/node_modules/.installed-lock: dashboard/package-lock.json | node
	npm --prefix dashboard ci --ignore-scripts --no-audit --no-fund --loglevel=error
	cp $< $@

# The documentation as a site, in build/site; a link that leads nowhere is an error.
docs: $(VENV)/.installed
	$(VENV)/bin/sphinx-build -q -W --keep-going -E -c docs/site -d build/doctrees . $(SITE)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

artifacts: $(VENV)/.installed
	$(PYTHON) -m deepledger.contracts.build

# Faults put into the contract one by one, to see whether its tests notice: an hour.
mutations: $(VENV)/.installed
	$(PYTHON) tests/contracts/mutations.py

benchmarks: $(VENV)/.installed
	$(PYTHON) benchmarks/data_path.py
	$(PYTHON) benchmarks/round_overhead.py

# uv installs torch in seconds. Its CPU index spares users gigabytes; where that cannot be reached, PyPI's build serves.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV): PyTorch and what else is needed, 2 to 7 GB, once; minutes on a slow line …"
	@python3 -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(INSTALL) --torch-backend=auto 2>/dev/null || $(INSTALL)
	@touch $@

clean:
	rm -rf $(VENV) .demo
