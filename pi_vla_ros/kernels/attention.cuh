// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Attention over one key/value head of 256 dimensions by a warpgroup with 64 rows of queries (heads are folded into rows).
// The tensor cores form a chunk's answer and the next one's scores while the warpgroup forms the softmax; the running
// answer of 64 × 256 stays in registers. A program has two warpgroups of the same rows, which take its chunks of 64 keys in
// turn.
//
// A warpgroup has barriers of its own for what arrives. It does not see every round of a slot, and of a barrier that the
// other one waits for it could not tell "my round is there" from "the round before it is not".
//
// SLOTS of the ring: whoever includes this says how many; keys and values of a chunk take one each.

constexpr int TILE = 8192, CHUNK = 4 * TILE;
constexpr float SCALE = 0.0625f * 1.4426950408889634f;  // 1/√256, of a power of 2
constexpr float LEAST = -1e30f;                         // a maximum before any key, finite: less none is 0

// The order in which the warpgroups want a program's chunks, and in which they come: K K, K V, K V, ..., V V.
template <class Load> __device__ __forceinline__ void in_order(int chunks, Load load) {
  for (int chunk = 0; chunk < chunks + 2; chunk++) {
    if (chunk < chunks) load(true, chunk);
    if (chunk >= 2) load(false, chunk - 2);
  }
}

// Of one warpgroup. STEP: keys from the begin of a chunk to that of the program's next; CLEAN: what stands behind the last
// key is 0 (else it may be anything, NaN, too).
template <int STEP, bool CLEAN> struct Attention {
  u32 queries, full;  // in shared memory; full [SLOTS]: this warpgroup's barriers
  char *slots;
  int group, chunks, whole;  // the program's warpgroup; its chunks; those of them of which every row sees all keys
  int length, seen[2];       // keys that there are, that rows `row` and `row + 8` see, from the first chunk's first one on
  float o[128], top[2], total[2];  // answer, to be divided by the sum over the quad of `total`, exponentials less 2^top

  template <class Release> __device__ __forceinline__ void run(Release release) {
    const int quad = threadIdx.x & 3;
    const u32 ring = shared(slots);
    float score[32], shrink[2];
    u32 prob[16], parities = 0;  // a bit a slot: the next round of this warpgroup's barrier
#pragma unroll
    for (int h = 0; h < 2; h++) { top[h] = LEAST; total[h] = 0; }
#pragma unroll
    for (int i = 0; i < 128; i++) o[i] = 0;
    auto wait_full = [&](int entry) {
      const int slot = entry % SLOTS;
      bar_wait(full + 8 * slot, parities >> slot & 1);
      parities ^= 1u << slot;
      return slot;
    };
    auto ask_scores = [&](int chunk) {
      const int entry = chunk + max(chunk - 2, 0), slot = wait_full(entry);
      mma_begin();
#pragma unroll
      for (int i = 0; i < 16; i++)
        mma64(score, tile_at(queries + (i >> 2) * TILE) + 2 * (i & 3), tile_at(ring + slot * CHUNK + (i >> 2) * TILE) + 2 * (i & 3), i);
      mma_commit();
      return entry;
    };
    auto softmax = [&](int chunk) {  // in place; what came before is to be shrunk
      if (chunk >= whole)
#pragma unroll
        for (int i = 0; i < 32; i++)
          if ((i >> 2) * 8 + (i & 1) > seen[i >> 1 & 1] - 1 - chunk * STEP - quad * 2) score[i] = -INFINITY;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float most = -INFINITY, sum = 0;
#pragma unroll
        for (int t = 0; t < 8; t++) most = fmaxf(most, fmaxf(score[4 * t + 2 * h], score[4 * t + 2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(top[h], SCALE * fmaxf(most, __shfl_xor_sync(~0u, most, 2)));
        shrink[h] = exp2_fast(top[h] - most);
        top[h] = most;
#pragma unroll
        for (int t = 0; t < 8; t++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float &v = score[4 * t + 2 * h + e];
            v = exp2_fast(v * SCALE - most);
            sum += v;
          }
        total[h] = total[h] * shrink[h] + sum;
      }
    };
    auto ask_answer = [&](int chunk, bool last = false) {
      const int entry = chunk + min(chunk + 3, chunks), slot = wait_full(entry);
      if (!CLEAN && last && length - chunk * STEP < 64) {  // a weight of 0 times anything but NaN
        for (int i = (length - chunk * STEP) * 32 + (threadIdx.x & 127); i < 64 * 32; i += 128)
          *(uint4 *)(slots + slot * CHUNK + (i >> 3 & 3) * TILE + (i >> 5) * 128 + (i & 7) * 16) = make_uint4(0, 0, 0, 0);
        fence_shared();
        if (group) meet<3, 128>(); else meet<2, 128>();
      }
      mma_begin();
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const u32 a[4] = {prob[4 * k], prob[4 * k + 1], prob[4 * k + 2], prob[4 * k + 3]};
        mma256_regs_transposed(o, a, transposed_tile_at(ring + slot * CHUNK + k * 2048), 1);
      }
      mma_commit();
      return entry;
    };
    auto round = [&] {
#pragma unroll
      for (int i = 0; i < 16; i++) prob[i] = pack(score[2 * i], score[2 * i + 1]);
    };
    int chunk = group;
    if (chunk >= chunks) return;
    int entry = ask_scores(chunk);
    mma_wait<0>();
    arrived(score);
    release(entry);
    softmax(chunk);
    round();
    for (; chunk + 2 < chunks; chunk += 2) {
      entry = ask_scores(chunk + 2);
      const int behind = ask_answer(chunk);
      mma_wait<1>();
      arrived(score);
      release(entry);
      softmax(chunk + 2);
      first(total[0] + total[1]);  // and the next probabilities
      mma_wait<0>();
      arrived(o);
      release(behind);
      round();
#pragma unroll
      for (int i = 0; i < 128; i++) o[i] *= shrink[i >> 1 & 1];
    }
    entry = ask_answer(chunk, true);
    mma_wait<0>();
    arrived(o);
    release(entry);
  }
};
