// What a page pays: each entry bundled, minified and compressed, without its peers. Exits with 1 above the bound.
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { build } from "esbuild";

/** Bytes of `connect` and all that it needs, compressed in either way. */
export const CORE_BYTES_MAX = 8 * 1024;

const root = fileURLToPath(new URL("..", import.meta.url));

/** Bytes of a module and all that it imports. */
export async function sizeOf(contents) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: root },
    bundle: true, minify: true, format: "esm", target: "es2022", write: false, logLevel: "error",
    external: ["react", "@tanstack/db"],
  });
  const bytes = outputFiles[0].contents;
  const brotli = brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }).length;
  return { minified: bytes.length, gzip: gzipSync(bytes, { level: 9 }).length, brotli };
}

export const ENTRIES = {
  connect: 'export { connect } from "./dist/index.js"',
  "connect and indexedDb": 'export { connect, indexedDb } from "./dist/index.js"',
  "connect and react": 'export { connect } from "./dist/index.js"; export * from "./dist/react.js"',
  "connect and tanstack-db": 'export { connect } from "./dist/index.js"; export * from "./dist/tanstack-db.js"',
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, contents] of Object.entries(ENTRIES)) {
    const { minified, gzip, brotli } = await sizeOf(contents);
    console.log(`${name}: ${minified} bytes, gzip ${gzip}, brotli ${brotli}`);
    if (name === "connect" && Math.max(gzip, brotli) >= CORE_BYTES_MAX) process.exitCode = 1;
  }
}
