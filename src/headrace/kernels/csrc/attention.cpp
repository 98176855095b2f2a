#include "attention.h"

#include <cmath>
#include <limits>

#include "attention_amx.h"
#include "math.h"

namespace headrace {
namespace {

constexpr int64_t kSplit = 256;
constexpr int64_t kRows = kHasTiles ? kBlockRows : kFmaRows;  // query heads x tokens of a unit
constexpr int64_t kCellsAhead = 2;   // fetched while one is read
constexpr int64_t kApartUnits = 8;   // with so few units, splits are shared out as well
constexpr float kNone = -std::numeric_limits<float>::infinity();

// What one unit keeps of one or more splits: sums [rows][width of values], maxima [rows],
// totals [rows].
int64_t part_floats(int64_t width) { return kRows * (width + 2); }
float* maxima(float* part, int64_t width) { return part + kRows * width; }
float* totals(float* part, int64_t width) { return part + kRows * (width + 1); }

// Adds a later split to `sum`: both are weighted by e to their maximum.
void merge(const float* part, int64_t rows, int64_t width, float* sum) {
    float* part_maxima = maxima(const_cast<float*>(part), width);
    float* part_totals = totals(const_cast<float*>(part), width);
    for (int64_t r = 0; r < rows; ++r) {
        if (part_maxima[r] == kNone) continue;
        float& maximum = maxima(sum, width)[r];
        float& total = totals(sum, width)[r];
        const bool first = maximum == kNone;
        const float largest = std::max(maximum, part_maxima[r]);
        const float old_weight = first ? 0.0f : exp(maximum - largest);
        const float new_weight = exp(part_maxima[r] - largest);
        for (int64_t i = r * width; i < (r + 1) * width; i += kLanes) {
            const F32x16 old = F32x16::load(sum + i) * F32x16::broadcast(old_weight);
            fma(F32x16::load(part + i), F32x16::broadcast(new_weight), old).store(sum + i);
        }
        total = std::fma(part_totals[r], new_weight, total * old_weight);
        maximum = largest;
    }
}

void clear(float* part, int64_t width) {
    std::fill(part, part + kRows * width, 0.0f);
    std::fill_n(maxima(part, width), kRows, kNone);
    std::fill_n(totals(part, width), kRows, 0.0f);
}

// Turns `count` scores into weights in place, zero outside first..last; returns maximum and total.
void softmax(float* scores, int64_t count, int64_t first, int64_t last, float& maximum,
             float& total) {
    const F32x16 none = F32x16::broadcast(kNone);
    const auto keep = [&](F32x16 value, F32x16 otherwise, int64_t i) {
        if (i >= first && i + kLanes <= last) return value;
        return select(value, otherwise, static_cast<int>(first - i), static_cast<int>(last - i));
    };
    F32x16 largest = none, sum = F32x16::zero();
    for (int64_t i = 0; i < count; i += kLanes) {
        largest = max(largest, keep(F32x16::load(scores + i), none, i));
    }
    maximum = reduce_max(largest);
    const F32x16 shift = F32x16::broadcast(maximum);
    for (int64_t i = 0; i < count; i += kLanes) {
        const F32x16 weight = exp(F32x16::load(scores + i) - shift);
        const F32x16 kept = keep(weight, F32x16::zero(), i);
        kept.store(scores + i);
        sum = sum + kept;
    }
    total = reduce_add(sum);
}

}  // namespace

// Some successive query tokens of one sequence and some query heads of one key head.
struct AttentionOp::Unit {
    int64_t sequence, first_query, queries;  // first_query: row of q
    int64_t kv_head, first_head, heads;      // first_head: query head
    int64_t position;                        // of the first query

