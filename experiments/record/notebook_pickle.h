#pragma once

#include "core/log.h"
#include "core/poll.h"
#include "experiments/config/config.h"
#include "experiments/directory/run_reader.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace mnemo {

/// Notebooks turn a row of the evaluated subset into a rank by this factor.
inline constexpr std::int64_t kNotebookRowStride = 10;

/// What the pickles of a run are made with: output.pickle, pickle_rows and epoch_steps, with the defaults filled in.
struct NotebookSettings {
  std::string format;        ///< torch | numpy | none
  std::string rows;          ///< current | all_phases | all_validation | all_ranks
  std::int64_t epoch_steps;  ///< updates of an outer iteration
  Poll poll = {};            ///< called while they are written; a file that it interrupts does not appear
};

/// By default torch, where eval.every can be an epoch (see notebook_problems), else none. Rows: those that the published records have
/// where they are scored, else all_validation.
NotebookSettings notebook_settings(const RunConfig& config);

/// Why pickles cannot be made with these settings, as (key of `output`, what is wrong): an epoch must be a multiple of log_every, and divide the
/// run's steps and those of its switches; the rows must be scored.
std::vector<std::pair<std::string, std::string>> notebook_problems(const RunConfig& config);

/// Whether runs of this model have a record (<run>.pkl); all have sequences.
bool has_notebook_record(const ModelConfig& model);

/// Writes the record or the sequences of a run that is over, from the files of its directory, for the notebooks of the original experiments:
/// plain pickles with NumPy arrays under `logs` and torch tensors for weights and sequences (`format: numpy`: NumPy arrays there too).
/// `with_sequences`: the record holds the keys of the sequences file too, so that one file serves under both names.
/// Streamed: memory is bounded by K, one evaluation and one snapshot. Atomic; equal directories give equal bytes.
/// Throws Error{data} for a directory that holds no finished run or damaged files, Error{io}.
void write_notebook_record(const RunReader& run, const NotebookSettings& settings, const std::filesystem::path& target, bool with_sequences = false);
void write_notebook_sequences(const RunReader& run, const NotebookSettings& settings, const std::filesystem::path& target);

/// <stem>_model_iter_<epoch>.pkl, the state dict of each snapshot that the record has as model_<epoch>; returns their names.
std::vector<std::filesystem::path> write_notebook_snapshots(const RunReader& run, const NotebookSettings& settings,
                                                            const std::filesystem::path& stem);

/// <run>.pkl and <run>_sequences.pkl in the run directory, where output.pickle asks for them.
void write_notebook_pickles(const RunReader& run, const Log& log, const Poll& poll = {});

/// <group>_transformer_K_<K>_L_<L>_hidden_<F>_nheads_<H>_nlayers_<n>_<seed>: what globbing notebooks expect a run to be called.
std::string notebook_run_name(const RunConfig& config);

}  // namespace mnemo
