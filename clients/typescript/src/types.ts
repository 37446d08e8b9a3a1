import type { DeltafrontError } from "./error.js";
import type { SnapshotStorage } from "./storage.js";
import type { AnyRow, OrderBy } from "./values.js";

/**
 * The projections of your server, by name. Empty as it comes: a declaration adds what there is, and from then on names,
 * columns and filters are checked by the compiler.
 *
 * ```ts
 * declare module "@deltafront/client" {
 *   interface Projections {
 *     open_orders: { row: { id: number; status: string; total: string }; key: "id" };
 *   }
 * }
 * ```
 */
// eslint-disable-next-line @typescript-eslint/no-empty-object-type
export interface Projections {}

/** Names that may be subscribed to: those that are declared, or any where none is. */
export type ProjectionName = [keyof Projections] extends [never] ? string : keyof Projections & string;

type Declared<Name> = Name extends keyof Projections ? Projections[Name] : unknown;

/** The row of a projection. */
export type RowOf<Name> = Declared<Name> extends { row: infer Row extends object } ? Row : AnyRow;

/** Names of a row's columns. */
export type ColumnOf<Row> = keyof Row & string;

/** Columns of the key, which are sent in any case; of a projection without one, all that are asked for. */
type KeyOf<Name> = Declared<Name> extends { key: infer Key }
  ? Key extends readonly (infer Column)[] ? Column : Key extends string ? Key : never
  : never;

/** A row with the columns that were asked for, and those of the key. */
export type Picked<Name, Columns extends string> = Name extends keyof Projections
  ? Pick<RowOf<Name>, Extract<Columns | KeyOf<Name>, keyof RowOf<Name>>>
  : AnyRow;

/** What a column's values may be compared with: numbers also as text, which is exact, and as `bigint`. */
type Operand<T> = T extends number ? number | bigint | `${number}` : T extends readonly unknown[] ? never : T;

/** Comparators of a column; all that are named must hold. NULL is as in SQL: none of them is true of it. */
export type Comparators<T> = {
  readonly _eq?: Operand<T>;
  readonly _neq?: Operand<T>;
  readonly _gt?: Operand<T>;
  readonly _gte?: Operand<T>;
  readonly _lt?: Operand<T>;
  readonly _lte?: Operand<T>;
  readonly _in?: readonly Operand<T>[];
  readonly _nin?: readonly Operand<T>[];
  readonly _is_null?: boolean;
} & (string extends T ? { readonly _like?: string; readonly _ilike?: string } : unknown);

/** Which rows: all members must hold. */
export type Where<Row> = { readonly [Column in keyof Row]?: Comparators<NonNullable<Row[Column]>> } & {
  readonly _and?: readonly Where<Row>[];
  readonly _or?: readonly Where<Row>[];
  readonly _not?: Where<Row>;
};

/** What of a projection, and how often. */
export interface SubscribeOptions<Row = AnyRow, Columns extends string = ColumnOf<Row>> {
  /** Which rows; all when it is left out. */
  readonly where?: Where<Row>;
  /** Which columns; those of the key come in any case. All when it is left out. */
  readonly columns?: readonly Columns[];
  /**
   * How the rows are sorted, ties by key. With a `limit` the server keeps those that come first; without one the rows
   * are sorted here. The projection's own order when it is left out.
   */
  readonly order?: readonly OrderBy<ColumnOf<Row>>[];
  /** Only the first so many in that order: 1 to 10,000. */
  readonly limit?: number;
  /**
   * Milliseconds between two diffs, at least. All subscriptions of a client advance together, so the client goes at the
   * pace of the most eager: one that names no interval is told at once.
   */
  readonly batch?: number;
  /**
   * `"every"`: one change for each epoch. `"latest"`: the net of what happened since the last. If one asks for every,
   * all are told of every.
   */
  readonly mode?: "latest" | "every";
}

/**
 * - `connecting`: there are no rows yet.
 * - `live`: these are the rows as of {@link Client.epoch}, as are those of every other subscription that is live.
 * - `stale`: there is a connection, and yet these rows may be old: the server does not hear from their source, or has
 *   not sent what changed while we were away.
 * - `offline`: there is no connection; these are the rows of when there was one.
 * - `error`: see `error`.
 */
export type Status = "connecting" | "live" | "stale" | "offline" | "error";

/** What has changed at once. */
export interface Change<Row = AnyRow> {
  /** Rows that are new or other than before. */
  readonly upserts: readonly Row[];
  /** Rows that are gone, as they were. */
  readonly deletes: readonly Row[];
  /**
   * When all rows were replaced, why: `"first"`, or what the server says (`"log"`, `"restart"`, `"view"`,
   * `"claims"`), or `"stored"` (they come from storage) or `"error"` (they are not for you any more). `upserts` and
   * `deletes` are the difference all the same.
   */
  readonly reset?: string;
  /** Of which step of the server these rows are; 0 where it is not known. */
  readonly epoch: number;
  /** How far each source had been read: an LSN, or offsets. */
  readonly position: Readonly<Record<string, string>>;
  /** When the last transaction of the epoch was committed, ISO 8601. */
  readonly commitTime?: string;
}

