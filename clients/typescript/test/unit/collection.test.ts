import { describe, expect, it } from "vitest";
import { Collection, type Shape } from "../../src/collection.js";

const SHAPE: Shape = {
  columns: [{ name: "id", type: "bigint" }, { name: "name", type: "text" }],
  key: ["id"],
  order: [{ column: "name", descending: true }],
};
const of = (shape: Partial<Shape> = {}, rows: [any, any][] = [[1, "ann"], [2, "bob"], [3, "eve"]]) => {
  const collection = new Collection();
  collection.replace({ ...SHAPE, ...shape }, [{ rows }]);
  collection.take();
  return collection;
};
const names = (collection: Collection) => collection.rows.map(({ name }) => name).join(" ");

describe("rows with a key", () => {
  it("are in order, and the same array as long as nothing has changed", () => {
    const collection = of();
    const { rows } = collection;
    expect(names(collection)).toBe("eve bob ann");
    expect(collection.rows).toBe(rows);
    collection.apply({ upsert: [[2, "bob"]], delete: [[77]] });
    expect(collection.take()).toEqual({ upserts: [], deletes: [] });
    expect(collection.rows).toBe(rows);
    collection.apply({ upsert: [[2, "zoe"], [4, "joe"]], delete: [[1]] });
    expect(names(collection)).toBe("zoe joe eve");
    expect(collection.rows[2]).toBe(rows[0]);
    expect(rows.length).toBe(3);
    expect(collection.size).toBe(3);
  });

  it("are told as the net of what happened", () => {
    const collection = of();
    collection.apply({ upsert: [[1, "amy"], [9, "max"]] });
    collection.apply({ upsert: [[1, "ann"], [2, "ben"]], delete: [[9], [3]] });
    collection.apply({ upsert: [[2, "bea"]] });
    expect(collection.take()).toEqual({ upserts: [{ id: 2, name: "bea" }], deletes: [{ id: 3, name: "eve" }] });
    expect(collection.take()).toEqual({ upserts: [], deletes: [] });
  });

  it("stay what they are when all are replaced", () => {
    const collection = of();
    const { rows } = collection;
    const [eve, bob] = rows;
    collection.replace(SHAPE, [{ rows: [[3, "eve"]] }, { rows: [[2, "bea"]], upsert: [[2, "bob"]], delete: [[8]] }]);
    expect(collection.take()).toEqual({ upserts: [], deletes: [{ id: 1, name: "ann" }] });
    expect(collection.rows[0]).toBe(eve);
    expect(collection.rows[1]).toBe(bob);
    collection.replace({ ...SHAPE }, [{ rows: [[2, "bob"], [3, "eve"]] }]);
    expect(collection.rows[0]).toBe(eve);
    // Of another shape all is new, also what has the same values.
    collection.replace({ ...SHAPE, order: [] }, [{ rows: [[3, "eve"], [2, "bob"]] }]);
    expect(collection.take().upserts.length).toBe(2);
    expect(names(collection)).toBe("bob eve");
  });

  it("are found by their keys", () => {
    const collection = of({}, [["9007199254740993", "big"], [5, "five"]]);
    expect([collection.get(5)?.name, collection.get(5n)?.name, collection.get(9007199254740993n)?.name]).toEqual(["five", "five", "big"]);
    expect([collection.get("5"), collection.get(null), collection.get(undefined)]).toEqual([undefined, undefined, undefined]);
    const two = of({ key: ["id", "name"] });
    expect([two.get([2, "bob"])?.id, two.get({ name: "bob", id: 2 })?.id, two.get(2)]).toEqual([2, 2, undefined]);
    expect(new Collection().get(1)).toBeUndefined();
  });

  it("may have columns of any name", () => {
    const shape = { columns: [{ name: "__proto__", type: "text" }, { name: "constructor", type: "text" }], key: ["__proto__"], order: [] };
    const collection = new Collection();
    collection.replace(shape, [{ rows: [["a", "b"]] }]);
    expect(Object.entries(collection.rows[0]!)).toEqual([["__proto__", "a"], ["constructor", "b"]]);
    expect(collection.rows[0] instanceof Object).toBe(true);
  });

  it("are as many as were told", () => expect(() => of().apply({ upsert: [[1, "ann", 7] as never] })).toThrow(TypeError));
});

describe("rows without a key", () => {
  it("stand there as often as they are", () => {
    const collection = of({ key: null, order: [] }, [[1, "x"], [1, "x"], [2, "y"]]);
    expect([collection.size, names(collection)]).toEqual([3, "x x y"]);
    expect(collection.rows[0]).toBe(collection.rows[1]);
    collection.apply({ count: [[2, [2, "y"]], [-2, [1, "x"]], [1, [3, "z"]]] });
    expect(names(collection)).toBe("y y y z");
    expect(collection.take()).toEqual({
      upserts: [{ id: 2, name: "y" }, { id: 2, name: "y" }, { id: 3, name: "z" }],
      deletes: [{ id: 1, name: "x" }, { id: 1, name: "x" }],
    });
    const { rows } = collection;
    collection.apply({ count: [[1, [3, "z"]]] });
    collection.apply({ count: [[-1, [3, "z"]]] });
    expect(collection.take()).toEqual({ upserts: [], deletes: [] });
    expect(collection.rows).toBe(rows);
    expect(collection.get([3, "z"])?.name).toBe("z");
    expect(collection.dump()).toEqual([[2, "y"], [2, "y"], [2, "y"], [3, "z"]]);
  });
});

it("takes less for a small change than for sorting all", () => {
  const rows = Array.from({ length: 100_000 }, (_, i): [number, string] => [i, `name ${(i * 7919) % 100_000}`]);
  const collection = of({}, rows);
  const time = (work: () => void) => {
    const started = performance.now();
    work();
    return performance.now() - started;
  };
  const all = time(() => void collection.rows);
  const changes = time(() => {
    for (let i = 0; i < 20; i++) {
      collection.apply({ upsert: [[i, "changed"]] });
      expect(collection.rows.length).toBe(100_000);
    }
  });
  expect(changes / 20).toBeLessThan(all / 5);
});
