// What else happens to maps, [images][height][width][channels] of either type: padding, pooling, norms, shortcuts without weights.
#pragma once

#include <algorithm>

#include "depthwise.h"
#include "group.h"
#include "team.h"

// A map of any strides (of image, row, column, channel, in values), of one type or another, with a border of zeros:
// out[images][height + 2 * padding][width + 2 * padding][channels].
template <typename From, typename To>
struct Pad {
    To* out;
    const From* x;
    int64_t strides[4];
    int images, height, width, channels, padding;
    int32_t* infinite;  // becomes 1 where a value is infinite or not a number; null: nobody wants to know

    size_t weights() const { return 0; }
    void run_image(OneImage at) const {
        Pad one = *this;
        one.images = 1, one.x += at.of(OneImage::X) * strides[0];
        one.out += at.of(OneImage::OUT) * (height + 2 * padding) * (width + 2 * padding) * channels;
        one.run(1);
    }

    static To converted(From value) {
        if constexpr (sizeof(From) == sizeof(To)) return value;
        else return rounded<To>(widen(value));
    }

    // Whether all values of a line are finite: what is not, times zero, is no number, and stays so in every sum.
    bool finite(const From* source) const {
        const bool apart = strides[2] == 1, together = strides[3] == 1 && strides[2] == channels;
        Vector sums = {};
        float sum = 0;
        for (int c = 0; c < (together ? 1 : channels); c++) {
            const From* from = source + c * strides[3];
            const int count = together ? width * channels : width;
            for (int i = 0; i < count; i += 64 / (int)sizeof(From)) __builtin_prefetch(from + 2 * strides[1] + i);  // lines to come
            if (apart || together)
                for (int i = 0; i < count; i += LANES) sums += load_some(from + i, std::min(LANES, count - i)) * 0.0f;
            else
                for (int i = 0; i < count; i++) sum += widen(from[i * strides[2]]) * 0.0f;
        }
        for (int i = 0; i < LANES; i++) sum += sums[i];
        return sum == 0;
    }

    // A line of an image whose channels lie apart, as they come from PyTorch.
    void interleave(const From* source, To* target) const {
        constexpr int SOME = 64;
        To lines[3][SOME];
        for (int first = 0; first < width; first += SOME) {
            const int some = std::min(SOME, width - first);
            for (int c = 0; c < 3; c++) copy_values(source + c * strides[3] + first, lines[c], some);
            for (int i = 0; i < some; i++, target += 3)
                target[0] = lines[0][i], target[1] = lines[1][i], target[2] = lines[2][i];
        }
    }

    static void copy_values(const From* from, To* to, int count) {
        int i = 0;
        if constexpr (sizeof(From) == sizeof(To)) i = count, std::memcpy((void*)to, from, (size_t)count * sizeof(To));
        for (; i < count; i += LANES) store_some(to + i, load_some(from + i, std::min(LANES, count - i)), std::min(LANES, count - i));
    }

