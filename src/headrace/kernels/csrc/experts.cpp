#include "experts.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "linear.h"
#include "tiles.h"
#include "quantize.h"

namespace headrace {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr int64_t kCombinedColumns = 256;  // of one unit

// Index of the largest of the values, the first of equal ones.
int64_t argmax(const float* values, int64_t count) {
    return std::max_element(values, values + count) - values;
}

// Calls function(share, unit) for units(share) units of each share.
template <typename Units, typename Function>
void for_each_share_unit(Team& team, int64_t shares, Units units, Function function) {
    std::vector<int64_t> ends(static_cast<size_t>(shares));
    int64_t total = 0;
    for (int64_t s = 0; s < shares; ++s) ends[static_cast<size_t>(s)] = total += units(s);
    team.share(total, [&](int64_t unit) {
        const auto end = std::upper_bound(ends.begin(), ends.end(), unit);
        const int64_t share = end - ends.begin();
        function(share, unit - (share ? *(end - 1) : 0));
    });
}

}  // namespace

void RouteOp::score(const float* logits, float* scores) const {
    if (rule_.is_sigmoid) {
        for (int64_t e = 0; e < rule_.experts; ++e) scores[e] = 1.0f / (1.0f + exp(-logits[e]));
        return;
    }
    const float largest = logits[argmax(logits, rule_.experts)];
    float sum = 0.0f;
    for (int64_t e = 0; e < rule_.experts; ++e) sum += scores[e] = exp(logits[e] - largest);
    for (int64_t e = 0; e < rule_.experts; ++e) scores[e] /= sum;
}

void RouteOp::rank(const float* logits, const float* scores, float* ranks) const {
    if (!choice_bias_ && rule_.groups == 1) {
        std::copy_n(logits, rule_.experts, ranks);
        return;
    }
    for (int64_t e = 0; e < rule_.experts; ++e) {
        ranks[e] = scores[e] + (choice_bias_ ? choice_bias_[e] : 0.0f);
    }
    if (rule_.groups == 1) return;
    const int64_t size = rule_.experts / rule_.groups;
    std::vector<float> sorted(static_cast<size_t>(size)), sums(static_cast<size_t>(rule_.groups));
    for (int64_t g = 0; g < rule_.groups; ++g) {
        std::partial_sort_copy(ranks + g * size, ranks + (g + 1) * size, sorted.begin(),
                               sorted.end(), std::greater<float>());
        float sum = 0.0f;
        for (int64_t i = 0; i < rule_.experts_per_group; ++i) sum += sorted[static_cast<size_t>(i)];
        sums[static_cast<size_t>(g)] = sum;
    }
    std::vector<bool> is_open(static_cast<size_t>(rule_.groups));
    for (int64_t i = 0; i < rule_.chosen_groups; ++i) {
        const auto best = static_cast<size_t>(argmax(sums.data(), rule_.groups));
        is_open[best] = true;
        sums[best] = kNone;
    }
    for (int64_t e = 0; e < rule_.experts; ++e) {
        if (!is_open[static_cast<size_t>(e / size)]) ranks[e] = kNone;
    }
}

void RouteOp::choose(int64_t row, const float* scores, float* ranks) const {
    const int64_t chosen = rule_.chosen, width = chosen + rule_.has_shared;
    int32_t* experts = experts_ + row * width;
    float* weights = weights_ + row * width;
    float sum = 0.0f;
    for (int64_t i = 0; i < chosen; ++i) {
        const int64_t best = argmax(ranks, rule_.experts);
        ranks[best] = kNone;
        experts[i] = static_cast<int32_t>(best);
        sum += scores[best];
    }
    std::sort(experts, experts + chosen);
    const float scale = rule_.is_normalized ? rule_.scale / sum : rule_.scale;
    for (int64_t i = 0; i < chosen; ++i) weights[i] = scores[experts[i]] * scale;
    if (!rule_.has_shared) return;
    experts[chosen] = static_cast<int32_t>(rule_.experts);
    weights[chosen] = shared_ ? 1.0f / (1.0f + exp(-shared_[row])) : 1.0f;
}

void RouteOp::run(Team& team) const {
    std::vector<float> scores(static_cast<size_t>(rule_.experts)), ranks(scores.size());
    team.share(rows_.count(), [&](int64_t row) {
        const float* logits = logits_ + row * rule_.experts;
        score(logits, scores.data());
        rank(logits, scores.data(), ranks.data());
        choose(row, scores.data(), ranks.data());
    });
}