export type Unsubscribe = () => void;

/** A live ordered collection. */
export interface Subscription<Row = AnyRow> extends Iterable<Row> {
  readonly projection: string;
  /** All rows, in order. The same array as long as nothing has changed, and unchanged rows are the same objects. */
  readonly rows: readonly Row[];
  readonly size: number;
  readonly status: Status;
  readonly error: DeltafrontError | undefined;
  /** The columns of the key, once they are known; `null` when only the whole row tells rows apart. */
  readonly key: readonly string[] | null | undefined;
  /** Resolves with the first rows that are live; rejects when the subscription is refused or closed before. */
  readonly ready: Promise<void>;
  /** The row of a key: a value, an array in the order of the key's columns, or an object that has them. */
  get(key: unknown): Row | undefined;
  /** Called when rows have changed, after those of all subscriptions have. */
  onChange(listener: (change: Change<Row>) => void): Unsubscribe;
  onStatus(listener: (status: Status, error: DeltafrontError | undefined) => void): Unsubscribe;
  close(): void;
}

/** - `idle`: nothing is subscribed to, and there is no connection.
 *  - `paused`: the page is hidden, and the connection was given up until it is shown again. */
export type ClientStatus = "idle" | "connecting" | "live" | "offline" | "paused" | "error" | "closed";

/** As much of a WebSocket as is used here. */
export interface SocketLike {
  readonly readyState: number;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}

export interface ConnectOptions {
  /**
   * Who you are. A function is asked when a connection is made, before the token expires, and when one was refused:
   * then it is given the reason (`"expired_token"`, …), so that it knows better than to answer with the same. An
   * empty string is nobody. Without it you see what policies show to everyone.
   */
  token?: string | ((refused?: string) => string | Promise<string>);
  /** Under whose name rows are stored; the `sub` of the token when it is left out. */
  user?: string;
  onStatus?: (status: ClientStatus, error: DeltafrontError | undefined) => void;
  /** Told what goes wrong without ending anything: lost connections, tokens that were refused. */
  onError?: (error: DeltafrontError) => void;
  /** Keeps rows between visits: `indexedDb("name")`. */
  storage?: SnapshotStorage;
  /** Where the platform has none of its own: Node before 22. */
  WebSocket?: new (url: string) => SocketLike;
  /**
   * When rows change and listeners are told: `"sync"` (the default), as soon as a transaction is here; `"microtask"`;
   * or `"frame"`, at most once a frame. What came in between is told as one change, unless a subscription has the
   * mode `"every"`.
   */
  notify?: "sync" | "microtask" | "frame";
  /** Milliseconds: the n-th try waits a random time up to `base · 2ⁿ`, and up to `cap`. 500 and 15,000. */
  retry?: { base?: number; cap?: number };
  /**
   * A hidden page: after so many milliseconds the connection is given up, or, with `interval`, told only so often.
   * When the page is shown again it catches up with what changed. Left out: hidden pages are as others.
   */
  hidden?: { after: number; interval?: number };
  /** Milliseconds that a subscription stays after the last one to use it was closed, for one that follows. 250. */
  linger?: number;
  /**
   * Milliseconds that all wait for one that is being brought up to date, so that they change together; then the
   * others go on, and that one is `stale`. 5,000.
   */
  hold?: number;
}

/** One connection, and what is subscribed to over it. */
export interface Client {
  readonly status: ClientStatus;
  readonly error: DeltafrontError | undefined;
  /** Of which step of the server everything live is; 0 before the first. */
  readonly epoch: number;
  subscribe<Name extends ProjectionName, Columns extends ColumnOf<RowOf<Name>>>(
    projection: Name,
    options?: SubscribeOptions<RowOf<Name>, Columns>,
  ): Subscription<Picked<Name, Columns>>;
  /** With a row of your own. */
  subscribe<Row extends object = never>(
    projection: [Row] extends [never] ? never : string,
    options?: SubscribeOptions<NoInfer<Row>>,
  ): Subscription<Row>;
  onStatus(listener: (status: ClientStatus, error: DeltafrontError | undefined) => void): Unsubscribe;
  /**
   * Asks for the token now, and sends it: after a login, or when claims have changed. What is seen changes by diffs.
   */
  refreshToken(): Promise<void>;
  /** Tries at once, also after an error that ended it. */
  reconnect(): void;
  /** Ends everything. */
  close(): void;
}
