// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Attention of many query heads over one key/value head of 256 dimensions: see hopper_attention.py for what it equals.
//
// A program has 64 rows of queries (heads are folded into rows) and two warpgroups that take the chunks of 64 keys in
// turn: while one forms its softmax, the other has the tensor cores. Each keeps its own running answer of 64 × 256 in
// registers; at the end they join them through shared memory. Chunks come as plain copies: the cache has their layout.
// Two programs (a cluster) see the same keys: each loads half of a chunk for both, or the L2 cache would be the limit.
//
// A warpgroup has barriers of its own for what arrives. It does not see every round of a slot, and of a barrier that the
// other one waits for it could not tell "my round is there" from "the round before it is not".

constexpr int TILE = 8192, CHUNK = 4 * TILE, SLOTS = 5;  // slots of the ring: keys and values of a chunk take one each
constexpr int STRIDE = 132;                              // floats of a row of the joined halves

struct Walk {
  int slot = 0;
  u32 parity = 0;
  __device__ void next() { if (++slot == SLOTS) { slot = 0; parity ^= 1; } }
};

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
hopper_attention(const __grid_constant__ TensorMap q_map, const char *keys, const char *values, char *out,
                 const int *lengths, int rows) {
  extern __shared__ char raw[];
  char *base = (char *)(((u64)raw + 1023) & ~1023ull);
  const u32 queries = shared(base), ring = queries + CHUNK, full = ring + SLOTS * CHUNK, empty = full + 16 * SLOTS;
  const u32 q_full = empty + 8 * SLOTS;
  float *joined = (float *)(base + CHUNK);  // [2][64][STRIDE] over the ring, when it is done with
  float2 *norms = (float2 *)(base + CHUNK + 2 * 64 * STRIDE * 4);  // [2][64]
  const int warp = uniform(threadIdx.x >> 5), lane = threadIdx.x & 31;
  const u32 rank = cluster_rank();
  chain_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2 * SLOTS; i++) bar_init(full + 8 * i, 1);  // [2][SLOTS]
    for (int i = 0; i < SLOTS; i++) bar_init(empty + 8 * i, 2);
    bar_init(q_full, 1);
    bar_init_done();
  }
  if (threadIdx.x == 0) map_in(&q_map);
  cluster_meet();
  chain_wait();
  const int length = uniform(lengths[0]), chunks = (length + 63) / 64;

  if (warp >= 8) {  // ---- loads
    fewer_registers<40>();
    if (warp == 8 && lane == 0) {
      bar_expect(q_full, CHUNK);
      for (int i = 0; i < 4; i++) tile_in(queries + i * TILE, &q_map, i * 64, blockIdx.x * 64, q_full);
      Walk s;
      for (int i = 0; i < 2 * chunks; i++, s.next()) {
        bar_wait(empty + 8 * s.slot, s.parity ^ 1);
        const u32 bar = full + 8 * ((i >> 1 & 1) * SLOTS + s.slot);
        bar_expect(bar, CHUNK);
        const int half = rank * (CHUNK / 2);
        copy_in_all(ring + s.slot * CHUNK + half, (i & 1 ? values : keys) + (long long)(i >> 1) * CHUNK + half, CHUNK / 2,
                    bar, 3);
      }
    }
    __syncwarp();
    cluster_meet();
    return;
  }
  more_registers<232>();
  const int group = uniform(warp >> 2), row = (warp & 3) * 16 + (lane >> 2), quad = lane & 3;
  const u32 back = address_in(empty, warp & 1);  // a slot is given back to both loaders: one warp tells each
  auto release = [&](int slot) { if ((warp & 3) < 2 && lane == 0) bar_arrive_in(back + 8 * slot); };
  float o[128], top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 128; i++) o[i] = 0;
  bar_wait(q_full, 0);
  Walk s;
  u32 parities = 0;  // a bit a slot: the next round of this warpgroup's barrier
  auto wait_full = [&] {
    bar_wait(full + 8 * (group * SLOTS + s.slot), parities >> s.slot & 1);
    parities ^= 1u << s.slot;
  };
  for (int chunk = 0; chunk < chunks; chunk++) {
    if ((chunk & 1) != group) { s.next(); s.next(); continue; }
    float score[32];
    wait_full();
    mma_begin();
#pragma unroll
    for (int i = 0; i < 16; i++)
      mma64(score, tile_at(queries + (i >> 2) * TILE) + 2 * (i & 3), tile_at(ring + s.slot * CHUNK + (i >> 2) * TILE) + 2 * (i & 3), i);
    mma_commit();
    mma_wait<0>();
    release(s.slot);
    s.next();

    u32 prob[16];
    const int last = length - 1 - chunk * 64 - quad * 2;  // of this thread's columns, the last that is a key
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float most = top[h], sum = 0;
#pragma unroll
      for (int i = 0; i < 16; i++) {
        float &v = score[4 * (i >> 1) + 2 * h + (i & 1)];
        v = (i >> 1) * 8 + (i & 1) <= last ? v * (0.0625f * 1.4426950408889634f) : -INFINITY;
        most = fmaxf(most, v);
      }
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const float shrink = exp2_fast(top[h] - most);  // every chunk has a key: most is finite
      top[h] = most;
#pragma unroll
      for (int t = 0; t < 8; t++) {
        const float e0 = exp2_fast(score[4 * t + 2 * h] - most), e1 = exp2_fast(score[4 * t + 2 * h + 1] - most);
        sum += e0 + e1;
        prob[2 * t + h] = pack(e0, e1);
      }
      total[h] = total[h] * shrink + sum;  // of this thread's columns; the quad's are added at the end
#pragma unroll
      for (int t = 0; t < 32; t++) { o[4 * t + 2 * h] *= shrink; o[4 * t + 2 * h + 1] *= shrink; }
    }
    wait_full();
    mma_begin();
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const u32 a[4] = {prob[4 * k], prob[4 * k + 1], prob[4 * k + 2], prob[4 * k + 3]};
      mma256_regs_transposed(o, a, transposed_tile_at(ring + s.slot * CHUNK + k * 2048), 1);
    }
    mma_commit();
    mma_wait<0>();
    release(s.slot);
    s.next();
  }

  cluster_meet();  // both programs are done with both rings; nobody leaves while the other may still write to it

  // ---- each warpgroup gives away half of its columns and stores the other half, joined
