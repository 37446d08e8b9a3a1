//! Messages a second into a filter and into a join, beside a bare consumer.

use std::time::Instant;

use anyhow::{Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tests::{ProjectFolder, Server};
use xtask::kafka::PrivateRegistry;

use super::{Bench, PATIENCE, median, messages};
use crate::numbers::figure;

const MESSAGES: usize = 1_000_000;
/// Times that each is measured, in turn.
const ROUNDS: usize = 5;

pub async fn measure(bench: &Bench, registry: &PrivateRegistry) -> Result<()> {
    let schema = serde_json::json!({ "schema": messages::SCHEMA }).to_string();
    let (status, answer) = registry.ask("POST", "/subjects/avro-value/versions", &schema)?;
    ensure!(status == 200, "the registry answers {status}: {answer}");
    let id = serde_json::from_str::<serde_json::Value>(&answer)?["id"].as_u64().unwrap_or_default();
    let id = u32::try_from(id)?;

    for topic in ["json", "debezium", "avro", "customers"] {
        bench.make_topic(topic).await?;
    }
    eprintln!("writing {MESSAGES} messages to each of three topics");
    let (mut text, mut bytes) = (String::new(), Vec::new());
    let all = |make: &mut dyn FnMut(usize) -> Vec<u8>| -> Vec<Vec<u8>> { (0..MESSAGES).map(make).collect() };
    let mut sizes = Vec::new();
    for topic in ["json", "debezium", "avro"] {
        let values = all(&mut |n| match topic {
            "json" => {
                messages::json(n, &mut text);
                text.as_bytes().to_vec()
            }
            "debezium" => {
                messages::debezium(n, &mut text);
                text.as_bytes().to_vec()
            }
            _ => {
                messages::avro(id, n, &mut bytes);
                bytes.clone()
            }
        });
        sizes.push(values.iter().map(Vec::len).sum::<usize>());
        let keys: Vec<String> = (0..MESSAGES).map(|n| format!(r#"{{"id":{n}}}"#)).collect();
        bench.fill(topic, keys.iter().map(String::as_bytes).zip(values.iter().map(Vec::as_slice)))?;
    }
    let customers: Vec<(String, String)> =
        (0..1000).map(|n| (n.to_string(), format!(r#"{{"name":"customer {n}"}}"#))).collect();
    bench.fill("customers", customers.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())))?;

    println!("{:>10} {:>14} {:>14} {:>14} {:>10}", "", "bare, msg/s", "filter, msg/s", "join, msg/s", "filter MB/s");
    for (topic, size) in ["json", "debezium", "avro"].into_iter().zip(sizes) {
        let table = match topic {
            "json" => {
                format!("CREATE TABLE orders ({}) WITH ($K, topic = 'json', format = 'json');", messages::COLUMNS)
            }
            "debezium" => format!(
                "CREATE TABLE orders ({}) WITH ($K, topic = 'debezium', format = 'debezium-json');",
                messages::COLUMNS.replacen("id BIGINT", "id BIGINT PRIMARY KEY", 1)
            ),
            _ => format!(
                "CREATE TABLE orders ({}) WITH ($K, topic = 'avro', format = 'avro', registry = '{}');",
                messages::COLUMNS,
                registry.url()
            ),
        };
        let kafka = format!("connector = 'kafka', brokers = '{}'", bench.brokers);
        let filter = "CREATE MATERIALIZED VIEW v AS SELECT id, city, amount FROM orders WHERE amount > 9900;";
        let join =
            "CREATE TABLE customers (id INT PRIMARY KEY, name TEXT) WITH ($K, topic = 'customers', format = 'json');
            CREATE MATERIALIZED VIEW v AS SELECT c.name, count(*) AS n, sum(o.quantity) AS quantity
            FROM orders o JOIN customers c ON c.id = o.customer GROUP BY c.name;";
        let project = |query: &str| ProjectFolder::of(&format!("{table}{query}").replace("$K", &kafka));
        let (filter, join) = (project(filter), project(join));
        let (mut bare, mut filtered, mut joined) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.push(consume(bench, topic)?);
            filtered.push(serve(&filter, 10_000, 99).await?);
            joined.push(serve(&join, 1000, 1000).await?);
        }
        let rate = |seconds: &[f64]| MESSAGES as f64 / median(seconds);
        let megabytes = size as f64 / median(&filtered) / 1e6;
        println!(
            "{topic:>10} {:>14.0} {:>14.0} {:>14.0} {megabytes:>10.0}",
            rate(&bare),
            rate(&filtered),
            rate(&joined)
        );
        figure(&format!("kafka_{topic}_over_bare_consumer"), median(&bare) / median(&filtered), "ratio");
        figure(&format!("kafka_{topic}_join_over_bare_consumer"), median(&bare) / median(&joined), "ratio");
    }
    Ok(())
}

/// Seconds until a bare consumer has counted a topic.
fn consume(bench: &Bench, topic: &str) -> Result<f64> {
    let started = Instant::now();
    // As ours is set up: by default a full queue makes librdkafka pause for a second, and it is the slower of
    // the two.
    let mut config = bench.client.clone();
    config.set("queued.max.messages.kbytes", "32768").set("fetch.queue.backoff.ms", "5");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&list)?;
    let (mut count, mut bytes) = (0, 0);
    while count < MESSAGES {
        if let Some(message) = consumer.poll(PATIENCE) {
            count += 1;
            bytes += message?.payload_len();
        }
    }
    ensure!(bytes > 0, "the topic is empty");
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds until a projection over the topic is served.
async fn serve(project: &ProjectFolder, at_most: usize, at_least: usize) -> Result<f64> {
    let started = Instant::now();
    let server = Server::start(project).await;
    let seconds = started.elapsed().as_secs_f64();
    let (_, page) = tests::http::get(&server.address(), "/v1/projections/v").await;
    let rows = serde_json::from_str::<serde_json::Value>(&page)?["rows"].as_array().map_or(0, Vec::len);
    ensure!((at_least..=at_most).contains(&rows), "the projection has {rows} rows: {}", &page[..page.len().min(300)]);
    server.stop().await;
    Ok(seconds)
}
