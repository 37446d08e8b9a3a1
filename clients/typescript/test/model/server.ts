import type { Value } from "../../src/index.js";
import { Random } from "./random.js";

/**
 * The protocol, scripted: it does at random what a real server can't be made to do on request. Images come in pieces with
 * diffs of others between them, are begun anew in the middle, connections fall silent or break between the parts of a
 * diff, and the server forgets its log, or itself.
 *
 * `ledger` and `mirror` have a key, and every transaction books the same amount on both sides, of one owner: whoever sees
 * both as of one epoch sees sums that are equal. `tags` has no key. What one sees are rows of the owners in its token.
 */

export type Row = readonly Value[];
type Table = Map<string, { row: Row; count: number }>;
export type TableName = "ledger" | "mirror" | "tags";

export const OWNERS = ["ann", "bob", "eve"];
const COLUMNS = {
  ledger: [["id", "bigint"], ["owner", "text"], ["amount", "numeric(20,2)"]],
  mirror: [["id", "bigint"], ["owner", "text"], ["amount", "numeric(20,2)"]],
  tags: [["owner", "text"], ["tag", "text"]],
} as const;
const OWNER_AT = { ledger: 1, mirror: 1, tags: 0 };
const isKeyed = (name: TableName) => name !== "tags";
const keyOf = (name: TableName, row: Row) => JSON.stringify(isKeyed(name) ? [row[0]] : row);

export const HEARTBEAT_MS = 15_000;
const GRACE_MS = 30_000;

/** A token of this kind is not signed: the server of the model believes what it reads. */
export const tokenOf = (claims: object) => `x.${btoa(JSON.stringify(claims))}.x`;

export class ModelServer {
  boot = 1;
  epoch = 0;
  tables: Record<TableName, Table> = { ledger: new Map(), mirror: new Map(), tags: new Map() };
  /** The tables by epoch, as far as the log goes back. */
  history = new Map<number, Record<TableName, Table>>();
  sessions = new Set<Session>();
  /** Whether connections are accepted. */
  isUp = true;
  /** Whether anything odd happens. */
  isCalm = false;
  #nextId = 1;
  readonly seen = { resumed: 0, reset: 0, first: 0, diffs: 0, parts: 0, interleaved: 0, refused: 0, claims: 0 };

  constructor(readonly random: Random) {
    this.remember();
  }

  remember() {
    this.history.set(this.epoch, structuredClone(this.tables));
    this.history.delete(this.epoch - 60);
  }

  /** One transaction: the same booking on both sides, and tags. */
  transact() {
    const { random, tables } = this;
    const owner = random.pick(OWNERS);
    const cents = random.below(1000) - 500;
    for (const name of ["ledger", "mirror"] as const) {
      const table = tables[name];
      const mine = [...table.values()].filter(({ row }) => row[1] === owner);
      const choice = random.below(10);
      if (mine.length > 2 && choice < 3) {
        // Two rows become one: the sum stays, and goes up by the amount.
        const [a, b] = [random.pick(mine), random.pick(mine)];
        if (a !== b) {
          table.delete(keyOf(name, a.row));
          this.#write(name, [b.row[0]!, owner, plus(b.row[2], centsOf(a.row[2]) + cents)]);
          continue;
        }
      }
      const held = mine.length > 0 && choice < 7 ? random.pick(mine).row : undefined;
      this.#write(name, held ? [held[0]!, owner, plus(held[2], cents)] : [this.#nextId++, owner, plus("0.00", cents)]);
    }
    for (let i = random.below(3); i > 0; i--) {
      const row = [random.pick(OWNERS), random.pick(["x", "y"])];
      const held = tables.tags.get(keyOf("tags", row));
      const count = (held?.count ?? 0) + (random.is(0.5) ? 1 : -1);
      if (count > 0) tables.tags.set(keyOf("tags", row), { row, count });
      else tables.tags.delete(keyOf("tags", row));
    }
    this.epoch += 1;
    this.remember();
  }

  #write(name: TableName, row: Row) {
    this.tables[name].set(keyOf(name, row), { row, count: 1 });
  }

  /** What somebody sees. */
  visible(name: TableName, owners: readonly string[], tables = this.tables): Table {
    return new Map([...tables[name]].filter(([, { row }]) => owners.includes(row[OWNER_AT[name]] as string)));
  }

  /** Another run of the server, which knows nothing of the last one. */
  restart() {
    this.boot += 1;
    this.epoch = this.random.below(5);
    this.history.clear();
    this.remember();
    for (const session of [...this.sessions]) session.close(1001);
  }
}

const centsOf = (amount: Value | undefined) => Math.round(Number(amount) * 100);
const plus = (amount: Value | undefined, cents: number) => ((centsOf(amount) + cents) / 100).toFixed(2);

interface Subscribed {
  name: TableName;
  /** What the client has, or will have once it has read all. */
  held: Table;
  /** `undefined` when the client has all of it. */
  loading: { rows: Row[]; first: object | undefined } | undefined;
}

