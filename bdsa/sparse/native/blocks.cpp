// Residual blocks at the positions that a mask selects. Maps are [images][height][width][channels] of float32.
//
// A block goes through its images in groups, so that what one layer writes is still near when the next one reads
// it; within a group all threads share every layer. The result is added into `out`, which already holds the
// block's identity: positions that are not selected are never touched.
#include <algorithm>

#include "board.h"
#include "depthwise.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

constexpr int GROUP_POSITIONS = 2048;  // positions of a group of images, at least, if there are as many

template <typename Work>
void in_parallel(int threads, const Work& work) {
#if defined(_OPENMP)
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        work(Team{omp_get_thread_num(), omp_get_num_threads()});
        return;
    }
#endif
    work(Team{0, 1});
}

inline void wait_for_all(Team team) {
#if defined(_OPENMP)
    if (team.threads > 1) {
#pragma omp barrier
    }
#endif
}

// What a calling thread keeps between calls.
struct Workspace {
    Buffer<Position> active, dilated;
    Buffer<float> first, second, zeros;
    Buffer<uint8_t> map, scratch;
    const float* zero_row(int count) {
        float* row = zeros.at_least(count);
        std::memset(row, 0, count * sizeof(float));
        return row;
    }
};
thread_local Workspace workspace;

// After a group's last layer: new products for the mask units that will look at this map, of which a block with a
// shortcut has made every position.
void look_again(const float* maps, int start, int count, Grid grid, const Position* active, int actives, bool everywhere,
                const Board* board, Team team) {
    if (!board) return;
    const int64_t first = (int64_t)start * grid.size();
    if (everywhere) board->update_all(maps, count * grid.size(), first, grid, team);
    else board->update(maps, active, actives, first, grid, team);
    wait_for_all(team);
}

int group_size(int images, Grid grid) { return std::min(images, std::max(1, (GROUP_POSITIONS + grid.size() - 1) / grid.size())); }

// A convolution of whole maps, see bdsa_convolution.
struct Dense {
    const float* x;
    Grid from;
    int channels, stride;
    Matrix matrix;
    Grid to;

    // Outputs start..stop, counted over all images, at some panels of columns; out: the first one's row.
    void convolve(int start, int stop, int first_panel, int last_panel, float* out, Finish finish) const {
        static thread_local Buffer<const float*> pointers;
        const int taps = matrix.taps, tiles = (stop - start + MAX_ROWS - 1) / MAX_ROWS;
        const float** table = pointers.at_least((size_t)tiles * taps * MAX_ROWS);
        for (int i = start; i < stop; i++) {
            const int image = i / to.size(), row = i % to.size() / to.width, column = i % to.width;
            const float* corner = x + (((size_t)image * from.height + row * stride) * from.width + column * stride) * channels;
            const int tile = (i - start) / MAX_ROWS, slot = (i - start) % MAX_ROWS;
            for (int tap = 0; tap < taps; tap++)
                table[((size_t)tile * taps + tap) * MAX_ROWS + slot] = corner + (size_t)tap * from.width * channels;
        }
        for (int panel = first_panel; panel < last_panel; panel++) {
            const int column = panel * PANEL, columns = std::min(PANEL, matrix.columns - column);
            for (int i = 0; i < stop - start; i += MAX_ROWS) {
                float* rows[MAX_ROWS];
                const int count = std::min(MAX_ROWS, stop - start - i);
                for (int k = 0; k < count; k++) rows[k] = out + (size_t)(i + k) * matrix.columns + column;
                if (taps == 1 && panel == first_panel)
                    for (int k = i + MAX_ROWS; k < std::min(i + 2 * MAX_ROWS, stop - start); k++) fetch_early(table[k], matrix.depth);
                const Multiply multiply = columns > LANES ? multiply_of<2>(count) : multiply_of<1>(count);
                multiply(table + (size_t)(i / MAX_ROWS) * taps * MAX_ROWS, taps, matrix.depth, matrix.panel(panel),
                         matrix.bias + column, rows, columns,
                         Finish{finish.activation, finish.add, finish.raw ? finish.raw + i : nullptr});
            }
        }
    }
};

