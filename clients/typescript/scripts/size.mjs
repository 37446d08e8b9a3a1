// What a page pays: each entry bundled, minified and compressed, without its peers. Exits with 1 above the bound.
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { build } from "esbuild";

/** Bytes of the core, with storage, compressed in either way. */
export const CORE_BYTES_MAX = 6 * 1024;

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
  "connect alone": 'export { connect } from "./dist/index.js"',
  "the core": 'export * from "./dist/index.js"',
  "the core and react": 'export * from "./dist/index.js"; export * from "./dist/react.js"',
  "the core and tanstack-db": 'export * from "./dist/index.js"; export * from "./dist/tanstack-db.js"',
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, contents] of Object.entries(ENTRIES)) {
    const { minified, gzip, brotli } = await sizeOf(contents);
    console.log(`${name}: ${minified} bytes, gzip ${gzip}, brotli ${brotli}`);
    if (name === "the core" && Math.max(gzip, brotli) >= CORE_BYTES_MAX) process.exitCode = 1;
  }
}
