# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a machine found out, kept for the next start in folders below `$XDG_CACHE_HOME/pi_vla_ros` (`~/.cache/...`)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def folder(of: str) -> Path:
    """The folder for one kind of thing; it need not be there. RuntimeError where the user has no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pi_vla_ros" / of


def write(path: Path, content: bytes) -> None:
    """Atomically: a reader sees the old file or the new one, also after a power cut. OSError leaves nothing behind."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".new", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise
