#include "experiments/run/run.h"

#include "core/error.h"
#include "core/log.h"
#include "experiments/directory/run_json.h"
#include "experiments/run/attention_measures.h"
#include "experiments/record/notebook_pickle.h"
#include "revision.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <functional>
#include <numeric>

namespace mnemo {

using nlohmann::json;
using torch::Tensor;
using std::chrono::steady_clock;

namespace {

constexpr std::int64_t kTopRanks = 10;  // what the progress line shows
constexpr const char* kMemory = "memory";            // in files of weights
constexpr const char* kQueue = "model_state.queue";  // in checkpoints
constexpr double kTimingSeconds = 5;    // between lines of timing.jsonl

double seconds_since(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

std::string utc_now() {
  const auto now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case torch::kFloat32: return Dtype::f32;
    case torch::kFloat64: return Dtype::f64;
    case torch::kInt64: return Dtype::i64;
    case torch::kUInt8: return Dtype::u8;
    default: throw std::logic_error("[checkpoint] no container type for this tensor");
  }
}

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// Contiguous CPU copies where needed (kept alive by `owners`), as views for a container.
std::vector<std::pair<std::string, ArrayView>> views_of(const NamedTensors& tensors, std::vector<Tensor>& owners) {
  std::vector<std::pair<std::string, ArrayView>> views;
  for (const auto& [name, tensor] : tensors) {
    owners.push_back(tensor.detach().cpu().contiguous());
    const auto& held = owners.back();
    views.emplace_back(name, ArrayView{dtype_of(held), held.sizes().vec(), static_cast<const std::byte*>(held.data_ptr())});
  }
  return views;
}

/// Copies a tensor of a file into `target`. Throws Error{data} unless type and shape agree.
void copy_from(const Safetensors& file, const std::string& name, const Tensor& target) {
  torch::NoGradGuard no_grad;
  const auto& source = file.at(name);
  if (source.dtype != dtype_of(target) || source.shape != target.sizes().vec()) {
    throw Error(ExitCode::data, fmt::format("{}: tensor '{}' has another type or shape than this model's", file.path().string(), name));
  }
  target.copy_(torch::from_blob(const_cast<std::byte*>(source.data), source.shape, target.options().device(torch::kCPU).requires_grad(false)));
}

Tensor int64_tensor(const std::vector<std::int64_t>& values) { return torch::tensor(torch::ArrayRef<std::int64_t>(values), torch::kInt64); }

std::vector<std::int64_t> int64_values(const Safetensors& file, const std::string& name, std::int64_t size = -1) {
  const auto values = file.get<std::int64_t>(name, size);
  return {values.begin(), values.end()};
}

std::string digest_of_weights(const RankSampler& sampler, const std::vector<std::int64_t>& rows) {
  const auto& probabilities = sampler.probabilities();
  return hash_of(hash_of({reinterpret_cast<const char*>(probabilities.data()), probabilities.size() * sizeof(double)}) +
                 hash_of({reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(std::int64_t)}));
}

std::string marks_text(const FileMarks& marks) {
  json list = json::array();
  for (const auto& [path, mark] : marks) list.push_back({{"path", path}, {"size", mark.size}, {"xxh3", mark.hash}});
  return list.dump();
}

FileMarks marks_from(const Safetensors& file) {
  FileMarks marks;
  for (const auto& entry : json::parse(file.metadata().at("files"))) {
    marks[entry.at("path")] = {entry.at("size").get<std::int64_t>(), entry.at("xxh3").get<std::string>()};
  }
  return marks;
}

}  // namespace

// ---- data and model of a configuration

SequenceTable first_table(const RunConfig& config, const Poll& poll) {
  const auto& data = config.data;
  if (!data.file) return SequenceTable::random(data_seed(config), 0, data.num_sequences, data.length, poll);
  try {
    return SequenceTable::from_array(read_npy(*data.file).view(), data_rows(config), poll);
  } catch (const std::invalid_argument& error) {
    throw Error(ExitCode::data, fmt::format("{}: {}", *data.file, error.what()));
  }
}

SequenceTable table_of_phase(const RunConfig& config, std::int64_t phase, const Poll& poll) {
  if (phase == 0) return first_table(config, poll);
  return SequenceTable::random(data_seed(config), static_cast<std::uint32_t>(phase), config.data.num_sequences, config.data.length, poll);
}

namespace {

/// In the order of the file's rows.
std::vector<double> own_weights(const DataConfig& data) {
  const auto array = read_npy(*data.weights);
  std::vector<double> weights;
  const auto take = [&]<class T>() {
    for (const auto value : array.view().as<T>()) weights.push_back(static_cast<double>(value));
  };
  switch (array.dtype) {
    case Dtype::u8: take.template operator()<std::uint8_t>(); break;
    case Dtype::i32: take.template operator()<std::int32_t>(); break;
    case Dtype::i64: take.template operator()<std::int64_t>(); break;
    case Dtype::f32: take.template operator()<float>(); break;
    case Dtype::f64: take.template operator()<double>(); break;
  }
  double total = 0;
  for (std::size_t rank = 0; rank < weights.size(); ++rank) {
    if (!std::isfinite(weights[rank]) || weights[rank] < 0) {
      throw Error(ExitCode::data, fmt::format("{}: weight {} of row {} is no probability", *data.weights, weights[rank], rank));
    }
    total += weights[rank];
  }
  if (!(total > 0) || !std::isfinite(total)) throw Error(ExitCode::data, fmt::format("{}: the weights sum to {}", *data.weights, total));
  return weights;
}

}  // namespace

std::vector<std::int64_t> data_rows(const RunConfig& config) {
  if (!config.data.weights) return {};
  const auto weights = own_weights(config.data);
  std::vector<std::int64_t> rows(weights.size());
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(), [&](auto a, auto b) { return weights[static_cast<std::size_t>(a)] > weights[static_cast<std::size_t>(b)]; });
  return rows;
}

