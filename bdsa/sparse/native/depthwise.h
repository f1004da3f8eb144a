// A depthwise convolution at active positions, each followed by a normalisation over its channels (ConvNeXt).
#pragma once

#include <cmath>
#include <type_traits>

#include "positions.h"

constexpr int RUN = 6;  // neighbouring active positions that are computed together: they share what they read

struct Depthwise {
    const float* weights;  // [kernel * kernel][padded channels]
    const float* bias;     // [padded channels]
    int channels;
    int padded() const { return (channels + 15) / 16 * 16; }  // whatever the lanes
};

// x - mean(x), divided by the root of var(x) + eps: a layer norm whose weight and bias are in what follows it.
inline void normalise(float* row, int channels, float eps) {
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
}

// LENGTH neighbours in a row of a map. x: [height][width][channels] of one image; out: [LENGTH][channels].
// Channels beyond the last whole vector are read one by one into a vector that is padded with zeros.
template <int KERNEL, int LENGTH>
void convolve_run(const float* x, Grid grid, const Depthwise& layer, int row, int column,
                  float* out) {
    constexpr int REACH = LENGTH + KERNEL - 1, PADDING = KERNEL / 2;
    const int channels = layer.channels, padded = layer.padded();
    const int top = std::max(0, row - PADDING), bottom = std::min(grid.height - 1, row + PADDING);
    for (int c = 0; c < channels; c += LANES) {
        const int count = std::min(LANES, channels - c);
        Vector sums[LENGTH];
        for (int i = 0; i < LENGTH; i++) sums[i] = load(layer.bias + c);
        for (int y = top; y <= bottom; y++) {
            const float* line = x + (size_t)y * grid.width * channels + c;
            const float* taps = layer.weights + (size_t)(y - row + PADDING) * KERNEL * padded + c;
            Vector weights[KERNEL];
            for (int k = 0; k < KERNEL; k++) weights[k] = load(taps + (size_t)k * padded);
            for (int j = 0; j < REACH; j++) {
                const int at = column + j - PADDING;
                if ((unsigned)at >= (unsigned)grid.width) continue;
                Vector value = {};
                const float* source = line + (size_t)at * channels;
                if (count == LANES) value = load(source);
                else std::memcpy(&value, source, count * sizeof(float));
                for (int i = 0; i < LENGTH; i++)
                    if (j - i >= 0 && j - i < KERNEL) sums[i] += value * weights[j - i];
            }
        }
        for (int i = 0; i < LENGTH; i++) {
            if (count == LANES) store(out + (size_t)i * channels + c, sums[i]);
            else std::memcpy(out + (size_t)i * channels + c, &sums[i], count * sizeof(float));
        }
    }
}

template <int KERNEL>
void convolve_runs(const float* x, Grid grid, const Depthwise& layer, float eps, const Position* positions, int first,
                   int last, float* out) {
    for (int i = first; i < last;) {
        const Position& p = positions[i];
        int length = 1;
        while (length < RUN && i + length < last && positions[i + length].index == p.index + length &&
               positions[i + length].column == p.column + length)  // not the next row or image
            length++;
        const float* image = x + (size_t)(p.index / grid.size()) * grid.size() * layer.channels;
        float* rows = out + (size_t)i * layer.channels;
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
        for (int k = 0; k < length; k++) normalise(rows + (size_t)k * layer.channels, layer.channels, eps);
        i += length;
    }
}
