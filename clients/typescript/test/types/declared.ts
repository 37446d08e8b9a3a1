// What the compiler refuses once projections are declared. `tsc` is the test: a line that compiles though it should not is
// an error of its own.
import { type Client, type Int64, type RowOf } from "@deltafront/client";
import { useProjection } from "@deltafront/client/react";
import { deltafrontCollectionOptions } from "@deltafront/client/tanstack-db";

declare module "@deltafront/client" {
  interface Projections {
    open_orders: {
      row: { id: Int64; status: "open" | "paid"; customer: string; total: string; urgent: boolean; tags: readonly string[]; note: string | null };
      key: "id";
    };
    prices: { row: { shop: number; product: number; price: string }; key: ["shop", "product"] };
    bag: { row: { word: string; n: number }; key: null };
  }
}

declare const client: Client;
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const is = <_ extends true>() => {};

const all = client.subscribe("open_orders");
is<Equal<(typeof all.rows)[number]["total"], string>>();
is<Equal<keyof (typeof all.rows)[number], keyof RowOf<"open_orders">>>();
for (const { id } of all) is<Equal<typeof id, Int64>>();

const some = client.subscribe("open_orders", { columns: ["total"] });
is<Equal<keyof (typeof some.rows)[number], "id" | "total">>();
// @ts-expect-error that was not asked for
some.rows[0]?.customer;
const prices = client.subscribe("prices", { columns: ["price"] });
is<Equal<keyof (typeof prices.rows)[number], "shop" | "product" | "price">>();
const words = client.subscribe("bag", { columns: ["word"] });
is<Equal<keyof (typeof words.rows)[number], "word">>();

// @ts-expect-error no such projection
client.subscribe("opn_orders");
// @ts-expect-error no such column
client.subscribe("open_orders", { columns: ["id", "totl"] });
// @ts-expect-error no such column
client.subscribe("open_orders", { where: { totl: { _gt: "1" } } });
// @ts-expect-error no such column
client.subscribe("open_orders", { order: [{ column: "totl" }], limit: 3 });
// @ts-expect-error no such comparator
client.subscribe("open_orders", { where: { total: { _gtt: "1" } } });
// @ts-expect-error a boolean is no text
client.subscribe("open_orders", { where: { urgent: { _eq: "yes" } } });
// @ts-expect-error no such value
client.subscribe("open_orders", { where: { status: { _in: ["open", "lost"] } } });
// @ts-expect-error nothing compares with null
client.subscribe("open_orders", { where: { note: { _eq: null } } });
// @ts-expect-error lists take _is_null alone
client.subscribe("open_orders", { where: { tags: { _eq: ["a"] } } });
// @ts-expect-error no such option
client.subscribe("open_orders", { were: {} });

client.subscribe("open_orders", {
  where: {
    id: { _gt: 9007199254740993n, _lt: "9007199254740999" },
    status: { _neq: "paid" },
    customer: { _ilike: "a%" },
    tags: { _is_null: false },
    _or: [{ note: { _is_null: true } }, { _not: { urgent: { _eq: true } } }],
  },
  order: [{ column: "total", descending: true }],
  limit: 10,
});

// A row of one's own, for what is not declared.
const own = client.subscribe<{ id: number }>("not_declared", { where: { id: { _eq: 1 } } });
is<Equal<(typeof own.rows)[number], { id: number }>>();
// @ts-expect-error the row says what there is
client.subscribe<{ id: number }>("not_declared", { columns: ["name"] });

export function Component() {
  const { rows, status } = useProjection("open_orders", { columns: ["total"] });
  is<Equal<keyof (typeof rows)[number], "id" | "total">>();
  is<Equal<typeof status, "connecting" | "live" | "stale" | "offline" | "error">>();
  // @ts-expect-error no such column
  useProjection("open_orders", { columns: ["totl"] });
  // @ts-expect-error no such projection
  useProjection("opn_orders");
  return null;
}

const options = deltafrontCollectionOptions({ client, projection: "prices", where: { shop: { _eq: 1 } } });
is<Equal<Parameters<typeof options.getKey>[0], RowOf<"prices">>>();
// @ts-expect-error no such column
deltafrontCollectionOptions({ client, projection: "prices", where: { shp: { _eq: 1 } } });
