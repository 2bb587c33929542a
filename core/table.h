#pragma once

#include <string>
#include <vector>

namespace mnemo {

enum class TableFormat { table, json, csv, md };

/// Throws std::invalid_argument for anything but table, json, csv, md.
TableFormat table_format(const std::string& name);

/// Cells of text under named columns; "" is a cell without a value.
struct Table {
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;

  /// With a line break at the end. `table`: aligned, numbers to the right, without a value "-". `json`: a list with an object for each row, where
  /// numbers are numbers and cells without a value null. `csv`: RFC 4180.
  std::string text(TableFormat format) const;
};

}  // namespace mnemo
