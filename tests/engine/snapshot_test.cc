// Snapshots of sessions: equal after a journey, refused if a bit is wrong, harmless if hostile.
#include "engine/snapshot.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/base/checksum.h"
#include "tests/support/session_run.h"

namespace ringserve {
namespace {

FakeEngineOptions Sliding() {
  FakeEngineOptions options;
  options.shape = {
      .buffer_size = 32, .block_size = 8, .sink_size = 5, .feedback_size = 32, .slides = true};
  return options;
}

FakeEngineOptions Windowed() {
  FakeEngineOptions options;
  options.shape = MakeWindowShape(20, 8, options.scheduler.prefill_size, 1 << 20);
  return options;
}

FakeEngineOptions Local(int64_t window = 7) {
  FakeEngineOptions options;
  options.shape = {.buffer_size = 96, .block_size = 8, .feedback_size = 96};
  AddLocalRing(window, options.scheduler.prefill_size, options.shape);
  options.local_blocks.num_device = 64;
  return options;
}

// Where the head ends, and some of its fields.
constexpr size_t kHeadBytes = 288;
constexpr size_t kPositionAt = 136;
constexpr size_t kFirstBlockAt = 152;
// Of what comes before the text in a model with a local ring.
constexpr size_t kLocalBytes = 32;

// Of the text of a snapshot without id and owner.
size_t TextBytes(const std::string& bytes, int32_t block_size) {
  int64_t position = 0;
  int64_t first_block = 0;
  std::memcpy(&position, bytes.data() + kPositionAt, sizeof(position));
  std::memcpy(&first_block, bytes.data() + kFirstBlockAt, sizeof(first_block));
  return static_cast<size_t>(position - first_block * block_size) * sizeof(int32_t);
}

// Makes the checksums of head and text right again.
void Reseal(std::string& bytes, size_t text_bytes) {
  const auto sum = [&](size_t at, size_t count, uint64_t seed) {
    const std::string part = bytes.substr(at, count);
    const uint64_t value = Checksum(std::as_bytes(std::span(part.data(), part.size())), seed);
    std::memcpy(bytes.data() + at + count, &value, sizeof(value));
    return value;
  };
  const uint64_t head = sum(0, kHeadBytes - 8, 0);
  sum(kHeadBytes, text_bytes, head);
}

TEST_CASE("one changed bit changes a checksum") {
  std::mt19937_64 random(3);
  for (size_t size = 0; size < 100; ++size) {
    std::vector<std::byte> bytes(size);
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(random());
    }
    const uint64_t sum = Checksum(bytes);
    CHECK(Checksum(bytes, 1) != sum);
    for (size_t bit = 0; bit < size * 8; ++bit) {
      bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
      REQUIRE(Checksum(bytes) != sum);
      bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    }
    bytes.push_back(std::byte{0});
    CHECK(Checksum(bytes) != sum);
  }
}

TEST_CASE("a session that left and came back goes on as if it had stayed") {
  for (const FakeEngineOptions& options : {FakeEngineOptions(), Sliding(), Local()}) {
    FakeEngine home(options);
    FakeEngine abroad(options);
    const std::string id = home.Create()->id;
    std::vector<int32_t> text;
    uint64_t request_id = 0;
    std::vector<size_t> lengths = {1, 7, 5, 3};
    if (options.shape.slides || options.shape.has_local()) {
      lengths.insert(lengths.end(), {8, 9, 20, 1});  // the window moves
    }
    for (const size_t length : lengths) {
      std::vector<int32_t> before = text;
      const absl::StatusOr<std::string> bytes = home.Export(id);
      REQUIRE(bytes.ok());
      for (FakeEngine* const engine : {&home, &abroad}) {
        for (const size_t piece_bytes : {size_t{1}, size_t{777}, bytes->size() + 1}) {
          const absl::StatusOr<SessionInfo> info = engine->Import(*bytes, piece_bytes);
          INFO(info.status().ToString());
          REQUIRE(info.ok());
          CHECK(info->position == static_cast<int64_t>(before.size()));
          CHECK(info->rollback_floor == home.Get(id)->rollback_floor);
          std::vector<int32_t> copy = before;
          CheckTurn(*engine,
                    TurnRequest(++request_id, info->id, SeededTokens(length, length), 4),
                    options.shape,
                    copy);
          // And back to the turn's start, where that is possible.
          const int64_t floor = engine->Get(info->id)->rollback_floor;
          if (floor <= static_cast<int64_t>(before.size())) {
            REQUIRE(engine->Rollback(info->id, static_cast<int64_t>(before.size())).ok());
            copy = before;
            CheckTurn(*engine,
                      TurnRequest(++request_id, info->id, SeededTokens(length, 2), 3),
                      options.shape,
                      copy);
          }
          REQUIRE(engine->Close(info->id).ok());
        }
      }
      CheckTurn(home,
                TurnRequest(++request_id, id, SeededTokens(length, length), 3),
                options.shape,
                text);
    }
    REQUIRE(home.Close(id).ok());
    CHECK(home.loop().pool().num_references() == 0);
    CHECK(abroad.loop().pool().num_references() == 0);
    CHECK(abroad.loop().pool().num_references(BlockGroup::kLocal) == 0);
  }
}

TEST_CASE("a snapshot that was cut or has a wrong bit is DATA_LOSS and leaves nothing") {
  for (const FakeEngineOptions& options : {FakeEngineOptions(), Sliding(), Local()}) {
    FakeEngine engine(options);
    const std::string id = engine.Create()->id;
    std::vector<int32_t> text;
    CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 19), 6), options.shape, text);
    const std::string bytes = *engine.Export(id);
    const int64_t references = engine.loop().pool().num_references();
    std::mt19937_64 random(11);
    const auto check = [&](const std::string& damaged) {
      const absl::StatusOr<SessionInfo> info = engine.Import(damaged, 1 + random() % 5000);
      INFO(info.status().ToString());
      REQUIRE(absl::IsDataLoss(info.status()));
      REQUIRE(engine.loop().pool().num_references() == references);
    };
    for (size_t i = 0; i < 100; ++i) {
      check(bytes.substr(0, i < 50 ? i * 8 : random() % bytes.size()));
    }
    for (int i = 0; i < 1000; ++i) {
      // Half of them where the structure is.
      const size_t at = i % 2 == 0 ? random() % (kHeadBytes + 120) : random() % bytes.size();
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (random() % 8)));
      CAPTURE(at);
      check(damaged);
    }
    check(bytes + '\0');
    CHECK(engine.List()->size() == 1);
  }
}

