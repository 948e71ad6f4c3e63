// SQLite's C interface as values: a database, and a cursor over one statement's rows. Internal to
// store/. Neither is thread safe; failures are StoreErrors that name the file.
#pragma once

#include <sqlite3.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "store/store.h"

namespace attune::sqlite {

static_assert(std::endian::native == std::endian::little, "blobs are memory as it is");

struct Close {
  void operator()(sqlite3* database) const { sqlite3_close(database); }
};
struct Finalize {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};

template <class T>
inline constexpr bool kIsOptional = std::is_pointer_v<T>;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;

class Database;

// One run of a prepared statement. It has the statement to itself until it is destroyed.
class Cursor {
 public:
  // `lifetime` of the values: SQLITE_STATIC where they outlive the cursor, else SQLITE_TRANSIENT,
  // which copies them.
  template <class... Values>
  Cursor(Database& database, sqlite3_stmt* statement, sqlite3_destructor_type lifetime,
         const Values&... values)
      : database_(database), statement_(statement), lifetime_(lifetime) {
    int index = 0;
    (Check(Bind(++index, values)), ...);
  }
  ~Cursor() {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
  }
  Cursor(const Cursor&) = delete;
  Cursor& operator=(const Cursor&) = delete;

  // To the next row; false when there is none.
  [[nodiscard]] bool Step();
  // Runs an INSERT; false where a row has its primary key.
  [[nodiscard]] bool Insert();

  // The present row's columns, in their order, into as many fields. Throws StoreError for a blob
  // that is no whole number of elements.
  template <class... Fields>
  void Read(Fields&... fields) const {
    int column = 0;
    (ReadOne(column++, fields), ...);
  }

 private:
  void Check(int code) const;
  [[noreturn]] void FailBlob(int column) const;

  // Integers and enumerations, reals, text, arrays as blobs; null pointers and empty optionals as
  // NULL.
  template <class T>
  int Bind(int index, const T& value) {
    if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
      return sqlite3_bind_int64(statement_, index, static_cast<sqlite3_int64>(value));
    } else if constexpr (std::is_floating_point_v<T>) {
      return sqlite3_bind_double(statement_, index, value);
    } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
      const std::string_view text = value;
      return sqlite3_bind_text64(statement_, index, text.empty() ? "" : text.data(), text.size(),
                                 lifetime_, SQLITE_UTF8);
    } else if constexpr (kIsOptional<T>) {
      return value ? Bind(index, *value) : sqlite3_bind_null(statement_, index);
    } else {
      const std::span<const std::byte> bytes = std::as_bytes(std::span(value));
      // An empty vector's pointer may be null, which would bind NULL.
      return bytes.empty()
                 ? sqlite3_bind_zeroblob(statement_, index, 0)
                 : sqlite3_bind_blob64(statement_, index, bytes.data(), bytes.size(), lifetime_);
    }
  }

  template <class T>
  void ReadOne(int column, T& field) const {
    if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
      field = static_cast<T>(sqlite3_column_int64(statement_, column));
    } else if constexpr (std::is_floating_point_v<T>) {
      field = static_cast<T>(sqlite3_column_double(statement_, column));
    } else if constexpr (std::is_same_v<T, std::string>) {
      const unsigned char* text = sqlite3_column_text(statement_, column);
      const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
      field = size == 0 ? std::string() : std::string(reinterpret_cast<const char*>(text), size);
    } else if constexpr (kIsOptional<T>) {
      field.reset();
      if (sqlite3_column_type(statement_, column) != SQLITE_NULL) ReadOne(column, field.emplace());
    } else {
      using Element = typename T::value_type;
      static_assert(std::is_trivially_copyable_v<Element>);
      const void* bytes = sqlite3_column_blob(statement_, column);
      const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
      if (size % sizeof(Element) != 0) FailBlob(column);
      field.resize(size / sizeof(Element));
      if (size != 0) std::memcpy(field.data(), bytes, size);
    }
  }

  Database& database_;
  sqlite3_stmt* statement_;
  sqlite3_destructor_type lifetime_;
};

class Database {
 public:
  // `flags` are SQLITE_OPEN_...; messages show `path` as it was given.
  Database(const std::filesystem::path& path, int flags) : path_(path.string()) {
    sqlite3* handle = nullptr;
    const int code = sqlite3_open_v2(std::filesystem::absolute(path).c_str(), &handle,
                                     flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, nullptr);
    handle_.reset(handle);  // given also on failure
    Check(code);
  }

