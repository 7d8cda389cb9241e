// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// A matrix product of the prefix stack with everything that stands around it: see hopper_linear.py for what it equals.
//
// Two programs (a cluster) take tiles of 128 × BN side by side: each loads its own rows of W and half of A's, which the
// copy engine delivers to both. In a program one thread loads and two warpgroups multiply 64 rows each; where only up to
// 64 rows are left, they share the columns instead. Results stay in registers until they are stored. Programs take tile
// after tile; the loader runs ahead into the next one while the last one is stored.
//
// The rows of W are packed so that a thread holds 8 neighbouring columns of the output (a 16-byte store) and four threads
// 32 of them.
//
// Compile-time: BN, MMA and HALF_MMA (its wrappers for BN and BN / 2), STAGES; PARTS in which A's row sums come (0: no norm);
// EPILOGUE: one of GEGLU (W alternates gate and up), RESIDUAL (onto x, with the row sums of the result), QKV (rotation,
// K/V cache); CHUNKED: the cache is a list of chunks (one robot, kernels/flow_loop.py), else rows.

constexpr int BM = 128, BK = 64, GEGLU = 0, RESIDUAL = 1, QKV = 2;
constexpr int A_BYTES = BM * BK * 2, W_BYTES = BN * BK * 2, STAGE = A_BYTES + W_BYTES;
constexpr int CHUNK = 64 * 512;  // bytes of the keys (or values) of 64 positions: four tiles

