// AMX, one instruction for 16 rows, 16 outputs and 32 inputs: the products of bfloat16 rows with
// bfloat16 tiles, and of int8 rows with an integer tile. The latter's integer sums are exact and are
// scaled in the same order as in multiply_tile, so a row's result is the same bits whichever of the
// two computes it.
// Without AMX no number of rows suits.
#pragma once

#include "products.h"

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace headrace {

#if defined(__AMX_BF16__)

// With fewer rows, multiply_tile is quicker.
inline bool suits_tiles(int64_t rows) { return rows > 10; }

// Linux keeps the tile registers from a process until it asks for them.
inline bool permit_tiles() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// A thread has tile registers from construction to destruction. For int8: 0..2 sums [16][16] int32,
// 4..5 activations [16][32], 6..7 weights [8][16][4]. For bfloat16: 0..3 sums [rows][16] float32,
// 4..5 activations [rows][32], 6..7 weights [16][16][2].
class TileRegisters {
   public:
    TileRegisters(Format format, int64_t rows)
        : needed_(format == Format::kBFloat16 || (format == Format::kInt8 && suits_tiles(rows))) {
        if (!needed_) return;
        const bool is_int8 = format == Format::kInt8;
        const auto left = static_cast<uint8_t>(is_int8 || rows > kBlockRows ? kBlockRows : rows);
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        for (int i = 0; i < 8; ++i) {
            config.row_bytes[i] = is_int8 && (i == 4 || i == 5) ? kGroup : 64;
            config.rows[i] = i < 6 ? left : is_int8 ? kGroup / 4 : kGroup / 2;
        }
        // Not the intrinsic: gcc 12 takes it to read eight bytes, and may drop the others.
        __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
    }
    ~TileRegisters() {
        if (needed_) _tile_release();
    }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;

   private:
    bool needed_;
};

constexpr int kInFlight = 3;             // tile products
constexpr int64_t kUnpackedGroups = 32;  // at a time: 20 KB

// 32 inputs of an integer tile: w = q * scale + minimum, q signed.
struct alignas(64) UnpackedGroup {
    int8_t q[kGroup / 4][kLanes][4];
    float scale[kLanes], minimum[kLanes];
};

struct alignas(64) TileSums {
    int32_t values[kInFlight][kBlockRows][kLanes];
};

template <Kind kKind, Scaling kScaling>
inline void unpack_group(const Weight& weight, int64_t tile, int64_t index, UnpackedGroup& to) {
    constexpr int kBits = code_bits(kKind);
    constexpr bool kHasOffset = kScaling == Scaling::kSymmetric && !is_codebook4(kKind);
    const auto store = [&](int line, __m512i bytes) { _mm512_store_si512(to.q[line], bytes); };
    const int64_t first = index * kGroup;
    const uint8_t* quants = weight.quants(tile, first);
    const __m512i flip = _mm512_set1_epi8(-128);
    if constexpr (kBits == 8) {
        for (int line = 0; line < 8; ++line) {
            store(line, _mm512_xor_si512(U8x64::load(quants + 64 * line).v, flip));
        }
    } else {
        HEADRACE_UNROLL
        for (int line = 0; line < 4; ++line) {
            const auto [low, high] = load_codes<kBits>(quants, line);
            if constexpr (is_codebook4(kKind)) {
                const U8x64 table = byte_table<kKind>();
                store(line, _mm512_xor_si512(lookup(table, low).v, flip));
                store(line + 4, _mm512_xor_si512(lookup(table, high).v, flip));
            } else {
                const __m512i offset = _mm512_set1_epi8(kHasOffset ? 1 << (kBits - 1) : 0);
                store(line, _mm512_sub_epi8(low.v, offset));
                store(line + 4, _mm512_sub_epi8(high.v, offset));
            }
        }
    }
    auto [scale, minimum] = load_scales<kKind, kScaling>(
        weight.scales(tile, first / weight.group), first % weight.group / kGroup);
    if constexpr (is_codebook4(kKind)) scale = scale * F32x16::broadcast(1 / kUnits<kKind>);
    scale.store(to.scale);
    minimum.store(to.minimum);
}

// Sum register kSum = a cell times a group. Assembly, because gcc 12's intrinsics take no template
// arguments for register numbers.
template <int kSum>
inline void multiply_cell(const Cell& cell, const UnpackedGroup& group) {
    __asm__ volatile(
        "tilezero %%tmm%c[sum]\n\t"
        "tileloadd (%[cell], %[cell_row]), %%tmm%c[left]\n\t"
        "tileloadd (%[group], %[group_row]), %%tmm%c[right]\n\t"
        "tdpbssd %%tmm%c[right], %%tmm%c[left], %%tmm%c[sum]"
        :
        : [cell] "r"(cell.q), [cell_row] "r"(int64_t{kGroup}), [group] "r"(group.q),
          [group_row] "r"(int64_t{64}), [sum] "i"(kSum), [left] "i"(4 + kSum % 2),
          [right] "i"(6 + kSum % 2)
        : "memory");
}

template <int kSum>
inline void store_sum(TileSums& sums) {
    __asm__ volatile("tilestored %%tmm%c[sum], (%[to], %[row])"
                     :
                     : [to] "r"(sums.values[kSum]), [row] "r"(int64_t{64}), [sum] "i"(kSum)
                     : "memory");
}

// Starts the products of the first three of `count` groups.
inline void start_products(const Cell* cells, const UnpackedGroup* groups, int64_t count) {
    if (count > 0) multiply_cell<0>(cells[0], groups[0]);
    if (count > 1) multiply_cell<1>(cells[1], groups[1]);
    if (count > 2) multiply_cell<2>(cells[2], groups[2]);
}

// All at once: changing from other instructions to this one is what takes the time.
inline void store_sums(TileSums& sums) {
    store_sum<0>(sums);
    store_sum<1>(sums);
    store_sum<2>(sums);
}

// Lines of weights that are unpacked later and fetched meanwhile, so many with each group.
struct LinesAhead {
    const uint8_t* next;
    int64_t lines;

    void fetch() {
        for (int64_t i = 0; i < lines; ++i, next += 64) __builtin_prefetch(next, 0, 2);
    }
};

template <int kCount, bool kMinimum, int kRows>
inline void add_scaled(const TileSums& sums, const Cell* cells, const UnpackedGroup* groups,
                       LinesAhead& ahead, F32x16 (&acc)[kRows]) {
    for (int g = 0; g < kCount; ++g) {
        ahead.fetch();
        const F32x16 scale = F32x16::load(groups[g].scale);
        const F32x16 minimum = F32x16::load(groups[g].minimum);
        HEADRACE_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const I32x16 sum{_mm512_load_si512(sums.values[g][r])};
            acc[r] = fma(to_float(sum), scale * F32x16::broadcast(cells[g].scale[r]), acc[r]);
            if constexpr (kMinimum) {
                acc[r] = fma(minimum, F32x16::broadcast(cells[g].scaled_sum[r]), acc[r]);
            }
        }
    }
}

