//! What a client accumulates is what Postgres answers.

use serde_json::Value;
use sql::{Diagnostics, Project};
use tests::{PrivatePostgres, ProjectFolder, Server, Subscriber, connect, eventually};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Makes each view and projection of a project a view of Postgres.
async fn make_views(client: &Client, project: &ProjectFolder) -> Vec<String> {
    let mut wrong = Diagnostics::default();
    let project = Project::load(project.path(), &|_| None, &mut wrong);
    assert!(wrong.is_empty(), "{wrong}");
    let mut left: Vec<_> = project.queries.values().collect();
    while !left.is_empty() {
        let before = left.len();
        let mut failed = Vec::new();
        for query in left {
            if client.batch_execute(&format!("CREATE VIEW \"{}\" AS {}", query.name, query.query)).await.is_err() {
                failed.push(query);
            }
        }
        assert!(
            failed.len() < before,
            "Postgres understands none of {:?}",
            failed.iter().map(|query| &query.name).collect::<Vec<_>>()
        );
        left = failed;
    }
    project.queries.values().filter(|query| query.projection.is_some()).map(|query| query.name.clone()).collect()
}

/// Postgres's rows, as texts, sorted.
async fn postgres_rows(client: &Client, view: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(&format!("SELECT * FROM \"{view}\"")).await.expect("an answer");
    let mut rows: Vec<Vec<Option<String>>> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => None,
        })
        .collect();
    rows.sort();
    rows
}

/// A client's rows in the texts that Postgres has for them, sorted.
fn client_rows(client: &Subscriber, view: &str) -> Vec<Vec<Option<String>>> {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => match text.strip_suffix('Z') {
            Some(moment) if text.len() > 19 && text.as_bytes()[10] == b'T' => {
                Some(format!("{}+00", moment.replacen('T', " ", 1)))
            }
            _ => Some(text.clone()),
        },
        Value::Bool(yes) => Some(if *yes { "t" } else { "f" }.to_owned()),
        other => Some(other.to_string()),
    };
    let mut rows: Vec<Vec<Option<String>>> =
        client.rows(view).iter().map(|row| row.as_array().expect("a row").iter().map(text).collect()).collect();
    rows.sort();
    rows
}

/// Waits until all that the client holds is what Postgres answers, and compares.
async fn same_as_postgres(client: &mut Subscriber, postgres: &Client, views: &[String]) {
    for view in views {
        let expected = postgres_rows(postgres, view).await;
        let mut last = client_rows(client, view);
        let waiting = async {
            while last != expected {
                client.next().await;
                last = client_rows(client, view);
            }
        };
        if tokio::time::timeout(tests::PATIENCE, waiting).await.is_err() {
            let missing: Vec<_> = expected.iter().filter(|row| !last.contains(row)).take(5).collect();
            let extra: Vec<_> = last.iter().filter(|row| !expected.contains(row)).take(5).collect();
            panic!(
                "{view}: {} rows, Postgres has {}; missing {missing:?}, extra {extra:?}",
                last.len(),
                expected.len()
            );
        }
    }
}

/// One of several writers: commits, rolls back, and rolls back to savepoints.
async fn write(client: Client, seed: u32) {
    client.batch_execute("SET timezone = 'UTC'").await.expect("a setting");
    let run = async |sql: String| {
        // Writers meet: one that loses a deadlock has rolled back, which is a case like any other.
        let _ = client.batch_execute(&sql).await;
    };
    run(format!("CALL generate(seed => 0.{seed}, changes_per_second => 0, changes => 150)")).await;
    for i in 0..20 {
        let customer = 1 + (i * 7 + seed * 13) % 200;
        run(format!("BEGIN; DELETE FROM order_lines WHERE order_id % 50 = {}; ROLLBACK", i % 50)).await;
        run(format!(
            "BEGIN;
             UPDATE customers SET region = 'north' WHERE id = {customer};
             SAVEPOINT s; UPDATE customers SET region = 'lost', name = 'lost' WHERE id = {customer}; ROLLBACK TO SAVEPOINT s;
             SAVEPOINT t; UPDATE customers SET name = 'kept ' || id WHERE id = {customer}; RELEASE SAVEPOINT t;
             UPDATE products SET price = price + 0.01 WHERE id = {};
             UPDATE orders SET status = 'paid' WHERE customer_id = {customer} AND status = 'open';
             COMMIT",
            1 + i % 50
        ))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn storefront_under_concurrent_writers() {
    let postgres = PrivatePostgres::start().expect("a private Postgres");
    postgres.load_storefront("storefront").expect("the sample");
    let project = ProjectFolder::storefront(&postgres);
    let server = Server::start(&project).await;
    let control = connect(&postgres, "storefront").await;
    control.batch_execute("SET timezone = 'UTC'").await.expect("a setting");
    let views = make_views(&control, &project).await;
    assert_eq!(views, ["customers_without_orders", "open_orders", "revenue_by_region", "top_products"]);
    let mut client = server.subscriber().await;
    for view in &views {
        client.subscribe(view).await;
    }
    same_as_postgres(&mut client, &control, &views).await;

    let mut writers = tokio::task::JoinSet::new();
    for seed in 1..=3 {
        writers.spawn(write(connect(&postgres, "storefront").await, seed));
    }
    // A client that comes in the middle ends up with the same.
    let mut late = server.subscriber().await;
    late.subscribe("open_orders").await;
    writers.join_all().await;
    same_as_postgres(&mut client, &control, &views).await;
    same_as_postgres(&mut late, &control, &["open_orders".to_owned()]).await;

    // One transaction of 100,000 rows, beside small ones.
    control
        .batch_execute(
            "BEGIN;
             INSERT INTO orders (customer_id, status) SELECT 1 + n % 150, 'open' FROM generate_series(1, 20000) n;
             INSERT INTO order_lines (order_id, line, product_id, quantity, price)
               SELECT o.id, l, 1 + (o.id + l) % 50, 1, 9.99 FROM (SELECT id FROM orders ORDER BY id DESC LIMIT 20000) o, generate_series(1, 4) l;
             COMMIT",
        )
        .await
        .expect("a large transaction");
    same_as_postgres(&mut client, &control, &views).await;
    same_as_postgres(&mut late, &control, &["open_orders".to_owned()]).await;
    control.batch_execute("DELETE FROM order_lines WHERE price = 9.99").await.expect("a large delete");
    same_as_postgres(&mut client, &control, &views).await;
    assert_eq!(client.resyncs + late.resyncs, 0);

    // The slot goes with the server: nothing is left to grow.
    server.stop().await;
    let slots = || async { postgres.psql("SELECT count(*) FROM pg_replication_slots").expect("an answer") };
    eventually(slots, |slots| slots == "0").await;
}
