#include "core/config.h"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <sstream>
#include <unordered_map>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

namespace mnemo {

using config_detail::join;
using config_detail::Node;
using config_detail::Place;

namespace {

constexpr std::size_t kMaxBytes = 1 << 20;
constexpr std::size_t kMaxDepth = 16;
constexpr std::size_t kMaxMessages = 100;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alnum(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_control(char c) { return (c >= 0 && c < ' ') || c == 0x7f; }
bool is_null_word(std::string_view text) { return text == "null" || text == "Null" || text == "NULL" || text == "~"; }
bool all_digits(std::string_view text) { return !text.empty() && std::all_of(text.begin(), text.end(), is_digit); }

std::string number_text(double value) {
  std::string text = fmt::format("{}", value);
  const std::size_t exponent = text.find('e');
  // YAML 1.1, and so PyYAML, takes 1e-08 for a string.
  if (exponent != std::string::npos && text.find('.') == std::string::npos) text.insert(exponent, ".0");
  return text;
}

/// Length of the UTF-8 character at the start of `text` (not empty); 0 for an overlong form, a surrogate, a value
/// beyond U+10FFFF or a stray byte (The Unicode Standard, table 3-7).
std::size_t utf8_length(std::string_view text) {
  const auto byte = [text](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto in = [](unsigned value, unsigned low, unsigned high) { return value >= low && value <= high; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = in(first, 0xc2, 0xdf) ? 2 : in(first, 0xe0, 0xef) ? 3 : in(first, 0xf0, 0xf4) ? 4 : 0;
  if (length == 0) return 0;
  const unsigned low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const unsigned high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  bool valid = in(byte(1), low, high);
  for (std::size_t i = 2; i < length; ++i) valid = valid && in(byte(i), 0x80, 0xbf);
  return valid ? length : 0;
}

/// The code point of the UTF-8 character of this length at the start of `text`.
unsigned code_point(std::string_view text, std::size_t length) {
  unsigned code = static_cast<unsigned char>(text[0]) & (length == 1 ? 0x7fu : 0xffu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3fu);
  return code;
}

/// The name of a non-ASCII character that is invisible on a screen; "" for a visible one.
std::string_view invisible_name(unsigned code) {
  struct Range {
    unsigned first, last;
    std::string_view name;
  };
  static constexpr Range kInvisible[] = {
      {0x85, 0x85, "a next-line character"},
      {0x80, 0x9f, "a control character"},
      {0xa0, 0xa0, "a no-break space"},
      {0xad, 0xad, "a soft hyphen"},
      {0x1680, 0x1680, "an ogham space"},
      {0x180e, 0x180e, "a vowel separator"},
      {0x200b, 0x200b, "a zero-width space"},
      {0x2000, 0x200a, "a typographic space"},
      {0x200c, 0x200f, "a zero-width mark"},
      {0x2028, 0x2028, "a line separator"},
      {0x2029, 0x2029, "a paragraph separator"},
      {0x202a, 0x202e, "a mark of direction"},
      {0x202f, 0x202f, "a narrow no-break space"},
      {0x205f, 0x205f, "a typographic space"},
      {0x2060, 0x206f, "a zero-width mark"},
      {0x3000, 0x3000, "an ideographic space"},
      {0xfeff, 0xfeff, "a byte order mark"},
  };
  for (const auto& [first, last, name] : kInvisible) {
    if (code >= first && code <= last) return name;
  }
  return {};
}

/// The text with invisible characters escaped, and a backslash before each character of `also`.
std::string escaped(std::string_view text, std::string_view also = {}) {
  std::string out;
  while (!text.empty()) {
    const std::size_t valid = utf8_length(text), length = std::max<std::size_t>(valid, 1);
    const unsigned code = valid > 0 ? code_point(text, valid) : 0xfffd;
    if (code == '\n')
      out += "\\n";
    else if (code < ' ' || code == 0x7f)
      out += fmt::format("\\x{:02x}", code);
    else if (!invisible_name(code).empty())
      out += fmt::format("\\u{:04x}", code);
    else
      out.append(also.find(text[0]) == std::string_view::npos ? "" : "\\").append(text.substr(0, length));
    text.remove_prefix(length);
  }
  return out;
}

/// Quotes and comments roughly as a YAML reader sees them, if no quoted text continues on the next line.
struct Marks {
  std::vector<std::size_t> open_quotes;            // not closed on their line
  std::size_t invisible = std::string_view::npos;  // the first such character outside of quotes and comments
};

Marks marks_of(std::string_view text, std::size_t begin) {
  Marks found;
  const auto is_blank = [text](std::size_t i) { return i >= text.size() || std::string_view(" \t\r\n").find(text[i]) != std::string_view::npos; };
  std::size_t opened = 0, depth = 0;  // where the quote stands; brackets around
  char quote = '\0';                  // around the character
  bool in_comment = false, begins_token = true;
  const auto end_line = [&] {
    if (quote != '\0') found.open_quotes.push_back(opened);
    quote = '\0';
    in_comment = false;
    begins_token = true;
  };
  for (std::size_t i = begin; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      end_line();
    } else if (quote != '\0') {
      const bool escapes = (c == '\\' && quote == '"') || (c == '\'' && quote == c && i + 1 < text.size() && text[i + 1] == c);
      if (escapes)
        ++i;
      else if (c == quote)
        quote = '\0';
    } else if (in_comment || is_blank(i)) {
      continue;
    } else if (begins_token && (c == '"' || c == '\'')) {
      quote = c;
      opened = i;
      begins_token = false;
    } else if (c == '#' && (i == begin || is_blank(i - 1))) {
      in_comment = true;
    } else {
      const bool opens = (c == '[' || c == '{') && (begins_token || depth > 0), closes = (c == ']' || c == '}') && depth > 0;
      begins_token = opens || (c == ',' && depth > 0) || (is_blank(i + 1) && (c == ':' || (begins_token && (c == '-' || c == '?'))));
      depth = depth + opens - closes;
      const std::size_t length = utf8_length(text.substr(i));
      if (length > 1 && found.invisible == text.npos && !invisible_name(code_point(text.substr(i), length)).empty()) found.invisible = i;
    }
  }
  end_line();
  return found;
}

/// Edits that turn one word into the other: insert, delete or replace a letter, or swap two neighbours.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

/// "; did you mean 'lr'?" if a candidate is close, else "".
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string* best = nullptr;
  std::size_t best_distance = std::string::npos;
  for (const std::string& candidate : candidates) {
    const std::size_t limit = std::clamp<std::size_t>(candidate.size() / 3, 1, 3);
    if (word.size() > candidate.size() + limit) continue;
    const std::size_t distance = edit_distance(word, candidate);
    if (distance <= limit && distance < best_distance) {
      best = &candidate;
      best_distance = distance;
    }
  }
  return best ? fmt::format("; did you mean '{}'?", *best) : "";
}

std::vector<std::string> words_of(std::string_view key) {
  std::vector<std::string> words;
  while (!key.empty()) {
    const std::string_view word = key.substr(0, key.find('_'));
    if (!word.empty()) words.emplace_back(word);
    key.remove_prefix(std::min(key.size(), word.size() + 1));
  }
  return words;
}

/// Makes learningRate, LearningRate and learning_rate equal.
std::string squeezed(std::string_view key) {
  std::string out;
  for (const char c : key) {
    if (c != '_' && c != '-') out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return out;
}

/// The key that a user probably means: the same name spelt differently, a usual synonym, or a name that shares a word (num_heads); or "".
std::string other_name_of(const std::string& key, const std::vector<std::string>& candidates) {
  static constexpr std::pair<std::string_view, std::string_view> kUsualNames[] = {
      {"learning_rate", "lr"},     {"epochs", "steps"},          {"iterations", "steps"}, {"iters", "steps"},         {"updates", "steps"},
      {"bs", "batch_size"},        {"wd", "weight_decay"},       {"l2", "weight_decay"},  {"beta1", "betas"},         {"beta2", "betas"},
      {"momentum", "betas"},       {"epsilon", "eps"},           {"dtype", "precision"},  {"gpu", "device"},          {"cuda", "device"},
      {"workers", "threads"},      {"cores", "threads"},         {"cpus", "threads"},     {"alpha", "zipf_exponent"}, {"seq_len", "length"},
      {"bits", "length"},          {"samples", "num_sequences"}, {"type", "kind"},        {"head_size", "head_dim"},  {"hidden_size", "mlp_width"},
      {"depth", "mlp_layers"},     {"n_layer", "mlp_layers"},    {"n_head", "heads"},     {"temperature", "eta"},     {"beta", "eta"},
      {"memory_size", "capacity"}, {"queue_size", "capacity"},   {"when", "at"},          {"interval", "every"},      {"scheduler", "schedule"},
      {"warmup_steps", "warmup"},
  };
  const auto words = words_of(key);
  const auto has = [](const std::vector<std::string>& list, std::string_view word) {
    return std::find(list.begin(), list.end(), word) != list.end();
  };
  for (const auto& candidate : candidates) {
    if (squeezed(key) == squeezed(candidate)) return candidate;
  }
  for (const auto& [usual, ours] : kUsualNames) {
    const bool is_last_word = usual.find('_') == usual.npos && !words.empty() && words.back() == usual;
    if ((is_last_word || squeezed(key) == squeezed(usual)) && has(candidates, ours)) return std::string(ours);
  }
  const auto shared = [&](const std::string& candidate) {
    std::size_t count = 0;
    for (const auto& word : words_of(candidate)) count += word.size() > 2 && word != "size" && word != "num" && has(words, word);
    return count;
  };
  const auto best = std::max_element(candidates.begin(), candidates.end(), [&](const auto& a, const auto& b) { return shared(a) < shared(b); });
  return best != candidates.end() && shared(*best) > 0 ? *best : std::string();
}

/// A number as JSON writes it: digits * 10^exponent.
struct Decimal {
  bool negative = false;
  std::string digits;
  std::int64_t exponent = 0;
};

std::optional<Decimal> parse_decimal(std::string_view text) {
  const auto take = [&text](std::string_view any_of) {
    const bool found = !text.empty() && any_of.find(text.front()) != std::string_view::npos;
    if (found) text.remove_prefix(1);
    return found;
  };
  const auto take_digits = [&text] {
    const auto end = std::find_if_not(text.begin(), text.end(), is_digit);
    const std::string_view digits = text.substr(0, static_cast<std::size_t>(end - text.begin()));
    text.remove_prefix(digits.size());
    return digits;
  };
  Decimal number;
  number.negative = take("-");
  number.digits = take_digits();
  if (number.digits.empty() || (number.digits.size() > 1 && number.digits[0] == '0')) return {};
  if (take(".")) {
    const std::string_view fraction = take_digits();
    if (fraction.empty()) return {};
    number.digits += fraction;
    number.exponent -= static_cast<std::int64_t>(fraction.size());
  }
  if (take("eE")) {
    const bool down = text.starts_with('-');
    take("+-");
    const std::string_view power = take_digits();
    if (power.empty()) return {};
    constexpr std::int64_t kHuge = 4 * kMaxBytes;  // more than digits can make up for
    std::int64_t value = 0;
    const auto error = std::from_chars(power.data(), power.data() + power.size(), value).ec;
    if (error != std::errc() || value > kHuge) value = kHuge;
    number.exponent += down ? -value : value;
  }
  if (!text.empty()) return {};
  return number;
}

/// Whether the unquoted text reads back as a plain scalar in block and flow style.
bool is_plain(std::string_view text) {
  const auto is_word = [text](std::size_t i) { return i < text.size() && (is_alnum(text[i]) || text[i] == '_' || text[i] == '/'); };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool may_follow = i > 0 && std::string_view(".%+-").find(text[i]) != std::string_view::npos;
    const bool may_lead = (i == 0 ? text[i] == '-' : text[i] == ':') && is_word(i + 1);
    if (!is_word(i) && !may_follow && !may_lead) return false;
  }
  return !text.empty() && !is_null_word(text);
}

/// Whether some YAML reader would take the plain text for a number, a date or a truth value.
bool looks_like_another_type(std::string_view text) {
  static constexpr std::array kWords{"true", "false", "yes", "no", "on", "off"};
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return is_digit(text.front()) || text.front() == '-' || std::count(kWords.begin(), kWords.end(), lower) != 0;
}

std::string scalar_text(const Node& node) { return node.quoted ? '"' + escaped(node.text, "\\\"") + '"' : node.text; }

std::string what_it_is(const Node& node) {
  switch (node.kind) {
    case Node::Kind::null: return "null";
    case Node::Kind::scalar: return node.quoted ? "a quoted string" : config_detail::shown(node);
    case Node::Kind::list: return "a list";
    case Node::Kind::map: return "a map";
    case Node::Kind::nothing:
    case Node::Kind::refused: break;
  }
  return "nothing";
}

/// Removes the first key and its dot from the path. Returns the key.
std::string_view take_key(std::string_view& path) {
  const std::string_view key = path.substr(0, path.find('.'));
  path.remove_prefix(std::min(path.size(), key.size() + 1));
  return key;
}

/// The index of the child with this key (in a map) or this number (in a list).
std::optional<std::size_t> child_index(const Node& node, std::string_view key) {
  if (node.kind == Node::Kind::map) {
    const Node* child = node.find(key);
    if (child) return child - node.children.data();
  } else if (node.kind == Node::Kind::list && all_digits(key) && (key == "0" || key[0] != '0')) {
    std::size_t index = 0;
    const auto error = std::from_chars(key.data(), key.data() + key.size(), index).ec;
    if (error == std::errc() && index < node.children.size()) return index;
  }
  return {};
}

/// Why an override cannot put a new key here, or "".
std::string why_not_added(const Node& node, std::string_view key) {
  if (node.kind == Node::Kind::scalar) return "is a single value, without keys";
  if (node.kind == Node::Kind::list) return fmt::format("has no entry '{}', the list has {}", key, node.children.size());
  return all_digits(key) ? "is no list in the text so far; give it whole" : "";
}

/// Replaces a value. A map is merged into a map key by key, unless it is empty or of another kind.
void put(Node& target, Node value) {
  const Node *old_kind = target.find("kind"), *new_kind = value.find("kind");
  const bool same_kind = old_kind == nullptr || new_kind == nullptr || old_kind->text == new_kind->text;
  const bool both_maps = target.kind == Node::Kind::map && value.kind == Node::Kind::map;
  if (!both_maps || value.children.empty() || !same_kind) return void(target = std::move(value));
  target.key_place = value.key_place;
  for (Node& child : value.children) {
    const std::optional<std::size_t> index = child_index(target, child.key);
    if (index)
      put(target.children[*index], std::move(child));
    else
      target.children.push_back(std::move(child));
  }
}

void append_paths(const Node& value, const std::string& path, std::vector<std::string>& out) {
  if (value.kind != Node::Kind::map || value.children.empty()) return out.push_back(path);
  for (const Node& child : value.children) append_paths(child, join(path, child.key), out);
}

/// events.1.at -> events[].at
std::string schema_path(std::string_view path) {
  std::string out;
  while (!path.empty()) {
    const std::string_view key = take_key(path);
    out = all_digits(key) ? out + "[]" : join(out, key);
  }
  return out;
}

/// Whether one path equals or contains the other.
bool related(std::string_view a, std::string_view b) {
  if (a.size() > b.size()) std::swap(a, b);
  return a.empty() || (b.starts_with(a) && (a.size() == b.size() || b[a.size()] == '.'));
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Rules

std::string Rule::violated_by(const std::string& got, std::string_view value) const {
  if (choices.empty()) return fmt::format("must be {}, got {}", wants, got);
  return fmt::format("must be {}; got {}{}", wants, got, did_you_mean(value, choices));
}

namespace {

Rule number_rule(std::string wants, std::function<bool(double)> holds) { return {std::move(wants), std::move(holds), nullptr, nullptr, {}}; }

}  // namespace

Rule at_least(double low) {
  return number_rule(fmt::format("at least {}", low), [low](double value) { return value >= low; });
}

Rule at_most(double high) {
  return number_rule(fmt::format("at most {}", high), [high](double value) { return value <= high; });
}

Rule positive() {
  return number_rule("> 0", [](double value) { return value > 0; });
}

Rule non_negative() {
  return number_rule(">= 0", [](double value) { return value >= 0; });
}

Rule in_range(double low, double high, bool include_high, bool include_low) {
  const auto holds = [=](double value) { return (include_low ? value >= low : value > low) && (include_high ? value <= high : value < high); };
  return number_rule(fmt::format("in {}{}, {}{}", include_low ? '[' : '(', low, high, include_high ? ']' : ')'), holds);
}

Rule one_of(std::vector<std::string> choices) {
  const auto holds = [choices](std::string_view value) { return std::find(choices.begin(), choices.end(), value) != choices.end(); };
  return {fmt::format("one of {}", fmt::join(choices, ", ")), nullptr, holds, nullptr, choices};
}

Rule file_name() {
  const auto holds = [](std::string_view name) {
    const auto allowed = [](char c) { return is_alnum(c) || c == '.' || c == '_' || c == '-'; };
    return !name.empty() && name.size() <= 100 && name[0] != '.' && std::all_of(name.begin(), name.end(), allowed);
  };
  return {"a file name (letters, digits, '.', '_', '-'; no dot first; at most 100)", nullptr, holds, nullptr, {}};
}

Rule non_empty() {
  return {"non-empty", nullptr, nullptr, [](std::size_t size) { return size > 0; }, {}};
}

// ---------------------------------------------------------------------------------------------------------------------
// Values

namespace config_detail {

const Node* Node::find(std::string_view wanted_key) const {
  const auto found = std::find_if(children.begin(), children.end(), [&](const Node& c) { return c.key == wanted_key; });
  return found == children.end() ? nullptr : &*found;
}

std::string join(const std::string& path, std::string_view key) { return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key); }

std::string join(const std::string& path, std::size_t index) { return join(path, std::to_string(index)); }

std::string brief(std::string_view text) {
  constexpr std::size_t kLong = 60;
  std::size_t size = 0;
  while (size < text.size() && size < kLong) size += std::max<std::size_t>(utf8_length(text.substr(size)), 1);
  return escaped(text.substr(0, size)) + (size < text.size() ? "..." : "");
}

std::string shown(const Node& scalar) { return fmt::format("'{}'", brief(scalar.text)); }

std::string corrected(std::string_view text) {
  constexpr std::string_view kMinusSign = "\u2212";
  std::string number(text.starts_with('+') ? text.substr(1) : text);
  for (auto at = number.find(kMinusSign); at != number.npos; at = number.find(kMinusSign)) number.replace(at, kMinusSign.size(), "-");
  std::erase(number, '_');
  const std::size_t first = number.starts_with('-') ? 1 : 0;
  const auto digit_at = [&number](std::size_t i) { return i < number.size() && is_digit(number[i]); };
  while (number.substr(first, 1) == "0" && digit_at(first + 1)) number.erase(first, 1);
  if (number.substr(first, 1) == "." && digit_at(first + 1)) number.insert(first, 1, '0');
  if (const auto point = number.find('.'); point > first && point != number.npos && !digit_at(point + 1)) number.erase(point, 1);
  return number != text && parse_decimal(number) ? number : std::string();
}

namespace {

/// The message for text that is not the wanted number, with a corrected spelling if one helps.
template <class Holds>
std::string no_number(const Node& node, std::string_view expected, Holds holds) {
  Node other = node;
  if (node.kind == Node::Kind::scalar && !node.quoted) other.text = corrected(node.text);
  const bool helps = other.text != node.text && !other.text.empty() && holds(other);
  return wrong_type(node, expected) + (helps ? "; write " + other.text : "");
}

}  // namespace

std::string wrong_type(const Node& node, std::string_view expected) {
  if (node.kind == Node::Kind::nothing) return "has no value";
  return fmt::format("expected {}, got {}", expected, what_it_is(node));
}

std::string parse_integer(const Node& node, std::int64_t low, std::int64_t high, std::int64_t& value) {
  std::optional<Decimal> number;
  if (node.kind == Node::Kind::scalar && !node.quoted) number = parse_decimal(node.text);
  if (!number) {
    return no_number(node, "an integer", [&, unused = value](const Node& other) mutable { return parse_integer(other, low, high, unused).empty(); });
  }
  std::string& digits = number->digits;
  digits.erase(0, digits.find_first_not_of('0'));
  for (; digits.ends_with('0'); ++number->exponent) digits.pop_back();
  if (digits.empty()) number->exponent = 0;
  if (number->exponent < 0) return wrong_type(node, "an integer");
  constexpr std::int64_t kTooMany = 20;  // digits for 64 bits
  const auto zeros = static_cast<std::size_t>(std::min(number->exponent, kTooMany));
  const std::string whole = (number->negative ? "-0" : "0") + digits + std::string(zeros, '0');
  const auto error = std::from_chars(whole.data(), whole.data() + whole.size(), value).ec;
  if (error == std::errc() && value >= low && value <= high) return {};
  if (high == std::numeric_limits<std::int64_t>::max()) return fmt::format("must fit into 64 bits, got {}", brief(node.text));
  return fmt::format("must be in [{}, {}], got {}", low, high, brief(node.text));
}

std::string parse(const Node& node, bool& value) {
  const bool is_plain_scalar = node.kind == Node::Kind::scalar && !node.quoted;
  if (!is_plain_scalar || (node.text != "true" && node.text != "false")) return wrong_type(node, "true or false");
  value = node.text == "true";
  return {};
}

std::string parse(const Node& node, double& value) {
  if (node.kind != Node::Kind::scalar || node.quoted || !parse_decimal(node.text)) {
    return no_number(node, "a number", [unused = value](const Node& other) mutable { return parse(other, unused).empty(); });
  }
  const char* end = node.text.data() + node.text.size();
  if (std::from_chars(node.text.data(), end, value).ec == std::errc()) return {};
  return fmt::format("must fit into a double, got {}", brief(node.text));
}

std::string parse(const Node& node, std::string& value) {
  if (node.kind != Node::Kind::scalar) return wrong_type(node, "text");
  value = node.text;
  return {};
}

Node plain_node(std::string text) {
  Node node;
  node.kind = Node::Kind::scalar;
  node.quoted = !is_plain(text);
  node.text = std::move(text);
  return node;
}

Node scalar_node(bool value) { return plain_node(value ? "true" : "false"); }
Node scalar_node(std::int64_t value) { return plain_node(std::to_string(value)); }
Node scalar_node(double value) { return plain_node(number_text(value)); }

Node scalar_node(const std::string& value) {
  Node node = plain_node(value);
  node.quoted = node.quoted || looks_like_another_type(value);
  return node;
}

std::string to_flow(const Node& node) {
  if (node.kind == Node::Kind::null) return "null";
  if (node.kind == Node::Kind::scalar) return scalar_text(node);
  const bool is_map = node.kind == Node::Kind::map;
  std::vector<std::string> parts;
  for (const Node& child : node.children) parts.push_back((is_map ? scalar_text(scalar_node(child.key)) + ": " : "") + to_flow(child));
  return fmt::format("{}{}{}", is_map ? '{' : '[', fmt::join(parts, ", "), is_map ? '}' : ']');
}

namespace {

bool is_block(const Node& node) {  // is written on lines of its own
  const auto is_full_map = [](const Node& n) { return n.kind == Node::Kind::map && !n.children.empty(); };
  return is_full_map(node) || (node.kind == Node::Kind::list && std::any_of(node.children.begin(), node.children.end(), is_full_map));
}

std::string to_block(const Node& node, std::size_t indent) {
  std::string out;
  for (const Node& child : node.children) {
    out.append(indent, ' ');
    const bool in_map = node.kind == Node::Kind::map;
    out += in_map ? scalar_text(scalar_node(child.key)) + ":" : "-";
    if (!is_block(child)) {
      out += " " + to_flow(child) + "\n";
    } else if (in_map) {
      out += "\n" + to_block(child, indent + 2);
    } else {  // the first key stands after the dash
      out += " " + to_block(child, indent + 2).substr(indent + 2);
    }
  }
  return out;
}

void append_leaves(const Node& node, const std::string& path, std::vector<std::pair<std::string, std::string>>& out) {
  if (node.children.empty()) return void(out.emplace_back(path, to_flow(node)));
  for (std::size_t i = 0; i < node.children.size(); ++i) {
    const Node& child = node.children[i];
    append_leaves(child, node.kind == Node::Kind::map ? join(path, child.key) : join(path, i), out);
  }
}

}  // namespace

std::string to_yaml(const Node& root) { return is_block(root) ? to_block(root, 0) : to_flow(root) + "\n"; }

std::vector<std::pair<std::string, std::string>> flatten(const Node& root) {
  std::vector<std::pair<std::string, std::string>> out;
  append_leaves(root, "", out);
  return out;
}

}  // namespace config_detail

// ---------------------------------------------------------------------------------------------------------------------
// Text to nodes

/// Builds the tree from the parser's events and refuses what configurations do not support.
class ConfigSource::Builder : public YAML::EventHandler {
  using Style = YAML::EmitterStyle::value;

 public:
  Builder(ConfigSource& source, std::size_t yaml_begin, const std::string& path)
      : source_(source), text_(source.texts_.back().text), begin_(yaml_begin), path_(path) {
    root_.place = place({});
  }

  Node take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 1) return;
    const bool has_header = rest(mark).starts_with("---");
    source_.refuse(place(mark).offset, has_header ? "a second document" : "unexpected text after the value");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    Node node = start(mark, Node::Kind::nothing);
    // The parser reports `key:` and `key: null` alike; the mark of the former is at whatever comes next.
    const std::string_view text = rest(mark);
    const std::string_view word = text.substr(0, text.find_first_of(" \t\r\n,]}:"));
    if (is_null_word(word) && node.kind == Node::Kind::nothing) node.kind = Node::Kind::null;
    attach(std::move(node));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    report(mark, "aliases are not supported");
    attach(start(mark, Node::Kind::refused));
  }

