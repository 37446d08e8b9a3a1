//! Tables of a database and topics in one query, beside Postgres's answer to it.

use serde_json::{Value, json};
use tests::{ProjectFolder, Server, connect, postgres};

use crate::client::{Sender, broker, config, create_topic, shows, unique};

const QUERY: &str = "SELECT o.id, o.customer, p.state, count(s.at_depot) AS scans, max(s.at_depot) AS last
    FROM orders o LEFT JOIN payments p ON p.order_id = o.id LEFT JOIN shipments s ON s.order_id = o.id
    GROUP BY o.id, o.customer, p.state";

/// The sources are changed in turn, in an order that chance decides; whenever all stands still, what a
/// client has is what Postgres answers to the same query over the same rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_over_both_is_what_postgres_answers() {
    let seed: u64 = std::env::var("JOINED_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut dice = fastrand::Rng::with_seed(seed);
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let (payments, shipments) = (unique("payments"), unique("shipments"));
    create_topic(&client, &payments, 2, &[("cleanup.policy", "compact")]).await;
    create_topic(&client, &shipments, 2, &[]).await;
    let sender = Sender::new(&client);
    let postgres = postgres();
    let sql = connect(&postgres, "shop").await;
    // The two topics beside the table, for Postgres to answer from.
    sql.batch_execute(
        "CREATE TABLE orders (id int PRIMARY KEY, customer text);
         CREATE TABLE payments (order_id int PRIMARY KEY, state text);
         CREATE TABLE shipments (order_id int, at_depot text);",
    )
    .await
    .expect("a schema");
    let project = ProjectFolder::new(
        &postgres,
        &format!(
            "CREATE TABLE orders WITH (connector = 'postgres', url = '$DB');
             CREATE TABLE payments (order_id INT PRIMARY KEY, state TEXT)
               WITH (connector = 'kafka', brokers = '{0}', topic = '{payments}', format = 'json');
             CREATE TABLE shipments (order_id INT, at_depot TEXT)
               WITH (connector = 'kafka', brokers = '{0}', topic = '{shipments}', format = 'json');
             CREATE MATERIALIZED VIEW fulfilment AS {QUERY};",
            kafka.bootstrap()
        ),
    );
    let mut server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("fulfilment").await;
    for cut in 0..8 {
        for _ in 0..dice.usize(1..60) {
            let order = dice.i32(0..15);
            match dice.u8(0..6) {
                0 | 1 => {
                    let customer = dice.u8(0..5);
                    let upsert = format!(
                        "INSERT INTO orders VALUES ({order}, 'c{customer}')
                         ON CONFLICT (id) DO UPDATE SET customer = excluded.customer"
                    );
                    sql.batch_execute(&upsert).await.expect("SQL");
                }
                2 => sql.batch_execute(&format!("DELETE FROM orders WHERE id = {order}")).await.expect("SQL"),
                3 => {
                    sender.send_raw(&payments, Some(order.to_string().as_bytes()), None);
                    sql.batch_execute(&format!("DELETE FROM payments WHERE order_id = {order}")).await.expect("SQL");
                }
                4 => {
                    let state = ["open", "paid", "failed"][dice.usize(0..3)];
                    let value = json!({ "state": state }).to_string();
                    sender.send_raw(&payments, Some(order.to_string().as_bytes()), Some(value.as_bytes()));
                    let upsert = format!(
                        "INSERT INTO payments VALUES ({order}, '{state}')
                         ON CONFLICT (order_id) DO UPDATE SET state = excluded.state"
                    );
                    sql.batch_execute(&upsert).await.expect("SQL");
                }
                _ => {
                    let depot = format!("d{}", dice.u8(0..9));
                    let value = json!({ "order_id": order, "at_depot": depot }).to_string();
                    sender.send_raw(&shipments, None, Some(value.as_bytes()));
                    sql.batch_execute(&format!("INSERT INTO shipments VALUES ({order}, '{depot}')"))
                        .await
                        .expect("SQL");
                }
            }
        }
        let rows = format!(
            "SELECT coalesce(json_agg(json_build_array(id, customer, state, scans, last)), '[]')::text FROM ({QUERY}) AS q"
        );
        let answer: String = sql.query_one(&rows, &[]).await.expect("an answer").get(0);
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        shows(&mut subscriber, "fulfilment", answer.clone()).await;
        if cut == 4 {
            // A restart reads the topics and the tables again.
            server.stop().await;
            server = Server::start(&project).await;
            subscriber = server.subscriber().await;
            subscriber.subscribe("fulfilment").await;
            shows(&mut subscriber, "fulfilment", answer).await;
        }
    }
    let position = &subscriber.position;
    assert_eq!(position.as_object().map(serde_json::Map::len), Some(4), "every source is in it: {position}");
    server.stop().await;
}
