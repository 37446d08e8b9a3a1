//! A database read through a real Debezium, beside the same database read directly.

use serde_json::{Value, json};
use tests::{ProjectFolder, Server, Subscriber, connect, eventually, postgres};
use xtask::kafka::{PrivateDebezium, PrivateKafka};

use crate::client::{config, first_messages};

const COLUMNS: &str = "id INT PRIMARY KEY, name TEXT, price NUMERIC(10, 2), at TIMESTAMPTZ, local TIMESTAMP, day DATE,
    big BIGINT, x DOUBLE PRECISION, ok BOOLEAN, doc TEXT";

#[tokio::test(flavor = "multi_thread")]
async fn through_debezium_it_is_the_same() {
    let kafka = PrivateKafka::start().expect("a broker");
    let postgres = postgres();
    let sql = connect(&postgres, "shop").await;
    sql.batch_execute(
        "CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(10, 2), at timestamptz, local timestamp, day date,
           big bigint, x double precision, ok boolean, doc text);
         INSERT INTO items VALUES
           (1, 'one', 1.50, '2026-01-31 12:00:00.123456+00', '2026-01-31 12:00:00.5', '2026-01-31', 9007199254740993, 0.1, true, 'a'),
           (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
           (3, 'drei', -0.01, '1969-12-31 23:59:59+00', '0044-03-15', '1600-02-29', -1, -1e300, false, repeat('long ', 4000));",
    )
    .await
    .expect("a schema");
    let debezium = PrivateDebezium::start(&kafka, &postgres, "shop", &["public.items"], &[]).expect("Debezium");
    let topic = debezium.topic("public.items");
    // It makes its topics when it has something to say.
    first_messages(&config(kafka.bootstrap()), &topic, 3);
    let project = ProjectFolder::new(
        &postgres,
        &format!(
            "CREATE TABLE direct WITH (connector = 'postgres', url = '$DB', table = 'public.items');
             CREATE TABLE through ({COLUMNS}) WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'debezium-json');
             CREATE MATERIALIZED VIEW d AS SELECT * FROM direct;
             CREATE MATERIALIZED VIEW t AS SELECT * FROM through;
             CREATE MATERIALIZED VIEW unread AS SELECT \"offset\", reason FROM deltafront_dead_letters;",
            kafka.bootstrap()
        ),
    );
    let server = Server::start(&project).await;
    let rows = async |projection: &str| {
        let (_, page) = tests::http::get(&server.address(), &format!("/v1/projections/{projection}")).await;
        let page: Value = serde_json::from_str(&page).expect("JSON");
        let mut rows = page["rows"].as_array().expect("rows").clone();
        rows.sort_by_key(Value::to_string);
        rows
    };
    let steps = [
        "SELECT 1",
        "UPDATE items SET name = 'two', price = 2 WHERE id = 2",
        "UPDATE items SET id = 30, x = 3.5 WHERE id = 3",
        "DELETE FROM items WHERE id = 1",
        "INSERT INTO items (id, price) VALUES (4, 12345678.90), (5, 0)",
        "TRUNCATE items",
        "INSERT INTO items (id, day) VALUES (6, '2026-11-22')",
    ];
    for step in steps {
        sql.batch_execute(step).await.expect("SQL");
        let count = sql.query_one("SELECT count(*) FROM items", &[]).await.expect("a count").get::<_, i64>(0);
        let both = || async { (rows("d").await, rows("t").await) };
        eventually(both, |(direct, through)| {
            direct.len() == usize::try_from(count).expect("small") && direct == through
        })
        .await;
    }
    assert_eq!(rows("unread").await, Vec::<Value>::new());
    assert_eq!(rows("d").await.len(), 1, "{}", json!(rows("d").await));
    server.stop().await;
}

