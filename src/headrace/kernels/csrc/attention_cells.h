// Where the cells of one split lie, in the order in which a unit reads them.
#pragma once

#include "attention_units.h"

namespace headrace {

// Keys of each key head, values of each, then what is most likely read next.
template <typename Element>
class Cells {
   public:
    Cells(const Cache& cache, const Unit& unit, const Span& span)
        : cache_(cache), span_(span), kv_head_(unit.kv_head), count_(unit.kv_heads * span.blocks) {}

    int64_t blocks() const { return span_.blocks; }
    // Of the unit's key head k.
    int64_t first_key(int64_t k) const { return k * span_.blocks; }
    int64_t first_value(int64_t k) const { return count_ + k * span_.blocks; }

    const Element* operator[](int64_t i) const {
        if (i >= 2 * count_) {
            const int64_t next = std::min(i - 2 * count_, span_.next_blocks - 1);
            return start(cache_.keys, cache_.key_width(), span_.next_table[next], span_.next_head);
        }
        const bool is_key = i < count_;
        const int64_t j = is_key ? i : i - count_;
        return start(is_key ? cache_.keys : cache_.values,
                     is_key ? cache_.key_width() : cache_.value_width(),
                     span_.table[j % span_.blocks], kv_head_ + j / span_.blocks);
    }
    // What is fetched while cell i is read.
    const Element* ahead(int64_t i) const { return (*this)[i + 2]; }

   private:
    const Element* start(const void* all, int64_t width, int64_t block, int64_t head) const {
        return static_cast<const Element*>(all) + cache_.cell(block, head) * width * kBlockTokens;
    }

    const Cache& cache_;
    const Span& span_;
    int64_t kv_head_, count_;
};

}  // namespace headrace
