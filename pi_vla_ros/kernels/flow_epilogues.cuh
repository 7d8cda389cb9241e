// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// What flow_loop.cu and flow_ahead.cu do alike to the results of their products.

// d += a · bᵀ, of N columns.
template <int N> __device__ __forceinline__ void mma_of(float (&d)[N / 2], u64 a, u64 b) {
  if constexpr (N == 48) mma48(d, a, b, 1);
  else mma72(d, a, b, 1);
}

// 1 / root mean square of a row, from the clusters' sums of squares: 4 lanes a row, a lane's four of them.
__device__ __forceinline__ float root_scale(const float4 &squares) {
  float s = squares.x + squares.y + squares.z + squares.w;
  s += __shfl_xor_sync(~0u, s, 1);
  s += __shfl_xor_sync(~0u, s, 2);
  return rsqrtf(s * (1.f / WIDTH) + 1e-6f);
}

// Two neighbours of a row of QKV, from column `col` on: queries and keys turn, pair by pair.
__device__ __forceinline__ u32 turned_pair(int col, float y1, float y2, float cs, float sn) {
  return col < 2304 ? pack(y1 * cs - y2 * sn, y2 * cs + y1 * sn) : pack(y1, y2);
}
// Where they go: among the queries, or in the cache, at position `key`, whose chunk begins at `own`.
__device__ __forceinline__ char *place_of(const Params &p, const Cache &cache, long long own, int row, int key, int col) {
  const int block = (col & 255) >> 6, chunk = (col & 63) >> 3, rest = (col & 7) * 2;
  return (col < 2048 ? p.q + ((col >> 8) * 4 + block) * BLOCK + at(row, chunk)
                     : (col < 2304 ? cache.keys : cache.values) + own + block * KEYS + at(key & 63, chunk)) + rest;
}
// 8 of the 256 numbers of a position behind the last token: its weight is 0, and 0 · NaN would be NaN.
__device__ __forceinline__ void clear_position(const Cache &cache, int layer, int key, int piece) {
  const long long to = cache.at_chunk(layer, key >> 6) + (piece >> 3) * KEYS + at(key & 63, piece & 7);
  *(uint4 *)(cache.keys + to) = *(uint4 *)(cache.values + to) = make_uint4(0, 0, 0, 0);
}

// Scores of a thread's earlier or later row (half 0, 1) with a chunk: 1/√256 times, for powers of 2, and none for keys behind
// `last`, which counts from the thread's first one. Returns the largest of the row.
__device__ __forceinline__ float masked_top(float (&s)[32], int half, int last) {
  float top = -INFINITY;
#pragma unroll
  for (int t = 0; t < 8; t++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float &v = s[4 * t + 2 * half + e];
      v = t * 8 + e <= last ? v * (0.0625f * 1.4426950408889634f) : -INFINITY;
      top = fmaxf(top, v);
    }
  top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
  return fmaxf(top, __shfl_xor_sync(~0u, top, 2));
}

// The n-th four columns of a token, from the noise or between two steps, to those who read it: π0's through silu to the product
// before the layers, π0.5's to the first layer, with the scale of its norm.
__device__ __forceinline__ void hand_on(const Params &p, float4 y, const float *scale, int row, int n) {
  char *to = (STATE ? p.mixed : p.h) + (n >> 4) * BLOCK + at(row, (n & 15) >> 1) + (n & 1) * 8;
  if (STATE) {
    y.x /= 1.f + exp2_fast(-1.4426950408889634f * y.x); y.y /= 1.f + exp2_fast(-1.4426950408889634f * y.y);
    y.z /= 1.f + exp2_fast(-1.4426950408889634f * y.z); y.w /= 1.f + exp2_fast(-1.4426950408889634f * y.w);
    *(uint2 *)to = make_uint2(pack(y.x, y.y), pack(y.z, y.w));
  } else {
    const float4 s = __ldg((const float4 *)(scale + n * 4));
    *(float4 *)(p.xg + row * WIDTH + n * 4) = y;
    *(uint2 *)to = make_uint2(pack(y.x * (1.f + s.x), y.y * (1.f + s.y)), pack(y.z * (1.f + s.z), y.w * (1.f + s.w)));
  }
}
