//! Lost connections.

use serde_json::{Value, json};
use tests::{ProjectFolder, Server, connect, postgres};

/// The database crashes, and what was committed around the crash is not in any stream of ours. The
/// tables are copied beside what is held and compared: the client, which stays connected, is sent
/// the difference and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_only_the_difference_flows() {
    let mut postgres = postgres();
    postgres
        .psql_in("shop", "CREATE TABLE things (id int PRIMARY KEY, name text); INSERT INTO things SELECT n, 'thing ' || n FROM generate_series(1, 1000) n")
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE things WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW all_things AS SELECT * FROM things;
         CREATE MATERIALIZED VIEW number AS SELECT count(*) AS n FROM things;",
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("all_things").await;
    subscriber.subscribe("number").await;
    let epoch = subscriber.epoch;

    postgres.crash_and_restart().expect("a restart");
    postgres
        .psql_in(
            "shop",
            "UPDATE things SET name = 'changed' WHERE id = 7; DELETE FROM things WHERE id > 998; INSERT INTO things VALUES (5000, 'new')",
        )
        .expect("changes while nobody reads");
    // The changes may fall before or after the server is back: gather until all have come.
    let mut touched: Vec<Value> = Vec::new();
    while subscriber.rows("number") != [json!([999])] || !subscriber.rows("all_things").contains(&json!([7, "changed"]))
    {
        let message = subscriber.next().await;
        for diff in message["diffs"].as_array().into_iter().flatten().filter(|diff| diff["id"] == "all_things") {
            touched.extend(diff["upsert"].as_array().into_iter().flatten().map(|row| row[0].clone()));
            touched.extend(diff["delete"].as_array().into_iter().flatten().map(|key| key[0].clone()));
        }
    }
    touched.sort_by_key(Value::as_i64);
    assert_eq!(touched, [json!(7), json!(999), json!(1000), json!(5000)], "only the difference");
    assert_eq!(subscriber.resyncs, 0);
    assert!(subscriber.epoch > epoch);

    // And the stream goes on.
    let client = connect(&postgres, "shop").await;
    client.batch_execute("DELETE FROM things WHERE id = 5000").await.expect("a change");
    subscriber.until(|held| held["number"].rows() == [json!([998])]).await;
    server.stop().await;
}

/// Somebody ends our sessions, again and again, while others write.
#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_lose_and_repeat_nothing() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client.batch_execute("CREATE TABLE ticks (id int PRIMARY KEY, twice int)").await.expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE ticks WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS n, sum(id) AS s, sum(twice) AS t FROM ticks;",
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("sums").await;
    for round in 0..5 {
        for i in 0..50 {
            let id = round * 50 + i;
            client.batch_execute(&format!("INSERT INTO ticks VALUES ({id}, {id} * 2)")).await.expect("a tick");
        }
        client.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await.expect("an end");
    }
    let sum: i64 = (0..250).sum();
    subscriber.until(|held| held["sums"].rows() == [json!([250, sum, sum * 2])]).await;
    assert_eq!(subscriber.resyncs, 0);
    server.stop().await;
}
