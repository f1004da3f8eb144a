// The product of a tile of bfloat16: 32 rows times the 32 columns of a panel, summed up in float32.
//
// Three forms of one product: AMX tiles, AVX-512's dot products of pairs, and plain C++ that every processor runs. All
// read the same memory. A panel is packed in pairs, [pairs of rows][32 columns][2], as both instructions want it.
#pragma once

#include "bfloat16.h"

#if defined(__AMX_BF16__) || defined(__AVX512BF16__)
#include <immintrin.h>
#endif

constexpr int TILE_ROWS = 32, TILE_COLUMNS = 32;
constexpr int TILE_DEPTH = 32;  // of a step: 64 bytes of a row

// One summand: steps of a row of 32 values each. Row i of step k begins at a + i * row + k * step.
struct Operand {
    const Bfloat16* a;
    size_t row, step;
    const Bfloat16* b;  // [steps][16][32][2]
    int steps;
};

// What sums begin with: the bias [32] for every row (row: 0), or sums [32][32] of other summands (row: 32).
struct Start {
    const float* at;
    int row = 0;
};

constexpr size_t PANEL_STEP = TILE_DEPTH * TILE_COLUMNS;  // values of a panel that a step reads

// What is fetched while a tile is multiplied: the panel that comes next, a part of it by each tile.
class Fetch {
public:
    Fetch() = default;
    Fetch(const Bfloat16* from, size_t count, int steps)
        : next_((const char*)from), end_((const char*)(from + count)), lines_((int)(count * sizeof *from / 64 / steps) + 1) {}
    void step() {
        for (int i = 0; i < lines_ && next_ < end_; i++, next_ += 64) __builtin_prefetch(next_, 0, 2);
    }

private:
    const char *next_ = nullptr, *end_ = nullptr;
    int lines_ = 0;
};

#if defined(__AMX_BF16__)

// The registers of AMX as tiles of 16 rows of 64 bytes, as long as this lives; others on this thread may have set them.
class TileRegisters {
public:
    TileRegisters() {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } shapes;
        for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = 16;
        asm volatile("" : : "r"(&shapes) : "memory");  // the compiler thinks that 8 bytes of it are read
        _tile_loadconfig(&shapes);
    }
    ~TileRegisters() { _tile_release(); }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;
};

