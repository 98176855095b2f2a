#include "attention.h"

#include <cmath>
#include <limits>

#include "attention_amx.h"
#include "math.h"
#include "quantize.h"

namespace headrace {
namespace {

constexpr int64_t kSplit = 256;
constexpr int64_t kCellsAhead = 2;   // fetched while one is read
constexpr int64_t kApartUnits = 8;   // with so few units, splits are shared out as well
constexpr int64_t kApartRows = 16;   // if none of them is larger
// Query heads x tokens of a unit. With tiles it is large, because a processor needs half a
// microsecond to get from other arithmetic to tile products.
constexpr int64_t kTiledRows = 4 * kBlockRows;
constexpr int64_t kMostRows = kHasTiles ? kTiledRows : kFmaRows;
constexpr float kNone = -std::numeric_limits<float>::infinity();

// What a unit keeps of one or more splits: for each row its sums [width of values], maximum and
// total.
int64_t part_stride(int64_t width) { return width + kLanes; }

// Memory for that, in whole lines: what straddles two takes tiles thrice the time.
class PartMemory {
   public:
    PartMemory(int64_t rows, int64_t width)
        : lines_(static_cast<size_t>(rows * part_stride(width) / kLanes)) {}
    float* data() { return lines_[0].values; }

   private:
    struct alignas(64) Line {
        float values[kLanes];
    };
    std::vector<Line> lines_;
};
float& maximum_of(float* row, int64_t width) { return row[width]; }
float& total_of(float* row, int64_t width) { return row[width + 1]; }

// Adds a later split to `sum`: both are weighted by e to their maximum.
void merge(float* part, int64_t rows, int64_t width, float* sum) {
    const int64_t stride = part_stride(width);
    for (int64_t r = 0; r < rows; ++r, part += stride, sum += stride) {
        const float part_maximum = maximum_of(part, width);
        if (part_maximum == kNone) continue;
        float& maximum = maximum_of(sum, width);
        float& total = total_of(sum, width);
        const float largest = std::max(maximum, part_maximum);
        const float old_weight = maximum == kNone ? 0.0f : exp(maximum - largest);
        const float new_weight = exp(part_maximum - largest);
        for (int64_t i = 0; i < width; i += kLanes) {
            const F32x16 old = F32x16::load(sum + i) * F32x16::broadcast(old_weight);
            fma(F32x16::load(part + i), F32x16::broadcast(new_weight), old).store(sum + i);
        }
        total = std::fma(total_of(part, width), new_weight, total * old_weight);
        maximum = largest;
    }
}

void clear(float* part, int64_t rows, int64_t width) {
    std::fill_n(part, rows * part_stride(width), 0.0f);
    for (int64_t r = 0; r < rows; ++r) maximum_of(part + r * part_stride(width), width) = kNone;
}

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

// Their maximum; `count` is a multiple of 32.
float largest_of(const float* scores, int64_t count, Seen seen) {
    const F32x16 none = F32x16::broadcast(kNone);
    F32x16 largest[2] = {none, none};
    for (int64_t i = 0; i < count; i += kBlockTokens) {
        F32x16 a = F32x16::load(scores + i), b = F32x16::load(scores + i + kLanes);
        if (!seen.has_all(i)) a = seen.keep(a, none, i), b = seen.keep(b, none, i + kLanes);
        largest[0] = max(largest[0], a);
        largest[1] = max(largest[1], b);
    }
    return reduce_max(max(largest[0], largest[1]));
}

// Calls emit(i, a, b) with the weights of scores i..i + 16 and i + 16..i + 32, zero for those that
// are not seen; returns their sum.
template <typename Emit>
float weigh_row(const float* scores, int64_t count, Seen seen, float maximum, Emit emit) {
    const F32x16 factor = F32x16::broadcast(1.44269504f), zero = F32x16::zero();
    const F32x16 shift = F32x16::broadcast(maximum);
    F32x16 sum = zero;
    for (int64_t i = 0; i < count; i += kBlockTokens) {
        if (seen.has_none(i)) {
            emit(i, zero, zero);
            continue;
        }
        F32x16 a = exp2((F32x16::load(scores + i) - shift) * factor);
        F32x16 b = exp2((F32x16::load(scores + i + kLanes) - shift) * factor);
        if (!seen.has_all(i)) a = seen.keep(a, zero, i), b = seen.keep(b, zero, i + kLanes);
        sum = sum + a + b;
        emit(i, a, b);
    }
    return reduce_add(sum);
}

// Where the blocks of one split lie, in the order they are read: keys, values, then what the next
// key head begins with.
template <typename Element>
class Cells {
   public:
    Cells(const Cache& cache, const int32_t* table, int64_t kv_head, int64_t blocks)
        : cache_(cache), table_(table), kv_head_(kv_head), blocks_(blocks) {}