// target = max(target, source)
inline void larger(float* target, const float* source, int count) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) store(target + i, at_least(load(target + i), load(source + i)));
    for (; i < count; i++) target[i] = std::max(target[i], source[i]);
}

}  // namespace

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

// Dense convolution without padding: out[b][i][j] = act(bias + W x[b][i * stride ...][j * stride ...]).
// x: [images][H][W][C], already padded; a tap is a row of the kernel, whose columns and channels lie side by side:
// matrix.taps = kernel height, matrix.depth = kernel width * C. raw: null, or the outputs that are not activated.
void bdsa_convolution(const float* x, int images, int height, int width, int channels, int stride, const Matrix* matrix,
                      int out_height, int out_width, float* out, int activation, const uint8_t* raw, int threads) {
    const Dense layer{x, {height, width}, channels, stride, *matrix, {out_height, out_width}};
    const int outputs = images * layer.to.size();
    in_parallel(threads, [&](Team team) {
        const Split split(outputs, *matrix, team.threads);
        const int r = team.thread % split.rows, c = team.thread / split.rows, panels = matrix->panels();
        const int first = (int)((int64_t)outputs * r / split.rows), last = (int)((int64_t)outputs * (r + 1) / split.rows);
        const size_t bytes = (size_t)matrix->taps * matrix->depth * matrix->columns * sizeof(float);
        const int chunk = std::min(MAX_TILES, 1 + (int)(bytes >> 16)) * MAX_ROWS;
        for (int start = first; start < last; start += chunk)
            layer.convolve(start, std::min(last, start + chunk), panels * c / split.columns, panels * (c + 1) / split.columns,
                           out + (size_t)start * matrix->columns, Finish{activation, false, raw ? raw + start : nullptr});
    });
}

// The same convolution, then the largest of each 3x3 window of stride 2 and padding 1: out[images][h][w][C'], where
// inner_height x inner_width is the convolution's own output. Of that, a thread holds three rows at a time.
void bdsa_convolution_pool(const float* x, int images, int height, int width, int channels, int stride, const Matrix* matrix,
                           int inner_height, int inner_width, float* out, int activation, int threads) {
    const Dense layer{x, {height, width}, channels, stride, *matrix, {inner_height, inner_width}};
    const int out_height = (inner_height - 1) / 2 + 1, out_width = (inner_width - 1) / 2 + 1, columns = matrix->columns;
    in_parallel(threads, [&](Team team) {
        static thread_local Buffer<float> held;
        const size_t line = (size_t)inner_width * columns;
        float* lines = held.at_least(3 * line);
        int64_t holds[3] = {-1, -1, -1};
        const int rows = images * out_height;
        for (int r = (int)((int64_t)rows * team.thread / team.threads); r < (int64_t)rows * (team.thread + 1) / team.threads; r++) {
            const int row = r % out_height, top = std::max(0, 2 * row - 1), bottom = std::min(inner_height - 1, 2 * row + 1);
            for (int y = top; y <= bottom; y++) {
                const int64_t wanted = (int64_t)(r / out_height) * inner_height + y;
                if (holds[y % 3] == wanted) continue;
                holds[y % 3] = wanted;
                layer.convolve((int)wanted * inner_width, ((int)wanted + 1) * inner_width, 0, matrix->panels(),
                               lines + y % 3 * line, Finish{activation, false});
            }
            for (int column = 0; column < out_width; column++) {
                float* target = out + ((size_t)r * out_width + column) * columns;
                const int left = std::max(0, 2 * column - 1), right = std::min(inner_width - 1, 2 * column + 1);
                for (int y = top; y <= bottom; y++)
                    for (int z = left; z <= right; z++) {
                        const float* source = lines + y % 3 * line + (size_t)z * columns;
                        if (y == top && z == left) std::memcpy(target, source, columns * sizeof(float));
                        else larger(target, source, columns);
                    }
            }
        }
    });
}

// Products of every position with the mask units' columns (see board.h). x: [images][height][width][channels].
void bdsa_products(const float* x, int images, int height, int width, const Board* board, int threads) {
    const Grid grid{height, width};
    in_parallel(threads, [&](Team team) { board->update_all(x, images * grid.size(), 0, grid, team); });
}

