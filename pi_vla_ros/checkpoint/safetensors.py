# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Safetensors files, also sharded: headers first, tensors one at a time; and writing them."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pi_vla_ros.checkpoint.files import read_json
from pi_vla_ros.checkpoint.types import CheckpointError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}


@dataclass(frozen=True)
class Header:
    """One tensor of a file: dtype as safetensors writes it ('F32'), shape, and the file it is in."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


def read_headers(file: Path) -> dict[str, Header]:
    """Name -> header of every tensor in one file. A file that is cut short or damaged is refused here."""
    try:
        size = file.stat().st_size
        with file.open("rb") as f:
            start = f.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if len(start) < 8 or 8 + length > size:
                raise CheckpointError(f"{file}: truncated: {size} bytes end within its header")
            header = json.loads(f.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        tensors = {name: _header(file, name, entry) for name, entry in header.items() if name != "__metadata__"}
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{file}: not a safetensors file: {type(error).__name__}: {error}") from error
    if 8 + length + end != size:
        word = "truncated" if size < 8 + length + end else "damaged"
        raise CheckpointError(f"{file}: {word}: has {size} bytes, its header asks for {8 + length + end}")
    return tensors


def _header(file: Path, name: str, entry: Mapping) -> Header:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if dtype in _BYTES and end - begin != _BYTES[dtype] * math.prod(shape):
        raise CheckpointError(f"{file}: {name}: {end - begin} bytes do not hold {dtype} {list(shape)}")
    return Header(dtype, shape, file)


def find_headers(folder: Path) -> dict[str, Header]:
    """Headers of a folder's weights: `model.safetensors`, or the shards of `model.safetensors.index.json`."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_headers(single)
    if not index.is_file():
        raise CheckpointError(f"{folder}: has no weights: neither {single.name} nor {index.name}")
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(v, str) for v in where.values()):
        raise CheckpointError(f"{index}: weight_map: must map tensor names to file names")
    headers: dict[str, Header] = {}
    for shard in sorted(set(where.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index}: weight_map: '{shard}' must be a file in the same folder")
        headers |= read_headers(folder / shard)
    lost = sorted(name for name, shard in where.items() if name not in headers or headers[name].file.name != shard)
    if lost:
        raise CheckpointError(f"{index}: weight_map: not in the file that it names: {', '.join(lost)}")
    return headers


def read_tensors(headers: Mapping[str, Header]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of each header, file by file; at most one tensor of ours in memory."""
    for file in sorted({h.file for h in headers.values()}):
        try:
            with safe_open(file, framework="pt") as f:
                for name, header in headers.items():
                    if header.file == file:
                        yield name, f.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from error


def write_tensors(file: Path, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], tensors) -> None:
    """Write a safetensors file from an iterator of (name, tensor), one tensor in memory at a time.

    layout: name -> (dtype, shape) of everything that `tensors` will give, in any order.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in layout.items():
        end = offset + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # data begins aligned
    with file.open("wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + offset)
        missing = set(layout)
        for name, tensor in tensors:
            dtype, shape = layout[name]
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name}: has shape {list(tensor.shape)}, its layout says {list(shape)}")
            f.seek(8 + len(text) + header[name]["data_offsets"][0])
            flat = tensor.to("cpu", dtype).contiguous().view(-1)
            f.write(flat.view(torch.uint8).numpy().data)
            missing.remove(name)
    if missing:
        raise ValueError(f"{file}: not given: {', '.join(sorted(missing))}")
