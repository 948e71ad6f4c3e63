#include "agent/questions.h"

#include <algorithm>

namespace attune {

void Questions::Serve(const std::string& peer, const std::string& name) {
  peer_ = peer;
  name_ = name;
  awake_ = true;
}

void Questions::Ask(std::uint64_t id, const std::string& job_key, Time deadline) {
  open_.insert_or_assign(id, Open{peer_, job_key, deadline});
}

std::optional<std::string> Questions::Answer(const std::string& peer, std::uint64_t id) {
  if (peer == peer_) awake_ = true;
  const auto question = open_.find(id);
  if (question == open_.end() || question->second.peer != peer) return std::nullopt;
  std::string key = std::move(question->second.job_key);
  open_.erase(question);
  return key;
}

std::vector<Questions::Overdue> Questions::TakeOverdue(Time now) {
  std::vector<Overdue> overdue;
  for (auto question = open_.begin(); question != open_.end();) {
    if (question->second.deadline > now) {
      ++question;
      continue;
    }
    if (question->second.peer == peer_) awake_ = false;
    overdue.push_back({question->first, std::move(question->second.job_key)});
    question = open_.erase(question);
  }
  return overdue;
}

std::optional<Questions::Time> Questions::NextDeadline() const {
  if (open_.empty()) return std::nullopt;
  return std::ranges::min_element(open_, {},
                                  [](const auto& entry) { return entry.second.deadline; })
      ->second.deadline;
}

}  // namespace attune
