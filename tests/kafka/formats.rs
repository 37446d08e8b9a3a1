//! What the bytes of messages mean, with a real registry where there is one.

use rdkafka::admin::AdminOptions;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tests::{ProjectFolder, Server};
use xtask::kafka::PrivateRegistry;

use crate::client::{Sender, admin, broker, config, create_topic, shows, unique};

/// Avro as its specification has it (1.11, "Binary Encoding"): a long.
fn long(value: i64, out: &mut Vec<u8>) {
    let mut left = (value << 1 ^ value >> 63).cast_unsigned();
    while left > 0x7f {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn text(text: &str, out: &mut Vec<u8>) {
    long(text.len().cast_signed() as i64, out);
    out.extend_from_slice(text.as_bytes());
}

fn framed(schema: u32, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&schema.to_be_bytes());
    body(&mut out);
    out
}

fn register(registry: &PrivateRegistry, subject: &str, schema: Value) -> u32 {
    let (status, answer) =
        registry.ask("POST", &format!("/subjects/{subject}/versions"), &schema.to_string()).expect("an answer");
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    u32::try_from(answer["id"].as_u64().expect("an id")).expect("small")
}

/// A schema that moves on while it is read, and messages that are not right in all the ways in which
/// they can't be: each loses itself alone.
#[tokio::test(flavor = "multi_thread")]
async fn avro_of_a_registry() {
    let kafka = broker();
    let registry = PrivateRegistry::start().expect("a registry");
    let client = config(kafka.bootstrap());
    let topic = unique("orders");
    create_topic(&client, &topic, 1, &[]).await;
    let subject = format!("{topic}-value");
    let field = |name: &str, of: Value| json!({ "name": name, "type": of });
    let record = |fields: Vec<Value>| json!({ "schema": json!({ "type": "record", "name": "o", "fields": fields }).to_string() });
    let first = register(&registry, &subject, record(vec![field("id", json!("int")), field("name", json!("string"))]));
    let sender = Sender::new(&client);
    let old = |id: i64, name: &str| {
        framed(first, |out| {
            long(id, out);
            text(name, out);
        })
    };
    sender.send_raw(&topic, None, Some(&old(1, "one")));
    let project = ProjectFolder::of(&format!(
        "CREATE TABLE orders WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'avro', registry = '{}',
           offset_column = 'at');
         CREATE MATERIALIZED VIEW v AS SELECT id, name FROM orders;
         CREATE MATERIALIZED VIEW unread AS SELECT \"offset\" FROM deltafront_dead_letters WHERE topic = '{topic}';",
        kafka.bootstrap(),
        registry.url()
    ));
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("v").await;
    subscriber.subscribe("unread").await;
    shows(&mut subscriber, "v", json!([[1, "one"]])).await;

    let more = json!({ "name": "more", "type": ["null", "double"], "default": null });
    let second =
        register(&registry, &subject, record(vec![field("id", json!("int")), field("name", json!("string")), more]));
    let new = framed(second, |out| {
        long(2, out);
        text("two", out);
        long(1, out);
        out.extend_from_slice(&1.5_f64.to_le_bytes());
    });
    sender.send_raw(&topic, None, Some(&new));
    sender.send_raw(&topic, None, Some(&new[..new.len() - 3]));
    sender.send_raw(&topic, None, Some(&[&new[..], b"x"].concat()));
    sender.send_raw(&topic, None, Some(&framed(999_999, |out| long(3, out))));
    sender.send_raw(&topic, None, Some(b"{\"id\":3}"));
    sender.send_raw(&topic, None, Some(b""));
    sender.send_raw(&topic, None, Some(&old(4, "four")));
    shows(&mut subscriber, "v", json!([[1, "one"], [2, "two"], [4, "four"]])).await;
    shows(&mut subscriber, "unread", json!([[2], [3], [4], [5], [6]])).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_of_a_registry() {
    let kafka = broker();
    let registry = PrivateRegistry::start().expect("a registry");
    let client = config(kafka.bootstrap());
    let topic = unique("orders");
    create_topic(&client, &topic, 1, &[]).await;
    let proto = "syntax = \"proto3\"; message Order { int64 id = 1; string name = 2; repeated int32 sizes = 3; }";
    let id = register(&registry, &format!("{topic}-value"), json!({ "schemaType": "PROTOBUF", "schema": proto }));
    // The message's place in its file, 0, is written as one zero.
    let message = |body: &[u8]| framed(id, |out| out.extend_from_slice(&[&[0], body].concat()));
    let sender = Sender::new(&client);
    sender.send_raw(&topic, None, Some(&message(&[0x08, 7, 0x12, 3, b'o', b'n', b'e', 0x1a, 2, 1, 2])));
    sender.send_raw(&topic, None, Some(&message(&[0x08])));
    sender.send_raw(&topic, None, Some(&message(&[])));
    let project = ProjectFolder::of(&format!(
        "CREATE TABLE orders WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'protobuf', registry = '{}');
         CREATE MATERIALIZED VIEW v AS SELECT id, name, sizes FROM orders;",
        kafka.bootstrap(),
        registry.url()
    ));
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("v").await;
    shows(&mut subscriber, "v", json!([[7, "one", [1, 2]], [0, "", []]])).await;
    server.stop().await;
}

/// A record a message, a text a message, bytes a message; keys as text.
#[tokio::test(flavor = "multi_thread")]
async fn csv_text_and_bytes() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let (csv, texts, bytes) = (unique("csv"), unique("texts"), unique("bytes"));
    for topic in [&csv, &texts, &bytes] {
        create_topic(&client, topic, 1, &[]).await;
    }
    let sender = Sender::new(&client);
    sender.send_raw(&csv, None, Some(b"1;\"a;b\";2026-01-31 12:00:00+00"));
    sender.send_raw(&csv, None, Some(b"2;;"));
    sender.send_raw(&csv, None, Some(b"3;too;many;fields"));
    sender.send_raw(&texts, Some(b"a"), Some("ä".as_bytes()));
    sender.send_raw(&texts, Some(b"a"), Some(b"b"));
    sender.send_raw(&texts, Some(b"b"), Some(b"\xff"));
    sender.send_raw(&bytes, None, Some(b"\x00\xff"));
    let project = ProjectFolder::of(
        &format!(
            "CREATE TABLE records (id INT, name TEXT, at TIMESTAMPTZ)
               WITH ($K, topic = '{csv}', format = 'csv', csv_delimiter = ';');
             CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT) WITH ($K, topic = '{texts}', format = 'text');
             CREATE TABLE blobs (b BYTEA) WITH ($K, topic = '{bytes}', format = 'bytes');
             CREATE MATERIALIZED VIEW r AS SELECT * FROM records;
             CREATE MATERIALIZED VIEW s AS SELECT * FROM settings;
             CREATE MATERIALIZED VIEW b AS SELECT b FROM blobs;"
        )
        .replace("$K", &format!("connector = 'kafka', brokers = '{}'", kafka.bootstrap())),
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    for projection in ["r", "s", "b"] {
        subscriber.subscribe(projection).await;
    }
    shows(&mut subscriber, "r", json!([[1, "a;b", "2026-01-31T12:00:00Z"], [2, null, null]])).await;
    shows(&mut subscriber, "s", json!([["a", "b"]])).await;
    shows(&mut subscriber, "b", json!([["AP8="]])).await;
    server.stop().await;
}

