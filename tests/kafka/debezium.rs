//! A database read through a real Debezium, beside the same database read directly.

use serde_json::json;
use tests::{ProjectFolder, Server, connect, eventually, postgres};
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
        let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
        let mut rows = page["rows"].as_array().expect("rows").clone();
        rows.sort_by_key(serde_json::Value::to_string);
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
    assert_eq!(rows("unread").await, Vec::<serde_json::Value>::new());
    assert_eq!(rows("d").await.len(), 1, "{}", json!(rows("d").await));
    server.stop().await;
}
