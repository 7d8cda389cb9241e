# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A recording's path -> its source."""

from __future__ import annotations

from pathlib import Path

from pi_vla_ros.checkpoint import load_checkpoint
from pi_vla_ros.replay.bags import BagSource
from pi_vla_ros.replay.lerobot import EpisodeSource, is_episode
from pi_vla_ros.replay.question import Question
from pi_vla_ros.replay.source import Source


def open_source(recording: Path, question: Question) -> Source:
    """A bag, or an episode that `find_episodes` named. Raises SourceError; CheckpointError for a dataset's cameras."""
    q = question
    if not is_episode(recording):
        return BagSource(recording, q.robot, q.namespace, q.start, q.duration)
    rename = {**load_checkpoint(q.checkpoint).rename, **q.cameras}
    return EpisodeSource(recording, q.robot, rename, q.start, q.duration)
