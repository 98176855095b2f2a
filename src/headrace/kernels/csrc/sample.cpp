#include "sample.h"

#include <array>
#include <numeric>

#include "logits_row.h"
#include "race.h"

namespace headrace {
namespace {

constexpr const char* kOutside = "a row index is outside the logits";
constexpr float kNegligible = -80.0f;  // scores below it neither win a race nor add to a mass

// Memory of one thread, for the row it works on.
struct Workspace {
    std::vector<float> maxima, weights, keys;
    Candidates candidates;
    std::vector<size_t> order;
};

Workspace& workspace() {
    thread_local Workspace instance;
    return instance;
}

// What is left of a row's candidates while top_k, top_p and typical_p cut them, in this order.
class Truncation {
   public:
    Truncation(const LogitsRow& row, const Draw& draw)
        : draw_(draw), left_(workspace().candidates), weights_(workspace().weights),
          keys_(workspace().keys) {
        const bool has_top_k = draw.top_k > 0, has_top_p = draw.top_p < 1;
        float floor = std::fma(kNegligible, draw.temperature, row.largest());
        double mass = 0;
        if (has_top_k) {
            floor = std::max(floor, row.floor_of_leading(draw.top_k));
        } else if (has_top_p) {
            const auto masses = row.masses(1 / draw.temperature, kLevels);
            mass = masses.back();
            const float score = lowest_of_top_p(draw.top_p, row.size(), masses);
            floor = std::max(floor, std::fma(score, draw.temperature, row.largest()));
        }
        row.collect(floor, draw.temperature, left_);
        weigh();
        if (has_top_k || has_top_p) {
            keys_.resize(left_.size());
            for (size_t i = 0; i < left_.size(); ++i) keys_[i] = 0.0f - left_.scores[i];
        }
        if (has_top_k) keep_leading(static_cast<double>(draw.top_k), [](size_t) { return 1.0; });
        if (has_top_p) keep_mass(draw.top_p, has_top_k ? total() : mass);
        if (draw.typical_p < 1) keep_typical();
    }

    void run(Race& race) {
        // Lanes behind the end get a score that nothing can win with.
        const size_t count = left_.size();
        left_.scores.resize(count + kLanes, -std::numeric_limits<float>::infinity());
        left_.ids.resize(count + kLanes);
        for (size_t i = 0; i < count; i += kLanes) {
            const float* scores = left_.scores.data() + i;
            race.enter(F32x16::load(scores), I32x16::load(left_.ids.data() + i),
                       [=](int lane) { return scores[lane]; });
        }
        left_.resize(count);
    }

    double largest_weight() const {
        float largest = -std::numeric_limits<float>::infinity();
        for (const float score : left_.scores) largest = std::max(largest, score);
        return std::exp(static_cast<double>(largest));
    }

   private:
    static constexpr std::array<float, 7> kLevels = {
        -2.0f, -4.0f, -6.0f, -8.0f, -10.0f, -12.0f, std::numeric_limits<float>::lowest()};

    // No score below the result is kept by top_p; masses are those of kLevels.
    static float lowest_of_top_p(float top_p, int64_t size, const std::array<double, 7>& masses) {
        const double share = static_cast<double>(top_p), mass = masses.back();
        for (size_t level = 0; level + 1 < masses.size(); ++level) {
            // More than the rounding of these sums, and of scores.
            if (masses[level] > (share + 1e-5) * mass) return kLevels[level] - 1e-3f;
        }
        // Candidates that are this rare add up to less than what top_p leaves out.
        const double rare = 0.5 * (1 - share) / static_cast<double>(size);
        return static_cast<float>(std::log(mass * rare));
    }

    void weigh() {
        weights_.resize(left_.size());
        const auto count = static_cast<int64_t>(left_.size());
        for (int64_t i = 0; i < count; i += kLanes) {
            const int64_t lanes = std::min<int64_t>(kLanes, count - i);
            store_partial(exp(load_partial(left_.scores.data() + i, lanes)), weights_.data() + i,
                          lanes);
        }
    }