RankSampler sampler_of(const RunConfig& config) {
  const auto& data = config.data;
  if (!data.weights) return RankSampler::zipf(data.num_sequences, data.zipf_exponent);
  auto weights = own_weights(data);
  std::sort(weights.begin(), weights.end(), std::greater<>());  // by rank, as data_rows() has them
  return RankSampler(weights);
}

void check_ranks(const fs::path& run_directory, const RunConfig& config) {
  const auto rows = data_rows(config);
  if (rows.empty()) return;
  const auto path = run_directory / "data_rows.npy";
  std::error_code unknown;
  bool same = std::is_sorted(rows.begin(), rows.end());  // without the file: made when a rank was always its row
  if (fs::exists(path, unknown)) {
    const auto written = read_npy(path);
    same = written.dtype == Dtype::i64 && std::ranges::equal(written.view().as<std::int64_t>(), rows);
  }
  if (same) return;
  throw Error(ExitCode::data, fmt::format("{}: its ranks are not those that {} gives now: the weights have changed since, or the run was made "
                                          "when a rank was its row. Train it again", run_directory.string(), *config.data.weights));
}

Theory theory_of(const RunConfig& config, const SequenceTable& table, const RankSampler& sampler, const Poll& poll) {
  const auto bins = config.eval.by_position ? rank_bins(table.num_sequences()) : std::vector<RankBin>{};
  const auto facts = facts_of(config);
  return bayes(table, sampler.probabilities(), facts.first_position, facts.task == Task::sequences, bins, poll);
}

AdamScalars scalars_of(const TrainConfig& train) { return {train.lr, train.betas[0], train.betas[1], train.eps, train.weight_decay}; }

void load_weights(Model& model, const Safetensors& file, const std::vector<std::string>& params) {
  const auto& parameters = model.parameters;
  for (const auto i : matching_parameters(parameters.specs(), params)) {
    copy_from(file, parameters.specs()[i].name, parameters.leaf(i).detach().select(0, 0));
  }
}

void load_memory(Model& model, const Safetensors& file) {
  auto* memory = model.memory();
  if (memory == nullptr) return;
  const auto& stored = file.at(kMemory);
  const auto bits = torch::empty({stored.shape.empty() ? 0 : stored.shape[0], memory->bits(0).size(1)}, torch::kUInt8);
  copy_from(file, kMemory, bits);
  memory->set_bits(0, bits);
}

void write_weights(const fs::path& path, Model& model, const std::map<std::string, std::string>& metadata) {
  NamedTensors tensors;
  for (std::size_t i = 0; i < model.parameters.specs().size(); ++i) {
    tensors.emplace_back(model.parameters.specs()[i].name, model.parameters.leaf(i).select(0, 0));
  }
  if (auto* memory = model.memory()) tensors.emplace_back(kMemory, memory->bits(0));
  std::vector<Tensor> owners;
  write_safetensors(path, views_of(tensors, owners), metadata);
}

// ---- Run

Run::Run(RunConfig config, fs::path directory, RunOptions options, Pack& pack, std::int64_t row)
    : config_(std::move(config)), options_(std::move(options)), directory_(std::move(directory)),
      checkpoints_(directory_.file("checkpoints"), config_.output.keep), data_rows_(data_rows(config_)), pack_(pack), row_(row) {
  if (config_.eval.novel > 0) novel_ = SequenceTable::novel(data_seed(config_), config_.eval.novel, config_.data.length);
  started_ = utc_now();
  started_at_ = checkpointed_at_ = timed_at_ = steady_clock::now();
}

