#include "models/ops/dam_cuda.h"

#include "core/loss_math.h"
#include "core/simt.h"
#include "models/ops/cuda_gemm.cuh"
#include "models/ops/dam_limits.h"

#include <cfloat>
#include <cmath>
#include <stdexcept>
#include <string>

// MATHS 4, as dam_retrieval.h has it. Shapes: R replicas, B rows, P positions, N cells (capacity), H heads, L bits, D stored sequences in W words
// each. A *block of cells* are up to kWarps * `cells` cells of one position, which know the same n bits and split the stored sequences by the same
// bit.
//
// Scores s = q'.chi + ln count are sums of pattern tables: per group of 4 bits the 16 sums of +-q' are made once, and a stored sequence adds one of
// them. A lane has a stored sequence for the scores and the bits lane, lane + 32, ... for the means of chi.

namespace mnemo {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kTile = 32;  // stored sequences at a time
constexpr float kLogitLimit = kDamLogitLimit, kMaxLoss = kDamMaxLoss;

/// +-1 of a bit of a packed row.
__device__ inline float sign_of(const std::uint64_t* row, int bit) { return row[bit / 64] >> (63 - bit % 64) & 1 ? 1.F : -1.F; }

struct Arguments : DamCudaStep {
  int parts;
  float* probability;  // [R, (L + 1) H, L]: A(n) by n and head, then B
  float* phi_hat_RNH;
  float* query_RNL;  // q'; then eta dloss/dq'
  float* partial;    // [R, parts, N, classes, kHead + L]
  float* dphi_hat_RNH;
  float* dB_RPHL;                                     // by position
  float* loss_RPG2;                                   // sums over kWarps cells: mass times loss, mass of right predictions
  float *logit_RN, *out_loss_RBP, *out_accuracy_RBP;  // or null

  MNEMO_HOST_DEVICE int heads() const { return shape.heads; }
  MNEMO_HOST_DEVICE int length() const { return shape.batch.length; }
  MNEMO_HOST_DEVICE std::size_t capacity() const { return std::size_t(shape.batch.capacity()); }
  MNEMO_HOST_DEVICE int classes() const { return shape.retrieval ? 1 : 2; }
  MNEMO_HOST_DEVICE bool gradient() const { return !logit_RN && !out_loss_RBP; }

  __device__ const float* A(int replica, int n) const { return probability + (std::size_t(replica) * (length() + 1) + n) * heads() * length(); }
  __device__ const float* B(int replica) const { return A(replica, length()); }
  /// The first cell of a position, or of the end.
  __device__ int first_cell(int replica, int position) const {
    return cells.first_RG[std::size_t(replica) * (shape.batch.groups() + 1) + 2 * position];
  }
  __device__ int num_cells(int replica) const { return first_cell(replica, shape.batch.positions()); }
  __device__ std::size_t cell(int replica, int index) const { return replica * capacity() + index; }
  /// The words of a row of the batch.
  __device__ const std::uint64_t* row(int replica, int index) const {
    return cells.bits_RBW + (std::size_t(replica) * shape.batch.batch + index) * shape.batch.words();
  }
};

// ---- A and B

/// Blocks of warps (rows of A, then of B; replica): the softmax of a row.
__global__ void __launch_bounds__(kThreads) dam_softmax(Arguments a) {
  const int H = a.heads(), L = a.length(), row = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int replica = int(blockIdx.y), n = row / H < L ? row / H : L;
  if (row >= (L + 1) * H) return;
  const float* const from = (row / H < L ? a.A_logits + std::size_t(row) * L : a.B_logits + std::size_t(row - L * H) * L) + replica * a.stride;
  float* const to = a.probability + (std::size_t(replica) * (L + 1) * H + row) * L;
  float top = -INFINITY, sum = 0;
  for (int i = lane; i < n; i += 32) top = fmaxf(top, from[i]);
  top = warp_max(top);
  for (int i = lane; i < n; i += 32) sum += to[i] = expf(from[i] - top);
  const float inverse = 1 / warp_sum(sum);
  for (int i = lane; i < n; i += 32) to[i] *= inverse;
}

// ---- products (cuda_gemm.cuh)

/// phi_hat = zeta A(n)^T, of the cells of a position. Grid (squares of B x H, P, R).
struct PhiHat {
  static constexpr bool kAAlongDepth = true, kBAlongDepth = true, kRowSums = false, kAddends = false;
  GemmTile tile;
  int H, L, W;
  const float* A_HL;
  const std::uint64_t* bits_UW;
  const std::int32_t* row_N;
  float* to_NH;

