#pragma once

// The golden vectors: independent float64 results, listed by index.json in the folder MNEMO_GOLDEN (default tests/golden).

#include "core/files.h"
#include "core/safetensors.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

namespace mnemo {

inline fs::path golden_folder() {
  const char* named = std::getenv("MNEMO_GOLDEN");
  return named != nullptr && *named != '\0' ? fs::path(named) : fs::path(MNEMO_SOURCE_DIR) / "tests/golden";
}

/// The cases of one kind; a kind that a build knows must have some.
inline std::vector<nlohmann::json> golden_cases(const std::string& kind) {
  std::vector<nlohmann::json> cases;
  for (const auto& entry : nlohmann::json::parse(read_file(golden_folder() / "index.json"))) {
    if (entry.at("kind") == kind) cases.push_back(entry);
  }
  return cases;
}

inline Safetensors read_golden(const nlohmann::json& entry) {
  return Safetensors::read(golden_folder() / (entry.at("name").get<std::string>() + ".safetensors"));
}

/// max|a-b| <= 1e-10 max|b| + 1e-13, the agreement of two independent float64 implementations.
inline void expect_golden(std::span<const double> measured, std::span<const double> expected, const std::string& name) {
  ASSERT_EQ(measured.size(), expected.size()) << name;
  double scale = 0, error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    scale = std::max(scale, std::abs(expected[i]));
    error = std::max(error, std::abs(measured[i] - expected[i]));
    ASSERT_FALSE(std::isnan(measured[i])) << name;
  }
  EXPECT_LE(error, 1e-10 * scale + 1e-13) << name;
}

inline void expect_golden(std::span<const double> measured, const Safetensors& file, const std::string& name) {
  expect_golden(measured, file.get<double>(name), name);
}

}  // namespace mnemo
