// Products of bfloat16: tiles of 32 rows, gathered from where they lie unless they lie side by side, times panels.
#pragma once

#include "rows.h"

// Bytes of rows that all panels read before the next ones are gathered: more where the weights are not near.
constexpr size_t GATHERED_BYTES = 256 << 10, GATHERED_FOR_MUCH = 1 << 20, MUCH = 512 << 10;
constexpr int STEPS_AT_ONCE = 8;  // of the depth: the panel's part stays in the nearest memory while all tiles pass
constexpr int ROWS_AHEAD = 6;  // whose memory is fetched while one is copied

// A tile's rows, tap by tap: out[tap][step][32][32]; what is beyond a tap's depth becomes zeros.
// rows: [taps][32] pointers; first: where in a row the channels begin.
inline void gather(const Bfloat16* const* rows, int count, int taps, int depth, int first, Bfloat16* out) {
    constexpr size_t STEP = TILE_ROWS * TILE_DEPTH;
    const int whole = depth / TILE_DEPTH, rest = depth % TILE_DEPTH;
    for (int tap = 0; tap < taps; tap++, rows += TILE_ROWS, out += (whole + (rest > 0)) * STEP)
        for (int i = 0; i < count; i++) {
            const Bfloat16* from = rows[i] + first;
            Bfloat16* to = out + i * TILE_DEPTH;
            if (taps == 1 && i + ROWS_AHEAD < count)
                for (int step = 0; step < whole; step++) __builtin_prefetch(rows[i + ROWS_AHEAD] + first + step * TILE_DEPTH);
            for (int step = 0; step < whole; step++, from += TILE_DEPTH, to += STEP) copy_line(to, from);
            if (rest) {
                std::memcpy(to, from, rest * sizeof(Bfloat16));
                std::memset(to + rest, 0, (TILE_DEPTH - rest) * sizeof(Bfloat16));
            }
        }
}

// The bias of a panel's 32 columns, in `room` where the matrix has fewer.
inline const float* bias_of(const Matrix<Bfloat16>& matrix, int panel, float* room) {
    const int first = panel * TILE_COLUMNS, columns = std::min(TILE_COLUMNS, matrix.columns - first);
    if (columns == TILE_COLUMNS) return matrix.bias + first;
    for (int i = 0; i < TILE_COLUMNS; i++) room[i] = i < columns ? matrix.bias[first + i] : 0;
    return room;
}

// Results of a tile, [32][32] sums, finished and put where they go: float32 as it is, bfloat16 rounded.
// out: [32] rows, of which `offset` is where the panel's columns go.
template <int ACTIVATION, bool ADD, typename T>
inline void finish_whole(const float* sums, T* const* out, size_t offset, int rows) {
    for (int i = 0; i < rows; i++, sums += TILE_COLUMNS) {
        T* to = out[i] + offset;
        Vector values[TILE_COLUMNS / LANES];
        for (int v = 0; v < TILE_COLUMNS / LANES; v++) {
            values[v] = load(sums + v * LANES);
            if (ADD) values[v] += load(to + v * LANES);
            values[v] = activate(values[v], ACTIVATION);
        }
#if defined(__AVX512BF16__)
        if constexpr (sizeof(T) == sizeof(Bfloat16)) {
            const __m512bh both = _mm512_cvtne2ps_pbh((__m512)values[1], (__m512)values[0]);
            std::memcpy((void*)to, &both, sizeof both);
            continue;
        }
#endif
        for (int v = 0; v < TILE_COLUMNS / LANES; v++) store(to + v * LANES, values[v]);
    }
}

// The same of a panel with fewer columns; fill: whether zeros go in the place of the others.
template <typename T>
inline void finish_some(const float* sums, T* const* out, size_t offset, int rows, int columns, bool fill,
                        Finish finish) {
    for (int v = 0; v < TILE_COLUMNS; v += LANES) {
        const int some = std::min(LANES, columns - v);
        if (some <= 0) {
            for (int i = 0; fill && i < rows; i++) store(out[i] + offset + v, Vector{});
            continue;
        }
        for (int i = 0; i < rows; i++) {
            T* to = out[i] + offset + v;
            Vector value = load(sums + i * TILE_COLUMNS + v);
            if (finish.add) value += load_some(to, some);
            store_some(to, activate(value, finish.activation), fill ? LANES : some);
        }
    }
}

template <typename T>
inline void finish_tile(const float* sums, T* const* out, size_t offset, int rows, int columns, bool fill,
                        Finish finish) {
    if (columns < TILE_COLUMNS) return finish_some(sums, out, offset, rows, columns, fill, finish);
    if (finish.activation == RELU) {
        if (finish.add) return finish_whole<RELU, true>(sums, out, offset, rows);
        return finish_whole<RELU, false>(sums, out, offset, rows);
    }
    if (finish.activation == GELU) return finish_whole<GELU, false>(sums, out, offset, rows);
    if (finish.add) return finish_whole<NONE, true>(sums, out, offset, rows);
    finish_whole<NONE, false>(sums, out, offset, rows);
}

