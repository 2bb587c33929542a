#include "core/device.h"

#include "core/error.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <torch/torch.h>

namespace mnemo {

namespace {

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

}  // namespace

std::string driver_cuda_version() {
  // asked of the driver's own library: it needs no CUDA build, and works where there is no driver at all
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) return {};
  int version = 0;
  const auto ask = reinterpret_cast<int (*)(int*)>(dlsym(library, "cuDriverGetVersion"));
  const bool answered = ask != nullptr && ask(&version) == 0;
  dlclose(library);
  return answered ? version_text(version) : std::string{};
}

std::string libtorch_cuda_version() { return MNEMO_CUDA_VERSION; }

std::string why_no_cuda() {
  if (libtorch_cuda_version().empty()) return MNEMO_CUDA_REASON;
  if (torch::cuda::is_available()) return {};
  const auto driver = driver_cuda_version();
  if (driver.empty()) return "no NVIDIA driver is installed (libcuda.so.1 not found)";
  return fmt::format("the NVIDIA driver (CUDA {}) offers no usable GPU to this LibTorch (CUDA {})", driver,
                     MNEMO_CUDA_VERSION);
}

DeviceChoice choose_device(const std::string& wanted) {
  if (wanted == "cpu") return {torch::kCPU, "as the configuration says"};
  const auto obstacle = why_no_cuda();
  if (wanted == "auto") {
    if (!obstacle.empty()) return {torch::kCPU, obstacle};
    return {torch::Device(torch::kCUDA, 0), fmt::format("the first of {} GPUs", torch::cuda::device_count())};
  }
  if (!obstacle.empty()) throw Error(ExitCode::resources, fmt::format("device {}: {}", wanted, obstacle));
  const torch::Device device(wanted == "cuda" ? "cuda:0" : wanted);
  if (device.index() >= static_cast<int>(torch::cuda::device_count())) {
    throw Error(ExitCode::resources,
                fmt::format("device {}: this machine has {} GPUs", wanted, torch::cuda::device_count()));
  }
  return {device, "as the configuration says"};
}

}  // namespace mnemo