// c[kRows][16] += a block's first rows times as many groups; their first products have been started.
// Starts those of the block at `next`, if any, at the end: the tiles are never idle.
template <int kRows, bool kMinimum>
inline void multiply_block(const Cell* cells, const Cell* next, const UnpackedGroup* groups,
                           int64_t count, LinesAhead ahead, float* c, int64_t ldc) {
    TileSums sums;
    F32x16 acc[kRows];
    HEADRACE_UNROLL
    for (int r = 0; r < kRows; ++r) acc[r] = F32x16::load(c + r * ldc);
    int64_t g = 0;
    for (; count - g > kInFlight; g += kInFlight) {
        store_sums(sums);
        start_products(cells + g + kInFlight, groups + g + kInFlight, count - g - kInFlight);
        add_scaled<kInFlight, kMinimum>(sums, cells + g, groups + g, ahead, acc);
    }
    store_sums(sums);
    if (next) start_products(next, groups, count);
    with_constant<kInFlight>(static_cast<int>(count - g), [&](auto n) {
        add_scaled<n.value, kMinimum>(sums, cells + g, groups + g, ahead, acc);
    });
    HEADRACE_UNROLL
    for (int r = 0; r < kRows; ++r) acc[r].store(c + r * ldc);
}

// c[rows][16] = rows, from row block `block`, times one integer tile. Writes whole blocks to c.
template <Kind kKind, Scaling kScaling>
inline void multiply_blocks(const Activation& x, int64_t block, int64_t rows,
                            const Weight& weight, int64_t tile, float* c, int64_t ldc) {
    constexpr bool kMinimum = kScaling != Scaling::kSymmetric;
    const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
    const int64_t group_lines = (weight.tile_bytes() / x.groups() + 63) / 64;
    LinesAhead ahead{weight.tile(tile + 1), 0};
    UnpackedGroup groups[kUnpackedGroups];
    for (int64_t r = 0; r < blocks * kBlockRows; ++r) F32x16::zero().store(c + r * ldc);
    for (int64_t first = 0; first < x.groups(); first += kUnpackedGroups) {
        const int64_t count = std::min(kUnpackedGroups, x.groups() - first);
        for (int64_t g = 0; g < count; ++g) {
            unpack_group<kKind, kScaling>(weight, tile, first + g, groups[g]);
        }
        const Cell* cells = x.cells(block) + first;
        start_products(cells, groups, count);
        for (int64_t b = 0; b < blocks; ++b, cells += x.groups()) {
            const Cell* next = b + 1 < blocks ? cells + x.groups() : nullptr;
            float* to = c + b * kBlockRows * ldc;
            ahead.lines = group_lines * (b + 1) / blocks - group_lines * b / blocks;
            if (rows - b * kBlockRows > kBlockRows / 2) {
                multiply_block<kBlockRows, kMinimum>(cells, next, groups, count, ahead, to, ldc);
            } else {
                multiply_block<kBlockRows / 2, kMinimum>(cells, next, groups, count, ahead, to, ldc);
            }
            ahead.next += 64 * count * ahead.lines;
        }
    }
}