// One unit's logits [images][h][w] from the products.
void bdsa_logits(const Board* board, int images, int height, int width, int panel, int column, float offset, int stride,
                 int out_height, int out_width, float* logits, int threads) {
    const Grid from{height, width}, to{out_height, out_width};
    in_parallel(threads, [&](Team team) {
        for (int image = 0; image < images; image++)
            board->logits(image, from, to, panel, column, offset, stride, logits + (size_t)image * to.size(), team);
    });
}

// out += conv2(relu(conv1(x))) at m, then relu: two 3x3 convolutions, the first with the stride, computed at D(m).
// out: [images][h][w][C2], the identity; mask: [images][h][w]; rows: adds how many were computed at D(m) and at m;
// everywhere: whether the board's products have to be made at all positions. The relu is for what is computed alone:
// elsewhere the identity has had its own.
void bdsa_basic(float* out, const float* x, const uint8_t* mask, int images, int height, int width, int out_height,
                int out_width, int stride, const Matrix* first, const Matrix* second, int everywhere,
                const Board* board, int64_t* rows, int threads) {
    const Grid from{height, width}, to{out_height, out_width};
    const int group = group_size(images, to), middle = first->columns;
    Workspace& own = workspace;
    Position* active = own.active.at_least((size_t)group * to.size());
    Position* dilated = own.dilated.at_least((size_t)group * to.size());
    float* hidden = own.first.at_least((size_t)group * to.size() * middle);
    uint8_t* map = own.map.at_least((size_t)group * to.size());
    uint8_t* scratch = own.scratch.at_least((size_t)out_height * (out_width + 2));
    const float* zeros = own.zero_row(std::max(first->depth, middle));
    int counts[2] = {0, 0};
    in_parallel(threads, [&](Team team) {
        for (int start = 0; start < images; start += group) {
            const int count = std::min(group, images - start);
            const uint8_t* part = mask + (size_t)start * to.size();
            if (team.thread == 0) {
                dilate(part, count, to, to, 1, scratch, map);
                rows[0] += counts[0] = list_active(map, count, to, dilated);
            }
            if (team.thread == team.threads - 1) rows[1] += counts[1] = list_active(part, count, to, active);
            wait_for_all(team);
            const Source images_in{Source::WINDOWS, x + (size_t)start * from.size() * first->depth, from, stride, 3, 1, zeros, to.size()};
            product(dilated, counts[0], images_in, *first, Target{hidden, (size_t)middle, false}, Finish{RELU, false}, team);
            wait_for_all(team);
            const Source between{Source::WINDOWS, hidden, to, 1, 3, 1, zeros, to.size()};
            float* result = out + (size_t)start * to.size() * second->columns;
            product(active, counts[1], between, *second, Target{result, (size_t)second->columns, false}, Finish{RELU, true}, team);
            wait_for_all(team);
            look_again(result, start, count, to, active, counts[1], everywhere, board, team);
        }
    });
}

