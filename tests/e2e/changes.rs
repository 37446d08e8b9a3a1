//! Keys, large values, truncation, whole-row identity.

use serde_json::{Value, json};
use tests::{ProjectFolder, Server, connect, postgres};

/// Postgres leaves a large value out of an update that does not change it, and tells of an old row
/// only its key. What the client holds is whole all the same.
#[tokio::test(flavor = "multi_thread")]
async fn large_values_survive_updates_that_leave_them_out() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    let fill = "(SELECT string_agg(md5((n * 1000 + m)::text), '') FROM generate_series(1, 200) m)";
    client
        .batch_execute(&format!(
            "CREATE TABLE docs (id int PRIMARY KEY, title text, body text);
             ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
             INSERT INTO docs SELECT n, 'title ' || n, {fill} FROM generate_series(1, 3) n;"
        ))
        .await
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE docs WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW library AS SELECT id, title, md5(body) AS body, length(body) AS size FROM docs;",
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("library").await;
    client
        .batch_execute(&format!(
            "UPDATE docs SET title = 'new' WHERE id = 1;
             UPDATE docs SET id = 20 WHERE id = 2;
             BEGIN; INSERT INTO docs SELECT n, 'fresh', {fill} FROM generate_series(4, 4) n; UPDATE docs SET title = 'fresher' WHERE id = 4; UPDATE docs SET id = 40 WHERE id = 4; COMMIT;
             DELETE FROM docs WHERE id = 3;
             INSERT INTO docs VALUES (99, 'end', 'x');"
        ))
        .await
        .expect("changes");
    subscriber.until(|held| held["library"].rows().iter().any(|row| row[0] == 99)).await;
    let rows = client
        .query("SELECT id, title, md5(body), length(body) FROM docs ORDER BY id", &[])
        .await
        .expect("Postgres's rows");
    let mut expected: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!([row.get::<_, i32>(0), row.get::<_, String>(1), row.get::<_, String>(2), row.get::<_, i32>(3)])
        })
        .collect();
    expected.sort_by_key(Value::to_string);
    assert_eq!(subscriber.rows("library"), expected);
    assert_eq!(expected.iter().filter(|row| row[3] == 6400).count(), 3);
    server.stop().await;
}

/// The same where a row is told apart by all of it: equal rows, and one row twice in a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn large_values_of_rows_without_a_key() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute(
            "CREATE TABLE docs (body text, n int); ALTER TABLE docs ALTER body SET STORAGE EXTERNAL; ALTER TABLE docs REPLICA IDENTITY FULL;
             INSERT INTO docs SELECT (SELECT string_agg(md5(m::text), '') FROM generate_series(1, 200) m), 0 FROM generate_series(1, 2);",
        )
        .await
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE docs WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW sizes AS SELECT length(body) AS size, n, count(*) AS rows FROM docs GROUP BY length(body), n;",
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("sizes").await;
    client.batch_execute("BEGIN; UPDATE docs SET n = 1; UPDATE docs SET n = 2; COMMIT").await.expect("changes");
    subscriber.until(|held| held["sizes"].rows() == [json!([6400, 2, 2])]).await;
    client.batch_execute("DELETE FROM docs").await.expect("a change");
    subscriber.until(|held| held["sizes"].is_empty()).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_a_key_truncated_and_partitioned() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute(
            "CREATE TABLE wide (id int, x int, note text, PRIMARY KEY (id) INCLUDE (x)); INSERT INTO wide VALUES (1, 1, 'a'), (2, 2, 'b');
             CREATE TABLE bag (a int, b text); ALTER TABLE bag REPLICA IDENTITY FULL;
             CREATE TABLE by_code (code text NOT NULL, n int); CREATE UNIQUE INDEX by_code_code ON by_code (code); ALTER TABLE by_code REPLICA IDENTITY USING INDEX by_code_code;
             CREATE TABLE parts (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE parts_n PARTITION OF parts FOR VALUES IN ('n'); CREATE TABLE parts_s PARTITION OF parts FOR VALUES IN ('s');
             INSERT INTO bag VALUES (1, 'x'), (1, 'x'), (NULL, NULL);
             INSERT INTO by_code VALUES ('p', 1), ('q', 2);
             INSERT INTO parts VALUES (1, 'n'), (2, 's');",
        )
        .await
        .expect("tables");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE bag WITH (connector = 'postgres', url = '$DB');
         CREATE TABLE by_code WITH (connector = 'postgres', url = '$DB');
         CREATE TABLE parts WITH (connector = 'postgres', url = '$DB');
         CREATE TABLE wide WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW wides AS SELECT * FROM wide;
         CREATE MATERIALIZED VIEW bags AS SELECT * FROM bag;
         CREATE MATERIALIZED VIEW codes AS SELECT * FROM by_code;
         CREATE MATERIALIZED VIEW all_parts AS SELECT * FROM parts;",
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    for projection in ["bags", "codes", "all_parts", "wides"] {
        subscriber.subscribe(projection).await;
    }
    assert_eq!(subscriber.rows("bags"), [json!([1, "x"]), json!([1, "x"]), json!([null, null])]);
    let done = |n: i64| {
        move |held: &std::collections::BTreeMap<String, tests::client::Held>| {
            held["bags"].rows().contains(&json!([n, "done"]))
        }
    };
    client
        .batch_execute(
            "DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 1);
             UPDATE bag SET b = 'now' WHERE a IS NULL;
             UPDATE by_code SET code = 'r' WHERE code = 'p'; UPDATE by_code SET n = 9 WHERE code = 'q';
             UPDATE parts SET region = 's' WHERE id = 1;
             UPDATE wide SET x = 9 WHERE id = 1; DELETE FROM wide WHERE id = 2;
             INSERT INTO bag VALUES (100, 'done')",
        )
        .await
        .expect("changes");
    subscriber.until(done(100)).await;
    assert_eq!(subscriber.rows("bags"), [json!([1, "x"]), json!([100, "done"]), json!([null, "now"])]);
    assert_eq!(subscriber.rows("wides"), [json!([1, 9, "a"])]);
    assert_eq!(subscriber.rows("codes"), [json!(["q", 9]), json!(["r", 1])]);
    assert_eq!(subscriber.rows("all_parts"), [json!([1, "s"]), json!([2, "s"])]);
    client
        .batch_execute(
            "BEGIN; TRUNCATE bag, by_code, parts; INSERT INTO by_code VALUES ('q', 9); INSERT INTO bag VALUES (101, 'done'); COMMIT",
        )
        .await
        .expect("a truncation");
    subscriber.until(done(101)).await;
    assert_eq!(subscriber.rows("bags"), [json!([101, "done"])]);
    assert_eq!(subscriber.rows("codes"), [json!(["q", 9])]);
    assert!(subscriber.rows("all_parts").is_empty());
    server.stop().await;
}

