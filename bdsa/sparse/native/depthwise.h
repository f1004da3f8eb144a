// A depthwise convolution at active positions, each followed by a normalisation over its channels (ConvNeXt).
#pragma once

#include <cmath>
#include <type_traits>

#include "rows.h"

constexpr int RUN = 6;  // neighbouring active positions that are computed together: they share what they read

struct Depthwise {
    const float* weights;  // [kernel * kernel][padded channels]
    const float* bias;     // [padded channels]
    int channels;
    int padded() const { return (channels + 15) / 16 * 16; }  // whatever the lanes
};

// x - mean(x), divided by the root of var(x) + eps: a layer norm whose weight and bias are in what follows it.
inline const float* normalise(float* row, int channels, float eps) {
    Vector sums = {};
    int c = 0;
    float total = 0;
    for (; c + LANES <= channels; c += LANES) sums += load(row + c);
    for (; c < channels; c++) total += row[c];
    const float mean = (total + sum_of(sums)) / channels;
    Vector squares = {};
    float square = 0;
    for (c = 0; c + LANES <= channels; c += LANES) {
        const Vector d = load(row + c) - mean;
        squares += d * d;
    }
    for (; c < channels; c++) square += (row[c] - mean) * (row[c] - mean);
    const float scale = 1.0f / std::sqrt((square + sum_of(squares)) / channels + eps);
    for (c = 0; c + LANES <= channels; c += LANES) store(row + c, (load(row + c) - mean) * scale);
    for (; c < channels; c++) row[c] = (row[c] - mean) * scale;
    return row;
}

// A row of float32 as the i-th of `rows`, with zeros up to its padded depth.
template <typename W>
inline void round_row(const float* row, int channels, const Rows<W>& rows, int i, Bytes as) {
    for (int c = 0; c < rows.depth; c += LANES)
        put(rows.at(i, c), load_some(row + c, std::max(0, std::min(LANES, channels - c))), as);
}

// LENGTH neighbours in a row of a map. x: [height][width][channels] of one image; out: [LENGTH][channels] of float32.
// Channels beyond the last whole vector are read one by one into a vector that is padded with zeros.
template <int KERNEL, int LENGTH, typename E>
void convolve_run(const E* x, Grid grid, const Depthwise& layer, int row, int column,
                  float* out) {
    constexpr int REACH = LENGTH + KERNEL - 1, PADDING = KERNEL / 2;
    const int channels = layer.channels, padded = layer.padded();
    const int top = std::max(0, row - PADDING), bottom = std::min(grid.height - 1, row + PADDING);
    for (int c = 0; c < channels; c += LANES) {
        const int count = std::min(LANES, channels - c);
        Vector sums[LENGTH];
        for (int i = 0; i < LENGTH; i++) sums[i] = load(layer.bias + c);
        for (int y = top; y <= bottom; y++) {
            const E* line = x + (size_t)y * grid.width * channels + c;
            const float* taps = layer.weights + (size_t)(y - row + PADDING) * KERNEL * padded + c;
            Vector weights[KERNEL];
            for (int k = 0; k < KERNEL; k++) weights[k] = load(taps + (size_t)k * padded);
            for (int j = 0; j < REACH; j++) {
                const int at = column + j - PADDING;
                if ((unsigned)at >= (unsigned)grid.width) continue;
                const Vector value = load_some(line + (size_t)at * channels, count);
                for (int i = 0; i < LENGTH; i++)
                    if (j - i >= 0 && j - i < KERNEL) sums[i] = multiply_add(value, weights[j - i], sums[i]);
            }
        }
        for (int i = 0; i < LENGTH; i++) store_some(out + (size_t)i * channels + c, sums[i], count);
    }
}

// Positions first..last of maps [images][height][width][channels], whose results become as many rows.
template <int KERNEL, typename E, typename W>
void convolve_runs(const E* x, Grid grid, const Depthwise& layer, float eps, const Position* positions, int first,
                   int last, const Rows<W>& out, Bytes as) {
    static thread_local Buffer<float> kept;
    float* scratch = kept.at_least((size_t)RUN * layer.channels);
    for (int i = first; i < last;) {
        const Position& p = positions[i];
        int length = 1;
        while (length < RUN && i + length < last && positions[i + length].index == p.index + length &&
               positions[i + length].column == p.column + length)  // not the next row or image
            length++;
        const E* image = x + (size_t)(p.index / grid.size()) * grid.size() * layer.channels;
        float* rows = scratch;
        if constexpr (Shape<W>::DEPTH == 1) rows = out.at(i, 0);
        const auto run = [&](auto of) {
            convolve_run<KERNEL, decltype(of)::value>(image, grid, layer, p.row, p.column, rows);
        };
        switch (length) {
            case 1: run(std::integral_constant<int, 1>{}); break;
            case 2: run(std::integral_constant<int, 2>{}); break;
            case 3: run(std::integral_constant<int, 3>{}); break;
            case 4: run(std::integral_constant<int, 4>{}); break;
            case 5: run(std::integral_constant<int, 5>{}); break;
            default: run(std::integral_constant<int, RUN>{});
        }
        for (int k = 0; k < length; k++) {
            const float* row = normalise(rows + (size_t)k * layer.channels, layer.channels, eps);
            if constexpr (Shape<W>::DEPTH > 1) round_row(row, layer.channels, out, i + k, as);
        }
        i += length;
    }
}
