// SIMD vectors of floats by the compiler's vector extension: one source for AVX-512, AVX2, SSE and NEON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, MAX_ROWS = 12;  // 12 x 2 accumulators of the 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8, MAX_ROWS = 6;    // 6 x 2 of 16
#elif defined(__aarch64__)
constexpr int LANES = 8, MAX_ROWS = 6;    // 6 x 2 of two registers each, of 32
#else
constexpr int LANES = 8, MAX_ROWS = 3;    // 3 x 2 of two registers each, of 16
#endif

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector broadcast(float s) { return s - Vector{}; }  // s + 0 would have to turn -0 into 0
inline Vector at_least(Vector a, Vector b) { return a > b ? a : b; }  // b where either is not a number
inline Vector at_most(Vector a, Vector b) { return a < b ? a : b; }

// a * b + c, rounded once where there are instructions for it. A compiler may round a sum of products twice in one function
// and once in another, as it is tuned; results that depend on how many rows are computed together would follow.
inline Vector multiply_add(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
    return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX__) && defined(__FMA__)
    return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

inline Vector relu(Vector x) { return at_least(Vector{}, x); }  // what is not a number stays so

inline float sum_of(Vector v) {
    typedef float Four __attribute__((vector_size(16)));
    Four parts[LANES / 4];
    std::memcpy(parts, &v, sizeof v);
    for (int i = 1; i < LANES / 4; i++) parts[0] += parts[i];
    return (parts[0][0] + parts[0][1]) + (parts[0][2] + parts[0][3]);
}

enum Activation : int { NONE = 0, RELU = 1, GELU = 2 };

// Exact (erf) GELU to 2e-6: relu(x) - |x| Q(|x|), with Q(t) = erfc(t / sqrt 2) / 2 as a polynomial of degree 13 in
// s = 2 t / 5 - 1, interpolated at the Chebyshev points of 0 <= t <= 5; beyond, the product is below 2e-6.
constexpr float GELU_TAIL[] = {
    0.00621024892f, -0.043821048f, 0.136882558f, -0.239615396f, 0.232723027f,
    -0.0655637681f, -0.13099882f, 0.163402289f, -0.0248583555f, -0.0782028139f,
    0.0408538915f, 0.0137810959f, -0.0108128982f, 1.99631613e-05f
};

inline Vector gelu(Vector x) {
    const Vector magnitude = at_least(x, -x);
    const Vector s = at_most(magnitude, broadcast(5.0f)) * 0.4f - 1.0f;
    Vector q = broadcast(GELU_TAIL[13]);
    for (int i = 12; i >= 0; i--) q = q * s + GELU_TAIL[i];
    return relu(x) - magnitude * q;
}

inline Vector activate(Vector x, int activation) {
    if (activation == RELU) return relu(x);
    if (activation == GELU) return gelu(x);
    return x;
}
