/**
 * What can go wrong, by name. Those that the server tells (`forbidden`, `bad_filter`, …) are listed in the protocol's
 * documentation; these are the client's own.
 */
export type LocalCode =
  /** The connection broke, or the server stopped. Is being tried again. */
  | "disconnected"
  /** Nothing was heard for too long. Is being tried again. */
  | "timeout"
  /** The server closed for good: see `closeCode`. */
  | "closed_by_server"
  /** The callback `token` failed. Is being tried again. */
  | "token_unavailable"
  /** The server said what this client does not understand. Is being tried again. */
  | "protocol"
  /** The filter is longer than the server takes. */
  | "too_large"
  /** There is no `WebSocket` here (give one with the options), or it may not connect there. */
  | "no_websocket"
  /** The client or the subscription was closed. */
  | "closed"
  /** A collection of TanStack DB needs a key, and the projection has none. */
  | "no_key";

/** Told by the server, or found out here. The list is open: a newer server may say more. */
export type ErrorCode =
  | LocalCode
  | "bad_json" | "bad_request" | "bad_filter" | "unknown_op" | "unknown_projection" | "forbidden"
  | "invalid_token" | "expired_token" | "early_token" | "revoked_token" | "keys_unavailable"
  | "duplicate_id" | "unknown_id" | "too_many_subscriptions" | "too_heavy" | "busy" | "projection_failed"
  | (string & {});

export class DeltafrontError extends Error {
  override readonly name = "DeltafrontError";
  constructor(
    /** For programs. */
    readonly code: ErrorCode,
    message: string,
    /** With which the WebSocket was closed, if it was. */
    readonly closeCode?: number,
  ) {
    super(message);
  }
}

/** Refusals that are about a token. */
export const isTokenCode = (code: string) => /_token$|^keys_unavailable$/.test(code);

/**
 * Whether a connection that was closed with this code may come back by itself. From 4000 to 4499 the server says "come
 * back", from 4500 on "not before something is put right"; of the standard codes those say the latter that mean that a
 * message of ours was wrong, since it would be so again.
 */
export const comesBack = (code: number) => code < 4500 && ![1002, 1003, 1007, 1009].includes(code);
