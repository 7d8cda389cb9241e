// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// What the kernels of the flow loop (flow_loop.cu, flow_ahead.cu) have in memory: flow_loop.py makes it.
//
// Compile-time: GROUPS (of 8 rows), STATE (π0: 1), LAYERS, HELD (the tables have a second row, for committed actions).

constexpr int CLUSTERS = 15, CTAS = 8 * CLUSTERS, WIDTH = 1024, HEADS = 8;
constexpr int BLOCK = GROUPS * 1024;          // bytes of 64 columns of activations
constexpr int COLUMNS = 72;                   // of a cluster: 15 · 72 ≥ 1024; a warpgroup's packed rows of gate and up
constexpr int TILE = COLUMNS * 128;           // bytes of a weight tile: 72 rows, 64 deep
constexpr int QKV_TEAM = 4, UP_TEAM = 2;      // neighbours that have the same columns and a part of the depth each
constexpr int QKV_COLUMNS = 48;               // of a warpgroup; 30 teams · 2 · 48 ≥ 2560
constexpr int QKV_SLOT = QKV_COLUMNS * 128;
constexpr int LAYER_BYTES = 8 * QKV_SLOT + 28 * TILE;  // of a program: tiles of QKV, 4 of out, 16 of gate and up, 8 of down
constexpr int KEYS = 8192, CHUNK = 4 * KEYS;  // bytes of the keys (or values) of 64 positions: 64 of D, all

struct Params {
  const char *weights[LAYERS], *mix;
  char *h, *q, *att, *act, *mixed;
  float *ss, *xg;
  const float *shift_qkv, *shift_up, *scale, *gate, *leave_w, *leave_b, *enter_w, *enter_b, *cos, *sin, *entering, *strength;
  u32 *counters;
  long long *stamps;
  long long chunks, steps, tokens;
};

enum { C_TURN, C_QKV, C_O, C_DOWN, C_ENTER, C_ATT, C_ACT = C_ATT + 8, C_AHEAD = C_ACT + 4, C_READY };

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
