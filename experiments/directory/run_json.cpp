#include "experiments/directory/run_json.h"

#include "experiments/run/schedule.h"

#include <nlohmann/json.hpp>

#include <cmath>

namespace mnemo {

namespace {

using config_detail::Node;
using Json = nlohmann::ordered_json;  // keeps the order of the settings

/// A plain scalar is text unless it is valid JSON: numbers, true and false are written alike.
Json scalar_json(const Node& node) {
  if (node.quoted) return node.text;
  auto value = Json::parse(node.text, nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? Json(node.text) : value;
}

Json to_json(const Node& node) {
  if (node.kind == Node::Kind::null) return nullptr;
  if (node.kind == Node::Kind::scalar) return scalar_json(node);
  auto json = node.kind == Node::Kind::map ? Json::object() : Json::array();
  for (const auto& child : node.children) {
    if (node.kind == Node::Kind::map) {
      json[child.key] = to_json(child);
    } else {
      json.push_back(to_json(child));
    }
  }
  return json;
}

std::vector<std::string> names_of(const std::vector<ParameterSpec>& specs, const std::vector<std::string>& patterns) {
  std::vector<std::string> names;
  for (const auto i : matching_parameters(specs, patterns)) names.push_back(specs[i].name);
  return names;
}

Json model_json(const ModelFacts& facts) {
  auto groups = Json::object();
  for (const auto& group : parameter_groups(facts.parameters)) groups[group] = names_of(facts.parameters, {group});
  return {{"kind", facts.kind},
          {"text", facts.text},
          {"num_parameters", facts.num_parameters()},
          {"groups", groups},
          {"task", facts.task == Task::sequences ? "sequences" : "bits"},
          {"first_position", facts.first_predicted_bit},
          {"attention_layers", facts.attention_layers},
          {"attention_heads", facts.attention_heads},
          {"attention_by_layer", facts.attention_by_layer},
          {"hidden_widths", facts.hidden_widths},
          {"has_memory", facts.has_memory}};
}

/// Adds what follows from the settings of an event.
void add_facts(Json& json, const EventConfig& event, const std::vector<ParameterSpec>& specs, std::int64_t steps) {
  const auto& schedule = schedule_of(event);
  if (schedule.at) {
    json["step"] = schedule.at->step(steps);
  } else {
    const auto count = schedule.occurrences(steps);
    json.update({{"first", *schedule.every}, {"last", count * *schedule.every}, {"count", count}});
  }
  if (const auto* patterns = needs_of(event).parameters()) json["parameters"] = names_of(specs, *patterns);
  if (const auto* snapshot = std::get_if<SnapshotEvent>(&event)) json["snapshot"] = schedule.every ? snapshot->name + "_{step}" : snapshot->name;
}

}  // namespace

std::string run_json(const RunConfig& config) {
  const auto facts = facts_of(config);
  auto json = to_json(config_detail::to_node(config));
  for (std::size_t i = 0; i < config.events.size(); ++i) add_facts(json["events"][i], config.events[i], facts.parameters, config.train.steps);
  const double choices = num_choices(config);
  json["facts"] = {{"model", model_json(facts)},
                   {"chance", {{"loss", std::log(choices)}, {"accuracy", 1 / choices}}},
                   {"seeds", {{"data", data_seed(config)}, {"model", model_seed(config)}}},
                   {"phases", num_phases(config)}};
  return json.dump(1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";  // paths need not be UTF-8
}

}  // namespace mnemo