/// Amounts move between two tables, so their sum is always the same to whoever sees transactions whole. Each table has
/// a topic of three partitions, and the connector is killed in between, which makes it write again what it wrote
/// before.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_over_two_tables_is_seen_whole() {
    let kafka = PrivateKafka::start().expect("a broker");
    let postgres = postgres();
    let sql = connect(&postgres, "shop").await;
    sql.batch_execute(
        "CREATE TABLE here (id int PRIMARY KEY, n int NOT NULL); CREATE TABLE there (id int PRIMARY KEY, n int NOT NULL);
         CREATE TABLE unread (n int);
         INSERT INTO here SELECT id, 100 FROM generate_series(1, 10) id;
         INSERT INTO there SELECT id, 100 FROM generate_series(1, 10) id;",
    )
    .await
    .expect("a schema");
    let options = [
        "provide.transaction.metadata=true",
        "topic.creation.default.partitions=3",
        "topic.creation.groups=transactions",
        "topic.creation.transactions.include=.*transaction",
        "topic.creation.transactions.partitions=1",
        "topic.creation.transactions.replication.factor=1",
    ];
    let tables = ["public.here", "public.there", "public.unread"];
    let mut debezium = PrivateDebezium::start(&kafka, &postgres, "shop", &tables, &options).expect("Debezium");
    let transfer = async |step: i32| {
        // Some events are of a table that nobody reads; keys change; rows go and come.
        let (from, to, amount) = (step % 10 + 1, step % 7 + 1, step % 13);
        let moved = if step % 5 == 0 {
            format!(
                "UPDATE there SET id = -id WHERE id = {to}; DELETE FROM here WHERE id = {from}; INSERT INTO here SELECT {from}, 1000 - sum(n) + 1000 - (SELECT sum(n) FROM there) FROM here;"
            )
        } else {
            format!(
                "UPDATE here SET n = n - {amount} WHERE id = {from}; INSERT INTO unread VALUES ({step}); UPDATE there SET n = n + {amount} WHERE abs(id) = {to};"
            )
        };
        sql.batch_execute(&format!("BEGIN; {moved} COMMIT")).await.expect("a transfer");
    };
    transfer(1).await;
    first_messages(&config(kafka.bootstrap()), &debezium.topic("transaction"), 2);
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} (id INT PRIMARY KEY, n INT) WITH (connector = 'kafka', brokers = '{}', topic = 'shop.public.{name}',
               format = 'debezium-json', transactions = 'shop.transaction');",
            kafka.bootstrap()
        )
    };
    let project = ProjectFolder::of(&format!(
        "{}{}CREATE MATERIALIZED VIEW total WITH (public = 'true') AS SELECT sum(n) AS n FROM (SELECT n FROM here UNION ALL SELECT n FROM there) AS both;
         CREATE MATERIALIZED VIEW at_home WITH (public = 'true') AS SELECT id, n FROM here;
         CREATE MATERIALIZED VIEW unread WITH (public = 'true') AS SELECT \"offset\", reason FROM deltafront_dead_letters;",
        table("here"),
        table("there")
    ));
    let server = Server::start(&project).await;
    let mut subscriber = Subscriber::connect(&server.address()).await;
    for projection in ["total", "at_home", "unread"] {
        subscriber.subscribe(projection).await;
    }
    let wanted = std::cell::RefCell::new(None::<Vec<Value>>);
    let seen = std::cell::Cell::new(0);
    let writing = async {
        for step in 2..300 {
            transfer(step).await;
            if step == 150 {
                debezium.kill();
            } else if step == 200 {
                tokio::task::block_in_place(|| debezium.start_again()).expect("Debezium again");
            }
        }
        let rows = sql.query("SELECT id, n FROM here ORDER BY id", &[]).await.expect("rows");
        let row = |row: &tokio_postgres::Row| json!([row.get::<_, i32>(0), row.get::<_, i32>(1)]);
        wanted.replace(Some(rows.iter().map(row).collect()));
        // Somebody looks once more.
        transfer(301).await;
        let rows = sql.query("SELECT id, n FROM here ORDER BY id", &[]).await.expect("rows");
        wanted.replace(Some(rows.iter().map(row).collect()));
    };
    let reading = subscriber.until(|held| {
        seen.set(seen.get() + 1);
        assert_eq!(held["total"].rows(), [json!([2000])], "half a transfer is seen");
        assert_eq!(held["unread"].rows(), Vec::<Value>::new());
        let mut rows = held["at_home"].rows();
        rows.sort_by_key(|row| row[0].as_i64());
        wanted.borrow().as_ref() == Some(&rows)
    });
    tokio::join!(writing, reading);
    assert!(seen.get() > 3, "{} changes were seen", seen.get());
    server.stop().await;
}
