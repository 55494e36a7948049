# Everything runs in .venv, which is made from pyproject.toml and the tested pins of constraints.txt when it is missing
# or older than they are. Only python3 (3.11 or newer) and the network of its package index are needed.
#
#   make demo [DATA=FILE] [LIMIT=n] [JSON=FILE]   the service on this machine, with learners that stream
#   make test                                     all tests
#   make check                                    what CI runs: lint, types, import directions, contract, chart, tests
#   make chart                                    the Helm chart: its schema, lint, its tests and the image's
#   make bench [NAME=latency] [QUICK=1] [JSON=FILE]
#   make bench-micro                              pure parts of the hot path by themselves
#   make sim [SEEDS=n]                            the durability protocol under n seeds of simulated faults
#   make fuzz [FRAMES=n] [SEED=n]                 so many hostile frames against a router and a worker
#   make protos                                   stubs anew, after a change of protos/

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := evercurrent router worker persistence bench tests scripts helm
NAME ?= latency
SEEDS ?= 1000
FRAMES ?= 20000
SEED ?= 1

.PHONY: demo test check lint types imports contract chart schema bench bench-micro sim fuzz protos install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv: about a minute."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check -qq -c constraints.txt -e '.[server,dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/evercurrent demo $(if $(DATA),--data '$(DATA)') $(if $(LIMIT),--limit '$(LIMIT)') $(if $(JSON),--json '$(JSON)')

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: lint types imports contract schema test

lint: $(INSTALLED)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

contract: $(INSTALLED)
	$(BIN)/buf lint
	$(BIN)/python scripts/stubs.py --check

chart: schema
	$(BIN)/python -m pytest tests/helm

schema: $(INSTALLED)
	$(BIN)/python scripts/chart_schema.py --check

bench: $(INSTALLED)
	$(BIN)/python -m bench $(NAME) $(if $(QUICK),--quick) $(if $(JSON),--json '$(JSON)')

bench-micro: $(INSTALLED)
	$(BIN)/python -m pytest bench/micro --benchmark-columns=min,median,iqr,ops,rounds --benchmark-sort=name $(ARGUMENTS)

sim: $(INSTALLED)
	$(BIN)/python -m tests.sim --seeds '$(SEEDS)'

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz --frames '$(FRAMES)' --seed '$(SEED)'

protos: $(INSTALLED)
	$(BIN)/python scripts/stubs.py