Run::~Run() = default;

bool Run::open(const std::optional<RunConfig>& previous) {
  try {
    prepare(previous);
    return true;
  } catch (const Interrupted&) {
    log_info("stopped before the first step");
    status_->progress(point_.step, last_loss_);
    status_->state("stopped");
    return false;
  }
}

void Run::prepare(const std::optional<RunConfig>& previous) {
  const auto old_steps = previous ? previous->train.steps : config_.train.steps;
  // a run that grows goes on from its old end with no end action done
  const bool grows = old_steps != config_.train.steps;
  const auto wanted = [&](RunPoint point) { return !(grows && point.step >= old_steps && point.actions > 0); };
  // says `running` before any file goes back to a checkpoint: a run that was done must not seem so when it is killed on the way
  const auto begin_status = [&](std::int64_t step, double loss) {
    if (!status_) status_ = std::make_unique<StatusFile>(directory_.file("status.json"), config_.train.steps, step, loss);
    status_->progress(step, loss);
  };
  const auto write_config = [&] {
    write_atomically(directory_.file("run.json"), run_json(config_));
    write_atomically(directory_.file("config.yaml"), to_yaml(config_));
    write_meta("");
  };
  const auto resumed = checkpoints_.load(wanted, [&](RunPoint point, const Safetensors& file) {
    if (previous) refuse_fired_percentages(*previous, point);
    begin_status(point.step, file.get<double>("log.last_loss", 1)[0]);
    restore(point, file);
  });
  if (!resumed) {
    if (const auto result = directory_.result()) {
      throw Error(ExitCode::data, fmt::format("{}: holds no checkpoint to go on from, but this run has results ({}). Put its checkpoints back; "
                                              "only --restart, which moves this run aside, starts anew",
                                              directory_.file("checkpoints").string(), result->string()));
    }
    begin_status(0, last_loss_);
    directory_.begin({});
    forget_phases();
    write_config();  // from here on it resumes by its own config.yaml
    start_phase(first_table(config_, [this] { poll(); }));
  }
  if (resumed && grows) {
    save_checkpoint();  // drops the points among the old end's actions: with more steps they mean others
    forget_outputs_of_the_end(old_steps);
  }
  if (resumed) write_config();
  write_phase_files();
  if (!data_rows_.empty()) write_npy(directory_.file("data_rows.npy"), row_of(data_rows_));
  open_series();
  log_info("{}", facts_of(config_).description());
  log_info("{} sequences of {} bits; batch {}; {} on {} ({}), {} threads", config_.data.num_sequences, config_.data.length,
           config_.train.batch_size, config_.precision, pack_.device().device.str(), pack_.device().reason, config_.threads);
  log_info("training by {}", model().form());
  if (resumed) log_info("resumed at step {} of {}", point_.step, config_.train.steps);
  status_->progress(point_.step, last_loss_);
  if (!resumed) save_checkpoint();
}

bool Run::act() {
  if (!progress_) progress_ = std::make_unique<Progress>(options_.progress, point_.step, config_.train.steps);
  const auto steps = config_.train.steps;
  if (point_.step == steps && point_.actions == 0 && planned_ends_.insert(steps).second) save_checkpoint();
  const auto todo = actions();
  if (!todo.empty()) check_finite();  // on a GPU it may have come since the last look, and nothing is written as if all were well
  while (point_.actions < std::ssize(todo)) {
    poll();
    todo[static_cast<std::size_t>(point_.actions)]();
    if (point_.actions++ == 0 && stays_at_chance()) {
      at_chance_ = true;
      return false;
    }
  }
  if (point_.step == steps) return false;
  if (seconds_since(checkpointed_at_) >= 60 * config_.output.checkpoint_minutes) save_checkpoint();
  poll();
  return true;
}

ExitCode Run::end(std::exception_ptr error) {
  progress_.reset();
  std::string state = at_chance_ ? "at_chance" : "done";
  try {
    try {
      if (error) std::rethrow_exception(error);
      write_weights(directory_.file("final.safetensors"), model(), {{"step", std::to_string(point_.step)}});
      // the end at chance has no checkpoint to come back to
      write_notebook_pickles(directory_.path(), config_, at_chance_ ? Poll() : Poll([this] { poll(); }));
    } catch (const Interrupted&) {
      state = "stopped";
      log_info("stopping at step {}", point_.step);
    }
    if (state == "stopped") save_checkpoint();
  } catch (const Error& failure) {
    status_->progress(point_.step, failure.code() == ExitCode::diverged ? NAN : last_loss_);
    if (failure.code() == ExitCode::diverged) {
      status_->state("diverged");
      write_meta("diverged");
    }
    throw;
  }
  write_meta(state);
  status_->progress(point_.step, last_loss_);
  status_->state(state);
  return state == "stopped" ? ExitCode::stopped : ExitCode::done;
}

