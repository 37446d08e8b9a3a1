import pg from "pg";
import { expect, inject, it } from "vitest";
import type { ClientStatus, DeltafrontError, Status } from "../../src/index.js";
import { eventually, PrivateServer, sleep } from "./server.js";
import { becomes, World, world } from "./world.js";

const open = world();

it("is offline while there is no network, with the rows of before, and goes on by a diff", async () => {
  const { proxy } = open();
  const told: ClientStatus[] = [];
  const errors: DeltafrontError[] = [];
  const client = open().client({ onStatus: (status) => void told.push(status), onError: (error) => void errors.push(error) });
  const balances = client.subscribe("balances");
  const statuses: Status[] = [];
  const resets: (string | undefined)[] = [];
  balances.onStatus((status) => void statuses.push(status));
  balances.onChange(({ reset }) => void resets.push(reset));
  await balances.ready;
  const { rows } = balances;
  await proxy.refuse();
  await becomes(balances, "offline");
  expect(balances.rows).toBe(rows);
  await open().book(9, 250);
  await sleep(300);
  const { bytes } = proxy;
  await proxy.listen();
  await becomes(balances, "live");
  await open().agrees(balances);
  expect(statuses).toEqual(["live", "offline", "live"]);
  expect(told).toEqual(["connecting", "live", "offline", "live"]);
  expect(resets).toEqual(["first", undefined]);
  expect(errors[0]).toMatchObject({ code: "disconnected", closeCode: 1006 });
  // Twenty rows are more than one.
  expect(proxy.bytes - bytes).toBeLessThan(1500);
});

it("notices that nobody is there, though nobody says so", async () => {
  const { proxy } = open();
  const errors: string[] = [];
  const client = open().client({ onError: ({ code }) => void errors.push(code) });
  const balances = client.subscribe("balances");
  await balances.ready;
  const started = Date.now();
  proxy.isSilent = true;
  await open().book(9, 1);
  await becomes(balances, "offline");
  // Two heartbeats of 15 s.
  expect(Date.now() - started).toBeLessThan(33_000);
  expect(errors[0]).toBe("timeout");
  proxy.isSilent = false;
  // One that was begun in the silence is given up as well.
  await becomes(balances, "live");
  await open().agrees(balances);
});

it("says that rows may be old while the server has lost their source", async () => {
  const { sql } = open();
  const balances = open().client().subscribe("balances");
  const statuses: Status[] = [];
  balances.onStatus((status) => void statuses.push(status));
  await balances.ready;
  await sql.query("SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
  await eventually(() => statuses.includes("stale"));
  await open().book(7, 70);
  await becomes(balances, "live");
  await open().agrees(balances);
  expect(statuses).toEqual(["live", "stale", "live"]);
});

it("comes back when the server has been started again, and knows that it is another", async () => {
  const { sql } = open();
  await sql.query("DROP DATABASE IF EXISTS restarted");
  await sql.query("CREATE DATABASE restarted TEMPLATE template0");
  const database = Object.assign(new URL(inject("database")), { pathname: "/restarted" }).href;
  const setup = new pg.Client(database);
  await setup.connect();
  const { SCHEMA } = await import("./server.js");
  await setup.query(SCHEMA);
  await setup.end();
  const server = await PrivateServer.start(database, "client_restarted");
  const other = await World.open(`http://${server.address}`, database);
  try {
    const client = other.client();
    const [balances, booked] = [client.subscribe("balances"), client.subscribe("booked")];
    await Promise.all([balances.ready, booked.ready]);
    const untouched = balances.get(8);
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const resets: (string | undefined)[] = [];
      const end = balances.onChange(({ reset, upserts, deletes }) => void resets.push(reset, `${upserts.length} ${deletes.length}`));
      await server.stop(signal);
      await becomes(balances, "offline");
      if (signal === "SIGTERM") expect(client.error?.closeCode).toBe(1001);
      await other.book(4, 777);
      await server.run();
      await other.agrees(balances);
      await other.agrees(booked);
      // All rows came anew; told is what has changed, and what has not is the same object.
      expect(resets.slice(0, 2)).toEqual(["restart", "1 0"]);
      expect(balances.get(8)).toBe(untouched);
      end();
    }
  } finally {
    await other.close();
    await server.stop();
    server.remove();
    await eventually(async () => (await sql.query("DROP DATABASE restarted WITH (FORCE)").then(() => true, () => false)));
  }
});
