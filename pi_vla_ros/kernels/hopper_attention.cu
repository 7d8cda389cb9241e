// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Attention of many query heads over one key/value head of 256 dimensions: see hopper_attention.py for what it equals.
//
// A program has 64 rows of queries (heads are folded into rows) and two warpgroups that take the chunks of 64 keys in
// turn. The tensor cores form a chunk's answer and the next one's scores while its warpgroup forms the softmax. Each keeps
// its own running answer of 64 × 256 in registers; at the end they join them through shared memory. Chunks come as plain
// copies: the cache has their layout.
// Two programs (a cluster) see the same keys: each loads half of a chunk for both, or the L2 cache would be the limit.
//
// A warpgroup has barriers of its own for what arrives. It does not see every round of a slot, and of a barrier that the
// other one waits for it could not tell "my round is there" from "the round before it is not".

constexpr int TILE = 8192, CHUNK = 4 * TILE, SLOTS = 6;  // slots of the ring: keys and values of a chunk take one each
constexpr int STRIDE = 136;                              // floats of a row of the joined halves: no two rows in a bank
constexpr float SCALE = 0.0625f * 1.4426950408889634f;   // 1/√256, of a power of 2

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
hopper_attention(const __grid_constant__ TensorMap q_map, const char *keys, const char *values, char *out,
                 const int *lengths, int rows, u32 *ready) {  // counts the launches whose keys and values are there, or null
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
  const int length = uniform(lengths[0]), chunks = (length + 63) / 64;  // was there before the chain of kernels began
  cluster_meet();
  chain_wait();
  if (ready && blockIdx.x == 0 && threadIdx.x == 0) count_up(ready);

  if (warp >= 8) {  // ---- loads
    fewer_registers<40>();
    if (warp == 8 && lane == 0) {
      bar_expect(q_full, CHUNK);
      for (int i = 0; i < 4; i++) tile_in(queries + i * TILE, &q_map, i * 64, blockIdx.x * 64, q_full);
      int entry = 0;  // of the ring; in the order in which the warpgroups want them: K K, K V, K V, ..., V V
      auto load = [&](const char *from, int chunk) {
        const int slot = entry % SLOTS, half = rank * (CHUNK / 2);
        const u32 bar = full + 8 * ((chunk & 1) * SLOTS + slot);
        bar_wait(empty + 8 * slot, entry++ / SLOTS & 1 ^ 1);
        bar_expect(bar, CHUNK);
        copy_in_all(ring + slot * CHUNK + half, from + (long long)chunk * CHUNK + half, CHUNK / 2, bar, 3);
      };
      for (int chunk = 0; chunk < chunks + 2; chunk++) {
        if (chunk < chunks) load(keys, chunk);
        if (chunk >= 2) load(values, chunk - 2);
      }
    }
    __syncwarp();
    cluster_meet();
    return;
  }
  more_registers<232>();
  const int group = uniform(warp >> 2), row = (warp & 3) * 16 + (lane >> 2), quad = lane & 3;
  // A slot is given back to both loaders, one warp tells each: not the last ones, which nobody waits for. Such a word could
  // still be on its way when the other program has ended, and it would end the launch.
  const u32 back = address_in(empty, warp & 1);
  auto release = [&](int entry) {
    if (entry + SLOTS < 2 * chunks && (warp & 3) < 2 && lane == 0) bar_arrive_in(back + 8 * (entry % SLOTS));
  };
  float o[128], top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 128; i++) o[i] = 0;
  float score[32];
  u32 prob[16], parities = 0;  // a bit a slot: the next round of this warpgroup's barrier
  auto wait_full = [&](int entry) {
    const int slot = entry % SLOTS;
    bar_wait(full + 8 * (group * SLOTS + slot), parities >> slot & 1);
    parities ^= 1u << slot;
    return slot;
  };
  auto ask_scores = [&](int chunk) {
    const int entry = chunk + max(chunk - 2, 0), slot = wait_full(entry);
    mma_begin();
#pragma unroll
    for (int i = 0; i < 16; i++)
      mma64(score, tile_at(queries + (i >> 2) * TILE) + 2 * (i & 3), tile_at(ring + slot * CHUNK + (i >> 2) * TILE) + 2 * (i & 3), i);
    mma_commit();
    return entry;
  };
  float shrink[2];
  auto softmax = [&](int chunk) {  // in place; what came before is to be shrunk
    const int last = length - 1 - chunk * 64 - quad * 2;  // of this thread's columns, the last that is a key
    if (chunk == chunks - 1)
#pragma unroll
      for (int i = 0; i < 32; i++) if ((i >> 2) * 8 + (i & 1) > last) score[i] = -INFINITY;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float most = -INFINITY, sum = 0;
#pragma unroll
      for (int t = 0; t < 8; t++) most = fmaxf(most, fmaxf(score[4 * t + 2 * h], score[4 * t + 2 * h + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(top[h], SCALE * fmaxf(most, __shfl_xor_sync(~0u, most, 2)));  // every chunk has a key: it is finite
      shrink[h] = exp2_fast(top[h] - most);
      top[h] = most;
#pragma unroll
      for (int t = 0; t < 8; t++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float &v = score[4 * t + 2 * h + e];
          v = exp2_fast(v * SCALE - most);
          sum += v;
        }
      total[h] = total[h] * shrink[h] + sum;  // of this thread's columns; the quad's are added at the end
    }
  };
  auto ask_answer = [&](int chunk) {
    const int entry = chunk + min(chunk + 3, chunks), slot = wait_full(entry);
    mma_begin();
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const u32 a[4] = {prob[4 * k], prob[4 * k + 1], prob[4 * k + 2], prob[4 * k + 3]};
      mma256_regs_transposed(o, a, transposed_tile_at(ring + slot * CHUNK + k * 2048), 1);
    }
    mma_commit();
    return entry;
  };
  auto round = [&] {
#pragma unroll
    for (int i = 0; i < 16; i++) prob[i] = pack(score[2 * i], score[2 * i + 1]);
  };
  bar_wait(q_full, 0);
  if (group < chunks) {
    int chunk = group, entry = ask_scores(chunk);
    mma_wait<0>();
    arrived(score);
    release(entry);
    softmax(chunk);
    round();
    for (; chunk + 2 < chunks; chunk += 2) {
      entry = ask_scores(chunk + 2);
      const int behind = ask_answer(chunk);
      mma_wait<1>();
      arrived(score);
      release(entry);
      softmax(chunk + 2);
      first(total[0] + total[1]);  // and the next probabilities
      mma_wait<0>();
      arrived(o);
      release(behind);
      round();
#pragma unroll
      for (int i = 0; i < 128; i++) o[i] *= shrink[i >> 1 & 1];
    }
    entry = ask_answer(chunk);
    mma_wait<0>();
    arrived(o);
    release(entry);
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
