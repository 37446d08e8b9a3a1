//! What it costs to find out whom a change concerns, and to tell those: `cargo xtask bench filters`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use filter::{Access, Predicate};
use futures_util::{SinkExt, StreamExt};
use pipeline::projection::Pair;
use pipeline::{DiffPart, Epoch};
use push::hub::{Publication, Stamp};
use push::image::Image;
use push::serve::{Entrance, Gate};
use push::session::Session;
use push::view::{View, ViewSpec};
use push::{Health, Hub, Projection, ProjectionId, ServeOptions, serve};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_websockets::{ClientBuilder, Limits, MaybeTlsStream, Message, WebSocketStream};

/// Rows of the projection.
const ROWS: i64 = 1_000_000;
/// Rows that an epoch changes where many are.
const CHANGED: i64 = 1000;
/// Epochs of which the median is told.
const EPOCHS: usize = 31;

/// Measures, and prints the figures.
///
/// # Errors
/// When a client does not get what it should.
pub fn run() -> Result<()> {
    route()?;
    not_concerned()?;
    images_of_one()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(last_of_many())?;
    runtime.block_on(images_at_once())
}

fn schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        field("id", DataType::Int64),
        field("customer_id", DataType::Int64),
        field("amount", DataType::Int64),
        field("status", DataType::Utf8),
    ]))
}

struct Shop {
    hub: Arc<Hub>,
    epoch: u64,
}

impl Shop {
    fn new() -> Result<Shop> {
        let access = Access { is_public: true, ..Access::default() };
        let orders = Projection { access, ..Projection::new("orders", schema(), Some(vec![0]))? };
        let mut shop = Shop { hub: Arc::new(Hub::new(vec![orders])), epoch: 0 };
        shop.publish(&[], &[])?;
        Ok(shop)
    }

    /// One epoch: these orders go, these come, each of the customer of the same number.
    fn publish(&mut self, gone: &[i64], come: &[i64]) -> Result<Duration> {
        self.epoch += 1;
        let all = || gone.iter().chain(come);
        let amount = i64::try_from(self.epoch)?;
        let ids: ArrayRef = Arc::new(all().copied().collect::<Int64Array>());
        let amounts: ArrayRef = Arc::new(
            (0..gone.len() + come.len())
                .map(|i| if i < gone.len() { amount - 1 } else { amount })
                .collect::<Int64Array>(),
        );
        let status: ArrayRef = Arc::new(all().map(|_| Some("open")).collect::<StringArray>());
        let batch = RecordBatch::try_new(schema(), vec![Arc::clone(&ids), ids, amounts, status])?;
        let weights = gone.iter().map(|_| -1).chain(come.iter().map(|_| 1)).collect();
        let place = |i: usize| u32::try_from(i).ok();
        let pairs = (0..come.len())
            .map(|i| Pair { old: if gone.is_empty() { None } else { place(i) }, new: place(gone.len() + i) })
            .collect();
        let publication = Publication::Diff(vec![DiffPart { batch, weights, pairs }]);
        let stamp = Stamp { epoch: Epoch(self.epoch), ..Stamp::default() };
        let start = Instant::now();
        self.hub.publish(stamp, vec![(ProjectionId(0), publication)])?;
        Ok(start.elapsed())
    }

    /// The median time of an epoch that changes the rows of so many customers.
    fn epoch(&mut self, changed: i64, customers: i64) -> Result<Duration> {
        let mut times = Vec::with_capacity(EPOCHS);
        for i in 0..i64::try_from(EPOCHS)? {
            let rows: Vec<i64> = (0..changed).map(|row| (row * 7919 + i * 104_729) % customers).collect();
            times.push(self.publish(&rows, &rows)?);
        }
        times.sort_unstable();
        Ok(times[EPOCHS / 2])
    }

