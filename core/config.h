#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/error.h"

// Strict struct <-> YAML. A struct lists its members once, and reading, printing, overrides and help follow from it:
//
//   struct TrainConfig {
//     std::int64_t steps = 20000;
//     template <class Self, class Visit>
//     static void fields(Self& self, Visit&& visit) {
//       visit("steps", self.steps, "optimizer updates", at_least(1));  // key, member, help, rules (none or more)
//     }
//   };
//
// Members: bool, int, int64, uint32, double, std::string; types with `bool from_text(std::string_view, std::string&
// problem)`, `std::string to_text() const` and perhaps a kTypeName ("a step or end"); structs with fields();
// std::variant of structs with a kKind, chosen by the key `kind`; std::optional, std::array and std::vector of these.

namespace mnemo {

/// The violations of a configuration, one per line: `FILE:LINE:COL: key.path: what is wrong`.
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& violations) : Error(ExitCode::config, violations) {}
};

/// What a value must be. On a list, `number` and `text` hold for each element, `length` for the list.
struct Rule {
  std::string wants;  ///< as in "must be <wants>, got 0"
  std::function<bool(double)> number;
  std::function<bool(std::string_view)> text;
  std::function<bool(std::size_t)> length;
  std::vector<std::string> choices;  ///< of one_of(), to suggest the one that was meant

  /// The sentence for the user; `got` is the value as written.
  std::string violated_by(const std::string& got, std::string_view value = {}) const;
};
using Rules = std::vector<Rule>;

Rule at_least(double low);
Rule at_most(double high);
Rule positive();
Rule non_negative();
Rule in_range(double low, double high, bool include_high = true, bool include_low = true);
Rule one_of(std::vector<std::string> choices);
Rule file_name();  ///< [A-Za-z0-9._-]+, no dot first, at most 100 characters
Rule non_empty();  ///< of a list; one that is empty by default must then be given

/// One line of `mnemo config --fields`.
struct FieldHelp {
  std::string path;          ///< train.lr, model.one_layer_attention.heads, events[].switch.at
  std::string owner;         ///< where the key is written in a file: train, model, events[]
  std::string type;          ///< integer, number[2], text[], map, integer or null
  std::string default_text;  ///< as YAML; empty for a map
  std::string help;
  std::string rule;  ///< "at least 1", or empty
};

namespace config_detail {

template <class T, template <class...> class Template>
inline constexpr bool kIs = false;
template <class... Args, template <class...> class Template>
inline constexpr bool kIs<Template<Args...>, Template> = true;
template <class T>
inline constexpr std::size_t kArraySize = 0;
template <class T, std::size_t N>
inline constexpr std::size_t kArraySize<std::array<T, N>> = N;
template <class T>
inline constexpr bool kIsList = kIs<T, std::vector> || kArraySize<T> != 0;

template <class T>
concept HasFields = requires(T& value) {
  T::fields(value, [](auto&&...) {});
};
template <class T>
concept TextValue = requires(T& value, const T& constant, std::string_view text, std::string& problem) {
  { value.from_text(text, problem) } -> std::same_as<bool>;
  { constant.to_text() } -> std::convertible_to<std::string>;
};

/// An offset into one of the texts that a configuration is made of: the file, then each override.
struct Place {
  std::size_t source = 0, offset = 0;
  auto operator<=>(const Place&) const = default;
};

/// A value of the document.
struct Node {
  enum class Kind { nothing, null, scalar, list, map, refused };  // refused: already reported, to be skipped
  Kind kind = Kind::nothing;
  Place place, key_place;      // of an element of a list both are the same
  std::string key;             // in the parent, if that is a map
  std::string text;            // of a scalar
  bool quoted = false;         // of a scalar: it was in quotes (read), or needs them (written)
  std::vector<Node> children;  // of a list or map

