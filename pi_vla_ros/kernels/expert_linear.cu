// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// A matrix product of the expert for several robots' tokens, with everything that stands around it: see expert_linear.py
// for what it equals and how it is cut.
//
// Rows of W are the tensor core's rows, T tokens its columns, as in hopper_columns.cu. Each of WGS warpgroups multiplies 64
// rows of W; one more warp loads, and one finds out what all must know of the tokens. SHARES programs (a cluster) have the
// same rows and tokens and a part of the depth each. Token groups of eight are dealt out to them: a share finishes every
// SHARES-th group and gets the others' sums of it through distributed shared memory, from each thread to its like. They
// are added in one order: the same bits in every run.
//
// W is asked for before the wait for the predecessor: nobody writes it.
//
// Compile-time: EPILOGUE (QKV, RESIDUAL, GEGLU), WGS, T, MMA (the wrapper for T), SHARES, STAGES; HELD: tables have a second
// row, for the first delay[robot] tokens of a robot.

constexpr int QKV = 0, RESIDUAL = 1, GEGLU = 2, BK = 64, HEAD = 256;
constexpr int ROWS = 64 * WGS, CONSUMERS = 128 * WGS, WARPS = 4 * WGS;
constexpr int W_BYTES = ROWS * BK * 2, STAGE = W_BYTES + T * BK * 2, RING = STAGES * STAGE;
constexpr int GROUPS = T / 8, MINE = (GROUPS + SHARES - 1) / SHARES;  // groups of tokens; that a share finishes, at most
constexpr int PART = MINE * CONSUMERS * 16;          // bytes of sums from one share
constexpr bool ASKS = EPILOGUE != RESIDUAL || HELD;  // about tokens
constexpr int PLACE = ROWS + 16;  // GEGLU: bytes of a token's results in shared memory, eight tokens in all banks
static_assert(EPILOGUE != GEGLU || (SHARES == 1 && T * PLACE <= RING));

struct Token { float norm; int held; };

// Of 16 rows × 8 tokens of the tensor core's result a thread has rows lane / 4 and + 8 at two tokens; it gets four neighbouring
// rows, from row_of(lane) on, at token_of(lane).
__device__ __forceinline__ int row_of(int lane) { return (lane & 8) + (lane >> 4) * 4; }
__device__ __forceinline__ int token_of(int lane) { return (lane & 3) * 2 + (lane >> 2 & 1); }
__device__ __forceinline__ float4 neighbours(float4 d, int lane) {
  const bool odd = lane & 4, high = lane & 8;
  const float lo = __shfl_xor_sync(~0u, odd ? d.x : d.y, 4), hi = __shfl_xor_sync(~0u, odd ? d.z : d.w, 4);
  const float2 low = odd ? make_float2(lo, d.y) : make_float2(d.x, lo), above = odd ? make_float2(hi, d.w) : make_float2(d.z, hi);
  const float x = __shfl_xor_sync(~0u, high ? low.x : above.x, 8), y = __shfl_xor_sync(~0u, high ? low.y : above.y, 8);
  return high ? make_float4(x, y, above.x, above.y) : make_float4(low.x, low.y, x, y);
}

