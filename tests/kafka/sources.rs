//! Topics as tables, on a real broker.

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rdkafka::admin::{AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use server::prepare::{Ask, prepare};
use tests::{PATIENCE, ProjectFolder, Server, eventually};
use xtask::kafka::{ADMIN, PrivateKafka};

use crate::client::{Sender, admin, broker, config, create_topic, first_messages, send_to, shows, text, unique};

/// A table of one number, `id`, read from a topic of JSON, and a projection of it.
fn ids(kafka: &PrivateKafka, name: &str, topic: &str, more: &str) -> String {
    format!(
        "CREATE TABLE {name} (id BIGINT)
           WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'json'{more});
         CREATE MATERIALIZED VIEW {name}_ids AS SELECT id FROM {name};",
        kafka.bootstrap()
    )
}

fn id(id: i64) -> Vec<u8> {
    format!(r#"{{"id":{id}}}"#).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_a_table_in_both_modes() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let (events, payments) = (unique("events"), unique("payments"));
    create_topic(&client, &events, 2, &[]).await;
    create_topic(&client, &payments, 3, &[("cleanup.policy", "compact")]).await;
    let sender = Sender::new(&client);
    sender.send(&events, &[("a", r#"{"id":1,"kind":"seen"}"#), ("b", r#"{"id":1,"kind":"seen"}"#)]).expect("taken");
    sender
        .send(&payments, &[("7", r#"{"state":"open","amount":12.50}"#), ("8", r#"{"state":"open"}"#)])
        .expect("taken");
    let project = ProjectFolder::of(&format!(
        "CREATE TABLE events (id BIGINT, kind TEXT, part INT, at TIMESTAMPTZ, k TEXT)
           WITH (connector = 'kafka', brokers = '{0}', topic = '{events}', format = 'json',
                 partition_column = 'part', timestamp_column = 'at', key_column = 'k');
         CREATE TABLE payments (order_id BIGINT PRIMARY KEY, state TEXT, amount NUMERIC(10, 2))
           WITH (connector = 'kafka', brokers = '{0}', topic = '{payments}', format = 'json', mode = 'upsert');
         CREATE MATERIALIZED VIEW kinds AS SELECT kind, count(*) AS n, count(at) AS times, max(k) AS k
           FROM events GROUP BY kind;
         CREATE MATERIALIZED VIEW paid AS SELECT * FROM payments;",
        kafka.bootstrap()
    ));
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("kinds").await;
    subscriber.subscribe("paid").await;
    shows(&mut subscriber, "kinds", json!([["seen", 2, 2, "b"]])).await;
    shows(&mut subscriber, "paid", json!([[7, "open", "12.50"], [8, "open", null]])).await;

    sender.send_raw(&payments, Some(b"7"), Some(br#"{"order_id":7,"state":"paid"}"#));
    sender.send_raw(&payments, Some(b"8"), None);
    sender.send_raw(&payments, Some(b"9"), None);
    shows(&mut subscriber, "paid", json!([[7, "paid", null]])).await;
    server.stop().await;
}

/// One bad message loses itself alone, and is kept with all that a person needs to see to it.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_kept_with_the_reason() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let (topic, letters) = (unique("orders"), unique("dead"));
    create_topic(&client, &topic, 1, &[]).await;
    create_topic(&client, &letters, 1, &[]).await;
    let sender = Sender::new(&client);
    sender.send_raw(&topic, Some(b"1"), Some(&id(1)));
    sender.send_raw(&topic, Some(b"\xff\x00"), Some(br#"{"id":"one"}"#));
    sender.send_raw(&topic, None, Some(&id(3)));
    sender.send_raw(&topic, None, None);
    let project = ProjectFolder::of(&format!(
        "{}
         CREATE MATERIALIZED VIEW unread AS
           SELECT table_name, partition, \"offset\", value_text, value_bytes FROM deltafront_dead_letters
           WHERE topic = '{topic}';",
        ids(&kafka, "orders", &topic, &format!(", dead_letters = '{letters}'"))
    ));
    for _restart in 0..2 {
        let server = Server::start(&project).await;
        let mut subscriber = server.subscriber().await;
        subscriber.subscribe("orders_ids").await;
        subscriber.subscribe("unread").await;
        shows(&mut subscriber, "orders_ids", json!([[1], [3]])).await;
        let unread = json!([["orders", 0, 1, r#"{"id":"one"}"#, 12], ["orders", 0, 3, null, null]]);
        shows(&mut subscriber, "unread", unread).await;
        let counted = format!("source_dead_letters_total{{source=\"{topic}\"}} 2");
        let metrics = || async { tests::http::get(&server.address(), "/metrics").await.1 };
        eventually(metrics, |metrics| metrics.contains(&counted)).await;
        // Offsets are committed within a second or so: what is before them is not written again.
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.stop().await;
    }
    let written = first_messages(&client, &letters, 2);
    assert_eq!((written[0].key(), written[0].payload()), (Some(&b"\xff\x00"[..]), Some(&br#"{"id":"one"}"#[..])));
    let header = |name: &str| {
        let headers = written[0].headers().expect("headers");
        let found = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
        String::from_utf8(found.expect("the header").to_vec()).expect("text")
    };
    assert_eq!(header("__connect.errors.topic"), topic);
    assert_eq!(header("__connect.errors.partition"), "0");
    assert_eq!(header("__connect.errors.offset"), "1");
    let reason = header("__connect.errors.exception.message");
    assert!(reason.contains("id"), "{reason}");
    let (_, end) = crate::client::watermarks(&client, &letters, 0);
    assert_eq!(end, 2, "a restart wrote letters again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_no_message_lost_is_stopped_before_it() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("orders");
    create_topic(&client, &topic, 1, &[]).await;
    let sender = Sender::new(&client);
    sender.send_raw(&topic, None, Some(&id(1)));
    let server = Server::start(&ProjectFolder::of(&ids(&kafka, "orders", &topic, ", on_error = 'stop'"))).await;
    sender.send_raw(&topic, None, Some(b"{"));
    server.source_says(&format!("stopped: message 1 of partition 0 of {topic} can't be read")).await;
    server.stop().await;
}

/// An admin adds partitions; what is in them is read from their beginning, whenever they are found.
#[tokio::test(flavor = "multi_thread")]
async fn new_partitions_are_found() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("orders");
    create_topic(&client, &topic, 1, &[]).await;
    Sender::new(&client).send_raw(&topic, None, Some(&id(100)));
    let server = Server::start(&ProjectFolder::of(&ids(&kafka, "orders", &topic, ", start = 'latest'"))).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("orders_ids").await;
    let made = admin(&client).create_partitions([&NewPartitions::new(&topic, 3)], &AdminOptions::new()).await;
    assert_eq!(made.expect("an answer"), [Ok(topic.clone())]);
    for partition in 0..3 {
        eventually(|| async { send_to(&client, &topic, partition, "k", &id(partition.into())) }, Result::is_ok)
            .await
            .expect("it is");
    }
    shows(&mut subscriber, "orders_ids", json!([[0], [1], [2]])).await;
    server.stop().await;
}

/// A topic that was made again has other messages under the same offsets. Read on, it would have
/// shown rows of the old one beside those of the new one from somewhere in its middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_stops_its_source_and_no_other() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let (topic, other) = (unique("orders"), unique("other"));
    create_topic(&client, &topic, 1, &[]).await;
    create_topic(&client, &other, 1, &[]).await;
    let sender = Sender::new(&client);
    sender.send_raw(&topic, Some(b"1"), Some(&id(1)));
    let project = ProjectFolder::of(
        &[
            ids(&kafka, "stops", &topic, ""),
            ids(&kafka, "goes_on", &topic, ", on_data_loss = 'earliest', source = 'lenient'").replacen(
                "id BIGINT",
                "id BIGINT PRIMARY KEY",
                1,
            ),
            ids(&kafka, "others", &other, ""),
        ]
        .concat(),
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("goes_on_ids").await;
    subscriber.subscribe("others_ids").await;
    shows(&mut subscriber, "goes_on_ids", json!([[1]])).await;
    let deleted = admin(&client).delete_topics(&[&topic], &AdminOptions::new()).await;
    assert_eq!(deleted.expect("an answer"), [Ok(topic.clone())]);
    let make = || async {
        let again = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
        admin(&client).create_topics([&again], &AdminOptions::new()).await.expect("an answer").remove(0)
    };
    eventually(make, Result::is_ok).await.expect("it is");
    for number in 2..=4 {
        eventually(|| async { send_to(&client, &topic, 0, &number.to_string(), &id(number)) }, Result::is_ok)
            .await
            .expect("it is");
    }
    server.source_says("was deleted and made again").await;
    shows(&mut subscriber, "goes_on_ids", json!([[1], [2], [3], [4]])).await;
    sender.send_raw(&other, None, Some(&id(5)));
    shows(&mut subscriber, "others_ids", json!([[5]])).await;
    server.stop().await;
}

/// While the broker is away nothing is lost; and a topic that begins later than at 0 is read from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_away_is_read_on_from_where_it_was_left() {
    let mut kafka = PrivateKafka::start().expect("a broker");
    let client = config(kafka.bootstrap());
    let topic = unique("orders");
    create_topic(&client, &topic, 1, &[]).await;
    let sender = Sender::new(&client);
    sender.send_raw(&topic, None, Some(&id(1)));
    let project = ProjectFolder::of(
        &[
            ids(&kafka, "stops", &topic, ""),
            ids(&kafka, "goes_on", &topic, ", on_data_loss = 'earliest', source = 'lenient'"),
        ]
        .concat(),
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("goes_on_ids").await;
    shows(&mut subscriber, "goes_on_ids", json!([[1]])).await;
    kafka.kill().expect("ours");
    server.source_says("trying again after").await;
    kafka.start_again().expect("a broker");
    let sender = Sender::new(&client);
    for number in 2..=5 {
        sender.queue(&topic, "k", std::str::from_utf8(&id(number)).expect("text"));
    }
    sender.flush().expect("taken");
    shows(&mut subscriber, "goes_on_ids", json!([[1], [2], [3], [4], [5]])).await;
    server.stop().await;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(4)).expect("an offset");
    admin(&client).delete_records(&list, &AdminOptions::new()).await.expect("an answer");
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("stops_ids").await;
    shows(&mut subscriber, "stops_ids", json!([[5]])).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_passwords_and_certificates_are_passed_on() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("orders");
    create_topic(&client, &topic, 1, &[]).await;
    Sender::new(&client).send_raw(&topic, None, Some(&id(1)));
    let project = |password: &str| {
        ProjectFolder::of(&format!(
            "CREATE TABLE orders (id BIGINT) WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'json',
               'security.protocol' = 'SASL_SSL', 'sasl.mechanism' = 'SCRAM-SHA-512', 'sasl.username' = '{}',
               'sasl.password' = '{password}', 'ssl.ca.location' = '{}');
             CREATE MATERIALIZED VIEW ids AS SELECT id FROM orders;",
            kafka.sasl_ssl_bootstrap().expect("ours"),
            ADMIN.0,
            kafka.ca_file().expect("ours").display()
        ))
    };
    let server = Server::start(&project(ADMIN.1)).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("ids").await;
    shows(&mut subscriber, "ids", json!([[1]])).await;
    server.stop().await;
    let Err(wrong) = prepare(project("guessed").path(), Ask::Databases).await else { panic!("it is let in") };
    let text = wrong.to_string();
    assert!(text.contains("refuse the user or the password") && !text.contains("guessed"), "{text}");
}

/// Nothing lost, nothing twice, though the broker is killed while it is written to and read.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_again_and_again_loses_and_doubles_nothing() {
    let mut kafka = PrivateKafka::start().expect("a broker");
    let client = config(kafka.bootstrap());
    let topic = unique("orders");
    create_topic(&client, &topic, 2, &[]).await;
    let project = ProjectFolder::of(&format!(
        "{}
         CREATE MATERIALIZED VIEW totals AS
           SELECT count(*) AS n, count(DISTINCT id) AS different, max(id) AS last FROM orders;",
        ids(&kafka, "orders", &topic, "")
    ));
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("totals").await;
    let mut idempotent = client.clone();
    idempotent.set("enable.idempotence", "true");
    let sender = Sender::new(&idempotent);
    let mut sent = 0_i64;
    for round in 0..3 {
        for _ in 0..50 {
            sent += 1;
            sender.queue(&topic, &sent.to_string(), std::str::from_utf8(&id(sent)).expect("text"));
        }
        if round < 2 {
            tokio::time::sleep(Duration::from_millis(20 * round)).await;
            kafka.kill().expect("ours");
            kafka.start_again().expect("a broker");
        }
    }
    sender.flush().expect("taken");
    shows(&mut subscriber, "totals", json!([[sent, sent, sent]])).await;
    server.stop().await;
}

/// A token endpoint that grants one token to whoever knows the secret (RFC 6749, section 4.4), and a
/// broker that takes it.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_got_from_an_endpoint() {
    const SECRET: &str = "c2VydmljZTpzM2NyZXQ=";
    let kafka = PrivateKafka::start_with(&[
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"admin\";",
    ])
    .expect("a broker");
    let client = config(kafka.bootstrap());
    let topic = unique("orders");
    create_topic(&client, &topic, 1, &[]).await;
    Sender::new(&client).send_raw(&topic, None, Some(&id(1)));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let claims = json!({ "sub": ADMIN.0, "iat": now, "exp": now + 600 }).to_string();
        let token = format!(
            "{}.{}.",
            BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            BASE64_URL_SAFE_NO_PAD.encode(claims)
        );
        let granted = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 600 }).to_string();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).expect("a request");
            let asked = String::from_utf8_lossy(&asked[..length]).to_lowercase();
            let is_known = asked.contains(&format!("authorization: basic {}", SECRET.to_lowercase()));
            let (status, body) = if is_known { ("200 OK", granted.as_str()) } else { ("401 Unauthorized", "{}") };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).expect("sent");
        }
    });
    let project = |secret: &str| {
        ProjectFolder::of(&format!(
            "CREATE TABLE orders (id BIGINT) WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'json',
               'security.protocol' = 'SASL_PLAINTEXT', 'sasl.mechanism' = 'OAUTHBEARER',
               'sasl.oauthbearer.token.endpoint.url' = 'http://{endpoint}/token',
               'sasl.oauthbearer.client.id' = 'service', 'sasl.oauthbearer.client.secret' = '{secret}');
             CREATE MATERIALIZED VIEW ids AS SELECT id FROM orders;",
            kafka.sasl_bootstrap().expect("ours")
        ))
    };
    let server = Server::start(&project("s3cret")).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("ids").await;
    shows(&mut subscriber, "ids", json!([[1]])).await;
    server.stop().await;
    let Err(wrong) = prepare(project("guessed").path(), Ask::Databases).await else { panic!("it is let in") };
    let text = wrong.to_string();
    assert!(text.contains("token endpoint answers 401") && !text.contains("guessed"), "{text}");
}

/// Letters that were found while none were written anywhere went nowhere for good: what is committed to the group said
/// that their messages had been read.
#[tokio::test(flavor = "multi_thread")]
async fn letters_are_written_where_they_go_now() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let (topic, letters) = (unique("orders"), unique("letters"));
    create_topic(&client, &topic, 1, &[]).await;
    let sender = Sender::new(&client);
    sender.send(&topic, &[("1", "{\"id\": 1}"), ("2", "no JSON")]).expect("sent");
    let server = Server::start(&ProjectFolder::of(&ids(&kafka, "orders", &topic, ""))).await;
    // Committed once a second.
    let committed = || async {
        let consumer: BaseConsumer = client.clone().set("group.id", "deltafront_test").create().expect("a consumer");
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&topic, 0);
        let found = consumer.committed_offsets(asked, PATIENCE).expect("an answer");
        found.find_partition(&topic, 0).map(|element| element.offset())
    };
    eventually(committed, |offset| *offset == Some(Offset::Offset(2))).await;
    server.stop().await;
    let more = format!(", dead_letters = '{letters}'");
    let Err(wrong) = prepare(ProjectFolder::of(&ids(&kafka, "orders", &topic, &more)).path(), Ask::Databases).await
    else {
        panic!("there is no such topic")
    };
    assert!(wrong.to_string().contains("for dead letters"), "{wrong}");
    create_topic(&client, &letters, 1, &[]).await;
    let server = Server::start(&ProjectFolder::of(&ids(&kafka, "orders", &topic, &more))).await;
    assert_eq!(text(&first_messages(&client, &letters, 1)[0]), "no JSON");
    server.stop().await;
}

/// A letter that its topic did not take held its source up for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_too_large_is_written_cut() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let (topic, letters) = (unique("orders"), unique("letters"));
    create_topic(&client, &topic, 1, &[]).await;
    create_topic(&client, &letters, 1, &[("max.message.bytes", "20000")]).await;
    // It does not compress.
    let mut random = fastrand::Rng::with_seed(1);
    let large: String = std::iter::repeat_with(|| random.alphanumeric()).take(100_000).collect();
    let sender = Sender::new(&client);
    sender.send(&topic, &[("1", &large), ("2", "no JSON"), ("3", "{\"id\": 3}")]).expect("sent");
    let server =
        Server::start(&ProjectFolder::of(&ids(&kafka, "orders", &topic, &format!(", dead_letters = '{letters}'"))))
            .await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("orders_ids").await;
    shows(&mut subscriber, "orders_ids", json!([[3]])).await;
    let written = first_messages(&client, &letters, 2);
    let mut values: Vec<&str> = written.iter().map(text).collect();
    values.sort_unstable_by_key(|value| value.len());
    assert_eq!(values, ["no JSON", &large[..4096]]);
    let cut = written.iter().find(|letter| text(letter).len() == 4096).expect("it");
    let headers = cut.headers().expect("headers");
    let said: Vec<&str> = headers.iter().map(|header| header.key).collect();
    assert!(said.contains(&"__deltafront.cut") && said.contains(&"__connect.errors.offset"), "{said:?}");
    server.stop().await;
}

/// An admin adds partitions, and a key's messages come to another one from then on. Read side by side after a restart,
/// what the old partition has of a key came after what the new one has: old values for good, and deleted rows were back.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_moved_to_another_partition_have_their_last_value() {
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let topic = unique("moved");
    create_topic(&client, &topic, 1, &[]).await;
    let sender = Sender::new(&client);
    for round in 0..20 {
        for key in 0..2000 {
            sender.queue(&topic, &key.to_string(), &format!("{{\"round\":{round}}}"));
        }
    }
    sender.flush().expect("sent");
    admin(&client).create_partitions(&[NewPartitions::new(&topic, 3)], &AdminOptions::new()).await.expect("an answer");
    let ends = || async { crate::client::watermarks(&client, &topic, 2) };
    eventually(ends, |ends| *ends == (0, 0)).await;
    // It knows of the new ones.
    let sender = Sender::new(&client);
    for key in 0..200 {
        sender.queue_to(&topic, 1 + key % 2, &key.to_string(), (key % 2 == 0).then_some("{\"round\":100}"));
    }
    sender.flush().expect("sent");
    let project = ProjectFolder::of(&format!(
        "CREATE TABLE t (id INT PRIMARY KEY, round INT)
           WITH (connector = 'kafka', brokers = '{}', topic = '{topic}', format = 'json', 'fetch.message.max.bytes' = '20000');
         CREATE MATERIALIZED VIEW rounds AS SELECT round, count(*) AS n FROM t GROUP BY round;",
        kafka.bootstrap()
    ));
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("rounds").await;
    shows(&mut subscriber, "rounds", json!([[19, 1800], [100, 100]])).await;
    server.stop().await;
}
