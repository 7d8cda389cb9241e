// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// The two loading threads of a program of flow_loop.cu. Each goes through all steps and layers in the order in which the
// consumers use what it loads, and far ahead of them: the stream of weights depends on nothing but free slots.

// Weights, and the keys and values of the prefix: one stream, limited by the ring alone.
__device__ __forceinline__ void load_weights(const Program &me, const Cache &cache, int first_layer) {
  const Params &p = me.p;
  Walk<RING> r;
  auto put = [&](const char *from, u32 bytes, bool once = true) {  // weights: once a step, and 12 times the L2 cache
    bar_wait(me.empty + 8 * r.slot, r.parity ^ 1);
    bar_expect(me.full + 8 * r.slot, bytes);
    const u32 to = shared(me.ring + r.slot * SLOT);
    if (once) copy_in_once(to, from, bytes, me.full + 8 * r.slot);
    else copy_in(to, from, bytes, me.full + 8 * r.slot);
    r.next();
  };
  for (int step = 0, L = 0; step < me.steps; step++) {
    if (STATE && (step || !first_layer)) for (int i = 0; i < 2; i++) put(p.mix + (me.cta * 2 + i) * TILE, TILE);
    for (int layer = 0; layer < LAYERS; layer++, L++) {
      if (L < first_layer) continue;
      const char *w = p.weights[layer] + (long long)me.cta * LAYER_BYTES;
      for (int i = 0; i < 8; i++) put(w + i * QKV_SLOT, QKV_SLOT);
      w += 8 * QKV_SLOT;
      if (me.cluster < HEADS)
        for (int first = me.rank; first < me.chunks; first += 16) {  // keys of one or two chunks, then their values
          const int both = first + 8 < me.chunks ? 16 : 8;
          for (int chunk = first; chunk < first + both; chunk += 8)  // they come when keys have made room
            if (chunk * 64 + 64 <= me.start) into_l2(cache.values + cache.at_chunk(layer, chunk), CHUNK);
          for (int part = 0; part < 2; part++)
            for (int chunk = first; chunk < first + both; chunk += 8) {
              if (chunk * 64 + 64 > me.start) {  // holds keys of this layer's own tokens
                wait_for(me.counter(C_QKV), CTAS * (L + 1));
                fence_global();
              }
              const char *from = (part ? cache.values : cache.keys) + cache.at_chunk(layer, chunk);
              for (int i = 0; i < 4; i++) put(from + i * KEYS, KEYS, false);
            }
        }
      for (int i = 0; i < 28; i++) put(w + i * TILE, TILE);
    }
  }
}

// Activations: wait until their writers are done, then copy.
__device__ __forceinline__ void load_activations(const Program &me, int first_layer) {
  const Params &p = me.p;
  u32 parity = 0;
  auto load = [&](const u32 *counter, u32 target, const char *from, int blocks, int begin) {
    const int bytes = me.T * 128;  // rows behind T hold anything: a row of a product depends on that row alone
    bar_wait(me.a_empty, parity ^ 1);
    parity ^= 1;
    for (int i = 0; i < BLOCKS; i++) {  // before the wait, so that nothing stands between it and the copies
      if (i < blocks) bar_expect(me.a_full + 8 * i, bytes);
      else bar_arrive(me.a_full + 8 * i);
    }
    wait_for(counter, target);
    fence_global();
    // What many programs read, each team begins at another block, or all would ask for the same lines at once. Weights
    // are packed in the same order.
#pragma unroll 1
    for (int i = 0; i < blocks; i++)
      copy_in(shared(me.a_tile + i * BLOCK), from + (i + begin & blocks - 1) * BLOCK, bytes, me.a_full + 8 * i);
  };
  for (int L = 0, step = 0; step < me.steps; step++) {
    if (STATE && (step || !first_layer)) load(me.counter(C_TURN), me.actions * (step + 1), p.mixed + me.rank * 2 * BLOCK, 2, 0);
    for (int layer = 0; layer < LAYERS; layer++, L++) {
      if (L < first_layer) continue;
      const char *h = p.h + me.rank % QKV_TEAM * 4 * BLOCK;
      const int team = me.cta / QKV_TEAM;
      if (layer) load(me.counter(C_DOWN), CTAS * L, h, 4, team);
      else if (STATE) load(me.counter(C_ENTER), CTAS * (step + 1), h, 4, team);
      else load(me.counter(C_TURN), me.actions * (step + 1), h, 4, team);
      if (me.cluster < HEADS) load(me.counter(C_QKV), CTAS * (L + 1), p.q + me.cluster * 4 * BLOCK, 4, 0);
      load(me.counter(C_ATT + me.rank), 8 * (L + 1), p.att + me.rank * 4 * BLOCK, 4, 0);
      load(me.counter(C_O), CTAS * (L + 1), p.h + me.rank % UP_TEAM * 8 * BLOCK, 8, me.cta / UP_TEAM);
      load(me.counter(C_ACT + me.rank / UP_TEAM), UP_TEAM * CLUSTERS * (L + 1), p.act + me.rank * 8 * BLOCK, 8, 0);
    }
  }
}
