#include "core/threads.h"

#include "core/signals.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace mnemo {

namespace fs = std::filesystem;

namespace {

/// A mounted hierarchy of control groups that can hold a CPU quota.
struct Hierarchy {
  bool v2;
  fs::path group, folder;  // what is mounted, and where
};

bool lists(const std::string& words, const std::string& word) { return ("," + words + ",").find("," + word + ",") != std::string::npos; }

/// A line of mountinfo: id, parent, device, mounted folder, mount point, options, optional fields, "-", type, source,
/// options of the type.
std::vector<Hierarchy> hierarchies(const fs::path& root) {
  std::vector<Hierarchy> found;
  std::ifstream mounts(root / "proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const auto separator = line.find(" - ");
    if (separator == line.npos) continue;
    std::istringstream before(line.substr(0, separator)), after(line.substr(separator + 3));
    std::string ignored, group, folder, type, options;
    before >> ignored >> ignored >> ignored >> group >> folder;
    after >> type >> ignored >> options;
    if (type == "cgroup2" || (type == "cgroup" && lists(options, "cpu")))
      found.push_back({type == "cgroup2", group, root / fs::path(folder).relative_path()});
  }
  return found;
}

/// The quota of the group in this folder, in cores.
std::optional<double> quota_in(const fs::path& folder, bool v2) {
  double quota = 0, period = 0;
  if (v2) {
    std::ifstream(folder / "cpu.max") >> quota >> period;  // "max 100000" if there is none
  } else {
    std::ifstream(folder / "cpu.cfs_quota_us") >> quota;  // -1 if there is none
    std::ifstream(folder / "cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? std::optional(quota / period) : std::nullopt;
}

}  // namespace

std::optional<double> cpu_quota(const fs::path& root) {
  std::optional<double> least;
  const auto mounted = hierarchies(root);
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // number:controllers:/group, without controllers for v2
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const auto controllers = line.substr(first + 1, second - first - 1);
    const fs::path group = line.substr(second + 1);
    for (const auto& hierarchy : mounted) {
      if (hierarchy.v2 ? !controllers.empty() : !lists(controllers, "cpu")) continue;
      // in a container only a part of the hierarchy may be mounted, and the group may lie outside of it
      auto below = group.lexically_relative(hierarchy.group);
      if (below.empty() || *below.begin() == "..") below = ".";
      for (auto folder = (hierarchy.folder / below).lexically_normal();; folder = folder.parent_path()) {
        if (!folder.has_filename()) folder = folder.parent_path();
        if (const auto quota = quota_in(folder, hierarchy.v2)) least = std::min(least.value_or(*quota), *quota);
        if (folder == hierarchy.folder || folder == folder.parent_path()) break;
      }
    }
  }
  return least;
}

std::int64_t affine_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

std::int64_t available_cores(const fs::path& root) {
  const auto cores = affine_cores();
  const auto quota = cpu_quota(root);
  return quota ? std::clamp(static_cast<std::int64_t>(std::min(*quota, 1e6)), std::int64_t{1}, cores) : cores;
}

void wait_without_spinning(std::int64_t threads) {
  if (threads < 2 || std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr || stop_signalled()) return;
  std::error_code unknown;
  const auto program = fs::read_symlink("/proc/self/exe", unknown);
  std::ifstream line("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(line, word, '\0');) words.push_back(word);
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  setenv("OMP_WAIT_POLICY", "passive", 1);
  if (!unknown && !words.empty()) execv(program.c_str(), argv.data());  // returns only on failure: then threads spin
}

}  // namespace mnemo
