#include "experiments/record/notebook_pickle.h"

#include "core/error.h"
#include "core/npy.h"
#include "core/pickle.h"
#include "core/safetensors.h"
#include "experiments/run/attention_measures.h"
#include "experiments/run/data.h"
#include "experiments/run/schedule.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>
#include <numeric>

namespace mnemo {

using nlohmann::json;

namespace {

constexpr std::int64_t kProbedLayers = 4;  // that readers of linear probes expect, even of a model with fewer

/// What the published records say of a transformer; other models have none.
struct Transformer {
  const char* arch;
  std::int64_t layers, heads, head_dim, mlp_layers, mlp_width;
  bool attention_starts_at_zero;
  const char* embeddings;  // what their names begin with
  bool is_one_layer;
};
std::optional<Transformer> transformer_of(const OneLayerAttentionConfig& model) {
  return Transformer{
      "OneLayerAttention", 1, model.heads, model.head_dim, model.mlp_layers, model.resolved_mlp_width(), model.attention_init == "zero", "", true};
}
std::optional<Transformer> transformer_of(const GptConfig& model) {
  return Transformer{"gpt", model.layers, model.heads, model.head_dim, 1, 4 * model.width(), false, "transformer.", false};
}
template <class Other>
std::optional<Transformer> transformer_of(const Other&) {
  return {};
}
std::optional<Transformer> transformer_of_run(const RunConfig& config) {
  return std::visit([](const auto& model) { return transformer_of(model); }, config.model);
}

/// Calls see(event) for each event of one kind.
template <class Event, class See>
void for_each(const RunConfig& config, See&& see) {
  for (const auto& event : config.events) {
    if (const auto* held = std::get_if<Event>(&event)) see(*held);
  }
}

bool has_switch(const RunConfig& config) {
  bool found = false;
  for_each<SwitchEvent>(config, [&](const auto&) { found = true; });
  return found;
}

/// "False", "True", or "Forget" for a switch that comes again and again.
std::string resampling(const RunConfig& config) {
  std::string found = "False";
  for_each<SwitchEvent>(config, [&](const auto& event) { found = event.schedule.every || found == "Forget" ? "Forget" : "True"; });
  return found;
}

const char* python_text(bool truth) { return truth ? "True" : "False"; }

/// Whether the ranks of these rows are scored; `why` says what would make it so.
bool are_scored(const std::string& rows, const RunConfig& config, std::string& why) {
  const auto& eval = config.eval;
  const auto K = config.data.num_sequences, stride = eval.validation_stride;
  if (rows == "current") {
    why = "eval.train_stride or eval.validation_stride must divide 10";
    return kNotebookRowStride % eval.train_stride == 0 || kNotebookRowStride % stride == 0;
  }
  if (rows == "all_phases") {
    why = "eval.validation_stride must divide 10 and data.num_sequences";
    return kNotebookRowStride % stride == 0 && (K % stride == 0 || !has_switch(config));
  }
  why = "eval.validation_stride must be 1";
  return rows == "all_validation" || stride == 1;
}

std::string default_rows(const RunConfig& config) {
  const auto stride = config.eval.validation_stride;
  std::string why;
  if (!has_switch(config)) return are_scored("current", config, why) ? "current" : "all_validation";
  return config.data.num_sequences % kNotebookRowStride == 0 && (stride == 1 || stride == kNotebookRowStride) ? "all_phases" : "all_validation";
}

}  // namespace

// ---- settings

std::vector<std::pair<std::string, std::string>> notebook_problems(const RunConfig& config) {
  std::vector<std::pair<std::string, std::string>> found;
  const auto& output = config.output;
  const auto epoch = output.epoch_steps.value_or(config.eval.every);
  const auto misfit = [&](const std::string& what) {
    if (output.epoch_steps) return found.emplace_back("epoch_steps", fmt::format("{} {}", epoch, what));
    return found.emplace_back("pickle", fmt::format("the epoch of a record, eval.every = {}, {}; set output.epoch_steps", epoch, what));
  };
  if (const auto log_every = config.train.log_every; epoch % log_every != 0) {
    misfit(fmt::format("is no multiple of train.log_every ({})", log_every));
  }
  if (config.train.steps % epoch != 0) misfit(fmt::format("does not divide train.steps ({})", config.train.steps));
  for_each<SwitchEvent>(config, [&](const auto& event) {
    const auto step = event.schedule.every ? *event.schedule.every : event.schedule.at ? event.schedule.at->step(config.train.steps) : 0;
    if (step % epoch != 0) misfit(fmt::format("does not divide the step of '{}' ({})", event.name, step));
  });
  std::string why;
  if (output.pickle_rows && !are_scored(*output.pickle_rows, config, why)) {
    found.emplace_back("pickle_rows", fmt::format("the rows of {} are not scored: {}", *output.pickle_rows, why));
  }
  return found;
}

NotebookSettings notebook_settings(const RunConfig& config) {
  const auto& output = config.output;
  const bool by_default = !output.epoch_steps && !output.pickle_rows && !notebook_problems(config).empty();
  return {output.pickle.value_or(by_default ? "none" : "torch"), output.pickle_rows.value_or(default_rows(config)),
          output.epoch_steps.value_or(config.eval.every)};
}

bool has_notebook_record(const ModelConfig& model) {
  return std::visit([](const auto& m) { return transformer_of(m).has_value(); }, model);
}

std::string notebook_run_name(const RunConfig& config) {
  const auto data = fmt::format("K_{}_L_{}", config.data.num_sequences, config.data.length);
  const auto transformer = transformer_of_run(config);
  if (!transformer) return fmt::format("{}_{}_{}_{}", *config.group, facts_of(config).kind, data, config.seed);
  return fmt::format("{}_transformer_{}_hidden_{}_nheads_{}_nlayers_{}_{}", *config.group, data, transformer->head_dim, transformer->heads,
                     transformer->layers, config.seed);
}

// ---- reading a run directory

namespace {

/// What `take` returns for the JSON text of this file.
template <class Take>
auto from_json(const fs::path& path, const std::string& text, Take&& take) {
  try {
    return take(json::parse(text));
  } catch (const json::exception& error) {
    refuse(path, error.what());
  }
}

/// Counts the draws of each rank in the current phase, by drawing them again.
class Presentations {
 public:
  explicit Presentations(const RunReader& run)
      : starts_(run.phase_starts()),
        draws_(run.law().sampler, data_seed(run.config()), run.config().train.batch_size),
        counts_(static_cast<std::size_t>(run.config().data.num_sequences)) {}

