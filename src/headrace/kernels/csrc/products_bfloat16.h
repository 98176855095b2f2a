// Products of bfloat16 rows by AMX: with bfloat16 tiles, plain or coded, or with tiles in groups that are
// widened.
#pragma once

#include "widen.h"

namespace headrace {

#if defined(__AMX_BF16__)

// Adds the products of 32 inputs. Either the weights stay in the L1 cache, or the rows do.
template <int kBlocks, int kVectors, bool kKeepsWeights>
inline void add_products(const BFloat16Cell* cell, const BFloat16Cell* cell2, const RightTile* right,
                         const RightTile* right2) {
    load_operand<4, kKeepsWeights>(cell);
    load_operand<6, !kKeepsWeights>(right);
    multiply_tiles<0, 4, 6>();
    if (kVectors > 1) {
        load_operand<7, !kKeepsWeights>(right2);
        multiply_tiles<1, 4, 7>();
    }
    if (kBlocks > 1) {
        load_operand<5, kKeepsWeights>(cell2);
        multiply_tiles<2, 5, 6>();
    }
    if (kBlocks > 1 && kVectors > 1) multiply_tiles<3, 5, 7>();
}

// Reads a line before a tile load needs it, and has one further on fetched. Tile loads by themselves
// keep few lines in flight, whatever is prefetched: 15 GB/s of a core against 18 this way.
inline void read_ahead(const uint8_t* line) {
    constexpr int64_t kFurther = 2048;
    __builtin_prefetch(line + kFurther, 0, 2);
    __asm__ volatile("movl (%0), %%eax" : : "r"(line) : "eax");
}

// c[16 * kBlocks][16 * kVectors] = blocks of rows times tiles that no other rows read: a stream.
template <int kBlocks, int kVectors>
inline void multiply_stream(const BFloat16Cell* cells, const RightTile* right,
                            const RightTile* right2, int64_t groups, float* c, int64_t ldc) {
    constexpr int64_t kTileLines = kGroup / 2, kAhead = kTileLines / 2;
    const auto* line = reinterpret_cast<const uint8_t*>(right) + 64 * kAhead;
    const int64_t apart = reinterpret_cast<const uint8_t*>(right2) + 64 * kAhead - line;
    clear_sums<kBlocks, kVectors>();
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t lines = g + 1 < groups ? kTileLines : kTileLines - kAhead;
        for (int64_t i = 0; i < lines; ++i, line += 64) {
            read_ahead(line);
            if (kVectors > 1) read_ahead(line + apart);
        }
        add_products<kBlocks, kVectors, false>(cells + g, cells + groups + g, right + g,
                                               right2 + g);
    }
    store_sums<kBlocks, kVectors>(c, ldc);
}

// Groups that are decoded ahead of their products, and claimed ahead of that.
constexpr int64_t kDecoded = 2, kClaimed = 5;

// Has the L1 cache make room for a tile, so that stores to it need not wait for the L2 cache.
inline void claim(const RightTile& tile) {
    for (const auto& line : tile.values) __asm__ volatile("prefetchw %0" : : "m"(line));
}

// Unlike the builtin it stays between those before and behind it.
inline void fetch(const uint8_t* line) {
    __asm__ volatile("prefetcht0 %0" : : "m"(*line));
}

