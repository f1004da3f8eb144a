// The product of a tile: 32 rows times the 32 columns of a panel, of bfloat16 summed up in float32, of int8 in whole numbers.
//
// Three forms of one product: AMX tiles, AVX-512's dot products of 32 bits, and plain C++ that every processor runs. All
// read the same memory. A panel is packed by 32 bits, as both instructions want it: [pairs of rows][32 columns][2], and of
// int8 [fours of rows][32 columns][4].
#pragma once

#include <type_traits>

#include "int8.h"

#if defined(__AMX_BF16__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

constexpr int TILE_ROWS = 32, TILE_COLUMNS = 32;
template <typename E>
constexpr int TILE_DEPTH = 64 / sizeof(E);  // of a step: 64 bytes of a row
template <typename E>
constexpr size_t PANEL_STEP = TILE_DEPTH<E> * TILE_COLUMNS;  // values of a panel that a step reads

template <typename E>
struct Sums {
    typedef float Type;
    typedef Vector Lanes;
};
template <>
struct Sums<Int8> {
    typedef int32_t Type;
    typedef Integers Lanes;
};
template <typename E>
using Sum = typename Sums<E>::Type;

constexpr int STEP_WORDS = 16;  // of 32 bits, in a step of a row

// A tap of a panel: so many steps, of whose last one so many words are the matrix's own and the others zeros.
struct Tap {
    int steps = 1, words = STEP_WORDS;
};

// One summand: steps of a row of TILE_DEPTH values each. Row i of step k begins at a + i * row + k * step.
template <typename E>
struct Operand {
    const E* a;
    size_t row, step;
    const E* b;  // [steps][16][32][2], of int8 [steps][16][32][4]
    int steps;
    Tap tap = {};
    int begun = 0;  // steps of a tap that come before the first one
};

// What sums begin with: 32 for every row (row: 0), which are the bias or zeros, or [32][32] of other summands (row: 32).
template <typename S>
struct Start {
    const S* at;
    int row = 0;
};

// What is fetched while a tile is multiplied: the panel that comes next, a part of it by each tile.
class Fetch {
public:
    Fetch() = default;
    Fetch(const void* from, size_t bytes, int steps)
        : next_((const char*)from), end_(next_ + bytes), lines_((int)(bytes / 64 / steps) + 1) {}
    void step() {
        for (int i = 0; i < lines_ && next_ < end_; i++, next_ += 64) __builtin_prefetch(next_, 0, 2);
    }

private:
    const char *next_ = nullptr, *end_ = nullptr;
    int lines_ = 0;
};

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)

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

// Registers have numbers that the compiler must read: no function can take them.
#define BDSA_DOT(sums, rows, columns) \
    if constexpr (sizeof(E) == 1) _tile_dpbusd(sums, rows, columns); \
    else _tile_dpbf16ps(sums, rows, columns)

template <bool LOWER, bool RIGHT, typename E>
inline void multiply_registers(const Operand<E>* operands, int count, Start<Sum<E>> from, Sum<E>* out, Fetch ahead) {
    constexpr int WIDTH = TILE_COLUMNS * sizeof(Sum<E>);
    const size_t apart = from.row * sizeof(Sum<E>);
    const Sum<E> *upper = from.at, *lower = from.at + 16 * from.row;
    asm volatile("" : : : "memory");  // the compiler does not know that tiles are read from what was just written
    _tile_loadd(0, upper, apart);
    if (RIGHT) _tile_loadd(1, upper + 16, apart);
    if (LOWER) _tile_loadd(2, lower, apart);
    if (LOWER && RIGHT) _tile_loadd(3, lower + 16, apart);
    for (int o = 0; o < count; o++) {
        const E *a = operands[o].a, *b = operands[o].b;
        const size_t row = operands[o].row, bytes = row * sizeof(E), step = operands[o].step;
        for (int k = 0; k < operands[o].steps; k++, a += step, b += PANEL_STEP<E>) {
            ahead.step();
            _tile_loadd(4, a, bytes);
            _tile_loadd(6, b, WIDTH);
            BDSA_DOT(0, 4, 6);
            if (RIGHT) {
                _tile_loadd(7, b + TILE_DEPTH<E>, WIDTH);
                BDSA_DOT(1, 4, 7);
            }
            if (LOWER) {
                _tile_loadd(5, a + 16 * row, bytes);
                BDSA_DOT(2, 5, 6);
                if (RIGHT) {
                    BDSA_DOT(3, 5, 7);
                }
            }
        }
    }
    _tile_stored(0, out, WIDTH);
    if (RIGHT) _tile_stored(1, out + 16, WIDTH);
    if (LOWER) _tile_stored(2, out + 16 * TILE_COLUMNS, WIDTH);
    if (LOWER && RIGHT) _tile_stored(3, out + 16 * TILE_COLUMNS + 16, WIDTH);
}
#undef BDSA_DOT

