// One conversation's place in the KV pool: two rings of blocks over one growing text.
//
//   forward ring   the full blocks of the context: prompts as they are prefilled, finished turns.
//                  Never written again, so that other sessions may share them.
//   feedback ring  the private end: from the last block boundary on, and the turn in progress.
//
// Block b holds the positions [b * block_size, (b + 1) * block_size) in either ring; the feedback
// ring begins where the forward ring ends. A turn is a transaction: Commit makes it part of the
// forward ring by relinking blocks, Rollback takes it back by moving write pointers.
//
// Where the context slides, the row at position p sees the keys in [WindowFirst(p), p] and, once
// WindowFirst(p) > 0, the first sink_size tokens, whose keys are kept unrotated in a block of the
// session's own and rotated to the positions just before the window. WindowFirst depends on p
// alone, so what a token sees does not depend on how the prompt was cut into steps.
//
// Where local layers stand beside global ones, their keys and values lie in blocks of another size,
// in a ring of their own: the local ring, of the same text, whose length depends on the window
// alone. It holds a window more than the next row sees, so that as much can be rolled back. A turn
// may go on for longer than that; until it ends, BeginTurn has the local ring's blocks of its
// beginning kept, so that the turn can be taken back whole.
//
// In an encoder-decoder the forward ring begins with a source: what the encoder made of the prompt,
// in whole blocks of its own. The text comes behind it, from text_start() on; its own positions
// count from there, and no window moves.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "engine/cache/block_pool.h"
#include "engine/cache/block_ring.h"
#include "engine/engine_config.h"
#include "engine/session_image.h"
#include "kernels/tile_plan.h"
#include "kernels/types.h"

namespace ringserve {

// Sizes that all sessions of a model share.
struct SessionShape {
  int64_t buffer_size = 0;  // tokens of window; >= block_size
  int32_t block_size = 0;
  int32_t sink_size = 0;      // tokens; 0 unless the context slides; at most block_size
  int64_t feedback_size = 0;  // tokens of a turn that stay in the feedback ring until it commits
  bool slides = false;
  // The model's own window in tokens, the query's included: exact for every row, whatever the
  // block size. 0: it has none. Requires slides and no sinks.
  int64_t window = 0;
  int64_t slack = 0;  // tokens that such a window holds beyond what the next row sees
  // Of a model whose layers alternate: the window of its local layers, and the tokens that their
  // ring holds. 0: there is no such ring.
  int64_t local_window = 0;
  int64_t local_size = 0;
  BlockGroup group = BlockGroup::kGlobal;  // kLocal: the shape of such a ring
  bool has_source = false;                 // texts begin behind what an encoder makes of the prompt
  int64_t max_length = std::numeric_limits<int64_t>::max();  // tokens of text, however it slides

  bool has_end() const { return !slides || max_length < std::numeric_limits<int64_t>::max(); }

  bool has_local() const { return local_window > 0; }

  // Tokens of text, or those of the window where the text has no end.
  int64_t max_context() const { return slides && has_end() ? max_length : buffer_size; }
};

// The rings of layers that see `window` tokens, for steps of up to `step_rows` rows. No larger than
// a text of max_length tokens needs.
SessionShape MakeWindowShape(int64_t window,
                             int32_t block_size,
                             int32_t step_rows,
                             int64_t max_length);

// Gives the shape a local ring for layers that see `window` tokens.
void AddLocalRing(int64_t window, int32_t step_rows, SessionShape& shape);

// Of that ring. Requires has_local().
SessionShape LocalShape(const SessionShape& shape);

// Of layers that see everything.
SessionShape MakeSessionShape(const EngineConfig::Rings& rings);

// The block of the first position that the row at `position` sees, sinks aside: a multiple of
// block_size, and without a window of the model's own that position itself.
int64_t WindowFirst(const SessionShape& shape, int64_t position);

// How early a text can end once its window begins at `first_position`: where an earlier one would
// see keys that are gone.
int64_t LowestFloor(const SessionShape& shape, int64_t first_position);

// The most blocks that a session of up to `max_position` tokens holds at once, its sinks included,
// and what BeginTurn keeps not.
BlockCounts WorstCaseBlocks(const SessionShape& shape, int64_t max_position);

// `num_keys` keys and values of all layers to be copied before the next step.
struct BlockCopy {
  int32_t from = 0;
  int32_t to = 0;
  int32_t num_keys = 0;
};

// Not copyable; one thread; `pool` must outlive it. Taking a block that the pool does not have is a
// bug of admission and aborts.
class Session {
 public:
  enum class Phase {
    kPrefill,  // full blocks go to the forward ring at once
    kDecode,   // they stay in the feedback ring until Commit
  };

