import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type Change, connect, type ConnectOptions, storageOf } from "../../src/index.js";

/** A server of one connection, which says what the test says: for what a real one says seldom. */
class Peer {
  static now: Peer;
  readyState = 1;
  asked: any[] = [];
  onmessage: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  onerror: ((event: any) => void) | null = null;
  constructor() {
    Peer.now = this;
  }
  send(text: string) {
    this.asked.push(JSON.parse(text));
  }
  close() {}
  say = (...messages: object[]) => messages.forEach((message) => this.onmessage?.({ data: JSON.stringify(message) }));
  ids = () => this.asked.filter(({ op }) => op === "subscribe").map(({ id }) => id);
}

const client = async (options: ConnectOptions = {}) => {
  const made = connect("ws://x", { WebSocket: Peer, ...options });
  return made;
};
const welcome = async () => {
  Peer.now.say({ op: "welcome", heartbeat_ms: 15_000, message_bytes_max: 65_536 });
  await vi.advanceTimersByTimeAsync(0);
};
const stamp = (epoch: number) => ({ epoch, position: { a: `0/${epoch}` }, commit_time: "2026-01-01T00:00:00Z", cursor: `b-${epoch}` });
const first = { columns: [{ name: "id", type: "bigint" }], key: ["id"], order: [], view: "v" };
const image = (id: string, epoch: number, rows: number[], more: object = {}) =>
  ({ op: "image", id, ...first, ...stamp(epoch), rows: rows.map((row) => [row]), last: true, ...more });
const ids = (rows: Iterable<{ id?: unknown }>) => [...rows].map(({ id }) => id);

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

it("goes nowhere before something is subscribed to", async () => {
  Peer.now = undefined as never;
  const idle = await client();
  await vi.advanceTimersByTimeAsync(1000);
  expect([idle.status, Peer.now]).toEqual(["idle", undefined]);
  idle.subscribe("a");
  expect(idle.status).toBe("connecting");
  await welcome();
  expect([idle.status, Peer.now.asked.map(({ op }) => op)]).toEqual(["live", ["subscribe"]]);
});

it("says when there is no WebSocket", async () => {
  vi.stubGlobal("WebSocket", undefined);
  const without = connect("ws://x");
  await expect(without.subscribe("a").ready).rejects.toMatchObject({ code: "no_websocket" });
  expect(without.status).toBe("error");
  class Forbidden {
    constructor() {
      throw new Error("an insecure WebSocket from a secure page");
    }
  }
  const insecure = connect("ws://x", { WebSocket: Forbidden as never });
  await expect(insecure.subscribe("a").ready).rejects.toThrow("insecure");
  expect(insecure.subscribe("b").status).toBe("error");
  vi.unstubAllGlobals();
});