/// Lists and records within records, a message of 20 MB, and ten thousand in a row that can't be read.
#[tokio::test(flavor = "multi_thread")]
async fn nested_large_and_poisoned() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("orders");
    create_topic(&client, &topic, 1, &[("max.message.bytes", "30000000")]).await;
    let mut large = client.clone();
    large.set("message.max.bytes", "30000000");
    let sender = Sender::new(&large);
    let nested = json!({"id": 1, "lines": [{"sku": "a", "sizes": [1, null]}, null], "note": "x"});
    sender.send_raw(&topic, None, Some(nested.to_string().as_bytes()));
    for number in 0..10_000 {
        sender.queue(&topic, "k", if number % 2 == 0 { "{\"id\":" } else { "{\"id\":\"x\"}" });
    }
    sender.flush().expect("taken");
    let note = "y".repeat(20_000_000);
    sender.send_raw(&topic, None, Some(json!({ "id": 2, "note": note }).to_string().as_bytes()));
    let project = ProjectFolder::of(&format!(
        "CREATE TABLE orders (id INT, lines STRUCT<sku TEXT, sizes INT[]>[], note TEXT)
           WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'json');
         CREATE MATERIALIZED VIEW v AS SELECT id, lines, length(note) AS n FROM orders;
         CREATE MATERIALIZED VIEW unread AS SELECT count(*) AS n FROM deltafront_dead_letters WHERE topic = '{topic}';",
        kafka.bootstrap()
    ));
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("v").await;
    subscriber.subscribe("unread").await;
    let lines = json!([{"sku": "a", "sizes": [1, null]}, null]);
    shows(&mut subscriber, "v", json!([[1, lines, 1], [2, null, 20_000_000]])).await;
    shows(&mut subscriber, "unread", json!([[1000]])).await;
    let (_, metrics) = tests::http::get(&server.address(), "/metrics").await;
    assert!(metrics.contains(&format!("source_dead_letters_total{{source=\"{topic}\"}} 10000")), "{metrics}");
    server.stop().await;
}