// 32 inputs of 16 outputs; see Weight.
struct alignas(64) RightTile {
    uint16_t values[kGroup / 2][kLanes][2];
};

template <int kTile>
inline void clear_tile() {
    __asm__ volatile("tilezero %%tmm%c[tile]" : : [tile] "i"(kTile));
}
template <int kTile>
inline void load_tile(const void* from, int64_t row_bytes = 64) {
    __asm__ volatile("tileloadd (%[from], %[row]), %%tmm%c[tile]"
                     : : [from] "r"(from), [row] "r"(row_bytes), [tile] "i"(kTile) : "memory");
}
// What is read only once does not take the L1 cache from other data.
template <int kTile, bool kOnce>
inline void load_operand(const void* from) {
    if constexpr (!kOnce) return load_tile<kTile>(from);
    __asm__ volatile("tileloaddt1 (%[from], %[row]), %%tmm%c[tile]"
                     : : [from] "r"(from), [row] "r"(int64_t{64}), [tile] "i"(kTile) : "memory");
}
template <int kTile>
inline void store_tile(float* to, int64_t row_floats) {
    __asm__ volatile("tilestored %%tmm%c[tile], (%[to], %[row])"
                     : : [to] "r"(to), [row] "r"(row_floats * 4), [tile] "i"(kTile) : "memory");
}
template <int kSum, int kLeft, int kRight>
inline void multiply_tiles() {
    __asm__ volatile("tdpbf16ps %%tmm%c[right], %%tmm%c[left], %%tmm%c[sum]"
                     : : [sum] "i"(kSum), [left] "i"(kLeft), [right] "i"(kRight));
}

