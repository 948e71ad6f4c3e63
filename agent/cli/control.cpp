// status, adjust, policy: what needs a daemon.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "agent/cli/command.h"
#include "agent/client.h"
#include "collectors/codec.h"

namespace attune::cli {
namespace {

using namespace std::chrono_literals;

template <typename Answer>
Answer AskDaemon(const Paths& paths, const Message& question) {
  const auto answer = Ask(paths.Endpoint(), question, 5s);
  if (!answer) {
    throw std::runtime_error(
        fmt::format("no attuned answers at {}; start attuned, or give its "
                    "--state-directory or --runtime-directory",
                    paths.Endpoint()));
  }
  if (const auto* error = std::get_if<Error>(&*answer)) throw std::runtime_error(error->text);
  if (const auto* expected = std::get_if<Answer>(&*answer)) return *expected;
  throw std::runtime_error(fmt::format(
      "{} is not what attuned answers to this; is it of another version?", Name(*answer)));
}

int PrintReply(const Reply& reply) {
  fmt::print(reply.ok ? stdout : stderr, "{}{}\n",
             reply.ok ? "" : "attune: ", Printable(reply.text));
  return reply.ok ? kOk : kNothing;
}

void RequireWithin(std::optional<float> value, const char* flag, float least, float most) {
  if (value && !(*value >= least && *value <= most)) {
    throw UsageError(fmt::format("{} {} is not within {} to {}", flag, *value, least, most));
  }
}

template <typename T>
std::optional<T> Optional(const Arguments& arguments, const char* flag) {
  if (!arguments.Has(flag)) return std::nullopt;
  return arguments.Get<T>(flag);
}

}  // namespace

int ShowStatus(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("status", words);
  const auto status = AskDaemon<Status>(arguments.paths, StatusRequest{});
  Table table({"job", "name", "progress", "step", "loss", "imbalance", "active_heads", "heads",
               "trials", "dropped", "last_decider", "last_action"});
  for (const LiveJob& job : status.jobs) {
    table.Add({job.id, job.name, job.progress, job.step, job.loss, job.imbalance, job.active_heads,
               job.heads, job.trials, job.dropped, job.last_decider, job.last_action});
  }
  if (arguments.format == Format::kJson) {
    const nlohmann::json json = {
        {"version", status.version},
        {"pid", status.pid},
        {"uptime_seconds", status.uptime_seconds},
        {"state_directory", status.state_directory},
        {"policy", status.policy},
        {"policy_version", status.policy_version},
        {"errors", status.errors},
        {"external", status.external},
        {"late_answers", status.late_answers},
        {"store_fault", status.store_fault},
        {"jobs", nlohmann::json::parse(table.Render(Format::kJson))},
    };
    fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return kOk;
  }
  if (arguments.format == Format::kTable) {
    fmt::print(
        "attuned {} (process {}), up {:.0f} s, policy {}, network version {}, {} errors\n{}\n\n",
        status.version, status.pid, status.uptime_seconds, status.policy, status.policy_version,
        status.errors, status.state_directory);
    if (!status.external.empty() || status.late_answers > 0) {
      fmt::print("policy server {}, {} late answers\n\n",
                 status.external.empty() ? "none" : Printable(status.external),
                 status.late_answers);
    }
    if (!status.store_fault.empty()) {
      fmt::print("nothing is stored now; it is kept in memory: {}\n\n",
                 Printable(status.store_fault));
    }
    if (table.Empty()) {
      fmt::print("no job is running\n");
      return kOk;
    }
  }
  static_cast<void>(Print(table, arguments.format, ""));
  return kOk;  // no job is no failure
}

int AdjustJob(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("adjust", words);
  if (!arguments.Has("job")) throw UsageError("which job? see attune status");
  Adjust adjust;
  adjust.job = arguments.Get<std::uint64_t>("job");
  adjust.site = Optional<std::string>(arguments, "site").value_or("");
  adjust.head = Optional<std::uint32_t>(arguments, "head");
  adjust.scale = Optional<float>(arguments, "scale");
  adjust.gain = Optional<float>(arguments, "gain");
  adjust.active_heads = Optional<std::uint32_t>(arguments, "active-heads");
  if (adjust.head && adjust.active_heads) {
    throw UsageError("--head names one head and --active-heads counts them; give one of the two");
  }
  if (arguments.Has("neutral")) {
    if (adjust.scale || adjust.gain || adjust.active_heads || adjust.head) {
      throw UsageError("--neutral sets all of a site; give it without the others");
    }
    adjust.scale = adjust.gain = 1;
    adjust.active_heads = 0;
  }
  if (!adjust.scale && !adjust.gain && !adjust.active_heads) {
    throw UsageError("adjust what? give --scale, --gain, --active-heads or --neutral");
  }
  if (adjust.active_heads == 0U && !arguments.Has("neutral")) {
    throw UsageError("--active-heads 0 would leave none; at least one head of a site is computed");
  }
  RequireWithin(adjust.scale, "--scale", kMinScale, kMaxScale);
  RequireWithin(adjust.gain, "--gain", kMinGain, kMaxGain);
  return PrintReply(AskDaemon<Reply>(arguments.paths, adjust));
}

int Policy(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("policy", words);
  const std::string verb = Optional<std::string>(arguments, "verb").value_or("list");
  if (verb == "use") {
    if (!arguments.Has("name")) throw UsageError("use which policy? see attune policy list");
    return PrintReply(AskDaemon<Reply>(
        arguments.paths,
        UsePolicy{arguments.Get<std::string>("name"), Optional<std::uint64_t>(arguments, "job")}));
  }
  Table table({"name", "version", "created", "trials", "path", "provenance"});
  table.Add(
      {"auto", 0, nullptr, 0, "", "network, else kmeans, else keep; what attuned begins with"});
  table.Add(
      {"network", 0, nullptr, 0, "", "as it comes, until it has learned; see policies/README.md"});
  for (const char* rule : {"keep", "random", "kmeans", "qk_clip", "importance", "explore"}) {
    table.Add({rule, 0, nullptr, 0, "", "a rule; see policies/README.md"});
  }
  table.Add({"external", 0, nullptr, 0, "", "a policy server; see policies/README.md"});
  if (std::filesystem::exists(arguments.paths.Store())) {
    for (const PolicyRecord& policy : OpenHistory(arguments.paths).Policies()) {
      table.Add({policy.name, policy.version, UtcTime(policy.created), policy.trials, policy.path,
                 policy.provenance});
    }
  }
  return Print(table, arguments.format, "");
}

}  // namespace attune::cli
