// Classify images with a network of bdsa-export format=onnx, in ONNX Runtime:
//
//   onnx_runtime network.onnx ./bdsa_onnx.so images.f32 BATCH CHANNELS HEIGHT WIDTH BUDGET [PER_IMAGE]
//
// See aotinductor.cpp. It uses the few functions of ONNX Runtime that bdsa declares: Python's package has the library and
// no headers. With onnxruntime_cxx_api.h it is Ort::SessionOptions::RegisterCustomOpsLibrary, and a session like any other.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "onnx_runtime.h"

extern "C" const ort::ApiBase* OrtGetApiBase();
using namespace ort;
constexpr int REPETITIONS = 50, WARNING = 2;
static const Api* api;

static void check(Status* failed) {
    if (!failed) return;
    std::fprintf(stderr, "%s\n", api->call<const char*>(GET_ERROR_MESSAGE, failed));
    std::exit(1);
}

int main(int count, char** words) {
    if (count != 9 && count != 10) {
        std::fprintf(stderr, "usage: onnx_runtime network.onnx ./bdsa_onnx.so images.f32 BATCH CHANNELS HEIGHT WIDTH BUDGET "
                             "[PER_IMAGE]\n");
        return 2;
    }
    api = OrtGetApiBase()->api(VERSION);
    int64_t sizes[4], values = 1;
    for (int i = 0; i < 4; i++) values *= sizes[i] = std::atoll(words[4 + i]);
    std::vector<float> pixels(values);
    std::ifstream file(words[3], std::ios::binary);
    if (!file.read(reinterpret_cast<char*>(pixels.data()), values * sizeof(float))) {
        std::fprintf(stderr, "%s has no %lld values\n", words[3], (long long)values);
        return 1;
    }
    float budget = std::atof(words[8]);
    bool per_image = count == 10 && std::atoi(words[9]);
    void *environment, *options, *library, *session, *memory, *inputs[3], *logits = nullptr, *shape, *data;
    check(api->call(CREATE_ENV, WARNING, (const char*)"bdsa", &environment));
    check(api->call(CREATE_SESSION_OPTIONS, &options));
    check(api->call(REGISTER_CUSTOM_OPS_LIBRARY, options, (const char*)words[2], &library));
    check(api->call(CREATE_SESSION, environment, (const char*)words[1], options, &session));
    check(api->call(CREATE_CPU_MEMORY_INFO, DEVICE_ALLOCATOR, DEFAULT_MEMORY, &memory));
    check(api->call(CREATE_TENSOR_WITH_DATA, memory, pixels.data(), values * sizeof(float), sizes, (size_t)4, FLOAT, &inputs[0]));
    check(api->call(CREATE_TENSOR_WITH_DATA, memory, &budget, sizeof budget, sizes, (size_t)0, FLOAT, &inputs[1]));
    check(api->call(CREATE_TENSOR_WITH_DATA, memory, &per_image, sizeof per_image, sizes, (size_t)0, BOOL, &inputs[2]));
    const char *names[] = {"images", "budget", "per_image"}, *outputs[] = {"logits"};
    const auto run = [&] {
        check(api->call(RUN, session, (void*)nullptr, names, inputs, (size_t)(count - 7), outputs, (size_t)1, &logits));
    };
    run();
    int64_t found[2];
    check(api->call(GET_TENSOR_TYPE_AND_SHAPE, logits, &shape));
    check(api->call(GET_DIMENSIONS, shape, found, (size_t)2));
    check(api->call(GET_TENSOR_MUTABLE_DATA, logits, &data));
    for (int64_t image = 0; image < found[0]; image++) {
        for (int64_t c = 0; c < found[1]; c++)
            std::printf("%s%.9g", c ? " " : "", static_cast<float*>(data)[image * found[1] + c]);
        std::printf("\n");
    }
    std::vector<double> taken;
    for (int i = 0; i < REPETITIONS; i++) {
        const auto started = std::chrono::steady_clock::now();
        run();
        const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - started;
        taken.push_back(passed.count());
    }
    std::nth_element(taken.begin(), taken.begin() + REPETITIONS / 2, taken.end());
    std::fprintf(stderr, "%.3f ms\n", taken[REPETITIONS / 2]);
}