// Sixteen lanes twice over: those of outputs 0 to 7, each two times, then those of 8 to 15. A line of a
// right tile is two such vectors rounded, no word having to change places.
struct Doubled {
    __m512i first, second;
};
inline Doubled doubled(__m512i lanes) {
    const __m512i low = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    return {_mm512_permutexvar_epi32(low, lanes), _mm512_permutexvar_epi32(high, lanes)};
}

// What the codes of four bits stand for.
template <Kind kKind>
inline F32x16 nibble_table() {
    if constexpr (is_codebook4(kKind)) return F32x16::load(codebook(kKind));
    return to_float({_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)});
}

// The scales of 16 outputs, doubled.
struct DoubledAffine {
    Doubled scale, minimum;

    explicit DoubledAffine(const Affine& affine)
        : scale(doubled(_mm512_castps_si512(affine.scale.v))),
          minimum(doubled(_mm512_castps_si512(affine.minimum.v))) {}
};

// Four inputs of 16 outputs, from bit `bit` of what holds their codes, as two lines of a right tile.
template <Kind kKind>
inline void widen_line(__m512i codes, int bit, const DoubledAffine& affine,
                       uint16_t (*to)[kLanes][2]) {
    constexpr int kBits = code_bits(kKind);
    const F32x16 table = nibble_table<kKind>();
    const auto value = [&](__m512i lanes, __m512i shifts, __m512i scale, __m512i minimum) {
        const __m512i code = _mm512_srlv_epi32(lanes, shifts);
        __m512 number = _mm512_permutexvar_ps(code, table.v);
        if constexpr (kBits != 4) {
            const __m512i byte = _mm512_and_si512(code, _mm512_set1_epi32(255));
            const __m512i offset = _mm512_set1_epi32(kBits == 8 ? 128 : 0);
            number = _mm512_cvtepi32_ps(_mm512_sub_epi32(byte, offset));
        }
        return _mm512_fmadd_ps(number, _mm512_castsi512_ps(scale), _mm512_castsi512_ps(minimum));
    };
    const Doubled lanes = doubled(codes);
    HEADRACE_UNROLL
    for (int i = 0; i < 2; ++i) {
        const int from = bit + 8 * i;
        const __m512i shifts = _mm512_set1_epi64(static_cast<int64_t>(from + 16) << 32 | from);
        const __m512 a = value(lanes.first, shifts, affine.scale.first, affine.minimum.first);
        const __m512 b = value(lanes.second, shifts, affine.scale.second, affine.minimum.second);
        _mm512_store_si512(to[i], reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
    }
}

// 32 inputs of a tile in groups, rounded to bfloat16.
template <Kind kKind, Scaling kScaling>
inline void widen_group(const Weight& weight, int64_t tile, int64_t index, RightTile& to) {
    constexpr int kBits = code_bits(kKind);
    const int64_t first = index * kGroup, part = first % weight.group / kGroup;
    const uint8_t* scales = weight.scales(tile, first / weight.group);
    const DoubledAffine low(load_scales<kKind, kScaling>(scales, part));
    const DoubledAffine high =
        is_halved(kScaling) ? DoubledAffine(load_scales<kKind, kScaling>(scales, part, 1)) : low;
    const uint8_t* quants = weight.quants(tile, first);
    HEADRACE_UNROLL
    for (int line = 0; line < kGroup / 8; ++line) {
        auto *low_line = to.values + 2 * line, *high_line = low_line + kGroup / 4;
        if constexpr (kBits == 8) {
            widen_line<kKind>(U8x64::load(quants + 64 * line).v, 0, low, low_line);
            widen_line<kKind>(U8x64::load(quants + 64 * (line + 4)).v, 0, high, high_line);
        } else if constexpr (kBits == 4) {
            const __m512i both = U8x64::load(quants + 64 * line).v;
            widen_line<kKind>(both, 0, low, low_line);
            widen_line<kKind>(both, 4, high, high_line);
        } else {
            const Codes codes = load_codes<kBits>(quants, line);
            widen_line<kKind>(codes.low.v, 0, low, low_line);
            widen_line<kKind>(codes.high.v, 0, high, high_line);
        }
    }
}

__attribute__((noinline)) inline void widen_groups(const Weight& weight, int64_t tile, int64_t first,
                                                   int64_t count, RightTile* to) {
    with_layout(weight, [&](auto layout) {
        if constexpr (layout.kind != Kind::kFloat8) {
            for (int64_t g = 0; g < count; ++g) {
                widen_group<layout.kind, layout.scaling>(weight, tile, first + g, to[g]);
            }
        }
    });
}

// The sums of 16 * kBlocks rows and 16 * kVectors outputs, from zero.
template <int kBlocks, int kVectors>
inline void clear_sums() {
    clear_tile<0>();
    if (kVectors > 1) clear_tile<1>();
    if (kBlocks > 1) clear_tile<2>();
    if (kBlocks > 1 && kVectors > 1) clear_tile<3>();
}

template <int kBlocks, int kVectors>
inline void load_sums(const float* c, int64_t ldc) {
    const float* const c2 = c + kBlockRows * ldc;
    load_tile<0>(c, ldc * 4);
    if (kVectors > 1) load_tile<1>(c + kLanes, ldc * 4);
    if (kBlocks > 1) load_tile<2>(c2, ldc * 4);
    if (kBlocks > 1 && kVectors > 1) load_tile<3>(c2 + kLanes, ldc * 4);
}

template <int kBlocks, int kVectors>
inline void store_sums(float* c, int64_t ldc) {
    float* const c2 = c + kBlockRows * ldc;
    store_tile<0>(c, ldc);
    if (kVectors > 1) store_tile<1>(c + kLanes, ldc);
    if (kBlocks > 1) store_tile<2>(c2, ldc);
    if (kBlocks > 1 && kVectors > 1) store_tile<3>(c2 + kLanes, ldc);
}

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

// c[16 * kBlocks][16 * kVectors] = blocks of rows times tiles that no other rows read: a stream, of
// which what follows is fetched.
template <int kBlocks, int kVectors>
inline void multiply_stream(const BFloat16Cell* cells, const RightTile* right,
                            const RightTile* right2, int64_t groups, float* c, int64_t ldc) {
    constexpr int64_t kAhead = kPrefetchBytes / sizeof(RightTile);
    clear_sums<kBlocks, kVectors>();
    for (int64_t g = 0; g < groups; ++g) {
        for (const auto& line : right[g + kAhead].values) __builtin_prefetch(line, 0, 2);
        if (kVectors > 1) {
            for (const auto& line : right2[g + kAhead].values) __builtin_prefetch(line, 0, 2);
        }
        add_products<kBlocks, kVectors, false>(cells + g, cells + groups + g, right + g,
                                               right2 + g);
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
    const bool is_widened = is_grouped(weight.kind);
    if (steps == 1 && !is_widened) {
        with_blocks(tiles.count, rows, [&](auto v, auto n) {
            multiply_stream<n.value, v.value>(x.bfloat16_cells(row / kBlockRows), right, right2,
                                              groups, c, ldc);
        });
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
        if (is_widened) {
            for (int v = 0; v < tiles.count; ++v) {
                widen_groups(weight, tiles[v], first, last - first, widened[v]);
            }
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
                });
            });
            if (last == groups) complete = {r, r + count, to};
        }
    }
    advance(complete, kRows, ldc, finish);
}

#else

inline bool permit_tiles() { return true; }
inline bool suits_tiles(int64_t) { return false; }

struct TileRegisters {
    TileRegisters(Format, int64_t) {}
};

template <typename Finish>
inline void multiply_bfloat16(const Activation&, int64_t, int64_t, const Weight&, Tiles, float*,
                              int64_t, Finish) {}

template <Kind, Scaling>
inline void multiply_blocks(const Activation&, int64_t, int64_t, const Weight&, int64_t, float*,
                            int64_t) {}

#endif

}  // namespace headrace