  /// (K) before update number `step`. Steps must not decrease, and each start of a phase must be among them.
  const std::vector<double>& before(std::int64_t step) {
    for (; step_ < step; ++step_) {
      for (const auto rank : draws_.ranks(step_)) ++counts_[static_cast<std::size_t>(rank)];
    }
    if (std::binary_search(starts_.begin(), starts_.end(), step)) std::fill(counts_.begin(), counts_.end(), 0.0);
    return counts_;
  }

 private:
  std::vector<std::int64_t> starts_;
  DrawStream draws_;
  std::vector<double> counts_;
  std::int64_t step_ = 0;
};

/// Mean train loss of each epoch, weighted by draws, from the lines of metrics.jsonl.
std::vector<double> epoch_losses(const fs::path& run, std::int64_t epoch_steps, std::int64_t epochs) {
  std::vector<double> sum(static_cast<std::size_t>(epochs)), draws(sum.size());
  std::ifstream lines(run / "metrics.jsonl");
  std::int64_t drawn = 0;
  for (std::string text; std::getline(lines, text);) {
    from_json(run / "metrics.jsonl", text, [&](const json& line) {
      const auto epoch = static_cast<std::size_t>((line.at("step").get<std::int64_t>() - 1) / epoch_steps);
      const auto now_drawn = line.at("draws").get<std::int64_t>();
      const auto new_draws = static_cast<double>(now_drawn - std::exchange(drawn, now_drawn));
      if (epoch >= sum.size()) return;
      sum[epoch] += new_draws * line.at("train_loss").get<double>();
      draws[epoch] += new_draws;
    });
  }
  for (std::size_t epoch = 0; epoch < sum.size(); ++epoch) sum[epoch] /= draws[epoch];
  return sum;
}

// ---- the sequences

/// The keys of the sequences file.
void write_sequences(PickleWriter& out, const RunReader& run, const NotebookSettings& settings) {
  const auto& config = run.config();
  const auto starts = run.phase_starts();
  const auto K = config.data.num_sequences, L = config.data.length;
  const auto write_phase = [&](std::int64_t phase) {
    const auto stored = run.file(fmt::format("sequences/phase_{}.npy", phase));
    std::optional<NpyRows> rows;
    std::optional<SequenceTable> table;
    if (path_exists(stored)) {
      rows.emplace(stored);
    } else {
      table = table_of_phase(config, run.law(), phase);
    }
    const auto block = std::max<std::int64_t>(1, (1 << 16) / L);
    out.array(Dtype::i64, {K, L}, [&] {
      for (std::int64_t begin = 0; begin < K; begin += block) {
        if (settings.poll) settings.poll();
        const auto count = std::min(block, K - begin);
        std::string bits(static_cast<std::size_t>(count * L), '\0');
        if (rows) {
          bits = rows->read(begin, count).bytes;
        } else {
          std::vector<std::int32_t> ranks(static_cast<std::size_t>(count));
          std::iota(ranks.begin(), ranks.end(), static_cast<std::int32_t>(begin));
          table->unpack(ranks, reinterpret_cast<std::uint8_t*>(bits.data()));
        }
        const std::vector<std::int64_t> wide(bits.begin(), bits.end());
        out.elements(view_of(wide.data(), {count, L}).as_bytes());
      }
    });
  };
  out.item("sequences");
  out.list([&] {
    for (std::size_t phase = 0; phase < starts.size(); ++phase) {
      const auto write = [&] { write_phase(static_cast<std::int64_t>(phase)); };
      settings.format == "numpy" ? write() : out.call("torch", "from_numpy", write);
    }
  });
  out.item("switch_start_iter");
  out.list([&] {
    for (const auto start : starts) {
      out.list([&] {
        for (std::int64_t rank = 0; rank < K; ++rank) out.value(start / settings.epoch_steps);
      });
    }
  });
}

// ---- weights

/// State dicts under the names of the original module.
class WeightWriter {
 public:
  WeightWriter(PickleWriter& out, const RunConfig& config, const NotebookSettings& settings)
      : out_(out), config_(config), torch_(settings.format != "numpy"), specs_(facts_of(config).parameters) {}

