import pg from "pg";
import { afterAll, afterEach, beforeAll, inject } from "vitest";
import { WebSocket } from "ws";
import { type AnyRow, type Client, connect, type ConnectOptions, type Subscription } from "../../src/index.js";
import { Proxy } from "./proxy.js";
import { eventually } from "./server.js";

// A number as a text keeps all its digits, and a date is what it says.
pg.types.setTypeParser(pg.types.builtins.TIMESTAMPTZ, (text) => text);

/** A database, a server of it, and clients behind a network that may be bad. */
export class World {
  readonly #clients: Client[] = [];

  private constructor(
    readonly url: string,
    readonly sql: pg.Client,
    readonly proxy: Proxy,
  ) {}

  static async open(url: string, database: string): Promise<World> {
    const sql = new pg.Client(database);
    await sql.connect();
    return new World(url, sql, await Proxy.start(new URL(url).host));
  }

  /** A client behind the proxy. */
  client(options: ConnectOptions = {}): Client {
    // `ws` has more than a browser's, and less of its types.
    const client = connect(this.proxy.url, { WebSocket: WebSocket as never, retry: { base: 50, cap: 500 }, ...options });
    this.#clients.push(client);
    return client;
  }

  closeClients(): void {
    for (const client of this.#clients.splice(0)) client.close();
    this.proxy.delay = 0;
    this.proxy.isSilent = false;
  }

  async close(): Promise<void> {
    this.closeClients();
    await this.proxy.refuse();
    await this.sql.end();
  }

  /** What REST says. */
  async rest(projection: string, token?: string): Promise<{ epoch: number; rows: AnyRow[] }> {
    const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
    const answer: any = await (await fetch(`${this.url}/v1/projections/${projection}`, { headers })).json();
    if (!answer.rows) throw new Error(JSON.stringify(answer));
    const names: string[] = answer.columns.map(({ name }: { name: string }) => name);
    const rows = answer.rows.map((row: unknown[]) => Object.fromEntries(names.map((name, i) => [name, row[i]])));
    return { epoch: answer.epoch, rows };
  }

  /** Waits until a subscription shows what REST says, and Postgres has been read so far. */
  async agrees(subscription: Subscription, token?: string): Promise<void> {
    let [shown, told] = ["", ""];
    const asks = async () => {
      [shown, told] = [inAnyOrder(subscription.rows), inAnyOrder((await this.rest(subscription.projection, token)).rows)];
      return subscription.status === "live" && shown === told;
    };
    await eventually(asks, `agreement about ${subscription.projection}`).catch((error: Error) => {
      throw new Error(`${error.message}: ${subscription.status}, shown ${shown}, told ${told}`);
    });
  }

  /** Books an amount: what two projections show of it are two tables, changed by one transaction. */
  async book(account: number, cents: number): Promise<void> {
    const amount = (cents / 100).toFixed(2);
    await this.sql.query(`BEGIN;
      UPDATE accounts SET balance = balance + ${amount} WHERE id = ${account};
      INSERT INTO bookings (account, amount) VALUES (${account}, ${amount});
      COMMIT`);
  }
}

/** The same text for the same rows, also where they are there several times. */
export const inAnyOrder = (rows: readonly AnyRow[]) => rows.map((row) => JSON.stringify(row)).sort().join("\n");

/** A world for the tests of a file, with no client left over from the test before. */
export function world(): () => World {
  let it: World | undefined;
  beforeAll(async () => void (it = await World.open(inject("url"), inject("database"))));
  afterEach(() => it?.closeClients());
  afterAll(() => it?.close());
  return () => it!;
}

/** Waits for a subscription's status. */
export const becomes = (subscription: Subscription<any>, status: Subscription["status"]) =>
  eventually(() => subscription.status === status, `status ${status} of ${subscription.projection}`);
