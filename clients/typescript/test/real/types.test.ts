import { execFile } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, expect, test } from "vitest";

const run = promisify(execFile);
const HERE = new URL("../..", import.meta.url).pathname;
const folders: string[] = [];
afterEach(() => folders.splice(0).forEach((folder) => rmSync(folder, { recursive: true, force: true })));

/** What the compiler says of a page with these declarations. */
async function compile(declarations: string, page: string): Promise<string> {
  // Beneath the package, so that its name is found as the tests' settings have it.
  mkdirSync(join(HERE, "test/generated"), { recursive: true });
  const folder = mkdtempSync(join(HERE, "test/generated/"));
  folders.push(folder);
  writeFileSync(join(folder, "projections.d.ts"), declarations);
  writeFileSync(join(folder, "page.ts"), page);
  const settings = { extends: "../../../tsconfig.test.json", include: ["."], exclude: [] };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(settings));
  return run(join(HERE, "node_modules/.bin/tsc"), ["-p", folder]).then(() => "", (error) => String(error.stdout));
}

test("what `deltafront types` prints makes a misspelt column not compile", async () => {
  const program = process.env.DELTAFRONT_BIN;
  if (!program) throw new Error("name the server's program in DELTAFRONT_BIN");
  const shop = join(mkdtempSync(join(tmpdir(), "deltafront-types-")), "shop");
  folders.push(join(shop, ".."));
  await run(program, ["demo", "--write", shop]);
  const { stdout: declarations } = await run(program, ["types", shop, "--offline"]);
  const page = (column: string) => `
    import { connect, type Decimal } from "@deltafront/client";
    const orders = connect("ws://localhost").subscribe("open_orders", { columns: ["${column}"], where: { total: { _gt: "1" } } });
    const totals: (Decimal | null)[] = orders.rows.map((row) => row.total);
    const keys: unknown[] = orders.rows.map((row) => row.id);
    export { keys, totals };
  `;
  expect(await compile(declarations, page("total"))).toBe("");
  expect(await compile(declarations, page("totl"))).toContain('"totl"');
  expect(await compile(declarations, page("total").replace("open_orders", "opn_orders"))).toContain('"opn_orders"');
});
