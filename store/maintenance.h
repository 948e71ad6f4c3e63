// Keeping stores: bringing them together, forgetting, copying and checking them.
//
// Each function opens the files that it works on by itself, and may be called while attuned and
// readers use them, except where it says otherwise. All throw StoreError as Store's calls do, with
// nothing changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace attune {

// Brings a store that is there to this program's schema, in one transaction; one that is up to date
// or not there is left alone. Opening it for writing does the same: this is for who says so first,
// for a large store takes minutes (some 50 MB a second). `begins` hears its schema before.
void Upgrade(const std::filesystem::path& store,
             const std::function<void(std::uint64_t schema)>& begins);

struct MergeReport {
  std::uint64_t new_jobs = 0;
  std::uint64_t grown_jobs = 0;  // were there, and have done more since
  std::uint64_t trials = 0;      // new ones
  std::uint64_t policies = 0;    // new versions
};

// Brings the jobs of `from`, with their sites, windows, trials and anomalies, and its policies into
// `into`, which is made if it is not there. Jobs and trials get the numbers behind the last ones,
// in their order. A job is the same if key and `started` are: it stays as it is unless `from` has
// it with more steps, more trials or a later outcome; then it is brought up to date, and its trials
// keep their numbers. Of a policy version that both have, that of `into` stays. So merging twice
// changes nothing the second time.
//
// One transaction: after a kill `into` is as it was. Readers go on meanwhile. No daemon may have
// `into`, because it gives numbers from memory: the caller holds its StateLock. A daemon may write
// `from`: it is read as of one moment. Throws StoreError if both are the same file. A `from` with
// an older schema is migrated in a temporary copy beside `into`.
MergeReport Merge(const std::filesystem::path& into, const std::filesystem::path& from);

// What is to be forgotten: what either of the two says.
struct Retention {
  std::optional<double> ended_before = {};       // Unix time, seconds
  std::optional<std::uint64_t> most_bytes = {};  // of the file, behind the freed space
};

struct PrunedJob {
  std::uint64_t id = 0;
  std::string name;
  double ended = 0;  // Unix time, seconds
  std::uint64_t trials = 0;
};

struct PruneReport {
  std::vector<PrunedJob> jobs;  // as they were forgotten
  std::uint64_t bytes_before = 0;
  std::uint64_t bytes_after = 0;  // where only asked for: what the file would have
};

// Deletes whole ended jobs, those that ended first at first, in one transaction, and gives the
// space back to the disk (VACUUM: writes the rest anew, which takes that much room beside it). A
// file that is too large for what was free in it before loses that, and no job.
// Never a running job, the newest job or the one of the newest trial: numbers are not given twice.
// With `only_ask` the same is found out, and taken back. A daemon that writes meanwhile waits, or
// tries again later. If there is no room to write the rest anew, the jobs are forgotten all the
// same, and what is thrown says so.
[[nodiscard]] PruneReport Prune(const std::filesystem::path& store, const Retention& retention,
                                bool only_ask);

// Copies the store, as of one moment, to `file`: under FILE.partial first, which is then renamed.
// Writers are not held up. Throws StoreError if `file` is there, unless it may be replaced.
void Backup(const std::filesystem::path& store, const std::filesystem::path& file, bool replace);

// What is wrong with a store, a line each; empty: it is whole. SQLite's integrity check, references
// between tables, and attune's rules: lengths of arrays fit the job's sites, enumerations are
// known, trials' windows are there. At most 100 findings of a kind. Throws StoreError for what
// cannot be opened as a store at all.
[[nodiscard]] std::vector<std::string> Check(const std::filesystem::path& store);

}  // namespace attune
