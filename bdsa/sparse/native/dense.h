// Convolutions of whole maps without padding, for what is dense in every budget: stem, down-sampling between stages.
#pragma once

#include "group.h"
#include "products.h"
#include "team.h"

// out[b][i][j] = act(bias + W x[b][i * stride ...][j * stride ...]). A tap is a row of the kernel:
// matrix.taps = kernel height, matrix.depth = kernel width * channels. T: of the results, float where E is.
template <typename E, typename T>
struct Dense {
    T* out;      // [images][to.height][to.width][matrix.columns]
    const E* x;  // [images][from.height][from.width][channels], already padded
    const Matrix<E>* matrix;
    int images;
    Grid from, to;
    int channels, stride, activation;

    void run(int threads) const;
    size_t weights() const { return matrix->bytes(); }
    Dense of(OneImage at, int64_t results) const {
        Dense one = *this;
        one.images = 1, one.x += at.of(OneImage::X) * from.size() * channels, one.out += at.of(OneImage::OUT) * results;
        return one;
    }
    void run_image(OneImage at) const { of(at, (int64_t)to.size() * matrix->columns).run(1); }

    bool of_image() const { return channels <= FEW; }

    Part<E> part() const {
        if (from.size() == 1) return {{Source<E>::MAP, x}, matrix};  // an image is a row
        Source<E> lines{Source<E>::LINES, x};
        lines.grid = from, lines.stride = stride, lines.outputs = to, lines.channels = channels;
        return {lines, matrix};
    }

    // Outputs first..last, counted over all images, at some panels; rows: the first one's.
    void convolve(int first, int last, int first_panel, int last_panel, T* rows) const {
        const Part<E> all = part();
        const Target<T> target(rows, (size_t)matrix->columns, Target<T>::IN_ORDER, first);
        product(nullptr, first, last, &all, 1, first_panel, last_panel, target, Finish{activation, false});
    }

    // One row of outputs of an image, `line` of all, all panels.
    void convolve_line(int line, T* rows) const {
        if constexpr (sizeof(E) == sizeof(float)) {
            const int step = stride * channels;
            if (step == 3) return convolve_images<3>(line, rows);
            if (step == 6) return convolve_images<6>(line, rows);
            if (step == 12) return convolve_images<12>(line, rows);
        } else if (of_image()) return convolve_in_place(line, rows);
        convolve(line * to.width, (line + 1) * to.width, 0, matrix->panels(), rows);
    }

private:
    static constexpr int FEW = 4;  // channels of an image, at most

    const E* line_of(int line) const {
        return x + ((size_t)(line / to.height) * from.height + line % to.height * stride) * from.width * channels;
    }

    // Of bfloat16, for the layer that reads an image: tiles are read where they lie. A step takes 32 values of a row
    // where the kernel has fewer: those beyond meet zeros of the matrix, and must be within the map.
    void convolve_in_place(int line, T* results) const {
        const E* start = line_of(line);
        const size_t apart = (size_t)stride * channels, left = x + images * (size_t)from.size() * channels - start;
        const Tap each = matrix->tap();
        alignas(64) float sums[TILE_ROWS * TILE_COLUMNS], padding[TILE_COLUMNS];
        for (int first = 0; first < to.width; first += TILE_ROWS) {
            const int rows = std::min(TILE_ROWS, to.width - first);
            const size_t end = (size_t)(matrix->taps - 1) * from.width * channels +
                               (first + (rows + ROWS_READ - 1) / ROWS_READ * ROWS_READ) * apart + matrix->padded();
            if (matrix->taps > MOST_TAPS || end > left) {  // beyond the last image's end
                convolve(line * to.width + first, line * to.width + first + rows, 0, matrix->panels(),
                         results + (size_t)first * matrix->columns);
                continue;
            }
            Operand<E> operands[MOST_TAPS];
            for (int panel = 0; panel < matrix->panels(); panel++) {
                for (int tap = 0; tap < matrix->taps; tap++)
                    operands[tap] = {start + (size_t)tap * from.width * channels + first * apart, apart, TILE_DEPTH<E>,
                                     matrix->panel(panel) + tap * each.steps * PANEL_STEP<E>, each.steps, each};
                const int column = panel * TILE_COLUMNS, columns = std::min(TILE_COLUMNS, matrix->columns - column);
                const float* bias = of_panel(matrix->bias, *matrix, panel, padding);
                multiply_tile(operands, matrix->taps, rows, columns, {bias}, sums);
                T* out[TILE_ROWS];
                for (int i = 0; i < rows; i++) out[i] = results + (size_t)(first + i) * matrix->columns + column;
                finish_tile(sums, out, 0, rows, columns, false, Finish{activation, false}, {bias, bias, {}});
            }
        }
    }

