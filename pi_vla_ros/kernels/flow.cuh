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
constexpr int TIMES_OF = 1 + HELD, NORM = TIMES_OF * WIDTH;  // rows of a table for one step and layer; floats of a norm's
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

// Keys and values of all layers, chunk by chunk.
struct Cache {
  char *keys, *values;
  int layer_chunks;  // from a layer's first chunk to the next one's
  __device__ __forceinline__ long long at_chunk(int layer, int chunk) const {
    return (long long)(layer * layer_chunks + chunk) * CHUNK;
  }
};

enum { C_TURN, C_QKV, C_O, C_DOWN, C_ENTER, C_ATT, C_ACT = C_ATT + 8, C_AHEAD = C_ACT + 4, C_READY };