  __device__ PhiHat(const Arguments& a, int, const GemmSquare& at) : H(a.heads()), L(a.length()), W(a.shape.batch.words()) {
    const int replica = int(blockIdx.z), position = int(blockIdx.y), n = position + a.shape.batch.first_predicted_bit;
    const int squares = (H + at.side - 1) / at.side, h = at.x % squares * at.side;
    const int cell = a.first_cell(replica, position) + at.x / squares * at.side;
    tile = {a.first_cell(replica, position + 1) - cell, H - h, n};
    A_HL = a.A(replica, n) + std::size_t(h) * L;
    bits_UW = a.row(replica, 0);
    row_N = a.cells.row_RN + a.cell(replica, cell);
    to_NH = a.phi_hat_RNH + a.cell(replica, cell) * H + h;
  }
  __device__ float a(int cell, int i) const { return sign_of(bits_UW + row_N[cell] * W, i); }
  __device__ float b(int i, int h) const { return A_HL[h * L + i]; }
  __device__ void out(int cell, int h, float sum) const { to_NH[cell * H + h] = sum; }
};

/// q' = eta phi_hat B. Grid (parts of N, parts of L, R).
struct Query {
  static constexpr bool kAAlongDepth = true, kBAlongDepth = false, kRowSums = false, kAddends = false;
  GemmTile tile;
  int H, L;
  float eta;
  const float *phi_hat_NH, *B_HL;
  float* to_NL;

  __device__ Query(const Arguments& a, int, const GemmSquare& at) : H(a.heads()), L(a.length()) {
    const int replica = int(blockIdx.z), cell = at.row(), l = at.column();
    tile = {a.num_cells(replica) - cell, L - l, H};
    eta = a.eta_R[replica];
    phi_hat_NH = a.phi_hat_RNH + a.cell(replica, cell) * H;
    B_HL = a.B(replica) + l;
    to_NL = a.query_RNL + a.cell(replica, cell) * L + l;
  }
  __device__ float a(int cell, int h) const { return phi_hat_NH[cell * H + h]; }
  __device__ float b(int h, int l) const { return B_HL[h * L + l]; }
  __device__ void out(int cell, int l, float sum) const { to_NL[cell * L + l] = eta * sum; }
};

/// dphi_hat = (eta dloss/dq') B^T. Grid (parts of N, parts of H, R).
struct PhiHatSlope {
  static constexpr bool kAAlongDepth = true, kBAlongDepth = true, kRowSums = false, kAddends = false;
  GemmTile tile;
  int H, L;
  const float *dquery_NL, *B_HL;
  float* to_NH;

  __device__ PhiHatSlope(const Arguments& a, int, const GemmSquare& at) : H(a.heads()), L(a.length()) {
    const int replica = int(blockIdx.z), cell = at.row(), h = at.column();
    tile = {a.num_cells(replica) - cell, H - h, L};
    dquery_NL = a.query_RNL + a.cell(replica, cell) * L;
    B_HL = a.B(replica) + std::size_t(h) * L;
    to_NH = a.dphi_hat_RNH + a.cell(replica, cell) * H + h;
  }
  __device__ float a(int cell, int l) const { return dquery_NL[cell * L + l]; }
  __device__ float b(int l, int h) const { return B_HL[h * L + l]; }
  __device__ void out(int cell, int h, float sum) const { to_NH[cell * H + h] = sum; }
};

/// Of the cells of a position, none perhaps: dA(n) = dphi_hat^T zeta (blocks of even x), into the place of A_logits' gradient, and dB = phi_hat^T
/// (eta dloss/dq'). Grid (squares of H x L for each, P, R).
struct Slopes {
  static constexpr bool kAAlongDepth = false, kBAlongDepth = false, kRowSums = false, kAddends = false;
  GemmTile tile;
  bool is_A;
  int H, L, W, l;
  const float *left_NH, *dquery_NL;
  const std::uint64_t* bits_UW;
  const std::int32_t* row_N;
  float* to_HL;

