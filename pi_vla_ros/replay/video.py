# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Frames of a video file, one after the other: through PyAV where it is installed (AV1 too), else OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pi_vla_ros.replay.source import SourceError


def frames(path: Path, begin: float, count: int, fps: float) -> Iterator[np.ndarray]:
    """`count` frames (height, width, 3) uint8 RGB from `begin` s on. Raises SourceError when there are fewer."""
    try:
        import av
    except ImportError:
        read = _through_opencv(path, begin, fps)
    else:
        read = _through_av(av, path, begin, fps)
    got = 0
    for frame in read:
        yield frame
        got += 1
        if got == count:
            return
    hint = "" if got else "; for AV1, which LeRobot writes, install PyAV (pip install av)"
    raise SourceError(f"{path}: has {got} readable frames from {begin:.2f} s on, {count} are needed{hint}")


def _through_av(av, path: Path, begin: float, fps: float) -> Iterator[np.ndarray]:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            container.seek(int(begin / stream.time_base), stream=stream)  # the key frame at or before
            for frame in container.decode(stream):
                if frame.time >= begin - 0.5 / fps:
                    yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise SourceError(f"{path}: cannot be read as a video: {error}") from error


def _through_opencv(path: Path, begin: float, fps: float) -> Iterator[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    try:
        for _ in range(round(begin * fps)):
            video.grab()
        while True:
            good, frame = video.read()
            if not good:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        video.release()
