// How activations and weights lie in memory. Everything else agrees through this file.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "simd.h"

namespace headrace {

// Whether bfloat16 numbers are multiplied as they are, and by whole tiles.
#if defined(__AVX512BF16__)
constexpr bool kHasBFloat16 = true;
#else
constexpr bool kHasBFloat16 = false;
#endif
#if defined(__AMX_BF16__)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif
constexpr int kGroup = 32;      // activations that share a scale
constexpr int kBlockRows = 16;  // rows of one activation block

// Sixteen rows of one group, quantized: x = q * scale. Together they make every address in the
// products a constant offset, and `q` one tile of AMX.
struct alignas(64) Cell {
    int8_t q[kBlockRows][kGroup];
    float scale[kBlockRows];
    float scaled_sum[kBlockRows];  // scale * sum(q)
    int32_t start8[kBlockRows];    // -128 * sum(q): where products with offset bytes start
    int32_t low_sum[kBlockRows];   // sum(q) of the first half of the inputs
};
static_assert(sizeof(Cell) == 768, "the Python side allocates by this size");

// Sixteen rows of one group in bfloat16: one left tile of AMX. Of each four features the middle two
// change places, as in the right tiles that weights lie in.
struct alignas(64) BFloat16Cell {
    uint16_t values[kBlockRows][kGroup];
};

enum class Format : int { kFloat32, kInt8, kBFloat16 };

// Activations [rows, features], either plain float32 or cells [ceil(rows / 16)][features / 32].
struct Activation {
    void* data;
    int64_t features;
    Format format;

    int64_t groups() const { return features / kGroup; }
    float* row(int64_t row) const { return static_cast<float*>(data) + row * features; }
    Cell* cells(int64_t block) const { return static_cast<Cell*>(data) + block * groups(); }
    BFloat16Cell* bfloat16_cells(int64_t block) const {
        return static_cast<BFloat16Cell*>(data) + block * groups();
    }
    // What begins at row `first`, a multiple of 16, with rows of no more features.
    Activation from(int64_t first, int64_t narrow) const {
        const int64_t block = first / kBlockRows;
        switch (format) {
            case Format::kInt8: return {cells(block), narrow, format};
            case Format::kBFloat16: return {bfloat16_cells(block), narrow, format};
            default: return {row(first), narrow, format};
        }
    }
};

// Rows in two formats: those before *boundary are in `first`, the others, numbered from 0 again, in
// `rest`. Without a boundary all are in `first`.
struct SplitActivation {
    Activation first, rest;
    const int32_t* boundary;

