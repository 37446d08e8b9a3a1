import { expect, it } from "vitest";
import { compareNumbers, DeltafrontError, type AnyRow } from "../../src/index.js";
import { Random } from "../model/random.js";
import { eventually, sleep } from "./server.js";
import { becomes, inAnyOrder, world } from "./world.js";

const open = world();

it("shows what REST says, and what Postgres has", async () => {
  const { sql } = open();
  const client = open().client();
  const [balances, owners] = [client.subscribe("balances"), client.subscribe("owners")];
  expect([balances.status, balances.rows]).toEqual(["connecting", []]);
  await Promise.all([balances.ready, owners.ready]);
  expect([client.status, balances.status, balances.key, owners.key]).toEqual(["live", "live", ["id"], null]);
  await open().agrees(balances);
  await open().agrees(owners);
  expect(owners.size).toBe(balances.size);
  // In the order of the key, when nothing else is said.
  expect(balances.rows.map(({ id }) => id)).toEqual(balances.rows.map((_, i) => i + 1));
  expect(balances.get(7)).toBe(balances.rows[6]);
  expect([...balances]).toEqual(balances.rows);

  const { rows } = balances;
  const untouched = balances.get(7);
  await sql.query("UPDATE accounts SET owner = 'joe' WHERE id = 3; INSERT INTO accounts VALUES (9007199254740993, 'big', 'eu', 1)");
  await eventually(() => balances.get(9007199254740993n));
  expect(balances.rows).not.toBe(rows);
  expect(balances.get(7)).toBe(untouched);
  expect(balances.rows.at(-1)).toEqual({ id: "9007199254740993", owner: "big", balance: "1.00" });
  await sql.query("DELETE FROM accounts WHERE id > 1000; UPDATE accounts SET owner = 'ann' WHERE id = 3");
  await eventually(() => !balances.get(9007199254740993n));
  await open().agrees(owners);
});

it("filters, picks columns and keeps windows", async () => {
  const { sql } = open();
  const client = open().client();
  const some = client.subscribe("balances", { where: { owner: { _in: ["ann", "bob"] }, id: { _gt: 3n } }, columns: ["owner"] });
  const top = client.subscribe("balances", { order: [{ column: "balance", descending: true }], limit: 3 });
  const sorted = client.subscribe("balances", { order: [{ column: "owner" }, { column: "id", descending: true }] });
  await Promise.all([some.ready, top.ready, sorted.ready]);
  const answers = async (query: string) => (await sql.query(query)).rows.map((row) => ({ ...row, id: Number(row.id) }));
  expect(some.rows).toEqual(await answers("SELECT id, owner FROM accounts WHERE owner IN ('ann', 'bob') AND id > 3 ORDER BY id"));
  expect(sorted.rows).toEqual(await answers('SELECT id, owner, balance FROM accounts ORDER BY owner COLLATE "C", id DESC'));
  await sql.query("UPDATE accounts SET balance = id * 10 WHERE id IN (4, 11, 19)");
  await eventually(() => top.rows[0]?.id === 19);
  expect(top.rows.map(({ id, balance }) => [id, balance])).toEqual([[19, "190.00"], [11, "110.00"], [4, "40.00"]]);
  await sql.query("UPDATE accounts SET balance = 0 WHERE id = 19");
  await eventually(() => top.rows[0]?.id === 11);
  await sql.query("UPDATE accounts SET balance = (SELECT sum(amount) FROM bookings WHERE account = accounts.id)");
});

