// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// The stages of flow_ahead.cu: shared memory that one thread fills and two warpgroups use, one after the other, round and round. A
// stage is what a step of a phase needs, 64 of the inner axis or 64 positions, in a few large copies for one barrier.

constexpr int PROGRAMS = 4;
constexpr int POOL = 224 * 1024, MOST = 5;  // bytes of all stages, and how many there are at most
constexpr int QUERIES = 64 * 1024;          // two heads'; the stages of attention lie behind
static_assert(POOL + (2 * MOST + 2) * 8 + sizeof(Params) <= 232448);

// How the pool is cut for a product whose warpgroups have COUNT tiles [N, 64] of weights each: the activations (and
// what a tensor core reads behind fewer groups of rows), then the tiles of both in turn.
template <int N, int COUNT> struct Cut {
  static constexpr int WEIGHTS = 8192, TILE = N * 128, STAGE = WEIGHTS + 2 * COUNT * TILE;
  static constexpr int STAGES = POOL / STAGE < MOST ? POOL / STAGE : MOST;
};
using Qkv = Cut<48, 4>;
using Up = Cut<72, 3>;
using Residual = Cut<72, 2>;  // out, down, π0's entering
constexpr int CHUNK_STAGES = (POOL - QUERIES) / CHUNK;

// The stages in their order, round and round; each has its own count of rounds, for not all phases have as many.
struct Rounds {
  int stage = 0;
  u32 parities = 0;
  __device__ __forceinline__ u32 parity() const { return parities >> stage & 1; }
  __device__ __forceinline__ void next(int stages) {
    parities ^= 1u << stage;
    if (++stage == stages) stage = 0;
  }
};
// What asks for them: one thread.
struct Loader {
  u32 pool, full, empty;
  const u32 *hand_overs;  // counted by all programs
  Rounds at;
  u32 phase = 0;
  __device__ __forceinline__ void hand_over() { wait_for(hand_overs, PROGRAMS * ++phase); fence_global(); }
  __device__ __forceinline__ void wait_free(int stage) { bar_wait(empty + 8 * stage, at.parities >> stage & 1 ^ 1); }
  __device__ __forceinline__ void cut_anew() {
    at.stage = 0;
    for (int i = 0; i < MOST; i++) wait_free(i);
  }
  __device__ __forceinline__ u32 barrier() { return full + 8 * at.stage; }
  // A product: `weights(to, block, barrier)` asks for those of a block, `bytes` in all; activations lie in blocks from `from`.
  // As many weights as there are stages are asked for before the wait for the activations.
  template <class Of, class Weights>
  __device__ __forceinline__ void ask(int blocks, const char *from, int row_bytes, u32 bytes, bool waits, const Weights &weights) {
    cut_anew();
    for (; at.stage < Of::STAGES; at.stage++) {
      bar_expect(barrier(), bytes + row_bytes);
      weights(pool + at.stage * Of::STAGE + Of::WEIGHTS, at.stage, barrier());
    }
    at.stage = 0;
    if (waits) hand_over();
    for (int b = 0; b < blocks; b++) {
      const u32 to = pool + at.stage * Of::STAGE;
      if (b >= Of::STAGES) {
        wait_free(at.stage);
        bar_expect(barrier(), bytes + row_bytes);
        weights(to + Of::WEIGHTS, b, barrier());
      }
      copy_in(to, from + b * BLOCK, row_bytes, barrier());
      at.next(Of::STAGES);
    }
  }
};
// What arrives, as a consumer sees it.
struct Arrivals {
  u32 pool, full, empty;
  int group, lane;
  Rounds at;
  __device__ __forceinline__ u32 take(int bytes) {  // the next stage, arrived
    bar_wait(full + 8 * at.stage, at.parity());
    return pool + at.stage * bytes;
  }
  __device__ __forceinline__ void give_back(int stages) {
    if (lane == 0) bar_arrive(empty + 8 * at.stage);
    at.next(stages);
  }
};

// d[c] += activations · tile c of this warpgroup, over `blocks` blocks of the inner axis; only `count` tiles are there.
// A stage is given back at once, for what limits is how much is under way; the other warpgroup keeps the tensor cores busy.
template <int N, int COUNT>
__device__ __forceinline__ void product(Arrivals &in, float (&d)[COUNT][N / 2], int blocks, int count = COUNT) {
  using Of = Cut<N, COUNT>;
  in.at.stage = 0;
  for (int b = 0; b < blocks; b++) {
    const u32 stage = in.take(Of::STAGE);
    const u64 a = tile_at(stage), w = tile_at(stage + Of::WEIGHTS + in.group * Of::TILE);
#pragma unroll
    for (int c = 0; c < COUNT; c++)
      if (c < count) {
        mma_begin();
#pragma unroll
        for (int k = 0; k < 4; k++) mma_of<N>(d[c], a + 2 * k, w + c * (2 * Of::TILE >> 4) + 2 * k);
      }
    mma_commit();
    mma_wait<0>();
    in.give_back(Of::STAGES);
  }
}
