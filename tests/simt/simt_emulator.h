#pragma once

// The threads of a launch as fibers of the calling thread, a block at a time; x86-64, GCC. core/simt.h gives them CUDA's names. Under TSan every
// fiber is a thread of its own, ordered by barriers, __syncwarp and __threadfence alone.

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/tsan_interface.h>

#ifndef __x86_64__
#error "simt: the switch of stacks is written for x86-64 alone"
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern "C" {  // TSan's
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace mnemo::simt {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAsan = true, kTsan = false;
#elif defined(__SANITIZE_THREAD__)
inline constexpr bool kAsan = false, kTsan = true;
#else
inline constexpr bool kAsan = false, kTsan = false;
#endif
inline constexpr std::size_t kStack = 64 << 10;  // bytes a thread

/// Which block, and which of the threads that can go on, goes first (random: drawn anew at every barrier). A thread
/// runs until it has to wait. Results that differ between the orders: a synchronisation is missing.
enum class Order { forward, backward, random };
inline Order order = Order::forward;
inline unsigned seed = 0;
inline std::size_t max_shared = 227 << 10;  // bytes a block on sm_90; sm_80: 163 << 10
inline std::uint64_t turns = 0;             // how often a thread was taken up

/// A launch or a kernel does what no GPU allows; the message says where.
struct Fault : std::logic_error {
  using std::logic_error::logic_error;
};

struct Launch {
  std::string_view kernel;  ///< its name
  void* stream;
  dim3 grid, block;
  std::size_t shared;  ///< bytes of dynamic shared memory
};
/// Called for every launch, to call `run`, which runs the kernel, as often as it is called: lets a test count launches, open the memory that kernels
/// alone may use, or record them.
inline std::function<void(const Launch& launch, const std::function<void()>& run)> around_launch = [](const Launch&, const auto& run) { run(); };

/// Hides the emulator's own reads and writes from TSan.
struct Quiet {
  Quiet() {
    if constexpr (kTsan) AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0);
  }
  ~Quiet() {
    if constexpr (kTsan) AnnotateIgnoreWritesEnd("", 0), AnnotateIgnoreReadsEnd("", 0);
  }
};

using Site = std::source_location;
enum class State { ready, at_barrier, at_warp, done };

struct Fiber {
  std::unique_ptr<char[]> stack;
  void* id = nullptr;  // TSan's
};

struct Thread {
  dim3 index;
  unsigned rank = 0, place = 0;  // in the block; in the order of running
  State state = State::at_barrier;
  Site at;                      // where it waits;
  unsigned mask = 0;            // at_warp: for which lanes,
  const void* shown = nullptr;  // what it shows them,
  std::function<void()> take;   // how it takes its result once all have come,
  bool fence = false;           // and whether that orders memory

  std::vector<std::vector<std::function<void()>>> copies{1};  // cp.async in flight; the last group is open

  Fiber fiber;
  void** top = nullptr;  // of the stack while it waits
  const void* bottom = nullptr;
  std::size_t size = kStack;
  void* fake_stack = nullptr;  // ASan's
};

/// Saves on one stack what the ABI lets a caller rely on, and loads it from the other.
[[gnu::naked, gnu::noipa, gnu::no_sanitize("address", "thread", "undefined")]] inline void swap_stacks([[maybe_unused]] void*** save,
                                                                                                       [[maybe_unused]] void** load) {
  asm("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; mov %rsp, (%rdi); mov %rsi, %rsp;"
      "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}

inline std::string text(dim3 d) { return std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z); }
inline std::string text(Site at) { return std::string(at.file_name()) + ":" + std::to_string(at.line()); }

[[gnu::no_sanitize("thread")]] inline void become(const Thread& thread) {
  if constexpr (kTsan) __tsan_switch_to_fiber(thread.fiber.id, __tsan_switch_to_fiber_no_sync);
}

inline void jump(Thread& from, Thread& to) {
  const auto fake_stack = from.state == State::done ? nullptr : &from.fake_stack;
  if constexpr (kAsan) __sanitizer_start_switch_fiber(fake_stack, to.bottom, to.size);
  become(to);
  swap_stacks(&from.top, to.top);
  if constexpr (kAsan) __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
}

/// Fresh memory as a kernel may find it: every byte 0xff (NaN, -1).
inline std::unique_ptr<unsigned char[]> poisoned(std::size_t size) {
  std::unique_ptr<unsigned char[]> memory(new unsigned char[size]);
  std::memset(memory.get(), 0xff, size);
  return memory;
}

class Block;
inline thread_local Block* the_block = nullptr;
/// Fibers at rest. Two threads of one fiber are one thread to TSan, so there a launch takes another for each (`spent`
/// have been) until their number makes its clocks slow.
inline thread_local std::vector<Fiber> spare, spent;
inline constexpr std::size_t kTsanFibers = 1024;
inline char launching, launched, fences;  // tags: TSan tells synchronisations apart by address

class Block {
 public:
  Block(dim3 grid_, dim3 index_, dim3 size_, std::size_t dynamic_size)
      : grid(grid_), index(index_), size(size_), dynamic(poisoned(dynamic_size)), shared_size_(dynamic_size) {}
  Block(const Block&) = delete;
  ~Block() {
    the_block = nullptr;
    if constexpr (!kTsan) return;
    for (const auto& t : threads) become(t), __tsan_release(&launched), become(host_);
  }
  const dim3 grid, index, size;
  const std::unique_ptr<unsigned char[]> dynamic;
  std::vector<Thread> threads;
  Thread* running = nullptr;

  template <class T>
  T& shared(const void* key) {
    const Quiet quiet;
    auto& memory = static_[key];
    if (!memory) {
      static_size_ += sizeof(T), shared_size_ += sizeof(T);
      if (static_size_ > 48 << 10 || shared_size_ > max_shared) fail("has too much shared memory");
      memory = poisoned(sizeof(T));
    }
    return *reinterpret_cast<T*>(memory.get());
  }

  void wait(State state, Site at) {
    running->state = state, running->at = at;
    jump(*running, host_);
  }

  [[noreturn]] void fail(std::string what, Site at = {}) const {
    if (running) what = ", thread " + text(running->index) + " " + what;
    if (at.line() != 0) what += " at " + text(at);
    throw Fault("simt: block " + text(index) + what);
  }

  void run(const std::function<void()>& body) {
    const auto n = size.x * size.y * size.z;
    body_ = &body, threads.resize(n);
    if constexpr (kTsan) host_.fiber.id = __tsan_get_current_fiber();
    for (unsigned r = 0; r < n; ++r) {
      threads[r].rank = r, threads[r].index = {r % size.x, r / size.x % size.y, r / (size.x * size.y)};
      line_.push_back(&threads[r]);
      start(threads[r]);
    }
    if (order == Order::backward) std::reverse(line_.begin(), line_.end());
    for (auto left = n; left > 0;) {
      if (ready_.empty()) leave_barrier();
      auto& t = *(running = line_[ready_.top()]);
      ready_.pop(), ++turns;
      jump(host_, t);
      if (error_) std::rethrow_exception(error_);
      if (t.state == State::at_warp) leave_warp(t);
      if (t.state == State::done) finish(t), --left;
    }
  }

 private:
  static void entry() {
    auto& b = *the_block;
    if constexpr (kAsan) __sanitizer_finish_switch_fiber(nullptr, &b.host_.bottom, &b.host_.size);
    try {
      (*b.body_)();
      for (const auto& group : b.running->copies) {
        if (!group.empty()) b.fail("ends with a copy in flight");
      }
    } catch (...) {
      b.error_ = std::current_exception();
    }
    b.running->state = State::done;
    jump(*b.running, b.host_);
  }

  void start(Thread& t) {
    if (spent.size() >= kTsanFibers) spare.swap(spent);
    if (spare.empty()) {
      spare.push_back({std::unique_ptr<char[]>(new char[kStack])});
      if constexpr (kTsan) spare.back().id = __tsan_create_fiber(0);
    }
    t.fiber = std::move(spare.back()), spare.pop_back();
    if constexpr (kTsan) become(t), __tsan_acquire(&launching), become(host_);
    char* const stack = t.fiber.stack.get();
    if constexpr (kAsan) __asan_unpoison_memory_region(stack + kStack - 1024, 1024);  // entry() never returned
    std::memset(stack, 0x5a, 64);                                                     // finish() looks at it
    t.bottom = stack;
    t.top = reinterpret_cast<void**>(stack + kStack) - 8;  // six registers, where to go, where from
    std::fill(t.top, t.top + 8, nullptr);
    t.top[6] = reinterpret_cast<void*>(&entry);
  }

  void finish(Thread& t) {
    const char* const stack = t.fiber.stack.get();
    if (std::count(stack, stack + 64, 0x5a) != 64) fail("needs more stack: raise kStack");
    (kTsan ? spent : spare).push_back(std::move(t.fiber));
  }

  /// Nobody can go on: all that have not ended stand at one and the same barrier, or it is a fault.
  void leave_barrier() {
    if (order == Order::random) std::shuffle(line_.begin(), line_.end(), random_);
    std::vector<Thread*> waiting;
    for (unsigned p = 0; p < line_.size(); ++p) {
      auto& t = *line_[p];
      t.place = p;
      if (t.state == State::done) continue;
      waiting.push_back(running = &t);
      if (t.state != State::at_barrier || t.at.line() != waiting[0]->at.line()) fail("waits for ever" + who_waits());
    }
    let_go(waiting, true);
  }

  /// Lets the lanes of a collective go if `last` was the last to join it.
  void leave_warp(const Thread& last) {
    const unsigned first = last.rank / 32 * 32, step = order == Order::backward ? 31 : 1;
    for (unsigned i = 1; i < 32; ++i) {  // from the one that is next to run
      const unsigned lane = (last.rank + i * step) % 32;
      if (!(last.mask >> lane & 1)) continue;
      if (first + lane >= threads.size()) fail("waits for a lane that does not exist", last.at);
      const auto& t = threads[first + lane];
      if (t.state != State::at_warp || t.mask != last.mask || t.at.line() != last.at.line()) return;
    }
    std::vector<Thread*> lanes;
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (last.mask >> lane & 1) lanes.push_back(&threads[first + lane]);
    }
    for (auto* t : lanes) running = t, t->take();
    let_go(lanes, last.fence);
  }

  void let_go(const std::vector<Thread*>& those, bool fence) {
    if (kTsan && fence) {  // what each of them did so far comes before what any of them does from now on
      const auto tag = std::make_unique<char>();
      for (const auto* t : those) become(*t), __tsan_release(tag.get());
      for (const auto* t : those) become(*t), __tsan_acquire(tag.get());
      become(host_);
    }
    for (auto* t : those) t->state = State::ready, ready_.push(t->place);
  }

  std::string who_waits() const {
    std::map<std::string, int> counts;
    for (const auto& t : threads) {
      const auto mask = t.state == State::at_warp ? ", mask " + std::to_string(t.mask) : "";
      ++counts[t.state == State::done ? "have ended" : "at " + text(t.at) + mask];
    }
    std::string all;
    for (const auto& [where, count] : counts) all += "; " + std::to_string(count) + " threads " + where;
    return all;
  }

  std::size_t shared_size_, static_size_ = 0;
  std::map<const void*, std::unique_ptr<unsigned char[]>> static_;
  const std::function<void()>* body_ = nullptr;
  std::vector<Thread*> line_;                                                   // by place
  std::priority_queue<unsigned, std::vector<unsigned>, std::greater<>> ready_;  // places
  std::mt19937 random_{seed};
  Thread host_;
  std::exception_ptr error_;
};

inline Block& block() {
  if (!the_block) throw Fault("simt: device code outside a kernel");
  return *the_block;
}

/// What the lanes of `mask` show one another: each gets its read(of), where of(lane) is what that lane shows.
template <bool fence = false, class T, class Read>
auto collective(unsigned mask, const T& mine, Site at, const Read& read) {
  const Quiet quiet;
  auto& b = block();
  auto& me = *b.running;
  if (!(mask >> me.rank % 32 & 1)) b.fail("is outside its own mask", at);
  const auto of = [&](int lane) -> const T& {
    if (lane < 0 || lane > 31 || !(mask >> lane & 1)) b.fail("reads a lane outside its mask", at);
    return *static_cast<const T*>(b.threads[me.rank / 32 * 32 + unsigned(lane)].shown);
  };
  std::decay_t<decltype(read(of))> result;
  const auto take = [&] { result = read(of); };
  me.mask = mask, me.shown = &mine, me.take = std::cref(take), me.fence = fence;
  b.wait(State::at_warp, at);
  return result;
}

/// Runs body() once for each thread of the grid. Throws Fault.
inline void run_grid(dim3 grid, dim3 size, std::size_t shared, const std::function<void()>& body) {
  const auto within = [](dim3 d, unsigned x, unsigned y, unsigned z) { return d.x && d.y && d.z && d.x <= x && d.y <= y && d.z <= z; };
  if (!within(grid, 0x7fffffff, 65535, 65535) || !within(size, 1024, 1024, 64) || size.x * size.y * size.z > 1024 || shared > max_shared) {
    throw Fault("simt: no GPU takes this launch");
  }
  const Quiet quiet;
  if constexpr (kTsan) __tsan_release(&launching);
  std::vector<dim3> blocks;
  for (std::size_t b = 0; b < std::size_t{grid.x} * grid.y * grid.z; ++b) {
    blocks.emplace_back(unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y));
  }
  if (order == Order::backward) std::reverse(blocks.begin(), blocks.end());
  if (order == Order::random) std::shuffle(blocks.begin(), blocks.end(), std::mt19937(seed));
  const std::shared_ptr<void> landing(nullptr, [](void*) {
    if constexpr (kTsan) __tsan_acquire(&launched);
    std::move(spent.begin(), spent.end(), std::back_inserter(spare)), spent.clear();
  });
  for (const auto& index : blocks) {
    Block block(grid, index, size, shared);
    the_block = &block;
    block.run(body);
  }
}

}  // namespace mnemo::simt
