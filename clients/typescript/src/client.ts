import { DeltafrontError, isTokenCode } from "./error.js";
import { Feed, Handle, Listeners, loadingOf, nameOf } from "./feed.js";
import { Link, type Message, TIMER_MAX } from "./link.js";
import type { Snapshot } from "./storage.js";
import { claimsOf, refreshIn } from "./token.js";
import type { Change, Client, ClientStatus, ConnectOptions, Status, SubscribeOptions, Subscription } from "./types.js";
import { canonical, digest } from "./values.js";

/** Tokens in a row that may be refused. */
const REFUSALS_MAX = 3;
/** When a token that could not be had, or was refused, is asked for again. */
const TOKEN_RETRY_MS = 5_000;
/** The first and the longest pause before a projection that failed is asked for again. */
const FAILED_MS = 2_000;
const FAILED_MAX_MS = 30_000;
/** How long after a change rows are stored. */
const SAVE_MS = 1_000;
/** Those who come online together come back within so many milliseconds. */
const ONLINE_MS = 1_000;

/** Refusals that another token may mend, and such as the end of another subscription may. */
const OF_CLAIMS = ["forbidden", "bad_request", "bad_filter"];
const OF_ROOM = ["too_many_subscriptions", "too_heavy"];

/** Connects to a server, as soon as something is subscribed to: `connect("https://live.shop.example", { token })`. */
export function connect(url: string | { readonly href: string }, options: ConnectOptions = {}): Client {
  return new DeltafrontClient(socketUrl(url), options) as unknown as Client;
}

