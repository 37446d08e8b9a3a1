/**
 * Live rows in React.
 *
 * ```tsx
 * const { rows, status, error } = useProjection("open_orders", { where: { region: { _eq: "eu" } } });
 * ```
 */
import { createContext, createElement, type ReactNode, useContext, useMemo, useSyncExternalStore } from "react";
import type { DeltafrontError } from "./error.js";
import type { Client, ColumnOf, Picked, ProjectionName, RowOf, Status, SubscribeOptions } from "./types.js";
import { type AnyRow, canonical } from "./values.js";

const Context = createContext<Client | undefined>(undefined);

/** Gives its client to all within. It neither makes nor closes it. */
export function DeltafrontProvider({ client, children }: { client: Client; children?: ReactNode }) {
  return createElement(Context.Provider, { value: client }, children);
}

/** The client of the nearest provider. */
export function useClient(): Client {
  const client = useContext(Context);
  if (!client) throw new Error("useProjection needs a <DeltafrontProvider client={…}> around it");
  return client;
}

export interface ProjectionState<Row> {
  /** The same array as long as nothing has changed. */
  readonly rows: readonly Row[];
  readonly status: Status;
  readonly error: DeltafrontError | undefined;
}

/** What is shown where there is no subscription: on a server, and before the first effect. */
const EMPTY: ProjectionState<AnyRow> =
  Object.freeze({ rows: Object.freeze([]), status: "connecting", error: undefined });

/**
 * The rows of a projection, as long as the component is there. Options are compared by what they say, so that they
 * may be written where they are used.
 */
export function useProjection<Name extends ProjectionName, Columns extends ColumnOf<RowOf<Name>>>(
  projection: Name,
  options?: SubscribeOptions<RowOf<Name>, Columns>,
): ProjectionState<Picked<Name, Columns>>;
export function useProjection<Row extends object = never>(
  projection: [Row] extends [never] ? never : string,
  options?: SubscribeOptions<NoInfer<Row>>,
): ProjectionState<Row>;
export function useProjection(projection: string, options: SubscribeOptions = {}): ProjectionState<AnyRow> {
  const client = useClient();
  const asked = canonical(options);
  // eslint-disable-next-line react-hooks/exhaustive-deps
  const store = useMemo(() => storeOf(client, projection, options), [client, projection, asked]);
  return useSyncExternalStore(store.subscribe, store.snapshot, () => EMPTY);
}

/** A subscription in the form that React wants. Nothing is subscribed to before React says so. */
function storeOf(client: Client, projection: string, options: SubscribeOptions) {
  // What another component has subscribed to is there at once, before the first effect.
  const { peek } = client as unknown as { peek(projection: string, options: SubscribeOptions): Peeked | undefined };
  let last = EMPTY;
  const snapshot = () => {
    const held = peek.call(client, projection, options);
    if (!held) return last;
    const { status, error, collection: { rows } } = held;
    if (rows !== last.rows || status !== last.status || error !== last.error) last = { rows, status, error };
    return last;
  };
  const subscribe = (changed: () => void) => {
    const held = client.subscribe<AnyRow>(projection, options);
    const ends = [held.onChange(changed), held.onStatus(changed)];
    return () => {
      ends.forEach((end) => end());
      held.close();
    };
  };
  return { snapshot, subscribe };
}

interface Peeked {
  readonly status: Status;
  readonly error: DeltafrontError | undefined;
  readonly collection: { readonly rows: readonly AnyRow[] };
}
