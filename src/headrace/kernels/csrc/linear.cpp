#include "linear.h"

#include <optional>

#include "coded.h"
#include "pointwise.h"
#include "products_bfloat16.h"
#include "products_int8.h"
#include "products_pairs.h"
#include "quantize.h"

namespace headrace {
namespace {

constexpr int64_t kMaxPanelRows = 512;
constexpr int64_t kPanelColumns = 2 * kLanes;
constexpr int64_t kPanelDepth = 256;  // inputs of a weight widened to float at a time

// One unit of work: the product of some rows with two tiles of a weight.
struct alignas(64) Panel {
    float values[kMaxPanelRows * kPanelColumns];
};

template <Kind kKind, Scaling kScaling>
void integer_tiles(const Activation& x, const Weight& weight, Tiles tiles, int64_t row,
                   int64_t rows, float* c) {
    if constexpr (!is_halved(kScaling)) {
        if (suits_tiles(rows)) {
            const int64_t block = row / kBlockRows;
            for (int v = 0; v < tiles.count; ++v) {
                multiply_blocks<kKind, kScaling>(x, block, rows, weight, tiles[v], c + v * kLanes,
                                                 kPanelColumns);
            }
            return;
        }
    }
    // Both tiles in turn, while the rows are in the L1 cache.
    std::memset(c, 0, static_cast<size_t>(rows * kPanelColumns) * sizeof *c);
    for (int64_t r = 0; r < rows;) {
        const int first = static_cast<int>((row + r) % kBlockRows);
        const Cell* cells = x.cells((row + r) / kBlockRows);
        const int count = static_cast<int>(std::min<int64_t>(
            {rows - r, kBlockRows - first, kRowTile}));
        with_constant<kRowTile>(count, [&](auto n) {
            constexpr auto* multiply = is_halved(kScaling)
                                           ? multiply_halved_tile<n.value, kKind, kScaling>
                                           : multiply_tile<n.value, kKind, kScaling>;
            for (int v = 0; v < tiles.count; ++v) {
                multiply(weight, tiles[v], cells, first, c + r * kPanelColumns + v * kLanes,
                         kPanelColumns);
            }
        });
        r += count;
    }
}

void integer_product(const Activation& x, const Weight& weight, Tiles tiles, int64_t row,
                     int64_t rows, float* c) {
    with_layout(weight, [&](auto layout) {
        if constexpr (layout.kind != Kind::kFloat8) {
            integer_tiles<layout.kind, layout.scaling>(x, weight, tiles, row, rows, c);
        }
    });
}

// Inputs first..first + 32 of a tile in groups as floats [32][16].
template <Kind kKind, Scaling kScaling>
void widen_codes(const Weight& weight, int64_t tile, int64_t first, float* to) {
    const float* book = codebook(kKind);
    const uint8_t* quants = weight.quants(tile, first);
    const uint8_t* scales = weight.scales(tile, first / weight.group);
    const F32x16 offset = F32x16::broadcast(kKind == Kind::kInt8 ? -128.0f : 0.0f);
    const auto widen = [&](U8x64 line, int k) {
        const int64_t part = first % weight.group / kGroup;
        const auto [scale, minimum] = load_scales<kKind, kScaling>(scales, part, k / kLanes);
        for (int i = 0; i < 4; ++i) {
            const F32x16 value = book ? gather(book, line, i) : byte_of_lanes(line, i) + offset;
            fma(value, scale, minimum).store(to + (k + i) * kLanes);
        }
    };
    for (int k = 0; k < kLanes; k += 4) {
        if constexpr (code_bits(kKind) == 8) {
            widen(U8x64::load(quants + kLanes * k), k);
            widen(U8x64::load(quants + kLanes * (k + kLanes)), k + kLanes);
        } else {
            const Codes codes = load_codes<code_bits(kKind)>(quants, k / 4);
            widen(codes.low, k);
            widen(codes.high, k + kLanes);
        }
    }
}

// The same of any tile that does not hold its floats in order.
void widen_group(const Weight& weight, int64_t tile, int64_t first, float* to) {
    if (is_grouped(weight.kind)) {
        return with_layout(weight, [&](auto layout) {
            widen_codes<layout.kind, layout.scaling>(weight, tile, first, to);
        });
    }
    RightTile decoded;
    const auto* values = reinterpret_cast<const uint16_t*>(weight.tile(tile)) + first * kLanes;
    if (weight.is_coded()) {
        decode_groups(weight, tile, first / kGroup, 1, &decoded);
        values = decoded.values[0][0];
    }
    for (int64_t i = 0; i < kGroup * kLanes; ++i) {
        to[i] = bfloat16_to_float(values[Weight::right_element(i / kLanes, i % kLanes)]);
    }
}

// Such a weight with float activations.
void widened_product(const Activation& x, const Weight& weight, Tiles tiles, int64_t row,
                     int64_t rows, float* c) {
    alignas(64) float widened[2 * kPanelDepth * kLanes];
    for (int64_t k = 0; k < weight.in; k += kPanelDepth) {
        const int64_t depth = std::min(kPanelDepth, weight.in - k);
        for (int v = 0; v < tiles.count; ++v) {
            for (int64_t i = 0; i < depth; i += kGroup) {
                widen_group(weight, tiles[v], k + i, widened + (v * kPanelDepth + i) * kLanes);
            }
        }
        const Lanes<Float32> lanes{widened, kLanes, kPanelDepth * kLanes, widened};
        multiply(x.row(row) + k, x.features, rows, lanes, tiles.count, depth, c, kPanelColumns);
    }
}

template <typename Type>
void float_product(const Activation& x, const Weight& weight, Tiles tiles, int64_t row,
                   int64_t rows, float* c) {
    const auto* data = reinterpret_cast<const typename Type::Element*>(weight.tile(tiles[0]));
    constexpr int64_t ahead = kPrefetchBytes / static_cast<int64_t>(sizeof *data);
    const int64_t apart = (tiles[1] - tiles[0]) * weight.in * kLanes;
    const Lanes<Type> lanes{data, kLanes, apart, data + ahead};
    multiply(x.row(row), x.features, rows, lanes, tiles.count, weight.in, c, kPanelColumns);
}

// Rows of floats times one or two tiles.
void exact_product(const Activation& x, const Weight& weight, Tiles tiles, int64_t row,
                   int64_t rows, float* c) {
    std::memset(c, 0, static_cast<size_t>(rows * kPanelColumns) * sizeof(float));
    switch (weight.kind) {
        case Kind::kFloat16: return float_product<Float16>(x, weight, tiles, row, rows, c);
        case Kind::kBFloat16:
            if (weight.is_tiled()) break;
            return float_product<BFloat16>(x, weight, tiles, row, rows, c);
        case Kind::kFloat32: return float_product<Float32>(x, weight, tiles, row, rows, c);
        default: break;
    }
    widened_product(x, weight, tiles, row, rows, c);
}

// Rows row..row + rows of x times one or two tiles. Calls done(first, count, sums) with the sums
// [count][kPanelColumns] of all rows in turn; they lie in the panel.
template <typename Done>
void product(const Activation& x, const Weight& weight, Tiles tiles, int64_t row, int64_t rows,
             Panel& panel, Done done) {
    float* c = panel.values;
    if (x.format == Format::kBFloat16) {
        return multiply_bfloat16(x, row, rows, weight, tiles, c, kPanelColumns, done);
    }
    if (x.format == Format::kInt8) {
        integer_product(x, weight, tiles, row, rows, c);
    } else {
        exact_product(x, weight, tiles, row, rows, c);
    }
    done(0, rows, c);
}

// Rows of bfloat16 are as many as stay in the L2 cache while all tiles are multiplied with them.
int64_t panel_rows(Format format, int64_t features, int64_t pairs, int64_t rows) {
    constexpr int64_t kFewest = 128, kResidentBytes = 1 << 20;
    if (format != Format::kBFloat16) return kFewest;
    const int64_t resident = kResidentBytes / (features * 2);
    const int64_t fair = rows * pairs / (4 * num_threads());
    const int64_t most = std::max(kFewest, std::min({kMaxPanelRows, resident, fair}));
    // All equal, but for the last.
    constexpr int64_t kStep = 2 * kBlockRows;
    const int64_t count = std::max<int64_t>(1, (rows + most - 1) / most);
    return std::max<int64_t>(1, (rows + count * kStep - 1) / (count * kStep)) * kStep;
}

int64_t panels(Format format, int64_t features, int64_t pairs, int64_t rows) {
    const int64_t most = panel_rows(format, features, pairs, rows);
    return pairs * ((rows + most - 1) / most);
}

// Calls function(pair of tiles, first row, rows) for the panel that is one unit.
template <typename Function>
void with_panel(const Activation& x, int64_t pairs, int64_t rows, int64_t unit,
                Function function) {
    const int64_t most = panel_rows(x.format, x.features, pairs, rows);
    const int64_t row = unit / pairs * most;
    function(unit % pairs, row, std::min(most, rows - row));
}

int64_t linear_pairs(const Weight& weight) { return (weight.tiles() + 1) / 2; }
int64_t gate_pairs(const GateWeights& weights) { return weights.out() / kGroup; }

// Shares the products of both parts of x, so mixed that what is read of the weight serves both.
// units(format, rows) is how many each has; calls function(part, its first row, its rows, unit of these).
template <typename Units, typename Function>
void share_parts(Team& team, const SplitActivation& x, int64_t rows, Units units,
                 Function function) {
    const int64_t split = x.first_rows(rows);
    const int64_t first_units = units(x.first.format, split);
    const int64_t all_units = first_units + units(x.rest.format, rows - split);
    std::optional<TileRegisters> registers;
    const Activation* held = nullptr;
    team.share(all_units, [&](int64_t unit) {
        const int64_t before = unit * first_units / all_units;
        const bool is_first = (unit + 1) * first_units / all_units > before;
        const Activation& part = is_first ? x.first : x.rest;
        const int64_t part_rows = is_first ? split : rows - split;
        if (held != &part) registers.emplace(part.format, part_rows);
        held = &part;
        function(part, is_first ? 0 : split, part_rows, is_first ? before : unit - before);
    });
}

// Moves sums of rows to where they belong, from row `row` and the first of the tiles on. kWhole: both
// tiles are there and full, and nothing is left to ask of each row.
template <bool kWhole>
inline void finish_tiles(const float* sums, const Weight& weight, const LinearOut& out, int64_t row,
                         int64_t rows, Tiles tiles) {
    const int64_t first = tiles.first * kLanes;
    const int64_t stride = out.stride ? out.stride : weight.out;
    float* to = out.values + row * stride + first;
    for (int64_t r = 0; r < rows; ++r, to += stride, sums += kPanelColumns) {
        for (int v = 0; v < (kWhole ? 2 : tiles.count); ++v) {
            const int64_t column = v * kLanes;
            const int64_t left = weight.out - first - column;
            const int64_t count = kWhole ? kLanes : std::min<int64_t>(kLanes, left);
            F32x16 sum = F32x16::load(sums + column);
            if (out.bias) sum = sum + load_partial(out.bias + first + column, count);
            if (out.accumulate) sum = load_partial(to + column, count) + sum;
            store_partial(sum, to + column, count);
        }
    }
}

inline void finish(const float* sums, const Weight& weight, const LinearOut& out, int64_t row,
                   int64_t rows, Tiles tiles) {
    const bool is_whole = tiles.count == 2 && (tiles.first + 2) * kLanes <= weight.out;
    const auto move = is_whole ? finish_tiles<true> : finish_tiles<false>;
    move(sums, weight, out, row, rows, tiles);
}

}  // namespace

int64_t linear_units(Format format, const Weight& weight, int64_t rows) {
    return panels(format, weight.in, linear_pairs(weight), rows);
}

void linear_unit(const Activation& x, const Weight& weight, const LinearOut& out, int64_t all_rows,
                 int64_t unit) {
    with_panel(x, linear_pairs(weight), all_rows, unit, [&](int64_t pair, int64_t row,
                                                            int64_t rows) {
        Panel panel;
        const Tiles tiles{pair * 2, pair * 2 + 1, pair * 2 + 1 < weight.tiles() ? 2 : 1, 2};
        product(x, weight, tiles, row, rows, panel,
                [&](int64_t first, int64_t count, const float* sums) {
            finish(sums, weight, out, row + first, count, tiles);
        });
    });
}

int64_t gate_units(Format format, const GateWeights& weights, int64_t rows) {
    return panels(format, weights.gate.in, gate_pairs(weights), rows);
}

void gate_unit(const Activation& x, const GateWeights& weights, const float* bias, Gate kind,
               const SplitActivation& out, int64_t out_row, int64_t all_rows, int64_t unit) {
    const int64_t first_up = weights.out() / kLanes;
    const auto biased = [&](const float* sums, int64_t tile) {
        const F32x16 sum = F32x16::load(sums);
        return bias ? sum + F32x16::load(bias + tile * kLanes) : sum;
    };
    with_panel(x, gate_pairs(weights), all_rows, unit,
               [&](int64_t pair, int64_t row, int64_t rows) {
        Panel panel, gates;
        for (int64_t half = 0; half < 2; ++half) {
            const int64_t tile = pair * 2 + half;
            const auto multiply = [&](const Weight& weight, Tiles tiles, auto finish_row) {
                product(x, weight, tiles, row, rows, panel,
                        [&](int64_t first, int64_t count, const float* sums) {
                    for (int64_t r = first; r < first + count; ++r, sums += kPanelColumns) {
                        finish_row(r, gates.values + r * kPanelColumns + half * kLanes, sums);
                    }
                });
            };
            const auto combine = [&](int64_t r, float* to, const float* gate, const float* up) {
                gated(kind, biased(gate, tile), biased(up, first_up + tile)).store(to);
                const float* both = gates.values + r * kPanelColumns;
                if (half == 1) store_groups(out, out_row + row + r, pair, pair + 1, both);
            };
            if (weights.has_up()) {
                const Tiles one{tile, tile, 1, 1};
                multiply(weights.gate, one, [&](int64_t, float* to, const float* sums) {
                    F32x16::load(sums).store(to);
                });
                multiply(weights.up, one, [&](int64_t r, float* to, const float* sums) {
                    combine(r, to, to, sums);
                });
            } else {
                multiply(weights.gate, {tile, first_up + tile, 2, 1},
                         [&](int64_t r, float* to, const float* sums) {
                    combine(r, to, sums, sums + kLanes);
                });
            }
        }
    });
}

void LinearOp::run(Team& team) const {
    const auto units = [&](Format format, int64_t rows) {
        return linear_units(format, weight_, rows);
    };
    share_parts(team, x_, rows_.count(), units,
                [&](const Activation& x, int64_t first, int64_t rows, int64_t unit) {
        LinearOut out = out_;
        out.values += first * out_.stride;
        linear_unit(x, weight_, out, rows, unit);
    });
}

void LinearGateOp::run(Team& team) const {
    const auto units = [&](Format format, int64_t rows) {
        return gate_units(format, weights_, rows);
    };
    share_parts(team, x_, rows_.count(), units,
                [&](const Activation& x, int64_t first, int64_t rows, int64_t unit) {
        gate_unit(x, weights_, nullptr, kind_, out_, first, rows, unit);
    });
}

void BlockLinearOp::run(Team& team) const {
    const Weight& shape = weights_[0];
    const int64_t rows = rows_.count(), blocks = static_cast<int64_t>(weights_.size());
    const int64_t units = linear_units(Format::kFloat32, shape, rows);
    const int64_t rest = x_step_ - shape.in, out_step = shape.out + rest;
    team.share(units * blocks, [&](int64_t unit) {
        const int64_t block = unit / units;
        float* from = const_cast<float*>(x_) + block * x_step_;
        float* to = out_ + block * out_step;
        const Activation x{from, blocks * x_step_, Format::kFloat32};
        const LinearOut out{nullptr, to, false, blocks * out_step};
        linear_unit(x, weights_[static_cast<size_t>(block)], out, rows, unit % units);
        if (unit % units != 0) return;
        for (int64_t r = 0; r < rows; ++r) {
            std::copy_n(from + r * blocks * x_step_ + shape.in, rest,
                        to + r * blocks * out_step + shape.out);
        }
    });
}

}  // namespace headrace
