// bfloat16 in 12 bits, for products of bfloat16: the low byte as it is, the high one by its number among the 16 most
// frequent ones of a tile. They say sign and exponent, of which trained weights have few (Zhang et al.
// 2025, arXiv 2504.11651; there in a code of variable length). The others are exceptions.
#pragma once

#include "pool.h"
#include "tiles.h"

namespace headrace {

constexpr int64_t kGroupNumbers = kGroup * kLanes;

// A number of a tile whose high byte is none of the 16: `place` among the tile's numbers in right tiles,
// from the lowest on. What is left of the room is kNoException, at least one.
constexpr int kHighByteBits = 8;
constexpr uint32_t kNoException = 0xffffffff;

// For each tile of a weight in right tiles the exceptions that it needs.
class CountExceptionsOp : public Op {
   public:
    CountExceptionsOp(Rows rows, Weight weight, int32_t* counts)
        : Op(rows), weight_(weight), counts_(counts) {}
    void run(Team& team) const override;

   private:
    Weight weight_;
    int32_t* counts_;
};

// A weight in right tiles becomes a coded one, which is zero before and has enough room.
class CodeOp : public Op {
   public:
    CodeOp(Rows rows, Weight from, Weight to) : Op(rows), from_(from), to_(to) {}
    void run(Team& team) const override;

   private:
    Weight from_, to_;
};

#if defined(__AVX512BF16__)

// Decodes groups of a tile in order, from group `first` on.
class CodedTile {
   public:
    CodedTile(const Weight& weight, int64_t tile, int64_t first = 0)
        : high_bytes_(broadcast_table(weight.tile(tile))),
          lines_(weight.coded_group(tile, first)),
          exception_(reinterpret_cast<const uint32_t*>(weight.tile(tile) + kLanes)),
          place_(static_cast<uint32_t>(first * kGroupNumbers)) {
        // At the begin nothing waits for memory.
        const uint32_t* end = exception_ + (first ? weight.group : 0);
        exception_ = std::lower_bound(exception_, end, place_ << kHighByteBits);
    }

    void next(RightTile& to) {
        HEADRACE_UNROLL
        for (int four = 0; four < kGroup / 8; ++four, lines_ += 192) {
            const U8x64 numbers = U8x64::load(lines_ + 128);
            put(U8x64::load(lines_), low_nibbles(numbers), to.values[4 * four]);
            put(U8x64::load(lines_ + 64), high_nibbles(numbers), to.values[4 * four + 2]);
        }
        const uint32_t end = place_ + kGroupNumbers;
        for (; *exception_ >> kHighByteBits < end; ++exception_) {
            const uint32_t number = (*exception_ >> kHighByteBits) - place_;
            reinterpret_cast<uint8_t*>(&to)[2 * number + 1] = static_cast<uint8_t>(*exception_);
        }
        place_ = end;
    }

   private:
    // Two lines of a right tile.
    void put(U8x64 low, U8x64 numbers, uint16_t (*to)[2]) const {
        const __m512i high = lookup(high_bytes_, numbers).v;
        _mm512_store_si512(to, _mm512_unpacklo_epi8(low.v, high));
        _mm512_store_si512(to + kLanes, _mm512_unpackhi_epi8(low.v, high));
    }

    U8x64 high_bytes_;
    const uint8_t* lines_;
    const uint32_t* exception_;
    uint32_t place_;
};

inline void decode_groups(const Weight& weight, int64_t tile, int64_t first, int64_t count,
                          RightTile* to) {
    CodedTile coded(weight, tile, first);
    for (int64_t i = 0; i < count; ++i) coded.next(to[i]);
}

#else

inline void decode_groups(const Weight&, int64_t, int64_t, int64_t, RightTile*) {}

#endif

}  // namespace headrace