describe("two that change together", () => {
  const both = async (options: ConnectOptions = {}) => {
    const live = await client(options);
    const [a, b] = [live.subscribe("a"), live.subscribe("b")];
    const told: string[] = [];
    const listen = (name: string) => ({ epoch, reset }: Change) => {
      const [left, right] = [ids(a.rows), ids(b.rows)].map((it) => it.join());
      told.push([name, epoch, reset, left, right].join(" "));
    };
    a.onChange(listen("a"));
    b.onChange(listen("b"));
    await welcome();
    const [ida, idb] = Peer.now.ids() as [string, string];
    Peer.now.say(image(ida, 1, [1]), image(idb, 1, [1]));
    const diff = (epoch: number, last: boolean, ...of: [string, number][]) =>
      ({ op: "diff", ...stamp(epoch), diffs: of.map(([id, row]) => ({ id, upsert: [[row]] })), last });
    return { live, a, b, ida, idb, told, diff };
  };

  it("are told when both have, and not of parts", async () => {
    const { told, diff, ida, idb } = await both();
    Peer.now.say(diff(2, false, [ida, 2]));
    expect(told.length).toBe(2);
    Peer.now.say(diff(2, true, [idb, 2]));
    expect(told.slice(2)).toEqual(["a 2  1,2 1,2", "b 2  1,2 1,2"]);
    // Of what broke in the middle nothing is left.
    Peer.now.say(diff(3, false, [ida, 3]));
    Peer.now.onclose?.({ code: 1006 });
    await vi.advanceTimersByTimeAsync(500);
    await welcome();
    expect(Peer.now.asked.map(({ resume }) => resume)).toEqual([{ view: "v", cursor: "b-2" }, { view: "v", cursor: "b-2" }]);
    Peer.now.say(image(ida, 4, [], { resumed: true, upsert: [[4]] }));
    expect(told.length).toBe(4);
    Peer.now.say(image(idb, 4, [], { resumed: true, upsert: [[4]], delete: [[1]] }));
    expect(told.slice(4)).toEqual(["a 4  1,2,4 2,4", "b 4  1,2,4 2,4"]);
    Peer.now.say(diff(5, true, [idb, 5]));
    expect(told.slice(6)).toEqual(["b 5  1,2,4 2,4,5"]);
  });

  it("forget what waited when the connection breaks, and go on from what is shown", async () => {
    const { told, ida, idb } = await both();
    const again = async () => {
      Peer.now.onclose?.({ code: 1006 });
      await vi.advanceTimersByTimeAsync(1000);
      await welcome();
      return Peer.now.asked.map(({ resume }) => resume.cursor);
    };
    expect(await again()).toEqual(["b-1", "b-1"]);
    // Whole, and not shown, since the other is behind.
    Peer.now.say(image(ida, 5, [], { resumed: true, upsert: [[9]] }));
    expect(await again()).toEqual(["b-1", "b-1"]);
    // Row 9 is gone meanwhile, of which the server says nothing, since it takes us never to have seen it.
    Peer.now.say(image(ida, 6, [], { resumed: true }), image(idb, 6, [], { resumed: true, upsert: [[6]] }));
    expect(told.slice(2)).toEqual(["b 6  1 1,6"]);
  });

  it("wait for one that is begun anew, so long and no longer", async () => {
    const { told, diff, ida, idb, a, b, live } = await both({ hold: 1000 });
    const statuses: string[] = [];
    a.onStatus((status) => void statuses.push(`a ${status}`));
    b.onStatus((status) => void statuses.push(`b ${status}`));
    Peer.now.say({ op: "image", id: ida, ...first, reset: "log", rows: [], last: false }, diff(2, true, [idb, 2]));
    await vi.advanceTimersByTimeAsync(900);
    expect([told.length, ids(b.rows), a.status]).toEqual([2, [1], "live"]);
    await vi.advanceTimersByTimeAsync(200);
    expect(told.slice(2)).toEqual(["b 2  1 1,2"]);
    expect(statuses).toEqual(["a stale"]);
    Peer.now.say(diff(3, true, [idb, 3]));
    expect(told.length).toBe(4);
    Peer.now.say({ op: "image", id: ida, ...stamp(3), rows: [[1], [3]], last: true });
    expect([told.at(-1), statuses, live.epoch]).toEqual(["a 3 log 1,3 1,2,3", ["a stale", "a live"], 3]);
    // It was late once, and is waited for the next time all the same.
    Peer.now.say({ op: "image", id: ida, ...first, resumed: true, rows: [], last: false }, diff(3, true, [idb, 3.5]));
    expect(told.length).toBe(5);
    Peer.now.say({ op: "image", id: ida, ...stamp(3), rows: [], delete: [[1]], upsert: [[1]], last: true });
    expect(told.slice(5)).toEqual(["b 3  1,3 1,2,3,3.5"]);
    // Its own cursor was kept meanwhile: of what was late it would have been asked from there.
    Peer.now.say({ op: "image", id: idb, ...first, reset: "log", rows: [], last: false }, diff(4, true, [ida, 4]));
    await vi.advanceTimersByTimeAsync(1100);
    expect(ids(a.rows)).toEqual([1, 3, 4]);
    Peer.now.onclose?.({ code: 1006 });
    await vi.advanceTimersByTimeAsync(500);
    await welcome();
    expect(Peer.now.asked.map(({ resume }) => resume.cursor)).toEqual(["b-4", "b-3"]);
  });

  it("are told at the next frame, once, if that is wished", async () => {
    const { told, diff, ida, idb, a } = await both({ notify: "frame" });
    expect([told, ids(a.rows)]).toEqual([[], []]);
    Peer.now.say(diff(2, true, [ida, 2]), diff(3, true, [ida, 3], [idb, 3]));
    await vi.advanceTimersByTimeAsync(20);
    expect(told).toEqual(["a 3 first 1,2,3 1,3", "b 3 first 1,2,3 1,3"]);
  });

  it("hear of nothing more when they are closed, though another listener throws", async () => {
    const { told, diff, ida, idb, a, b } = await both();
    const thrown: unknown[] = [];
    const queue = vi.spyOn(globalThis, "queueMicrotask").mockImplementation((task) => {
      try {
        task();
      } catch (error) {
        thrown.push(error);
      }
    });
    a.onChange(() => {
      b.close();
      throw new Error("a mistake of the page's");
    });
    Peer.now.say(diff(2, true, [ida, 2], [idb, 2]));
    expect([told.length, thrown.length]).toEqual([3, 1]);
    queue.mockRestore();
    Peer.now.say(diff(3, true, [idb, 3]));
    expect(told.length).toBe(3);
  });
});