    // Of float32, for the layer that reads an image. Outputs that are neighbours read APART values apart: one pointer
    // serves a whole tile, which leaves registers for more rows.
    template <int APART>
    void convolve_images(int line, float* results) const {
        const float* start = line_of(line);
        for (int panel = 0; panel < matrix->panels(); panel++) {
            const int column = panel * PANEL, columns = std::min(PANEL, matrix->columns - column);
            const int most = columns > LANES ? ROWS_OF_2 : ROWS_OF_1, tiles = (to.width + most - 1) / most;
            for (int t = 0; t < tiles; t++) {
                const int first = to.width * t / tiles, rows = to.width * (t + 1) / tiles - first;
                float* target = results + (size_t)first * matrix->columns + column;
                const float* source = start + (size_t)first * APART;
                if (columns > LANES) line_multiply<APART, ROWS_OF_2, 2>(rows, source, panel, target, columns);
                else line_multiply<APART, ROWS_OF_1, 1>(rows, source, panel, target, columns);
            }
        }
    }

    static constexpr int MOST_TAPS = 8;
    static constexpr int ROWS_OF_2 = MAX_ROWS + MAX_ROWS / 6;  // 14 x 2 accumulators with AVX-512
    static constexpr int ROWS_OF_1 = MAX_ROWS + MAX_ROWS / 3;  // 16

    template <int APART, int ROWS, int VECTORS>
    void line_multiply(int rows, const float* start, int panel, float* target, int columns) const {
        if constexpr (ROWS > 1) {
            if (rows < ROWS) return line_multiply<APART, ROWS - 1, VECTORS>(rows, start, panel, target, columns);
        }
        Vector sums[ROWS][VECTORS] = {};
        const float* weights = matrix->panel(panel);
        for (int tap = 0; tap < matrix->taps; tap++, start += (size_t)from.width * channels)
            for (int k = 0; k < matrix->depth; k++, weights += PANEL) {
                Vector column[VECTORS];
                for (int v = 0; v < VECTORS; v++) column[v] = load(weights + v * LANES);
#pragma GCC unroll 16
                for (int i = 0; i < ROWS; i++) {
                    const Vector value = broadcast(start[i * APART + k]);
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; v++) sums[i][v] = multiply_add(value, column[v], sums[i][v]);
                }
            }
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++, target += matrix->columns)
            finish_row<VECTORS>(sums[i], matrix->bias + panel * PANEL, target, columns, Finish{activation, false});
    }
};

template <typename E, typename T>
void Dense<E, T>::run(int threads) const {
    const Part<E> all = part();
    in_parallel(threads, 1, [&](Team team) {
        const Registers<E> registers;
        if (of_image()) {
            team.share(images * to.height, [&](int line) { convolve_line(line, out + (size_t)line * to.width * matrix->columns); });
            return;
        }
        const Units<E> units(images * to.size(), &all, 1, team.threads);
        team.share(units.count(), [&](int u) {
            const int first = units.first(u);
            convolve(first, units.last(u), units.first_panel(u), units.last_panel(u), out + (size_t)first * matrix->columns);
        });
    });
}

