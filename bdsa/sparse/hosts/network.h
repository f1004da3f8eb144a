// What the hosts call of the kernels (`native/network.h`).
#pragma once

#include <cstdint>

extern "C" {
int bdsa_classes(const void* program, int64_t bytes, int64_t* classes, char* message, int room);
int bdsa_network(const void* program, int64_t bytes, const float* images, const int64_t* sizes, const int64_t* strides,
                 double budget, int per_image, float* logits, int threads, char* message, int room);
}

constexpr int MESSAGE = 512;  // bytes
