import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { comesBack, type DeltafrontError } from "../../src/error.js";
import { Link, type Message } from "../../src/link.js";

/** A socket that does what the test says. */
class Scripted {
  static all: Scripted[] = [];
  readyState = 0;
  sent: Message[] = [];
  closed = false;
  onmessage: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  onerror: ((event: any) => void) | null = null;
  constructor(readonly url: string) {
    Scripted.all.push(this);
  }
  send(text: string) {
    this.sent.push(JSON.parse(text));
  }
  close() {
    this.closed = true;
  }
  say = (message: object) => this.onmessage?.({ data: JSON.stringify(message) });
  welcome = () => this.say({ op: "welcome", heartbeat_ms: 15_000, message_bytes_max: 1000 });
  break = (code: number) => this.onclose?.({ code, reason: "" });
}

const downs: [DeltafrontError, boolean][] = [];
const make = () => {
  const link = new Link({ url: "ws://x", WebSocket: Scripted, base: 500, cap: 15_000 }, {
    opening() {}, up() {}, message() {}, down: (error, isFinal) => void downs.push([error, isFinal]),
  });
  link.open();
  return link;
};
const last = () => Scripted.all.at(-1)!;

beforeEach(() => {
  vi.useFakeTimers();
  Scripted.all = [];
  downs.length = 0;
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

/** Milliseconds until the next socket is made. */
function untilNext(): number {
  const [count, started] = [Scripted.all.length, Date.now()];
  while (Scripted.all.length === count && Date.now() - started < 60_000) vi.advanceTimersByTime(1);
  return Date.now() - started;
}

it("pauses longer each time, up to the cap, at random", () => {
  vi.spyOn(Math, "random").mockReturnValue(1);
  make();
  const pauses = Array.from({ length: 8 }, () => {
    last().break(1006);
    return untilNext();
  });
  expect(pauses).toEqual([500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
  vi.spyOn(Math, "random").mockReturnValue(0.25);
  last().break(1006);
  expect(untilNext()).toBe(3750);
});

it("begins with short pauses again after a good connection, not after one that was over at once", () => {
  vi.spyOn(Math, "random").mockReturnValue(1);
  make();
  for (const expected of [500, 1000, 2000]) {
    last().welcome();
    vi.advanceTimersByTime(5000);
    last().break(1006);
    expect(untilNext()).toBe(expected);
  }
  last().welcome();
  vi.advanceTimersByTime(10_000);
  last().break(1006);
  expect(untilNext()).toBe(500);
  // Those whose server stops have some seconds.
  last().welcome();
  vi.advanceTimersByTime(10_000);
  last().break(1001);
  expect(untilNext()).toBe(5000);
});

it("obeys the codes that it knows, and those that it does not", () => {
  const back = [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1015, 4000, 4001, 4321, 4499];
  const away = [1002, 1003, 1007, 1009, 4500, 4501, 4502, 4999];
  for (const code of [...back, ...away]) expect([code, comesBack(code)]).toEqual([code, back.includes(code)]);
  const link = make();
  last().break(4502);
  vi.advanceTimersByTime(3_600_000);
  expect([Scripted.all.length, link.state, downs[0]![0].code, downs[0]![1]]).toEqual([1, "failed", "closed_by_server", true]);
  link.open();
  expect([Scripted.all.length, link.state]).toEqual([2, "connecting"]);
});

it("gives up a connection on which nothing is heard, and one that does not greet", () => {
  make();
  vi.advanceTimersByTime(15_000);
  expect([last().closed, downs[0]![0].code]).toEqual([true, "timeout"]);
  untilNext();
  const second = last();
  second.welcome();
  for (let i = 0; i < 10; i++) {
    vi.advanceTimersByTime(29_999);
    second.say({ op: "heartbeat" });
  }
  expect(downs.length).toBe(1);
  vi.advanceTimersByTime(29_999);
  expect(downs.length).toBe(1);
  vi.advanceTimersByTime(1000);
  expect([downs.length, second.closed]).toEqual([2, true]);
});

it("looks whether anybody is there", () => {
  vi.spyOn(Math, "random").mockReturnValue(1);
  const link = make();
  last().welcome();
  vi.advanceTimersByTime(10);
  link.hurry();
  expect(last().sent).toEqual([{ op: "ping" }]);
  last().say({ op: "heartbeat" });
  vi.advanceTimersByTime(6000);
  expect(downs.length).toBe(0);
  link.hurry();
  vi.advanceTimersByTime(3000);
  link.hurry();
  vi.advanceTimersByTime(3000);
  expect(downs.length).toBe(1);
  // While a try is waited for, it is made at once.
  const count = Scripted.all.length;
  expect(link.state).toBe("waiting");
  link.hurry();
  expect(Scripted.all.length).toBe(count + 1);
});

it("does not send more than it may", () => {
  const link = make();
  last().welcome();
  for (let n = 0; n < 500; n++) link.send({ n });
  expect(last().sent.length).toBe(200);
  vi.advanceTimersByTime(1000);
  expect(last().sent.length).toBeGreaterThan(230);
  expect(last().sent.length).toBeLessThanOrEqual(245);
  vi.advanceTimersByTime(10_000);
  expect(last().sent.map(({ n }) => n)).toEqual(Array.from({ length: 500 }, (_, n) => n));
});

it("comes back after what it does not understand, later each time", () => {
  vi.spyOn(Math, "random").mockReturnValue(1);
  make();
  for (const pause of [500, 1000]) {
    last().welcome();
    last().onmessage?.({ data: "{" });
    expect(downs.at(-1)![0].code).toBe("protocol");
    expect(untilNext()).toBe(pause);
  }
});

it("hears nothing of a connection that it has left", () => {
  const link = make();
  const first = last();
  first.welcome();
  link.close();
  expect([first.closed, first.onmessage, first.onclose, link.state]).toEqual([true, null, null, "idle"]);
  vi.advanceTimersByTime(60_000);
  expect([Scripted.all.length, downs.length]).toEqual([1, 0]);
});
