# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by setup.sh, which sets $log: steps that show that time passes, and failures that can be
# read.

current_step=
ticker=

# step TEXT COMMAND...: run the command in a subshell, with its output in the log.
step() {
  local start=$SECONDS
  current_step=$1
  shift
  printf '\n=== %s\n' "$current_step" >>"$log"
  tick "$start" 9>&- & # not with the lock in hand: its last sleep may outlive the set-up
  ticker=$!
  ("$@") </dev/null >>"$log" 2>&1
  stop_ticker
  show "$((SECONDS - start))" "$current_step"
  printf '\n'
  current_step=
}

# On a terminal one line that counts the seconds; in a pipe or CI a line every 20 s.
tick() {
  local start=$1
  [[ ! -t 1 ]] || show 0 "$current_step ..."
  while sleep 1 && kill -0 $$ 2>/dev/null; do # $$: setup.sh itself, also in this subshell
    if [[ -t 1 ]]; then
      show "$((SECONDS - start))" "$current_step ..."
    elif (((SECONDS - start) % 20 == 0)); then
      show "$((SECONDS - start))" "$current_step ..."
      printf '\n'
    fi
  done
}

show() {
  [[ ! -t 1 ]] || printf '\r\033[K'
  printf '%5d s  %s' "$1" "$2"
}

stop_ticker() {
  [[ -n $ticker ]] || return 0
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  ticker=
}

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}

on_exit() {
  local status=$?
  stop_ticker
  [[ $status != 0 && -n $current_step ]] || return 0
  {
    printf '\nSet-up stopped at: %s\nThe last lines of %s:\n\n' "$current_step" "$PWD/$log"
    tail -n 30 "$log" | sed 's/^/    /'
    printf '\nRun it again to go on.\n'
  } >&2
}
trap on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