  // Any number of statements without values; rows are passed over.
  void Script(const std::string& sql) {
    Check(sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr));
  }

  // A run of one statement, its parameters bound in order. Statements are prepared once; the same
  // one cannot be run again before its cursor is gone.
  template <class... Values>
  [[nodiscard]] Cursor Select(std::string_view sql, const Values&... values) {
    return Cursor(*this, Prepare(sql), SQLITE_TRANSIENT, values...);
  }
  template <class... Values>
  void Execute(std::string_view sql, const Values&... values) {
    Cursor cursor(*this, Prepare(sql), SQLITE_STATIC, values...);
    while (cursor.Step()) {
    }
  }
  // The same for an INSERT; false, and nothing is changed, where a row has that primary key.
  template <class... Values>
  [[nodiscard]] bool Insert(std::string_view sql, const Values&... values) {
    Cursor cursor(*this, Prepare(sql), SQLITE_STATIC, values...);
    return cursor.Insert();
  }
  // The first column of the first row, 0 if there is none.
  template <class... Values>
  [[nodiscard]] std::uint64_t Integer(std::string_view sql, const Values&... values) {
    Cursor cursor = Select(sql, values...);
    std::uint64_t value = 0;
    if (cursor.Step()) cursor.Read(value);
    return value;
  }

  // Rows that the last INSERT, UPDATE or DELETE touched.
  [[nodiscard]] std::int64_t Changes() const { return sqlite3_changes64(handle_.get()); }
  [[nodiscard]] bool ReadOnly() const { return sqlite3_db_readonly(handle_.get(), "main") == 1; }
  [[nodiscard]] const std::string& Path() const { return path_; }
  [[nodiscard]] sqlite3* Handle() { return handle_.get(); }

  // In place of SQLite's automatic checkpoints, which use the same hook. From now on the database
  // stays where it is.
  void LeaveCheckpoints() {
    sqlite3_wal_hook(
        handle_.get(),
        [](void* log_pages, sqlite3* /*database*/, const char* /*schema*/, int pages) {
          *static_cast<std::size_t*>(log_pages) = static_cast<std::size_t>(pages);
          return SQLITE_OK;
        },
        &log_pages_);
  }
  [[nodiscard]] std::size_t LogPages() const { return log_pages_; }
  void Checkpoint() {
    const int code = sqlite3_wal_checkpoint_v2(handle_.get(), "main", SQLITE_CHECKPOINT_PASSIVE,
                                               nullptr, nullptr);
    if (code != SQLITE_BUSY) Check(code);
  }

  // Copies everything, as of one moment, over what `target` has.
  void CopyTo(Database& target) {
    sqlite3_backup* backup =
        sqlite3_backup_init(target.handle_.get(), "main", handle_.get(), "main");
    if (backup == nullptr) target.Check(sqlite3_extended_errcode(target.handle_.get()));
    const int code = sqlite3_backup_step(backup, -1);
    sqlite3_backup_finish(backup);
    // The error of a full disk is the target's, that of a damaged page this one's.
    if (code != SQLITE_DONE) (code == SQLITE_FULL ? target : *this).Check(code);
  }

  [[nodiscard]] bool InTransaction() const { return sqlite3_get_autocommit(handle_.get()) == 0; }
  // Ends an open transaction, if there is one, and what it wrote.
  void Rollback() noexcept {
    if (InTransaction()) sqlite3_exec(handle_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  }

  // Throws what the result code means, unless it is SQLITE_OK.
  void Check(int code) const {
    switch (code & 0xff) {
      case SQLITE_OK:
        return;
      case SQLITE_BUSY:
      case SQLITE_LOCKED:
        throw StoreError(path_ + " is locked: another program is writing it; end it or try again");
      case SQLITE_FULL:
        throw StoreError("no space left to write " + path_ + ": free some on its disk");
      case SQLITE_READONLY:
      case SQLITE_PERM:
        throw StoreError(path_ + " is read-only: make the file and its folder writable");
      case SQLITE_CANTOPEN:
        throw StoreError("cannot open " + path_ +
                         ": its folder must exist and be writable, for readers too (WAL)");
      case SQLITE_NOTADB:
        throw DamagedError(path_ + " is not an SQLite file: give another path or move it away");
      case SQLITE_CORRUPT:
        throw DamagedError(path_ +
                           " is damaged: stop attuned and put a backup in its place, without the "
                           "-wal and -shm beside it, or recover it with `sqlite3 " +
                           path_ + " .recover`");
      case SQLITE_CONSTRAINT:
        throw RecordError(path_ + " refuses a record: " + sqlite3_errmsg(handle_.get()));
      default:
        throw StoreError(path_ + ": " +
                         (handle_ ? sqlite3_errmsg(handle_.get()) : sqlite3_errstr(code)));
    }
  }

 private:
  [[nodiscard]] sqlite3_stmt* Prepare(std::string_view sql) {
    if (const auto found = statements_.find(sql); found != statements_.end()) {
      return found->second.get();
    }
    sqlite3_stmt* statement = nullptr;
    Check(sqlite3_prepare_v3(handle_.get(), sql.data(), static_cast<int>(sql.size()),
                             SQLITE_PREPARE_PERSISTENT, &statement, nullptr));
    return statements_.emplace(sql, statement).first->second.get();
  }

  std::string path_;
  std::size_t log_pages_ = 0;  // after the last commit; counted where checkpoints are the caller's
  std::unique_ptr<sqlite3, Close> handle_;
  // Behind the handle, so that they are finalized before it is closed.
  std::map<std::string, std::unique_ptr<sqlite3_stmt, Finalize>, std::less<>> statements_;
};

inline bool Cursor::Step() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) Check(code);
  return false;
}

inline bool Cursor::Insert() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_CONSTRAINT_PRIMARYKEY || code == SQLITE_CONSTRAINT_ROWID) return false;
  if (code != SQLITE_DONE) Check(code);
  return true;
}

inline void Cursor::Check(int code) const { database_.Check(code); }

inline void Cursor::FailBlob(int column) const {
  throw StoreError(database_.Path() + " is damaged: column " +
                   sqlite3_column_name(statement_, column) + " has a blob of odd length");
}

}  // namespace attune::sqlite
