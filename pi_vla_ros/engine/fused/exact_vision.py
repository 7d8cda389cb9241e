# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The vision tower in fp32, as the reference runs π0's: PyTorch's operations inside the graph, no TF32 anywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from pi_vla_ros.kernels.linear import Stats
from pi_vla_ros.model.pi import PiModel


class ExactVision:
    """In the place of a VisionStage; keeps the model's own tower and projector."""

    def __init__(self, model: PiModel):
        self._vision, self._projector = model.vision, model.projector

    def launch(self, images: Tensor, out: Tensor, image_rows: int, out_sums: Stats, share: int) -> None:
        """As VisionStage.launch: `image_rows` rows of `out` every `share` rows, and their sums of squares."""
        if images.dtype == torch.uint8:
            images = images.permute(0, 3, 1, 2).float() / 255.0 * 2.0 - 1.0
        with torch.backends.cudnn.flags(allow_tf32=False), exact_products():
            seen = self._projector(self._vision(images))
        rows = seen.view(-1, image_rows, seen.shape[-1]).to(out.dtype)
        robots = len(rows)
        out[: robots * share].view(robots, share, -1)[:, :image_rows] = rows
        sums = out_sums.buffer[:, : robots * share].view(out_sums.parts, robots, share)[..., :image_rows]
        sums.zero_()
        sums[0] = rows.float().square().sum(-1)


class exact_products:
    """fp32 matrix products are fp32 in here, whatever the program has chosen."""

    def __enter__(self):
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_):
        torch.set_float32_matmul_precision(self._before)
