// Runs as tasks of Slurm's job arrays. The runner submits, follows and cancels; each task is the
// same `attune sweep task` as on one machine, with the same lock and outcome.
//
//   FOLDER/slurm/N.runs   run ids of the Nth array, one a line, in the order of its indices
//          slurm/N.job    its number in Slurm, written once it was submitted
//          slurm/N_I.log  what a task's own process printed
#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "agent/sweep/executor.h"

namespace attune::sweep {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostTasks = 1000;  // of one array; Slurm's default MaxArraySize is 1001
constexpr std::chrono::seconds kLook{2};  // between two questions to the controller
constexpr std::chrono::seconds kPatience{120};  // with a controller that does not answer

struct Answer {
  int status = 0;
  std::string text;  // stdout and stderr
};

Answer Call(const std::string& command) {
  Answer answer;
  std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen((command + " 2>&1").c_str(), "re"), pclose);
  if (!pipe) throw std::runtime_error("cannot start a shell");
  std::array<char, 4096> buffer{};
  while (true) {
    const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe.get());
    answer.text.append(buffer.data(), count);
    if (count > 0) continue;
    if (std::ferror(pipe.get()) == 0 || errno != EINTR) break;
    std::clearerr(pipe.get());  // a signal to stop: what was submitted is to be known all the same
  }
  const int status = pclose(pipe.release());
  answer.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return answer;
}

std::string Quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

class SlurmExecutor : public Executor {
 public:
  SlurmExecutor(const Folder& folder, const Spec& spec, std::string program)
      : folder_(folder), spec_(spec), program_(std::move(program)) {
    const Answer version = Call("sbatch --version");
    if (version.status != 0) {
      throw std::runtime_error(fmt::format(
          "Slurm cannot be used: {}; install its client commands or use --executor local",
          FirstLine(version.text)));
    }
    if (spec.Tunes() && spec.slurm.listen.empty()) {
      throw std::runtime_error(
          "tuned runs on other hosts need slurm.listen, an address of this host that they reach "
          "(tcp://HOST:PORT)");
    }
    fs::create_directories(folder_.Path() / "slurm");
    Adopt();
  }

  std::size_t Room() const override {
    // What Slurm has it begins by itself: where a limit may end the sweep, it has few at a time.
    const std::size_t most = spec_.limits.compute_seconds > 0
                                 ? std::min<std::size_t>(kMostTasks, spec_.limits.parallel)
                                 : kMostTasks;
    return most - std::min(most, begun_.size());
  }

  void Begin(const Run& run) override {
    begun_.insert(run.id);
    if (!tasks_.contains(run.id)) waiting_.push_back(run.id);
  }

  std::vector<Over> Poll() override {
    Submit();
    std::vector<Over> over;
    if (tasks_.empty() || Clock::now() - looked_ < kLook) return over;
    looked_ = Clock::now();
    const auto queued = Queued();
    if (!queued) return over;
    for (auto task = tasks_.begin(); task != tasks_.end();) {
      if (queued->contains(task->second)) {
        ++task;
        continue;
      }
      // What an earlier runner submitted and nobody has asked for yet is in the folder by then.
      if (begun_.erase(task->first) == 0) {
        task = tasks_.erase(task);
        continue;
      }
      const std::string state = State(task->second);
      over.push_back({task->first, "Slurm task " + task->second + " ended" +
                                       (state.empty() ? "" : " as " + state) + "; see " +
                                       (folder_.Path() / "slurm").string()});
      task = tasks_.erase(task);
    }
    return over;
  }

  void Stop() override {
    waiting_.clear();
    const std::string jobs = Jobs();
    if (jobs.empty()) return;
    static_cast<void>(Call("scancel " + jobs));
    const auto deadline = Clock::now() + kPatience;
    while (Clock::now() < deadline) {
      const auto queued = Queued();
      if (queued && queued->empty()) break;
      std::this_thread::sleep_for(kLook);
    }
    tasks_.clear();
  }

 private:
  // Tasks of arrays that an earlier runner submitted and that Slurm still has.
  void Adopt() {
    const fs::path arrays = folder_.Path() / "slurm";
    std::set<int> numbers;  // a run that is in several arrays is a task of the last of them
    for (const auto& entry : fs::directory_iterator(arrays)) {
      if (entry.path().extension() == ".runs") numbers.insert(std::stoi(entry.path().stem()));
    }
    for (const int number : numbers) {
      arrays_ = number;
      std::string job;
      std::getline(std::ifstream(arrays / fmt::format("{}.job", number)), job);
      if (job.empty()) continue;
      std::ifstream runs(arrays / fmt::format("{}.runs", number));
      std::uint64_t run = 0;
      for (int index = 0; runs >> run; ++index) {
        if (!folder_.ReadOutcome(run)) tasks_[run] = fmt::format("{}_{}", job, index);
      }
    }
    if (tasks_.empty()) return;
    const auto deadline = Clock::now() + kPatience;
    auto queued = Queued();
    while (!queued) {
      if (Clock::now() > deadline) throw std::runtime_error("Slurm does not answer: " + fault_);
      std::this_thread::sleep_for(kLook);
      queued = Queued();
    }
    std::erase_if(tasks_, [&](const auto& task) { return !queued->contains(task.second); });
  }