TEST_CASE("a snapshot of another model, backend or shape is FAILED_PRECONDITION") {
  const FakeEngineOptions options;
  FakeEngine engine(options);
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 19), 6), options.shape, text);
  const std::string bytes = *engine.Export(id);
  const auto take_in = [&](const FakeEngineOptions& other) {
    FakeEngine to(other);
    return to.Import(bytes).status();
  };
  CHECK(take_in(options).ok());
  FakeEngineOptions other = options;
  other.model = 2;
  CHECK(absl::IsFailedPrecondition(take_in(other)));
  other = options;
  other.backend = "fake avx2";
  CHECK(absl::IsFailedPrecondition(take_in(other)));
  other = options;
  other.shape.block_size = 16;
  CHECK(absl::IsFailedPrecondition(take_in(other)));
  other = options;
  other.shape.slides = true;
  CHECK(absl::IsFailedPrecondition(take_in(other)));
  other = options;
  other.shape.buffer_size = 24;  // smaller than the session's
  CHECK(absl::IsFailedPrecondition(take_in(other)));
  other.shape.buffer_size = 64;
  CHECK(take_in(other).ok());
  std::string newer = bytes;
  newer[8] = 2;
  newer[12] = static_cast<char>(~2);
  FakeEngine to(options);
  CHECK(absl::IsFailedPrecondition(to.Import(newer).status()));
  // With a local ring, another window, or a ring against none.
  CHECK(absl::IsFailedPrecondition(take_in(Local())));
  FakeEngine local(Local());
  const std::string local_id = local.Create()->id;
  std::vector<int32_t> local_text;
  CheckTurn(local, TurnRequest(1, local_id, SeededTokens(1, 19), 6), Local().shape, local_text);
  const std::string local_bytes = *local.Export(local_id);
  FakeEngine same(Local());
  CHECK(same.Import(local_bytes).ok());
  FakeEngine wider(Local(8));
  CHECK(absl::IsFailedPrecondition(wider.Import(local_bytes).status()));
  CHECK(absl::IsFailedPrecondition(to.Import(local_bytes).status()));
}