  __device__ Slopes(const Arguments& a, int, const GemmSquare& at) : is_A(at.x % 2 == 0), H(a.heads()), L(a.length()), W(a.shape.batch.words()) {
    const int replica = int(blockIdx.z), position = int(blockIdx.y), n = position + a.shape.batch.first_predicted_bit;
    const int squares = (L + at.side - 1) / at.side, square = at.x / 2, h = square / squares * at.side;
    const int cell = a.first_cell(replica, position);
    l = square % squares * at.side;
    tile = {H - h, (is_A ? n : L) - l, a.first_cell(replica, position + 1) - cell};
    left_NH = (is_A ? a.dphi_hat_RNH : a.phi_hat_RNH) + a.cell(replica, cell) * H + h;
    dquery_NL = a.query_RNL + a.cell(replica, cell) * L + l;
    bits_UW = a.row(replica, 0);
    row_N = a.cells.row_RN + a.cell(replica, cell);
    to_HL = (is_A ? a.dA_logits + replica * a.stride + std::size_t(n) * H * L : a.dB_RPHL + (std::size_t(replica) * gridDim.y + position) * H * L) +
            std::size_t(h) * L + l;
  }
  __device__ float a(int h, int cell) const { return left_NH[cell * H + h]; }
  __device__ float b(int cell, int i) const { return is_A ? sign_of(bits_UW + row_N[cell] * W, l + i) : dquery_NL[cell * L + i]; }
  __device__ void out(int h, int i, float sum) const { to_HL[h * L + i] = sum; }
};

// ---- scores

/// Stored sequences [begin, end).
struct Range {
  int begin, end;
};
/// A part of the stored sequences: whole tiles, as many as in the others, perhaps none.
__device__ inline Range part_of(int stored, int part, int parts) {
  const std::int64_t tiles = (stored + kTile - 1) / kTile;
  return {int(tiles * part / parts) * kTile, min(int(tiles * (part + 1) / parts) * kTile, stored)};
}

__host__ __device__ constexpr int groups_of(int length) { return (length + 3) / 4; }

/// The tables of `cells` cells, by a warp: table[g][c][p] is the sum of +-q' over group g with the signs of pattern p, the earliest bit most
/// significant. query(c) is null for a cell that does not exist.
template <int cells, class Query>
__device__ inline void make_tables(int length, float* table, const Query& query) {
  for (int i = int(threadIdx.x) % 32; i < groups_of(length) * cells * 16; i += 32) {
    const int pattern = i % 16, bit = i / 16 / cells * 4;
    const float* const q = query(i / 16 % cells);
    float sum = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float v = q && bit + k < length ? q[bit + k] : 0.F;
      sum += pattern >> (3 - k) & 1 ? v : -v;
    }
    table[i] = sum;
  }
}

/// Adds q'.chi of a sequence to the score of each cell; one order of sums, so that equal scores are equal.
template <int cells>
__device__ inline void add_scores(int length, const float* table, const std::uint64_t* words, float (&score)[cells]) {
  const int groups = groups_of(length);
  for (int first = 0; first < groups; first += 8) {  // 32 bits
    std::uint32_t bits = std::uint32_t(words[first / 16] >> (first % 16 == 0 ? 32 : 0));
    for (int g = first; g < min(first + 8, groups); ++g, bits <<= 4) {
#pragma unroll
      for (int c = 0; c < cells; ++c) score[c] += table[(g * cells + c) * 16 + (bits >> 28)];
    }
  }
}

constexpr int kHead = 3;  // of a partial result: maximum, sum, ties

__device__ inline float* partial_of(const Arguments& a, int replica, int part, int cell, int next) {
  return a.partial + (((std::size_t(replica) * a.parts + part) * a.capacity() + cell) * a.classes() + next) * (kHead + a.length());
}

/// Softmax sums over the stored sequences so far of one class (those with the same next bit), for `cells` cells by a warp.
template <int slices, int cells>
struct Sums {
  float top[cells];           // the maximum, the same in all lanes
  float sum[cells];           // of exp(s - top), each lane of its own sequences
  int ties[cells];            // how many attain the maximum
  float mean[slices][cells];  // sum of exp(s - top) chi, of bits lane, lane + 32, ...

  __device__ Sums() {
#pragma unroll
    for (int c = 0; c < cells; ++c) {
      top[c] = -INFINITY, sum[c] = 0, ties[c] = 0;
#pragma unroll
      for (int s = 0; s < slices; ++s) mean[s][c] = 0;
    }
  }

  /// Scales the sums so far if a maximum is higher.
  __device__ void raise(int c, float to) {
    if (!(to > top[c])) return;
    const float factor = expf(top[c] - to);
    top[c] = to, sum[c] *= factor, ties[c] = 0;
#pragma unroll
    for (int s = 0; s < slices; ++s) mean[s][c] *= factor;
  }

  /// What there is of a cell, as a partial result.
  __device__ void store(int c, int length, float* to) const {
    const int lane = int(threadIdx.x) % 32;
    const float total = warp_sum(sum[c]);
    if (lane == 0) to[0] = top[c], to[1] = total, to[2] = float(ties[c]);
#pragma unroll
    for (int s = 0; s < slices; ++s) {
      if (lane + 32 * s < length) to[kHead + lane + 32 * s] = mean[s][c];
    }
  }
};

template <int cells>
struct alignas(4 * cells) Weights {
  float of[cells];
};

