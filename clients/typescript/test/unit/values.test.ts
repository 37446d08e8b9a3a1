import { expect, it } from "vitest";
import { canonical, compareNumbers, compareRows, compareTexts, compareTimes, comparison, digest } from "../../src/values.js";

/** Each is smaller than those after it. */
function ascend(compare: (a: any, b: any) => number, items: unknown[]) {
  items.forEach((a, i) => items.forEach((b, j) => {
    expect([a, b, Math.sign(compare(a, b))]).toEqual([a, b, Math.sign(i - j)]);
  }));
}

it("compares numbers exactly, whatever they are written as", () => {
  ascend(compareNumbers, [
    "-Infinity", "-12345678901234567890.2", "-12345678901234567890.1", -1, "-0.5", "-0.00000000000000000002", "0.00", "1e-7", 1, "1.5",
    9007199254740991, "9007199254740992", "9007199254740993", "12345678901234567890.0000000001", "12345678901234567890.0000000002",
    "Infinity", "NaN",
  ]);
  for (const [a, b] of [["1.50", "1.5"], [1, "1.000"], ["-0", "0"], ["NaN", "NaN"], ["00.1", ".10"]]) expect(compareNumbers(a!, b!)).toBe(0);
});

it("compares texts by code points", () => {
  ascend(compareTexts, ["", "A", "Aa", "Z", "a", "a\u0301", "ä", "\ud7ff", "\ue000", "ｆ", "\ufffd", "😀", "😀a", "\u{10ffff}"]);
});

it("compares times of any length", () => {
  ascend(compareTimes, [
    "-infinity", "-004712-01-01", "-000043-03-15", "0000-01-01", "0999-12-31", "2026-01-01", "2026-01-02", "+012026-01-01", "+100000-01-01", "infinity",
  ]);
  ascend(compareTimes, ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.13Z", "2026-01-01T00:00:01Z"]);
  ascend(comparison("time"), ["00:00:00", "13:14:15", "13:14:15.5", "23:59:59"]);
});

it("puts NULL last, and first when descending, and breaks ties", () => {
  const columns = [{ name: "n", type: "integer" }, { name: "id", type: "bigint" }];
  const sorted = (descending: boolean) =>
    [[2, 1], [null, 2], [10, 3], [2, 0]].map(([n, id]) => ({ n, id }))
      .sort(compareRows(columns, [{ column: "n", descending }, { column: "gone" }, { column: "id" }]))
      .map(({ id }) => id);
  expect(sorted(false)).toEqual([0, 1, 3, 2]);
  expect(sorted(true)).toEqual([2, 3, 0, 1]);
});

it("has one text for what means the same", () => {
  expect(canonical({ b: [1, { d: 1n, c: null }], a: undefined })).toBe('{"b":[1,{"c":null,"d":"1"}]}');
  expect(canonical({ b: 1, a: 2 })).toBe(canonical({ a: 2, b: 1 }));
  expect(canonical(undefined)).toBe("null");
});

it("has short names that mostly differ", () => {
  const names = new Set(Array.from({ length: 1000 }, (_, i) => digest(`{"projection":"orders","where":{"id":{"_eq":${i}}}}`)));
  expect(names.size).toBeGreaterThan(995);
  expect(Math.max(...[...names].map(({ length }) => length))).toBeLessThanOrEqual(7);
});
