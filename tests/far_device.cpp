#include "far_device.h"

#include "core/gpu.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Backtrace.h>
#include <torch/library.h>
#include <torch/torch.h>

#include <simt_emulator.h>

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace far {

namespace {

using at::Tensor;

constexpr c10::DeviceIndex kDevices = 2;  // so that a forgotten index shows
thread_local c10::DeviceIndex current = 0;
thread_local int inside_op = 0;  // what the device itself copies is no copy of the program

c10::Device far_device(c10::DeviceIndex index) { return {c10::kPrivateUse1, index}; }

// ---- counters, and planned failures

std::array<std::atomic<std::int64_t>, kKinds> counters{};
std::array<std::atomic<std::int64_t>, kDevices> buffers{};
std::atomic<std::int64_t> ops_until_break = 0;  // 0: never
std::string refusal;
std::vector<std::function<void()>>* recording = nullptr;  // what is done goes into it as well
std::int64_t latest_record = 0;

void pay(Kind kind, std::string_view what) {
  if (inside_op > 0) return;
  TORCH_CHECK(recording == nullptr || kind == op || kind == unordered_sum, "[far] ", kNames[kind], " while a record is made: ", what);
  ++counters[kind];
  static const bool trace = std::getenv("FAR_TRACE") != nullptr;
  if (trace && kind == wait)
    std::fprintf(stderr, "[far] %.*s waits\n%s\n", static_cast<int>(what.size()), what.data(), c10::get_backtrace(1, 24).c_str());
  if (kind == op && ops_until_break > 0 && --ops_until_break == 0) {
    throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, 700, "CUDA error: an illegal memory access was encountered");
  }
}

// ---- memory

/// Far memory, and pinned memory of the host.
class Heap {
 public:
  enum class Place { far, pinned };
  struct Block {
    std::byte* map;
    std::size_t mapped, bytes;
    Place place;
    c10::DeviceIndex device;
    int users = 0;      // far: operations that use it now; pinned: uploads in flight
    bool dead = false;  // pinned: freed while in flight
  };

  std::byte* take(std::size_t bytes, Place place) {
    const auto data = (bytes + kPage - 1) / kPage * kPage, mapped = data + 2 * kPage;
    auto* map = static_cast<std::byte*>(::mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    TORCH_CHECK(map != MAP_FAILED, "[far] out of memory");
    Block block{map, mapped, bytes, place, current};
    const std::lock_guard lock(mutex_);
    if (place == Place::far) {
      auto& memory = memory_[static_cast<std::size_t>(current)];
      memory.taken += bytes;
      memory.most_taken = std::max(memory.most_taken, memory.taken);
    }
    protect(block, PROT_READ | PROT_WRITE);
    std::memset(map + kPage, 0xff, data);
    if (place == Place::far && !opened(block)) protect(block, PROT_NONE);
    auto* begin = map + kPage + data - (bytes + 63) / 64 * 64;  // ends where the guard page begins
    ++buffers[static_cast<std::size_t>(current)];
    blocks_[begin] = block;
    return begin;
  }
  void give(void* begin) {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(static_cast<std::byte*>(begin));
    if (found->second.place == Place::pinned && found->second.users > 0)
      found->second.dead = true;
    else
      drop(found);
  }
  /// Far memory is open from here on for one operation more, while it has any; pinned memory is closed for writing by an upload.
  void use(const void* pointer) {
    const std::lock_guard lock(mutex_);
    auto* block = locate(pointer);
    ++block->users;
    protect(*block, block->place == Place::pinned ? PROT_READ : PROT_READ | PROT_WRITE);
    if (block->place == Place::pinned && ++in_flight_ > kMostInFlight) land_all();  // LibTorch's pinned allocator asks its events at times
  }
  /// All memory of a device is open from here on, until it was closed as often as it was opened.
  void open_all(c10::DeviceIndex device, bool open) {
    const std::lock_guard lock(mutex_);
    auto& opened = memory_[static_cast<std::size_t>(device)].opened;
    opened += open ? 1 : -1;
    if (opened != (open ? 1 : 0)) return;
    for (const auto& [begin, block] : blocks_) {
      if (block.place == Place::far && block.device == device && block.users == 0) protect(block, open ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
  }
  void release(const void* pointer) {
    const std::lock_guard lock(mutex_);
    if (auto* block = locate(pointer); --block->users == 0 && !opened(*block)) protect(*block, PROT_NONE);
  }
  /// The device was waited for: no upload is in flight any more.
  void land() {
    const std::lock_guard lock(mutex_);
    land_all();
  }

  /// The most that a device's tensors have taken so far.
  std::size_t most_taken(c10::DeviceIndex device) const { return memory_[static_cast<std::size_t>(device)].most_taken; }

  bool is(Place place, const void* pointer) {
    const std::lock_guard lock(mutex_);
    const auto* block = locate(pointer);
    return block != nullptr && block->place == place;
  }
  bool is_of(c10::DeviceIndex device, const void* pointer) {
    const std::lock_guard lock(mutex_);
    const auto* block = locate(pointer);
    return block != nullptr && block->place == Place::far && block->device == device;
  }
  /// What lies at an address that the host may not touch; null where it is nothing of ours.
  const char* closed_at(const void* address) {
    const std::lock_guard lock(mutex_);
    for (const auto& [begin, block] : blocks_) {
      if (address < block.map || address >= block.map + block.mapped) continue;
      return locate(address) == nullptr ? "a byte beside a buffer" : block.place == Place::far ? "device memory" : "pinned memory in flight";
    }
    return nullptr;
  }

 private:
  static constexpr std::size_t kPage = 4096, kMostInFlight = 256;
  static void protect(const Block& block, int how) { ::mprotect(block.map + kPage, block.mapped - 2 * kPage, how); }
  Block* locate(const void* pointer) {
    auto after = blocks_.upper_bound(static_cast<std::byte*>(const_cast<void*>(pointer)));
    if (after == blocks_.begin()) return nullptr;
    auto& [begin, block] = *--after;
    return pointer < begin + block.bytes ? &block : nullptr;
  }
  bool opened(const Block& block) const { return memory_[static_cast<std::size_t>(block.device)].opened > 0; }
  void land_all() {
    for (auto next = blocks_.begin(); in_flight_ > 0 && next != blocks_.end();) {
      const auto at = next++;
      if (at->second.place != Place::pinned || at->second.users == 0) continue;
      at->second.users = 0;
      protect(at->second, PROT_READ | PROT_WRITE);
      if (at->second.dead) drop(at);
    }
    in_flight_ = 0;
  }
  void drop(std::map<std::byte*, Block>::iterator at) {
    if (at->second.place == Place::far) memory_[static_cast<std::size_t>(at->second.device)].taken -= at->second.bytes;
    ::munmap(at->second.map, at->second.mapped);
    blocks_.erase(at);
  }
  std::mutex mutex_;
  struct Memory {
    std::size_t taken = 0, most_taken = 0;
    int opened = 0;
  };
  std::map<std::byte*, Block> blocks_;
  std::array<Memory, kDevices> memory_{};
  std::size_t in_flight_ = 0;
};

Heap& heap() {
  static auto* it = new Heap;  // outlives every tensor
  return *it;
}

void wait_for(std::string_view what) {
  if (inside_op > 0) return;
  pay(wait, what);
  heap().land();
}

template <Heap::Place kPlace>
struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(std::size_t bytes) override {
    auto* data = bytes == 0 ? nullptr : heap().take(bytes, kPlace);
    return {data, data, &free, kPlace == Heap::Place::far ? far_device(current) : c10::Device(c10::kCPU)};
  }
  static void free(void* data) {
    if (data != nullptr) heap().give(data);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void*, const void*, std::size_t) const override { TORCH_CHECK(false, "[far] copy_data"); }
};
Allocator<Heap::Place::far> far_allocator;
Allocator<Heap::Place::pinned> pinned_allocator;

/// Far memory of the current device that this scope may use: it plays the device.
class Open {
 public:
  template <class... T>
  explicit Open(const T&... what) {
    (check(address_of(what)), ...);
    (add(address_of(what)), ...);
    ++inside_op;
  }
  ~Open() {
    for (const auto* pointer : pointers_) heap().release(pointer);
    --inside_op;
  }
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;

 private:
  static const void* address_of(const Tensor& tensor) { return tensor.is_privateuseone() && tensor.numel() > 0 ? tensor.const_data_ptr() : nullptr; }
  static const void* address_of(const void* pointer) { return pointer; }
  static void check(const void* pointer) {
    TORCH_CHECK(pointer == nullptr || heap().is_of(current, pointer), "[far] illegal memory access on device ", static_cast<int>(current));
  }
  void add(const void* pointer) {
    if (pointer == nullptr) return;
    heap().use(pointer);
    pointers_.push_back(pointer);
  }
  std::vector<const void*> pointers_;
};

/// The same memory as a tensor of the CPU.
Tensor on_host(const Tensor& t) {
  if (t.is_cpu()) return t;
  return at::from_blob(const_cast<void*>(t.const_data_ptr()), t.sizes(), t.strides(), t.options().device(at::kCPU).requires_grad(false));
}

// ---- ops

using Type = std::optional<c10::ScalarType>;
using Layout = std::optional<c10::Layout>;
using Device = std::optional<c10::Device>;
constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

Tensor empty(c10::IntArrayRef size, Type type, Layout, Device device, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  const c10::DeviceGuard guard(*device);
  return at::detail::empty_generic(size, &far_allocator, kKeys, c10::dtype_or_default(type), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, Type type, Layout, Device device, std::optional<bool>) {
  const c10::DeviceGuard guard(*device);
  return at::detail::empty_strided_generic(size, stride, &far_allocator, kKeys, c10::dtype_or_default(type));
}

const Tensor& resize_(const Tensor& t, c10::IntArrayRef size, std::optional<c10::MemoryFormat>) {
  const auto bytes = at::detail::computeStorageNbytesContiguous(size, t.itemsize(), static_cast<std::size_t>(t.storage_offset()));
  if (auto* storage = t.storage().unsafeGetStorageImpl(); storage->nbytes() < bytes) {
    TORCH_CHECK(storage->nbytes() == 0, "[far] resize_ of a tensor that holds something");
    const c10::DeviceGuard guard(t.device());
    storage->set_data_ptr_noswap(far_allocator.allocate(bytes));
    storage->set_nbytes(bytes);
  }
  t.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return t;
}

Tensor as_strided(const Tensor& t, c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<std::int64_t> offset) {
  return at::native::as_strided_tensorimpl(t, size, stride, offset);
}
Tensor view(const Tensor& t, c10::IntArrayRef size) { return at::native::view(t, size); }
Tensor reshape_alias(const Tensor& t, c10::IntArrayRef size, c10::IntArrayRef stride) { return at::native::_reshape_alias(t, size, stride); }

/// Waits, and converts types, where ATen/native/cuda/Copy.cu does; a download into pinned memory waits too, which that one need not.
Tensor copy_from(const Tensor& self, const Tensor& dst, bool non_blocking) {
  if (!self.is_cpu() && !dst.is_cpu()) {
    TORCH_CHECK(self.device() == dst.device(), "[far] a copy from ", self.device(), " to ", dst.device(), ": was an index forgotten?");
    pay(op, "copy_");
  } else if (self.is_cpu()) {
    const bool pinned = self.numel() > 0 && heap().is(Heap::Place::pinned, self.const_data_ptr());
    pay(pinned ? pinned_upload : pageable_upload, "upload");
    if (pinned && non_blocking) {
      if (self.scalar_type() != dst.scalar_type()) pay(op, "copy_");
      heap().use(self.const_data_ptr());
    } else {
      wait_for("upload");
    }
  } else {
    pay(download, "download");
    wait_for("download");
  }
  const auto copy = [self, dst] {
    const c10::DeviceGuard guard(self.is_cpu() ? dst.device() : self.device());
    const Open open(self, dst);
    on_host(dst).copy_(on_host(self));
  };
  copy();
  if (recording != nullptr && inside_op == 0) recording->push_back(copy);
  return dst;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& dst) {
  if (self.sizes() != dst.sizes()) resize_(dst, self.sizes(), {});
  return copy_from(self, dst, false);
}

c10::Scalar local_scalar_dense(const Tensor& t) {
  pay(download, "item");
  wait_for("item");
  const c10::DeviceGuard guard(t.device());
  const Open open(t);
  return at::native::_local_scalar_dense_cpu(on_host(t));
}

/// Whether an index names a slice more than once. For index_add and scatter_add: (self, dim, index, ...).
bool repeats(const Tensor& index, std::int64_t dim) {
  if (index.numel() == 0) return false;
  const auto along = index.dim() == 1 ? 0 : dim;
  return (std::get<0>(index.cpu().sort(along)).diff(1, along) == 0).any().item<bool>();
}

/// An operation of a record: its results come where they came first.
void do_again(const c10::OperatorHandle& handle, const torch::jit::Stack& inputs, const torch::jit::Stack& outputs) {
  auto stack = inputs;
  at::native::cpu_fallback(handle, &stack, /*error_on_views=*/true);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    TORCH_CHECK(outputs[i].isTensor(), "[far] ", handle.schema().name(), " in a record: only tensors come out of it");
    const auto& to = outputs[i].toTensor();
    const auto& from = stack[i].toTensor();
    if (!to.defined() || to.data_ptr() == from.data_ptr()) continue;  // in place
    const Open open(from, to);
    on_host(to).copy_(on_host(from));
  }
}

void fallback(const c10::OperatorHandle& handle, torch::jit::Stack* stack) {
  const auto& name = handle.schema().name();
  pay(op, name);
  for (const char* waiting : {"aten::nonzero", "aten::masked_select", "aten::unique_dim", "aten::_unique2", "aten::equal"}) {
    if (name == waiting) wait_for(name);
  }
  const auto arguments = torch::jit::last(*stack, handle.schema().arguments().size());
  std::optional<c10::Device> device;
  const auto check = [&](const Tensor& t) {
    if (!t.defined() || (t.is_cpu() && t.dim() == 0)) return;  // a number may come from the host, as on a GPU
    TORCH_CHECK(!device || *device == t.device(), "[far] ", name, ": tensors on ", *device, " and ", t.device());
    device = t.device();
  };
  for (const auto& value : arguments) {
    if (value.isTensor()) check(value.toTensor());
    if (!value.isTensorList()) continue;
    for (const Tensor& t : value.toTensorList()) check(t);
  }
  const torch::jit::Stack inputs(arguments.begin(), arguments.end());
  const Open inside;
  if ((name == "aten::index_add" || name == "aten::scatter_add") && repeats(arguments[2].toTensor(), arguments[1].toInt())) ++counters[unordered_sum];
  at::native::cpu_fallback(handle, stack, /*error_on_views=*/true);
  if (recording == nullptr) return;
  const auto results = torch::jit::last(*stack, handle.schema().returns().size());
  recording->push_back([handle, inputs, outputs = torch::jit::Stack(results.begin(), results.end())] { do_again(handle, inputs, outputs); });
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("resize_", resize_);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar_dense);
  m.impl("native_layer_norm", torch::CppFunction::makeFromBoxedFunction<&fallback>());  // a kernel of its own on a GPU, else composed of others
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

// ---- devices, streams, events: everything runs at once, in order

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kPrivateUse1; }
  c10::Device exchangeDevice(c10::Device d) const override { return far_device(std::exchange(current, d.index())); }
  c10::Device getDevice() const override { return far_device(current); }
  void setDevice(c10::Device d) const override { current = d.index(); }
  void uncheckedSetDevice(c10::Device d) const noexcept override { current = d.index(); }
  c10::Stream getStream(c10::Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d.has_index() ? d : getDevice()); }
  c10::Stream getDefaultStream(c10::Device d) const override { return getStream(d); }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override { return getStream(d); }
  c10::Stream exchangeStream(c10::Stream s) const override { return getStream(s.device()); }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    static int it;
    *event = &it;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeEvent(void*) const override { wait_for("event"); }
  void synchronizeStream(const c10::Stream&) const override { wait_for("stream"); }
  void synchronizeDevice(c10::DeviceIndex) const override { wait_for("device"); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  void setCurrentDevice(c10::DeviceIndex d) const override { current = d; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex d) const override { return std::exchange(current, d); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex d) const override { return std::exchange(current, d); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {  // for torch::manual_seed(), which seeds all devices
    static const auto generator = at::detail::createCPUGenerator();
    return generator;
  }
  bool isPinnedPtr(const void* p) const override { return heap().is(Heap::Place::pinned, p); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
};

/// Says what was touched and from where, then lets the program die. Not safe in a signal handler, but there is nothing left to lose.
void touched(int signal, siginfo_t* info, void*) {
  std::signal(signal, SIG_DFL);
  if (const auto* what = heap().closed_at(info->si_addr))
    std::fprintf(stderr, "[far] the host touched %s\n%s\n", what, c10::get_backtrace(1, 24).c_str());
}

// ---- kernels and records

/// This scope plays a device whose kernel may touch all its memory.
class OpenAll {
 public:
  OpenAll() { heap().open_all(device_, true), ++inside_op; }
  ~OpenAll() { --inside_op, heap().open_all(device_, false); }
  OpenAll(const OpenAll&) = delete;
  OpenAll& operator=(const OpenAll&) = delete;

 private:
  c10::DeviceIndex device_ = current;
};

void launch(const mnemo::simt::Launch& launch, const std::function<void()>& run) {
  TORCH_CHECK(launch.stream == mnemo::gpu_stream(current), "[far] a stream of another device");
  pay(op, launch.kernel);
  const auto kernel = [run] {
    const OpenAll open;
    run();
  };
  kernel();
  if (recording != nullptr) recording->push_back(kernel);
}

class Record final : public mnemo::GpuGraph {
 public:
  explicit Record(const std::function<void()>& work) {
    recording = &steps_;
    try {
      work();
    } catch (...) {
      recording = nullptr;
      throw;
    }
    recording = nullptr;
    latest_record = std::ssize(steps_);
  }
  void replay() override {
    pay(op, "replay");
    const c10::DeviceGuard guard(far_device(device_));
    const at::AutoDispatchBelowADInplaceOrView below_autograd;  // as when it was recorded
    const OpenAll open;
    for (const auto& step : steps_) step();
  }

 private:
  c10::DeviceIndex device_ = current;
  std::vector<std::function<void()>> steps_;
};

const bool registered = [] {
  c10::register_privateuse1_backend("far");
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  c10::SetAllocator(c10::kPrivateUse1, &far_allocator);
  struct sigaction action {};
  action.sa_sigaction = touched;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
  mnemo::simt::around_launch = launch;
  return true;
}();

}  // namespace

Counts counts() {
  Counts now{};
  std::copy(counters.begin(), counters.end(), now.begin());
  return now;
}

std::int64_t buffers_taken(int device) { return buffers[static_cast<std::size_t>(device)]; }

std::int64_t size_of_record() { return latest_record; }

void refuse_kernels(std::string reason) { refusal = std::move(reason); }

void break_at_op(std::int64_t n) { ops_until_break = n; }

}  // namespace far

// ---- in place of mnemo's CUDA sources

namespace mnemo {

std::string gpu_type() { return "far"; }
int num_gpus() { return far::kDevices; }
std::string gpu_name(int index) { return "far device " + std::to_string(index); }
std::string why_gpu_refuses(int) { return far::refusal; }
GpuMemory gpu_memory(int index) {
  constexpr std::size_t kAll = std::size_t{1} << 30;
  const auto taken = far::heap().most_taken(static_cast<c10::DeviceIndex>(index));
  return {kAll - taken, taken};  // as if nothing was ever given back, like LibTorch's cache
}
void* gpu_stream(int index) { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(index) + 1); }

std::unique_ptr<GpuGraph> record_gpu_graph(const std::function<void()>& work) { return std::make_unique<far::Record>(work); }

}  // namespace mnemo
