import { createCollection } from "@tanstack/db";
import { createElement } from "react";
import { renderToString } from "react-dom/server";
import { expect, it, vi } from "vitest";
import { connect } from "../../src/index.js";
import { DeltafrontProvider, useProjection } from "../../src/react.js";
import { deltafrontCollectionOptions } from "../../src/tanstack-db.js";

let peer: any;
class Peer {
  readyState = 1;
  asked: any[] = [];
  onmessage: ((event: any) => void) | null = null;
  onclose = null;
  onerror = null;
  constructor() {
    peer = this;
    setTimeout(() => this.say({ op: "welcome", heartbeat_ms: 15_000, message_bytes_max: 65_536 }));
  }
  send(text: string) {
    this.asked.push(JSON.parse(text));
  }
  close() {}
  say(message: object) {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
}
const stamp = (epoch: number) => ({ epoch, position: {}, commit_time: "2026-01-01T00:00:00Z", cursor: `b-${epoch}` });
const asked = () => vi.waitFor(() => expect(peer.asked.length).toBe(1)).then(() => peer.asked[0].id as string);
const columns = [{ name: "shop", type: "bigint" }, { name: "product", type: "text" }, { name: "price", type: "numeric(9,2)" }];
const image = (id: string, key: string[] | null, rows: unknown[][]) =>
  peer.say({ op: "image", id, columns, key, order: [], view: "v", ...stamp(1), rows, last: true });

it("is nothing on a server that renders, and connects to nothing", () => {
  peer = undefined;
  const client = connect("ws://x", { WebSocket: Peer });
  const Page = () => {
    const { rows, status } = useProjection("prices");
    return createElement("p", null, `${status} ${rows.length}`);
  };
  expect(renderToString(createElement(DeltafrontProvider, { client }, createElement(Page)))).toBe("<p>connecting 0</p>");
  expect([peer, client.status]).toEqual([undefined, "idle"]);
  expect(() => renderToString(createElement(Page))).toThrow("DeltafrontProvider");
});

it("is a collection of TanStack DB, with a transaction for each epoch", async () => {
  const client = connect("ws://x", { WebSocket: Peer });
  const prices = createCollection(deltafrontCollectionOptions({ client, projection: "prices", where: { shop: { _gt: 0n } } }));
  const changes: string[][] = [];
  prices.subscribeChanges((all) => void changes.push(all.map(({ type, key }) => `${type} ${key}`)));
  const ready = prices.preload();
  const id = await asked();
  expect(peer.asked[0].where).toEqual({ shop: { _gt: "0" } });
  image(id, ["shop", "product"], [[1, "tea", "1.00"], [2, "tea", "1.10"]]);
  await ready;
  expect([prices.status, prices.size, prices.get('[1,"tea"]')?.price]).toEqual(["ready", 2, "1.00"]);
  peer.say({
    op: "diff", ...stamp(2), last: true,
    diffs: [{ id, upsert: [[1, "tea", "1.50"], [3, "tea", "9.00"]], delete: [[2, "tea"]] }],
  });
  expect(changes.at(-1)?.sort()).toEqual(['delete [2,"tea"]', 'insert [3,"tea"]', 'update [1,"tea"]']);
  expect(prices.toArray.map(({ price }) => price).sort()).toEqual(["1.50", "9.00"]);
  // All anew: only what differs is written.
  peer.say({ op: "image", id, columns, key: ["shop", "product"], order: [], view: "v", reset: "restart", ...stamp(1), rows: [[3, "tea", "9.00"], [4, "tea", "2.00"]], last: true });
  expect(changes.at(-1)?.sort()).toEqual(['delete [1,"tea"]', 'insert [4,"tea"]']);
  await prices.cleanup();
  client.close();
});

it("is ready when there are no rows, and says why there can't be any", async () => {
  const client = connect("ws://x", { WebSocket: Peer });
  const empty = createCollection(deltafrontCollectionOptions({ client, projection: "prices" }));
  let ready = empty.preload();
  image(await asked(), ["shop", "product"], []);
  await ready;
  expect([empty.status, empty.size]).toEqual(["ready", 0]);
  client.close();

  const other = connect("ws://x", { WebSocket: Peer });
  const refused = createCollection(deltafrontCollectionOptions({ client: other, projection: "prices" }));
  ready = refused.preload();
  peer.say({ op: "error", id: await asked(), code: "forbidden", message: "no" });
  await expect(ready).rejects.toMatchObject({ code: "forbidden" });
  other.close();

  const third = connect("ws://x", { WebSocket: Peer });
  const bag = createCollection(deltafrontCollectionOptions({ client: third, projection: "bag" }));
  ready = bag.preload();
  image(await asked(), null, [[1, "tea", "1.00"]]);
  await expect(ready).rejects.toMatchObject({ code: "no_key" });
  third.close();
});
