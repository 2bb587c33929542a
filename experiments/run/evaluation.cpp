#include "experiments/run/evaluation.h"

#include "experiments/run/attention_measures.h"
#include "experiments/run/evaluate.h"

#include <fmt/format.h>

#include <algorithm>

namespace mnemo {

std::vector<Evaluation::Set> Evaluation::sets() const {
  const auto K = config_.data.num_sequences;
  std::vector<Set> list;
  for (std::size_t phase = 0; phase < phases_.size(); ++phase) {
    list.push_back({fmt::format("phase_{}", phase), &phases_[phase].table, strided_ranks(K, config_.eval.validation_stride), &phases_[phase]});
  }
  list.push_back({"train", &phases_.back().table, strided_ranks(K, config_.eval.train_stride), &phases_.back()});
  if (novel_) list.push_back({"novel", &*novel_, strided_ranks(novel_->num_sequences(), 1), nullptr});
  return list;
}

/// Columns of a set besides those that every set has.
std::vector<Column> Evaluation::further_columns(const ModelFacts& model, std::int64_t num_ranks, std::int64_t num_sequences) const {
  std::vector<Column> columns;
  if (config_.eval.by_position) {
    const Shape by_position{std::ssize(rank_bins(num_sequences)), config_.data.length - model.first_predicted_bit};
    columns = {{"by_position_loss", Dtype::f32, by_position}, {"by_position_accuracy", Dtype::f32, by_position}};
  }
  if (config_.eval.completion) columns.push_back({"completed", Dtype::u8, {num_ranks}});
  return columns;
}

void Evaluation::open(const ModelFacts& model) {
  for (const auto& [name, table, ranks, history] : sets()) {
    directory_.series(name, ranks, further_columns(model, std::ssize(ranks), table->num_sequences()));
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
    columns.push_back({name, Dtype::f32, attention_measure_shape(name, model, config_.data.length, num_ranks)});
  }
  columns.push_back({"moment", Dtype::u8, {}});
  columns.push_back({"step", Dtype::i64, {}});
  directory_.arrays("attention", columns);
}

/// Takes `train` out of the scores of the current phase where they contain it.
std::map<std::string, Scores> Evaluation::score_all(Model& model, const std::vector<Set>& sets, const ScoreOptions& options, const Poll& poll) const {
  const auto& eval = config_.eval;
  const auto current = fmt::format("phase_{}", phases_.size() - 1);
  std::map<std::string, Scores> scores;
  for (const auto& set : sets) {
    const auto whole = scores.find(current);
    const bool is_slice = set.name == "train" && whole != scores.end() && eval.train_stride % eval.validation_stride == 0 && !options.by_position;
    if (!is_slice) {
      scores[set.name] = score(model, *set.table, set.ranks, poll, options);
      continue;
    }
    auto& train = scores["train"];
    for (const auto rank : set.ranks) {
      const auto row = static_cast<std::size_t>(rank / eval.validation_stride);
      train.loss.push_back(whole->second.loss[row]);
      train.accuracy.push_back(whole->second.accuracy[row]);
      if (options.completion_prefix > 0) train.completed.push_back(whole->second.completed[row]);
    }
  }
  return scores;
}

void Evaluation::append(const std::string& prefix, const Set& set, At at, const Scores& scores) {
  std::vector<std::int64_t> presentations, last_seen;
  for (const auto rank : set.ranks) {
    presentations.push_back(set.history ? set.history->presentations[static_cast<std::size_t>(rank)] : 0);
    last_seen.push_back(set.history ? set.history->last_seen[static_cast<std::size_t>(rank)] : -1);
  }
  const auto phase = static_cast<std::int64_t>(phases_.size()) - 1;
  std::vector<ArrayView> row;
  if (!scores.loss_by_position.empty()) row = {row_of(scores.loss_by_position), row_of(scores.accuracy_by_position)};
  if (!scores.completed.empty()) row.push_back(row_of(scores.completed));
  row.insert(row.end(), {row_of(presentations), row_of(last_seen), row_of(scores.loss), row_of(scores.accuracy), view_of(&phase, {}),
                         view_of(&at.moment, {}), view_of(&at.step, {})});
  directory_.series(prefix + set.name, set.ranks).append(row);
}

// Everything is scored before anything is written: an interrupted evaluation leaves no rows.

void Evaluation::evaluate(Model& model, At at, const Poll& poll) {
  const auto& eval = config_.eval;
  open(model.facts);  // a switch adds a set
  const auto all = sets();
  const auto scores = score_all(model, all, {eval.by_position, eval.completion ? eval.completion->prefix : 0}, poll);
  std::vector<std::vector<float>> attention;
  if (!eval.attention.empty()) {
    attention = measure_attention(model, phases_.back().table, strided_ranks(config_.data.num_sequences, eval.train_stride), eval.attention, poll);
  }
  for (const auto& set : all) {
    append({}, set, at, scores.at(set.name));
    last_accuracy_[set.name] = scores.at(set.name).accuracy;
  }
  if (attention.empty()) return;
  std::vector<ArrayView> measures;
  for (const auto& measure : attention) measures.push_back(row_of(measure));
  measures.push_back(view_of(&at.moment, {}));
  measures.push_back(view_of(&at.step, {}));
  directory_.arrays("attention").append(measures);
}

void Evaluation::evaluate_copy(Model& model, At at, const std::string& name, const std::vector<std::string>& on, const Poll& poll) {
  auto wanted = sets();
  std::erase_if(wanted, [&](const auto& set) { return !on.empty() && std::find(on.begin(), on.end(), set.name) == on.end(); });
  const auto scores = score_all(model, wanted, {}, poll);
  for (const auto& set : wanted) append(name + ".", set, at, scores.at(set.name));
}

std::optional<Evaluation::Learned> Evaluation::learned(std::size_t phase, std::int64_t top) const {
  const auto found = last_accuracy_.find(fmt::format("phase_{}", phase));
  if (found == last_accuracy_.end()) return {};
  double accuracy = 0, ceiling = 0;
  std::int64_t count = 0;
  for (std::size_t i = 0; i < found->second.size(); ++i) {
    const auto rank = static_cast<std::int64_t>(i) * config_.eval.validation_stride;
    if (rank >= top) break;
    accuracy += found->second[i];
    ceiling += phases_[phase].theory.accuracy[static_cast<std::size_t>(rank)];
    ++count;
  }
  return Learned{accuracy / static_cast<double>(count), ceiling / static_cast<double>(count), count};
}

}  // namespace mnemo
