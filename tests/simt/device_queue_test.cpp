// The memory's queue on a device against one of the standard library.

#include "models/ops/device_queue.h"

#include "core/sequences.h"
#include "plain_queue.h"
#include "simt_test.h"

#include <cmath>
#include <map>
#include <memory>

namespace mnemo {
namespace {

using simt::Device;

/// Queues on the device, in arrays of exactly their size, beside plain ones. K sequences a phase.
class Queues {
 public:
  Queues(const DeviceQueueShape& s, std::int64_t num_sequences, std::int64_t length)
      : shape(s),
        slots_(product(s.replicas, s.capacity)),
        next_(product(s.replicas)),
        size_(product(s.replicas)),
        count_(product(s.replicas, s.ids)),
        work_(device_queue_work(s)),
        num_(product(s.replicas)),
        distinct_count_(product(s.replicas, s.distinct())),
        log_count_(product(s.replicas, s.distinct())),
        words_(product(s.replicas, s.distinct(), s.words)),
        K_(num_sequences),
        length_(length),
        tables_(product(s.replicas, s.phases)),
        first_id_(product(s.replicas, s.phases), -1),
        phase_(product(s.replicas), -1),
        plain_(product(s.replicas), PlainQueue{product(s.capacity), {}}) {}

  void begin_phase(bool clear) {
    for (int r = 0; r < shape.replicas; ++r) {
      const int phase = ++phase_[product(r)], at = r * shape.phases + phase;
      const auto table = SequenceTable::random(static_cast<std::uint32_t>(r), static_cast<std::uint32_t>(phase), K_, length_);
      std::vector<std::uint64_t> words;
      for (std::int64_t rank = 0; rank < K_; ++rank) words.insert(words.end(), table.row(rank).begin(), table.row(rank).end());
      table_words_.push_back(std::make_unique<Device<std::uint64_t>>(words));
      tables_[product(at)].words_KW = *table_words_.back();
      first_id_[product(at)] = clear ? 0 : first_id_[product(at - 1)] + static_cast<std::int32_t>(K_);
      phase_tables_[{r, phase}] = std::move(words);
      if (clear) {
        device_queue_write_cuda(view(), r, nullptr, nullptr);
        plain_[product(r)].slots.clear();
      }
    }
  }

  void observe(const std::vector<std::int32_t>& drawn, const std::vector<std::uint8_t>& active) {
    device_queue_observe_cuda(view(), Device<std::int32_t>(drawn), Device<std::uint8_t>(active), nullptr);
    for (int r = 0; r < shape.replicas; ++r) {
      for (int b = 0; active[product(r)] && b < shape.batch; ++b) {
        plain_[product(r)].push(std::int64_t{phase_[product(r)]} << 32 | drawn[product(r * shape.batch + b)]);
      }
    }
  }

  /// Saves the device's state, spoils it and loads it again.
  void reload() {
    for (int r = 0; r < shape.replicas; ++r) {
      const Device<std::int64_t> slots(product(shape.capacity));
      device_queue_read_cuda(view(), r, slots, nullptr);
      device_queue_write_cuda(view(), r, nullptr, nullptr);
      device_queue_write_cuda(view(), r, slots, nullptr);
    }
  }

  void expect_equal() {
    const DeviceMemory memory{shape.distinct(), num_, words_, distinct_count_, log_count_};
    device_queue_distinct_cuda(view(), memory, nullptr);
    const auto num = num_.host(), count = distinct_count_.host(), size = size_.host(), next = next_.host();
    const auto words = words_.host();
    const auto log_count = log_count_.host();
    for (int r = 0; r < shape.replicas; ++r) {
      const Device<std::int64_t> slots(product(shape.capacity));
      device_queue_read_cuda(view(), r, slots, nullptr);
      EXPECT_EQ(slots.host(), plain_[product(r)].state());
      EXPECT_EQ(size[product(r)], std::ssize(plain_[product(r)].slots));
      EXPECT_LT(next[product(r)], shape.capacity);
      const auto distinct = plain_[product(r)].distinct();
      ASSERT_EQ(num[product(r)], std::ssize(distinct));
      auto at = product(r, shape.distinct());
      for (const auto& [id, slots_of_id] : distinct) {
        EXPECT_EQ(count[at], slots_of_id);
        EXPECT_NEAR(log_count[at], std::log(slots_of_id), 1e-6);
        const auto& table = phase_tables_.at({r, static_cast<int>(id >> 32)});
        for (int w = 0; w < shape.words; ++w) {
          EXPECT_EQ(words[at * product(shape.words) + product(w)], table[product(static_cast<int>(id & 0xffffffff) * shape.words + w)]);
        }
        ++at;
      }
    }
  }

