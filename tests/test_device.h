#pragma once

#include "core/device.h"

#include <cstdlib>
#include <string>

namespace mnemo {

/// Where tests of numbers compute, as a configuration names it: MNEMO_TEST_DEVICE, else the CPU.
inline std::string test_device_name() {
  const auto* name = std::getenv("MNEMO_TEST_DEVICE");
  return name != nullptr ? name : "cpu";
}
inline torch::Device test_device() {
  static const auto device = choose_device(test_device_name()).device;
  return device;
}

}  // namespace mnemo