TEST_CASE("hostile snapshots with sound checksums are refused or harmless") {
  for (const FakeEngineOptions& options : {FakeEngineOptions(), Sliding(), Windowed(), Local()}) {
    FakeEngine engine(options);
    const std::string id = engine.Create()->id;
    for (const size_t length : {15, options.shape.slides ? 30 : 4}) {
      REQUIRE(engine.loop().Submit(TurnRequest(length, id, SeededTokens(1, length), 6)).ok());
      RunUntilIdle(engine);
      REQUIRE(engine.sink().Take(length).finished.has_value());
    }
    const std::string bytes = *engine.Export(id);
    std::mt19937_64 random(5);
    uint64_t request_id = 100;
    int num_taken = 0;
    for (int i = 0; i < 3000; ++i) {
      std::string forged = bytes;
      // Some 4 or 8 bytes of the head become another number.
      size_t at = 88 + random() % ((kHeadBytes - 8 - 88) / 4) * 4;
      if (options.shape.has_local() && i % 2 == 0) {
        at = kHeadBytes + random() % (kLocalBytes / 8) * 8;
      }
      const uint64_t values[] = {
          random(), random() % 64, uint64_t{1} << (random() % 64), ~uint64_t{0}};
      const uint64_t value = values[random() % 4];
      std::memcpy(forged.data() + at, &value, at % 8 == 0 ? 8 : 4);
      Reseal(forged,
             TextBytes(bytes, options.shape.block_size) +
                 (options.shape.has_local() ? kLocalBytes : 0));
      absl::StatusOr<SessionInfo> got = engine.Import(forged, 100'000);
      if (got.ok()) {
        ++num_taken;
        REQUIRE(engine.loop().PoolBalances());
        engine.Rollback(got->id, got->rollback_floor).IgnoreError();  // there may be no position
        REQUIRE(engine.loop().Submit(TurnRequest(++request_id, got->id, {1, 2, 3}, 5)).ok());
        RunUntilIdle(engine);
        REQUIRE(engine.sink().Take(request_id).has_ended());
        REQUIRE(engine.Close(got->id).ok());
      }
    }
    CHECK(num_taken > 0);
    CHECK(engine.List()->size() == 1);
    REQUIRE(engine.Close(id).ok());
    CHECK(engine.loop().pool().num_references() == 0);
  }
}

TEST_CASE("keys that a client brought along never become another text's prefix") {
  FakeEngineOptions options;
  options.sessions.share_prefixes = true;
  FakeEngine engine(options);
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 20), 1), options.shape, text);
  std::string forged = *engine.Export(id);
  REQUIRE(engine.Close(id).ok());
  // Its first block is other than its text says, and the checksum agrees.
  const size_t at = kHeadBytes + TextBytes(forged, options.shape.block_size) + 8;
  const size_t block_bytes = (forged.size() - at) / 3 - 8;
  for (size_t i = 0; i < block_bytes; ++i) {
    forged[at + i] = static_cast<char>(forged[at + i] ^ 1);
  }
  const std::string sum =
      BlockChecksum(std::as_bytes(std::span(forged.data() + at, block_bytes)), /*index=*/0);
  forged.replace(at + block_bytes, sum.size(), sum);
  FakeEngine fresh(options);
  const absl::StatusOr<SessionInfo> info = fresh.Import(forged);
  INFO(info.status().ToString());
  REQUIRE(info.ok());
  REQUIRE(fresh.loop().Submit(TurnRequest(2, info->id, {1}, 3)).ok());
  RunUntilIdle(fresh);
  // The same owner's, a fork's, and a stateless text that begins alike.
  REQUIRE(fresh.loop().Submit(TurnRequest(3, fresh.Fork(info->id)->id, {2}, 3)).ok());
  RunUntilIdle(fresh);
  std::vector<int32_t> none;
  CheckTurn(fresh, TurnRequest(4, "", text, 4), options.shape, none);
}

