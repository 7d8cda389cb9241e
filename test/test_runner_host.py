# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the fused runner's host does around its graphs: in which order, from whose memory. Stages, graphs and streams
are stand-ins: the graphs add up what was uploaded."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from pi_vla_ros.engine import Engine, EngineArgs, EngineConfig, PI05Args, PI05Request, RequestError, RuntimeConfig
from pi_vla_ros.engine.fused import arena, captured, runner
from pi_vla_ros.engine.noise import NoiseSource
from pi_vla_ros.kernels import cuda
from pi_vla_ros.model.geometry import tiny

SIZE, CHUNK = 56, 7
GEOMETRY = tiny("pi05", chunk=CHUNK, prompt_len=40)


class Gpu:
    """Stands for torch.cuda: what is launched while a graph is captured runs when the graph does."""

    def __init__(self):
        self.log, self.capturing, self.aside = [], None, False

    def launch(self, name, work=lambda: None):
        name += " aside" * self.aside

        def run():
            self.log.append(name)
            work()

        self.capturing.append(run) if self.capturing is not None else run()

    @contextlib.contextmanager
    def graph(self, graph, stream, pool):
        self.capturing = graph.work = []
        yield
        self.capturing = None

    def Event(self, **_):
        event = SimpleNamespace(record=lambda *_: None, elapsed_time=lambda other: 1.0)
        event.synchronize = lambda: self.log.append("wait")
        return event

    def Stream(self, device, priority=0):
        stream = SimpleNamespace(wait_event=lambda e: None, synchronize=lambda: self.log.append("stream"))
        stream.priority, stream.wait_stream = (
            priority,
            lambda other: self.launch(f"{priority} waits for {other.priority}"),
        )
        return stream

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.aside = self.aside, stream is not None and stream.priority < 0
        yield
        self.aside = before

    class CUDAGraph:
        def replay(self):
            for work in self.work:
                work()


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.Event)
    monkeypatch.setattr(torch.cuda, "Stream", gpu.Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", gpu.CUDAGraph)
    monkeypatch.setattr(torch.cuda, "graph", gpu.graph)
    monkeypatch.setattr(torch.cuda, "stream", gpu.stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: gpu.capturing is not None)
    for name in ("empty", "zeros"):
        there = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, there=there, pin_memory=0, device=0, **k: there(*a, **k))
    return gpu


@pytest.fixture
def made(gpu, monkeypatch):
    """An engine whose fused runner has stand-ins for stages; actions: sum of pixels + sum of words + noise.

    A token's row of the embedding sums up to its number."""

    class Vision:
        def __init__(self, *_): ...

        def launch(self, images, x, seen, sums, share):
            gpu.launch("vision", lambda: x.copy_(images.double().sum()))

    class Prefix:
        rope, sums, keys, values = None, None, None, None

        def __init__(self, *_):
            self.x, self.text = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
            Expert.prefix = self

        def launch(self, words, seen, lengths, chunked, ready):
            gpu.launch(
                "prefix" if ready is None else f"prefix counts in {ready}",
                lambda: self.text.copy_(words.double().sum() + 1000 * lengths.sum()),
            )

    class Expert:
        def __init__(self, *_): ...

        first = 0

        def chunked(self, batch):
            return False

        def layers_ahead(self, batch, rows):
            return self.first if batch == 1 and rows > 16 else 0

        def begin(self, first):
            gpu.launch(f"begin {first}")
            return "counter"

        def ahead(self, first, *_):
            gpu.launch(f"{first} layers")

        def launch(self, x_t, batch, longest, lengths, *rest):
            gpu.launch(
                f"expert from {rest[-1]}" if rest[-1] else "expert", lambda: x_t.add_(self.prefix.x + self.prefix.text)
            )
            gpu.launch("expert ends", lambda: self.prefix.x.zero_())

    stand_ins = {"vision_stage": Vision, "PrefixStage": Prefix, "ExpertStage": Expert}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(runner, name, stand_in)
    fetch = lambda sources, block, pdl: gpu.launch("fetch", lambda: read(sources, block))  # noqa: E731
    monkeypatch.setattr(arena.fetch, "fetch", fetch)
    monkeypatch.setattr(runner, "draw", lambda *a, pdl: gpu.launch("draw", lambda: None))

    def make(largest, batch=1, ahead=0):
        monkeypatch.setattr(Expert, "first", ahead)
        args = PI05Args(random_geometry=GEOMETRY, max_batch_size=batch, cameras=2)
        e = Engine(EngineArgs("pi05", args, EngineConfig(runtime=RuntimeConfig(largest_frame=largest))))
        weight = SimpleNamespace(weight=SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=torch.float32))
        table = torch.zeros(GEOMETRY.vocab, GEOMETRY.language.width)
        table[:, 1] = torch.arange(GEOMETRY.vocab)
        words = torch.nn.Embedding.from_pretrained(table)
        model = SimpleNamespace(geometry=GEOMETRY, action_in_proj=weight, embed_tokens=words, projector=weight)
        e._runner = runner.FusedRunner(
            model, cameras=2, max_batch=batch, steps=1, largest_frame=largest, tune=0, pdl=False
        )
        e.fused = True
        e._noise = NoiseSource(0, (CHUNK, 32))
        e.prepare(2)
        gpu.log.clear()
        return e

    return make


