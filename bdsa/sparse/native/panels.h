// Products of float32: tiles of rows times panels, rows by pointer.
#pragma once

#include "rows.h"

constexpr int LINES_AHEAD = 8;  // cache lines of the next tile's rows that are fetched early; the hardware goes on

inline void fetch_early(const float* row, int depth) {
    for (int line = 0; line < std::min(LINES_AHEAD, depth / 16); line++) __builtin_prefetch(row + line * 16, 0, 2);
}

// target[i] = finish(sum over parts of source[i] * matrix) for positions first..last and panels first_panel..last_panel.
// count: one or two parts, of matrices with as many columns; the first one's bias counts. Without positions, sources
// are ROWS, MAP or LINES, and results are in order.
inline void product(const Position* positions, int first, int last, const Part<float>* parts, int count, int first_panel,
                    int last_panel, const Target<float>& target, Finish finish) {
    static thread_local Pointers<float> kept;
    if (first >= last) return;
    const Reading readings[2] = {Reading(parts[0]), Reading(parts[count - 1])};
    const int taps = readings[0].taps + (count == 2 ? readings[1].taps : 0);
    const size_t bytes = parts[0].matrix->bytes() + (count == 2 ? parts[1].matrix->bytes() : 0);
    const int tiles = (last - first + MAX_ROWS - 1) / MAX_ROWS;               // of nearly equal height
    const int a_chunk = std::min(MAX_TILES, 4 + (int)(bytes >> 16));          // large matrices: more rows at once
    const float** table = kept.table.at_least((size_t)a_chunk * taps * MAX_ROWS);
    const bool rim = readings[0].depth != parts[0].matrix->depth;
    float* spares = rim ? kept.rims.at_least((size_t)a_chunk * MAX_ROWS * 3 * readings[0].depth) : nullptr;
    int edges[MAX_TILES + 1];
    for (int tile = 0; tile < tiles; tile += a_chunk) {
        const int here = std::min(a_chunk, tiles - tile);
        for (int t = 0; t <= here; t++) edges[t] = first + (int)((int64_t)(last - first) * (tile + t) / tiles);
        float* spare = spares;
        for (int t = 0; t < here; t++) {
            const float** rows = table + (size_t)t * taps * MAX_ROWS;
            for (int part = 0; part < count; rows += readings[part++].taps * MAX_ROWS)
                point_at(parts[part].source, parts[part].matrix->depth, readings[part], positions, edges[t], edges[t + 1],
                         spare, rows);
        }
        for (int panel = first_panel; panel < last_panel; panel++) {
            const Matrix<float>& main = *parts[0].matrix;
            const int column = panel * PANEL, columns = std::min(PANEL, main.columns - column);
            Summand summands[2];
            for (int part = 0; part < count; part++)
                summands[part] = {parts[part].matrix->panel(panel), readings[part].taps, readings[part].depth,
                                   parts[part].matrix->first_channel(panel)};
            for (int t = 0; t < here; t++) {
                float* out[MAX_ROWS];
                const int rows = edges[t + 1] - edges[t];
                for (int i = 0; i < rows; i++)
                    out[i] = target.row(positions ? positions[edges[t] + i].index : 0, edges[t] + i, panel, PANEL);
                if (taps == 1 && panel == first_panel && t + 1 < here)
                    for (int i = 0; i < edges[t + 2] - edges[t + 1]; i++)
                        fetch_early(table[(size_t)(t + 1) * MAX_ROWS + i], main.depth);
                if (finish.add || panel == first_panel)
                    for (int i = 0; i < rows; i++) {
                        __builtin_prefetch(out[i], 1, 3);
                        __builtin_prefetch(out[i] + LANES, 1, 3);
                    }
                const Multiply multiply = columns > LANES ? multiply_of<2>(rows) : multiply_of<1>(rows);
                const bool ahead = !finish.add && panel + 1 < last_panel && !target.panel_stride;
                multiply(table + (size_t)t * taps * MAX_ROWS, summands, count, main.bias + column, out, columns,
                         Finish{finish.activation, finish.add, ahead});
            }
        }
    }
}
