#include "core/device.h"
#include "core/threads.h"
#include "experiments/commands/commands.h"
#include "revision.h"

#include <fmt/format.h>
#include <torch/torch.h>
#include <torch/version.h>

namespace mnemo {

namespace {

ExitCode print_doctor() {
  const auto or_none = [](const std::string& text) { return text.empty() ? std::string("none") : text; };
  fmt::print("mnemo       {} ({})\n", MNEMO_VERSION, MNEMO_REVISION);
  fmt::print("compiler    GCC {}\n", __VERSION__);
  fmt::print("LibTorch    {}\n", TORCH_VERSION);
  fmt::print("CUDA        built for {}\n", or_none(libtorch_cuda_version()));
  const auto needed =
      libtorch_cuda_version().empty() ? std::string() : fmt::format("; LibTorch needs one for CUDA {} or later", libtorch_cuda_version());
  fmt::print("driver      {}{}\n", driver_cuda_version().empty() ? "none" : "speaks CUDA up to " + driver_cuda_version(), needed);
  const auto quota = cpu_quota();
  fmt::print("CPU         {} cores given to this process{}, LibTorch uses {}\n", affine_cores(),
             quota ? fmt::format(" with a quota of {:.3g}: at most {} threads", *quota, available_cores()) : "", at::get_cpu_capability());
  const auto obstacle = why_no_cuda();
  fmt::print("GPU         {}\n", obstacle.empty() ? fmt::format("{} usable", torch::cuda::device_count()) : "off: " + obstacle);
  const auto device = choose_device("auto").device;
  fmt::print("device auto {}{}\n", device.str(),
             device.is_cpu() ? "" : fmt::format(" where a step takes the CPU more than {:g} ms", kGpuWorthMilliseconds));
  fmt::print("scripts     {}\n", project_folder("scripts"));
  return ExitCode::done;
}

}  // namespace

void add_doctor(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("doctor", "What this build and this machine offer, and why CUDA is off when it is");
  command->footer("Example:\n  mnemo doctor");
  command->callback([&chosen] { chosen = print_doctor; });
}

}  // namespace mnemo
