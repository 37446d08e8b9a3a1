import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type AnyRow, type Change, connect, type Snapshot, storageOf, type Subscription } from "../../src/index.js";
import { ModelServer, OWNERS, Session, type TableName, tokenOf } from "./server.js";
import { Random } from "./random.js";

const NAMES: TableName[] = ["ledger", "mirror", "tags"];
const HOUR_MS = 3_600_000;

/** Rows in any order, to compare. */
const texts = (rows: Iterable<AnyRow>) => [...rows].map((row) => JSON.stringify(Object.values(row))).sort();

const cents = (rows: Iterable<AnyRow>, owner: string) =>
  [...rows].filter((row) => row.owner === owner).reduce((sum, row) => sum + Math.round(Number(row.amount) * 100), 0);

/** What listeners were told, put together again: it must be what the subscription shows. */
class Mirror {
  rows: string[] = [];
  take({ upserts, deletes }: Change, subscription: Subscription) {
    for (const row of deletes) this.#remove(row);
    for (const row of upserts) {
      // Of a row with a key the one before goes.
      if (subscription.key) this.rows = this.rows.filter((held) => JSON.parse(held)[0] !== row.id);
      this.rows.push(JSON.stringify(Object.values(row)));
    }
  }
  #remove(row: AnyRow) {
    const at = this.rows.indexOf(JSON.stringify(Object.values(row)));
    if (at < 0) throw new Error(`deleted is what was not there: ${JSON.stringify(row)}`);
    this.rows.splice(at, 1);
  }
}

async function simulate(seed: number, lasts: number, notify: "sync" | "microtask" | "frame") {
  const random = new Random(seed);
  vi.spyOn(Math, "random").mockImplementation(random.next);
  const server = new ModelServer(random);
  let owners = ["ann", "bob"];
  let tokenFails = false;
  const disk = new Map<string, unknown>();
  const storage = storageOf({
    rowsMax: 10_000,
    load: (name) => Promise.resolve(disk.get(name)),
    save: async (all: readonly (readonly [string, Snapshot | undefined])[]) => all.forEach(([name, it]) => disk.set(name, structuredClone(it))),
  });
  const token = () => {
    if (tokenFails) return Promise.reject(new Error("no network"));
    return Promise.resolve(tokenOf({ sub: "me", owners, exp: Math.floor(Date.now() / 1000) + 120 }));
  };
  const counts = { changes: 0, checked: 0, quiet: 0, tabs: 1 };
  let problems: string[] = [];

  const start = () => {
    const client = connect("ws://model", {
      token, storage, notify, user: "me",
      WebSocket: class extends Session {
        constructor() {
          super(server);
        }
      },
    });
    const held = new Map<TableName, Subscription>();
    const mirrors = new Map<TableName, Mirror>();
    /** Both sides of every booking, or neither. */
    const look = () => {
      const [a, b] = [held.get("ledger"), held.get("mirror")];
      if (a?.status !== "live" || b?.status !== "live") return;
      counts.checked += 1;
      for (const owner of OWNERS) {
        const [left, right] = [cents(a.rows, owner), cents(b.rows, owner)];
        if (left !== right) problems.push(`half a transaction at epoch ${client.epoch}: ${owner} ${left} and ${right}`);
      }
    };
    const open = (name: TableName) => {
      const mirror = new Mirror();
      const subscription = client.subscribe<AnyRow>(name, name === "tags" ? { mode: random.pick(["latest", "every"]) } : {});
      // One that others have already begins with what they have.
      mirror.rows = texts(subscription.rows);
      subscription.onChange((change) => {
        counts.changes += 1;
        mirror.take(change, subscription);
        if (mirror.rows.sort().join() !== texts(subscription.rows).join()) problems.push(`${name} was told otherwise`);
        if (subscription.size !== subscription.rows.length) problems.push(`${name} has another size`);
        look();
      });
      subscription.onStatus(look);
      held.set(name, subscription);
      mirrors.set(name, mirror);
    };
    NAMES.forEach(open);
    return { client, held, open };
  };

  let tab = start();
  const end = Date.now() + lasts;
  while (Date.now() < end) {
    server.isCalm = false;
    for (let i = 20 + random.below(200); i > 0; i--) {
      for (let n = random.below(3); n > 0; n--) server.transact();
      await vi.advanceTimersByTimeAsync(random.below(500));
      const [session] = server.sessions;
      switch (random.below(60)) {
        case 0: session?.close(random.pick([1006, 1001, 1011])); break;
        case 1: session?.silence(); break;
        case 2: server.restart(); break;
        case 3: server.isUp = false; session?.close(1006); break;
        case 4: case 5: case 6: server.isUp = true; break;
        case 7:
          owners = random.pick([["ann"], ["bob", "eve"], OWNERS, []]);
          void tab.client.refreshToken();
          break;
        case 8: tokenFails = true; break;
        case 9: case 10: tokenFails = false; break;
        case 11: {
          const name = random.pick(NAMES);
          tab.held.get(name)!.close();
          if (random.is(0.5)) await vi.advanceTimersByTimeAsync(random.below(1000));
          tab.open(name);
          break;
        }
        case 12:
          // The page is loaded again, and begins with what was stored.
          tab.client.close();
          await vi.advanceTimersByTimeAsync(10);
          counts.tabs += 1;
          tab = start();
          break;
      }
    }
    // Quiet: nothing odd, and time enough for everything to be put right.
    server.isCalm = server.isUp = true;
    tokenFails = false;
    if (owners.length === 0) owners = ["eve"];
    await vi.advanceTimersByTimeAsync(40_000);
    await tab.client.refreshToken();
    await vi.advanceTimersByTimeAsync(60_000);
    counts.quiet += 1;
    for (const name of NAMES) {
      const subscription = tab.held.get(name)!;
      const truth = [...server.visible(name, owners).values()].flatMap(({ row, count }) => Array(count).fill(JSON.stringify(row)));
      expect([name, subscription.status, subscription.error?.code]).toEqual([name, "live", undefined]);
      expect(texts(subscription.rows), name).toEqual(truth.sort());
    }
    expect(tab.client.epoch).toBe(server.epoch);
    expect(problems).toEqual([]);
    problems = [];
  }
  tab.client.close();
  return { ...counts, ...server.seen };
}

describe("whatever a connection and a server do", () => {
  beforeEach(() => void vi.useFakeTimers({ now: Date.UTC(2026, 0, 1) }));
  afterEach(() => {
    vi.restoreAllMocks();
    vi.useRealTimers();
  });

  const fresh = Math.floor(Date.now() % 1_000_000);
  const seeds = process.env.MODEL_SEED ? [Number(process.env.MODEL_SEED)] : [1, 303, 1008, fresh];
  it.each(seeds)("what is shown is the truth, and never half a transaction (seed %i)", async (seed) => {
    try {
      const counts = await simulate(seed, HOUR_MS, (["sync", "microtask", "frame"] as const)[seed % 3]!);
      // Each of these happened, or nothing was tested.
      for (const [what, times] of Object.entries(counts)) expect(times, what).toBeGreaterThan(0);
    } catch (error) {
      console.error(`run again with MODEL_SEED=${seed}`);
      throw error;
    }
  });
});
