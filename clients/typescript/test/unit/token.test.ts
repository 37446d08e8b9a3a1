import { expect, it } from "vitest";
import { socketUrl } from "../../src/client.js";
import { readSnapshot, storageOf } from "../../src/storage.js";
import { claimsOf, refreshIn } from "../../src/token.js";

it("reads claims, and nothing of what is no token", () => {
  const token = (claims: unknown) => `x.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.y`;
  expect(claimsOf(token({ sub: "ann~~~???", exp: 7 }))).toEqual({ sub: "ann~~~???", exp: 7 });
  // What is not of ASCII is read by its bytes: another name, and always the same.
  expect(claimsOf(token({ sub: "änn" }))).toEqual({ sub: "Ã¤nn" });
  for (const odd of ["", "a", "a.b", "a.%%%.c", token(null)]) expect(claimsOf(odd)).toEqual({});
});

it("asks for a new token before the last one is over", () => {
  expect(refreshIn(100, 0)).toBe(80_000);
  expect(refreshIn(3600, 0)).toBe(3_540_000);
  for (const odd of [undefined, 0, 5, "soon", {}]) expect(refreshIn(odd, 10_000)).toBeUndefined();
});

it("finds the socket of a server", () => {
  for (const [url, expected] of [
    ["https://live.shop", "wss://live.shop/v1/socket"],
    ["http://localhost:8080/", "ws://localhost:8080/v1/socket"],
    ["wss://shop/live/", "wss://shop/live/v1/socket"],
    ["ws://shop/v1/socket", "ws://shop/v1/socket"],
  ]) expect(socketUrl(url!)).toBe(expected);
  expect(socketUrl(new URL("http://shop"))).toBe("ws://shop/v1/socket");
  expect(() => socketUrl("/live")).toThrow(TypeError);
});

const whole = {
  version: 1, time: 1, view: "v", cursor: "c-1", rows: [[1, null]],
  shape: { columns: [{ name: "id", type: "bigint" }, { name: "n", type: "text" }], key: ["id"], order: [{ column: "id", descending: true }] },
};

it("believes a snapshot only when it is whole", () => {
  expect(readSnapshot(whole)).toBe(whole);
  expect(readSnapshot({ ...whole, shape: { ...whole.shape, key: null } })).toBeDefined();
  const odd = [
    undefined, null, 7, "x", {}, [], { ...whole, version: 2 }, { ...whole, view: undefined }, { ...whole, cursor: 7 },
    { ...whole, rows: [[1]] }, { ...whole, rows: [{}] }, { ...whole, rows: 3 }, { ...whole, shape: null },
    { ...whole, shape: { ...whole.shape, key: "id" } }, { ...whole, shape: { ...whole.shape, columns: [{}] } },
    { ...whole, shape: { ...whole.shape, order: undefined } },
  ];
  for (const it of odd) expect(readSnapshot(it), JSON.stringify(it)).toBeUndefined();
});

it("does not wait for a storage that does not answer, nor fails with one that does", async () => {
  const never = storageOf({ rowsMax: 1, load: () => new Promise(() => {}), save: () => Promise.reject(new Error("full")) });
  const started = Date.now();
  expect(await never.load("x")).toBeUndefined();
  expect(Date.now() - started).toBeLessThan(3000);
  await never.save([]);
  const broken = storageOf({ rowsMax: 1, load: () => Promise.reject(new Error("no")), save: () => Promise.resolve() });
  expect(await broken.load("x")).toBeUndefined();
});
