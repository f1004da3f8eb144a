"""Draw handwritten digits among distracting strokes, many images at once, from uniform numbers only.

An image is a function of one row of uniform numbers. Everything here uses + - * / sqrt, comparisons
and roundings, element by element: IEEE arithmetic fixes those to the bit, whereas sin, exp and sums
may differ in the last digit between processors and would change a pixel here and there.

Shape legend: N images of one call, S side of the canvas in pixels, W side of the digit's window.
Colours and opacities are in [0, 1] until `to_bytes`.
"""
from __future__ import annotations

import numpy as np

STROKES = 9                       # distractors of an image, some of them absent
PER_STROKE = 12                  # uniform numbers that one distractor takes
BACKGROUND = 5
DIGIT = 10
UNIFORMS = STROKES * PER_STROKE + BACKGROUND + DIGIT

CELLS = 8                         # side of an original digit in its own pixels
_PAD = 1                          # blank cells around it, so that strokes at the border end softly
_FINE = 4                         # samples of the smooth digit per original pixel


def smooth(originals: np.ndarray) -> np.ndarray:
    """Upscale the originals fourfold with a Catmull-Rom spline, once for all images.

    Args:
        originals: [M, 8, 8] float32 ink in [0, 1].

    Returns:
        [M, 40, 40] float32 in [0, 1], with one blank original pixel on each side.
    """
    side = CELLS + 2 * _PAD
    ink = np.pad(originals.astype(np.float32), ((0, 0), (_PAD + 2, _PAD + 2), (_PAD + 2, _PAD + 2)))
    place = (np.arange(side * _FINE, dtype=np.float32) + 0.5) / _FINE - 0.5 + 2
    left = np.floor(place).astype(np.int64)
    t = (place - left).astype(np.float32)
    weights = (((2 - t) * t - 1) * t / 2, ((3 * t - 5) * t * t + 2) / 2,
               ((4 - 3 * t) * t + 1) * t / 2, (t - 1) * t * t / 2)
    for axis in (1, 2):
        shape = (1, -1, 1) if axis == 1 else (1, 1, -1)
        total = np.zeros((), np.float32)
        for tap, weight in enumerate(weights, start=-1):
            total = total + ink.take(left + tap, axis=axis) * weight.reshape(shape)
        ink = total
    return np.clip(ink, 0, 1)