def read(sources, block):
    """What kernels/fetch.py does."""
    for address, at, count in sources.tolist():
        if address:
            words = np.ctypeslib.as_array((ctypes.c_int32 * count).from_address(address))
            block[at : at + count] = torch.from_numpy(words)


def picture(seed: int, *size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*(size or (SIZE, SIZE)), 3), dtype=np.uint8)


def request(images, length=9, batch=1, **changes):
    fields = {
        "pixel_values": None,
        "frames": images,
        "input_ids": torch.arange(batch * length).view(batch, length),
        "lang_lens": torch.full((batch,), length),
        "noise": torch.randn(batch, CHUNK, 32, generator=torch.Generator().manual_seed(length)),
    }
    return PI05Request(**fields | changes)


def expected(images, r):
    """Frames of the model's size only."""
    seen = [sum(float(i.astype(np.float64).sum()) for i in robot if i is not None) for robot in images]
    rows = int(r.lang_lens.sum()) + 16 * sum(i is not None for robot in images for i in robot)
    return r.noise + float(np.float32(sum(seen) + float(r.input_ids.sum()) + 1000 * rows))


STEP = ["fetch", "vision", "prefix", "draw", "expert", "expert ends", "wait"]
BESIDE = ["fetch", "vision", "begin 2", "-1 waits for 0", "prefix counts in counter", "draw aside", "2 layers aside",
          "0 waits for -1", "expert from 2", "expert ends", "wait"]  # fmt: skip


def test_a_step_is_two_graphs_and_one_wait(gpu, made):
    e = made((SIZE, SIZE))
    for seed, length in ((0, 9), (1, 30), (2, 9)):
        images = [[picture(seed), picture(seed + 10)]]
        r = request(images, length)
        torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
    assert gpu.log == 3 * STEP
    images = [[None, picture(7)]]  # fewer cameras: captured when they first come
    r = request(images)
    torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)


def test_the_first_layers_run_beside_the_prefix(gpu, made):
    """With what needs none of it; one robot's, and where the sizes allow it."""
    e = made((SIZE, SIZE), batch=2, ahead=2)
    for images, length, want in (
        ([[picture(0), picture(1)]], 9, BESIDE),
        ([[picture(0), picture(1)]] * 2, 9, STEP),
        ([[None, None]], 9, STEP[2:]),
        ([[picture(2), picture(3)]], 30, BESIDE),
    ):
        r = request(images, length, batch=len(images))
        e.step(r)  # captures
        gpu.log.clear()
        torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
        assert gpu.log == want


def test_the_driver_launches_what_tells_its_handle(gpu, monkeypatch):
    """And says what went wrong; a graph of an older PyTorch is replayed by it, on the stream."""
    asked, result = [], 0
    stream = SimpleNamespace(cuda_stream=0x51, priority=0)
    ours = SimpleNamespace(cuGraphLaunch=lambda graph, on: asked.append((graph.value, on.value)) or result)
    ours.cuGetErrorName = lambda result, name: setattr(name._obj, "value", b"CUDA_ERROR_LAUNCH_FAILED")
    for module in (captured, cuda):
        monkeypatch.setattr(module, "driver", lambda: ours)
    launch = captured.Captured(SimpleNamespace(raw_cuda_graph_exec=lambda: 0xE8EC), stream)
    launch()
    assert asked == [(0xE8EC, 0x51)]
    result = 719
    with pytest.raises(RuntimeError, match="CUDA_ERROR_LAUNCH_FAILED"):
        launch()
    captured.Captured(SimpleNamespace(replay=lambda: gpu.launch("replay")), stream)()
    assert gpu.log == ["replay"]