template <bool LOWER, bool RIGHT>
inline void multiply_registers(const Operand* operands, int count, Start from, float* out, Fetch ahead) {
    constexpr int WIDTH = TILE_COLUMNS * sizeof(float);
    const size_t apart = from.row * sizeof(float);
    const float *upper = from.at, *lower = from.at + 16 * from.row;
    asm volatile("" : : : "memory");  // the compiler does not know that tiles are read from what was just written
    _tile_loadd(0, upper, apart);
    if (RIGHT) _tile_loadd(1, upper + 16, apart);
    if (LOWER) _tile_loadd(2, lower, apart);
    if (LOWER && RIGHT) _tile_loadd(3, lower + 16, apart);
    for (int o = 0; o < count; o++) {
        const Bfloat16 *a = operands[o].a, *b = operands[o].b;
        const size_t row = operands[o].row, bytes = row * sizeof(Bfloat16), step = operands[o].step;
        for (int k = 0; k < operands[o].steps; k++, a += step, b += PANEL_STEP) {
            ahead.step();
            _tile_loadd(4, a, bytes);
            _tile_loadd(6, b, WIDTH);
            _tile_dpbf16ps(0, 4, 6);
            if (RIGHT) {
                _tile_loadd(7, b + TILE_COLUMNS, WIDTH);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (LOWER) {
                _tile_loadd(5, a + 16 * row, bytes);
                _tile_dpbf16ps(2, 5, 6);
                if (RIGHT) _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, out, WIDTH);
    if (RIGHT) _tile_stored(1, out + 16, WIDTH);
    if (LOWER) _tile_stored(2, out + 16 * TILE_COLUMNS, WIDTH);
    if (LOWER && RIGHT) _tile_stored(3, out + 16 * TILE_COLUMNS + 16, WIDTH);
}

// out: [32][32], of which `rows` rows and `columns` columns are needed. All 32 rows of the operands must be readable where
// more than 16 are needed, else 16.
inline void multiply_tile(const Operand* operands, int count, int rows, int columns, Start from, float* out,
                          Fetch ahead = {}) {
    const bool lower = rows > 16, right = columns > 16;
    if (lower && right) multiply_registers<true, true>(operands, count, from, out, ahead);
    else if (lower) multiply_registers<true, false>(operands, count, from, out, ahead);
    else if (right) multiply_registers<false, true>(operands, count, from, out, ahead);
    else multiply_registers<false, false>(operands, count, from, out, ahead);
}

constexpr int ROWS_READ = 16;  // a multiple of this many rows is read

#else

struct TileRegisters {
    TileRegisters() {}  // not trivial: a variable of it is no unused one
};

constexpr int ROWS_READ = 1;
#if defined(__AVX512F__)
constexpr int ROWS_AT_ONCE = 11;  // x 2 accumulators, of 32 registers: 32 rows are 11 + 11 + 10
#else
constexpr int ROWS_AT_ONCE = 4;
#endif

constexpr int VECTORS = TILE_COLUMNS / LANES;

// ROWS rows from row `first` on.
template <int ROWS>
inline void multiply_rows(const Operand* operands, int count, int first, Start from, float* out) {
    const float* start = from.at + first * from.row;
#if defined(__AVX512BF16__)
    __m512 sums[ROWS][2];
    for (int i = 0; i < ROWS; i++, start += from.row)
        sums[i][0] = _mm512_loadu_ps(start), sums[i][1] = _mm512_loadu_ps(start + 16);
#else
    Vector sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; i++, start += from.row)
        for (int v = 0; v < VECTORS; v++) sums[i][v] = load(start + v * LANES);
#endif
    for (int o = 0; o < count; o++) {
        const Bfloat16 *a = operands[o].a + first * operands[o].row, *b = operands[o].b;
        for (int k = 0; k < operands[o].steps; k++, a += operands[o].step)
            for (int pair = 0; pair < TILE_DEPTH; pair += 2, b += 2 * TILE_COLUMNS) {
#if defined(__AVX512BF16__)
                const __m512bh left = (__m512bh)_mm512_loadu_si512(b), right = (__m512bh)_mm512_loadu_si512(b + TILE_COLUMNS);
                for (int i = 0; i < ROWS; i++) {
                    int32_t both;
                    std::memcpy(&both, a + i * operands[o].row + pair, sizeof both);
                    const __m512bh value = (__m512bh)_mm512_set1_epi32(both);
                    sums[i][0] = _mm512_dpbf16_ps(sums[i][0], left, value);
                    sums[i][1] = _mm512_dpbf16_ps(sums[i][1], right, value);
                }
#else
                for (int v = 0; v < VECTORS; v++) {
                    Wholes both;
                    std::memcpy(&both, b + v * 2 * LANES, sizeof both);
                    const Vector even = (Vector)(both << 16), odd = (Vector)(both & 0xFFFF0000u);
                    for (int i = 0; i < ROWS; i++) {
                        const Bfloat16* value = a + i * operands[o].row + pair;
                        sums[i][v] += widen(value[0]) * even + widen(value[1]) * odd;
                    }
                }
#endif
            }
    }
    for (int i = 0; i < ROWS; i++) std::memcpy(out + (first + i) * TILE_COLUMNS, sums[i], TILE_COLUMNS * sizeof(float));
}

template <int ROWS>
inline void multiply_last(const Operand* operands, int count, int first, int rows, Start from, float* out) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) multiply_rows<ROWS>(operands, count, first, from, out);
        else multiply_last<ROWS - 1>(operands, count, first, rows, from, out);
    }
}

// out: [32][32], of which `rows` rows are made.
inline void multiply_tile(const Operand* operands, int count, int rows, int, Start from, float* out, Fetch = {}) {
    int first = 0;
    for (; first + ROWS_AT_ONCE <= rows; first += ROWS_AT_ONCE) multiply_rows<ROWS_AT_ONCE>(operands, count, first, from, out);
    multiply_last<ROWS_AT_ONCE - 1>(operands, count, first, rows - first, from, out);
}

#endif