  void OnAnchor(const YAML::Mark& mark, const std::string&) override { report(mark, "anchors are not supported"); }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
    Node node = start(mark, Node::Kind::scalar);
    source_.refuse_open_quote(node.place.offset, node.place.offset + 1);
    node.text = value;
    node.quoted = tag == "!";  // the parser's word for "not plain"; a written `!` is refused in start()
    if (value.find('\0') != std::string::npos) {
      report(mark, "contains a NUL character");
      node.kind = Node::Kind::refused;
    }
    attach(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, Style style) override { open(mark, Node::Kind::list, style); }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, Style style) override { open(mark, Node::Kind::map, style); }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    Node node;
    bool has_key = false, drop_value = false;
    std::string key;
    Place key_place;
    std::unordered_map<std::string, int> lines;  // of the keys so far
  };

  Place place(const YAML::Mark& mark) const {
    return {source_.texts_.size() - 1, std::min(begin_ + static_cast<std::size_t>(mark.pos), text_.size())};
  }

  std::string_view rest(const YAML::Mark& mark) const { return std::string_view(text_).substr(place(mark).offset); }

  std::string path() const {
    std::string path = path_;
    for (const Open& open : open_) {
      if (open.node.kind == Node::Kind::list)
        path = join(path, open.node.children.size());
      else if (open.has_key)
        path = join(path, open.key);
    }
    return path;
  }

  void report(const YAML::Mark& mark, const std::string& what) {
    // A block map starts where its first key does, so that one tag or anchor may be reported twice.
    if (mark.pos != reported_) source_.violate(place(mark), path(), what);
    reported_ = mark.pos;
  }

  Node start(const YAML::Mark& mark, Node::Kind kind) {
    Node node;
    node.kind = kind;
    node.place = node.key_place = place(mark);
    line_ = mark.line + 1;
    const bool has_tag = rest(mark).starts_with('!');
    if (has_tag) report(mark, "tags are not supported");
    const bool is_collection = kind == Node::Kind::list || kind == Node::Kind::map;
    if (!is_collection && (has_tag || rest(mark).starts_with('&'))) node.kind = Node::Kind::refused;
    return node;
  }

  void open(const YAML::Mark& mark, Node::Kind kind, Style style) {
    if (open_.size() == kMaxDepth) source_.refuse(place(mark).offset, fmt::format("deeper than {} levels", kMaxDepth));
    if (begin_ > 0 && style == YAML::EmitterStyle::Block) source_.refuse(place(mark).offset, "expected one value, [a, b] or {key: value}");
    Open open;
    open.node = start(mark, kind);
    open_.push_back(std::move(open));
  }

  void close() {
    Node node = std::move(open_.back().node);
    open_.pop_back();
    attach(std::move(node));
  }

  void attach(Node node) {
    if (open_.empty()) return void(root_ = std::move(node));
    Open& parent = open_.back();
    if (parent.node.kind == Node::Kind::map && !parent.has_key) return take_key(node);
    if (parent.node.kind == Node::Kind::map) {
      node.key = parent.key;
      node.key_place = parent.key_place;
      if (node.kind == Node::Kind::nothing) node.place = node.key_place;
      parent.has_key = false;
    }
    if (!parent.drop_value) parent.node.children.push_back(std::move(node));
  }

  void take_key(const Node& node) {
    std::string problem;
    std::string where = path();
    Open& map = open_.back();
    if (node.kind != Node::Kind::scalar) {
      if (node.kind != Node::Kind::refused) problem = "expected a key, got " + what_it_is(node);
    } else if (node.text == "<<") {
      problem = "merge keys are not supported";
    } else if (const auto [first, is_new] = map.lines.emplace(node.text, line_); !is_new) {
      problem = fmt::format("duplicate key, first on line {}", first->second);
      where = join(where, node.text);
    }
    if (!problem.empty()) source_.violate(node.place, where, problem);
    map.drop_value = !problem.empty() || node.kind == Node::Kind::refused;
    map.has_key = true;
    map.key = node.text;
    map.key_place = node.place;
  }

  ConfigSource& source_;
  const std::string& text_;
  std::size_t begin_;  // of the YAML in the text
  std::string path_;   // of its root
  Node root_;
  std::vector<Open> open_;
  int documents_ = 0;
  int reported_ = -1;
  int line_ = 0;  // of the latest node
};