def test_answers_stay_what_they_are(gpu, made):
    e = made((SIZE, SIZE))
    first = e.step(request([[picture(0), picture(1)]]))
    kept = first.clone()
    e.step(request([[picture(2), picture(3)]], 20))
    assert torch.equal(first, kept)


def test_vision_starts_before_the_prompt_is_there(gpu, made):
    e = made((SIZE, SIZE))
    images = [[picture(0), picture(1)]]
    e.look(images)
    assert gpu.log == STEP[:2]
    r = request(images)
    torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
    assert gpu.log == STEP


def test_a_size_that_comes_first_in_a_step(gpu, made):
    """Capturing runs what is captured, over what the vision tower has left there."""
    e = made((SIZE, SIZE))
    images = [[None, picture(7)]]
    e.look(images)
    for length in (9, 39):
        r = request(images, length)
        torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)


def test_a_look_that_nothing_came_of(gpu, made):
    """Other frames than those looked at, the same ones with other pixels after an error: always those of the step."""
    e = made((SIZE, SIZE))
    e.look([[picture(0), picture(1)]])
    images = [[picture(2), picture(3)]]
    r = request(images)
    torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
    assert gpu.log == [*STEP[:2], "stream", *STEP]  # waits until the upload that it overwrites has ended
    e.look(images)
    with pytest.raises(RequestError, match="lang_lens"):
        e.step(request(images, lang_lens=torch.tensor([0])))
    images[0][0][:] = 7
    torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
    with pytest.raises(RequestError, match=r"frames\[0\]\[1\]: must be a NumPy array"):
        e.look([[picture(0), 3]])


def test_a_look_that_nothing_came_of_before_several_robots(gpu, made):
    """What it still reads (frames' addresses, the host's block) is written when it has ended."""
    e = made((SIZE, SIZE), batch=2)
    e.look([[picture(0), picture(1)]])
    images = [[picture(2), picture(3)], [picture(4), picture(5)]]
    r = request(images, batch=2)
    torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
    assert gpu.log == [*STEP[:2], "stream", *STEP]
    e.step(r)
    assert gpu.log[-len(STEP) - 1 :] == ["wait", *STEP]  # nothing to wait for any more


def test_words_are_taken_again_when_a_token_changes(gpu, made):
    """Not when none does: their rows are on the GPU already. Nor has the engine's model a table any more."""
    e, images = made((SIZE, SIZE), batch=2), [[picture(0), picture(1)]]
    for length in (9, 9, 30, 9):  # another length, and back
        r = request(images, length)
        torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
    taken = e._runner._arena._table
    e._runner._arena._table = np.zeros_like(taken)
    torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
    e._runner._arena._table = taken
    r.input_ids[0, 3] = 77
    torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
    two = 2 * images
    r = request(two, 8, batch=2)  # of as many tokens as one robot's bucket
    torch.testing.assert_close(e.step(r), expected(two, r), rtol=1e-6, atol=0)
    r = replace(r, input_ids=r.input_ids.flip(0))
    torch.testing.assert_close(e.step(r), expected(two, r), rtol=1e-6, atol=0)


def test_robots_that_see_with_different_cameras_go_in_turn(gpu, made):
    e = made((SIZE, SIZE), batch=3)
    images = [[picture(0), None], [picture(2), picture(3)], [picture(4), None]]
    r = request(images, batch=3)
    e.prepare(1)
    gpu.log.clear()
    got = e.step(r)
    assert gpu.log.count("vision") == 2 and gpu.log.count("wait") == 2
    alone = request(images[1:2], input_ids=r.input_ids[1:2], noise=r.noise[1:2])
    torch.testing.assert_close(got[1:2], expected(images[1:2], alone), rtol=1e-6, atol=0)