    int64_t rows() const { return queries * heads; }
    int64_t last_position() const { return position + queries - 1; }
};

AttentionOp::AttentionOp(Rows rows, const float* q, int64_t q_stride, int64_t heads, Cache cache,
                         Batch batch, AttentionOptions options, float* out)
    : Op(rows), q_(q), q_stride_(q_stride), heads_(heads), cache_(cache), batch_(batch),
      options_(options), out_(out), group_(heads / cache.heads),
      unit_heads_(std::min(group_, kRows)), unit_queries_(kRows / unit_heads_) {}

int64_t AttentionOp::scratch_floats() const {
    const int64_t splits = (batch_.table_width * kBlockTokens + kSplit - 1) / kSplit;
    return kApartUnits * splits * part_floats(cache_.value_width());
}

int64_t AttentionOp::count_units() const {
    int64_t query_blocks = 0;
    for (int32_t s = 0; s < rows_.count(); ++s) {
        const int64_t queries = batch_.query_start[s + 1] - batch_.query_start[s];
        query_blocks += (queries + unit_queries_ - 1) / unit_queries_;
    }
    return query_blocks * cache_.heads * ((group_ + unit_heads_ - 1) / unit_heads_);
}

int64_t AttentionOp::count_splits() const {
    int64_t longest = 0;
    for (int32_t s = 0; s < rows_.count(); ++s) {
        longest = std::max<int64_t>(longest, batch_.context_lens[s]);
    }
    return (longest + kSplit - 1) / kSplit;
}

bool AttentionOp::splits_apart() const {
    return count_units() <= kApartUnits && count_splits() > 1;
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

// Turns scores [rows][split], of positions from `start`, into weights, and notes maxima and totals.
void AttentionOp::weigh(const Unit& unit, int64_t start, int64_t end, float* scores,
                        float* part) const {
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
    clear(part, width);
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t position = unit.position + r / unit.heads;
        const int64_t first = options_.oldest(position) - start, last = position + 1 - start;
        if (last <= 0 || first >= kSplit) {
            std::fill_n(scores + r * kSplit, end, 0.0f);
            continue;
        }
        softmax(scores + r * kSplit, end, first, last, maxima(part, width)[r],
                totals(part, width)[r]);
    }
}

#if defined(__AMX_BF16__)
// The same for a cache in tiles.
void AttentionOp::attend_tiles(const Unit& unit, int64_t split, const float* q, float* part) const {
    const int64_t key_width = cache_.key_width(), value_width = cache_.value_width();
    const int64_t rows = unit.rows(), start = split * kSplit;
    const int64_t tokens = std::min(kSplit, unit.last_position() + 1 - start);
    const int64_t oldest = options_.oldest(unit.position);
    const int64_t from = std::max<int64_t>(0, oldest - start) / kBlockTokens;
    const int64_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
    const int32_t* table = batch_.block_table + unit.sequence * batch_.table_width +
                           start / kBlockTokens;
    const auto cell_of = [&](const void* cells, int64_t width, int64_t block) {
        return static_cast<const uint16_t*>(cells) +
               cache_.cell(table[block], unit.kv_head) * width * kBlockTokens;
    };

    SplitTile queries[kMaxHeadSize / kGroup];
    for (int64_t i = 0; i < key_width; i += kGroup) {
        for (int64_t r = 0; r < rows; ++r) split_row(q + r * key_width + i, queries[i / kGroup], r);
    }
    alignas(64) float scores[kRows * kSplit];
    for (int64_t r = 0; r < rows; ++r) std::fill_n(scores + r * kSplit, from * kBlockTokens, 0.0f);
    for (int64_t i = from; i < blocks; ++i) {
        score_block(queries, key_width, cell_of(cache_.keys, key_width, i),
                    scores + i * kBlockTokens, kSplit);
    }
    weigh(unit, start, blocks * kBlockTokens, scores, part);
    SplitTile weights[kSplit / kBlockTokens];
    for (int64_t i = from; i < blocks; ++i) {
        for (int64_t r = 0; r < rows; ++r) {
            split_row(scores + r * kSplit + i * kBlockTokens, weights[i], r);
        }
    }
    // Behind the context may lie what another sequence left, even NaN, which no weight of zero
    // would silence.
    alignas(64) uint16_t last[4 * Cache::kTile];
    const int64_t used = tokens - (blocks - 1) * kBlockTokens;
    for (int64_t d = 0; d < value_width; d += 4 * kLanes) {
        const int tiles = static_cast<int>(std::min<int64_t>(4, (value_width - d) / kLanes));
        const auto value_tiles = [&](int64_t i) -> const uint16_t* {
            const uint16_t* values =
                cell_of(cache_.values, value_width, from + i) + d * kBlockTokens;
            if (from + i < blocks - 1 || used == kBlockTokens) return values;
            for (int64_t k = 0; k < tiles * Cache::kTile; ++k) {
                const int64_t token = k % Cache::kTile / (2 * kLanes) * 2 + k % 2;
                last[k] = token < used ? values[k] : 0;
            }
            return last;
        };
        sum_blocks(weights + from, blocks - from, value_tiles, tiles, part + d, value_width);
    }
}
#else
void AttentionOp::attend_tiles(const Unit&, int64_t, const float*, float*) const {}
#endif

// Scores, weights and weighted sum of one split.
template <typename Type>
void AttentionOp::attend_split(const Unit& unit, int64_t split, const float* q, float* part) const {
    const int64_t key_width = cache_.key_width(), value_width = cache_.value_width();
    const int64_t rows = unit.rows(), start = split * kSplit;
    const int64_t tokens = std::min(kSplit, unit.last_position() + 1 - start);
    const int64_t oldest = options_.oldest(unit.position);
    const int64_t from = std::max<int64_t>(0, oldest - start) / kBlockTokens * kBlockTokens;
    const int64_t blocks = (tokens - from + kBlockTokens - 1) / kBlockTokens;
    const int64_t end = from + blocks * kBlockTokens;
    const int32_t* table = batch_.block_table + unit.sequence * batch_.table_width;
    const auto* keys = static_cast<const typename Type::Element*>(cache_.keys);
    const auto* values = static_cast<const typename Type::Element*>(cache_.values);
    const auto cell = [&](int64_t token) {
        return cache_.cell(table[(start + token) / kBlockTokens], unit.kv_head);
    };
    const auto key_cell = [&](int64_t token) {
        return keys + cell(token) * key_width * kBlockTokens;
    };
    const auto value_cell = [&](int64_t token) {
        return values + cell(token) * value_width * kBlockTokens;
    };
    // Cells in the order they are read: keys, values, then what the next key head begins with.
    const auto nth_cell = [&](int64_t i) {
        if (i < blocks) return key_cell(from + i * kBlockTokens);
        if (i < 2 * blocks) return value_cell(from + (i - blocks) * kBlockTokens);
        const int64_t block = std::min(i - 2 * blocks, blocks - 1);
        return key_cell(from + block * kBlockTokens) + key_width * kBlockTokens;
    };
    const auto scale_columns = [&](float* scores, const float* scales, int64_t token) {
        for (int64_t i = 0; i < rows * kBlockTokens; i += kLanes) {
            float* to = scores + i / kBlockTokens * kSplit + token + i % kBlockTokens;
            (F32x16::load(to) * F32x16::load(scales + i % kBlockTokens)).store(to);
        }
    };

    alignas(64) float scores[kRows * kSplit];
    for (int64_t r = 0; r < rows; ++r) std::fill_n(scores + r * kSplit, end, 0.0f);
    for (int64_t i = 0; i < blocks; ++i) {
        const int64_t token = from + i * kBlockTokens;
        const Lanes<Type> lanes{nth_cell(i), kBlockTokens, kLanes, nth_cell(i + kCellsAhead)};
        multiply(q, key_width, rows, lanes, 2, cache_.head_size, scores + token, kSplit);
        if constexpr (std::is_same_v<Type, Int8>) {
            scale_columns(scores, cache_.key_scales + cell(token) * kBlockTokens, token);
        }
    }
    weigh(unit, start, end, scores, part);
    for (int64_t i = 0; i < blocks; ++i) {
        const int64_t token = from + i * kBlockTokens;
        // Behind the context may lie what another sequence left, even NaN, which no weight of zero
        // would silence.
        const int64_t used = std::min<int64_t>(kBlockTokens, tokens - token);
        if constexpr (std::is_same_v<Type, Int8>) {
            scale_columns(scores, cache_.value_scales + cell(token) * kBlockTokens, token);
        }
        for (int64_t d = 0; d < value_width; d += 2 * kLanes) {
            const Lanes<Type> lanes{nth_cell(blocks + i) + d, value_width, kLanes,
                                    nth_cell(blocks + i + kCellsAhead) + d};
            multiply(scores + token, kSplit, rows, lanes, d + kLanes < value_width ? 2 : 1, used,
                     part + d, value_width);
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
    clear(sum, cache_.value_width());
    for (int64_t i = std::max(first * kSplit, oldest) / kBlockTokens;
         i <= unit.last_position() / kBlockTokens; ++i) {
        if (table[i] < 0 || table[i] >= cache_.blocks) {
            return team.fail("a block id is outside the cache");
        }
    }
    alignas(64) float q[kRows * kMaxHeadSize], part[kRows * (kMaxHeadSize + 2)];
    const F32x16 scale = F32x16::broadcast(options_.scale);
    for (int64_t r = 0; r < unit.rows(); ++r) {
        const float* from = q_ + (unit.first_query + r / unit.heads) * q_stride_ +
                            (unit.first_head + r % unit.heads) * size;
        for (int64_t i = 0; i < width; i += kLanes) {
            const int64_t count = std::min<int64_t>(kLanes, size - i);
            (load_partial(from + i, count) * scale).store(q + r * width + i);
        }
    }
    for (int64_t split = first; split < last; ++split) {
        if (cache_.is_tiled()) {
            attend_tiles(unit, split, q, part);
        } else {
            with_cache_type(cache_.type, [&](auto type) {
                attend_split<decltype(type)>(unit, split, q, part);
            });
        }
        merge(part, unit.rows(), cache_.value_width(), sum);
    }
}

// Divides the sums by the total weight, that of the sink included.
void AttentionOp::store(const Unit& unit, const float* sum) const {
    const int64_t size = cache_.value_size, width = cache_.value_width();
    for (int64_t r = 0; r < unit.rows(); ++r) {
        const int64_t head = unit.first_head + r % unit.heads;
        float total = totals(const_cast<float*>(sum), width)[r], weight = 1.0f;
        if (options_.sinks) {
            const float maximum = maxima(const_cast<float*>(sum), width)[r];
            const float largest = std::max(maximum, options_.sinks[head]);
            weight = exp(maximum - largest);
            total = std::fma(total, weight, exp(options_.sinks[head] - largest));
        }
        float* to = out_ + ((unit.first_query + r / unit.heads) * heads_ + head) * size;
        const F32x16 share = F32x16::broadcast(weight / total);
        for (int64_t i = 0; i < size; i += kLanes) {
            const int64_t count = std::min<int64_t>(kLanes, size - i);
            store_partial(F32x16::load(sum + r * width + i) * share, to + i, count);
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
    const TileRegisters registers(cache_.is_tiled() ? Format::kBFloat16 : Format::kFloat32, kRows);
    const int64_t width = cache_.value_width(), splits = count_splits();
    if (splits_apart()) {
        for_each_unit(team, splits, [&](const Unit& unit, int64_t index, int64_t split) {
            float* part = scratch() + (index * splits + split) * part_floats(width);
            attend(team, unit, split, split + 1, part);
        });
        return;
    }
    std::vector<float> sum(static_cast<size_t>(part_floats(width)));
    for_each_unit(team, 1, [&](const Unit& unit, int64_t, int64_t) {
        attend(team, unit, 0, splits, sum.data());
        store(unit, sum.data());
    });
}

void AttentionMergeOp::run(Team& team) const {
    if (!first_.valid(team) || !first_.splits_apart()) return;
    const int64_t width = first_.cache_.value_width(), splits = first_.count_splits();
    std::vector<float> sum(static_cast<size_t>(part_floats(width)));
    first_.for_each_unit(team, 1, [&](const AttentionOp::Unit& unit, int64_t index, int64_t) {
        clear(sum.data(), width);
        for (int64_t split = 0; split < splits; ++split) {
            merge(scratch() + (index * splits + split) * part_floats(width), unit.rows(), width,
                  sum.data());
        }
        first_.store(unit, sum.data());
    });
}

}  // namespace headrace
