// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Attention of the prefix: see hopper_attention.py for what it equals, attention.cuh for how a program forms it. At the end
// its warpgroups join their answers through shared memory.
//
// Chunks come as plain copies: the cache has their layout. Two programs (a cluster) see the same keys: each loads half of a
// chunk for both, or the L2 cache would be the limit.

constexpr int SLOTS = 6, STRIDE = 136;  // floats of a row of the joined halves: no two rows in a bank
#include "attention.cuh"

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
hopper_attention(const __grid_constant__ TensorMap q_map, const char *keys, const char *values, char *out,
                 const int *lengths, int rows, u32 *ready) {  // counts the launches whose keys and values are there, or null
  extern __shared__ char raw[];
  char *base = (char *)(((u64)raw + 1023) & ~1023ull);
  const u32 queries = shared(base), ring = queries + CHUNK, full = ring + SLOTS * CHUNK, empty = full + 16 * SLOTS;
  const u32 q_full = empty + 8 * SLOTS;
  float *joined = (float *)(base + CHUNK);  // [2][64][STRIDE] over the ring, when it is done with
  float2 *norms = (float2 *)(base + CHUNK + 2 * 64 * STRIDE * 4);  // [2][64]
  const int warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31;
  const u32 rank = cluster_rank();
  chain_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2 * SLOTS; i++) bar_init(full + 8 * i, 1);  // [2][SLOTS]
    for (int i = 0; i < SLOTS; i++) bar_init(empty + 8 * i, 2);
    bar_init(q_full, 1);
    bar_init_done();
  }
  if (threadIdx.x == 0) map_in(&q_map);
  const int length = uniform(lengths[0]), chunks = (length + 63) / 64;  // was there before the chain of kernels began
  cluster_meet();
  chain_wait();
  if (ready && blockIdx.x == 0 && threadIdx.x == 0) count_up(ready);

  if (warp >= 8) {  // ---- loads
    fewer_registers<40>();
    if (warp == 8 && lane == 0) {
      bar_expect(q_full, CHUNK);
      for (int i = 0; i < 4; i++) tile_in(queries + i * TILE, &q_map, i * 64, blockIdx.x * 64, q_full);
      int entry = 0;
      in_order(chunks, [&](bool key, int chunk) {
        const int slot = entry % SLOTS, half = rank * (CHUNK / 2);
        const u32 bar = full + 8 * ((chunk & 1) * SLOTS + slot);
        bar_wait(empty + 8 * slot, entry++ / SLOTS & 1 ^ 1);
        bar_expect(bar, CHUNK);
        copy_in_all(ring + slot * CHUNK + half, (key ? keys : values) + (long long)chunk * CHUNK + half, CHUNK / 2, bar, 3);
      });
    }
    __syncwarp();
    cluster_meet();
    return;
  }
  more_registers<232>();
  const int group = uniform(warp >> 2), row = (warp & 3) * 16 + (lane >> 2), quad = lane & 3;
  // A slot is given back to both loaders, one warp tells each: not the last ones, which nobody waits for. Such a word could
  // still be on its way when the other program has ended, and it would end the launch.
  const u32 back = address_in(empty, warp & 1);
  auto release = [&](int entry) {
    if (entry + SLOTS < 2 * chunks && (warp & 3) < 2 && lane == 0) bar_arrive_in(back + 8 * (entry % SLOTS));
  };
  Attention<64, true> part{queries, full + group * SLOTS * 8, base + CHUNK, group, chunks, chunks - 1, length, {length, length}};
  bar_wait(q_full, 0);
  part.run(release);

  cluster_meet();  // both programs are done with both rings; nobody leaves while the other may still write to it

  float (&o)[128] = part.o, (&top)[2] = part.top, (&total)[2] = part.total;
  // ---- each warpgroup gives away half of its columns and stores the other half, joined
#pragma unroll
  for (int h = 0; h < 2; h++) {
    total[h] += __shfl_xor_sync(~0u, total[h], 1);
    total[h] += __shfl_xor_sync(~0u, total[h], 2);
  }
  float *give = joined + (group * 64 + row) * STRIDE + quad * 2;
#pragma unroll
  for (int h = 0; h < 2; h++) {
#pragma unroll
    for (int t = 0; t < 16; t++) {
      const int i = 4 * (t + 16) + 2 * h, j = 4 * t + 2 * h;
      *(float2 *)(give + h * 8 * STRIDE + t * 8) = group ? make_float2(o[j], o[j + 1]) : make_float2(o[i], o[i + 1]);
    }
    if (quad == 0) norms[group * 64 + row + 8 * h] = make_float2(top[h], total[h]);
  }
  meet<1, 256>();
  const float *take = joined + ((group ^ 1) * 64 + row) * STRIDE + quad * 2;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float2 other = norms[(group ^ 1) * 64 + row + 8 * h];
    const float most = fmaxf(top[h], other.x), mine = exp2_fast(top[h] - most), its = exp2_fast(other.x - most);
    const float norm = 1.f / (total[h] * mine + other.y * its);
    const int r = blockIdx.x * 64 + row + 8 * h;
    char *to = out + ((long long)r * 256 + group * 128 + quad * 2) * 2;
    if (r < rows)
#pragma unroll
      for (int t = 0; t < 16; t++) {
        const float2 v = *(const float2 *)(take + h * 8 * STRIDE + t * 8);
        const int i = 4 * t + 2 * h, j = 4 * (t + 16) + 2 * h;
        const float y0 = group ? o[j] : o[i], y1 = group ? o[j + 1] : o[i + 1];
        *(u32 *)(to + t * 16) = pack((y0 * mine + v.x * its) * norm, (y1 * mine + v.y * its) * norm);
      }
  }
}
