// Collectives of the ranks of one model: processes that map the same memory, on one host or, with a
// relay between the memories of several, on many.
//
// A collective is two ops: `ContributeOp` copies a rank's rows to its slot of the memory and says
// so; `SumOp` or `ConcatenateOp` waits for all ranks to have done it and reads their slots. Each
// rank has two slots, used in turn: a rank that contributes to one collective has read all slots of
// the one before the last, so nobody needs to say that he is done reading. All ranks add in the
// order of ranks, so they get the same bits, whatever the timing and wherever the ranks are.
#pragma once

#include "pool.h"
#include "simd.h"

namespace headrace {

// What one rank tells the others, in a cache line of its own; zeroed before the ranks start.
struct alignas(64) RankLine {
    std::atomic<uint32_t> arrived;   // contributions so far, modulo 2^32
    std::atomic<uint32_t> sleepers;  // ranks that sleep until `arrived` changes
    std::atomic<int64_t> copied;     // this rank's own: units of the running contribution done
};

// Brings other hosts' contributions to a collective, up to so many floats each, into their slots of
// this host's memory, and takes those of this host to theirs. Returns 0 when all have come.
using Relay = int (*)(uint32_t collective, int64_t floats);

// The memory: `size` lines, then two slots of `slot_bytes` for each rank.
struct Ranks {
    uint8_t* memory;
    int64_t rank, size, slot_bytes;
    int64_t here_first, here_last;  // this host's ranks; where there is no relay, all
    Relay relay;                    // of one rank on each of several hosts, or null

    RankLine& line(int64_t of) const { return reinterpret_cast<RankLine*>(memory)[of]; }
    float* slot(int64_t of, uint32_t collective) const {
        const int64_t index = 2 * of + (collective & 1);
        return reinterpret_cast<float*>(memory + 64 * size + index * slot_bytes);
    }
    // Columns first..last of a matrix of `columns` belong to a rank.
    int64_t first_column(int64_t of, int64_t columns) const { return columns * of / size; }
};

// slot = x.
class ContributeOp : public Op {
   public:
    ContributeOp(Rows rows, Ranks ranks, const float* x, int64_t features)
        : Op(rows), ranks_(ranks), x_(x), features_(features) {}
    void run(Team& team) const override;

   private:
    Ranks ranks_;
    const float* x_;
    int64_t features_;
};

// The other hosts' slots = their ranks' x. For the rank that has the relay.
class RelayOp : public Op {
   public:
    RelayOp(Rows rows, Ranks ranks, int64_t features)
        : Op(rows), ranks_(ranks), features_(features) {}
    void run(Team& team) const override;

   private:
    Ranks ranks_;
    int64_t features_;
};

// out = sum of all ranks' x (+ out if accumulate).
class SumOp : public Op {
   public:
    SumOp(Rows rows, Ranks ranks, int64_t features, float* out, bool accumulate)
        : Op(rows), ranks_(ranks), features_(features), out_(out), accumulate_(accumulate) {}
    void run(Team& team) const override;

   private:
    void sum(uint32_t collective, int64_t first, int64_t last) const;

    Ranks ranks_;
    int64_t features_;
    float* out_;
    bool accumulate_;
};

// out[r] = all ranks' x[r], one after another; rank k's part has the columns that are its share.
class ConcatenateOp : public Op {
   public:
    ConcatenateOp(Rows rows, Ranks ranks, int64_t columns, float* out)
        : Op(rows), ranks_(ranks), columns_(columns), out_(out) {}
    void run(Team& team) const override;

   private:
    Ranks ranks_;
    int64_t columns_;
    float* out_;
};

}  // namespace headrace
