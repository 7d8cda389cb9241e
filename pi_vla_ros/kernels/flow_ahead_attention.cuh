// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Attention of flow_ahead.cu: a warpgroup has a head, with all its keys and all 256 columns of its answer in registers.

// s += queries · keysᵀ of a chunk.
__device__ __forceinline__ void add_scores(Arrivals &in, float (&s)[32]) {
  const u32 queries = afresh(in.pool) + in.group * 4 * BLOCK, key_tiles = in.take(CHUNK) + QUERIES;
  mma_begin();
#pragma unroll
  for (int i = 0; i < 16; i++)
    mma64(s, tile_at(queries + (i >> 2) * BLOCK) + 2 * (i & 3), tile_at(key_tiles + (i >> 2) * KEYS) + 2 * (i & 3), 1);
  mma_commit();
  mma_wait<0>();
  in.give_back(CHUNK_STAGES);
}

// Of a thread's earlier or later row (half 0, 1): the weights of a chunk's keys up to `last`; what came before is shrunk to the
// largest score that there is now.
__device__ __forceinline__ void softmax(float (&s)[32], u32 (&prob)[16], float (&o)[128], float (&top)[2], float (&norm)[2],
                                        int half, int last) {
  const float most = fmaxf(top[half], masked_top(s, half, last));  // finite: everyone sees the first key
  const float shrink = exp2_fast(top[half] - most);
  top[half] = most;
  norm[half] *= shrink;
#pragma unroll
  for (int t = 0; t < 8; t++) {
    const float e0 = exp2_fast(s[4 * t + 2 * half] - most), e1 = exp2_fast(s[4 * t + 2 * half + 1] - most);
    norm[half] += e0 + e1;
    prob[2 * t + half] = pack(e0, e1);
  }
#pragma unroll
  for (int i = 0; i < 64; i++) o[4 * (i >> 1) + 2 * half + (i & 1)] *= shrink;
}

// o += weights · values of a chunk.
__device__ __forceinline__ void add_answer(Arrivals &in, float (&o)[128], const u32 (&prob)[16]) {
  const u64 value_tiles = transposed_tile_at(in.take(CHUNK) + QUERIES);
  mma_begin();
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const u32 a[4] = {prob[4 * k], prob[4 * k + 1], prob[4 * k + 2], prob[4 * k + 3]};
    mma256_regs_transposed(o, a, value_tiles + 128 * k, 1);
  }
  mma_commit();
  mma_wait<0>();
  in.give_back(CHUNK_STAGES);
}