void ConfigSource::check_bytes(std::size_t yaml_begin) const {
  const std::string_view text = texts_.back().text;
  if (text.size() > kMaxBytes) refuse(0, "larger than 1 MiB");
  if (text.starts_with("\xef\xbb\xbf")) refuse(0, "starts with a byte order mark");
  bool in_indentation = false;
  for (std::size_t i = 0, length = 0; i < text.size(); i += length) {
    length = utf8_length(text.substr(i));
    if (length == 0) refuse(i, "not UTF-8");
    const char c = text[i];
    const bool is_break = c == '\n' || text.substr(i).starts_with("\r\n");
    if (is_control(c) && c != '\t' && !is_break) refuse(i, fmt::format("control character 0x{:02x}", static_cast<int>(c)));
    const bool begins_line = i >= yaml_begin && (i == yaml_begin || text[i - 1] == '\n');
    in_indentation = begins_line || (in_indentation && text[i - 1] == ' ');
    if (in_indentation && c == '\t') refuse(i, "a tab in the indentation");
    if (begins_line && c == '%') refuse(i, "directives are not supported");
  }
}

void ConfigSource::refuse_open_quote(std::size_t from, std::size_t to) const {
  for (const std::size_t quote : open_quotes_) {
    if (quote >= from && quote < to) refuse(quote, "a quote that is not closed in its line");
  }
}

