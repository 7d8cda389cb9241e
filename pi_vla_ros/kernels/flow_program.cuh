// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// A program of flow_loop.cu: which of the 120 it is, and what stands where in its shared memory. Its loading threads and its
// consumers all have this.
//
// Compile-time: those of flow.cuh, RING (slots).

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
static_assert(PARTS >= BLOCKS * BLOCK + (8 - GROUPS) * 1024 && WEIGHTS % 1024 == 0);
static_assert(A_BYTES % 1024 == 0 && 2 * KEYS <= ADDENDS_BYTES);
static_assert(A_BYTES + RING * SLOT + 1920 + sizeof(Params) + (2 * RING + BLOCKS + 4) * 8 <= 232448);

struct Program {
  char *const a_tile;    // activations of the phase, and the places above
  char *const ring;
  float *const moved;    // [32] this program's row of x_t
  float *const small;    // [64] scratch of a turn
  float *const tops;     // [2][64] largest scores of the rows, of each warpgroup's keys
  float2 *const seen;    // [8 programs][2][8 rows] largest score, sum of weights
  Params &p;             // re-read where it is needed: registers are for accumulators
  const u32 full, empty, a_full, a_empty;  // barriers: [RING], [RING], [BLOCKS]
  const u32 parts_full, addends_full, answers_full;
  const int cta;
  int cluster, rank;     // 72 columns, or a head; an eighth of the inner axis, or every 8th chunk
  int T, actions, steps;
  int start, total, chunks;  // keys of the prefix; with the own ones; chunks of 64 of them
  int committed;             // rows before it stand at time 0
  u32 *counters;

  __device__ __forceinline__ explicit Program(char *raw)
      : a_tile(raw), ring(raw + A_BYTES), moved((float *)(ring + RING * SLOT)), small(moved + 32), tops(small + 64),
        seen((float2 *)(tops + 128)), p(*(Params *)(seen + 128)), full(shared(&p + 1)), empty(full + 8 * RING),
        a_full(empty + 8 * RING), a_empty(a_full + 8 * BLOCKS), parts_full(a_empty + 8), addends_full(parts_full + 8),
        answers_full(addends_full + 8), cta(blockIdx.x) {}

  // By all threads of all programs: they wait for each other.
  __device__ __forceinline__ void begin(const Params *params, const int *lengths, const int *delay, int first_layer) {
    const int tid = threadIdx.x;
    for (int i = tid; i < (int)(sizeof(Params) / 4); i += 384) ((u32 *)&p)[i] = ((const u32 *)params)[i];
    __syncthreads();
    cluster = cta >> 3, rank = cta & 7;
    T = uniform((int)p.tokens), actions = T - STATE, steps = uniform((int)p.steps);
    start = uniform(lengths[0]), total = start + T, chunks = (total + 63) / 64;
    committed = HELD ? uniform(*delay) : 0;
    counters = p.counters;
    if (tid == 0) {
      for (int i = 0; i < RING; i++) { bar_init(full + 8 * i, 1); bar_init(empty + 8 * i, 8); }
      for (int i = 0; i < BLOCKS; i++) bar_init(a_full + 8 * i, 1);
      bar_init(a_empty, 8);
      bar_init(parts_full, 1);
      bar_init(addends_full, 1);
      bar_init(answers_full, 1);
      bar_init_done();
      // The layers before first_layer have used these barriers, as far as the parities of who waits for them know.
      if (STATE && first_layer) bar_arrive(parts_full);
      if (first_layer & 1) bar_arrive(answers_full);
    }
    __syncthreads();
    cluster_meet();
  }
  __device__ __forceinline__ u32 *counter(int i) const { return counters + i * 32; }
};
