#pragma once

namespace mnemo {

// Of an associative memory, on the CPU and on a GPU (MATHS 4). C++17.
inline constexpr double kDamLogitLimit = 13.815509557963774;  ///< logit of 1 - 1e-6
inline constexpr double kDamMaxLoss = 100;                    ///< nats

}  // namespace mnemo