  void Submit() {
    if (waiting_.empty()) return;
    // No two arrays know of each other's limit: one at a time. Under compute_seconds there is room
    // for no more than the limit anyway.
    if (!(spec_.limits.compute_seconds > 0) && !tasks_.empty()) return;
    const int number = ++arrays_;
    const fs::path stem = folder_.Path() / "slurm" / std::to_string(number);
    std::string runs;
    for (const std::uint64_t run : waiting_) runs += fmt::format("{}\n", run);
    WriteWhole(stem.string() + ".runs", runs);
    const Limits& limits = spec_.limits;
    std::string words = fmt::format(
        "sbatch --parsable --job-name={} --array=0-{}%{} --cpus-per-task={} --output={} "
        "--chdir={} --no-requeue",
        Quoted("attune-" + spec_.name), waiting_.size() - 1, limits.parallel, limits.cpus,
        Quoted(stem.string() + "_%a.log"), Quoted(spec_.directory.string()));
    if (!spec_.slurm.partition.empty()) words += " --partition=" + Quoted(spec_.slurm.partition);
    if (limits.memory > 0) {
      // Above the task's own limit, so that it is the task that says what happened.
      words += fmt::format(" --mem={}M", limits.memory / 1048576 + 64);
    }
    if (limits.seconds > 0) {
      words += fmt::format(" --time={}",
                           static_cast<std::uint64_t>(std::ceil(limits.seconds / 60.0)) + 1);
    }
    for (const std::string& option : spec_.slurm.options) words += " " + Quoted(option);
    // exec: Slurm's signals reach the task itself.
    const std::string script = fmt::format(
        "#!/bin/sh\nexec {} sweep task {} \"$(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {})\"\n",
        Quoted(program_), Quoted(folder_.Path().string()), Quoted(stem.string() + ".runs"));
    WriteWhole(stem.string() + ".sh", script);
    const Answer answer = Call(words + " " + Quoted(stem.string() + ".sh"));
    // "123" or "123;cluster", perhaps below warnings.
    std::istringstream lines(answer.text);
    std::string job;
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty() && std::isdigit(static_cast<unsigned char>(line[0])) != 0) {
        job = line.substr(0, line.find(';'));
      }
    }
    if (answer.status != 0 || job.empty()) {
      throw std::runtime_error("sbatch refuses the sweep: " + FirstLine(answer.text));
    }
    WriteWhole(stem.string() + ".job", job + "\n");
    for (std::size_t index = 0; index < waiting_.size(); ++index) {
      tasks_[waiting_[index]] = fmt::format("{}_{}", job, index);
    }
    waiting_.clear();
  }

  // The numbers of the arrays that have tasks, with commas.
  [[nodiscard]] std::string Jobs() const {
    std::set<std::string> jobs;
    for (const auto& [run, task] : tasks_) jobs.insert(task.substr(0, task.find('_')));
    return fmt::format("{}", fmt::join(jobs, ","));
  }

  // Tasks that Slurm still has, waiting or running; nothing where the controller does not answer.
  std::optional<std::set<std::string>> Queued() {
    std::set<std::string> queued;
    // An array's number that Slurm has forgotten is an error of squeue: so each by itself.
    std::istringstream jobs(Jobs());
    for (std::string job; std::getline(jobs, job, ',');) {
      const Answer answer = Call("squeue --noheader --array --format='%i %t' --jobs=" + job);
      if (answer.status != 0) {
        if (answer.text.find("Invalid job id") != std::string::npos) continue;
        fault_ = FirstLine(answer.text);
        return std::nullopt;
      }
      std::istringstream lines(answer.text);
      std::string task;
      std::string state;
      while (lines >> task >> state) {
        if (state != "CD" && state != "F" && state != "CA" && state != "TO") queued.insert(task);
      }
    }
    return queued;
  }

  // How a task ended, where Slurm keeps accounts.
  static std::string State(const std::string& task) {
    const Answer answer =
        Call("sacct --noheader --allocations --parsable2 --format=State --jobs=" + task);
    return answer.status == 0 ? FirstLine(answer.text) : "";
  }

  const Folder& folder_;
  const Spec& spec_;
  std::string program_;
  int arrays_ = 0;
  std::set<std::uint64_t> begun_;               // runs that are not over
  std::vector<std::uint64_t> waiting_;          // to be submitted
  std::map<std::uint64_t, std::string> tasks_;  // by run: JOB_INDEX
  Clock::time_point looked_{};
  std::string fault_;
};

}  // namespace

std::unique_ptr<Executor> MakeSlurm(const Folder& folder, const Spec& spec,
                                    const std::string& program) {
  return std::make_unique<SlurmExecutor>(folder, spec, program);
}

}  // namespace attune::sweep
