// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Sums over the programs of a cluster of flow_loop.cu, which split the depth of a product: each sends its parts of what others
// finish into their shared memory, where a barrier counts the bytes. Who finishes adds up in the order of the ranks, whoever
// comes first.

// A team's sums. Each of its TEAM programs has multiplied a part of the depth with the same columns, and finishes one of a
// thread's two rows (odd ranks the later one) and 2 · COUNT of its columns. What others finish goes to the same thread of
// theirs. d: the tensor core's result; y: the whole sum of what this program finishes.
template <int TEAM, int COUNT>
__device__ __forceinline__ void Consumer::team_sum(const float (&d)[2 * TEAM * COUNT], float (&y)[2 * COUNT], u32 parity) const {
  const int mine = rank & (TEAM - 1), tid = afresh(threadIdx.x);
#pragma unroll
  for (int q = 0; q < TEAM; q++) {
    float v[2 * COUNT];
#pragma unroll
    for (int i = 0; i < 2 * COUNT; i++) v[i] = d[4 * (COUNT * (q >> 1) + (i >> 1)) + 2 * (q & 1) + (i & 1)];
    if (q == mine) {
#pragma unroll
      for (int i = 0; i < 2 * COUNT; i++) y[i] = v[i];
    } else if (acc_row + 8 * (q & 1) < T) {
      const u32 whose = rank ^ mine ^ q, bar = address_in(addends_full, whose);
      const u32 to = address_in(shared(a_tile + ADDENDS) + ((q ^ mine) - 1) * (256 * COUNT * 8), whose);
#pragma unroll
      for (int i = 0; i < COUNT / 2; i++)
        store_in(to + (i * 256 + tid) * 16, make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]), bar);
      store_in(to + COUNT / 2 * 4096 + tid * 8, make_float2(v[2 * COUNT - 2], v[2 * COUNT - 1]), bar);
    }
  }
  const int first = 8 * (mine & 1), kept = (T >> 4) * 8 + min(max((T & 15) - first, 0), 8);  // rows
  if (tid == 0) bar_expect(addends_full, kept * 64 * COUNT * (TEAM - 1));
  bar_wait(addends_full, parity);
  if (acc_row + first < T)
#pragma unroll
    for (int other = 0; other < TEAM - 1; other++) {
      const char *from = a_tile + ADDENDS + other * (256 * COUNT * 8);
#pragma unroll
      for (int i = 0; i < COUNT / 2; i++) {
        const float4 v = *(const float4 *)(from + (i * 256 + tid) * 16);
        y[4 * i] += v.x; y[4 * i + 1] += v.y; y[4 * i + 2] += v.z; y[4 * i + 3] += v.w;
      }
      const float2 v = *(const float2 *)(from + COUNT / 2 * 4096 + tid * 8);
      y[2 * COUNT - 2] += v.x; y[2 * COUNT - 1] += v.y;
    }
}

// The end of a sub-block: this program's part of 72 columns to those who finish the rows, the 8 parts of its own rows
// in, residual, input of the next norm and its sums of squares out.
__device__ __forceinline__ void Consumer::end_block(const float (&d)[20], const float4 &g, const float4 &s, u32 *done, u32 parity) {
  const int all = afresh(T), rows = afresh(own_rows);
#pragma unroll
  for (int half = 0; half < 2; half++)
    if (acc_row + 8 * half < all) {
      const u32 whose = (warp & 3) * 2 + half, bar = address_in(parts_full, whose);
      const u32 to = address_in(a_at + PARTS + ((rank * 8 + (lane >> 2)) * COLUMNS + group * 32) * 4, whose);
#pragma unroll
      for (int i = 0; i < 2; i++)  // columns are packed so that a thread has 4 neighbours of every 16
        store_in(to + (i * 16 + (lane & 3) * 4) * 4, make_float4(d[8 * i + 2 * half], d[8 * i + 2 * half + 1],
                 d[8 * i + 4 + 2 * half], d[8 * i + 5 + 2 * half]), bar);
      if (group) store_in(to + (32 + acc_col) * 4, make_float2(d[16 + 2 * half], d[17 + 2 * half]), bar);
    }
  if (rows) {
    if (tid == 0) bar_expect(parts_full, rows * 8 * COLUMNS * 4);
    bar_wait(parts_full, parity & 1);
  }
  float square = 0;
  if (owner) {
    const float *part = (float *)(a_tile + PARTS) + warp * COLUMNS + lane * 4;
    float4 sum = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float4 v = *(float4 *)(part + i * 8 * COLUMNS);
      sum.x += v.x; sum.y += v.y; sum.z += v.z; sum.w += v.w;
    }
    x.x += sum.x * g.x; x.y += sum.y * g.y; x.z += sum.z * g.z; x.w += sum.w * g.w;
    const uint2 out = {pack(x.x * (1.f + s.x), x.y * (1.f + s.y)), pack(x.z * (1.f + s.z), x.w * (1.f + s.w))};
    *(uint2 *)(p.h + (x_col >> 6) * BLOCK + at(x_row, (x_col & 63) >> 3) + (x_col & 4) * 2) = out;
    square = x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
  }
  if (warp < rows) {
#pragma unroll
    for (int o = 16; o; o >>= 1) square += __shfl_xor_sync(~0u, square, o);
    if (lane == 0) p.ss[x_row * 16 + cluster] = square;
  }
  publish(done);
  a_done();
}
