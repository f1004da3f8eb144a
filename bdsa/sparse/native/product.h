// Products of selected rows with a packed matrix: out[i] = act(bias + sum over taps of row[i][tap] * W[tap]).
//
// Rows are given by pointers, so that nothing is gathered: a tap of a convolution is the row of a neighbouring
// position, or a row of zeros beyond the border. The matrix is packed in panels of two vectors of columns,
// [panels][taps * depth][2 * LANES], padded with zeros.
#pragma once

#include <algorithm>

#include "vector.h"

constexpr int PANEL = 2 * LANES;
constexpr int AHEAD = 48;  // rows of a panel that are fetched before they are needed: a core cannot hide the wait itself

struct Matrix {
    const float* packed;
    const float* bias;  // [columns]
    int taps, depth, columns;
    int panels() const { return (columns + PANEL - 1) / PANEL; }
    const float* panel(int index) const { return packed + (size_t)index * taps * depth * PANEL; }
};

// What is done with a row of results: stored, or added to what is there, then activated; where `raw` has a byte that is
// not zero for a row of the tile, that row is not activated.
struct Finish {
    int activation;
    bool add;
    const uint8_t* raw = nullptr;
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

// ROWS rows times VECTORS vectors of columns, all sums in registers.
// rows: [taps][MAX_ROWS] pointers; matrix: taps * depth rows of PANEL floats; out: [ROWS] pointers.
template <int ROWS, int VECTORS>
void multiply(const float* const* rows, int taps, int depth, const float* matrix, const float* bias,
              float* const* out, int columns, Finish finish) {
    Vector sums[ROWS][VECTORS] = {};
    for (int tap = 0; tap < taps; tap++) {
        const float* row[ROWS];
        for (int i = 0; i < ROWS; i++) row[i] = rows[tap * MAX_ROWS + i];
        for (int k = 0; k < depth; k++, matrix += PANEL) {
            Vector weights[VECTORS];
            for (int v = 0; v < VECTORS; v++) {
                weights[v] = load(matrix + v * LANES);
                __builtin_prefetch(matrix + AHEAD * PANEL + v * LANES, 0, 2);
            }
            for (int i = 0; i < ROWS; i++) {
                const float value = row[i][k];
                for (int v = 0; v < VECTORS; v++) sums[i][v] += value * weights[v];
            }
        }
    }
    for (int i = 0; i < ROWS; i++) {
        const int activation = finish.raw && finish.raw[i] ? NONE : finish.activation;
        finish_row<VECTORS>(sums[i], bias, out[i], columns, Finish{activation, finish.add});
    }
}

typedef void (*Multiply)(const float* const*, int, int, const float*, const float*, float* const*, int, Finish);

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
