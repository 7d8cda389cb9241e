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
// Here stand the phases of a layer in their order. The headers: flow_ahead_stages.cuh how a stage is filled and used,
// flow_ahead_loads.cuh with what, flow_ahead_attention.cuh a head's attention; flow.cuh the memory, flow_epilogues.cuh what
// flow_loop.cu does alike.
//
// Compile-time: those of flow.cuh.

#include "flow.cuh"
#include "flow_epilogues.cuh"
#include "flow_ahead_stages.cuh"
#include "flow_ahead_loads.cuh"
#include "flow_ahead_attention.cuh"

// x_t, keys, values, target, delay: as in flow_loop. Layers 0 ... layers - 1, fewer than LAYERS.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)  // pairs: the prefix's programs come in pairs
flow_ahead(const Params *params, const float *x_t, const int *lengths, char *keys, char *values, int layer_chunks, int layers,
           const float *target, const int *delay) {
  extern __shared__ __align__(1024) char raw[];
  const Cache cache{keys, values, layer_chunks};
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
  u32 *const all = p.counters + C_AHEAD * 32, *const ready = p.counters + C_READY * 32;

  if (warp >= 8) {  // ---- one thread asks for everything
    fewer_registers<88>();  // 88 + 2 · 208 = 3 · 168: what the program was given
    if (warp == 8 && lane == 0) {
      Loader in{shared(raw), full, empty, all};
      load_all(in, p, cache, start, layers, cta, T, queries_full);
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
    return root_scale(load4(p.ss + row * 16 + quad * 4));
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
            const long long own = cache.at_chunk(layer, key >> 6);
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
                const float cs = __ldg(p.cos + pair), sn = __ldg(p.sin + pair);
                out[i] = turned_pair(col, y1, y2, cs, sn);
              }
              if (at_four < 2560) *(uint2 *)place_of(p, cache, own, row, key, at_four) = make_uint2(out[0], out[1]);
              if (at_two < 2560) *(u32 *)place_of(p, cache, own, row, key, at_two) = out[2];
            }
          }
      }
      // Positions behind the last token, up to a whole chunk.
      const int total = start + T;
      for (int i = cta * 256 + tid; i < (-total & 63) * 32; i += PROGRAMS * 256)
        clear_position(cache, layer, total + (i >> 5), i & 31);
      publish();
    }

    {  // ---- attention: a head for each warpgroup
      in.at.stage = 0;
      bar_wait(queries_full, layer & 1);
      const int total = start + T, chunks = (total + 63) / 64;
      float o[128] = {}, top[2] = {-INFINITY, -INFINITY}, norm[2] = {0, 0};
      for (int chunk = 0; chunk < chunks; chunk++) {
        float s[32] = {};
        add_scores(in, s);
        u32 prob[16];
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int last = (STATE && acc_row + 8 * half == 0 ? total - T : total - 1) - chunk * 64 - quad * 2;  // state: no actions
          softmax(s, prob, o, top, norm, half, last);
        }
        add_answer(in, o, prob);
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
          const int column = (3 * pass + c) * COLUMNS;
          const int col = column + group * 32 + quad * 8, col_last = column + 64 + group * 4 + quad;
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