  // `max_position` is how long the text can become (INT64_MAX: no bound); it sizes the tables.
  Session(const SessionShape& shape, int64_t max_position, BlockPool& pool);
  // A fork of `from` as it was at `position`: shares its full blocks and gets one of its own for a
  // partial one (and for sinks that are not all there), to be filled by the copies that are added
  // to `copies`: at most two of a group. `from` may end first. `max_position` is how long the
  // fork's text can become. Requires rollback_floor() <= position <= position() of `from`, and
  // position <= max_position.
  Session(const Session& from,
          int64_t position,
          int64_t max_position,
          std::vector<BlockCopy>& copies);
  // One that stands as `image` says. Its blocks are its own, to be filled by the caller, in the
  // order of CollectBlocks. Requires that CheckSessionImage finds nothing wrong.
  Session(const SessionShape& shape, const SessionImage& image, BlockPool& pool);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Tokens whose keys and values are in the rings, or left them at the old end.
  int64_t position() const { return position_; }

  // The first position of the window that the newest row sees.
  int64_t window_first() const { return forward_.first() * shape_.block_size; }

  // The positions that Rollback can return to begin here: 0 until the window moves and keys that an
  // earlier position would see are overwritten.
  int64_t rollback_floor() const {
    return local_ != nullptr ? std::max(floor_, local_->floor_) : floor_;
  }

  // Beyond these, the beginning of the turn.
  bool CanRollBackTo(int64_t position) const {
    return position >= rollback_floor() ||
           (position >= floor_ && kept_ != nullptr && position == kept_->position_);
  }

  // References held, sinks included, and those kept for a turn not.
  BlockCounts num_blocks() const {
    return {forward_.size() + feedback_.size() + (sink_block_ >= 0 ? 1 : 0),
            local_ != nullptr ? local_->num_blocks().global : 0};
  }

  // Those kept for a turn, of the local group.
  int64_t num_kept() const { return kept_ != nullptr ? kept_->num_blocks().global : 0; }

  const SessionShape& shape() const { return shape_; }

  // The most rows that one step may append: they share one window. 0: the context is full.
  int64_t MaxRows() const;

  // Makes room for the next tokens: moves the window, takes blocks. The tokens that left a window
  // which is not the model's own: what it would still have seen. Requires 1 <= token_ids.size() <=
  // MaxRows().
  int64_t Append(std::span<const int32_t> token_ids, Phase phase);

  // Makes room for what the encoder makes of the tokens, before the text. Requires position() == 0,
  // a shape that does not slide, and room for the whole blocks that they take.
  void AppendSource(std::span<const int32_t> token_ids);

  // Position behind the source, 0 without one: a multiple of block_size.
  int64_t text_start() const { return RoundUp<int64_t>(source_len_, shape_.block_size); }

  // Tokens of the source.
  int64_t source_len() const { return source_len_; }

  // True if the next row moves the window, so that Rollback cannot take it back.
  bool MovesWindow() const { return WindowFirst(shape_, position_) > window_first(); }

  // Replaces the token of a position inside the window that was appended before it was known.
  void SetToken(int64_t position, int32_t token_id);

