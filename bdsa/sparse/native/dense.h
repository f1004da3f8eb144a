// Convolutions of whole maps without padding, for what is dense in every budget: stem, down-sampling between stages.
#pragma once

#include "rows.h"
#include "team.h"

// out[b][i][j] = act(bias + W x[b][i * stride ...][j * stride ...]). A tap is a row of the kernel:
// matrix.taps = kernel height, matrix.depth = kernel width * channels.
struct Dense {
    float* out;      // [images][to.height][to.width][matrix.columns]
    const float* x;  // [images][from.height][from.width][channels], already padded
    const Matrix* matrix;
    int images;
    Grid from, to;
    int channels, stride, activation;

    void run(int threads) const;

    Part part() const {
        Source lines{Source::LINES, x};
        lines.grid = from, lines.stride = stride, lines.outputs = to, lines.channels = channels;
        return {lines, matrix};
    }

    // Outputs first..last, counted over all images, at some panels; rows: the first one's.
    void convolve(int first, int last, int first_panel, int last_panel, float* rows) const {
        const Part all = part();
        const Target target{rows, (size_t)matrix->columns, true, first};
        product(nullptr, first, last, &all, 1, first_panel, last_panel, target, Finish{activation, false});
    }

    // One row of outputs of an image, `line` of all, all panels.
    void convolve_line(int line, float* rows) const {
        const int step = stride * channels;
        if (step == 3) return convolve_images<3>(line, rows);
        if (step == 6) return convolve_images<6>(line, rows);
        if (step == 12) return convolve_images<12>(line, rows);
        convolve(line * to.width, (line + 1) * to.width, 0, matrix->panels(), rows);
    }

private:
    // The same for the layer that reads an image. Outputs that are neighbours read APART floats apart: one pointer
    // serves a whole tile, which leaves registers for more rows.
    template <int APART>
    void convolve_images(int line, float* results) const {
        const float* start = x + ((size_t)(line / to.height) * from.height + line % to.height * stride) * from.width * channels;
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
                for (int i = 0; i < ROWS; i++) {
                    const float value = start[i * APART + k];
                    for (int v = 0; v < VECTORS; v++) sums[i][v] += value * column[v];
                }
            }
        for (int i = 0; i < ROWS; i++, target += matrix->columns)
            finish_row<VECTORS>(sums[i], matrix->bias + panel * PANEL, target, columns, Finish{activation, false});
    }
};

inline void Dense::run(int threads) const {
    const Part all = part();
    in_parallel(threads, 1, [&](Team team) {
        if (channels == 3) {  // an image
            team.share(images * to.height, [&](int line) { convolve_line(line, out + (size_t)line * to.width * matrix->columns); });
            return;
        }
        const Units units(images * to.size(), &all, 1, team.threads);
        team.share(units.count(), [&](int u) {
            const int first = units.first(u);
            convolve(first, units.last(u), units.first_panel(u), units.last_panel(u), out + (size_t)first * matrix->columns);
        });
    });
}

// target = max(target, source), and not a number where one of them is not.
inline void larger(float* target, const float* source, int count) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vector old = load(target + i), other = load(source + i);
        store(target + i, (other > old) | (other != other) ? other : old);
    }
    for (; i < count; i++)
        if (source[i] > target[i] || source[i] != source[i]) target[i] = source[i];
}

// The same convolution, then the largest of each 3x3 window of stride 2 and padding 1. The convolution itself is never
// written: a thread holds three lines of it at a time. inner.out: [images][h][w][columns].
struct DensePool {
    Dense inner;

    Grid size() const { return {(inner.to.height - 1) / 2 + 1, (inner.to.width - 1) / 2 + 1}; }

    // Some lines of one image's outputs.
    void pool(int image, int first, int last, float* lines) const {
        const int columns = inner.matrix->columns;
        const size_t line = (size_t)inner.to.width * columns;
        int next = 0;  // the first line that is not held
        for (int row = first; row < last; row++) {
            const int top = std::max(0, 2 * row - 1), bottom = std::min(inner.to.height - 1, 2 * row + 1);
            for (next = std::max(next, top); next <= bottom; next++)
                inner.convolve_line(image * inner.to.height + next, lines + next % 3 * line);
            for (int column = 0; column < size().width; column++) {
                float* target = inner.out + (((size_t)image * size().height + row) * size().width + column) * columns;
                const int left = std::max(0, 2 * column - 1), right = std::min(inner.to.width - 1, 2 * column + 1);
                std::memcpy(target, lines + top % 3 * line + (size_t)left * columns, columns * sizeof(float));
                for (int y = top; y <= bottom; y++)
                    for (int z = left; z <= right; z++)
                        if (y > top || z > left) larger(target, lines + y % 3 * line + (size_t)z * columns, columns);
            }
        }
    }

    void run(int threads) const {
        const int height = size().height;
        const int bands = inner.images >= 2 * threads ? 1 : std::min(height, 2 * threads);  // of an image: units
        in_parallel(threads, 1, [&](Team team) {
            static thread_local Buffer<float> held;
            float* lines = held.at_least((size_t)3 * inner.to.width * inner.matrix->columns);
            team.share(inner.images * bands, [&](int u) {
                pool(u / bands, height * (u % bands) / bands, height * (u % bands + 1) / bands, lines);
            });
        });
    }
};
