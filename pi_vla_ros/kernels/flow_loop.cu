// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// The whole flow loop of the action expert as one resident kernel (sm_90a): see flow_loop.py for what it equals and for
// the layouts. 128 programs of two consumer warpgroups and two loading warps stay on the chip from noise to actions.
//
// Why one kernel: the work of a layer is 35 MB of weights for 50 rows. As separate launches each product first waits
// for its predecessor and then for its weights. Here the weights of a program are one endless stream that depends on
// nothing: a loading warp keeps a ring of them full while the consumers wait for each other's activations.
//
// Activations travel through the L2 cache as the tiles that the tensor cores read (hopper.cuh), so a load is a plain copy.
//
// Compile-time: GROUPS (of 8 rows), STATE (π0: 1), LAYERS, RING (slots).

constexpr int CTAS = 128, WIDTH = 1024, SPLITS = 16;
constexpr int BLOCK = GROUPS * 1024;          // bytes of 64 columns of activations
constexpr int SLOT = 8192;                    // bytes of a weight tile: 64 rows, 64 deep
constexpr int QKV_CTAS = 107, QKV_ROWS = 24;  // 107 · 24 ≥ 2560
constexpr int QKV_SLOT = 2 * QKV_ROWS * 128;  // two tiles of 24 rows
constexpr int LAYER_BYTES = 8 * QKV_SLOT + 28 * SLOT;
constexpr int CHUNK = 64 * 512;               // bytes of the keys (or values) of 64 positions
constexpr int R_STRIDE = 72;                  // floats; keeps accumulator stores free of bank conflicts
constexpr int A_BYTES = 16 * BLOCK + 1024;    // with GROUPS < 8 the tensor core reads one group past the end

struct Params {
  const char *weights[LAYERS], *mix;
  char *h, *q, *att, *act, *mixed;
  float *part, *ml, *opart, *dpart, *ss, *xg;
  const float *shift_qkv, *shift_up, *scale, *gate, *leave_w, *leave_b, *enter_w, *enter_b, *cos, *sin, *entering, *strength;
  u32 *counters;
  long long chunks, steps, tokens;
};

enum { C_TURN, C_QKV, C_O, C_DOWN, C_ENTER, C_PART, C_ATT = C_PART + 8, C_ACT = C_ATT + 8, C_OP = C_ACT + 8,
       C_DP = C_OP + 16, C_MP = C_DP + 16 };

// --- synchronisation --------------------------------------------------------------------------------------------

__device__ __forceinline__ void consumers_sync() { meet<1, 256>(); }

// All consumers: what they wrote is there for whoever sees the counter.
__device__ __forceinline__ void publish(u32 *counter, bool for_copies = true) {
  if (for_copies) fence_global();  // readers that use the copy engine need it
  consumers_sync();
  if (threadIdx.x == 0) count_up(counter);
}
__device__ __forceinline__ void consumers_wait(const u32 *counter, u32 target) {
  if (threadIdx.x == 0) wait_for(counter, target);
  consumers_sync();
}

// --- the kernel -------------------------------------------------------------------------------------------------

struct Ring {  // where a warp is in the endless stream of slots
  int slot = 0;
  u32 parity = 0;
  __device__ void next() { if (++slot == RING) { slot = 0; parity ^= 1; } }
};

