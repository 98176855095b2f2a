#include "attention_units.h"

namespace headrace {
namespace {

// Units per thread that are left when key heads are joined.
constexpr int64_t kUnitsForEach = 4;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Span AttentionInputs::span(const Unit& unit, int64_t split) const {
    const int64_t oldest = options.oldest(unit.position) / kBlockTokens * kBlockTokens;
    const int64_t start = std::max(split * kSplit, oldest);
    const int64_t end = std::min((split + 1) * kSplit, unit.last_position() + 1);
    const int64_t blocks = divide_up(end - start, kBlockTokens), first = start / kBlockTokens;
    const int32_t* table = this->table(unit.sequence);
    Span span{start, blocks, end - start, table + first, nullptr, 0, unit.kv_head};
    int64_t next = first + blocks;
    if (end > unit.last_position()) {
        next = oldest / kBlockTokens;
        span.next_head += unit.kv_heads;
    }
    if (span.next_head == cache.heads) {
        span.next_head = 0;
        table = this->table(unit.next_sequence);
    }
    span.next_table = table + next;
    span.next_blocks = batch.table_width - next;
    return span;
}

Units::Units(const AttentionInputs& in, int64_t sequences, int64_t threads)
    : batch_(in.batch), sequences_(sequences), all_kv_heads_(in.cache.heads),
      group_(in.heads / in.cache.heads) {
    const bool is_tiled = kHasTiles && in.cache.is_tiled();
    heads_ = std::min<int64_t>(group_, is_tiled ? kBlockRows : kFmaRows);
    head_parts_ = divide_up(group_, heads_);
    queries_ = (is_tiled ? kTiledRows : kFmaRows) / heads_;
    int64_t most_queries = 1, longest = 0;
    for (int64_t s = 0; s < sequences; ++s) {
        most_queries = std::max(most_queries, queries_of(s));
        longest = std::max<int64_t>(longest, batch_.context_lens[s]);
    }
    most_rows_ = std::min(most_queries, queries_) * heads_;
    splits_ = divide_up(longest, kSplit);
    splits_apart_ = most_rows_ <= kApartRows && count() <= kApartUnits && splits_ > 1;
    if (!is_tiled || head_parts_ > 1 || splits_apart_) return;
    const int64_t most = std::clamp<int64_t>(
        sequences * all_kv_heads_ / (threads * kUnitsForEach), 1, kTiledRows / kBlockRows);
    kv_heads_ = divide_up(all_kv_heads_, divide_up(all_kv_heads_, most));
}

int64_t Units::count() const {
    int64_t count = 0;
    for (int64_t s = 0; s < sequences_; ++s) count += count_of(s);
    return count;
}

int64_t Units::kv_heads_of(int64_t sequence) const {
    return queries_of(sequence) * heads_ <= kBlockRows ? kv_heads_ : 1;
}

int64_t Units::count_of(int64_t sequence) const {
    const int64_t query_blocks = divide_up(queries_of(sequence), queries_);
    return query_blocks * divide_up(all_kv_heads_, kv_heads_of(sequence)) * head_parts_;
}

Unit Units::unit(int64_t sequence, int64_t index) const {
    const int64_t start = batch_.query_start[sequence], end = batch_.query_start[sequence + 1];
    const int64_t joined = kv_heads_of(sequence);
    const int64_t units = divide_up(all_kv_heads_, joined) * head_parts_;  // of the same tokens
    Unit unit;
    unit.sequence = sequence;
    unit.next_sequence = std::min(sequence + 1, sequences_ - 1);
    unit.first_query = start + index / units * queries_;
    unit.queries = std::min(queries_, end - unit.first_query);
    unit.position = batch_.context_lens[sequence] - (end - unit.first_query);
    unit.kv_head = index % units / head_parts_ * joined;
    unit.kv_heads = std::min(joined, all_kv_heads_ - unit.kv_head);
    const int64_t skipped = index % head_parts_ * heads_;
    unit.first_head = unit.kv_head * group_ + skipped;
    unit.heads = std::min(heads_, group_ - skipped);
    return unit;
}

}  // namespace headrace
