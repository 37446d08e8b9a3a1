//! The broker, the registry and Debezium themselves.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use serde_json::{Value, json};
use tests::postgres;
use xtask::kafka::{ADMIN, ALICE, PrivateDebezium, PrivateKafka, PrivateRegistry};

use crate::client::{Sender, config, consumer, create_topic, first_messages, text, unique};

/// As after a power cut: what was acknowledged is there, and clients find the broker where it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_kill() {
    let mut kafka = PrivateKafka::start().expect("a broker");
    let (client, topic) = (config(kafka.bootstrap()), unique("orders"));
    create_topic(&client, &topic, 1, &[]).await;
    let sender = Sender::new(&client);
    sender.send(&topic, &[("1", "one"), ("2", "two")]).expect("taken");

    kafka.kill().expect("ours");
    consumer(&client).fetch_metadata(Some(&topic), Duration::from_millis(300)).expect_err("nobody is there");
    kafka.start_again().expect("a broker");
    sender.send(&topic, &[("3", "three")]).expect("taken");
    kafka.stop().expect("ours");
    kafka.start_again().expect("a broker");
    kafka.start_again().expect_err("it runs");

    let messages = first_messages(&client, &topic, 3);
    assert_eq!(messages.iter().map(text).collect::<Vec<_>>(), ["one", "two", "three"]);
}

/// Each listener lets in whom it should, and nobody else: a test of passwords on a broker that takes any would pass.
#[tokio::test(flavor = "multi_thread")]
async fn users_and_certificates_are_looked_at() {
    let kafka = PrivateKafka::start().expect("a broker");
    let (everyone, topic) = (config(kafka.bootstrap()), unique("secrets"));
    create_topic(&everyone, &topic, 1, &[]).await;
    let (sasl, sasl_ssl) = (kafka.sasl_bootstrap().expect("ours"), kafka.sasl_ssl_bootstrap().expect("ours"));
    let (ssl, ca) = (kafka.ssl_bootstrap().expect("ours"), kafka.ca_file().expect("ours").display().to_string());
    let (certificate, key) = kafka.client_files().expect("ours");

    let user = |bootstrap: &str, mechanism: &str, (name, password): (&str, &str)| {
        let mut client = config(bootstrap);
        client.set("security.protocol", "SASL_PLAINTEXT").set("sasl.mechanism", mechanism);
        client.set("sasl.username", name).set("sasl.password", password);
        client
    };
    let over_tls = |mut client: ClientConfig, protocol: &str| {
        client.set("security.protocol", protocol).set("ssl.ca.location", &ca);
        client
    };
    let lets_in = |client: &ClientConfig, patience: Duration| {
        consumer(client).fetch_metadata(Some(&topic), patience).is_ok_and(|metadata| metadata.topics().len() == 1)
    };
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for who in [ADMIN, ALICE] {
            let client = user(&sasl, mechanism, who);
            assert!(lets_in(&client, tests::PATIENCE), "{mechanism} {who:?}");
            let client = over_tls(user(&sasl_ssl, mechanism, who), "SASL_SSL");
            assert!(lets_in(&client, tests::PATIENCE), "{mechanism} {who:?} over TLS");
        }
        let stranger = user(&sasl, mechanism, (ALICE.0, "guessed"));
        assert!(!lets_in(&stranger, Duration::from_secs(2)), "{mechanism} with a wrong password");
    }
    let mut client = over_tls(config(&ssl), "SSL");
    assert!(lets_in(&client, tests::PATIENCE), "TLS");
    client.set("ssl.certificate.location", certificate.to_string_lossy());
    client.set("ssl.key.location", key.to_string_lossy());
    assert!(lets_in(&client, tests::PATIENCE), "TLS with a certificate of the client's");
    let mut trusting_others = config(&ssl);
    trusting_others.set("security.protocol", "SSL");
    assert!(!lets_in(&trusting_others, Duration::from_secs(2)), "TLS without the authority's certificate");
    assert!(!lets_in(&config(&sasl), Duration::from_secs(2)), "the clear where a user is wanted");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_access_lists_hold() {
    let kafka = PrivateKafka::start_with(&["message.max.bytes=1000"]).expect("a broker");
    let (everyone, topic) = (config(kafka.bootstrap()), unique("small"));
    create_topic(&everyone, &topic, 1, &[]).await;
    let refused = Sender::new(&everyone).send(&topic, &[("1", &"x".repeat(2000))]).expect_err("too large");
    assert_eq!(refused, KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge));

    let deny = ["--add", "--deny-principal", "User:alice", "--operation", "Write", "--topic", &topic];
    kafka.tool("org.apache.kafka.tools.AclCommand", &deny).expect("an access list");
    let mut alice = config(&kafka.sasl_bootstrap().expect("ours"));
    alice.set("security.protocol", "SASL_PLAINTEXT").set("sasl.mechanism", "PLAIN");
    alice.set("sasl.username", ALICE.0).set("sasl.password", ALICE.1);
    let refused = Sender::new(&alice).send(&topic, &[("1", "x")]).expect_err("not hers");
    assert_eq!(refused, KafkaError::MessageProduction(RDKafkaErrorCode::TopicAuthorizationFailed));
}

