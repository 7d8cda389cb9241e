// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Attention among the 256 tokens of an image: see image_attention.py for what it equals.
//
// A program has 128 queries of a head and all its 256 keys and values in shared memory; each of two warpgroups has the
// scores of 64 queries in registers, whole rows: one softmax, nothing running. Two programs (a cluster) have an image's
// queries between them; each loads half of the keys and values for both. A head is 72 columns wide; 128 are loaded, and
// 80 multiplied, of which the queries' last 8 are set to 0. The tensor cores multiply by values while the next eighth of
// the exponentials is made.

constexpr int WIDTH = 72, TOKENS = 256, QUERIES = 128;
constexpr int Q_TILE = QUERIES * 128, K_TILE = TOKENS * 128;  // bytes of 64 columns

// rows [images · 256, 3 · heads · 72]: queries, keys, values -> out [images · 256, heads · 72], columns as `held` says
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
image_attention(const __grid_constant__ TensorMap map, char *out, int heads) {
  extern __shared__ char raw[];
  char *base = (char *)(((u64)raw + 1023) & ~1023ull);
  const u32 queries = shared(base), keys = queries + 2 * Q_TILE, values = keys + 2 * K_TILE;
  const u32 full = values + 2 * K_TILE;  // queries' and keys' first 64 columns; the rest of theirs; values
  const int warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31;
  const int pair = blockIdx.x / 2, head = pair % heads, first = pair / heads * TOKENS;
  const u32 rank = cluster_rank();
  chain_start();
  if (threadIdx.x == 0) {
    map_in(&map);
    for (int i = 0; i < 3; i++) bar_init(full + 8 * i, 1);
    bar_init_done();
  }
  cluster_meet();

  if (warp >= 8) {  // ---- loads
    fewer_registers<40>();
    if (warp == 8 && lane == 0) {
      chain_wait();
      const int half = rank * QUERIES;
      for (int i = 0; i < 3; i++) bar_expect(full + 8 * i, i < 2 ? Q_TILE + K_TILE : 2 * K_TILE);
      for (int i = 0; i < 4; i++) {  // two tiles of keys, two of values
        if (i < 2) tile_in(queries + i * Q_TILE, &map, head * WIDTH + i * 64, first + half, full + 8 * i);
        tile_in_all(keys + i * K_TILE + rank * Q_TILE, &map, ((i / 2 + 1) * heads + head) * WIDTH + i % 2 * 64, first + half,
                    full + 8 * (i < 2 ? i : 2), 3);
      }
    }
    __syncwarp();
  } else {  // ---- two warpgroups, 64 queries each
    more_registers<232>();
    const int group = uniform(warp >> 2), row = (warp & 3) * 16 + (lane >> 2), quad = lane & 3;
    chain_wait();
    float score[128];
    const u64 q = tile_at(queries + group * 8192), k = tile_at(keys);
    bar_wait(full, 0);
    mma_begin();
#pragma unroll
    for (int i = 0; i < 4; i++) mma256(score, q + 2 * i, k + 2 * i, i);
    mma_commit();
    bar_wait(full + 8, 0);
    if ((threadIdx.x & 127) < 64)  // queries of columns 72 .. 79
      *(uint4 *)(base + Q_TILE + at(group * 64 + (threadIdx.x & 63), 1)) = make_uint4(0, 0, 0, 0);
    fence_shared();
    if (group) meet<2, 128>(); else meet<1, 128>();
    mma_begin();
    mma256(score, q + Q_TILE / 16, k + K_TILE / 16, 1);
    mma_commit();
    mma_wait<0>();

    const float scale = 0.11785113019775793f * 1.4426950408889634f;  // 72 ** -0.5, to the base of 2
    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
      for (int t = 0; t < 32; t++) most[h] = fmaxf(most[h], fmaxf(score[4 * t + 2 * h], score[4 * t + 2 * h + 1]));
      most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 1));
      most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 2)) * scale;
    }

    u32 prob[16][4];
    float o[36];
    bar_wait(full + 16, 0);
#pragma unroll
    for (int part = 0; part < 8; part++) {
#pragma unroll
      for (int t = 4 * part; t < 4 * part + 4; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int at = 4 * t + 2 * h;
          const float e0 = exp2_fast(score[at] * scale - most[h]), e1 = exp2_fast(score[at + 1] * scale - most[h]);
          sum[h] += e0 + e1;
          prob[t / 2][t % 2 * 2 + h] = pack(e0, e1);
        }
      mma_begin();
#pragma unroll
      for (int k = 2 * part; k < 2 * part + 2; k++)
        mma72_regs_transposed(o, prob[k], transposed_tile_at(values + k * 2048, K_TILE), k);
      mma_commit();
    }
    mma_wait<0>();
#pragma unroll
    for (int h = 0; h < 2; h++) {
      sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
      sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
      const float norm = 1.f / sum[h];
      const long long r = first + rank * QUERIES + group * 64 + row + 8 * h;
      char *to = out + (r * heads + head) * WIDTH * 2;
      u32 word[9];
#pragma unroll
      for (int t = 0; t < 9; t++) word[t] = pack(o[4 * t + 2 * h] * norm, o[4 * t + 2 * h + 1] * norm);
#pragma unroll
      for (int g = 0; g < 2; g++)
        *(uint4 *)(to + g * 64 + quad * 16) = make_uint4(word[4 * g], word[4 * g + 1], word[4 * g + 2], word[4 * g + 3]);
      *(u32 *)(to + 128 + quad * 4) = word[8];
    }
  }
  cluster_meet();  // nobody leaves while the other may still write to it
}
