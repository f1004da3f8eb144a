// What the library offers, as plain C functions: an operation is a structure of pointers and sizes that knows how to run.
// Those on maps are there twice, for float32 and for bfloat16.
#include "contents.h"
#include "convnext.h"
#include "dense.h"
#include "exact.h"
#include "images.h"
#include "maps.h"
#include "residual.h"
#include "network.h"
#include "rates.h"
#include "unit.h"

#pragma GCC visibility push(default)
extern "C" {

#define OPERATION(name, ...) \
    void bdsa_##name(const __VA_ARGS__* operation, int threads) { operation->run(threads); }
#define BY_IMAGE(name, ...) \
    OPERATION(name, __VA_ARGS__) \
    int bdsa_##name##_image(const __VA_ARGS__* operation, int image, int slot, unsigned within) { \
        return run_image(*operation, {image, slot, within}); \
    }
#define OPERATIONS(name, Type) \
    OPERATION(name, Type<float>) \
    OPERATION(name##_bfloat16, Type<Bfloat16>)
#define BY_IMAGES(name, Type) \
    BY_IMAGE(name, Type<float>) \
    BY_IMAGE(name##_bfloat16, Type<Bfloat16>)

OPERATION(contents, Contents)
BY_IMAGE(pad, Pad<float, float>)
BY_IMAGE(pad_bfloat16, Pad<Bfloat16, Bfloat16>)
BY_IMAGE(pad_to_bfloat16, Pad<float, Bfloat16>)
BY_IMAGE(convolution, Dense<float, float>)
BY_IMAGE(convolution_bfloat16, Dense<Bfloat16, Bfloat16>)
OPERATION(convolution_from_bfloat16, Dense<Bfloat16, float>)
BY_IMAGES(convolution_pool, DensePool)
BY_IMAGES(layer_norm, LayerNorm)
OPERATIONS(mean, Mean)
BY_IMAGES(subsample, Subsample)
BY_IMAGES(average_pool, AveragePool)
BY_IMAGES(products, Products)
BY_IMAGES(decide, Decision)
BY_IMAGES(unit, UnitDecision)
BY_IMAGE(exact, Exact)
BY_IMAGES(residual, Residual)
BY_IMAGES(convnext, ConvNext)
BY_IMAGE(residual_int8, Residual<Bfloat16, Int8>)
BY_IMAGE(convnext_int8, ConvNext<Bfloat16, Int8>)

void bdsa_play(const Call* calls, int count) { play(calls, count); }

int bdsa_panel() { return PANEL; }

const char* bdsa_instructions() {
#if defined(__AVX512F__)
    return "AVX-512";
#elif defined(__AVX2__)
    return "AVX2";
#elif defined(__AVX__)
    return "AVX";
#elif defined(__aarch64__)
    return "NEON";
#else
    return "plain";
#endif
}

// How products of int8 are made; "plain" is slower than float32.
const char* bdsa_int8_instructions() {
#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
    return "AMX";
#elif defined(__AVX512VNNI__)
    return "AVX512-VNNI";
#else
    return "plain";
#endif
}

// How products of bfloat16 are made; "plain" is slower than float32.
const char* bdsa_bfloat16_instructions() {
#if defined(__AMX_BF16__)
    return "AMX";
#elif defined(__AVX512BF16__)
    return "AVX512-BF16";
#else
    return "plain";
#endif
}

int bdsa_bfloat16_is_faster() { return bfloat16_is_faster(); }

int bdsa_parallel() {
#if defined(_OPENMP)
    return 1;
#else
    return 0;
#endif
}

}  // extern "C"
#pragma GCC visibility pop
