// A mask unit on its own: conv3x3(x) + linear(mean of x), for maps of so few channels that a board's products would be
// larger than the map.
#pragma once

#include "bfloat16.h"
#include "group.h"
#include "positions.h"
#include "team.h"

template <typename E>
struct Unit {
    const float* taps;     // [9][channels]
    const float* context;  // [channels]
    int channels, stride;
    float offset;

    // The bias of one image's logits, with the linear layer's part. map: [height][width][channels].
    float bias(const E* map, Grid from) const {
        float total = 0;
        int c = 0;
        for (; c + LANES <= channels; c += LANES) {
            Vector sum = {};
            for (int i = 0; i < from.size(); i++) sum += load(map + (size_t)i * channels + c);
            total += sum_of(sum * load(context + c));
        }
        for (; c < channels; c++) {
            float sum = 0;
            for (int i = 0; i < from.size(); i++) sum += widen(map[(size_t)i * channels + c]);
            total += sum * context[c];
        }
        return offset + total / from.size();
    }

    // Rows first..last of one image's logits and of its mask.
    void decide(const E* map, Grid from, Grid to, float bias, int first, int last, float* logits, uint8_t* mask) const {
        const int inner = std::min(to.width, (from.width - 2) / stride + 1);  // columns whose window ends within the map
        for (int row = first; row < last; row++) {
            float* line = logits + (size_t)row * to.width;
            const int top = std::max(0, 1 - row * stride), bottom = std::min(3, from.height + 1 - row * stride);
            const auto dots = channels == LANES ? &Unit::dots<3> : channels == 2 * LANES ? &Unit::dots<6> : &Unit::dots<0>;
            (this->*dots)(map, from, row, top, bottom, 1, inner, bias, line);
            for (int column = 0; column < to.width; column = column ? column + 1 : std::max(1, inner)) {
                const int left = std::max(0, 1 - column * stride), right = std::min(3, from.width + 1 - column * stride);
                line[column] = bias;
                for (int dy = top; dy < bottom; dy++) {
                    const size_t at = (size_t)(row * stride + dy - 1) * from.width + column * stride + left - 1;
                    const float* weights = taps + (size_t)(dy * 3 + left) * channels;
                    line[column] += dot(map + at * channels, weights, (right - left) * channels);
                }
            }
            uint8_t* decided = mask + (size_t)row * to.width;
            for (int column = 0; column < to.width; column++) decided[column] = line[column] >= 0;
        }
    }

private:
    static float dot(const E* a, const float* b, int count) {
        Vector sums = {};
        float rest = 0;
        int k = 0;
        for (; k + LANES <= count; k += LANES) sums += load(a + k) * load(b + k);
        for (; k < count; k++) rest += widen(a[k]) * b[k];
        return rest + sum_of(sums);
    }

    // Columns first..last of a row, whose windows lie within the map from left to right. VECTORS: of a kernel's row, whose
    // columns and channels lie side by side; 0: any number.
    template <int VECTORS>
    void dots(const E* map, Grid from, int row, int top, int bottom, int first, int last, float bias, float* out) const {
        for (int column = first; column < last; column++) {
            float logit = bias;
            Vector sums[3] = {};
            for (int dy = top; dy < bottom; dy++) {
                const E* x = map + ((size_t)(row * stride + dy - 1) * from.width + column * stride - 1) * channels;
                const float* weights = taps + (size_t)dy * 3 * channels;
                if constexpr (VECTORS > 0)
                    for (int v = 0; v < VECTORS; v++) sums[v % 3] += load(x + v * LANES) * load(weights + v * LANES);
                else
                    logit += dot(x, weights, 3 * channels);
            }
            out[column] = logit + (VECTORS ? sum_of(sums[0] + sums[1] + sums[2]) : 0.0f);
        }
    }
};

// Logits and masks [images][to.height][to.width] of maps x [images][from.height][from.width][channels].
template <typename E>
struct UnitDecision {
    float* logits;
    uint8_t* mask;
    const E* x;
    Unit<E> unit;
    int images;
    Grid from, to;

    size_t weights() const { return 0; }
    void run_image(OneImage at) const {
        UnitDecision one = *this;
        one.images = 1, one.x += at.of(OneImage::X) * from.size() * unit.channels;
        one.logits += at.of(OneImage::LOGITS) * to.size(), one.mask += at.of(OneImage::MASK) * to.size();
        one.run(1);
    }

    void run(int threads) const {
        in_bands(threads, images, to.height, [&](int image, int first, int last) {
            const E* map = x + (size_t)image * from.size() * unit.channels;
            const size_t at = (size_t)image * to.size();
            unit.decide(map, from, to, unit.bias(map, from), first, last, logits + at, mask + at);
        });
    }
};