  const DeviceQueueShape shape;

 private:
  DeviceQueue view() {
    tables_on_device_ = std::make_unique<Device<DeviceTable>>(tables_);
    first_id_on_device_ = std::make_unique<Device<std::int32_t>>(first_id_);
    phase_on_device_ = std::make_unique<Device<std::int32_t>>(phase_);
    return {shape, *tables_on_device_, *first_id_on_device_, *phase_on_device_, slots_, next_, size_, count_, work_};
  }

  Device<std::int32_t> slots_, next_, size_, count_, work_, num_, distinct_count_;
  Device<float> log_count_;
  Device<std::uint64_t> words_;
  std::int64_t K_, length_;
  std::vector<DeviceTable> tables_;
  std::vector<std::int32_t> first_id_, phase_;  // of phases to come: -1
  std::vector<std::unique_ptr<Device<std::uint64_t>>> table_words_;
  std::map<std::pair<int, int>, std::vector<std::uint64_t>> phase_tables_;
  std::unique_ptr<Device<DeviceTable>> tables_on_device_;
  std::unique_ptr<Device<std::int32_t>> first_id_on_device_, phase_on_device_;
  std::vector<PlainQueue> plain_;
};

std::vector<std::int32_t> draws(simt::Random& random, const DeviceQueueShape& shape, int num_sequences) {
  std::vector<std::int32_t> drawn(product(shape.replicas, shape.batch));
  for (auto& rank : drawn) rank = random.below(num_sequences);
  return drawn;
}

/// Steps in which now and then a replica takes no part.
void steps(Queues& queues, simt::Random& random, int count, int num_sequences) {
  for (int step = 0; step < count; ++step) {
    std::vector<std::uint8_t> active(product(queues.shape.replicas), 1);
    if (step % 3 == 1) active[product(step % queues.shape.replicas)] = 0;
    queues.observe(draws(random, queues.shape, num_sequences), active);
    queues.expect_equal();
  }
}

TEST(DeviceQueue, FollowsAPlainQueueOverSwitches) {
  simt::Random random;
  Queues queues({3, 20, 14, 3, 2, 6}, 7, 70);
  queues.begin_phase(true);
  queues.expect_equal();  // empty
  steps(queues, random, 2, 7);
  queues.reload();  // not full
  queues.expect_equal();
  steps(queues, random, 18, 7);
  queues.begin_phase(false);  // slots of two phases
  queues.expect_equal();
  steps(queues, random, 2, 7);
  queues.reload();
  queues.expect_equal();
  steps(queues, random, 10, 7);
  queues.begin_phase(true);
  queues.expect_equal();
  steps(queues, random, 20, 7);
}

TEST(DeviceQueue, OneSlotAndBatchesLongerThanTheQueue) {
  for (const int capacity : {1, 2, 5, 6}) {
    simt::Random random;
    Queues queues({2, capacity, 4, 1, 1, 6}, 4, 9);
    queues.begin_phase(true);
    steps(queues, random, 4, 4);
  }
}

TEST(DeviceQueue, BatchesLongerThanABlock) {
  simt::Random random;
  Queues queues({1, 400, 500, 1, 1, 300}, 500, 20);
  queues.begin_phase(true);
  steps(queues, random, 3, 500);
  queues.reload();
  queues.expect_equal();
}

TEST(DeviceQueue, IdsOfSeveralBlocks) {
  simt::Random random;
  Queues queues({2, 700, 4500, 1, 1, 256}, 4500, 13);
  queues.begin_phase(true);
  steps(queues, random, 4, 4500);
}

TEST(DeviceQueue, NoOrderOfThreadsMatters) {
  simt::in_every_order([] {
    simt::Random random;
    Queues queues({2, 30, 2100, 1, 2, 40}, 2100, 65);
    queues.begin_phase(true);
    steps(queues, random, 2, 5);
    return 0;
  });
}

#ifndef __CUDACC__
TEST(DeviceQueue, AStepIsThreeLaunches) {
  EXPECT_EQ(simt::launched_by([] {
              simt::Random random;
              Queues queues({1, 3, 4, 1, 1, 2}, 4, 9);
              queues.begin_phase(true);
              steps(queues, random, 1, 4);
            }),
            (std::vector<std::string>{"queue_write", "queue_observe", "queue_count", "queue_compact", "queue_read"}));
}
#endif

}  // namespace
}  // namespace mnemo
