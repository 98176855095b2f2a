#include "pointwise.h"

#include <cmath>
#include <cstring>

#include "codebook.h"
#include "coded.h"
#include "planes.h"
#include "quantize.h"
#include "scales.h"

namespace headrace {
namespace {

constexpr int64_t kChunkGroups = 16;  // groups of one row that are computed before being stored

int64_t row_blocks(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

// Shares rows x groups in units that own whole cells, so that no two threads write one cache line.
// Rows from `split` on are in cells of their own.
template <typename Function>
void for_each_cell_range(Team& team, int64_t split, int64_t rows, int64_t groups,
                         Function function) {
    const int64_t split_blocks = row_blocks(split), blocks = split_blocks + row_blocks(rows - split);
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(
        groups, blocks < 4 * team.num_threads() ? team.num_threads() : 1));
    team.share(blocks * parts, [&](int64_t unit) {
        const int64_t block = unit / parts, part = unit % parts;
        const bool is_before = block < split_blocks;
        const int64_t begin = is_before ? 0 : split - split_blocks * kBlockRows;
        const int64_t first_row = begin + block * kBlockRows;
        const int64_t last_row = std::min(is_before ? split : rows, first_row + kBlockRows);
        for (int64_t row = first_row; row < last_row; ++row) {
            function(row, groups * part / parts, groups * (part + 1) / parts);
        }
    });
}

template <typename Function>
void for_each_cell_range(Team& team, const SplitActivation& out, int64_t rows, Function function) {
    for_each_cell_range(team, out.first_rows(rows), rows, out.groups(), function);
}

// Sum over a row of function(lanes), in a fixed order: four chains, then the tail.
template <typename Function>
float sum_lanes(const float* x, int64_t count, Function function) {
    F32x16 sums[4] = {F32x16::zero(), F32x16::zero(), F32x16::zero(), F32x16::zero()};
    const int64_t whole = count / kLanes;
    for (int64_t i = 0; i < whole; ++i) {
        sums[i % 4] = sums[i % 4] + function(F32x16::load(x + i * kLanes));
    }
    if (const int tail = static_cast<int>(count % kLanes)) {
        const F32x16 value = function(load_partial(x + whole * kLanes, tail));
        sums[0] = sums[0] + select(value, F32x16::zero(), 0, tail);
    }
    return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

float weight_at(const Weight& table, int64_t row, int64_t k) {
    const int64_t tile = row / kLanes, lane = row % kLanes;
    const auto* bytes = table.tile(tile);
    const auto* halves = reinterpret_cast<const uint16_t*>(bytes);
    const int64_t at = table.element(k, lane);
    switch (table.kind) {
        case Kind::kFloat32: return reinterpret_cast<const float*>(bytes)[at];
        case Kind::kFloat16: return half_to_float(halves[at]);
        default: return bfloat16_to_float(halves[at]);
    }
}

// 32 inputs of one row of a table in groups.
template <Kind kKind, Scaling kScaling>
void row_group(const Weight& table, int64_t row, int64_t group, float* to) {
    const int64_t tile = row / kLanes, lane = row % kLanes, first = group * kGroup;
    const float* book = codebook(kKind);
    const float offset = kKind == Kind::kInt8 ? 128.0f : 0.0f;
    const uint8_t* quants = table.quants(tile, first);
    const uint8_t* from = table.scales(tile, first / table.group);
    const int64_t part = first % table.group / kGroup;
    for (int half = 0; half < 2; ++half) {
        float scales[kLanes], minima[kLanes];
        const Affine affine = load_scales<kKind, kScaling>(from, part, half);
        affine.scale.store(scales);
        affine.minimum.store(minima);
        HEADRACE_UNROLL
        for (int k = half * kLanes; k < (half + 1) * kLanes; ++k) {
            const int code = load_code(quants, code_bits(kKind), lane, k);
            const float number = book ? book[code] : static_cast<float>(code) - offset;
            to[k] = std::fma(number, scales[lane], minima[lane]);
        }
    }
}

// The same of a coded table.
void coded_row_group(const Weight& table, int64_t row, int64_t group, float* to) {
    RightTile decoded;
    decode_groups(table, row / kLanes, group, 1, &decoded);
    const uint16_t* values = decoded.values[0][0];
    for (int64_t k = 0; k < kGroup; ++k) {
        to[k] = bfloat16_to_float(values[Weight::right_element(k, row % kLanes)]);
    }
}

}  // namespace

void EmbeddingOp::run(Team& team) const {
    team.share(rows_.count(), [&](int64_t row) {
        if (ids_[row] < 0 || ids_[row] >= vocab_size_) {
            return team.fail("a token id is outside the embedding");
        }
        const int64_t id = ids_[row] - first_id_;
        const bool is_here = id >= 0 && id < table_.out;
        float* out = out_ + row * table_.in;
        for (int64_t first = 0; first < table_.in; first += kGroup) {
            const int64_t count = std::min<int64_t>(kGroup, table_.in - first);
            float values[kGroup] = {};
            if (is_here && is_grouped(table_.kind)) {
                with_layout(table_, [&](auto layout) {
                    row_group<layout.kind, layout.scaling>(table_, id, first / kGroup, values);
                });
            } else if (is_here && table_.is_coded()) {
                coded_row_group(table_, id, first / kGroup, values);
            } else if (is_here) {
                for (int64_t k = 0; k < count; ++k) values[k] = weight_at(table_, id, first + k);
            }
            for (int64_t k = 0; k < count; ++k) {
                const float before = accumulate_ ? out[first + k] : 0.0f;
                out[first + k] = before + values[k] * scale_;
            }
        }
    });
}

// Features first..last of output row `row`. Each thread that shares a row sums it whole.
void NormOp::normalize(int64_t row, int64_t first, int64_t last) const {
    const int64_t count = out_.features();
    const float* x = x_ + (index_ ? index_[row] : row) * x_stride_;
    const float mean =
        kind_ == Norm::kLayer
            ? sum_lanes(x, count, [](F32x16 a) { return a; }) / static_cast<float>(count)
            : 0.0f;
    const F32x16 center = F32x16::broadcast(mean);
    const float squares = sum_lanes(x, count, [&](F32x16 a) {
        return (a - center) * (a - center);
    });
    const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(count) + eps_);
    const auto apply = [&](int64_t i, int64_t lanes) {
        const F32x16 value = (load_partial(x + i, lanes) - center) * F32x16::broadcast(inverse) *
                             load_partial(weight_ + i, lanes);
        return bias_ ? value + load_partial(bias_ + i, lanes) : value;
    };
    const int64_t split = out_.first_rows(row + 1);
    const Activation& part = row < split ? out_.first : out_.rest;
    if (part.format == Format::kFloat32) {
        float* out = part.row(0) + (row < split ? row : row - split) * out_stride_;
        for (int64_t i = first; i < last; i += kLanes) {
            const int64_t lanes = std::min<int64_t>(kLanes, last - i);
            const F32x16 value = apply(i, lanes);
            store_partial(accumulate_ ? load_partial(out + i, lanes) + value : value, out + i, lanes);
        }
        return;
    }
    float values[kChunkGroups * kGroup];
    for (int64_t from = first; from < last; from += kChunkGroups * kGroup) {
        const int64_t to = std::min(last, from + kChunkGroups * kGroup);
        for (int64_t i = from; i < to; i += kLanes) apply(i, kLanes).store(values + (i - from));
        store_groups(out_, row, from / kGroup, to / kGroup, values);
    }
}

void NormOp::run(Team& team) const {
    const int64_t rows = rows_.count();
    if (index_) {
        for (int64_t row = 0; row < rows; ++row) {
            if (index_[row] < 0 || index_[row] >= x_rows_) {
                return team.fail("a row index is outside the norm's input");
            }
        }
    }
    if (out_.first.format == Format::kFloat32 && out_.first.row(0) == x_) {
        // In place a row is one thread's: no other may read it meanwhile.
        return team.share(rows, [&](int64_t row) { normalize(row, 0, out_.features()); });
    }
    const int64_t groups = (out_.features() + kGroup - 1) / kGroup;
    const int64_t split = out_.first_rows(rows);
    for_each_cell_range(team, split, rows, groups, [&](int64_t row, int64_t first, int64_t last) {
        normalize(row, first * kGroup, std::min(last * kGroup, out_.features()));
    });
}

void GateOp::run(Team& team) const {
    const int64_t features = out_.features();
    const auto gate = [&](int64_t row, int64_t first, int64_t last) {
        float values[kGroup];
        for (int64_t group = first; group < last; ++group) {
            const float* from = x_ + row * 2 * features + group * kGroup;
            gate_rows(kind_, from, from + features, kGroup, values);
            store_groups(out_, row, group, group + 1, values);
        }
    };
    for_each_cell_range(team, out_, rows_.count(), gate);
}

void ActivateOp::run(Team& team) const {
    const int64_t features = out_.features();
    const auto activate_groups = [&](int64_t row, int64_t first, int64_t last) {
        float values[kGroup];
        for (int64_t group = first; group < last; ++group) {
            const float* from = x_ + row * features + group * kGroup;
            for (int i = 0; i < kGroup; i += kLanes) {
                activate(kind_, F32x16::load(from + i)).store(values + i);
            }
            store_groups(out_, row, group, group + 1, values);
        }
    };
    for_each_cell_range(team, out_, rows_.count(), activate_groups);
}

void SoftCapOp::run(Team& team) const {
    const F32x16 cap = F32x16::broadcast(cap_);
    const int64_t groups = (features_ + kGroup - 1) / kGroup;
    const int64_t rows = rows_.count();
    for_each_cell_range(team, rows, rows, groups, [&](int64_t row, int64_t first, int64_t last) {
        float* x = x_ + row * features_;
        const int64_t end = std::min(last * kGroup, features_);
        for (int64_t i = first * kGroup; i < end; i += kLanes) {
            const int64_t lanes = std::min<int64_t>(kLanes, end - i);
            store_partial(cap * tanh(load_partial(x + i, lanes) / cap), x + i, lanes);
        }
    });
}

void QuantizeOp::run(Team& team) const {
    for_each_cell_range(team, out_, rows_.count(),
                        [&](int64_t row, int64_t first, int64_t last) {
        store_groups(out_, row, first, last, x_ + row * out_.features() + first * kGroup);
    });
}

void PermuteOp::run(Team& team) const {
    for_each_cell_range(team, out_, rows_.count(),
                        [&](int64_t row, int64_t first, int64_t last) {
        const float* x = x_ + row * features_;
        alignas(64) float values[kGroup];
        for (int64_t group = first; group < last; ++group) {
            for (int k = 0; k < kGroup; ++k) {
                const int32_t from = index_[group * kGroup + k];
                values[k] = from < 0 ? 0.0f : x[from];
            }
            store_groups(out_, row, group, group + 1, values);
        }
    });
}

// Each thread moves columns of its own, as rows that move make room for others.
void MoveRowsOp::run(Team& team) const {
    constexpr int64_t kColumns = 8 * kLanes;
    const int64_t rows = rows_.count();
    for (int64_t row = 0; row < rows; ++row) {
        if (index_[row] < row || index_[row] >= x_rows_) {
            return team.fail("a row is to move down, or comes from beyond the others");
        }
    }
    team.share((columns_ + kColumns - 1) / kColumns, [&](int64_t unit) {
        const int64_t first = unit * kColumns, count = std::min(kColumns, columns_ - first);
        for (int64_t row = 0; row < rows; ++row) {
            std::memmove(x_ + row * stride_ + first, x_ + index_[row] * stride_ + first,
                         static_cast<size_t>(count) * sizeof(float));
        }
    });
}

void ArgmaxOp::run(Team& team) const {
    team.share(rows_.count(), [&](int64_t row) {
        const float* x = x_ + row * features_;
        F32x16 lanes = F32x16::broadcast(x[0]);
        int64_t i = 0;
        for (; i + kLanes <= features_; i += kLanes) lanes = max(lanes, F32x16::load(x + i));
        float largest = reduce_max(lanes);
        for (; i < features_; ++i) largest = std::max(largest, x[i]);
        const int64_t index = std::find(x, x + features_, largest) - x;
        out_[row] = static_cast<int32_t>(std::min(index, features_ - 1));  // all NaN: some id
    });
}

}  // namespace headrace