def test_frames_in_rooms_are_not_copied(gpu, made):
    """They are read where they are, other ones in the next step, too; one in ordinary memory: all are copied."""
    e = made((SIZE, SIZE))
    block = e._runner._arena.host.block
    images = [[e.empty_frame(SIZE, SIZE), e.empty_frame(SIZE, SIZE)]]
    for seed in range(3):
        for i, room in enumerate(images[0]):
            room[:] = picture(10 * seed + i)
        r = request(images)
        torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
        assert not block.any()
    images = [[images[0][1], None]]  # the room of the other camera, and fewer of them
    r = request(images)
    torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
    assert not block.any()
    for mixed in ([[images[0][0], picture(50)]], [[picture(51), picture(52)]]):
        r = request(mixed)
        torch.testing.assert_close(e.step(r), expected(mixed, r), rtol=1e-6, atol=0)
        assert np.array_equal(block[: 3 * SIZE**2], mixed[0][0].ravel())


def test_frames_of_other_sizes_in_rooms(gpu, made):
    """What says how to resize them goes up when it changes."""
    e = made((120, 160))
    there, host = e._runner._arena.device, e._runner._arena.host
    e._runner._frames.launch = lambda *a, **k: torch.zeros(1)
    for sizes in ([(120, 160), (90, 101)], [(90, 101), (33, 41)], [(33, 41), (33, 41)], [(SIZE, SIZE), (7, 9)]):
        images = [e.empty_frame(*size) for size in sizes]
        for i, room in enumerate(images):
            room[:] = picture(i, *room.shape[:2])
        e._runner._graphs.clear()
        e.step(request([images]))
        for image, (place, at) in zip(images, e._runner._frames._places, strict=True):
            assert torch.equal(there.block[at : at + image.size], torch.from_numpy(image).flatten())
            assert not np.array_equal(place, image)
        tables = e._runner._frames._places[0][1]
        assert tables > 0 and torch.equal(there.block[:tables], torch.from_numpy(host.block[:tables]))
        assert torch.equal(there.records, torch.from_numpy(host.records)) and (there.records[:, 0] == 1).all()
        del image, room, images


@pytest.mark.parametrize("piece", [64, 4096, 1 << 19])
def test_large_frames_go_up_in_pieces(gpu, made, monkeypatch, piece):
    """Whatever the pieces and whoever copies them, all bytes arrive; and sizes may change from step to step."""
    monkeypatch.setattr(arena, "PIECE", piece)
    e = made((120, 160))
    there, host = e._runner._arena.device, e._runner._arena.host
    for sizes in (
        ((120, 160), (90, 100)),
        ((SIZE, SIZE), (SIZE, SIZE)),
        ((33, 41), (120, 160)),
        ((33, 41), (120, 160)),
    ):
        there.block.zero_()
        images = [picture(i, *size) for i, size in enumerate(sizes)]
        e._runner.vision.launch = lambda *a: None
        e._runner._frames.launch = lambda *a, **k: None
        e._runner._graphs.clear()
        e.step(request([images]))
        for image, (place, at) in zip(images, e._runner._frames._places, strict=True):
            assert np.array_equal(place, image)
            assert torch.equal(there.block[at : at + image.size], torch.from_numpy(image).flatten())
        if sizes[0] != (SIZE, SIZE):
            assert torch.equal(there.records, torch.from_numpy(host.records)) and (there.records[:, 0] == 1).all()


@pytest.mark.parametrize("late", [True, False])
def test_helpers_that_come_late_and_slow_ones(gpu, made, monkeypatch, late):
    """Who has not begun is not waited for, who has begun is."""
    monkeypatch.setattr(arena, "PIECE", 64)
    e, fill, images = made((SIZE, SIZE)), arena.Piece.fill, [[picture(0), picture(1)]]
    caller, busy, began, copied = threading.get_ident(), threading.Event(), threading.Event(), set()

    def noted(piece, images):
        copied.add(threading.get_ident())
        if threading.get_ident() != caller:
            began.set()
            time.sleep(0.05)
        elif not late:
            began.wait()
        fill(piece, images)

    monkeypatch.setattr(arena.Piece, "fill", noted)
    try:
        if late:
            for _ in range(arena.HELPERS):
                e._runner._arena._helpers.submit(busy.wait)
        r = request(images)
        torch.testing.assert_close(e.step(r), expected(images, r), rtol=1e-6, atol=0)
        assert (copied == {caller}) == late
    finally:
        busy.set()