// EPILOGUE by EPILOGUE: GEGLU out [M, N / 2]; RESIDUAL out = x [M, N] + ..., sums_out [2 N / BN, sums_stride];
// QKV: queries out [M, heads · 256], keys, values; row r is token r % tokens of a robot.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
hopper_linear(const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap w_map, char *out,
              const char *x, const float *sums_in, float *sums_out, char *keys, char *values, const float *cos,
              const float *sin, int M, int N, int K, int sums_stride, int heads, int tokens, int cache_rows) {
  extern __shared__ char raw[];
  char *base = (char *)(((u64)raw + 1023) & ~1023ull);
  const u32 stages = shared(base), full = stages + STAGES * STAGE, empty = full + 8 * STAGES;
  const int warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31;
  const u32 rank = cluster_rank();
  const int tiles_m = (M + BM - 1) / BM, steps = K / BK, tiles = tiles_m * (N / BN / 2);  // of both programs
  const int cluster = blockIdx.x / 2, clusters = gridDim.x / 2;
  struct Tile { int row, col; bool half; };
  auto tile_of = [&](int i) {  // programs at work at the same time share columns of W in the L2 cache
    const int row = i % tiles_m * BM;
    return Tile{row, (i / tiles_m * 2 + (int)rank) * BN, BN % 64 == 0 && M - row <= 64};
  };

  chain_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) { bar_init(full + 8 * i, 1); bar_init(empty + 8 * i, 4); }
    bar_init_done();
  }
  cluster_meet();

  if (warp >= 8) {  // ---- loads
    fewer_registers<40>();
    if (warp == 8 && lane == 0 && cluster < tiles) {
      auto ask_w = [&](const Tile &tile, int k, int slot) {
        bar_expect(full + 8 * slot, tile.half ? STAGE - A_BYTES / 2 : STAGE);
        tile_in(stages + slot * STAGE + A_BYTES, &w_map, k * BK, tile.col, full + 8 * slot);
      };
      map_in(&a_map);
      const int ahead = steps < STAGES ? steps : STAGES;  // of weights: nobody writes them, no need to wait
      for (int k = 0; k < ahead; k++) ask_w(tile_of(cluster), k, k);
      chain_wait();
      Walk<STAGES> s;
      for (int i = cluster; i < tiles; i += clusters) {
        const Tile tile = tile_of(i);
        for (int k = 0; k < steps; k++, s.next()) {
          bar_wait(empty + 8 * s.slot, s.parity ^ 1);
          if (i != cluster || k >= ahead) ask_w(tile, k, s.slot);
          if (!tile.half || rank == 0)
            tile_in_all(stages + s.slot * STAGE + rank * (A_BYTES / 2), &a_map, k * BK, tile.row + rank * (BM / 2),
                        full + 8 * s.slot, 3);
        }
      }
    }
    __syncwarp();
  } else {  // ---- two warpgroups, 64 rows each
    more_registers<232>();
    const int group = uniform(warp >> 2), quad = lane & 3;
    // to both loaders that write a slot, one warp of a group tells each
    GiveBack release{address_in(empty, warp & 1), (tiles - cluster + clusters - 1) / clusters * steps - STAGES,
                     (warp & 3) < 2 && lane == 0};
    chain_wait();
    Walk<STAGES> s;
    for (int i = cluster; i < tiles; i += clusters) {
      const Tile tile = tile_of(i);
      const int row = tile.row + (tile.half ? 0 : group * 64) + (warp & 3) * 16 + (lane >> 2);
      const int col = tile.col + (tile.half ? group * (BN / 2) : 0), width = tile.half ? BN / 2 : BN;
      float squares[2][(PARTS + 3) / 4 + !PARTS];  // of A's rows `row`, `row + 8`: asked for now, needed behind the product
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < (PARTS + 3) / 4; j++)
          squares[h][j] = row + 8 * h < M && 4 * j + quad < PARTS ? __ldcg(sums_in + (4 * j + quad) * sums_stride + row + 8 * h) : 0.f;
      uint4 before[EPILOGUE == RESIDUAL ? 2 * BN / 32 : 1];
      if (EPILOGUE == RESIDUAL)
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
          for (int g = 0; g < BN / 32; g++)
            if (row + 8 * h < M && g * 32 < width)
              before[h * (BN / 32) + g] = __ldcg((const uint4 *)(x + ((row + 8 * h) * N + col + g * 32 + quad * 8) * 2));

      float d[BN / 2];
      int last = 0;
      for (int k = 0; k < steps; k++, s.next()) {
        bar_wait(full + 8 * s.slot, s.parity);
        const u32 stage = stages + s.slot * STAGE;
        if (BN % 64 == 0 && tile.half) {
          mma_begin();
          const u64 a = tile_at(stage), w = tile_at(stage + A_BYTES + group * (W_BYTES / 2));
#pragma unroll
          for (int j = 0; j < 4; j++) HALF_MMA(reinterpret_cast<float(&)[BN / 4]>(d), a + 2 * j, w + 2 * j, k | j);
          mma_commit();
        } else {
          const u64 a = tile_at(stage + group * (A_BYTES / 2)), w = tile_at(stage + A_BYTES);
          mma_begin();
#pragma unroll
          for (int j = 0; j < 4; j++) MMA(d, a + 2 * j, w + 2 * j, k | j);
          mma_commit();
        }
        if (k) { mma_wait<1>(); release(last); }
        last = s.slot;
      }
      mma_wait<0>();
      release(last);

#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int r = row + 8 * h;
        float scale = 1;  // the norm, applied to the result
        if (PARTS) {
          float sum = 0;
#pragma unroll
          for (int j = 0; j < (PARTS + 3) / 4; j++) sum += squares[h][j];
          sum += __shfl_xor_sync(~0u, sum, 1);
          sum += __shfl_xor_sync(~0u, sum, 2);
          scale = rsqrtf(sum / K + 1e-6f);
        }
        if (EPILOGUE == GEGLU) {
#pragma unroll
          for (int g = 0; g < BN / 64; g++) {
            if (g * 64 >= width) break;
            float y[8];
#pragma unroll
            for (int t = 0; t < 8; t++)
              y[t] = gelu_tanh_fast(d[4 * (8 * g + t) + 2 * h] * scale) * (d[4 * (8 * g + t) + 2 * h + 1] * scale);
            if (r < M)
              *(uint4 *)(out + ((long long)r * (N / 2) + col / 2 + g * 32 + quad * 8) * 2) =
                  make_uint4(pack(y[0], y[1]), pack(y[2], y[3]), pack(y[4], y[5]), pack(y[6], y[7]));
          }
          continue;
        }
        float square = 0;
#pragma unroll
        for (int g = 0; g < BN / 32; g++) {
          if (g * 32 >= width) break;
          float y[8];
#pragma unroll
          for (int t = 0; t < 8; t++) y[t] = d[4 * (4 * g + (t >> 1)) + 2 * h + (t & 1)] * scale;
          const int c = col + g * 32 + quad * 8;
          if (EPILOGUE == RESIDUAL) {
            const uint4 b = before[h * (BN / 32) + g];
            const u32 words[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int t = 0; t < 4; t++) { y[2 * t] += lower(words[t]); y[2 * t + 1] += upper(words[t]); }
#pragma unroll
            for (int t = 0; t < 8; t++) square += y[t] * y[t];
          }
          if (EPILOGUE == QKV && c < (heads + 1) * 256 && r < M) {  // queries and keys turn, pair by pair
            const int angle = (CHUNKED ? r : r % tokens) * 128 + ((c & 255) >> 1);
            const float4 cs = __ldg((const float4 *)(cos + angle)), sn = __ldg((const float4 *)(sin + angle));
            const float cosine[4] = {cs.x, cs.y, cs.z, cs.w}, sine[4] = {sn.x, sn.y, sn.z, sn.w};
#pragma unroll
            for (int t = 0; t < 4; t++) {
              const float y1 = y[2 * t], y2 = y[2 * t + 1];
              y[2 * t] = y1 * cosine[t] - y2 * sine[t];
              y[2 * t + 1] = y2 * cosine[t] + y1 * sine[t];
            }
          }
          uint4 packed = make_uint4(pack(y[0], y[1]), pack(y[2], y[3]), pack(y[4], y[5]), pack(y[6], y[7]));
          if (EPILOGUE == QKV && c >= heads * 256) {
            char *to = c < (heads + 1) * 256 ? keys : values;
            if (CHUNKED) {
              // positions behind the last row, up to a whole chunk, are 0: their weight is 0, and 0 · NaN would be NaN
              if (r >= M) packed = make_uint4(0, 0, 0, 0);
              if (r < cache_rows) *(uint4 *)(to + (r >> 6) * CHUNK + ((c & 255) >> 6) * 8192 + at(r & 63, (c & 63) >> 3)) = packed;
            } else if (r < M) {
              *(uint4 *)(to + ((r / tokens * cache_rows + r % tokens) * 256ll + (c & 255)) * 2) = packed;
            }
          } else if (r < M) {
            *(uint4 *)(out + ((long long)r * (EPILOGUE == QKV ? heads * 256 : N) + c) * 2) = packed;
          }
        }
        if (EPILOGUE == RESIDUAL) {
          square += __shfl_xor_sync(~0u, square, 1);
          square += __shfl_xor_sync(~0u, square, 2);
          if (quad == 0 && r < M) sums_out[col / (BN / 2) * sums_stride + r] = square;
          if (quad == 0 && r < M && !tile.half) sums_out[(col / (BN / 2) + 1) * sums_stride + r] = 0;
        }
      }
    }
  }
  cluster_meet();  // nobody leaves while the other may still write to it
}
