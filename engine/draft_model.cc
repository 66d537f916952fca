#include "engine/draft_model.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>
#include <utility>

#include "engine/base/check.h"
#include "engine/sample/sampler.h"

namespace ringserve {
namespace {

// Weight of the newest step in what a token costs.
constexpr double kNewest = 0.1;

}  // namespace

DraftModel::DraftModel(const Parts& parts)
    : parts_(parts), pool_(parts.num_blocks), runner_(parts.runner) {
  RS_CHECK(parts.max_rows >= parts.num_readers);
}

absl::Status DraftModel::Draft(std::span<const DraftJob> jobs) {
  ++num_calls_;
  works_.clear();
  for (const DraftJob& job :
       jobs.first(std::min(jobs.size(), static_cast<size_t>(parts_.num_readers)))) {
    Work& work = works_.emplace_back();
    work.job = &job;
    work.reader = &ReaderOf(job);
    job.draft->clear();
    Synchronize(job, work);
  }
  for (const DraftJob& job : jobs.subspan(works_.size())) {
    job.draft->clear();
  }
  // One step reads what is unread, as far as it goes; who has not read all drafts another time.
  RETURN_IF_ERROR(Step());
  std::erase_if(works_, [](const Work& work) { return !work.unread.empty(); });
  while (true) {
    for (Work& work : works_) {
      const DraftJob& job = *work.job;
      const bool wants_more =
          !job.draft->empty() && job.draft->size() < static_cast<size_t>(job.max_draft);
      work.unread.clear();
      if (wants_more) {
        work.unread.push_back(job.draft->back());
      }
    }
    std::erase_if(works_, [](const Work& work) { return work.unread.empty(); });
    if (works_.empty()) {
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(Step());
  }
}

DraftModel::Reader& DraftModel::ReaderOf(const DraftJob& job) {
  const auto found = readers_.find(job.request_id);
  if (found == readers_.end() && readers_.size() == static_cast<size_t>(parts_.num_readers)) {
    // No more than num_readers take part in a call, so the one unused for longest is none of them.
    readers_.erase(
        std::min_element(readers_.begin(), readers_.end(), [](const auto& a, const auto& b) {
          return a.second.last_use < b.second.last_use;
        }));
  }
  Reader& reader = readers_[job.request_id];
  reader.last_use = num_calls_;
  return reader;
}

void DraftModel::Synchronize(const DraftJob& job, Work& work) {
  Reader& reader = *work.reader;
  const int64_t text_end = job.position;
  const int64_t text_first = text_end - static_cast<int64_t>(job.text.size());
  const auto token_at = [&](int64_t position) {
    return job.text[static_cast<size_t>(position - text_first)];
  };
  if (reader.session != nullptr) {
    // The last token is always read, for what follows it.
    int64_t agreed = std::min({reader.known, reader.end(), text_end - 1});
    while (agreed < std::min(reader.end(), text_end - 1) && agreed >= text_first &&
           reader.session->TokenAt(agreed - reader.start) == token_at(agreed)) {
      ++agreed;
    }
    std::vector<BlockCopy> copies;
    reader.session->Rollback(agreed - reader.start, copies);
    RS_CHECK(copies.empty());  // nobody shares the blocks of a reader
  }
  const bool fits = reader.session != nullptr && reader.end() >= text_first &&
                    text_end + job.max_draft - reader.start <= parts_.shape.buffer_size;
  if (!fits) {
    const int64_t length =
        std::min<int64_t>(static_cast<int64_t>(job.text.size()), parts_.shape.buffer_size / 2);
    reader.session.reset();  // its blocks are free for the next
    reader.session =
        std::make_unique<Session>(parts_.shape, std::numeric_limits<int64_t>::max(), pool_);
    reader.start = text_end - length;
  }
  reader.known = text_end;
  work.unread.clear();
  for (int64_t position = reader.end(); position < text_end; ++position) {
    work.unread.push_back(token_at(position));
  }
}

absl::Status DraftModel::Step() {
  if (works_.empty()) {
    return absl::OkStatus();
  }
  batch_.Clear();
  sampled_.clear();
  // Each gets a row before any gets two.
  int64_t rows_left = parts_.max_rows - static_cast<int64_t>(works_.size());
  for (Work& work : works_) {
    const auto more = std::min<int64_t>(rows_left, static_cast<int64_t>(work.unread.size()) - 1);
    rows_left -= more;
    Add(work, 1 + static_cast<size_t>(more));
  }
  batch_.results.resize(batch_.sample_rows.size());
  batch_.Place(pool_, parts_.shape.block_size);
  const auto started = parts_.stopwatch();
  RETURN_IF_ERROR(runner_.Launch(batch_));
  RETURN_IF_ERROR(runner_.Await());
  if (batch_.token_ids.size() == works_.size()) {
    const std::chrono::duration<double, std::milli> took = parts_.stopwatch() - started;
    const double ms = took.count() / static_cast<double>(works_.size());
    token_ms_ = token_ms_ == 0 ? ms : (1 - kNewest) * token_ms_ + kNewest * ms;
  }
  for (size_t i = 0; i < sampled_.size(); ++i) {
    const int32_t token_id = batch_.results[i].token.token_id;
    if (token_id != kNoToken) {
      sampled_[i]->job->draft->push_back(token_id);
    } else {
      sampled_[i]->reader->session.reset();  // it begins anew
    }
  }
  return absl::OkStatus();
}

void DraftModel::Add(Work& work, size_t num_rows) {
  Session& session = *work.reader->session;
  const int64_t first_position = session.position();
  const auto first_row = static_cast<int32_t>(batch_.token_ids.size());
  const std::span<const int32_t> ids = std::span(work.unread).first(num_rows);
  session.Append(ids, Session::Phase::kDecode);
  batch_.AddRows(session, first_position, ids);
  work.unread.erase(work.unread.begin(),
                    work.unread.begin() + static_cast<std::ptrdiff_t>(num_rows));
  if (!work.unread.empty()) {
    return;
  }
  const DraftJob& job = *work.job;
  SampleRow row;
  row.position = job.position + static_cast<int64_t>(job.draft->size());
  row.params = job.sampling;
  batch_.logits_rows.push_back(first_row + static_cast<int32_t>(num_rows) - 1);
  batch_.sample_rows.push_back(row);
  sampled_.push_back(&work);
}

}  // namespace ringserve
