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
// Here stand the roles, and the phases of a layer in their order. The headers: flow.cuh the memory of all programs,
// flow_program.cuh that of one, flow_loads.cuh its loading threads, flow_consumers.cuh those that compute, flow_sums.cuh sums over
// a cluster, flow_attention.cuh a head's attention, flow_turn.cuh what is between two steps, flow_epilogues.cuh what flow_ahead.cu
// does alike. QKV, gate and up, and the loop over the chunks of an attention stay in the kernel: as functions they are compiled to
// other machine code, and how long that takes nobody has measured.
//
// Compile-time: GROUPS (of 8 rows), STATE (π0: 1), LAYERS, RING (slots), HELD (the first `delay` actions are the target's
// and stand at flow time 0; π0.5, whose tables then have a second row for it).

#include "flow.cuh"
#include "flow_epilogues.cuh"
#include "flow_program.cuh"
#include "flow_loads.cuh"
#include "flow_consumers.cuh"
#include "flow_sums.cuh"
#include "flow_attention.cuh"
#include "flow_turn.cuh"

extern "C" __global__ void __cluster_dims__(8, 1, 1) __launch_bounds__(384, 1)
flow_loop(const Params *params, float *x_t, const int *lengths, char *keys, char *values, int layer_chunks,
          const float *target, const float *weights, const float *most, const int *delay,  // Chunking; HELD [1]
          int first_layer) {  // of step 0: flow_ahead.cu has done those before it, and the counters stand accordingly
  extern __shared__ __align__(1024) char raw[];
  Program program(raw);
  const int warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31;
  program.begin(params, lengths, delay, first_layer);
  const Cache cache{keys, values, layer_chunks};

  if (warp >= 8) {
    fewer_registers<40>();
    if (warp == 8 && lane == 0) load_weights(program, cache, first_layer);
    if (warp == 9 && lane == 0) load_activations(program, first_layer);
  } else {
    more_registers<232>();
    Consumer me(program, warp);
    // Not in the constructor: that, too, gives other machine code.
    me.owner = me.warp < me.own_rows && lane < COLUMNS / 4 && me.x_col < WIDTH;
    const Params &p = me.p;
    const int actions = program.actions;  // so many programs have a row between two steps
    const Chunking rtc{target, weights, most};
    // Positions behind the last token, up to a whole chunk.
    for (int i = me.cta * 256 + me.tid; i < LAYERS * (me.chunks * 64 - me.total) * 32; i += CTAS * 256)
      clear_position(cache, (i >> 5) % LAYERS, me.total + (i >> 5) / LAYERS, i & 31);
    if (me.cta < actions && me.tid < 32)
      me.moved[me.tid] = (HELD && me.cta < me.committed ? target : x_t)[me.cta * 32 + me.tid];
    if (first_layer && me.cta == 0 && me.tid == 0) p.stamps[0] = nanoseconds();
    consumers_sync();

    for (int step = 0; step < me.steps; step++) {
      if (step || !first_layer) {
        if (me.cta < actions) me.turn(step, x_t, rtc);
        if (STATE) {  // π0: one more matrix product makes the tokens; the state token comes with the constant
          float d[20] = {};
          me.product(d, 2);
          if (me.owner) me.x = load4(p.entering + me.x_row * WIDTH + me.x_col);
          // `parts`: free since C_TURN
          me.end_block(d, me.modulation(nullptr, 1), me.modulation(nullptr, 0), me.counter(C_ENTER), step);
        }
      }
      for (int layer = 0; layer < LAYERS; layer++) {
        const long long here = (long long)step * LAYERS + layer;
        if (here < first_layer) continue;
        const float *gate = STATE ? nullptr : p.gate + here * 2 * NORM;
        const float *scale = STATE ? nullptr : p.scale + here * 2 * NORM;  // [norm before attention, before the MLP]

        {  // ---- queries, keys, values: a team's 96 columns, a quarter of the depth; finished: half the columns of half the rows
          float d[24] = {}, y[6];
          const int row = afresh(me.acc_row) + 8 * (me.rank & 1), key = me.start + row;
          const int column = (me.cta / QKV_TEAM * 2 + me.group) * QKV_COLUMNS + (me.rank & 2) * (QKV_COLUMNS / 4);
          const int at_four = column + (me.lane & 3) * 4, at_two = column + 16 + me.acc_col;  // columns of this thread
          float2 shift[3], turned[3];  // and cosine, sine of the rotation
          const float *shifts = STATE ? nullptr : p.shift_qkv + (here * TIMES_OF + (row < me.committed)) * 2560;
#pragma unroll
          for (int i = 0; i < 3; i++) {
            const int col = i < 2 ? at_four + 2 * i : at_two, pair = key * 128 + ((col & 255) >> 1);
            shift[i] = STATE || col >= 2560 ? make_float2(0, 0) : __ldg((const float2 *)(shifts + col));
            turned[i] = row < me.T ? make_float2(__ldg(p.cos + pair), __ldg(p.sin + pair)) : make_float2(1, 0);
          }
          const float4 squares = me.row_squares(row);
          me.product_each<QKV_COLUMNS>(d, 4);
          me.team_sum<QKV_TEAM, 3>(d, y, 0);  // addends of others are free: all have finished the layer before
          const float scale = root_scale(squares);
          if (row < me.T) {
            u32 out[3];
#pragma unroll
            for (int i = 0; i < 3; i++) {
              const float y1 = y[2 * i] * scale + shift[i].x, y2 = y[2 * i + 1] * scale + shift[i].y;
              out[i] = turned_pair(i < 2 ? at_four : at_two, y1, y2, turned[i].x, turned[i].y);
            }
            const long long own = cache.at_chunk(layer, key >> 6);
            if (at_four < 2560) *(uint2 *)place_of(p, cache, own, row, key, at_four) = make_uint2(out[0], out[1]);
            if (at_two < 2560) *(u32 *)place_of(p, cache, own, row, key, at_two) = out[2];
          }
          publish(me.counter(C_QKV));
          me.a_done();
        }

        if (me.cluster < HEADS) {  // ---- attention of one head to every 8th chunk of 64 keys
          float o[2][32], top[2] = {-INFINITY, -INFINITY}, norm[2] = {0, 0};
#pragma unroll
          for (int i = 0; i < 64; i++) o[i >> 5][i & 31] = 0;
          bar_wait(me.a_full, me.a_parity);
          for (int first = me.rank; first < me.chunks; first += 16) {  // a chunk for each warpgroup, if there are two
            const bool two = first + 8 < me.chunks;
            float s[32] = {}, above[2] = {-INFINITY, -INFINITY}, shrink[2];
            if (me.group) me.pass(4);
            if (!me.group || two) {
              me.add_scores(s);
              me.mask_scores(s, above, first + 8 * me.group);
            }
            if (!me.group && two) me.pass(4);
            me.raise_tops(above, top, norm, shrink);
            if (!me.group || two) me.write_weights(s, top, norm);
            fence_shared();
            consumers_sync();
            if (first != me.rank)
#pragma unroll
              for (int i = 0; i < 64; i++) o[i >> 5][i & 31] *= shrink[i >> 1 & 1];
            me.add_answers(o, two);
          }
#pragma unroll
          for (int i = 0; i < 4; i++) bar_wait(me.a_full + 8 * i, me.a_parity);  // who had no keys has not seen them arrive
          me.a_done();
          const int T = afresh(me.T), rows = afresh(me.own_rows);
          me.send_answers(o, top, norm, T);
          if (rows) {
            if (me.tid == 0) bar_expect(me.answers_full, rows * 8 * (512 + 16));
            bar_wait(me.answers_full, here & 1);
          }
          if (me.warp < rows) me.join_answers();
          publish(me.counter(C_ATT + me.cluster));
        }

        {  // ---- output projection: the cluster's columns, one head deep
          float d[20] = {};
          const float4 g = me.modulation(gate, 1), s = me.modulation(STATE ? nullptr : scale + NORM, 0);
          me.product(d, 4);
          const bool begins = STATE ? first_layer && here == first_layer : layer == 0 || here == first_layer;
          if (begins && me.owner) me.x = load4(p.xg + me.x_row * WIDTH + me.x_col);  // of a turn, or of flow_ahead.cu
          // `parts` of others are free: all queries are published, so all have finished the block before
          me.end_block(d, g, s, me.counter(C_O), STATE ? step + 1 : 0);
        }

        {  // ---- gate and up: a pair's 72 columns of its quarter, half of the depth; finished: half of the rows
          float d[36] = {}, y[18];
          const int quad = afresh(me.lane & 3), row = me.acc_row + 8 * (me.rank & 1);
          const int col = me.cluster * COLUMNS + me.group * 32 + quad * 8;
          const int col_last = me.cluster * COLUMNS + 64 + me.group * 4 + quad;
          float2 shift[9] = {};  // of gate and up: 8 neighbours, and one more
          if (!STATE) {
            const float *from = p.shift_up + (here * TIMES_OF + (row < me.committed)) * 8192 + me.rank / UP_TEAM * 2048;
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const float4 v = col < 1024 ? __ldg((const float4 *)(from + col * 2) + i) : make_float4(0, 0, 0, 0);
              shift[2 * i] = make_float2(v.x, v.y), shift[2 * i + 1] = make_float2(v.z, v.w);
            }
            if (col_last < 1024) shift[8] = __ldg((const float2 *)(from + col_last * 2));
          }
          const float4 squares = me.row_squares(row);
          me.product_each<COLUMNS>(d, 8);
          me.team_sum<UP_TEAM, 9>(d, y, 1);  // addends of others are free: all have finished their attention
          const float scale = root_scale(squares);
          if (row < me.T) {
            float z[9];
#pragma unroll
            for (int t = 0; t < 9; t++)
              z[t] = gelu_tanh(y[2 * t] * scale + shift[t].x) * (y[2 * t + 1] * scale + shift[t].y);
            char *to = p.act + me.rank / UP_TEAM * 16 * BLOCK;
            if (col < 1024)
              *(uint4 *)(to + (col >> 6) * BLOCK + at(row, (col & 63) >> 3)) =
                  make_uint4(pack(z[0], z[1]), pack(z[2], z[3]), pack(z[4], z[5]), pack(z[6], z[7]));
            if (col_last < 1024)
              *(unsigned short *)(to + (col_last >> 6) * BLOCK + at(row, (col_last & 63) >> 3) + (col_last & 7) * 2) =
                  (unsigned short)pack(z[8], 0);
          }
          publish(me.counter(C_ACT + me.rank / UP_TEAM));
          me.a_done();
        }

        {  // ---- down: the cluster's columns, an eighth of the inner axis
          float d[20] = {};
          // the scale of the next layer's first norm; behind the last layer there is a plain copy
          const bool final = layer == LAYERS - 1;
          const float4 g = me.modulation(STATE ? nullptr : gate + NORM, 1);
          const float4 s = me.modulation(STATE || final ? nullptr : scale + 2 * NORM, 0);
          me.product(d, 8);
          me.end_block(d, g, s, me.counter(C_DOWN), STATE ? step : 1);
        }
      }
    }
    if (me.cta < actions) me.turn(me.steps, x_t, rtc);
  }
  __syncwarp();
  cluster_meet();  // nobody leaves while others may still write to it
}
