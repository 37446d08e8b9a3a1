import { expect, it } from "vitest";
import { CORE_BYTES_MAX, ENTRIES, sizeOf } from "../../scripts/size.mjs";

it("is as small as it is said to be", async () => {
  const { minified, gzip, brotli } = await sizeOf(ENTRIES.connect);
  console.log(`connect: ${minified} bytes, gzip ${gzip}, brotli ${brotli}`);
  expect(gzip).toBeLessThan(CORE_BYTES_MAX);
  expect(brotli).toBeLessThan(CORE_BYTES_MAX);
  // And all of it is there.
  expect(minified).toBeGreaterThan(10_000);
});

it("leaves out what is not used", async () => {
  const [all, some] = await Promise.all([sizeOf(ENTRIES["connect and indexedDb"]), sizeOf(ENTRIES.connect)]);
  expect(all.minified - some.minified).toBeGreaterThan(500);
  expect((await sizeOf('import "./dist/index.js"')).minified).toBeLessThan(100);
});
