// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// The first layers of the flow loop's first step, on the four programs that the prefix leaves free: see flow_ahead.py.
//
// Why: a layer of the first step needs of the prefix only the keys and values of the same layer, and the prefix is at work
// fourteen times as long as the step. So four programs are enough, and they draw little of the power that limits the
// prefix. The flow loop (flow_loop.cu) begins where this ends; weights, tables and activations are the same memory.
//
// A program has a part of the columns of every product, at full depth, and two heads. One thread asks for everything, stage
// after stage: 64 columns of activations with the weights of both warpgroups for them, or the keys (or values) of 64
// positions; a few large copies for one barrier, because that thread is what limits. Programs hand over through the L2 cache,
// five times a layer; all wait for all.
//
// Compile-time: those of flow.cuh.

#include "flow.cuh"

constexpr int PROGRAMS = 4;
constexpr int OUT = 8 * QKV_SLOT, UP = OUT + 4 * TILE, DOWN = UP + 16 * TILE;  // of a program of the flow loop, in a layer
constexpr int POOL = 224 * 1024, MOST = 5;  // bytes of all stages, and how many there are at most
constexpr int QUERIES = 64 * 1024;          // two heads'; the stages of attention lie behind
static_assert(POOL + (2 * MOST + 2) * 8 + sizeof(Params) <= 232448);

// How the pool is cut for a product whose warpgroups have COUNT tiles [N, 64] of weights each: the activations (and
// what a tensor core reads behind fewer groups of rows), then the tiles of both in turn.
template <int N, int COUNT> struct Cut {
  static constexpr int WEIGHTS = 8192, TILE = N * 128, STAGE = WEIGHTS + 2 * COUNT * TILE, STAGES = POOL / STAGE < MOST ? POOL / STAGE : MOST;
};
using Qkv = Cut<48, 4>;
using Up = Cut<72, 3>;
using Residual = Cut<72, 2>;  // out, down, π0's entering
constexpr int CHUNK_STAGES = (POOL - QUERIES) / CHUNK;

// The stages in their order, round and round; each has its own count of rounds, for not all phases have as many.
struct Rounds {
  int stage = 0;
  u32 parities = 0;
  __device__ __forceinline__ u32 parity() const { return parities >> stage & 1; }
  __device__ __forceinline__ void next(int stages) {
    parities ^= 1u << stage;
    if (++stage == stages) stage = 0;
  }
};
// What asks for them: one thread.
struct Loader {
  u32 pool, full, empty;
  const u32 *hand_overs;  // counted by all programs
  Rounds at;
  u32 phase = 0;
  __device__ __forceinline__ void hand_over() { wait_for(hand_overs, PROGRAMS * ++phase); fence_global(); }
  __device__ __forceinline__ void wait_free(int stage) { bar_wait(empty + 8 * stage, at.parities >> stage & 1 ^ 1); }
  __device__ __forceinline__ void cut_anew() {
    at.stage = 0;
    for (int i = 0; i < MOST; i++) wait_free(i);
  }
  __device__ __forceinline__ u32 barrier() { return full + 8 * at.stage; }
  // A product: `weights(to, block, barrier)` asks for those of a block, `bytes` in all; activations lie in blocks from `from`.
  // As many weights as there are stages are asked for before the wait for the activations.
  template <class Of, class Weights>
  __device__ __forceinline__ void ask(int blocks, const char *from, int row_bytes, u32 bytes, bool waits, const Weights &weights) {
    cut_anew();
    for (; at.stage < Of::STAGES; at.stage++) {
      bar_expect(barrier(), bytes + row_bytes);
      weights(pool + at.stage * Of::STAGE + Of::WEIGHTS, at.stage, barrier());
    }
    at.stage = 0;
    if (waits) hand_over();
    for (int b = 0; b < blocks; b++) {
      const u32 to = pool + at.stage * Of::STAGE;
      if (b >= Of::STAGES) {
        wait_free(at.stage);
        bar_expect(barrier(), bytes + row_bytes);
        weights(to + Of::WEIGHTS, b, barrier());
      }
      copy_in(to, from + b * BLOCK, row_bytes, barrier());
      at.next(Of::STAGES);
    }
  }
};
// What arrives, as a consumer sees it.
struct Arrivals {
  u32 pool, full, empty;
  int group, lane;
  Rounds at;
  __device__ __forceinline__ u32 take(int bytes) {  // the next stage, arrived
    bar_wait(full + 8 * at.stage, at.parity());
    return pool + at.stage * bytes;
  }
  __device__ __forceinline__ void give_back(int stages) {
    if (lane == 0) bar_arrive(empty + 8 * at.stage);
    at.next(stages);
  }
};