extern "C" __global__ void __launch_bounds__(384, 1)
flow_loop(const Params *params, float *x_t, const int *lengths, char *keys, char *values, int layer_chunks,
          const float *target, const float *weights, const float *most) {  // guidance: [H, 32], [H], [1], or nothing
  extern __shared__ char raw[];
  char *base = (char *)(((u64)raw + 1023) & ~1023ull);
  char *a_tile = base;                 // activations of the phase; once they are used, partial results
  char *ring = base + A_BYTES;
  float *rs = (float *)(ring + RING * SLOT);  // [64] of the rows
  float *moved = rs + 64;                     // [32] this program's row of x_t
  float *small = moved + 32;                  // [64] scratch of a turn
  Params &p = *(Params *)(small + 64);        // re-read where it is needed: registers are for accumulators
  u64 *bars = (u64 *)(&p + 1);            // full[RING], empty[RING], a_full[4], a_empty
  const u32 full = shared(bars), empty = full + 8 * RING, a_full = empty + 8 * RING, a_empty = a_full + 32;
  const int cta = blockIdx.x, warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31, tid = threadIdx.x;
  for (int i = tid; i < (int)(sizeof(Params) / 4); i += 384) ((u32 *)&p)[i] = ((const u32 *)params)[i];
  __syncthreads();
  const int piece = cta >> 4, column = cta & 15;  // of the inner axis and of the 64-column tiles; head and its split
  const int T = uniform((int)p.tokens), actions = T - STATE, steps = uniform((int)p.steps);
  const int start = uniform(lengths[0]), total = start + T, chunks = (total + 63) / 64;
  u32 *const count = p.counters;
#define COUNTER(i) (count + (i) * 32)

  if (tid == 0) {
    for (int i = 0; i < RING; i++) { bar_init(full + 8 * i, 1); bar_init(empty + 8 * i, 8); }
    for (int i = 0; i < 4; i++) bar_init(a_full + 8 * i, 1);
    bar_init(a_empty, 8);
    bar_init_done();
  }
  __syncthreads();

  if (warp >= 8) {
  fewer_registers<40>();
  if (warp == 8) {  // ---- weights, and the keys and values of the prefix: one stream, limited by the ring alone
    if (lane == 0) {
    Ring r;
    auto put = [&](const char *from, u32 bytes) {
      bar_wait(empty + 8 * r.slot, r.parity ^ 1);
      bar_expect(full + 8 * r.slot, bytes);
      copy_in(shared(ring + r.slot * SLOT), from, bytes, full + 8 * r.slot);
      r.next();
    };
    for (int step = 0, L = 0; step < steps; step++) {
      if (STATE) for (int i = 0; i < 2; i++) put(p.mix + (cta * 2 + i) * SLOT, SLOT);
      for (int layer = 0; layer < LAYERS; layer++, L++) {
        const char *w = p.weights[layer] + (long long)cta * LAYER_BYTES;
        if (cta < QKV_CTAS) for (int i = 0; i < 8; i++) put(w + i * QKV_SLOT, QKV_SLOT);
        w += 8 * QKV_SLOT;
        for (int chunk = column; chunk * 64 < total; chunk += SPLITS) {
          if (chunk * 64 + 64 > start) {  // holds keys of this layer's own tokens
            wait_for(COUNTER(C_QKV), QKV_CTAS * (L + 1));
            fence_global();
          }
          const long long offset = (long long)(layer * layer_chunks + chunk) * CHUNK;
          for (int i = 0; i < 4; i++) put(keys + offset + i * SLOT, SLOT);
          for (int i = 0; i < 4; i++) put(values + offset + i * SLOT, SLOT);
        }
        for (int i = 0; i < 28; i++) put(w + i * SLOT, SLOT);
      }
    }
    }
  }

  if (warp == 9) {  // ---- activations: wait until their writers are done, then copy
    if (lane == 0) {
    u32 parity = 0;
    auto load = [&](const u32 *counter, u32 target, const char *from, int blocks) {
      wait_for(counter, target);
      bar_wait(a_empty, parity ^ 1);
      parity ^= 1;
      fence_global();
      const int parts = blocks < 4 ? blocks : 4, bytes = blocks / parts * BLOCK;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (i >= parts) { bar_arrive(a_full + 8 * i); continue; }
        bar_expect(a_full + 8 * i, bytes);
        copy_in(shared(a_tile + i * bytes), from + i * bytes, bytes, a_full + 8 * i);
      }
    };
    for (int step = 0, L = 0; step < steps; step++) {
      if (STATE) load(COUNTER(C_TURN), actions * (step + 1), p.mixed + piece * 2 * BLOCK, 2);
      for (int layer = 0; layer < LAYERS; layer++, L++) {
        if (cta < QKV_CTAS) {
          if (layer) load(COUNTER(C_DOWN), CTAS * L, p.h, 16);
          else if (STATE) load(COUNTER(C_ENTER), CTAS * (step + 1), p.h, 16);
          else load(COUNTER(C_TURN), actions * (step + 1), p.h, 16);
        }
        load(COUNTER(C_QKV), QKV_CTAS * (L + 1), p.q + piece * 4 * BLOCK, 4);
        load(COUNTER(C_ATT + piece), SPLITS * (L + 1), p.att + piece * 4 * BLOCK, 4);
        load(COUNTER(C_O), CTAS * (L + 1), p.h, 16);
        load(COUNTER(C_ACT + piece), 16 * (L + 1), p.act + piece * 8 * BLOCK, 8);
      }
    }
    }
  }

  } else {
  more_registers<232>();
  // ---- consumers: two warpgroups that share every product, tile by tile in turn
  const int group = uniform(warp >> 2);
  const int acc_row = (warp & 3) * 16 + (lane >> 2), acc_col = (lane & 3) * 2;  // of accumulators 0, 1; 2, 3: 8 rows on
  const u32 a_at = shared(a_tile), ring_at = shared(ring);
  float *const R = (float *)a_tile;  // [2][64][R_STRIDE] fp32 partial results, one per warpgroup
  Ring r;
  u32 a_parity = 0;
  float4 x = {0, 0, 0, 0};  // the residual stream: this program owns 8 columns, a thread 4 of them in one row
  const int x_row = tid >> 1, x_half = tid & 1, x_col = column * 64 + piece * 8 + x_half * 4;
  const bool owner = x_row < T;

  auto a_done = [&] { fence_shared(); __syncwarp(); if (lane == 0) bar_arrive(a_empty); a_parity ^= 1; };
  auto release = [&](int slot) { if (lane == 0) bar_arrive(empty + 8 * slot); };

  // The warpgroups take the slots of a stream in turn. This one's of the next two; the other's is given back when it
  // has arrived (an earlier word would be counted for the round before).
  auto next_own = [&] {
    Ring even = r;
    r.next();
    Ring odd = r;
    r.next();
    const Ring own = group ? odd : even, other = group ? even : odd;
    bar_wait(full + 8 * other.slot, other.parity);
    release(other.slot);
    bar_wait(full + 8 * own.slot, own.parity);
    return own.slot;
  };
  // d = A[:, 64 · tiles] @ tilesᵀ, this warpgroup's half of the columns; `per_quarter` tiles of A arrive together.
  auto product = [&](float (&d)[16], int tiles, int per_quarter) {
    int before = -1;
    for (int i = 0; i < tiles; i++, r.next()) {
      bar_wait(a_full + 8 * (i / per_quarter), a_parity);
      bar_wait(full + 8 * r.slot, r.parity);
      const u64 a = tile_at(a_at + i * BLOCK), b = tile_at(ring_at + r.slot * SLOT + group * (SLOT / 2));
      mma_begin();
#pragma unroll
      for (int k = 0; k < 4; k++) mma32(d, a + 2 * k, b + 2 * k, i | k);
      mma_commit();
      if (before >= 0) { mma_wait<1>(); release(before); }
      before = r.slot;
    }
    mma_wait<0>();
    release(before);
    a_done();
  };
  // 1 / root mean square of every row, from the 128 programs' sums of squares
  // Asked for when the activations are there, used behind the product: the trip to the L2 cache costs nothing.
  auto row_squares = [&](float4 (&v)[8]) {
    bar_wait(a_full, a_parity);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = load4(p.ss + (warp * 8 + i) * 128 + lane * 4);
  };
  auto row_scales = [&](const float4 (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float s = v[i].x + v[i].y + v[i].z + v[i].w;
#pragma unroll
      for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
      if (lane == 0) rs[warp * 8 + i] = rsqrtf(s * (1.f / WIDTH) + 1e-6f);
    }
  };
  // The end of a sub-block: this program's 64 × 64 partial result out, the group's 8 partial results of its own
  // columns in, residual, input of the next norm and its sums of squares out.
  auto end_block = [&](const float (&d)[16], float *parts, u32 *counter, u32 target, const float *gate,
                       const float *scale, u32 *done) {
    float4 g = {1, 1, 1, 1}, s = {0, 0, 0, 0};  // asked for early
    if (gate) { g = load4(gate + x_col); s = load4(scale + x_col); }
    float *to = parts + ((column * 8 + piece) * 64 + acc_row) * 64 + group * 32 + acc_col;
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (acc_row + 8 * half < T)
#pragma unroll
        for (int t = 0; t < 4; t++)
          *(float2 *)(to + half * 8 * 64 + t * 8) = make_float2(d[4 * t + 2 * half], d[4 * t + 2 * half + 1]);
    publish(counter, false);
    consumers_wait(counter, target);
    if (owner) {
      float4 sum = {0, 0, 0, 0}, v[8];
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = load4(parts + ((column * 8 + i) * 64 + x_row) * 64 + piece * 8 + x_half * 4);
#pragma unroll
      for (int i = 0; i < 8; i++) { sum.x += v[i].x; sum.y += v[i].y; sum.z += v[i].z; sum.w += v[i].w; }
      x.x += sum.x * g.x; x.y += sum.y * g.y; x.z += sum.z * g.z; x.w += sum.w * g.w;
      uint2 out = {pack(x.x * (1.f + s.x), x.y * (1.f + s.y)), pack(x.z * (1.f + s.z), x.w * (1.f + s.w))};
      *(uint2 *)(p.h + column * BLOCK + at(x_row, piece) + x_half * 8) = out;
      float square = x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
      square += __shfl_xor_sync(__activemask(), square, 1);
      if (x_half == 0) p.ss[x_row * 128 + cta] = square;
    }
    publish(done);
  };

  // One action's row between two steps: velocity out, x_t moved, token in.
  auto turn = [&](int step) {
    const int row = cta + STATE;
    if (step) {
      consumers_wait(COUNTER(C_DOWN), CTAS * LAYERS * step);
      uint2 v = __ldcg((const uint2 *)(p.h + (tid >> 4) * BLOCK + at(row, (tid & 15) >> 1) + (tid & 1) * 8));
      *(float4 *)(R + tid * 4) = make_float4(lower(v.x), upper(v.x), lower(v.y), upper(v.y));
      if (warp == 0) {
        float4 s = load4(p.ss + row * 128 + lane * 4);
        float sum = s.x + s.y + s.z + s.w;
        for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
        if (lane == 0) small[0] = rsqrtf(sum * (1.f / WIDTH) + 1e-6f);
      }
      consumers_sync();
#pragma unroll 2
      for (int i = 0; i < 4; i++) {
        const int a = warp * 4 + i;
        const float *w = p.leave_w + ((step - 1) * 32 + a) * WIDTH + lane * 4;
        float sum = 0;
#pragma unroll
        for (int c = 0; c < 8; c++) {
          const float4 m = __ldg((const float4 *)(w + c * 128)), n = *(float4 *)(R + lane * 4 + c * 128);
          sum += m.x * n.x + m.y * n.y + m.z * n.z + m.w * n.w;
        }
#pragma unroll
        for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
        if (lane == 0) small[16 + a] = sum * small[0] + p.leave_b[(step - 1) * 32 + a];
      }
      consumers_sync();
      if (tid < 32) {
        float move = small[16 + tid];
        if (target) {  // towards the previous chunk: model/rtc.py, with move = −v / steps, time = (steps − step + 1) / steps
          const float pull = fminf(p.strength[step - 1], *most) / steps * weights[cta];
          move += pull * (target[cta * 32 + tid] - (moved[tid] + (steps - step + 1) * move));
        }
        moved[tid] += move;
      }
      consumers_sync();
    }
    if (step == steps) {
      if (tid < 32) x_t[cta * 32 + tid] = moved[tid];
      return;
    }
    float4 y = __ldg((const float4 *)(p.enter_b + step * WIDTH + tid * 4));
#pragma unroll 16
    for (int a = 0; a < 32; a++) {
      float4 w = __ldg((const float4 *)(p.enter_w + a * WIDTH + tid * 4));
      float m = moved[a];
      y.x += w.x * m; y.y += w.y * m; y.z += w.z * m; y.w += w.w * m;
    }
    char *to = (STATE ? p.mixed : p.h) + (tid >> 4) * BLOCK + at(row, (tid & 15) >> 1) + (tid & 1) * 8;
    if (STATE) {
      y.x /= 1.f + exp2_fast(-1.4426950408889634f * y.x); y.y /= 1.f + exp2_fast(-1.4426950408889634f * y.y);
      y.z /= 1.f + exp2_fast(-1.4426950408889634f * y.z); y.w /= 1.f + exp2_fast(-1.4426950408889634f * y.w);
      *(uint2 *)to = make_uint2(pack(y.x, y.y), pack(y.z, y.w));
    } else {
      float4 s = __ldg((const float4 *)(p.scale + (2 * LAYERS * step) * WIDTH + tid * 4));
      *(float4 *)(p.xg + row * WIDTH + tid * 4) = y;
      *(uint2 *)to = make_uint2(pack(y.x * (1.f + s.x), y.y * (1.f + s.y)), pack(y.z * (1.f + s.z), y.w * (1.f + s.w)));
      float square = y.x * y.x + y.y * y.y + y.z * y.z + y.w * y.w;
      for (int o = 16; o; o >>= 1) square += __shfl_xor_sync(~0u, square, o);
      if (lane == 0) small[8 + warp] = square;
      consumers_sync();
      if (tid < 128) {
        float sum = 0;
        if (tid == 0) for (int i = 0; i < 8; i++) sum += small[8 + i];
        p.ss[row * 128 + tid] = sum;
      }
    }
    publish(COUNTER(C_TURN));
  };

  // Positions behind the last token, up to a whole chunk: their weight is 0, and 0 · NaN would be NaN.
  if (cta < QKV_CTAS)
    for (int i = cta * 256 + tid; i < LAYERS * (chunks * 64 - total) * 32; i += QKV_CTAS * 256) {
      const int piece = i & 31, layer = (i >> 5) % LAYERS, key = total + (i >> 5) / LAYERS;
      const long long to = (long long)(layer * layer_chunks + (key >> 6)) * CHUNK + (piece >> 3) * SLOT + at(key & 63, piece & 7);
      *(uint4 *)(keys + to) = *(uint4 *)(values + to) = make_uint4(0, 0, 0, 0);
    }
  if (cta < actions && tid < 32) moved[tid] = x_t[cta * 32 + tid];
  consumers_sync();

  for (int step = 0, L = 0; step < steps; step++) {
    if (cta < actions) turn(step);
    if (STATE) {  // π0: one more matrix product makes the tokens; the state token comes with the constant
      float d[16];
      product(d, 2, 1);
      if (owner) x = load4(p.entering + x_row * WIDTH + x_col);
      end_block(d, p.opart, COUNTER(C_MP + column), 8 * (step + 1), nullptr, nullptr, COUNTER(C_ENTER));
    }
    for (int layer = 0; layer < LAYERS; layer++, L++) {
      const long long here = (long long)step * LAYERS + layer;
      const float *gate = STATE ? nullptr : p.gate + here * 2 * WIDTH;
      const float *scale = STATE ? nullptr : p.scale + here * 2 * WIDTH;  // [norm before attention, before the MLP]

      if (cta < QKV_CTAS) {  // ---- queries, keys, values of 24 packed rows
        float d[12];
        int before = -1;
        const int row = tid >> 2, key = start + row, first = cta * QKV_ROWS + (tid & 3) * 6;
        float2 shift[3], turned[3];  // and cosine, sine of the rotation
#pragma unroll
        for (int i = 0; i < 3; i++) {
          const int col = first + 2 * i, pair = key * 128 + ((col & 255) >> 1);
          shift[i] = STATE || col >= 2560 ? make_float2(0, 0) : __ldg((const float2 *)(p.shift_qkv + here * 2560 + col));
          turned[i] = row < T ? make_float2(__ldg(p.cos + pair), __ldg(p.sin + pair)) : make_float2(1, 0);
        }
        float4 squares[8];
        row_squares(squares);
        for (int i = group; i < 8; i += 2) {  // a slot is two tiles deep
          bar_wait(a_full + 8 * (i >> 1), a_parity);
          const int slot = next_own();
          mma_begin();
#pragma unroll
          for (int k = 0; k < 8; k++) {
            const u64 a = tile_at(a_at + (2 * i + (k >> 2)) * BLOCK) + 2 * (k & 3);
            const u64 b = tile_at(ring_at + slot * SLOT + (k >> 2) * QKV_ROWS * 128) + 2 * (k & 3);
            mma24(d, a, b, (i >> 1) | k);
          }
          mma_commit();
          if (before >= 0) { mma_wait<1>(); release(before); }
          before = slot;
        }
        mma_wait<0>();
        release(before);
        row_scales(squares);
        consumers_sync();
        float *to = R + group * 64 * R_STRIDE + acc_row * R_STRIDE + acc_col;
#pragma unroll
        for (int t = 0; t < 3; t++) {
          *(float2 *)(to + t * 8) = make_float2(d[4 * t], d[4 * t + 1]);
          *(float2 *)(to + 8 * R_STRIDE + t * 8) = make_float2(d[4 * t + 2], d[4 * t + 3]);
        }
        consumers_sync();
        if (row < T) {
          const int place = key & 63;
          const long long own = (long long)(layer * layer_chunks + (key >> 6)) * CHUNK;
#pragma unroll
          for (int i = 0; i < 3; i++) {
            const int c = (tid & 3) * 6 + 2 * i, col = first + 2 * i;
            if (col >= 2560) break;
            float2 u = *(float2 *)(R + row * R_STRIDE + c), w = *(float2 *)(R + (64 + row) * R_STRIDE + c);
            const float y1 = (u.x + w.x) * rs[row] + shift[i].x, y2 = (u.y + w.y) * rs[row] + shift[i].y;
            const int d0 = col & 255, block = d0 >> 6, chunk = (d0 & 63) >> 3, rest = (d0 & 7) * 2;
            const float cs = turned[i].x, sn = turned[i].y;  // queries and keys turn; such a pair stands side by side
            const u32 out = col < 2304 ? pack(y1 * cs - y2 * sn, y2 * cs + y1 * sn) : pack(y1, y2);
            if (col < 2048) *(u32 *)(p.q + ((col >> 8) * 4 + block) * BLOCK + at(row, chunk) + rest) = out;
            else *(u32 *)((col < 2304 ? keys : values) + own + block * SLOT + at(place, chunk) + rest) = out;
          }
        }
        publish(COUNTER(C_QKV));
        a_done();
      }

      {  // ---- attention of one head (piece) to every 16th chunk of 64 keys; both warpgroups form all scores, then each
         //      half of the answer's columns
#pragma unroll
        for (int i = 0; i < 4; i++) bar_wait(a_full + 8 * i, a_parity);
        for (int chunk = column; chunk < chunks; chunk += SPLITS) {
          float s[32];
          int slots[4];
#pragma unroll
          for (int i = 0; i < 4; i++, r.next()) {
            slots[i] = r.slot;
            bar_wait(full + 8 * r.slot, r.parity);
            const u64 a = tile_at(a_at + i * BLOCK), b = tile_at(ring_at + r.slot * SLOT);
            mma_begin();
#pragma unroll
            for (int k = 0; k < 4; k++) mma64(s, a + 2 * k, b + 2 * k, i | k);
          }
          mma_commit();
          mma_wait<0>();
#pragma unroll
          for (int i = 0; i < 4; i++) release(slots[i]);
          u32 prob[16];
#pragma unroll
          for (int half = 0; half < 2; half++) {  // accumulator rows acc_row and acc_row + 8
            const int row = acc_row + 8 * half;
            const int last = (STATE && row == 0 ? start : total - 1) - chunk * 64 - acc_col;  // state: not the actions
            float top = -INFINITY, sum = 0;
#pragma unroll
            for (int t = 0; t < 8; t++)
#pragma unroll
              for (int e = 0; e < 2; e++) {
                float &v = s[4 * t + 2 * half + e];
                v = t * 8 + e <= last ? v * (0.0625f * 1.4426950408889634f) : -INFINITY;
                top = fmaxf(top, v);
              }
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            const float safe = top == -INFINITY ? 0.f : top;
#pragma unroll
            for (int t = 0; t < 8; t++) {
              const float e0 = exp2_fast(s[4 * t + 2 * half] - safe), e1 = exp2_fast(s[4 * t + 2 * half + 1] - safe);
              sum += e0 + e1;
              prob[2 * t + half] = pack(e0, e1);
            }
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            if (group == 0 && (lane & 3) == 0)
              *(float2 *)(p.ml + ((piece * p.chunks + chunk) * 64 + row) * 2) = make_float2(top, sum);
          }
#pragma unroll
          for (int i = 0; i < 4; i++, r.next()) {
            bar_wait(full + 8 * r.slot, r.parity);
            slots[i] = r.slot;
          }
#pragma unroll
          for (int j = 0; j < 2; j++) {
            float o[32];
            const u64 b = transposed_tile_at(ring_at + (group ? slots[2 + j] : slots[j]) * SLOT);
            mma_begin();
#pragma unroll
            for (int k = 0; k < 4; k++) {
              const u32 a[4] = {prob[4 * k], prob[4 * k + 1], prob[4 * k + 2], prob[4 * k + 3]};
              mma64_regs_transposed(o, a, b + 128 * k, k);
            }
            mma_commit();
            mma_wait<0>();
            float *to = p.part + ((piece * p.chunks + chunk) * 64 + acc_row) * 256 + group * 128 + j * 64 + acc_col;
#pragma unroll
            for (int half = 0; half < 2; half++)
              if (acc_row + 8 * half < T)
#pragma unroll
                for (int t = 0; t < 8; t++)
                  *(float2 *)(to + half * 8 * 256 + t * 8) = make_float2(o[4 * t + 2 * half], o[4 * t + 2 * half + 1]);
          }
#pragma unroll
          for (int i = 0; i < 4; i++) release(slots[i]);
        }
        a_done();
        publish(COUNTER(C_PART + piece), false);
        consumers_wait(COUNTER(C_PART + piece), SPLITS * (L + 1));
        const int row = tid >> 2, col = column * 16 + (tid & 3) * 4;
        if (row < T) {  // 16 of the head's columns: join the chunks' answers
          const float2 *ml = (const float2 *)p.ml + piece * p.chunks * 64 + row;
          const float *part = p.part + (piece * p.chunks * 64 + row) * 256 + col;
          float top = -INFINITY, norm = 0;
          float4 y = {0, 0, 0, 0};
          for (int first = 0; first < chunks; first += SPLITS) {
            float2 m[SPLITS];
            float4 v[SPLITS];
            float above = top;
#pragma unroll
            for (int i = 0; i < SPLITS; i++) {
              const bool some = first + i < chunks;
              m[i] = some ? __ldcg(ml + (first + i) * 64) : make_float2(-INFINITY, 0);
              v[i] = some ? load4(part + (first + i) * 64 * 256) : make_float4(0, 0, 0, 0);
            }
#pragma unroll
            for (int i = 0; i < SPLITS; i++) above = fmaxf(above, m[i].x);
            const float shrink = exp2_fast(top - above);
            top = above;
            norm *= shrink; y.x *= shrink; y.y *= shrink; y.z *= shrink; y.w *= shrink;
#pragma unroll
            for (int i = 0; i < SPLITS; i++) {
              const float w = exp2_fast(m[i].x - top);
              norm += w * m[i].y;
              y.x += w * v[i].x; y.y += w * v[i].y; y.z += w * v[i].z; y.w += w * v[i].w;
            }
          }
          norm = 1.f / norm;
          *(uint2 *)(p.att + (piece * 4 + (column >> 2)) * BLOCK + at(row, (column & 3) * 2 + ((tid & 3) >> 1)) + (tid & 1) * 8) =
              make_uint2(pack(y.x * norm, y.y * norm), pack(y.z * norm, y.w * norm));
        }
        publish(COUNTER(C_ATT + piece));
      }

      {  // ---- output projection: 64 columns, one head deep
        float d[16];
        product(d, 4, 1);
        if (layer == 0 && !STATE && owner) x = load4(p.xg + x_row * WIDTH + x_col);
        end_block(d, p.opart, COUNTER(C_OP + column), 8 * (L + 1), gate, STATE ? nullptr : scale + WIDTH, COUNTER(C_O));
      }

      {  // ---- gate and up: 64 packed rows make 32 columns, 4 neighbours of a row in one thread
        float d[16];
        float4 shift[2], squares[8];
        const int col = cta * 32 + group * 16 + (lane & 3) * 4;
        if (!STATE)
#pragma unroll
          for (int i = 0; i < 2; i++) shift[i] = __ldg((const float4 *)(p.shift_up + here * 8192 + col * 2) + i);
        row_squares(squares);
        product(d, 16, 4);
        row_scales(squares);
        consumers_sync();
        const float s[8] = {shift[0].x, shift[0].y, shift[0].z, shift[0].w, shift[1].x, shift[1].y, shift[1].z, shift[1].w};
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int row = acc_row + 8 * half;
          if (row >= T) continue;
          float y[4];
#pragma unroll
          for (int t = 0; t < 4; t++) {
            float gate = d[4 * t + 2 * half] * rs[row], up = d[4 * t + 2 * half + 1] * rs[row];
            if (!STATE) { gate += s[2 * t]; up += s[2 * t + 1]; }
            y[t] = gelu_tanh(gate) * up;
          }
          *(uint2 *)(p.act + (col >> 6) * BLOCK + at(row, (col & 63) >> 3) + (col & 4) * 2) =
              make_uint2(pack(y[0], y[1]), pack(y[2], y[3]));
        }
        publish(COUNTER(C_ACT + piece));
      }

      {  // ---- down: 64 columns, an eighth of the inner axis
        float d[16];
        product(d, 8, 2);
        // the scale of the next layer's first norm; behind the last layer there is a plain copy
        const float *next = STATE ? nullptr : scale + 2 * WIDTH;
        if (layer == LAYERS - 1) next = p.scale + (long long)steps * LAYERS * 2 * WIDTH;
        end_block(d, p.dpart, COUNTER(C_DP + column), 8 * (L + 1), STATE ? nullptr : gate + WIDTH, next, COUNTER(C_DOWN));
      }
    }
  }
  if (cta < actions) turn(steps);
  }
}
