// Products of selected rows with packed matrices: out[i] = act(bias + sum over parts and taps of row[i][tap] * W[tap]).
//
// Rows are given by pointers, so that nothing is gathered: a tap of a convolution is the row of a neighbouring
// position, or a row of zeros beyond the border. A matrix is packed in panels of two vectors of columns,
// [panels][taps * depth][2 * LANES], padded with zeros; of shorter types as `tiles.h` wants it. A block's last layer and its
// shortcut are two parts of one product: their sum never leaves the registers.
#pragma once

#include <algorithm>

#include "tiles.h"

constexpr int PANEL = 2 * LANES;
constexpr int AHEAD = 48;  // rows of a panel that are fetched before they are needed: a core cannot hide the wait itself

constexpr int STEP = 16, FETCHED_A_STEP = 3;  // so many columns of the rows, then so many places of results are fetched

// How a type is multiplied: columns of a panel, rows of a tile, and what the depth of a tap is padded to.
template <typename E>
struct Shape {
    static constexpr int PANEL = TILE_COLUMNS, ROWS = TILE_ROWS, DEPTH = TILE_DEPTH<E>;
};
template <>
struct Shape<float> {
    static constexpr int PANEL = ::PANEL, ROWS = MAX_ROWS, DEPTH = 1;
};

template <typename E>
struct Matrix {
    static constexpr int PANEL = Shape<E>::PANEL;
    const E* packed;
    const float* bias;  // [columns]
    int taps, depth, columns;
    int group = 0, channels = 0;  // of a grouped convolution: a panel has only the channels that its columns read
    const float* scale = nullptr; // of int8: what one of a sum is worth, [columns]
    Bytes rows = {};              // of int8: what it is multiplied with
    int first_channel(int panel) const { return group ? std::min(panel * PANEL / group * group, channels - depth) : 0; }
    int panels() const { return (columns + PANEL - 1) / PANEL; }
    int padded() const { return (depth + Shape<E>::DEPTH - 1) / Shape<E>::DEPTH * Shape<E>::DEPTH; }
    Tap tap() const {  // of shorter types
        constexpr int WORD = 4 / sizeof(E);
        const int steps = padded() / Shape<E>::DEPTH, rest = depth - (steps - 1) * Shape<E>::DEPTH;
        return {steps, (rest + WORD - 1) / WORD};
    }
    size_t bytes() const { return (size_t)taps * depth * columns * sizeof(E); }
    const E* panel(int index) const { return packed + (size_t)index * taps * padded() * PANEL; }
};

// One summand of a tile: a panel of a matrix.
struct Summand {
    const float* panel;
    int taps, depth, first;  // first: where in a row the panel's channels begin
};

// What is done with a row of results: stored, or added to what is there, then activated.
// ahead: the next panel's results of these rows lie right behind, and their places are fetched meanwhile.
struct Finish {
    int activation;
    bool add;
    bool ahead = false;
};

template <int VECTORS>
inline void finish_row(const Vector* sums, const float* bias, float* out, int columns, Finish finish) {
    for (int v = 0; v < VECTORS; v++) {
        const int first = v * LANES, count = std::min(LANES, columns - first);
        if (count == LANES) {
            Vector value = sums[v] + load(bias + first);
            if (finish.add) value += load(out + first);
            store(out + first, activate(value, finish.activation));
        } else {
            for (int i = 0; i < count; i++) {  // the last columns of a matrix that is no multiple of the lanes
                float value = sums[v][i] + bias[first + i];
                if (finish.add) value += out[first + i];
                out[first + i] = activate(broadcast(value), finish.activation)[0];
            }
        }
    }
}

// Columns k..k + count of all rows times as many rows of a panel, along which `matrix` is moved.
template <int ROWS, int VECTORS>
inline __attribute__((always_inline)) void multiply_some(const float* const (&row)[ROWS], int k, int count,
                                                         const float*& matrix, Vector (&sums)[ROWS][VECTORS]) {
    for (const int end = k + count; k < end; k++, matrix += PANEL) {
        Vector weights[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            weights[v] = load(matrix + v * LANES);
            __builtin_prefetch(matrix + AHEAD * PANEL + v * LANES, 0, 2);
        }
        for (int i = 0; i < ROWS; i++) {
            const Vector value = broadcast(row[i][k]);
            for (int v = 0; v < VECTORS; v++) sums[i][v] = multiply_add(value, weights[v], sums[i][v]);
        }
    }
}

// ROWS rows times VECTORS vectors of columns, all sums in registers.
// rows: [all taps of all parts][MAX_ROWS] pointers; a part's panel: taps * depth rows of PANEL floats; out: [ROWS].
template <int ROWS, int VECTORS>
void multiply(const float* const* rows, const Summand* parts, int count, const float* bias, float* const* out,
              int columns, Finish finish) {
    Vector sums[ROWS][VECTORS] = {};
    for (int part = 0; part < count; part++) {
        const float* matrix = parts[part].panel;
        const int depth = parts[part].depth;
        for (int tap = 0; tap < parts[part].taps; tap++, rows += MAX_ROWS) {
            const float* row[ROWS];
            for (int i = 0; i < ROWS; i++) row[i] = rows[i] + parts[part].first;
            int k = 0;
            if (finish.ahead && part == 0 && tap == 0)
                for (int i = 0; i < ROWS && k + STEP <= depth; k += STEP) {
                    for (const int some = std::min(i + FETCHED_A_STEP, ROWS); i < some; i++)
                        for (int v = 0; v < VECTORS; v++) __builtin_prefetch(out[i] + PANEL + v * LANES, 1, 2);
                    multiply_some(row, k, STEP, matrix, sums);
                }
            multiply_some(row, k, depth - k, matrix, sums);
        }
    }
    for (int i = 0; i < ROWS; i++) finish_row<VECTORS>(sums[i], bias, out[i], columns, finish);
}

typedef void (*Multiply)(const float* const*, const Summand*, int, const float*, float* const*, int, Finish);

template <int VECTORS>
inline Multiply multiply_of(int rows) {
    static const Multiply table[] = {
        multiply<1, VECTORS>, multiply<2, VECTORS>, multiply<3, VECTORS>,
#if defined(__AVX__) || defined(__aarch64__)
        multiply<4, VECTORS>, multiply<5, VECTORS>, multiply<6, VECTORS>,
#endif
#if defined(__AVX512F__)
        multiply<7, VECTORS>, multiply<8, VECTORS>, multiply<9, VECTORS>, multiply<10, VECTORS>,
        multiply<11, VECTORS>, multiply<12, VECTORS>,
#endif
    };
    return table[rows - 1];
}
