/**
 * Pillow's `Image.resize((size, size), Image.Resampling.BILINEAR)` for 8-bit RGB, bit for bit.
 *
 * The network was trained on photos that Pillow shrank, and a browser's own scaling differs enough to change answers.
 * Pillow's is a triangle filter that widens with the factor by which it shrinks. It goes along rows and along columns,
 * in whole numbers with 22 bits after the point, and rounds to 8 bits after each.
 */

const POINT = 22;
const HALF = 2 ** (POINT - 1);

/** Stretches `rgb`, `height` rows of `width` pixels of 3 bytes, to size × size. Returns a Uint8Array. */
export function resizeBilinear(rgb, width, height, size) {
  // Which way comes first changes the rounding. Pillow 13 decides so; earlier ones always took rows first.
  const columnsFirst = height - size > 2 * Math.max(width - size, 0);
  return columnsFirst
    ? resizeRows(resizeColumns(rgb, width, height, size), width, size, size)
    : resizeColumns(resizeRows(rgb, width, height, size), size, height, size);
}

function resizeRows(rgb, width, height, size) {
  if (width === size) return Uint8Array.from(rgb);
  const windows = weights(width, size);
  const result = new Uint8Array(height * size * 3);
  let to = 0;
  for (let row = 0; row < height; row++) {
    for (const { first, taps } of windows) {
      let red = HALF, green = HALF, blue = HALF;
      let from = (row * width + first) * 3;
      for (let i = 0; i < taps.length; i++) {
        const tap = taps[i];
        red += rgb[from++] * tap;
        green += rgb[from++] * tap;
        blue += rgb[from++] * tap;
      }
      result[to++] = clip(red);
      result[to++] = clip(green);
      result[to++] = clip(blue);
    }
  }
  return result;
}

function resizeColumns(rgb, width, height, size) {
  if (height === size) return Uint8Array.from(rgb);
  const stride = width * 3;
  const result = new Uint8Array(size * stride);
  const sums = new Float64Array(stride);
  weights(height, size).forEach(({ first, taps }, row) => {
    sums.fill(HALF);
    for (let index = 0; index < taps.length; index++) {
      const tap = taps[index];
      const from = (first + index) * stride;
      for (let i = 0; i < stride; i++) sums[i] += rgb[from + i] * tap;
    }
    for (let i = 0; i < stride; i++) result[row * stride + i] = clip(sums[i]);
  });
  return result;
}

/** For each of `to` places, the first of the `from` places that it is averaged over, and what each of them counts. */
function weights(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  const perPlace = 1 / reach; // Pillow multiplies by this; dividing by `reach` would round otherwise
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(center - reach + 0.5), 0);
    const end = Math.min(Math.trunc(center + reach + 0.5), from);
    const shares = new Float64Array(end - first);
    let total = 0;
    for (let i = 0; i < shares.length; i++) {
      shares[i] = Math.max(1 - Math.abs((i + first - center + 0.5) * perPlace), 0);
      total += shares[i];
    }
    // Float64 holds these whole numbers and their sums exactly, so the order of adding does not matter.
    return { first, taps: shares.map((share) => Math.trunc(0.5 + (total ? share / total : share) * 2 ** POINT)) };
  });
}

function clip(sum) {
  return Math.min(sum >> POINT, 255); // this filter counts nothing negatively, so no sum is below 0
}
