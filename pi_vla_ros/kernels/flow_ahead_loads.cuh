// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// What the loading thread of flow_ahead.cu asks for, phase after phase in the order of the layers.

constexpr int OUT = 8 * QKV_SLOT, UP = OUT + 4 * TILE, DOWN = UP + 16 * TILE;  // of a program of the flow loop, in a layer

// start: tokens of the prefix; T: own ones.
__device__ __forceinline__ void load_all(Loader &in, const Params &p, const Cache &cache, const int &start, int layers, int cta,
                                         int T, u32 queries_full) {
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
                       w + (long long)(QKV_TEAM * team + (b >> 2)) * LAYER_BYTES + (b - team & 3) * 2 * QKV_SLOT,
                       2 * QKV_SLOT, bar);
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
      copy_in(in.pool + QUERIES + in.at.stage * CHUNK, (i & 1 ? cache.values : cache.keys) + cache.at_chunk(layer, i / 2), CHUNK,
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
