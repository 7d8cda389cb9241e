// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// A Hopper GPU's programs on one CPU thread: every CUDA thread is a fiber with a stack of its own, which runs until it has
// to wait. What a GPU leaves open is decided by `seed`: which program and warp goes on, when a copy arrives.
//
// Effects come as late as they may, and what must not be looked at meanwhile is NaN: the target of a copy from the moment
// it is asked for, the accumulators of a wgmma until it has been waited for. Not modelled: the order in which memory
// operations become visible to other threads (fences do nothing here).

#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <source_location>
#include <string>
#include <tuple>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

typedef unsigned int u32;
typedef unsigned long long u64;
using Here = std::source_location;

struct Index { u32 x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace machine {

constexpr u32 SHARED = 232448, WINDOW = 1024;  // bytes of shared memory, and the address of the first
constexpr size_t PAGE = 4096, ROOM = (SHARED + PAGE - 1) / PAGE * PAGE;
constexpr size_t STACK = 64 * 1024 + 576;  // not a power of two: stacks would share the cache's sets
constexpr u64 CANARY = 0x5afe5afe5afe5afe;

// --- waiting --------------------------------------------------------------------------------------------------------

struct Wait {
  enum Kind { NOTHING, MEETING, PHASE, COUNTER } kind = NOTHING;
  const u32 *word = nullptr;
  u32 value = 0;
  Here where = {};
  bool over() const {
    switch (kind) {
      case MEETING: return *word != value;       // the generation has moved on
      case PHASE: return (*word & 1) != value;   // the phase of this parity is complete
      case COUNTER: return (int)(*word - value) >= 0;
      default: return true;
    }
  }
};

struct Meeting { u32 arrived = 0, generation = 0; };
struct Lanes { u32 mask; Meeting meeting; u32 value[2][32]; };  // threads of a warp that exchange values

// --- a program and what it has asked for ----------------------------------------------------------------------------

struct Bar {  // an mbarrier, where the kernel has put it
  u32 phase : 4, expected : 14, pending : 14;
  int bytes;
};

struct Map { const char *base; long long rows, columns, stride, box; u64 pad[11]; };  // TensorMap, see __init__.py

struct Copy {
  const char *from;  // or a tile of `map`
  Map map;
  int column, row;
  u32 to, bytes, bar;  // in the memory of the program that it is on its way to
  u64 due;
  std::string seen;  // what was to be copied when it was asked for
  Here where;
};
struct Store { u32 to, bytes, bar, words[4]; u64 due; };  // of registers, into another program's memory

struct Arrival { u32 bar; u64 due; Here where; };  // of another program's thread

struct Accumulator { float *thread[128]; int pending; float tile[64 * 256]; };
struct Op {
  void (*run)(Op &, const char *memory);
  u64 a, b;
  int add;
  Accumulator *to;
  float rows[64][16];  // of A, when it comes from registers
};
struct Group {  // a warpgroup's products under way; all its threads must say the same
  std::deque<Op> ops;
  std::deque<Accumulator> space;
  std::vector<u32> commits;  // products before each commit
  u32 executed = 0, agreed[2] = {};
  Meeting meeting;
};

struct Program;
struct Fiber {
  jmp_buf context;
  Program *program;
  u32 thread;
  char *stack;
  bool started = false, done = false, fenced = false;
  u32 issued = 0, committed = 0, cluster_met = 0;
  Wait wait;
};
struct Cluster { Meeting meeting; u32 live = 0; };
struct Program {
  u32 index, live;
  char *memory;
  Cluster *cluster;
  std::vector<Fiber> fibers;
  std::vector<Copy> copies;
  std::vector<Store> stores;
  std::vector<Arrival> arrivals;
  u64 pause = 0;  // rests until this turn
  Meeting block[16];
  std::vector<std::deque<Lanes>> warps;
  std::vector<Group> groups;
};

static std::vector<Program> programs;
static u32 per_cluster, seed;
static u64 noise, turn;
static bool shy;  // this warp lets others go first, although it need not wait; lanes of a warp go from wait to wait together
static Fiber *me;
static jmp_buf home, out;
static std::string error;
static void (*body)(void *);
static void *arguments;

static u32 random(u32 n) {
  noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17;
  return (u32)(noise >> 33) % n;
}

template <class... T> [[noreturn]] void fail(const char *text, T... values) {
  char line[512];
  int n = 0;
  if (me) n = snprintf(line, sizeof line, "program %u, thread %u: ", me->program->index, me->thread);
  snprintf(line + n, sizeof line - n, text, values...);
  error = line;
  _longjmp(out, 1);
}
[[noreturn]] inline void fail_at(const Here &w, const char *text) { fail("%s:%d: %s", w.file_name(), (int)w.line(), text); }

__attribute__((noinline)) static void pause() {
  if (!_setjmp(me->context)) _longjmp(home, 1);
}
static void wait(Wait w) {
  if (w.over() && !shy) return;
  me->wait = w;
  pause();
}
static bool arrive(Meeting &m, u32 expected) {
  if (++m.arrived < expected) return false;
  m.arrived = 0;
  m.generation++;
  return true;
}
static void meet_at(Meeting &m, u32 expected, const Here &where) {
  const u32 now = m.generation;
  arrive(m, expected);
  wait({Wait::MEETING, &m.generation, now, where});
}

// `v` of the lanes in `mask`, once they have all come.
static const u32 *exchange(u32 mask, u32 v, const Here &where) {
  if (!(mask >> (me->thread & 31) & 1)) fail_at(where, "a thread is not in the mask that it names");
  auto &warp = me->program->warps[me->thread >> 5];
  Lanes *lanes = nullptr;
  for (Lanes &l : warp) if (l.mask == mask) lanes = &l;
  if (!lanes) lanes = &warp.emplace_back(Lanes{mask, {}, {}});
  u32 *values = lanes->value[lanes->meeting.generation & 1];
  values[me->thread & 31] = v;
  meet_at(lanes->meeting, __builtin_popcount(mask), where);
  return values;
}

// --- shared memory --------------------------------------------------------------------------------------------------

// Another program's addresses have its rank + 1 in the upper byte.
static Program &owner(u32 address) {
  const u32 rank = address >> 24, first = me->program->index / per_cluster * per_cluster;
  if (rank > per_cluster) fail("address %#x is of no program in the cluster", address);
  Program &p = rank ? programs[first + rank - 1] : *me->program;
  if (!p.live) fail("reaches into program %u, which has ended", p.index);
  return p;
}
static u32 offset(u32 address, u32 bytes) {
  const u32 at = (address & 0xffffff) - WINDOW;
  if (at > SHARED || bytes > SHARED - at) fail("address %#x + %u is outside shared memory", address, bytes);
  return at;
}
static char *place(u32 address, u32 bytes) { return owner(address).memory + offset(address, bytes); }
static u32 address_of(const void *p) {
  const long long at = (const char *)p - me->program->memory;
  if (at < 0 || at >= (long long)SHARED) fail("takes a pointer for one to its shared memory");
  return (u32)at + WINDOW;
}

static Bar &bar_in(char *at, const Here &where) {
  Bar &b = *(Bar *)at;
  if ((u64)at % 8 || !b.expected || b.expected == 0x3fff) fail_at(where, "no barrier was initialised here");
  return b;
}
static void settle(Bar &b) {
  if (b.pending || b.bytes) return;
  b.phase++;
  b.pending = b.expected;
}
static void arrive(Bar &b, const Here &where) {
  if (!b.pending) fail_at(where, "more arrivals than the barrier expects (bytes of its phase are still missing)");
  b.pending--;
  settle(b);
}

// --- copies ---------------------------------------------------------------------------------------------------------

static u32 swizzled(u32 address) { return address ^ ((address >> 7 & 7) << 4); }

static std::string read(const Copy &c) {
  if (c.from) return std::string(c.from, c.bytes);
  std::string tile(c.bytes, 0);  // 64 columns; what is outside the matrix is 0
  const Map &m = c.map;
  for (int r = 0; r < m.box; r++)
    for (int k = 0; k < 64; k += 8) {
      const long long row = c.row + r, column = c.column + k, left = m.columns - column;
      if (row >= 0 && row < m.rows && column >= 0 && left > 0)
        memcpy(&tile[swizzled(r * 128 + k * 2)], m.base + row * m.stride + column * 2, left < 8 ? left * 2 : 16);
    }
  return tile;
}
static void ask(Program &p, Copy c, const Here &where) {
  if (!p.live) fail_at(where, "copies into a program that has ended");
  if (c.to % 16 || c.bytes % 16 || (u64)c.from % 16) fail_at(where, "copies need addresses and sizes of 16 bytes");
  for (const Copy &o : p.copies)
    if (c.to < o.to + o.bytes && o.to < c.to + c.bytes) fail_at(where, "copies onto a copy that is still under way");
  for (const Store &o : p.stores)
    if (c.to < o.to + o.bytes && o.to < c.to + c.bytes) fail_at(where, "copies onto a store that is still under way");
  bar_in(p.memory + c.bar, where);
  memset(p.memory + c.to, 0xff, c.bytes);
  c.due = turn + random(random(32) ? 4 : 40), c.where = where, c.seen = read(c);
  p.copies.push_back(c);
}
static void deliver(Program &p, const Copy &c) {
  if (read(c) != c.seen) fail_at(c.where, "what is copied changes under way");
  memcpy(p.memory + c.to, c.seen.data(), c.bytes);
  Bar &b = *(Bar *)(p.memory + c.bar);
  b.bytes -= c.bytes;
  settle(b);
}

static void ask(Program &p, Store s, const Here &where) {
  if (!p.live) fail_at(where, "stores into a program that has ended");
  if (s.to % s.bytes) fail_at(where, "a store's address must be a multiple of its size");
  for (const Copy &o : p.copies)
    if (s.to < o.to + o.bytes && o.to < s.to + s.bytes) fail_at(where, "stores onto a copy that is still under way");
  bar_in(p.memory + s.bar, where);
  memset(p.memory + s.to, 0xff, s.bytes);
  s.due = turn + random(4);
  p.stores.push_back(s);
}
static void deliver(Program &p, const Store &s) {
  memcpy(p.memory + s.to, s.words, s.bytes);
  Bar &b = *(Bar *)(p.memory + s.bar);
  b.bytes -= s.bytes;
  settle(b);
}

static void ask(Program &p, Arrival a) {
  if (!p.live) fail_at(a.where, "arrives at a barrier of a program that has ended");
  bar_in(p.memory + a.bar, a.where);
  a.due = turn + random(4);
  p.arrivals.push_back(a);
}

// --- tensor cores ---------------------------------------------------------------------------------------------------

static float widened(const char *p) {
  uint16_t bits;
  memcpy(&bits, p, 2);
  const u32 word = (u32)bits << 16;
  float f;
  memcpy(&f, &word, 4);
  return f;
}

// Element (row, k) of an operand; 128-byte swizzle is the only layout here. Transposed: k runs across the 128-byte rows.
static const char *element(const char *memory, u64 descriptor, bool transposed, u32 row, u32 k) {
  const u32 start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  const u32 at = transposed ? row / 64 * leading + k / 8 * stride + k % 8 * 128 + row % 64 * 2
                            : row / 8 * stride + row % 8 * 128 + k * 2;
  return memory + swizzled(start + at) - WINDOW;
}
template <int N, bool REGS, bool TRANSPOSED> static void execute(Op &op, const char *memory) {
  float b[16][N];
  if (!REGS) for (int m = 0; m < 64; m++) for (int k = 0; k < 16; k++) op.rows[m][k] = widened(element(memory, op.a, false, m, k));
  for (int k = 0; k < 16; k++) for (int n = 0; n < N; n++) b[k][n] = widened(element(memory, op.b, TRANSPOSED, n, k));
  for (int m = 0; m < 64; m++) {
    float *c = op.to->tile + m * N;
    if (!op.add) memset(c, 0, N * 4);
    for (int k = 0; k < 16; k++) {
      const float a = op.rows[m][k];
#pragma GCC ivdep
      for (int n = 0; n < N; n++) c[n] += a * b[k][n];
    }
  }
  if (--op.to->pending) return;
  for (u32 t = 0; t < 128; t++) {  // the last one under way: threads see their accumulators
    for (int i = 0; i < N / 2; i++)
      op.to->thread[t][i] = op.to->tile[(t / 32 * 16 + t % 32 / 4 + 8 * (i >> 1 & 1)) * N + 8 * (i >> 2) + t % 4 * 2 + (i & 1)];
    op.to->thread[t] = nullptr;
  }
}

template <int N, bool TRANSPOSED> static void multiply(float *d, const u32 *regs, u64 a, u64 b, int add) {
  static_assert(N % 8 == 0 && N <= 256);
  if (blockDim.x < 128 || me->thread / 128 >= me->program->groups.size()) fail("wgmma needs whole warpgroups");
  if (!me->fenced) fail("wgmma without a fence (mma_begin) since the last wait");
  Group &g = me->program->groups[me->thread / 128];
  const u32 t = me->thread % 128, place = me->issued++ - g.executed;
  if (place == g.ops.size()) {  // the first thread to come here
    Accumulator *to = nullptr;
    for (Accumulator &s : g.space) if (s.pending && s.thread[t] == d) to = &s;
    if (!to) for (Accumulator &s : g.space) if (!s.pending) to = &s;
    if (!to) to = &g.space.emplace_back();
    to->pending++;
    g.ops.push_back({regs ? execute<N, true, TRANSPOSED> : execute<N, false, TRANSPOSED>, a, b, add, to, {}});
  }
  Op &op = g.ops[place];
  for (u64 x : {a ^ op.a, b ^ op.b}) if (x) fail("threads of a warpgroup name different operands");
  if (!add != !op.add) fail("threads of a warpgroup disagree whether a product is added");
  for (u64 x : {b, regs ? b : a}) if (x >> 62 != 1 || x >> 49 & 7) fail("not the descriptor of a tile with 128-byte swizzle");
  const int row = t / 32 * 16 + t % 32 / 4, pair = t % 4 * 2;
  if (regs)
    for (int i = 0; i < 4; i++)
      for (int e = 0; e < 2; e++) {
        const u32 word = e ? regs[i] & 0xffff0000u : regs[i] << 16;
        memcpy(&op.rows[row + 8 * (i & 1)][8 * (i >> 1) + pair + e], &word, 4);
      }
  if (op.to->thread[t] == d) return;
  if (op.to->thread[t]) fail("threads of a warpgroup use different accumulators");
  op.to->thread[t] = d;
  for (int i = 0; i < N / 2; i++) {
    if (add) op.to->tile[(row + 8 * (i >> 1 & 1)) * N + 8 * (i >> 2) + pair + (i & 1)] = d[i];
    d[i] = __builtin_nanf("");
  }
}
static void commit() {
  Group &g = me->program->groups[me->thread / 128];
  if (me->committed++ == g.commits.size()) g.commits.push_back(me->issued);
  if (g.commits[me->committed - 1] != me->issued) fail("threads of a warpgroup commit different products");
}
static void wait_products(u32 left, const Here &where) {
  Group &g = me->program->groups[me->thread / 128];
  if (!g.meeting.arrived) g.agreed[0] = me->issued, g.agreed[1] = me->committed;
  if (g.agreed[0] != me->issued || g.agreed[1] != me->committed) fail_at(where, "threads of a warpgroup wait for different products");
  me->fenced = false;
  const u32 now = g.meeting.generation;
  if (arrive(g.meeting, 128) && me->committed > left)
    for (; g.executed < g.commits[me->committed - left - 1]; g.executed++, g.ops.pop_front()) g.ops[0].run(g.ops[0], me->program->memory);
  wait({Wait::MEETING, &g.meeting.generation, now, where});
}

// --- the run --------------------------------------------------------------------------------------------------------

static void ended() {
  if (*(u64 *)me->stack != CANARY) fail("the stack is too small");
  me->done = true;
  Program &p = *me->program;
  p.live--;
  Cluster &c = *p.cluster;
  if (--c.live && c.meeting.arrived >= c.live) c.meeting.arrived = 0, c.meeting.generation++;
  if (!p.live && !(p.copies.empty() && p.stores.empty())) fail("ends while copies into its memory are under way");
  if (!p.live && !p.arrivals.empty()) fail_at(p.arrivals[0].where, "arrives at a barrier of a program that may have ended");
  _longjmp(home, 1);
}
static void first() { body(arguments); ended(); }

static void resume(Fiber &f) {
  me = &f;
  f.wait.kind = Wait::NOTHING;
  threadIdx.x = f.thread, blockIdx.x = f.program->index;
  if (!_setjmp(home)) {
    if (f.started) _longjmp(f.context, 1);
    f.started = true;
    static ucontext_t fresh;
    getcontext(&fresh);
    fresh.uc_stack = {f.stack, 0, STACK};
    makecontext(&fresh, first, 0);
    setcontext(&fresh);
  }
  me = nullptr;
}

static bool go_on(Program &p, u32 resting) {  // until all its threads wait, or (by chance) less; but for `resting` warps
  bool moved = false, more = true;
  for (size_t i = 0; i < p.copies.size();)
    if (p.copies[i].due <= turn) {
      const Copy c = std::move(p.copies[i]);
      if (i + 1 < p.copies.size()) p.copies[i] = std::move(p.copies.back());
      p.copies.pop_back();
      deliver(p, c);
      moved = true;
    } else {
      i++;
    }
  std::erase_if(p.stores, [&](const Store &s) {
    if (s.due > turn) return false;
    deliver(p, s);
    return moved = true;
  });
  std::erase_if(p.arrivals, [&](const Arrival &a) {
    if (a.due > turn) return false;
    arrive(bar_in(p.memory + a.bar, a.where), a.where);
    return moved = true;
  });
  const u32 warps = (p.fibers.size() + 31) / 32;
  for (u32 passes = seed ? 1 + random(16) : ~0u; more && passes--;) {
    more = false;
    const u32 from = seed ? random(warps) : 0, step = seed && random(2) ? warps - 1 : 1, turned = seed ? random(2) * 31 : 0;
    for (u32 w = 0, warp = from; w < warps; w++, warp = (warp + step) % warps) {
      if (resting >> warp & 1) continue;
      shy = seed && random(8) == 0;
      for (u32 lane = 0; lane < 32; lane++) {
        const u32 t = warp * 32 + (lane ^ turned);
        if (t >= p.fibers.size()) continue;
        Fiber &f = p.fibers[t];
        if (f.done || !f.wait.over()) continue;
        resume(f);
        more = moved = true;
      }
    }
  }
  return moved;
}

static std::string told(const Fiber &f) {
  char line[256];
  const Wait &w = f.wait;
  const u32 at = (u32)((const char *)w.word - f.program->memory);
  if (w.kind == Wait::MEETING) snprintf(line, sizeof line, "others to meet");
  if (w.kind == Wait::COUNTER) snprintf(line, sizeof line, "a counter to reach %u, is %u", w.value, *w.word);
  if (w.kind == Wait::PHASE) {
    const Bar &b = *(const Bar *)w.word;
    snprintf(line, sizeof line, "the barrier at %#x, parity %u (phase %u, %u of %u arrivals and %d bytes are missing)", at, w.value, b.phase, b.pending, b.expected, b.bytes);
  }
  return std::string(w.where.file_name()) + ":" + std::to_string(w.where.line()) + " waits for " + line;
}
static void deadlock() {
  std::map<std::string, std::pair<std::set<u32>, std::set<u32>>> all;  // what -> programs, warps
  for (const Program &p : programs)
    for (const Fiber &f : p.fibers)
      if (!f.done) {
        auto &[who, warps] = all[told(f)];
        who.insert(p.index);
        warps.insert(f.thread / 32);
      }
  error = "deadlock";
  int lines = 0;
  for (auto &[what, who] : all) {
    if (lines++ == 40) { error += "\n  ..."; break; }
    error += "\n  " + what + ": ";
    for (int k = 0; k < 2; k++) {
      auto &numbers = k ? who.second : who.first;
      error += k ? "; warps" : "programs";
      int n = 0;
      for (u32 i : numbers) if (n++ < 12) error += " " + std::to_string(i);
      if (n > 12) error += " ... (" + std::to_string(n) + ")";
    }
  }
  _longjmp(out, 1);
}

static void touched(int, siginfo_t *info, void *) { fail("touches %p, which is nobody's memory", info->si_addr); }

template <class... A> struct Call {
  void (*kernel)(A...);
  std::tuple<A...> values;
  static void run(void *self) { std::apply(((Call *)self)->kernel, ((Call *)self)->values); }
};
template <class T> static T value(void *at) {
  T v;
  memcpy(&v, at, sizeof v);
  return v;
}

// Arguments as cuLaunchKernel wants them. Returns nothing, or what is wrong.
template <class... A> const char *launch(void (*kernel)(A...), void **values, u32 count, u32 threads, u32 cluster, u32 with_seed) {
  static Call<A...> call;
  int i = 0;
  call.kernel = kernel;
  call.values = std::tuple<A...>{value<A>(values[i++])...};
  body = Call<A...>::run, arguments = &call;
  seed = with_seed, noise = 0x9e3779b97f4a7c15 + seed * 0x2545f4914f6cdd1d, turn = 0, per_cluster = cluster;
  error.clear();
  blockDim = {threads, 1, 1}, gridDim = {count, 1, 1};
  const size_t stacks = (size_t)count * threads * STACK, each = ROOM + 2 * PAGE;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char *space = (char *)mmap(nullptr, stacks, PROT_READ | PROT_WRITE, flags, -1, 0);
  char *memory = (char *)mmap(nullptr, count * each, PROT_NONE, flags, -1, 0);
  std::vector<Cluster> clusters((count + cluster - 1) / cluster);
  programs = std::vector<Program>(count);
  for (u32 n = 0; n < count; n++) {
    Program &p = programs[n];
    p.index = n, p.live = threads, p.cluster = &clusters[n / cluster];
    p.cluster->live += threads;
    mprotect(memory + n * each + PAGE, ROOM, PROT_READ | PROT_WRITE);
    p.memory = memory + n * each + PAGE + ROOM - SHARED;  // what is behind it is nobody's
    memset(p.memory, 0xff, SHARED);
    p.warps.resize((threads + 31) / 32), p.groups.resize(threads / 128), p.fibers.resize(threads);
    for (u32 t = 0; t < threads; t++) {
      Fiber &f = p.fibers[t];
      f.program = &p, f.thread = t, f.stack = space + ((size_t)n * threads + t) * STACK;
      *(u64 *)f.stack = CANARY;
    }
  }
  static char emergency[64 * 1024];
  stack_t own = {emergency, 0, sizeof emergency}, before;
  struct sigaction action = {}, old[2];
  action.sa_sigaction = touched, action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigaltstack(&own, &before);
  sigaction(SIGSEGV, &action, old), sigaction(SIGBUS, &action, old + 1);
  if (!_setjmp(out)) {
    std::vector<Program *> order;
    for (Program &p : programs) order.push_back(&p);
    for (bool all = true; !order.empty(); turn++) {  // all: nobody rests, because the last turn moved nobody
      bool moved = false, under_way = !all;
      for (size_t k = order.size() - 1; seed && k; k--) std::swap(order[k], order[random(k + 1)]);
      for (Program *p : order) {
        const u32 resting = !seed || all ? 0 : random(4) ? random(1 << 16) & random(1 << 16) : ~0u;
        const bool slow = seed >= 100 && (p->index * 5 + seed) % 8 == 0 && random(32);
        if ((slow || p->pause > turn) && !all) continue;
        if (seed && random(64) == 0) p->pause = turn + random(40);
        moved |= go_on(*p, resting);
        under_way |= !p->copies.empty() || !p->stores.empty() || !p->arrivals.empty();
      }
      std::erase_if(order, [](Program *p) { return !p->live; });
      if (!order.empty() && !moved && !under_way) deadlock();
      all = !moved;
    }
  }
  me = nullptr;
  sigaction(SIGSEGV, old, nullptr), sigaction(SIGBUS, old + 1, nullptr), sigaltstack(&before, nullptr);
  programs.clear();
  munmap(space, stacks), munmap(memory, count * each);
  return error.empty() ? nullptr : error.c_str();
}

}  // namespace machine