// out: [32][32], of which `rows` rows and `columns` columns are needed. All 32 rows of the operands must be readable where
// more than 16 are needed, else 16.
template <typename E>
inline void multiply_tile(const Operand<E>* operands, int count, int rows, int columns, Start<Sum<E>> from, Sum<E>* out,
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

// Four values of 8 bits or two of 16, which are multiplied at once.
template <typename T>
inline T word_at(const void* at) {
    T word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

#if defined(__AVX512BF16__)
inline Vector dot(Vector sums, const Bfloat16* a, const Bfloat16* b) {
    const __m512bh left = (__m512bh)_mm512_loadu_si512(b), value = (__m512bh)_mm512_set1_epi32(word_at<int32_t>(a));
    return (Vector)_mm512_dpbf16_ps((__m512)sums, left, value);
}
#else
inline Vector dot(Vector sums, const Bfloat16* a, const Bfloat16* b) {
    const Wholes both = word_at<Wholes>(b);
    const Vector even = (Vector)(both << 16), odd = (Vector)(both & 0xFFFF0000u);
    return sums + multiply_add(broadcast(widen(a[0])), even, broadcast(widen(a[1])) * odd);
}
#endif

#if defined(__AVX512VNNI__)
inline Integers dot(Integers sums, const Int8* a, const Int8* b) {
    return (Integers)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(word_at<int32_t>(a)), _mm512_loadu_si512(b));
}
#else
inline Integers dot(Integers sums, const Int8* a, const Int8* b) {
    const Integers four = word_at<Integers>(b);
    for (int i = 0; i < 4; i++) sums += a[i].bits * (four << (24 - 8 * i) >> 24);
    return sums;
}
#endif

// ROWS rows from row `first` on. A function of its own: within a larger one GCC keeps a sum in memory.
template <int ROWS, typename E>
__attribute__((noinline)) void multiply_rows(const Operand<E>* operands, int count, int first, Start<Sum<E>> from, Sum<E>* out) {
    constexpr int WORD = 4 / sizeof(E);
    typedef typename Sums<E>::Lanes Accumulated;
    Accumulated sums[ROWS][VECTORS];
    const Sum<E>* start = from.at + first * from.row;
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++, start += from.row)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sums[i][v] = *reinterpret_cast<const Accumulated*>(start + v * LANES);
    for (int o = 0; o < count; o++) {
        const E *a = operands[o].a + first * operands[o].row, *b = operands[o].b;
        int left = operands[o].tap.steps - operands[o].begun;
        for (int k = 0; k < operands[o].steps; k++, a += operands[o].step, b += PANEL_STEP<E>) {
            int words = STEP_WORDS;
            if (--left == 0) words = operands[o].tap.words, left = operands[o].tap.steps;
            const E* weights = b;
            for (int word = 0; word < words * WORD; word += WORD, weights += WORD * TILE_COLUMNS)
#pragma GCC unroll 16
                for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; v++)
                        sums[i][v] = dot(sums[i][v], a + i * operands[o].row + word, weights + v * WORD * LANES);
        }
    }
    out += first * TILE_COLUMNS;
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++, out += TILE_COLUMNS)  // vector by vector: copied as memory, sums would lie there all along
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) *reinterpret_cast<Accumulated*>(out + v * LANES) = sums[i][v];
}

template <int ROWS, typename E>
inline void multiply_part(const Operand<E>* operands, int count, int first, int rows, Start<Sum<E>> from, Sum<E>* out) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) multiply_rows<ROWS>(operands, count, first, from, out);
        else multiply_part<ROWS - 1>(operands, count, first, rows, from, out);
    }
}

// out: [32][32], of which `rows` rows are made, in parts of nearly equal height.
template <typename E>
inline void multiply_tile(const Operand<E>* operands, int count, int rows, int, Start<Sum<E>> from, Sum<E>* out, Fetch = {}) {
    const int parts = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    for (int part = 0, first = 0; part < parts; part++) {
        const int end = rows * (part + 1) / parts;
        multiply_part<ROWS_AT_ONCE>(operands, count, first, end - first, from, out);
        first = end;
    }
}

#endif