  const Node* find(std::string_view wanted_key) const;  // of a map
};

std::string join(const std::string& path, std::string_view key);
std::string join(const std::string& path, std::size_t index);

// Each reads one scalar and returns what is wrong, or "".
std::string wrong_type(const Node& node, std::string_view expected);
std::string parse_integer(const Node& node, std::int64_t low, std::int64_t high, std::int64_t& value);
std::string parse(const Node& node, bool& value);
std::string parse(const Node& node, double& value);
std::string parse(const Node& node, std::string& value);
std::string brief(std::string_view text);      // shortened for a message, invisible characters escaped
std::string shown(const Node& scalar);         // the same in quotes
std::string corrected(std::string_view text);  // 0.001 for .001, 1000 for 1_000, 1e-3 for +1e-3; "" if nothing helps

template <std::integral T>
std::string parse(const Node& node, T& value) {
  std::int64_t wide = value;
  std::string problem = parse_integer(node, std::numeric_limits<T>::min(), std::numeric_limits<T>::max(), wide);
  value = static_cast<T>(wide);
  return problem;
}

// Writing one value.
Node scalar_node(bool value);
Node scalar_node(std::int64_t value);
Node scalar_node(double value);
Node scalar_node(const std::string& value);
Node plain_node(std::string text);  // for a TextValue: quoted only where the syntax needs it
std::string to_yaml(const Node& root);
std::string to_flow(const Node& node);
std::vector<std::pair<std::string, std::string>> flatten(const Node& root);

/// The type as messages and help name it.
template <class T>
std::string type_name() {
  if constexpr (kIs<T, std::optional>)
    return type_name<typename T::value_type>().append(" or null");
  else if constexpr (kIs<T, std::vector>)
    return type_name<typename T::value_type>().append("[]");
  else if constexpr (kArraySize<T> != 0)
    return type_name<typename T::value_type>().append("[").append(std::to_string(kArraySize<T>)).append("]");
  else if constexpr (requires { T::kTypeName; })
    return std::string(T::kTypeName);
  else if constexpr (kIs<T, std::variant> || HasFields<T>)
    return "map";
  else if constexpr (std::same_as<T, bool>)
    return "true or false";
  else if constexpr (std::integral<T>)
    return "integer";
  else if constexpr (std::floating_point<T>)
    return "number";
  else
    return "text";
}

template <TextValue T>
std::string parse(const Node& node, T& value) {
  if (node.kind != Node::Kind::scalar) return wrong_type(node, type_name<T>());
  std::string problem;
  if (value.from_text(node.text, problem)) return {};
  return problem.empty() ? wrong_type(node, type_name<T>()) : problem;
}

/// parse(), and what the rules say.
template <class T>
std::string parse_by_rules(const Node& node, T& value, const Rules& rules) {
  T parsed = value;
  std::string problem = parse(node, parsed);
  for (const Rule& rule : rules) {
    if (!problem.empty()) return problem;
    if constexpr (std::is_arithmetic_v<T>) {
      if (rule.number && !rule.number(static_cast<double>(parsed))) problem = rule.violated_by(brief(node.text));
    } else if constexpr (std::same_as<T, std::string>) {
      if (rule.text && !rule.text(parsed)) problem = rule.violated_by(shown(node), parsed);
    }
  }
  if (problem.empty()) value = parsed;
  return problem;
}

/// Calls visit.template operator()<Alternative>() for each alternative of a variant.
template <class... T, class Visit>
void for_each_alternative(const std::variant<T...>&, Visit&& visit) {
  (visit.template operator()<T>(), ...);
}

template <class Variant>
std::vector<std::string> kinds(const Variant& variant) {
  std::vector<std::string> names;
  for_each_alternative(variant, [&]<class T>() { names.emplace_back(T::kKind); });
  return names;
}

template <class T>
Node to_node(const T& value);

template <HasFields T>
void append_fields(const T& value, Node& map) {
  T::fields(value, [&map](std::string_view key, const auto& field, const auto&...) {
    map.children.push_back(to_node(field));
    map.children.back().key = key;
  });
}

template <class T>
Node to_node(const T& value) {
  Node node;
  if constexpr (kIs<T, std::optional>) {
    if (value) return to_node(*value);
    node.kind = Node::Kind::null;
  } else if constexpr (kIsList<T>) {
    node.kind = Node::Kind::list;
    for (const auto& element : value) node.children.push_back(to_node(element));
  } else if constexpr (kIs<T, std::variant>) {
    node.kind = Node::Kind::map;
    std::visit(
        [&node]<class Alternative>(const Alternative& alternative) {
          node.children.push_back(plain_node(std::string(Alternative::kKind)));
          node.children.back().key = "kind";
          append_fields(alternative, node);
        },
        value);
  } else if constexpr (HasFields<T>) {
    node.kind = Node::Kind::map;
    append_fields(value, node);
  } else if constexpr (TextValue<T>) {
    node = plain_node(value.to_text());
  } else if constexpr (std::integral<T> && !std::same_as<T, bool>) {
    node = scalar_node(std::int64_t{value});
  } else {
    node = scalar_node(value);
  }
  return node;
}

/// Whether a rule can apply to a member of type T.
template <class T>
bool fits(const Rule& rule) {
  if constexpr (kIs<T, std::optional>) {
    return fits<typename T::value_type>(rule);
  } else if constexpr (kIsList<T>) {
    return rule.length || fits<typename T::value_type>(rule);
  } else if constexpr (std::is_arithmetic_v<T>) {
    return rule.number && !std::same_as<T, bool>;
  } else {
    return rule.text && std::same_as<T, std::string>;
  }
}

/// Calls visit(path, number, rules) for every real number that a value holds.
template <class T, class Visit>
void for_each_real(const T& value, const std::string& path, const Rules& rules, const Visit& visit) {
  if constexpr (std::floating_point<T>) {
    visit(path, value, rules);
  } else if constexpr (kIs<T, std::optional>) {
    if (value) for_each_real(*value, path, rules, visit);
  } else if constexpr (kIsList<T>) {
    for (std::size_t i = 0; i < value.size(); ++i) for_each_real(value[i], join(path, i), rules, visit);
  } else if constexpr (kIs<T, std::variant>) {
    std::visit([&](const auto& held) { for_each_real(held, path, {}, visit); }, value);
  } else if constexpr (HasFields<T>) {
    T::fields(value, [&](std::string_view key, const auto& field, std::string_view, const auto&... field_rules) {
      for_each_real(field, join(path, key), {field_rules...}, visit);
    });
  }
}

template <class T>
void describe(std::vector<FieldHelp>& out, const std::string& path, const std::string& owner, const T& value);

template <class T>
void describe_fields(std::vector<FieldHelp>& out, const std::string& path, const std::string& owner, const T& value) {
  T::fields(value, [&](std::string_view key, const auto& field, std::string_view help, const auto&... rules) {
    using Field = std::remove_cvref_t<decltype(field)>;
    const Node node = to_node(field);
    FieldHelp line{join(path, key), owner, type_name<Field>(), {}, std::string(help), {}};
    if (node.kind != Node::Kind::map) line.default_text = to_flow(node);
    for (const Rule& rule : Rules{rules...}) {
      if (!fits<Field>(rule)) throw std::logic_error(line.path + ": no such value can be " + rule.wants);
      line.rule.append(line.rule.empty() ? "" : ", ").append(rule.wants);
    }
    out.push_back(line);
    describe(out, line.path, join(owner, key), field);
  });
}

/// Describes what lies below a member: the fields of a struct, of every alternative of a variant, of the elements of a list.
template <class T>
void describe(std::vector<FieldHelp>& out, const std::string& path, const std::string& owner, const T& value) {
  if constexpr (kIs<T, std::optional>) {
    describe(out, path, owner, value.value_or(typename T::value_type{}));
  } else if constexpr (kIsList<T>) {
    describe(out, path + "[]", owner + "[]", typename T::value_type{});
  } else if constexpr (kIs<T, std::variant>) {
    std::string kind = std::visit([](const auto& held) { return std::string(held.kKind); }, value);
    if (owner.ends_with("[]")) kind.clear();  // to be given
    out.push_back({join(path, "kind"), owner, "text", kind, "which of the kinds", one_of(kinds(value)).wants});
    for_each_alternative(value, [&]<class Alternative>() {
      const auto* held = std::get_if<Alternative>(&value);
      describe_fields(out, join(path, Alternative::kKind), owner, held ? *held : Alternative{});
    });
  } else if constexpr (HasFields<T>) {
    describe_fields(out, path, owner, value);
  }
}

}  // namespace config_detail

