// How attention over a batch is cut into units of work, and what a unit reads. How it is cut never
// changes what is computed.
#pragma once

#include "cache.h"
#include "pool.h"

namespace headrace {

constexpr int64_t kSplit = 256;  // positions that are attended together
// Rows of a unit. With tiles these are many, because a processor needs half a microsecond to get
// from other arithmetic to tile products.
constexpr int64_t kTiledRows = 4 * kBlockRows;
constexpr int64_t kMostRows = kHasTiles ? kTiledRows : kFmaRows;

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

// Successive query tokens of one sequence and query heads of one key head; of several key heads if
// these are few rows. Rows (tokens x query heads) have slots; those of each further key head begin
// a block of rows.
struct Unit {
    int64_t sequence, next_sequence;
    int64_t first_query, queries;            // first_query: row of q
    int64_t position;                        // of the first query
    int64_t kv_head, kv_heads;
    int64_t first_head, heads;               // query heads, and how many for each key head

    int64_t rows() const { return queries * heads; }  // of one key head
    int64_t slots() const { return (kv_heads - 1) * kBlockRows + rows(); }
    int64_t last_position() const { return position + queries - 1; }

    // Calls function(slot, query, head), queries counted in the unit.
    template <typename Function>
    void for_each_row(Function function) const {
        for (int64_t k = 0; k < kv_heads; ++k) {
            for (int64_t r = 0; r < rows(); ++r) {
                function(k * kBlockRows + r, r / heads, first_head + k * heads + r % heads);
            }
        }
    }
};

// What a unit reads of one split: whole blocks from position `start`, of which `tokens` count.
struct Span {
    int64_t start, blocks, tokens;
    const int32_t *table, *next_table;   // next: what is most likely read after this
    int64_t next_blocks, next_head;      // blocks: at most

    int64_t end() const { return blocks * kBlockTokens; }
    int64_t last_used() const { return tokens - (blocks - 1) * kBlockTokens; }
};

// The scores first..last of a row that one split's tokens see.
struct Seen {
    int64_t first, last;

    bool is_empty() const { return last <= 0 || first >= kSplit; }
    bool has_none(int64_t i) const { return i >= last || i + kBlockTokens <= first; }
    bool has_all(int64_t i) const { return i >= first && i + kBlockTokens <= last; }
    F32x16 keep(F32x16 value, F32x16 otherwise, int64_t i) const {
        return select(value, otherwise, static_cast<int>(first - i), static_cast<int>(last - i));
    }
};

// Everything that attention reads.
struct AttentionInputs {
    const float* q;  // [T, q_stride], the queries first in each row
    int64_t q_stride, heads;
    Cache cache;
    Batch batch;
    AttentionOptions options;

    // Features first..first + 16 of a query, zero behind the last.
    F32x16 query(const Unit& unit, int64_t query, int64_t head, int64_t first) const {
        const float* row = q + (unit.first_query + query) * q_stride + head * cache.head_size;
        const int64_t count = std::min<int64_t>(kLanes, cache.head_size - first);
        const F32x16 scale = F32x16::broadcast(options.scale * cache.key_scale);
        return load_partial(row + first, count) * scale;
    }

    const int32_t* table(int64_t sequence) const {
        return batch.block_table + sequence * batch.table_width;
    }
    Span span(const Unit& unit, int64_t split) const;
    Seen seen(const Unit& unit, const Span& span, int64_t query) const {
        const int64_t position = unit.position + query;
        return {options.oldest(position) - span.start, position + 1 - span.start};
    }
};

// The units of a batch of `sequences`, for so many threads.
class Units {
   public:
    static constexpr int64_t kApartUnits = 8;  // with so few, splits are shared out as well
    static constexpr int64_t kApartRows = 16;  // if none of them is larger

    Units(const AttentionInputs& in, int64_t sequences, int64_t threads);

    int64_t count() const;
    int64_t splits() const { return splits_; }
    bool splits_apart() const { return splits_apart_; }
    int64_t most_rows() const { return most_rows_; }  // of one key head
    int64_t most_slots() const {
        return kv_heads_ > 1 ? std::max(kv_heads_ * kBlockRows, most_rows_) : most_rows_;
    }

    // Calls function(unit, its number, part) for parts 0..parts of all units, shared by the team.
    template <typename Function>
    void share(Team& team, int64_t parts, Function function) const {
        int64_t sequence = 0, passed = 0;  // units of the sequences before
        team.share(count() * parts, [&](int64_t number) {
            const int64_t index = number / parts;
            if (index < passed) sequence = passed = 0;
            for (; index >= passed + count_of(sequence); ++sequence) passed += count_of(sequence);
            function(unit(sequence, index - passed), index, number % parts);
        });
    }

   private:
    int64_t queries_of(int64_t sequence) const {
        return batch_.query_start[sequence + 1] - batch_.query_start[sequence];
    }
    int64_t kv_heads_of(int64_t sequence) const;  // of one of its units
    int64_t count_of(int64_t sequence) const;     // its units
    Unit unit(int64_t sequence, int64_t index) const;

    const Batch& batch_;
    int64_t sequences_, all_kv_heads_, group_;
    int64_t heads_, head_parts_;  // query heads of one unit, and parts of a group
    int64_t queries_;             // of one unit, at most
    int64_t most_rows_, splits_, kv_heads_ = 1;
    bool splits_apart_;
};

}  // namespace headrace
