import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const PROJECT = fileURLToPath(new URL("./project", import.meta.url));
export const SCHEMA = readFileSync(join(PROJECT, "database/schema.sql"), "utf8");
const PATIENCE_MS = Number(process.env.PATIENCE_MS ?? 60_000);

export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Asks until the answer is one. */
export async function eventually<T>(ask: () => T | Promise<T>, what = "the answer"): Promise<NonNullable<T>> {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`${what} does not come`);
    await sleep(10);
  }
}

/** A port that nobody has. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** Postgres's programs, where this machine has them. */
function programs(): string {
  const folders = [...(process.env.PATH ?? "").split(":")];
  const versions = "/usr/lib/postgresql";
  if (existsSync(versions)) folders.push(...readdirSync(versions).sort().reverse().map((version) => join(versions, version, "bin")));
  const found = folders.find((folder) => existsSync(join(folder, "initdb")) && existsSync(join(folder, "postgres")));
  if (!found) throw new Error("no Postgres was found: have initdb and postgres on the PATH, or name a database in DELTAFRONT_TEST_DB");
  return found;
}

/** A Postgres of its own, in a folder that goes with it. */
export class PrivatePostgres {
  private constructor(
    readonly url: string,
    private readonly folder: string,
    private readonly server: ChildProcess,
  ) {}

  static async start(): Promise<PrivatePostgres> {
    const [bin, port] = [programs(), await freePort()];
    const folder = mkdtempSync(join(tmpdir(), "deltafront-client-"));
    const data = join(folder, "data");
    // Postgres refuses to be root.
    const isRoot = process.getuid?.() === 0;
    const as = (command: string, args: string[]): [string, string[]] => (isRoot ? ["runuser", ["-u", "postgres", "--", command, ...args]] : [command, args]);
    if (isRoot) execFileSync("chown", ["postgres", folder]);
    execFileSync(...as(join(bin, "initdb"), ["-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"]), { stdio: "ignore" });
    const settings = ["wal_level=logical", "fsync=off", "listen_addresses=127.0.0.1", `unix_socket_directories=${folder}`];
    const args = ["-D", data, "-p", String(port), ...settings.flatMap((setting) => ["-c", setting])];
    const server = spawn(...as(join(bin, "postgres"), args), { stdio: "ignore", cwd: folder, detached: true });
    return new PrivatePostgres(`postgres://postgres@127.0.0.1:${port}/postgres`, folder, server);
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.server.once("exit", resolve));
    // The group: `runuser` stands before the server.
    process.kill(-this.server.pid!, "SIGINT");
    await Promise.race([ended, sleep(10_000)]);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** The server's program, serving the tests' project. */
export class PrivateServer {
  #process: ChildProcess | undefined;
  #log = "";

  private constructor(
    readonly address: string,
    private readonly folder: string,
    private readonly database: string,
  ) {}

  /** Of the tests' project, under a name that no other server of the same Postgres has. */
  static async start(database: string, name = "client_test"): Promise<PrivateServer> {
    const folder = mkdtempSync(join(tmpdir(), "deltafront-project-"));
    cpSync(PROJECT, folder, { recursive: true });
    const settings = join(folder, "deltafront.toml");
    writeFileSync(settings, readFileSync(settings, "utf8").replace("client_test", name));
    const server = new PrivateServer(`127.0.0.1:${await freePort()}`, folder, database);
    await server.run();
    return server;
  }

  /** Runs, until it is ready. */
  async run(): Promise<void> {
    const program = process.env.DELTAFRONT_BIN;
    if (!program) throw new Error("name the server's program in DELTAFRONT_BIN (cargo build, then target/debug/deltafront)");
    const env = { ...process.env, DELTAFRONT_TEST_DB: this.database, RUST_LOG: "info" };
    this.#process = spawn(program, ["run", this.folder, "--listen", this.address], { env, stdio: ["ignore", "ignore", "pipe"] });
    this.#process.stderr!.on("data", (text) => (this.#log = (this.#log + text).slice(-8000)));
    const ready = () => {
      if (this.#process!.exitCode !== null) throw new Error(`the server has ended:\n${this.#log}`);
      return fetch(`http://${this.address}/readyz`).then(({ ok }) => ok, () => false);
    };
    await eventually(ready, "the server's readiness");
  }

  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const process = this.#process!;
    if (process.exitCode !== null || process.signalCode !== null) return;
    const ended = new Promise((resolve) => process.once("exit", resolve));
    process.kill(signal);
    await Promise.race([ended, sleep(10_000)]);
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
