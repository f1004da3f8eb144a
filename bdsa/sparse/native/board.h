// Products of a map's positions with the columns of several mask units, kept while blocks change the map.
//
// A unit's logits are conv3x3(x) + linear(mean of x): per position ten products, nine taps and the linear layer,
// summed up over neighbours afterwards. The units of the blocks that follow each other look at the same map but for
// the positions that the blocks between them changed, so all their products are made in one reading of the map, and
// made anew only where a block ran.
#pragma once

#include "group.h"
#include "products.h"
#include "team.h"

template <typename E>
struct Board {
    static constexpr int PANEL = Shape<E>::PANEL;
    const Matrix<E>* matrix;  // depth: channels; columns: ten a unit, no unit in two panels
    float* products;       // [panels][positions][PANEL]
    int64_t positions;     // of all images
    int columns;           // from here on are those of units that have decided already

    // The same from a position on.
    Board after(int64_t position) const {
        Board rest = *this;
        rest.products += position * PANEL;
        return rest;
    }

    // New products for rows first..last of `rows`, or of the list of positions, of maps [count][channels] whose first
    // row is position `from`.
    void update(const E* maps, const Position* list, int first, int last, int64_t from) const {
        Matrix<E> left = *matrix;
        left.columns = columns;
        const Part<E> part{{list ? Source<E>::POSITIONS : Source<E>::MAP, maps}, &left};
        const Target<float> target(products + from * PANEL, PANEL, list ? Target<float>::BY_INDEX : Target<float>::IN_ORDER, 0,
                                   (size_t)positions * PANEL);
        product(list, first, last, part, target, Finish{NONE, false});
    }

    // The same for `count` rows of maps, shared by a team.
    void update(const E* maps, const Position* list, int count, int64_t from, Team& team) const {
        const Units<E> units = cut(count, team.threads);
        team.share(units.count(), [&](int u) { update(maps, list, units.first(u), units.last(u), from); });
        team.wait();
    }

    Units<E> cut(int count, int threads) const {
        const Part<E> part{{Source<E>::MAP, nullptr}, matrix};
        return Units<E>(count, &part, 1, threads, true);
    }

    // Columns first..last of a row of logits, all of whose windows lie within the map.
    template <int COUNT>
    static void sum_inner(const float* const* lines, int first, int last, int stride, float offset, float* out) {
        for (int i = first; i < last; i++) {
            float sum = offset;
            for (int line = 0; line < COUNT; line++) {
                const float* taps = lines[line] + (size_t)i * stride * PANEL;
                sum = sum + taps[1] + taps[-PANEL] + taps[PANEL + 2];
            }
            out[i] = sum;
        }
    }

    // Any columns.
    static void sum_taps(const float* const* lines, int count, int first, int last, int stride, int width, float offset,
                         float* out) {
        for (int i = first; i < last; i++) {
            out[i] = offset;
            for (int line = 0; line < count; line++) {
                const float* taps = lines[line] + (size_t)i * stride * PANEL;
                out[i] += taps[1];
                if (i > 0) out[i] += taps[-PANEL];
                if (i * stride + 1 < width) out[i] += taps[PANEL + 2];
            }
        }
    }

    // Rows first..last of one image's logits and of its mask.
    void decide(int image, Grid from, Grid to, int panel, int column, float offset, int stride, int first, int last,
                float* logits, uint8_t* mask) const {
        const float* own = products + ((size_t)panel * positions + (size_t)image * from.size()) * PANEL + column;
        for (int row = first; row < last; row++) {
            float* line = logits + (size_t)row * to.width;
            const float* lines[3];  // the kernel's rows within the map, each at its left column
            int count = 0;
            for (int dy = 0; dy < 3; dy++)
                if (const int y = row * stride + dy - 1; (unsigned)y < (unsigned)from.height)
                    lines[count++] = own + (size_t)y * from.width * PANEL + dy * 3;
            const int inner = std::max(1, std::min(to.width, (from.width - 2) / stride + 1));  // columns with a right neighbour
            sum_taps(lines, count, 0, 1, stride, from.width, offset, line);
            if (count == 3) sum_inner<3>(lines, 1, inner, stride, offset, line);
            else sum_inner<2>(lines, 1, count == 2 ? inner : 1, stride, offset, line);
            sum_taps(lines, count, count == 1 ? 1 : inner, to.width, stride, from.width, offset, line);
            uint8_t* decided = mask + (size_t)row * to.width;
            for (int i = 0; i < to.width; i++) decided[i] = line[i] >= 0;
        }
    }

    // The bias of one image's logits, with the linear layer's part.
    float context(int image, Grid from, int panel, int column, float offset) const {
        const float* own = products + ((size_t)panel * positions + (size_t)image * from.size()) * PANEL + column + 9;
        double total = 0;
        for (int i = 0; i < from.size(); i++) total += own[(size_t)i * PANEL];
        return offset + (float)(total / from.size());
    }
};

// Products of every position of x [images][height][width][channels] with the units' columns.
template <typename E>
struct Products {
    const E* x;
    const Board<E>* board;
    int images;

    size_t weights() const { return board->matrix->bytes(); }
    void run_image(OneImage at) const {
        const int size = (int)(board->positions / images);
        const Registers<E> registers;
        board->after(at.of(OneImage::PRODUCTS) * size)
            .update(x + at.of(OneImage::X) * size * board->matrix->depth, nullptr, 0, size, 0);
    }

    void run(int threads) const {
        in_parallel(threads, 1, [&](Team team) {
            const Registers<E> registers;
            board->update(x, nullptr, (int)board->positions, 0, team);
        });
    }
};

// One unit's logits [images][to.height][to.width] from the products, and its mask: where they are not negative.
template <typename E>
struct Decision {
    float* logits;
    uint8_t* mask;
    const Board<E>* board;
    int images;
    Grid from, to;
    int panel, column, stride;
    float offset;

    size_t weights() const { return 0; }
    void run_image(OneImage at) const {
        Decision one = *this;
        const Board<E> own = board->after(at.of(OneImage::PRODUCTS) * from.size());
        one.images = 1, one.board = &own;
        one.logits += at.of(OneImage::LOGITS) * to.size(), one.mask += at.of(OneImage::MASK) * to.size();
        one.run(1);
    }

    void run(int threads) const {
        in_bands(threads, images, to.height, [&](int image, int first, int last) {
            const float bias = board->context(image, from, panel, column, offset);
            const size_t at = (size_t)image * to.size();
            board->decide(image, from, to, panel, column, bias, stride, first, last, logits + at, mask + at);
        });
    }
};