def draw(uniforms: np.ndarray, noise: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw N images: noisy gradient, then faint thin strokes, then the bright digit on top.

    Args:
        uniforms: [N, UNIFORMS] float64 in [0, 1).
        noise: [N, S, S] uint8, one random byte per pixel.
        digits: [N, 40, 40] from `smooth`, the digit of each image.

    Returns:
        images: [N, S, S, 3] uint8.
        boxes: [N, 4] int64, [x0, y0, x1, y1] in pixels, x1 and y1 exclusive: where the digit's ink is.
    """
    size = noise.shape[-1]
    u = uniforms.astype(np.float32)
    ends = np.cumsum([BACKGROUND, STROKES * PER_STROKE])
    background, strokes, digit = np.split(u, ends, axis=1)

    canvas = gradient(background, noise)                             # [N, 3, S, S]
    for numbers in np.split(strokes, STROKES, axis=1):
        cover, colour = stroke(numbers, size)
        paint(canvas, cover, colour)
    cover, boxes = digit_cover(digit, digits, size)
    tint = 0.55 + 0.45 * digit[:, :3]
    paint(canvas, cover, tint / tint.max(axis=1, keepdims=True))     # the strongest channel is full
    return to_bytes(canvas), boxes


def to_bytes(canvas: np.ndarray) -> np.ndarray:
    """[N, 3, S, S] float32 in [0, 1] -> [N, S, S, 3] uint8."""
    rounded = np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(rounded.transpose(0, 2, 3, 1))


def paint(canvas: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    """Blend a colour [N, 3] into the canvas [N, 3, S, S] in place, with opacity `cover` [N, S, S]."""
    for channel in range(3):
        plane = canvas[:, channel]
        plane += (colour[:, channel, None, None] - plane) * cover


def _column(values: np.ndarray) -> np.ndarray:
    """[N] -> [N, 1, 1], to meet [N, S, S]."""
    return values[:, None, None]


def _unit(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of 2 atan(t): t in [-1, 1] covers half a turn without trigonometry."""
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


def gradient(u: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Dark background [N, 3, S, S]: one colour, a slope in brightness and noise in every pixel."""
    axis = (np.arange(noise.shape[-1], dtype=np.float32) + 0.5) / noise.shape[-1] - 0.5
    slope = _column(u[:, 3] - 0.5) * axis[None, None, :] + _column(u[:, 4] - 0.5) * axis[None, :, None]
    light = slope * 0.2 + (noise.astype(np.float32) - 127.5) * (0.16 / 255)
    base = 0.06 + 0.22 * u[:, :3]
    return np.clip(light[:, None] + base[:, :, None, None], 0, 1)


def stroke(u: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One distractor per image: a line, an arc, an arc broken in two or a soft blob.

    All four are a piece of a parabola with a thickness: in the frame of the stroke, with `a` along
    it in half-lengths and `b` across it in pixels, the centre line is b = bend (a^2 - 1/2) length.

    Returns:
        cover: [N, S, S] opacity; colour: [N, 3].
    """
    unit = size / 48                                  # thickness in pixels grows with the canvas
    kind = u[:, 11]
    blob, line, broken = kind < 0.15, (kind >= 0.15) & (kind < 0.4), kind > 0.7
    present = u[:, 10] < 0.9
    length = np.where(blob, 0.02 + 0.05 * u[:, 0], 0.09 + 0.2 * u[:, 0]) * size      # half of it
    thick = np.where(blob, 1.2 + 1.8 * u[:, 1], 0.4 + 0.35 * u[:, 1]) * unit         # half of it
    sharp = np.where(blob, 0.5 / unit, 1)             # opacity per pixel at the edge
    curve = np.where(u[:, 2] < 0.5, u[:, 2] - 0.7, u[:, 2] - 0.3) * 1.1              # never straight
    bend = np.where(blob | line, 0, curve)
    piece, middle = np.where(broken, 0.3, 1), np.where(broken, 0.7, 0)
    strength = np.where(present, np.where(blob, 0.2, 0.35) + 0.35 * u[:, 3], 0)
    cos, sin = _unit(2 * u[:, 4] - 1)
    x0, y0 = u[:, 5] * size, u[:, 6] * size
    f = np.float32
    length, thick, sharp, bend, piece, middle, strength = (
        _column(v.astype(f)) for v in (length, thick, sharp, bend, piece, middle, strength))

    axis = np.arange(size, dtype=f) + f(0.5)
    x = axis[None, None, :] - _column(x0)             # [N, 1, S]
    y = axis[None, :, None] - _column(y0)             # [N, S, 1]
    cos, sin = _column(cos), _column(sin)
    a = x * (cos / length) + y * (sin / length)       # [N, S, S], and so on below
    b = y * cos - x * sin
    a2 = a * a
    b -= (a2 - 0.5) * (bend * length)
    distance = np.abs(b) / np.sqrt(a2 * (4 * bend * bend) + 1)        # to first order
    cover = np.clip((thick - distance) * sharp + 0.5, 0, 1)
    a = np.abs(np.abs(a) - middle)
    cover *= np.clip((piece - a) * (length * sharp) + 0.5, 0, 1)
    cover *= strength
    return cover, u[:, 7:10]


def digit_cover(u: np.ndarray, digits: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotate, shear, scale and place each digit.

    Returns:
        cover: [N, S, S] opacity; boxes: [N, 4] int64 around the pixels with visible ink.
    """
    n, window = len(u), -(-size * 3 // 5)             # W: holds the largest digit when turned
    cos, sin = _unit((2 * u[:, 3] - 1) * 0.11)        # within 12.5 degrees
    shear = (2 * u[:, 4] - 1) * 0.2
    height = (0.37 + 0.12 * u[:, 5]) * size
    width = height * (0.9 + 0.2 * u[:, 6])
    axis = np.arange(window, dtype=np.float32) + np.float32(0.5 - window / 2)
    x, y = axis[None, None, :], axis[None, :, None]
    turned_y = _column(cos) * y - _column(sin) * x
    turned_x = _column(cos) * x + _column(sin) * y + turned_y * _column(shear)
    fine = digits.shape[-1]
    scale = np.float32(CELLS * _FINE)
    px = np.clip(turned_x * _column(scale / width) + (fine / 2 - 0.5), 0, fine - 1.001)     # [N, W, W]
    py = np.clip(turned_y * _column(scale / height) + (fine / 2 - 0.5), 0, fine - 1.001)
    left, top = px.astype(np.int64), py.astype(np.int64)
    right, down = px - left.astype(np.float32), py - top.astype(np.float32)

    flat = digits.reshape(-1)
    corner = (np.arange(n) * fine * fine)[:, None, None] + top * fine + left
    upper = flat[corner] + (flat[corner + 1] - flat[corner]) * right
    lower = flat[corner + fine] + (flat[corner + fine + 1] - flat[corner + fine]) * right
    ink = upper + (lower - upper) * down
    # An 8x8 original is blurred: a contrast curve turns its grey ramps into the edges of a pen.
    t = np.clip((ink - 0.22) / 0.4, 0, 1)
    pen = t * t * (3 - 2 * t) * _column(0.85 + 0.15 * u[:, 7])

    seen = pen > 0.25
    x0, x1 = _extent(seen.any(axis=1))
    y0, y1 = _extent(seen.any(axis=2))
    margin = size // 16                               # keeps most of the digit in a padded random crop
    left = margin + np.floor(u[:, 8] * (size - 2 * margin - (x1 - x0) + 1)).astype(np.int64)
    top = margin + np.floor(u[:, 9] * (size - 2 * margin - (y1 - y0) + 1)).astype(np.int64)
    frame = np.zeros((n, size + 2 * window, size + 2 * window), np.float32)
    for i, (row, column) in enumerate(zip(top - y0 + window, left - x0 + window)):
        frame[i, row:row + window, column:column + window] = pen[i]
    boxes = np.stack([left, top, left + x1 - x0, top + y1 - y0], axis=1)
    return frame[:, window:-window, window:-window], boxes


def _extent(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last True of each row: [N, W] bool -> two [N] int64."""
    return seen.argmax(axis=1), seen.shape[1] - seen[:, ::-1].argmax(axis=1)