it("tells values exactly, and sorts them as Postgres does", async () => {
  const { sql } = open();
  await sql.query(`TRUNCATE samples; INSERT INTO samples VALUES
    (1, 12345678901234567890.0000000001, 'NaN', true, 'ｆ', '2026-01-01T00:00:00.5Z', '2026-02-28', '{1,2}'),
    (2, 12345678901234567890.0000000002, '-Infinity', false, '😀', '2026-01-01T00:00:00.25Z', '0044-03-15 BC', '{}'),
    (3, -0.0000000001, 1.5, NULL, 'Z', 'infinity', 'infinity', NULL),
    (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, 9, -2, true, 'a', '2026-01-01T00:00:00Z', '12026-01-01', '{3}'),
    (9007199254740993, 10, 1e300, false, 'ä', '0001-01-01T00:00:00Z BC', '-infinity', '{1}')`);
  const client = open().client();
  for (const column of ["id", "exact", "float8", "flag", "label", "at", "day"]) {
    for (const descending of [false, true]) {
      const sorted = client.subscribe("every_type", { order: [{ column, descending }], where: { id: { _gt: 0 } } });
      await sorted.ready;
      await eventually(() => sorted.size === 6);
      const collate = column === "label" ? 'COLLATE "C"' : "";
      const { rows } = await sql.query(`SELECT id FROM samples ORDER BY ${column} ${collate} ${descending ? "DESC" : ""}, id`);
      expect([column, descending, ...sorted.rows.map(({ id }) => String(id))]).toEqual([column, descending, ...rows.map(({ id }) => id)]);
      sorted.close();
    }
  }
  const all = client.subscribe("every_type");
  await all.ready;
  expect(all.get("9007199254740993")).toMatchObject({ exact: "10.0000000000", list: [1] });
  expect(all.get(1)).toMatchObject({ exact: "12345678901234567890.0000000001", float8: "NaN", list: [1, 2] });
  expect(compareNumbers(all.get(1)!.exact, all.get(2)!.exact)).toBe(-1);
});

it("never shows half of a transaction, and is right again after every cut", async () => {
  const seed = Number(process.env.REAL_SEED ?? Date.now() % 1_000_000);
  console.log(`REAL_SEED=${seed}`);
  const random = new Random(seed);
  const { proxy } = open();
  const client = open().client();
  const [balances, booked, owners] = [client.subscribe("balances"), client.subscribe("booked"), client.subscribe("owners")];
  const seen = { looked: 0, resumed: 0, reset: 0 };
  const halves: string[] = [];
  const look = () => {
    if (balances.status !== "live" || booked.status !== "live") return;
    seen.looked += 1;
    for (const { id, balance } of balances.rows) {
      const other = booked.get(id)?.balance;
      if (Number(other) !== Number(balance)) halves.push(`${client.epoch}: ${id} has ${balance} and ${other}`);
    }
  };
  const sides = [balances, booked];
  sides.forEach((side) => side.onChange(look));
  balances.onChange(({ reset }) => void (seen[reset ? "reset" : "resumed"] += 1));
  await Promise.all(sides.map(({ ready }) => ready));
  const connections = proxy.connections;
  for (let i = 0; i < 400; i++) {
    await open().book(1 + random.below(20), random.below(2000) - 1000);
    if (random.is(0.02)) proxy.delay = random.below(40);
    if (random.is(0.02)) proxy.cut();
    if (random.is(0.1)) await sleep(random.below(30));
  }
  proxy.cut();
  for (const side of [balances, booked, owners]) await open().agrees(side);
  expect(halves).toEqual([]);
  expect(proxy.connections - connections).toBeGreaterThan(2);
  expect(seen.looked).toBeGreaterThan(50);
  // After a lost connection only what has changed came: the first image was the only one.
  expect(seen.reset).toBe(1);
});

it("tells why it is refused, by a code", async () => {
  const client = open().client();
  const refusals: [string, object, string][] = [
    ["balnces", {}, "unknown_projection"],
    ["audit", {}, "forbidden"],
    ["balances", { where: { ownr: { _eq: "ann" } } }, "bad_filter"],
    ["balances", { columns: ["ownr"] }, "bad_request"],
    ["balances", { where: { owner: { _in: Array.from({ length: 9000 }, (_, i) => `somebody ${i}`) } } }, "too_large"],
  ];
  for (const [projection, options, code] of refusals) {
    const refused = client.subscribe(projection, options);
    const error: unknown = await refused.ready.then(() => "it was not refused", (error: unknown) => error);
    expect(error).toBeInstanceOf(DeltafrontError);
    expect([(error as DeltafrontError).code, refused.status, refused.error]).toEqual([code, "error", error]);
  }
  const { projection } = { projection: "balances" };
  const fine = client.subscribe(projection);
  await fine.ready;
  expect([fine.status, client.status]).toEqual(["live", "live"]);
});

