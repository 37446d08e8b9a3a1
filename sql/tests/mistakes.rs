//! What `deltafront check` says of projects that are wrong: every mistake, with its place.

use std::collections::BTreeMap;
use std::fs;

use expect_test::{Expect, expect};
use serde_json::json;
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

/// They were taken, and nobody kept them: a NULL came all the same, and a text of any length.
#[test]
fn what_no_source_keeps_is_not_promised() {
    check_one(
        "CREATE TABLE t (id BIGINT NOT NULL, part INT NOT NULL, a TEXT NOT NULL, b INT DEFAULT 7, c INT NULL CHECK (c > 0),
  d TEXT UNIQUE, e VARCHAR(10), f CHAR(2)[], g VARCHAR, h INT GENERATED ALWAYS AS (b * 2) STORED, i INT REFERENCES x,
  PRIMARY KEY (id, part)) WITH (connector = 'kafka');
CREATE TABLE u (id BIGINT PRIMARY KEY NOT NULL, a VARCHAR(10) NOT NULL DEFAULT '') WITH (connector = 'postgres', url = '${DB}');",
        &expect![[r#"
            error: column `a` is declared NOT NULL, and rows of connector = 'kafka' come as they are
             --> b.sql:1:56
              |
            1 | CREATE TABLE t (id BIGINT NOT NULL, part INT NOT NULL, a TEXT NOT NULL, b INT DEFAULT 7, c INT NULL CHECK (c > 0),
              |                                                        ^
              = help: leave NOT NULL out, and filter in queries: WHERE a IS NOT NULL

            error: column `b` is declared with a DEFAULT, and rows of connector = 'kafka' come as they are
             --> b.sql:1:73
              |
            1 | CREATE TABLE t (id BIGINT NOT NULL, part INT NOT NULL, a TEXT NOT NULL, b INT DEFAULT 7, c INT NULL CHECK (c > 0),
              |                                                                         ^
              = help: leave DEFAULT out, and write coalesce(b, 7) in queries

            error: column `c` is declared with a CHECK, and rows of connector = 'kafka' come as they are
             --> b.sql:1:90
              |
            1 | CREATE TABLE t (id BIGINT NOT NULL, part INT NOT NULL, a TEXT NOT NULL, b INT DEFAULT 7, c INT NULL CHECK (c > 0),
              |                                                                                          ^
              = help: leave CHECK out, and filter in queries

            error: column `d` is declared UNIQUE, and rows of connector = 'kafka' come as they are
             --> b.sql:2:3
              |
            2 |   d TEXT UNIQUE, e VARCHAR(10), f CHAR(2)[], g VARCHAR, h INT GENERATED ALWAYS AS (b * 2) STORED, i INT REFERENCES x,
              |   ^
              = help: leave UNIQUE out: rows are told apart by the PRIMARY KEY alone

            error: column `e` is declared VARCHAR(10), and rows of connector = 'kafka' come as they are
             --> b.sql:2:18
              |
            2 |   d TEXT UNIQUE, e VARCHAR(10), f CHAR(2)[], g VARCHAR, h INT GENERATED ALWAYS AS (b * 2) STORED, i INT REFERENCES x,
              |                  ^
              = help: write TEXT, which has any length

            error: column `f` is declared CHAR(2), and rows of connector = 'kafka' come as they are
             --> b.sql:2:33
              |
            2 |   d TEXT UNIQUE, e VARCHAR(10), f CHAR(2)[], g VARCHAR, h INT GENERATED ALWAYS AS (b * 2) STORED, i INT REFERENCES x,
              |                                 ^
              = help: write TEXT, which has any length

            error: column `h` is declared GENERATED, and rows of connector = 'kafka' come as they are
             --> b.sql:2:57
              |
            2 |   d TEXT UNIQUE, e VARCHAR(10), f CHAR(2)[], g VARCHAR, h INT GENERATED ALWAYS AS (b * 2) STORED, i INT REFERENCES x,
              |                                                         ^
              = help: leave it out, and compute it in a view

            error: column `i` is declared with REFERENCES, and rows of connector = 'kafka' come as they are
             --> b.sql:2:99
              |
            2 |   d TEXT UNIQUE, e VARCHAR(10), f CHAR(2)[], g VARCHAR, h INT GENERATED ALWAYS AS (b * 2) STORED, i INT REFERENCES x,
              |                                                                                                   ^
              = help: leave REFERENCES out

            8 mistakes
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

            error: a SELECT by itself keeps nothing
             --> b.sql:5:1
              |
            5 | SELECT 1;
              | ^^^^^^^^
              = help: write CREATE MATERIALIZED VIEW name AS SELECT …

            error: a project is made of CREATE TABLE, VIEW, MATERIALIZED VIEW and POLICY, and GRANT SELECT
             --> b.sql:6:1
              |
            6 | DROP TABLE orders
              | ^^^^^^^^^^^^^^^^^
              = help: files that belong to something else are left out by `exclude` in deltafront.toml

            5 mistakes
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
    // A folder of projects is none, and a project in a project is another one.
    check(
        &[("shops/one/deltafront.toml", ""), ("shops/one/a.sql", TABLES), ("two/deltafront.toml", "")],
        &expect![[r#"
            error: FOLDER has no .sql file
              = help: give the folder of a project: FOLDER/shops/one, FOLDER/two

            1 mistake
        "#]],
    );
    check(
        &[("a.sql", TABLES), ("other/deltafront.toml", ""), ("other/a.sql", "CREATE TABEL")],
        &expect![[r#"
        error: the project has no projection
          = help: write CREATE MATERIALIZED VIEW name AS SELECT …

        1 mistake
    "#]],
    );
    let uses = "CREATE TABLE a WITH (connector = 'postgres', url = '${NONE}'); CREATE TABLE b WITH (connector = 'postgres', url = '${NONE}');";
    check(
        &[("a.sql", uses)],
        &expect![[r#"
        error: the columns of `a` are not declared, and reading them needs its database
         --> a.sql:1:1
          |
        1 | CREATE TABLE a WITH (connector = 'postgres', url = '${NONE}'); CREATE TABLE b WITH (connector = 'postgres', url = '${NONE}');
          | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          = help: leave out --offline, or write CREATE TABLE a (id BIGINT PRIMARY KEY, …)

        error: the environment variable NONE is not set; it is used once more
         --> a.sql:1:52
          |
        1 | CREATE TABLE a WITH (connector = 'postgres', url = '${NONE}'); CREATE TABLE b WITH (connector = 'postgres', url = '${NONE}');
          |                                                    ^^^^^^^^^
          = help: export NONE=… before starting, or write ${NONE:-otherwise}

        error: the columns of `b` are not declared, and reading them needs its database
         --> a.sql:1:64
          |
        1 | CREATE TABLE a WITH (connector = 'postgres', url = '${NONE}'); CREATE TABLE b WITH (connector = 'postgres', url = '${NONE}');
          |                                                                ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          = help: leave out --offline, or write CREATE TABLE b (id BIGINT PRIMARY KEY, …)

        3 mistakes
    "#]],
    );
    check(
        &[("deltafront.toml", "[server]\nlisten = \"here\"\n"), ("a.sql", TABLES)],
        &expect![[r#"
            error: write an address of this machine and a port: "localhost:8080", "0.0.0.0:8080" for all of them, or "[::1]:8080"; other names are not looked up
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
        &[("deltafront.toml", "[auth]\nrole_claim = \"app..role\"\n"), ("a.sql", TABLES)],
        &expect![[r#"
            error: [auth] in deltafront.toml has no keys to check tokens with
              = help: give one of secret, secret_file, key_file and jwks_url

            error: a claim is named such as `sub` or `app_metadata.org`
             --> deltafront.toml:2:14
              |
            2 | role_claim = "app..role"
              |              ^^^^^^^^^^^
              = help: write role_claim = "role", or of a claim within another "realm_access.roles"

            2 mistakes
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

/// What is said of who sees what: of each projection, then of what is probably not meant.
fn check_access(files: &[(&str, &str)], expected: &Expect) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("a file");
    }
    let mut wrong = Diagnostics::default();
    let project = Project::load(folder.path(), &|_| Some("postgres://h/db".to_owned()), &mut wrong);
    let shapes = project.tables.keys().map(|name| (name.clone(), declared_shape(&project, name).expect("a shape")));
    let plan = sql::plan(&project, &shapes.collect(), &mut wrong);
    assert!(wrong.is_empty(), "{wrong}");
    let access = plan.projections.iter().map(|it| format!("{}\n{}\n", it.name, it.access.explain(&it.schema)));
    let warnings = plan.warnings.0.iter().map(ToString::to_string);
    expected.assert_eq(&access.chain(warnings).collect::<String>());
}

#[test]
fn policies_and_grants() {
    check_access(
        &[
            ("a.sql", TABLES),
            (
                "b.sql",
                "CREATE MATERIALIZED VIEW everyone WITH (public = 'true', hide = 'total') AS SELECT id, state, total FROM orders;
CREATE MATERIALIZED VIEW nobody AS SELECT id FROM orders;
CREATE MATERIALIZED VIEW narrowed WITH (public = 'false') AS SELECT id, state FROM orders;
CREATE POLICY open ON narrowed AS RESTRICTIVE USING (state = 'open');
CREATE MATERIALIZED VIEW mine AS SELECT id, customer, total, state FROM orders;
CREATE POLICY own ON mine FOR SELECT TO authenticated, \"Partner\" USING (customer = claim('sub'));
CREATE POLICY staff ON mine AS PERMISSIVE TO PUBLIC USING ('staff' = ANY (claim('app.roles')) AND mine.state <> 'draft');
CREATE POLICY small ON mine AS RESTRICTIVE TO authenticated
  USING (total BETWEEN -1 AND claim('limit')::numeric OR NOT (state IN ('a', claim('states')) OR state ILIKE '%x'));
GRANT SELECT (id, state) ON mine, everyone TO PUBLIC;
GRANT SELECT ON mine TO authenticated, staff",
            ),
        ],
        &expect![[r#"
            everyone
            rows: all, for everyone
            columns id, state, for everyone
            columns hidden: total

            mine
            rows where customer = claim('sub'), for Partner, authenticated (policy own)
            rows where 'staff' = ANY(claim('app.roles')) AND mine.state <> 'draft', for everyone (policy staff)
            only where total BETWEEN -1 AND claim('limit')::NUMERIC OR NOT (state IN ('a', claim('states')) OR state ILIKE '%x'), for authenticated (policy small)
            columns id, state, for everyone
            columns: all, for authenticated, staff

            narrowed
            rows: none, for no policy allows any
            only where state = 'open', for everyone (policy open)

            nobody
            rows: none, for no policy allows any

            warning: `nobody` has no policy, so nobody sees a row of it
             --> b.sql:2:1
              |
            2 | CREATE MATERIALIZED VIEW nobody AS SELECT id FROM orders;
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: add a CREATE POLICY, or WITH (public = 'true') where everyone may see every row
            warning: `narrowed` has only restrictive policies, so nobody sees a row of it
             --> b.sql:3:1
              |
            3 | CREATE MATERIALIZED VIEW narrowed WITH (public = 'false') AS SELECT id, state FROM orders;
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: add a CREATE POLICY, or WITH (public = 'true') where everyone may see every row
        "#]],
    );
}

/// The example of docs/projects.md, with its tokens.
#[test]
fn what_tokens_see() {
    let folder = tempfile::tempdir().expect("a folder");
    let sql = "CREATE TABLE orders (id BIGINT PRIMARY KEY, owner TEXT, region TEXT, status TEXT, total NUMERIC(10,2))
  WITH (connector = 'postgres', url = '${DB}');
CREATE MATERIALIZED VIEW my_orders WITH (hide = 'owner') AS
  SELECT id, owner, region, status, total FROM orders;
CREATE POLICY own   ON my_orders USING (owner = claim('sub'));
CREATE POLICY staff ON my_orders TO staff USING (region = ANY (claim('app_metadata.regions')));
CREATE POLICY sane  ON my_orders AS RESTRICTIVE USING (status <> 'draft');
GRANT SELECT (id, status) ON my_orders TO staff;
GRANT SELECT ON my_orders TO authenticated";
    fs::write(folder.path().join("a.sql"), sql).expect("a file");
    let mut wrong = Diagnostics::default();
    let project = Project::load(folder.path(), &|_| Some("postgres://h/db".to_owned()), &mut wrong);
    let shapes = BTreeMap::from([("orders".to_owned(), declared_shape(&project, "orders").expect("a shape"))]);
    let plan = sql::plan(&project, &shapes, &mut wrong);
    assert!(wrong.is_empty() && plan.warnings.is_empty(), "{wrong}");
    let my_orders = &plan.projections[0];
    let not_draft = json!({"status": {"_neq": "draft"}});
    let own = |sub: &str| json!({"owner": {"_eq": sub}});
    for (claims, shown, columns) in [
        (Some(json!({"sub": "ann"})), json!({"_and": [own("ann"), not_draft]}), vec![0, 2, 3, 4]),
        (
            Some(json!({"sub": "bob", "role": "staff", "app_metadata": {"regions": ["eu", "us"]}})),
            json!({"_and": [{"_or": [own("bob"), {"region": {"_in": ["eu", "us"]}}]}, not_draft]}),
            vec![0, 3],
        ),
        (Some(json!({"sub": "eve", "role": "staff"})), json!({"_and": [own("eve"), not_draft]}), vec![0, 3]),
        (None, json!({"_or": []}), vec![]),
    ] {
        let claims = claims.as_ref().and_then(|claims| claims.as_object());
        let role_claim = filter::ClaimPath::parse("role").expect("a path");
        let roles = filter::access::roles(claims, &role_claim);
        let rows = my_orders.access.rows(&roles, claims.unwrap_or(&serde_json::Map::new()), &my_orders.schema);
        let expected = filter::Predicate::parse(&shown, &my_orders.schema, &|_| true).expect("a filter");
        assert_eq!(rows, expected, "{claims:?}");
        let seen: Vec<usize> = my_orders.access.columns(&roles, &my_orders.schema).into_iter().collect();
        assert_eq!(seen, columns, "{claims:?}");
    }
}

/// Each kind of condition that there is.
#[test]
fn conditions_of_policies() {
    let conditions = [
        "true",
        "id = 7 AND -7 <> id AND total >= 1.50 AND state < 'b' AND id <= '7' AND 7 > id",
        "(NOT flag) OR flag OR flag = false OR p.flag",
        "state IS NULL OR state IS NOT NULL OR claim('x') IS NULL",
        "state IN ('a', 'b') AND id NOT IN (1, 2) AND state IN (claim('groups'))",
        "id = ANY (claim('ids')) AND id <> ALL (claim('ids')) AND claim('role') = 'admin'",
        "id BETWEEN 1 AND 2 AND id NOT BETWEEN claim('a') AND claim('b')",
        "state LIKE 'a%' AND state NOT LIKE 'b_' AND state ILIKE claim('x') AND state NOT ILIKE '\\%'",
        "(state IS DISTINCT FROM 'a') AND 7 IS NOT DISTINCT FROM id",
        "at > TIMESTAMP '2026-01-01 00:00:00' AND at > '2026-01-01' AND CAST('2026-01-01' AS TIMESTAMP) < at",
        "id = claim('https://x.example/id')::bigint AND claim('admin')::boolean AND claim('level')::int > 3",
        "id = claim('a.b') AND claim('a') = claim('b')",
        "state = claim('x')::text AND state = claim('y')::uuid",
    ];
    let policies = conditions.iter().enumerate().map(|(i, it)| format!("CREATE POLICY p{i} ON p USING ({it});\n"));
    let policies: String = policies.collect();
    let table = "CREATE TABLE t (id BIGINT PRIMARY KEY, total NUMERIC(10,2), state TEXT, flag BOOLEAN, at TIMESTAMP)
        WITH (connector = 'postgres', url = '${DB}');
        CREATE MATERIALIZED VIEW p AS SELECT * FROM t;";
    check_access(
        &[("a.sql", table), ("b.sql", &policies)],
        &expect![[r#"
        p
        rows where true, for everyone (policy p0)
        rows where id = 7 AND -7 <> id AND total >= 1.50 AND state < 'b' AND id <= '7' AND 7 > id, for everyone (policy p1)
        rows where (NOT flag) OR flag OR flag = false OR p.flag, for everyone (policy p2)
        rows where state IS NULL OR state IS NOT NULL OR claim('x') IS NULL, for everyone (policy p3)
        rows where state IN ('a', 'b') AND id NOT IN (1, 2) AND state IN (claim('groups')), for everyone (policy p4)
        rows where id = ANY(claim('ids')) AND id <> ALL(claim('ids')) AND claim('role') = 'admin', for everyone (policy p5)
        rows where id BETWEEN 1 AND 2 AND id NOT BETWEEN claim('a') AND claim('b'), for everyone (policy p6)
        rows where state LIKE 'a%' AND state NOT LIKE 'b_' AND state ILIKE claim('x') AND state NOT ILIKE '\%', for everyone (policy p7)
        rows where (state IS DISTINCT FROM 'a') AND 7 IS NOT DISTINCT FROM id, for everyone (policy p8)
        rows where at > TIMESTAMP '2026-01-01 00:00:00' AND at > '2026-01-01' AND CAST('2026-01-01' AS TIMESTAMP) < at, for everyone (policy p9)
        rows where id = claim('https://x.example/id')::BIGINT AND claim('admin')::BOOLEAN AND claim('level')::INT > 3, for everyone (policy p10)
        rows where id = claim('a.b') AND claim('a') = claim('b'), for everyone (policy p11)
        rows where state = claim('x')::TEXT AND state = claim('y')::UUID, for everyone (policy p12)

    "#]],
    );
}

#[test]
fn who_sees_what_is_checked() {
    check_one(
        "CREATE MATERIALIZED VIEW p WITH (hide = 'totl, id') AS SELECT id, state, total FROM orders;
CREATE MATERIALIZED VIEW q WITH (public = 'yes') AS SELECT id FROM orders;
CREATE MATERIALIZED VIEW r WITH (public = 'true', hide = 'state') AS SELECT DISTINCT state, count(*) OVER () AS n FROM orders;
CREATE POLICY none ON r USING (true);
CREATE MATERIALIZED VIEW s WITH (hide = 'total') AS SELECT id, state, total FROM orders;
CREATE POLICY a ON s USING (true);
CREATE POLICY a ON s USING (true);
CREATE POLICY b ON orders USING (true);
CREATE POLICY c ON qq USING (true);
CREATE POLICY d ON s FOR INSERT WITH CHECK (true);
CREATE POLICY e ON s WITH CHECK (true);
CREATE POLICY f ON s;
CREATE POLICY g ON s TO CURRENT_USER USING (true);
GRANT SELECT (state) ON s TO staff;
GRANT SELECT (id, total) ON s TO staff;
GRANT SELECT (id, stat) ON s TO staff;
GRANT SELECT, INSERT ON s TO staff;
GRANT ALL ON s TO staff;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO staff;
GRANT SELECT ON customers TO staff;
GRANT SELECT ON s TO staff WITH GRANT OPTION",
        &expect![[r#"
            error: `p` has no column `totl`
             --> b.sql:1:41
              |
            1 | CREATE MATERIALIZED VIEW p WITH (hide = 'totl, id') AS SELECT id, state, total FROM orders;
              |                                         ^^^^^^^^^^
              = help: did you mean `total`?

            error: `id` can't be hidden, since it is of the key
             --> b.sql:1:41
              |
            1 | CREATE MATERIALIZED VIEW p WITH (hide = 'totl, id') AS SELECT id, state, total FROM orders;
              |                                         ^^^^^^^^^^
              = help: clients tell rows apart by the key, so they need it; with WITH (key = '…') it can be another

            error: `yes` is neither true nor false
             --> b.sql:2:43
              |
            2 | CREATE MATERIALIZED VIEW q WITH (public = 'yes') AS SELECT id FROM orders;
              |                                           ^^^^^
              = help: write public = 'true' where everyone may see every row

            error: `r` is public, and policy `none` would decide nothing
             --> b.sql:3:43
              |
            3 | CREATE MATERIALIZED VIEW r WITH (public = 'true', hide = 'state') AS SELECT DISTINCT state, count(*) OVER () AS n FROM orders;
              |                                           ^^^^^^
              = help: remove one of them

            error: `state` can't be hidden, since it is of the key
             --> b.sql:3:58
              |
            3 | CREATE MATERIALIZED VIEW r WITH (public = 'true', hide = 'state') AS SELECT DISTINCT state, count(*) OVER () AS n FROM orders;
              |                                                          ^^^^^^^
              = help: clients tell rows apart by the key, so they need it; with WITH (key = '…') it can be another

            error: `s` has two policies named `a`
             --> b.sql:7:1
              |
            7 | CREATE POLICY a ON s USING (true);
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: rename one of them

            error: `orders` is a table, which no client reads
             --> b.sql:8:20
              |
            8 | CREATE POLICY b ON orders USING (true);
              |                    ^^^^^^
              = help: the project has p, q, r, s

            error: `qq` is no projection
             --> b.sql:9:20
              |
            9 | CREATE POLICY c ON qq USING (true);
              |                    ^^
              = help: did you mean `q`?

            error: clients of a projection only read, so its policies are FOR SELECT
              --> b.sql:10:1
               |
            10 | CREATE POLICY d ON s FOR INSERT WITH CHECK (true);
               | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: write CREATE POLICY name ON projection [AS RESTRICTIVE] [FOR SELECT] [TO role, …] USING (condition)

            error: clients of a projection only read, so its policies have no WITH CHECK
              --> b.sql:11:1
               |
            11 | CREATE POLICY e ON s WITH CHECK (true);
               | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: write CREATE POLICY name ON projection [AS RESTRICTIVE] [FOR SELECT] [TO role, …] USING (condition)

            error: the policy does not say which rows it is for
              --> b.sql:12:1
               |
            12 | CREATE POLICY f ON s;
               | ^^^^^^^^^^^^^^^^^^^^
              = help: write CREATE POLICY name ON projection [AS RESTRICTIVE] [FOR SELECT] [TO role, …] USING (condition)

            error: CURRENT_USER is nobody here
              --> b.sql:13:1
               |
            13 | CREATE POLICY g ON s TO CURRENT_USER USING (true);
               | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: roles are those that tokens name; PUBLIC is everyone

            error: the grant leaves out `id`, which is of the key
              --> b.sql:14:25
               |
            14 | GRANT SELECT (state) ON s TO staff;
               |                         ^
              = help: clients tell rows apart by the key, so they need it; with WITH (key = '…') it can be another

            error: `total` is hidden from everyone, so it can't be granted
              --> b.sql:15:19
               |
            15 | GRANT SELECT (id, total) ON s TO staff;
               |                   ^^^^^
              = help: leave it out here, or in WITH (hide = '…')

            error: `s` has no column `stat`
              --> b.sql:16:19
               |
            16 | GRANT SELECT (id, stat) ON s TO staff;
               |                   ^^^^
              = help: did you mean `state`?

            error: clients of a projection only read: grant SELECT, and nothing else
              --> b.sql:17:1
               |
            17 | GRANT SELECT, INSERT ON s TO staff;
               | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: write GRANT SELECT [(column, …)] ON projection TO role, …

            error: clients of a projection only read: grant SELECT
              --> b.sql:18:1
               |
            18 | GRANT ALL ON s TO staff;
               | ^^^^^^^^^^^^^^^^^^^^^^^
              = help: write GRANT SELECT [(column, …)] ON projection TO role, …

            error: a grant is ON projections, each by its name
              --> b.sql:19:1
               |
            19 | GRANT SELECT ON ALL TABLES IN SCHEMA public TO staff;
               | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: write GRANT SELECT [(column, …)] ON projection TO role, …

            error: `customers` is a table, which no client reads
              --> b.sql:20:17
               |
            20 | GRANT SELECT ON customers TO staff;
               |                 ^^^^^^^^^
              = help: the project has p, q, r, s

            error: a grant is passed on by nobody here
              --> b.sql:21:1
               |
            21 | GRANT SELECT ON s TO staff WITH GRANT OPTION
               | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: write GRANT SELECT [(column, …)] ON projection TO role, …

            20 mistakes
        "#]],
    );
}

#[test]
fn conditions_are_checked() {
    let conditions = [
        "owner = claim('sub')",
        "id = 'seven'",
        "id = claim('sub')::text",
        "id + 1 = 2",
        "lower(state) = 'open'",
        "state = claim(sub)",
        "state = claim('a..b')",
        "state = NULL",
        "claim('admin')",
        "state",
        "id IN (SELECT id FROM orders)",
        "CASE WHEN id = 1 THEN true END",
        "id < ANY (claim('ids'))",
        "id = ANY (state)",
        "state IS DISTINCT FROM claim('x')",
        // The parser takes AND for a part of what comes before.
        "state IS DISTINCT FROM 'a' AND id = 7",
        "other.id = 1",
        "id::text = '1'",
        "id = state",
        "id LIKE '7%'",
        "total = 1.5::widget",
        "state IN ('a', NULL)",
        "'a'",
        "state LIKE 'a!%' ESCAPE '!'",
    ];
    let policies: String = conditions
        .iter()
        .enumerate()
        .map(|(i, condition)| format!("CREATE POLICY p{i} ON p USING ({condition});\n"))
        .collect();
    let statements = format!("{policies}CREATE MATERIALIZED VIEW p AS SELECT id, state, total FROM orders");
    check_one(
        &statements,
        &expect![[r#"
            error: `p` has no column `owner`
             --> b.sql:1:30
              |
            1 | CREATE POLICY p0 ON p USING (owner = claim('sub'));
              |                              ^^^^^
              = help: it has id, state, total

            error: `id`: "seven" is no bigint, which looks like 42 or "42"
             --> b.sql:2:30
              |
            2 | CREATE POLICY p1 ON p USING (id = 'seven');
              |                              ^^^^^^^^^^^^

            error: `id` is bigint, which does not compare with text
             --> b.sql:3:30
              |
            3 | CREATE POLICY p2 ON p USING (id = claim('sub')::text);
              |                              ^^^^^^^^^^^^^^^^

            error: a policy can't have arithmetic
             --> b.sql:4:30
              |
            4 | CREATE POLICY p3 ON p USING (id + 1 = 2);
              |                              ^^^^^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            error: a policy can't have the function lower()
             --> b.sql:5:30
              |
            5 | CREATE POLICY p4 ON p USING (lower(state) = 'open');
              |                              ^^^^^^^^^^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            error: claim() takes the name of a claim, in single quotes
             --> b.sql:6:38
              |
            6 | CREATE POLICY p5 ON p USING (state = claim(sub));
              |                                      ^^^^^^^^^
              = help: write claim('sub') or claim('app_metadata.org')

            error: a claim is named such as `sub` or `app_metadata.org`
             --> b.sql:7:38
              |
            7 | CREATE POLICY p6 ON p USING (state = claim('a..b'));
              |                                      ^^^^^^^^^^^^

            error: nothing compares with NULL; use IS NULL or IS NOT NULL
             --> b.sql:8:30
              |
            8 | CREATE POLICY p7 ON p USING (state = NULL);
              |                              ^^^^^^^^^^^^

            error: a claim is text or a list; compare it with something
             --> b.sql:9:30
              |
            9 | CREATE POLICY p8 ON p USING (claim('admin'));
              |                              ^^^^^^^^^^^^^
              = help: write claim('…') = '…', or claim('…')::boolean for one that is true or false

            error: `state` is text, and a condition is true or false
              --> b.sql:10:30
               |
            10 | CREATE POLICY p9 ON p USING (state);
               |                              ^^^^^

            error: a policy can't have a subquery
              --> b.sql:11:31
               |
            11 | CREATE POLICY p10 ON p USING (id IN (SELECT id FROM orders));
               |                               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            error: a policy can't have CASE
              --> b.sql:12:31
               |
            12 | CREATE POLICY p11 ON p USING (CASE WHEN id = 1 THEN true END);
               |                               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            error: a policy can't have ANY but with =
              --> b.sql:13:31
               |
            13 | CREATE POLICY p12 ON p USING (id < ANY (claim('ids')));
               |                               ^^^^^^^^^^^^^^^^^^^^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            error: a policy can't have ANY or ALL of what is no claim
              --> b.sql:14:31
               |
            14 | CREATE POLICY p13 ON p USING (id = ANY (state));
               |                               ^^^^^^^^^^^^^^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            error: a policy can't have IS DISTINCT FROM but of a column and a constant
              --> b.sql:15:31
               |
            15 | CREATE POLICY p14 ON p USING (state IS DISTINCT FROM claim('x'));
               |                               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            error: a policy can't have AND or OR within a comparison (put the comparison in parentheses)
              --> b.sql:16:54
               |
            16 | CREATE POLICY p15 ON p USING (state IS DISTINCT FROM 'a' AND id = 7);
               |                                                      ^^^^^^^^^^^^^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            error: a policy of `p` sees its columns alone
              --> b.sql:17:31
               |
            17 | CREATE POLICY p16 ON p USING (other.id = 1);
               |                               ^^^^^^^^

            error: a policy can't have a cast of a column
              --> b.sql:18:31
               |
            18 | CREATE POLICY p17 ON p USING (id::text = '1');
               |                               ^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            error: a column is compared with a literal or a claim, not with another column
              --> b.sql:19:31
               |
            19 | CREATE POLICY p18 ON p USING (id = state);
               |                               ^^^^^^^^^^

            error: LIKE compares text, and `id` is bigint
              --> b.sql:20:31
               |
            20 | CREATE POLICY p19 ON p USING (id LIKE '7%');
               |                               ^^^^^^^^^^^^

            error: there is no type widget
              --> b.sql:21:39
               |
            21 | CREATE POLICY p20 ON p USING (total = 1.5::widget);
               |                                       ^^^

            error: nothing compares with NULL; use IS NULL or IS NOT NULL
              --> b.sql:22:31
               |
            22 | CREATE POLICY p21 ON p USING (state IN ('a', NULL));
               |                               ^^^^^^^^^^^^^^^^^^^

            error: a policy can't have a constant that is neither true nor false as a condition
              --> b.sql:23:31
               |
            23 | CREATE POLICY p22 ON p USING ('a');
               |                               ^^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            error: a policy can't have LIKE with ANY or ESCAPE
              --> b.sql:24:31
               |
            24 | CREATE POLICY p23 ON p USING (state LIKE 'a!%' ESCAPE '!');
               |                               ^^^^^^^^^^^^^^^^
              = help: a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a column of the projection, hidden by WITH (hide = '…')

            24 mistakes
        "#]],
    );
}

#[test]
fn what_can_not_be_written() {
    check(
        &[(
            "a.sql",
            "CREATE TABLE orders (id INT PRIMARY KEY, total NUMERIC(10, 2)) WITH (connector = 'postgres', url = 'x');
CREATE TABLE out (id INT PRIMARY KEY, total BIGINT) WITH (connector = 'kafka', topic = 'out');
CREATE TABLE other (id INT) WITH (connector = 'kafka', topic = 'other');
CREATE TABLE few (id INT, total NUMERIC(10, 2), more INT) WITH (connector = 'kafka', topic = 'few');
INSERT INTO out SELECT id, total FROM orders;
INSERT INTO out SELECT id, 1 FROM orders;
INSERT INTO few SELECT id, total FROM orders;
INSERT INTO othr SELECT id FROM orders;
INSERT INTO other VALUES (1);
CREATE MATERIALIZED VIEW v AS SELECT * FROM out;
",
        )],
        &expect![[r#"
            error: `total` is declared as BIGINT, and gets NUMERIC(10,2)
             --> a.sql:5:1
              |
            5 | INSERT INTO out SELECT id, total FROM orders;
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: write CAST(… AS BIGINT) in the SELECT

            error: `out` is written to twice
             --> a.sql:6:13
              |
            6 | INSERT INTO out SELECT id, 1 FROM orders;
              |             ^^^
              = help: the first INSERT is at a.sql:5; make one of both with UNION ALL

            error: `few` has 3 columns, and gets 2
             --> a.sql:7:1
              |
            7 | INSERT INTO few SELECT id, total FROM orders;
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: select as many columns as the table declares, in their order

            error: there is no table `othr`
             --> a.sql:8:13
              |
            8 | INSERT INTO othr SELECT id FROM orders;
              |             ^^^^
              = help: did you mean `other`?

            error: an INSERT keeps a table as a SELECT has it, and knows nothing else
             --> a.sql:9:1
              |
            9 | INSERT INTO other VALUES (1);
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              = help: write INSERT INTO table SELECT …, without VALUES, ON CONFLICT and RETURNING

            error: `out` is written to by an INSERT INTO
              --> a.sql:10:45
               |
            10 | CREATE MATERIALIZED VIEW v AS SELECT * FROM out;
               |                                             ^^^
              = help: to read the topic too, declare another table for it

            6 mistakes
        "#]],
    );
}
