// attune's commands as data, and their --help.
#include "agent/cli/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "agent/cli/command.h"

namespace attune::cli {
namespace {

// Of what runs a sweep: one of its own, and which runs, where, and how many at a time.
std::vector<Flag> RunFlags(const Flag& own) {
  return {own,
          {"executor", Kind::kText, "E", "where the runs go", "local slurm", "local"},
          {"parallel", Kind::kCount, "N", "runs at a time; 0: as the file says", {}, "0"},
          {"policies", Kind::kText, "P,Q", "only the runs of these policies, now"},
          {"seeds", Kind::kText, "S,T", "only the runs of these seeds, now"},
          {"only", Kind::kText, "P=V,…",
           "only the runs with one of these values of each of these parameters, now"}};
}

// The flags of lists of the history.
std::vector<Flag> ListFlags(std::string_view limit) {
  return {{"job", Kind::kCount, "N", "of this job only; 0: of all", {}, "0"},
          {"where", Kind::kText, "FILTER", "only rows of which this is true"},
          {"sort", Kind::kText, "FIELDS", "by these, commas between; =-FIELD: the highest first"},
          {"limit", Kind::kCount, "N", "at most so many, 0 or more", {}, limit},
          {"after", Kind::kText, "PLACE", "the next page, as the page before has said"},
          {"group-by", Kind::kText, "FIELDS", "a row for each combination of their values"},
          {"show", Kind::kText, "FIGURES", "of each group, commas between (default: count)"}};
}

const std::vector<Command> kCommands = {
    {.name = "run",
     .run = Run,
     .usage = "[--report FILE] [daemon flags] -- COMMAND…",
     .summary = "run a trainer and tune it while it runs",
     .about =
         R"(Uses the running attuned, or starts a private one that ends with the command (or goes on
where other jobs have found it). The trainer finds it by ATTUNE_ENDPOINT and ATTUNE_JOB in its
environment (an ATTUNE_JOB that you have set stays). Progress goes to stderr, and at the end what
was tried and what came of it. The exit status is the command's (127: it cannot be started). Flags
of attuned (attuned --help), such as --policy or --windows, set up the private daemon; a running
one is as it was started.
)",
     .flags = {{"report", Kind::kText, "FILE", "write that summary as JSON"}},
     .example = "run --policy kmeans -- ./train --epochs 3",
     .every_knob = true},
    {.name = "status",
     .run = ShowStatus,
     .usage = "[--format F]",
     .summary = "the daemon and its live jobs",
     .example = "status --format json"},
    {.name = "jobs",
     .run = ListJobs,
     .usage = "[--where F] [--sort S] [--limit N] [--after T] [--group-by G] [--show …]",
     .summary = "the jobs in the history, newest first",
     .about =
         R"(Fields: job name outcome started steps compute_seconds loss validation_loss trials sites heads seed
policy, and to choose by: key ended budget_kind budget_amount learning_rate optimizer fresh. Losses are
in nats: loss of training in the last window, validation_loss at the end. compute_seconds: of training,
by the trainer's clock. outcome: running, finished, failed, or lost (silent, or its daemon was stopped).
attune trials --help says how to choose.
)",
     .flags = ListFlags("20"),
     .example = "jobs --where 'outcome = finished and started > -7d' --sort validation_loss"},
    {.name = "trials",
     .run = ListTrials,
     .usage = "[--job N] [--where F] [--sort S] [--limit N] [--after T] [--group-by G] [--show …]",
     .summary = "the trials in the history, newest first",
     .about =
         R"(A trial is one window of a job: what was decided, by whom and why, what became of it (ack) and
the reward of the window that followed, in nats.

Fields: trial job window step loss imbalance active_heads decider ack ack_step reward why, and to
choose by: created policy_version log_probability. loss: of training in the window, in nats. imbalance:
the mean share by which attention differs from the baseline. ack: none (nothing to change), pending,
applied, rejected or expired, at ack_step.
--where chooses rows: FIELD = != < <= > >= VALUE, in (…), like 'text%', is null, with and, or, not and
parentheses. Times are 2026-11-01, 2026-11-01T12:00 (UTC) or ages such as -2h, -7d. Rows without a
value (null) are chosen by is null alone.
--group-by shows a row for each combination of its fields' values: count, mean(F), min(F), max(F),
sum(F), p0(F) to p100(F); --sort then goes by what they show, as in --sort='-mean(reward)'.
)",
     .flags = ListFlags("50"),
     .example = "trials --where 'reward > 0.01 and not ack = expired' --sort=-reward --limit 10"},
    {.name = "anomalies",
     .run = ListAnomalies,
     .usage = "[--job N] [--where F] [--sort S] [--limit N] [--after T] [--group-by G] [--show …]",
     .summary = "where and since when heads attend abnormally",
     .about =
         R"(Of the newest job, unless --job, --where or --group-by say otherwise. Kinds: saturated (collapsed on
single keys), diffuse (uniform where others are not), dormant (output vanished), drifting (far from
its baseline). Fields: job site head kind first_step last_step severity. attune trials --help says how
to choose.
)",
     .flags = ListFlags("1000"),
     .example = "anomalies --group-by kind --show count,p90(severity)"},
    {.name = "explain",
     .run = Explain,
     .usage = "TRIAL [--format F]",
     .summary = "one trial: what was decided, why, and what came of it",
     .about = "With --format csv only the heads that changed.\n",
     .unnamed = {{"trial", Kind::kCount, "TRIAL", "its number, as attune trials lists it"}},
     .example = "explain 42"},
    {.name = "adjust",
     .run = AdjustJob,
     .usage = "JOB [--site NAME] [--head H] [--scale X] [--gain X] [--active-heads N] [--neutral]",
     .summary = "change a live job by hand",
     .about =
         "Takes effect at the job's next step. Who decides about the job goes on deciding at the "
         "next window's\nend; attune policy use keep --job JOB leaves what you set. "
         "A site's name is as attune explain has it.\n",
     .unnamed = {{"job", Kind::kCount, "JOB", "its number, as attune status lists it"}},
     .flags = {{"site", Kind::kText, "NAME", "one site (default: all)"},
               {"head", Kind::kCount, "H",
                "one head of the site, from 0 (default: all); not with --active-heads"},
               {"scale", Kind::kReal, "X", "factor on the logits, 0.0625 to 16; 1 changes nothing"},
               {"gain", Kind::kReal, "X", "factor on the output, 0 to 16; 1 changes nothing"},
               {"active-heads", Kind::kCount, "N",
                "how many heads of a site are computed, 1 to all: those with the largest output"},
               {"neutral", Kind::kSwitch, "",
                "undo: all heads are computed, with scale and gain 1"}},
     .example = "adjust 3 --site block0.attention --active-heads 2"},
    {.name = "policy",
     .run = Policy,
     .usage = "list | use NAME [--job JOB]",
     .summary = "who decides: list the policies, or choose one",
     .about =
         "list shows the rules and the lessons of a network that has learned here; use NAME "
         "lets NAME decide until "
         "attuned stops\nor reads its configuration anew (HUP), about all jobs whose trainer "
         "names no policy itself\n(ATTUNE_POLICY); with --job about that one, whatever it "
         "named. What was changed before stays as it is,\nbut for what the governor takes back.\n",
     .unnamed = {{"verb", Kind::kText, "VERB", "what to do", "list use", "list"},
                 {"name", Kind::kText, "NAME", "who is to decide",
                  "auto keep random kmeans qk_clip importance explore network external"}},
     .flags = {{"job", Kind::kCount, "JOB", "about this live job alone (default: all)"}},
     .example = "policy use keep --job 3"},
    {.name = "sql",
     .run = Sql,
     .usage = "'SELECT …' [--format F]",
     .summary = "a question of your own to the history, read-only",
     .about =
         R"(One statement that reads, of SQLite's dialect. The views history_jobs, history_trials and
history_anomalies stay as they are (store/README.md has their columns); beside SQLite's functions
there is quantile(x, q).
)",
     .unnamed = {{"query", Kind::kText, "SELECT", "the question"}},
     .example = "sql 'SELECT decider, quantile(reward, 0.9) FROM history_trials GROUP BY decider'"},
    {.name = "compare",
     .run = CompareJobs,
     .usage = "A B [--format F]",
     .summary = "two jobs side by side",
     .about = "Their settings, what was tried, what came of it, and the loss at equal compute.\n",
     .unnamed = {{"a", Kind::kCount, "A", "a job's number, as attune jobs lists it"},
                 {"b", Kind::kCount, "B", "another's"}},
     .example = "compare 3 4"},
    {.name = "sweep",
     .run = Sweep,
     .usage = "run | status | stop | resume | report | join …",
     .summary = "many runs of a command, compared honestly",
     .unnamed = {{"verb", Kind::kText, "VERB", "what to do; attune sweep VERB --help says more",
                  "run status stop resume report join"}},
     .example = "sweep run sweep.toml"},
    {.name = "sweep run",
     .run = Sweep,
     .usage = "FILE [--dry-run] [--executor E] [--parallel N] [--policies P,Q] [--seeds S,T] "
              "[--only P=V,…]",
     .summary = "begin a sweep",
     .about =
         R"(The file says what runs, here 2 x 3 tuned runs and an untuned twin for each of them:

  command = ["./train", "--rate={rate}", "--seed={seed}"]
  seeds = 3
  twin = true
  [parameters]
  rate = [1e-3, 3e-3]
  [limits]
  parallel = 2

A run prints lines of JSON, such as {"step": 400, "compute_seconds": 31.5, "validation_loss": 1.83};
the last one is its result. agent/sweep/README.md has every key: ranges, cases, limits, halving, bars.
A sweep already begun is continued. Exit status: 0 all runs asked for have a result, 1 some have not.
)",
     .unnamed = {{"file", Kind::kText, "FILE", "the sweep, TOML"}},
     .flags = RunFlags({"dry-run", Kind::kSwitch, "", "only list the runs that it would have"}),
     .example = "sweep run sweep.toml --dry-run"},
    {.name = "sweep resume",
     .run = Sweep,
     .usage = "[NAME] [--failed] [--executor E] [--parallel N] [--policies P,Q] [--seeds S,T] "
              "[--only P=V,…]",
     .summary = "run what is missing of a sweep, and nothing twice",
     .unnamed = {{"name", Kind::kText, "NAME", "of the sweep (default: the only one)"}},
     .flags = RunFlags({"failed", Kind::kSwitch, "", "also what failed"}),
     .example = "sweep resume sweep --failed"},
    {.name = "sweep status",
     .run = Sweep,
     .usage = "[NAME] [--format F]",
     .summary = "the sweeps, or the runs of one",
     .unnamed = {{"name", Kind::kText, "NAME", "of the sweep"}},
     .example = "sweep status"},
    {.name = "sweep stop",
     .run = Sweep,
     .usage = "[NAME]",
     .summary = "stop a sweep; it can be resumed",
     .unnamed = {{"name", Kind::kText, "NAME", "of the sweep (default: the only one)"}},
     .example = "sweep stop sweep"},
    {.name = "sweep report",
     .run = Sweep,
     .usage = "[NAME] [--check] [--format F]",
     .summary = "what came of a sweep",
     .unnamed = {{"name", Kind::kText, "NAME", "of the sweep (default: the only one)"}},
     .flags = {{"check", Kind::kSwitch, "", "print every bar; exit status 0 only if all hold"}},
     .example = "sweep report sweep --check"},
    {.name = "sweep join",
     .run = Sweep,
     .usage = "FILE [NAME]",
     .summary = "take over what another machine has run of a sweep",
     .about =
         R"(FILE is the .json of attune sweep report there. Runs are paired by parameters and seed: those of a
pair that has runs here already are left out, so that what is compared has run side by side. Divide
a sweep by its seeds: attune sweep run FILE --seeds 0,1 here, --seeds 2,3 there.
)",
     .unnamed = {{"file", Kind::kText, "FILE", "the report, JSON"},
                 {"name", Kind::kText, "NAME", "of the sweep (default: the only one)"}},
     .example = "sweep join report.json heldout"},
    {.name = "import",
     .run = Import,
     .usage = "FILE…",
     .summary = "bring logs of trainers without a daemon into the history",
     .about =
         R"(A trainer with ATTUNE_MODE=offline writes what it measures to ATTUNE_DIR (default attune). Its log
becomes a job with its windows, metered as attuned would have done with the policy keep. The log of a
trainer that was killed is taken up to its last whole record, and its job counts as lost; of one that
still runs likewise: import it again later. What is in the history already is not doubled. attuned
must not run on the history meanwhile. The knobs that say how (windows, baseline) are read from the
configuration file of attuned.
)",
     .unnamed = {{"file", Kind::kText, "FILE", "a log, KEY.attune", {}, {}, true}},
     .example = "import attune/*.attune"},
    {.name = "merge",
     .run = Merge,
     .usage = "STORE…",
     .summary = "bring the histories of other daemons into this one",
     .about =
         R"(Jobs with their sites, windows, trials and anomalies, and the versions of policies. Jobs and trials
get new numbers, in their order. A job is known by its key and the time it started: merging again
brings only what is new, what a job that was running has done since, and once more what was pruned
here and not there. The other daemons may run; the one of this history must not, for it would give
the new numbers itself.
)",
     .unnamed = {{"store", Kind::kText, "FILE", "the attune.db of another daemon", {}, {}, true}},
     .example = "merge /mnt/node*/attune.db"},
    {.name = "prune",
     .run = Prune,
     .usage = "[--older-than AGE] [--larger-than SIZE] [--dry-run]",
     .summary = "forget old jobs, and give their space back",
     .about =
         R"(Whole jobs with all that belongs to them, earliest-ended first; never a running one, nor
the newest job and the newest trial's, so that no number is given twice. Giving space back rewrites
the file: it takes as much room beside it as what is left, and attuned, which may run, writes what it
has meanwhile when it is done.
)",
     .flags = {{"older-than", Kind::kText, "AGE",
                "jobs that ended so long ago: 90s, 30m, 12h, 30d, 8w"},
               {"larger-than", Kind::kText, "SIZE",
                "as many jobs as bring the history to this size: 500M, 2G"},
               {"dry-run", Kind::kSwitch, "", "only say what would be forgotten"}},
     .example = "prune --older-than 30d --larger-than 2G --dry-run"},
    {.name = "backup",
     .run = Backup,
     .usage = "FILE [--force]",
     .summary = "copy the history while it is in use",
     .about = "The copy is whole, as of one moment; it gets its name when it is complete.\n",
     .unnamed = {{"file", Kind::kText, "FILE", "the copy, a store like any other"}},
     .flags = {{"force", Kind::kSwitch, "", "also where FILE exists: replace it"}},
     .example = "backup attune-2026-01-31.db"},
    {.name = "check",
     .run = Check,
     .usage = "[FILE] [--format F]",
     .summary = "is the history whole?",
     .about =
         R"(SQLite's own check of the file, references between tables, and attune's rules: lengths of arrays,
enumerations, windows of trials. Exit status 0: it is whole; 1: it is not, one line for each finding;
3: it cannot be read.
)",
     .unnamed = {{"file", Kind::kText, "FILE", "another store, such as a backup"}},
     .example = "check --format json"},
    {.name = "completion",
     .run = Completion,
     .usage = "bash | zsh",
     .summary = "completion of commands and flags in your shell",
     .about = "Prints the script; packages install it, so this is for a build of your own.\n",
     .unnamed = {{"shell", Kind::kText, "SHELL", "which", "bash zsh"}},
     .example = "completion bash > ~/.local/share/bash-completion/completions/attune"},
};

