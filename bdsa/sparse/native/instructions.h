// What each operation of a program is: its registers and numbers made a structure that runs.
#pragma once

#include "bound.h"
#include "convnext.h"
#include "dense.h"
#include "maps.h"
#include "residual.h"
#include "unit.h"

template <typename E>
void Bound::go(const Program& program, int index, bool by_purses, const Images& of, int parallel,
               std::vector<Register>& registers) {
    using Map = OneImage;
    images = of.images, height = of.height, width = of.width, threads = parallel, point = index, exact = by_purses;
    Binder<E> bind(program, of, registers);
    const auto data = [](Register& r) { return Binder<E>::template data<E>(r); };
    const auto values = [](Register& r) { return Binder<E>::template data<float>(r); };
    const auto bytes = [](Register& r) { return Binder<E>::template data<uint8_t>(r); };
    int64_t next = program.word(program.row(index) + Program::CODE);
    const int64_t end = next + program.word(program.row(index) + Program::WORDS);
    // A board's products, which follow a map: [panels][positions][columns of a panel].
    const auto board = [&](Reader& read, const Register& map, bool made) -> const Board<E>* {
        const int64_t where = read.word();
        const Matrix<E> matrix = read.matrix<E>();
        const int columns = read.integer();
        if (where < 0) return nullptr;
        const int panels = matrix.panels();
        Register& r = made ? bind.takes(where, map.images, map.grid(), panels * Board<E>::PANEL, sizeof(float)) : bind.at(where);
        return keep(Board<E>{keep(matrix), values(r), map.positions(), columns});
    };
    while (next < end) {
        const Code code = (Code)program.word(next);
        Reader read(program, next + 2);
        next += 2 + program.word(next + 1);
        switch (code) {
            case Code::PAD: {
                const int64_t out = read.word(), from = read.word();
                const int padding = read.integer();
                Register& x = bind.at(from);
                Register& y = bind.takes(out, x.images, {x.height + 2 * padding, x.width + 2 * padding}, x.channels, sizeof(E));
                if (from == Program::IMAGE) {
                    auto* own = call(Pad<float, E>{data(y), of.data, {}, x.images, x.height, x.width, x.channels, padding},
                                     {{Map::OUT, data(y)}});
                    take_ = [own](const Images& given) {
                        own->x = given.data;
                        std::copy(given.strides, given.strides + 4, own->strides);
                    };
                } else {
                    const int64_t line = (int64_t)x.width * x.channels;
                    call(Pad<E, E>{data(y), data(x), {x.height * line, line, x.channels, 1}, x.images, x.height, x.width,
                                   x.channels, padding}, {{Map::OUT, data(y)}, {Map::X, data(x)}});
                }
                break;
            }
            case Code::CONVOLUTION: {
                const int64_t out = read.word();
                Register& x = bind.at(read.word());
                const Matrix<E>* matrix = keep(read.matrix<E>());
                const int stride = read.integer(), activation = read.integer();
                const bool pool = read.word(), to_float = read.word();
                const Grid to{(x.height - matrix->taps) / stride + 1, (x.width - matrix->taps) / stride + 1};
                if (x.height < matrix->taps || x.width < matrix->taps) throw Refused("the image is too small for this network");
                const Grid size = pool ? Grid{(to.height - 1) / 2 + 1, (to.width - 1) / 2 + 1} : to;
                Register& y = bind.takes(out, x.images, size, matrix->columns, to_float ? sizeof(float) : sizeof(E));
                if (to_float) {
                    auto* own = call(Dense<E, float>{values(y), data(x), matrix, x.images, x.grid(), to, x.channels, stride,
                                                     activation},
                                     {{Map::OUT, values(y)}, {Map::X, data(x)}}, sizeof(E) == sizeof(float));
                    if (out == Program::LOGITS) {
                        end_ = values(y);
                        give_ = [own](float* logits) { own->out = logits; };
                    }
                    break;
                }
                const Dense<E, E> dense{data(y), data(x), matrix, x.images, x.grid(), to, x.channels, stride, activation};
                const std::vector<Used> used{{Map::OUT, data(y)}, {Map::X, data(x)}};
                if (pool) call(DensePool<E>{dense}, used);
                else call(dense, used);
                break;
            }
            case Code::LAYER_NORM: {
                Register& x = bind.at(read.word());
                const float* weight = read.weights<float>();
                const float* bias = read.weights<float>();
                call(LayerNorm<E>{data(x), weight, bias, x.positions(), x.channels, x.images, read.number()},
                     {{Map::X, data(x)}});
                break;
            }
            case Code::MEAN: {
                const int64_t out = read.word();
                Register& x = bind.at(read.word());
                const int positions = x.height * x.width;
                Register& y = bind.takes(out, x.images, {1, 1}, x.channels, sizeof(E));
                call(Mean<E>{data(y), data(x), x.images, positions, x.channels}, {{Map::OUT, data(y)}, {Map::X, data(x)}});
                break;
            }
            case Code::SUBSAMPLE: {
                const int64_t out = read.word();
                Register &x = bind.at(read.word()), &mask = bind.at(read.word());
                const int stride = read.integer(), before = read.integer(), channels = read.integer();
                Register& y = bind.takes(out, x.images, mask.grid(), channels, sizeof(E));
                call(Subsample<E>{data(y), data(x), bytes(mask), x.images, x.height, x.width, x.channels, stride, before,
                                  y.height, y.width, channels},
                     {{Map::OUT, data(y)}, {Map::X, data(x)}, {Map::MASK, bytes(mask)}});
                break;
            }
            case Code::AVERAGE_POOL: {
                const int64_t out = read.word();
                Register& x = bind.at(read.word());
                const int kernel = read.integer(), stride = read.integer();
                Register& y = bind.takes(out, x.images, Binder<E>::strided(x, stride), x.channels, sizeof(E));
                call(AveragePool<E>{data(y), data(x), x.images, x.height, x.width, x.channels, kernel, stride, y.height,
                                    y.width},
                     {{Map::OUT, data(y)}, {Map::X, data(x)}});
                break;
            }
            case Code::PRODUCTS: {
                Register& x = bind.at(read.word());
                const Board<E>* made = board(read, x, true);
                call(Products<E>{data(x), made, x.images}, {{Map::X, data(x)}, {Map::PRODUCTS, made->products}});
                break;
            }
            case Code::DECIDE: {
                const int64_t logits = read.word(), mask = read.word();
                Register& products = bind.at(read.word());
                const int panel = read.integer(), column = read.integer(), stride = read.integer();
                const Grid to = Binder<E>::strided(products, stride);
                Register& scored = bind.takes(logits, products.images, to, 1, sizeof(float));
                Register& decided = bind.takes(mask, products.images, to, 1, 1);
                const Board<E>* own = keep(Board<E>{nullptr, values(products), products.positions(), 0});
                auto* made = call(Decision<E>{values(scored), bytes(decided), own, products.images, products.grid(), to,
                                              panel, column, stride, 0},
                                  {{Map::LOGITS, values(scored)}, {Map::MASK, bytes(decided)},
                                   {Map::PRODUCTS, values(products)}});
                thresholds_.push_back({&made->offset, read.exact()});
                break;
            }
            case Code::UNIT: {
                const int64_t logits = read.word(), mask = read.word();
                Register& x = bind.at(read.word());
                const float* taps = read.weights<float>();
                const float* context = read.weights<float>();
                const int stride = read.integer();
                const Grid to = Binder<E>::strided(x, stride);
                Register& scored = bind.takes(logits, x.images, to, 1, sizeof(float));
                Register& decided = bind.takes(mask, x.images, to, 1, 1);
                auto* made = call(UnitDecision<E>{values(scored), bytes(decided), data(x),
                                                  {taps, context, x.channels, stride, 0}, x.images, x.grid(), to},
                                  {{Map::LOGITS, values(scored)}, {Map::MASK, bytes(decided)}, {Map::X, data(x)}});
                thresholds_.push_back({&made->unit.offset, read.exact()});
                break;
            }
            case Code::RESIDUAL:
            case Code::SUBMANIFOLD: {
                const int64_t out = read.word();
                Register &x = bind.at(read.word()), &mask = bind.at(read.word());
                const int stride = read.integer();
                const Matrix<E>*first = keep(read.matrix<E>()), *second = keep(read.matrix<E>());
                const Matrix<E>*third = keep(read.matrix<E>()), *last = third->packed ? third : second;
                const int64_t source = read.word();
                const Matrix<E>* projection = keep(read.matrix<E>());
                const int projected_stride = read.integer(), everywhere = read.integer();
                Register* projected = source < 0 ? nullptr : &bind.at(source);
                Residual<E> block{};
                const Grid from = x.grid();
                block.x = data(x), block.mask = bytes(mask), block.images = x.images, block.stride = stride;
                block.height = from.height, block.width = from.width;
                block.out_height = mask.height, block.out_width = mask.width;
                block.first = first, block.second = second, block.third = third->packed ? third : nullptr;
                if (projected) {
                    block.projected = data(*projected), block.projection = projection;
                    block.projected_height = projected->height, block.projected_width = projected->width;
                    block.projected_stride = projected_stride;
                }
                Register& y = bind.takes(out, x.images, mask.grid(), last->columns, sizeof(E));
                block.out = data(y), block.everywhere = everywhere, block.rows = rows_;
                block.submanifold = code == Code::SUBMANIFOLD;
                block.board = board(read, y, true);
                std::vector<Used> used{{Map::OUT, data(y)}, {Map::X, block.x}, {Map::MASK, bytes(mask)}};
                if (projected) used.push_back({Map::PROJECTED, block.projected});
                if (block.board) used.push_back({Map::PRODUCTS, block.board->products});
                call(block, used);
                break;
            }
            case Code::CONVNEXT: {
                Register &x = bind.at(read.word()), &mask = bind.at(read.word());
                const float* taps = read.weights<float>();
                const float* bias = read.weights<float>();
                ConvNext<E> block{};
                block.x = data(x), block.mask = bytes(mask), block.images = x.images;
                block.height = x.height, block.width = x.width;
                block.depthwise = keep(Depthwise{taps, bias, x.channels}), block.eps = read.number();
                block.first = keep(read.matrix<E>()), block.second = keep(read.matrix<E>());
                block.response = read.weights<float>(), block.response_eps = read.number();
                block.board = board(read, x, true), block.rows = rows_;
                std::vector<Used> used{{Map::X, data(x)}, {Map::MASK, bytes(mask)}};
                if (block.board) used.push_back({Map::PRODUCTS, block.board->products});
                call(block, used);
                break;
            }
            case Code::ONES: {
                const int64_t mask = read.word();
                Register& x = bind.at(read.word());
                Register& all = bind.takes(mask, x.images, Binder<E>::strided(x, read.integer()), 1, 1);
                call(Ones{bytes(all), all.images, all.grid()}, {{Map::MASK, bytes(all)}});
                break;
            }
            case Code::EXACT: {
                if (!exact) break;
                Register &mask = bind.at(read.word()), &logits = bind.at(read.word()), &x = bind.at(read.word());
                Exact block{bytes(mask), nullptr, values(logits), nullptr, nullptr, mask.images, mask.grid()};
                block.macs = read.word(), block.dilated_macs = read.word();
                block.stride = read.integer(), block.reach = read.integer();
                block.wide = block.stride > 1 ? x.grid() : mask.grid();
                purses_.add(call(block, {{Map::MASK, block.mask}, {Map::LOGITS, block.logits}}));
                break;
            }
            default: throw Refused("the program has an operation that this library does not know: it is damaged, or of a later version");
        }
    }
    if (exact) purses_.reckon(program, index, images);
    if (!take_ || !give_) throw Refused("the program is damaged: it reads no image or gives no logits");
}
