// What this machine can do at most, with one thread per core that the process may use: reads from
// memory, and multiply-adds of several kinds on registers. Prints one JSON object; GB/s and GOP/s,
// by the CPU time of the slowest thread, so that other processes matter little.

#include <immintrin.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <functional>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kMegabyte = 1 << 20;
constexpr int kRounds = 10;

int num_cores() {
    cpu_set_t set;
    sched_getaffinity(0, sizeof(set), &set);
    return CPU_COUNT(&set);
}

double thread_seconds() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

// The largest rate of several rounds, of `work` units per thread and call.
double best_rate(double work, const std::function<void(int)>& run) {
    double best = 0;
    for (int round = 0; round < kRounds; ++round) {
        std::vector<std::thread> threads;
        std::vector<double> seconds(num_cores());
        for (int core = 0; core < num_cores(); ++core)
            threads.emplace_back([&, core] {
                double begin = thread_seconds();
                run(core);
                seconds[core] = thread_seconds() - begin;
            });
        for (auto& thread : threads) thread.join();
        double slowest = *std::max_element(seconds.begin(), seconds.end());
        best = std::max(best, work * num_cores() / slowest / 1e9);
    }
    return best;
}

volatile int64_t sink;

double read_rate(int64_t total) {
    int64_t share = total / num_cores() / 64 * 64;
    std::vector<std::vector<int64_t>> memory(num_cores(), std::vector<int64_t>(share / 8, 1));
    int64_t passes = std::max<int64_t>(1, 512 * kMegabyte / total);
    return best_rate(double(share) * passes, [&](int core) {
        int64_t sum = 0;
        for (int64_t pass = 0; pass < passes; ++pass) {
            const int64_t* data = memory[core].data();
            int64_t parts[8] = {};
            for (int64_t i = 0; i < share / 8; i += 8)
                for (int j = 0; j < 8; ++j) parts[j] += data[i + j];
            for (int64_t part : parts) sum += part;
        }
        sink = sum;
    });
}

constexpr int64_t kSteps = 20'000'000;

__attribute__((target("avx512f"))) void fma_512(int) {
    __m512 sums[12], x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(0.25f);
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < kSteps / 12; ++i)
        for (auto& sum : sums) sum = _mm512_fmadd_ps(x, y, sum);
    for (auto& sum : sums) x = _mm512_add_ps(x, sum);
    sink = static_cast<int64_t>(_mm512_reduce_add_ps(x));
}

__attribute__((target("avx2,fma"))) void fma_256(int) {
    __m256 sums[12], x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(0.25f);
    for (auto& sum : sums) sum = _mm256_setzero_ps();
    for (int64_t i = 0; i < kSteps / 12; ++i)
        for (auto& sum : sums) sum = _mm256_fmadd_ps(x, y, sum);
    for (auto& sum : sums) x = _mm256_add_ps(x, sum);
    sink = static_cast<int64_t>(_mm256_cvtss_f32(x));
}

__attribute__((target("avx512f,avx512vnni"))) void vnni_512(int) {
    __m512i sums[12], x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(2);
    for (auto& sum : sums) sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < kSteps / 12; ++i)
        for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, x, y);
    for (auto& sum : sums) x = _mm512_add_epi32(x, sum);
    sink = _mm512_reduce_add_epi32(x);
}

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
};

constexpr int64_t kTiles = 1'000'000;

template <bool is_integer>
__attribute__((target("amx-tile,amx-int8,amx-bf16"))) void tiles(int) {
    TileConfig config;
    asm volatile("ldtilecfg %0" ::"m"(config));
    for (int64_t i = 0; i < kTiles / 4; ++i) {
        if constexpr (is_integer) {
            _tile_dpbssd(0, 4, 5);
            _tile_dpbssd(1, 4, 5);
            _tile_dpbssd(2, 4, 5);
            _tile_dpbssd(3, 4, 5);
        } else {
            _tile_dpbf16ps(0, 4, 5);
            _tile_dpbf16ps(1, 4, 5);
            _tile_dpbf16ps(2, 4, 5);
            _tile_dpbf16ps(3, 4, 5);
        }
    }
    _tile_release();
}

// Linux hands the tiles out on request only.
bool may_use_tiles() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return __builtin_cpu_supports("amx-int8") && __builtin_cpu_supports("amx-bf16") &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

int main() {
    std::printf("{\"cores\": %d, \"read_96_mb\": %.2f, \"read_512_mb\": %.2f", num_cores(),
                read_rate(96 * kMegabyte), read_rate(512 * kMegabyte));
    if (__builtin_cpu_supports("avx512f"))
        std::printf(", \"fma\": %.0f", best_rate(2.0 * 16 * kSteps, fma_512));
    else if (__builtin_cpu_supports("fma"))
        std::printf(", \"fma\": %.0f", best_rate(2.0 * 8 * kSteps, fma_256));
    if (__builtin_cpu_supports("avx512vnni"))
        std::printf(", \"vnni\": %.0f", best_rate(2.0 * 64 * kSteps, vnni_512));
    if (may_use_tiles()) {
        std::printf(", \"amx_int8\": %.0f", best_rate(2.0 * 16 * 16 * 64 * kTiles, tiles<true>));
        std::printf(", \"amx_bf16\": %.0f", best_rate(2.0 * 16 * 16 * 32 * kTiles, tiles<false>));
    }
    std::printf("}\n");
}