    void copy(int line) const {
        const int lines = height + 2 * padding, image = line / lines, y = line % lines - padding;
        const size_t size = (size_t)(width + 2 * padding) * channels, rim = (size_t)padding * channels;
        To* target = out + line * size;
        if (y < 0 || y >= height) {
            std::memset((void*)target, 0, size * sizeof(To));
            return;
        }
        const From* source = x + image * strides[0] + y * strides[1];
        if (infinite && !finite(source)) __atomic_store_n(infinite, 1, __ATOMIC_RELAXED);
        std::memset((void*)target, 0, rim * sizeof(To));
        std::memset((void*)(target + size - rim), 0, rim * sizeof(To));
        target += rim;
        if (strides[3] == 1 && strides[2] == channels) {
            copy_values(source, target, width * channels);
            return;
        }
        if (strides[2] == 1 && channels == 3) return interleave(source, target);
        for (int i = 0; i < width; i++)
            for (int c = 0; c < channels; c++) target[i * channels + c] = converted(source[i * strides[2] + c * strides[3]]);
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
template <typename E>
struct LayerNorm {
    E* x;
    const float *weight, *bias;
    int64_t rows;
    int channels, images;
    float eps;

    size_t weights() const { return 0; }
    void run_image(OneImage at) const {
        LayerNorm one = *this;
        one.rows = rows / images, one.images = 1, one.x += at.of(OneImage::X) * one.rows * channels;
        one.run(1);
    }

    void run(int threads) const {
        const int bands = (int)std::min<int64_t>(rows, 8 * threads);
        in_parallel(threads, 1, [&](Team team) {
            team.share(bands, [&](int band) {
                static thread_local Buffer<float> kept;
                for (int64_t i = rows * band / bands; i < rows * (band + 1) / bands; i++) {
                    E* own = x + i * channels;
                    float* row = kept.at_least(channels);
                    if constexpr (sizeof(E) == sizeof(float)) row = own;
                    else for (int c = 0; c < channels; c++) row[c] = widen(own[c]);
                    normalise(row, channels, eps);
                    if (weight)
                        for (int c = 0; c < channels; c++) row[c] = row[c] * weight[c] + (bias ? bias[c] : 0.f);
                    if constexpr (sizeof(E) != sizeof(float))
                        for (int c = 0; c < channels; c += LANES)
                            store_some(own + c, load_some(row + c, std::min(LANES, channels - c)), std::min(LANES, channels - c));
                }
            });
        });
    }
};

// The mean over positions: x [images][positions][channels] -> out [images][channels].
template <typename E>
struct Mean {
    E* out;
    const E* x;
    int images, positions, channels;

    static constexpr int CHANNELS = 256;  // of a unit

    void run(int threads) const {
        const int parts = (channels + CHANNELS - 1) / CHANNELS;
        in_parallel(threads, 1, [&](Team team) {
            team.share(images * parts, [&](int u) {
                const int image = u / parts, first = u % parts * CHANNELS, last = std::min(channels, first + CHANNELS);
                float sums[CHANNELS] = {};
                for (int i = 0; i < positions; i++) {
                    const E* row = x + ((size_t)image * positions + i) * channels;
                    for (int c = first; c < last; c++) sums[c - first] += widen(row[c]);
                }
                E* target = out + (size_t)image * channels;
                for (int c = first; c < last; c++) target[c] = rounded<E>(sums[c - first] / positions);
            });
        });
    }
};

// The identity of a block whose shortcut takes every stride-th position and puts `before` channels of zeros in front of
// its own, the rest behind: out[images][out_height][out_width][out_channels], activated by a relu where the mask is not.
template <typename E>
struct Subsample {
    E* out;
    const E* x;
    const uint8_t* mask;
    int images, height, width, channels, stride, before, out_height, out_width, out_channels;

    size_t weights() const { return 0; }
    void run_image(OneImage at) const {
        Subsample one = *this;
        const int64_t size = out_height * out_width;
        one.images = 1, one.x += at.of(OneImage::X) * height * width * channels;
        one.out += at.of(OneImage::OUT) * size * out_channels, one.mask += at.of(OneImage::MASK) * size;
        one.run(1);
    }

    void run(int threads) const {
        in_parallel(threads, 1, [&](Team team) {
            team.share(images * out_height, [&](int line) {
                const int image = line / out_height, row = line % out_height * stride;
                for (int column = 0; column < out_width; column++) {
                    const size_t at = (size_t)line * out_width + column;
                    const E* source = x + (((size_t)image * height + row) * width + column * stride) * channels;
                    E* target = out + at * out_channels;
                    std::memset((void*)target, 0, out_channels * sizeof(E));
                    for (int c = 0; c < channels; c++) target[before + c] = !mask[at] && widen(source[c]) < 0 ? E{} : source[c];
                }
            });
        });
    }
};

// The mean of each kernel x kernel window, of those cut off by the border over what is left:
// out[images][out_height][out_width][channels].
template <typename E>
struct AveragePool {
    E* out;
    const E* x;
    int images, height, width, channels, kernel, stride, out_height, out_width;

    size_t weights() const { return 0; }
    void run_image(OneImage at) const {
        AveragePool one = *this;
        one.images = 1, one.x += at.of(OneImage::X) * height * width * channels;
        one.out += at.of(OneImage::OUT) * out_height * out_width * channels;
        one.run(1);
    }

    void run(int threads) const {
        in_parallel(threads, 1, [&](Team team) {
            team.share(images * out_height, [&](int line) {
                const int image = line / out_height, top = line % out_height * stride, bottom = std::min(height, top + kernel);
                for (int column = 0; column < out_width; column++) {
                    const int left = column * stride, right = std::min(width, left + kernel);
                    const float share = 1.0f / ((bottom - top) * (right - left));
                    static thread_local Buffer<float> kept;
                    float* sums = kept.at_least(channels);
                    std::fill(sums, sums + channels, 0.0f);
                    for (int y = top; y < bottom; y++)
                        for (int z = left; z < right; z++) {
                            const E* source = x + (((size_t)image * height + y) * width + z) * channels;
                            for (int c = 0; c < channels; c++) sums[c] += widen(source[c]) * share;
                        }
                    E* target = out + ((size_t)line * out_width + column) * channels;
                    for (int c = 0; c < channels; c++) target[c] = rounded<E>(sums[c]);
                }
            });
        });
    }
};

// The dense network's masks, [images][size.height][size.width]: all positions.
struct Ones {
    uint8_t* mask;
    int images;
    Grid size;

    size_t weights() const { return 0; }
    void run_image(OneImage at) const { std::memset(mask + at.of(OneImage::MASK) * size.size(), 1, size.size()); }
    void run(int) const { std::memset(mask, 1, (size_t)images * size.size()); }
};
