import { Collection, type Pieces, type Shape } from "./collection.js";
import { DeltafrontError } from "./error.js";
import type { Message } from "./link.js";
import type { Change, Status, SubscribeOptions, Subscription } from "./types.js";
import { type AnyRow, canonical, type OrderBy } from "./values.js";

/** An image on its way. */
export interface Loading {
  readonly shape: Shape;
  readonly view: string;
  /** Whether what is held stays. */
  readonly isResumed: boolean;
  readonly reset: string;
  readonly pieces: Pieces[];
}

/** The first message of an image says what it is of. */
export const loadingOf = ({ columns, key, order, view, resumed, reset }: Message): Loading => ({
  shape: { columns, key, order },
  view,
  isResumed: resumed === true,
  reset: reset ?? "first",
  pieces: [],
});

/** What of a subscription tells it apart, as a text: whoever asks for the same shares what comes. */
export function nameOf(projection: string, { where, columns, order, limit }: SubscribeOptions): string {
  const sorted = order?.map(({ column, descending = false }) => ({ column, descending }));
  return canonical({ projection, where, columns: columns && [...columns].sort(), order: sorted, limit });
}

/** A subscription on the wire, with those who share it. */
export class Feed {
  readonly collection = new Collection();
  readonly handles = new Set<Handle>();
  status: Status = "connecting";
  error: DeltafrontError | undefined;
  /** Whether listeners have not heard of it. */
  isStatusNew = false;
  /** Why the server says that what it shows may be old. */
  staleReason: string | undefined;

  /** Its name in this connection, once it was asked for. */
  id: string | undefined;
  /** The image that is on its way. */
  loading: Loading | undefined;
  /** Whether all that has come leads to where the connection is: what is shown may be behind that. */
  isWhole = false;

  /** Whether there is anything to show, be it no rows. */
  isShown = false;
  /** Whether what is shown is as new as what else is shown. */
  isCaughtUp = false;
  /** Whether nobody waits for it any more. */
  isLate = false;
  /** Of what is shown. */
  view: string | undefined;
  cursor: string | undefined;
  /** Why all rows were replaced since listeners were told last. */
  reset: string | undefined;

  /** Whether storage has been looked at. */
  isLoaded = true;
  /** Whether it has changed since it was stored. */
  isDirty = false;

  /** Times that it was refused for a while. */
  tries = 0;
  /** To ask again. */
  retry: ReturnType<typeof setTimeout> | undefined;
  /** To end. */
  linger: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly projection: string,
    /** {@link nameOf} it. */
    readonly name: string,
  ) {}

  /** What the server is asked for. Without a limit it refuses an order: all rows are sent then, and sorted here. */
  get asked(): object {
    const { order, ...asked } = JSON.parse(this.name);
    return asked.limit === undefined ? asked : { ...asked, order };
  }

  /** What a subscriber asked to be sorted by, where the server does not know of it. */
  get order(): OrderBy[] | undefined {
    return JSON.parse(this.name).order;
  }

  /** Takes in an image, or a piece of a diff; nobody is told yet. */
  apply(pieces: readonly Pieces[], loading?: Loading): void {
    const { collection } = this;
    if (loading?.isResumed && !collection.shape) throw new TypeError("resumed is what was never there");
    if (loading && !loading.isResumed) {
      const { shape } = loading;
      collection.replace({ ...shape, order: this.order ?? shape.order }, pieces);
      this.reset = loading.reset;
    } else {
      pieces.forEach((piece) => collection.apply(piece));
    }
    if (loading) this.view = loading.view;
    this.isDirty = true;
  }

  /** The connection is gone: what has not come whole is forgotten. */
  disconnect(): void {
    this.id = this.loading = this.staleReason = undefined;
    this.isWhole = this.isCaughtUp = this.isLate = false;
  }

  /** What is held is not to be shown any more. */
  forget(): void {
    this.collection.clear();
    this.reset = "error";
    this.isShown = this.isCaughtUp = false;
    this.view = this.cursor = undefined;
    this.isDirty = true;
  }
}

type Listener<T extends unknown[]> = (...args: T) => void;

/** Listeners, each of which is called though another one throws. */
export class Listeners<T extends unknown[]> {
  #all = new Set<{ listener: Listener<T> }>();

  get size(): number {
    return this.#all.size;
  }

  add(listener: Listener<T>): () => void {
    const held = { listener };
    this.#all.add(held);
    return () => void this.#all.delete(held);
  }

  call(...args: T): void {
    for (const held of [...this.#all]) {
      // One that was taken away by another does not hear of it any more.
      if (!this.#all.has(held)) continue;
      try {
        held.listener(...args);
      } catch (error) {
        // A mistake of the page's own: told where those are told.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  clear(): void {
    this.#all.clear();
  }
}

/** One who uses a feed. */
export class Handle implements Subscription {
  readonly changes = new Listeners<[Change]>();
  readonly statuses = new Listeners<[Status, DeltafrontError | undefined]>();
  readonly ready: Promise<void>;
  /** Settles {@link ready}; the first call counts. */
  settle!: (error?: DeltafrontError) => void;

  constructor(
    readonly feed: Feed,
    readonly options: SubscribeOptions,
    private readonly release: (handle: Handle) => void,
  ) {
    this.ready = new Promise((resolve, reject) => {
      this.settle = (error) => (error ? reject(error) : resolve());
    });
    // Nobody has to wait for it.
    this.ready.catch(() => {});
  }

  get projection(): string {
    return this.feed.projection;
  }
  get rows(): readonly AnyRow[] {
    return this.feed.collection.rows;
  }
  get size(): number {
    return this.feed.collection.size;
  }
  get status(): Status {
    return this.feed.status;
  }
  get error(): DeltafrontError | undefined {
    return this.feed.error;
  }
  get key(): readonly string[] | null | undefined {
    return this.feed.collection.shape?.key;
  }
  get(key: unknown): AnyRow | undefined {
    return this.feed.collection.get(key);
  }
  [Symbol.iterator](): Iterator<AnyRow> {
    return this.rows[Symbol.iterator]();
  }
  onChange(listener: (change: Change) => void): () => void {
    return this.changes.add(listener);
  }
  onStatus(listener: (status: Status, error: DeltafrontError | undefined) => void): () => void {
    return this.statuses.add(listener);
  }
  close(): void {
    this.changes.clear();
    this.statuses.clear();
    this.settle(new DeltafrontError("closed", "the subscription was closed"));
    this.release(this);
  }
}
