// Which positions of a map are active, as lists, and which ones a 3x3 convolution needs for them.
#pragma once

#include <algorithm>

#include "memory.h"
#include "vector.h"

struct Position {
    int32_t index;     // image * height * width + row * width + column
    int16_t row, column;
};

struct Grid {
    int height, width;
    int size() const { return height * width; }
};

// Positions of `images` maps of bytes that are not zero, or of the others, in order; returns their number.
inline int list_active(const uint8_t* mask, int images, Grid grid, Position* out, bool others = false) {
    int count = 0;
    int32_t index = 0;
    for (int image = 0; image < images; image++)
        for (int row = 0; row < grid.height; row++) {
            int column = 0;
            while (column < grid.width) {
                uint64_t eight = 1;
                if (column + 8 <= grid.width) std::memcpy(&eight, mask + index + column, 8);
                const int end = std::min(column + 8, grid.width);
                if (!eight && !others) {
                    column = end;
                    continue;
                }
                for (; column < end; column++) {  // writes always, counts what is active: no branch to mispredict
                    out[count] = {index + column, (int16_t)row, (int16_t)column};
                    count += (mask[index + column] != 0) != others;
                }
            }
            index += grid.width;
        }
    return count;
}

// Fill the rows of a line of a map, `bytes` each, with a byte where its mask is zero.
inline void clear_inactive(const uint8_t* mask, int width, size_t bytes, int byte, void* rows) {
    for (int start = 0, end; start < width; start = end + 1) {
        for (end = start; end < width && !mask[end];) end++;
        std::memset((char*)rows + start * bytes, byte, (end - start) * bytes);
    }
}

// D(m): the input positions that a 3x3 convolution of padding 1 and this stride reads for the active outputs.
// scratch: output rows * (width + 2) bytes. mask: [images][h][w]; out: [images][H][W].
inline void dilate(const uint8_t* mask, int images, Grid from, Grid to, int stride, uint8_t* scratch, uint8_t* out) {
    const int padded = to.width + 2;
    for (int image = 0; image < images; image++) {
        for (int row = 0; row < from.height; row++) {  // along each row: placed on the stride grid, then spread by one
            const uint8_t* source = mask + ((size_t)image * from.height + row) * from.width;
            uint8_t* target = scratch + (size_t)row * padded;
            std::memset(target, 0, padded);
            if (stride == 1) {
                for (int i = 0; i < from.width; i++) target[i] = source[i];
                for (int i = 0; i < from.width; i++) target[i + 1] |= source[i];
                for (int i = 0; i < from.width; i++) target[i + 2] |= source[i];
            } else {
                for (int i = 0; i < from.width; i++) {
                    target[i * stride] |= source[i];
                    target[i * stride + 1] |= source[i];
                    target[i * stride + 2] |= source[i];
                }
            }
        }
        uint8_t* map = out + (size_t)image * to.size();
        std::memset(map, 0, to.size());
        for (int row = 0; row < from.height; row++)  // then to the rows above and below
            for (int near = row * stride - 1; near <= row * stride + 1; near++) {
                if (near < 0 || near >= to.height) continue;
                const uint8_t* source = scratch + (size_t)row * padded + 1;
                uint8_t* target = map + (size_t)near * to.width;
                for (int i = 0; i < to.width; i++) target[i] |= source[i];
            }
    }
}
