// What the library offers, as plain C functions: an operation is a structure of pointers and sizes that knows how to run.
#include "contents.h"
#include "convnext.h"
#include "dense.h"
#include "maps.h"
#include "residual.h"
#include "unit.h"

// One operation of a recorded inference.
struct Call {
    void (*function)(const void* operation, int threads);
    const void* operation;
    int threads;
};

extern "C" {

#define OPERATION(name, Type) \
    void name(const Type* operation, int threads) { operation->run(threads); }

OPERATION(bdsa_pad, Pad)
OPERATION(bdsa_convolution, Dense)
OPERATION(bdsa_convolution_pool, DensePool)
OPERATION(bdsa_layer_norm, LayerNorm)
OPERATION(bdsa_mean, Mean)
OPERATION(bdsa_subsample, Subsample)
OPERATION(bdsa_average_pool, AveragePool)
OPERATION(bdsa_products, Products)
OPERATION(bdsa_decide, Decision)
OPERATION(bdsa_unit, UnitDecision)
OPERATION(bdsa_residual, Residual)
OPERATION(bdsa_convnext, ConvNext)
OPERATION(bdsa_contents, Contents)

void bdsa_play(const Call* calls, int count) {
    for (int i = 0; i < count; i++) calls[i].function(calls[i].operation, calls[i].threads);
}

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

int bdsa_parallel() {
#if defined(_OPENMP)
    return 1;
#else
    return 0;
#endif
}

}  // extern "C"
