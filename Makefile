# Two commands do the main things: `make demo` shows the whole way of a signature, `make test` runs the tests.
# The distribution's, where it can make environments: our packages run on it, so tests and bench shall, too.
PYTHON ?= $(shell /usr/bin/python3.11 -c 'import ensurepip, venv' 2>/dev/null && echo /usr/bin/python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
CONTAINER ?= podman

.PHONY: setup demo test test-conformance test-hosts deb rpm wheel relay.pyz container check bench fuzz format clean

# Compiled here, since programs that start often, such as the relay, may run where they cannot write bytecode.
setup: $(VENV)/installed
	@./scripts/system-packages.sh
	@$(BIN)/python -m compileall -q agentproxy relay

$(VENV)/installed: requirements/dev.txt pyproject.toml
	@PYTHON="$(PYTHON)" ./scripts/system-packages.sh python
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/python -m demo

test: setup
	$(BIN)/pytest -n 2 --dist=worksteal $(PYTEST_ARGS)

# The tools of two Debian releases, against docs/CONFORMANCE.md; as root, since one of them is a tree to be entered.
test-conformance: setup
	@./scripts/system-packages.sh conformance
	@./scripts/debian-tree.sh trixie .cache/trixie
	$(BIN)/pytest -m conformance tests/conformance $(PYTEST_ARGS)

# A Debian that boots, with the packages of this tree in it; as root.
test-hosts: setup
	@./scripts/system-packages.sh hosts
	$(BIN)/pytest -m hosts tests/hosts $(PYTEST_ARGS)

# What people install, into dist/. EL_PYTHON=3.11 makes RPMs for that Python instead of 3.12.
relay.pyz deb rpm wheel: setup
	$(BIN)/python -m deployment.packages $@ $(if $(and $(filter rpm,$@),$(EL_PYTHON)),--python $(EL_PYTHON))

# Images from the Debian packages, by podman or docker: CONTAINER=docker make container
container: deb
	version=$$($(BIN)/python -c 'import agentproxy; print(agentproxy.__version__)') && \
	for target in signer oracle relay; do \
	  $(CONTAINER) build --target $$target --tag blind-oracle-$$target --build-arg VERSION=$$version \
	    --file deployment/container/Containerfile dist || exit 1; \
	done

# The same line that STYLE asks for before every push.
check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	git ls-files '*.py' | xargs -n 40 -P 2 $(BIN)/flake8-async --enable=ASYNC
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m bench

fuzz: setup
	$(BIN)/python -m tests.fuzz

format:
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf $(VENV) .cache build dist
