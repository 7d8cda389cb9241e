# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Images of the scene, drawn from a copy of the world: beside the physics, in another thread."""

from __future__ import annotations

import mujoco
import numpy as np

from pi_vla_ros.sim.gl import choose_backend, open_context
from pi_vla_ros.sim.scene import LARGEST_IMAGE, Scene


class View:
    """Draws one scene at one image size.

    An OpenGL context belongs to a thread: make, use and close a view in the same.
    """

    def __init__(self, scene: Scene, width: int, height: int):
        if not (0 < width <= LARGEST_IMAGE[0] and 0 < height <= LARGEST_IMAGE[1]):
            raise ValueError(f"image size: is {(width, height)}; allowed: up to {LARGEST_IMAGE} pixels")
        self._model = scene.model
        self._data = mujoco.MjData(scene.model)
        self._context = open_context(choose_backend(), width, height)
        self._renderer = mujoco.MjrContext(scene.model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_resizeOffscreen(width, height, self._renderer)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._renderer)
        self._shapes = mujoco.MjvScene(scene.model, maxgeom=scene.model.ngeom + 16)
        self._shapes.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._shapes.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._options = mujoco.MjvOption()
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)

    def draw(self, qpos: np.ndarray, slot: str) -> np.ndarray:
        """(height, width, 3) uint8 RGB: what camera `slot` sees of the world at `qpos`, (nq,)."""
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
        camera.fixedcamid = self._model.camera(slot).id
        self._context.make_current()
        mujoco.mjv_updateScene(
            self._model,
            self._data,
            self._options,
            None,
            camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._shapes,
        )
        mujoco.mjr_render(self._rectangle, self._shapes, self._renderer)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._renderer)
        return self._pixels[::-1].copy()  # OpenGL counts rows from the bottom

    def close(self) -> None:
        if self._context is not None:
            self._context.make_current()
            self._renderer.free()
            self._context.free()
            self._context = None