Node ConfigSource::parse(std::size_t yaml_begin, const std::string& path) {
  check_bytes(yaml_begin);
  const std::string& text = texts_.back().text;
  Marks marks = marks_of(text, yaml_begin);
  if (marks.invisible != text.npos) {
    const std::string_view at = std::string_view(text).substr(marks.invisible);
    const unsigned code = code_point(at, utf8_length(at));
    refuse(marks.invisible, fmt::format("U+{:04X}, {}, may stand in quotes and comments only", code, invisible_name(code)));
  }
  open_quotes_ = std::move(marks.open_quotes);
  std::istringstream stream(text.substr(yaml_begin));
  Builder builder(*this, yaml_begin, path);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) continue;
  } catch (const YAML::Exception& error) {
    const bool is_alias = error.msg == YAML::ErrorMsg::UNKNOWN_ANCHOR;
    const std::size_t offset = yaml_begin + static_cast<std::size_t>(std::max(error.mark.pos, 0));
    refuse_open_quote(0, offset + 1);
    refuse(offset, is_alias ? "aliases are not supported" : "not valid YAML: " + error.msg);
  }
  return builder.take_root();
}

// ---------------------------------------------------------------------------------------------------------------------
// ConfigSource

ConfigSource::ConfigSource(std::string_view text, std::string file_name) {
  texts_.push_back({std::move(file_name), std::string(text)});
  root_ = parse(0, "");
  if (root_.kind != Node::Kind::map && root_.kind != Node::Kind::refused)
    violate(root_.place, "", "expected a map of settings, got " + what_it_is(root_));
}

