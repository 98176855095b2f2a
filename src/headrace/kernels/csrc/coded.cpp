#include "coded.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace headrace {
namespace {

constexpr int kCodes = 16, kUncoded = kCodes;

// The most frequent high bytes of a tile, and what they leave over.
struct HighBytes {
    std::array<uint8_t, 256> sorted, codes;
    int64_t exceptions = 0;

    HighBytes(const uint8_t* numbers, int64_t count) {
        uint32_t counts[4][256] = {};  // neighbours count in turn: no addition waits for another
        for (int64_t i = 0; i < count; ++i) ++counts[i % 4][numbers[2 * i + 1]];
        for (int i = 1; i < 4; ++i) {
            std::transform(counts[0], counts[0] + 256, counts[i], counts[0], std::plus<uint32_t>());
        }
        std::iota(sorted.begin(), sorted.end(), uint8_t{0});
        std::stable_sort(sorted.begin(), sorted.end(), [&](uint8_t a, uint8_t b) {
            return counts[0][a] > counts[0][b];
        });
        codes.fill(kUncoded);
        for (int i = 0; i < kCodes; ++i) codes[sorted[i]] = static_cast<uint8_t>(i);
        for (int i = kCodes; i < 256; ++i) exceptions += counts[0][sorted[i]];
    }
};

HighBytes high_bytes(const Weight& weight, int64_t tile) {
    return {weight.tile(tile), weight.in * kLanes};
}

}  // namespace

void CountExceptionsOp::run(Team& team) const {
    team.share(weight_.tiles(), [&](int64_t tile) {
        counts_[tile] = static_cast<int32_t>(high_bytes(weight_, tile).exceptions);
    });
}

void CodeOp::run(Team& team) const {
    team.share(from_.tiles(), [&](int64_t tile) {
        const HighBytes high = high_bytes(from_, tile);
        const uint8_t* from = from_.tile(tile);
        uint8_t* to = to_.tile(tile);
        std::copy_n(high.sorted.begin(), kCodes, to);
        auto* exceptions = reinterpret_cast<uint32_t*>(to + kLanes);
        std::fill_n(exceptions, to_.group, kNoException);
        uint8_t* lines = to_.coded_group(tile, 0);
        for (int64_t i = 0; i < from_.in * kLanes; ++i) {
            const int64_t four = i / 128, pair = i % 128 / 64, line = i % 64 / 32, word = i % 32;
            const int64_t at = word / 8 * 16 + line * 8 + word % 8;
            const uint8_t number = high.codes[from[2 * i + 1]];
            lines[192 * four + 64 * pair + at] = from[2 * i];
            if (number == kUncoded) {
                *exceptions++ = static_cast<uint32_t>(i) << kHighByteBits | from[2 * i + 1];
            } else {
                lines[192 * four + 128 + at] |= static_cast<uint8_t>(number << 4 * pair);
            }
        }
    });
}

}  // namespace headrace
