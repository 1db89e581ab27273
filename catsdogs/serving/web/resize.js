/**
 * `resize` of catsdogs/data/resize.py in JavaScript, bit for bit.
 *
 * The network was trained on photos resized by that, and a browser's own scaling differs enough to change predictions. It
 * is a triangle filter whose support grows with the scale factor. It is separable: one pass over columns, one over rows,
 * in fixed-point arithmetic with as many fractional bits as let every weight of a pass fit into 16 bits, rounded to 8 bits
 * after each pass.
 */

const WEIGHT_BITS = 15; // and a sign
const MOST_FRACTION_BITS = 21;

/** Stretches `rgb`, `height` rows of `width` pixels of 3 bytes, to size × size. Returns a Uint8Array. */
export function resizeBilinear(rgb, width, height, size) {
  return resizeRows(resizeColumns(rgb, width, height, size), width, size, size); // this order, as it changes the rounding
}

function resizeRows(rgb, width, height, size) {
  if (width === size) return Uint8Array.from(rgb);
  const { supports, bits } = weights(width, size);
  const half = 1 << (bits - 1);
  const result = new Uint8Array(height * size * 3);
  let to = 0;
  for (let row = 0; row < height; row++) {
    for (const { first, taps } of supports) {
      let red = half, green = half, blue = half;
      let from = (row * width + first) * 3;
      for (let i = 0; i < taps.length; i++) {
        const tap = taps[i];
        red += rgb[from++] * tap;
        green += rgb[from++] * tap;
        blue += rgb[from++] * tap;
      }
      result[to++] = clip(red >> bits);
      result[to++] = clip(green >> bits);
      result[to++] = clip(blue >> bits);
    }
  }
  return result;
}

function resizeColumns(rgb, width, height, size) {
  if (height === size) return Uint8Array.from(rgb);
  const { supports, bits } = weights(height, size);
  const stride = width * 3;
  const result = new Uint8Array(size * stride);
  const sums = new Int32Array(stride);
  supports.forEach(({ first, taps }, row) => {
    sums.fill(1 << (bits - 1));
    for (let index = 0; index < taps.length; index++) {
      const tap = taps[index];
      const from = (first + index) * stride;
      for (let i = 0; i < stride; i++) sums[i] += rgb[from + i] * tap;
    }
    for (let i = 0; i < stride; i++) result[row * stride + i] = clip(sums[i] >> bits);
  });
  return result;
}

/**
 * For each of `to` output positions, the first of the `from` input positions in its support and their weights: integers,
 * to be divided by 2 ** bits.
 */
function weights(from, to) {
  const scale = from / to;
  const radius = Math.max(scale, 1);
  const perPosition = 1 / radius; // to be multiplied by, as dividing by `radius` would round differently
  let largest = 0;
  const supports = Array.from({ length: to }, (_, position) => {
    const center = (position + 0.5) * scale;
    const first = Math.max(Math.floor(center - radius), 0);
    const end = Math.min(Math.ceil(center + radius), from);
    const shares = new Float64Array(end - first);
    let total = 0;
    for (let i = 0; i < shares.length; i++) {
      shares[i] = Math.max(1 - Math.abs((i + first - (center - 0.5)) * perPosition), 0);
      total += shares[i];
    }
    for (let i = 0; i < shares.length; i++) largest = Math.max(largest, shares[i] /= total);
    return { first, shares };
  });
  let bits = 0;
  while (bits < MOST_FRACTION_BITS && Math.round(largest * 2 ** (bits + 1)) < 2 ** WEIGHT_BITS) bits++;
  return { bits, supports: supports.map(({ first, shares }) => ({ first, taps: Int32Array.from(shares, (share) => Math.round(share * 2 ** bits)) })) };
}

function clip(value) {
  return Math.min(value, 255); // this filter has no negative weights, so no sum is below 0
}
