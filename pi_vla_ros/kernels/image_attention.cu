// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Attention among the 256 tokens of an image: see image_attention.py for what it equals.
//
// A program has 128 queries of a head and all its 256 keys and values in shared memory; each of two warpgroups has the
// scores of 64 queries in registers, whole rows: one softmax, nothing running. Two programs (a cluster) have an image's
// queries between them; each loads half of the keys and values for both. A head is 72 columns wide; 128 are loaded, and
// 80 multiplied, of which the queries' last 8 are set to 0.

constexpr int WIDTH = 72, TOKENS = 256, QUERIES = 128;
constexpr int Q_TILE = QUERIES * 128, K_TILE = TOKENS * 128;  // bytes of 64 columns

// ahead_w: weights of a product behind this kernel
// rows [images · 256, 3 · heads · 72]: queries, keys, values -> out [images · 256, heads · 72]
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
image_attention(const __grid_constant__ TensorMap map, char *out, int heads, const char *ahead_w, int ahead_bytes) {
  extern __shared__ char raw[];
  char *base = (char *)(((u64)raw + 1023) & ~1023ull);
  const u32 queries = shared(base), keys = queries + 2 * Q_TILE, values = keys + 2 * K_TILE;
  const u32 full = values + 2 * K_TILE;  // queries' and keys' first 64 columns; the rest of theirs; values
  const int warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31;
  const int pair = blockIdx.x / 2, head = pair % heads, first = pair / heads * TOKENS;
  const u32 rank = cluster_rank();
  chain_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < 3; i++) bar_init(full + 8 * i, 1);
    bar_init_done();
    map_in(&map);
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
      share_into_l2(ahead_w, ahead_bytes);
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

    u32 prob[64];
    float norm[2];
    const float scale = 0.11785113019775793f * 1.4426950408889634f;  // 72 ** -0.5, to the base of 2
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float most = -INFINITY, sum = 0;
#pragma unroll
      for (int t = 0; t < 32; t++) most = fmaxf(most, fmaxf(score[4 * t + 2 * h], score[4 * t + 2 * h + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2)) * scale;
#pragma unroll
      for (int t = 0; t < 32; t++) {
        const float e0 = exp2_fast(score[4 * t + 2 * h] * scale - most), e1 = exp2_fast(score[4 * t + 2 * h + 1] * scale - most);
        sum += e0 + e1;
        prob[2 * t + h] = pack(e0, e1);
      }
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      norm[h] = 1.f / sum;
    }

    float o[36];
    bar_wait(full + 16, 0);
    mma_begin();
#pragma unroll
    for (int k = 0; k < 16; k++) {
      const u32 a[4] = {prob[4 * k], prob[4 * k + 1], prob[4 * k + 2], prob[4 * k + 3]};
      mma72_regs_transposed(o, a, transposed_tile_at(values + k * 2048, K_TILE), k);
    }
    mma_commit();
    mma_wait<0>();
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const long long r = first + rank * QUERIES + group * 64 + row + 8 * h;
      char *to = out + (r * heads * WIDTH + head * WIDTH + quad * 2) * 2;
#pragma unroll
      for (int t = 0; t < 9; t++) *(u32 *)(to + t * 16) = pack(o[4 * t + 2 * h] * norm[h], o[4 * t + 2 * h + 1] * norm[h]);
    }
  }
  cluster_meet();  // nobody leaves while the other may still write to it
}
