/**
 * Live collections of Deltafront's projections.
 *
 * ```ts
 * const client = connect("https://live.shop.example", { token: () => getToken() });
 * const orders = client.subscribe("open_orders", { where: { total: { _gt: "100.00" } } });
 * orders.onChange(() => draw(orders.rows));
 * ```
 *
 * All subscriptions of a client advance together: no listener sees half a transaction.
 */
export { connect } from "./client.js";
export { DeltafrontError, type ErrorCode, type LocalCode } from "./error.js";
export { indexedDb, type IndexedDbOptions, type RawStorage, type Snapshot, type SnapshotStorage, storageOf } from "./storage.js";
export type * from "./types.js";
export { type AnyRow, compareNumbers, type Decimal, type Float, type Int64, type OrderBy, type Timestamp, type Value } from "./values.js";
