// What the library offers, as plain C functions. Maps are [images][height][width][channels] of float32.
#include <algorithm>

#include "convnext.h"
#include "dense.h"
#include "residual.h"
#include "unit.h"

extern "C" {

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

// A map of any strides (of image, row, column, channel, in floats) with a border of zeros:
// out[images][height + 2 * padding][width + 2 * padding][channels].
void bdsa_pad(float* out, const float* x, const int64_t* strides, int images, int height, int width, int channels,
              int padding, int threads) {
    const int lines = height + 2 * padding, all = images * lines, bands = std::min(all, 4 * threads);
    const size_t line = (size_t)(width + 2 * padding) * channels, rim = (size_t)padding * channels;
    const auto copy = [&](int number) {
        const int image = number / lines, y = number % lines - padding;
        float* target = out + number * line;
        if (y < 0 || y >= height) {
            std::memset(target, 0, line * sizeof(float));
            return;
        }
        const float* source = x + image * strides[0] + y * strides[1];
        std::memset(target, 0, rim * sizeof(float));
        std::memset(target + line - rim, 0, rim * sizeof(float));
        target += rim;
        if (strides[3] == 1 && strides[2] == channels) std::memcpy(target, source, (size_t)width * channels * sizeof(float));
        else
            for (int i = 0; i < width; i++)
                for (int c = 0; c < channels; c++) target[i * channels + c] = source[i * strides[2] + c * strides[3]];
    };
    in_parallel(threads, 1, [&](Team team) {
        team.share(bands, [&](int band) {
            for (int number = (int64_t)all * band / bands; number < (int64_t)all * (band + 1) / bands; number++) copy(number);
        });
    });
}

// See Dense.
void bdsa_convolution(const float* x, int images, int height, int width, int channels, int stride, const Matrix* matrix,
                      int out_height, int out_width, float* out, int activation, int threads) {
    const Dense layer{x, {height, width}, channels, stride, matrix, {out_height, out_width}};
    const int outputs = images * layer.to.size();
    const Part part = layer.part();
    in_parallel(threads, 1, [&](Team team) {
        if (channels == 3) {  // an image
            team.share(images * out_height, [&](int line) {
                layer.convolve_line(line, out + (size_t)line * out_width * matrix->columns, activation);
            });
            return;
        }
        const Units units(outputs, &part, 1, team.threads);
        team.share(units.count(), [&](int u) {
            layer.convolve(units.first(u), units.last(u), units.first_panel(u), units.last_panel(u),
                           out + (size_t)units.first(u) * matrix->columns, activation);
        });
    });
}

// The same convolution, then the largest of each 3x3 window of stride 2 and padding 1: out[images][h][w][C'], where
// inner_height x inner_width is the convolution's own output. Of that, a thread holds three rows at a time.
void bdsa_convolution_pool(const float* x, int images, int height, int width, int channels, int stride, const Matrix* matrix,
                           int inner_height, int inner_width, float* out, int activation, int threads) {
    const Dense layer{x, {height, width}, channels, stride, matrix, {inner_height, inner_width}};
    const int out_height = (inner_height - 1) / 2 + 1, out_width = (inner_width - 1) / 2 + 1, columns = matrix->columns;
    const size_t line = (size_t)inner_width * columns;
    const int bands = images >= 2 * threads ? 1 : std::min(out_height, 2 * threads);  // of an image: a unit
    in_parallel(threads, 1, [&](Team team) {
        static thread_local Buffer<float> held;
        float* lines = held.at_least(3 * line);
        team.share(images * bands, [&](int unit) {
            const int image = unit / bands, band = unit % bands;
            int next = 0;  // the first line that is not held
            for (int row = out_height * band / bands; row < out_height * (band + 1) / bands; row++) {
                const int top = std::max(0, 2 * row - 1), bottom = std::min(inner_height - 1, 2 * row + 1);
                for (next = std::max(next, top); next <= bottom; next++)
                    layer.convolve_line(image * inner_height + next, lines + next % 3 * line, activation);
                for (int column = 0; column < out_width; column++) {
                    float* target = out + (((size_t)image * out_height + row) * out_width + column) * columns;
                    const int left = std::max(0, 2 * column - 1), right = std::min(inner_width - 1, 2 * column + 1);
                    std::memcpy(target, lines + top % 3 * line + (size_t)left * columns, columns * sizeof(float));
                    for (int y = top; y <= bottom; y++)
                        for (int z = left; z <= right; z++)
                            if (y > top || z > left) larger(target, lines + y % 3 * line + (size_t)z * columns, columns);
                }
            }
        });
    });
}

// Products of every position with the mask units' columns (see board.h). x: [images][height][width][channels].
void bdsa_products(const float* x, int images, int height, int width, const Board* board, int threads) {
    const int positions = images * height * width;
    in_parallel(threads, 1, [&](Team team) { board->update(x, nullptr, positions, 0, team); });
}

// One unit's logits [images][h][w] from the products, and its mask: where they are not negative.
void bdsa_decide(const Board* board, int images, int height, int width, int panel, int column, float offset, int stride,
                 int out_height, int out_width, float* logits, uint8_t* mask, int threads) {
    const Grid from{height, width}, to{out_height, out_width};
    const int bands = images >= threads ? 1 : threads;
    in_parallel(threads, 1, [&](Team team) {
        team.share(images * bands, [&](int unit) {
            const int image = unit / bands, band = unit % bands;
            board->decide(image, from, to, panel, column, board->context(image, from, panel, column, offset), stride,
                          out_height * band / bands, out_height * (band + 1) / bands, logits + (size_t)image * to.size(),
                          mask + (size_t)image * to.size());
        });
    });
}

// The same of a unit on its own, from the map x [images][height][width][channels].
void bdsa_unit(const Unit* unit, const float* x, int images, int height, int width, int out_height, int out_width,
               float* logits, uint8_t* mask, int threads) {
    const Grid from{height, width}, to{out_height, out_width};
    const int bands = images >= threads ? 1 : threads;
    in_parallel(threads, 1, [&](Team team) {
        team.share(images * bands, [&](int part) {
            const int image = part / bands, band = part % bands;
            const float* map = x + (size_t)image * from.size() * unit->channels;
            unit->decide(map, from, to, unit->bias(map, from), out_height * band / bands, out_height * (band + 1) / bands,
                         logits + (size_t)image * to.size(), mask + (size_t)image * to.size());
        });
    });
}

// The identity of a block whose shortcut takes every stride-th position and puts `before` channels of zeros in front of
// its own, the rest behind: out[images][h][w][out_channels], activated by a relu where the mask is not.
void bdsa_subsample(float* out, const float* x, const uint8_t* mask, int images, int height, int width, int channels,
                    int stride, int before, int out_height, int out_width, int out_channels, int threads) {
    in_parallel(threads, 1, [&](Team team) {
        team.share(images, [&](int image) {
            for (int i = 0; i < out_height * out_width; i++) {
                const size_t at = (size_t)image * out_height * out_width + i;
                const int row = i / out_width * stride, column = i % out_width * stride;
                const float* source = x + (((size_t)image * height + row) * width + column) * channels;
                float* target = out + at * out_channels;
                std::memset(target, 0, out_channels * sizeof(float));
                for (int c = 0; c < channels; c++) target[before + c] = mask[at] || source[c] > 0 ? source[c] : 0;
            }
        });
    });
}

// The mean of each kernel x kernel window, of those cut off by the border over what is left: out[images][h][w][channels].
void bdsa_average_pool(float* out, const float* x, int images, int height, int width, int channels, int kernel, int stride,
                       int out_height, int out_width, int threads) {
    in_parallel(threads, 1, [&](Team team) {
        team.share(images * out_height, [&](int line) {
            const int image = line / out_height, top = line % out_height * stride, bottom = std::min(height, top + kernel);
            for (int column = 0; column < out_width; column++) {
                const int left = column * stride, right = std::min(width, left + kernel);
                const float share = 1.0f / ((bottom - top) * (right - left));
                float* target = out + ((size_t)line * out_width + column) * channels;
                std::fill(target, target + channels, 0.0f);
                for (int y = top; y < bottom; y++)
                    for (int z = left; z < right; z++) {
                        const float* source = x + (((size_t)image * height + y) * width + z) * channels;
                        for (int c = 0; c < channels; c++) target[c] += source[c] * share;
                    }
            }
        });
    });
}

void bdsa_residual(const Residual* block, int threads) { block->run(threads); }

// Returns 0, or 1 for a kernel size that is not built.
int bdsa_convnext(const ConvNext* block, int threads) {
    if (block->depthwise->kernel != 7) return 1;
    block->run(threads);
    return 0;
}

// Every row of [rows][channels] normalised over its channels in place, then times weight plus bias where there are any.
void bdsa_layer_norm(float* x, int64_t rows, int channels, float eps, const float* weight, const float* bias, int threads) {
    const int bands = (int)std::min<int64_t>(rows, 8 * threads);
    in_parallel(threads, 1, [&](Team team) {
        team.share(bands, [&](int band) {
            for (int64_t i = rows * band / bands; i < rows * (band + 1) / bands; i++) {
                float* row = x + i * channels;
                normalise(row, channels, eps);
                if (weight)
                    for (int c = 0; c < channels; c++) row[c] = row[c] * weight[c] + bias[c];
            }
        });
    });
}

// The mean over positions: x [images][positions][channels] -> out [images][channels].
void bdsa_mean(const float* x, int images, int positions, int channels, float* out, int threads) {
    constexpr int WIDTH = 256;  // channels of a unit
    const int parts = (channels + WIDTH - 1) / WIDTH;
    in_parallel(threads, 1, [&](Team team) {
        team.share(images * parts, [&](int unit) {
            const int image = unit / parts, first = unit % parts * WIDTH, last = std::min(channels, first + WIDTH);
            float* target = out + (size_t)image * channels;
            std::fill(target + first, target + last, 0.0f);
            for (int i = 0; i < positions; i++) {
                const float* row = x + ((size_t)image * positions + i) * channels;
                for (int c = first; c < last; c++) target[c] += row[c];
            }
            for (int c = first; c < last; c++) target[c] /= positions;
        });
    });
}

}  // extern "C"