ConfigSource ConfigSource::from_file(const std::filesystem::path& path) {
  std::string text(kMaxBytes + 1, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad()) throw ConfigError(fmt::format("{}: {}", path.string(), std::strerror(errno)));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return ConfigSource(text, path.string());
}

std::vector<std::string> ConfigSource::override_with(const std::string& assignment) {
  texts_.push_back({"<" + escaped(assignment) + ">", assignment});
  const std::size_t equals = assignment.find('=');
  const std::string path = assignment.substr(0, equals);
  const bool has_empty_key = ("." + path + ".").find("..") != std::string::npos;
  if (equals == std::string::npos || has_empty_key) refuse(0, "expected key.path=value");
  Node value = parse(equals + 1, path);
  std::vector<std::string> paths;
  append_paths(value, path, paths);
  if (root_.kind != Node::Kind::map) return paths;

  Node* node = &root_;
  std::string parent;
  for (std::string_view rest = path; !rest.empty();) {
    const Place place{texts_.size() - 1, path.size() - rest.size()};
    const std::string_view key = take_key(rest);
    if (node->kind == Node::Kind::refused) return paths;
    if (node->kind == Node::Kind::nothing || node->kind == Node::Kind::null) node->kind = Node::Kind::map;
    std::optional<std::size_t> index = child_index(*node, key);
    if (!index) {
      const std::string problem = why_not_added(*node, key);
      if (!problem.empty()) {
        if (node->children.empty()) node->kind = Node::Kind::refused;
        violate(place, parent, problem);
        return paths;
      }
      index = node->children.size();
      node->children.emplace_back().key = key;
      node->children.back().place = place;
    }
    parent = join(parent, key);
    node = &node->children[*index];
    node->key_place = place;
  }
  value.key = node->key;
  value.key_place = node->key_place;
  put(*node, std::move(value));
  return paths;
}