/// The configuration with every member spelled out; reading it gives the same configuration again.
template <class T>
std::string to_yaml(const T& config) {
  return config_detail::to_yaml(config_detail::to_node(config));
}

/// Reads one number, as on a command line, by the grammar and the rules of configurations. Returns what is wrong, or "".
template <class T>
std::string read_number(const std::string& text, T& value, const Rules& rules) {
  config_detail::Node node;
  node.kind = config_detail::Node::Kind::scalar;
  node.text = text;
  return config_detail::parse_by_rules(node, value, rules);
}

/// Every value with its key path, in the order of the members: ("events.0.kind", "switch"). Texts are those of to_yaml, so that `path=text` is an
/// override.
template <class T>
std::vector<std::pair<std::string, std::string>> flatten(const T& config) {
  return config_detail::flatten(config_detail::to_node(config));
}

/// The first setting in which two flattened configurations differ though `may_differ` does not allow it: "heads: 2, 4". Empty if there is none.
std::string first_difference(const std::vector<std::pair<std::string, std::string>>& a, const std::vector<std::pair<std::string, std::string>>& b,
                             const std::function<bool(std::string_view)>& may_differ);

/// Every key that a configuration may have, with the values of `config` as defaults.
template <class T>
std::vector<FieldHelp> describe(const T& config) {
  std::vector<FieldHelp> out;
  config_detail::describe(out, "", "", config);
  return out;
}

