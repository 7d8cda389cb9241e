// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// What a kernel's text means on the CPU: CUDA's own words, then those functions of hopper.cuh that are PTX there.

#include <cmath>

#undef INFINITY  // hopper.cuh has its own
#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)

using machine::me;

// --- CUDA -----------------------------------------------------------------------------------------------------------

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

template <class To, class From> To bits(From v) {
  static_assert(sizeof(To) == 4 && sizeof(From) == 4);
  To r;
  memcpy(&r, &v, 4);
  return r;
}
inline float __int_as_float(int v) { return bits<float>(v); }
inline float __uint_as_float(u32 v) { return bits<float>(v); }
inline u32 __float_as_uint(float v) { return bits<u32>(v); }
template <class T> T min(T a, T b) { return a < b ? a : b; }
template <class T> T max(T a, T b) { return a > b ? a : b; }
template <class T> T __ldg(const T *p) { return *p; }
template <class T> T __ldcg(const T *p) { return *p; }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
template <class T> T atomicAdd(T *p, T v) { T before = *p; *p += v; return before; }
inline size_t __cvta_generic_to_shared(const void *p) { return machine::address_of(p); }

inline void __syncthreads(Here h = Here::current()) { machine::meet_at(me->program->block[0], blockDim.x, h); }
inline void __syncwarp(u32 mask = ~0u, Here h = Here::current()) { machine::exchange(mask, 0, h); }
template <class T> T __shfl_sync(u32 mask, T v, int lane, Here h = Here::current()) {
  if (!(mask >> (lane & 31) & 1)) machine::fail_at(h, "shuffles from a lane that takes no part");
  return bits<T>(machine::exchange(mask, bits<u32>(v), h)[lane & 31]);
}
template <class T> T __shfl_xor_sync(u32 mask, T v, int with, Here h = Here::current()) {
  return __shfl_sync(mask, v, (int)(threadIdx.x & 31) ^ with, h);
}
// Which threads run together is not known here: the pair whose first lane is even, for shuffles between neighbours.
inline u32 __activemask() { return 3u << (threadIdx.x & 30); }

// --- hopper.cuh: barriers -------------------------------------------------------------------------------------------

inline machine::Bar &bar_at(u32 bar, const Here &h) { return machine::bar_in(machine::place(bar, 8), h); }
inline void bar_init(u32 bar, u32 count) { *(machine::Bar *)machine::place(bar, 8) = {0, count, count, 0}; }
inline void bar_init_done() {}
inline void bar_arrive(u32 bar, Here h = Here::current()) { machine::arrive(bar_at(bar, h), h); }
inline void bar_arrive_in(u32 remote, Here h = Here::current()) { machine::ask(machine::owner(remote), {machine::offset(remote, 8), 0, h}); }
inline void bar_expect(u32 bar, u32 bytes, Here h = Here::current()) {
  bar_at(bar, h).bytes += bytes;
  bar_arrive(bar, h);
}
inline void bar_wait(u32 bar, u32 parity, Here h = Here::current()) {
  machine::wait({machine::Wait::PHASE, (const u32 *)&bar_at(bar, h), parity, h});
}

template <int BARRIER, int THREADS> void meet(Here h = Here::current()) { machine::meet_at(me->program->block[BARRIER], THREADS, h); }
template <int> void fewer_registers() {}
template <int> void more_registers() {}
inline void wait_for(const u32 *counter, u32 target, Here h = Here::current()) {
  machine::wait({machine::Wait::COUNTER, counter, target, h});
}
inline void count_up(u32 *counter) { ++*counter; }