  /// The parameters whose names begin with `prefix`, without it.
  void group(const Safetensors& weights, std::string_view prefix) {
    out_.dict([&] { write(weights, prefix); });
  }

  /// Includes the LayerNorm that the original module of one layer holds and never uses: a strict load_state_dict asks for it.
  void whole(const Safetensors& weights) {
    if (!transformer_of_run(config_).value().is_one_layer) return group(weights, "");
    const auto width = weights.at("ln_f.bias").shape;
    const auto constant = [&]<class Real>(Real value) {
      const std::vector<Real> values(static_cast<std::size_t>(num_elements(width)), value);
      tensor(view_of(values.data(), width));
    };
    out_.dict([&] {
      write(weights, "");
      for (const auto& [name, value] : {std::pair("pre_attn_ln.weight", 1), std::pair("pre_attn_ln.bias", 0)}) {
        out_.item(name);
        config_.precision == "fp64" ? constant(static_cast<double>(value)) : constant(static_cast<float>(value));
      }
    });
  }

 private:
  void tensor(const ArrayView& tensor) {
    if (!torch_) return out_.array(tensor);
    out_.call("torch", "from_numpy", [&] { out_.array(tensor); });
  }

  void write(const Safetensors& weights, std::string_view prefix) {
    for (const auto& spec : specs_) {
      if (!spec.name.starts_with(prefix)) continue;
      out_.item(spec.name.substr(prefix.size()));
      tensor(weights.at(spec.name));
    }
  }