/// Adds the sequences of a tile that `chosen` marks to the means.
template <int slices, int cells>
__device__ inline void add_means(unsigned chosen, const std::uint64_t* tile, int words, const Weights<cells>* weights, Sums<slices, cells>& sums) {
  const int lane = int(threadIdx.x) % 32;
  float added[slices][cells] = {};  // of the tile alone: in float32 a million small numbers must not meet one large sum
  for (; chosen; chosen &= chosen - 1) {
    const int m = __ffs(int(chosen)) - 1;
    const Weights<cells> weight = weights[m];
#pragma unroll
    for (int s = 0; s < slices; ++s) {
      const std::uint64_t word = tile[m * words + s / 2];  // beyond the last word: of another sequence, for bits beyond L
      const std::uint32_t half = std::uint32_t(s % 2 == 0 ? word >> 32 : word);
      const float sign = __uint_as_float(0x3f800000U | (~(half << lane) & 0x80000000U));
#pragma unroll
      for (int c = 0; c < cells; ++c) added[s][c] += sign * weight.of[c];
    }
  }
#pragma unroll
  for (int s = 0; s < slices; ++s) {
#pragma unroll
    for (int c = 0; c < cells; ++c) sums.mean[s][c] += added[s][c];
  }
}

/// What a lane knows of its stored sequence.
template <int cells>
struct Scored {
  float score[cells];
  float count = 1;  // where no bit is known the counts decide, exactly: a tie is one
  bool valid, is_one = false;
};

/// The scores of stored sequence `index`, with these words, for cells that know n bits; -inf if it does not exist.
template <int cells, int classes>
__device__ inline Scored<cells> scored(const Arguments& a, std::size_t index, bool valid, const std::uint64_t* words, int n, const float* table) {
  Scored<cells> mine;
  mine.valid = valid;
  float start = -INFINITY;
  if (valid) start = n == 0 ? 0.F : a.memory.log_count_RD[index];
#pragma unroll
  for (int c = 0; c < cells; ++c) mine.score[c] = start;
  if (!valid) return mine;
  if (n == 0) mine.count = float(a.memory.count_RD[index]);
  add_scores<cells>(a.length(), table, words, mine.score);
  mine.is_one = classes == 2 && (words[n / 64] >> (63 - n % 64) & 1);
  return mine;
}

/// Adds the weights exp(s - top) of the lanes' sequences to the sums of their classes, and returns those of one's own.
template <int slices, int cells, int classes>
__device__ inline Weights<cells> weigh(const Scored<cells>& mine, float too_light, Sums<slices, cells> (&sums)[classes]) {
  Weights<cells> weights;
#pragma unroll
  for (int c = 0; c < cells; ++c) {
    float top = -INFINITY;
#pragma unroll
    for (int next = 0; next < classes; ++next) {
      sums[next].raise(c, warp_max(mine.is_one == (next == 1) ? mine.score[c] : -INFINITY));
      if (mine.is_one == (next == 1)) top = sums[next].top[c];
    }
    const float below = mine.score[c] - top;
    weights.of[c] = mine.valid && !(below <= too_light) ? mine.count * expf(below) : 0.F;  // NaN stays
#pragma unroll
    for (int next = 0; next < classes; ++next) sums[next].sum[c] += mine.is_one == (next == 1) ? weights.of[c] : 0.F;
    if (classes == 1) sums[0].ties[c] += __popc(__ballot_sync(kAllLanes, mine.valid && mine.score[c] == top));
  }
  return weights;
}

/// Block (block of cells of a position; position, part; replica): the sums over a part of the stored sequences, `cells` cells a warp.
template <int slices, int cells, int classes>
__global__ void __launch_bounds__(kThreads) dam_scores(Arguments a) {
  constexpr int kWords = (slices + 1) / 2;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, replica = int(blockIdx.z), L = a.length(), W = a.shape.batch.words();
  const int position = int(blockIdx.y) / a.parts, part = int(blockIdx.y) % a.parts, n = position + a.shape.batch.first_predicted_bit;
  const int first_cell = a.first_cell(replica, position) + int(blockIdx.x) * kWarps * cells, last_cell = a.first_cell(replica, position + 1);
  const int stored = a.memory.num_R[replica];
  const Range range = part_of(stored, part, a.parts);
  if (first_cell >= last_cell || range.begin >= range.end) return;

  MNEMO_SHARED(std::uint64_t[2][kTile * kWords], tile);
  MNEMO_SHARED(Weights<cells>[kWarps][kTile], weights);
  MNEMO_DYNAMIC_SHARED(bytes);
  float* const table = reinterpret_cast<float*>(bytes) + warp * groups_of(L) * cells * 16;
  const auto memory = std::size_t(replica) * a.memory.capacity;
  const auto fetch = [&](int start, int slot) {
    const std::uint64_t* const from = a.memory.words_RDW + (memory + start) * W;
    for (int i = int(threadIdx.x); i < min(kTile, range.end - start) * W; i += kThreads) copy_async<8>(&tile[slot][i], from + i);
    copy_commit();
  };
  fetch(range.begin, 0);
  make_tables<cells>(L, table, [&](int c) {
    const int cell = first_cell + warp * cells + c;
    return cell < last_cell ? a.query_RNL + a.cell(replica, cell) * L : nullptr;
  });
  // sequences this far below the heaviest cannot change the sum, even all of them together: half a unit in the last place
  const float too_light = logf(FLT_EPSILON / 4 / float(stored + 1));
  Sums<slices, cells> sums[classes];
  for (int start = range.begin, slot = 0; start < range.end; start += kTile, slot ^= 1) {
    copy_wait<0>();
    __syncthreads();  // the tile has come for all, and nobody reads the one before it, or its weights, any more
    if (start + kTile < range.end) fetch(start + kTile, slot ^ 1);
    const auto mine = scored<cells, classes>(a, memory + start + lane, start + lane < range.end, &tile[slot][lane * W], n, table);
    const auto weight = weigh(mine, too_light, sums);
    if (!a.gradient()) continue;
    weights[warp][lane] = weight;
    bool heavy = false;
#pragma unroll
    for (int c = 0; c < cells; ++c) heavy = heavy || weight.of[c] != 0;
    const unsigned heavies = __ballot_sync(kAllLanes, heavy), ones = __ballot_sync(kAllLanes, mine.is_one);
    __syncwarp();  // the weights of all lanes are there
#pragma unroll
    for (int next = 0; next < classes; ++next) add_means(heavies & (next == 1 ? ones : ~ones), tile[slot], W, weights[warp], sums[next]);
  }
#pragma unroll
  for (int c = 0; c < cells; ++c) {
    const int cell = first_cell + warp * cells + c;
    if (cell >= last_cell) break;
#pragma unroll
    for (int next = 0; next < classes; ++next) sums[next].store(c, L, partial_of(a, replica, part, cell, next));
  }
}

