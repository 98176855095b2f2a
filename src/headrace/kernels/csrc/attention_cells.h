// Where the blocks of one split lie.
#pragma once

#include "attention_units.h"

namespace headrace {

// Cells in the order in which a unit reads them: keys of each key head, values of each, then what
// is most likely read next.
template <typename Element>
class Cells {
   public:
    Cells(const Cache& cache, const Unit& unit, const Span& span)
        : cache_(cache), span_(span), kv_head_(unit.kv_head), keys_(unit.kv_heads * span.blocks) {}

    int64_t keys() const { return keys_; }
    const Element* operator[](int64_t i) const {
        if (i < keys_) return key(span_.table[i % span_.blocks], kv_head_ + i / span_.blocks);
        if (i < 2 * keys_) return value(i - keys_);
        const int64_t next = std::min(i - 2 * keys_, span_.next_blocks - 1);
        return key(span_.next_table[next], span_.next_head);
    }

   private:
    const Element* key(int64_t block, int64_t head) const {
        return static_cast<const Element*>(cache_.keys) +
               cache_.cell(block, head) * cache_.key_width() * kBlockTokens;
    }
    const Element* value(int64_t i) const {
        const int64_t cell = cache_.cell(span_.table[i % span_.blocks], kv_head_ + i / span_.blocks);
        return static_cast<const Element*>(cache_.values) +
               cell * cache_.value_width() * kBlockTokens;
    }

    const Cache& cache_;
    const Span& span_;
    int64_t kv_head_, keys_;
};

}  // namespace headrace
