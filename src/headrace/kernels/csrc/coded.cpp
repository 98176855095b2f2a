#include "coded.h"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>

namespace headrace {
namespace {

constexpr unsigned kCodes = 16, kUncoded = kCodes;  // the one bit that no code has

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
        for (unsigned i = 0; i < kCodes; ++i) codes[sorted[i]] = static_cast<uint8_t>(i);
        for (unsigned i = kCodes; i < 256; ++i) exceptions += counts[0][sorted[i]];
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

// Eight numbers in order stay neighbours.
void CodeOp::run(Team& team) const {
    team.share(from_.tiles(), [&](int64_t tile) {
        const HighBytes high = high_bytes(from_, tile);
        const uint8_t* from = from_.tile(tile);
        uint8_t *to = to_.tile(tile), *groups = to_.coded_group(tile, 0);
        std::copy_n(high.sorted.begin(), kCodes, to);
        auto* exceptions = reinterpret_cast<uint32_t*>(to + kLanes);
        std::fill_n(exceptions, to_.group, kNoException);
        for (int64_t i = 0; i < from_.in * kLanes; i += 8, from += 16) {
            const int64_t pair = i % 128 / 64, at = i % 32 / 8 * 16 + i % 64 / 32 * 8;
            uint8_t* lines = groups + i / 128 * 192 + at;
            unsigned all = 0;
            for (int k = 0; k < 8; ++k) {
                const unsigned code = high.codes[from[2 * k + 1]];
                lines[64 * pair + k] = from[2 * k];
                lines[128 + k] |= static_cast<uint8_t>((code & 15) << 4 * pair);
                all |= code;
            }
            for (int k = 0; k < 8 && all >= kUncoded; ++k) {
                const uint8_t byte = from[2 * k + 1];
                if (high.codes[byte] != kUncoded) continue;
                *exceptions++ = static_cast<uint32_t>(i + k) << kHighByteBits | byte;
            }
        }
    });
}

}  // namespace headrace
