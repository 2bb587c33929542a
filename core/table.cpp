#include "core/table.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <stdexcept>

namespace mnemo {

using Json = nlohmann::ordered_json;

namespace {

Json number_in(const std::string& cell) {
  auto value = Json::parse(cell, nullptr, /*allow_exceptions=*/false);
  return value.is_number() ? value : Json();
}

/// Columns that a text takes on a terminal: continuation bytes of UTF-8 take none.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string padded(const std::string& text, std::size_t width, bool right) {
  const std::string space(width - std::min(width, width_of(text)), ' ');
  return right ? space + text : text + space;
}

std::string aligned(const Table& table) {
  std::vector<std::size_t> widths;
  std::vector<bool> is_number;
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    auto width = width_of(table.columns[c]);
    bool numbers = !table.rows.empty();
    for (const auto& row : table.rows) {
      width = std::max(width, width_of(row[c]));
      numbers = numbers && (row[c].empty() || !number_in(row[c]).is_null());
    }
    widths.push_back(width);
    is_number.push_back(numbers);
  }
  std::string text;
  const auto add = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (std::size_t c = 0; c < cells.size(); ++c) {
      line += (c > 0 ? "  " : "") + padded(cells[c].empty() ? "-" : cells[c], std::max<std::size_t>(widths[c], 1), is_number[c]);
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  };
  add(table.columns);
  for (const auto& row : table.rows) add(row);
  return text;
}

std::string json_text(const Table& table) {
  auto list = Json::array();
  for (const auto& row : table.rows) {
    auto object = Json::object();
    for (std::size_t c = 0; c < row.size(); ++c) {
      const auto number = number_in(row[c]);
      object[table.columns[c]] = row[c].empty() ? Json() : number.is_null() ? Json(row[c]) : number;
    }
    list.push_back(std::move(object));
  }
  return list.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string csv_cell(const std::string& cell) {
  if (cell.find_first_of(",\"\r\n") == cell.npos) return cell;
  std::string quoted = "\"";
  for (const char c : cell) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string md_cell(const std::string& cell) {
  std::string text;
  for (const char c : cell) text += c == '|' ? std::string("\\|") : std::string(1, c);
  return text;
}

template <class Cell>
std::string line_of(const std::vector<std::string>& cells, const std::string& before, const std::string& between, const std::string& after,
                    Cell cell) {
  std::string line = before;
  for (std::size_t c = 0; c < cells.size(); ++c) line += (c > 0 ? between : "") + cell(cells[c]);
  return line + after + "\n";
}

}  // namespace

TableFormat table_format(const std::string& name) {
  if (name == "table") return TableFormat::table;
  if (name == "json") return TableFormat::json;
  if (name == "csv") return TableFormat::csv;
  if (name == "md") return TableFormat::md;
  throw std::invalid_argument(fmt::format("--format must be table, json, csv or md; got '{}'", name));
}

std::string Table::text(TableFormat format) const {
  if (format == TableFormat::table) return aligned(*this);
  if (format == TableFormat::json) return json_text(*this);
  std::string text;
  if (format == TableFormat::csv) {
    text = line_of(columns, "", ",", "", csv_cell);
    for (const auto& row : rows) text += line_of(row, "", ",", "", csv_cell);
    return text;
  }
  text = line_of(columns, "| ", " | ", " |", md_cell) + line_of(columns, "|", "|", "|", [](const std::string&) { return std::string("---"); });
  for (const auto& row : rows) text += line_of(row, "| ", " | ", " |", md_cell);
  return text;
}

}  // namespace mnemo