#[test]
fn the_registry_gives_what_was_registered() {
    let mut registry = PrivateRegistry::start().expect("a registry");
    let schema = r#"{"type":"record","name":"order","fields":[{"name":"id","type":"long"}]}"#;
    let register = |registry: &PrivateRegistry, schema: &str| {
        let body = json!({ "schema": schema }).to_string();
        registry.ask("POST", "/subjects/orders-value/versions", &body).expect("an answer")
    };
    let (status, answer) = register(&registry, schema);
    assert_eq!(status, 200, "{answer}");
    let id = serde_json::from_str::<Value>(&answer).expect("JSON")["id"].as_i64().expect("an id");
    let (status, answer) = registry.ask("GET", &format!("/schemas/ids/{id}"), "").expect("an answer");
    let told: Value = serde_json::from_str(&answer).expect("JSON");
    let told: Value = serde_json::from_str(told["schema"].as_str().expect("a schema")).expect("JSON");
    assert_eq!((status, told), (200, serde_json::from_str(schema).expect("JSON")));

    // As with Confluent's default, a field that old messages lack needs a default.
    let (status, answer) = register(&registry, &schema.replace(r#""id""#, r#""number""#));
    assert_eq!(status, 409, "{answer}");
    let (status, answer) = registry.ask("GET", "/schemas/ids/999", "").expect("an answer");
    assert_eq!((status, answer.contains("40403")), (404, true), "{answer}");

    // In memory alone.
    registry.kill();
    registry.ask("GET", "/subjects", "").expect_err("nobody is there");
    registry.start_again().expect("a registry");
    assert_eq!(registry.ask("GET", "/subjects", "").expect("an answer"), (200, "[]".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn debezium_sends_a_table_and_its_changes() {
    let (kafka, postgres) = (PrivateKafka::start().expect("a broker"), postgres());
    let sql = |sql: &str| postgres.psql_in("shop", sql).expect("SQL");
    sql("CREATE TABLE orders (id int PRIMARY KEY, total int); INSERT INTO orders VALUES (1, 30);
         CREATE TABLE others (id int PRIMARY KEY)");
    let mut debezium = PrivateDebezium::start(&kafka, &postgres, "shop", &["public.orders"], &[]).expect("Debezium");
    sql("UPDATE orders SET total = 31; DELETE FROM orders; INSERT INTO others VALUES (1)");
    let (client, topic) = (config(kafka.bootstrap()), debezium.topic("public.orders"));
    let told = |count| -> Vec<Value> {
        let messages = first_messages(&client, &topic, count);
        messages.iter().filter_map(|message| serde_json::from_slice(rdkafka::Message::payload(message)?).ok()).collect()
    };
    // The fourth message, after the one of the delete, is a tombstone.
    let envelopes = told(4);
    assert_eq!(envelopes.iter().map(|envelope| &envelope["op"]).collect::<Vec<_>>(), ["r", "u", "d"]);
    assert_eq!(envelopes[0]["after"], json!({ "id": 1, "total": 30 }));
    assert_eq!(envelopes[1]["after"], json!({ "id": 1, "total": 31 }));
    assert_eq!(envelopes[2]["after"], json!(null));
    let topics = consumer(&client).fetch_metadata(None, tests::PATIENCE).expect("metadata");
    assert!(topics.topics().iter().all(|topic| topic.name() != debezium.topic("public.others")));

    // It goes on where it had got to, and misses nothing that was done without it.
    debezium.stop();
    sql("TRUNCATE orders");
    debezium.start_again().expect("Debezium");
    assert_eq!(told(5).last().expect("one more")["op"], "t");
}

/// A connector that fails leaves Kafka Connect standing, which would wait for ever.
#[test]
fn a_debezium_that_can_not_start_says_why() {
    let (kafka, postgres) = (PrivateKafka::start().expect("a broker"), postgres());
    let error = PrivateDebezium::start(&kafka, &postgres, "nowhere", &[], &[]).expect_err("no such database");
    assert!(format!("{error:#}").contains("\"nowhere\" does not exist"), "{error:#}");
}
