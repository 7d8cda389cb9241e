#!/bin/sh
# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
#
# Everything there is to know about the vision pass on a Hopper GPU, in one command: measure_vision.py, then the tests.
# Results: $OUT/vision.jsonl (or ./vision.jsonl). About 5 minutes.
cd "$(dirname "$0")" || exit
out=${OUT:-.}
PYTHONUNBUFFERED=1 python3 measure_vision.py "$@" 2>&1 | tee "$out/vision.jsonl"
timeout 120 python3 -m pytest -q -x -p no:cacheprovider test/test_vision_in_cuda.py -m "slow or not slow" 2>&1 | tail -5 | tee "$out/vision_tests.txt"