it("keeps the rows of a projection that fails, and is live again when it is served", async () => {
  const { sql } = open();
  const client = open().client();
  const [labelled, balances] = [client.subscribe("labelled"), client.subscribe("balances")];
  await Promise.all([labelled.ready, balances.ready]);
  const { rows } = labelled;
  await sql.query("INSERT INTO labels VALUES (3, 'two')");
  await becomes(labelled, "error");
  expect([labelled.error?.code, labelled.rows === rows]).toEqual(["projection_failed", true]);
  // The others go on.
  await open().book(6, 10);
  await eventually(() => balances.status === "live" && Number(balances.get(6)!.balance) !== 0);
  // One that comes now is refused, and waits as well.
  const late = client.subscribe("labelled", { columns: ["id"] });
  await expect(late.ready).rejects.toMatchObject({ code: "projection_failed" });
  await sql.query("DELETE FROM labels WHERE id = 3; INSERT INTO labels VALUES (4, 'four')");
  for (const one of [labelled, late]) {
    await becomes(one, "live");
    expect([one.error, ...one.rows.map(({ id }) => id)]).toEqual([undefined, 4, 1, 2]);
  }
  // Mended with nothing to tell: what is served again is as it was.
  await sql.query("INSERT INTO labels VALUES (3, 'two')");
  await becomes(labelled, "error");
  await sql.query("DELETE FROM labels WHERE id = 3");
  await becomes(labelled, "live");
  await sql.query("DELETE FROM labels WHERE id = 4");
  await eventually(() => labelled.size === 2);
});

it("shares what is the same, and lets go of what nobody has", async () => {
  const client = open().client({ linger: 50 });
  const where = { owner: { _eq: "ann" } } as const;
  const one = client.subscribe("balances", { where, columns: ["owner", "balance"] });
  await one.ready;
  const other = client.subscribe("balances", { columns: ["balance", "owner"], where: { ...where } });
  expect(other.rows).toBe(one.rows);
  await other.ready;
  one.close();
  await sleep(100);
  await open().book(2, 100);
  await eventually(() => other.rows.some(({ id }) => id === 2) || other.rows.length > 0);
  expect(other.status).toBe("live");
  other.close();
  await eventually(async () => (await metric("deltafront_subscriptions")) === 0, "no subscription");
  // And again, also while the server still lets go of the last.
  for (let i = 0; i < 20; i++) {
    const again = client.subscribe("balances", { where });
    if (i % 2) await again.ready;
    again.close();
    await sleep(i * 7);
  }
  const last = client.subscribe("balances", { where });
  await last.ready;
  const expected = (await open().rest("balances")).rows.filter(({ owner }) => owner === "ann");
  expect(inAnyOrder(last.rows)).toBe(inAnyOrder(expected));
});

it("goes at the pace of the most eager", async () => {
  const client = open().client();
  const slow = client.subscribe("balances", { batch: 600 });
  await slow.ready;
  const times: number[] = [];
  slow.onChange(() => void times.push(Date.now()));
  const write = async (n: number) => {
    for (let i = 0; i < n; i++) {
      await open().book(5, 1);
      await sleep(20);
    }
  };
  await sleep(700);
  await write(60);
  await sleep(700);
  const gaps = times.slice(1).map((time, i) => time - times[i]!);
  expect(Math.min(...gaps)).toBeGreaterThan(500);
  // One that wants every epoch at once.
  const every = client.subscribe("booked", { mode: "every" });
  await every.ready;
  const amounts: AnyRow[] = [];
  every.onChange(({ upserts }) => void amounts.push(...upserts));
  const before = Number(every.get(5)!.balance);
  await write(10);
  await eventually(() => amounts.length === 10);
  expect(amounts.map(({ balance }) => Math.round((balance - before) * 100))).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  expect(times.at(-1)! - times.at(-2)!).toBeLessThan(500);
  await becomes(slow, "live");
});

async function metric(name: string): Promise<number> {
  const headers = { Authorization: "Bearer an admin's token of the tests" };
  const text = await (await fetch(`${open().url}/metrics`, { headers })).text();
  return Number(new RegExp(`^${name} (\\S+)`, "m").exec(text)?.[1]);
}
