// Float rows to activations.
#pragma once

#include "layout.h"

namespace headrace {

// 32 values of row `row` of a block: scale = max|x| / 127, q = round to nearest even.
inline void quantize_group(const float* from, Cell& cell, int row) {
    const F32x16 a = F32x16::load(from), b = F32x16::load(from + kLanes);
    const float largest = reduce_max(max(abs(a), abs(b)));
    const F32x16 inverse = F32x16::broadcast(largest > 0 ? 127.0f / largest : 0.0f);
    const F32x16 qa = round_even(a * inverse), qb = round_even(b * inverse);
    store_i8(qa, cell.q[row]);
    store_i8(qb, cell.q[row] + kLanes);
    const float low_sum = reduce_add(qa);  // whole numbers: exact in any order
    const float sum = low_sum + reduce_add(qb);
    const float scale = largest / 127.0f;
    cell.scale[row] = scale;
    cell.scaled_sum[row] = scale * sum;
    cell.start8[row] = -128 * static_cast<int32_t>(sum);
    cell.low_sum[row] = static_cast<int32_t>(low_sum);
}

// 32 values as row `row` of a block.
inline void round_group(const float* from, BFloat16Cell& cell, int row) {
    for (int i = 0; i < kGroup; i += kLanes) {
        store_bf16(swap_middles(F32x16::load(from + i)), cell.values[row] + i);
    }
}

// Groups first..last of one row, from a row of floats that starts at group `first`.
inline void store_groups(const Activation& to, int64_t row, int64_t first, int64_t last,
                         const float* from) {
    const int block_row = static_cast<int>(row % kBlockRows);
    const int64_t count = last - first, block = row / kBlockRows;
    switch (to.format) {
        case Format::kFloat32:
            std::memcpy(to.row(row) + first * kGroup, from,
                        static_cast<size_t>(count * kGroup) * sizeof(float));
            return;
        case Format::kInt8:
            for (int64_t i = 0; i < count; ++i) {
                quantize_group(from + i * kGroup, to.cells(block)[first + i], block_row);
            }
            return;
        case Format::kBFloat16:
            for (int64_t i = 0; i < count; ++i) {
                round_group(from + i * kGroup, to.bfloat16_cells(block)[first + i], block_row);
            }
    }
}

// The same of a row of both parts together.
inline void store_groups(const SplitActivation& to, int64_t row, int64_t first, int64_t last,
                         const float* from) {
    const int64_t split = to.first_rows(row + 1);
    if (row < split) return store_groups(to.first, row, first, last, from);
    store_groups(to.rest, row - split, first, last, from);
}

}  // namespace headrace
