// Training steps of an associative memory made of its kernels alone follow the same on the CPU in float64: through a switch, a freeze, pauses and a
// replica that diverges.

#include "adam_state.h"
#include "core/batches.h"
#include "core/step_end.h"
#include "models/ops/dam_cuda.h"
#include "models/ops/dam_retrieval.h"
#include "plain_queue.h"

#include <cmath>
#include <memory>
#include <optional>

namespace mnemo {
namespace {

using simt::Device;

constexpr int R = 3, B = 6, L = 7, H = 2, K = 9, M = 16;

template <class Real>
AdamState<Real> fresh_state() {
  AdamState<Real> adam({L * H * L, H * L}, std::vector<std::uint8_t>(R * 2, 0), std::vector<std::uint8_t>(R, 1));
  for (auto* moment : {&adam.first_moment, &adam.second_moment}) std::fill(moment->begin(), moment->end(), Real{0});
  adam.steps_RT.assign(R * 2, 0);
  adam.scalars_R.assign(R, {1e-2, .9, .999, 1e-8, 0});
  adam.scalars_R[2].lr = NAN;
  for (std::size_t r = 0; r < R; ++r) adam.rates_R[r] = {adam.scalars_R[r].lr, 1};  // for the CPU: a constant schedule, nothing clipped
  return adam;
}

const std::vector<float> kEta = {5, 10, 20};

/// What both trainers are told.
struct Step {
  std::vector<std::int32_t> drawn;   // [R, B]
  std::vector<std::uint8_t> active;  // [R]
};

/// In float64, with the forms for the CPU.
class OnCpu {
 public:
  void begin_phase(const std::vector<SequenceTable>& tables, bool clear) {
    tables_.push_back(&tables);
    if (!clear) return;
    for (auto& queue : queues_) queue.slots.clear();
  }
  void freeze(std::size_t replica, std::size_t tensor) { adam_.frozen_RT[replica * 2 + tensor] = 1; }

  std::vector<double> step(const Step& step) {
    std::vector<double> losses(R, 0);
    std::fill(adam_.gradient.begin(), adam_.gradient.end(), 0);
    for (std::size_t r = 0; r < R; ++r) {
      adam_.updates_R[r] = 0;
      if (!step.active[r]) continue;
      const std::span drawn(&step.drawn[r * B], B);
      losses[r] = gradient(r, drawn);
      adam_.updates_R[r] = std::isfinite(losses[r]) && !queues_[r].slots.empty();
      for (std::size_t t = 0; t < 2; ++t) adam_.steps_RT[r * 2 + t] += adam_.updates_R[r] && !adam_.frozen_RT[r * 2 + t];
      for (const auto rank : drawn) queues_[r].push((std::ssize(tables_) - 1) << 32 | rank);
    }
    adam_.step();
    return losses;
  }
  std::vector<std::int64_t> slots(std::size_t replica) const { return queues_[replica].state(); }

 private:
  double gradient(std::size_t r, std::span<const std::int32_t> drawn) {
    std::vector<StoredSequence> stored;
    for (const auto& [id, count] : queues_[r].distinct()) {
      stored.push_back({(*tables_[static_cast<std::size_t>(id >> 32)])[r].row(id & 0xffffffff).data(), count});
    }
    if (stored.empty()) return std::log(2.0);
    const auto& table = (*tables_.back())[r];
    DamRetrieval<double> op({H, L, static_cast<double>(kEta[r])});
    const auto at = [&](auto& values, std::size_t tensor) { return values.data() + adam_.element(r, tensor, 0); };
    return op
        .gradient({at(adam_.parameters, 0), at(adam_.parameters, 1)}, {at(adam_.gradient, 0), at(adam_.gradient, 1)}, stored,
                  cells_of_batch(table, drawn), table)
        .loss;
  }

  AdamState<double> adam_ = fresh_state<double>();
  std::vector<const std::vector<SequenceTable>*> tables_;  // by phase and replica
  std::vector<PlainQueue> queues_ = std::vector<PlainQueue>(R, {M, {}});
};

/// A table in device memory.
struct TableOnDevice {
  Device<std::uint64_t> words;
  Device<std::int32_t> place, order;

