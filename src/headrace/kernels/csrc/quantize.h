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
    const float sum = reduce_add(qa + qb);  // whole numbers: exact in any order
    const float scale = largest / 127.0f;
    cell.scale[row] = scale;
    cell.scaled_sum[row] = scale * sum;
    cell.start4[row] = -8 * static_cast<int32_t>(sum);
    cell.start8[row] = -128 * static_cast<int32_t>(sum);
}

// Groups first..last of one row, from a row of floats that starts at group `first`.
inline void store_groups(const Activation& to, int64_t row, int64_t first, int64_t last,
                         const float* from) {
    if (!to.quantized) {
        std::memcpy(to.row(row) + first * kGroup, from,
                    static_cast<size_t>((last - first) * kGroup) * sizeof(float));
        return;
    }
    Cell* cells = to.cells(row / kBlockRows);
    for (int64_t group = first; group < last; ++group, from += kGroup) {
        quantize_group(from, cells[group], static_cast<int>(row % kBlockRows));
    }
}

}  // namespace headrace
