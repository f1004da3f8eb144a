// Classify images with a network of bdsa-export format=aoti, without Python:
//
//   aotinductor network.pt2 ./bdsa_torch.so images.f32 BATCH CHANNELS HEIGHT WIDTH BUDGET [PER_IMAGE]
//
// images.f32: float32 values as they lie in memory, normalised as the network wants them. PER_IMAGE, 0 or 1, for a file of
// per_image=true: whether no image may exceed the budget. Prints the logits, a line an image, and on the error output the
// median time of an inference. docs/export.md says how to build it.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <vector>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>

constexpr int REPETITIONS = 50;

int main(int count, char** words) {
    if (count != 9 && count != 10) {
        std::cerr << "usage: aotinductor network.pt2 ./bdsa_torch.so images.f32 BATCH CHANNELS HEIGHT WIDTH BUDGET "
                     "[PER_IMAGE]\n";
        return 2;
    }
    if (!dlopen(words[2], RTLD_NOW | RTLD_GLOBAL)) {  // the package holds the operator's name, the library what it does
        std::cerr << dlerror() << "\n";
        return 1;
    }
    std::vector<int64_t> sizes;
    int64_t values = 1;
    for (int i = 4; i < 8; i++) sizes.push_back(std::atoll(words[i])), values *= sizes.back();
    std::vector<float> pixels(values);
    std::ifstream file(words[3], std::ios::binary);
    if (!file.read(reinterpret_cast<char*>(pixels.data()), values * sizeof(float))) {
        std::cerr << words[3] << " has no " << values << " values\n";
        return 1;
    }
    try {
        torch::inductor::AOTIModelPackageLoader network(words[1]);
        std::vector<at::Tensor> inputs{at::from_blob(pixels.data(), sizes), at::full({}, std::atof(words[8]), at::kFloat)};
        if (count == 10) inputs.push_back(at::full({}, std::atoi(words[9]) != 0, at::kBool));
        at::Tensor logits = network.run(inputs)[0];
        for (int64_t image = 0; image < logits.size(0); image++) {
            for (int64_t c = 0; c < logits.size(1); c++)
                std::printf("%s%.9g", c ? " " : "", logits.const_data_ptr<float>()[image * logits.size(1) + c]);
            std::printf("\n");
        }
        std::vector<double> taken;
        for (int i = 0; i < REPETITIONS; i++) {
            const auto started = std::chrono::steady_clock::now();
            network.run(inputs);
            const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - started;
            taken.push_back(passed.count());
        }
        std::nth_element(taken.begin(), taken.begin() + REPETITIONS / 2, taken.end());
        std::fprintf(stderr, "%.3f ms\n", taken[REPETITIONS / 2]);
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