/// At the one log line, the first of a step, that decides.
bool Run::stays_at_chance() const {
  const auto& stop_if = config_.train.stop_if;
  const auto every = config_.train.log_every;
  if (!stop_if || point_.step != std::min(((stop_if->after - 1) / every + 1) * every, config_.train.steps)) return false;
  if (!(last_loss_ > stop_if->train_loss_above)) return false;
  log_info("step {}: the train loss is {:.4f}, still above {}: train.stop_if ends the run", point_.step, last_loss_, stop_if->train_loss_above);
  return true;
}

void Run::poll() const {
  const bool out_of_time = options_.max_hours > 0 && seconds_since(started_at_) >= 3600 * options_.max_hours;
  if (out_of_time || (options_.stop && options_.stop())) throw Interrupted{};
}

std::vector<Run::Action> Run::actions() {
  const auto step = point_.step, steps = config_.train.steps;
  std::vector<const EventConfig*> due;
  for (const auto& event : config_.events) {
    if (schedule_of(event).due(step, steps)) due.push_back(&event);
  }
  const bool changes = std::any_of(due.begin(), due.end(), [](const auto* event) { return changes_data_or_weights(*event); });
  std::vector<Action> list;
  if (step > 0 && (step % config_.train.log_every == 0 || step == steps)) list.push_back([this] { log_metrics(); });
  if (step % config_.eval.every == 0 || step == steps || changes) {
    list.push_back([this] {
      moment_ = 0;
      evaluate();
    });
  }
  std::uint8_t moment = 0;
  for (const auto* event : due) {
    list.push_back([this, event, moment] {
      moment_ = moment;
      log_info("step {}: {} '{}'", point_.step, kind_of(*event), name_of(*event));
      std::visit([&](const auto& e) { e.apply(*this); }, *event);
    });
    if (changes_data_or_weights(*event)) moment = 1;
  }
  if (changes) {
    list.push_back([this] {
      moment_ = 1;
      evaluate();
    });
  }
  return list;
}

// ---- the step, and what a line of metrics says of it

void Run::trained() {
  auto& phase = phases_.back();
  for (const auto rank : pack_.drawn(row_, point_.step)) {
    ++phase.presentations[static_cast<std::size_t>(rank)];
    phase.last_seen[static_cast<std::size_t>(rank)] = point_.step + 1;
  }
  if (pack_.device().device.is_cpu()) check_finite();
  ++steps_since_log_;
  point_ = {point_.step + 1, 0};
  status_->progress(point_.step, last_loss_);
  progress_->update(point_.step, progress_note_);
}

void Run::check_finite() {
  if (pack_.finite(row_)) return;
  point_ = {opened_at_ + pack_.finite_steps(row_), 0};
  const auto advice = point_.step == 0 ? "No update came before: it is the initial or loaded weights, and a smaller model.init_std may help"
                      : config_.train.weight_decay > 0 ? "A smaller train.lr or train.weight_decay may help"
                                                       : "A smaller train.lr may help";
  throw Error(ExitCode::diverged, fmt::format("loss or gradient is not finite after step {}; the weights stay as they were. {}", point_.step, advice));
}

void Run::log_metrics() {
  const auto loss_sum = pack_.loss_sum(row_), accuracy_sum = pack_.accuracy_sum(row_);
  const auto mean = [&](const Tensor& sum) { return sum.item<double>() / static_cast<double>(steps_since_log_); };
  last_loss_ = mean(loss_sum);
  auto measures = model().measures();
  directory_.append_metrics({point_.step, static_cast<std::int64_t>(phases_.size()) - 1, point_.step * config_.train.batch_size,
                             last_loss_, mean(accuracy_sum), config_.train.lr, std::move(measures.scalars)});
  directory_.append_measures(point_.step, measures.vectors);
  loss_sum.zero_();
  accuracy_sum.zero_();
  steps_since_log_ = 0;
  status_->progress(point_.step, last_loss_);
  progress_note_ = fmt::format("loss {:.4f}", last_loss_);
  if (const auto top = learned(phases_.size() - 1, kTopRanks)) {
    const bool all = config_.eval.validation_stride == 1;
    progress_note_ += fmt::format("  {} accuracy {:.3f}", all ? fmt::format("top-{}", top->scored) : fmt::format("{} of top-{}", top->scored, kTopRanks), top->accuracy);
  }
  if (seconds_since(timed_at_) >= kTimingSeconds || point_.step == config_.train.steps) {
    timed_at_ = steady_clock::now();
    directory_.append_timing(point_.step, progress_->steps_per_second(), progress_->seconds_left());
  }
}

