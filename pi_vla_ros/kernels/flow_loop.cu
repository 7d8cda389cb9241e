// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// The whole flow loop of the action expert as one resident kernel (sm_90a): see flow_loop.py for what it equals and
// for the layouts, docs/engine/flow_loop.md for why. 15 clusters of 8 programs of two consumer warpgroups and two
// loading warps stay on the chip from noise to actions.
//
// Why one kernel: the work of a layer is 35 MB of weights for 50 rows. As separate launches each product first waits
// for its predecessor and then for its weights. Here the weights of a program are one endless stream that depends on
// nothing: a loading warp keeps a ring of them full while the consumers wait for each other's activations.
//
// Why clusters: products are split by depth among the programs of a cluster: `out` and `down`, whose inner axis is long,
// among all eight, gate and up among pairs, QKV among teams of four. And all keys of a head are seen by one cluster. Partial
// results travel from shared memory to shared memory (`store_in`), to those who finish them. Activations travel between
// clusters, through the L2 cache, as the tiles that the tensor cores read (hopper.cuh), so a load is a plain copy.
//
// A program writes into another's memory only where that one reads nothing any more. What says so is always a counter that
// all programs have raised since.
//
// Compile-time: GROUPS (of 8 rows), STATE (π0: 1), LAYERS, RING (slots), HELD (the first `delay` actions are the target's
// and stand at flow time 0; π0.5, whose tables then have a second row for it).

#include "flow.cuh"

constexpr int SLOT = TILE;                    // of the ring
// The activations' memory: at most 8 blocks that a phase reads, and behind them what other programs send.
constexpr int BLOCKS = 8;
constexpr int ANSWERS = 4 * BLOCK;            // behind the queries: [8 programs][8 rows][256] bf16
constexpr int ANSWERS_BYTES = 8 * 8 * 512;
constexpr int PARTS = ANSWERS + ANSWERS_BYTES;  // [8 programs][8 rows][72] fp32
constexpr int PARTS_BYTES = 8 * 8 * COLUMNS * 4;
constexpr int ADDENDS = PARTS + PARTS_BYTES;  // of the rest of the team: each thread of theirs to the same here
constexpr int ADDENDS_BYTES = 256 * 9 * 8;
constexpr int WEIGHTS = ADDENDS;              // of the keys: two tiles [64 rows, 64 keys]; in another phase
constexpr int A_BYTES = ADDENDS + ADDENDS_BYTES;
// With GROUPS < 8 the tensor core reads one group past the end of a block.
static_assert(PARTS >= BLOCKS * BLOCK + (8 - GROUPS) * 1024 && WEIGHTS % 1024 == 0 && A_BYTES % 1024 == 0 && 2 * KEYS <= ADDENDS_BYTES);
static_assert(A_BYTES + RING * SLOT + 1920 + sizeof(Params) + (2 * RING + BLOCKS + 4) * 8 <= 232448);

// --- synchronisation --------------------------------------------------------------------------------------------

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

// A team's sums. Each of its TEAM programs has multiplied a part of the depth with the same columns, and finishes one of a
// thread's two rows (odd ranks the later one) and 2 · COUNT of its columns. What others finish goes to the same thread of
// theirs. d: the tensor core's result; y: the whole sum of what this program finishes.
template <int TEAM, int COUNT>
__device__ __forceinline__ void team_sum(const float (&d)[2 * TEAM * COUNT], float (&y)[2 * COUNT], const char *addends, u32 full,
                                         u32 parity, int rank, int row, int T) {
  const int mine = rank & (TEAM - 1), tid = afresh(threadIdx.x);
#pragma unroll
  for (int q = 0; q < TEAM; q++) {
    float v[2 * COUNT];
#pragma unroll
    for (int i = 0; i < 2 * COUNT; i++) v[i] = d[4 * (COUNT * (q >> 1) + (i >> 1)) + 2 * (q & 1) + (i & 1)];
    if (q == mine) {
#pragma unroll
      for (int i = 0; i < 2 * COUNT; i++) y[i] = v[i];
    } else if (row + 8 * (q & 1) < T) {
      const u32 whose = rank ^ mine ^ q, bar = address_in(full, whose);
      const u32 to = address_in(shared(addends) + ((q ^ mine) - 1) * (256 * COUNT * 8), whose);
#pragma unroll
      for (int i = 0; i < COUNT / 2; i++)
        store_in(to + (i * 256 + tid) * 16, make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]), bar);
      store_in(to + COUNT / 2 * 4096 + tid * 8, make_float2(v[2 * COUNT - 2], v[2 * COUNT - 1]), bar);
    }
  }
  const int first = 8 * (mine & 1), kept = (T >> 4) * 8 + min(max((T & 15) - first, 0), 8);  // rows
  if (tid == 0) bar_expect(full, kept * 64 * COUNT * (TEAM - 1));
  bar_wait(full, parity);
  if (row + first < T)