  PickleWriter& out_;
  const RunConfig& config_;
  bool torch_;
  std::vector<ParameterSpec> specs_;
};

/// By epoch, the snapshots that a record holds whole: those of events with `every`, and those of step 0.
std::map<std::int64_t, fs::path> whole_snapshots(const RunReader& run, const NotebookSettings& settings, std::int64_t steps) {
  const auto& config = run.config();
  std::map<std::int64_t, fs::path> found;
  for_each<SnapshotEvent>(config, [&](const SnapshotEvent& event) {
    const auto add = [&](std::int64_t step) {
      if (step % settings.epoch_steps != 0) return;
      const auto path = run.file(fmt::format("snapshots/{}.safetensors", event.snapshot(step)));
      if (path_exists(path)) found.emplace(step / settings.epoch_steps, path);
    };
    if (event.schedule.at && event.schedule.at->step(config.train.steps) == 0) add(0);
    for (std::int64_t step = event.schedule.every.value_or(steps); step < steps; step += *event.schedule.every) add(step);
  });
  return found;
}

// ---- the record

class Record {
 public:
  Record(const RunReader& run, const NotebookSettings& settings, const fs::path& target, bool with_sequences)
      : run_(run),
        config_(run.config()),
        settings_(settings),
        transformer_(transformer_of_run(config_).value()),
        starts_(run.phase_starts()),
        final_(run.weights("final")),
        steps_(step_of(final_)),
        with_sequences_(with_sequences),
        presentations_(run),
        out_(target),
        weights_(out_, config_, settings) {
    for (std::size_t phase = 0; phase < starts_.size(); ++phase) sets_.push_back(run.set(fmt::format("phase_{}", phase)));
    // by step, and by name at equal steps
    for (const auto& entry : entries_of(run.file("probes"))) {
      if (entry.extension() == ".json") probes_.push_back(entry);
    }
    std::sort(probes_.begin(), probes_.end());
  }

  void write() {
    const auto epochs = steps_ / settings_.epoch_steps;
    const auto losses = epoch_losses(run_.path(), settings_.epoch_steps, epochs);
    out_.dict([&] {
      out_.item("args");
      write_args();
      out_.item("logs");
      out_.list([&] {
        for (std::int64_t epoch = 0; epoch < epochs; ++epoch) {
          if (settings_.poll) settings_.poll();
          write_log(epoch, losses[static_cast<std::size_t>(epoch)]);
        }
      });
      out_.item("model");
      weights_.whole(final_);
      const auto same = out_.remember();
      out_.item("model_state_dict");
      out_.again(same);
      write_snapshots();
      out_.item("final_test_metrics");
      write_test_metrics(steps_);
      out_.item("positional_encoding");
      write_positional_encoding();
      out_.item("token_embedding");
      write_float32(final_.at(transformer_.embeddings + std::string("wte.weight")));
      if (with_sequences_) write_sequences(out_, run_, settings_);
    });
    out_.commit();
  }

 private:
  void write_args() {
    const auto& data = config_.data;
    std::int64_t probe_every = 0;  // epochs
    for_each<ForkProbeEvent>(config_, [&](const auto& event) {
      const auto every = event.schedule.every.value_or(config_.train.steps) / settings_.epoch_steps;
      probe_every = probe_every == 0 ? every : std::min(probe_every, every);
    });
    out_.dict([&] {
      out_.item("wandb_group_name", *config_.group);
      out_.item("len_context", data.length);
      out_.item("K", data.num_sequences);
      out_.item("vocab_size", 2);
      out_.item("num_heads", transformer_.heads);
      out_.item("num_layers", transformer_.layers);
      out_.item("num_hidden_features", transformer_.head_dim);
      out_.item("num_hidden_features_mlp", transformer_.mlp_width);
      out_.item("num_mlp_layers", transformer_.mlp_layers);
      out_.item("lr", config_.train.lr);
      out_.item("arch", transformer_.arch);
      out_.item("num_iters", steps_);
      out_.item("num_iters_per_epoch", settings_.epoch_steps);
      out_.item("batch_size", config_.train.batch_size);
      out_.item("seed", config_.seed);
      out_.item("is_resample_tasks", resampling(config_));
      out_.item("is_initialize_attention_weights_to_zero", python_text(transformer_.attention_starts_at_zero));
      out_.item("is_probe", python_text(probe_every > 0));
      out_.item("probe_every_iter", probe_every);
      out_.item("sequence_sampling_distribution", data.weights ? "file" : data.zipf_exponent == 0 ? "uniform" : "zipf");
      out_.item("fileprefix", notebook_run_name(config_));
    });
  }

