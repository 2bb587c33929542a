#include "models/gpt_cells.h"

#include <torch/torch.h>

#include <algorithm>
#include <array>

namespace mnemo {

using torch::Tensor;

namespace {

constexpr std::int64_t kGroup = 1024;  // cells whose activations stay in the second cache: 4C floats each

/// Calls see(begin, end) for groups of cells or tokens.
template <class See>
void for_groups(std::int64_t count, const See& see) {
  for (std::int64_t begin = 0; begin < count; begin += kGroup) see(begin, std::min(begin + kGroup, count));
}

struct Normed {
  Tensor output, mean, rstd;
};
Normed normed(const Tensor& x, const Affine& norm) {
  auto [output, mean, rstd] = at::native_layer_norm(x, {x.size(1)}, norm.weight, norm.bias, kLayerNormEps);
  return {output, mean, rstd};
}

/// Adds to the gradient of a LayerNorm; returns that of its input x.
Tensor norm_gradient(const Affine& norm, const Affine& gradient, const Tensor& x, const Normed& forward, const Tensor& doutput) {
  const auto [dx, dweight, dbias] =
      at::native_layer_norm_backward(doutput, x, {x.size(1)}, forward.mean, forward.rstd, norm.weight, norm.bias, {true, true, true});
  gradient.weight.add_(dweight);
  gradient.bias.add_(dbias);
  return dx;
}

Tensor affine(const Tensor& x, const Affine& layer) { return at::addmm(layer.bias, x, layer.weight.t()); }

/// x W^T + b, into `out`.
void linear_out(Tensor out, const Tensor& x, const Affine& layer) { at::addmm_out(out, layer.bias, x, layer.weight.t()); }

/// residual + x W^T + b, into `out`.
void add_linear_out(Tensor out, const Tensor& residual, const Tensor& x, const Affine& layer) {
  at::add_out(out, residual, layer.bias).addmm_(x, layer.weight.t());
}

/// Adds to the gradient of a linear layer.
void add_linear_gradient(const Affine& gradient, const Tensor& x, const Tensor& doutput) {
  gradient.weight.addmm_(doutput.t(), x);
  gradient.bias.add_(doutput.sum(0));
}

/// The sums of the source's rows with the same index, [M, C], each in order of the rows, whatever the number of threads.
Tensor sums_by_index(const Tensor& source_NC, const Tensor& index_N, std::int64_t M) {
  const auto sums_MC = torch::zeros({M, source_NC.size(1)}, source_NC.options());
  AT_DISPATCH_FLOATING_TYPES(sums_MC.scalar_type(), "sums_by_index", [&] {
    const auto* index = index_N.const_data_ptr<std::int64_t>();
    const auto* source = source_NC.const_data_ptr<scalar_t>();
    auto* sums = sums_MC.data_ptr<scalar_t>();
    const auto N = index_N.size(0), C = source_NC.size(1);
    at::parallel_for(0, C, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = 0; i < N; ++i) {
        for (auto c = begin; c < end; ++c) sums[index[i] * C + c] += source[i * C + c];
      }
    });
  });
  return sums_MC;
}

}  // namespace

GptCells::GptCells(const GptTensors& weights, std::int64_t heads, const Cells& cells, const SequenceTable& table, bool keep)
    : weights_(weights), cells_(cells), heads_(heads), width_(weights.wte.size(1)), positions_(cells.num_positions()), keep_(keep) {
  std::vector<std::int64_t> token_of_N;
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(cells.length));
  for (std::size_t row = 0, cell = 0; row < cells.ranks.size(); ++row) {
    table.unpack({&cells.ranks[row], 1}, bits.data());
    const auto token = [&](std::int32_t position) { return 2 * position + bits[static_cast<std::size_t>(position)]; };
    for (std::int32_t position = 0; position < positions_; ++position) token_of_T_.push_back(token(position));
    first_cell_.push_back(static_cast<std::int64_t>(cell));
    for (; cell < cells.row.size() && cells.row[cell] == static_cast<std::int32_t>(row); ++cell) token_of_N.push_back(token(cells.position[cell]));
  }
  first_cell_.push_back(cells.num_cells());
  token_of_N_ = torch::tensor(torch::ArrayRef<std::int64_t>(token_of_N), torch::kInt64);
  if (!rotates()) return;
  rotation_P_ = rotation_of(torch::arange(positions_, torch::kInt64), width_ / heads_, weights.wte.scalar_type());
  position_of_token_ = torch::arange(2 * positions_, torch::kInt64).div(2, "floor");
  position_of_N_ = token_of_N_.div(2, "floor");
}