inline u32 cluster_rank() { return me->program->index % machine::per_cluster; }
inline u32 address_in(u32 address, u32 rank) { return (address & 0xffffff) | (rank + 1) << 24; }
inline void store_in(u32 to, uint4 v, u32 bar, Here h = Here::current()) {
  machine::ask(machine::owner(to), {machine::offset(to, 16), 16, machine::offset(bar, 8), {v.x, v.y, v.z, v.w}, 0}, h);
}
inline void store_in(u32 to, uint2 v, u32 bar, Here h = Here::current()) {
  machine::ask(machine::owner(to), {machine::offset(to, 8), 8, machine::offset(bar, 8), {v.x, v.y}, 0}, h);
}
inline void cluster_meet(Here h = Here::current()) { machine::meet_at(me->program->cluster->meeting, me->program->cluster->live, h); }
inline void cluster_arrive() {
  me->cluster_met = me->program->cluster->meeting.generation;
  machine::arrive(me->program->cluster->meeting, me->program->cluster->live);
}
inline void cluster_wait(Here h = Here::current()) {
  machine::wait({machine::Wait::MEETING, &me->program->cluster->meeting.generation, me->cluster_met, h});
}

// --- hopper.cuh: copies ---------------------------------------------------------------------------------------------

inline void ask_for(machine::Copy c, u32 to, u32 bar, u32 ranks, const Here &h) {
  c.to = machine::offset(to, c.bytes), c.bar = machine::offset(bar, 8);
  if (!ranks) return machine::ask(machine::owner(to), c, h);
  for (u32 rank = 0; ranks >> rank; rank++)
    if (ranks >> rank & 1) machine::ask(machine::owner(address_in(to, rank)), c, h);
}
inline void copy_in(u32 to, const void *from, u32 bytes, u32 bar, Here h = Here::current()) {
  ask_for({(const char *)from, {}, 0, 0, 0, bytes}, to, bar, 0, h);
}
inline void copy_in_once(u32 to, const void *from, u32 bytes, u32 bar, Here h = Here::current()) { copy_in(to, from, bytes, bar, h); }
inline void copy_in_all(u32 to, const void *from, u32 bytes, u32 bar, int ranks, Here h = Here::current()) {
  ask_for({(const char *)from, {}, 0, 0, 0, bytes}, to, bar, ranks, h);
}
inline void tile_in_all(u32 to, const void *map, int column, int row, u32 bar, int ranks, Here h = Here::current()) {
  const machine::Map &m = *(const machine::Map *)map;
  if (to % 1024) machine::fail_at(h, "a tile must start at a multiple of 1024 bytes");
  ask_for({nullptr, m, column, row, 0, (u32)m.box * 128}, to, bar, ranks, h);
}
inline void tile_in(u32 to, const void *map, int column, int row, u32 bar, Here h = Here::current()) {
  tile_in_all(to, map, column, row, bar, 0, h);
}
inline void map_in(const void *) {}
inline void into_l2(const void *from, u32 bytes) {
  if ((u64)from % 16 || bytes % 16) machine::fail("asks for what is no multiple of 16 bytes");
  for (u32 i = 0; i < bytes; i += 4096) (void)((const volatile char *)from)[i];  // must be somebody's memory
}
inline void fence_global() {}
inline void fence_shared() {}
inline long long nanoseconds() { static long long now = 0; return now += 1000; }
inline void chain_start() {}
inline void chain_wait() {}

// --- hopper.cuh: tensor cores and numbers ---------------------------------------------------------------------------

inline int afresh(int v) { return v; }
inline void mma_begin() { me->fenced = true; }
inline void mma_commit() { machine::commit(); }
template <int N> void mma_wait(Here h = Here::current()) { machine::wait_products(N, h); }
template <int N> void arrived(float (&)[N]) {}

inline u32 rounded(float x) {  // to bf16, nearest even
  const u32 v = bits<u32>(x);
  return x != x ? 0x7fff : (v + 0x7fff + (v >> 16 & 1)) >> 16;
}
inline u32 pack(float lo, float hi) { return rounded(hi) << 16 | rounded(lo); }
inline float exp2_fast(float x) { return exp2f(x); }
inline float tanh_fast(float x) { return bits<float>(bits<u32>(tanhf(x)) & 0xfffff000u); }  // 11 bits, as there
