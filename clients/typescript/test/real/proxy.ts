import { connect, createServer, type Server, type Socket } from "node:net";

/** A bad network between clients and a server: it cuts, delays and falls silent. */
export class Proxy {
  readonly #pairs = new Set<[Socket, Socket]>();
  #server: Server | undefined;
  port = 0;
  /** Milliseconds by which what the server sends is late. */
  delay = 0;
  /** Whether nothing comes through, in either direction, and nobody is told. */
  isSilent = false;
  /** Connections so far, and bytes from the server. */
  connections = 0;
  bytes = 0;

  private constructor(private target: string) {}

  static async start(target: string): Promise<Proxy> {
    const proxy = new Proxy(target);
    await proxy.listen();
    return proxy;
  }

  /** `http://host:port` of this side. */
  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Connections are taken again. */
  listen(): Promise<void> {
    this.#server = createServer((client) => this.#accept(client));
    return new Promise((resolve) => this.#server!.listen(this.port, "127.0.0.1", () => {
      this.port = (this.#server!.address() as { port: number }).port;
      resolve();
    }));
  }

  /** None are taken, and those there are break. */
  async refuse(): Promise<void> {
    const closed = new Promise((resolve) => this.#server!.close(resolve));
    this.cut();
    await closed;
  }

  cut(): void {
    for (const pair of this.#pairs) pair.forEach((socket) => socket.destroy());
  }

  #accept(client: Socket): void {
    this.connections += 1;
    const [host, port] = this.target.split(":");
    const server = connect(Number(port), host);
    const pair: [Socket, Socket] = [client, server];
    this.#pairs.add(pair);
    for (const [from, to, late] of [[client, server, false], [server, client, true]] as const) {
      from.setNoDelay(true);
      from.on("error", () => {});
      from.on("close", () => {
        this.#pairs.delete(pair);
        to.destroy();
      });
      from.on("data", (bytes) => {
        if (this.isSilent) return;
        if (late) this.bytes += bytes.length;
        if (late && this.delay > 0) setTimeout(() => to.writable && to.write(bytes), this.delay);
        else to.write(bytes);
      });
    }
  }
}