// The larger of two vectors, and not a number where one of them is not.
inline Vector larger(Vector a, Vector b) { return (b > a) | (b != b) ? b : a; }

// out = max(a, b, c), and not a number where one of them is not. positive: no value is below zero.
inline void largest(float* out, const float* a, const float* b, const float* c, int count, bool) {
    for (int i = 0; i < count; i += LANES) {
        const int some = std::min(LANES, count - i);
        store_some(out + i, larger(larger(load_some(a + i, some), load_some(b + i, some)), load_some(c + i, some)), some);
    }
}

// Values above zero have the order of their bits as integers; what is not a number is the largest.
inline void largest(Bfloat16* out, const Bfloat16* a, const Bfloat16* b, const Bfloat16* c, int count, bool positive) {
    if (!positive) {
        for (int i = 0; i < count; i++) {
            const float two = widen(b[i]) > widen(a[i]) || widen(b[i]) != widen(b[i]) ? widen(b[i]) : widen(a[i]);
            out[i] = narrow(widen(c[i]) > two || widen(c[i]) != widen(c[i]) ? widen(c[i]) : two);
        }
        return;
    }
    for (int i = 0; i < count; i++) {
        const int16_t first = a[i].bits & 0x7FFF, second = b[i].bits & 0x7FFF, third = c[i].bits & 0x7FFF;
        const int16_t two = std::max(first, second);
        out[i].bits = std::max(two, third);
    }
}

// The same convolution, then the largest of each 3x3 window of stride 2 and padding 1. The convolution itself is never
// written: a thread holds three lines of it at a time, and what is largest of them. inner.out: [images][h][w][columns].
template <typename E>
struct DensePool {
    Dense<E, E> inner;

    int count() const { return inner.images; }
    size_t weights() const { return inner.weights(); }
    void run_image(OneImage at) const { DensePool{inner.of(at, (int64_t)size().size() * inner.matrix->columns)}.run(1); }

    Grid size() const { return {(inner.to.height - 1) / 2 + 1, (inner.to.width - 1) / 2 + 1}; }

    // Some lines of one image's outputs.
    void pool(int image, int first, int last, E* lines) const {
        const int columns = inner.matrix->columns;
        const bool positive = inner.activation == RELU;
        const size_t line = (size_t)inner.to.width * columns;
        int next = 0;  // the first line that is not held
        for (int row = first; row < last; row++) {
            const int top = std::max(0, 2 * row - 1), bottom = std::min(inner.to.height - 1, 2 * row + 1);
            for (next = std::max(next, top); next <= bottom; next++)
                inner.convolve_line(image * inner.to.height + next, lines + next % 3 * line);
            E* down = lines + 3 * line;  // the largest of each column of the three lines
            const auto held = [&](int y) { return lines + y % 3 * line; };
            largest(down, held(top), held(top + 1 < bottom ? top + 1 : top), held(bottom), (int)line, positive);
            for (int column = 0; column < size().width; column++) {
                E* target = inner.out + (((size_t)image * size().height + row) * size().width + column) * columns;
                const int left = std::max(0, 2 * column - 1), right = std::min(inner.to.width - 1, 2 * column + 1);
                const auto at = [&](int x) { return down + (size_t)x * columns; };
                largest(target, at(left), at(left + 1 < right ? left + 1 : left), at(right), columns, positive);
            }
        }
    }

    void run(int threads) const {
        const int height = size().height;
        const int bands = inner.images >= 2 * threads ? 1 : std::min(height, 2 * threads);  // of an image: units
        in_parallel(threads, 1, [&](Team team) {
            const Registers<E> registers;
            static thread_local Buffer<E> held;
            E* lines = held.at_least((size_t)4 * inner.to.width * inner.matrix->columns);
            team.share(inner.images * bands, [&](int u) {
                pool(u / bands, height * (u % bands) / bands, height * (u % bands + 1) / bands, lines);
            });
        });
    }
};
