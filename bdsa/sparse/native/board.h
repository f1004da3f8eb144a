// Products of a map's positions with the columns of several mask units, kept while blocks change the map.
//
// A unit's logits are conv3x3(x) + linear(mean of x): per position ten products, nine taps and the linear layer,
// summed up over neighbours afterwards. The units of the blocks that follow each other look at the same map but for
// the positions that the blocks between them changed, so all their products are made in one reading of the map, and
// made anew only where a block ran.
#pragma once

#include "rows.h"

struct Board {
    const Matrix* matrix;  // depth: channels; columns: ten a unit, no unit in two panels
    float* products;       // [panels][positions][PANEL]
    int64_t positions;     // of all images
    int columns;           // from here on are those of units that have decided already

    Matrix left() const {
        Matrix part = *matrix;
        part.columns = columns;
        return part;
    }

    Target target(int64_t from, bool in_order) const {
        return Target{products + from * PANEL, PANEL, in_order, (size_t)positions * PANEL};
    }

    // maps: [count][channels], whose first row is position `from`.
    void update_all(const float* maps, int count, int64_t from, Grid grid, Team team) const {
        const Source source{Source::IN_ORDER, maps, grid, 1, 1, 0, nullptr, grid.size()};
        product(nullptr, count, source, left(), target(from, true), Finish{NONE, false}, team);
    }

    void update(const float* maps, const Position* changed, int count, int64_t from, Grid grid, Team team) const {
        const Source source{Source::POSITIONS, maps, grid, 1, 1, 0, nullptr, grid.size()};
        product(changed, count, source, left(), target(from, false), Finish{NONE, false}, team);
    }

    // This member's rows of one image's logits.
    void logits(int image, Grid from, Grid to, int panel, int column, float offset, int stride, float* out,
                Team team) const {
        const float* own = products + ((size_t)panel * positions + (size_t)image * from.size()) * PANEL + column;
        double context = 0;
        for (int i = 0; i < from.size(); i++) context += own[(size_t)i * PANEL + 9];
        offset += (float)(context / from.size());
        for (int row = to.height * team.thread / team.threads; row < to.height * (team.thread + 1) / team.threads; row++) {
            float* line = out + (size_t)row * to.width;
            for (int i = 0; i < to.width; i++) line[i] = offset;
            for (int dy = 0; dy < 3; dy++) {
                const int y = row * stride + dy - 1;
                if ((unsigned)y >= (unsigned)from.height) continue;
                const float* taps = own + (size_t)y * from.width * PANEL + dy * 3;
                for (int i = 0; i < to.width; i++) line[i] += taps[(size_t)i * stride * PANEL + 1];
                for (int i = stride == 1; i < to.width; i++)  // the first column has no left neighbour
                    if (i * stride > 0) line[i] += taps[((size_t)i * stride - 1) * PANEL];
                for (int i = 0; i < to.width && i * stride + 1 < from.width; i++)
                    line[i] += taps[((size_t)i * stride + 1) * PANEL + 2];
            }
        }
    }
};