  void write_log(std::int64_t epoch, double train_loss) {
    const auto step = epoch * settings_.epoch_steps;
    out_.dict([&] {
      out_.item("num_apppearances", view_of(presentations_.before(step).data(), {config_.data.num_sequences}));
      out_.item("train_loss", train_loss);
      out_.item("epoch", epoch);
      out_.item("lr", learning_rate(scalars_of(config_.train), step + 1));  // of its first update
      for (const char* not_kept : {"loss_per_appearance", "appearances"}) write_empty_list(not_kept);
      out_.item("test_metrics");
      write_test_metrics(step);
      write_probe(step);
    });
  }

  // -- test_metrics

  void write_test_metrics(std::int64_t step) {
    const auto phase = static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), step) - starts_.begin()) - 1;
    const auto K = config_.data.num_sequences;
    Rows rows;
    const auto& rule = settings_.rows;
    if (rule == "current" || rule == "all_ranks") {
      take(rows, phase, step, 0, rule == "current" ? kNotebookRowStride : 1);
    } else {
      for (std::size_t p = 0; p <= phase; ++p) {
        if (rule == "all_validation") {
          take(rows, p, step, 0, config_.eval.validation_stride);
        } else {  // every tenth of all sequences of all phases, one after another
          take(rows, p, step, (kNotebookRowStride - static_cast<std::int64_t>(p) * K % kNotebookRowStride) % kNotebookRowStride, kNotebookRowStride);
        }
      }
    }
    out_.dict([&] {
      if (rows.rank.empty()) return;
      const Shape shape{static_cast<std::int64_t>(rows.rank.size())};
      std::vector<std::int64_t> index(rows.rank.size());
      std::iota(index.begin(), index.end(), 0);
      out_.item("sequence_rank", view_of(index.data(), shape));
      out_.item("true_rank", view_of(rows.rank.data(), shape));
      out_.item("length", 50);
      out_.item("logsoftmaxloss", view_of(rows.loss.data(), shape));
      out_.item("accuracy", view_of(rows.accuracy.data(), shape));
      if (rule == "all_ranks") return;  // its readers make a table of this, one column per key
      write_attention(step);
      write_linear_probes();
    });
  }

  void write_attention(std::int64_t step) {
    if (config_.eval.attention.empty()) return;
    const auto row = last_place_of(read_steps(run_.file("attention/step.npy")), step);
    if (!row) return;
    for (const auto& name : config_.eval.attention) {
      const auto measure = NpyRows(run_.file(fmt::format("attention/{}.npy", name)))[*row];
      if (name != "attn_reps") {
        out_.item(name + "_metric");
        write_positions(measure.view(), name == "vertical_bars");
      } else {
        out_.item(name);
        out_.list([&] { write_maps(measure.view()); });
      }
    }
  }

  /// One array a layer.
  void write_maps(const ArrayView& maps) {
    if (transformer_.is_one_layer) return out_.array(maps);
    const Shape of_layer(maps.shape.begin() + 1, maps.shape.end());
    const auto values = maps.as<float>();
    for (std::int64_t layer = 0; layer < transformer_.layers; ++layer) out_.array(view_of(values.data() + layer * num_elements(of_layer), of_layer));
  }

  /// Bars (H, s, t), or (s, H, H), without the positions s = 0, 5, ... and t = 1, 6, ... that a sequence does not have; of many layers with an axis
  /// of them, the first.
  void write_positions(const ArrayView& measure, bool bars) {
    const auto H = transformer_.heads;
    const auto below = [&](std::int64_t first) { return std::min(kAttentionPositions, (config_.data.length - first - 1) / kAttentionSpacing + 1); };
    Shape shape = bars ? Shape{H, below(0), below(1)} : Shape{below(0), H, H};
    const Shape native = bars ? Shape{H, kAttentionPositions, kAttentionPositions} : Shape{kAttentionPositions, H, H};
    if (measure.dtype != Dtype::f32 || measure.shape != attention_measure_shape(bars ? "vertical_bars" : "decorrelation", facts_of(config_), 0, 0))
      refuse(run_.file("attention"), "does not hold what config.yaml says");
    const auto values = measure.as<float>();
    std::vector<float> kept;
    for (std::int64_t layer = 0; layer < transformer_.layers; ++layer) {
      for (std::int64_t i = 0; i < shape[0]; ++i) {
        for (std::int64_t j = 0; j < shape[1]; ++j) {
          const auto row = values.begin() + ((layer * native[0] + i) * native[1] + j) * native[2];
          kept.insert(kept.end(), row, row + shape[2]);
        }
      }
    }
    if (!transformer_.is_one_layer) shape.insert(shape.begin(), transformer_.layers);
    out_.array(view_of(kept.data(), shape));
  }

  /// What scripts/linear_probe.py fills in: the hidden layers of a `features` event, of which none is probed yet.
  void write_linear_probes() {
    const auto layers = std::max<std::int64_t>(kProbedLayers, std::ssize(facts_of(config_).hidden_widths));
    const Shape shape{layers};
    std::vector<std::int64_t> layer(static_cast<std::size_t>(layers)), none(layer.size());
    std::iota(layer.begin(), layer.end(), 0);
    const std::vector<float> unknown(layer.size(), std::numeric_limits<float>::quiet_NaN());
    out_.item("mlp_probe_metrics");
    out_.dict([&] {
      out_.item("layer", view_of(layer.data(), shape));
      out_.item("accuracy", view_of(unknown.data(), shape));
      out_.item("num_train", view_of(none.data(), shape));
      out_.item("num_test", view_of(none.data(), shape));
    });
    for (const auto j : layer) write_empty_list(fmt::format("probe_novel_sequences_{}", j));
  }

  void write_empty_list(std::string_view key) {
    out_.item(key);
    out_.list([] {});
  }

  struct Rows {
    std::vector<std::int64_t> rank;
    std::vector<float> loss, accuracy;
  };

  /// Adds the scores of ranks first, first + stride, ... of a phase at a step; nothing if it was not evaluated.
  void take(Rows& rows, std::size_t phase, std::int64_t step, std::int64_t first, std::int64_t stride) {
    const auto* set = &sets_[phase];
    auto set_stride = config_.eval.validation_stride;
    std::optional<RunReader::Set> train;  // holds every tenth rank of the current phase even if the phase's own set does not
    if (stride % set_stride != 0) {
      set = &train.emplace(run_.set("train"));
      set_stride = config_.eval.train_stride;
    }
    const auto row = set->last_row_at(step);
    if (!row) return;
    const auto K = config_.data.num_sequences;
    const auto add = [&](const NpyRows& file, std::vector<float>& to) {
      const auto scores = file[*row];
      if (scores.dtype != Dtype::f32 || num_elements(scores.shape) != (K - 1) / set_stride + 1)
        refuse(run_.path(), "a set is not scored as config.yaml says");
      const auto values = scores.view().as<float>();
      to.reserve(rows.rank.size());
      for (auto rank = first; rank < K; rank += stride) to.push_back(values[static_cast<std::size_t>(rank / set_stride)]);
    };
    for (auto rank = first; rank < K; rank += stride) rows.rank.push_back(rank);
    add(set->loss, rows.loss);
    add(set->accuracy, rows.accuracy);
  }

  /// The fork probe of this step; empty lists where there was none.
  void write_probe(std::int64_t step) {
    out_.item("probe_metrics");
    out_.dict([&] {
      for (const auto& path : probes_) {
        const auto [at, required] = from_json(path, read_file(path), [](const json& probe) {
          return std::pair(probe.at("step").get<std::int64_t>(), probe.at("num_iters_required").get<std::int64_t>());
        });
        if (at != step) continue;
        const auto trace = read_npy(fs::path(path).replace_extension(".accuracy.npy"));
        out_.item("accuracy");
        out_.list([&] {
          for (const auto& accuracy : trace.view().as<float>()) out_.array(view_of(&accuracy, {}));
        });
        return out_.item("num_iters_required", required);
      }
      for (const char* key : {"accuracy", "num_iters_required"}) write_empty_list(key);
    });
  }

  // -- weights

  /// (L, C); rotary positions add nothing to the embeddings: zeros.
  void write_positional_encoding() {
    const auto name = transformer_.embeddings + std::string("wpe.weight");
    if (final_.contains(name)) return write_float32(final_.at(name));
    const Shape shape{config_.data.length, transformer_.heads * transformer_.head_dim};
    const std::vector<float> zeros(static_cast<std::size_t>(num_elements(shape)));
    out_.array(view_of(zeros.data(), shape));
  }

  void write_float32(const ArrayView& tensor) {
    if (tensor.dtype != Dtype::f64) return out_.array(tensor);
    const auto wide = tensor.as<double>();
    const std::vector<float> narrow(wide.begin(), wide.end());
    out_.array(view_of(narrow.data(), tensor.shape));
  }

  /// mlp_state_dict, c_attn_state_dict and model_<epoch>, from the snapshots of the run.
  void write_snapshots() {
    std::vector<std::pair<std::string, fs::path>> once;  // in the order of the file
    for_each<SnapshotEvent>(config_, [&](const SnapshotEvent& event) {
      const auto path = run_.file(fmt::format("snapshots/{}.safetensors", event.name));
      if (event.schedule.at && path_exists(path)) once.emplace_back(event.name, path);
    });
    name_the_one_at_the_switch(once);
    const auto write_all = [&](const char* key, auto&& write_one) {
      out_.item(key);
      out_.dict([&] {
        if (!transformer_.is_one_layer) return;  // their names are those of one layer's groups
        for (const auto& [name, path] : once) {
          out_.item(name);
          write_one(Safetensors::read(path));
        }
      });
    };
    write_all("mlp_state_dict", [&](const Safetensors& weights) {
      out_.dict([&] {
        out_.item("linear_modules");
        weights_.group(weights, "linear_modules.");
        out_.item("lm_head");
        weights_.group(weights, "lm_head.");
      });
    });
    write_all("c_attn_state_dict", [&](const Safetensors& weights) { weights_.group(weights, "c_attn."); });
    for (const auto& [epoch, path] : whole_snapshots(run_, settings_, steps_)) {
      out_.item(fmt::format("model_{}", epoch));
      weights_.whole(Safetensors::read(path));
    }
  }

  /// Notebooks ask for `pre_switch`, whatever a configuration calls it.
  void name_the_one_at_the_switch(std::vector<std::pair<std::string, fs::path>>& snapshots) const {
    const auto has_name = [](const auto& snapshot) { return snapshot.first == "pre_switch"; };
    if (starts_.size() == 1 || std::any_of(snapshots.begin(), snapshots.end(), has_name)) return;
    for (auto& [name, path] : snapshots) {
      if (step_of(Safetensors::read(path)) != starts_[1]) continue;
      name = "pre_switch";
      return;
    }
  }

  const RunReader& run_;
  const RunConfig& config_;
  const NotebookSettings& settings_;
  Transformer transformer_;
  std::vector<std::int64_t> starts_;
  Safetensors final_;
  std::int64_t steps_;
  bool with_sequences_;
  Presentations presentations_;
  std::vector<RunReader::Set> sets_;  // by phase
  std::vector<fs::path> probes_;
  PickleWriter out_;
  WeightWriter weights_;
};

}  // namespace

