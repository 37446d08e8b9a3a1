//! Projections as topics, on a real broker.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::AdminOptions;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use server::prepare::{Ask, prepare};
use tests::{PATIENCE, ProjectFolder, Server, connect, eventually, postgres};
use tokio_postgres::Client;
use xtask::kafka::PrivateKafka;

use crate::client::{admin, broker, config, consumer, create_topic, shows, unique};

/// Keys with their values.
pub type Messages = Vec<(String, Option<Value>)>;

/// What each key has for those who read what is committed, and all messages in their order.
pub fn read_committed(client: &ClientConfig, topic: &str) -> (BTreeMap<String, Value>, Messages) {
    let consumer =
        consumer(client.clone().set("enable.partition.eof", "true").set("isolation.level", "read_committed"));
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("an assignment");
    let (mut rows, mut all) = (BTreeMap::new(), Vec::new());
    loop {
        match consumer.poll(PATIENCE).expect("messages, or their end") {
            Ok(message) => {
                let key = String::from_utf8(message.key().expect("a key").to_vec()).expect("text");
                let value = message.payload().map(|value| serde_json::from_slice::<Value>(value).expect("JSON"));
                match &value {
                    Some(value) => drop(rows.insert(key.clone(), value.clone())),
                    None => drop(rows.remove(&key)),
                }
                all.push((key, value));
            }
            Err(KafkaError::PartitionEOF(_)) => return (rows, all),
            Err(error) => panic!("{error}"),
        }
    }
}

pub async fn holds(client: &ClientConfig, topic: &str, wanted: Value) {
    let wanted: BTreeMap<String, Value> = serde_json::from_value(wanted).expect("an object");
    eventually(|| async { read_committed(client, topic).0 }, |rows| *rows == wanted).await;
}

async fn shop(sql: &str) -> (tests::PrivatePostgres, Client) {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client.batch_execute(sql).await.expect("a schema");
    (postgres, client)
}

fn totals(kafka: &PrivateKafka, postgres: &tests::PrivatePostgres, topic: &str, more: &str) -> ProjectFolder {
    ProjectFolder::new(
        postgres,
        &format!(
            "CREATE TABLE orders WITH (connector = 'postgres', url = '$DB');
             CREATE MATERIALIZED VIEW totals AS SELECT customer, sum(amount) AS total, count(*) AS n FROM orders GROUP BY customer;
             CREATE TABLE out WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', {more});
             INSERT INTO out SELECT * FROM totals;",
            kafka.bootstrap()
        ),
    )
}

