//! What `deltafront check` says of projects that are wrong: every mistake, with its place.

use std::collections::BTreeMap;
use std::fs;

use expect_test::{Expect, expect};
use sql::plan::declared_shape;
use sql::{Diagnostics, Project};

/// Checks a project of these files as `deltafront check --offline` does.
fn check(files: &[(&str, &str)], expected: &Expect) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let environment = |name: &str| (name == "DB").then(|| "postgres://h/db".to_owned());
    let mut wrong = Diagnostics::default();
    let project = Project::load(folder.path(), &environment, &mut wrong);
    let mut shapes = BTreeMap::new();
    for name in project.tables.keys() {
        match declared_shape(&project, name) {
            Ok(shape) => drop(shapes.insert(name.clone(), shape)),
            Err(mistakes) => mistakes.into_iter().for_each(|mistake| wrong.push(mistake)),
        }
    }
    let plan = sql::plan(&project, &shapes, &mut wrong);
    let text = if wrong.is_empty() {
        plan.projections
            .iter()
            .filter_map(|projection| Some(plan.program.explain(plan.program.projection_id(&projection.name)?)))
            .collect()
    } else {
        wrong.sorted().to_string() + "\n"
    };
    expected.assert_eq(&text.replace(&folder.path().display().to_string(), "FOLDER"));
}

const TABLES: &str = "CREATE TABLE orders (id BIGINT PRIMARY KEY, customer BIGINT, total NUMERIC(10,2), state TEXT)
  WITH (connector = 'postgres', url = '${DB}');
CREATE TABLE customers (id BIGINT, name TEXT, PRIMARY KEY (id)) WITH (connector = 'postgres', url = '${DB}');
";

/// One statement beside two tables that are right.
fn check_one(statement: &str, expected: &Expect) {
    check(&[("a.sql", TABLES), ("b.sql", statement)], expected);
}