template <int N> __device__ __forceinline__ void mma_of(float (&d)[N / 2], u64 a, u64 b) {
  if constexpr (N == 48) mma48(d, a, b, 1);
  else mma72(d, a, b, 1);
}

// d[c] += activations · tile c of this warpgroup, over `blocks` blocks of the inner axis; only `count` tiles are there.
// A stage is given back at once, for what limits is how much is under way; the other warpgroup keeps the tensor cores busy.
template <int N, int COUNT> __device__ __forceinline__ void product(Arrivals &in, float (&d)[COUNT][N / 2], int blocks, int count = COUNT) {
  using Of = Cut<N, COUNT>;
  in.at.stage = 0;
  for (int b = 0; b < blocks; b++) {
    const u32 stage = in.take(Of::STAGE);
    const u64 a = tile_at(stage), w = tile_at(stage + Of::WEIGHTS + in.group * Of::TILE);
#pragma unroll
    for (int c = 0; c < COUNT; c++)
      if (c < count) {
        mma_begin();
#pragma unroll
        for (int k = 0; k < 4; k++) mma_of<N>(d[c], a + 2 * k, w + c * (2 * Of::TILE >> 4) + 2 * k);
      }
    mma_commit();
    mma_wait<0>();
    in.give_back(Of::STAGES);
  }
}