  explicit TableOnDevice(const SequenceTable& table)
      : words(words_of(table)), place(places_of(table)), order({table.order().begin(), table.order().end()}) {}
  DeviceTable view() const { return {words, place, order}; }

  static std::vector<std::uint64_t> words_of(const SequenceTable& table) {
    std::vector<std::uint64_t> words;
    for (std::int64_t rank = 0; rank < table.num_sequences(); ++rank) words.insert(words.end(), table.row(rank).begin(), table.row(rank).end());
    return words;
  }
  static std::vector<std::int32_t> places_of(const SequenceTable& table) {
    std::vector<std::int32_t> places;
    for (std::int32_t rank = 0; rank < table.num_sequences(); ++rank) places.push_back(table.place(rank));
    return places;
  }
};

template <class T>
struct Room : Device<T> {
  explicit Room(std::size_t n) : Device<T>(n) {}
};

/// With kernels alone.
class OnDevice {
 public:
  OnDevice() {
    for (int r = 0; r < R; ++r) device_queue_write_cuda(queue(), r, nullptr, nullptr);
  }

  void begin_phase(const std::vector<SequenceTable>& tables, bool clear) {
    const int phase = phases_++;
    for (std::size_t r = 0; r < R; ++r) {
      on_device_.push_back(std::make_unique<TableOnDevice>(tables[r]));
      tables_RF_[r * 2 + product(phase)] = current_R_[r] = on_device_.back()->view();
      first_id_RF_[r * 2 + product(phase)] = clear ? 0 : K;
    }
    tables_.emplace(tables_RF_), current_.emplace(current_R_), first_id_.emplace(first_id_RF_), phase_.emplace(std::vector<std::int32_t>(R, phase));
    for (int r = 0; clear && r < R; ++r) device_queue_write_cuda(queue(), r, nullptr, nullptr);
  }
  void freeze(std::size_t replica, std::size_t tensor) {
    frozen_RT_[replica * 2 + tensor] = 1;
    frozen_.emplace(frozen_RT_);
  }

  std::vector<double> step(const Step& step) {
    const Device<std::int32_t> drawn(step.drawn);
    const Device<std::uint8_t> active(step.active);
    const DeviceCells cells{batch_, num_rows_, first_, bits_, rank_, count_, row_, mass_};
    const DeviceMemory memory{queue_shape_.distinct(), num_, words_, distinct_count_, log_count_};
    auto adam = adam_.buffers();
    adam.frozen = *frozen_;
    device_cells_cuda(cells, drawn, *current_, active, nullptr);
    device_queue_distinct_cuda(queue(), memory, nullptr);
    const auto A = adam.parameters, dA = static_cast<float*>(adam_.gradient);
    const auto B_logits = offset_B_;
    dam_gradient_cuda({shape_, cells, memory, eta_, A, A + B_logits, dA, dA + B_logits, product(static_cast<int>(adam.row_size)), loss_, accuracy_,
                       learns_, dam_work_},
                      nullptr);
    step_end_cuda<float>({adam, loss_, accuracy_, active, learns_, finite_, finite_steps_, loss_sum_, accuracy_sum_, adam_.steps, adam_.updates,
                          step_, step_end_work_},
                         nullptr);
    device_queue_observe_cuda(queue(), drawn, active, nullptr);
    return loss_.host();
  }
  std::vector<std::int64_t> slots(std::size_t replica) {
    const Device<std::int64_t> slots(std::size_t{M});
    device_queue_read_cuda(queue(), static_cast<int>(replica), slots, nullptr);
    return slots.host();
  }
  std::vector<std::int64_t> finite_steps() const { return finite_steps_.host(); }

 private:
  DeviceQueue queue() { return {queue_shape_, *tables_, *first_id_, *phase_, slots_, next_, size_, id_count_, queue_work_}; }

