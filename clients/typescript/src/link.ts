import { comesBack, DeltafrontError } from "./error.js";
import type { SocketLike } from "./types.js";

/** A message of the server; of which kind is said by `op`. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type Message = Record<string, any>;

export interface LinkOptions {
  url: string;
  WebSocket: (new (url: string) => SocketLike) | undefined;
  base: number;
  cap: number;
}

export interface LinkEvents {
  /** A connection is being made. */
  opening(): void;
  /** The server has greeted. */
  up(): void;
  message(message: Message): void;
  /** There is no connection any more; `isFinal` when none is going to be made. */
  down(error: DeltafrontError, isFinal: boolean): void;
}

/** How long a server may take to greet. */
const GREETING_MS = 15_000;
/** How long the answer to a ping may take, when it is doubted that anybody is there. */
const PROBE_MS = 5_000;
/** How often it is looked whether anything was heard. */
const LOOK_MS = 1_000;
/** A connection that lasted so long was a good one: the next pauses are short again. */
const GOOD_MS = 10_000;
/** Those whose server stops come back within so many milliseconds, each at a time of its own. */
const RESTART_MS = 5_000;
/** Messages that may be sent at once, and in each look; the server closes at 300 and 50. */
const BURST = 200;
const PER_LOOK = 40;

/** The longest that `setTimeout` waits; more is no time at all. */
export const TIMER_MAX = 2 ** 31 - 1;

/**
 * One connection after the other. Knows when to come back and when not, and whether anybody is there; nothing of what
 * is said.
 */
export class Link {
  state: "idle" | "connecting" | "open" | "waiting" | "failed" = "idle";
  /** Bytes that a message may have; the server tells. */
  bytesMax = 65_536;
  #socket: SocketLike | undefined;
  #heartbeat = 15_000;
  /** When the connection is given up, if nothing is heard before. */
  #deadline = 0;
  #openedAt = Infinity;
  #tries = 0;
  /** Of the next try. */
  #retry: ReturnType<typeof setTimeout> | undefined;
  #look: ReturnType<typeof setInterval> | undefined;
  #outbox: string[] = [];
  #allowance = 0;

  constructor(
    private readonly options: LinkOptions,
    private readonly events: LinkEvents,
  ) {}

  /** Connects, unless there is a connection or one is being made. */
  open(): void {
    if (this.state === "connecting" || this.state === "open") return;
    clearTimeout(this.#retry);
    const { WebSocket = globalThis.WebSocket, url } = this.options;
    let socket: SocketLike;
    try {
      socket = this.#socket = new WebSocket(url);
    } catch (error) {
      // There is none here, or it may not go there: a page of https to ws, say.
      this.state = "failed";
      const advice = `a WebSocket can't be made, see the option of that name: ${String(error)}`;
      return this.events.down(new DeltafrontError("no_websocket", advice), true);
    }
    this.state = "connecting";
    this.events.opening();
    this.#openedAt = Infinity;
    this.#deadline = Date.now() + GREETING_MS;
    this.#look = setInterval(() => {
      this.#allowance = Math.min(BURST, this.#allowance + PER_LOOK);
      this.#send();
      if (Date.now() < this.#deadline) return;
      this.fail(new DeltafrontError("timeout", "nothing was heard of the server for too long"));
    }, LOOK_MS);
    socket.onmessage = ({ data }) => {
      // Twice the time in which the server always says something is long enough.
      this.#deadline = Date.now() + 2 * this.#heartbeat;
      try {
        this.#take(JSON.parse(data));
      } catch (error) {
        this.fail(new DeltafrontError("protocol", `the server said what is not understood: ${String(error)}`));
      }
    };
    // What is wrong is never told here; `close` follows.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => {
      const told = reason ? `: ${reason}` : "";
      const isFinal = !comesBack(code);
      const error = isFinal ? "closed_by_server" : "disconnected";
      const least = code === 1001 ? RESTART_MS : 0;
      this.#down(new DeltafrontError(error, `the connection was closed (${code})${told}`, code), isFinal, least);
    };
  }

  /** Ends the connection, and tries no more until {@link open}. Nobody is told. */
  close(): void {
    this.#drop();
    this.state = "idle";
    this.#tries = 0;
  }

  /** Gives this connection up. */
  fail(error: DeltafrontError, isFinal = false): void {
    if (this.#socket) this.#down(error, isFinal);
  }

  /** Is anybody there? For when something has happened that connections do not survive without a word. */
  probe(): void {
    if (this.state !== "open") return;
    this.#deadline = Math.min(this.#deadline, Date.now() + PROBE_MS);
    this.send({ op: "ping" });
  }

  /** Connects now if the next try is being waited for; otherwise looks whether anybody is there. */
  hurry(): void {
    if (this.state === "waiting") this.open();
    else this.probe();
  }

  /** Sends when there is leave to: a client that sends too much at once would be shut out. */
  send(message: object): void {
    this.#outbox.push(JSON.stringify(message));
    this.#send();
  }

  #send(): void {
    for (; this.#outbox.length > 0 && this.#allowance > 0; this.#allowance--) this.#socket?.send(this.#outbox.shift()!);
  }

  #take(message: Message): void {
    if (message.op !== "welcome") return this.events.message(message);
    this.state = "open";
    this.#openedAt = Date.now();
    this.#allowance = BURST;
    this.bytesMax = message.message_bytes_max ?? this.bytesMax;
    this.#heartbeat = message.heartbeat_ms ?? this.#heartbeat;
    this.events.up();
  }

  #down(error: DeltafrontError, isFinal: boolean, least = 0): void {
    if (Date.now() - this.#openedAt >= GOOD_MS) this.#tries = 0;
    this.#drop();
    this.state = isFinal ? "failed" : "waiting";
    if (!isFinal) {
      // Full jitter: those who were cut off together do not come back together.
      const most = Math.max(least, Math.min(this.options.cap, this.options.base * 2 ** this.#tries++));
      this.#retry = setTimeout(() => this.open(), Math.random() * most);
    }
    this.events.down(error, isFinal);
  }

  #drop(): void {
    clearTimeout(this.#retry);
    clearInterval(this.#look);
    this.#outbox = [];
    this.#allowance = 0;
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    try {
      socket.close(1000);
    } catch {
      // It is closed, then.
    }
  }
}