/// A value that becomes NULL is not one that did not change, small or large, and one that did not
/// change is not NULL.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_set_to_null_is_null() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, note text, body text); ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
             INSERT INTO docs SELECT n, 'note', (SELECT string_agg(md5(m::text), '') FROM generate_series(1, 200) m) FROM generate_series(1, 4) n;",
        )
        .await
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE docs WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW library AS SELECT id, note, length(body) AS size FROM docs;",
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("library").await;
    client
        .batch_execute(
            "UPDATE docs SET note = NULL WHERE id = 1;
             UPDATE docs SET body = NULL WHERE id = 2;
             BEGIN; UPDATE docs SET note = NULL WHERE id = 3; UPDATE docs SET body = NULL WHERE id = 3; COMMIT;
             UPDATE docs SET note = 'end' WHERE id = 4",
        )
        .await
        .expect("changes");
    subscriber.until(|held| held["library"].rows().contains(&json!([4, "end", 6400]))).await;
    let expected = [json!([1, null, 6400]), json!([2, "note", null]), json!([3, null, null]), json!([4, "end", 6400])];
    assert_eq!(subscriber.rows("library"), expected);
    server.stop().await;
}

/// With REPLICA IDENTITY FULL the log tells all of the old row also of a table that has a key. When
/// the key moves, the row of the old key is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_moves_is_seen_in_a_full_old_row() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text, body text); ALTER TABLE t ALTER body SET STORAGE EXTERNAL; ALTER TABLE t REPLICA IDENTITY FULL;
             INSERT INTO t SELECT n, 'n' || n, (SELECT string_agg(md5(m::text), '') FROM generate_series(1, 200) m) FROM generate_series(1, 3) n;",
        )
        .await
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW v AS SELECT id, name, length(body) AS size FROM t;",
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("v").await;
    client
        .batch_execute(
            "UPDATE t SET id = 10 WHERE id = 1; UPDATE t SET name = 'still' WHERE id = 2;
             BEGIN; UPDATE t SET id = 30 WHERE id = 3; UPDATE t SET id = 31 WHERE id = 30; COMMIT; INSERT INTO t VALUES (99, 'end', '')",
        )
        .await
        .expect("changes");
    subscriber.until(|held| held["v"].rows().iter().any(|row| row[0] == 99)).await;
    let expected = [json!([10, "n1", 6400]), json!([2, "still", 6400]), json!([31, "n3", 6400]), json!([99, "end", 0])];
    assert_eq!(subscriber.rows("v"), expected);
    server.stop().await;
}
