// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// What the CUDA kernels share: barriers, copy engine, tensor cores of sm_90a. cuda.py puts this before every kernel, and
// behind it the wgmma wrappers (mma<N>, ...) of the widths that the kernel uses. All PTX is here, each instruction in a
// function: test/cuda_on_cpu/ puts others of the same names in their place.
//
// A tile is [rows, 64] bf16: rows of 128 bytes, 16-byte chunks permuted by `chunk ^ (row % 8)`, eight rows a group of 1024
// bytes. The tensor cores read it, tensor maps with 128-byte swizzle write it.

typedef unsigned int u32;
typedef unsigned long long u64;

#define INFINITY __int_as_float(0x7f800000)

// --- barriers in shared memory --------------------------------------------------------------------------------------

__device__ __forceinline__ u32 shared(const void *p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void bar_init(u32 bar, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
__device__ __forceinline__ void bar_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void bar_expect(u32 bar, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void bar_arrive(u32 bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ void bar_wait(u32 bar, u32 parity) {
  u32 done;
  do {
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done) : "r"(bar), "r"(parity) : "memory");
  } while (!done);
}

// --- a program's threads, programs among each other -----------------------------------------------------------------

template <int BARRIER, int THREADS> __device__ __forceinline__ void meet() {
  asm volatile("bar.sync %0, %1;" ::"n"(BARRIER), "n"(THREADS) : "memory");
}
template <int N> __device__ __forceinline__ void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ __forceinline__ void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
__device__ __forceinline__ void wait_for(const u32 *counter, u32 target) {
  u32 v;
  do asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(counter) : "memory");
  while ((int)(v - target) < 0);
  asm volatile("fence.acquire.gpu;" ::: "memory");  // once, not at every look
}
__device__ __forceinline__ void count_up(u32 *counter) {  // what was written before is there for whoever sees it
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

// --- a cluster's other programs -------------------------------------------------------------------------------------

__device__ __forceinline__ u32 cluster_rank() { u32 r; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
__device__ __forceinline__ u32 address_in(u32 address, u32 rank) {  // the same place in another program's memory
  u32 r;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
  return r;
}
// Gives a slot back. Not `.release.cluster`: that waits for all of the thread's memory, 0.7 µs a slot, and nothing was written.
__device__ __forceinline__ void bar_arrive_in(u32 remote) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_meet() {  // orders nothing but barriers that were initialised
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// Into another program's shared memory (an address from address_in), from registers; counts on its barrier in bytes, and is
// there for whoever has waited for that one. Needs no release.
__device__ __forceinline__ void store_in(u32 to, uint4 v, u32 bar) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];"
               ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(bar) : "memory");
}
__device__ __forceinline__ void store_in(u32 to, uint2 v, u32 bar) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];"
               ::"r"(to), "r"(v.x), "r"(v.y), "r"(bar) : "memory");
}
__device__ __forceinline__ void store_in(u32 to, float4 v, u32 bar) {
  store_in(to, make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)), bar);
}
__device__ __forceinline__ void store_in(u32 to, float2 v, u32 bar) {
  store_in(to, make_uint2(__float_as_uint(v.x), __float_as_uint(v.y)), bar);
}

// Through the slots of a ring, again and again.
template <int SLOTS> struct Walk {
  int slot = 0;
  u32 parity = 0;
  __device__ void next() { if (++slot == SLOTS) { slot = 0; parity ^= 1; } }
};
// Gives slots back to the loader of another program: not the last ones, which nobody waits for. Such a word could still be on
// its way when that program has ended, and it would end the launch.
struct GiveBack {
  u32 empty;    // its barriers
  int refills;  // slots that are filled again
  bool tells;   // this thread
  __device__ void operator()(int slot) { if (refills-- > 0 && tells) bar_arrive_in(empty + 8 * slot); }
};

