# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Off-screen OpenGL on any machine: EGL, or else OSMesa."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys

LIBRARIES = {  # what PyOpenGL opens for each; one name of each line is enough
    "egl": (("libEGL.so.1", "libEGL.so"), ("libOpenGL.so.0", "libGL.so.1", "libGL.so")),
    "osmesa": (("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"),),
}
PACKAGES = {"egl": "libegl1 libgl1", "osmesa": "libosmesa6"}

_PROBE = """
import sys
from pi_vla_ros.sim.gl import open_context
open_context(sys.argv[1], 32, 32).free()
"""


class RenderingUnavailable(RuntimeError):
    """No off-screen OpenGL here; the message names the packages to install."""


@functools.cache
def choose_backend() -> str:
    """'egl' or 'osmesa': what $MUJOCO_GL says, otherwise the first that works here."""
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked in LIBRARIES:
        return asked
    reasons = []
    for backend in LIBRARIES:
        reason = _missing_library(backend) or _failure(backend)
        if reason is None:
            os.environ["MUJOCO_GL"] = backend  # processes started from here need not try again
            return backend
        reasons.append(f"  {backend} ({PACKAGES[backend]}): {reason}")
    raise RenderingUnavailable(
        "The simulated cameras need off-screen OpenGL and neither EGL nor OSMesa works here:\n"
        + "\n".join(reasons)
        + f"\nOn Debian or Ubuntu: apt-get install {PACKAGES['egl']}   (or: {PACKAGES['osmesa']})"
    )


def open_context(backend: str, width: int, height: int):
    """An OpenGL context, current in the calling thread. It has make_current() and free()."""
    # Mesa's software renderer: its threads cost more than they bring for images as small as these.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if backend == "egl":
        from mujoco.egl import GLContext
    else:
        from mujoco.osmesa import GLContext
    context = GLContext(width, height)
    context.make_current()
    return context


def _missing_library(backend: str) -> str | None:
    for names in LIBRARIES[backend]:
        if not any(_loads(name) for name in names):
            return f"{names[0]} is not installed"
    return None


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _failure(backend: str) -> str | None:
    """Why `backend` gives no context.

    Tried in a process of its own: PyOpenGL cannot change its mind within one.
    """
    path = os.pathsep.join(p for p in sys.path if p)
    environment = dict(os.environ, MUJOCO_GL=backend, PYTHONPATH=path)
    environment.pop("PYOPENGL_PLATFORM", None)
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, backend],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "opening a context did not come to an end"
    if probe.returncode == 0:
        return None
    return (probe.stderr.strip().splitlines() or [f"ended with {probe.returncode}"])[-1]
