#include "core/device.h"

#include "core/error.h"
#include "core/gpu.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <fstream>

namespace mnemo {

namespace {

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

}  // namespace

std::string driver_cuda_version() {
  // asks the driver's library directly, which works in a CPU build and without a driver
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) return {};
  int version = 0;
  const auto ask = reinterpret_cast<int (*)(int*)>(dlsym(library, "cuDriverGetVersion"));
  const bool answered = ask != nullptr && ask(&version) == 0;
  dlclose(library);
  return answered ? version_text(version) : std::string{};
}

std::string libtorch_cuda_version() { return MNEMO_CUDA_VERSION; }

std::string why_no_cuda(int index) {
  if (index < num_gpus()) return why_gpu_refuses(index);
  if (libtorch_cuda_version().empty()) return MNEMO_CUDA_REASON;
  const auto driver = driver_cuda_version();
  if (driver.empty()) return "no NVIDIA driver is installed (libcuda.so.1 not found)";
  return fmt::format("the NVIDIA driver (CUDA {}) offers no usable GPU to this LibTorch (CUDA {})", driver, MNEMO_CUDA_VERSION);
}

DeviceChoice choose_device(const std::string& wanted, double cpu_milliseconds, bool tf32) {
  if (wanted == "cpu") return {torch::kCPU, "as the configuration says"};
  const bool automatic = wanted == "auto";
  const int index = wanted.starts_with("cuda:") ? std::stoi(wanted.substr(5)) : 0;
  if (num_gpus() > 0 && index >= num_gpus()) {
    throw Error(ExitCode::resources, fmt::format("device {}: this machine has {} GPU{}", wanted, num_gpus(), num_gpus() > 1 ? "s" : ""));
  }
  const auto work = fmt::format("a step takes the CPU about {:.2g} ms; a GPU is worth it from {:.2g} on", cpu_milliseconds, kGpuWorthMilliseconds);
  if (automatic && num_gpus() > 0 && cpu_milliseconds < kGpuWorthMilliseconds) return {torch::kCPU, work};
  if (const auto obstacle = why_no_cuda(index); !obstacle.empty()) {
    if (automatic) return {torch::kCPU, obstacle};
    throw Error(ExitCode::resources, fmt::format("device {}: {}", wanted, obstacle));
  }
  const torch::Device device(fmt::format("{}:{}", gpu_type(), index));
  const auto* guard = c10::impl::getDeviceGuardImpl(device.type());
  guard->setDevice(device);
  if (guard->getStream(device) == guard->getDefaultStream(device)) guard->exchangeStream(guard->getStreamFromGlobalPool(device));  // can be recorded
  at::globalContext().setFloat32MatmulPrecision(tf32 ? "high" : "highest");
  at::globalContext().setAllowTF32CuDNN(false);
  return {device, automatic ? work : "as the configuration says"};
}

std::string device_name(torch::Device device) {
  if (!device.is_cpu()) return gpu_name(device.index());
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

bool is_device_error(const std::exception& error) {
  const std::string_view text = error.what();
  const auto says = [&](std::string_view words) { return text.find(words) != text.npos; };
  return dynamic_cast<const c10::AcceleratorError*>(&error) != nullptr || says("CUDA error") || says("CUDA driver error");
}

}  // namespace mnemo