void write_notebook_record(const RunReader& run, const NotebookSettings& settings, const fs::path& target, bool with_sequences) {
  run.law();  // refuses other ranks before all else
  Record(run, settings, target, with_sequences).write();
}

std::vector<fs::path> write_notebook_snapshots(const RunReader& run, const NotebookSettings& settings, const fs::path& stem) {
  std::vector<fs::path> written;
  for (const auto& [epoch, path] : whole_snapshots(run, settings, run.config().train.steps)) {
    written.push_back(fmt::format("{}_model_iter_{}.pkl", stem.string(), epoch));
    PickleWriter out(written.back());
    WeightWriter(out, run.config(), settings).whole(Safetensors::read(path));
    out.commit();
  }
  return written;
}

void write_notebook_sequences(const RunReader& run, const NotebookSettings& settings, const fs::path& target) {
  if (run.config().data.weights) run.law();  // as above
  PickleWriter out(target);
  out.dict([&] { write_sequences(out, run, settings); });
  out.commit();
}

void write_notebook_pickles(const RunReader& run, const Log& log, const Poll& poll) {
  const auto& config = run.config();
  auto settings = notebook_settings(config);
  settings.poll = poll;
  const auto record = run.file(*config.run + ".pkl"), sequences = run.file(*config.run + "_sequences.pkl");
  if (settings.format == "none") {
    if (!config.output.pickle) log.info("no notebook pickles: {}", notebook_problems(config).front().second);
    for (const auto& path : {record, sequences}) fs::remove(path);  // of a run that was shorter
    return;
  }
  if (has_notebook_record(config.model)) write_notebook_record(run, settings, record);
  write_notebook_sequences(run, settings, sequences);
}

}  // namespace mnemo
