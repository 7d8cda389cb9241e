// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// The consumers of a program of flow_loop.cu: two warpgroups that share every product. What a thread of them keeps from phase
// to phase, how it takes what was loaded and gives the room back, and the products; what else it does stands in the files that
// are named at the end.

__device__ __forceinline__ void consumers_sync() { meet<1, 256>(); }

// All consumers: what they wrote is there for whoever sees the counter.
__device__ __forceinline__ void publish(u32 *counter) {
  fence_global();  // readers use the copy engine
  consumers_sync();
  if (threadIdx.x == 0) count_up(counter);
}
__device__ __forceinline__ void consumers_wait(const u32 *counter, u32 target) {
  if (threadIdx.x == 0) wait_for(counter, target);
  consumers_sync();
}

struct Chunking;

struct Consumer : Program {
  const int warp, lane, tid, group;  // the warpgroup
  const int acc_row, acc_col;        // of accumulators 0, 1; 2, 3: 8 rows on
  const u32 a_at, ring_at;
  u32 a_parity = 0;
  Walk<RING> r;
  // This program finishes 8 rows, a warp one of them. The residual stream of its cluster's columns stays in registers.
  const int own_rows;
  const int x_row, x_col;
  bool owner;  // of x
  float4 x = {0, 0, 0, 0};

  __device__ __forceinline__ Consumer(const Program &me, int warp)
      : Program(me), warp(warp), lane(threadIdx.x & 31), tid(threadIdx.x), group(uniform(warp >> 2)),
        acc_row((warp & 3) * 16 + (lane >> 2)), acc_col((lane & 3) * 2), a_at(shared(a_tile)), ring_at(shared(ring)),
        own_rows(uniform(T <= rank * 8 ? 0 : T >= rank * 8 + 8 ? 8 : T - rank * 8)), x_row(rank * 8 + warp),
        x_col(cluster * COLUMNS + lane * 4) {}

  // --- what was loaded ---

  __device__ __forceinline__ void a_done() {  // the activations are used
    fence_shared();
    __syncwarp();
    if (lane == 0) bar_arrive(a_empty);
    a_parity ^= 1;
  }
  __device__ __forceinline__ void release(int slot) const { if (lane == 0) bar_arrive(empty + 8 * slot); }
  // Slots of the other warpgroup: given back when they have arrived (an earlier word would be counted for the round before).
  __device__ __forceinline__ void pass(int n) {
    for (int i = 0; i < n; i++, r.next()) {
      bar_wait(full + 8 * r.slot, r.parity);
      __syncwarp();
      release(r.slot);
    }
  }
  // The clusters' sums of squares of a row, for root_scale. Asked for when the activations are there, used behind the product:
  // the trip to the L2 cache costs nothing.
  __device__ __forceinline__ float4 row_squares(int row) const {
    bar_wait(a_full, a_parity);
    return load4(p.ss + row * 16 + (lane & 3) * 4);
  }
  // Gate of a sub-block or scale of the next norm, asked for before the product.
  __device__ __forceinline__ float4 modulation(const float *of, float otherwise) const {
    return of && owner ? load4(of + x_col + (x_row < committed ? WIDTH : 0))
                       : make_float4(otherwise, otherwise, otherwise, otherwise);
  }

  // --- products ---

  // d += A[:, 64 · tiles] @ tilesᵀ, columns 0-39 for one warpgroup, 32-71 for the other.
  __device__ __forceinline__ void product(float (&d)[20], int tiles) {
    int before = -1;
    for (int i = 0; i < tiles; i++, r.next()) {
      bar_wait(a_full + 8 * i, a_parity);
      bar_wait(full + 8 * r.slot, r.parity);
      const u64 a = tile_at(a_at + i * BLOCK), b = tile_at(ring_at + r.slot * SLOT + group * 4096);
      mma_begin();
#pragma unroll
      for (int k = 0; k < 4; k++) mma40(d, a + 2 * k, b + 2 * k, 1);
      mma_commit();
      if (before >= 0) { mma_wait<1>(); release(before); }
      before = r.slot;
    }
    mma_wait<0>();
    release(before);
  }
  // The same with a slot for each warpgroup, of its own N columns.
  template <int N> __device__ __forceinline__ void product_each(float (&d)[N / 2], int tiles) {
    int before = -1;
    for (int i = 0; i < tiles; i++) {
      if (group) pass(1);
      bar_wait(a_full + 8 * i, a_parity);
      bar_wait(full + 8 * r.slot, r.parity);
      const u64 a = tile_at(a_at + i * BLOCK), b = tile_at(ring_at + r.slot * SLOT);
      mma_begin();
#pragma unroll
      for (int k = 0; k < 4; k++) mma_of<N>(d, a + 2 * k, b + 2 * k);
      mma_commit();
      if (before >= 0) { mma_wait<1>(); release(before); }
      before = r.slot;
      r.next();
      if (!group) pass(1);
    }
    mma_wait<0>();
    release(before);
  }

  // --- flow_sums.cuh ---
  template <int TEAM, int COUNT>
  __device__ __forceinline__ void team_sum(const float (&d)[2 * TEAM * COUNT], float (&y)[2 * COUNT], u32 parity) const;
  __device__ __forceinline__ void end_block(const float (&d)[20], const float4 &g, const float4 &s, u32 *done, u32 parity);
  // --- flow_attention.cuh ---
  __device__ __forceinline__ void add_scores(float (&s)[32]);
  __device__ __forceinline__ void mask_scores(float (&s)[32], float (&above)[2], int chunk) const;
  __device__ __forceinline__ void raise_tops(float (&above)[2], float (&top)[2], float (&norm)[2], float (&shrink)[2]) const;
  __device__ __forceinline__ void write_weights(const float (&s)[32], const float (&top)[2], float (&norm)[2]) const;
  __device__ __forceinline__ void add_answers(float (&o)[2][32], bool two);
  __device__ __forceinline__ void send_answers(const float (&o)[2][32], const float (&top)[2], float (&norm)[2], int rows) const;
  __device__ __forceinline__ void join_answers() const;
  // --- flow_turn.cuh ---
  __device__ __forceinline__ void turn(int step, float *x_t, const Chunking &rtc);
};