  // Begins with the text that `blocks` hold, whole blocks of which the session takes over a
  // reference each. Requires position() == 0 and token_ids.size() == blocks.size() * block_size <=
  // buffer_size.
  void BeginWith(std::span<const int32_t> token_ids, std::span<const int32_t> blocks);

  // Where keys and values of a position lie. Requires a position inside the window.
  int64_t Slot(int64_t position) const;

  // Where those of local layers do, in a model that has a ring for them.
  int64_t LocalSlot(int64_t position) const { return local_->Slot(position); }

  // Where its unrotated key lies, -1 if it is not a sink.
  int64_t SinkSlot(int64_t position) const;
  // Requires a position inside the window.
  int32_t TokenAt(int64_t position) const;

  int32_t sink_size() const { return shape_.sink_size; }

  // True if the context begins with an entry of sinks, to be rotated to the sink_size positions
  // from SinkPosition() on.
  bool HasSinkEntry() const { return shape_.sink_size > 0 && window_first() > 0; }

  int64_t SinkPosition() const { return window_first() - shape_.sink_size; }

  // Appends the source's blocks.
  void AppendSourceContext(std::vector<BlockEntry>& entries) const;

  // Appends what the newest row sees of the text, in ascending position, counted from text_start()
  // on.
  void AppendContext(int32_t sink_angle_row, std::vector<BlockEntry>& entries) const;

  // The same of the local ring: a window more than the row sees.
  void AppendLocalContext(std::vector<BlockEntry>& entries) const {
    local_->AppendContext(-1, entries);
  }

  // Until Commit the session can return to where it stands now, as far as the global window allows.
  // Of the local ring a partial block is copied (`copies`: at most one) and the others are shared.
  void BeginTurn(std::vector<BlockCopy>& copies);
  // The turn becomes part of the session: its full blocks are relinked into the forward ring.
  void Commit();
  // Returns to `position` as if what follows had never been. Blocks that others share and this
  // session is to write to again (the partial one, the sinks) are replaced by blocks of its own,
  // which the caller fills by the copies that are added to `copies`: at most two.
  // Requires CanRollBackTo(position) and position <= position().
  void Rollback(int64_t position, std::vector<BlockCopy>& copies);

  // How many copies Rollback to `position` would make. Requires what Rollback does.
  BlockCounts NumCopies(int64_t position) const;

  // The full blocks of the text from its first token on, as far as no window moves over them: what
  // they hold depends on the tokens alone. Empty once the first has left the window.
  void CollectBeginning(std::vector<int32_t>& blocks) const;

  // How it stands. Requires that no turn is in progress.
  SessionImage Image() const;

  // Every reference that its text needs: those of the local ring come last.
  void CollectBlocks(std::vector<int32_t>& blocks) const;

  // And those that are kept for a turn.
  void CollectAllBlocks(std::vector<int32_t>& blocks) const {
    CollectBlocks(blocks);
    if (kept_ != nullptr) {
      kept_->CollectBlocks(blocks);
    }
  }

 private:
  int32_t Acquire();
  int32_t OwnCopy(int32_t block, int64_t num_keys, std::vector<BlockCopy>& copies);
  int64_t MoveWindow(int64_t first_position);
  void HandOverOldest();
  void HandOverFull();
  int32_t BlockAt(int64_t index) const;

  const SessionShape shape_;
  BlockPool& pool_;
  BlockRing forward_;
  BlockRing feedback_;
  std::vector<int32_t> token_ids_;  // of the window, at position % size
  int32_t sink_block_ = -1;
  int64_t source_len_ = 0;
  int64_t position_ = 0;
  int64_t floor_ = 0;
  std::unique_ptr<Session> local_;  // null: the model's layers share one ring
  std::unique_ptr<Session> kept_;   // the local ring as the turn found it
};

}  // namespace ringserve
