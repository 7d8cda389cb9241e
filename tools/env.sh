# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
#
# Sourced from bash or zsh, after `make setup`:  . tools/env.sh
# Activates the virtual environment, ROS 2 and this package's build. The Python sources are used as
# they are in the tree; only the generated messages and the launchers come from the build.

if [ -n "${BASH_VERSION:-}" ]; then
  _pi_shell=bash _pi_root=$(CDPATH= cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
else
  _pi_shell=zsh _pi_root=$(CDPATH= cd "$(dirname "${(%):-%x}")/.." && pwd)
fi

if [ ! -e "$_pi_root/.ws/complete" ]; then
  echo "tools/env.sh: run 'make setup' first" >&2
  unset _pi_shell _pi_root
  return 1
fi

if grep -q '^sourced' "$_pi_root/.venv/complete"; then
  if [ -z "${ROS_DISTRO:-}" ]; then
    echo "tools/env.sh: set up with an installed ROS 2; source that first, or run 'make setup'" >&2
    unset _pi_shell _pi_root
    return 1
  fi
else
  # ROS 2 from wheels: the environment itself is the ROS prefix. What an installation that happens
  # to be sourced here has set would mix two distributions in one process.
  [ -z "${ROS_DISTRO:-}" ] || unset ROS_DISTRO PYTHONPATH LD_LIBRARY_PATH
  export AMENT_PREFIX_PATH=$_pi_root/.venv CMAKE_PREFIX_PATH=$_pi_root/.venv
  export RMW_IMPLEMENTATION=rmw_fastrtps_cpp # the only one in the wheels
fi

. "$_pi_root/.venv/bin/activate"
. "$_pi_root/.ws/install/local_setup.$_pi_shell"

# .ws/source holds nothing but a link to pi_vla_ros/. The root of the repository would not do: its
# launch/ folder would pass for ROS's launch module where that is not installed.
export PYTHONPATH=$_pi_root/.ws/source:$PYTHONPATH
unset _pi_shell _pi_root
