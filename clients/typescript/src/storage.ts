import type { Shape } from "./collection.js";
import type { Value } from "./values.js";

/** The rows of a subscription at one moment, and how to go on from there. */
export interface Snapshot {
  readonly version: 1;
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly shape: Shape;
  readonly view: string;
  readonly cursor: string;
  readonly rows: readonly (readonly Value[])[];
}

/** Where rows are kept between visits. What fails is as what is not there: nothing here is an error to anybody. */
export interface SnapshotStorage {
  /** Rows of one subscription above which it is not kept. */
  readonly rowsMax: number;
  load(name: string): Promise<Snapshot | undefined>;
  /** Stores all of them, or none; `undefined` removes. */
  save(snapshots: readonly (readonly [name: string, snapshot: Snapshot | undefined])[]): Promise<void>;
}

/** As much as a place to keep things in has to do; it may fail, or have anything. */
export interface RawStorage extends Omit<SnapshotStorage, "load"> {
  load(name: string): Promise<unknown>;
}

/** How long a storage may take to tell what it has: those of some browsers never answer. */
const LOAD_MS = 1_000;

/**
 * Makes a storage of a place of your own: what it has is believed only when it is whole, and not waited for too long.
 */
export function storageOf(raw: RawStorage): SnapshotStorage {
  return {
    rowsMax: raw.rowsMax,
    async load(name) {
      const late = new Promise<undefined>((resolve) => setTimeout(resolve, LOAD_MS));
      return readSnapshot(await Promise.race([raw.load(name), late]).catch(() => undefined));
    },
    async save(snapshots) {
      await raw.save(snapshots).catch(() => {});
    },
  };
}

export interface IndexedDbOptions {
  /** Rows of one subscription above which it is not kept. 10,000. */
  rows?: number;
  /** Subscriptions that are kept; those that were saved longest ago go first. 50. */
  subscriptions?: number;
  /** Milliseconds after which what was kept counts no more. A week. */
  age?: number;
}

const STORE = "snapshots";
/** Of what is stored. What is of another version is thrown away. */
const VERSION = 1;

/** Keeps rows in a database of the browser. */
export function indexedDb(name: string, options: IndexedDbOptions = {}): SnapshotStorage {
  const { rows = 10_000, subscriptions = 50, age = 7 * 86_400_000 } = options;
  let opened: Promise<IDBDatabase> | undefined;
  const database = () => (opened ??= open(name).catch((error: unknown) => {
    opened = undefined;
    throw error;
  }));
  return storageOf({
    rowsMax: rows,
    async load(key) {
      const store = (await database()).transaction(STORE).objectStore(STORE);
      const found = await done(store.get(key));
      return found?.time > Date.now() - age ? found : undefined;
    },
    async save(snapshots) {
      const transaction = (await database()).transaction(STORE, "readwrite");
      const store = transaction.objectStore(STORE);
      for (const [key, snapshot] of snapshots) snapshot ? store.put(snapshot, key) : store.delete(key);
      const keys = await done(store.index("time").getAllKeys());
      for (const key of keys.slice(0, Math.max(0, keys.length - subscriptions))) store.delete(key);
    },
  });
}

async function open(name: string): Promise<IDBDatabase> {
  const request = indexedDB.open(name, VERSION);
  request.onupgradeneeded = () => {
    const database = request.result;
    for (const store of Array.from(database.objectStoreNames)) database.deleteObjectStore(store);
    database.createObjectStore(STORE).createIndex("time", "time");
  };
  const database = await done(request);
  // Another tab with a newer program wants to change it: it need not wait for us.
  database.onversionchange = () => database.close();
  return database;
}

const done = <T>(request: IDBRequest<T>) =>
  new Promise<T>((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const isTexts = (it: unknown): it is string[] => Array.isArray(it) && it.every((item) => typeof item === "string");

/** What was stored, if it is whole: a disk, another version or a curious user may have left anything there. */
export function readSnapshot(stored: unknown): Snapshot | undefined {
  try {
    const it = stored as Snapshot;
    const { columns, key, order } = it.shape;
    const isRight =
      it.version === VERSION && isTexts([it.view, it.cursor]) &&
      isTexts(columns.flatMap(({ name, type }) => [name, type])) &&
      (key === null || isTexts(key)) && isTexts(order.map(({ column }) => column)) &&
      it.rows.every((row) => Array.isArray(row) && row.length === columns.length);
    return isRight ? it : undefined;
  } catch {
    return undefined;
  }
}
