// Runs the migrations that a store lacks.
#include "store/migrations.h"

#include <cstdint>
#include <string>

namespace attune::sqlite {

void Migrate(Database& database, std::span<const std::string_view> migrations) {
  while (true) {
    // The version is read under the write lock, so that two programs that open a store at the same
    // time do not both migrate it.
    database.Script("BEGIN IMMEDIATE");
    const std::uint64_t version = database.Integer("PRAGMA user_version");
    if (version >= migrations.size()) {
      database.Rollback();
      return;
    }
    const std::string next = std::to_string(version + 1);
    try {
      database.Script(std::string(migrations[version]));
      database.Script("PRAGMA user_version = " + next);
      database.Script("COMMIT");
    } catch (const StoreError& error) {
      database.Rollback();
      throw StoreError(std::string(error.what()) + " (while bringing it to schema " + next + ")");
    }
  }
}

}  // namespace attune::sqlite
