/** What a token says of itself. Nothing of it is checked, since nothing is allowed by it here. */
export interface Claims {
  /** Seconds since 1970. */
  readonly exp?: unknown;
  readonly sub?: unknown;
}

/** Reads a token's claims, a byte a character; those of one that can't be read are none. */
export function claimsOf(token: string): Claims {
  try {
    return JSON.parse(atob(token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/"))) ?? {};
  } catch {
    return {};
  }
}

/**
 * Milliseconds until a new token is to be asked for: a fifth of what is left before the end, and at most a minute.
 * `undefined` of a token without an end, and of one that is over by our clock, which may be wrong: then the server
 * says so.
 */
export function refreshIn(exp: unknown, now: number): number | undefined {
  const left = Number(exp) * 1000 - now;
  return left > 0 ? left - Math.min(60_000, left / 5) : undefined;
}