std::optional<Node> ConfigSource::take(std::string_view key) {
  if (root_.kind != Node::Kind::map) return {};
  const auto block = std::find_if(root_.children.begin(), root_.children.end(), [&](const Node& child) { return child.key == key; });
  if (block == root_.children.end()) return {};
  auto taken = std::move(*block);
  root_.children.erase(block);
  return taken;
}

void ConfigSource::fail(std::string_view path, const std::string& what) {
  const auto [node, is_exact] = locate(path);
  violate(is_exact ? node->place : node->key_place, std::string(path), what);
}

bool ConfigSource::contains(std::string_view path) const { return locate(path).second; }

bool ConfigSource::clean(std::string_view path) const {
  return std::none_of(violations_.begin(), violations_.end(), [path](const Violation& violation) { return related(violation.path, path); });
}

void ConfigSource::throw_if_violated() const {
  if (violations_.empty()) return;
  std::vector<Violation> sorted = violations_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.place < b.place; });
  std::vector<std::string> lines;
  for (const Violation& violation : sorted) {
    if (lines.size() == kMaxMessages) break;
    lines.push_back(located(violation.place, violation.message));
  }
  if (sorted.size() > lines.size()) lines.push_back(fmt::format("... and {} more", sorted.size() - lines.size()));
  throw ConfigError(fmt::format("{}", fmt::join(lines, "\n")));
}