const std::vector<Flag> kCommonFlags = {
    {"state-directory", Kind::kText, "DIR",
     "the daemon's store and socket (default: see attuned --help)"},
    {"runtime-directory", Kind::kText, "DIR", "the socket, where it is elsewhere"},
    {"config", Kind::kText, "FILE", "configuration file of attuned"},
    {"format", Kind::kText, "F", "of what is printed", "table json jsonl csv", "table"},
    {"help", Kind::kSwitch, "", "this text"},
};

std::string Line(const Flag& flag, bool unnamed) {
  const std::string left =
      unnamed ? std::string(flag.value)
              : fmt::format("--{}{}{}", flag.name, flag.value.empty() ? "" : " ", flag.value);
  std::string right(flag.help);
  if (!flag.words.empty()) {
    right += ": ";
    for (const char c : flag.words) right += c == ' ' ? std::string(" | ") : std::string(1, c);
  }
  if (!flag.fallback.empty()) right += fmt::format(" (default {})", flag.fallback);
  // A long name has the line to itself.
  return left.size() <= 24 ? fmt::format("  {:<24} {}\n", left, right)
                           : fmt::format("  {}\n{:<27}{}\n", left, "", right);
}

}  // namespace

std::span<const Command> Commands() { return kCommands; }
std::span<const Flag> CommonFlags() { return kCommonFlags; }

const Command* FindCommand(std::string_view name) {
  const auto found = std::ranges::find(kCommands, name, &Command::name);
  return found == kCommands.end() ? nullptr : &*found;
}

std::vector<std::string> Words(const Flag& flag) {
  std::vector<std::string> words;
  std::istringstream stream{std::string(flag.words)};
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::string Help(const Command& command) {
  std::string text = fmt::format("attune {}: {}\n\nUsage: attune {} {}\n\n", command.name,
                                 command.summary, command.name, command.usage);
  if (!command.about.empty()) text += fmt::format("{}\n", command.about);
  for (const Flag& flag : command.unnamed) text += Line(flag, true);
  for (const Flag& flag : command.flags) text += Line(flag, false);
  if (!command.unnamed.empty() || !command.flags.empty()) text += '\n';
  text += fmt::format("Example: attune {}\n\nCommon flags:\n", command.example);
  for (const Flag& flag : CommonFlags()) text += Line(flag, false);
  return text;
}

}  // namespace attune::cli
