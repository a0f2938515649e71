// Arrays to bytes and back: docs/protocol.md, section 4.

// Booleans are Uint8Arrays of 0 and 1; float16 becomes a Float32Array, which is exact.
// Typed arrays have the byte order of the machine: little-endian wherever Node.js runs today.
export const DTYPES = {
  "|b1": Uint8Array, "|u1": Uint8Array, "|i1": Int8Array, "<u2": Uint16Array, "<i2": Int16Array,
  "<u4": Uint32Array, "<i4": Int32Array, "<u8": BigUint64Array, "<i8": BigInt64Array,
  "<f2": Uint16Array, "<f4": Float32Array, "<f8": Float64Array,
};

/** What went wrong; the codes are those of protocol.md, section 10. */
export class RobotError extends Error {
  constructor(code, message, retryable = false) {
    super(message);
    Object.assign(this, { name: "RobotError", code, retryable });
  }
}

export function demand(condition, message, code = "protocol.remote") {
  if (!condition) throw new RobotError(code, message);
}

const ALIGN = 64;
/** Every array begins at a multiple of 64. */
export const alignUp = (offset) => Math.ceil(offset / ALIGN) * ALIGN;
/** The scalar, of shape [], has one element. */
export const elements = (shape) => shape.reduce((product, n) => product * n, 1);

function fromHalf(h) {
  const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
}

function toHalf(x) {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0, size = Math.abs(x);
  if (Number.isNaN(size)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  const exponent = Math.max(Math.floor(Math.log2(size)), -14), scaled = size / 2 ** (exponent - 10);
  const whole = Math.floor(scaled), rest = scaled - whole;
  const up = rest > 0.5 || (rest === 0.5 && whole % 2 === 1); // half to even
  return sign | (((exponent + 14) << 10) + whole + (up ? 1 : 0));
}

/** Bytes to a typed array; copied, because a message need not begin where 8 bytes align. */
export function decodeArray(dtype, bytes) {
  const { buffer, byteOffset, byteLength } = bytes;
  const array = new DTYPES[dtype](buffer.slice(byteOffset, byteOffset + byteLength));
  return dtype === "<f2" ? Float32Array.from(array, fromHalf) : array;
}

/** A typed array, or an array of numbers, to the bytes of a dtype. */
export function encodeArray([, dtype, shape], data) {
  const type = DTYPES[dtype], code = "robot.action.shape";
  demand(data.length === elements(shape), `${data.length} numbers for the shape [${shape}]`, code);
  const big = type === BigInt64Array || type === BigUint64Array;
  let array = data;
  if (dtype === "<f2") array = Uint16Array.from(data, toHalf);
  else if (!(data instanceof type)) array = type.from(data, big ? BigInt : Number);
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
