#include "models/gpt_cells.h"

#include <torch/torch.h>

#include <algorithm>
#include <array>

namespace mnemo {

using torch::Tensor;

namespace {

constexpr std::int64_t kGroup = 512;  // cells whose activations stay in cache: 4C floats each

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

/// x W^T + b, into `out`.
Tensor linear_out(Tensor out, const Tensor& x, const Affine& layer) { return at::addmm_out(out, layer.bias, x, layer.weight.t()); }

/// Adds to the gradient of a linear layer; returns that of its input x.
Tensor linear_gradient(const Affine& layer, const Affine& gradient, const Tensor& x, const Tensor& doutput) {
  gradient.weight.addmm_(doutput.t(), x);
  gradient.bias.add_(doutput.sum(0));
  return at::mm(doutput, layer.weight);
}

/// Adds row i of the source to row index[i] of the target, in order of i, whatever the number of threads.
void add_rows(const Tensor& target_MC, const Tensor& index_n, const Tensor& source_nC) {
  AT_DISPATCH_FLOATING_TYPES(target_MC.scalar_type(), "add_rows", [&] {
    const auto* index = index_n.const_data_ptr<std::int64_t>();
    const auto* source = source_nC.const_data_ptr<scalar_t>();
    auto* target = target_MC.data_ptr<scalar_t>();
    const auto from = source_nC.stride(0), to = target_MC.stride(0), n = index_n.size(0);
    at::parallel_for(0, source_nC.size(1), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = 0; i < n; ++i) {
        for (auto c = begin; c < end; ++c) target[index[i] * to + c] += source[i * from + c];
      }
    });
  });
}

}  // namespace

GptCells::GptCells(const GptTensors& weights, std::int64_t heads, const Cells& cells, const SequenceTable& table, bool keep)
    : weights_(weights), heads_(heads), width_(weights.wte.size(1)), rows_(cells.num_rows()), positions_(cells.num_positions()), keep_(keep) {
  const auto P = static_cast<std::size_t>(positions_);
  std::vector<std::int64_t> token_of_T, token_of_N, place_N;
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(cells.length));
  for (std::size_t row = 0, cell = 0; row < cells.ranks.size(); ++row) {
    table.unpack({&cells.ranks[row], 1}, bits.data());
    for (std::size_t position = 0; position < P; ++position) token_of_T.push_back(static_cast<std::int64_t>(2 * position + bits[position]));
    first_cell_.push_back(static_cast<std::int64_t>(cell));
    for (; cell < cells.row.size() && cells.row[cell] == static_cast<std::int32_t>(row); ++cell) {
      place_N.push_back(cells.row[cell] * positions_ + cells.position[cell]);
      token_of_N.push_back(token_of_T[static_cast<std::size_t>(place_N.back())]);
    }
  }
  first_cell_.push_back(cells.num_cells());
  const auto indices = [](const std::vector<std::int64_t>& values) { return torch::tensor(torch::ArrayRef<std::int64_t>(values), torch::kInt64); };
  token_of_T_ = indices(token_of_T);
  token_of_N_ = indices(token_of_N);
  place_N_ = indices(place_N);
  cell_of_T_ = indices({cells.cell_of.begin(), cells.cell_of.end()});
  if (!rotates()) return;
  rotation_P_ = rotation_of(torch::arange(positions_, torch::kInt64), width_ / heads_, weights.wte.scalar_type());
  position_of_token_ = torch::arange(2 * positions_, torch::kInt64).div(2, "floor");
  position_of_N_ = token_of_N_.div(2, "floor");
}

void GptCells::rotate(const Tensor& qkv_n3C, std::size_t layer, std::int64_t begin, bool back) const {
  const auto n = qkv_n3C.size(0);
  const auto qk = qkv_n3C.view({n, 3, heads_, -1}).slice(1, 0, 2);
  const auto position_n = (layer == 0 ? position_of_token_ : position_of_N_).slice(0, begin, begin + n);
  const auto of_n = [&](const Tensor& of_P) { return of_P.index_select(0, position_n).view({n, 1, 1, -1}); };
  qk.copy_(rotated(qk, {of_n(rotation_P_.cos), of_n(rotation_P_.sin)}, back));
}

template <class See>
void GptCells::for_rows(const See& see) const {
  const auto group = std::max<std::int64_t>(1, 2 * kGroup / positions_);
  for (std::int64_t first = 0; first < rows_; first += group) see(first, std::min(first + group, rows_));
}

Tensor GptCells::of_rows(const Tensor& qkv_M3C, const Tensor& input_T, std::int64_t first, std::int64_t end) const {
  const auto rows = qkv_M3C.index_select(0, input_T.slice(0, first * positions_, end * positions_));
  return rows.view({end - first, positions_, 3, heads_, -1}).permute({2, 0, 3, 1, 4});
}