/// The text of a configuration and its overrides, and everything found wrong with them.
class ConfigSource {
 public:
  /// Throws ConfigError for text that is not YAML; all other faults wait for throw_if_violated().
  ConfigSource(std::string_view text, std::string file_name);
  static ConfigSource from_file(const std::filesystem::path& path);

  /// Applies `a.b.0=value`, the value as in a YAML flow list: a map sets the keys that it names, {} empties, a list replaces. Returns the paths that
  /// are set. Throws ConfigError if the argument cannot be understood.
  std::vector<std::string> override_with(const std::string& assignment);

  /// Reads what it can. A member that cannot be read keeps its default and adds a violation. Rules apply to values that are given (non_empty() to
  /// every list), so that a default may break them: "" for "the kind's name".
  template <class T>
  T read() {
    T config{};
    if (root_.kind == Node::Kind::map) read_value(root_, "", config, {});
    if (!unknown_keys_.empty()) explain_unknown_keys(describe(T{}));
    return config;
  }

  /// Takes a block of the top level out, for a reader of its own: read() does not see it then.
  std::optional<config_detail::Node> take(std::string_view key);
  /// read(), of a block that was taken out.
  template <class T>
  T read_block(const config_detail::Node& block, const std::string& key) {
    T config{};
    read_value(block, key, config, {});
    explain_unknown_keys({});
    return config;
  }

  /// Adds a violation at the place of `path`, or of the part of it that exists.
  void fail(std::string_view path, const std::string& what);
  /// The same for a value of a block that was taken out.
  void fail(const config_detail::Node& value, const std::string& path, const std::string& what) { violate(value.place, path, what); }
  bool contains(std::string_view path) const;
  /// Whether no violation is known at, below or above this path.
  bool clean(std::string_view path = {}) const;
  void throw_if_violated() const;

 private:
  using Node = config_detail::Node;
  using Place = config_detail::Place;
  struct Text {
    std::string name, text;
  };
  struct Violation {
    Place place;
    std::string path;
    std::string message;
  };
  struct UnknownKey {
    Place place;
    std::string path, key, kind;
    std::vector<std::string> known;
  };
  class Builder;

  void check_bytes(std::size_t yaml_begin) const;
  Node parse(std::size_t yaml_begin, const std::string& path);
  std::string located(Place place, const std::string& message) const;
  [[noreturn]] void refuse(std::size_t offset, const std::string& what) const;
  void refuse_open_quote(std::size_t from, std::size_t to) const;  // in [from, to)
  void violate(Place place, const std::string& path, const std::string& what);
  std::pair<const Node*, bool> locate(std::string_view path) const;  // the node and true; else the deepest node on the way to it, and false
  void check_length(Place place, const std::string& path, std::size_t size, const Rules& rules, const char* got);
  void explain_unknown_keys(const std::vector<FieldHelp>& help);

