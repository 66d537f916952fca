#include "engine/plan/scheduler.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "engine/plan/request_queue.h"
#include "tests/support/catch.h"

namespace ringserve {
namespace {

std::vector<ScheduledRows> Plan(const std::vector<SequenceView>& views, const StepBudget& budget) {
  std::vector<ScheduledRows> plan = {{7, 7, true, true}};  // what was there goes
  PlanStep(views, budget, plan);
  return plan;
}

SequenceView Decoding(int64_t arrival) {
  return {.max_rows = 100, .arrival = arrival};
}

SequenceView Prompt(int64_t arrival, int64_t length) {
  return {.prompt_left = length, .max_rows = 100, .arrival = arrival};
}

TEST_CASE("decode rows come first, prompts share what is left in order of arrival") {
  const std::vector<ScheduledRows> plan =
      Plan({Prompt(5, 30), Decoding(2), Prompt(3, 10), Decoding(1), Prompt(4, 40)},
           {.max_sequences = 8, .max_prefill_rows = 24});
  REQUIRE(plan.size() == 4);
  REQUIRE(!plan[0].is_prefill);
  REQUIRE(!plan[1].is_prefill);
  REQUIRE(plan[0].is_sampled);
  REQUIRE(plan[2].sequence == 2);
  REQUIRE(plan[2].num_rows == 10);
  REQUIRE(plan[2].is_sampled);
  REQUIRE(plan[3].sequence == 4);
  REQUIRE(plan[3].num_rows == 14);
  REQUIRE(!plan[3].is_sampled);
}

TEST_CASE("a higher priority is served first, a paused sequence not at all") {
  std::vector<SequenceView> views = {Prompt(1, 30), Prompt(2, 30), Prompt(3, 30), Decoding(4)};
  views[1].priority = 1;
  views[2].is_paused = true;
  views[3].is_paused = true;
  const std::vector<ScheduledRows> plan = Plan(views, {.max_sequences = 8, .max_prefill_rows = 40});
  REQUIRE(plan.size() == 2);
  REQUIRE(plan[0].sequence == 1);
  REQUIRE(plan[0].num_rows == 30);
  REQUIRE(plan[1].sequence == 0);
  REQUIRE(plan[1].num_rows == 10);
}

TEST_CASE("a chunk ends where the window moves") {
  std::vector<SequenceView> views = {Prompt(1, 30)};
  views[0].max_rows = 8;
  const std::vector<ScheduledRows> plan = Plan(views, {.max_sequences = 1, .max_prefill_rows = 16});
  REQUIRE(plan.size() == 1);
  REQUIRE(plan[0].num_rows == 8);
  REQUIRE(!plan[0].is_sampled);
}

TEST_CASE("an encoder's prompts are read whole, as many as the budget holds but one at least") {
  const auto encoded = [](int64_t arrival, int64_t length) {
    return SequenceView{
        .prompt_left = 1, .source_left = length, .max_rows = 100, .arrival = arrival};
  };
  const std::vector<SequenceView> views = {
      Decoding(1), encoded(3, 48), encoded(2, 64), encoded(4, 32), Prompt(5, 1)};
  std::vector<ScheduledRows> plan = Plan(views, {.max_sequences = 8, .max_prefill_rows = 100});
  REQUIRE(plan.size() == 4);
  REQUIRE(plan[0].sequence == 0);
  REQUIRE(plan[1].sequence == 2);
  REQUIRE(plan[1].num_source_rows == 64);
  REQUIRE(plan[1].num_rows == 1);
  REQUIRE(plan[1].is_sampled);
  REQUIRE(plan[2].sequence == 3);  // 48 more are too many, 32 are not
  REQUIRE(plan[2].num_source_rows == 32);
  REQUIRE(plan[3].sequence == 4);
  REQUIRE(plan[3].num_source_rows == 0);
  plan = Plan(views, {.max_sequences = 8, .max_prefill_rows = 7});
  REQUIRE(plan.size() == 2);
  REQUIRE(plan[1].num_source_rows == 64);
}

TEST_CASE("nobody is left out for ever when more can run than a step takes") {
  std::mt19937_64 random(21);
  std::vector<SequenceView> views;
  for (int i = 0; i < 10; ++i) {
    views.push_back(i % 2 == 0 ? Decoding(i) : Prompt(i, 1000));
  }
  for (int64_t step = 1; step < 200; ++step) {
    const std::vector<ScheduledRows> plan =
        Plan(views, {.max_sequences = 3, .max_prefill_rows = 64});
    REQUIRE(plan.size() <= 3);
    for (const ScheduledRows& rows : plan) {
      views[static_cast<size_t>(rows.sequence)].last_step = step;
    }
    for (const SequenceView& view : views) {
      REQUIRE(step - view.last_step <= 10);
    }
  }
}

TEST_CASE("every plan keeps the rules") {
  std::mt19937_64 random(22);
  for (int i = 0; i < 5000; ++i) {
    std::vector<SequenceView> views(random() % 12);
    for (size_t v = 0; v < views.size(); ++v) {
      views[v] = {.prompt_left = random() % 2 == 0 ? 0 : static_cast<int64_t>(random() % 50),
                  .max_rows = 1 + static_cast<int64_t>(random() % 40),
                  .arrival = static_cast<int64_t>(v),
                  .last_step = static_cast<int64_t>(random() % 5),
                  .priority = static_cast<int32_t>(random() % 3) - 1,
                  .is_paused = random() % 4 == 0};
    }
    const StepBudget budget = {.max_sequences = 1 + static_cast<int32_t>(random() % 6),
                               .max_prefill_rows = 1 + static_cast<int32_t>(random() % 64)};
    std::set<int32_t> seen;
    int64_t prefill_rows = 0;
    bool in_prefill = false;
    const std::vector<ScheduledRows> plan = Plan(views, budget);
    for (const ScheduledRows& rows : plan) {
      const SequenceView& view = views[static_cast<size_t>(rows.sequence)];
      REQUIRE(seen.insert(rows.sequence).second);
      REQUIRE(!view.is_paused);
      REQUIRE(rows.num_rows >= 1);
      REQUIRE(rows.num_rows <= view.max_rows);
      REQUIRE(rows.is_prefill == (view.prompt_left > 0));
      REQUIRE((!in_prefill || rows.is_prefill));
      in_prefill = rows.is_prefill;
      if (rows.is_prefill) {
        prefill_rows += rows.num_rows;
        REQUIRE(rows.num_rows <= view.prompt_left);
        REQUIRE(rows.is_sampled == (rows.num_rows == view.prompt_left));
      } else {
        REQUIRE(rows.num_rows == 1);
        REQUIRE(rows.is_sampled);
      }
    }
    REQUIRE(static_cast<int32_t>(plan.size()) <= budget.max_sequences);
    REQUIRE(prefill_rows <= budget.max_prefill_rows);
    const bool can_run =
        std::any_of(views.begin(), views.end(), [](const auto& view) { return !view.is_paused; });
    REQUIRE(plan.empty() == !can_run);
  }
}

TEST_CASE("prompts that the budget cuts end with a tile, if it reaches one") {
  SequenceView prompt = Prompt(1, 90);
  prompt.position = 40;
  const auto rows = [&](int32_t max_prefill_rows, int32_t tile_size) {
    const std::vector<ScheduledRows> plan =
        Plan({prompt, Prompt(2, 50)},
             {.max_sequences = 8, .max_prefill_rows = max_prefill_rows, .tile_size = tile_size});
    REQUIRE(plan.front().sequence == 0);
    REQUIRE((plan.front().num_rows < 90) == (plan.size() == 1));  // what is left is nobody's
    return plan.front().num_rows;
  };
  REQUIRE(rows(60, 1) == 60);
  REQUIRE(rows(60, 16) == 56);  // to 96
  REQUIRE(rows(23, 16) == 8);   // to 48
  REQUIRE(rows(7, 16) == 7);    // no tile ends so soon
  REQUIRE(rows(8, 16) == 8);
  REQUIRE(rows(100, 16) == 90);  // nothing is cut: the prompt ends, and the next takes the rest
}

GenerateRequest Request(uint64_t id) {
  GenerateRequest request;
  request.request_id = id;
  return request;
}

TEST_CASE("the queue holds what the batch has room for and max_waiting more") {
  RequestQueue queue(2, 3);
  const absl::Time now = absl::UnixEpoch();
  for (uint64_t id = 0; id < 5; ++id) {
    REQUIRE(queue.Push(Request(id), now).ok());
  }
  const absl::Status full = queue.Push(Request(5), now);
  REQUIRE(absl::IsResourceExhausted(full));
  REQUIRE(full.message() == "the queue is full: 5 requests wait, scheduler.max_queue is 2");
  News news;
  queue.Take(news);
  REQUIRE(news.requests.size() == 5);
  for (size_t i = 0; i < 5; ++i) {
    REQUIRE(news.requests[i].request.request_id == i);
    REQUIRE(news.requests[i].arrival == static_cast<int64_t>(i));
  }
  queue.OnAdmitted();
  queue.OnAdmitted();
  REQUIRE(queue.num_waiting() == 3);
  REQUIRE(!queue.Push(Request(6), now).ok());  // taken is not gone
  queue.OnEnded(true);
  REQUIRE(queue.Push(Request(6), now).ok());
  queue.OnEnded(false);
  REQUIRE(queue.Push(Request(7), now).ok());
  REQUIRE(!queue.Push(Request(8), now).ok());
}

TEST_CASE("a queue that is closed says why") {
  RequestQueue queue(2, 3);
  queue.Close(absl::UnavailableError("the server is shutting down"));
  queue.Close(absl::UnavailableError("something later"));
  const absl::Status refused = queue.Push(Request(1), absl::UnixEpoch());
  REQUIRE(absl::IsUnavailable(refused));
  REQUIRE(refused.message() == "the server is shutting down");
  queue.AwaitIdle();
}

TEST_CASE("waiting ends with news, and with the deadline") {
  RequestQueue queue(2, 3);
  queue.WaitForWork(absl::InfinitePast());
  queue.Command({.request_id = 1, .kind = RequestCommand::Kind::kPause});
  queue.WaitForWork(absl::InfiniteFuture());
  News news;
  queue.Take(news);
  REQUIRE(news.commands.size() == 1);
  queue.Take(news);
  REQUIRE(news.commands.empty());
  queue.SetDrainDeadline(absl::UnixEpoch());
  queue.SetDrainDeadline(absl::InfiniteFuture());
  queue.WaitForWork(absl::InfiniteFuture());
  REQUIRE(queue.drain_deadline() == absl::UnixEpoch());
  queue.Stop();
  queue.WaitForWork(absl::InfiniteFuture());
  REQUIRE(queue.is_stopped());
}

}  // namespace
}  // namespace ringserve
