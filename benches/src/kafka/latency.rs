//! From the producer to a WebSocket client, beside a bare consumer that passes messages on.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};
use tests::{ProjectFolder, Server};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_websockets::{ClientBuilder, Message, ServerBuilder};

use super::{Bench, PATIENCE, send};
use crate::numbers::{figure, percentile};

/// Messages a second, and how many.
const RATE: u64 = 200;
const TIMED: usize = 2000;

pub async fn measure(bench: &Bench) -> Result<()> {
    bench.make_topic("latency").await?;
    let project = ProjectFolder::of(&format!(
        "CREATE TABLE t (id BIGINT, mark BIGINT)
           WITH (connector = 'kafka', brokers = '{}', topic = 'latency', format = 'json', start = 'latest');
         CREATE MATERIALIZED VIEW v AS SELECT mark FROM t WHERE mark >= 0;",
        bench.brokers
    ));
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("v").await;
    let mut held = 0;
    let ours = timed(bench, async |sent: usize| {
        while held <= sent {
            subscriber.next().await;
            held = subscriber.held["v"].len();
        }
        Ok(())
    })
    .await?;
    server.stop().await;
    let mut floor = Floor::start(bench).await?;
    let floor = timed(bench, async |_| floor.next().await).await?;
    let show = |name: &str, times: &[f64]| {
        println!(
            "{name:>8}: p50 {:.3} ms, p95 {:.3} ms, p99 {:.3} ms",
            percentile(times, 50.0),
            percentile(times, 95.0),
            percentile(times, 99.0)
        );
    };
    show("ours", &ours);
    show("floor", &floor);
    figure("kafka_latency_p50_over_floor", percentile(&ours, 50.0) / percentile(&floor, 50.0), "ratio");
    figure("kafka_latency_p99_over_floor", percentile(&ours, 99.0) / percentile(&floor, 99.0), "ratio");
    Ok(())
}

/// Sends messages at a rate and waits for each; milliseconds of each.
async fn timed(bench: &Bench, mut arrived: impl AsyncFnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
    let producer = bench.producer(&[("linger.ms", "0"), ("acks", "1")])?;
    let mut times = Vec::with_capacity(TIMED);
    let mut due = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for mark in 0..TIMED {
        due.tick().await;
        let started = Instant::now();
        send(&producer, "latency", b"k", format!(r#"{{"id":{mark},"mark":{mark}}}"#).as_bytes())?;
        tokio::time::timeout(PATIENCE, arrived(mark)).await??;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    producer.flush(PATIENCE)?;
    // The first ones make connections.
    Ok(times.split_off(100))
}

/// A consumer on a thread, and a WebSocket on which what it reads is passed on.
struct Floor {
    socket: tokio_websockets::WebSocketStream<tokio_websockets::MaybeTlsStream<TcpStream>>,
}

impl Floor {
    async fn start(bench: &Bench) -> Result<Floor> {
        let consumer: BaseConsumer = bench.client.create()?;
        let (_, end) = consumer.fetch_watermarks("latency", 0, PATIENCE)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("latency", 0, Offset::Offset(end))?;
        consumer.assign(&list)?;
        let (passed, mut to_pass) = mpsc::unbounded_channel::<Vec<u8>>();
        thread::spawn(move || {
            loop {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100))
                    && passed.send(message.payload().unwrap_or_default().to_vec()).is_err()
                {
                    return;
                }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (_, mut socket) = ServerBuilder::new().accept(stream).await?;
            while let Some(value) = to_pass.recv().await {
                socket.send(Message::text(String::from_utf8(value)?)).await?;
            }
            anyhow::Ok(())
        });
        let uri = format!("ws://{address}/");
        let (socket, _) = ClientBuilder::new().uri(&uri)?.connect().await?;
        Ok(Floor { socket })
    }

    async fn next(&mut self) -> Result<()> {
        let message = self.socket.next().await.context("the socket is closed")??;
        let _: serde_json::Value = serde_json::from_str(message.as_text().context("a text")?)?;
        Ok(())
    }
}