// ---- evaluation

std::vector<Run::EvaluatedSet> Run::sets() const {
  const auto K = config_.data.num_sequences;
  std::vector<EvaluatedSet> list;
  for (std::size_t phase = 0; phase < phases_.size(); ++phase) {
    list.push_back({fmt::format("phase_{}", phase), &phases_[phase].table, strided_ranks(K, config_.eval.validation_stride), &phases_[phase]});
  }
  list.push_back({"train", &phases_.back().table, strided_ranks(K, config_.eval.train_stride), &phases_.back()});
  if (novel_) list.push_back({"novel", &*novel_, strided_ranks(novel_->num_sequences(), 1), nullptr});
  return list;
}

/// What `eval` asks for beside the arrays that every set has.
std::vector<Column> Run::further_columns(std::int64_t num_ranks, std::int64_t num_sequences) const {
  std::vector<Column> columns;
  if (config_.eval.by_position) {
    const Shape by_position{std::ssize(rank_bins(num_sequences)), config_.data.length - model().facts.first_position};
    columns = {{"by_position_loss", Dtype::f32, by_position}, {"by_position_accuracy", Dtype::f32, by_position}};
  }
  if (config_.eval.completion) columns.push_back({"completed", Dtype::u8, {num_ranks}});
  return columns;
}

void Run::open_series() {
  for (const auto& [name, table, ranks, history] : sets()) {
    directory_.series(name, ranks);
    if (const auto columns = further_columns(std::ssize(ranks), table->num_sequences()); !columns.empty()) directory_.arrays("eval/" + name, columns);
    const auto bins_file = directory_.file("eval/" + name + "/by_position_bins.npy");
    if (!config_.eval.by_position || path_exists(bins_file)) continue;
    std::vector<std::int64_t> edges;
    for (const auto& [begin, end] : rank_bins(table->num_sequences())) edges.insert(edges.end(), {begin, end});
    write_npy(bins_file, view_of(edges.data(), {std::ssize(edges) / 2, 2}));
  }
  if (config_.eval.attention.empty()) return;
  const auto num_ranks = std::ssize(strided_ranks(config_.data.num_sequences, config_.eval.train_stride));
  std::vector<Column> columns;
  for (const auto& name : config_.eval.attention) {
    columns.push_back({name, Dtype::f32, attention_measure_shape(name, model().facts.attention_heads, config_.data.length, num_ranks)});
  }
  columns.push_back({"moment", Dtype::u8, {}});
  columns.push_back({"step", Dtype::i64, {}});
  directory_.arrays("attention", columns);
}

void Run::evaluate(const std::string& prefix, const std::vector<std::string>& on) {
  const auto& eval = config_.eval;
  const auto current = fmt::format("phase_{}", phases_.size() - 1);
  const bool is_own = prefix.empty();  // not a swap test, which has the common arrays alone
  const auto options = is_own ? ScoreOptions{eval.by_position, eval.completion ? eval.completion->prefix : 0} : ScoreOptions{};
  if (is_own) open_series();  // a switch adds a set
  auto wanted = sets();
  std::erase_if(wanted, [&](const auto& set) { return !on.empty() && std::find(on.begin(), on.end(), set.name) == on.end(); });
  // everything is scored before anything is written: an interrupted evaluation leaves no rows
  std::map<std::string, Scores> scores;
  for (const auto& set : wanted) {
    const auto whole = scores.find(current);
    if (set.name == "train" && whole != scores.end() && eval.train_stride % eval.validation_stride == 0 && !options.by_position) {
      auto& train = scores["train"];
      for (const auto rank : set.ranks) {
        const auto row = static_cast<std::size_t>(rank / eval.validation_stride);
        train.loss.push_back(whole->second.loss[row]);
        train.accuracy.push_back(whole->second.accuracy[row]);
        if (options.completion_prefix > 0) train.completed.push_back(whole->second.completed[row]);
      }
    } else {
      scores[set.name] = score(model(), *set.table, set.ranks, [this] { poll(); }, options);
    }
  }
  std::vector<std::vector<float>> attention;
  if (is_own && !eval.attention.empty()) {
    const auto ranks = strided_ranks(config_.data.num_sequences, eval.train_stride);
    attention = measure_attention(model(), phases_.back().table, ranks, eval.attention, [this] { poll(); });
  }

  for (const auto& [name, table, ranks, history] : wanted) {
    std::vector<std::int64_t> presentations, last_seen;
    for (const auto rank : ranks) {
      presentations.push_back(history ? history->presentations[static_cast<std::size_t>(rank)] : 0);
      last_seen.push_back(history ? history->last_seen[static_cast<std::size_t>(rank)] : -1);
    }
    const auto& scored = scores[name];
    std::vector<ArrayView> further;
    if (options.by_position) further = {row_of(scored.loss_by_position), row_of(scored.accuracy_by_position)};
    if (options.completion_prefix > 0) further.push_back(row_of(scored.completed));
    if (!further.empty()) directory_.arrays("eval/" + name, {}).append(further);
    directory_.series(prefix + name, ranks).append(point_.step, moment_, static_cast<std::int64_t>(phases_.size()) - 1, presentations, last_seen, scored);
    if (is_own) last_accuracy_[name] = scored.accuracy;
  }
  if (attention.empty()) return;
  std::vector<ArrayView> measures;
  for (const auto& measure : attention) measures.push_back(row_of(measure));
  measures.push_back(view_of(&moment_, {}));
  measures.push_back(view_of(&point_.step, {}));
  directory_.arrays("attention", {}).append(measures);
}