// See `product` of float32. T: float or Bfloat16.
template <typename T>
inline void product(const Position* positions, int first, int last, const Part<Bfloat16>* parts, int count,
                    int first_panel, int last_panel, const Target<T>& target, Finish finish) {
    static thread_local Pointers<Bfloat16> kept;
    static thread_local Buffer<Bfloat16> gathered;
    static thread_local Buffer<float> kept_sums;
    if (first >= last) return;
    const Matrix<Bfloat16>& main = *parts[0].matrix;
    size_t depth = 0, pointers = 0, rim = 0, weights = 0;  // depth: of a row of all parts that are gathered
    for (int part = 0; part < count; part++) {
        const Matrix<Bfloat16>& m = *parts[part].matrix;
        weights += m.bytes();
        if (parts[part].source.kind == Source<Bfloat16>::ROWS) continue;
        depth += (size_t)m.taps * m.padded(), pointers = std::max(pointers, (size_t)m.taps * TILE_ROWS);
        rim = std::max(rim, (size_t)m.taps * m.depth);
    }
    const size_t most = weights > MUCH ? GATHERED_FOR_MUCH : GATHERED_BYTES;
    const int a_chunk = std::min<size_t>(MAX_TILES, std::max<size_t>(1, most / (depth * TILE_ROWS * sizeof(Bfloat16) + 1)));
    const bool anew = main.group;  // every panel reads other channels
    const Bfloat16** table = kept.table.at_least(pointers * (anew ? a_chunk : 1));
    Bfloat16* spares = kept.rims.at_least(rim * TILE_ROWS * (anew ? a_chunk : 1));
    Bfloat16* memory = gathered.at_least(depth * TILE_ROWS * a_chunk);
    constexpr size_t TILE = TILE_ROWS * TILE_COLUMNS;
    float* sums = kept_sums.at_least(TILE * a_chunk);
    const size_t panel_step = target.kind == Target<T>::ROWS ? TILE_ROWS * TILE_DEPTH
                              : target.panel_stride          ? target.panel_stride : TILE_COLUMNS;
    alignas(64) float padding[TILE_COLUMNS];
    alignas(64) T* out[MAX_TILES][TILE_ROWS];
    Operand operands[MAX_TILES][2];
    for (int start = first; start < last; start += a_chunk * TILE_ROWS) {
        const int here = (std::min(last, start + a_chunk * TILE_ROWS) - start + TILE_ROWS - 1) / TILE_ROWS;
        Bfloat16* room = memory;
        for (int t = 0; t < here; t++) {
            const int from = start + t * TILE_ROWS, to = std::min(last, from + TILE_ROWS);
            for (int i = from; i < to; i++) {
                out[t][i - from] = target.row(positions ? positions[i].index : 0, i, 0, TILE_COLUMNS);
                if (finish.add) __builtin_prefetch(out[t][i - from] + first_panel * panel_step, 1, 3);
            }
            for (int part = 0; part < count; part++) {
                const Part<Bfloat16>& p = parts[part];
                const Matrix<Bfloat16>& m = *p.matrix;
                Operand& operand = operands[t][part];
                operand = {room, TILE_DEPTH, TILE_ROWS * TILE_DEPTH, nullptr, m.taps * m.padded() / TILE_DEPTH};
                if (p.source.kind == Source<Bfloat16>::ROWS) {
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
        const bool few = operands[0][0].steps + (count == 2 ? operands[0][1].steps : 0) <= STEPS_AT_ONCE;
        for (int panel = first_panel; panel < last_panel; panel++) {
            const int column = panel * TILE_COLUMNS, columns = std::min(TILE_COLUMNS, main.columns - column);
            const float* bias = bias_of(main, panel, padding);
            const size_t values = (size_t)operands[0][0].steps * PANEL_STEP;  // of the first part's panel
            for (int t = 0; anew && t < here; t++)
                gather(table + t * pointers, std::min(last - start - t * TILE_ROWS, TILE_ROWS), main.taps, main.depth,
                       main.first_channel(panel), const_cast<Bfloat16*>(operands[t][0].a));
            bool begun = false;
            for (int part = 0; part < count; part++) {
                const int steps = operands[0][part].steps;
                const int cuts = here == 1 || few ? 1 : (steps + STEPS_AT_ONCE - 1) / STEPS_AT_ONCE;
                for (int cut = 0; cut < cuts; cut++) {
                    const int k = steps * cut / cuts, some = steps * (cut + 1) / cuts - k;
                    const bool whole = few || (part + 1 == count && cut + 1 == cuts);
                    for (int t = 0; t < here; t++) {
                        const int rows = std::min(last - start - t * TILE_ROWS, TILE_ROWS);
                        Operand used[2] = {operands[t][part], operands[t][1]};
                        used[0].a += k * used[0].step, used[0].steps = some;
                        used[0].b = parts[part].matrix->panel(panel) + k * PANEL_STEP;
                        if (few && count == 2) used[1].b = parts[1].matrix->panel(panel);
                        Fetch ahead;
                        if (part == 0 && panel + 1 < last_panel) {
                            const Bfloat16* next = main.panel(panel + 1) + values * (cut * here + t) / (cuts * here);
                            ahead = Fetch(next, values / (cuts * here), some);
                        }
                        if (whole && finish.add && panel + 1 < last_panel)
                            for (int i = 0; i < rows; i++) __builtin_prefetch(out[t][i] + (panel + 1) * panel_step, 1, 3);
                        float* own = sums + t * TILE;
                        multiply_tile(used, few ? count : 1, rows, columns, begun ? Start{own, TILE_COLUMNS} : Start{bias}, own,
                                      ahead);
                        if (whole)
                            finish_tile(own, out[t], panel * panel_step, rows, columns, target.kind == Target<T>::ROWS, finish);
                    }
                    begun = true;
                }
                if (few) break;
            }
        }
    }
}