std::string ConfigSource::located(Place place, const std::string& message) const {
  const Text& text = texts_[place.source];
  const std::string_view before = std::string_view(text.text).substr(0, place.offset);
  const std::string_view in_line = before.substr(before.rfind('\n') + 1);
  const auto starts_character = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; };
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const auto column = 1 + std::count_if(in_line.begin(), in_line.end(), starts_character);
  return fmt::format("{}:{}:{}: {}", text.name, line, column, message);
}

void ConfigSource::refuse(std::size_t offset, const std::string& what) const { throw ConfigError(located({texts_.size() - 1, offset}, what)); }

void ConfigSource::violate(Place place, const std::string& path, const std::string& what) {
  violations_.push_back({place, path, path.empty() ? what : escaped(path) + ": " + what});
}

std::pair<const Node*, bool> ConfigSource::locate(std::string_view path) const {
  const Node* node = &root_;
  while (!path.empty()) {
    const std::optional<std::size_t> index = child_index(*node, take_key(path));
    if (!index) return {node, false};
    node = &node->children[*index];
  }
  return {node, true};
}

void ConfigSource::check_length(Place place, const std::string& path, std::size_t size, const Rules& rules, const char* got) {
  for (const Rule& rule : rules) {
    if (rule.length && !rule.length(size)) violate(place, path, rule.violated_by(got));
  }
}