    int64_t number(int64_t block) const { return cache_.cell(table_[block], kv_head_); }
    const Element* operator[](int64_t i) const {
        if (i < blocks_) return key(i);
        if (i < 2 * blocks_) return value(i - blocks_);
        return key(std::min(i - 2 * blocks_, blocks_ - 1)) + cache_.key_width() * kBlockTokens;
    }

   private:
    const Element* key(int64_t block) const {
        return static_cast<const Element*>(cache_.keys) +
               number(block) * cache_.key_width() * kBlockTokens;
    }
    const Element* value(int64_t block) const {
        return static_cast<const Element*>(cache_.values) +
               number(block) * cache_.value_width() * kBlockTokens;
    }

    const Cache& cache_;
    const int32_t* table_;
    int64_t kv_head_, blocks_;
};

}  // namespace

// Some successive query tokens of one sequence and some query heads of one key head.
struct AttentionOp::Unit {
    int64_t sequence, first_query, queries;  // first_query: row of q
    int64_t kv_head, first_head, heads;      // first_head: query head
    int64_t position;                        // of the first query

    int64_t rows() const { return queries * heads; }
    int64_t last_position() const { return position + queries - 1; }
};

// What a unit reads of one split: whole blocks from position `start`, of which `tokens` count.
struct AttentionOp::Span {
    int64_t start, blocks, tokens;
    const int32_t* table;

