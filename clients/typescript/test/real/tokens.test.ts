import { expect, it } from "vitest";
import type { Change, DeltafrontError } from "../../src/index.js";
import { eventually, sleep } from "./server.js";
import { ADMIN_TOKEN, sign } from "./token.js";
import { becomes, world } from "./world.js";

const open = world();
const ANN = { sub: "ann" };
const STAFF = { sub: "bob", role: "staff", regions: ["eu"] };

it("shows what the token shows, and what a new one does, by diffs", async () => {
  const { proxy } = open();
  let claims: object = ANN;
  const client = open().client({ token: () => sign(claims) });
  const [mine, balances] = [client.subscribe("mine"), client.subscribe("balances")];
  await Promise.all([mine.ready, balances.ready]);
  await open().agrees(mine, sign(ANN));
  const connections = proxy.connections;
  const { size } = mine;
  const changes: Change[] = [];
  mine.onChange((change) => void changes.push(change));
  claims = STAFF;
  await client.refreshToken();
  await eventually(() => changes.length > 0);
  await open().agrees(mine, sign(STAFF));
  expect(mine.rows.some(({ owner }) => owner === "ann" && mine.size > size)).toBe(true);
  expect(changes[0]!.reset).toBeUndefined();
  expect(changes[0]!.deletes.every(({ owner, region }) => owner === "ann" && region === "us")).toBe(true);
  expect(proxy.connections).toBe(connections);
  // Back, while the network is bad.
  claims = ANN;
  proxy.cut();
  await open().agrees(mine, sign(ANN));
  expect(changes.at(-1)!.reset).toBe("view");
});

it("is refused what is not for it, and heals with a token that shows it", async () => {
  let token = "";
  const client = open().client({ token: () => token });
  const [mine, audit] = [client.subscribe("mine"), client.subscribe("audit")];
  await expect(audit.ready).rejects.toMatchObject({ code: "forbidden" });
  expect([audit.status, audit.size]).toEqual(["error", 0]);
  // Policies show nobody no row, which is not an error.
  await mine.ready;
  expect([mine.status, mine.size]).toEqual(["live", 0]);
  token = sign(STAFF);
  await client.refreshToken();
  await becomes(audit, "live");
  expect(audit.error).toBeUndefined();
  await open().agrees(audit, token);
  await open().agrees(mine, token);
  // Somebody else, over the same connection: what is not for them goes, and the rest stays.
  const change = new Promise<Change>((resolve) => audit.onChange(resolve));
  const { size } = audit;
  token = sign(ANN);
  await client.refreshToken();
  await becomes(audit, "error");
  expect([audit.size, (await change).deletes.length, (await change).reset]).toEqual([0, size, "error"]);
  await open().agrees(mine, token);
  // And nobody.
  token = "";
  await client.refreshToken();
  await becomes(mine, "live");
  await eventually(() => mine.size === 0);
});

it("sends a new token before the last one is over", async () => {
  const { proxy } = open();
  let asked = 0;
  const client = open().client({
    token: () => {
      asked += 1;
      return sign(ANN, 7);
    },
  });
  const mine = client.subscribe("mine");
  await mine.ready;
  const connections = proxy.connections;
  await sleep(20_000);
  expect(asked).toBeGreaterThan(2);
  expect([mine.status, proxy.connections]).toEqual(["live", connections]);
});

it("comes back with a new token when the server says that the last one is over", async () => {
  const errors: (number | undefined)[] = [];
  const reasons: (string | undefined)[] = [];
  // The page's clock is an hour behind: by it there is time enough.
  const { now } = Date;
  Date.now = () => now() - 3_600_000;
  try {
    const client = open().client({
      token: (refused) => {
        reasons.push(refused);
        return sign(ANN, 3);
      },
      onError: ({ closeCode }) => void errors.push(closeCode),
    });
    const mine = client.subscribe("mine");
    await mine.ready;
    await eventually(() => errors.includes(4001));
    await becomes(mine, "live");
    expect(reasons).toEqual([undefined, "expired_token"]);
  } finally {
    Date.now = now;
  }
});

it("does not come back with a token that does not hold", async () => {
  const { proxy } = open();
  const cases: [string, string][] = [
    [sign(ANN, -10), "expired_token"],
    [sign(ANN, 60, "another secret, that the server does not know of"), "invalid_token"],
    ["nonsense", "invalid_token"],
  ];
  for (const [token, code] of cases) {
    const client = open().client({ token });
    const [mine, balances] = [client.subscribe("mine"), client.subscribe("balances")];
    // Not even what is public is shown: who asks with a token does not want what nobody sees.
    await expect(mine.ready).rejects.toMatchObject({ code });
    await expect(balances.ready).rejects.toMatchObject({ code });
    expect([client.status, client.error?.code]).toEqual(["error", code]);
    const connections = proxy.connections;
    await sleep(800);
    expect(proxy.connections).toBe(connections);
    expect(client.subscribe("owners").status).toBe("error");
  }
  // A function is asked again, and told why, but not for ever.
  const reasons: (string | undefined)[] = [];
  const client = open().client({ token: (refused) => (reasons.push(refused), sign(ANN, -10)) });
  await expect(client.subscribe("mine").ready).rejects.toMatchObject({ code: "expired_token" });
  await eventually(() => client.status === "error");
  expect(reasons).toEqual([undefined, "expired_token", "expired_token"]);
});

it("asks again for a token that could not be had", async () => {
  let fails = 2;
  const errors: DeltafrontError[] = [];
  const client = open().client({
    token: async () => {
      if (fails-- > 0) throw new Error("no network");
      return sign(ANN);
    },
    onError: (error) => void errors.push(error),
  });
  await client.subscribe("mine").ready;
  expect(errors.map(({ code }) => code)).toEqual(["token_unavailable", "token_unavailable"]);
});

it("stays away when it was cut off, until it is told to try again", async () => {
  const { proxy, url } = open();
  // One of staff, who sees rows.
  const who = { sub: `cut off ${Date.now()}`, role: "staff", regions: ["eu"] };
  const client = open().client({ token: () => sign(who) });
  const mine = client.subscribe("mine");
  await mine.ready;
  expect(mine.size).toBeGreaterThan(0);
  await sleep(1100);
  const headers = { Authorization: `Bearer ${ADMIN_TOKEN}` };
  const revoked = await fetch(`${url}/v1/sessions/revoke`, { method: "POST", headers, body: JSON.stringify({ subject: who.sub }) });
  expect(revoked.status).toBeLessThan(300);
  await becomes(mine, "error");
  expect(mine.size).toBe(0);
  expect([client.status, client.error?.closeCode, mine.error?.code]).toEqual(["error", 4501, "closed_by_server"]);
  const connections = proxy.connections;
  await sleep(1500);
  expect(proxy.connections).toBe(connections);
  // A token that was issued since.
  client.reconnect();
  await becomes(mine, "live");
});