TEST_CASE("a session that is being exported waits, and may be closed") {
  const FakeEngineOptions options;
  FakeEngine engine(options);
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 20), 1), options.shape, text);
  std::unique_ptr<SessionExport> leaving;
  const auto begin = [&] {
    engine.loop().ExportSession(
        "", id, {}, [&](absl::StatusOr<std::unique_ptr<SessionExport>> begun) {
          REQUIRE(begun.ok());
          leaving = *std::move(begun);
        });
    engine.loop().Step();
  };
  const auto next = [&] {
    absl::Status status;
    leaving->Next([&](const absl::StatusOr<std::string>& piece) { status = piece.status(); });
    engine.loop().Step();
    return status;
  };
  begin();
  CHECK(engine.Get(id)->is_busy);
  CHECK(absl::IsAborted(engine.Rollback(id, 0).status()));
  CHECK(absl::IsAborted(engine.Export(id).status()));
  REQUIRE(engine.loop().Submit(TurnRequest(2, id, {1}, 1)).ok());
  RunUntilIdle(engine);
  CHECK(absl::IsAborted(engine.sink().Take(2).failed->status));
  leaving.reset();
  engine.loop().Step();
  CheckTurn(engine, TurnRequest(3, id, {1}, 1), options.shape, text);
  begin();
  CHECK(next().ok());  // head and text
  REQUIRE(engine.Close(id).ok());
  CHECK(absl::IsAborted(next()));
  leaving.reset();
  engine.loop().Step();
  CHECK(engine.loop().pool().num_references() == 0);
}

TEST_CASE("imports that stop, or for which there is no room, leave nothing") {
  FakeEngineOptions options;
  options.device_blocks = 7;
  options.sessions.max_sessions = 2;
  FakeEngine engine(options);
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 25), 4), options.shape, text);  // 4 blocks
  const std::string bytes = *engine.Export(id);
  CHECK(absl::IsResourceExhausted(engine.Import(bytes).status()));  // 3 are left
  REQUIRE(engine.Rollback(id, 20).ok());
  const std::string smaller = *engine.Export(id);
  std::unique_ptr<SessionImport> arriving = engine.loop().ImportSession("", {});
  arriving->Add(smaller.substr(0, smaller.size() - 1),
                [](const absl::Status& status) { CHECK(status.ok()); });
  engine.loop().Step();
  CHECK(engine.loop().pool().num_references() == 6);
  CHECK(engine.List()->size() == 1);
  CHECK(absl::IsResourceExhausted(engine.Create().status()));  // it is the second
  engine.Sleep(absl::Seconds(61));
  engine.loop().Step();
  CHECK(engine.loop().pool().num_references() == 3);
  absl::Status late;
  arriving->Add(smaller.substr(smaller.size() - 1),
                [&](const absl::Status& status) { late = status; });
  engine.loop().Step();
  CHECK(absl::IsAborted(late));
  arriving.reset();
  engine.loop().Step();
  CHECK(engine.Import(smaller).ok());
}

}  // namespace
}  // namespace ringserve
