#include "core/threads.h"

#include "support.h"

#include <string>

namespace mnemo {
namespace {

namespace fs = std::filesystem;

/// A root folder with the files that the kernel shows of control groups.
class Root {
 public:
  void file(const std::string& name, std::string_view text) const {
    fs::create_directories((folder_ / name).parent_path());
    test::spill(folder_ / name, text);
  }
  void groups(std::string_view cgroup, std::string_view mountinfo) const {
    file("proc/self/cgroup", cgroup);
    file("proc/self/mountinfo", mountinfo);
  }
  std::optional<double> quota() const { return cpu_quota(folder_.path()); }
  std::int64_t cores() const { return available_cores(folder_.path()); }

 private:
  test::TemporaryDirectory folder_;
};

constexpr std::string_view kV2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
constexpr std::string_view kV1 =
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct\n";

TEST(CpuQuota, NoneWithoutControlGroups) {
  const Root root;
  EXPECT_EQ(root.quota(), std::nullopt);
  EXPECT_EQ(root.cores(), affine_cores());
  EXPECT_GE(affine_cores(), 1);
}

TEST(CpuQuota, V2IsTheLeastOfAllGroupsAround) {
  const Root root;
  root.groups("0::/a/b\n", kV2);
  EXPECT_EQ(root.quota(), std::nullopt);
  root.file("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(root.quota(), std::nullopt);
  root.file("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
  EXPECT_EQ(root.quota(), 1.5);
  EXPECT_EQ(root.cores(), 1);
  root.file("sys/fs/cgroup/a/b/cpu.max", "300000 100000\n");
  EXPECT_EQ(root.quota(), 1.5);
  root.file("sys/fs/cgroup/cpu.max", "25000 50000\n");
  EXPECT_EQ(root.quota(), 0.5);
  EXPECT_EQ(root.cores(), 1);
}

TEST(CpuQuota, V1) {
  const Root root;
  root.groups("7:memory:/other\n3:cpuset:/x\n1:cpu,cpuacct:/job/7\n", kV1);
  root.file("sys/fs/cgroup/cpu,cpuacct/job/7/cpu.cfs_quota_us", "-1\n");
  root.file("sys/fs/cgroup/cpu,cpuacct/job/7/cpu.cfs_period_us", "100000\n");
  root.file("sys/fs/cgroup/cpuset/x/cpu.cfs_quota_us", "1\n");  // of no CPU controller
  EXPECT_EQ(root.quota(), std::nullopt);
  root.file("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "250000\n");
  root.file("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(root.quota(), 2.5);
}

TEST(CpuQuota, OfAContainerThatSeesOnlyItsOwnGroup) {
  const Root root;
  root.file("sys/fs/cgroup/cpu.max", "200000 100000\n");
  for (const std::string group : {"/", "/docker/c1", "/docker/c1/inner", "/../elsewhere"}) {
    root.groups("0::" + group + "\n", "30 23 0:26 /docker/c1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
    EXPECT_EQ(root.quota(), 2) << group;
  }
  EXPECT_EQ(root.cores(), std::min<std::int64_t>(2, affine_cores()));
}

TEST(CpuQuota, NonsenseIsNoQuota) {
  const Root root;
  for (const std::string_view text : {"", "0 100000", "100000 0", "-5 100000", "x y", "nan 1"}) {
    root.groups("0::/\nnonsense\n", kV2);
    root.file("sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(root.quota(), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace mnemo