// ---- loss

/// The sums of one class over all parts, first to last, for a cell by a warp.
class Merged {
 public:
  __device__ Merged(const Arguments& a, int replica, int cell, int next)
      : a_(a), replica_(replica), cell_(cell), next_(next), stored_(a.memory.num_R[replica]) {
    each_part([&](const float* from) { top = fmaxf(top, from[0]); });
    each_part([&](const float* from) {
      sum += factor(from) * from[1];
      if (from[0] == top) ties += from[2];
    });
  }
  float top = -INFINITY, sum = 0, ties = 0;

  /// Softmax mean of chi at a bit.
  __device__ float mean(int bit) const {
    float total = 0;
    each_part([&](const float* from) { total += factor(from) * from[kHead + bit]; });
    return total / sum;
  }

 private:
  __device__ float factor(const float* from) const { return from[0] == top ? 1.F : expf(from[0] - top); }
  template <class Body>
  __device__ void each_part(const Body& body) const {
    for (int part = 0; part < a_.parts; ++part) {
      const Range range = part_of(stored_, part, a_.parts);
      if (range.begin < range.end) body(partial_of(a_, replica_, part, cell_, next_));
    }
  }
  const Arguments& a_;
  int replica_, cell_, next_, stored_;
};

/// Of a cell, for lane 0: mass times loss, mass of right predictions.
struct CellLoss {
  float loss = 0, right = 0;
};

/// Next bit: the logit of a cell, its loss, and eta dloss/dq' in the place of q'.
__device__ inline CellLoss next_bit(const Arguments& a, int replica, int cell) {
  const int lane = int(threadIdx.x) % 32, L = a.length();
  const auto at = a.cell(replica, cell);
  const Merged zero(a, replica, cell, 0), one(a, replica, cell, 1);
  float z = 0;  // of an empty memory
  if (zero.sum != 0 || one.sum != 0) {
    z = zero.sum == 0 ? INFINITY : one.sum == 0 ? -INFINITY : (one.top - zero.top) + logf(one.sum / zero.sum);
  }
  if (a.logit_RN) {
    if (lane == 0) a.logit_RN[at] = a.shape.clamped && fabsf(z) > kLogitLimit ? copysignf(kLogitLimit, z) : z;
    return {};
  }
  // beyond its limit a logit has no slope: clamped, or its loss at most (the likelier bit's is then below exp(-kMaxLoss))
  const float limit = a.shape.clamped ? kLogitLimit : kMaxLoss, size = fabsf(z);
  const float mass_zero = float(a.cells.mass_RN2[2 * at]), mass_one = float(a.cells.mass_RN2[2 * at + 1]);
  const Bce<float> bce(z, size > limit ? limit : size);
  const bool slopes = size <= limit && zero.sum != 0 && one.sum != 0;
  const float slope = a.eta_R[replica] * bce.slope(mass_zero, mass_one) / float(a.shape.batch.batch * a.shape.batch.positions());
  for (int l = lane; l < L; l += 32) a.query_RNL[at * L + l] = slopes ? slope * (one.mean(l) - zero.mean(l)) : 0.F;
  return {bce.loss(mass_zero, mass_one), bce.right(mass_zero, mass_one)};
}