    double total() const {
        double sum = 0;
        for (const float weight : weights_) sum += static_cast<double>(weight);
        return sum;
    }

    void keep_mass(float share, double mass) {
        keep_leading(static_cast<double>(share) * mass, [this](size_t i) {
            return static_cast<double>(weights_[i]);
        });
    }

    // Locally typical sampling (Meister et al. 2022): those whose surprise is nearest the entropy.
    void keep_typical() {
        const double mass = total(), log_mass = std::log(mass);
        double entropy = log_mass;
        for (size_t i = 0; i < left_.size(); ++i) {
            entropy -= static_cast<double>(weights_[i]) / mass * left_.scores[i];
        }
        keys_.resize(left_.size());
        for (size_t i = 0; i < left_.size(); ++i) {
            keys_[i] = static_cast<float>(std::abs(log_mass - left_.scores[i] - entropy));
        }
        keep_mass(draw_.typical_p, mass);
    }

    // Keeps candidates in order of key, then id, until `measure` adds up to target. A histogram over
    // the keys' leading bits finds where that is, so that only those near it are sorted.
    template <typename Measure>
    void keep_leading(double target, Measure measure) {
        std::array<double, 4096> sums{};
        for (size_t i = 0; i < left_.size(); ++i) sums[rank(i) >> kBucketShift] += measure(i);
        size_t edge = 0;
        double before = 0;
        while (edge < sums.size() && before + sums[edge] < target) before += sums[edge++];
        if (edge == sums.size()) return;

        std::vector<size_t>& at_edge = workspace().order;
        at_edge.clear();
        for (size_t i = 0; i < left_.size(); ++i) {
            if (rank(i) >> kBucketShift == edge) at_edge.push_back(i);
        }
        std::sort(at_edge.begin(), at_edge.end(),
                  [this](size_t i, size_t j) { return rank(i) < rank(j); });
        uint64_t end = static_cast<uint64_t>(edge) << kBucketShift;
        for (size_t i = 0; i < at_edge.size() && before < target; ++i) {
            before += measure(at_edge[i]);
            end = rank(at_edge[i]) + 1;
        }
        keep_below(end);
    }

    // Orders by key (not negative, so its bits order as it does), then by id.
    uint64_t rank(size_t i) const {
        uint32_t bits;
        std::memcpy(&bits, &keys_[i], sizeof bits);
        return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(left_.ids[i]);
    }

    void keep_below(uint64_t end) {
        size_t kept = 0;
        for (size_t i = 0; i < left_.size(); ++i) {
            if (rank(i) >= end) continue;
            left_.scores[kept] = left_.scores[i];
            left_.ids[kept] = left_.ids[i];
            weights_[kept] = weights_[i];
            keys_[kept++] = keys_[i];
        }
        left_.resize(kept);
        weights_.resize(kept);
        keys_.resize(kept);
    }

    static constexpr int kBucketShift = 32 + 19;  // sign and exponent, and 4 bits of mantissa

