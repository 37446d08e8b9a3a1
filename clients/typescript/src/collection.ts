import { type AnyRow, canonical, type Column, compareRows, type OrderBy, type Value } from "./values.js";

/** Of what rows are. */
export interface Shape {
  readonly columns: readonly Column[];
  /**
   * Columns by which rows are told apart; `null` when only the whole row does, which then may stand there several
   * times.
   */
  readonly key: readonly string[] | null;
  readonly order: readonly OrderBy[];
}

type Values = readonly Value[];

/** What becomes of rows, as a diff or a piece of an image says it. */
export interface Pieces {
  readonly rows?: readonly Values[];
  readonly upsert?: readonly Values[];
  readonly delete?: readonly Values[];
  readonly count?: readonly (readonly [number, Values])[];
}

interface Entry {
  readonly id: string;
  readonly row: AnyRow;
  readonly of: Shape;
  /** How often it stands there. */
  readonly count: number;
}

const NOTHING: readonly AnyRow[] = Object.freeze([]);

/**
 * Rows by key, and in order.
 *
 * What has changed since somebody looked is remembered as what was there before ({@link Collection.take}), so that
 * however many changes are told as one, and one that is undone is not told.
 */
export class Collection {
  shape: Shape | undefined;
  #entries = new Map<string, Entry>();
  #size = 0;
  /** What was there when {@link take} was last called, of the keys that were touched since. */
  #before = new Map<string, Entry | undefined>();
  /** The entries in order, as of {@link rows}; and what they have of the keys that were touched since. */
  #sorted: Entry[] = [];
  #unsorted = new Map<string, Entry | undefined>();
  #rows = NOTHING;
  #compare: (a: Entry, b: Entry) => number = () => 0;

  get size(): number {
    return this.#size;
  }

  /** All rows in order: the same array as long as nothing has changed. */
  get rows(): readonly AnyRow[] {
    if (this.#unsorted.size > 0) this.#sort();
    return this.#rows;
  }

  /** The row of a key: a value, a list of values in the order of the key's columns, or an object that has them. */
  get(key: unknown): AnyRow | undefined {
    const names = this.#keyColumns();
    const values = Array.isArray(key) ? key : names.map((name) => (isObject(key) ? key[name] : key));
    return this.#entries.get(idOf(values.map(asTold)))?.row;
  }

  /** Rows as lists of values, each as often as it stands there: what can be kept, and given to {@link replace}. */
  dump(): Values[] {
    const names = this.shape?.columns.map(({ name }) => name) ?? [];
    return this.rows.map((row) => names.map((name) => row[name] as Value));
  }

  /** All rows go, and these come. What stays as it was is not touched, so that it is not drawn again. */
  replace(shape: Shape, pieces: readonly Pieces[]): void {
    const old = this.#entries;
    for (const entry of old.values()) this.#touch(entry.id, entry);
    this.#entries = new Map();
    this.#size = 0;
    this.#setShape(shape);
    pieces.forEach((piece) => this.apply(piece));
  }

  /** Nothing is there any more, and what it was of is not known. */
  clear(): void {
    if (this.shape) this.replace(this.shape, []);
  }

  /** What has changed since the last time; rows that stand there several times are told as often. */
  take(): { upserts: AnyRow[]; deletes: AnyRow[] } {
    const [upserts, deletes]: [AnyRow[], AnyRow[]] = [[], []];
    for (const [id, before] of this.#before) {
      const now = this.#entries.get(id);
      if (now === before) continue;
      const by = (now?.count ?? 0) - (before?.count ?? 0);
      if (now && by >= 0) for (let i = Math.max(by, 1); i > 0; i--) upserts.push(now.row);
      else if (before) for (let i = by; i < 0; i++) deletes.push(before.row);
    }
    this.#before.clear();
    return { upserts, deletes };
  }

  /** Takes a diff in. */
  apply({ rows = [], upsert = [], delete: deletes = [], count = [] }: Pieces): void {
    const isKeyed = this.shape?.key !== null;
    // Of an image without a key the same row comes as often as it stands there.
    for (const row of rows) isKeyed ? this.#put(row, 1) : this.#add(row, 1);
    for (const key of deletes) this.#set(idOf(key), undefined);
    for (const row of upsert) this.#put(row, 1);
    for (const [by, row] of count) this.#add(row, by);
  }

  #put(values: Values, count: number): void {
    const { columns = [] } = this.shape ?? {};
    if (values.length !== columns.length) throw new TypeError("a row has other columns than were told");
    const row: AnyRow = Object.fromEntries(columns.map(({ name }, i) => [name, values[i]]));
    const id = idOf(this.#keyColumns().map((name) => row[name] as Value));
    this.#set(id, { id, row, count, of: this.shape! });
  }

  #add(values: Values, by: number): void {
    const id = idOf(values);
    const entry = this.#entries.get(id);
    if (!entry) this.#put(values, by);
    else this.#set(id, entry.count + by > 0 ? { ...entry, count: entry.count + by } : undefined);
  }

