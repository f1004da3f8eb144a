// A product over a list of positions, shared by the threads of a team: by rows, by columns, or by both.
#pragma once

#include "memory.h"
#include "positions.h"
#include "product.h"

struct Team {
    int thread, threads;
};

// Where the rows of a product come from: for each position and tap a pointer to `depth` floats.
struct Source {
    enum Kind { POSITIONS, IN_ORDER, WINDOWS } kind;
    const float* base;   // [images][height][width][depth], or [rows][depth] IN_ORDER of the list
    Grid grid;           // of the source
    int stride;          // WINDOWS: of the convolution
    int kernel, padding; // WINDOWS: a kernel of kernel x kernel taps; beyond the border is a row of zeros
    const float* zeros;
    int outputs;         // positions an image in the list's own grid
};

// The same for where results go.
struct Target {
    float* base;
    size_t stride;               // floats from row to row
    bool in_order;               // the i-th position's result is row i; else row `index`
    size_t panel_stride = PANEL; // floats from panel to panel: side by side in a row, unless told otherwise
    float* row(int index, int i, int panel) const {
        return base + (size_t)(in_order ? i : index) * stride + (size_t)panel * panel_stride;
    }
};

inline void point_at(const Source& s, const Position& p, int i, int depth, int slot, const float** out) {
    if (s.kind == Source::IN_ORDER) {
        out[slot] = s.base + (size_t)i * depth;
    } else if (s.kind == Source::POSITIONS) {
        out[slot] = s.base + (size_t)p.index * depth;
    } else {
        const float* image = s.base + (size_t)(p.index / s.outputs) * s.grid.size() * depth;
        const int top = p.row * s.stride - s.padding, left = p.column * s.stride - s.padding;
        for (int dy = 0; dy < s.kernel; dy++)
            for (int dx = 0; dx < s.kernel; dx++) {
                const int row = top + dy, column = left + dx;
                const bool inside = (unsigned)row < (unsigned)s.grid.height && (unsigned)column < (unsigned)s.grid.width;
                out[(dy * s.kernel + dx) * MAX_ROWS + slot] =
                    inside ? image + ((size_t)row * s.grid.width + column) * depth : s.zeros;
            }
    }
}

// How a team shares tiles of rows and panels of columns: the split of least work for the busiest member and, among
// equals, of least reading (every group of columns reads all rows, every group of rows all columns).
struct Split {
    int rows, columns;
    Split(int count, const Matrix& matrix, int threads) : rows(threads), columns(1) {
        const double row_bytes = (double)count * matrix.depth, matrix_bytes = (double)matrix.taps * matrix.depth * matrix.columns;
        const int tiles = (count + MAX_ROWS - 1) / MAX_ROWS, panels = matrix.panels();
        double best = -1, best_reading = 0;
        for (int c = 1; c <= threads; c++) {
            if (threads % c) continue;
            const int r = threads / c;
            const double work = (double)((tiles + r - 1) / r) * ((panels + c - 1) / c);
            const double reading = r * matrix_bytes + c * row_bytes;
            if (best < 0 || work < 0.97 * best || (work <= 1.03 * best && reading < best_reading)) {
                best = work, best_reading = reading, rows = r, columns = c;
            }
        }
    }
};

constexpr int MAX_TILES = 32;   // of a chunk: rows whose pointers are made once for all panels
constexpr int LINES_AHEAD = 8;  // cache lines of the next tile's rows that are fetched early; the hardware goes on

inline void fetch_early(const float* row, int depth) {
    for (int line = 0; line < std::min(LINES_AHEAD, depth / 16); line++) __builtin_prefetch(row + line * 16, 0, 2);
}

// This member's part of target[i] = finish(source[i] * matrix) for positions i = 0..count.
// Without positions, source and target are IN_ORDER.
inline void product(const Position* positions, int count, const Source& source, const Matrix& matrix,
                    const Target& target, Finish finish, Team team) {
    static thread_local Buffer<const float*> pointers;
    const int panels = matrix.panels();
    const Split split(count, matrix, team.threads);
    const int r = team.thread % split.rows, c = team.thread / split.rows;
    const int first = (int)((int64_t)count * r / split.rows), last = (int)((int64_t)count * (r + 1) / split.rows);
    const int first_panel = panels * c / split.columns, last_panel = panels * (c + 1) / split.columns;
    if (first == last || first_panel == last_panel) return;
    const int taps = matrix.taps, depth = matrix.depth;
    const size_t matrix_bytes = (size_t)taps * depth * matrix.columns * sizeof(float);
    const int tiles = (last - first + MAX_ROWS - 1) / MAX_ROWS;                        // of nearly equal height
    const int a_chunk = std::min(MAX_TILES, 4 + (int)(matrix_bytes >> 16));            // large matrices: more rows at once
    const float** table = pointers.at_least((size_t)a_chunk * taps * MAX_ROWS);
    int edges[MAX_TILES + 1];
    for (int tile = 0; tile < tiles; tile += a_chunk) {
        const int here = std::min(a_chunk, tiles - tile);
        for (int t = 0; t <= here; t++) edges[t] = first + (int)((int64_t)(last - first) * (tile + t) / tiles);
        for (int t = 0; t < here; t++)
            for (int i = edges[t]; i < edges[t + 1]; i++)
                point_at(source, positions ? positions[i] : Position{}, i, depth, i - edges[t],
                         table + (size_t)t * taps * MAX_ROWS);
        for (int panel = first_panel; panel < last_panel; panel++) {
            const int column = panel * PANEL, columns = std::min(PANEL, matrix.columns - column);
            for (int t = 0; t < here; t++) {
                float* out[MAX_ROWS];
                const int rows = edges[t + 1] - edges[t];
                for (int i = 0; i < rows; i++)
                    out[i] = target.row(positions ? positions[edges[t] + i].index : 0, edges[t] + i, panel);
                if (taps == 1 && panel == first_panel && t + 1 < here)
                    for (int i = 0; i < edges[t + 2] - edges[t + 1]; i++) fetch_early(table[(size_t)(t + 1) * MAX_ROWS + i], depth);
                if (finish.add)
                    for (int i = 0; i < rows; i++) {
                        __builtin_prefetch(out[i], 1, 3);
                        __builtin_prefetch(out[i] + LANES, 1, 3);
                    }
                const Multiply multiply = columns > LANES ? multiply_of<2>(rows) : multiply_of<1>(rows);
                multiply(table + (size_t)t * taps * MAX_ROWS, taps, depth, matrix.panel(panel), matrix.bias + column, out,
                         columns, finish);
            }
        }
    }
}