// x_t, keys, values, target, delay: as in flow_loop. Layers 0 ... layers - 1, fewer than LAYERS.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)  // pairs: the prefix's programs come in pairs
flow_ahead(const Params *params, const float *x_t, const int *lengths, char *keys, char *values, int layer_chunks, int layers,
           const float *target, const int *delay) {
  extern __shared__ __align__(1024) char raw[];
  Params &p = *(Params *)(raw + POOL);
  u64 *bars = (u64 *)(&p + 1);  // full[MOST], empty[MOST], queries_full
  const u32 full = shared(bars), empty = full + 8 * MOST, queries_full = empty + 8 * MOST;
  // Tokens of the prefix, and actions that are the target's. Read where they are needed, like p: registers are for accumulators.
  int *const sizes = (int *)(bars + 2 * MOST + 1), &start = sizes[0], &committed = sizes[1];
  const int cta = blockIdx.x, warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31, tid = threadIdx.x;
  for (int i = tid; i < (int)(sizeof(Params) / 4); i += 384) ((u32 *)&p)[i] = ((const u32 *)params)[i];
  if (tid == 0) {
    for (int i = 0; i < MOST; i++) { bar_init(full + 8 * i, 1); bar_init(empty + 8 * i, 8); }
    bar_init(queries_full, 1);
    bar_init_done();
    start = lengths[0], committed = HELD ? *delay : 0;
  }
  __syncthreads();
  const int T = uniform((int)p.tokens), actions = T - STATE;
  constexpr int TIMES_OF = 1 + HELD, NORM = TIMES_OF * WIDTH;
  u32 *const all = p.counters + C_AHEAD * 32, *const ready = p.counters + C_READY * 32;

  if (warp >= 8) {  // ---- one thread asks for everything
    fewer_registers<88>();  // 88 + 2 · 208 = 3 · 168: what the program was given
    if (warp == 8 && lane == 0) {
    Loader in{shared(raw), full, empty, all};
    // Weights: read once, the L2 cache is the prefix's.
    // A warpgroup has two of the flow loop's clusters: 72 columns each of what goes onto the residual stream.
    auto ask_residual = [&](const char *w, int stride, int blocks, int tiles, const char *from) {
      in.ask<Residual>(blocks, from, T * 128, 4 * TILE, true, [&](u32 to, int b, u32 bar) {
        for (int i = 0; i < 4; i++) {
          const int cluster = min(4 * cta + 2 * (i & 1) + (i >> 1), CLUSTERS - 1);
          copy_in_once(to + i * TILE, w + (long long)(8 * cluster + b / tiles) * stride + b % tiles * TILE, TILE, bar);
        }
      });
    };
    if (STATE) ask_residual(p.mix, 2 * TILE, 16, 2, p.mixed);
    for (int layer = 0; layer < layers; layer++) {
      const char *w = p.weights[layer];
      for (int pass = 0; pass < 2; pass++)
        in.ask<Qkv>(16, p.h, T * 128, (4 - pass) * 2 * QKV_SLOT, pass == 0, [&](u32 to, int b, u32 bar) {
          for (int i = 0; i < 4 - pass; i++) {
            const int team = cta + 4 * (4 * pass + i);
            copy_in_once(to + i * 2 * QKV_SLOT,
                         w + (long long)(QKV_TEAM * team + (b >> 2)) * LAYER_BYTES + (b - team & 3) * 2 * QKV_SLOT, 2 * QKV_SLOT, bar);
          }
        });
      in.cut_anew();
      in.hand_over();
      bar_expect(queries_full, 8 * T * 128);
      for (int i = 0; i < 8; i++) copy_in(in.pool + i * BLOCK, p.q + (cta * 8 + i) * BLOCK, T * 128, queries_full);
      const int chunks = (start + T + 63) / 64;
      for (int i = 0; i < 2 * chunks; i++) {  // keys, values
        in.wait_free(in.at.stage);
        bar_expect(in.barrier(), CHUNK);
        copy_in(in.pool + QUERIES + in.at.stage * CHUNK, (i & 1 ? values : keys) + (long long)(layer * layer_chunks + i / 2) * CHUNK, CHUNK,
                in.barrier());
        in.at.next(CHUNK_STAGES);
      }
      ask_residual(w + OUT, LAYER_BYTES, 32, 4, p.att);
      for (int pass = 0; pass < 5; pass++)
        in.ask<Up>(16, p.h, T * 128, 6 * TILE, pass == 0, [&](u32 to, int b, u32 bar) {
          for (int i = 0; i < 3; i++) {
            const int team = (3 * pass + i) * 4 + cta;
            copy_in_once(to + i * 2 * TILE, w + UP + (long long)(UP_TEAM * team + (b >> 3)) * LAYER_BYTES + (b - team & 7) * 2 * TILE,
                         2 * TILE, bar);
          }
        });
      ask_residual(w + DOWN, LAYER_BYTES, 64, 8, p.act);
    }
    }
    return;
  }

  // ---- two warpgroups
  more_registers<208>();
  const int group = uniform(warp >> 2), quad = lane & 3;
  const int acc_row = (warp & 3) * 16 + (lane >> 2);  // of a product's result; and 8 rows on
  Arrivals in{shared(raw), full, empty, group, lane};
  auto together = [] { meet<1, 256>(); };
  auto publish = [&] {
    fence_global();  // readers use the copy engine
    together();
    if (tid == 0) count_up(all);
  };
  auto row_scale = [&](int row) {  // 1 / root mean square; 4 lanes a row
    const float4 v = load4(p.ss + row * 16 + quad * 4);
    float s = v.x + v.y + v.z + v.w;
    s += __shfl_xor_sync(~0u, s, 1);
    s += __shfl_xor_sync(~0u, s, 2);
    return rsqrtf(s * (1.f / WIDTH) + 1e-6f);
  };
  // Products of this warpgroup's two clusters: onto x, then the next norm's input and its sums of squares.
  auto end_block = [&](const float (&d)[2][36], const float *x, const float *gate, const float *scale) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int cluster = 4 * cta + 2 * group + c, col = cluster * COLUMNS + quad * 4, col_last = cluster * COLUMNS + 64 + quad * 2;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = afresh(acc_row) + 8 * half, other = HELD && row < committed ? WIDTH : 0;
        float square = 0;
        auto add = [&](int column, int i) {  // columns `column` and the one behind it: elements i, i + 1
          const int at_x = row * WIDTH + column;
          float2 v = __ldcg((const float2 *)(x + at_x)), g = {1, 1}, s = {0, 0};
          if (gate) g = __ldg((const float2 *)(gate + other + column));
          if (scale) s = __ldg((const float2 *)(scale + other + column));
          v.x += d[c][i] * g.x; v.y += d[c][i + 1] * g.y;
          *(float2 *)(p.xg + at_x) = v;
          square += v.x * v.x + v.y * v.y;
          return pack(v.x * (1.f + s.x), v.y * (1.f + s.y));
        };
        auto place = [&](int column) { return p.h + (column >> 6) * BLOCK + at(row, (column & 63) >> 3) + (column & 7) * 2; };
        if (row < T) {
#pragma unroll
          for (int i = 0; i < 4; i++)  // columns are packed so that a thread has 4 neighbours of every 16
            if (col + 16 * i < WIDTH) {
              const u32 two = add(col + 16 * i, 8 * i + 2 * half), more = add(col + 16 * i + 2, 8 * i + 4 + 2 * half);
              *(uint2 *)place(col + 16 * i) = make_uint2(two, more);
            }
          if (col_last < WIDTH) *(u32 *)place(col_last) = add(col_last, 32 + 2 * half);
        }
        square += __shfl_xor_sync(~0u, square, 1);
        square += __shfl_xor_sync(~0u, square, 2);
        if (quad == 0 && row < T && cluster < CLUSTERS) p.ss[row * 16 + cluster] = square;
      }
    }
    publish();
  };

  {  // ---- tokens of the noise, a program every fourth row
    const float4 b = load4(p.enter_b + tid * 4);
    float4 m[32];
#pragma unroll
    for (int a = 0; a < 32; a++) m[a] = load4(p.enter_w + a * WIDTH + tid * 4);
    for (int i = cta; i < actions; i += PROGRAMS) {
      const float *from = (HELD && i < committed ? target : x_t) + i * 32;
      const int row = i + STATE;
      float4 y = b;
#pragma unroll
      for (int a = 0; a < 32; a++) {
        const float v = __ldg(from + a);
        y.x += m[a].x * v; y.y += m[a].y * v; y.z += m[a].z * v; y.w += m[a].w * v;
      }
      hand_on(p, y, p.scale + (HELD && i < committed) * WIDTH, row, tid);
      if (!STATE) {
        float square = y.x * y.x + y.y * y.y + y.z * y.z + y.w * y.w;
#pragma unroll
        for (int o = 16; o; o >>= 1) square += __shfl_xor_sync(~0u, square, o);
        if (lane == 0) p.ss[row * 16 + warp] = square;
        if (tid < 8) p.ss[row * 16 + 8 + tid] = 0;
      }
    }
    publish();
  }
  if (STATE) {  // π0: one more product makes the tokens; the state token comes with the constant
    float d[2][36] = {};
    product<72>(in, d, 16);
    end_block(d, p.entering, nullptr, nullptr);
  }

  for (int layer = 0; layer < layers; layer++) {
    const float *gate = STATE ? nullptr : p.gate + layer * 2 * NORM;
    const float *scale = STATE ? nullptr : p.scale + layer * 2 * NORM;  // [norm before attention, before the MLP]

    {  // ---- queries, keys, values
      float norm[2];
      for (int pass = 0; pass < 2; pass++) {
        float d[4][24] = {};
        product<48>(in, d, 16, 4 - pass);
        if (pass == 0) norm[0] = row_scale(acc_row), norm[1] = row_scale(acc_row + 8);
        if (pass == 1) {  // here are keys and values: the prefix writes into their places, too, what pads its prompt
          if (tid == 0) wait_for(ready, layer + 1);
          together();
        }
#pragma unroll
        for (int c = 0; c < 4; c++)
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const int row = afresh(acc_row) + 8 * half, key = start + row;
            if (row >= T) continue;
            const int team = afresh(cta) + 4 * (4 * pass + c);
            const float *shifts = STATE ? nullptr : p.shift_qkv + (layer * TIMES_OF + (HELD && row < committed)) * 2560;
            const long long own = (long long)(layer * layer_chunks + (key >> 6)) * CHUNK;
#pragma unroll
            for (int part = 0; part < 2; part++) {
              const int column = (team * 2 + group) * QKV_COLUMNS + part * 24;
              const int at_four = column + quad * 4, at_two = column + 16 + quad * 2;
              u32 out[3];
#pragma unroll
              for (int i = 0; i < 3; i++) {
                const int col = i < 2 ? at_four + 2 * i : at_two, pair = key * 128 + ((col & 255) >> 1);
                if (col >= 2560) continue;
                const float2 shift = STATE ? make_float2(0, 0) : __ldg((const float2 *)(shifts + col));
                const float y1 = d[c][12 * part + 4 * i + 2 * half] * norm[half] + shift.x;
                const float y2 = d[c][12 * part + 4 * i + 2 * half + 1] * norm[half] + shift.y;
                const float cs = __ldg(p.cos + pair), sn = __ldg(p.sin + pair);  // queries and keys turn, pair by pair
                out[i] = col < 2304 ? pack(y1 * cs - y2 * sn, y2 * cs + y1 * sn) : pack(y1, y2);
              }
              auto place = [&](int col) {
                const int block = (col & 255) >> 6, chunk = (col & 63) >> 3, rest = (col & 7) * 2;
                return (col < 2048 ? p.q + ((col >> 8) * 4 + block) * BLOCK + at(row, chunk)
                                   : (col < 2304 ? keys : values) + own + block * KEYS + at(key & 63, chunk)) + rest;
              };
              if (at_four < 2560) *(uint2 *)place(at_four) = make_uint2(out[0], out[1]);
              if (at_two < 2560) *(u32 *)place(at_two) = out[2];
            }
          }
      }
      // Positions behind the last token, up to a whole chunk: their weight is 0, and 0 · NaN would be NaN.
      const int total = start + T;
      for (int i = cta * 256 + tid; i < (-total & 63) * 32; i += PROGRAMS * 256) {
        const int piece = i & 31, key = total + (i >> 5);
        const long long to = (long long)(layer * layer_chunks + (key >> 6)) * CHUNK + (piece >> 3) * KEYS + at(key & 63, piece & 7);
        *(uint4 *)(keys + to) = *(uint4 *)(values + to) = make_uint4(0, 0, 0, 0);
      }
      publish();
    }

    {  // ---- attention: a head for each warpgroup
      in.at.stage = 0;
      bar_wait(queries_full, layer & 1);
      const int total = start + T, chunks = (total + 63) / 64;
      float o[128] = {}, top[2] = {-INFINITY, -INFINITY}, norm[2] = {0, 0};
      for (int chunk = 0; chunk < chunks; chunk++) {
        float s[32] = {};
        const u32 queries = afresh(in.pool) + group * 4 * BLOCK, key_tiles = in.take(CHUNK) + QUERIES;
        mma_begin();
#pragma unroll
        for (int i = 0; i < 16; i++)
          mma64(s, tile_at(queries + (i >> 2) * BLOCK) + 2 * (i & 3), tile_at(key_tiles + (i >> 2) * KEYS) + 2 * (i & 3), 1);
        mma_commit();
        mma_wait<0>();
        in.give_back(CHUNK_STAGES);
        u32 prob[16];
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int last = (STATE && acc_row + 8 * half == 0 ? total - T : total - 1) - chunk * 64 - quad * 2;  // state: no actions
          float most = -INFINITY;
#pragma unroll
          for (int t = 0; t < 8; t++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              float &v = s[4 * t + 2 * half + e];
              v = t * 8 + e <= last ? v * (0.0625f * 1.4426950408889634f) : -INFINITY;
              most = fmaxf(most, v);
            }
          most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
          most = fmaxf(top[half], fmaxf(most, __shfl_xor_sync(~0u, most, 2)));  // finite: everyone sees the first key
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
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = afresh(acc_row) + 8 * half;
        norm[half] += __shfl_xor_sync(~0u, norm[half], 1);
        norm[half] += __shfl_xor_sync(~0u, norm[half], 2);
        const float n = 1.f / norm[half];
        if (row < T)
#pragma unroll
          for (int i = 0; i < 8; i++) {  // 32 columns, 8 of them this thread's: in this order, and so are the weights of `out`
            u32 v[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
              const int e = 4 * (i * 4 + k) + 2 * half;
              v[k] = pack(o[e] * n, o[e + 1] * n);
            }
            *(uint4 *)(p.att + ((2 * cta + group) * 4 + (i >> 1)) * BLOCK + at(row, (i & 1) * 4 + quad)) =
                make_uint4(v[0], v[1], v[2], v[3]);
          }
      }
      publish();
    }

    {  // ---- output projection
      float d[2][36] = {};
      product<72>(in, d, 32);
      end_block(d, p.xg, gate, STATE ? nullptr : scale + NORM);
    }

    {  // ---- gate and up: a quarter of the columns
      float norm[2];
      for (int pass = 0; pass < 5; pass++) {
        float d[3][36] = {};
        product<72>(in, d, 16);
        if (pass == 0) norm[0] = row_scale(acc_row), norm[1] = row_scale(acc_row + 8);
#pragma unroll
        for (int c = 0; c < 3; c++) {
          const int column = (3 * pass + c) * COLUMNS, col = column + group * 32 + quad * 8, col_last = column + 64 + group * 4 + quad;
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const int row = afresh(acc_row) + 8 * half;
            if (row >= T) continue;
            const float *shift = STATE ? nullptr : p.shift_up + (layer * TIMES_OF + (HELD && row < committed)) * 8192 + cta * 2048;
            char *to = p.act + cta * 16 * BLOCK;
            auto geglu = [&](int i, int at_column) {
              const float2 s = STATE ? make_float2(0, 0) : __ldg((const float2 *)(shift + at_column * 2));
              return gelu_tanh(d[c][4 * i + 2 * half] * norm[half] + s.x) * (d[c][4 * i + 2 * half + 1] * norm[half] + s.y);
            };
            if (col < 1024) {
              float z[8];
#pragma unroll
              for (int i = 0; i < 8; i++) z[i] = geglu(i, col + i);
              *(uint4 *)(to + (col >> 6) * BLOCK + at(row, (col & 63) >> 3)) =
                  make_uint4(pack(z[0], z[1]), pack(z[2], z[3]), pack(z[4], z[5]), pack(z[6], z[7]));
            }
            if (col_last < 1024)
              *(unsigned short *)(to + (col_last >> 6) * BLOCK + at(row, (col_last & 63) >> 3) + (col_last & 7) * 2) =
                  (unsigned short)pack(geglu(8, col_last), 0);
          }
        }
      }
      publish();
    }

    {  // ---- down
      float d[2][36] = {};
      product<72>(in, d, 64);
      end_block(d, p.xg, STATE ? nullptr : gate + NORM, STATE ? nullptr : scale + 2 * NORM);
    }
  }
}