const ORDERS: &str = "CREATE TABLE orders (id int PRIMARY KEY, customer text, amount numeric(10, 2));
    INSERT INTO orders VALUES (1, 'ann', 1.50), (2, 'ann', 2), (3, 'bob', 3);";

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_kept_as_its_query_has_it_also_over_restarts() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("totals");
    create_topic(&client, &topic, 1, &[("cleanup.policy", "compact")]).await;
    let (postgres, sql) = shop(ORDERS).await;
    let project = totals(&kafka, &postgres, &topic, "format = 'json'");
    let server = Server::start(&project).await;
    let ann = json!({"customer": "ann", "total": 3.5, "n": 2});
    let bob = json!({"customer": "bob", "total": 3.0, "n": 1});
    holds(&client, &topic, json!({r#"{"customer":"ann"}"#: ann, r#"{"customer":"bob"}"#: bob})).await;
    sql.batch_execute("DELETE FROM orders WHERE id = 3; UPDATE orders SET amount = 10 WHERE id = 2")
        .await
        .expect("SQL");
    let ann = json!({"customer": "ann", "total": 11.5, "n": 2});
    holds(&client, &topic, json!({r#"{"customer":"ann"}"#: ann})).await;
    server.stop().await;

    // What happens while nobody writes is made up for, and what is there already is not written again.
    sql.batch_execute("INSERT INTO orders VALUES (4, 'cid', 4), (5, 'dan', 5)").await.expect("SQL");
    let (_, before) = read_committed(&client, &topic);
    let server = Server::start(&project).await;
    let cid = json!({"customer": "cid", "total": 4.0, "n": 1});
    let dan = json!({"customer": "dan", "total": 5.0, "n": 1});
    let all = json!({r#"{"customer":"ann"}"#: ann, r#"{"customer":"cid"}"#: cid, r#"{"customer":"dan"}"#: dan});
    holds(&client, &topic, all).await;
    let (_, after) = read_committed(&client, &topic);
    assert_eq!(after.len(), before.len() + 2, "{after:?}");
    server.stop().await;
    sql.batch_execute("DELETE FROM orders WHERE customer = 'ann'").await.expect("SQL");
    let server = Server::start(&project).await;
    holds(&client, &topic, json!({r#"{"customer":"cid"}"#: cid, r#"{"customer":"dan"}"#: dan})).await;
    server.stop().await;
}

/// What one of us writes as Debezium does, another reads as the same rows.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_written_as_debezium_writes_them() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("totals");
    create_topic(&client, &topic, 1, &[]).await;
    let (postgres, sql) = shop(ORDERS).await;
    let project = totals(&kafka, &postgres, &topic, "format = 'debezium-json'");
    let server = Server::start(&project).await;
    let reader = ProjectFolder::of(&format!(
        "CREATE TABLE totals (customer TEXT PRIMARY KEY, total NUMERIC(20, 2), n BIGINT)
           WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'debezium-json');
         CREATE MATERIALIZED VIEW back AS SELECT * FROM totals;",
        kafka.bootstrap()
    ));
    let reading = Server::start(&reader).await;
    let mut subscriber = reading.subscriber().await;
    subscriber.subscribe("back").await;
    shows(&mut subscriber, "back", json!([["ann", "3.50", 2], ["bob", "3.00", 1]])).await;
    sql.batch_execute("DELETE FROM orders WHERE id = 3; UPDATE orders SET amount = 10 WHERE id = 2")
        .await
        .expect("SQL");
    shows(&mut subscriber, "back", json!([["ann", "11.50", 2]])).await;
    let (_, all) = read_committed(&client, &topic);
    let ops: Vec<Value> =
        all.iter().map(|(_, value)| value.as_ref().map_or(Value::Null, |it| it["op"].clone())).collect();
    let count = |op: Value| ops.iter().filter(|it| **it == op).count();
    assert_eq!((count(json!("c")), count(json!("d")), count(Value::Null)), (2, 1, 1), "{all:?}");
    assert!(count(json!("u")) >= 1, "{all:?}");
    let deleted =
        all.iter().find_map(|(_, value)| value.as_ref().filter(|value| value["op"] == "d")).expect("a delete");
    assert_eq!(deleted["before"], json!({"customer": "bob", "total": 3.0, "n": 1}));
    assert_eq!(deleted["after"], Value::Null);
    reading.stop().await;
    server.stop().await;
}

/// Two programs, one sink: whoever came later writes, and the other says that it does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_writer_is_fenced_and_says_so() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("totals");
    create_topic(&client, &topic, 1, &[]).await;
    let (postgres, sql) = shop(ORDERS).await;
    // Two projects, so that they do not share a slot: it is the topic that can't have two writers.
    let project = |name: &str| {
        let project = totals(&kafka, &postgres, &topic, "format = 'json'");
        std::fs::write(project.path().join("deltafront.toml"), format!("[project]\nname = \"{name}\"\n"))
            .expect("a file");
        project
    };
    let older = Server::start(&project("older")).await;
    older.source_says("writing").await;
    let newer = Server::start(&project("newer")).await;
    newer.source_says("writing").await;
    sql.batch_execute("DELETE FROM orders WHERE customer = 'ann'").await.expect("SQL");
    older.source_says("stopped: another program writes to").await;
    holds(&client, &topic, json!({r#"{"customer":"bob"}"#: {"customer": "bob", "total": 3.0, "n": 1}})).await;
    newer.stop().await;
    older.stop().await;
}

/// A transaction of Postgres is seen whole or not at all by those who read what is committed: money
/// that goes from one to the other is never with both or with none.
#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_half_an_epoch() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("accounts");
    create_topic(&client, &topic, 1, &[]).await;
    let (postgres, sql) = shop(
        "CREATE TABLE accounts (id int PRIMARY KEY, amount int);
         INSERT INTO accounts SELECT id, 100 FROM generate_series(1, 20) AS id;",
    )
    .await;
    let project = ProjectFolder::new(
        &postgres,
        &format!(
            "CREATE TABLE accounts WITH (connector = 'postgres', url = '$DB');
             CREATE TABLE out (id INT PRIMARY KEY, amount INT)
               WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'json');
             INSERT INTO out SELECT id, amount FROM accounts;",
            kafka.bootstrap()
        ),
    );
    let server = Server::start(&project).await;
    let moving = tokio::spawn(async move {
        for step in 0..200 {
            let (from, to) = (step % 20 + 1, (step * 7 + 3) % 20 + 1);
            let transfer = format!(
                "BEGIN; UPDATE accounts SET amount = amount - 1 WHERE id = {from};
                 UPDATE accounts SET amount = amount + 1 WHERE id = {to}; COMMIT"
            );
            sql.batch_execute(&transfer).await.expect("SQL");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sql.batch_execute("UPDATE accounts SET amount = amount + 1000 WHERE id = 20").await.expect("SQL");
    });
    let mut sums = Vec::new();
    let is_over = || async {
        let (rows, _) = read_committed(&client, &topic);
        (rows.len(), rows.values().map(|row| row["amount"].as_i64().expect("a number")).sum::<i64>())
    };
    loop {
        let (accounts, sum) = is_over().await;
        sums.push((accounts, sum));
        assert!([(0, 0), (20, 2000), (20, 3000)].contains(&(accounts, sum)), "{sums:?}");
        if sum == 3000 {
            break;
        }
    }
    moving.await.expect("joins");
    server.stop().await;
}

/// What is written has the names of the written table: those of a query (`sum(orders.amount)`) are its own affair, and
/// a table declared the same read nothing of them.
#[tokio::test(flavor = "multi_thread")]
async fn messages_have_the_names_of_the_table_and_are_read_back() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("names");
    create_topic(&client, &topic, 1, &[]).await;
    let (postgres, _sql) = shop(ORDERS).await;
    let of_topic =
        format!("connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'json'", kafka.bootstrap());
    let columns = "who TEXT PRIMARY KEY, paid NUMERIC(38, 2), shouted TEXT";
    let writing = ProjectFolder::new(
        &postgres,
        &format!(
            "CREATE TABLE orders WITH (connector = 'postgres', url = '$DB');
             CREATE TABLE out ({columns}) WITH ({of_topic});
             INSERT INTO out SELECT customer, CAST(sum(amount) AS NUMERIC(38, 2)), upper(customer) FROM orders GROUP BY customer;"
        ),
    );
    let server = Server::start(&writing).await;
    let rows = json!({
        "{\"who\":\"ann\"}": { "who": "ann", "paid": 3.5, "shouted": "ANN" },
        "{\"who\":\"bob\"}": { "who": "bob", "paid": 3.0, "shouted": "BOB" },
    });
    holds(&client, &topic, rows).await;
    server.stop().await;
    let reading = ProjectFolder::of(&format!(
        "CREATE TABLE back ({columns}) WITH ({of_topic}); CREATE MATERIALIZED VIEW b AS SELECT * FROM back;"
    ));
    let server = Server::start(&reading).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("b").await;
    shows(&mut subscriber, "b", json!([["ann", "3.50", "ANN"], ["bob", "3.00", "BOB"]])).await;
    server.stop().await;
}

/// Only what changed came into a topic that had been made again, under a green state.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_again_is_not_written_in_parts() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("again");
    create_topic(&client, &topic, 1, &[]).await;
    let (postgres, sql) = shop(ORDERS).await;
    let project = totals(&kafka, &postgres, &topic, "format = 'json'");
    let server = Server::start(&project).await;
    let whole = json!({
        "{\"customer\":\"ann\"}": { "customer": "ann", "total": 3.5, "n": 2 },
        "{\"customer\":\"bob\"}": { "customer": "bob", "total": 3.0, "n": 1 },
    });
    holds(&client, &topic, whole.clone()).await;
    admin(&client).delete_topics(&[topic.as_str()], &AdminOptions::new()).await.expect("an answer");
    server.source_says(&format!("has no topic `{topic}` now")).await;
    create_topic(&client, &topic, 1, &[]).await;
    server.source_says("was deleted and made again").await;
    sql.batch_execute("UPDATE orders SET amount = 4 WHERE id = 3").await.expect("SQL");
    server.stop().await;
    assert_eq!(read_committed(&client, &topic).1, []);
    let server = Server::start(&project).await;
    let mut whole = whole;
    whole["{\"customer\":\"bob\"}"]["total"] = json!(4.0);
    holds(&client, &topic, whole).await;
    server.stop().await;
}

/// One row that its topic does not take held all others up, in a state of `writing`.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_too_large_is_named() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("large");
    create_topic(&client, &topic, 1, &[("max.message.bytes", "10000")]).await;
    let (postgres, sql) = shop(ORDERS).await;
    let project = totals(&kafka, &postgres, &topic, "format = 'json'");
    let server = Server::start(&project).await;
    // It does not compress.
    sql.batch_execute(
        "INSERT INTO orders SELECT 4, string_agg(md5(i::text), '') || 'z', 1 FROM generate_series(1, 2000) i",
    )
    .await
    .expect("SQL");
    server.source_says("more than topic").await;
    for _ in 0..20 {
        let (_, said) = tests::http::get(&server.address(), "/readyz").await;
        assert!(said.contains("max.message.bytes"), "{said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sql.batch_execute("DELETE FROM orders WHERE id = 4; UPDATE orders SET amount = 5 WHERE id = 3").await.expect("SQL");
    holds(
        &client,
        &topic,
        json!({
            "{\"customer\":\"ann\"}": { "customer": "ann", "total": 3.5, "n": 2 },
            "{\"customer\":\"bob\"}": { "customer": "bob", "total": 5.0, "n": 1 },
        }),
    )
    .await;
    server.source_says("writing").await;
    server.stop().await;
}

/// Topics that would be fed by what is read of them, or that two queries write.
#[tokio::test(flavor = "multi_thread")]
async fn topics_that_would_undo_themselves_are_refused() {
    let of = |topic: &str, more: &str| {
        format!("WITH (connector = 'kafka', brokers = 'nowhere:9092', topic = '{topic}', format = 'json'{more})")
    };
    let columns = "(id BIGINT PRIMARY KEY, n BIGINT)";
    let project = ProjectFolder::of(&format!(
        "CREATE TABLE a {columns} {};
         CREATE TABLE b {columns} {};
         CREATE TABLE c {columns} {};
         CREATE TABLE one {columns} {}; INSERT INTO one SELECT id, n + 1 FROM a;
         CREATE TABLE two {columns} {}; INSERT INTO two SELECT id, n FROM b;
         CREATE TABLE three {columns} {}; INSERT INTO three SELECT id, n FROM c;
         CREATE TABLE fine {columns} {}; INSERT INTO fine SELECT id, n FROM a;",
        of("a", ""),
        of("b", ", dead_letters = 'b'"),
        of("c", ", dead_letters = 'shared'"),
        of("a", ""),
        of("shared", ""),
        of("shared", ""),
        of("c", ""),
    ));
    let Err(wrong) = prepare(project.path(), Ask::Nobody).await else { panic!("it is let in") };
    let wrong = wrong.to_string();
    for said in [
        "what is written to topic `a` is read again by its own query, as table `a`",
        "dead letters of `b` go to topic `b`, which is read as `b`: they would become letters again",
        "topic `shared` is written for table `three` too: each would take the other's rows away",
        "dead letters of `c` go to topic `shared`, which has the rows of `",
    ] {
        assert!(wrong.contains(said), "{said}: {wrong}");
    }
    assert_eq!(wrong.matches("error").count(), 4, "{wrong}");
}