// --- copies ---------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void copy_in(u32 to, const void *from, u32 bytes, u32 bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               ::"r"(to), "l"(from), "r"(bytes), "r"(bar) : "memory");
}
__device__ __forceinline__ void copy_in_once(u32 to, const void *from, u32 bytes, u32 bar) {  // the first to leave the L2 cache
  u64 policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
               ::"r"(to), "l"(from), "r"(bytes), "r"(bar), "l"(policy) : "memory");
}
__device__ __forceinline__ void copy_in_all(u32 to, const void *from, u32 bytes, u32 bar, int programs) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;"
               ::"r"(to), "l"(from), "r"(bytes), "r"(bar), "h"((short)programs) : "memory");
}
struct alignas(64) TensorMap { char opaque[128]; };
__device__ __forceinline__ void map_in(const TensorMap *map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
__device__ __forceinline__ void tile_in(u32 to, const TensorMap *map, int column, int row, u32 bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
               ::"r"(to), "l"(map), "r"(column), "r"(row), "r"(bar) : "memory");
}
__device__ __forceinline__ void tile_in_all(u32 to, const TensorMap *map, int column, int row, u32 bar, int programs) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
               "[%0], [%1, {%2, %3}], [%4], %5;"
               ::"r"(to), "l"(map), "r"(column), "r"(row), "r"(bar), "h"((short)programs) : "memory");
}
// For a copy to come.
__device__ __forceinline__ void into_l2(const void *from, u32 bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
// Ordinary accesses before, copies after; each memory has its own fence (one for all costs 0.3 µs more).
__device__ __forceinline__ void fence_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
__device__ __forceinline__ void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Launch chaining, as in common.py: successors may start; the predecessor has ended.
__device__ __forceinline__ void chain_start() { asm volatile("griddepcontrol.launch_dependents;"); }
__device__ __forceinline__ void chain_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// By the GPU's clock, as profilers have it.
__device__ __forceinline__ long long nanoseconds() { long long t; asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)); return t; }

// --- tensor cores ---------------------------------------------------------------------------------------------------

// Depth runs along the 128-byte rows; groups of eight rows are 1024 bytes apart.
__device__ __forceinline__ u64 tile_at(u32 address) {
  return ((u64)1 << 62) | ((u64)64 << 32) | ((u64)1 << 16) | ((address & 0x3FFFF) >> 4);
}
// Depth runs across the rows (`transposed` wrappers): the next 64 columns are a tile further on, of 64 rows or `bytes`.
__device__ __forceinline__ u64 transposed_tile_at(u32 address, u32 bytes = 8192) {
  return ((u64)1 << 62) | ((u64)64 << 32) | ((u64)(bytes >> 4) << 16) | ((address & 0x3FFFF) >> 4);
}
__device__ __forceinline__ void mma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void mma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void mma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// Behind a wait: keeps the compiler from looking at a result earlier.
template <int N> __device__ __forceinline__ void arrived(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}
// ptxas puts a wait for products before whatever does not need them, but not before a branch: `v`, never negative, is first.
__device__ __forceinline__ void first(float v) { if (!(v < 0)) __syncwarp(); }

// --- numbers --------------------------------------------------------------------------------------------------------

__device__ __forceinline__ int uniform(int v) { return __shfl_sync(~0u, v, 0); }  // tells the compiler so
// What follows from it is computed where it is needed, not kept in registers through a loop.
__device__ __forceinline__ int afresh(int v) { asm volatile("" : "+r"(v)); return v; }
__device__ __forceinline__ u32 pack(float lo, float hi) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
__device__ __forceinline__ float lower(u32 v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float upper(u32 v) { return __uint_as_float(v & 0xffff0000u); }
__device__ __forceinline__ float exp2_fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float gelu_tanh(float x) {
  float z = 1.5957691216057308f * x * (1.f + 0.044715f * x * x);
  return __fdividef(x, 1.f + exp2_fast(-1.4426950408889634f * z));
}
__device__ __forceinline__ float tanh_fast(float x) { float y; asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float gelu_tanh_fast(float x) {  // half the special-function operations; an error of x · 2^-12
  const float half = 0.5f * x, t = tanh_fast(x * (0.7978845608028654f + 0.0356774081363001f * x * x));
  return half * t + half;
}
__device__ __forceinline__ float4 load4(const float *p) { return __ldcg((const float4 *)p); }
// Byte of (row, 16-byte chunk) in a tile.
__device__ __forceinline__ int at(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }
