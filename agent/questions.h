// What a policy server has been asked and has not answered, and who is asked. No I/O and no clock:
// times are given.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace attune {

class Questions {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `peer` is asked from now on: of several, the one that said so last.
  void Serve(const std::string& peer, const std::string& name);
  // Whether somebody is there to be asked. A server that lets a deadline pass is not, until it says
  // a word: a dead one costs one question's wait.
  [[nodiscard]] bool Served() const { return awake_; }
  [[nodiscard]] const std::string& Peer() const { return peer_; }
  // For people; empty where nobody is asked.
  [[nodiscard]] std::string Name() const { return awake_ ? name_ : std::string(); }

  // Peer() is asked question `id` about a job.
  void Ask(std::uint64_t id, const std::string& job_key, Time deadline);
  // `peer` answers. The key of the job that it was asked about, or nothing where the question is
  // not open, or was another's to answer.
  [[nodiscard]] std::optional<std::string> Answer(const std::string& peer, std::uint64_t id);

  struct Overdue {
    std::uint64_t id;
    std::string job_key;
  };
  // Closes the questions whose deadline has passed.
  [[nodiscard]] std::vector<Overdue> TakeOverdue(Time now);
  [[nodiscard]] std::optional<Time> NextDeadline() const;

 private:
  struct Open {
    std::string peer, job_key;
    Time deadline;
  };
  std::string peer_, name_;
  bool awake_ = false;
  std::map<std::uint64_t, Open> open_;
};

}  // namespace attune