/** A client's end and the server's, in one: what it is sent and sends takes a while. */
export class Session {
  readyState = 0;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: ((event: unknown) => void) | null = null;
  #owners: readonly string[] = [];
  #exp = Infinity;
  #subscribed = new Map<string, Subscribed>();
  #epoch = 0;
  #sent = 0;
  #at = 0;
  #isSilent = false;
  #half: object[] = [];
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(readonly server: ModelServer) {
    setTimeout(() => {
      if (this.readyState !== 0) return;
      if (!server.isUp) return this.#lost(1006);
      this.readyState = 1;
      server.sessions.add(this);
      this.#epoch = server.epoch;
      this.#say({ op: "welcome", heartbeat_ms: HEARTBEAT_MS, message_bytes_max: 65536 });
      this.#timer = setInterval(() => this.#turn(), 50);
    }, 5 + server.random.below(50));
  }

  send(text: string) {
    // As WebSockets do it: what is sent too early is a mistake, what is sent too late is lost.
    if (this.readyState === 0) throw new Error("sent to a socket that is not open yet");
    setTimeout(() => this.readyState === 1 && !this.#isSilent && this.#receive(JSON.parse(text)), 10);
  }

  /** Either side ends it. */
  close(code = 1000) {
    if (this.readyState < 2) this.#lost(code);
  }

  /** Nothing comes any more, and nobody is told. */
  silence() {
    this.#isSilent = true;
  }

  #lost(code: number) {
    this.readyState = 3;
    this.server.sessions.delete(this);
    clearInterval(this.#timer);
    setTimeout(() => this.onclose?.({ code, reason: "" }), 1);
  }

  #say(message: object) {
    if (this.#isSilent) return;
    this.#sent = Date.now();
    const data = JSON.stringify(message);
    // In order, each after a while.
    this.#at = Math.max(this.#at, Date.now() + 1 + (this.server.isCalm ? 0 : this.server.random.below(30)));
    setTimeout(() => this.readyState === 1 && !this.#isSilent && this.onmessage?.({ data }), this.#at - Date.now());
  }

  #stamp() {
    const { boot } = this.server;
    const epoch = this.#epoch;
    return { epoch, position: { model: `0/${epoch}` }, commit_time: new Date().toISOString(), cursor: `${boot}-${epoch}` };
  }

  #receive(message: any) {
    const { random, isCalm, seen } = this.server;
    if (message.op === "authenticate") return this.#authenticate(message.token);
    if (message.op === "ping") {
      this.#advance();
      return this.#say({ op: "heartbeat", ...this.#stamp() });
    }
    if (message.op === "unsubscribe") {
      const isThere = this.#subscribed.delete(message.id);
      return this.#say(isThere ? { op: "unsubscribed", id: message.id } : { op: "error", id: message.id, code: "unknown_id", message: "" });
    }
    if (message.op !== "subscribe") return;
    const { id, projection, resume } = message as { id: string; projection: TableName; resume?: { cursor: string; view: string } };
    if (this.#subscribed.has(id)) throw new Error(`the client has ${id} twice`);
    if (this.#owners.length === 0) {
      seen.refused += 1;
      return this.#say({ op: "error", id, code: "forbidden", message: "no policy shows you any of it" });
    }
    if (!isCalm && random.is(0.1)) return this.#say({ op: "error", id, code: "busy", message: "", retry_after_ms: 1000 + random.below(4000) });
    let begin: object = {};
    let old: Table | undefined;
    if (resume) {
      const [boot, epoch] = resume.cursor.split("-").map(Number);
      const then = boot === this.server.boot ? this.server.history.get(epoch!) : undefined;
      const reset = resume.view !== this.#view(projection) ? "view" : boot !== this.server.boot ? "restart" : then ? undefined : "log";
      begin = reset ? { reset } : { resumed: true };
      if (!reset) old = this.server.visible(projection, this.#owners, then);
    }
    seen[old ? "resumed" : resume ? "reset" : "first"] += 1;
    this.#begin(id, projection, begin, old);
  }

  #view = (projection: TableName) => `${projection}:${this.#owners.join()}`;

  /** An image begins; `held` is what the client has of it, unless that is nothing. */
  #begin(id: string, name: TableName, begin: object, held?: Table) {
    const columns = COLUMNS[name].map(([name, type]) => ({ name, type }));
    const first = { projection: name, columns, key: isKeyed(name) ? ["id"] : null, order: [], view: this.#view(name), ...begin };
    const now = this.server.visible(name, this.#owners, this.server.history.get(this.#epoch));
    const rows = held ? [] : [...now.values()].flatMap(({ row, count }) => Array<Row>(count).fill(row));
    this.#subscribed.set(id, { name, held: held ?? now, loading: { rows, first } });
  }

  #authenticate(token: string) {
    const { owners, exp } = JSON.parse(atob(token.split(".")[1]!));
    if (exp * 1000 < Date.now()) return this.#say({ op: "error", code: "expired_token", message: "over" });
    this.#say({ op: "authenticated" });
    this.#exp = exp * 1000;
    if (this.#half.length > 0) this.#finish();
    const isOther = String(owners) !== String(this.#owners);
    this.#owners = owners;
    if (!isOther) return;
    for (const [id, it] of [...this.#subscribed]) {
      this.server.seen.claims += 1;
      if (owners.length === 0) {
        this.#subscribed.delete(id);
        this.#say({ op: "error", id, code: "forbidden", message: "" });
        this.#say({ op: "unsubscribed", id });
      } else if (!it.loading) {
        this.#begin(id, it.name, { resumed: true }, it.held);
        this.#sayFirst(id);
      } else {
        const wasTold = it.loading.first === undefined;
        this.#begin(id, it.name, wasTold || "resumed" in it.loading.first! || "reset" in it.loading.first! ? { reset: "claims" } : {});
        if (wasTold) this.#sayFirst(id);
      }
    }
  }

  #sayFirst(id: string) {
    const { loading } = this.#subscribed.get(id)!;
    this.#say({ op: "image", id, ...loading!.first, rows: [], last: false });
    loading!.first = undefined;
  }

  /** What there is to say now. */
  #turn() {
    if (this.#isSilent) return;
    const { server } = this;
    const { random, isCalm } = server;
    if (Date.now() > this.#exp + GRACE_MS) return this.#lost(4001);
    if (this.#half.length > 0) {
      const part = this.#half.shift()!;
      return this.#say(part);
    }
    const live = [...this.#subscribed].filter(([, it]) => !it.loading);
    if (!isCalm && live.length > 0 && random.is(0.002)) {
      const [id, { name }] = random.pick(live);
      this.#begin(id, name, { reset: "log" });
      return this.#sayFirst(id);
    }
    const loading = [...this.#subscribed].filter(([, it]) => it.loading);
    if (loading.length > 0 && (isCalm || random.is(0.5))) {
      if (live.length > 0) server.seen.interleaved += 1;
      return this.#piece(...random.pick(loading));
    }
    if (isCalm || random.is(0.3)) this.#advance();
    if (Date.now() - this.#sent >= HEARTBEAT_MS) this.#say({ op: "heartbeat", ...this.#stamp() });
  }

  #piece(id: string, it: Subscribed) {
    const loading = it.loading!;
    const { random, isCalm } = this.server;
    const rows = loading.rows.splice(0, isCalm ? Infinity : 1 + random.below(5));
    const first = loading.first;
    loading.first = undefined;
    if (loading.rows.length > 0 || (!isCalm && random.is(0.3))) {
      return this.#say({ op: "image", id, ...first, rows, last: false });
    }
    this.#advance();
    if (this.#half.length > 0) this.#finish();
    const now = this.server.visible(it.name, this.#owners);
    this.#say({ op: "image", id, ...first, ...this.#stamp(), rows, ...difference(it.name, it.held, now), last: true });
    it.held = now;
    it.loading = undefined;
  }

  /** The rest of a diff, at once. */
  #finish() {
    for (const part of this.#half.splice(0)) this.#say(part);
  }

  #advance() {
    const { random, isCalm, seen } = this.server;
    if (this.#half.length > 0) this.#finish();
    this.#epoch = this.server.epoch;
    const diffs: object[] = [];
    for (const [id, it] of this.#subscribed) {
      if (it.loading) continue;
      const now = this.server.visible(it.name, this.#owners);
      const change = difference(it.name, it.held, now);
      it.held = now;
      for (const [kind, list] of Object.entries(change)) for (const item of list) diffs.push({ id, [kind]: [item] });
    }
    if (diffs.length === 0) return;
    seen.diffs += 1;
    const parts = isCalm || diffs.length === 1 ? 1 : 1 + random.below(3);
    seen.parts += Number(parts > 1);
    const size = Math.ceil(diffs.length / parts);
    for (let i = 0; i < diffs.length; i += size) {
      const isLast = i + size >= diffs.length;
      const { cursor, ...halfway } = this.#stamp();
      this.#half.push({ op: "diff", ...(isLast ? { ...halfway, cursor } : halfway), diffs: diffs.slice(i, i + size), last: isLast });
    }
    this.#say(this.#half.shift()!);
  }
}

function difference(name: TableName, old: Table, now: Table): Record<string, unknown[]> {
  const [upsert, gone, count]: [Row[], Value[][], unknown[]] = [[], [], []];
  for (const id of new Set([...old.keys(), ...now.keys()])) {
    const [a, b] = [old.get(id), now.get(id)];
    if (!isKeyed(name)) {
      const by = (b?.count ?? 0) - (a?.count ?? 0);
      if (by !== 0) count.push([by, (a ?? b)!.row]);
    } else if (!b) gone.push([a!.row[0]!]);
    else if (JSON.stringify(a?.row) !== JSON.stringify(b.row)) upsert.push(b.row);
  }
  return isKeyed(name) ? { upsert, delete: gone } : { count };
}
