/** A value of a row, as JSON has it. */
export type Value = string | number | boolean | null | readonly Value[];

/** A row of a projection of which no types are known. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type AnyRow = Record<string, any>;

/** `bigint`: a number up to 2^53 − 1, beyond that a string of its digits. `BigInt(value)` is exact for both. */
export type Int64 = number | string;
/** `numeric`: a string with all its digits. Exact; `Number(value)` may round it. */
export type Decimal = string;
/** `real`, `double precision`: a number, or one of the three that JSON does not have. */
export type Float = number | "NaN" | "Infinity" | "-Infinity";
/** `timestamptz` and `timestamp`: ISO 8601, with microseconds where there are some. */
export type Timestamp = string;

/** A column to sort by. NULL is the largest. */
export interface OrderBy<Column extends string = string> {
  readonly column: Column;
  readonly descending?: boolean;
}

export interface Column {
  readonly name: string;
  /** As SQL calls it: `bigint`, `numeric(12,2)`, `text[]`, … */
  readonly type: string;
}

/**
 * The same text for what means the same, whatever the order of members. A `bigint` is written as a string of its
 * digits, which the server takes for any number.
 */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, it: unknown) => {
    if (typeof it === "bigint") return it.toString();
    if (it === null || typeof it !== "object" || Array.isArray(it)) return it;
    return Object.fromEntries(Object.entries(it).sort(([a], [b]) => (a < b ? -1 : 1)));
  }) ?? "null";
}

/** A short name for a text, the same everywhere: FNV-1a of its UTF-16. Others may have the same. */
export function digest(text: string): string {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return (hash >>> 0).toString(36);
}

export type Compare = (a: Value, b: Value) => number;

const sign = (a: number | bigint | string, b: typeof a) => (a < b ? -1 : a > b ? 1 : 0);

/**
 * Compares numbers as they are told: exactly, also where they differ behind what a float keeps. NaN is the largest,
 * as in Postgres.
 */
export function compareNumbers(a: Value, b: Value): number {
  const [x, y] = [Number(a), Number(b)];
  if (x !== x || y !== y) return Number(x !== x) - Number(y !== y);
  // Rounding keeps the order: only what is rounded to the same needs another look.
  if (x !== y || a === b || typeof a !== "string" || typeof b !== "string") return sign(x, y);
  const [wholeA = "", partA = ""] = a.split(".");
  const [wholeB = "", partB = ""] = b.split(".");
  const digits = Math.max(partA.length, partB.length);
  try {
    return sign(BigInt(wholeA + partA.padEnd(digits, "0")), BigInt(wholeB + partB.padEnd(digits, "0")));
  } catch {
    return 0; // Infinity, or no plain digits.
  }
}

/** Compares texts by code points, as the server does. JavaScript's `<` compares UTF-16, where 😀 comes before ｆ. */
export function compareTexts(a: Value, b: Value): number {
  if (typeof a !== "string" || typeof b !== "string") return compareTexts(JSON.stringify(a), JSON.stringify(b));
  const most = Math.min(a.length, b.length);
  for (let i = 0; i < most; i++) {
    const [x, y] = [a.charCodeAt(i), b.charCodeAt(i)];
    // Halves of pairs stand for what is above all single units.
    if (x !== y) return (x >> 11 === 27 ? x + 0x10000 : x) - (y >> 11 === 27 ? y + 0x10000 : y);
  }
  return a.length - b.length;
}

/** Compares dates and timestamps, which have as many digits of a second, and of a year, as they need. */
export function compareTimes(a: Value, b: Value): number {
  const parts = (it: Value): [number, string] => {
    const text = String(it);
    const found = /^([+-]?\d{4,})(-.*?)Z?$/.exec(text);
    return found ? [Number(found[1]), found[2]!] : [text === "infinity" ? Infinity : -Infinity, ""];
  };
  const [[yearA, restA], [yearB, restB]] = [parts(a), parts(b)];
  return sign(yearA, yearB) || sign(restA, restB);
}

const NUMBERS = /^(smallint|integer|bigint|numeric|real|double)/;

/**
 * How values of a column's type compare. What has no order of its own here (intervals, bytes, arrays) goes by its
 * text.
 */
export function comparison(type: string): Compare {
  if (type.endsWith("]")) return compareTexts;
  if (NUMBERS.test(type)) return compareNumbers;
  if (type === "boolean") return (a, b) => Number(a) - Number(b);
  return type === "date" || type.startsWith("timestamp") ? compareTimes : compareTexts;
}

/** How rows compare: by these columns, NULL as the largest. Columns that are not there do not count. */
export function compareRows(columns: readonly Column[], order: readonly OrderBy[]): (a: AnyRow, b: AnyRow) => number {
  const steps = order.flatMap(({ column, descending }) => {
    const found = columns.find(({ name }) => name === column);
    return found ? [{ column, by: comparison(found.type), sign: descending ? -1 : 1 }] : [];
  });
  return (a, b) => {
    for (const { column, by, sign } of steps) {
      const [x, y] = [a[column], b[column]];
      if (x === y) continue;
      const difference = x === null ? 1 : y === null ? -1 : by(x, y);
      if (difference) return difference * sign;
    }
    return 0;
  };
}