CellRows GptCells::rows_of(std::size_t layer) const {
  const auto& input = layer == 0 ? token_of_T_ : cells_.cell_of;
  return {cells_.num_rows(), positions_, heads_, width_ / heads_, first_cell_.data(), cells_.cell_of.data(), input.data()};
}

void GptCells::rotate(const Tensor& qkv_n3C, std::size_t layer, std::int64_t begin, bool back) const {
  const auto n = qkv_n3C.size(0);
  const auto qk = qkv_n3C.view({n, 3, heads_, -1}).slice(1, 0, 2);
  const auto position_n = (layer == 0 ? position_of_token_ : position_of_N_).slice(0, begin, begin + n);
  const auto of_n = [&](const Tensor& of_P) { return of_P.index_select(0, position_n).view({n, 1, 1, -1}); };
  qk.copy_(rotated(qk, {of_n(rotation_P_.cos), of_n(rotation_P_.sin)}, back));
}

// ---- forward

Tensor GptCells::logits() {
  auto x = weights_.wte.repeat({positions_, 1});  // tokens, then cells
  if (!rotates()) x = x + weights_.wpe.slice(0, 0, positions_).repeat_interleave(2, 0);
  kept_.resize(weights_.blocks.size());
  for (std::size_t layer = 0; layer < weights_.blocks.size(); ++layer) {
    const auto& block = weights_.blocks[layer];
    auto& kept = kept_[layer];
    kept.input_MC = x;
    kept.qkv_M3C = queries_keys_values(layer, x);
    attend(layer, kept);
    x = after_attention(block, kept, layer == 0 ? x.index_select(0, token_of_N_) : x);
    if (!keep_) kept = {};
  }
  last_NC_ = x;
  const auto logits_N = torch::empty({x.size(0)}, x.options());
  for_groups(x.size(0), [&](auto begin, auto end) {
    const auto h = normed(x.slice(0, begin, end), weights_.ln_f).output;
    logits_N.slice(0, begin, end).copy_(h.mv(weights_.lm_head.weight[1] - weights_.lm_head.weight[0]));
  });
  return logits_N + (weights_.lm_head.bias[1] - weights_.lm_head.bias[0]);
}

Tensor GptCells::queries_keys_values(std::size_t layer, const Tensor& input_MC) const {
  const auto& block = weights_.blocks[layer];
  const auto qkv_M3C = torch::empty({input_MC.size(0), 3 * width_}, input_MC.options());
  for_groups(input_MC.size(0), [&](auto begin, auto end) {
    const auto qkv = qkv_M3C.slice(0, begin, end);
    linear_out(qkv, normed(input_MC.slice(0, begin, end), block.ln_1).output, block.c_attn);
    if (rotates()) rotate(qkv, layer, begin, /*back=*/false);
  });
  return qkv_M3C;
}

void GptCells::attend(std::size_t layer, Kept& kept) const {
  const auto& qkv = kept.qkv_M3C;
  kept.attended_NC = torch::empty({cells_.num_cells(), width_}, qkv.options());
  kept.log_sum_NH = torch::empty({cells_.num_cells(), heads_}, qkv.options());
  AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "attend_cells", [&] {
    attend_cells(rows_of(layer), qkv.const_data_ptr<scalar_t>(), kept.attended_NC.data_ptr<scalar_t>(), kept.log_sum_NH.data_ptr<scalar_t>(),
                 at::get_num_threads());
  });
}

Tensor GptCells::after_attention(const GptTensors::Block& block, Kept& kept, const Tensor& x_NC) const {
  const auto y_NC = torch::empty_like(x_NC);
  if (keep_) kept.middle_NC = torch::empty_like(x_NC);
  for_groups(x_NC.size(0), [&](auto begin, auto end) {
    const auto x = x_NC.slice(0, begin, end), middle = keep_ ? kept.middle_NC.slice(0, begin, end) : torch::empty_like(x);
    add_linear_out(middle, x, kept.attended_NC.slice(0, begin, end), block.attention_c_proj);
    add_linear_out(y_NC.slice(0, begin, end), middle, at::gelu(affine(normed(middle, block.ln_2).output, block.c_fc)), block.mlp_c_proj);
  });
  return y_NC;
}

// ---- backward