  #set(id: string, entry: Entry | undefined): void {
    const old = this.#entries.get(id);
    this.#touch(id, old);
    const before = this.#before.get(id);
    if (entry && before && isSame(entry, before)) entry = before;
    this.#size += (entry?.count ?? 0) - (old?.count ?? 0);
    if (entry) this.#entries.set(id, entry);
    else this.#entries.delete(id);
  }

  #touch(id: string, old: Entry | undefined): void {
    if (!this.#before.has(id)) this.#before.set(id, old);
    if (!this.#unsorted.has(id)) this.#unsorted.set(id, old);
  }

  #keyColumns(): readonly string[] {
    return this.shape ? (this.shape.key ?? this.shape.columns.map(({ name }) => name)) : [];
  }

  #setShape(shape: Shape): void {
    if (this.shape && canonical(this.shape) === canonical(shape)) return;
    this.shape = shape;
    const ties = this.#keyColumns().map((column) => ({ column }));
    const compare = compareRows(shape.columns, [...shape.order, ...ties]);
    this.#compare = (a, b) => compare(a.row, b.row);
    // What was there before is of another shape: it was touched, so that the next sorting begins anew.
  }

  /** Merges what has come into what was sorted: a small change of a large collection does not sort all of it. */
  #sort(): void {
    const gone = new Set<Entry>();
    const come: Entry[] = [];
    for (const [id, old] of this.#unsorted) {
      const now = this.#entries.get(id);
      if (now === old) continue;
      if (old) gone.add(old);
      if (now) come.push(now);
    }
    this.#unsorted.clear();
    if (gone.size === 0 && come.length === 0) return;
    come.sort(this.#compare);
    const kept = this.#sorted.filter((entry) => !gone.has(entry));
    this.#sorted = [];
    let next = 0;
    for (const entry of come) {
      const place = placeOf(entry, kept, next, this.#compare);
      while (next < place) this.#sorted.push(kept[next++]!);
      this.#sorted.push(entry);
    }
    while (next < kept.length) this.#sorted.push(kept[next++]!);
    const rows: AnyRow[] = [];
    for (const { row, count } of this.#sorted) for (let i = 0; i < count; i++) rows.push(row);
    this.#rows = rows;
  }
}

/** Before which of these, which are in order, it belongs; by halves, from `low` on. */
function placeOf(entry: Entry, sorted: readonly Entry[], low: number, compare: (a: Entry, b: Entry) => number): number {
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compare(sorted[middle]!, entry) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Whether nobody can tell them apart: then the one that was shown stays, and nothing is drawn again. */
const isSame = (a: Entry, b: Entry) =>
  a.of === b.of && a.count === b.count &&
  a.of.columns.every(({ name }) => {
    const [x, y]: Value[] = [a.row[name], b.row[name]];
    return x === y || (typeof x === "object" && canonical(x) === canonical(y));
  });

const idOf = (key: Values) => JSON.stringify(key);

const isObject = (it: unknown): it is Record<string, unknown> => typeof it === "object" && it !== null;

/** As the server tells a number that does not fit into one. */
function asTold(value: unknown): Value {
  if (typeof value !== "bigint") return value as Value;
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value.toString();
}
