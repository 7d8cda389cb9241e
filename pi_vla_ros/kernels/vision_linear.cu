// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// A matrix product of the vision tower with everything that stands around it: see vision_linear.py for what it equals.
//
// A program makes a tile of 128 × BN: one warp loads, two warpgroups multiply 64 rows each. Two programs with
// neighbouring tiles of rows share their rows of W: they load them in turn, the copy engine delivers them to both.
// SPLIT 2: two programs have the same tile and half of the depth each; at the end each gives away half of its columns of
// sums, through the other's shared memory, and finishes the other half. So a cluster has 2 · SPLIT programs and 256 rows.
//
// LayerNorm is applied to the result: with W, b that have its weight and bias folded in, and s the row sums of W,
//   LN(x) Wᵀ + b = (x Wᵀ − mean · s) · rstd + b,   mean and rstd from the moments that the product before has left.
// s is made from the rounded W, so nothing but fp32 rounding is lost to a mean however large.
//
// Compile-time: BN, MMA (its wrapper), STAGES, CLUSTER = 2 · SPLIT; PARTS of the moments (0: no LayerNorm); EPILOGUE:
// PLAIN; GELU; RESIDUAL (onto x, with the moments of the result); PREFIX (into the rows of the prefix, with their Σx²).

constexpr int SPLIT = CLUSTER / 2, BM = 128, BK = 64, PLAIN = 0, GELU = 1, RESIDUAL = 2, PREFIX = 3;
constexpr int A_BYTES = BM * BK * 2, W_BYTES = BN * BK * 2, STAGE = A_BYTES + W_BYTES;
constexpr int CONSTANTS = 2 * BN * 4;             // s and b of a tile
constexpr int MINE = BN / SPLIT;                  // columns of a tile that this program finishes
constexpr int GIVEN = (SPLIT - 1) * BM * MINE * 4;  // bytes of sums that come from the other half of the depth
constexpr int REST = MINE % 32 / 8;               // blocks of 8 columns behind the last 32: not packed, 2 columns a thread
static_assert(EPILOGUE < RESIDUAL || REST == 0, "sums are of whole groups of 32 columns");

