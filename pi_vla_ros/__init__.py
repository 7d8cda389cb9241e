# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Run π0 and π0.5 vision-language-action policies on a ROS 2 robot, on one GPU."""

# The generated messages (pi_vla_ros.msg) are installed by colcon into another directory of the
# same package name. With this source tree first on sys.path they would be hidden, so __path__
# spans every pi_vla_ros directory there is.
__path__ = __import__("pkgutil").extend_path(__path__, __name__)

__version__ = "0.1.0"