void PlanOp::run(Team& team) const {
    team.share(1, [&](int64_t) {
        const Mixture& m = mixture_;
        const int64_t places = rows_.count() * m.chosen;
        const int64_t split = m.inputs.first_rows(rows_.count()) * m.chosen;
        const auto share_of = [&](int64_t place) {
            return static_cast<size_t>(m.chosen_experts[place] * m.parts() + (place >= split));
        };
        std::fill_n(m.counts(), m.count(), 0);
        for (int64_t i = 0; i < places; ++i) ++m.counts()[share_of(i)];
        int32_t used = 0;
        for (int64_t e = 0; e < m.count(); ++e) {
            m.starts()[e] = used;
            used += (m.counts()[e] + kBlockRows - 1) / kBlockRows * kBlockRows;
        }
        *m.used() = used;
        std::vector<int32_t> next(m.starts(), m.starts() + m.count());
        int32_t* sources = m.sources(rows_.capacity());
        std::fill_n(sources, used, -1);
        for (int64_t i = 0; i < places; ++i) {
            const int32_t slot = next[share_of(i)]++;
            m.slots()[i] = slot;
            sources[slot] = static_cast<int32_t>(i);
        }
    });
}

void GatherOp::run(Team& team) const {
    const Mixture& m = mixture_;
    const int64_t features = m.inputs.features();
    const int32_t* sources = m.sources(rows_.capacity());
    const int64_t split = m.inputs.first_rows(rows_.count());
    std::vector<float> weighed(static_cast<size_t>(features));
    team.share(*m.used() / kBlockRows, [&](int64_t block) {
        for (int64_t slot = block * kBlockRows; slot < (block + 1) * kBlockRows; ++slot) {
            const int32_t place = sources[slot];
            if (place < 0) continue;
            const int64_t row = place / m.chosen;
            const float* from = x_ + row * features;
            if (m.weighs_inputs) {
                const F32x16 weight = F32x16::broadcast(m.weights[place]);
                for (int64_t i = 0; i < features; i += kLanes) {
                    (F32x16::load(from + i) * weight).store(weighed.data() + i);
                }
                from = weighed.data();
            }
            const Activation& to = row < split ? m.inputs.first : m.inputs.rest;
            store_groups(to, slot, 0, to.groups(), from);
        }
    });
}

void ExpertGateOp::run(Team& team) const {
    const Mixture& m = mixture_;
    const auto units = [&](int64_t s) {
        return gate_units(m.part(m.inputs, s).format, m.weights_of(s).gate_up, m.counts()[s]);
    };
    for_each_share_unit(team, m.count(), units, [&](int64_t s, int64_t unit) {
        const ExpertWeights& expert = m.weights_of(s);
        const GateWeights& weights = expert.gate_up;
        const int64_t rows = m.counts()[s], first = m.starts()[s];
        const Activation x = m.part(m.inputs, s).from(first, weights.gate.in);
        const TileRegisters registers(x.format, rows);
        const Activation out = m.part(m.inner, s).from(first, weights.out());
        gate_unit(x, weights, expert.gate_up_bias, kind_, {out, {}, nullptr}, 0, rows, unit);
    });
}

void ExpertDownOp::run(Team& team) const {
    const Mixture& m = mixture_;
    const auto units = [&](int64_t s) {
        return linear_units(m.part(m.inner, s).format, m.weights_of(s).down, m.counts()[s]);
    };
    for_each_share_unit(team, m.count(), units, [&](int64_t s, int64_t unit) {
        const ExpertWeights& expert = m.weights_of(s);
        const Weight& weight = expert.down;
        const int64_t rows = m.counts()[s], first = m.starts()[s];
        const Activation x = m.part(m.inner, s).from(first, weight.in);
        const TileRegisters registers(x.format, rows);
        float* to = m.outputs + first * weight.out;
        linear_unit(x, weight, {expert.down_bias, to, false}, rows, unit);
    });
}

void CombineOp::run(Team& team) const {
    const Mixture& m = mixture_;
    const int64_t features = m.inputs.features();
    const int64_t parts = (features + kCombinedColumns - 1) / kCombinedColumns;
    team.share(rows_.count() * parts, [&](int64_t unit) {
        const int64_t row = unit / parts, first = unit % parts * kCombinedColumns;
        const int64_t last = std::min(features, first + kCombinedColumns);
        for (int64_t i = first; i < last; i += kLanes) {
            F32x16 sum = F32x16::zero();
            for (int64_t place = row * m.chosen; place < (row + 1) * m.chosen; ++place) {
                const F32x16 weight = F32x16::broadcast(m.weighs_inputs ? 1 : m.weights[place]);
                const float* from = m.outputs + m.slots()[place] * features + i;
                sum = fma(F32x16::load(from), weight, sum);
            }
            float* to = out_ + row * features + i;
            (accumulate_ ? F32x16::load(to) + sum : sum).store(to);
        }
    });
}

}  // namespace headrace
