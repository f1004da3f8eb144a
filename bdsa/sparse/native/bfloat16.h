// bfloat16 in memory: the upper half of a float32. What is computed with is float32.
#pragma once

#include "vector.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

struct Bfloat16 {
    uint16_t bits;
};

typedef uint16_t Halves __attribute__((vector_size(LANES * sizeof(uint16_t)), aligned(2), may_alias));
typedef uint32_t Wholes __attribute__((vector_size(LANES * sizeof(uint32_t))));

inline float widen(float x) { return x; }
inline float widen(Bfloat16 x) {
    const uint32_t bits = (uint32_t)x.bits << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Rounded to the nearest, ties to even; what is not a number stays so.
inline Bfloat16 narrow(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) return {(uint16_t)(bits >> 16 | 64)};
    return {(uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

template <typename E>
inline E rounded(float x) {
    if constexpr (sizeof(E) == sizeof(float)) return x;
    else return narrow(x);
}

inline Vector load(const Bfloat16* p) {
    return (Vector)(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Wholes) << 16);
}

inline void store(Bfloat16* p, Vector v) {
#if defined(__AVX512BF16__)
    const __m256bh converted = _mm512_cvtneps_pbh((__m512)v);
    std::memcpy(p, &converted, sizeof converted);
#else
    const Wholes bits = (Wholes)v;
    const Wholes even = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16, kept = bits >> 16 | 64;
    *reinterpret_cast<Halves*>(p) = __builtin_convertvector(v == v ? even : kept, Halves);
#endif
}

// 64 bytes.
inline void copy_line(Bfloat16* to, const Bfloat16* from) {
    for (int i = 0; i < 16; i += LANES) store((float*)to + i, load((const float*)from + i));
}

// The first `count` lanes, the others zeros.
template <typename E>
inline Vector load_some(const E* p, int count) {
    if (count == LANES) return load(p);
    Vector v = {};
    for (int i = 0; i < count; i++) v[i] = widen(p[i]);
    return v;
}

template <typename E>
inline void store_some(E* p, Vector v, int count) {
    if (count == LANES) return store(p, v);
    for (int i = 0; i < count; i++) p[i] = rounded<E>(v[i]);
}