Tensor GptCells::places(std::int64_t first, std::int64_t end) const {
  const auto cell = [&](std::int64_t row) { return first_cell_[static_cast<std::size_t>(row)]; };
  return place_N_.slice(0, cell(first), cell(end)) - first * positions_;
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
    attend(kept, inputs_of_rows(layer));
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

void GptCells::attend(Kept& kept, const Tensor& input_T) const {
  kept.attended_NC = torch::empty({place_N_.size(0), width_}, kept.qkv_M3C.options());
  for_rows([&](auto first, auto end) {
    const auto qkv = of_rows(kept.qkv_M3C, input_T, first, end);
    const auto [o_UHPF, log_sum] = at::_scaled_dot_product_flash_attention_for_cpu(qkv[0], qkv[1], qkv[2], 0, /*is_causal=*/true);
    if (keep_) kept.log_sums.push_back(log_sum);
    const auto o_of_rows = o_UHPF.transpose(1, 2).reshape({(end - first) * positions_, width_});
    const auto from = first_cell_[static_cast<std::size_t>(first)], to = first_cell_[static_cast<std::size_t>(end)];
    kept.attended_NC.slice(0, from, to).copy_(o_of_rows.index_select(0, places(first, end)));
  });
}

Tensor GptCells::after_attention(const GptTensors::Block& block, Kept& kept, const Tensor& x_NC) const {
  const auto N = x_NC.size(0);
  const auto y_NC = torch::empty_like(x_NC);
  if (keep_) {
    kept.middle_NC = torch::empty_like(x_NC);
    kept.hidden_ND = torch::empty({N, 4 * width_}, x_NC.options());
  }
  for_groups(N, [&](auto begin, auto end) {
    const auto of = [&](const Tensor& whole, std::int64_t width) {
      return keep_ ? whole.slice(0, begin, end) : torch::empty({end - begin, width}, x_NC.options());
    };
    const auto middle = of(kept.middle_NC, width_), hidden = of(kept.hidden_ND, 4 * width_), y = y_NC.slice(0, begin, end);
    linear_out(middle, kept.attended_NC.slice(0, begin, end), block.attention_c_proj).add_(x_NC.slice(0, begin, end));
    linear_out(hidden, normed(middle, block.ln_2).output, block.c_fc);
    linear_out(y, at::gelu(hidden), block.mlp_c_proj).add_(middle);
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
    const auto dqkv_M3C = attention_gradient(kept, inputs_of_rows(layer), dattended_NC);
    if (layer == 0) {
      const auto dtokens = torch::zeros({2 * positions_, width_}, dx.options());
      add_rows(dtokens, token_of_N_, dx);
      dx = dtokens;
    }
    input_gradient(layer, to, dqkv_M3C, dx);
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
    const auto middle = kept.middle_NC.slice(0, begin, end), hidden = kept.hidden_ND.slice(0, begin, end);
    auto dx = dx_NC.slice(0, begin, end);
    const auto dactive = linear_gradient(block.mlp_c_proj, gradient.mlp_c_proj, at::gelu(hidden), dx);
    const auto forward = normed(middle, block.ln_2);
    const auto dnormed = linear_gradient(block.c_fc, gradient.c_fc, forward.output, at::gelu_backward(dactive, hidden));
    dx.add_(norm_gradient(block.ln_2, gradient.ln_2, middle, forward, dnormed));
    const auto dattended = linear_gradient(block.attention_c_proj, gradient.attention_c_proj, kept.attended_NC.slice(0, begin, end), dx);
    dattended_NC.slice(0, begin, end).copy_(dattended);
  });
  return dattended_NC;
}

Tensor GptCells::attention_gradient(const Kept& kept, const Tensor& input_T, const Tensor& dattended_NC) const {
  const auto dqkv_M3C = torch::zeros_like(kept.qkv_M3C);
  std::size_t group = 0;
  for_rows([&](auto first, auto end) {
    const auto T = (end - first) * positions_;
    const auto input = input_T.slice(0, first * positions_, end * positions_);
    const auto by_head = [&](const Tensor& of_rows) { return of_rows.view({end - first, positions_, heads_, -1}).transpose(1, 2); };
    const auto qkv = of_rows(kept.qkv_M3C, input_T, first, end);
    const auto from = first_cell_[static_cast<std::size_t>(first)], to = first_cell_[static_cast<std::size_t>(end)];
    const auto o = kept.attended_NC.index_select(0, cell_of_T_.slice(0, first * positions_, end * positions_));
    const auto d_o = torch::zeros({T, width_}, o.options()).index_copy_(0, places(first, end), dattended_NC.slice(0, from, to));
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(by_head(d_o), qkv[0], qkv[1], qkv[2], by_head(o),
                                                                                       kept.log_sums[group++], 0, /*is_causal=*/true);
    std::int64_t column = 0;
    for (const auto* d : {&dq, &dk, &dv}) {
      add_rows(dqkv_M3C.slice(1, column, column + width_), input, d->transpose(1, 2).reshape({T, width_}));
      column += width_;
    }
  });
  return dqkv_M3C;
}

void GptCells::input_gradient(std::size_t layer, const GptTensors::Block& gradient, const Tensor& dqkv_M3C, const Tensor& dx_MC) const {
  const auto& block = weights_.blocks[layer];
  for_groups(dx_MC.size(0), [&](auto begin, auto end) {
    const auto input = kept_[layer].input_MC.slice(0, begin, end), dqkv = dqkv_M3C.slice(0, begin, end);
    if (rotates()) rotate(dqkv, layer, begin, /*back=*/true);
    const auto forward = normed(input, block.ln_1);
    const auto dnormed = linear_gradient(block.c_attn, gradient.c_attn, forward.output, dqkv);
    dx_MC.slice(0, begin, end).add_(norm_gradient(block.ln_1, gradient.ln_1, input, forward, dnormed));
  });
}

}  // namespace mnemo