    const Draw& draw_;
    Candidates& left_;
    std::vector<float>&weights_, &keys_;
};

int32_t draw_from_all(const LogitsRow& row, const Draw& draw, uint64_t key, int32_t best) {
    Race race(key, static_cast<double>(draw.min_p), best);
    const F32x16 scale = F32x16::broadcast(1 / draw.temperature);
    const F32x16 largest = F32x16::broadcast(row.largest());
    int32_t lanes[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane;
    const I32x16 lane_ids = I32x16::load(lanes);
    const auto enter = [&](int64_t first) {
        const auto exact = [&](int lane) {
            return (row[first + lane] - row.largest()) / draw.temperature;
        };
        const I32x16 ids = lane_ids + I32x16::broadcast(static_cast<int32_t>(first));
        race.enter((row.load(first) - largest) * scale, ids, exact);
    };
    enter(best / kLanes * kLanes);  // first what is likely to win, so that few others are computed
    const auto floor = [&] {
        return std::fma(race.lowest_score(), draw.temperature, row.largest());
    };
    row.for_each_vector(floor, enter);
    return race.winner();
}

int32_t draw_from_truncated(const LogitsRow& row, const Draw& draw, uint64_t key, int32_t best) {
    Truncation truncation(row, draw);
    Race race(key, static_cast<double>(draw.min_p) * truncation.largest_weight(), best);
    truncation.run(race);
    return race.winner();
}

}  // namespace

void AllowOp::run(Team& team) const {
    constexpr int kBits = 32;
    team.share(rows_.count(), [&](int64_t m) {
        if (index_[m] < 0 || index_[m] >= logit_rows_) return team.fail(kOutside);
        float* row = logits_ + index_[m] * vocab_size_;
        for (int64_t first = 0; first < vocab_size_; first += kBits) {
            const uint32_t word = words_[m * num_words_ + first / kBits];
            if (word == ~0u) continue;
            const auto count = static_cast<int>(std::min<int64_t>(kBits, vocab_size_ - first));
            for (int bit = 0; bit < count; ++bit) {
                if (!(word >> bit & 1)) row[first + bit] = -std::numeric_limits<float>::infinity();
            }
        }
    });
}

void SampleOp::run(Team& team) const {
    team.share(rows_.count(), [&](int64_t r) {
        const LogitsRow row(logits_ + r * vocab_size_, vocab_size_, workspace().maxima);
        Draw draw = draws_[r];
        largest_[r] = row.largest();
        ids_[r] = 0;
        if (!std::isfinite(row.largest())) return;
        const auto best = static_cast<int32_t>(row.first_of_largest());
        ids_[r] = best;
        if (!(draw.temperature > 0)) return;
        draw.temperature = std::min(draw.temperature, std::numeric_limits<float>::max());
        const bool is_truncated = draw.top_k > 0 || draw.top_p < 1 || draw.typical_p < 1;
        const uint64_t key = draw_key(draw.seed, draw.position);
        ids_[r] = (is_truncated ? draw_from_truncated : draw_from_all)(row, draw, key, best);
    });
}

void TopLogprobsOp::run(Team& team) const {
    team.share(rows_.count(), [&](int64_t r) {
        if (index_[r] < 0 || index_[r] >= logit_rows_) {
            return team.fail(kOutside);
        }
        fill(r);
    });
}

void TopLogprobsOp::fill(int64_t r) const {
    const LogitsRow row(logits_ + index_[r] * vocab_size_, vocab_size_, workspace().maxima);
    int64_t* ids = ids_ + r * count_;
    float* logprobs = logprobs_ + r * count_;
    std::fill(ids, ids + count_, 0);
    normalizers_[r] = std::numeric_limits<float>::quiet_NaN();
    std::fill(logprobs, logprobs + count_, normalizers_[r]);
    if (!std::isfinite(row.largest())) return;
    const double log_mass = std::log(row.mass());
    normalizers_[r] = static_cast<float>(static_cast<double>(row.largest()) + log_mass);
    if (count_ == 0) return;
    Candidates& leading = workspace().candidates;
    row.collect(row.floor_of_leading(count_), 1, leading);
    std::vector<size_t>& order = workspace().order;
    order.resize(leading.size());
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + count_, order.end(), [&](size_t i, size_t j) {
        const float a = leading.scores[i], b = leading.scores[j];
        return a > b || (a == b && leading.ids[i] < leading.ids[j]);
    });
    for (int64_t i = 0; i < count_; ++i) {
        const size_t at = order[static_cast<size_t>(i)];
        ids[i] = leading.ids[at];
        logprobs[i] = static_cast<float>(static_cast<double>(leading.scores[at]) - log_mass);
    }
}

}  // namespace headrace
