// A mask unit on its own: conv3x3(x) + linear(mean of x), for maps of so few channels that a board's products would be
// larger than the map.
#pragma once

#include "positions.h"

struct Unit {
    const float* taps;     // [9][channels]
    const float* context;  // [channels]
    int channels, stride;
    float offset;

    // The bias of one image's logits, with the linear layer's part. map: [height][width][channels].
    float bias(const float* map, Grid from) const {
        float total = 0;
        int c = 0;
        for (; c + LANES <= channels; c += LANES) {
            Vector sum = {};
            for (int i = 0; i < from.size(); i++) sum += load(map + (size_t)i * channels + c);
            total += sum_of(sum * load(context + c));
        }
        for (; c < channels; c++) {
            float sum = 0;
            for (int i = 0; i < from.size(); i++) sum += map[(size_t)i * channels + c];
            total += sum * context[c];
        }
        return offset + total / from.size();
    }

    // Rows first..last of one image's logits and of its mask.
    void decide(const float* map, Grid from, Grid to, float bias, int first, int last, float* logits, uint8_t* mask) const {
        for (int row = first; row < last; row++) {
            const int top = std::max(0, 1 - row * stride), bottom = std::min(3, from.height + 1 - row * stride);
            for (int column = 0; column < to.width; column++) {
                const int left = std::max(0, 1 - column * stride), right = std::min(3, from.width + 1 - column * stride);
                const int across = (right - left) * channels;  // of a kernel's row, side by side
                Vector sums = {};
                float rest = 0;
                for (int dy = top; dy < bottom; dy++) {
                    const float* line = map + ((size_t)(row * stride + dy - 1) * from.width + column * stride + left - 1) * channels;
                    const float* weights = taps + (size_t)(dy * 3 + left) * channels;
                    int k = 0;
                    for (; k + LANES <= across; k += LANES) sums += load(line + k) * load(weights + k);
                    for (; k < across; k++) rest += line[k] * weights[k];
                }
                const float logit = bias + rest + sum_of(sums);
                logits[(size_t)row * to.width + column] = logit;
                mask[(size_t)row * to.width + column] = logit >= 0;
            }
        }
    }
};
