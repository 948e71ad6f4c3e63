// How a store comes to its schema. Internal to store/.
#pragma once

#include <span>
#include <string_view>

#include "store/sqlite.h"

namespace attune::sqlite {

// Entry n leads from schema n to schema n + 1; their number is the newest schema.
[[nodiscard]] std::span<const std::string_view> Migrations();

// Runs those of `migrations` that the database's user_version says are missing, each in one
// transaction together with its user_version: after a failure the database has the last good
// schema. Throws StoreError that says at which schema it failed.
void Migrate(Database& database, std::span<const std::string_view> migrations);

}  // namespace attune::sqlite
