# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Rows as CSV, and as parquet where pyarrow is installed. A file is written whole or not at all; OSError says why."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pi_vla_ros.replay.store import write_bytes, write_text


def write_csv(path: Path, rows: list[dict]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_parquet(path: Path, rows: list[dict]) -> bool:
    """False without pyarrow: nothing is written then."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        return False
    data = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), data)
    write_bytes(path, data.getvalue())
    return True