std::optional<Run::Learned> Run::learned(std::size_t phase, std::int64_t top) const {
  const auto found = last_accuracy_.find(fmt::format("phase_{}", phase));
  if (found == last_accuracy_.end()) return {};
  double accuracy = 0, ceiling = 0;
  std::int64_t count = 0;
  for (std::size_t i = 0; i < found->second.size(); ++i) {
    const auto rank = static_cast<std::int64_t>(i) * config_.eval.validation_stride;
    if (rank >= top) break;
    accuracy += found->second[i];
    ceiling += theories_[phase].accuracy[static_cast<std::size_t>(rank)];
    ++count;
  }
  return Learned{accuracy / static_cast<double>(count), ceiling / static_cast<double>(count), count};
}

// ---- what events do

void Run::forget_phases() {
  pack_.restart(row_);
  phases_.clear();
  theories_.clear();
}

void Run::start_phase(SequenceTable table, bool clear_memory) {
  const auto num_sequences = static_cast<std::size_t>(table.num_sequences());
  theories_.push_back(theory_of(config_, table, pack_.sampler(row_), [this] { poll(); }));  // may stop: nothing has changed yet
  phases_.push_back({std::move(table), point_.step, std::vector<std::int64_t>(num_sequences, 0), std::vector<std::int64_t>(num_sequences, -1)});
  pack_.begin_phase(row_, phases_.back().table, clear_memory);
}

void Run::begin_next_phase(bool clear_memory) {
  start_phase(table_of_phase(config_, static_cast<std::int64_t>(phases_.size()), [this] { poll(); }), clear_memory);
  write_phase_files();
}

void Run::write_snapshot(const std::string& file) {
  make_directories(directory_.file("snapshots"));
  write_weights(directory_.file(file), model(), {{"step", std::to_string(point_.step)}});
}

void Run::set_frozen(const std::vector<std::string>& params, bool frozen) {
  for (const auto index : matching_parameters(model().parameters.specs(), params)) pack_.set_frozen(row_, index, frozen);
}

void Run::reset_optimizer(const std::vector<std::string>& params) { pack_.adam().reset(row_, matching_parameters(model().parameters.specs(), params)); }

Safetensors Run::weights_from(const std::string& from) const {
  auto file = Safetensors::read(names_a_file(from) ? fs::path(from) : directory_.file(fmt::format("snapshots/{}.safetensors", from)));
  if (file.contains("memory")) log_info("{}: its weights alone are taken, the memory stays as it is", from);
  return file;
}

std::unique_ptr<Model> Run::copy_of_model() const {
  torch::NoGradGuard no_grad;
  auto copy = make_model({&config_.model, 1}, config_.data.length, pack_.dtype(), pack_.device().device);
  copy->parameters.flat_RP().copy_(model().parameters.flat_RP());
  if (auto* memory = copy->memory()) {
    for (std::size_t phase = 0; phase < phases_.size(); ++phase) memory->begin_phase(0, static_cast<std::int64_t>(phase), phases_[phase].table, /*clear=*/true);
    memory->set_state(0, model().memory()->state(0));
  }
  return copy;
}

void Run::write_phase_files() {
  std::vector<std::int64_t> starts;
  for (std::size_t phase = 0; phase < phases_.size(); ++phase) {
    starts.push_back(phases_[phase].begin);
    if (config_.output.sequences && !path_exists(directory_.file(fmt::format("sequences/phase_{}.npy", phase)))) {
      directory_.write_sequences(static_cast<std::int64_t>(phase), phases_[phase].table);
    }
  }
  directory_.write_theory(theories_);
  directory_.write_switches(starts);
}

