// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// hopper_linear.cu's product onto the residual stream, transposed: rows of W are the tensor core's rows, tokens its columns.
// Those come in eights, so that tiles of T tokens fill the chip where 128 rows do not: see hopper_columns.py.
//
// A program has a tile of T tokens × 128 rows of W: one thread loads, two warpgroups multiply 64 rows of W each. Two
// programs (a cluster) have the same rows of W and other tokens: each loads half of W for both.
//
// W is the one that hopper_linear.cu reads. In its order a warp's 16 rows are, eight columns of the output apart, four
// times four neighbours: two in a thread, the other two in the thread four lanes on. They have the same two tokens; each
// gives away one and stores four neighbouring columns of the other.
//
// Compile-time: T (≤ 192: registers), MMA (the wrapper for T), STAGES.

constexpr int BN = 128, BK = 64, W_BYTES = BN * BK * 2, STAGE = W_BYTES + T * BK * 2;

// x [M, N] += ..., sums_out [N / 64, sums_stride]; `pairs` of token tiles. a_map ends at row M.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(288, 1)
hopper_columns(const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap w_map, char *x, float *sums_out,
               int M, int N, int K, int pairs, int sums_stride) {
  extern __shared__ char raw[];
  char *base = (char *)(((u64)raw + 1023) & ~1023ull);
  const u32 stages = shared(base), full = stages + STAGES * STAGE, empty = full + 8 * STAGES;
  const int warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31, steps = K / BK;
  const int rank = cluster_rank(), cluster = blockIdx.x / 2;
  const int tile = cluster / pairs, token = (cluster % pairs * 2 + rank) * T;

  chain_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) { bar_init(full + 8 * i, 1); bar_init(empty + 8 * i, 4); }
    bar_init_done();
  }
  cluster_meet();

  if (warp == 8) {  // ---- loads
    if (lane == 0) {
      auto ask_w = [&](int k, int slot) {
        bar_expect(full + 8 * slot, STAGE);
        tile_in_all(stages + slot * STAGE + rank * (W_BYTES / 2), &w_map, k * BK, tile * BN + rank * (BN / 2),
                    full + 8 * slot, 3);
      };
      map_in(&a_map);
      const int ahead = steps < STAGES ? steps : STAGES;  // of weights: nobody writes them, no need to wait
      for (int k = 0; k < ahead; k++) ask_w(k, k);
      chain_wait();
      Walk<STAGES> s;
      for (int k = 0; k < steps; k++, s.next()) {
        bar_wait(empty + 8 * s.slot, s.parity ^ 1);
        if (k >= ahead) ask_w(k, s.slot);
        tile_in(stages + s.slot * STAGE + W_BYTES, &a_map, k * BK, token, full + 8 * s.slot);
      }
    }
    __syncwarp();
  } else {  // ---- two warpgroups, 64 rows of W each
    const int group = uniform(warp >> 2), odd = lane >> 2 & 1;
    const int mine = token + (lane & 3) * 2 + odd;  // of eight tokens, the one that this thread stores
    const int col = tile * BN + (warp >> 1) * 32 + (lane >> 3) * 8 + (warp & 1) * 4;  // and the three behind it
    // to both loaders that write a slot, one warp of a group tells each
    GiveBack release{address_in(empty, warp & 1), steps - STAGES, (warp & 3) < 2 && lane == 0};
    chain_wait();
    uint2 before[T / 8];
#pragma unroll
    for (int j = 0; j < T / 8; j++)
      if (mine + j * 8 < M) before[j] = __ldcg((const uint2 *)(x + ((mine + j * 8) * N + col) * 2));

    float d[T / 2];
    int last = 0;
    Walk<STAGES> s;
    for (int k = 0; k < steps; k++, s.next()) {
      bar_wait(full + 8 * s.slot, s.parity);
      const u64 w = tile_at(stages + s.slot * STAGE + group * (W_BYTES / 2)), a = tile_at(stages + s.slot * STAGE + W_BYTES);
      mma_begin();
#pragma unroll
      for (int j = 0; j < 4; j++) MMA(d, w + 2 * j, a + 2 * j, k | j);
      mma_commit();
      if (k) { mma_wait<1>(); release(last); }
      last = s.slot;
    }
    mma_wait<0>();
    release(last);

    float *squares = (float *)(base + STAGES * (STAGE + 16));  // [8][T]
#pragma unroll
    for (int j = 0; j < T / 8; j++) {
      // columns odd, odd + 2 of two tokens
      const float a0 = odd ? d[4 * j + 1] : d[4 * j], a1 = odd ? d[4 * j + 3] : d[4 * j + 2];
      const float b0 = __shfl_xor_sync(~0u, odd ? d[4 * j] : d[4 * j + 1], 4);
      const float b1 = __shfl_xor_sync(~0u, odd ? d[4 * j + 2] : d[4 * j + 3], 4);
      const float y0 = (odd ? b0 : a0) + lower(before[j].x), y1 = (odd ? a0 : b0) + upper(before[j].x);
      const float y2 = (odd ? b1 : a1) + lower(before[j].y), y3 = (odd ? a1 : b1) + upper(before[j].y);
      if (mine + j * 8 < M) *(uint2 *)(x + ((mine + j * 8) * N + col) * 2) = make_uint2(pack(y0, y1), pack(y2, y3));
      float square = y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3;
      square += __shfl_xor_sync(~0u, square, 8);
      square += __shfl_xor_sync(~0u, square, 16);
      if (lane < 8) squares[warp * T + mine - token + j * 8] = square;
    }
    if (group) meet<2, 128>(); else meet<1, 128>();
    for (int t = threadIdx.x & 127; t < T && token + t < M; t += 128) {
      const float *of = squares + group * 4 * T + t;
      sums_out[(tile * 2 + group) * sums_stride + token + t] = of[0] + of[T] + of[2 * T] + of[3 * T];
    }
  }
  cluster_meet();  // nobody leaves while the other may still write to it
}