    int64_t end() const { return blocks * kBlockTokens; }
    int64_t last_used() const { return tokens - (blocks - 1) * kBlockTokens; }
};

AttentionOp::Span AttentionOp::span(const Unit& unit, int64_t split) const {
    const int64_t oldest = options_.oldest(unit.position) / kBlockTokens * kBlockTokens;
    const int64_t start = std::max(split * kSplit, oldest);
    const int64_t end = std::min((split + 1) * kSplit, unit.last_position() + 1);
    const int32_t* table = batch_.block_table + unit.sequence * batch_.table_width;
    return {start, (end - start + kBlockTokens - 1) / kBlockTokens, end - start,
            table + start / kBlockTokens};
}

AttentionOp::AttentionOp(Rows rows, const float* q, int64_t q_stride, int64_t heads, Cache cache,
                         Batch batch, AttentionOptions options,
                         SplitActivation out)
    : Op(rows), q_(q), q_stride_(q_stride), heads_(heads), cache_(cache), batch_(batch),
      options_(options), out_(out), group_(heads / cache.heads),
      unit_heads_(std::min<int64_t>(group_, cache.is_tiled() ? kBlockRows : kFmaRows)),
      unit_queries_((cache.is_tiled() ? kTiledRows : kFmaRows) / unit_heads_) {}

int64_t AttentionOp::scratch_floats() const {
    const int64_t splits = (batch_.table_width * kBlockTokens + kSplit - 1) / kSplit;
    return kApartUnits * splits * apart_floats();
}

// Of one split of one unit in the scratch.
int64_t AttentionOp::apart_floats() const {
    return kApartRows * part_stride(cache_.value_width());
}

int64_t AttentionOp::count_units() const {
    int64_t query_blocks = 0;
    for (int32_t s = 0; s < rows_.count(); ++s) {
        const int64_t queries = batch_.query_start[s + 1] - batch_.query_start[s];
        query_blocks += (queries + unit_queries_ - 1) / unit_queries_;
    }
    return query_blocks * cache_.heads * ((group_ + unit_heads_ - 1) / unit_heads_);
}

// Of one unit.
int64_t AttentionOp::most_rows() const {
    int64_t queries = 1;
    for (int32_t s = 0; s < rows_.count(); ++s) {
        queries = std::max<int64_t>(queries, batch_.query_start[s + 1] - batch_.query_start[s]);
    }
    return std::min(queries, unit_queries_) * unit_heads_;
}

int64_t AttentionOp::count_splits() const {
    int64_t longest = 0;
    for (int32_t s = 0; s < rows_.count(); ++s) {
        longest = std::max<int64_t>(longest, batch_.context_lens[s]);
    }
    return (longest + kSplit - 1) / kSplit;
}

bool AttentionOp::splits_apart() const {
    return most_rows() <= kApartRows && count_units() <= kApartUnits && count_splits() > 1;
}

// Calls function(unit, its number, part) for parts 0..parts of all units, shared by the team.
template <typename Function>
void AttentionOp::for_each_unit(Team& team, int64_t parts, Function function) const {
    const int64_t head_parts = (group_ + unit_heads_ - 1) / unit_heads_;
    const int64_t heads = cache_.heads * head_parts;
    int64_t sequence = 0, passed = 0;  // query blocks of the sequences before
    team.share(count_units() * parts, [&](int64_t number) {
        const int64_t index = number / parts, block = index / heads;
        const auto start = [&] { return batch_.query_start[sequence]; };
        const auto end = [&] { return batch_.query_start[sequence + 1]; };
        const auto blocks = [&] { return (end() - start() + unit_queries_ - 1) / unit_queries_; };
        if (block < passed) sequence = passed = 0;
        for (; block >= passed + blocks(); ++sequence) passed += blocks();
        Unit unit;
        unit.sequence = sequence;
        unit.first_query = start() + (block - passed) * unit_queries_;
        unit.queries = std::min<int64_t>(unit_queries_, end() - unit.first_query);
        unit.kv_head = index % heads / head_parts;
        const int64_t skipped = index % head_parts * unit_heads_;
        unit.first_head = unit.kv_head * group_ + skipped;
        unit.heads = std::min(unit_heads_, group_ - skipped);
        unit.position = batch_.context_lens[sequence] - (end() - unit.first_query);
        function(unit, index, number % parts);
    });
}

// Adds slope * (key's position - query's) to the scores of tokens start..start + end.
void AttentionOp::add_distances(const Unit& unit, int64_t start, int64_t end,
                                float* scores) const {
    float distances[kSplit];
    for (int64_t r = 0; r < unit.rows(); ++r) {
        const int64_t position = unit.position + r / unit.heads;
        const float slope = options_.alibi_slopes[unit.first_head + r % unit.heads];
        for (int64_t i = 0; i < end; ++i) distances[i] = static_cast<float>(start + i - position);
        float* row = scores + r * kSplit;
        for (int64_t i = 0; i < end; i += kLanes) {
            fma(F32x16::load(distances + i), F32x16::broadcast(slope), F32x16::load(row + i))
                .store(row + i);
        }
    }
}

// Makes weights of scores [rows][split], of positions from `start`, and notes maxima and totals.
// Calls emit(row, i, a, b) with 32 weights from i.
template <typename Emit>
void AttentionOp::weigh(const Unit& unit, int64_t start, int64_t end, float* scores, float* part,
                        Emit emit) const {
    const int64_t width = cache_.value_width(), rows = unit.rows();
    if (options_.soft_cap > 0) {
        const F32x16 cap = F32x16::broadcast(options_.soft_cap);
        const F32x16 inverse = F32x16::broadcast(1.0f / options_.soft_cap);
        for (int64_t i = 0; i < rows * kSplit; i += kLanes) {
            if (i % kSplit >= end) continue;
            (tanh(F32x16::load(scores + i) * inverse) * cap).store(scores + i);
        }
    }
    if (options_.alibi_slopes) add_distances(unit, start, end, scores);
    const auto seen_by = [&](int64_t r) {
        const int64_t position = unit.position + r / unit.heads;
        return Seen{options_.oldest(position) - start, position + 1 - start};
    };
    const int64_t stride = part_stride(width);
    for (int64_t r = 0; r < rows; ++r) {
        const Seen seen = seen_by(r);
        maximum_of(part + r * stride, width) =
            seen.is_empty() ? kNone : largest_of(scores + r * kSplit, end, seen);
    }
    for (int64_t r = 0; r < rows; ++r) {
        float* row = part + r * stride;
        total_of(row, width) =
            weigh_row(scores + r * kSplit, end, seen_by(r), maximum_of(row, width),
                      [&](int64_t i, F32x16 a, F32x16 b) { emit(r, i, a, b); });
    }
}

#if defined(__AMX_BF16__)
// scores[rows][split] = queries times the keys of a split.
static void score_tiles(const LeftTile (*queries)[kMaxHeadSize / kGroup], int64_t row_blocks,
                        int64_t width, const Cells<uint16_t>& cells, int64_t blocks,
                        float* scores) {
    int64_t b = 0;
    for (; b + 2 <= row_blocks; b += 2) {
        for (int64_t i = 0; i < blocks; ++i) {
            float* to = scores + b * kBlockRows * kSplit + i * kBlockTokens;
            score_pair(queries[b], queries[b + 1], width, cells[i],
                       b ? nullptr : cells[i + kCellsAhead], to, kSplit);
        }
    }
    if (b == row_blocks) return;
    for (int64_t i = 0; i < blocks; i += 2) {
        const int64_t second = std::min(i + 1, blocks - 1);
        const uint16_t* keys[] = {cells[i], cells[second]};
        const uint16_t* next[] = {cells[i + kCellsAhead], cells[second + kCellsAhead]};
        with_constant<2>(static_cast<int>(second - i + 1), [&](auto n) {
            float* to = scores + b * kBlockRows * kSplit + i * kBlockTokens;
            score_blocks<n.value>(queries[b], width, keys, b ? nullptr : next, to, kSplit);
        });
    }
}

// sums[rows][stride] = weights times the values of a split, of whose last block `used` tokens count.
static void sum_tiles(const LeftTile (*weights)[kSplit / kBlockTokens], int64_t row_blocks,
                      int64_t width, const Cells<uint16_t>& cells, int64_t blocks, int64_t used,
                      float* sums, int64_t stride) {
    // Behind the context may lie what another sequence left, even NaN, which no weight of zero
    // would silence.
    alignas(64) uint16_t end[4 * Cache::kTile];
    for (int64_t d = 0; d < width; d += 4 * kLanes) {
        const int tiles = static_cast<int>(std::min<int64_t>(4, (width - d) / kLanes));
        const uint16_t *values[kSplit / kBlockTokens], *next[kSplit / kBlockTokens];
        for (int64_t i = 0; i < blocks; ++i) {
            values[i] = cells[blocks + i] + d * kBlockTokens;
            next[i] = cells[blocks + i + kCellsAhead] + d * kBlockTokens;
        }
        if (used < kBlockTokens) {
            copy_tokens(values[blocks - 1], tiles, used, end);
            values[blocks - 1] = end;
        }
        int64_t b = 0;
        for (; b + 2 <= row_blocks; b += 2) {
            for (int half = 0; half < tiles / 2; ++half) {
                float* to = sums + b * kBlockRows * stride + d + half * 2 * kLanes;
                sum_pair(weights[b], weights[b + 1], blocks, values, b ? nullptr : next,
                         half * 2 * Cache::kTile, to, stride);
            }
        }
        if (b == row_blocks) continue;
        float* to = sums + b * kBlockRows * stride + d;
        sum_blocks(weights[b], blocks, values, b ? nullptr : next, tiles, to, stride);
    }
}

// The same as attend_split for a cache in tiles.
void AttentionOp::attend_tiles(const Unit& unit, int64_t split, const float* q, float* part) const {
    constexpr int64_t kRowBlocks = kTiledRows / kBlockRows;
    const int64_t key_width = cache_.key_width(), value_width = cache_.value_width();
    const int64_t rows = unit.rows(), row_blocks = (rows + kBlockRows - 1) / kBlockRows;
    const Span span = this->span(unit, split);
    const Cells<uint16_t> cells(cache_, span.table, unit.kv_head, span.blocks);

    LeftTile queries[kRowBlocks][kMaxHeadSize / kGroup];
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < key_width; i += kGroup) {
            const float* row = q + r * key_width + i;
            round_row(F32x16::load(row), F32x16::load(row + kLanes),
                      queries[r / kBlockRows][i / kGroup], r % kBlockRows);
        }
    }
    alignas(64) float scores[kTiledRows * kSplit];
    score_tiles(queries, row_blocks, key_width, cells, span.blocks, scores);
    LeftTile weights[kRowBlocks][kSplit / kBlockTokens];
    weigh(unit, span.start, span.end(), scores, part,
          [&](int64_t row, int64_t i, F32x16 a, F32x16 b) {
              round_row(a, b, weights[row / kBlockRows][i / kBlockTokens], row % kBlockRows);
          });
    sum_tiles(weights, row_blocks, value_width, cells, span.blocks, span.last_used(), part,
              part_stride(value_width));
}
#else
void AttentionOp::attend_tiles(const Unit&, int64_t, const float*, float*) const {}
#endif

