# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The simulated robot: position targets in, joint states and images out; its clock is its own."""

from __future__ import annotations

import mujoco
import numpy as np

from pi_vla_ros.robot import RobotConfig
from pi_vla_ros.sim.scene import BLOCK_SIZE, BLOCKS_AT, build_scene
from pi_vla_ros.sim.view import View


class SimArm:
    """All vectors are (joints,) float64 in the order and units of `RobotConfig.joints`.

    The same seed and the same targets give the same motion, bit for bit.
    """

    def __init__(self, robot: RobotConfig, seed: int = 0, step: float = 0.002):
        """step: s of one physics step."""
        self.robot = robot
        self.scene = build_scene(robot, step)
        self.refused = 0  # targets that were not finite numbers
        self._model = self.scene.model
        self._data = mujoco.MjData(self._model)
        self._low, self._high = np.array([joint.position for joint in robot.joints]).T
        self._views: dict[tuple[int, int], View] = {}
        self.reset(seed)

    def reset(self, seed: int = 0) -> None:
        """Arm at home and at rest, blocks where `seed` puts them, clock at 0."""
        mujoco.mj_resetData(self._model, self._data)
        self._steps = 0
        self._data.qpos[self.scene.qpos] = self._inside(self.robot.home)
        for mimic, leader in self._mimics():
            self._data.qpos[mimic] = self._data.qpos[leader]
        self._place_blocks(np.random.default_rng(seed))
        mujoco.mj_forward(self._model, self._data)
        self.target = self.robot.home
        self.set_targets(self.target)

    @property
    def time(self) -> float:
        """s since reset."""
        return self._steps * self._model.opt.timestep

    @property
    def step(self) -> float:
        """s of one physics step."""
        return self._model.opt.timestep

    def set_targets(self, positions: np.ndarray) -> bool:
        """Where the joints shall go, clamped to their ranges.

        False, and nothing changes, where one of them is not a finite number.
        """
        positions = np.asarray(positions, dtype=np.float64)
        if positions.shape != self.target.shape:
            raise ValueError(f"positions: must be {self.target.shape}, is {positions.shape}")
        if not np.isfinite(positions).all():
            self.refused += 1
            return False
        self.target = np.minimum(np.maximum(positions, self._low), self._high)
        self._data.ctrl[self.scene.ctrl] = self._inside(self.target)
        return True

    def step_to(self, time: float) -> None:
        """Let the world go on until its clock is `time` s, to the nearest step."""
        steps = round(time / self.step) - self._steps
        if steps > 0:
            mujoco.mj_step(self._model, self._data, steps)
            self._steps += steps

    def positions(self) -> np.ndarray:
        """Measured, rad or m."""
        return self.scene.gain * self._data.qpos[self.scene.qpos] + self.scene.bias

    def velocities(self) -> np.ndarray:
        """Measured, rad/s or m/s."""
        return self.scene.gain * self._data.qvel[self.scene.qvel]

    def world(self) -> np.ndarray:
        """(Scene.model.nq,) everything that a camera can see, for `View.draw`."""
        return self._data.qpos.copy()

    def render(self, slot: str, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8 RGB of camera `slot`. Always from the same thread."""
        if (width, height) not in self._views:
            self._views[width, height] = View(self.scene, width, height)
        return self._views[width, height].draw(self._data.qpos, slot)

    def close(self) -> None:
        """Give back what rendering holds; from the thread that rendered."""
        for view in self._views.values():
            view.close()
        self._views.clear()

    def _inside(self, positions: np.ndarray) -> np.ndarray:
        """Robot units -> MuJoCo's."""
        return (positions - self.scene.bias) / self.scene.gain

    def _mimics(self) -> list[tuple[int, int]]:
        """qpos index of each second finger, and of the finger that it follows."""
        address, model = self._model.jnt_qposadr, self._model
        pairs = zip(model.eq_obj1id, model.eq_obj2id, strict=True)
        return [(int(address[second]), int(address[first])) for second, first in pairs]

    def _place_blocks(self, rng: np.random.Generator) -> None:
        """On the mat, at any angle, no two touching."""
        low, high = np.array(BLOCKS_AT).T
        spots: list[np.ndarray] = []
        while len(spots) < len(self.scene.blocks):
            spot = rng.uniform(low, high)
            if all(np.linalg.norm(spot - other) > 2 * BLOCK_SIZE for other in spots):
                spots.append(spot)
        for address, spot in zip(self.scene.blocks, spots, strict=True):
            half = rng.uniform(0, np.pi / 4)
            pose = (*spot, BLOCK_SIZE / 2, np.cos(half), 0, 0, np.sin(half))
            self._data.qpos[address : address + 7] = pose
