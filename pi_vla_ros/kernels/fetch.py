# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Camera frames out of the host's memory, read by the GPU itself: no word to the copy engine stands before the graph.

    def fetch_reference(sources, block):                  # sources: (a frame's bytes or None, its first byte in the block)
        for frame, at in sources:
            if frame is not None:
                block[at : at + len(frame)] = frame

Such a source lies in pinned memory, whose addresses host and GPU share. It is read in words, so up to 3 bytes behind its
end, which must be pinned, too.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pi_vla_ros.kernels.common import chain

WORD = 4  # bytes: what divides the size of every square image, whose sides are multiples of 14
FIELDS = 3
PROGRAMS, WORDS = 32, 2048  # for an image; that a program asks for at a time


@triton.jit
def fetch_kernel(sources, block, WORDS: tl.constexpr, PDL: tl.constexpr):
    chain(PDL)
    source = sources + tl.program_id(1) * 3
    address, at, count = tl.load(source), tl.load(source + 1), tl.load(source + 2)
    if address != 0:
        words = address.to(tl.pointer_type(tl.int32))
        for first in range(tl.program_id(0) * WORDS, count, tl.num_programs(0) * WORDS):
            i = first + tl.arange(0, WORDS)
            tl.store(block + at + i, tl.load(words + i, mask=i < count), mask=i < count)


def fetch(sources: Tensor, block: Tensor, *, pdl: bool) -> None:
    """sources [N, FIELDS] int64, pinned: the address of a frame's bytes, or 0 where there is nothing to do; the words of
    the block before it; its words. block [words] int32."""
    fetch_kernel[(PROGRAMS, len(sources))](sources, block, WORDS, pdl, num_warps=4, launch_pdl=pdl)