// The same with coded tiles. Groups are decoded a little ahead, as tile loads wait until what was stored
// has reached the L1 cache, and fetched further ahead, a line of either tile in turn.
template <int kBlocks, int kVectors>
inline void multiply_coded(const BFloat16Cell* cells, const Weight& weight, Tiles tiles, float* c,
                           int64_t ldc) {
    constexpr int64_t kRing = 2 * kDecoded, kFetched = kDecoded + 4;
    RightTile ring[2][kRing];
    CodedTile coded[2] = {{weight, tiles[0]}, {weight, tiles[kVectors - 1]}};
    const int64_t groups = weight.in / kGroup;
    const uint8_t* here = weight.coded_group(tiles[0], 0);
    const uint8_t* next = weight.coded_group(tiles[0] + tiles.stride, -groups);
    const int64_t apart = weight.coded_group(tiles[1], 0) - here;
    const auto decode = [&](int64_t g) {
        HEADRACE_UNROLL
        for (int v = 0; v < kVectors; ++v) coded[v].next(ring[v][g % kRing]);
    };
    clear_sums<kBlocks, kVectors>();
    for (int64_t g = 0; g < std::min(kDecoded, groups); ++g) decode(g);
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t further = g + kFetched;
        const uint8_t* lines = (further < groups ? here : next) + further * kCodedGroupBytes;
        HEADRACE_UNROLL
        for (int64_t i = 0; i < kCodedGroupBytes; i += 64) {
            fetch(lines + i);
            if (kVectors > 1) fetch(lines + apart + i);
        }
        if (g + kDecoded < groups) decode(g + kDecoded);
        const int64_t at = g % kRing;
        add_products<kBlocks, kVectors, true>(cells + g, cells + groups + g, &ring[0][at],
                                              &ring[1][at]);
    }
    store_sums<kBlocks, kVectors>(c, ldc);
}

// A part of the depth for which two tiles stay in the L1 cache while all rows are multiplied with
// them, and what follows, which is fetched meanwhile: so many lines of either for each group.
struct Resident {
    const RightTile *right, *right2;
    int64_t groups;
    bool is_first;
    const uint8_t *next, *next2;
    int64_t lines;
};
constexpr int64_t kResidentGroups = 18;

// c[16 * kBlocks][16 * kVectors] += blocks of rows, `row_groups` long, times a part's tiles. Calls
// meanwhile() after each group: products leave time for other work.
template <int kBlocks, int kVectors, typename Meanwhile>
inline void multiply_resident(const BFloat16Cell* cells, int64_t row_groups, const Resident& part,
                              int64_t step, float* c, int64_t ldc, Meanwhile meanwhile) {
    if (part.is_first) {
        clear_sums<kBlocks, kVectors>();
    } else {
        load_sums<kBlocks, kVectors>(c, ldc);
    }
    const int64_t groups = part.groups, lines = part.lines, skipped = step * groups * lines;
    const RightTile *right = part.right, *right2 = part.right2;
    const uint8_t *next = part.next + 64 * skipped, *next2 = part.next2 + 64 * skipped;
    for (int64_t g = 0; g < groups; ++g) {
        for (int64_t i = 0; i < lines; ++i, next += 64, next2 += 64) {
            __builtin_prefetch(next, 0, 2);
            __builtin_prefetch(next2, 0, 2);
        }
        add_products<kBlocks, kVectors, true>(cells + g, cells + row_groups + g, right + g,
                                              right2 + g);
        meanwhile();
    }
    store_sums<kBlocks, kVectors>(c, ldc);
}

// Calls function(v, n) with the numbers of vectors, and of blocks of `rows`, as constants.
template <typename Function>
inline void with_blocks(int vectors, int64_t rows, Function function) {
    with_constant<2>(vectors, [&](auto v) {
        with_constant<2>(rows > kBlockRows ? 2 : 1, [&](auto n) { function(v, n); });
    });
}

// Of one or two blocks of rows with tiles that are not in groups.
inline void multiply_few(const Activation& x, int64_t row, int64_t rows, const Weight& weight,
                         Tiles tiles, float* c, int64_t ldc) {
    const auto tile = [&](int64_t i) { return reinterpret_cast<const RightTile*>(weight.tile(i)); };
    with_blocks(tiles.count, rows, [&](auto v, auto n) {
        const BFloat16Cell* cells = x.bfloat16_cells(row / kBlockRows);
        if (weight.is_coded()) {
            multiply_coded<n.value, v.value>(cells, weight, tiles, c, ldc);
        } else {
            multiply_stream<n.value, v.value>(cells, tile(tiles[0]), tile(tiles[1]), x.groups(), c,
                                              ldc);
        }
    });
}

// Rows whose sums are complete and yet to be finished.
struct Complete {
    int64_t first = 0, last = 0;
    const float* sums = nullptr;
};

