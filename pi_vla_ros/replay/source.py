# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a replay reads: recorded messages in the order they were received, from whatever holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Commands = Literal["joint_trajectory", "commands", "joint_states"]
NANO = 1_000_000_000


class SourceError(ValueError):
    """A recording cannot be used; the message names the recording, the topic and what helps."""


@dataclass(frozen=True)
class Event:
    """One recorded message.

    received: ns, clock of the recording (ROS time): when the recorder, and so the node, got it.
    kind:     what the node would do with it; 'command' is what was commanded then, which the node never sees.
    slot:     the camera of an image, else empty.
    message:  a ROS message, or anything with its fields.
    """

    received: int
    kind: Literal["image", "state", "prompt", "command"]
    slot: str
    message: Any


class Source(Protocol):
    """One episode. name: for people; start, end: ns; commands: what its 'command' events are."""

    name: str
    start: int
    end: int
    commands: Commands

    def events(self) -> Iterator[Event]:
        """Every message once, `received` never decreasing. Raises SourceError when it cannot be read on."""
