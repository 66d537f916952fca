#include "engine/cache/block_pool.h"

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "tests/support/catch.h"

namespace ringserve {
namespace {

TEST_CASE("a pool counts owners like a map does") {
  std::mt19937_64 random(3);
  for (const int32_t num_blocks : {0, 1, 2, 17}) {
    BlockPool pool(num_blocks);
    std::vector<int32_t> references;
    std::map<int32_t, int32_t> owners;
    for (int i = 0; i < 3000; ++i) {
      const uint64_t kind = random() % 4;
      if (kind < 2) {
        const std::optional<int32_t> block = pool.Acquire();
        REQUIRE(block.has_value() == (owners.size() < static_cast<size_t>(num_blocks)));
        if (block.has_value()) {
          REQUIRE(*block >= 0);
          REQUIRE(*block < num_blocks);
          REQUIRE(!owners.contains(*block));
          owners[*block] = 1;
          references.push_back(*block);
        }
      } else if (!references.empty()) {
        const size_t pick = random() % references.size();
        const int32_t block = references[pick];
        if (kind == 2 && references.size() < 100) {
          pool.AddOwner(block);
          ++owners[block];
          references.push_back(block);
        } else {
          pool.Release(block);
          references.erase(references.begin() + static_cast<std::ptrdiff_t>(pick));
          if (--owners[block] == 0) {
            owners.erase(block);
          }
        }
      }
      REQUIRE(pool.num_free() == num_blocks - static_cast<int32_t>(owners.size()));
      REQUIRE(pool.num_references() == static_cast<int64_t>(references.size()));
      for (int32_t block = 0; block < num_blocks; ++block) {
        REQUIRE(pool.num_owners(block) == (owners.contains(block) ? owners[block] : 0));
      }
      REQUIRE(pool.Balances(references));
    }
  }
}

TEST_CASE("the balance of a pool shows every kind of disagreement") {
  BlockPool pool(4);
  const int32_t a = *pool.Acquire();
  const int32_t b = *pool.Acquire();
  pool.AddOwner(b);
  const auto balances = [&](std::vector<int32_t> references) { return pool.Balances(references); };
  REQUIRE(balances({a, b, b}));
  REQUIRE(balances({b, a, b}));
  REQUIRE_FALSE(balances({a, b}));        // a leak
  REQUIRE_FALSE(balances({a, a, b}));     // the wrong owner
  REQUIRE_FALSE(balances({a, b, b, b}));  // a reference that nobody counted
  REQUIRE_FALSE(balances({a, b, b, 4}));
  REQUIRE_FALSE(balances({a, b, b, -1}));
  REQUIRE_FALSE(balances({}));
}

}  // namespace
}  // namespace ringserve
