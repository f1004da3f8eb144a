// int8 in memory: bytes, of rows from 0 to 255, of weights from -127 to 127. What they are worth stands beside them.
#pragma once

#include "bfloat16.h"

#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

struct Int8 {
    uint8_t bits;
};

// What the bytes of rows are: round(x * inverse) + zero, within 0 and 255.
struct Bytes {
    float inverse = 1, zero = 0;
};

typedef uint8_t Octets __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef int32_t Integers __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(4), may_alias));

constexpr float WHOLE = 1 << 23;  // a float of this size has no fraction: its lower bits are a whole number

// Rounded to the nearest, ties to even; what is not a number becomes 0.
inline void store(Int8* p, Vector v, Bytes as) {
    const Vector within = at_most(at_least(v * as.inverse + as.zero, Vector{}), broadcast(255.0f));
#if defined(__AVX512BW__)  // a compiler may take the bytes one by one
    const __m128i bytes = _mm512_cvtepi32_epi8((__m512i)(within + WHOLE));
    std::memcpy((void*)p, &bytes, sizeof bytes);
#else
    *reinterpret_cast<Octets*>(p) = __builtin_convertvector((Wholes)(within + WHOLE), Octets);
#endif
}

// 32 values side by side that are bytes but for the rounding: from below 0 they become 0, from 255 to 2^31 255.
inline void store_row(Int8* p, const Vector (&values)[32 / LANES]) {
#if defined(__AVX512BW__)
    const __m512i a = _mm512_cvtps_epi32((__m512)values[0]), b = _mm512_cvtps_epi32((__m512)values[1]);
    const __m512i words = _mm512_packus_epi32(a, b);  // by fours: of a, of b, of a ...
    const __m512i bytes = _mm512_packus_epi16(words, words);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i row = _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, bytes));
    std::memcpy((void*)p, &row, sizeof row);
#else
    for (int v = 0; v < 32 / LANES; v++) store(p + v * LANES, values[v], {});
#endif
}

// Values of any type where they go, some of a vector's; `as` counts for bytes alone.
template <typename T>
inline void put(T* p, Vector v, Bytes) { store(p, v); }
inline void put(Int8* p, Vector v, Bytes as) { store(p, v, as); }

template <typename T>
inline void put_some(T* p, Vector v, int count, Bytes) { store_some(p, v, count); }
inline void put_some(Int8* p, Vector v, int count, Bytes as) {
    Int8 whole[LANES];
    store(whole, v, as);
    std::memcpy((void*)p, whole, count);
}

// A sum of products as a number: of float32 with its bias in it, of whole numbers times what one is worth, plus bias.
inline Vector real(const float* sums, const float*, const float*) { return load(sums); }
inline Vector real(const int32_t* sums, const float* scale, const float* bias) {
    return __builtin_convertvector(*reinterpret_cast<const Integers*>(sums), Vector) * load(scale) + load(bias);
}

// 64 bytes.
inline void copy_line(Int8* to, const Int8* from) { std::memcpy((void*)to, from, 64); }

// Values side by side as bytes.
inline void quantise(const Bfloat16* from, int count, Bytes as, Int8* to) {
    int i = 0;
#if defined(__AVX512VBMI__)
    // 64 at once: the halves of 32 bits are two neighbours, and one permutation of bytes brings all in order.
    alignas(64) static constexpr struct Order {
        uint8_t at[64] = {};
        constexpr Order() {
            for (int n = 0; n < 64; n++) at[n] = n % 32 / 8 * 16 + n / 32 * 8 + n % 2 * 4 + n % 8 / 2;
        }
    } order;
    const __m512 inverse = _mm512_set1_ps(as.inverse), zero = _mm512_set1_ps(as.zero);
    const __m512i permutation = _mm512_load_si512(order.at), upper = _mm512_set1_epi32((int)0xFFFF0000u);
    for (; i + 64 <= count; i += 64) {
        __m512i words[2];
        for (int half = 0; half < 2; half++) {
            const __m512i two = _mm512_loadu_si512(from + i + half * 32);
            const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(two, 16));
            const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(two, upper));
            words[half] = _mm512_packus_epi32(_mm512_cvtps_epi32(_mm512_fmadd_ps(even, inverse, zero)),
                                              _mm512_cvtps_epi32(_mm512_fmadd_ps(odd, inverse, zero)));
        }
        const __m512i bytes = _mm512_packus_epi16(words[0], words[1]);
        _mm512_storeu_si512(to + i, _mm512_permutexvar_epi8(permutation, bytes));
    }
#endif
    for (; i + LANES <= count; i += LANES) store(to + i, load(from + i), as);
    if (i < count) put_some(to + i, load_some(from + i, count - i), count - i, as);
}
