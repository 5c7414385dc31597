# make demo   a small campaign and its report, from nothing
# make test   all checks: formatting, types, tests
# make help   the rest

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# The locks say everything: uv shall not add the constraints with which they were made.
INSTALL := $(RUN)/uv pip install --quiet --no-config --python $(RUN)/python
LOCK := $(RUN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-header
# Tests at the same time, of those that may run next to each other. With three more than processors, a tenth of the time
# of the processors was idle.
WORKERS ?= $(shell expr $$(nproc) + 4)
# Lists the files with tests that have one of these markers: collecting all others takes long.
marked = $$(grep -lrE 'mark\.($(1))' tests --include='test_*.py')
CAMPAIGN ?= demo-$(shell date -u +%Y%m%dT%H%M%S)

# A test run starts a thousand processes: none of them shall compile picolab or the tests again.
unexport PYTHONDONTWRITEBYTECODE

# Installs a Debian package when that is possible without asking, else says how.
debian = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
  else echo "$(2) is missing. Install it with: sudo apt-get install $(1)"; exit 1; fi

# Chromium opens the report and JupyterLab, its driver wants libatomic, openssl checks the uploaded bytes, and the agent
# in guests starts the server in screen. The faults need a clock that jumps (faketime) and a network that can
# be spoilt; a btrfs file system is made and mounted.
TEST_PACKAGES := btrfs-progs chromium faketime fonts-dejavu-core iproute2 iptables libatomic1 openssl screen

.DEFAULT_GOAL := help
.PHONY: help install demo test format lint lab benchmark chaos lock clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "picolab needs Python 3.11 or newer; $(PYTHON) is older. Name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call debian,python3-venv,Python's venv module); }
	@echo "Making the environment in $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

# uv installs in seconds; pip takes a minute of a processor.
$(VENV)/bin/uv: requirements-uv.txt | $(VENV)/bin/python
	@$(RUN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@touch $@

$(VENV)/installed: requirements.txt pyproject.toml $(VENV)/bin/uv
	@$(INSTALL) --require-hashes -r requirements.txt
	@$(INSTALL) --no-deps -e .
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@( PATH=$$PATH:/usr/sbin:/sbin; for program in chromium faketime iptables mkfs.btrfs openssl screen tc; do \
	  command -v $$program || exit 1; done; ldconfig -p | grep libatomic.so.1 ) >/dev/null || \
	  { $(call debian,$(TEST_PACKAGES),Something that the tests use); }
	@$(INSTALL) --require-hashes -r requirements-dev.txt
	@touch $@

install: $(VENV)/installed ## make the environment in .venv

demo: $(VENV)/installed ## run parameters/quick.yaml and render its report
	@$(RUN)/picolab matrix parameters/quick.yaml --campaign $(CAMPAIGN)
	@$(RUN)/picolab report $(CAMPAIGN)

# A test checks the types: tests/servers/test_adding_a_server.py. The tests are compiled once, not by each worker.
test: $(VENV)/installed-dev format ## run every check (with real virtual machines where there is Vagrant)
	@found=$$($(RUN)/python -m pytest --collect-only -qq 2>&1) || { echo "$$found"; exit 1; }; \
	  $(RUN)/python -m pytest -m "not alone" -n $(WORKERS) --dist worksteal; others=$$?; \
	  $(RUN)/python -m pytest -m "alone and not vm" $(call marked,alone|paced); timed=$$?; \
	  $(RUN)/python -m pytest -m vm -n 3 --dist loadscope --no-loadscope-reorder $(call marked,vm) && exit $$((others + timed))

format: $(VENV)/installed-dev
	@$(RUN)/ruff format --check .
	@$(RUN)/ruff check .

lint: format ## check formatting and types
	@$(RUN)/mypy

lab: $(VENV)/installed ## open the notebooks in JupyterLab
	@$(RUN)/jupyter lab notebooks/trial.ipynb

benchmark: $(VENV)/installed-dev ## measure picolab itself (minutes)
	@for script in $(filter-out benchmarks/chaos.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(RUN)/python $$script || exit 1; done

chaos: $(VENV)/installed ## kill every process of a campaign at random moments (half an hour)
	@$(RUN)/python benchmarks/chaos.py

lock: $(VENV)/bin/uv ## renew the hashed locks after a change in pyproject.toml
	$(LOCK) pyproject.toml -o requirements.txt
	$(LOCK) --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	echo uv | $(LOCK) - -o requirements-uv.txt

clean: ## remove the environment (outputs stay)
	rm -rf $(VENV) build *.egg-info