void GptCells::gradient(const Tensor& dlogits_N, const GptTensors& gradient) {
  auto dx = start(dlogits_N, gradient);
  for (auto layer = weights_.blocks.size(); layer-- > 0;) {
    const auto &block = weights_.blocks[layer], &to = gradient.blocks[layer];
    const auto& kept = kept_[layer];
    const auto dattended_NC = attended_gradient(block, to, kept, dx);
    auto dqkv = attention_gradient(layer, dattended_NC);
    if (layer == 0) {
      for (auto* of_cells : {&dx, &dqkv}) *of_cells = sums_by_index(*of_cells, token_of_N_, 2 * positions_);
    }
    input_gradient(layer, to, dqkv, dx);
    kept_[layer] = {};
  }
  const auto dtokens_P2C = dx.view({positions_, 2, width_});
  gradient.wte.add_(dtokens_P2C.sum(0));
  if (!rotates()) gradient.wpe.slice(0, 0, positions_).add_(dtokens_P2C.sum(1));
}

Tensor GptCells::start(const Tensor& dlogits_N, const GptTensors& gradient) const {
  const auto direction = weights_.lm_head.weight[1] - weights_.lm_head.weight[0];
  const auto dx_NC = torch::empty_like(last_NC_);
  const auto sum = dlogits_N.sum();
  gradient.lm_head.bias.add_(torch::stack({-sum, sum}));
  for_groups(last_NC_.size(0), [&](auto begin, auto end) {
    const auto x = last_NC_.slice(0, begin, end), dlogits = dlogits_N.slice(0, begin, end);
    const auto forward = normed(x, weights_.ln_f);
    const auto ddirection = forward.output.t().mv(dlogits);
    gradient.lm_head.weight.add_(torch::stack({-ddirection, ddirection}));
    dx_NC.slice(0, begin, end).copy_(norm_gradient(weights_.ln_f, gradient.ln_f, x, forward, torch::outer(dlogits, direction)));
  });
  return dx_NC;
}

Tensor GptCells::attended_gradient(const GptTensors::Block& block, const GptTensors::Block& gradient, const Kept& kept, Tensor& dx_NC) const {
  const auto dattended_NC = torch::empty_like(dx_NC);
  for_groups(dx_NC.size(0), [&](auto begin, auto end) {
    const auto middle = kept.middle_NC.slice(0, begin, end);
    const auto forward = normed(middle, block.ln_2);
    const auto hidden = affine(forward.output, block.c_fc);
    auto dx = dx_NC.slice(0, begin, end);
    add_linear_gradient(gradient.mlp_c_proj, at::gelu(hidden), dx);
    const auto dhidden = at::gelu_backward(at::mm(dx, block.mlp_c_proj.weight), hidden);
    add_linear_gradient(gradient.c_fc, forward.output, dhidden);
    dx.add_(norm_gradient(block.ln_2, gradient.ln_2, middle, forward, at::mm(dhidden, block.c_fc.weight)));
    add_linear_gradient(gradient.attention_c_proj, kept.attended_NC.slice(0, begin, end), dx);
    auto dattended = dattended_NC.slice(0, begin, end);
    at::mm_out(dattended, dx, block.attention_c_proj.weight);
  });
  return dattended_NC;
}

Tensor GptCells::attention_gradient(std::size_t layer, const Tensor& dattended_NC) const {
  const auto& kept = kept_[layer];
  const auto dqkv_N3C = torch::empty({cells_.num_cells(), 3 * width_}, dattended_NC.options());
  AT_DISPATCH_FLOATING_TYPES(dqkv_N3C.scalar_type(), "attend_cells_backward", [&] {
    attend_cells_backward(rows_of(layer), kept.qkv_M3C.const_data_ptr<scalar_t>(), kept.attended_NC.const_data_ptr<scalar_t>(),
                          kept.log_sum_NH.const_data_ptr<scalar_t>(), dattended_NC.const_data_ptr<scalar_t>(), dqkv_N3C.data_ptr<scalar_t>(),
                          at::get_num_threads());
  });
  return dqkv_N3C;
}

void GptCells::input_gradient(std::size_t layer, const GptTensors::Block& gradient, const Tensor& dqkv_M3C, const Tensor& dx_MC) const {
  const auto& block = weights_.blocks[layer];
  for_groups(dx_MC.size(0), [&](auto begin, auto end) {
    const auto input = kept_[layer].input_MC.slice(0, begin, end), dqkv = dqkv_M3C.slice(0, begin, end);
    if (rotates()) rotate(dqkv, layer, begin, /*back=*/true);
    const auto forward = normed(input, block.ln_1);
    add_linear_gradient(gradient.c_attn, forward.output, dqkv);
    dx_MC.slice(0, begin, end).add_(norm_gradient(block.ln_1, gradient.ln_1, input, forward, at::mm(dqkv, block.c_attn.weight)));
  });
}

}  // namespace mnemo