// Scores, weights and weighted sum of one split.
template <typename Type>
void AttentionOp::attend_split(const Unit& unit, int64_t split, const float* q, float* part) const {
    const int64_t key_width = cache_.key_width(), width = cache_.value_width();
    const int64_t rows = unit.rows();
    const Span span = this->span(unit, split);
    const Cells<typename Type::Element> cells(cache_, span.table, unit.kv_head, span.blocks);
    const auto scale_columns = [&](float* scores, const float* scales) {
        for (int64_t i = 0; i < rows * kBlockTokens; i += kLanes) {
            float* to = scores + i / kBlockTokens * kSplit + i % kBlockTokens;
            (F32x16::load(to) * F32x16::load(scales + i % kBlockTokens)).store(to);
        }
    };

    alignas(64) float scores[kFmaRows * kSplit];
    for (int64_t r = 0; r < rows; ++r) std::fill_n(scores + r * kSplit, span.end(), 0.0f);
    for (int64_t i = 0; i < span.blocks; ++i) {
        float* to = scores + i * kBlockTokens;
        const Lanes<Type> lanes{cells[i], kBlockTokens, kLanes, cells[i + kCellsAhead]};
        multiply(q, key_width, rows, lanes, 2, cache_.head_size, to, kSplit);
        if constexpr (std::is_same_v<Type, Int8>) {
            scale_columns(to, cache_.key_scales + cells.number(i) * kBlockTokens);
        }
    }
    clear(part, rows, width);
    weigh(unit, span.start, span.end(), scores, part,
          [&](int64_t row, int64_t i, F32x16 a, F32x16 b) {
              a.store(scores + row * kSplit + i);
              b.store(scores + row * kSplit + i + kLanes);
          });
    for (int64_t i = 0; i < span.blocks; ++i) {
        float* weights = scores + i * kBlockTokens;
        // Behind the context may lie what another sequence left, even NaN, which no weight of zero
        // would silence.
        const int64_t used = i + 1 < span.blocks ? kBlockTokens : span.last_used();
        if constexpr (std::is_same_v<Type, Int8>) {
            scale_columns(weights, cache_.value_scales + cells.number(i) * kBlockTokens);
        }
        for (int64_t d = 0; d < width; d += 2 * kLanes) {
            const Lanes<Type> lanes{cells[span.blocks + i] + d, width, kLanes,
                                    cells[span.blocks + i + kCellsAhead] + d};
            multiply(weights, kSplit, rows, lanes, d + kLanes < width ? 2 : 1, used, part + d,
                     part_stride(width));
        }
    }
}