/// Whether two rows have the same first n bits.
__device__ inline bool same_prefix(const std::uint64_t* a, const std::uint64_t* b, int n) {
  for (int w = 0; w < n / 64; ++w) {
    if (a[w] != b[w]) return false;
  }
  return n % 64 == 0 || (a[n / 64] ^ b[n / 64]) >> (64 - n % 64) == 0;
}

/// Retrieval: a cell names the sequence of each row that starts with its n bits: rows one after another, whose own sequence is the true one.
__device__ inline CellLoss retrieve(const Arguments& a, int replica, int cell, int position, float* table) {
  const int lane = int(threadIdx.x) % 32, L = a.length(), n = position + a.shape.batch.first_predicted_bit, P = a.shape.batch.positions();
  const auto at = a.cell(replica, cell);
  const int rows = a.cells.num_rows_R[replica], first = a.cells.row_RN[at];
  const std::int32_t* const count = a.cells.count_RB + std::size_t(replica) * a.shape.batch.batch;
  make_tables<1>(L, table, [&](int) { return a.query_RNL + at * L; });
  __syncwarp();  // the table is there
  const Merged all(a, replica, cell, 0);
  const float log_sum = all.top + logf(all.sum);
  float loss = 0, right = 0;
  int last = first;  // of the rows
  for (bool more = true; more; last += 32) {
    const int u = last + lane;
    const bool mine = u < rows && same_prefix(a.row(replica, u), a.row(replica, first), n);
    if (mine) {
      float score[1] = {0};
      add_scores<1>(L, table, a.row(replica, u), score);
      const float row_loss = log_sum - score[0], row_right = score[0] == all.top ? 1 / all.ties : 0.F;
      loss += float(count[u]) * row_loss, right += float(count[u]) * row_right;
      if (a.out_loss_RBP) {
        const auto to = (std::size_t(replica) * a.shape.batch.batch + u) * P + position;
        a.out_loss_RBP[to] = row_loss, a.out_accuracy_RBP[to] = row_right;
      }
    }
    more = __all_sync(kAllLanes, mine);
    if (!more) last += __popc(__ballot_sync(kAllLanes, mine)) - 32;
  }
  loss = warp_sum(loss), right = warp_sum(right);
  if (!a.gradient()) return {};
  const float mass = float(a.cells.mass_RN2[2 * at] + a.cells.mass_RN2[2 * at + 1]);
  const float scale = a.eta_R[replica] / float(a.shape.batch.batch * P);
  for (int l = lane; l < L; l += 32) {
    int truth = 0;  // the sum of chi over the true sequences
    for (int u = first; u < last; ++u) truth += a.row(replica, u)[l / 64] >> (63 - l % 64) & 1 ? count[u] : -count[u];
    a.query_RNL[at * L + l] = scale * (mass * all.mean(l) - float(truth));
  }
  return {loss, right};
}

/// Block (kWarps cells of a position, perhaps none; position; replica): loss, and its slope by q', of a cell a warp.
template <bool retrieval>
__global__ void __launch_bounds__(kThreads) dam_loss(Arguments a) {
  MNEMO_SHARED(float[kWarps][2], losses);
  const int warp = int(threadIdx.x) / 32, position = int(blockIdx.y), replica = int(blockIdx.z);
  const int cell = a.first_cell(replica, position) + int(blockIdx.x) * kWarps + warp;
  CellLoss mine;
  if (cell < a.first_cell(replica, position + 1)) {
    if constexpr (retrieval) {
      MNEMO_DYNAMIC_SHARED(bytes);
      mine = retrieve(a, replica, cell, position, reinterpret_cast<float*>(bytes) + warp * groups_of(a.length()) * 16);
    } else {
      mine = next_bit(a, replica, cell);
    }
  }
  if (!a.gradient()) return;
  if (threadIdx.x % 32 == 0) losses[warp][0] = mine.loss, losses[warp][1] = mine.right;
  __syncthreads();
  if (threadIdx.x >= 2) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += losses[w][threadIdx.x];
  a.loss_RPG2[((std::size_t(replica) * gridDim.y + position) * gridDim.x + blockIdx.x) * 2 + threadIdx.x] = sum;
}

// ---- to the gradient

/// A row of A_logits' gradient from that of A, in its place, by a warp: p (dp - sum of p dp); 0 where A has no entry.
__device__ inline void finish_A(const Arguments& a, int replica, int row) {
  const int L = a.length(), n = row / a.heads(), lane = int(threadIdx.x) % 32;
  const float* const p = a.A(replica, 0) + std::size_t(row) * L;
  float* const d = a.dA_logits + replica * a.stride + std::size_t(row) * L;
  float mean = 0;
  for (int i = lane; i < n; i += 32) mean += p[i] * d[i];
  mean = warp_sum(mean);
  for (int i = lane; i < L; i += 32) d[i] = i < n ? p[i] * (d[i] - mean) : 0.F;
}

