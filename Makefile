# Everything runs in .venv, which is made from pyproject.toml and the tested pins of constraints.txt when it is missing
# or older than they are. Only python3 (3.11 or newer) and the network of its package index are needed.
#
#   make demo [DATA=FILE] [LIMIT=n] [JSON=FILE]   the service on this machine, with learners that stream
#   make test                                     all tests
#   make check                                    what CI runs: lint, types, import directions, contract, chart, tests
#   make chart                                    the Helm chart: its schema, lint, its tests and the image's
#   make example-NAME [DATA=FILE] [QUICK=1]       a worked use: see examples/
#   make bench [NAME=latency] [QUICK=1] [JSON=FILE]
#   make peers                                    what `make bench NAME=peers` compares with, under .peers/
#   make bench-micro                              pure parts of the hot path by themselves
#   make sim [SEEDS=n]                            the durability protocol under n seeds of simulated faults
#   make fuzz [FRAMES=n] [SEED=n]                 so many hostile frames against a router and a worker
#   make protos                                   stubs anew, after a change of protos/

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := evercurrent router worker persistence bench tests scripts helm examples
NAME ?= latency
SEEDS ?= 1000
FRAMES ?= 20000
SEED ?= 1

PEERS := redis ray-serve envoy

.PHONY: demo test check lint types imports contract chart schema bench bench-micro peers sim fuzz protos install

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

peers: $(PEERS:%=peer-%)

# An environment of its own with the packages of .venv behind it: peers make the step with the same torch as we do.
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

peer-%: $(INSTALLED) bench/peers/requirements-%.txt
	$(BIN)/python -m venv .peers/$*
	echo "import site; site.addsitedir('$$($(BIN)/python $(PURELIB))')" \
		> "$$(.peers/$*/bin/python $(PURELIB))/evercurrent.pth"
	.peers/$*/bin/python -m pip install --disable-pip-version-check -qq -r bench/peers/requirements-$*.txt
	@$(BIN)/python -m bench.peers.installed $*

example-%: $(INSTALLED)
	$(BIN)/python -m examples.$(subst -,_,$*) $(if $(DATA),--data '$(DATA)') $(if $(QUICK),--quick)

bench-micro: $(INSTALLED)
	$(BIN)/python -m pytest bench/micro --benchmark-columns=min,median,iqr,ops,rounds --benchmark-sort=name $(ARGUMENTS)

sim: $(INSTALLED)
	$(BIN)/python -m tests.sim --seeds '$(SEEDS)'

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz --frames '$(FRAMES)' --seed '$(SEED)'

protos: $(INSTALLED)
	$(BIN)/python scripts/stubs.py
