/**
 * Pillow's `Image.resize((size, size), Image.Resampling.BILINEAR)` for 8-bit RGB, bit for bit.
 *
 * The network was trained on photos resized by Pillow, and a browser's own scaling differs enough to change predictions.
 * Pillow's is a triangle filter whose support grows with the scale factor. It is separable: one pass over rows, one over
 * columns, in fixed-point arithmetic with 22 fractional bits, rounded to 8 bits after each pass.
 */

const FRACTION_BITS = 22;
const HALF = 2 ** (FRACTION_BITS - 1);

/** Stretches `rgb`, `height` rows of `width` pixels of 3 bytes, to size × size. Returns a Uint8Array. */
export function resizeBilinear(rgb, width, height, size) {
  // The order of the passes changes the rounding. This is Pillow 13's choice; earlier versions always took rows first.
  const columnsFirst = height - size > 2 * Math.max(width - size, 0);
  return columnsFirst
    ? resizeRows(resizeColumns(rgb, width, height, size), width, size, size)
    : resizeColumns(resizeRows(rgb, width, height, size), size, height, size);
}

function resizeRows(rgb, width, height, size) {
  if (width === size) return Uint8Array.from(rgb);
  const supports = weights(width, size);
  const result = new Uint8Array(height * size * 3);
  let to = 0;
  for (let row = 0; row < height; row++) {
    for (const { first, taps } of supports) {
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

/** For each of `to` output positions: the first of the `from` input positions in its support, and their weights. */
function weights(from, to) {
  const scale = from / to;
  const radius = Math.max(scale, 1);
  const perPosition = 1 / radius; // Pillow multiplies by this; dividing by `radius` would round differently
  return Array.from({ length: to }, (_, position) => {
    const center = (position + 0.5) * scale;
    const first = Math.max(Math.trunc(center - radius + 0.5), 0);
    const end = Math.min(Math.trunc(center + radius + 0.5), from);
    const shares = new Float64Array(end - first);
    let total = 0;
    for (let i = 0; i < shares.length; i++) {
      shares[i] = Math.max(1 - Math.abs((i + first - center + 0.5) * perPosition), 0);
      total += shares[i];
    }
    // Float64 holds these integers and their sums exactly, so the order of addition does not matter.
    return { first, taps: shares.map((share) => Math.trunc(0.5 + (total ? share / total : share) * 2 ** FRACTION_BITS)) };
  });
}

function clip(sum) {
  return Math.min(sum >> FRACTION_BITS, 255); // this filter has no negative weights, so no sum is below 0
}