// Finishes so many of them.
template <typename Finish>
inline void advance(Complete& rows, int64_t most, int64_t ldc, Finish& finish) {
    const int64_t count = std::min(most, rows.last - rows.first);
    if (count == 0) return;
    finish(rows.first, count, rows.sums);
    rows.first += count;
    rows.sums += count * ldc;
}

// Rows from `row`, the first of a block, times one or two tiles of a bfloat16 weight or of one in
// groups, which is rounded to bfloat16; of any number of rows with the same instructions. Calls
// finish(first, count, sums) with the sums [count][ldc] of all rows in turn. c has room for whole
// blocks.
template <typename Finish>
inline void multiply_bfloat16(const Activation& x, int64_t row, int64_t rows, const Weight& weight,
                              Tiles tiles, float* c, int64_t ldc, Finish finish) {
    constexpr int64_t kRows = 2 * kBlockRows;
    const auto tile = [&](int64_t i) { return reinterpret_cast<const RightTile*>(weight.tile(i)); };
    const RightTile *right = tile(tiles[0]), *right2 = tile(tiles[1]);
    const auto ceil_of = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    const int64_t groups = x.groups(), steps = ceil_of(rows, kRows);
    const int64_t tile_lines = weight.tile_bytes() / 64;
    const bool is_widened = !weight.is_tiled();
    if (steps == 1 && !is_grouped(weight.kind)) {
        multiply_few(x, row, rows, weight, tiles, c, ldc);
        return finish(0, rows, c);
    }
    RightTile widened[2][kResidentGroups];
    const int64_t parts = (groups + kResidentGroups - 1) / kResidentGroups;
    Complete complete;
    for (int64_t part = 0; part < parts; ++part) {
        const int64_t first = groups * part / parts, last = groups * (part + 1) / parts;
        // Of the tiles that come next, the same share.
        const int64_t from = 64 * (tile_lines * part / parts);
        Resident resident{right + first, right2 + first, last - first, part == 0,
                          weight.tile(tiles[0] + tiles.stride) + from,
                          weight.tile(tiles[1] + tiles.stride) + from, 0};
        int64_t ready = is_widened ? first : last;
        const auto widen = [&](int64_t most) {
            const int64_t count = std::min(most, last - ready);
            for (int v = 0; v < tiles.count; ++v) {
                widen_groups(weight, tiles[v], ready, count, widened[v] + ready - first);
                claim(widened[v][std::min(ready - first + kClaimed, kResidentGroups - 1)]);
            }
            ready += count;
        };
        // Coded tiles are decoded beside the first products.
        if (is_widened) {
            widen(weight.is_coded() ? kDecoded : last - first);
            resident.right = widened[0], resident.right2 = widened[1];
        }
        const int64_t lines_each = ceil_of(tile_lines, parts * steps * resident.groups);
        const int64_t fetching_steps = ceil_of(tile_lines, parts * lines_each * resident.groups);
        const int64_t rows_each = ceil_of(kRows, resident.groups);
        for (int64_t step = 0; step < steps; ++step) {
            const int64_t r = step * kRows, count = std::min(kRows, rows - r);
            const BFloat16Cell* cells = x.bfloat16_cells((row + r) / kBlockRows) + first;
            resident.lines = step < fetching_steps ? lines_each : 0;
            // What is complete at once needs room for two steps only.
            float* const to = c + (parts == 1 ? r % (2 * kRows) : r) * ldc;
            with_blocks(tiles.count, count, [&](auto v, auto n) {
                multiply_resident<n.value, v.value>(cells, groups, resident, step, to, ldc, [&] {
                    advance(complete, rows_each, ldc, finish);
                    if (ready < last) widen(1);
                });
            });
            if (last == groups) complete = {r, r + count, to};
        }
    }
    advance(complete, kRows, ldc, finish);
}

#elif !defined(__AVX512BF16__)

template <typename Finish>
inline void multiply_bfloat16(const Activation&, int64_t, int64_t, const Weight&, Tiles, float*,
                              int64_t, Finish) {}

#endif

}  // namespace headrace