// out [M, N]; RESIDUAL: out = x, sums_out is moments [N / MINE, sums_stride, 2]; PREFIX: row r goes to row
// r / image_rows · share_rows + r % image_rows, sums_out is [N / MINE, sums_stride]. moments [PARTS, stride]; constants
// [tiles of N, 2, BN]. M is a multiple of 256; N one of 8, or, where there are sums, of BN.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(288, 1)
vision_linear(const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap w_map, const float *constants,
              char *out, const float2 *moments, float *sums_out, int M, int N, int K, int stride, int sums_stride,
              int image_rows, int share_rows) {
  extern __shared__ char raw[];
  char *base = (char *)(((u64)raw + 1023) & ~1023ull);
  float *consts = (float *)(base + STAGES * STAGE);                      // of this tile, of the next
  const float4 *given = (const float4 *)(base + STAGES * STAGE + 2 * CONSTANTS);  // [MINE / 8][256 threads]
  const u32 stages = shared(base), full = stages + STAGES * STAGE + 2 * CONSTANTS + GIVEN, empty = full + 8 * STAGES;
  const u32 given_full = empty + 8 * STAGES, given_taken = given_full + 8;
  const int warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31;
  const u32 rank = cluster_rank(), share = rank / SPLIT, split = rank % SPLIT;
  const int tiles_m = M / (2 * BM), all = (K + BK - 1) / BK, tiles = tiles_m * ((N + BN - 1) / BN);
  const int first = all * split / SPLIT, steps = all * (split + 1) / SPLIT - first;
  const int cluster = blockIdx.x / CLUSTER, clusters = gridDim.x / CLUSTER;
  int top, tile;             // this program's tile: first row, number of its columns
  auto go_to = [&](int i) {  // programs at work at the same time share columns of W
    top = (i % tiles_m * 2 + (int)share) * BM;
    tile = i / tiles_m;
  };

  chain_start();
  if (threadIdx.x == 0) {
    map_in(&w_map);
    map_in(&a_map);
    for (int i = 0; i < STAGES; i++) { bar_init(full + 8 * i, 1); bar_init(empty + 8 * i, 4); }
    bar_init(given_full, 1);
    bar_init(given_taken, 8);
    bar_init_done();
  }
  go_to(cluster);  // divisions are slow: not in the loop of loads, for which the copy engine would wait
  cluster_meet();

  if (warp == 8) {  // ---- loads
    if (lane == 0) {
      auto ask_w = [&](int turn, int k, int slot) {  // and announces the whole stage
        const u32 bar = full + 8 * slot;
        bar_expect(bar, STAGE + (k ? 0 : CONSTANTS));
        if (k == 0) copy_in(shared(consts) + (turn & 1) * CONSTANTS, constants + tile * (2 * BN), CONSTANTS, bar);
        if ((k & 1) == (int)share)
          tile_in_all(stages + slot * STAGE + A_BYTES, &w_map, (first + k) * BK, tile * BN, bar, SPLIT == 1 ? 3 : 5 << split);
      };
      const int ahead = steps < STAGES ? steps : STAGES;  // of weights: nobody writes them, no need to wait
      for (int k = 0; k < ahead; k++) ask_w(0, k, k);
      chain_wait();
      Walk<STAGES> s;
      for (int i = cluster, turn = 0; i < tiles; i += clusters, turn++) {
        if (turn) go_to(i);
        for (int k = 0; k < steps; k++, s.next()) {
          bar_wait(empty + 8 * s.slot, s.parity ^ 1);
          if (turn || k >= ahead) ask_w(turn, k, s.slot);
          tile_in(stages + s.slot * STAGE, &a_map, (first + k) * BK, top, full + 8 * s.slot);
        }
      }
    }
    __syncwarp();
    cluster_arrive();
  } else {  // ---- two warpgroups, 64 rows each
    const int group = uniform(warp >> 2), quad = lane & 3;
    // to both loaders that write a slot, one warp of a group tells each
    GiveBack release{address_in(empty, (warp & 1) * SPLIT + split), (tiles - cluster + clusters - 1) / clusters * steps - STAGES,
                     (warp & 3) < 2 && lane == 0};
    const float per = 1.f / K;
    chain_wait();
    Walk<STAGES> s;
    for (int i = cluster, turn = 0; i < tiles; i += clusters, turn++) {
      if (turn) go_to(i);
      const int row = top + group * 64 + (warp & 3) * 16 + (lane >> 2);  // and row + 8
      const int col = tile * BN + (int)split * MINE;
      if (SPLIT == 2 && threadIdx.x == 0) bar_expect(given_full, GIVEN);
      float mean[2] = {0, 0}, rstd[2] = {1, 1};
      if (PARTS) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
          float2 m[(PARTS + 3) / 4 + !PARTS];
#pragma unroll
          for (int j = 0; j < (PARTS + 3) / 4; j++)
            m[j] = 4 * j + quad < PARTS ? __ldcg(moments + (4 * j + quad) * stride + row + 8 * h) : make_float2(0, 0);
          float sum = 0, square = 0;
#pragma unroll
          for (int j = 0; j < (PARTS + 3) / 4; j++) { sum += m[j].x; square += m[j].y; }
#pragma unroll
          for (int o = 1; o < 4; o *= 2) { sum += __shfl_xor_sync(~0u, sum, o); square += __shfl_xor_sync(~0u, square, o); }
          mean[h] = sum * per;
          rstd[h] = rsqrtf(fmaxf(square * per - mean[h] * mean[h], 0.f) + 1e-6f);
        }
      }
      uint4 before[EPILOGUE == RESIDUAL ? MINE / 16 : 1];
      if (EPILOGUE == RESIDUAL)
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
          for (int g = 0; g < MINE / 32; g++)
            before[h * (MINE / 32) + g] = __ldcg((const uint4 *)(out + ((row + 8 * h) * N + col + g * 32 + quad * 8) * 2));

      float d[BN / 2];
      int last = 0;
      for (int k = 0; k < steps; k++, s.next()) {
        bar_wait(full + 8 * s.slot, s.parity);
        const u32 stage = stages + s.slot * STAGE;
        const u64 a = tile_at(stage + group * (A_BYTES / 2)), w = tile_at(stage + A_BYTES);
        mma_begin();
#pragma unroll
        for (int j = 0; j < 4; j++) MMA(d, a + 2 * j, w + 2 * j, k | j);
        mma_commit();
        if (k) { mma_wait<1>(); release(last); }
        last = s.slot;
      }
      mma_wait<0>();
      release(last);
      __syncwarp();
      if (i + clusters >= tiles && SPLIT == 1) cluster_arrive();  // the others' memory is not touched from here on

      float y[2][MINE / 4];  // rows row + 8 h; columns 8 of every 32 (quad · 8 + ...), then 2 of every 8 of the rest
      if (SPLIT == 1) {
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
          for (int t = 0; t < MINE / 4; t++) y[h][t] = d[4 * (t >> 1) + 2 * h + (t & 1)];
      } else {
        const u32 other = rank ^ 1, to = address_in(shared(given), other) + threadIdx.x * 16;
        const u32 told = address_in(given_full, other);
        if (turn) bar_wait(given_taken, (turn & 1) ^ 1);
#pragma unroll
        for (int t = 0; t < MINE / 8; t++) {
          const int lo = 4 * t, hi = 4 * t + BN / 4;  // a block of 8 columns: registers of rows row, row, row + 8, row + 8
          store_in(to + t * 4096, make_float4(split ? d[lo] : d[hi], split ? d[lo + 1] : d[hi + 1], split ? d[lo + 2] : d[hi + 2],
                                              split ? d[lo + 3] : d[hi + 3]), told);
        }
        bar_wait(given_full, turn & 1);
#pragma unroll
        for (int t = 0; t < MINE / 8; t++) {
          const int lo = 4 * t, hi = 4 * t + BN / 4;
          const float4 its = given[t * 256 + threadIdx.x];
          y[0][2 * t] = (split ? d[hi] : d[lo]) + its.x;
          y[0][2 * t + 1] = (split ? d[hi + 1] : d[lo + 1]) + its.y;
          y[1][2 * t] = (split ? d[hi + 2] : d[lo + 2]) + its.z;
          y[1][2 * t + 1] = (split ? d[hi + 3] : d[lo + 3]) + its.w;
        }
        __syncwarp();
        if (i + clusters < tiles) { if (lane == 0) bar_arrive_in(address_in(given_taken, other)); }
        else cluster_arrive();
      }

      const float *sums = consts + (turn & 1) * 2 * BN + split * MINE, *bias = sums + BN;
      int place[2];
      char *to[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int r = row + 8 * h;
        place[h] = EPILOGUE == PREFIX ? r / image_rows * share_rows + r % image_rows : r;
        to[h] = out + ((long long)place[h] * N + col) * 2;
      }
      float sum[2] = {0, 0}, square[2] = {0, 0};
      auto finished = [&](float v, int h, float s, float b) {
        v = PARTS ? (v - mean[h] * s) * rstd[h] + b : v + b;
        return EPILOGUE == GELU ? gelu_tanh_fast(v) : v;
      };
#pragma unroll
      for (int g = 0; g < MINE / 32; g++) {
        const int c = g * 32 + quad * 8;
        float s[8], b[8];
#pragma unroll
        for (int t = 0; t < 8; t += 4) {
          if (PARTS) *(float4 *)(s + t) = *(const float4 *)(sums + c + t);
          *(float4 *)(b + t) = *(const float4 *)(bias + c + t);
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
          float v[8];
#pragma unroll
          for (int t = 0; t < 8; t++) v[t] = finished(y[h][8 * g + t], h, s[t], b[t]);
          if (EPILOGUE == RESIDUAL) {
            const uint4 x = before[h * (MINE / 32) + g];
            const u32 old[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
            for (int t = 0; t < 4; t++) { v[2 * t] += lower(old[t]); v[2 * t + 1] += upper(old[t]); }
          }
          const u32 words[4] = {pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7])};
          if (EPILOGUE >= RESIDUAL)  // of what the next product reads: the rounded numbers
#pragma unroll
            for (int t = 0; t < 4; t++) {
              const float lo = lower(words[t]), hi = upper(words[t]);
              sum[h] += lo + hi;
              square[h] += lo * lo + hi * hi;
            }
          if (col + c < N) *(uint4 *)(to[h] + c * 2) = make_uint4(words[0], words[1], words[2], words[3]);
        }
      }
#pragma unroll
      for (int g = 0; g < REST; g++) {
        const int c = MINE / 32 * 32 + g * 8 + quad * 2;
        const float2 s = *(const float2 *)(sums + c), b = *(const float2 *)(bias + c);
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const float *v = y[h] + MINE / 32 * 8 + 2 * g;
          if (col + c < N) *(u32 *)(to[h] + c * 2) = pack(finished(v[0], h, s.x, b.x), finished(v[1], h, s.y, b.y));
        }
      }
      if (EPILOGUE >= RESIDUAL)
#pragma unroll
        for (int h = 0; h < 2; h++) {
#pragma unroll
          for (int o = 1; o < 4; o *= 2) {
            sum[h] += __shfl_xor_sync(~0u, sum[h], o);
            square[h] += __shfl_xor_sync(~0u, square[h], o);
          }
          const int at = col / MINE * sums_stride + place[h];
          if (quad == 0 && EPILOGUE == RESIDUAL) ((float2 *)sums_out)[at] = make_float2(sum[h], square[h]);
          if (quad == 0 && EPILOGUE == PREFIX) sums_out[at] = square[h];
        }
    }
  }
  cluster_wait();  // nobody leaves while the others may still write to it
}