/// A row of B_logits' gradient, by a block: the positions' shares, of which warp w sums positions w, w + kWarps, ..., then the same.
__device__ inline void finish_B(const Arguments& a, int replica, int h) {
  MNEMO_SHARED(float[kWarps][32], share);
  const int L = a.length(), P = a.shape.batch.positions(), warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const float* const p = a.B(replica) + std::size_t(h) * L;
  float* const d = a.dB_logits + replica * a.stride + std::size_t(h) * L;
  float mean = 0;
  for (int first = 0; first < L; first += 32) {
    float sum = 0;
    for (int position = warp; first + lane < L && position < P; position += kWarps) {
      sum += a.dB_RPHL[((std::size_t(replica) * P + position) * a.heads() + h) * L + first + lane];
    }
    __syncthreads();  // nobody reads the last shares any more
    share[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || first + lane >= L) continue;
    for (int other = 1; other < kWarps; ++other) sum += share[other][lane];
    d[first + lane] = sum;
    mean += p[first + lane] * sum;
  }
  if (warp != 0) return;
  mean = warp_sum(mean);
  for (int l = lane; l < L; l += 32) d[l] = p[l] * (d[l] - mean);
}

/// Loss and accuracy of a replica, by a block.
__device__ inline void finish_loss(const Arguments& a, int replica) {
  MNEMO_SHARED(double[kThreads][2], sums);
  const auto& batch = a.shape.batch;
  const int size = batch.positions() * ((batch.batch + kWarps - 1) / kWarps);
  const float* const from = a.loss_RPG2 + std::size_t(replica) * size * 2;
  double loss = 0, right = 0;
  for (int i = int(threadIdx.x); i < size; i += kThreads) loss += double(from[2 * i]), right += double(from[2 * i + 1]);
  sums[threadIdx.x][0] = loss, sums[threadIdx.x][1] = right;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int other = 1; other < kThreads; ++other) loss += sums[other][0], right += sums[other][1];
  a.loss_R[replica] = loss / batch.capacity(), a.accuracy_R[replica] = right / batch.capacity();
  a.learns_R[replica] = a.num_cells(replica) > 0 && a.memory.num_R[replica] > 0;
}

/// Block (a row of B, or kWarps rows of A, or the loss; replica).
__global__ void __launch_bounds__(kThreads) dam_finish(Arguments a) {
  const int H = a.heads(), block = int(blockIdx.x), replica = int(blockIdx.y);
  if (block < H) return finish_B(a, replica, block);
  if (block == int(gridDim.x) - 1) return finish_loss(a, replica);
  const int row = (block - H) * kWarps + int(threadIdx.x) / 32;
  if (row < a.length() * H) finish_A(a, replica, row);
}

// ---- the whole

template <class... Text>
[[noreturn]] void refuse(const Text&... text) {
  throw std::invalid_argument((std::string("[dam_cuda] ") + ... + text));
}

unsigned blocks_of(int size, int part) { return unsigned((size + part - 1) / part); }

/// How many slices of 32 bits a lane has, for how many cells.
template <class Body>
void with_slices(int length, const Body& body) {
  if (length <= 32) return body(std::integral_constant<int, 1>(), std::integral_constant<int, 4>());
  if (length <= 64) return body(std::integral_constant<int, 2>(), std::integral_constant<int, 4>());
  if (length <= 128) return body(std::integral_constant<int, 4>(), std::integral_constant<int, 4>());
  if (length <= 256) return body(std::integral_constant<int, 8>(), std::integral_constant<int, 2>());
  body(std::integral_constant<int, 32>(), std::integral_constant<int, 1>());
}

/// The parts of the memory: about a thousand blocks for a replica, at least four tiles each.
int parts_of(const DamCudaShape& shape) {
  if (shape.parts > 0) return shape.parts;
  int blocks = 0;
  with_slices(shape.batch.length, [&](auto, auto cells) { blocks = shape.batch.positions() * int(blocks_of(shape.batch.batch, kWarps * cells)); });
  return max(1, min(1024 / blocks, shape.distinct / (4 * kTile)));
}

/// Lays the work space out; returns its size.
std::size_t lay_out(Arguments& a) {
  const auto& s = a.shape;
  const auto R = std::size_t(s.batch.replicas), N = std::size_t(s.batch.capacity()), P = std::size_t(s.batch.positions());
  const auto H = std::size_t(s.heads), L = std::size_t(s.batch.length);
  std::size_t size = 0;
  const auto take = [&](float*& array, std::size_t n) {
    array = a.work ? static_cast<float*>(a.work) + size : nullptr;
    size += n;
  };
  take(a.probability, R * (L + 1) * H * L);
  take(a.phi_hat_RNH, R * N * H);
  take(a.query_RNL, R * N * L);
  take(a.partial, R * std::size_t(a.parts) * N * std::size_t(a.classes()) * (kHead + L));
  take(a.dphi_hat_RNH, R * N * H);
  take(a.dB_RPHL, R * P * H * L);
  take(a.loss_RPG2, R * P * blocks_of(s.batch.batch, kWarps) * 2);
  return size * sizeof(float);
}