// Splits first..last of a unit, merged in order into `sum`.
void AttentionOp::attend(const Team& team, const Unit& unit, int64_t first, int64_t last,
                         float* sum) const {
    const int64_t size = cache_.head_size, width = cache_.key_width();
    const int32_t* table = batch_.block_table + unit.sequence * batch_.table_width;
    const int64_t oldest = options_.oldest(unit.position);
    first = std::max(first, oldest / kSplit);
    last = std::min(last, unit.last_position() / kSplit + 1);
    if (first >= last) return clear(sum, unit.rows(), cache_.value_width());
    for (int64_t i = std::max(first * kSplit, oldest) / kBlockTokens;
         i <= unit.last_position() / kBlockTokens; ++i) {
        if (table[i] < 0 || table[i] >= cache_.blocks) {
            return team.fail("a block id is outside the cache");
        }
    }
    alignas(64) float q[kMostRows * kMaxHeadSize];
    alignas(64) float part[kMostRows * (kMaxHeadSize + kLanes)];
    const F32x16 scale = F32x16::broadcast(options_.scale * cache_.key_scale);
    for (int64_t r = 0; r < unit.rows(); ++r) {
        const float* from = q_ + (unit.first_query + r / unit.heads) * q_stride_ +
                            (unit.first_head + r % unit.heads) * size;
        for (int64_t i = 0; i < width; i += kLanes) {
            const int64_t count = std::min<int64_t>(kLanes, size - i);
            (load_partial(from + i, count) * scale).store(q + r * width + i);
        }
    }
    for (int64_t split = first; split < last; ++split) {
        float* to = split == first ? sum : part;
        if (cache_.is_tiled()) {
            attend_tiles(unit, split, q, to);
        } else {
            with_cache_type(cache_.type, [&](auto type) {
                attend_split<decltype(type)>(unit, split, q, to);
            });
        }
        if (split > first) merge(part, unit.rows(), cache_.value_width(), sum);
    }
}

