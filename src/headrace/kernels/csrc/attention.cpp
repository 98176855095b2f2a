#include "attention.h"

#include "attention_fma.h"
#include "attention_pairs.h"
#include "attention_tiles.h"
#include "quantize.h"

namespace headrace {

int64_t AttentionOp::scratch_floats() const {
    const int64_t splits = (in_.batch.table_width * kBlockTokens + kSplit - 1) / kSplit;
    return Units::kApartUnits * splits * apart_floats();
}

// Of one split of one unit in the scratch.
int64_t AttentionOp::apart_floats() const {
    return Units::kApartRows * part_stride(in_.cache.value_width());
}

// Splits first..last of a unit, merged in order into `sum`.
template <typename Attended>
void AttentionOp::attend_splits(const Unit& unit, int64_t first, int64_t last, float* sum) const {
    const Attended attended(in_, unit);
    alignas(64) float part[kMostRows * (kMaxHeadSize + kLanes)];
    attended.attend(in_.span(unit, first), sum);
    for (int64_t split = first + 1; split < last; ++split) {
        attended.attend(in_.span(unit, split), part);
        merge_part(unit, in_.cache.value_width(), part, sum);
    }
}

void AttentionOp::attend(const Team& team, const Unit& unit, int64_t first, int64_t last,
                         float* sum) const {
    const int64_t oldest = in_.options.oldest(unit.position);
    first = std::max(first, oldest / kSplit);
    last = std::min(last, unit.last_position() / kSplit + 1);
    if (first >= last) return clear_part(unit, in_.cache.value_width(), sum);
    for (int64_t i = std::max(first * kSplit, oldest) / kBlockTokens;
         i <= unit.last_position() / kBlockTokens; ++i) {
        const int32_t block = in_.table(unit.sequence)[i];
        if (block < 0 || block >= in_.cache.blocks) {
            return team.fail("a block id is outside the cache");
        }
    }
    if (in_.cache.is_tiled()) return attend_splits<TiledUnit>(unit, first, last, sum);
    with_cache_type(in_.cache.type, [&](auto type) {
        attend_splits<FmaUnit<decltype(type)>>(unit, first, last, sum);
    });
}

// Divides the sums by the total weight, that of the sink included.
void AttentionOp::store(const Unit& unit, float* sums) const {
    const int64_t size = in_.cache.value_size, width = in_.cache.value_width();
    unit.for_each_row([&](int64_t slot, int64_t query, int64_t head) {
        float* sum = sums + slot * part_stride(width);
        float total = total_of(sum, width), weight = 1.0f;
        if (in_.options.sinks) {
            const float maximum = maximum_of(sum, width), sink = in_.options.sinks[head];
            const float largest = std::max(maximum, sink);
            weight = exp(maximum - largest);
            total = std::fma(total, weight, exp(sink - largest));
        }
        const int64_t row = unit.first_query + query, first = head * size;
        const F32x16 share = F32x16::broadcast(weight / total * in_.cache.value_scale);
        for (int64_t i = 0; i < size; i += kLanes) {
            (F32x16::load(sum + i) * share).store(sum + i);
        }
        if (out_.first.format == Format::kFloat32) {
            std::copy_n(sum, size, out_.first.row(row) + first);
        } else {
            store_groups(out_, row, first / kGroup, (first + size) / kGroup, sum);
        }
    });
}

bool AttentionOp::valid(const Team& team) const {
    const Batch& batch = in_.batch;
    for (int32_t s = 0; s < rows_.count(); ++s) {
        const int64_t start = batch.query_start[s], end = batch.query_start[s + 1];
        const int64_t context = batch.context_lens[s];
        if (start < 0 || end < start || end > batch.max_tokens || context < end - start ||
            context > batch.table_width * kBlockTokens) {
            team.fail("query_start and context_lens do not fit the batch and its block table");
            return false;
        }
    }
    return true;
}

void AttentionOp::run(Team& team) const {
    if (!valid(team)) return;
    const Units units(in_, rows_.count(), team.num_threads());
    const TileRegisters registers(in_.cache.is_tiled() ? Format::kBFloat16 : Format::kFloat32,
                                  units.most_rows());
    const int64_t splits = units.splits();
    if (units.splits_apart()) {
        units.share(team, splits, [&](const Unit& unit, int64_t index, int64_t split) {
            float* part = scratch() + (index * splits + split) * apart_floats();
            attend(team, unit, split, split + 1, part);
        });
        return;
    }
    const int64_t row_blocks = (units.most_slots() + kBlockRows - 1) / kBlockRows;
    PartMemory sum(row_blocks * kBlockRows, in_.cache.value_width());
    units.share(team, 1, [&](const Unit& unit, int64_t, int64_t) {
        attend(team, unit, 0, splits, sum.data());
        store(unit, sum.data());
    });
}

void AttentionMergeOp::run(Team& team) const {
    const AttentionInputs& in = first_.in_;
    if (!first_.valid(team)) return;
    const Units units(in, rows_.count(), team.num_threads());
    if (!units.splits_apart()) return;
    const int64_t width = in.cache.value_width(), splits = units.splits();
    PartMemory sum(Units::kApartRows, width);
    units.share(team, 1, [&](const Unit& unit, int64_t index, int64_t) {
        clear_part(unit, width, sum.data());
        for (int64_t split = 0; split < splits; ++split) {
            float* part = scratch() + (index * splits + split) * first_.apart_floats();
            merge_part(unit, width, part, sum.data());
        }
        first_.store(unit, sum.data());
    });
}

}  // namespace headrace