// a [M, K], w [N, K]; tables [1 + HELD, N]; `tokens` a robot.
// QKV: sums [parts, stride] of a's rows, table (or nothing) added, out [M, N - 512], keys, values [robots, key_rows, 256] from
//   starts[robot] on; cos, sin [positions, 128].
// RESIDUAL: x [M, N] += product · table (or 1), out = x · (1 + scales (or 0)), sums [N / ROWS, stride] of x's rows.
// GEGLU: sums and table as in QKV, out [M, N / 2].
extern "C" __global__ void __cluster_dims__(SHARES, 1, 1) __launch_bounds__(CONSUMERS + 64, 1)
expert_linear(const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap w_map, float *sums, int parts, int stride,
              const float *table, const float *scales, const int *delay, int tokens, const float *cos, const float *sin,
              const int *starts, char *out, char *keys, char *values, int key_rows, float *x, int M, int N, int K) {
  extern __shared__ char raw[];
  char *base = (char *)(((u64)raw + 1023) & ~1023ull), *received = base + RING;
  Token *of = (Token *)(received + (SHARES - 1) * PART);  // [T]
  float *squares = (float *)(of + T);                     // [WARPS][8 · MINE]
  const u32 ring = shared(base), full = shared(squares + (EPILOGUE == RESIDUAL ? WARPS * 8 * MINE : 0)), empty = full + 8 * STAGES;
  const u32 answered = empty + 8 * STAGES;
  const int warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31, tid = threadIdx.x;
  const int share = cluster_rank(), token_tiles = (M + T - 1) / T, cluster = blockIdx.x / SHARES;
  const int tile = cluster / token_tiles, token = cluster % token_tiles * T;
  const int all = K / BK, before_mine = all * share / SHARES, steps = all * (share + 1) / SHARES - before_mine;

  // What a thread needs behind the product: four neighbouring columns of the result, from `row` on, of the tokens
  // 8 · group + token_of(lane) of its share's groups. Asked for first: nobody writes tables, and `starts` were there before
  // the chain of kernels began.
  const int group = uniform(warp >> 2), row = tile * ROWS + warp * 16 + row_of(lane), queries = N - 2 * HEAD;
  const int first_of = token + share * 8 + token_of(lane);  // and every 8 · SHARES tokens on
  float4 adds[1 + HELD], stretch[1 + HELD];
  int position[EPILOGUE == QKV ? MINE : 1], place[EPILOGUE == QKV ? MINE : 1];  // in the sequence; row of keys and values
  chain_start();
  if (warp < WARPS) {
#pragma unroll
    for (int h = 0; h < 1 + HELD; h++) {
      const float o = EPILOGUE == RESIDUAL ? 1.f : 0.f;
      adds[h] = table ? __ldg((const float4 *)(table + h * N + row)) : make_float4(o, o, o, o);
      if (EPILOGUE == RESIDUAL) stretch[h] = scales ? __ldg((const float4 *)(scales + h * N + row)) : make_float4(0, 0, 0, 0);
    }
    if (EPILOGUE == QKV)
#pragma unroll
      for (int i = 0; i < MINE; i++) {
        const int m = min(first_of + 8 * SHARES * i, M - 1), robot = m / tokens;
        position[i] = starts[robot] + m - robot * tokens;
        place[i] = robot * key_rows + position[i];
      }
  }
  // Tiles begin at different blocks of the depth, or all would ask for the same lines at once.
  const bool loads = warp == WARPS && lane == 0;
  const int ahead = steps < STAGES ? steps : STAGES;
  int ask = tile % steps, take = ask;
  auto ask_w = [&](int slot) {
    bar_expect(full + 8 * slot, STAGE);
    tile_in(ring + slot * STAGE, &w_map, (before_mine + ask) * BK, tile * ROWS, full + 8 * slot);
    if (++ask == steps) ask = 0;
  };
  if (loads) {
    for (int i = 0; i < STAGES; i++) { bar_init(full + 8 * i, 1); bar_init(empty + 8 * i, WGS); }
    bar_init(answered, 1);
    bar_init_done();
    fence_shared();  // the copy engine finds the barriers: W does not wait for the cluster
    for (int k = 0; k < ahead; k++) ask_w(k);
    bar_expect(answered, (SHARES - 1) * ((GROUPS + SHARES - 1 - share) / SHARES) * CONSUMERS * 16);
    map_in(&a_map);
  }
  __syncwarp();
  if (SHARES > 1) cluster_meet();
  else __syncthreads();

  if (warp >= WARPS) {
    if (loads) {
      chain_wait();
      Walk<STAGES> s;
      for (int k = 0; k < steps; k++, s.next()) {
        bar_wait(empty + 8 * s.slot, s.parity ^ 1);
        if (k >= ahead) ask_w(s.slot);
        tile_in(ring + s.slot * STAGE + W_BYTES, &a_map, (before_mine + take) * BK, token, full + 8 * s.slot);
        if (++take == steps) take = 0;
      }
    }
    if (warp > WARPS && ASKS) {  // ---- norms of rows, and which are committed actions
      constexpr int ROUNDS = (T + 31) / 32, BATCH = 8;
      float square[ROUNDS] = {};
      chain_wait();
      for (int p = 0; EPILOGUE != RESIDUAL && p < parts; p += BATCH) {
        float v[ROUNDS][BATCH];  // all under way at once
#pragma unroll
        for (int i = 0; i < ROUNDS * BATCH; i++) {
          const int t = i / BATCH * 32 + lane, part = p + i % BATCH;
          v[i / BATCH][i % BATCH] = t < T && token + t < M && part < parts ? __ldcg(sums + part * stride + token + t) : 0;
        }
#pragma unroll
        for (int i = 0; i < ROUNDS * BATCH; i++) square[i / BATCH] += v[i / BATCH][i % BATCH];
      }
#pragma unroll
      for (int i = 0; i < ROUNDS; i++) {
        const int t = i * 32 + lane, m = token + t;
        const int held = HELD && t < T && m < M ? m % tokens < delay[m / tokens] : 0;
        if (t < T) of[t] = {rsqrtf(square[i] / K + 1e-6f), held};
      }
    }
    __syncwarp();
    if (warp > WARPS && ASKS) meet<1, CONSUMERS + 32>();
    return;
  }

  // ---- products
  float2 c[EPILOGUE == QKV ? MINE : 1], s[EPILOGUE == QKV ? MINE : 1];
  if (EPILOGUE == QKV)
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      c[i] = __ldg((const float2 *)(cos + position[i] * (HEAD / 2) + (row % HEAD) / 2));
      s[i] = __ldg((const float2 *)(sin + position[i] * (HEAD / 2) + (row % HEAD) / 2));
    }
  float4 before[EPILOGUE == RESIDUAL ? MINE : 1];
  if (EPILOGUE == RESIDUAL) {
    chain_wait();
#pragma unroll
    for (int i = 0; i < MINE; i++) before[i] = load4(x + min(first_of + 8 * SHARES * i, M - 1) * N + row);
  }

  auto release = [&](int slot) { if (warp % 4 == 0 && lane == 0) bar_arrive(empty + 8 * slot); };
  float d[T / 2];
  int last = 0;
  Walk<STAGES> r;
  for (int k = 0; k < steps; k++, r.next()) {
    bar_wait(full + 8 * r.slot, r.parity);
    const u64 w = tile_at(ring + r.slot * STAGE + group * 8192), a = tile_at(ring + r.slot * STAGE + W_BYTES);
    mma_begin();
#pragma unroll
    for (int j = 0; j < 4; j++) MMA(d, w + 2 * j, a + 2 * j, k | j);
    mma_commit();
    if (k) { mma_wait<1>(); release(last); }
    last = r.slot;
  }
  mma_wait<0>();
  release(last);
  __syncwarp();

  float4 y[MINE];