Arguments arguments_of(const DamCudaStep& step) {
  const auto& s = step.shape;
  if (s.batch.replicas < 1 || s.batch.batch < 1 || s.batch.positions() < 1 || s.heads < 1 || s.distinct < 1 || s.batch.length > kDamCudaMaxLength) {
    refuse("cannot have R=", std::to_string(s.batch.replicas), ", B=", std::to_string(s.batch.batch), ", L=", std::to_string(s.batch.length),
           ", H=", std::to_string(s.heads), ", D=", std::to_string(s.distinct));
  }
  Arguments a{};
  static_cast<DamCudaStep&>(a) = step;
  a.parts = parts_of(s);
  lay_out(a);
  return a;
}

/// From the weights to the loss of each cell.
void forward(const Arguments& a, void* stream) {
  const auto& batch = a.shape.batch;
  const unsigned R = unsigned(batch.replicas), P = unsigned(batch.positions()), H = unsigned(a.heads()), L = unsigned(a.length());
  const unsigned blocks_of_N = blocks_of(batch.capacity(), kGemmSide);
  simt::launch<dam_softmax>(dim3(blocks_of(int((L + 1) * H), kWarps), R), kThreads, 0, stream, a);
  simt::launch<gemm<PhiHat, false, kGemmSide, Arguments>>(dim3(blocks_of(batch.batch, kGemmSide) * blocks_of(int(H), kGemmSide), P, R),
                                                          gemm_threads(kGemmSide), 0, stream, a, 0);
  simt::launch<gemm<Query, false, kGemmSide, Arguments>>(dim3(blocks_of_N, blocks_of(int(L), kGemmSide), R), gemm_threads(kGemmSide), 0, stream, a,
                                                         0);
  const std::size_t table = std::size_t(kWarps) * groups_of(int(L)) * 16 * sizeof(float);  // of a cell a warp
  with_slices(int(L), [&](auto slices, auto cells) {
    const dim3 grid(blocks_of(batch.batch, kWarps * cells), P * unsigned(a.parts), R);
    if (a.shape.retrieval) return simt::launch<dam_scores<slices, cells, 1>>(grid, kThreads, cells * table, stream, a);
    simt::launch<dam_scores<slices, cells, 2>>(grid, kThreads, cells * table, stream, a);
  });
  const dim3 grid(blocks_of(batch.batch, kWarps), P, R);
  if (a.shape.retrieval) return simt::launch<dam_loss<true>>(grid, kThreads, table, stream, a);
  simt::launch<dam_loss<false>>(grid, kThreads, 0, stream, a);
}

}  // namespace

std::size_t dam_cuda_work(const DamCudaShape& shape) {
  DamCudaStep step{};
  step.shape = shape;
  auto a = arguments_of(step);
  return lay_out(a);
}

void dam_gradient_cuda(const DamCudaStep& step, void* stream) {
  const auto a = arguments_of(step);
  const auto& batch = a.shape.batch;
  const unsigned R = unsigned(batch.replicas), P = unsigned(batch.positions()), blocks_of_H = blocks_of(a.heads(), kGemmSide);
  forward(a, stream);
  simt::launch<gemm<PhiHatSlope, false, kGemmSide, Arguments>>(dim3(blocks_of(batch.capacity(), kGemmSide), blocks_of_H, R), gemm_threads(kGemmSide),
                                                               0, stream, a, 0);
  simt::launch<gemm<Slopes, false, kGemmSide, Arguments>>(dim3(2 * blocks_of_H * blocks_of(a.length(), kGemmSide), P, R), gemm_threads(kGemmSide), 0,
                                                          stream, a, 0);
  simt::launch<dam_finish>(dim3(unsigned(a.heads()) + blocks_of(a.length() * a.heads(), kWarps) + 1, R), kThreads, 0, stream, a);
}

void dam_logits_cuda(const DamCudaStep& step, float* logit_RN, void* stream) {
  auto a = arguments_of(step);
  a.logit_RN = logit_RN;
  forward(a, stream);
}

void dam_identify_cuda(const DamCudaStep& step, float* loss_RBP, float* accuracy_RBP, void* stream) {
  auto a = arguments_of(step);
  a.out_loss_RBP = loss_RBP, a.out_accuracy_RBP = accuracy_RBP;
  forward(a, stream);
}

}  // namespace mnemo