/** `https://host` is `wss://host/v1/socket`; a path of your own is kept. */
export function socketUrl(url: string | { readonly href: string }): string {
  const full = new URL(typeof url === "string" ? url : url.href, globalThis.location?.href);
  full.protocol = full.protocol.replace(/^http/, "ws");
  if (!full.pathname.endsWith("/v1/socket")) full.pathname = full.pathname.replace(/\/*$/, "/v1/socket");
  return full.href;
}

/**
 * What is heard becomes items of a queue, each a step of all subscriptions together. They are taken in by {@link
 * DeltafrontClient.#flush}, which changes what is shown of all of them before any listener is told. The queue is held
 * back while a subscription that shows rows is behind the others: were they to go on, halves of transactions would be
 * seen.
 */
class DeltafrontClient {
  status: ClientStatus = "idle";
  error: DeltafrontError | undefined;
  epoch = 0;
  #position: Record<string, string> = {};
  #commitTime: string | undefined;

  readonly #link: Link;
  readonly #feeds = new Map<string, Feed>();
  readonly #statuses = new Listeners<[ClientStatus, DeltafrontError | undefined]>();
  readonly #errors = new Listeners<[DeltafrontError]>();
  readonly #end = new AbortController();

  /** Of this connection: feeds by their names in it, names that are not free yet, and parts of a diff. */
  #byId = new Map<string, Feed>();
  #leaving = new Set<string>();
  #half: [Feed, Message][] = [];
  #batch = "";
  /** Whether the server may be asked: it has greeted, and been told who we are. */
  #isReady = false;
  /** Grows with each connection, so that what was begun for an earlier one is known. */
  #connection = 0;

  #queue: (() => void)[] = [];
  #isScheduled = false;
  #hold: ReturnType<typeof setTimeout> | undefined;

  /** With which token the server knows us, or is going to. */
  #token = "";
  #asked: Promise<string> | undefined;
  /** Whether the connection's first token has not been answered. */
  #isOpening = false;
  #refusals = 0;
  #refused: string | undefined;
  #refresh: ReturnType<typeof setTimeout> | undefined;

  #hide: ReturnType<typeof setTimeout> | undefined;
  #isWide = false;
  #user: unknown;
  #save: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly url: string,
    private readonly options: ConnectOptions,
  ) {
    const { WebSocket, retry: { base = 500, cap = 15_000 } = {}, onStatus, onError } = options;
    this.#link = new Link({ url, WebSocket, base, cap }, {
      opening: () => {
        this.#setStatus(this.status === "offline" ? "offline" : "connecting", this.error);
        this.#asked = this.#askToken(this.#refused);
        this.#asked.catch(() => {});
      },
      up: () => void this.#up(),
      message: (message) => this.#receive(message),
      down: (error, isFinal) => this.#down(error, isFinal),
    });
    if (onStatus) this.#statuses.add(onStatus);
    if (onError) this.#errors.add(onError);
    this.#listen();
  }

  subscribe(projection: string, options: SubscribeOptions = {}): Subscription {
    const name = nameOf(projection, options);
    let feed = this.#feeds.get(name);
    const isNew = !feed;
    if (!feed) this.#feeds.set(name, (feed = new Feed(projection, name)));
    clearTimeout(feed.linger);
    const handle = new Handle(feed, options, (handle) => this.#release(handle));
    feed.handles.add(handle);
    if (this.status === "closed") this.#feeds.delete(name);
    if (this.status === "closed" || this.status === "error") {
      feed.status = "error";
      feed.error = this.error ?? closed();
      handle.settle(feed.error);
      return handle;
    }
    if (feed.isCaughtUp) handle.settle();
    if (this.#link.state === "waiting" && isNew) feed.status = "offline";
    if (this.status !== "paused") this.#link.open();
    if (isNew && this.options.storage) void this.#load(feed);
    else this.#ask(feed);
    this.#sendBatch();
    return handle;
  }

  /** What there is of a subscription, if somebody has it: for who wants to show it at once. */
  peek(projection: string, options: SubscribeOptions = {}): Pick<Feed, "collection" | "status" | "error"> | undefined {
    return this.#feeds.get(nameOf(projection, options));
  }

  onStatus(listener: (status: ClientStatus, error: DeltafrontError | undefined) => void): () => void {
    return this.#statuses.add(listener);
  }

  async refreshToken(): Promise<void> {
    clearTimeout(this.#refresh);
    this.#refusals = 0;
    if (this.#link.state === "failed") this.reconnect();
    else if (this.#isReady) await this.#renew();
  }

  reconnect(): void {
    if (this.status === "closed") return;
    this.#refusals = 0;
    this.error = undefined;
    this.#disconnect("connecting");
    for (const feed of this.#feeds.values()) feed.error = undefined;
    if (this.#feeds.size > 0) this.#link.open();
  }

  close(): void {
    if (this.status === "closed") return;
    void this.#store();
    this.#end.abort();
    this.#disconnect("closed");
    for (const timer of [this.#hide, this.#save]) clearTimeout(timer);
    for (const feed of this.#feeds.values()) {
      clearTimeout(feed.linger);
      feed.handles.forEach((handle) => handle.settle(closed()));
    }
    this.#feeds.clear();
  }

  // The connection.

  async #up(): Promise<void> {
    const connection = this.#connection;
    let token = "";
    try {
      token = (await this.#asked) ?? "";
    } catch (error) {
      if (connection === this.#connection) this.#link.fail(unavailable(error));
      return;
    }
    if (connection !== this.#connection) return;
    this.#token = token;
    this.#storesFor(token);
    this.#isOpening = token !== "";
    if (token) this.#link.send({ op: "authenticate", token });
    this.#isReady = true;
    this.#sendBatch();
    for (const feed of this.#feeds.values()) {
      if (!feed.isShown && !feed.error) this.#show(feed, "connecting");
      this.#ask(feed);
    }
    this.error = undefined;
    this.#setStatus("live");
    this.#wait();
    this.#tell();
  }

  #down(error: DeltafrontError, isFinal: boolean): void {
    if (error.closeCode === 4001) this.#refused = "expired_token";
    this.#errors.call(error);
    this.error = error;
    if (this.#feeds.size === 0 && !isFinal) return this.#disconnect("idle");
    this.#disconnect(isFinal ? "error" : "offline", true);
  }

  /**
   * There is no connection any more, or is to be none. What has come whole is shown, if it may be; the rest is
   * forgotten.
   */
  #disconnect(status: ClientStatus, isLinkDown = false): void {
    this.#flush();
    this.#queue = [];
    this.#half = [];
    this.#byId.clear();
    this.#leaving.clear();
    this.#batch = "";
    this.#isReady = this.#isOpening = false;
    this.#connection += 1;
    clearTimeout(this.#refresh);
    clearTimeout(this.#hold);
    this.#hold = undefined;
    if (!isLinkDown) this.#link.close();
    for (const feed of this.#feeds.values()) {
      clearTimeout(feed.retry);
      feed.disconnect();
      if (status === "error") this.#refuse(feed, this.error!);
      else if (!feed.error || feed.isShown) {
        feed.error = undefined;
        this.#show(feed, status === "connecting" && !feed.isShown ? "connecting" : "offline");
      }
    }
    this.#setStatus(status, this.error);
    this.#tell();
  }

  #receive(message: Message): void {
    const feed = this.#byId.get(message.id);
    switch (message.op) {
      case "image":
        return feed && this.#image(feed, message);
      case "diff":
        for (const diff of message.diffs) {
          const of = this.#byId.get(diff.id);
          if (of) this.#half.push([of, diff]);
        }
        return message.last ? this.#diff(message) : undefined;
      case "heartbeat":
        return this.#push(() => this.#stamp(message));
      case "stale":
      case "fresh":
        if (feed) feed.staleReason = message.op === "stale" ? String(message.message) : undefined;
        return this.#tell();
      case "authenticated":
        return this.#authenticated();
      case "unsubscribed":
        return this.#left(message.id);
      case "error":
        return this.#error(feed, message);
    }
  }

  #image(feed: Feed, message: Message): void {
    if (message.columns) {
      feed.loading = loadingOf(message);
      if (feed.isWhole) this.#push(() => (feed.isCaughtUp = false));
      feed.isWhole = false;
      this.#wait();
    }
    const { loading } = feed;
    if (!loading) throw new TypeError("an image without its beginning");
    loading.pieces.push(message);
    if (!message.last) return;
    feed.loading = undefined;
    feed.isWhole = true;
    feed.isLate = false;
    this.#serves(feed);
    this.#push(() => {
      feed.apply(loading.pieces, loading);
      feed.isShown = feed.isCaughtUp = true;
      this.#stamp(message);
    });
  }

  #diff(message: Message): void {
    const half = this.#half;
    this.#half = [];
    for (const [feed] of half) this.#serves(feed);
    this.#push(() => {
      for (const [feed, diff] of half) feed.apply([diff]);
      this.#stamp(message);
    });
  }

  /** Something of it came, so that it is served: also when it was said before that it can't be. */
  #serves(feed: Feed): void {
    feed.error = undefined;
    feed.tries = 0;
    clearTimeout(feed.retry);
  }

  #stamp({ epoch, position, commit_time, cursor }: Message): void {
    this.epoch = epoch;
    this.#position = position;
    this.#commitTime = commit_time;
    for (const feed of this.#feeds.values()) if (feed.isCaughtUp) feed.cursor = cursor;
  }

  // What is asked.

  #ask(feed: Feed): void {
    if (!this.#isReady || feed.id !== undefined || !feed.isLoaded) return;
    clearTimeout(feed.retry);
    // The same name for the same everywhere: the server makes a message once for all who are sent the same bytes.
    const name = digest(feed.name);
    let id = name;
    for (let n = 1; this.#byId.has(id) || this.#leaving.has(id); n++) id = `${name}~${n}`;
    const { view, cursor } = feed;
    const message = { op: "subscribe", id, ...feed.asked, ...(view && cursor && { resume: { view, cursor } }) };
    if (new TextEncoder().encode(JSON.stringify(message)).length > this.#link.bytesMax) {
      // The server would close on it, and again each time that we came back.
      const advice = `a subscription has at most ${this.#link.bytesMax} bytes: make the filter shorter`;
      return this.#push(() => this.#refuse(feed, new DeltafrontError("too_large", advice)));
    }
    feed.id = id;
    this.#byId.set(id, feed);
    this.#link.send(message);
  }

  #askAgain(feed: Feed): void {
    if (!this.#isReady) return;
    // One that the server does not know of is what others may be waiting for.
    if (feed.id === undefined) return this.#ask(feed);
    this.#push(() => {
      // It may have come meanwhile: what waits behind this would be taken in twice.
      if (!feed.error) return;
      this.#leave(feed);
      this.#ask(feed);
    });
  }

  #leave(feed: Feed): void {
    const { id } = feed;
    feed.id = feed.loading = undefined;
    feed.isWhole = feed.isCaughtUp = false;
    if (id === undefined || !this.#byId.delete(id)) return;
    this.#leaving.add(id);
    this.#link.send({ op: "unsubscribe", id });
  }

  #left(id: string): void {
    this.#leaving.delete(id);
    this.#retry(OF_ROOM);
  }

  /** Asks again for what was refused for one of these reasons. */
  #retry(codes: readonly string[]): void {
    for (const feed of this.#feeds.values()) if (feed.error && codes.includes(feed.error.code)) this.#ask(feed);
  }

  #release(handle: Handle): void {
    const { feed } = handle;
    if (!feed.handles.delete(handle) || feed.handles.size > 0 || this.#feeds.get(feed.name) !== feed) return;
    feed.linger = setTimeout(() => {
      if (feed.isDirty) void this.#store();
      this.#feeds.delete(feed.name);
      clearTimeout(feed.retry);
      this.#leave(feed);
      // Who still has it sees that nothing more comes.
      feed.status = "offline";
      this.#sendBatch();
      // Others may have waited for it.
      this.#schedule();
    }, this.options.linger ?? 250);
  }

  /** The pace of the most eager. */
  #sendBatch(): void {
    const options = [...this.#feeds.values()].flatMap((feed) => [...feed.handles].map((handle) => handle.options));
    if (!this.#isReady || options.length === 0) return;
    const least = Math.min(...options.map(({ batch = 0 }) => batch));
    const interval_ms = Math.max(least, this.#isWide ? (this.options.hidden?.interval ?? 0) : 0);
    const message = { op: "batch", interval_ms, mode: this.#tellsEvery() ? "every" : "latest" };
    const text = JSON.stringify(message);
    if (text === (this.#batch || '{"op":"batch","interval_ms":0,"mode":"latest"}')) return;
    this.#batch = text;
    this.#link.send(message);
  }

  #tellsEvery(): boolean {
    return [...this.#feeds.values()].some((feed) => [...feed.handles].some(({ options }) => options.mode === "every"));
  }

  #error(feed: Feed | undefined, message: Message): void {
    const { id, code, retry_after_ms } = message;
    const error = new DeltafrontError(code, message.message);
    if (feed) {
      if (code === "busy" || code === "projection_failed" || code === "internal") {
        return this.#later(feed, error, retry_after_ms);
      }
      this.#byId.delete(id);
      feed.id = feed.loading = undefined;
      feed.error = error;
      feed.isWhole = false;
      return this.#push(() => this.#refuse(feed, error));
    }
    if (id !== undefined) return this.#left(id);
    if (isTokenCode(code)) return this.#tokenRefused(error);
    this.#errors.call(error);
  }

  /**
   * It can't be had now. Of one that failed the server may still think, or not: it is left before it is asked for
   * again.
   */
  #later(feed: Feed, error: DeltafrontError, after?: number): void {
    if (error.code === "busy") {
      this.#byId.delete(feed.id!);
      feed.id = undefined;
    } else {
      feed.error = error;
      feed.handles.forEach((handle) => handle.settle(error));
    }
    const pause = Math.min(FAILED_MAX_MS, FAILED_MS * 2 ** feed.tries++);
    clearTimeout(feed.retry);
    feed.retry = setTimeout(() => this.#askAgain(feed), after ?? pause * (0.5 + Math.random() / 2));
    this.#schedule();
    this.#tell();
  }

  /** It is not for us: what is held of it is not to be shown any more, nor kept. */
  #refuse(feed: Feed, error: DeltafrontError): void {
    feed.error = error;
    // Of a connection that is over nothing was said about the rows, unless who we are may not see any.
    if (this.#isReady || error.closeCode === 4501) feed.forget();
    feed.handles.forEach((handle) => handle.settle(error));
  }

  // Who we are.

  async #askToken(refused?: string): Promise<string> {
    const { token = "" } = this.options;
    this.#refused = undefined;
    return typeof token === "string" ? token : token(refused);
  }

  #authenticated(): void {
    const isNew = !this.#isOpening;
    this.#isOpening = false;
    this.#refusals = 0;
    const wait = refreshIn(claimsOf(this.#token).exp, Date.now());
    if (wait !== undefined) this.#renewIn(wait);
    if (isNew) this.#retry(OF_CLAIMS);
  }

  #renewIn(wait: number, refused?: string): void {
    clearTimeout(this.#refresh);
    if (typeof this.options.token !== "function") return;
    this.#refresh = setTimeout(() => void this.#renew(refused), Math.min(wait, TIMER_MAX));
  }

  /** Sends the token that there is now. */
  async #renew(refused?: string): Promise<void> {
    const connection = this.#connection;
    let token: string;
    try {
      token = (await this.#askToken(refused)) ?? "";
    } catch (error) {
      if (connection !== this.#connection) return;
      this.#errors.call(unavailable(error));
      return this.#renewIn(TOKEN_RETRY_MS, refused);
    }
    if (connection !== this.#connection) return;
    const isOther = claimsOf(token).sub !== claimsOf(this.#token).sub;
    // Nobody can be sent as a message; and what is stored is of one who is another now.
    if (!token || (isOther && this.options.storage && this.options.user === undefined)) {
      if (token !== this.#token) this.reconnect();
    } else if (token !== this.#token) {
      this.#token = token;
      this.#link.send({ op: "authenticate", token });
    } else {
      const wait = refreshIn(claimsOf(token).exp, Date.now()) ?? 0;
      this.#renewIn(Math.max(TOKEN_RETRY_MS, wait), refused);
    }
  }

  /** Whose rows are stored from now on. What is held of somebody else is neither stored as theirs nor gone on from. */
  #storesFor(token: string): void {
    const { storage, user } = this.options;
    const subject = token ? claimsOf(token).sub : "";
    if (!storage || user !== undefined || subject === this.#user) return;
    void this.#store();
    for (const feed of this.#feeds.values()) {
      feed.view = feed.cursor = undefined;
      feed.isDirty = false;
    }
    this.#user = subject;
  }

  /** The server takes us for who we were before: at first for nobody, whose rows are not what is wanted. */
  #tokenRefused(error: DeltafrontError): void {
    const { token } = this.options;
    const mayHold = error.code === "keys_unavailable" || error.code === "early_token";
    this.#refusals += 1;
    this.#refused = error.code;
    if (this.#isOpening) {
      return this.#link.fail(error, !mayHold && (typeof token === "string" || this.#refusals >= REFUSALS_MAX));
    }
    this.#errors.call(error);
    if (this.#refusals < REFUSALS_MAX || mayHold) this.#renewIn(TOKEN_RETRY_MS, error.code);
  }

  // What is shown.

  #push(item: () => void): void {
    this.#queue.push(item);
    this.#schedule();
  }

  /** Those that show rows and are behind the others, in what has come or in what is shown. */
  #behind(isThere: (feed: Feed) => boolean): Feed[] {
    return [...this.#feeds.values()].filter((feed) => feed.isShown && !isThere(feed) && !feed.isLate && !feed.error);
  }

  #isHeld(isThere = (feed: Feed) => feed.isWhole): boolean {
    return this.#isReady && this.#behind(isThere).length > 0;
  }

  /** Those that are behind are waited for, so long. */
  #wait(): void {
    if (this.#hold !== undefined || !this.#isHeld()) return;
    this.#hold = setTimeout(() => {
      this.#hold = undefined;
      for (const feed of this.#behind((feed) => feed.isWhole)) feed.isLate = true;
      this.#flush();
      this.#tell();
    }, this.options.hold ?? 5_000);
  }

  #schedule(): void {
    if (this.#isScheduled || this.#queue.length === 0) return;
    if (this.#isHeld()) return this.#wait();
    const flush = () => {
      this.#isScheduled = false;
      this.#flush();
    };
    const { notify = "sync" } = this.options;
    if (notify === "sync") return flush();
    this.#isScheduled = true;
    if (notify === "microtask") queueMicrotask(flush);
    // Hidden pages have no frames.
    else if (globalThis.document?.hidden === false) requestAnimationFrame(flush);
    else setTimeout(flush, 16);
  }

  #flush(): void {
    if (this.#queue.length === 0 || this.#isHeld()) return;
    clearTimeout(this.#hold);
    this.#hold = undefined;
    const queue = this.#queue;
    this.#queue = [];
    const isEvery = this.#tellsEvery();
    try {
      for (const item of queue) {
        item();
        // Not between the steps of one that is being brought to where the others are.
        if (isEvery && !this.#isHeld((feed) => feed.isCaughtUp)) this.#tell();
      }
    } catch (error) {
      // What is held is not to be trusted any more: all of it is asked for anew.
      for (const feed of this.#feeds.values()) feed.view = feed.cursor = undefined;
      this.#link.fail(new DeltafrontError("protocol", `the server said what is not understood: ${String(error)}`));
    }
    this.#tell();
  }

  /** Tells listeners what has changed, once all of it has. */
  #tell(): void {
    const changes: [Feed, Change][] = [];
    const statuses: [Feed, Status][] = [];
    const { epoch } = this;
    for (const feed of this.#feeds.values()) {
      const { reset } = feed;
      const { upserts, deletes } = feed.collection.take();
      feed.reset = undefined;
      if (reset || upserts.length > 0 || deletes.length > 0) {
        const told = { upserts, deletes, epoch, position: this.#position };
        const commitTime = this.#commitTime;
        changes.push([feed, { ...told, ...(commitTime && { commitTime }), ...(reset && { reset }) }]);
      }
      this.#show(feed, this.#statusOf(feed));
      if (feed.isStatusNew) statuses.push([feed, feed.status]);
      feed.isStatusNew = false;
      if (feed.isCaughtUp) feed.handles.forEach((handle) => handle.settle());
    }
    for (const [feed, change] of changes) [...feed.handles].forEach((handle) => handle.changes.call(change));
    for (const [feed, status] of statuses) {
      [...feed.handles].forEach((handle) => handle.statuses.call(status, feed.error));
    }
    if (changes.length > 0 && this.options.storage) this.#save ??= setTimeout(() => void this.#store(), SAVE_MS);
  }

  #statusOf(feed: Feed): Status {
    if (feed.error) return "error";
    if (feed.isCaughtUp && this.#isReady) return feed.staleReason === undefined ? "live" : "stale";
    if (feed.isLate) return "stale";
    // One that is being brought up to date is what it was: most are, before anybody could read it.
    return feed.status === "error" ? "connecting" : feed.status;
  }

  #show(feed: Feed, status: Status): void {
    if (feed.status === status) return;
    feed.status = status;
    feed.isStatusNew = true;
  }

  #setStatus(status: ClientStatus, error?: DeltafrontError): void {
    if (this.status === status && this.error === error) return;
    this.status = status;
    this.error = error;
    this.#statuses.call(status, error);
  }

  // What is kept.

  async #load(feed: Feed): Promise<void> {
    const { storage, user } = this.options;
    feed.isLoaded = false;
    // Without a token, and without a name for who we are, nothing is known to be ours.
    this.#user ??= user ?? (await this.#subject().catch(() => undefined));
    const snapshot = this.#user === undefined ? undefined : await storage!.load(this.#storedName(feed));
    feed.isLoaded = true;
    if (snapshot && this.#feeds.get(feed.name) === feed && !feed.isShown) {
      feed.collection.replace(snapshot.shape, [{ rows: snapshot.rows }]);
      feed.reset = "stored";
      feed.isShown = true;
      ({ view: feed.view, cursor: feed.cursor } = snapshot);
      this.#show(feed, "offline");
      this.#tell();
    }
    this.#ask(feed);
  }

  /** Under which name rows are kept: of which server, of whom, of what. */
  #storedName(feed: Feed): string {
    return canonical([this.url, this.#user, feed.name]);
  }

  /** Whose rows are stored: `undefined` when that can't be told. */
  async #subject(): Promise<unknown> {
    const token = await (this.#asked ?? this.#askToken());
    return token ? claimsOf(token).sub : "";
  }

  async #store(): Promise<void> {
    clearTimeout(this.#save);
    this.#save = undefined;
    const { storage } = this.options;
    if (!storage || this.#user === undefined) return;
    const snapshots = [...this.#feeds.values()].flatMap((feed) => {
      const { collection, view, cursor } = feed;
      const { shape } = collection;
      const isGone = feed.error !== undefined && !feed.isShown;
      // Rows are of their cursor at any time, also while they are behind.
      const isKnown = shape && view && cursor;
      if (!feed.isDirty || !(isKnown || isGone)) return [];
      feed.isDirty = false;
      let snapshot: Snapshot | undefined;
      if (isKnown && collection.size <= storage.rowsMax) {
        snapshot = { version: 1, time: Date.now(), shape, view, cursor, rows: collection.dump() };
      }
      return [[this.#storedName(feed), snapshot] as const];
    });
    if (snapshots.length > 0) await storage.save(snapshots);
  }

  // What the browser says.

  #listen(): void {
    const { signal } = this.#end;
    // Node has neither, a worker no document.
    const { document } = globalThis as { document?: Document };
    const on = (target: Partial<EventTarget> | undefined, type: string, listener: () => void) =>
      target?.addEventListener?.(type, listener, { signal });
    on(globalThis, "online", () => setTimeout(() => this.#link.hurry(), Math.random() * ONLINE_MS));
    on(globalThis, "offline", () => this.#link.probe());
    on(globalThis, "pagehide", () => this.#keep());
    on(document, "visibilitychange", () => (document!.hidden ? this.#hidden() : this.#visible()));
  }

  /** The page may be gone at any moment from now on: a newer cursor is worth storing. */
  #keep(): void {
    for (const feed of this.#feeds.values()) feed.isDirty ||= feed.isCaughtUp;
    void this.#store();
  }

  #hidden(): void {
    this.#keep();
    // The frame that was waited for may be long in coming.
    this.#isScheduled = false;
    this.#flush();
    const { hidden } = this.options;
    if (!hidden) return;
    this.#hide = setTimeout(() => {
      this.#isWide = hidden.interval !== undefined;
      if (this.#isWide) this.#sendBatch();
      else if (this.#link.state !== "failed") this.#disconnect("paused");
    }, hidden.after);
  }

  #visible(): void {
    clearTimeout(this.#hide);
    this.#isWide = false;
    this.#sendBatch();
    if (this.status !== "paused") return this.#link.hurry();
    this.#setStatus("connecting");
    if (this.#feeds.size > 0) this.#link.open();
  }
}

const closed = () => new DeltafrontError("closed", "the client was closed");

const unavailable = (error: unknown) =>
  new DeltafrontError("token_unavailable", `the token could not be had: ${String(error)}`);