// out += conv3(act(conv2(act(conv1(x))))) at m, then relu: 1x1 at D(m) of the input, 3x3 with the stride, 1x1.
void bdsa_bottleneck(float* out, const float* x, const uint8_t* mask, int images, int height, int width, int out_height,
                     int out_width, int stride, const Matrix* first, const Matrix* second, const Matrix* third,
                     int everywhere, const Board* board, int64_t* rows, int threads) {
    const Grid from{height, width}, to{out_height, out_width};
    const int group = group_size(images, to), middle = first->columns, inner = second->columns;
    Workspace& own = workspace;
    Position* active = own.active.at_least((size_t)group * to.size());
    Position* dilated = own.dilated.at_least((size_t)group * from.size());
    float* hidden = own.first.at_least((size_t)group * from.size() * middle);
    float* narrow = own.second.at_least((size_t)group * to.size() * inner);
    uint8_t* map = own.map.at_least((size_t)group * from.size());
    uint8_t* scratch = own.scratch.at_least((size_t)out_height * (width + 2 + stride));
    const float* zeros = own.zero_row(middle);
    int counts[2] = {0, 0};
    in_parallel(threads, [&](Team team) {
        for (int start = 0; start < images; start += group) {
            const int count = std::min(group, images - start);
            const uint8_t* part = mask + (size_t)start * to.size();
            if (team.thread == 0) {
                dilate(part, count, to, from, stride, scratch, map);
                rows[0] += counts[0] = list_active(map, count, from, dilated);
            }
            if (team.thread == team.threads - 1) rows[1] += counts[1] = list_active(part, count, to, active);
            wait_for_all(team);
            const Source images_in{Source::POSITIONS, x + (size_t)start * from.size() * first->depth, from, 1, 1, 0, nullptr, from.size()};
            product(dilated, counts[0], images_in, *first, Target{hidden, (size_t)middle, false}, Finish{RELU, false}, team);
            wait_for_all(team);
            const Source windows{Source::WINDOWS, hidden, from, stride, 3, 1, zeros, to.size()};
            product(active, counts[1], windows, *second, Target{narrow, (size_t)inner, true}, Finish{RELU, false}, team);
            wait_for_all(team);
            const Source rows_in{Source::IN_ORDER, narrow, to, 1, 1, 0, nullptr, to.size()};
            float* result = out + (size_t)start * to.size() * third->columns;
            product(active, counts[1], rows_in, *third, Target{result, (size_t)third->columns, false}, Finish{RELU, true}, team);
            wait_for_all(team);
            look_again(result, start, count, to, active, counts[1], everywhere, board, team);
        }
    });
}

// x += fc2(gelu(fc1(normalise(depthwise(x))))) at m, in place. Returns 0, or 1 for a kernel size that is not built.
int bdsa_convnext(float* x, const uint8_t* mask, int images, int height, int width, const Depthwise* depthwise,
                  float eps, const Matrix* first, const Matrix* second, const Board* board, int64_t* rows,
                  int threads) {
    if (depthwise->kernel != 7) return 1;
    const Grid grid{height, width};
    const int group = group_size(images, grid), channels = depthwise->channels;
    Workspace& own = workspace;
    Position* active = own.active.at_least((size_t)group * grid.size());
    float* narrow = own.first.at_least((size_t)group * grid.size() * channels);
    float* hidden = own.second.at_least((size_t)group * grid.size() * first->columns);
    int total = 0;
    in_parallel(threads, [&](Team team) {
        for (int start = 0; start < images; start += group) {
            const int count = std::min(group, images - start);
            float* maps = x + (size_t)start * grid.size() * channels;
            if (team.thread == 0) {
                total = list_active(mask + (size_t)start * grid.size(), count, grid, active);
                rows[1] += total;
            }
            wait_for_all(team);
            convolve_runs<7>(maps, grid, *depthwise, eps, active, (int)((int64_t)total * team.thread / team.threads),
                             (int)((int64_t)total * (team.thread + 1) / team.threads), narrow);
            wait_for_all(team);
            const Source from{Source::IN_ORDER, narrow, grid, 1, 1, 0, nullptr, grid.size()};
            product(active, total, from, *first, Target{hidden, (size_t)first->columns, true}, Finish{GELU, false}, team);
            wait_for_all(team);
            const Source wide{Source::IN_ORDER, hidden, grid, 1, 1, 0, nullptr, grid.size()};
            product(active, total, wide, *second, Target{maps, (size_t)channels, false}, Finish{NONE, true}, team);
            wait_for_all(team);
            look_again(maps, start, count, grid, active, total, false, board, team);
        }
    });
    return 0;
}

// Every row of [rows][channels] normalised over its channels in place, then times weight plus bias where there are any.
void bdsa_layer_norm(float* x, int64_t rows, int channels, float eps, const float* weight, const float* bias, int threads) {
    in_parallel(threads, [&](Team team) {
        for (int64_t i = rows * team.thread / team.threads; i < rows * (team.thread + 1) / team.threads; i++) {
            float* row = x + i * channels;
            normalise(row, channels, eps);
            if (weight)
                for (int c = 0; c < channels; c++) row[c] = row[c] * weight[c] + bias[c];
        }
    });
}

}  // extern "C"