// ---- checkpoints

std::vector<std::pair<std::string, Tensor>> Run::state_tensors() {
  NamedTensors tensors;
  auto& parameters = model().parameters;
  auto& adam = pack_.adam();
  auto frozen = torch::zeros({static_cast<std::int64_t>(parameters.specs().size())}, torch::kUInt8);
  for (std::size_t i = 0; i < parameters.specs().size(); ++i) {
    const auto& name = parameters.specs()[i].name;
    const auto begin = parameters.offset(i), end = begin + parameters.specs()[i].size();
    tensors.emplace_back("model." + name, parameters.leaf(i).detach().select(0, 0));
    tensors.emplace_back("adam.first_moment." + name, adam.first_moment_RP()[row_].slice(0, begin, end));
    tensors.emplace_back("adam.second_moment." + name, adam.second_moment_RP()[row_].slice(0, begin, end));
    frozen[static_cast<std::int64_t>(i)] = pack_.frozen(row_, i);
  }
  if (auto* memory = model().memory()) tensors.emplace_back(kQueue, memory->state(0));
  tensors.emplace_back("adam.steps", adam.steps_RT()[row_]);
  tensors.emplace_back("frozen", frozen);
  tensors.emplace_back("log.loss", pack_.loss_sum(row_));
  tensors.emplace_back("log.accuracy", pack_.accuracy_sum(row_));
  return tensors;
}

void Run::save_checkpoint() {
  check_finite();  // on a GPU it may have come since the last line, and a resumed run would not know
  auto tensors = state_tensors();
  std::vector<std::int64_t> starts;
  for (std::size_t phase = 0; phase < phases_.size(); ++phase) {
    starts.push_back(phases_[phase].begin);
    tensors.emplace_back(fmt::format("phase.{}.presentations", phase), int64_tensor(phases_[phase].presentations));
    tensors.emplace_back(fmt::format("phase.{}.last_seen", phase), int64_tensor(phases_[phase].last_seen));
  }
  tensors.emplace_back("run.point", int64_tensor({point_.step, point_.actions}));
  tensors.emplace_back("run.phase_starts", int64_tensor(starts));
  tensors.emplace_back("run.planned_ends", int64_tensor({planned_ends_.begin(), planned_ends_.end()}));
  tensors.emplace_back("log.steps", int64_tensor({steps_since_log_}));
  tensors.emplace_back("log.last_loss", torch::full({}, last_loss_, torch::kFloat64));
  std::map<std::string, std::string> metadata{{"files", marks_text(directory_.commit())}, {"data", phases_.front().table.digest()}};
  if (!data_rows_.empty()) metadata["weights"] = digest_of_weights(pack_.sampler(row_), data_rows_);
  std::vector<Tensor> owners;
  checkpoints_.save(point_, views_of(tensors, owners), metadata, planned_ends_);
  checkpointed_at_ = steady_clock::now();
}

void Run::restore(RunPoint point, const Safetensors& file) {
  const auto stored = int64_values(file, "run.point", 2);
  const auto starts = int64_values(file, "run.phase_starts");
  if (RunPoint{stored[0], stored[1]} != point || starts.empty()) throw Error(ExitCode::data, file.path().string() + ": is not the checkpoint that its name says");
  point_ = point;
  forget_phases();
  opened_at_ = point.step;
  for (std::size_t phase = 0; phase < starts.size(); ++phase) {
    start_phase(table_of_phase(config_, static_cast<std::int64_t>(phase), [this] { poll(); }));
    auto& history = phases_.back();
    history.begin = starts[phase];
    history.presentations = int64_values(file, fmt::format("phase.{}.presentations", phase), config_.data.num_sequences);
    history.last_seen = int64_values(file, fmt::format("phase.{}.last_seen", phase), config_.data.num_sequences);
  }
  if (file.metadata().at("data") != phases_.front().table.digest()) {
    throw Error(ExitCode::config, fmt::format("{}: the sequences are no longer those this run was started with; --restart starts anew",
                                              config_.data.file.value_or("data")));
  }
  refuse_other_weights(file);
  for (const auto& [name, tensor] : state_tensors()) {
    if (name != "frozen") copy_from(file, name, tensor);
  }
  if (auto* memory = model().memory()) {
    const auto state = memory->state(0);
    copy_from(file, kQueue, state);
    memory->set_state(0, state);
  }
  const auto frozen = file.get<std::uint8_t>("frozen", static_cast<std::int64_t>(model().parameters.specs().size()));
  for (std::size_t i = 0; i < frozen.size(); ++i) pack_.set_frozen(row_, i, frozen[i] != 0);
  steps_since_log_ = int64_values(file, "log.steps", 1)[0];
  last_loss_ = file.get<double>("log.last_loss", 1)[0];
  const auto ends = int64_values(file, "run.planned_ends");
  planned_ends_ = {ends.begin(), ends.end()};
  directory_.begin(marks_from(file), [this] { poll(); });
  open_series();
}

