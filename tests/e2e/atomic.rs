//! Transactions are atomic to the eye.

use serde_json::{Value, json};
use tests::{ProjectFolder, Server, connect, postgres};

const ACCOUNTS: i64 = 20;
const TRANSFERS: i64 = 300;

/// Money moves between two tables; at no message may any be missing or there twice, in either
/// subscription or between them.
#[tokio::test(flavor = "multi_thread")]
async fn money_is_never_in_two_places() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute(&format!(
            "CREATE TABLE cash (id int PRIMARY KEY, amount int NOT NULL);
             CREATE TABLE bank (id int PRIMARY KEY, amount int NOT NULL);
             INSERT INTO cash SELECT n, 100 FROM generate_series(1, {ACCOUNTS}) n;
             INSERT INTO bank SELECT n, 0 FROM generate_series(1, {ACCOUNTS}) n;"
        ))
        .await
        .expect("tables");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE cash WITH (connector = 'postgres', url = '$DB');
         CREATE TABLE bank WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW purses AS SELECT id, amount FROM cash;
         CREATE MATERIALIZED VIEW vaults AS SELECT id, amount FROM bank;
         CREATE MATERIALIZED VIEW total AS
           SELECT sum(amount) AS amount FROM (SELECT amount FROM cash UNION ALL SELECT amount FROM bank) money;
         CREATE MATERIALIZED VIEW both AS SELECT c.id, c.amount AS cash, b.amount AS bank FROM cash c JOIN bank b ON b.id = c.id;",
    );
    let server = Server::start(&project).await;
    let mut eye = server.subscriber().await;
    for projection in ["purses", "vaults", "total", "both"] {
        eye.subscribe(projection).await;
    }
    let writer = tokio::spawn(async move {
        for i in 0..TRANSFERS {
            let (from, to, amount) = (1 + i % ACCOUNTS, 1 + (i * 7) % ACCOUNTS, 1 + i % 5);
            let sql = format!(
                "BEGIN; UPDATE cash SET amount = amount - {amount} WHERE id = {from}; UPDATE bank SET amount = amount + {amount} WHERE id = {to}; COMMIT"
            );
            client.batch_execute(&sql).await.expect("a transfer");
        }
        client.batch_execute("INSERT INTO cash VALUES (0, 0)").await.expect("the end");
    });
    let sum =
        |rows: Vec<Value>, column: usize| rows.iter().map(|row| row[column].as_i64().expect("a number")).sum::<i64>();
    let mut messages = 0;
    while eye.rows("purses").len() <= 20 {
        let message = eye.next().await;
        messages += usize::from(message["op"] == "diff");
        let (purses, vaults) = (sum(eye.rows("purses"), 1), sum(eye.rows("vaults"), 1));
        assert_eq!(purses + vaults, 2000, "{message}");
        assert_eq!(eye.rows("total"), [json!([2000])], "{message}");
        let both = sum(eye.rows("both"), 1) + sum(eye.rows("both"), 2);
        assert_eq!(both, 2000, "{message}");
        assert_eq!(sum(eye.rows("both"), 1), purses, "{message}");
    }
    assert!(messages > 5, "only {messages} messages: the test has not looked");
    writer.await.expect("the writer");
    server.stop().await;
}

/// A transaction of far more rows than an epoch takes in otherwise, over two tables: no epoch has a
/// part of it, whether or not a client happens to look.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_60_000_rows_is_one_epoch() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
        .await
        .expect("tables");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE a WITH (connector = 'postgres', url = '$DB'); CREATE TABLE b WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW in_a AS SELECT count(*) AS n FROM a;
         CREATE MATERIALIZED VIEW in_b AS SELECT count(*) AS n FROM b;",
    );
    let server = Server::start(&project).await;
    let mut eye = server.subscriber().await;
    eye.subscribe("in_a").await;
    eye.subscribe("in_b").await;
    let first = pipeline::Epoch(eye.epoch);
    client
        .batch_execute(
            "BEGIN; INSERT INTO a SELECT n FROM generate_series(1, 25000) n; INSERT INTO b SELECT n FROM generate_series(1, 30000) n;
             DELETE FROM a WHERE id > 20000; COMMIT; INSERT INTO a VALUES (0)",
        )
        .await
        .expect("a large transaction");
    while eye.rows("in_a") != [json!([20001])] {
        eye.next().await;
        let seen = (eye.rows("in_a")[0][0].clone(), eye.rows("in_b")[0][0].clone());
        assert!(
            [(0, 0), (20000, 30000), (20001, 30000)].map(|(a, b)| (json!(a), json!(b))).contains(&seen),
            "{seen:?}"
        );
    }
    // Every epoch is in the log, also one that no client was awake for.
    let hub = server.hub();
    let (in_a, in_b) = (hub.find("in_a").expect("a projection"), hub.find("in_b").expect("a projection"));
    let epochs = |id| hub.changed_since(id, first).expect("the log reaches back");
    let (in_a, in_b) = (epochs(in_a), epochs(in_b));
    let all: std::collections::BTreeSet<_> = in_a.iter().chain(&in_b).collect();
    let changed: Vec<(bool, bool)> = all.iter().map(|epoch| (in_a.contains(epoch), in_b.contains(epoch))).collect();
    assert!(changed == [(true, true), (true, false)] || changed == [(true, true)], "{changed:?}");
    server.stop().await;
}

/// A transaction that is larger than all that may be under way, whole all the same; and rows as
/// large in a copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_80_megabytes_is_one_epoch() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, body text); INSERT INTO t VALUES (0, 'first')")
        .await
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW sizes AS SELECT count(*) AS n, sum(length(body)) AS size FROM t;",
    );
    let server = Server::start(&project).await;
    let mut eye = server.subscriber().await;
    eye.subscribe("sizes").await;
    client
        .batch_execute("INSERT INTO t SELECT n, repeat('x', 100000) FROM generate_series(1, 800) n")
        .await
        .expect("a large transaction");
    client.batch_execute("UPDATE t SET body = 'last' WHERE id = 0").await.expect("one after it");
    let (first, whole, last) = (json!([1, 5]), json!([801, 80_000_005]), json!([801, 80_000_004]));
    while eye.rows("sizes") != [last.clone()] {
        eye.next().await;
        assert!([&first, &whole, &last].contains(&&eye.rows("sizes")[0]), "{:?}", eye.rows("sizes"));
    }
    server.stop().await;
    let server = Server::start(&project).await;
    let mut eye = server.subscriber().await;
    eye.subscribe("sizes").await;
    assert_eq!(eye.rows("sizes"), [last]);
    server.stop().await;
}