    fn view(&self, filter: &serde_json::Value) -> Result<Arc<View>> {
        let info = &self.hub.projections()[0];
        let predicate =
            Predicate::parse(filter, &info.schema, &|_| true).map_err(|error| anyhow::anyhow!("{}", error.message))?;
        Ok(self.hub.view(ViewSpec { predicate, ..ViewSpec::whole(ProjectionId(0), info) }))
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn per(time: f64, count: i64) -> f64 {
    time / count as f64
}

/// The cost of a changed row by how many have a filter of their own, beyond what it costs with none.
fn route() -> Result<()> {
    println!("µs a changed row, filters of their own beside what it costs without any");
    let bare = micros(Shop::new()?.epoch(CHANGED, ROWS)?);
    for filters in [100, 10_000, 100_000, 1_000_000] {
        let mut shop = Shop::new()?;
        let views = (0..filters).map(|i| shop.view(&json!({"customer_id": {"_eq": i}}))).collect::<Result<Vec<_>>>()?;
        let first = shop.publish(&[], &[0])?;
        let time = micros(shop.epoch(CHANGED, ROWS)?);
        let row = per((time - bare).max(0.0), CHANGED);
        println!("{filters:>9} equalities: {row:.3} (the first epoch after they came: {first:?})");
        println!("figure route_row_us_at_{filters}_filters {row:.4} us");
        drop(views);
    }
    let mut shop = Shop::new()?;
    let views =
        (0..1000).map(|i| shop.view(&json!({"amount": {"_gt": i + 1_000_000_000}}))).collect::<Result<Vec<_>>>()?;
    let time = micros(shop.epoch(CHANGED, ROWS)?);
    let row = per((time - bare).max(0.0), CHANGED);
    println!("     1000 comparisons that no index serves: {row:.3}, {:.1} ns a filter and row", row);
    println!("figure route_row_us_at_1000_comparisons {row:.4} us");
    drop(views);
    Ok(())
}

/// What an epoch of one row costs each of 100,000 sessions that it does not concern.
fn not_concerned() -> Result<()> {
    const SESSIONS: i64 = 100_000;
    let mut shop = Shop::new()?;
    let bare = micros(shop.epoch(1, 10)?);
    let mut sessions = Vec::new();
    for i in 0..SESSIONS {
        let mut session = Session::new(Arc::clone(&shop.hub));
        let filter = json!({"customer_id": {"_eq": i + 1000}});
        session.receive(&json!({"op": "subscribe", "id": "a", "projection": "orders", "where": filter}).to_string());
        while session.has_next() {
            session.next_message();
        }
        sessions.push(session);
    }
    shop.publish(&[], &[0])?;
    let time = micros(shop.epoch(1, 10)?);
    let nanos = per((time - bare).max(0.0) * 1000.0, SESSIONS);
    println!("an epoch of one row: {bare:.1} µs without sessions, {time:.1} µs beside {SESSIONS} of others");
    println!("figure idle_session_ns_per_epoch {nanos:.4} ns");
    Ok(())
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What an image of one customer's row costs in a projection of a million: the first, which has an index made, and others.
fn images_of_one() -> Result<()> {
    let mut shop = Shop::new()?;
    shop.publish(&[], &(0..ROWS).collect::<Vec<_>>())?;
    let without = per(micros(shop.epoch(CHANGED, ROWS)?), CHANGED);
    let image = |shop: &Shop, customer: i64| -> Result<Duration> {
        let view = shop.view(&json!({"customer_id": {"_eq": customer}}))?;
        let start = Instant::now();
        let mut image = Image::of(&shop.hub, &view).context("rows to show")?;
        while !image.is_at_end() {
            image.next(&shop.hub)?;
        }
        Ok(start.elapsed())
    };
    let first = micros(image(&shop, 0)?) / 1e3;
    let mut others = (1..1000).map(|customer| image(&shop, customer)).collect::<Result<Vec<_>>>()?;
    others.sort_unstable();
    let found = micros(others[others.len() / 2]);
    let with = per(micros(shop.epoch(CHANGED, ROWS)?), CHANGED);
    println!(
        "an image of one of {ROWS} rows: the first takes {first:.0} ms, while an index is made, others {found:.1} us"
    );
    println!("a changed row costs {without:.2} us to publish, {with:.2} us with an index to keep up");
    println!("figure image_of_one_row_us {found:.1} us");
    Ok(())
}

async fn server(hub: Arc<Hub>) -> Result<(SocketAddr, oneshot::Sender<()>, watch::Sender<Health>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let gate = Gate::new(true, &[], &[]).map_err(|entry| anyhow::anyhow!("{entry}"))?;
    let health = watch::Sender::new(Health::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let options = ServeOptions::default();
    let more = Arc::new(|_: &mut _| ());
    tokio::spawn(serve(listener, hub, Entrance::of_strangers(gate), options, health.subscribe(), more, shutdown));
    Ok((address, stop, health))
}

async fn connect(address: SocketAddr) -> Result<Socket> {
    let uri = format!("ws://{address}/v1/socket");
    let (mut socket, _) = ClientBuilder::new().uri(&uri)?.limits(Limits::unlimited()).connect().await?;
    heard(&mut socket, "welcome").await?;
    Ok(socket)
}

async fn heard(socket: &mut Socket, wanted: &str) -> Result<()> {
    loop {
        let message = socket.next().await.context("the server closed")??;
        if message.as_text().is_some_and(|text| text.contains(wanted)) {
            return Ok(());
        }
    }
}

/// 750 clients with filters of their own, all of which one write matches: when the last has it.
async fn last_of_many() -> Result<()> {
    const CLIENTS: i64 = 750;
    let mut shop = Shop::new()?;
    shop.publish(&[], &[7])?;
    let (address, _stop, _health) = server(Arc::clone(&shop.hub)).await?;
    let mut sockets = Vec::new();
    for i in 0..CLIENTS {
        let mut socket = connect(address).await?;
        let filter = json!({"customer_id": {"_eq": 7}, "amount": {"_gt": -i}});
        let ask = json!({"op": "subscribe", "id": "a", "projection": "orders", "where": filter});
        socket.send(Message::text(ask.to_string())).await?;
        heard(&mut socket, r#""last":true"#).await?;
        sockets.push(socket);
    }
    let mut times = Vec::new();
    for _ in 0..11 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let start = Instant::now();
        shop.publish(&[7], &[7])?;
        let all = sockets.iter_mut().map(|socket| async move {
            heard(socket, "upsert").await?;
            Ok::<_, anyhow::Error>(start.elapsed())
        });
        let each = futures_util::future::try_join_all(all).await?;
        times.push(each.into_iter().max().unwrap_or_default());
    }
    times.sort_unstable();
    let last = times[times.len() / 2].as_secs_f64() * 1e3;
    println!("the last of {CLIENTS} clients that a write matches has it after {last:.1} ms, clients in this process");
    println!("figure last_of_750_matching_ms {last:.2} ms");
    Ok(())
}

/// 2,000 clients that ask for 500 rows at the same moment.
async fn images_at_once() -> Result<()> {
    const CLIENTS: usize = 2000;
    let mut shop = Shop::new()?;
    shop.publish(&[], &(0..500).collect::<Vec<_>>())?;
    let (address, _stop, _health) = server(Arc::clone(&shop.hub)).await?;
    let mut sockets = Vec::new();
    for _ in 0..CLIENTS {
        sockets.push(connect(address).await?);
    }
    let start = Instant::now();
    let all = sockets.iter_mut().map(|socket| async move {
        socket.send(Message::text(r#"{"op":"subscribe","id":"a","projection":"orders"}"#)).await?;
        heard(socket, r#""last":true"#).await
    });
    let served = futures_util::future::try_join_all(all).await?;
    ensure!(served.len() == CLIENTS, "all are served");
    let seconds = start.elapsed().as_secs_f64();
    println!("{CLIENTS} clients have 500 rows each after {seconds:.2} s, clients in this process");
    println!("figure images_for_2000_clients_s {seconds:.3} s");
    Ok(())
}