#pragma unroll
    for (int other = 0; other < TEAM - 1; other++) {
      const char *from = addends + other * (256 * COUNT * 8);
#pragma unroll
      for (int i = 0; i < COUNT / 2; i++) {
        const float4 v = *(const float4 *)(from + (i * 256 + tid) * 16);
        y[4 * i] += v.x; y[4 * i + 1] += v.y; y[4 * i + 2] += v.z; y[4 * i + 3] += v.w;
      }
      const float2 v = *(const float2 *)(from + COUNT / 2 * 4096 + tid * 8);
      y[2 * COUNT - 2] += v.x; y[2 * COUNT - 1] += v.y;
    }
}

// --- the kernel -------------------------------------------------------------------------------------------------

extern "C" __global__ void __cluster_dims__(8, 1, 1) __launch_bounds__(384, 1)
flow_loop(const Params *params, float *x_t, const int *lengths, char *keys, char *values, int layer_chunks,
          const float *target, const float *weights, const float *most, const int *delay,  // real-time chunking: [H, 32],
          // guided [H], [1]; HELD [1]
          int first_layer) {  // of step 0: flow_ahead.cu has done those before it, and the counters stand accordingly
  extern __shared__ __align__(1024) char raw[];
  char *a_tile = raw;                         // activations of the phase, and the places above
  char *ring = raw + A_BYTES;
  float *moved = (float *)(ring + RING * SLOT);  // [32] this program's row of x_t
  float *small = moved + 32;                  // [64] scratch of a turn
  float *tops = small + 64;                   // [2][64] largest scores of the rows, of each warpgroup's keys
  float2 *seen = (float2 *)(tops + 128);      // [8 programs][2][8 rows] largest score, sum of weights
  Params &p = *(Params *)(seen + 128);        // re-read where it is needed: registers are for accumulators
  u64 *bars = (u64 *)(&p + 1);  // full[RING], empty[RING], a_full[BLOCKS], a_empty, parts_full, addends_full, answers_full
  const u32 full = shared(bars), empty = full + 8 * RING, a_full = empty + 8 * RING, a_empty = a_full + 8 * BLOCKS;
  const u32 parts_full = a_empty + 8, addends_full = parts_full + 8, answers_full = addends_full + 8;
  const int cta = blockIdx.x, warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31, tid = threadIdx.x;
  for (int i = tid; i < (int)(sizeof(Params) / 4); i += 384) ((u32 *)&p)[i] = ((const u32 *)params)[i];
  __syncthreads();
  const int cluster = cta >> 3, rank = cta & 7;  // 72 columns, or a head; an eighth of the inner axis, or every 8th chunk
  const int T = uniform((int)p.tokens), actions = T - STATE, steps = uniform((int)p.steps);
  const int start = uniform(lengths[0]), total = start + T, chunks = (total + 63) / 64;
  const int committed = HELD ? uniform(*delay) : 0;  // rows before it stand at time 0
  constexpr int TIMES_OF = 1 + HELD;                 // rows of a table for one step and layer
  u32 *const count = p.counters;
#define COUNTER(i) (count + (i) * 32)

  if (tid == 0) {
    for (int i = 0; i < RING; i++) { bar_init(full + 8 * i, 1); bar_init(empty + 8 * i, 8); }
    for (int i = 0; i < BLOCKS; i++) bar_init(a_full + 8 * i, 1);
    bar_init(a_empty, 8);
    bar_init(parts_full, 1);
    bar_init(addends_full, 1);
    bar_init(answers_full, 1);
    bar_init_done();
    // What is left out has used these barriers, as far as the parities below know.
    if (STATE && first_layer) bar_arrive(parts_full);
    if (first_layer & 1) bar_arrive(answers_full);
  }
  __syncthreads();
  cluster_meet();

  if (warp >= 8) {
  fewer_registers<40>();
  if (warp == 8) {  // ---- weights, and the keys and values of the prefix: one stream, limited by the ring alone
    if (lane == 0) {
    Walk<RING> r;
    auto put = [&](const char *from, u32 bytes, bool once = true) {  // weights: once a step, and 12 times the L2 cache
      bar_wait(empty + 8 * r.slot, r.parity ^ 1);
      bar_expect(full + 8 * r.slot, bytes);
      const u32 to = shared(ring + r.slot * SLOT);
      if (once) copy_in_once(to, from, bytes, full + 8 * r.slot);
      else copy_in(to, from, bytes, full + 8 * r.slot);
      r.next();
    };
    for (int step = 0, L = 0; step < steps; step++) {
      if (STATE && (step || !first_layer)) for (int i = 0; i < 2; i++) put(p.mix + (cta * 2 + i) * TILE, TILE);
      for (int layer = 0; layer < LAYERS; layer++, L++) {
        if (L < first_layer) continue;
        const char *w = p.weights[layer] + (long long)cta * LAYER_BYTES;
        for (int i = 0; i < 8; i++) put(w + i * QKV_SLOT, QKV_SLOT);
        w += 8 * QKV_SLOT;
        if (cluster < HEADS)
          for (int first = rank; first < chunks; first += 16) {  // keys of one or two chunks, then their values
            const int both = first + 8 < chunks ? 16 : 8;
            for (int chunk = first; chunk < first + both; chunk += 8)  // they come when keys have made room
              if (chunk * 64 + 64 <= start) into_l2(values + (long long)(layer * layer_chunks + chunk) * CHUNK, CHUNK);
            for (int part = 0; part < 2; part++)
              for (int chunk = first; chunk < first + both; chunk += 8) {
                if (chunk * 64 + 64 > start) {  // holds keys of this layer's own tokens
                  wait_for(COUNTER(C_QKV), CTAS * (L + 1));
                  fence_global();
                }
                const char *from = (part ? values : keys) + (long long)(layer * layer_chunks + chunk) * CHUNK;
                for (int i = 0; i < 4; i++) put(from + i * KEYS, KEYS, false);
              }
          }
        for (int i = 0; i < 28; i++) put(w + i * TILE, TILE);
      }
    }
    }
  }

  if (warp == 9) {  // ---- activations: wait until their writers are done, then copy
    if (lane == 0) {
    u32 parity = 0;
    auto load = [&](const u32 *counter, u32 target, const char *from, int blocks, int begin) {
      const int bytes = T * 128;  // rows behind T hold anything: a row of a product depends on that row alone
      bar_wait(a_empty, parity ^ 1);
      parity ^= 1;
      for (int i = 0; i < BLOCKS; i++) {  // before the wait, so that nothing stands between it and the copies
        if (i < blocks) bar_expect(a_full + 8 * i, bytes);
        else bar_arrive(a_full + 8 * i);
      }
      wait_for(counter, target);
      fence_global();
      // What many programs read, each team begins at another block, or all would ask for the same lines at once. Weights
      // are packed in the same order.
#pragma unroll 1
      for (int i = 0; i < blocks; i++)
        copy_in(shared(a_tile + i * BLOCK), from + (i + begin & blocks - 1) * BLOCK, bytes, a_full + 8 * i);
    };
    for (int step = 0, L = 0; step < steps; step++) {
      if (STATE && (step || !first_layer)) load(COUNTER(C_TURN), actions * (step + 1), p.mixed + rank * 2 * BLOCK, 2, 0);
      for (int layer = 0; layer < LAYERS; layer++, L++) {
        if (L < first_layer) continue;
        const char *h = p.h + rank % QKV_TEAM * 4 * BLOCK;
        const int team = cta / QKV_TEAM;
        if (layer) load(COUNTER(C_DOWN), CTAS * L, h, 4, team);
        else if (STATE) load(COUNTER(C_ENTER), CTAS * (step + 1), h, 4, team);
        else load(COUNTER(C_TURN), actions * (step + 1), h, 4, team);
        if (cluster < HEADS) load(COUNTER(C_QKV), CTAS * (L + 1), p.q + cluster * 4 * BLOCK, 4, 0);
        load(COUNTER(C_ATT + rank), 8 * (L + 1), p.att + rank * 4 * BLOCK, 4, 0);
        load(COUNTER(C_O), CTAS * (L + 1), p.h + rank % UP_TEAM * 8 * BLOCK, 8, cta / UP_TEAM);
        load(COUNTER(C_ACT + rank / UP_TEAM), UP_TEAM * CLUSTERS * (L + 1), p.act + rank * 8 * BLOCK, 8, 0);
      }
    }
    }
  }

  } else {
  more_registers<232>();
  // ---- consumers: two warpgroups that share every product
  const int group = uniform(warp >> 2);
  const int acc_row = (warp & 3) * 16 + (lane >> 2), acc_col = (lane & 3) * 2;  // of accumulators 0, 1; 2, 3: 8 rows on
  const u32 a_at = shared(a_tile), ring_at = shared(ring);
  Walk<RING> r;
  u32 a_parity = 0;
  // This program finishes 8 rows, a warp one of them. The residual stream of its cluster's columns stays in registers.
  const int own_rows = uniform(T <= rank * 8 ? 0 : T >= rank * 8 + 8 ? 8 : T - rank * 8), all_rows = T;
  const int x_row = rank * 8 + warp, x_col = cluster * COLUMNS + lane * 4;
  const bool owner = warp < own_rows && lane < COLUMNS / 4 && x_col < WIDTH;
  float4 x = {0, 0, 0, 0};

  auto a_done = [&] { fence_shared(); __syncwarp(); if (lane == 0) bar_arrive(a_empty); a_parity ^= 1; };
  auto release = [&](int slot) { if (lane == 0) bar_arrive(empty + 8 * slot); };
  auto pass = [&](int n) {  // slots of the other warpgroup: given back when they have arrived (an earlier word would be
    for (int i = 0; i < n; i++, r.next()) {  // counted for the round before)
      bar_wait(full + 8 * r.slot, r.parity);
      __syncwarp();
      release(r.slot);
    }
  };

  // 1 / root mean square of a row, from the clusters' sums of squares: 4 lanes a row. Asked for when the activations are
  // there, used behind the product: the trip to the L2 cache costs nothing.
  auto row_squares = [&](int row) {
    bar_wait(a_full, a_parity);
    return load4(p.ss + row * 16 + (lane & 3) * 4);
  };
  auto row_scale = [&](const float4 &v) {
    float s = v.x + v.y + v.z + v.w;
    s += __shfl_xor_sync(~0u, s, 1);
    s += __shfl_xor_sync(~0u, s, 2);
    return rsqrtf(s * (1.f / WIDTH) + 1e-6f);
  };
  // d = A[:, 64 · tiles] @ tilesᵀ, columns 0-39 for one warpgroup, 32-71 for the other.
  auto product = [&](float (&d)[20], int tiles) {
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
  };
  // Gate of a sub-block or scale of the next norm, asked for before the product.
  auto modulation = [&](const float *of, float otherwise) {
    return of && owner ? load4(of + x_col + (x_row < committed ? WIDTH : 0)) : make_float4(otherwise, otherwise, otherwise, otherwise);
  };
  // The end of a sub-block: this program's part of 72 columns to those who finish the rows, the 8 parts of its own rows
  // in, residual, input of the next norm and its sums of squares out.
  auto end_block = [&](const float (&d)[20], const float4 &g, const float4 &s, u32 *done, u32 parity) {
    const int T = afresh(all_rows), rows = afresh(own_rows);
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (acc_row + 8 * half < T) {
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
  };

  // One action's row between two steps: velocity out, x_t moved, token in.
  auto turn = [&](int step) {
    const int row = cta + STATE, tid = afresh(threadIdx.x);
    float *const h = (float *)a_tile;  // [1024] the row's input of the last product
    if (step) {
      float4 m[4][8];  // asked for before the wait
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int c = 0; c < 8; c++)
          m[i][c] = load4(p.leave_w + ((step - 1) * 32 + warp * 4 + i) * WIDTH + lane * 4 + c * 128);
      consumers_wait(COUNTER(C_DOWN), CTAS * LAYERS * step);
      uint2 v = __ldcg((const uint2 *)(p.h + (tid >> 4) * BLOCK + at(row, (tid & 15) >> 1) + (tid & 1) * 8));
      *(float4 *)(h + tid * 4) = make_float4(lower(v.x), upper(v.x), lower(v.y), upper(v.y));
      if (warp == 0) {
        float sum = lane < 16 ? __ldcg(p.ss + row * 16 + lane) : 0.f;
        for (int o = 8; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
        if (lane == 0) small[0] = rsqrtf(sum * (1.f / WIDTH) + 1e-6f);
      }
      consumers_sync();
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int a = warp * 4 + i;
        float sum = 0;
#pragma unroll
        for (int c = 0; c < 8; c++) {
          const float4 n = *(float4 *)(h + lane * 4 + c * 128);
          sum += m[i][c].x * n.x + m[i][c].y * n.y + m[i][c].z * n.z + m[i][c].w * n.w;
        }
#pragma unroll
        for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
        if (lane == 0) small[16 + a] = sum * small[0] + p.leave_b[(step - 1) * 32 + a];
      }
    }
    float4 y, m[32];  // asked for before they can be used
    if (step < steps) {
      y = load4(p.enter_b + step * WIDTH + tid * 4);
#pragma unroll
      for (int a = 0; a < 32; a++) m[a] = load4(p.enter_w + a * WIDTH + tid * 4);
    }
    if (step) {
      consumers_sync();
      if (tid < 32) {
        float move = small[16 + tid];
        if (weights) {  // towards the previous chunk: model/rtc.py, with move = −v / steps, time = (steps − step + 1) / steps
          const float pull = fminf(p.strength[step - 1], *most) / steps * weights[cta];
          move += pull * (target[cta * 32 + tid] - (moved[tid] + (steps - step + 1) * move));
        }
        moved[tid] = HELD && cta < committed ? target[cta * 32 + tid] : moved[tid] + move;
      }
      consumers_sync();
    }
    if (cta == 0 && tid == 0) p.stamps[step] = nanoseconds();
    if (step == steps) {
      if (tid < 32) x_t[cta * 32 + tid] = moved[tid];
      return;
    }
#pragma unroll
    for (int a = 0; a < 32; a++) {
      const float w = moved[a];
      y.x += m[a].x * w; y.y += m[a].y * w; y.z += m[a].z * w; y.w += m[a].w * w;
    }
    hand_on(p, y, p.scale + (2 * LAYERS * step * TIMES_OF + (cta < committed)) * WIDTH, row, tid);
    if (!STATE) {
      float square = y.x * y.x + y.y * y.y + y.z * y.z + y.w * y.w;
      for (int o = 16; o; o >>= 1) square += __shfl_xor_sync(~0u, square, o);
      if (lane == 0) small[8 + warp] = square;
      consumers_sync();
      if (tid < 16) {
        float sum = 0;
        if (tid == 0) for (int i = 0; i < 8; i++) sum += small[8 + i];
        p.ss[row * 16 + tid] = sum;
      }
    }
    fence_shared();  // activations are copied to where the scratch was
    publish(COUNTER(C_TURN));
  };

  // Positions behind the last token, up to a whole chunk: their weight is 0, and 0 · NaN would be NaN.
  for (int i = cta * 256 + tid; i < LAYERS * (chunks * 64 - total) * 32; i += CTAS * 256) {
    const int piece = i & 31, layer = (i >> 5) % LAYERS, key = total + (i >> 5) / LAYERS;
    const long long to = (long long)(layer * layer_chunks + (key >> 6)) * CHUNK + (piece >> 3) * KEYS + at(key & 63, piece & 7);
    *(uint4 *)(keys + to) = *(uint4 *)(values + to) = make_uint4(0, 0, 0, 0);
  }
  if (cta < actions && tid < 32) moved[tid] = (HELD && cta < committed ? target : x_t)[cta * 32 + tid];
  if (first_layer && cta == 0 && tid == 0) p.stamps[0] = nanoseconds();
  consumers_sync();

  for (int step = 0; step < steps; step++) {
    if (step || !first_layer) {
      if (cta < actions) turn(step);
      if (STATE) {  // π0: one more matrix product makes the tokens; the state token comes with the constant
        float d[20] = {};
        product(d, 2);
        if (owner) x = load4(p.entering + x_row * WIDTH + x_col);
        end_block(d, modulation(nullptr, 1), modulation(nullptr, 0), COUNTER(C_ENTER), step);  // `parts`: free since C_TURN
      }
    }
    for (int layer = 0; layer < LAYERS; layer++) {
      const long long here = (long long)step * LAYERS + layer;
      if (here < first_layer) continue;
      constexpr int NORM = TIMES_OF * WIDTH;
      const float *gate = STATE ? nullptr : p.gate + here * 2 * NORM;
      const float *scale = STATE ? nullptr : p.scale + here * 2 * NORM;  // [norm before attention, before the MLP]

      {  // ---- queries, keys, values: a team's 96 columns, a quarter of the depth; finished: half the columns of half the rows
        float d[24] = {}, y[6];
        int before = -1;
        const int row = afresh(acc_row) + 8 * (rank & 1), key = start + row;
        const int column = (cta / QKV_TEAM * 2 + group) * QKV_COLUMNS + (rank & 2) * (QKV_COLUMNS / 4);
        const int at_four = column + (lane & 3) * 4, at_two = column + 16 + acc_col;  // columns of this thread
        float2 shift[3], turned[3];  // and cosine, sine of the rotation
        const float *shifts = STATE ? nullptr : p.shift_qkv + (here * TIMES_OF + (row < committed)) * 2560;
#pragma unroll
        for (int i = 0; i < 3; i++) {
          const int col = i < 2 ? at_four + 2 * i : at_two, pair = key * 128 + ((col & 255) >> 1);
          shift[i] = STATE || col >= 2560 ? make_float2(0, 0) : __ldg((const float2 *)(shifts + col));
          turned[i] = row < T ? make_float2(__ldg(p.cos + pair), __ldg(p.sin + pair)) : make_float2(1, 0);
        }
        const float4 squares = row_squares(row);
        for (int i = 0; i < 4; i++) {  // a slot for each warpgroup
          if (group) pass(1);
          bar_wait(a_full + 8 * i, a_parity);
          bar_wait(full + 8 * r.slot, r.parity);
          const u64 a = tile_at(a_at + i * BLOCK), b = tile_at(ring_at + r.slot * SLOT);
          mma_begin();
#pragma unroll
          for (int k = 0; k < 4; k++) mma48(d, a + 2 * k, b + 2 * k, 1);
          mma_commit();
          if (before >= 0) { mma_wait<1>(); release(before); }
          before = r.slot;
          r.next();
          if (!group) pass(1);
        }
        mma_wait<0>();
        release(before);
        // addends of others are free: all have finished the layer before
        team_sum<QKV_TEAM, 3>(d, y, a_tile + ADDENDS, addends_full, 0, rank, acc_row, T);
        const float scale = row_scale(squares);
        if (row < T) {
          u32 out[3];
#pragma unroll
          for (int i = 0; i < 3; i++) {
            const float y1 = y[2 * i] * scale + shift[i].x, y2 = y[2 * i + 1] * scale + shift[i].y;
            const float cs = turned[i].x, sn = turned[i].y;  // queries and keys turn; such a pair stands side by side
            out[i] = (i < 2 ? at_four : at_two) < 2304 ? pack(y1 * cs - y2 * sn, y2 * cs + y1 * sn) : pack(y1, y2);
          }
          const long long own = (long long)(layer * layer_chunks + (key >> 6)) * CHUNK;
          auto place = [&](int col) {
            const int block = (col & 255) >> 6, chunk = (col & 63) >> 3, rest = (col & 7) * 2;
            return (col < 2048 ? p.q + ((col >> 8) * 4 + block) * BLOCK + at(row, chunk)
                               : (col < 2304 ? keys : values) + own + block * KEYS + at(key & 63, chunk)) + rest;
          };
          if (at_four < 2560) *(uint2 *)place(at_four) = make_uint2(out[0], out[1]);
          if (at_two < 2560) *(u32 *)place(at_two) = out[2];
        }
        publish(COUNTER(C_QKV));
        a_done();
      }

      if (cluster < HEADS) {  // ---- attention of one head to every 8th chunk of 64 keys, two at a time: a warpgroup forms
        //                       the weights of one chunk, then half of the answer's columns from both
        float o[2][32], top[2] = {-INFINITY, -INFINITY}, norm[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < 64; i++) o[i >> 5][i & 31] = 0;
        bar_wait(a_full, a_parity);
        for (int first = rank; first < chunks; first += 16) {
          const bool two = first + 8 < chunks;
          const int chunk = first + 8 * group;
          float s[32] = {}, above[2] = {-INFINITY, -INFINITY};
          if (group) pass(4);
          if (!group || two) {
            int slots[4];
#pragma unroll
            for (int i = 0; i < 4; i++, r.next()) {
              slots[i] = r.slot;
              bar_wait(a_full + 8 * i, a_parity);
              bar_wait(full + 8 * r.slot, r.parity);
              const u64 a = tile_at(a_at + i * BLOCK), b = tile_at(ring_at + r.slot * SLOT);
              mma_begin();
#pragma unroll
              for (int k = 0; k < 4; k++) mma64(s, a + 2 * k, b + 2 * k, 1);
            }
            mma_commit();
            mma_wait<0>();
#pragma unroll
            for (int i = 0; i < 4; i++) release(slots[i]);
#pragma unroll
            for (int half = 0; half < 2; half++) {  // accumulator rows acc_row and acc_row + 8
              const int last = (STATE && acc_row + 8 * half == 0 ? start : total - 1) - chunk * 64 - acc_col;  // state: no actions
#pragma unroll
              for (int t = 0; t < 8; t++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                  float &v = s[4 * t + 2 * half + e];
                  v = t * 8 + e <= last ? v * (0.0625f * 1.4426950408889634f) : -INFINITY;
                  above[half] = fmaxf(above[half], v);
                }
              above[half] = fmaxf(above[half], __shfl_xor_sync(~0u, above[half], 1));
              above[half] = fmaxf(above[half], __shfl_xor_sync(~0u, above[half], 2));
            }
          }
          if (!group && two) pass(4);
          if ((lane & 3) == 0) {
            tops[group * 64 + acc_row] = above[0];
            tops[group * 64 + acc_row + 8] = above[1];
          }
          consumers_sync();  // the products with the weights of the round before have ended, too
          float shrink[2];
#pragma unroll
          for (int half = 0; half < 2; half++) {
            above[half] = fmaxf(fmaxf(above[half], tops[(group ^ 1) * 64 + acc_row + 8 * half]), top[half]);
            shrink[half] = top[half] == -INFINITY ? 0.f : exp2_fast(top[half] - above[half]);
            top[half] = above[half];
            norm[half] *= shrink[half];
          }
          if (!group || two)
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const float safe = top[half] == -INFINITY ? 0.f : top[half];
              char *to = a_tile + WEIGHTS + group * KEYS;
#pragma unroll
              for (int t = 0; t < 8; t++) {
                const float e0 = exp2_fast(s[4 * t + 2 * half] - safe), e1 = exp2_fast(s[4 * t + 2 * half + 1] - safe);
                norm[half] += e0 + e1;
                *(u32 *)(to + at(acc_row + 8 * half, t) + acc_col * 2) = pack(e0, e1);
              }
            }
          fence_shared();
          consumers_sync();
          if (first != rank)
#pragma unroll
            for (int i = 0; i < 64; i++) o[i >> 5][i & 31] *= shrink[i >> 1 & 1];
          int before[2] = {};  // slots of the values that may still be read
          for (int g = 0; g <= (int)two; g++) {
            if (group) pass(2);
            int slots[2];
#pragma unroll
            for (int j = 0; j < 2; j++, r.next()) {
              slots[j] = r.slot;
              bar_wait(full + 8 * r.slot, r.parity);
              const u64 a = tile_at(a_at + WEIGHTS + g * KEYS), b = transposed_tile_at(ring_at + r.slot * SLOT);
              mma_begin();
#pragma unroll
              for (int k = 0; k < 4; k++) mma64_transposed(o[j], a + 2 * k, b + 128 * k, 1);
            }
            mma_commit();
            if (!group) pass(2);
            if (g) { mma_wait<1>(); release(before[0]); release(before[1]); }
            before[0] = slots[0], before[1] = slots[1];
          }
          mma_wait<0>();
          release(before[0]);
          release(before[1]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) bar_wait(a_full + 8 * i, a_parity);  // who had no keys has not seen them arrive
        a_done();
        const int T = afresh(all_rows), rows = afresh(own_rows);
        // Answers and what they weigh to those who finish the rows. `answers` of others are free: they have published
        // this layer's queries, so the activations that were there are used, and the answers of the layer before are.
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const u32 whose = (warp & 3) * 2 + half, bar = address_in(answers_full, whose);
          const u32 to = address_in(a_at + ANSWERS + ((rank * 8 + (lane >> 2)) * 32 + group * 16 + (lane & 3)) * 16, whose);
          const bool some = acc_row + 8 * half < T;
          norm[half] += __shfl_xor_sync(~0u, norm[half], 1);
          norm[half] += __shfl_xor_sync(~0u, norm[half], 2);
          if (some && (lane & 3) == 0)
            store_in(address_in(shared(seen + (rank * 2 + group) * 8 + (lane >> 2)), whose), make_float2(top[half], norm[half]), bar);
#pragma unroll
          for (int i = 0; i < 4; i++) {  // 32 columns, 8 of them a lane's: in this order, and so are the weights of `out`
            u32 v[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
              const int t = (i & 1) * 4 + k;
              v[k] = pack(o[i >> 1][4 * t + 2 * half], o[i >> 1][4 * t + 2 * half + 1]);
            }
            if (some) store_in(to + i * 64, make_uint4(v[0], v[1], v[2], v[3]), bar);
          }
        }
        if (rows) {
          if (tid == 0) bar_expect(answers_full, rows * 8 * (512 + 16));
          bar_wait(answers_full, here & 1);
        }
        if (warp < rows) {  // join: 8 columns a lane
          const uint4 *answer = (const uint4 *)(a_tile + ANSWERS) + warp * 32 + lane;
          float best = -INFINITY, sum = 0, y[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
          for (int i = 0; i < 8; i++) best = fmaxf(best, seen[i * 16 + warp].x);
#pragma unroll
          for (int i = 0; i < 8; i++) {
            const uint4 v = answer[i * 8 * 32];
            const float2 even = seen[i * 16 + warp], odd = seen[i * 16 + 8 + warp];
            const float w = exp2_fast(even.x - best);
            sum += w * (even.y + odd.y);
            y[0] += w * lower(v.x); y[1] += w * upper(v.x); y[2] += w * lower(v.y); y[3] += w * upper(v.y);
            y[4] += w * lower(v.z); y[5] += w * upper(v.z); y[6] += w * lower(v.w); y[7] += w * upper(v.w);
          }
          sum = 1.f / sum;
          *(uint4 *)(p.att + (cluster * 4 + (lane >> 3)) * BLOCK + at(x_row, lane & 7)) =
              make_uint4(pack(y[0] * sum, y[1] * sum), pack(y[2] * sum, y[3] * sum), pack(y[4] * sum, y[5] * sum),
                         pack(y[6] * sum, y[7] * sum));
        }
        publish(COUNTER(C_ATT + cluster));
      }

      {  // ---- output projection: the cluster's columns, one head deep
        float d[20] = {};
        const float4 g = modulation(gate, 1), s = modulation(STATE ? nullptr : scale + NORM, 0);
        product(d, 4);
        const bool begins = STATE ? first_layer && here == first_layer : layer == 0 || here == first_layer;
        if (begins && owner) x = load4(p.xg + x_row * WIDTH + x_col);  // of a turn, or of flow_ahead.cu
        // `parts` of others are free: all queries are published, so all have finished the block before
        end_block(d, g, s, COUNTER(C_O), STATE ? step + 1 : 0);
      }

      {  // ---- gate and up: a pair's 72 columns of its quarter, half of the depth; finished: half of the rows
        float d[36] = {}, y[18];
        int before = -1;
        const int quad = afresh(lane & 3), row = acc_row + 8 * (rank & 1);
        const int col = cluster * COLUMNS + group * 32 + quad * 8, col_last = cluster * COLUMNS + 64 + group * 4 + quad;
        float2 shift[9] = {};  // of gate and up: 8 neighbours, and one more
        if (!STATE) {
          const float *from = p.shift_up + (here * TIMES_OF + (row < committed)) * 8192 + rank / UP_TEAM * 2048;
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const float4 v = col < 1024 ? __ldg((const float4 *)(from + col * 2) + i) : make_float4(0, 0, 0, 0);
            shift[2 * i] = make_float2(v.x, v.y), shift[2 * i + 1] = make_float2(v.z, v.w);
          }
          if (col_last < 1024) shift[8] = __ldg((const float2 *)(from + col_last * 2));
        }
        const float4 squares = row_squares(row);
        for (int i = 0; i < 8; i++) {  // a slot for each warpgroup
          if (group) pass(1);
          bar_wait(a_full + 8 * i, a_parity);
          bar_wait(full + 8 * r.slot, r.parity);
          const u64 a = tile_at(a_at + i * BLOCK), b = tile_at(ring_at + r.slot * SLOT);
          mma_begin();
#pragma unroll
          for (int k = 0; k < 4; k++) mma72(d, a + 2 * k, b + 2 * k, 1);
          mma_commit();
          if (before >= 0) { mma_wait<1>(); release(before); }
          before = r.slot;
          r.next();
          if (!group) pass(1);
        }
        mma_wait<0>();
        release(before);
        // addends of others are free: all have finished their attention
        team_sum<UP_TEAM, 9>(d, y, a_tile + ADDENDS, addends_full, 1, rank, acc_row, T);
        const float scale = row_scale(squares);
        if (row < T) {
          float z[9];
#pragma unroll
          for (int t = 0; t < 9; t++)
            z[t] = gelu_tanh(y[2 * t] * scale + shift[t].x) * (y[2 * t + 1] * scale + shift[t].y);
          char *to = p.act + rank / UP_TEAM * 16 * BLOCK;
          if (col < 1024)
            *(uint4 *)(to + (col >> 6) * BLOCK + at(row, (col & 63) >> 3)) =
                make_uint4(pack(z[0], z[1]), pack(z[2], z[3]), pack(z[4], z[5]), pack(z[6], z[7]));
          if (col_last < 1024)
            *(unsigned short *)(to + (col_last >> 6) * BLOCK + at(row, (col_last & 63) >> 3) + (col_last & 7) * 2) =
                (unsigned short)pack(z[8], 0);
        }
        publish(COUNTER(C_ACT + rank / UP_TEAM));
        a_done();
      }

      {  // ---- down: the cluster's columns, an eighth of the inner axis
        float d[20] = {};
        // the scale of the next layer's first norm; behind the last layer there is a plain copy
        const bool final = layer == LAYERS - 1;
        const float4 g = modulation(STATE ? nullptr : gate + NORM, 1);
        const float4 s = modulation(STATE || final ? nullptr : scale + 2 * NORM, 0);
        product(d, 8);
        end_block(d, g, s, COUNTER(C_DOWN), STATE ? step : 1);
      }
    }
  }
  if (cta < actions) turn(steps);
  }
  __syncwarp();
  cluster_meet();  // nobody leaves while others may still write to it
}