  const DeviceBatchShape batch_{R, B, L};
  const DeviceQueueShape queue_shape_{R, M, 2 * K, 2, 1, B};
  const DamCudaShape shape_{batch_, H, queue_shape_.distinct()};
  const std::size_t N_ = product(R, batch_.capacity()), D_ = product(R, queue_shape_.distinct());
  int phases_ = 0;
  std::vector<std::unique_ptr<TableOnDevice>> on_device_;
  std::vector<DeviceTable> tables_RF_ = std::vector<DeviceTable>(R * 2), current_R_ = std::vector<DeviceTable>(R);
  std::vector<std::int32_t> first_id_RF_ = std::vector<std::int32_t>(R * 2, -1);
  std::vector<std::uint8_t> frozen_RT_ = std::vector<std::uint8_t>(R * 2, 0);
  std::optional<Device<DeviceTable>> tables_{tables_RF_}, current_{current_R_};
  std::optional<Device<std::int32_t>> first_id_{first_id_RF_}, phase_{std::vector<std::int32_t>(R, 0)};
  std::optional<Device<std::uint8_t>> frozen_{frozen_RT_};

  const AdamState<float> fresh_ = fresh_state<float>();
  const DeviceAdam<float> adam_{fresh_};
  const std::size_t offset_B_ = fresh_.element(0, 1, 0);
  const Device<float> eta_{kEta};
  const Device<std::uint8_t> finite_{std::vector<std::uint8_t>(R, 1)};
  const Device<std::int64_t> finite_steps_{std::vector<std::int64_t>(R, 0)}, step_{std::vector<std::int64_t>(1, 0)};
  const Device<double> loss_sum_{std::vector<double>(R, 0)}, accuracy_sum_{std::vector<double>(R, 0)};
  // what a step writes before it reads it
  const Room<double> loss_{R}, accuracy_{R};
  const Room<std::uint8_t> learns_{R}, step_end_work_{step_end_work(adam_.buffers())};
  const Room<unsigned char> dam_work_{dam_cuda_work(shape_)};
  const Room<std::int32_t> num_rows_{R}, first_{product(R, batch_.groups() + 1)}, rank_{R * B}, count_{R * B}, row_{N_}, mass_{2 * N_};
  const Room<std::uint64_t> bits_{R * B}, words_{D_};
  const Room<std::int32_t> slots_{R * M}, next_{R}, size_{R}, id_count_{R * 2 * K}, queue_work_{device_queue_work(queue_shape_)}, num_{R},
      distinct_count_{D_};
  const Room<float> log_count_{D_};
};

class DamTraining : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Switch, DamTraining, ::testing::Bool(), [](const auto& test) { return test.param ? "ClearsTheMemory" : "KeepsTheMemory"; });

TEST_P(DamTraining, FollowsTheCpu) {
  const int steps = simt::kTsan ? 8 : 50;
  std::vector<SequenceTable> phases[2];
  for (std::uint32_t phase = 0; phase < 2; ++phase) {
    for (std::uint32_t r = 0; r < R; ++r) phases[phase].push_back(SequenceTable::random(r, phase, K, L));
  }
  OnCpu cpu;
  OnDevice device;
  const auto both = [&](const auto& body) { body(cpu), body(device); };
  both([&](auto& trainer) { trainer.begin_phase(phases[0], true); });
  simt::Random random;
  for (int step = 0; step < steps; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    if (step == steps / 2) both([&](auto& trainer) { trainer.begin_phase(phases[1], GetParam()); });
    if (step == steps / 3) both([&](auto& trainer) { trainer.freeze(0, 1); });
    Step told{std::vector<std::int32_t>(R * B), std::vector<std::uint8_t>(R, 1)};
    for (auto& rank : told.drawn) rank = random.below(K);
    told.active[1] = step % 5 != 3;
    const auto want = cpu.step(told), got = device.step(told);
    for (std::size_t r = 0; r < R; ++r) {
      const bool empty = step == 0 || (step == steps / 2 && GetParam());
      if (r == 2 && step > 1 && !empty) {
        EXPECT_TRUE(std::isnan(got[r]));
      } else {
        EXPECT_NEAR(got[r], want[r], 1e-5 + 1e-4 * want[r]);
      }
      EXPECT_EQ(device.slots(r), cpu.slots(r));
    }
  }
  const auto finite = device.finite_steps();
  EXPECT_EQ(finite[0], steps);
  EXPECT_EQ(finite[1], steps - (steps + 1) / 5);
  EXPECT_EQ(finite[2], 2);  // its first update spoils it
}

}  // namespace
}  // namespace mnemo
