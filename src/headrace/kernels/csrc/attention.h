// Paged attention: decode and chunked prefill are one op.
//
// A token's context is cut into splits of 256 positions, counted from position 0. Each split is
// attended by itself (scores, maximum, exponentials, weighted sum) and splits are merged in order.
// A token's result therefore depends on its own query and context only, not on the chunk it is
// computed in, nor on which thread computes which split (flash-decoding, Dao et al. 2023).
#pragma once

#include "cache.h"
#include "pool.h"

namespace headrace {

struct Batch {
    const int32_t* query_start;   // [S + 1]
    const int32_t* context_lens;  // [S]
    const int32_t* block_table;   // [S][table_width]
    int64_t table_width, max_tokens;
};

struct AttentionOptions {
    float scale;
    int64_t window;  // 0: none
    float soft_cap;  // 0: none
    const float* alibi_slopes;  // [heads], or null
    const float* sinks;         // [heads]: the score of one more key, whose value is zero; or null
    int64_t chunk;              // a token sees its own chunk of so many positions; 0: none

    // The first position that a token sees. It never falls as the token's position grows.
    int64_t oldest(int64_t position) const {
        const int64_t in_window = window ? position + 1 - window : 0;
        const int64_t in_chunk = chunk ? position / chunk * chunk : 0;
        return std::max<int64_t>({0, in_window, in_chunk});
    }
};

// out [T, heads * value size] from q [T, q_stride], the queries first in each row. `rows` counts
// sequences. Heads are whole groups of a quantized `out`.
class AttentionOp : public Op {
   public:
    AttentionOp(Rows rows, const float* q, int64_t q_stride, int64_t heads, Cache cache,
                Batch batch, AttentionOptions options, SplitActivation out);
    void run(Team& team) const override;

    // Floats of scratch that all attention ops share.
    int64_t scratch_floats() const;

   private:
    friend class AttentionMergeOp;
    struct Unit;
    struct Span;
    Span span(const Unit& unit, int64_t split) const;
    template <typename Function>
    void for_each_unit(Team& team, int64_t parts, Function function) const;
    bool valid(const Team& team) const;
    int64_t count_units() const;
    int64_t count_splits() const;
    int64_t apart_floats() const;
    int64_t most_rows() const;
    bool splits_apart() const;
    void add_distances(const Unit& unit, int64_t start, int64_t end, float* scores) const;
    template <typename Type>
    void attend_split(const Unit& unit, int64_t split, const float* q, float* part) const;
    void attend_tiles(const Unit& unit, int64_t split, const float* q, float* part) const;
    template <typename Emit>
    void weigh(const Unit& unit, int64_t start, int64_t end, float* scores, float* part,
               Emit emit) const;
    void attend(const Team& team, const Unit& unit, int64_t first, int64_t last, float* part) const;
    void store(const Unit& unit, float* sums) const;

    const float* q_;
    int64_t q_stride_, heads_;
    Cache cache_;
    Batch batch_;
    AttentionOptions options_;
    SplitActivation out_;
    int64_t group_;         // query heads of one key head
    int64_t unit_heads_;    // of which one unit takes so many
    int64_t unit_queries_;  // of so many successive tokens
};

// Second half for few long sequences, whose splits were computed apart; else nothing is left to do.
class AttentionMergeOp : public Op {
   public:
    explicit AttentionMergeOp(const AttentionOp& first) : Op(first.rows()), first_(first) {}
    void run(Team& team) const override;

   private:
    const AttentionOp& first_;
};

}  // namespace headrace
