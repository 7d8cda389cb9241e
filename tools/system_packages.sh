# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by setup.sh: what only the system can provide, by the names of its Debian packages.

# install_system_packages PYTHON: see that what that interpreter and the build need is there.
install_system_packages() {
  local python=$1 build rendering sudo=()
  find_missing
  ((${#build[@]} + ${#rendering[@]})) || return 0

  ((EUID == 0)) || sudo=(sudo -n)
  if command -v apt-get >/dev/null && "${sudo[@]}" true 2>/dev/null; then
    # What is still missing after this is told below: an unreachable mirror is no reason to stop
    # where only the simulated cameras would miss something.
    step "Installing Debian packages" apt_install "${build[@]}" "${rendering[@]}"
    find_missing
  fi
  local missing=("${build[@]}" "${rendering[@]}")
  ((${#missing[@]})) || return 0
  printf '%s\n' "Missing system packages. On Debian or Ubuntu, run:" \
    "    sudo apt-get install -y ${missing[*]}" >&2
  ((${#build[@]} == 0)) || fail "Set-up cannot go on without ${build[*]}."
  echo "Going on without: only the simulated cameras need them." >&2
}

# Fills build and rendering.
find_missing() {
  local name include package
  name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  build=() rendering=()
  command -v c++ >/dev/null || build+=(g++)
  command -v make >/dev/null || build+=(make)
  "$python" -c 'import ensurepip' 2>/dev/null || build+=("$name-venv")
  [[ -f $include/Python.h ]] || build+=("$name-dev")

  command -v dpkg-query >/dev/null || return 0
  for package in libegl1 libgl1 libgl1-mesa-dri; do # MuJoCo's off-screen OpenGL
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      rendering+=("$package")
  done
}

apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  "${sudo[@]}" apt-get update -q || true
  "${sudo[@]}" apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 \
    "$@" || true
}