#[test]
fn malformed_sql_hides_no_other_mistake() {
    check_one(
        "CREATE MATERIALIZED VIEW a AS SELECT id FROM;
CREATE MATERIALIZED VIEW b AS SELEC id FROM orders;
CREATE MATERIALIZED VIEW c AS SELECT idd FROM orders;
CREATE MATERIALIZED VIEW d AS SELECT id FROM orders",
        &expect![[r#"
            error: expected identifier
             --> b.sql:1:45
              |
            1 | CREATE MATERIALIZED VIEW a AS SELECT id FROM;
              |                                             ^
              = help: the statement ends too early

            error: expected SELECT, VALUES, or a subquery in the query body, found: SELEC
             --> b.sql:2:31
              |
            2 | CREATE MATERIALIZED VIEW b AS SELEC id FROM orders;
              |                               ^^^^^

            error: there is no column `idd`
             --> b.sql:3:38
              |
            3 | CREATE MATERIALIZED VIEW c AS SELECT idd FROM orders;
              |                                      ^^^
              = help: did you mean `id`?

            3 mistakes
        "#]],
    );
}

#[test]
fn unknown_names() {
    check_one(
        "CREATE MATERIALIZED VIEW a AS SELECT o.totl FROM orders o;
CREATE MATERIALIZED VIEW b AS
  SELECT c.name
  FROM customer c;
CREATE MATERIALIZED VIEW c AS SELECT nosuch(id) FROM orders;
CREATE MATERIALIZED VIEW d AS SELECT x.id FROM orders o;
CREATE MATERIALIZED VIEW e AS SELECT id FROM orders o JOIN customers c ON c.id = o.customer;
CREATE MATERIALIZED VIEW f AS SELECT state, sum(total) FROM orders;
CREATE MATERIALIZED VIEW h AS SELECT date_trunc('fortnight', to_timestamp(id)) AS at FROM orders;
CREATE MATERIALIZED VIEW public.i AS SELECT id FROM orders;
CREATE MATERIALIZED VIEW g AS SELECT id FROM orders WHERE state + 1 > 'x' AND total LIKE 5",
        &expect![[r#"
            error: there is no column `o.totl`
             --> b.sql:1:38
              |
            1 | CREATE MATERIALIZED VIEW a AS SELECT o.totl FROM orders o;
              |                                      ^^^^^^
              = help: did you mean `total`?

            error: there is no table or view `customer`
             --> b.sql:4:8
              |
            4 |   FROM customer c;
              |        ^^^^^^^^
              = help: did you mean `customers`?

            error: invalid function 'nosuch'
             --> b.sql:5:38
              |
            5 | CREATE MATERIALIZED VIEW c AS SELECT nosuch(id) FROM orders;
              |                                      ^^^^^^

            error: there is no column `x.id`
             --> b.sql:6:38
              |
            6 | CREATE MATERIALIZED VIEW d AS SELECT x.id FROM orders o;
              |                                      ^^^^
              = help: did you mean `id`?

            error: column 'id' is ambiguous
             --> b.sql:7:38
              |
            7 | CREATE MATERIALIZED VIEW e AS SELECT id FROM orders o JOIN customers c ON c.id = o.customer;
              |                                      ^^

            error: 'orders.state' must appear in GROUP BY clause because it's not an aggregate expression
             --> b.sql:8:38
              |
            8 | CREATE MATERIALIZED VIEW f AS SELECT state, sum(total) FROM orders;
              |                                      ^^^^^
              = help: either add 'orders.state' to GROUP BY clause, or use an aggregate function like ANY_VALUE(orders.state)

            error: execution error: Unsupported date_trunc granularity: 'fortnight'. Supported values are: microsecond, millisecond, second, minute, hour, day, week, month, quarter, year
             --> b.sql:9:1
              |
            9 | CREATE MATERIALIZED VIEW h AS SELECT date_trunc('fortnight', to_timestamp(id)) AS at FROM orders;
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

            error: `public.i` has a qualifier, and a project has one space of names
              --> b.sql:10:26
               |
            10 | CREATE MATERIALIZED VIEW public.i AS SELECT id FROM orders;
               |                          ^^^^^^
              = help: write the name alone

            error: expressions have incompatible types
              --> b.sql:11:1
               |
            11 | CREATE MATERIALIZED VIEW g AS SELECT id FROM orders WHERE state + 1 > 'x' AND total LIKE 5
               | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

            9 mistakes
        "#]],
    );
}

#[test]
fn names_taken_twice_and_circles() {
    check_one(
        "CREATE VIEW a AS SELECT id FROM b;
CREATE VIEW b AS SELECT id FROM c;
CREATE MATERIALIZED VIEW c AS SELECT id FROM a;
CREATE MATERIALIZED VIEW orders AS SELECT 1 AS x;
CREATE MATERIALIZED VIEW same AS SELECT id FROM orders;
CREATE MATERIALIZED VIEW same AS SELECT id FROM customers;
CREATE MATERIALIZED VIEW d AS SELECT id FROM d;
CREATE MATERIALIZED VIEW two AS SELECT o.id, c.id FROM orders o JOIN customers c ON c.id = o.customer",
        &expect![[r#"
            error: `a` needs itself: a → b → c → a
             --> b.sql:3:46
              |
            3 | CREATE MATERIALIZED VIEW c AS SELECT id FROM a;
              |                                              ^
              = help: take one of them out of the circle

            error: `orders` is defined twice
             --> b.sql:4:26
              |
            4 | CREATE MATERIALIZED VIEW orders AS SELECT 1 AS x;
              |                          ^^^^^^
              = help: the first one is at a.sql:1:1; rename one of them

            error: `same` is defined twice
             --> b.sql:6:26
              |
            6 | CREATE MATERIALIZED VIEW same AS SELECT id FROM customers;
              |                          ^^^^
              = help: the first one is at b.sql:5:1; rename one of them

            error: `d` needs itself: d → d
             --> b.sql:7:46
              |
            7 | CREATE MATERIALIZED VIEW d AS SELECT id FROM d;
              |                                              ^
              = help: take one of them out of the circle

            error: projection `two` has two columns named `id`: rename one with AS
             --> b.sql:8:1
              |
            8 | CREATE MATERIALIZED VIEW two AS SELECT o.id, c.id FROM orders o JOIN customers c ON c.id = o.customer
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

            5 mistakes
        "#]],
    );
}

#[test]
fn options_and_variables() {
    check_one(
        "CREATE TABLE a (id BIGINT PRIMARY KEY) WITH (connector = 'postgres', url = '${NOT_SET}');
CREATE TABLE d (id BIGINT PRIMARY KEY);
CREATE TABLE e WITH (connector = 'postgres', url = '${DB}');
CREATE TABLE f (id BIGINT PRIMARY KEY, id TEXT, x WIDGET) WITH (connector = 'postgres', url = '${DB}');
CREATE MATERIALIZED VIEW g WITH (batch = 'often', key = 'idd', key = 'id') AS SELECT id FROM orders;
CREATE MATERIALIZED VIEW h WITH (descripton = 'x') AS SELECT id FROM orders;
CREATE MATERIALIZED VIEW i WITH (key = 'nr') AS SELECT id FROM orders;
CREATE VIEW j WITH (batch = '1s') AS SELECT id FROM orders",
        &expect![[r#"
            error: the environment variable NOT_SET is not set
             --> b.sql:1:76
              |
            1 | CREATE TABLE a (id BIGINT PRIMARY KEY) WITH (connector = 'postgres', url = '${NOT_SET}');
              |                                                                            ^^^^^^^^^^^^
              = help: export NOT_SET=… before starting, or write ${NOT_SET:-otherwise}

            error: table `d` does not say where its rows come from
             --> b.sql:2:1
              |
            2 | CREATE TABLE d (id BIGINT PRIMARY KEY);
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: add WITH (connector = 'postgres', url = '${DATABASE_URL}', table = 'public.…')

            error: the columns of `e` are not declared, and reading them needs its database
             --> b.sql:3:1
              |
            3 | CREATE TABLE e WITH (connector = 'postgres', url = '${DB}');
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: leave out --offline, or write CREATE TABLE e (id BIGINT PRIMARY KEY, …)

            error: column `id` is declared twice
             --> b.sql:4:40
              |
            4 | CREATE TABLE f (id BIGINT PRIMARY KEY, id TEXT, x WIDGET) WITH (connector = 'postgres', url = '${DB}');
              |                                        ^^

            error: column `x` has the unknown type WIDGET
             --> b.sql:4:49
              |
            4 | CREATE TABLE f (id BIGINT PRIMARY KEY, id TEXT, x WIDGET) WITH (connector = 'postgres', url = '${DB}');
              |                                                 ^
              = help: declare it as TEXT to take the value as Postgres prints it

            error: `often` is not a duration
             --> b.sql:5:42
              |
            5 | CREATE MATERIALIZED VIEW g WITH (batch = 'often', key = 'idd', key = 'id') AS SELECT id FROM orders;
              |                                          ^^^^^^^
              = help: write a duration such as '50ms' or '2s'

            error: option `key` is given twice
             --> b.sql:5:64
              |
            5 | CREATE MATERIALIZED VIEW g WITH (batch = 'often', key = 'idd', key = 'id') AS SELECT id FROM orders;
              |                                                                ^^^
              = help: keep one of them

            error: unknown option `descripton`
             --> b.sql:6:34
              |
            6 | CREATE MATERIALIZED VIEW h WITH (descripton = 'x') AS SELECT id FROM orders;
              |                                  ^^^^^^^^^^
              = help: did you mean `description`?

            error: the key names `nr`, which is no column of the projection
             --> b.sql:7:40
              |
            7 | CREATE MATERIALIZED VIEW i WITH (key = 'nr') AS SELECT id FROM orders;
              |                                        ^^^^
              = help: the projection has id

            error: unknown option `batch`
             --> b.sql:8:21
              |
            8 | CREATE VIEW j WITH (batch = '1s') AS SELECT id FROM orders
              |                     ^^^^^
              = help: a view, which is inlined where it is used, takes none

            10 mistakes
        "#]],
    );
}

/// A name that WITH defines may be read inside its own definition, where it is the view of before.
#[test]
fn a_with_clause_may_take_the_name_of_a_view() {
    check_one(
        "CREATE MATERIALIZED VIEW a AS WITH z AS (SELECT id FROM z WHERE id > 1) SELECT id FROM z;
CREATE VIEW z AS SELECT id FROM customers",
        &expect![[r#"
            filter customers.id > Int64(1)  delta
              table customers               delta
        "#]],
    );
}

#[test]
fn what_can_not_be_kept() {
    check_one(
        "CREATE MATERIALIZED VIEW a AS SELECT id, random() AS r FROM orders;
CREATE MATERIALIZED VIEW b AS SELECT id FROM orders WHERE now() > TIMESTAMP '2026-01-01';
CREATE MATERIALIZED VIEW c AS SELECT id FROM orders WHERE total >= ALL (SELECT total FROM orders);
CREATE POLICY p ON a USING (true);
INSERT INTO orders SELECT 1;
SELECT 1;
DROP TABLE orders",
        &expect![[r#"
            error: random() is different at each call, so the answer is not a function of the tables
             --> b.sql:1:42
              |
            1 | CREATE MATERIALIZED VIEW a AS SELECT id, random() AS r FROM orders;
              |                                          ^^^^^^
              = help: compute it where the rows are written, and keep it in a column

            error: now() changes as time passes, so the answer is not a function of the tables
             --> b.sql:2:59
              |
            2 | CREATE MATERIALIZED VIEW b AS SELECT id FROM orders WHERE now() > TIMESTAMP '2026-01-01';
              |                                                           ^^^
              = help: compute it where the rows are written, and keep it in a column

            error: DataFusion 55 answers comparisons with ALL (SELECT …) wrongly
             --> b.sql:3:1
              |
            3 | CREATE MATERIALIZED VIEW c AS SELECT id FROM orders WHERE total >= ALL (SELECT total FROM orders);
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: write NOT EXISTS (SELECT … WHERE NOT …), or compare with a max or min

            error: policies are not enforced by this version, so CREATE POLICY is refused
             --> b.sql:4:1
              |
            4 | CREATE POLICY p ON a USING (true);
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: keep the server on loopback, or behind a proxy that decides who sees what

            error: this version has no sinks
             --> b.sql:5:1
              |
            5 | INSERT INTO orders SELECT 1;
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: remove the INSERT INTO

            error: a SELECT by itself keeps nothing
             --> b.sql:6:1
              |
            6 | SELECT 1;
              | ^^^^^^^^
              = help: write CREATE MATERIALIZED VIEW name AS SELECT …

            error: a project is made of CREATE TABLE, CREATE VIEW and CREATE MATERIALIZED VIEW
             --> b.sql:7:1
              |
            7 | DROP TABLE orders
              | ^^^^^^^^^^^^^^^^^
              = help: files that belong to something else are left out by `exclude` in deltafront.toml

            7 mistakes
        "#]],
    );
}

#[test]
fn the_folder_and_its_settings() {
    check(
        &[("readme.md", "nothing")],
        &expect![[r#"
        error: FOLDER has no .sql file
          = help: a project is a folder with deltafront.toml and .sql files; see examples/storefront

        1 mistake
    "#]],
    );
    check(
        &[("a.sql", TABLES)],
        &expect![[r#"
        error: the project has no projection
          = help: write CREATE MATERIALIZED VIEW name AS SELECT …

        1 mistake
    "#]],
    );
    check(
        &[("deltafront.toml", "[server]\nlisten = \"here\"\n"), ("a.sql", TABLES)],
        &expect![[r#"
        error: invalid socket address syntax
         --> deltafront.toml:2:10
          |
        2 | listen = "here"
          |          ^^^^^^
          = help: see docs/projects.md for what deltafront.toml may hold

        1 mistake
    "#]],
    );
    check(
        &[("deltafront.toml", "[server]\nport = 80\n"), ("a.sql", TABLES)],
        &expect![[r#"
        error: unknown field `port`, expected one of `listen`, `allowed_origins`, `allowed_hosts`
         --> deltafront.toml:2:1
          |
        2 | port = 80
          | ^^^^
          = help: see docs/projects.md for what deltafront.toml may hold

        1 mistake
    "#]],
    );
    check(
        &[("a.sql", "CREATE MATERIALIZED VIEW x AS SELECT 'never ends FROM t;")],
        &expect![[r#"
            error: unterminated string literal
             --> a.sql:1:38
              |
            1 | CREATE MATERIALIZED VIEW x AS SELECT 'never ends FROM t;
              |                                      ^
              = help: what follows in this file was not read

            1 mistake
        "#]],
    );
}

#[test]
fn explain_shows_what_each_operator_costs() {
    check_one(
        "CREATE VIEW open AS SELECT id, customer, total FROM orders WHERE state = 'open';
CREATE MATERIALIZED VIEW by_customer AS
  SELECT c.id, c.name, count(*) AS orders, sum(o.total) AS total FROM open o JOIN customers c ON c.id = o.customer GROUP BY c.id, c.name;
CREATE MATERIALIZED VIEW largest AS SELECT id, total FROM open ORDER BY total DESC LIMIT 3;
CREATE MATERIALIZED VIEW ranked AS SELECT id, rank() OVER (ORDER BY total) AS r FROM open;
CREATE MATERIALIZED VIEW spread AS SELECT customer, stddev(total) AS s FROM orders GROUP BY customer",
        &expect![[r#"
            group by c.id, c.name: count(Int64(1)), sum(o.total)     delta
              inner join on o.customer = c.id                        delta
                arrange by customer                                  delta
                  filter orders.state = Utf8("open")  (shared by 3)  delta
                    table orders  (shared by 2)                      delta
                arrange by id (its key)                              delta
                  table customers                                    delta
            top by open.total DESC NULLS FIRST limit 3           delta
              filter orders.state = Utf8("open")  (shared by 3)  delta
                table orders  (shared by 2)                      delta
            recompute WindowAggr: windowExpr=[[rank() ORDER BY [open.total ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW]]  whole
              filter orders.state = Utf8("open")  (shared by 3)                                                                                 delta
                table orders  (shared by 2)                                                                                                     delta
            group by orders.customer: stddev(CAST(orders.total AS Float64))  group
              compute CAST(orders.total AS Float64)                          delta
                table orders  (shared by 2)                                  delta
        "#]],
    );
}
