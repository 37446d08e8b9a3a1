// Where nothing is declared, names are any text and rows records; the compiler minds its own business.
import { type AnyRow, type Client, connect } from "@deltafront/client";

const client: Client = connect("ws://localhost");
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const is = <_ extends true>() => {};

const rows = client.subscribe("anything", { columns: ["id"], where: { id: { _in: [1, "2", 3n] } } }).rows;
is<Equal<(typeof rows)[number], AnyRow>>();
const own = client.subscribe<{ id: number }>("anything").rows;
is<Equal<(typeof own)[number], { id: number }>>();
// @ts-expect-error no such option
client.subscribe("anything", { were: {} });