    int64_t features() const { return first.features; }
    int64_t groups() const { return first.groups(); }
    // How many of `rows` rows are in `first`.
    int64_t first_rows(int64_t rows) const {
        return boundary ? std::clamp<int64_t>(*boundary, 0, rows) : rows;
    }
};

enum class Kind : int {
    kInt2, kInt3, kInt4, kInt5, kInt6, kInt8,
    kNF4, kFP4, kMXFP4, kFloat8,
    kFloat16, kBFloat16, kFloat32, kCodedBFloat16,
};

inline bool is_grouped(Kind kind) { return kind <= Kind::kFloat8; }
constexpr bool is_codebook4(Kind kind) { return kind >= Kind::kNF4 && kind <= Kind::kMXFP4; }

// Of a weight in groups; also the lines of 64 bytes that 32 inputs of a tile take.
constexpr int code_bits(Kind kind) {
    switch (kind) {
        case Kind::kInt2: return 2;
        case Kind::kInt3: return 3;
        case Kind::kInt5: return 5;
        case Kind::kInt6: return 6;
        case Kind::kInt8:
        case Kind::kFloat8: return 8;
        default: return 4;
    }
}

// How the numbers of a group are told from its quants q, of which the middle one is 2, 4, 8, 16, 32
// or 128. For minima bytes count from their middle too.
//   symmetric:   16 float16 scales; w = (q - middle) * scale
//   power of two: 16 bytes e; w = codebook[code] * 2^(e - 127)
//   minimum:     as symmetric and 16 float16 minima; w = q * scale + minimum
//   zero point:  scales and 16 bytes; w = (q - byte / 16) * scale, (q - byte) * scale of a byte
//   nibble zero point: scales and 8 bytes, low halves for the first 8 outputs, high ones for the
//                others; w = (q - nibble) * scale
//   super-block: 16 float16 scales and 16 minima, then per 32 inputs 16 bytes to multiply the
//                scales with and 16 for the minima; else like minimum
//   signed super-block: 16 float16 scales, then per 32 inputs 16 signed bytes to multiply the
//                scales of the first 16 with and 16 for the others; else symmetric
//   nibble super-block: 16 float16 scales and 16 minima, then such bytes, of which low halves
//                multiply scales and high halves minima; else like minimum
enum class Scaling : int {
    kSymmetric, kPowerOfTwo, kMinimum, kZeroPoint, kNibbleZeroPoint,
    kSuperBlock, kSignedSuperBlock, kNibbleSuperBlock,
};

// Whether a multiple of the sum of the inputs is added to the product with the quants.
constexpr bool has_minimum(Scaling scaling) { return scaling >= Scaling::kMinimum; }

// Whether each 16 inputs have a scale of their own.
constexpr bool is_halved(Scaling scaling) { return scaling >= Scaling::kSignedSuperBlock; }

// Of one group, before the bytes of each 32 inputs of a super-block.
constexpr int64_t head_bytes(Scaling scaling) {
    switch (scaling) {
        case Scaling::kSymmetric:
        case Scaling::kSignedSuperBlock: return 2 * kLanes;
        case Scaling::kPowerOfTwo: return kLanes;
        case Scaling::kZeroPoint: return 3 * kLanes;
        case Scaling::kNibbleZeroPoint: return 2 * kLanes + kLanes / 2;
        default: return 4 * kLanes;
    }
}

// Of one group of `parts` times 32 inputs.
constexpr int64_t scale_bytes(Scaling scaling, int64_t parts) {
    const bool is_super = scaling >= Scaling::kSuperBlock;
    return head_bytes(scaling) + (is_super ? parts * 2 * kLanes : 0);
}

constexpr int kZeroPointSteps = 16;  // of a nibble's zero point, between whole numbers

constexpr int64_t kCodedGroupBytes = kGroup * kLanes * 3 / 2;

// A weight [out, in] in tiles of 16 outputs, rows past `out` zero.
//   of less than 8 bits: per 32 inputs planes of 64-byte lines (planes.h); in byte i of lane o
//          4 bits: line j has input 4j + i in its low and input 16 + 4j + i in its high half (GGUF's
//                  order, so packing moves bytes only)
//          2 bits: line h has at bit 2j input 16h + 4j + i
//          1 bit:  one line has at bit j input 4j + i, at bit 4 + j input 16 + 4j + i
//   int8:  per 32 inputs 8 lines; byte i of lane o in line j is input 4j + i, plus 128
//   then per `group` inputs their scales (see Scaling; scales.h reads them)
//   nf4, fp4, mxfp4: like int4, float8: like int8; w = codebook[code] * scale (codebook.h)
//   float: [in][16], but bfloat16 that is multiplied as it is in right tiles, if `in` allows: per 32
//          inputs 16 lines of 64 bytes, in lane o of line 2j inputs 4j and 4j + 2, of line 2j + 1 those
//          between
//   coded bfloat16: such right tiles in 12 bits a number, exactly. First 16 high bytes and, up to a
//          whole line, `group` exceptions (coded.h). Then per four lines of a right tile the low bytes
//          of two, those of the others, and a line of which low halves are the high bytes' numbers for
//          the first two, high halves for the others. Bytes of two lines take turns by eight
struct Weight {
    uint8_t* data;
    int64_t out, in;
    Kind kind;
    int64_t group;
    Scaling scaling;

    int64_t tiles() const { return (out + kLanes - 1) / kLanes; }
    int64_t quant_bytes() const { return in * 2 * code_bits(kind); }
    int64_t scale_bytes() const { return headrace::scale_bytes(scaling, group / kGroup); }
    int64_t tile_bytes() const {
        if (is_coded()) return coded_head_bytes() + in / kGroup * kCodedGroupBytes;
        if (!is_grouped(kind)) return in * kLanes * (kind == Kind::kFloat32 ? 4 : 2);
        return (quant_bytes() + in / group * scale_bytes() + 63) / 64 * 64;
    }
    uint8_t* tile(int64_t index) const { return data + index * tile_bytes(); }
    uint8_t* quants(int64_t index, int64_t input) const {
        return tile(index) + input * 2 * code_bits(kind);
    }
    uint8_t* scales(int64_t index, int64_t group_index = 0) const {
        return tile(index) + quant_bytes() + group_index * scale_bytes();
    }
    bool is_coded() const { return kind == Kind::kCodedBFloat16; }
    int64_t coded_head_bytes() const { return (kLanes + group * 4 + 63) / 64 * 64; }
    uint8_t* coded_group(int64_t index, int64_t group_index) const {
        return tile(index) + coded_head_bytes() + group_index * kCodedGroupBytes;
    }
    bool is_tiled() const { return kHasBFloat16 && kind == Kind::kBFloat16 && in % kGroup == 0; }
    // Where a float weight has input k of an output, in elements from its tile.
    int64_t element(int64_t k, int64_t lane) const {
        return is_tiled() ? right_element(k, lane) : k * kLanes + lane;
    }
    // So in right tiles.
    static int64_t right_element(int64_t k, int64_t lane) {
        const int64_t line = k / 4 * 2 + k % 2;
        return line * 2 * kLanes + lane * 2 + k % 4 / 2;
    }
};

// One or two tiles of a weight that are multiplied side by side, and how far from them the next are.
struct Tiles {
    int64_t first, second;
    int count;
    int64_t stride;

    int64_t operator[](int i) const { return i ? second : first; }
};

}  // namespace headrace
