import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { eventually, sleep } from "../real/server.js";
import { world } from "../real/world.js";
import { bundle, launch, open } from "./world.js";

const REACT18 = fileURLToPath(new URL("../react18/", import.meta.url));

const tests = world();
let browser: Browser;
let context: BrowserContext;
beforeAll(async () => void (browser = await launch()));
afterAll(() => browser?.close());
beforeEach(async () => void (context = await browser.newContext()));
afterEach(() => context.close());

const shown = async (page: Page) => (await page.locator("main p").allTextContents()).join(", ");
const status = (page: Page) => page.locator("[data-status]").getAttribute("data-status");
const becomes = (page: Page, wanted: string) => eventually(async () => (await status(page)) === wanted, `the status ${wanted}`);
const balances = async (most: number) => {
  const { rows } = await tests().sql.query(`SELECT id, balance FROM accounts WHERE id <= ${most} ORDER BY id`);
  return rows.map(({ id, balance }) => `${id}: ${balance}`).join(", ");
};
const agrees = (page: Page, most: number) =>
  eventually(async () => (await shown(page)) === (await balances(most)), "what Postgres has");

describe("a plain page", () => {
  let program: string;
  beforeAll(async () => void (program = await bundle("plain.ts")));

  it("shows rows, also when the network was away", async () => {
    const { proxy, book } = network();
    const { page, problems } = await open(context, proxy.url, program);
    await becomes(page, "live");
    await agrees(page, 5);
    await book(3, 150);
    await agrees(page, 5);
    const before = await shown(page);
    await proxy.refuse();
    await becomes(page, "offline");
    await book(3, 150);
    expect(await shown(page)).toBe(before);
    await proxy.listen();
    await becomes(page, "live");
    await agrees(page, 5);
    // What the browser itself calls offline.
    await context.setOffline(true);
    await book(2, 10);
    await sleep(300);
    await context.setOffline(false);
    await agrees(page, 5);
    await becomes(page, "live");
    expect(problems).toEqual([]);
  });

  it("begins with what was stored, without a network, and goes on by a diff", async () => {
    const { proxy, book } = network();
    const { page, problems } = await open(context, proxy.url, program, "?user=ann");
    await becomes(page, "live");
    await book(1, 5);
    await agrees(page, 5);
    const before = await shown(page);
    // A second, and then some.
    await sleep(1500);
    await proxy.refuse();
    await book(1, 5);
    await page.reload();
    await eventually(async () => (await shown(page)) === before, "the stored rows");
    expect(await status(page)).toBe("offline");
    await proxy.listen();
    await becomes(page, "live");
    await agrees(page, 5);
    const seen = (await page.evaluate("seen")) as string[];
    expect(seen.filter((it) => it.includes(" "))).toEqual(["stored 5", "undefined 5"]);
    // What belongs to somebody else is not shown.
    await proxy.refuse();
    await page.goto(`${proxy.url}/page?user=bob`);
    await becomes(page, "offline");
    await sleep(300);
    expect(await shown(page)).toBe("");
    await proxy.listen();
    await agrees(page, 5);
    expect(problems).toEqual([]);
  });

  it("throws away what was stored and is not right", async () => {
    const { proxy } = network();
    const { page, problems } = await open(context, proxy.url, program, "?user=ann");
    await becomes(page, "live");
    await sleep(1500);
    const spoil = (value: unknown) =>
      page.evaluate(async (value) => {
        const database = await new Promise<IDBDatabase>((resolve) => {
          const request = indexedDB.open("tests");
          request.onsuccess = () => resolve(request.result);
        });
        const store = database.transaction("snapshots", "readwrite").objectStore("snapshots");
        const all = await new Promise<[IDBValidKey[], any[]]>((resolve) => {
          const [keys, values] = [store.getAllKeys(), store.getAll()];
          values.onsuccess = () => resolve([keys.result, values.result]);
        });
        all[0].forEach((key, i) => store.put(value ?? { ...all[1][i], rows: [[1], ["x", {}, 3, 4]] }, key));
        await new Promise((resolve) => (store.transaction.oncomplete = resolve));
        database.close();
        return all[0].length;
      }, value);
    for (const value of [{ version: 1, time: 9e15, shape: 7 }, { version: 2, time: 9e15 }, undefined]) {
      expect(await spoil(value)).toBe(1);
      await page.reload();
      await becomes(page, "live");
      await agrees(page, 5);
      expect(((await page.evaluate("seen")) as string[]).filter((it) => it.startsWith("stored"))).toEqual([]);
      await sleep(1500);
    }
    expect(problems).toEqual([]);
  });

  it("rests while it is hidden, and catches up", async () => {
    const { proxy, book } = network();
    const { page } = await open(context, proxy.url, program, "?hidden");
    await becomes(page, "live");
    await agrees(page, 5);
    const hide = (isHidden: boolean) =>
      page.evaluate((isHidden) => {
        Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, isHidden);
    // Shown again at once: nothing happens.
    await hide(true);
    await hide(false);
    await sleep(400);
    expect(await page.locator("main").getAttribute("data-client")).toBe("live");
    const { connections } = proxy;
    await hide(true);
    await eventually(async () => (await page.locator("main").getAttribute("data-client")) === "paused", "a pause");
    await book(4, 40);
    await sleep(500);
    expect(proxy.connections).toBe(connections);
    await hide(false);
    await agrees(page, 5);
    expect(proxy.connections).toBe(connections + 1);
    expect((await page.evaluate("seen")) as string[]).toEqual(["first 5", "live", "offline", "undefined 5", "live"]);
  });
});

describe.each(["19", "18"])("a page of React %s", (version) => {
  let program: string;
  beforeAll(async () => {
    if (version === "18" && !existsSync(`${REACT18}/node_modules/react`)) execFileSync("npm", ["ci"], { cwd: REACT18, stdio: "inherit" });
    program = await bundle("react.tsx", version === "18" ? "../react18/node_modules" : undefined);
  });

  it("shows rows in its strict mode, and asks once for what is the same", async () => {
    const { proxy, book } = network();
    const sent: string[] = [];
    context.on("page", (page) =>
      page.on("websocket", (socket) => socket.on("framesent", ({ payload }) => void sent.push(JSON.parse(String(payload)).op))));
    const { page, problems } = await open(context, proxy.url, program);
    expect(String(await page.evaluate("reactVersion")).split(".")[0]).toBe(version);
    await becomes(page, "live");
    await agrees(page, 3);
    expect(await page.locator("footer").textContent()).toBe("20");
    expect(sent).toEqual(["subscribe", "subscribe", "subscribe"]);
    await page.click("#redraw");
    await book(2, 99);
    await agrees(page, 3);
    for (let i = 0; i < 30; i++) await book(1 + (i % 20), i);
    await agrees(page, 3);
    expect(sent.length).toBe(3);
    await page.click("#more");
    await agrees(page, 5);
    expect(sent.filter((op) => op === "subscribe").length).toBe(4);
    await eventually(() => sent.at(-1) === "unsubscribe", "the end of what was asked before");
    // Rows that have not changed are not drawn again.
    const drawn = (await page.evaluate("({ ...drawn })")) as Record<string, number>;
    await book(3, 1);
    await agrees(page, 5);
    const again = (await page.evaluate("({ ...drawn })")) as Record<string, number>;
    expect(Object.keys(again).filter((id) => again[id] !== drawn[id])).toEqual(["3"]);

    await proxy.refuse();
    await becomes(page, "offline");
    await book(5, 500);
    await proxy.listen();
    await becomes(page, "live");
    await agrees(page, 5);
    // Gone and come back at once, nothing is asked again; gone for longer, all is let go.
    const count = sent.length;
    await page.click("#toggle");
    await page.click("#toggle");
    await agrees(page, 5);
    expect(sent.length).toBe(count);
    await page.click("#toggle");
    await eventually(() => sent.filter((op) => op === "unsubscribe").length === 4, "the end of all four");
    expect(await page.evaluate("globalThis.half")).toBeUndefined();
    expect(problems).toEqual([]);
  });
});

function network() {
  const { proxy } = tests();
  return { proxy, book: (account: number, cents: number) => tests().book(account, cents) };
}
