# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How long a step waits for three cameras' compressed frames, 30 times a second: decoded one after the other, side by
side, and early, when they have arrived half a period before.

    python test/time_decode.py [out.json]

Pictures of smoothed noise as JPEG of quality 90 and as PNG; ms, median and 99th percentile of 90, between which this
thread sleeps.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from pi_vla_ros.processing import frames
from pi_vla_ros.processing.early_frames import EarlyFrames

SIZES = (480, 640), (720, 1280)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def timed(frames_of, messages, arrived=lambda slot, message: None) -> list[float]:
    took = []
    for _ in range(100):
        time.sleep(1 / 60)
        mine = {slot: copy.copy(message) for slot, message in messages.items()}
        for slot, message in mine.items():
            arrived(slot, message)
        time.sleep(1 / 60)
        begin = time.perf_counter()
        frames_of(mine)
        took.append(1e3 * (time.perf_counter() - begin))
    return [round(float(q), 3) for q in np.percentile(took[10:], (50, 99))]


def main() -> None:
    rows, cores = [], frames.CORES
    for form, options in ((".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90]), (".png", [])):
        for size in SIZES:
            data = [cv2.imencode(form, picture(*size, seed), options)[1].tobytes() for seed in range(3)]
            messages = {i: SimpleNamespace(format=form[1:], data=d) for i, d in enumerate(data)}
            row = {"form": form[1:], "size": size, "kilobytes": len(data[0]) // 1000, "cores": cores}
            for name, assumed in (("alone", 1), ("together", frames.MANY)):
                frames.CORES = assumed
                row[name] = timed(frames.decode_all, messages)
            early = EarlyFrames(frames.ordinary)
            row["early"] = timed(early.of, messages, early.arrived)
            rows.append(row)
            print(row, flush=True)
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