it("keeps the rows of a projection that fails, and asks again until it is served", async () => {
  const live = await client();
  const a = live.subscribe("a");
  await welcome();
  const [id] = Peer.now.ids();
  Peer.now.say(image(id, 1, [1, 2]), { op: "error", id, code: "projection_failed", message: "two rows have its key" });
  expect([a.status, a.error?.code, ids(a.rows)]).toEqual(["error", "projection_failed", [1, 2]]);
  // It may be healed by what comes.
  Peer.now.say({ op: "diff", ...stamp(2), diffs: [{ id, upsert: [[3]] }], last: true });
  expect([a.status, a.error, a.size]).toEqual(["live", undefined, 3]);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(Peer.now.asked.length).toBe(1);
  // Or without a word, which is found out by asking.
  Peer.now.say({ op: "error", id, code: "projection_failed", message: "again" });
  await vi.advanceTimersByTimeAsync(2000);
  expect(Peer.now.asked.slice(1).map(({ op, id, resume }) => [op, id, resume?.cursor])).toEqual([
    ["unsubscribe", id, undefined], ["subscribe", `${id}~1`, "b-2"],
  ]);
  Peer.now.say({ op: "unsubscribed", id }, { op: "error", id: `${id}~1`, code: "projection_failed", message: "still" });
  expect(a.status).toBe("error");
  await vi.advanceTimersByTimeAsync(4000);
  const again = Peer.now.asked.at(-1);
  expect(again).toMatchObject({ op: "subscribe", id, resume: { cursor: "b-2" } });
  Peer.now.say({ op: "error", id: `${id}~1`, code: "unknown_id", message: "" }, image(id, 5, [], { resumed: true }));
  expect([a.status, a.size]).toEqual(["live", 3]);
});

