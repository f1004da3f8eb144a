// Products of bfloat16: tiles of 32 rows, gathered from where they lie unless they lie side by side, times panels.
#pragma once

#include "rows.h"

constexpr size_t GATHERED_BYTES = 256 << 10;  // of rows, that all panels read before the next ones are gathered

// A tile's rows, tap by tap: out[tap][step][32][32]; what is beyond a tap's depth becomes zeros.
// rows: [taps][32] pointers; first: where in a row the channels begin.
inline void gather(const Bfloat16* const* rows, int count, int taps, int depth, int first, Bfloat16* out) {
    constexpr size_t STEP = TILE_ROWS * TILE_DEPTH;
    const int whole = depth / TILE_DEPTH, rest = depth % TILE_DEPTH;
    for (int tap = 0; tap < taps; tap++, rows += TILE_ROWS, out += (whole + (rest > 0)) * STEP)
        for (int i = 0; i < count; i++) {
            const Bfloat16* from = rows[i] + first;
            Bfloat16* to = out + i * TILE_DEPTH;
            for (int step = 0; step < whole; step++, from += TILE_DEPTH, to += STEP)
                std::memcpy(to, from, TILE_DEPTH * sizeof(Bfloat16));
            if (rest) {
                std::memcpy(to, from, rest * sizeof(Bfloat16));
                std::memset(to + rest, 0, (TILE_DEPTH - rest) * sizeof(Bfloat16));
            }
        }
}

// Results of a tile, [32][32] sums, finished and put where they go: float32 as it is, bfloat16 rounded.
template <typename T>
inline void finish_tile(const float* sums, const float* bias, T* const* out, int rows, int columns, bool fill,
                        Finish finish) {
    for (int v = 0; v < TILE_COLUMNS; v += LANES) {
        const int some = std::min(LANES, columns - v);
        if (some <= 0) {
            for (int i = 0; fill && i < rows; i++) store(out[i] + v, Vector{});
            continue;
        }
        const Vector shift = load_some(bias + v, some);
        for (int i = 0; i < rows; i++) {
            Vector value = load(sums + i * TILE_COLUMNS + v) + shift;
            if (finish.add) value += load_some(out[i] + v, some);
            store_some(out[i] + v, activate(value, finish.activation), fill ? LANES : some);
        }
    }
}

// See `product` of float32. T: float or Bfloat16.
template <typename T>
inline void product(const Position* positions, int first, int last, const Part<Bfloat16>* parts, int count,
                    int first_panel, int last_panel, const Target<T>& target, Finish finish) {
    static thread_local Pointers<Bfloat16> kept;
    static thread_local Buffer<Bfloat16> gathered;
    if (first >= last) return;
    const Matrix<Bfloat16>& main = *parts[0].matrix;
    size_t depth = 0, pointers = 0, rim = 0;  // of a row of all parts that are gathered
    bool direct[2] = {};
    for (int part = 0; part < count; part++) {
        const Matrix<Bfloat16>& m = *parts[part].matrix;
        direct[part] = parts[part].source.kind == Source<Bfloat16>::ROWS;
        if (direct[part]) continue;
        depth += (size_t)m.taps * m.padded(), pointers = std::max(pointers, (size_t)m.taps * TILE_ROWS);
        rim = std::max(rim, (size_t)m.taps * m.depth);
    }
    const int a_chunk = std::min<size_t>(MAX_TILES, std::max<size_t>(1, GATHERED_BYTES / (depth * 64 + 1)));
    const bool anew = main.group;  // every panel reads other channels
    const Bfloat16** table = kept.table.at_least(pointers * (anew ? a_chunk : 1));
    Bfloat16* spares = kept.rims.at_least(rim * TILE_ROWS * (anew ? a_chunk : 1));
    Bfloat16* memory = gathered.at_least(depth * TILE_ROWS * a_chunk);
    alignas(64) float sums[TILE_ROWS * TILE_COLUMNS];
    for (int start = first; start < last; start += a_chunk * TILE_ROWS) {
        const int here = (std::min(last, start + a_chunk * TILE_ROWS) - start + TILE_ROWS - 1) / TILE_ROWS;
        Operand operands[MAX_TILES][2];
        Bfloat16* room = memory;
        for (int t = 0; t < here; t++) {
            const int from = start + t * TILE_ROWS, to = std::min(last, from + TILE_ROWS);
            for (int part = 0; part < count; part++) {
                const Part<Bfloat16>& p = parts[part];
                const Matrix<Bfloat16>& m = *p.matrix;
                Operand& operand = operands[t][part];
                operand = {room, TILE_DEPTH, TILE_ROWS * TILE_DEPTH, nullptr, m.taps * m.padded() / TILE_DEPTH};
                if (direct[part]) {
                    operand.a = p.source.base + (size_t)from * m.padded();
                    continue;
                }
                if (p.source.kind == Source<Bfloat16>::MAP && m.depth == m.padded() && to - from == TILE_ROWS) {
                    operand.a = p.source.base + (size_t)from * m.depth;  // rows side by side
                    operand.row = m.depth, operand.step = TILE_DEPTH;
                    continue;
                }
                const Bfloat16** rows = table + (anew ? t * pointers : 0);
                Bfloat16* spare = spares + (anew ? t * rim * TILE_ROWS : 0);
                point_at(p, Reading<Bfloat16>(p), positions, from, to, spare, rows);
                if (!anew) gather(rows, to - from, m.taps, m.depth, 0, room);
                room += (size_t)TILE_ROWS * m.taps * m.padded();
            }
        }
        for (int panel = first_panel; panel < last_panel; panel++) {
            const int column = panel * TILE_COLUMNS, columns = std::min(TILE_COLUMNS, main.columns - column);
            for (int t = 0; t < here; t++) {
                const int from = start + t * TILE_ROWS, rows = std::min(last - from, TILE_ROWS);
                T* out[TILE_ROWS];
                for (int i = 0; i < rows; i++) {
                    out[i] = target.row(positions ? positions[from + i].index : 0, from + i, panel, TILE_COLUMNS);
                    if (finish.add) __builtin_prefetch(out[i], 1, 3);
                }
                if (anew)
                    gather(table + t * pointers, rows, main.taps, main.depth, main.first_channel(panel),
                           const_cast<Bfloat16*>(operands[t][0].a));
                for (int part = 0; part < count; part++) operands[t][part].b = parts[part].matrix->panel(panel);
                multiply_tile(operands[t], count, rows, columns, sums);
                finish_tile(sums, main.bias + column, out, rows, columns, target.kind == Target<T>::ROWS, finish);
            }
        }
    }
}
