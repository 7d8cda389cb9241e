// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Attention of one head by a cluster of flow_loop.cu, piece by piece in the order in which it is formed there. A program has every
// 8th chunk of 64 keys, two at a time: a warpgroup forms the weights of one chunk, then half of the answer's columns from both.
// The answers of the eight programs, and what they weigh, go to those who finish the rows.

// s += queries · keysᵀ of a chunk, whose four tiles are given back.
__device__ __forceinline__ void Consumer::add_scores(float (&s)[32]) {
  int slots[4];
#pragma unroll
  for (int i = 0; i < 4; i++, r.next()) {
    slots[i] = r.slot;
    bar_wait(a_full + 8 * i, a_parity);
    bar_wait(full + 8 * r.slot, r.parity);
    const u64 a = tile_at(a_at + i * BLOCK), b = tile_at(ring_at + r.slot * SLOT);
    mma_begin();
#pragma unroll
    for (int k = 0; k < 4; k++) mma64(s, a + 2 * k, b + 2 * k, 1);
  }
  mma_commit();
  mma_wait<0>();
#pragma unroll
  for (int i = 0; i < 4; i++) release(slots[i]);
}

// Keys that a row does not see are left out. above: the largest of each of a thread's rows.
__device__ __forceinline__ void Consumer::mask_scores(float (&s)[32], float (&above)[2], int chunk) const {
#pragma unroll
  for (int half = 0; half < 2; half++) {  // accumulator rows acc_row and acc_row + 8
    const int last = (STATE && acc_row + 8 * half == 0 ? start : total - 1) - chunk * 64 - acc_col;  // state: no actions
    above[half] = masked_top(s, half, last);
  }
}

// top: the largest so far, of both warpgroups' chunks. What came before is to be shrunk.
__device__ __forceinline__ void Consumer::raise_tops(float (&above)[2], float (&top)[2], float (&norm)[2],
                                                     float (&shrink)[2]) const {
  if ((lane & 3) == 0) {
    tops[group * 64 + acc_row] = above[0];
    tops[group * 64 + acc_row + 8] = above[1];
  }
  consumers_sync();  // the products with the weights of the round before have ended, too
#pragma unroll
  for (int half = 0; half < 2; half++) {
    above[half] = fmaxf(fmaxf(above[half], tops[(group ^ 1) * 64 + acc_row + 8 * half]), top[half]);
    shrink[half] = top[half] == -INFINITY ? 0.f : exp2_fast(top[half] - above[half]);
    top[half] = above[half];
    norm[half] *= shrink[half];
  }
}

// The weights of a chunk, to where both warpgroups' products read them.
__device__ __forceinline__ void Consumer::write_weights(const float (&s)[32], const float (&top)[2], float (&norm)[2]) const {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float safe = top[half] == -INFINITY ? 0.f : top[half];
    char *to = a_tile + WEIGHTS + group * KEYS;
#pragma unroll
    for (int t = 0; t < 8; t++) {
      const float e0 = exp2_fast(s[4 * t + 2 * half] - safe), e1 = exp2_fast(s[4 * t + 2 * half + 1] - safe);
      norm[half] += e0 + e1;
      *(u32 *)(to + at(acc_row + 8 * half, t) + acc_col * 2) = pack(e0, e1);
    }
  }
}

// o += weights · values of one or two chunks: this warpgroup's half of the columns.
__device__ __forceinline__ void Consumer::add_answers(float (&o)[2][32], bool two) {
  int before[2] = {};  // slots of the values that may still be read
  for (int g = 0; g <= (int)two; g++) {
    if (group) pass(2);
    int slots[2];
#pragma unroll
    for (int j = 0; j < 2; j++, r.next()) {
      slots[j] = r.slot;
      bar_wait(full + 8 * r.slot, r.parity);
      const u64 a = tile_at(a_at + WEIGHTS + g * KEYS), b = transposed_tile_at(ring_at + r.slot * SLOT);
      mma_begin();
#pragma unroll
      for (int k = 0; k < 4; k++) mma64_transposed(o[j], a + 2 * k, b + 128 * k, 1);
    }
    mma_commit();
    if (!group) pass(2);
    if (g) { mma_wait<1>(); release(before[0]); release(before[1]); }
    before[0] = slots[0], before[1] = slots[1];
  }
  mma_wait<0>();
  release(before[0]);
  release(before[1]);
}

// Answers and what they weigh to those who finish the rows. `answers` of others are free: they have published this layer's
// queries, so the activations that were there are used, and the answers of the layer before are.
__device__ __forceinline__ void Consumer::send_answers(const float (&o)[2][32], const float (&top)[2], float (&norm)[2],
                                                       int rows) const {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const u32 whose = (warp & 3) * 2 + half, bar = address_in(answers_full, whose);
    const u32 to = address_in(a_at + ANSWERS + ((rank * 8 + (lane >> 2)) * 32 + group * 16 + (lane & 3)) * 16, whose);
    const bool some = acc_row + 8 * half < rows;
    norm[half] += __shfl_xor_sync(~0u, norm[half], 1);
    norm[half] += __shfl_xor_sync(~0u, norm[half], 2);
    if (some && (lane & 3) == 0)
      store_in(address_in(shared(seen + (rank * 2 + group) * 8 + (lane >> 2)), whose), make_float2(top[half], norm[half]), bar);
#pragma unroll
    for (int i = 0; i < 4; i++) {  // 32 columns, 8 of them a lane's: in this order, and so are the weights of `out`
      u32 v[4];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int t = (i & 1) * 4 + k;
        v[k] = pack(o[i >> 1][4 * t + 2 * half], o[i >> 1][4 * t + 2 * half + 1]);
      }
      if (some) store_in(to + i * 64, make_uint4(v[0], v[1], v[2], v[3]), bar);
    }
  }
}

// This warp's row, when the eight programs' answers are there: 8 columns a lane.
__device__ __forceinline__ void Consumer::join_answers() const {
  const uint4 *answer = (const uint4 *)(a_tile + ANSWERS) + warp * 32 + lane;
  float best = -INFINITY, sum = 0, y[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < 8; i++) best = fmaxf(best, seen[i * 16 + warp].x);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const uint4 v = answer[i * 8 * 32];
    const float2 even = seen[i * 16 + warp], odd = seen[i * 16 + 8 + warp];
    const float w = exp2_fast(even.x - best);
    sum += w * (even.y + odd.y);
    y[0] += w * lower(v.x); y[1] += w * upper(v.x); y[2] += w * lower(v.y); y[3] += w * upper(v.y);
    y[4] += w * lower(v.z); y[5] += w * upper(v.z); y[6] += w * lower(v.w); y[7] += w * upper(v.w);
  }
  sum = 1.f / sum;
  *(uint4 *)(p.att + (cluster * 4 + (lane >> 3)) * BLOCK + at(x_row, lane & 7)) =
      make_uint4(pack(y[0] * sum, y[1] * sum), pack(y[2] * sum, y[3] * sum), pack(y[4] * sum, y[5] * sum),
                 pack(y[6] * sum, y[7] * sum));
}
