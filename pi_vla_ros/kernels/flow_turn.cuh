// Copyright 2026 pi_vla_ros maintainers
// SPDX-License-Identifier: Apache-2.0
//
// Between two steps of flow_loop.cu, a program has one action's row: its velocity comes out of a step, x_t moves, its token goes
// into the next step. Real-time chunking (model/rtc.py) acts here.

// Not asked for: null. HELD has a target alone.
struct Chunking {
  const float *target, *weights, *most;  // [H, 32]; guided: [H], [1]
};

// Before step `step`, and behind the last one.
__device__ __forceinline__ void Consumer::turn(int step, float *x_t, const Chunking &rtc) {
  const int row = cta + STATE, tid = afresh(threadIdx.x);
  float *const h = (float *)a_tile;  // [1024] the row's input of the last product
  if (step) {
    float4 m[4][8];  // asked for before the wait
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int c = 0; c < 8; c++)
        m[i][c] = load4(p.leave_w + ((step - 1) * 32 + warp * 4 + i) * WIDTH + lane * 4 + c * 128);
    consumers_wait(counter(C_DOWN), CTAS * LAYERS * step);
    uint2 v = __ldcg((const uint2 *)(p.h + (tid >> 4) * BLOCK + at(row, (tid & 15) >> 1) + (tid & 1) * 8));
    *(float4 *)(h + tid * 4) = make_float4(lower(v.x), upper(v.x), lower(v.y), upper(v.y));
    if (warp == 0) {
      float sum = lane < 16 ? __ldcg(p.ss + row * 16 + lane) : 0.f;
      for (int o = 8; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
      if (lane == 0) small[0] = rsqrtf(sum * (1.f / WIDTH) + 1e-6f);
    }
    consumers_sync();
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int a = warp * 4 + i;
      float sum = 0;
#pragma unroll
      for (int c = 0; c < 8; c++) {
        const float4 n = *(float4 *)(h + lane * 4 + c * 128);
        sum += m[i][c].x * n.x + m[i][c].y * n.y + m[i][c].z * n.z + m[i][c].w * n.w;
      }
#pragma unroll
      for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
      if (lane == 0) small[16 + a] = sum * small[0] + p.leave_b[(step - 1) * 32 + a];
    }
  }
  float4 y, m[32];  // asked for before they can be used
  if (step < steps) {
    y = load4(p.enter_b + step * WIDTH + tid * 4);
#pragma unroll
    for (int a = 0; a < 32; a++) m[a] = load4(p.enter_w + a * WIDTH + tid * 4);
  }
  if (step) {
    consumers_sync();
    if (tid < 32) {
      float move = small[16 + tid];
      if (rtc.weights) {  // towards the previous chunk: model/rtc.py, with move = −v / steps, time = (steps − step + 1) / steps
        const float pull = fminf(p.strength[step - 1], *rtc.most) / steps * rtc.weights[cta];
        move += pull * (rtc.target[cta * 32 + tid] - (moved[tid] + (steps - step + 1) * move));
      }
      moved[tid] = HELD && cta < committed ? rtc.target[cta * 32 + tid] : moved[tid] + move;
    }
    consumers_sync();
  }
  if (cta == 0 && tid == 0) p.stamps[step] = nanoseconds();
  if (step == steps) {
    if (tid < 32) x_t[cta * 32 + tid] = moved[tid];
    return;
  }
#pragma unroll
  for (int a = 0; a < 32; a++) {
    const float w = moved[a];
    y.x += m[a].x * w; y.y += m[a].y * w; y.z += m[a].z * w; y.w += m[a].w * w;
  }
  hand_on(p, y, p.scale + (2 * LAYERS * step * TIMES_OF + (cta < committed)) * WIDTH, row, tid);
  if (!STATE) {
    float square = y.x * y.x + y.y * y.y + y.z * y.z + y.w * y.w;
    for (int o = 16; o; o >>= 1) square += __shfl_xor_sync(~0u, square, o);
    if (lane == 0) small[8 + warp] = square;
    consumers_sync();
    if (tid < 16) {
      float sum = 0;
      if (tid == 0) for (int i = 0; i < 8; i++) sum += small[8 + i];
      p.ss[row * 16 + tid] = sum;
    }
  }
  fence_shared();  // activations are copied to where the scratch was
  publish(counter(C_TURN));
}
