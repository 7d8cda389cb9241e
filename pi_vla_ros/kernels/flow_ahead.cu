// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// The first layers of the flow loop's first step, on the four programs that the prefix leaves free: see flow_ahead.py.
//
// Why: a layer of the first step needs of the prefix only the keys and values of the same layer, and the prefix is at work
// fourteen times as long as the step. So four programs are enough, and they draw little of the power that limits the
// prefix. The flow loop (flow_loop.cu) begins where this ends; weights, tables and activations are the same memory.
//
// A program has a part of the columns of every product, at full depth, and two heads. All that it reads comes through one
// ring, in the order of use: for every 64 of the inner axis the weights of its two warpgroups in turn, then the activations.
// Programs hand over through the L2 cache, five times a layer; all wait for all.
//
// Compile-time: RING (slots), and those of flow.cuh.

#include "flow.cuh"

constexpr int PROGRAMS = 4, SLOT = TILE;
constexpr int OUT = 8 * QKV_SLOT, UP = OUT + 4 * TILE, DOWN = UP + 16 * TILE;  // of a program of the flow loop, in a layer
constexpr int QUERIES = 8;  // slots that two heads' queries take during attention
static_assert(RING <= 32 && RING >= QUERIES + 12 && RING * (SLOT + 16) + sizeof(Params) + 8 <= 232448);

// The slots in their order, round and round, or among the last ones; each has its own count of rounds.
struct Rounds {
  int slot = 0;
  u32 parities = 0;
  __device__ __forceinline__ u32 parity() const { return parities >> slot & 1; }
  __device__ __forceinline__ void next(int first = 0) {
    parities ^= 1u << slot;
    if (++slot == RING) slot = first;
  }
};
// The ring as a consumer sees it.
struct Ring {
  u32 at, full, empty;
  int group, lane;
  Rounds walk;
  __device__ __forceinline__ int take(int first = 0) {  // the next slot, arrived
    const int slot = walk.slot;
    bar_wait(full + 8 * slot, walk.parity());
    walk.next(first);
    return slot;
  }
  __device__ __forceinline__ void release(int slot) { if (lane == 0) bar_arrive(empty + 8 * slot); }
  __device__ __forceinline__ u32 address(int slot) { return at + slot * SLOT; }
};
__device__ __forceinline__ int behind(int slot, int n) { return slot + n >= RING ? slot + n - RING : slot + n; }

template <int N> __device__ __forceinline__ void mma_of(float (&d)[N / 2], u64 a, u64 b) {
  if constexpr (N == 48) mma48(d, a, b, 1);
  else mma72(d, a, b, 1);
}

// d[c] += activations · tile c of this warpgroup, over `blocks` blocks of the inner axis; only `count` tiles are there.
// Slots are given back at once, for what limits is how much is under way; the other warpgroup keeps the tensor cores busy.
template <int N, int COUNT> __device__ __forceinline__ void product(Ring &ring, float (&d)[COUNT][N / 2], int blocks, int count = COUNT) {
  for (int b = 0; b < blocks; b++) {
    const int first = ring.walk.slot;
#pragma unroll
    for (int i = 0; i < 2 * COUNT; i++)
      if (i < 2 * count) {
        const int slot = ring.take();
        if ((i & 1) != ring.group) { __syncwarp(); ring.release(slot); }  // not before it has come: that would count for the round before
      }
    const int of_all = ring.take();
    const u64 a = tile_at(ring.address(of_all));
#pragma unroll
    for (int c = 0; c < COUNT; c++)
      if (c < count) {
        mma_begin();
        const u64 w = tile_at(ring.address(behind(first, 2 * c + ring.group)));
#pragma unroll
        for (int k = 0; k < 4; k++) mma_of<N>(d[c], a + 2 * k, w + 2 * k);
      }
    mma_commit();
    mma_wait<0>();
#pragma unroll
    for (int c = 0; c < COUNT; c++)
      if (c < count) ring.release(behind(first, 2 * c + ring.group));
    ring.release(of_all);
  }
}

// x_t, keys, values, target, delay: as in flow_loop. Layers 0 ... layers - 1, fewer than LAYERS.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)  // pairs: the prefix's programs come in pairs
flow_ahead(const Params *params, const float *x_t, const int *lengths, char *keys, char *values, int layer_chunks, int layers,
           const float *target, const int *delay) {
  extern __shared__ __align__(1024) char raw[];
  Params &p = *(Params *)(raw + RING * SLOT);
  u64 *bars = (u64 *)(&p + 1);  // full[RING], empty[RING]
  const u32 full = shared(bars), empty = full + 8 * RING;
  // Tokens of the prefix, and actions that are the target's. Read where they are needed, like p: registers are for accumulators.
  int *const sizes = (int *)(bars + 2 * RING), &start = sizes[0], &committed = sizes[1];
  const int cta = blockIdx.x, warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31, tid = threadIdx.x;
  for (int i = tid; i < (int)(sizeof(Params) / 4); i += 384) ((u32 *)&p)[i] = ((const u32 *)params)[i];
  if (tid == 0) {
    for (int i = 0; i < RING; i++) { bar_init(full + 8 * i, 1); bar_init(empty + 8 * i, 8); }
    bar_init_done();
    start = lengths[0], committed = HELD ? *delay : 0;
  }
  __syncthreads();
  const int T = uniform((int)p.tokens), actions = T - STATE;
  constexpr int TIMES_OF = 1 + HELD, NORM = TIMES_OF * WIDTH;
  u32 *const all = p.counters + C_AHEAD * 32, *const ready = p.counters + C_READY * 32;

  if (warp >= 8) {  // ---- one thread asks for everything
    fewer_registers<40>();
    if (warp == 8 && lane == 0) {
    Rounds r;
    auto put = [&](const char *from, u32 bytes, bool once, int first = 0) {
      bar_wait(empty + 8 * r.slot, r.parity() ^ 1);
      bar_expect(full + 8 * r.slot, bytes);
      const u32 to = shared(raw + r.slot * SLOT);
      if (once) copy_in_once(to, from, bytes, full + 8 * r.slot);  // the L2 cache is the prefix's
      else copy_in(to, from, bytes, full + 8 * r.slot);
      r.next(first);
    };
    u32 phase = 0;
    auto hand_over = [&] { wait_for(all, PROGRAMS * ++phase); fence_global(); };
    auto activations = [&](const char *from, int block) { put(from + block * BLOCK, T * 128, false); };
    // This warpgroup's cluster of the flow loop: 72 columns of what goes onto the residual stream.
    auto owner_of = [&](int c, int group) { return min(4 * cta + 2 * group + c, CLUSTERS - 1); };
    auto residual = [&](const char *w, int stride, int blocks, int tiles, const char *from) {
      for (int b = 0; b < blocks; b++) {
        for (int i = 0; i < 4; i++)
          put(w + (long long)(8 * owner_of(i >> 1, i & 1) + b / tiles) * stride + b % tiles * TILE, TILE, true);
        if (b == 0) hand_over();
        activations(from, b);
      }
    };
    if (STATE) residual(p.mix, 2 * TILE, 16, 2, p.mixed);
    for (int layer = 0; layer < layers; layer++) {
      const char *w = p.weights[layer];
      for (int pass = 0; pass < 2; pass++)
        for (int b = 0; b < 16; b++) {
          for (int i = 0; i < 8 - 2 * pass; i++) {
            const int team = cta + 4 * (4 * pass + (i >> 1));
            put(w + (long long)(QKV_TEAM * team + (b >> 2)) * LAYER_BYTES + ((b - team & 3) * 2 + (i & 1)) * QKV_SLOT, QKV_SLOT, true);
          }
          if (pass == 0 && b == 0) hand_over();
          activations(p.h, b);
        }
      r.slot = 0;
      hand_over();
      for (int i = 0; i < QUERIES; i++) activations(p.q, cta * 8 + i);
      const int chunks = (start + T + 63) / 64;
      for (int chunk = 0; chunk < chunks; chunk++)
        for (int i = 0; i < 8; i++)
          put((i < 4 ? keys : values) + (long long)(layer * layer_chunks + chunk) * CHUNK + (i & 3) * KEYS, KEYS, false, QUERIES);
      r.slot = 0;
      residual(w + OUT, LAYER_BYTES, 32, 4, p.att);
      for (int pass = 0; pass < 5; pass++)
        for (int b = 0; b < 16; b++) {
          for (int i = 0; i < 6; i++) {
            const int team = (3 * pass + (i >> 1)) * 4 + cta;
            put(w + UP + (long long)(UP_TEAM * team + (b >> 3)) * LAYER_BYTES + ((b - team & 7) * 2 + (i & 1)) * TILE, TILE, true);
          }
          if (pass == 0 && b == 0) hand_over();
          activations(p.h, b);
        }
      residual(w + DOWN, LAYER_BYTES, 64, 8, p.act);
    }
    }
    return;
  }

  // ---- two warpgroups
  more_registers<232>();
  const int group = uniform(warp >> 2), quad = lane & 3;
  const int acc_row = (warp & 3) * 16 + (lane >> 2);  // of a product's result; and 8 rows on
  Ring ring{shared(raw), full, empty, group, lane};
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
        const int row = acc_row + 8 * half, other = HELD && row < committed ? WIDTH : 0;
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
      char *to = (STATE ? p.mixed : p.h) + (tid >> 4) * BLOCK + at(row, (tid & 15) >> 1) + (tid & 1) * 8;
      if (STATE) {
        y.x /= 1.f + exp2_fast(-1.4426950408889634f * y.x); y.y /= 1.f + exp2_fast(-1.4426950408889634f * y.y);
        y.z /= 1.f + exp2_fast(-1.4426950408889634f * y.z); y.w /= 1.f + exp2_fast(-1.4426950408889634f * y.w);
        *(uint2 *)to = make_uint2(pack(y.x, y.y), pack(y.z, y.w));
      } else {
        const float4 s = __ldg((const float4 *)(p.scale + (HELD && i < committed) * WIDTH + tid * 4));
        *(float4 *)(p.xg + row * WIDTH + tid * 4) = y;
        *(uint2 *)to = make_uint2(pack(y.x * (1.f + s.x), y.y * (1.f + s.y)), pack(y.z * (1.f + s.z), y.w * (1.f + s.w)));
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
    product<72>(ring, d, 16);
    end_block(d, p.entering, nullptr, nullptr);
  }

  for (int layer = 0; layer < layers; layer++) {
    const float *gate = STATE ? nullptr : p.gate + layer * 2 * NORM;
    const float *scale = STATE ? nullptr : p.scale + layer * 2 * NORM;  // [norm before attention, before the MLP]

    {  // ---- queries, keys, values
      float norm[2];
      for (int pass = 0; pass < 2; pass++) {
        float d[4][24] = {};
        product<48>(ring, d, 16, 4 - pass);
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
      ring.walk.slot = 0;
      for (int i = 0; i < QUERIES; i++) ring.take();
      const int total = start + T, chunks = (total + 63) / 64;
      float o[4][32] = {}, top[2] = {-INFINITY, -INFINITY}, norm[2] = {0, 0};
      for (int chunk = 0; chunk < chunks; chunk++) {
        float s[32] = {};
        int taken[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          taken[i] = ring.take(QUERIES);
          const u64 a = tile_at(ring.address(group * 4 + i)), b = tile_at(ring.address(taken[i]));
          mma_begin();
#pragma unroll
          for (int k = 0; k < 4; k++) mma64(s, a + 2 * k, b + 2 * k, 1);
        }
        mma_commit();
        mma_wait<0>();
#pragma unroll
        for (int i = 0; i < 4; i++) ring.release(taken[i]);
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
          for (int i = 0; i < 64; i++) o[i >> 4][(i & 15) * 2 - (i & 1) + 2 * half] *= shrink;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
          taken[j] = ring.take(QUERIES);
          const u64 b = transposed_tile_at(ring.address(taken[j]));
          mma_begin();
#pragma unroll
          for (int k = 0; k < 4; k++) {
            const u32 a[4] = {prob[4 * k], prob[4 * k + 1], prob[4 * k + 2], prob[4 * k + 3]};
            mma64_regs_transposed(o[j], a, b + 128 * k, 1);
          }
        }
        mma_commit();
        mma_wait<0>();
#pragma unroll
        for (int j = 0; j < 4; j++) ring.release(taken[j]);
      }
      for (int i = 0; i < QUERIES; i++) ring.release(i);
      ring.walk.slot = 0;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = acc_row + 8 * half;
        norm[half] += __shfl_xor_sync(~0u, norm[half], 1);
        norm[half] += __shfl_xor_sync(~0u, norm[half], 2);
        const float n = 1.f / norm[half];
        if (row < T)
#pragma unroll
          for (int i = 0; i < 8; i++) {  // 32 columns, 8 of them this thread's: in this order, and so are the weights of `out`
            u32 v[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
              const int e = 4 * ((i & 1) * 4 + k) + 2 * half;
              v[k] = pack(o[i >> 1][e] * n, o[i >> 1][e + 1] * n);
            }
            *(uint4 *)(p.att + ((2 * cta + group) * 4 + (i >> 1)) * BLOCK + at(row, (i & 1) * 4 + quad)) =
                make_uint4(v[0], v[1], v[2], v[3]);
          }
      }
      publish();
    }

    {  // ---- output projection
      float d[2][36] = {};
      product<72>(ring, d, 32);
      end_block(d, p.xg, gate, STATE ? nullptr : scale + NORM);
    }

    {  // ---- gate and up: a quarter of the columns
      float norm[2];
      for (int pass = 0; pass < 5; pass++) {
        float d[3][36] = {};
        product<72>(ring, d, 16);
        if (pass == 0) norm[0] = row_scale(acc_row), norm[1] = row_scale(acc_row + 8);
#pragma unroll
        for (int c = 0; c < 3; c++) {
          const int column = (3 * pass + c) * COLUMNS, col = column + group * 32 + quad * 8, col_last = column + 64 + group * 4 + quad;
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const int row = acc_row + 8 * half;
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
      product<72>(ring, d, 64);
      end_block(d, p.xg, STATE ? nullptr : gate + NORM, STATE ? nullptr : scale + 2 * NORM);
    }
  }
}