// Divides the sums by the total weight, that of the sink included.
void AttentionOp::store(const Unit& unit, float* sum) const {
    const int64_t size = cache_.value_size, width = cache_.value_width();
    for (int64_t r = 0; r < unit.rows(); ++r, sum += part_stride(width)) {
        const int64_t head = unit.first_head + r % unit.heads;
        float total = total_of(sum, width), weight = 1.0f;
        if (options_.sinks) {
            const float maximum = maximum_of(sum, width);
            const float largest = std::max(maximum, options_.sinks[head]);
            weight = exp(maximum - largest);
            total = std::fma(total, weight, exp(options_.sinks[head] - largest));
        }
        const int64_t row = unit.first_query + r / unit.heads, first = head * size;
        const F32x16 share = F32x16::broadcast(weight / total * cache_.value_scale);
        for (int64_t i = 0; i < size; i += kLanes) {
            (F32x16::load(sum + i) * share).store(sum + i);
        }
        if (out_.first.format == Format::kFloat32) {
            std::copy_n(sum, size, out_.first.row(row) + first);
        } else {
            store_groups(out_, row, first / kGroup, (first + size) / kGroup, sum);
        }
    }
}

bool AttentionOp::valid(const Team& team) const {
    for (int32_t s = 0; s < rows_.count(); ++s) {
        const int64_t start = batch_.query_start[s], end = batch_.query_start[s + 1];
        const int64_t context = batch_.context_lens[s];
        if (start < 0 || end < start || end > batch_.max_tokens || context < end - start ||
            context > batch_.table_width * kBlockTokens) {
            team.fail("query_start and context_lens do not fit the batch and its block table");
            return false;
        }
    }
    return true;
}

void AttentionOp::run(Team& team) const {
    if (!valid(team)) return;
    const TileRegisters registers(cache_.is_tiled() ? Format::kBFloat16 : Format::kFloat32,
                                  most_rows());
    const int64_t splits = count_splits();
    if (splits_apart()) {
        for_each_unit(team, splits, [&](const Unit& unit, int64_t index, int64_t split) {
            float* part = scratch() + (index * splits + split) * apart_floats();
            attend(team, unit, split, split + 1, part);
        });
        return;
    }
    const int64_t row_blocks = (most_rows() + kBlockRows - 1) / kBlockRows;
    PartMemory sum(row_blocks * kBlockRows, cache_.value_width());
    for_each_unit(team, 1, [&](const Unit& unit, int64_t, int64_t) {
        attend(team, unit, 0, splits, sum.data());
        store(unit, sum.data());
    });
}

void AttentionMergeOp::run(Team& team) const {
    if (!first_.valid(team) || !first_.splits_apart()) return;
    const int64_t width = first_.cache_.value_width(), splits = first_.count_splits();
    PartMemory sum(kApartRows, width);
    first_.for_each_unit(team, 1, [&](const AttentionOp::Unit& unit, int64_t index, int64_t) {
        clear(sum.data(), unit.rows(), width);
        for (int64_t split = 0; split < splits; ++split) {
            merge(scratch() + (index * splits + split) * first_.apart_floats(), unit.rows(), width,
                  sum.data());
        }
        first_.store(unit, sum.data());
    });
}

}  // namespace headrace