#pragma unroll
  for (int q = 0; q < SHARES; q++) {
    const u32 bar = address_in(answered, q);
    const u32 to = address_in(shared(received) + (share - (share > q)) * PART + tid * 16, q);
#pragma unroll
    for (int j = q; j < GROUPS; j += SHARES) {
      const float4 v = make_float4(d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]);
      if (q == share) y[j / SHARES] = v;
      else store_in(to + j / SHARES * (CONSUMERS * 16), v, bar);
    }
  }
  if (SHARES > 1) bar_wait(answered, 0);
  if (ASKS) meet<1, CONSUMERS + 32>();

#pragma unroll
  for (int i = 0; i < MINE; i++) {
    if (share + SHARES * i >= GROUPS) continue;
    const int m = first_of + 8 * SHARES * i, t = m - token;
    const bool live = m < M;
#pragma unroll
    for (int p = 0; p < SHARES - 1; p++) {
      const float4 v = *(const float4 *)(received + p * PART + (i * CONSUMERS + tid) * 16);
      y[i].x += v.x; y[i].y += v.y; y[i].z += v.z; y[i].w += v.w;
    }
    const float4 v = neighbours(y[i], lane);
    const Token it = ASKS ? of[t] : Token{1, 0};
    const bool held = HELD && it.held;
    const float4 b = held ? adds[HELD] : adds[0];

    if (EPILOGUE == RESIDUAL) {
      const float4 more = held ? stretch[HELD] : stretch[0];
      float4 sum = before[i];
      sum.x += v.x * b.x; sum.y += v.y * b.y; sum.z += v.z * b.z; sum.w += v.w * b.w;
      if (live) {
        *(float4 *)(x + m * N + row) = sum;
        *(uint2 *)(out + (m * N + row) * 2) = make_uint2(pack(sum.x * (1.f + more.x), sum.y * (1.f + more.y)),
                                                         pack(sum.z * (1.f + more.z), sum.w * (1.f + more.w)));
      }
      float square = sum.x * sum.x + sum.y * sum.y + sum.z * sum.z + sum.w * sum.w;
      square += __shfl_xor_sync(~0u, square, 8);
      square += __shfl_xor_sync(~0u, square, 16);
      if (lane < 8) squares[warp * (8 * MINE) + i * 8 + token_of(lane)] = square;
    } else {
      const float y0 = v.x * it.norm + b.x, y1 = v.y * it.norm + b.y, y2 = v.z * it.norm + b.z, y3 = v.w * it.norm + b.w;
      if (EPILOGUE == QKV && live) {
        const bool turns = row < queries + HEAD;  // such pairs stand side by side
        const uint2 z = turns ? make_uint2(pack(y0 * c[i].x - y1 * s[i].x, y1 * c[i].x + y0 * s[i].x),
                                           pack(y2 * c[i].y - y3 * s[i].y, y3 * c[i].y + y2 * s[i].y))
                              : make_uint2(pack(y0, y1), pack(y2, y3));
        *(uint2 *)(row < queries ? out + (m * queries + row) * 2 : (turns ? keys : values) + (place[i] * HEAD + row % HEAD) * 2) = z;
      }
      if (EPILOGUE == GEGLU)  // over the ring
        *(u32 *)(base + t * PLACE + warp * 16 + row_of(lane)) = pack(gelu_tanh(y0) * y1, gelu_tanh(y2) * y3);
    }
  }

  if (EPILOGUE != QKV) meet<2, CONSUMERS>();
  if (EPILOGUE == RESIDUAL)
    for (int i = tid; i < 8 * MINE; i += CONSUMERS) {
      const int t = (share + SHARES * (i / 8)) * 8 + i % 8;
      float square = 0;
#pragma unroll
      for (int p = 0; p < WARPS; p++) square += squares[p * (8 * MINE) + i];
      if (t < T && token + t < M) sums[tile * stride + token + t] = square;
    }
  if (EPILOGUE == GEGLU)
    for (int i = tid; i < T * (ROWS / 16); i += CONSUMERS) {
      const int t = i / (ROWS / 16), column = tile * ROWS + i % (ROWS / 16) * 16;  // of eight, in bytes
      if (token + t < M) *(uint4 *)(out + (token + t) * N + column) = *(const uint4 *)(base + t * PLACE + i % (ROWS / 16) * 16);
    }
}
