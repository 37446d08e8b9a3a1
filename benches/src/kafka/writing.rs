//! Rows of a projection as upserts, beside a bare idempotent producer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use connectors::kafka::CONNECTOR;
use connectors::sink::{SinkEvent, SinkLink, SinkRequest};
use connectors::source::{Counters, SourceState, TableRequest};
use pipeline::projection::Pair;
use pipeline::{DiffPart, Epoch, Position};
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::{mpsc, watch};

use super::{Bench, PATIENCE, median};
use crate::numbers::figure;

/// Rows, and how many of them an epoch has.
const ROWS: usize = 500_000;
const OF_EPOCH: usize = 10_000;
const ROUNDS: usize = 5;

pub async fn measure(bench: &Bench) -> Result<()> {
    let epochs: Vec<RecordBatch> =
        (0..ROWS / OF_EPOCH).map(|epoch| rows(epoch * OF_EPOCH)).collect::<Result<_, _>>()?;
    let (mut bare, mut transactional, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(produce(bench, &format!("bare-{round}")).await?);
        transactional.push(write(bench, &format!("whole-{round}"), "transactional", &epochs).await?);
        plain.push(write(bench, &format!("plain-{round}"), "at_least_once", &epochs).await?);
    }
    let rate = |seconds: &[f64]| ROWS as f64 / median(seconds);
    println!(
        "writing: bare {:.0} msg/s, at least once {:.0} msg/s, in transactions {:.0} msg/s",
        rate(&bare),
        rate(&plain),
        rate(&transactional)
    );
    figure("kafka_sink_over_bare_producer", median(&bare) / median(&transactional), "ratio");
    figure("kafka_sink_at_least_once_over_bare_producer", median(&bare) / median(&plain), "ratio");
    Ok(())
}

fn rows(from: usize) -> Result<RecordBatch> {
    let ids = || (from..from + OF_EPOCH).map(|id| id.cast_signed() as i64);
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from_iter_values(ids()))),
        ("customer", Arc::new(StringArray::from_iter_values(ids().map(|id| format!("customer number {}", id % 1000))))),
        ("note", Arc::new(StringArray::from_iter_values(ids().map(|_| "please leave it with the neighbours")))),
        ("total", Arc::new(Float64Array::from_iter_values(ids().map(|id| id as f64 + 0.25)))),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))?)
}

/// Seconds until a bare producer has written the messages, made beforehand.
async fn produce(bench: &Bench, topic: &str) -> Result<f64> {
    bench.make_topic(topic).await?;
    let messages: Vec<(String, String)> = (0..ROWS)
        .map(|id| {
            let value = format!(
                r#"{{"id":{id},"customer":"customer number {}","note":"please leave it with the neighbours","total":{id}.25}}"#,
                id % 1000
            );
            (format!(r#"{{"id":{id}}}"#), value)
        })
        .collect();
    let started = Instant::now();
    bench.fill(topic, messages.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())))?;
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds until a sink has written all epochs, told as fast as it takes them.
async fn write(bench: &Bench, topic: &str, delivery: &str, epochs: &[RecordBatch]) -> Result<f64> {
    bench.make_topic(topic).await?;
    let option = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let options = [("brokers", bench.brokers.as_str()), ("topic", topic), ("format", "json"), ("delivery", delivery)];
    let request = SinkRequest {
        table: TableRequest {
            name: topic.to_owned(),
            options: options.into_iter().map(option).collect::<BTreeMap<_, _>>(),
            columns: None,
            key: Vec::new(),
        },
        project: "bench".to_owned(),
        schema: epochs[0].schema(),
        key: Some(vec![0]),
    };
    let open = CONNECTOR.open_sink.ok_or_else(|| anyhow!("there are no sinks"))?;
    let sink = open(request).map_err(|problem| anyhow!("{}; {}", problem.what, problem.remedy))?;
    let (events, told) = mpsc::unbounded_channel();
    let (state, mut now) = watch::channel(SourceState::Connecting);
    let counters: Arc<Counters> = Arc::default();
    let link = SinkLink { name: topic.into(), events: told, state, counters: Arc::clone(&counters) };
    let running = tokio::spawn(sink.run(link));
    // The first event is compared with the topic; what is measured are those after it.
    let event = |epoch: u64, parts: Vec<DiffPart>| SinkEvent {
        epoch: Epoch(epoch),
        position: Position::default(),
        commit_time: 0,
        change: Ok(parts),
    };
    events.send(event(1, Vec::new()))?;
    now.wait_for(|state| *state == SourceState::Streaming).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let started = Instant::now();
    for (batch, epoch) in epochs.iter().zip(2..) {
        let pairs = (0..batch.num_rows() as u32).map(|row| Pair { old: None, new: Some(row) }).collect();
        let part = DiffPart { batch: batch.clone(), weights: vec![1; batch.num_rows()], pairs };
        events.send(event(epoch, vec![part]))?;
    }
    while counters.messages.load(Relaxed) < ROWS as u64 {
        ensure!(started.elapsed() < PATIENCE, "{} of {ROWS} were written", counters.messages.load(Relaxed));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Handed over is not there: until those who read what is committed can read all of it.
    let consumer: BaseConsumer = bench.client.create()?;
    while consumer.fetch_watermarks(topic, 0, PATIENCE)?.1 < ROWS.cast_signed() as i64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(events);
    running.abort();
    Ok(seconds)
}
