/**
 * Projections as collections of TanStack DB.
 *
 * ```ts
 * const orders = createCollection(deltafrontCollectionOptions({ client, projection: "open_orders" }));
 * ```
 */
import type { CollectionConfig, SyncConfig } from "@tanstack/db";
import { DeltafrontError } from "./error.js";
import type { Client, ColumnOf, Picked, ProjectionName, RowOf, SubscribeOptions } from "./types.js";
import type { AnyRow } from "./values.js";

type Key = string | number;

export type DeltafrontCollectionConfig<Name extends ProjectionName, Columns extends string> =
  SubscribeOptions<RowOf<Name>, Columns & ColumnOf<RowOf<Name>>> & {
    client: Client;
    projection: Name;
    /** Of the collection; made of the projection and what is asked for when it is left out. */
    id?: string;
    /** By which rows are told apart: the projection's own key when it is left out; of several columns, their JSON. */
    getKey?: (row: Picked<Name, Columns>) => Key;
  };

/**
 * Options for `createCollection`: each epoch is one transaction of the collection. The projection needs a key.
 *
 * A collection commits for itself: a live query over two collections may be run between the two. Make such a join a
 * projection, which changes at once.
 */
export function deltafrontCollectionOptions<Name extends ProjectionName, Columns extends ColumnOf<RowOf<Name>>>(
  config: DeltafrontCollectionConfig<Name, Columns>,
): CollectionConfig<Picked<Name, Columns>, Key> {
  type Row = Picked<Name, Columns>;
  const { client, projection, id, getKey, ...options } = config;
  let keyColumns: readonly string[] = [];
  const keyOf = (row: Row): Key => {
    if (getKey) return getKey(row);
    const values = keyColumns.map((name) => (row as AnyRow)[name]);
    return values.length === 1 ? values[0] : JSON.stringify(values);
  };
  const sync: SyncConfig<Row, Key>["sync"] = ({ begin, write, commit, markReady, markError }) => {
    const held = client.subscribe<AnyRow>(projection as string, options as SubscribeOptions);
    const known = new Set<Key>();
    let isReady = false;
    const take = (upserts: readonly AnyRow[], deletes: readonly AnyRow[]) => {
      if (held.key === null && !getKey) {
        const advice = `\`${held.projection}\` has no key: give it one, WITH (key = '…')`;
        return markError(new DeltafrontError("no_key", advice));
      }
      keyColumns = held.key ?? [];
      begin();
      for (const row of deletes as Row[]) {
        const key = keyOf(row);
        if (known.delete(key)) write({ type: "delete", key });
      }
      for (const value of upserts as Row[]) {
        const key = keyOf(value);
        write({ type: known.has(key) ? "update" : "insert", value });
        known.add(key);
      }
      commit();
    };
    const ready = () => {
      if (!isReady) markReady();
      isReady = true;
    };
    const looked = () => {
      if (held.status === "error" && !isReady) markError(held.error);
      // Rows of before, from storage, are rows too: an application that is offline is not waiting.
      else if (held.status === "live" || held.status === "stale" || held.size > 0) ready();
    };
    const ends = [
      held.onChange(({ upserts, deletes }) => {
        take(upserts, deletes);
        looked();
      }),
      held.onStatus(looked),
    ];
    if (held.size > 0) take(held.rows, []);
    looked();
    return () => {
      ends.forEach((end) => end());
      held.close();
    };
  };
  const asked = JSON.stringify(options, (_, it: unknown) => (typeof it === "bigint" ? it.toString() : it));
  return { id: id ?? `${projection} ${asked}`, getKey: keyOf, sync: { sync, rowUpdateMode: "full" }, startSync: false };
}