#pragma unroll
  for (int h = 0; h < 2; h++) {
    total[h] += __shfl_xor_sync(~0u, total[h], 1);
    total[h] += __shfl_xor_sync(~0u, total[h], 2);
  }
  float *give = joined + (group * 64 + row) * STRIDE + quad * 2;
#pragma unroll
  for (int h = 0; h < 2; h++) {
#pragma unroll
    for (int t = 0; t < 16; t++) {
      const int i = 4 * (t + 16) + 2 * h, j = 4 * t + 2 * h;
      *(float2 *)(give + h * 8 * STRIDE + t * 8) = group ? make_float2(o[j], o[j + 1]) : make_float2(o[i], o[i + 1]);
    }
    if (quad == 0) norms[group * 64 + row + 8 * h] = make_float2(top[h], total[h]);
  }
  meet<1, 256>();
  const float *take = joined + ((group ^ 1) * 64 + row) * STRIDE + quad * 2;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float2 other = norms[(group ^ 1) * 64 + row + 8 * h];
    const float most = fmaxf(top[h], other.x), mine = exp2_fast(top[h] - most), its = exp2_fast(other.x - most);
    const float norm = 1.f / (total[h] * mine + other.y * its);
    const int r = blockIdx.x * 64 + row + 8 * h;
    char *to = out + ((long long)r * 256 + group * 128 + quad * 2) * 2;
    if (r < rows)
#pragma unroll
      for (int t = 0; t < 16; t++) {
        const float2 v = *(const float2 *)(take + h * 8 * STRIDE + t * 8);
        const int i = 4 * t + 2 * h, j = 4 * (t + 16) + 2 * h;
        const float y0 = group ? o[j] : o[i], y1 = group ? o[j + 1] : o[i + 1];
        *(u32 *)(to + t * 16) = pack((y0 * mine + v.x * its) * norm, (y1 * mine + v.y * its) * norm);
      }
  }
}