  template <class T>
  void read_value(const Node& node, const std::string& path, T& value, const Rules& rules);
  template <class T>
  void read_list(const Node& node, const std::string& path, T& list, const Rules& rules);
  template <class T>
  void read_variant(const Node& node, const std::string& path, T& variant);
  template <class T>
  void read_fields(const Node& node, const std::string& path, T& value, std::string_view kind);

  std::vector<Text> texts_;  // the file, then each override
  Node root_;
  std::vector<Violation> violations_;
  std::vector<UnknownKey> unknown_keys_;
  std::vector<std::size_t> open_quotes_;  // of the latest text
};

template <class T>
void ConfigSource::read_value(const Node& node, const std::string& path, T& value, const Rules& rules) {
  using namespace config_detail;
  if (node.kind == Node::Kind::refused) return;
  if constexpr (kIs<T, std::optional>) {
    if (node.kind == Node::Kind::null) return value.reset();
    if (!value) value.emplace();
    read_value(node, path, *value, rules);
  } else if constexpr (kIsList<T>) {
    if (node.kind != Node::Kind::list) return violate(node.place, path, wrong_type(node, "a list"));
    read_list(node, path, value, rules);
  } else if constexpr (kIs<T, std::variant> || HasFields<T>) {
    if (node.kind != Node::Kind::map) return violate(node.place, path, wrong_type(node, "a map"));
    if constexpr (kIs<T, std::variant>)
      read_variant(node, path, value);
    else
      read_fields(node, path, value, {});
  } else {
    if (const std::string problem = parse_by_rules(node, value, rules); !problem.empty()) violate(node.place, path, problem);
  }
}

template <class T>
void ConfigSource::read_list(const Node& node, const std::string& path, T& list, const Rules& rules) {
  using namespace config_detail;
  const std::size_t size = node.children.size();
  if constexpr (kIs<T, std::vector>) {
    list.assign(size, {});
  } else if (size != list.size()) {
    const std::string counts = std::to_string(list.size()) + " values, got " + std::to_string(size);
    return violate(node.place, path, "expected a list of " + counts);
  }
  check_length(node.place, path, size, rules, "[]");
  for (std::size_t i = 0; i < size; ++i) {
    const Node& element = node.children[i];
    if constexpr (kIs<typename T::value_type, std::variant>) {  // no alternative is the natural one in a list
      if (element.kind == Node::Kind::map && !element.find("kind")) {
        violate(element.place, join(path, i), "needs a kind, " + one_of(kinds(list[i])).wants);
        continue;
      }
    }
    read_value(element, join(path, i), list[i], rules);
  }
}

template <class T>
void ConfigSource::read_variant(const Node& node, const std::string& path, T& variant) {
  using namespace config_detail;
  if (const Node* kind = node.find("kind")) {
    std::string name;
    read_value(*kind, join(path, "kind"), name, {one_of(kinds(variant))});
    if (name.empty()) return;  // without a kind nobody knows which keys are right
    for_each_alternative(variant, [&]<class Alternative>() {
      if (Alternative::kKind == name && !std::holds_alternative<Alternative>(variant)) variant.template emplace<Alternative>();
    });
  }
  std::visit([&](auto& held) { read_fields(node, path, held, held.kKind); }, variant);
}

template <class T>
void ConfigSource::read_fields(const Node& node, const std::string& path, T& value, std::string_view kind) {
  std::vector<std::string> known;
  if (!kind.empty()) known.emplace_back("kind");
  T::fields(value, [&](std::string_view key, auto& field, std::string_view /*help*/, const auto&... rules) {
    known.emplace_back(key);
    const std::string field_path = config_detail::join(path, key);
    if (const Node* child = node.find(key)) {
      read_value(*child, field_path, field, {rules...});
    } else if constexpr (config_detail::kIsList<std::remove_reference_t<decltype(field)>>) {
      check_length(node.key_place, field_path, field.size(), {rules...}, "nothing");
    }
  });
  for (const Node& child : node.children) {
    if (std::find(known.begin(), known.end(), child.key) == known.end())
      unknown_keys_.push_back({child.key_place, path, child.key, std::string(kind), known});
  }
}

}  // namespace mnemo
