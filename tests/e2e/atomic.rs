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
    let sum = |rows: Vec<Value>, column: usize| rows.iter().map(|row| row[column].as_i64().expect("a number")).sum::<i64>();
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