it("asks again when the server was busy, when it is told to", async () => {
  const live = await client();
  const a = live.subscribe("a");
  await welcome();
  Peer.now.say({ op: "error", id: Peer.now.ids()[0], code: "busy", message: "", retry_after_ms: 3000 });
  expect(a.status).toBe("connecting");
  await vi.advanceTimersByTimeAsync(2999);
  expect(Peer.now.asked.length).toBe(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(Peer.now.asked.length).toBe(2);
  Peer.now.say(image(Peer.now.ids()[1], 1, [1]));
  expect(a.status).toBe("live");
});

/** It was waited for by all, and itself waited for its turn among them: nothing moved any more. */
it("asks again for one that all wait for", async () => {
  const live = await client({ hold: 2000 });
  const [a, b] = [live.subscribe("a"), live.subscribe("b")];
  await welcome();
  const [ida, idb] = Peer.now.ids();
  Peer.now.say(image(ida, 1, [1]), image(idb, 1, [1]));
  Peer.now.onclose?.({ code: 1006 });
  await vi.advanceTimersByTimeAsync(500);
  await welcome();
  Peer.now.say({ op: "error", id: idb, code: "busy", message: "", retry_after_ms: 1000 }, image(ida, 2, [], { resumed: true, upsert: [[2]] }));
  expect(ids(a.rows)).toEqual([1]);
  await vi.advanceTimersByTimeAsync(1000);
  expect(Peer.now.ids()).toEqual([ida, idb, idb]);
  Peer.now.say({ op: "error", id: idb, code: "busy", message: "", retry_after_ms: 5000 });
  await vi.advanceTimersByTimeAsync(1000);
  expect([ids(a.rows), a.status, b.status]).toEqual([[1, 2], "live", "stale"]);
  await vi.advanceTimersByTimeAsync(4000);
  Peer.now.say(image(idb, 3, [], { resumed: true }));
  expect([b.status, Peer.now.ids().length]).toEqual(["live", 4]);
});

/** A second subscriber asked at once, the pause went on, and at its end what was under way was left and taken in twice. */
it("asks once for what was busy, whoever asks", async () => {
  const live = await client();
  const a = live.subscribe("a");
  await welcome();
  const [id] = Peer.now.ids();
  Peer.now.say({ op: "error", id, code: "busy", message: "", retry_after_ms: 3000 });
  live.subscribe("a", { mode: "every" });
  expect(Peer.now.ids()).toEqual([id, id]);
  Peer.now.say({ op: "image", id, ...first, rows: [[1]], last: false });
  await vi.advanceTimersByTimeAsync(4000);
  Peer.now.say({ op: "image", id, ...stamp(1), rows: [[2]], last: true });
  expect([Peer.now.ids().length, a.status, ids(a.rows)]).toEqual([2, "live", [1, 2]]);
});

/** One that came from storage made all others wait, and nobody looked at the clock. */
it("waits no longer for one that comes from storage", async () => {
  const snapshot = { version: 1 as const, time: 1, view: "v", cursor: "b-1", rows: [[7]], shape: { columns: first.columns, key: ["id"], order: [] } };
  const storage = storageOf({ rowsMax: 9, load: (name) => Promise.resolve(name.includes("late") ? snapshot : undefined), save: () => Promise.resolve() });
  const live = await client({ hold: 2000, storage, user: "ann" });
  const a = live.subscribe("a");
  await welcome();
  Peer.now.say(image(Peer.now.ids()[0], 1, [1]));
  const late = live.subscribe("late");
  await vi.advanceTimersByTimeAsync(10);
  expect([ids(late.rows), late.status]).toEqual([[7], "offline"]);
  Peer.now.say({ op: "diff", ...stamp(2), diffs: [{ id: Peer.now.ids()[0], upsert: [[2]] }], last: true });
  expect(a.size).toBe(1);
  await vi.advanceTimersByTimeAsync(2000);
  expect([a.size, late.status]).toEqual([2, "stale"]);
});

it("says what is stale, and what is fresh again", async () => {
  const live = await client();
  const a = live.subscribe("a");
  await welcome();
  const [id] = Peer.now.ids();
  Peer.now.say(image(id, 1, [1]), { op: "stale", id, message: "its source is lost" });
  expect(a.status).toBe("stale");
  Peer.now.say({ op: "fresh", id });
  expect(a.status).toBe("live");
});

it("rests when nothing is subscribed to and the server says so, and comes back when something is", async () => {
  const live = await client();
  const a = live.subscribe("a");
  await welcome();
  a.close();
  await vi.advanceTimersByTimeAsync(300);
  expect(Peer.now.asked.at(-1).op).toBe("unsubscribe");
  const last = Peer.now;
  Peer.now.onclose?.({ code: 4000 });
  await vi.advanceTimersByTimeAsync(60_000);
  expect([live.status, Peer.now]).toEqual(["idle", last]);
  live.subscribe("a");
  expect(Peer.now).not.toBe(last);
});

it("asks for a token long before one that lasts for months is over", async () => {
  let asked = 0;
  const exp = Math.floor(Date.now() / 1000) + 90 * 86_400;
  const live = await client({ token: () => (asked++, `x.${btoa(JSON.stringify({ exp }))}.x`) });
  live.subscribe("a");
  await welcome();
  Peer.now.say({ op: "authenticated" });
  // A timer of more than 24 days would ring at once.
  await vi.advanceTimersByTimeAsync(1000);
  expect(asked).toBe(1);
});

it("does not take the answer of one connection for that of the next", async () => {
  const answers: ((token: string) => void)[] = [];
  const live = await client({ token: () => new Promise<string>((resolve) => answers.push(resolve)) });
  live.subscribe("a");
  await welcome();
  Peer.now.onclose?.({ code: 1006 });
  await vi.advanceTimersByTimeAsync(1000);
  await welcome();
  answers[0]!("x.old.x");
  await vi.advanceTimersByTimeAsync(0);
  expect(Peer.now.asked).toEqual([]);
  answers[1]!("x.new.x");
  await vi.advanceTimersByTimeAsync(0);
  expect(Peer.now.asked.map(({ op, token }) => [op, token])).toEqual([["authenticate", "x.new.x"], ["subscribe", undefined]]);
});

it("is somebody once a token is there, whether rows are stored or not", async () => {
  const storage = storageOf({ rowsMax: 9, load: () => Promise.resolve(undefined), save: () => Promise.resolve() });
  for (const options of [{}, { storage }, { storage, user: "ann" }]) {
    let token = "";
    const live = await client({ ...options, token: () => token });
    live.subscribe("a");
    await welcome();
    expect(Peer.now.asked.map(({ op }) => op)).toEqual(["subscribe"]);
    token = `x.${btoa('{"sub":"ann"}')}.x`;
    await live.refreshToken();
    await welcome();
    expect(Peer.now.asked.some((asked) => asked.token === token)).toBe(true);
    live.close();
  }
});

it("keeps nothing of one who was cut off, and all of one who is only too many", async () => {
  const disk = new Map<string, any>();
  const storage = storageOf({
    rowsMax: 9,
    load: () => Promise.resolve(undefined),
    save: async (all) => all.forEach(([name, it]) => (it ? disk.set(name, it) : disk.delete(name))),
  });
  for (const [code, rows, stored] of [[4502, 2, 1], [4501, 0, 0]]) {
    const live = await client({ storage, user: "ann", token: "x.y.z" });
    const a = live.subscribe("a");
    await welcome();
    Peer.now.say({ op: "authenticated" }, image(Peer.now.ids()[0], 1, [1, 2]));
    await vi.advanceTimersByTimeAsync(1100);
    expect(disk.size).toBe(1);
    Peer.now.onclose?.({ code });
    await vi.advanceTimersByTimeAsync(60_000);
    expect([code, a.size, a.status, a.error?.closeCode, disk.size]).toEqual([code, rows, "error", code, stored]);
    live.close();
  }
});

it("goes on though the page's listeners throw", async () => {
  const queue = vi.spyOn(globalThis, "queueMicrotask").mockImplementation(() => {});
  const fail = () => {
    throw new Error("a mistake of the page's");
  };
  const live = await client({ onError: fail, onStatus: fail });
  const a = live.subscribe("a");
  a.onStatus(fail);
  await welcome();
  Peer.now.onclose?.({ code: 1006 });
  await vi.advanceTimersByTimeAsync(1000);
  await welcome();
  Peer.now.say(image(Peer.now.ids()[0], 1, [1]));
  expect([a.status, live.status, queue.mock.calls.length > 4]).toEqual(["live", "live", true]);
});

it("shows nothing of what strangers see to one whose token is refused", async () => {
  const refusals: (string | undefined)[] = [];
  const live = await client({ token: (refused) => (refusals.push(refused), "x.y.z") });
  const a = live.subscribe("a");
  await welcome();
  const { now } = Peer;
  now.say({ op: "error", code: "invalid_token", message: "no" }, image(now.ids()[0], 1, [1]));
  expect([a.size, a.status, live.error?.code]).toEqual([0, "offline", "invalid_token"]);
  await vi.advanceTimersByTimeAsync(1000);
  expect([Peer.now === now, refusals]).toEqual([false, [undefined, "invalid_token"]]);
});

it("is at its end when it is closed", async () => {
  const live = await client();
  const [a, b] = [live.subscribe("a"), live.subscribe("b")];
  await welcome();
  Peer.now.say(image(Peer.now.ids()[0], 1, [1]));
  live.close();
  await expect(b.ready).rejects.toMatchObject({ code: "closed" });
  await a.ready;
  expect([live.status, a.status, ids(a.rows)]).toEqual(["closed", "offline", [1]]);
  const late = live.subscribe("c");
  await expect(late.ready).rejects.toMatchObject({ code: "closed" });
  live.reconnect();
  await vi.advanceTimersByTimeAsync(60_000);
  expect([live.status, vi.getTimerCount()]).toEqual(["closed", 0]);
});

it("stores rows under the name of whose they are, and no others", async () => {
  const disk = new Map<string, any>();
  const storage = storageOf({
    rowsMax: 3,
    load: (name) => new Promise((resolve) => setTimeout(() => resolve(disk.get(name)), 50)),
    save: async (all) => all.forEach(([name, it]) => (it ? disk.set(name, it) : disk.delete(name))),
  });
  const tokenOf = (sub: string) => `x.${btoa(JSON.stringify({ sub }))}.x`;
  let sub = "ann";
  const live = await client({ storage, token: () => tokenOf(sub) });
  const a = live.subscribe("a");
  await vi.advanceTimersByTimeAsync(60);
  await welcome();
  Peer.now.say({ op: "authenticated" }, image(Peer.now.ids()[0], 1, [1, 2]));
  await vi.advanceTimersByTimeAsync(1100);
  const stored = () => [...disk].map(([name, { rows, cursor }]) => [JSON.parse(name)[1], rows.join(), cursor]);
  expect(stored()).toEqual([["ann", "1,2", "b-1"]]);
  // Somebody else, after the connection was lost: nothing of Ann's is asked from, nor stored as Bob's.
  sub = "bob";
  Peer.now.say({ op: "diff", ...stamp(2), diffs: [{ id: Peer.now.ids()[0], upsert: [[3]] }], last: true });
  Peer.now.onclose?.({ code: 1006 });
  await vi.advanceTimersByTimeAsync(500);
  await welcome();
  expect(Peer.now.asked.map(({ op, resume }) => [op, resume])).toEqual([["authenticate", undefined], ["subscribe", undefined]]);
  await vi.advanceTimersByTimeAsync(3000);
  expect(stored().filter(([user]) => user !== "ann")).toEqual([]);
  Peer.now.say({ op: "authenticated" }, image(Peer.now.ids()[0], 3, [7]));
  await vi.advanceTimersByTimeAsync(1100);
  expect([ids(a.rows), stored().find(([user]) => user === "bob")]).toEqual([[7], ["bob", "7", "b-3"]]);
  // Too many to keep: then none, rather than old ones.
  Peer.now.say({ op: "diff", ...stamp(4), diffs: [{ id: Peer.now.ids()[0], upsert: [[8], [9], [10]] }], last: true });
  await vi.advanceTimersByTimeAsync(1100);
  expect(stored().map(([user]) => user)).toEqual(["ann"]);
  live.close();
  // What was stored is there before anything is heard.
  sub = "ann";
  const again = await client({ storage, token: () => tokenOf(sub) });
  const b = again.subscribe("a");
  // A server that greets earlier is not asked before it is known from where.
  await welcome();
  expect(Peer.now.asked.map(({ op }) => op)).toEqual(["authenticate"]);
  await vi.advanceTimersByTimeAsync(60);
  expect([b.status, ids(b.rows).join(), Peer.now.asked[1].resume]).toEqual(["offline", "1,2,3", { view: "v", cursor: "b-2" }]);
});
