import { createHmac } from "node:crypto";

const SECRET = "a secret that only the tests know, of 32 bytes and more";
export const ADMIN_TOKEN = "an admin's token of the tests";

const base64url = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A token that the tests' server takes, for so many seconds. */
export function sign(claims: object, seconds = 3600, secret = SECRET): string {
  // Not `Date.now`, by which a test may say that a page's clock is wrong.
  const now = Math.floor((performance.timeOrigin + performance.now()) / 1000);
  const signed = `${base64url({ alg: "HS256", typ: "JWT" })}.${base64url({ iat: now, exp: now + seconds, ...claims })}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}
