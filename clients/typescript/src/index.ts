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
export { indexedDb, storageOf } from "./storage.js";
export type { IndexedDbOptions, RawStorage, Snapshot, SnapshotStorage } from "./storage.js";
export type * from "./types.js";
export { compareNumbers } from "./values.js";
export type { AnyRow, Decimal, Float, Int64, OrderBy, Timestamp, Value } from "./values.js";
