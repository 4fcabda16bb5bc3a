# Needs only Python 3.11 or 3.12 with venv, make and git. `make up` does the rest.
#
#   make up [DATA=folder] [USECASE=name]    install, start everything, run the main job; Ctrl-C stops
#   make down                               stop everything
#   make test | check | bench | bench-peers | load | fuzz
#   make chaos                              kill everything everywhere, and print what held (over an hour)

SHELL := /bin/sh
.DEFAULT_GOAL := up
.PHONY: up down test check bench bench-peers chaos load fuzz install

VENV := .venv
STAMP := $(VENV)/installed
# Byte code is wanted: without it every process compiles the same libraries again.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
ifneq ($(strip $(DATA)),)
export TOUCHLINE_DATA := $(DATA)
endif
ifneq ($(strip $(USECASE)),)
export TOUCHLINE_USE_CASE := $(USECASE)
endif

up: $(STAMP)
	@exec $(VENV)/bin/touchline up

down: $(STAMP)
	@exec $(VENV)/bin/touchline down

test: $(STAMP)
	@exec $(VENV)/bin/python -m tests

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(STAMP)
	@exec $(VENV)/bin/python -m tests.benchmarks

chaos: $(STAMP)
	@exec $(VENV)/bin/python -m tests.chaos

bench-peers: $(STAMP)
	@PATH="$(abspath $(VENV))/bin:$$PATH" exec $(VENV)/bin/python -m tests.benchmarks.peers

load: $(STAMP)
	@$(VENV)/bin/python -m tests.load
	@exec $(VENV)/bin/python -m tests.load.rollout

fuzz: $(STAMP)
	@exec $(VENV)/bin/python -m tests.fuzz -max_total_time=300

install: $(STAMP)

$(STAMP): requirements.txt pyproject.toml infra/install.sh
	@sh infra/install.sh $(VENV)
	@touch $@
