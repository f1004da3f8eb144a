// Whether products of bfloat16 are worth it on this processor. AVX-512's dot products of pairs make twice as many of them
// as of float32 on some processors and half as many on others, so they are timed once, by a tile from the nearest memory.
#pragma once

#include <chrono>
#include <limits>

#include "products.h"

// Least seconds of a piece of work; other programs only add to it.
template <typename Work>
inline double least_seconds(const Work& work) {
    constexpr int TURNS = 40;  // the first ones are slow: a core wakes the upper halves of its registers
    double least = std::numeric_limits<double>::max();
    for (int turn = 0; turn < TURNS; turn++) {
        const auto started = std::chrono::steady_clock::now();
        work();
        asm volatile("" : : : "memory");
        least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    }
    return least;
}

inline bool bfloat16_is_faster() {
#if defined(__AMX_BF16__)
    return true;
#elif defined(__AVX512BF16__)
    constexpr int DEPTH = 128;
    static thread_local Buffer<float> kept[4];
    float *a = kept[0].at_least(TILE_ROWS * DEPTH), *b = kept[1].at_least(DEPTH * PANEL), *out = kept[2].at_least(TILE_ROWS * PANEL);
    std::fill(a, a + TILE_ROWS * DEPTH, 0.0f), std::fill(b, b + DEPTH * PANEL, 0.0f);
    float* bias = kept[3].at_least(PANEL);
    std::fill(bias, bias + PANEL, 0.0f);
    const float* rows[MAX_ROWS];
    float* results[MAX_ROWS];
    for (int i = 0; i < MAX_ROWS; i++) rows[i] = a + i * DEPTH, results[i] = out + i * PANEL;
    const Summand summand{b, 1, DEPTH, 0};
    const double exact = least_seconds([&] { multiply<MAX_ROWS, 2>(rows, &summand, 1, bias, results, PANEL, Finish{NONE, false}); });
    const auto* halves = reinterpret_cast<const Bfloat16*>(a);
    constexpr int STEP_DEPTH = TILE_DEPTH<Bfloat16>;
    const Operand<Bfloat16> operand{halves, STEP_DEPTH, TILE_ROWS * STEP_DEPTH, reinterpret_cast<const Bfloat16*>(b),
                                    DEPTH / STEP_DEPTH};
    const double rounded = least_seconds([&] { multiply_tile(&operand, 1, TILE_ROWS, TILE_COLUMNS, {bias}, out); });
    return rounded / (TILE_ROWS * TILE_COLUMNS) < exact / (MAX_ROWS * PANEL);
#else
    return false;
#endif
}
