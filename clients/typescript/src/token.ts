/** What a token says of itself. Nothing of it is checked, since nothing is allowed by it here. */
export interface Claims {
  /** Seconds since 1970. */
  exp?: number;
  sub?: string;
}

/** Reads a token's claims; those of one that can't be read are none. */
export function claimsOf(token: string): Claims {
  try {
    const payload = token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return {
      ...(Number.isFinite(claims.exp) && { exp: claims.exp }),
      ...(typeof claims.sub === "string" && { sub: claims.sub }),
    };
  } catch {
    return {};
  }
}

/**
 * Milliseconds until a new token is to be asked for: a fifth of what is left before the end, and at most a minute.
 * `undefined` of a token without an end, and of one that is over by our clock, which may be wrong: then the server says so.
 */
export function refreshIn(exp: number | undefined, now: number): number | undefined {
  const left = (exp ?? 0) * 1000 - now;
  return left > 0 ? left - Math.min(60_000, left / 5) : undefined;
}
