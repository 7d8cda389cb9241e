# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The demo robot: an arm, a table and cameras in MuJoCo, behind the topics of a real robot."""
