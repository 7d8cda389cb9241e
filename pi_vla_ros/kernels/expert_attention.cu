// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Attention of the expert's tokens, of several robots: see expert_attention.py for what it equals, attention.cuh for how a
// program forms its part.
//
// PROGRAMS (a cluster) share 64 rows of queries: program r takes the chunks r, r + PROGRAMS, ... of a robot's keys, its
// warpgroups in turn. They send each row's answer, as bf16, and its weight to the program that finishes the row, an equal
// share of the 64 each, through distributed shared memory. A program ends when all that others send it is there.
//
// Compile-time: PROGRAMS; STATE (π0: the first token does not see those behind it).

constexpr int SLOTS = 6;
#include "attention.cuh"
constexpr int HEADS = 8, STEP = 64 * PROGRAMS;
constexpr int ROWS = 64 / PROGRAMS, PARTS = 2 * PROGRAMS;  // rows that a program finishes, from as many warpgroups
constexpr int ROW = 528;                                   // bytes of a row of a part: eight rows' pieces in all banks

// queries and out [robots · tokens · HEADS, 256]; keys, values [robots · key_rows, 256], own ones from starts[robot] on
extern "C" __global__ void __cluster_dims__(PROGRAMS, 1, 1) __launch_bounds__(384, 1)
expert_attention(const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap keys,
                 const __grid_constant__ TensorMap values, char *out, const int *starts, int tokens, int key_rows) {
  extern __shared__ char raw[];
  char *base = (char *)(((u64)raw + 1023) & ~1023ull), *slots = base + CHUNK;
  const u32 queries = shared(base), ring = shared(slots), full = ring + SLOTS * CHUNK, empty = full + 16 * SLOTS;
  const u32 q_full = empty + 8 * SLOTS, answered = q_full + 8;
  char *parts = slots;  // [PARTS][ROWS][ROW] over the ring, when it is done with
  float2 *weights = (float2 *)(slots + SLOTS * CHUNK + 256);  // [PARTS][ROWS] maximum, sum
  const int warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31;
  const int rank = cluster_rank(), rows = tokens * HEADS, tiles = (rows + 63) / 64;
  const int robot = blockIdx.x / PROGRAMS / tiles, tile_row = blockIdx.x / PROGRAMS % tiles * 64;  // of the robot's
  chain_start();
  if (threadIdx.x == 0) {
    map_in(&keys);
    map_in(&values);
    map_in(&q_map);
    for (int i = 0; i < 2 * SLOTS; i++) bar_init(full + 8 * i, 1);  // [2][SLOTS]
    for (int i = 0; i < SLOTS; i++) bar_init(empty + 8 * i, 1);
    bar_init(q_full, 1);
    bar_init(answered, 1);
    bar_init_done();
    bar_expect(answered, PARTS * ROWS * (512 + 8));
  }
  const int start = uniform(starts[robot]), length = start + tokens;  // was there before the chain of kernels began
  const int chunks = ((length + 63) / 64 - rank + PROGRAMS - 1) / PROGRAMS;
  __syncthreads();

  if (warp >= 8) {  // ---- loads
    fewer_registers<40>();
    if (warp == 8 && lane == 0) {
      chain_wait();  // the predecessor writes queries and own keys
      bar_expect(q_full, CHUNK);
      for (int i = 0; i < 4; i++) tile_in(queries + i * TILE, &q_map, i * 64, robot * rows + tile_row, q_full);
      int entry = 0;
      in_order(chunks, [&](bool key, int chunk) {
        const int slot = entry % SLOTS, first = chunk * STEP + rank * 64;
        const u32 bar = full + 8 * ((chunk & 1) * SLOTS + slot);
        bar_wait(empty + 8 * slot, entry++ / SLOTS & 1 ^ 1);
        bar_expect(bar, CHUNK);
        for (int i = 0; i < 4; i++)
          tile_in(ring + slot * CHUNK + i * TILE, key ? &keys : &values, i * 64, robot * key_rows + first, bar);
      });
    }
    __syncwarp();
    cluster_meet();
    return;
  }
  more_registers<232>();
  const int group = uniform(warp >> 2), row = (warp & 3) * 16 + (lane >> 2), quad = lane & 3;
  auto release = [&](int entry) {
    if (entry + SLOTS < 2 * chunks && (warp & 3) == 0 && lane == 0) bar_arrive(empty + 8 * (entry % SLOTS));
  };
  const int before = rank * 64;  // keys before the first chunk
  const int seen = STATE && tile_row + row < HEADS ? start + 1 : length;
  const int whole = max((STATE && tile_row == 0 ? start + 1 : length) - before, 0) / 64;  // of all programs' chunks
  Attention<STEP, false> part{queries, full + group * SLOTS * 8, slots, group, chunks,
                              (whole + PROGRAMS - 1) / PROGRAMS, length - before, {seen - before, length - before}};
  bar_wait(q_full, 0);
  part.run(release);

  cluster_meet();  // all programs are done with their rings, and others may write there

#pragma unroll
  for (int h = 0; h < 2; h++) {
    float total = part.total[h];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    const float norm = total > 0 ? 1.f / total : 0.f;
    const int whose = (row + 8 * h) / ROWS, place = (rank * 2 + group) * ROWS + (row + 8 * h) % ROWS;
    const u32 to = address_in(shared(parts) + place * ROW + quad * 16, whose), bar = address_in(answered, whose);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float *o = part.o + 16 * i + 2 * h;
      store_in(to + i * 64, make_uint4(pack(o[0] * norm, o[1] * norm), pack(o[4] * norm, o[5] * norm),
                                       pack(o[8] * norm, o[9] * norm), pack(o[12] * norm, o[13] * norm)), bar);
    }
    if (quad == 0) store_in(address_in(shared(weights + place), whose), make_float2(part.top[h], total), bar);
  }
  bar_wait(answered, 0);
#pragma unroll
  for (int mine = warp; mine < ROWS; mine += 8) {  // a thread has 8 columns of a row, as its like has sent them
    float most = LEAST, sum = 0, y[8] = {};
#pragma unroll
    for (int p = 0; p < PARTS; p++) most = fmaxf(most, weights[p * ROWS + mine].x);
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
      const float2 w = weights[p * ROWS + mine];
      const float weight = w.y * exp2_fast(w.x - most);
      const uint4 v = *(const uint4 *)(parts + (p * ROWS + mine) * ROW + lane * 16);
      const u32 words[4] = {v.x, v.y, v.z, v.w};
      sum += weight;
#pragma unroll
      for (int t = 0; t < 4; t++) { y[2 * t] += lower(words[t]) * weight; y[2 * t + 1] += upper(words[t]) * weight; }
    }
    const int r = tile_row + rank * ROWS + mine;
    char *to = out + ((robot * rows + r) * 256 + (lane >> 2) * 32 + quad * 2) * 2;
    if (r < rows)
#pragma unroll
      for (int t = 0; t < 4; t++) *(u32 *)(to + t * 16) = pack(y[2 * t] / sum, y[2 * t + 1] / sum);
  }
}
