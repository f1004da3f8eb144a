// An exact budget for every image: the lowest threshold at which what a block costs, and what the blocks behind it are
// expected to cost, still fits into what the image may spend (bdsa/method/exact.py).
//
// Nothing is sorted: the threshold is found by bisection over the numbers that a float can be. Each trial counts the
// scores that reach it, which vectors do at the speed of the nearest cache.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "group.h"
#include "team.h"

struct Exact {
    uint8_t* mask;                 // [images][to.height][to.width]
    double* left;                  // [images], MACs that an image may still spend
    const float* logits;           // as the mask
    const double *offsets, *ahead; // [points], ascending; what the blocks behind are expected to spend there
    int images;
    Grid to, wide;                 // of the decision, and of the map where the layers at D(m) run
    int stride, reach, points;     // stride and dilation, on that map, of the convolution that reads these layers
    int64_t macs, dilated_macs;    // of a position at m, and at D(m), or 0
    double start, scale, moved;    // all that an image may spend, at the first block, else below zero; see `Ahead`

    // What a block costs whose mask is all ones.
    int64_t all() const { return macs * to.size() + (dilated_macs ? dilated_macs * wide.size() : 0); }

    size_t weights() const { return 0; }
    void run_image(OneImage at) const {
        Exact one = *this;
        one.images = 1, one.left += at.image;
        one.logits += at.of(OneImage::LOGITS) * to.size(), one.mask += at.of(OneImage::MASK) * to.size();
        one.decide(0);
    }

    void run(int threads) const {
        in_parallel(threads, 1, [&](Team team) { team.share(images, [&](int image) { decide(image); }); });
    }

private:
    void decide(int image) const {
        static thread_local Buffer<float> scores, lines;
        const int count = to.size(), wide_count = dilated_macs ? wide.size() : 0;
        const float* own = logits + (size_t)image * count;
        const float* dilated = dilated_macs ? dilate(own, scores.at_least(wide_count), lines) : nullptr;
        const double purse = start >= 0 ? start : left[image];
        const auto cost = [&](float threshold) {
            return (double)(macs * reaching(own, count, threshold) +
                            dilated_macs * reaching(dilated, wide_count, threshold));
        };
        // From no position at all down to all: scores at D(m) are scores at m too, or none.
        int refused = key(*std::min_element(own, own + count)) - 1, paid = key(std::numeric_limits<float>::infinity());
        while (paid - (int64_t)refused > 1) {
            const int middle = (int)((paid + (int64_t)refused) >> 1);
            const float threshold = value(middle);
            (cost(threshold) + behind(threshold) <= purse ? paid : refused) = middle;
        }
        const float threshold = value(paid);
        uint8_t* decided = mask + (size_t)image * count;
        for (int i = 0; i < count; i++) decided[i] = own[i] >= threshold;
        left[image] = purse - cost(threshold);
    }

    // What the blocks behind are expected to spend at a threshold.
    double behind(float threshold) const {
        if (points == 1) return scale * ahead[0];
        const double wanted = moved - (double)threshold;
        const int above = (int)(std::lower_bound(offsets, offsets + points, wanted) - offsets);
        const int after = std::min(std::max(above, 1), points - 1);
        const double o1 = offsets[after - 1], o2 = offsets[after], c1 = ahead[after - 1], c2 = ahead[after];
        return scale * (c1 + (c2 - c1) * std::min(std::max((wanted - o1) / (o2 - o1), 0.0), 1.0));
    }

    static int64_t reaching(const float* scores, int count, float threshold) {
        int found = 0;
        for (int i = 0; i < count; i++) found += scores[i] >= threshold;
        return found;
    }

    // The best score that needs each position at D(m), [wide.height][wide.width]; where none does, below all scores.
    const float* dilate(const float* own, float* out, Buffer<float>& lines) const {
        constexpr float NONE = -std::numeric_limits<float>::infinity();
        float* line = lines.at_least(wide.width);
        std::fill(out, out + wide.size(), NONE);
        for (int row = 0; row < to.height; row++) {
            const float* scored = own + (size_t)row * to.width;
            std::fill(line, line + wide.width, NONE);
            for (int shift = -reach; shift <= reach; shift += reach) {  // to the columns beside
                const int first = shift < 0 ? (-shift + stride - 1) / stride : 0;
                const int last = std::min(to.width, (wide.width - 1 - shift) / stride + 1);
                float* target = line + shift;
                if (stride == 1)
                    for (int i = first; i < last; i++) target[i] = std::max(target[i], scored[i]);
                else
                    for (int i = first; i < last; i++) target[i * stride] = std::max(target[i * stride], scored[i]);
            }
            for (int shift = -reach; shift <= reach; shift += reach) {  // then to the rows above and below
                const int near = row * stride + shift;
                if (near < 0 || near >= wide.height) continue;
                float* target = out + (size_t)near * wide.width;
                for (int i = 0; i < wide.width; i++) target[i] = std::max(target[i], line[i]);
            }
        }
        return out;
    }

    // Floats in their order, as whole numbers, and back.
    static int key(float x) {
        int bits;
        std::memcpy(&bits, &x, sizeof bits);
        return bits < 0 ? bits ^ 0x7fffffff : bits;
    }
    static float value(int key) {
        const int bits = key < 0 ? key ^ 0x7fffffff : key;
        float x;
        std::memcpy(&x, &bits, sizeof x);
        return x;
    }
};