namespace {

/// "; did you mean train.lr?" for a key that exists in one place only.
std::string hint_of_any(const std::string& key, const std::vector<FieldHelp>& help) {
  std::vector<std::string> keys, paths;
  for (const FieldHelp& field : help) keys.push_back(field.path.substr(field.path.rfind('.') + 1));
  const auto name = other_name_of(key, keys);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const auto path = join(help[i].owner, keys[i]);
    if (keys[i] == name && std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(path);
  }
  return paths.size() == 1 ? fmt::format("; did you mean {}?", paths[0]) : std::string();
}

}  // namespace

void ConfigSource::explain_unknown_keys(const std::vector<FieldHelp>& help) {
  for (const UnknownKey& unknown : unknown_keys_) {
    std::vector<std::string> owners;
    for (const FieldHelp& field : help) {
      const bool same = field.path == unknown.key || field.path.ends_with("." + unknown.key);
      if (same && std::find(owners.begin(), owners.end(), field.owner) == owners.end()) owners.push_back(field.owner);
    }
    std::string hint = did_you_mean(unknown.key, unknown.known);
    if (const auto name = other_name_of(unknown.key, unknown.known); hint.empty() && !name.empty()) hint = fmt::format("; did you mean '{}'?", name);
    if (hint.empty() && unknown.path.empty()) hint = hint_of_any(unknown.key, help);
    if (owners.size() == 1 && owners[0] != schema_path(unknown.path))
      hint = owners[0].empty() ? "; it belongs at the top level" : "; it belongs under " + owners[0];
    const std::string what = "unknown key '" + escaped(unknown.key) + "'" + (unknown.kind.empty() ? "" : " of kind " + unknown.kind) + hint;
    violate(unknown.place, join(unknown.path, unknown.key), what);
  }
  unknown_keys_.clear();
}

std::string first_difference(const std::vector<std::pair<std::string, std::string>>& a, const std::vector<std::pair<std::string, std::string>>& b,
                             const std::function<bool(std::string_view)>& may_differ) {
  for (std::size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    const auto at = [&](const auto& list) { return i < list.size() ? list[i] : std::pair<std::string, std::string>("settings", "none"); };
    const auto [path, value] = at(a);
    const auto [other_path, other_value] = at(b);
    if (path == other_path && (value == other_value || may_differ(path))) continue;
    return fmt::format("{}: {}, {}", path, value, other_value);
  }
  return {};
}

}  // namespace mnemo
