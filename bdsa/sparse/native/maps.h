// What else happens to maps, [images][height][width][channels] of float32: padding, pooling, norms, shortcuts without weights.
#pragma once

#include <algorithm>

#include "depthwise.h"
#include "team.h"

// A map of any strides (of image, row, column, channel, in floats) with a border of zeros:
// out[images][height + 2 * padding][width + 2 * padding][channels].
struct Pad {
    float* out;
    const float* x;
    int64_t strides[4];
    int images, height, width, channels, padding;

    void copy(int line) const {
        const int lines = height + 2 * padding, image = line / lines, y = line % lines - padding;
        const size_t size = (size_t)(width + 2 * padding) * channels, rim = (size_t)padding * channels;
        float* target = out + line * size;
        if (y < 0 || y >= height) {
            std::memset(target, 0, size * sizeof(float));
            return;
        }
        const float* source = x + image * strides[0] + y * strides[1];
        std::memset(target, 0, rim * sizeof(float));
        std::memset(target + size - rim, 0, rim * sizeof(float));
        target += rim;
        if (strides[3] == 1 && strides[2] == channels) {
            std::memcpy(target, source, (size_t)width * channels * sizeof(float));
            return;
        }
        for (int i = 0; i < width; i++)
            for (int c = 0; c < channels; c++) target[i * channels + c] = source[i * strides[2] + c * strides[3]];
    }

    void run(int threads) const {
        const int lines = images * (height + 2 * padding), bands = std::min(lines, 4 * threads);
        in_parallel(threads, 1, [&](Team team) {
            team.share(bands, [&](int band) {
                for (int line = (int)((int64_t)lines * band / bands); line < (int64_t)lines * (band + 1) / bands; line++) copy(line);
            });
        });
    }
};

// Every row of [rows][channels] normalised over its channels in place, then times weight plus bias where there are any.
struct LayerNorm {
    float* x;
    const float *weight, *bias;
    int64_t rows;
    int channels;
    float eps;

    void run(int threads) const {
        const int bands = (int)std::min<int64_t>(rows, 8 * threads);
        in_parallel(threads, 1, [&](Team team) {
            team.share(bands, [&](int band) {
                for (int64_t i = rows * band / bands; i < rows * (band + 1) / bands; i++) {
                    float* row = x + i * channels;
                    normalise(row, channels, eps);
                    if (weight)
                        for (int c = 0; c < channels; c++) row[c] = row[c] * weight[c] + bias[c];
                }
            });
        });
    }
};

// The mean over positions: x [images][positions][channels] -> out [images][channels].
struct Mean {
    float* out;
    const float* x;
    int images, positions, channels;

    static constexpr int CHANNELS = 256;  // of a unit

    void run(int threads) const {
        const int parts = (channels + CHANNELS - 1) / CHANNELS;
        in_parallel(threads, 1, [&](Team team) {
            team.share(images * parts, [&](int u) {
                const int image = u / parts, first = u % parts * CHANNELS, last = std::min(channels, first + CHANNELS);
                float* target = out + (size_t)image * channels;
                std::fill(target + first, target + last, 0.0f);
                for (int i = 0; i < positions; i++) {
                    const float* row = x + ((size_t)image * positions + i) * channels;
                    for (int c = first; c < last; c++) target[c] += row[c];
                }
                for (int c = first; c < last; c++) target[c] /= positions;
            });
        });
    }
};

// The identity of a block whose shortcut takes every stride-th position and puts `before` channels of zeros in front of
// its own, the rest behind: out[images][out_height][out_width][out_channels], activated by a relu where the mask is not.
struct Subsample {
    float* out;
    const float* x;
    const uint8_t* mask;
    int images, height, width, channels, stride, before, out_height, out_width, out_channels;

    void run(int threads) const {
        in_parallel(threads, 1, [&](Team team) {
            team.share(images * out_height, [&](int line) {
                const int image = line / out_height, row = line % out_height * stride;
                for (int column = 0; column < out_width; column++) {
                    const size_t at = (size_t)line * out_width + column;
                    const float* source = x + (((size_t)image * height + row) * width + column * stride) * channels;
                    float* target = out + at * out_channels;
                    std::memset(target, 0, out_channels * sizeof(float));
                    for (int c = 0; c < channels; c++) target[before + c] = !mask[at] && source[c] < 0 ? 0 : source[c];
                }
            });
        });
    }
};

// The mean of each kernel x kernel window, of those cut off by the border over what is left:
// out[images][out_height][out_width][channels].
struct AveragePool {
    float* out;
    const float* x;
    int images, height, width, channels, kernel, stride, out_height, out_width;

    void run(int threads) const {
        in_parallel(threads, 1, [&](Team team) {
            team.share(images * out_height, [&](int line) {
                const int image = line / out_height, top = line % out_height * stride, bottom = std::min(height, top + kernel);
                for (int column = 0; column < out_width; column++) {
                    const int left = column * stride, right = std::min(width, left + kernel);
                    const float share = 1.0f / ((bottom - top) * (right - left));
                    float* target = out + ((size_t)line * out_width + column) * channels;
                    std::fill(target, target + channels, 0.0f);
                    for (int y = top; y < bottom; y++)
                        for (int z = left; z < right; z++) {
                            const float* source = x + (((size_t)image * height + y) * width + z) * channels;
                            for (int c = 0; c < channels; c++) target[c] += source[c] * share;
                        }
                }
            });
        });
    }
};
