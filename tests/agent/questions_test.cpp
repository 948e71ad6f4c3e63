#include "agent/questions.h"

#include <catch2/catch.hpp>

namespace attune {
namespace {

using namespace std::chrono_literals;

constexpr Questions::Time kNoon{};

TEST_CASE("the server that spoke last is asked, and an answer closes its question") {
  Questions questions;
  CHECK_FALSE(questions.Served());
  questions.Serve("a", "first");
  questions.Serve("b", "second");
  CHECK(questions.Peer() == "b");
  CHECK(questions.Name() == "second");
  questions.Ask(7, "job", kNoon + 5s);
  CHECK(questions.NextDeadline() == kNoon + 5s);
  CHECK_FALSE(questions.Answer("a", 7));  // another's to answer
  CHECK(questions.Answer("b", 7) == "job");
  CHECK_FALSE(questions.Answer("b", 7));  // said twice
  CHECK_FALSE(questions.NextDeadline());
}

TEST_CASE("a server that lets a deadline pass is not asked until it says a word") {
  Questions questions;
  questions.Serve("a", "slow");
  questions.Ask(1, "one", kNoon + 5s);
  questions.Ask(2, "two", kNoon + 6s);
  CHECK(questions.TakeOverdue(kNoon + 4s).empty());
  const auto overdue = questions.TakeOverdue(kNoon + 5s);
  REQUIRE(overdue.size() == 1);
  CHECK(overdue[0].id == 1);
  CHECK(overdue[0].job_key == "one");
  CHECK_FALSE(questions.Served());
  CHECK(questions.Name().empty());
  SECTION("its late answer is one") { CHECK_FALSE(questions.Answer("a", 1)); }
  SECTION("an answer in time is one") { CHECK(questions.Answer("a", 2) == "two"); }
  SECTION("serving anew is one") { questions.Serve("a", "slow"); }
  CHECK(questions.Served());
}

TEST_CASE("a server that has been replaced does not silence the one in its place") {
  Questions questions;
  questions.Serve("a", "old");
  questions.Ask(1, "one", kNoon + 5s);
  questions.Serve("b", "new");
  CHECK(questions.TakeOverdue(kNoon + 9s).size() == 1);
  CHECK(questions.Served());
}

}  // namespace
}  // namespace attune