void Run::refuse_other_weights(const Safetensors& checkpoint) const {
  if (data_rows_.empty()) return;
  const auto stored = checkpoint.metadata().find("weights");
  const bool same = stored != checkpoint.metadata().end() ? stored->second == digest_of_weights(pack_.sampler(row_), data_rows_)
                                                          : std::is_sorted(data_rows_.begin(), data_rows_.end());  // a rank was always its row
  if (same) return;
  throw Error(ExitCode::config, fmt::format("{}: the weights, or the ranks that follow from them, are no longer those this run was started with; "
                                            "--restart starts anew", *config_.data.weights));
}

/// The files of `at: end` events happen again at the new end; those with a step in their name would stay.
void Run::forget_outputs_of_the_end(std::int64_t old_steps) const {
  std::error_code ignored;
  for (const auto& event : config_.events) {
    const auto& at = schedule_of(event).at;
    if (!at || !at->relative() || at->step(old_steps) != old_steps) continue;
    for (const auto& file : outputs_of(event, old_steps)) fs::remove_all(directory_.file(file), ignored);
  }
}

void Run::refuse_fired_percentages(const RunConfig& previous, RunPoint point) const {
  std::string happened, pins;
  for (std::size_t i = 0; i < config_.events.size(); ++i) {
    const auto &planned = schedule_of(previous.events[i]).at, &at = schedule_of(config_.events[i]).at;
    if (!planned || !at) continue;
    const auto before = planned->step(previous.train.steps), after = at->step(config_.train.steps);
    if (before == after || !(RunPoint{before, 0} < point)) continue;
    happened += fmt::format("event '{}' at {} happened at step {} already; with train.steps = {} it would belong at {}\n",
                            name_of(config_.events[i]), at->to_text(), before, config_.train.steps, after);
    pins += fmt::format(" events.{}.at={}", i, before);
  }
  if (pins.empty()) return;
  throw Error(ExitCode::config, fmt::format("{}Give this longer run another name, or go on with this one and what happened where it did:\n  {} run={}{}",
                                            happened, options_.command, *config_.run, pins));
}

void Run::write_meta(const std::string& end) {
  const auto path = directory_.file("meta.json");
  json meta = json::object();
  try {
    meta = json::parse(read_file(path, 1 << 24));
  } catch (const std::exception&) {
    // the first session, or a file that somebody edited: begin a new one
  }
  if (!meta.is_object()) meta = json::object();
  auto& sessions = meta["sessions"];
  if (!sessions.is_array()) sessions = json::array();
  const json session{{"start", started_}, {"end", end.empty() ? json() : json(utc_now())}, {"result", end}, {"host", host_name()},
                     {"processor", processor_name()}, {"device", pack_.device().device.str()}, {"threads", config_.threads},
                     {"libtorch", TORCH_VERSION}, {"from_step", point_.step}};
  if (end.empty()) {
    if (!sessions.empty()) {
      for (const char* key : {"processor", "device", "threads", "libtorch"}) {
        if (sessions.back().value(key, json()) != session[key]) {
          log_warning("resumed with another {} ({} before, {} now): the rest of the run is right, but not byte-equal to an uninterrupted one",
                      key, sessions.back().value(key, json()).dump(), session[key].dump());
        }
      }
    }
    sessions.push_back(session);
  } else if (!sessions.empty()) {
    sessions.back()["end"] = session["end"];
    sessions.back()["result"] = end;
  }
  meta["version"] = MNEMO_VERSION;
  meta["revision"] = MNEMO_REVISION;
  meta["command"] = options_.command;
  meta["host"] = host_name();
  meta["device"] = pack_.device().device.str();
  meta["libtorch"] = TORCH_VERSION;
  meta["seeds"] = {{"data", data_seed(config_)}, {"model", model_seed(config_)}};
  meta["cuda"] = libtorch_cuda_version();
  meta["driver"] = driver_cuda_version();
  meta["start"] = sessions.front().value("start", json());
  meta["end"] = sessions.back().value("end", json());
  write_atomically(path, meta.dump(1) + "\n");
}

}  // namespace mnemo
