#include "core/packed_bits.h"

#include <torch/torch.h>

namespace mnemo {

torch::Tensor unpack_bits(const torch::Tensor& words, std::int64_t length) {
  const auto shift = torch::arange(63, -1, -1, words.options());
  return words.unsqueeze(-1).bitwise_right_shift(shift).bitwise_and(1).to(torch::kUInt8).flatten(-2).narrow(-1, 0, length).contiguous();
}

}  // namespace mnemo
