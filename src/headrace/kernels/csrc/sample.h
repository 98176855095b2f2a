// Tokens and log-probabilities out of rows of logits.
#pragma once

#include "pool.h"

namespace headrace {

// How to draw one row's token. The layout is that of `DRAW` in headrace/kernels/tensors.py.
struct Draw {
    float temperature;  // 0: greedy
    float top_p, typical_p, min_p;
    int64_t top_k;
    uint64_t seed;
    int64_t position;
};

// Makes those of rows index[m] of logits -infinity whose bits in words[m] are not set.
class AllowOp : public Op {
   public:
    AllowOp(Rows rows, float* logits, int64_t logit_rows, int64_t vocab_size, const int64_t* index,
            const uint32_t* words, int64_t num_words)
        : Op(rows), logits_(logits), logit_rows_(logit_rows), vocab_size_(vocab_size),
          index_(index), words_(words), num_words_(num_words) {}
    void run(Team& team) const override;
    bool is_single() const override { return rows_.count() == 1; }

   private:
    float* logits_;
    int64_t logit_rows_, vocab_size_;
    const int64_t* index_;
    const uint32_t* words_;
    int64_t num_words_;
};

// ids[r] = a token of row r of logits; largest[r] = its largest logit, NaN if there is any.
class SampleOp : public Op {
   public:
    SampleOp(Rows rows, const float* logits, int64_t vocab_size, const Draw* draws, int64_t* ids,
             float* largest)
        : Op(rows), logits_(logits), vocab_size_(vocab_size), draws_(draws), ids_(ids),
          largest_(largest) {}
    void run(Team& team) const override;
    bool is_single() const override { return rows_.count() == 1; }

   private:
    const float* logits_;
    int64_t vocab_size_;
    const Draw* draws_;
    int64_t* ids_;
    float* largest_;
};

// The `count` likeliest tokens of rows index[r] of logits, and the logarithm of what the
// exponentials of all the row's logits add up to.
class TopLogprobsOp : public Op {
   public:
    TopLogprobsOp(Rows rows, const float* logits, int64_t logit_rows, int64_t vocab_size,
                  const int64_t* index, int64_t count, int64_t* ids, float* logprobs,
                  float* normalizers)
        : Op(rows), logits_(logits), logit_rows_(logit_rows), vocab_size_(vocab_size),
          index_(index), count_(count), ids_(ids), logprobs_(logprobs),
          normalizers_(normalizers) {}
    void run(Team& team) const override;
    bool is_single() const override { return rows_.count() == 1; }

   private:
    void fill(int64_t row) const;

    const float* logits_;
    int64_t logit_rows_, vocab_size_;
    const int64_t* index_;
    int64_t count_;
    int64_t* ids_;
    float *logprobs_, *normalizers_;
};

}  // namespace headrace
