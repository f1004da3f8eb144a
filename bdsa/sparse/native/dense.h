// Convolutions of whole maps without padding, for what is dense in every budget: stem, down-sampling between stages.
#pragma once

#include "rows.h"
#include "team.h"

// out[b][i][j] = act(bias + W x[b][i * stride ...][j * stride ...]). A tap is a row of the kernel:
// matrix.taps = kernel height, matrix.depth = kernel width * channels.
struct Dense {
    const float* x;  // [images][height][width][channels], already padded
    Grid from;
    int channels, stride;
    const Matrix* matrix;
    Grid to;

    Part part() const {
        Source lines{Source::LINES, x};
        lines.grid = from, lines.stride = stride, lines.outputs = to, lines.channels = channels;
        return {lines, matrix};
    }

    // Outputs first..last, counted over all images, at some panels; out: the first one's row.
    void convolve(int first, int last, int first_panel, int last_panel, float* out, int activation) const {
        const Part all = part();
        const Target target{out, (size_t)matrix->columns, true, first};
        product(nullptr, first, last, &all, 1, first_panel, last_panel, target, Finish{activation, false});
    }

    // One row of outputs of an image, `line` of all, all panels.
    void convolve_line(int line, float* out, int activation) const {
        const int step = stride * channels;
        if (step == 3) return convolve_images<3>(line, out, activation);
        if (step == 6) return convolve_images<6>(line, out, activation);
        if (step == 12) return convolve_images<12>(line, out, activation);
        convolve(line * to.width, (line + 1) * to.width, 0, matrix->panels(), out, activation);
    }

private:
    // The same for the layer that reads an image. Outputs that are neighbours read STEP floats apart: one pointer
    // serves a whole tile, which leaves registers for more rows.
    template <int STEP>
    void convolve_images(int line, float* out, int activation) const {
        const float* start = x + ((size_t)(line / to.height) * from.height + line % to.height * stride) * from.width * channels;
        for (int panel = 0; panel < matrix->panels(); panel++) {
            const int column = panel * PANEL, columns = std::min(PANEL, matrix->columns - column);
            const int most = columns > LANES ? ROWS_OF_2 : ROWS_OF_1, tiles = (to.width + most - 1) / most;
            for (int t = 0; t < tiles; t++) {
                const int first = to.width * t / tiles, rows = to.width * (t + 1) / tiles - first;
                float* target = out + (size_t)first * matrix->columns + column;
                const float* source = start + (size_t)first * STEP;
                if (columns > LANES) line_multiply<STEP, ROWS_OF_2, 2>(rows, source, panel, target, columns, activation);
                else line_multiply<STEP, ROWS_OF_1, 1>(rows, source, panel, target, columns, activation);
            }
        }
    }

    static constexpr int ROWS_OF_2 = MAX_ROWS + MAX_ROWS / 6;  // 14 x 2 accumulators with AVX-512
    static constexpr int ROWS_OF_1 = MAX_ROWS + MAX_ROWS / 3;  // 16

    template <int STEP, int ROWS, int VECTORS>
    void line_multiply(int rows, const float* start, int panel, float* out, int columns, int activation) const {
        if constexpr (ROWS > 1) {
            if (rows < ROWS) return line_multiply<STEP, ROWS - 1, VECTORS>(rows, start, panel, out, columns, activation);
        }
        Vector sums[ROWS][VECTORS] = {};
        const float* weights = matrix->panel(panel);
        for (int tap = 0; tap < matrix->taps; tap++, start += (size_t)from.width * channels)
            for (int k = 0; k < matrix->depth; k++, weights += PANEL) {
                Vector column[VECTORS];
                for (int v = 0; v < VECTORS; v++) column[v] = load(weights + v * LANES);
                for (int i = 0; i < ROWS; i++) {
                    const float value = start[i * STEP + k];
                    for (int v = 0; v < VECTORS; v++) sums[i][v] += value * column[v];
                }
            }
        for (int i = 0; i < ROWS; i++, out += matrix->columns)
            finish_row<VECTORS>(sums[i], matrix->bias + panel * PANEL, out, columns, Finish{activation, false});
    }
};

// target = max(target, source)
inline void larger(float* target, const float* source, int count) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) store(target + i, at_least(load(target + i), load(source + i)));
    for (; i < count; i++) target[i] = std::max(target[i], source[i]);
}