/// A registry that is away holds the source up, and retention does not wait: what it was to read next is
/// gone when it comes to it, which is told and not passed over.
#[tokio::test(flavor = "multi_thread")]
async fn messages_deleted_before_they_were_read_are_no_silent_jump() {
    let kafka = broker();
    let mut registry = PrivateRegistry::start().expect("a registry");
    let client = config(kafka.bootstrap());
    let topic = unique("orders");
    create_topic(&client, &topic, 1, &[("max.message.bytes", "30000000")]).await;
    let fields = json!([{ "name": "id", "type": "int" }, { "name": "name", "type": "string" }]);
    let schema = json!({ "schema": json!({ "type": "record", "name": "o", "fields": fields }).to_string() });
    let id = register(&registry, &format!("{topic}-value"), schema);
    let project = ProjectFolder::of(&format!(
        "CREATE TABLE orders (id INT, name TEXT)
           WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'avro', registry = '{}',
                 'queued.max.messages.kbytes' = '1000', 'fetch.message.max.bytes' = '100000', 'fetch.max.bytes' = '2000000');
         CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM orders;",
        kafka.bootstrap(),
        registry.url()
    ));
    let server = Server::start(&project).await;
    registry.stop();
    let mut large = client.clone();
    large.set("message.max.bytes", "30000000");
    let sender = Sender::new(&large);
    let name = "y".repeat(500_000);
    let message = framed(id, |out| {
        long(1, out);
        text(&name, out);
    });
    sender.send_raw(&topic, None, Some(&message));
    server.source_says("the schema registry does not answer").await;
    for _ in 0..40 {
        sender.send_raw(&topic, None, Some(&message));
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(40)).expect("an offset");
    admin(&client).delete_records(&list, &AdminOptions::new()).await.expect("an answer");
    registry.start_again().expect("a registry");
    // It is kept in memory, and begins anew: the same schema again, under the same number.
    let again = json!({ "schema": json!({ "type": "record", "name": "o", "fields": fields }).to_string() });
    assert_eq!(register(&registry, &format!("{topic}-value"), again), id);
    server.source_says("were deleted before they were read; restart").await;
    server.stop().await;
}
