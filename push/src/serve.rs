//! hyper: the socket side of it all.

pub mod codec; // WebSocket frames; no I/O
pub mod deflate; // permessage-deflate
pub mod credentials; // where a request has its token
mod gate; // who may connect: hosts, origins
pub mod handshake; // opens a WebSocket
#[cfg(test)]
mod hostile; // clients that mean no good
mod http; // paths to answers
pub mod identity; // who a client is, for as long as its session lasts
mod peers; // how many are connected
mod events; // changes as server-sent events
mod query; // what a URL asks of a projection
pub mod socket; // one WebSocket: bytes to events, messages to bytes, deadlines
mod stalled; // who takes nothing, and who of them goes
mod stream; // HTTP answers must be taken
#[cfg(test)]
mod testing; // a server on loopback, and its clients
mod websocket; // a session on its socket

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pipeline::projection::WithheldRow;
use prometheus_client::registry::Registry;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::random::some_time;
use crate::session::SessionLimits;
use crate::signal::Signals;
pub use gate::{BadEntry, Caller, Gate};
use identity::Subjects;
pub use identity::{Authenticator, Identity, Strangers};
use peers::{Peers, Slot};
use stalled::Stalled;
use stream::HttpStream;

/// Bytes of a request's head, and of answers that wait for the socket.
const HTTP_BYTES_MAX: usize = 64 * 1024;

/// Bytes that the kernel holds for a client beyond what is on its way: what waits longer is ours to
/// merge. Without it, a client that does not read has megabytes of old diffs waiting for it.
const NOTSENT_BYTES_MAX: u32 = 32 * 1024;

/// What a connection of HTTP/2 begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests and sessions at a time on one connection of HTTP/2.
const HTTP2_STREAMS_MAX: u32 = 200;

/// Time for connections to end when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// When a connection that finds no place may come again: at a time of its own.
const RETRY_MAX: Duration = Duration::from_secs(15);

/// How the server treats its clients.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Connections at a time; the next one is refused.
    pub connections_max: usize,
    /// Connections at a time from one address (of IPv6, one network of 64 bits); the next one is
    /// refused. Any number may come from this machine, where a proxy may speak for all.
    pub connections_per_address_max: usize,
    /// Time for a client to send the head of a request, also of the next on a connection that is
    /// kept open.
    pub handshake_timeout: Duration,
    /// Sessions at a time of one subject.
    pub connections_per_subject_max: usize,
    /// What one session may have.
    pub session: Arc<SessionLimits>,
    /// Bytes of one message from a client, over all its fragments and as it inflates; above it the
    /// session ends.
    pub message_bytes_max: usize,
    /// Frames that a client may send at once, of messages, fragments and pings alike. A person can't;
    /// a broken client or a flood of pings can.
    pub messages_burst: u32,
    /// How many of them it earns back a second.
    pub messages_per_second: u32,
    /// A session that has been sent nothing for so long is sent a heartbeat.
    pub heartbeat: Duration,
    /// A session that subscribes to nothing, and says nothing, ends after so long.
    pub idle_timeout: Duration,
    /// A client that takes nothing for so long is dropped; 16 KiB, or all that there is, count as
    /// something.
    pub write_timeout: Duration,
    /// Bytes of messages that wait for clients, each counted once however many are sent it. Above it those who
    /// have taken nothing for longest are dropped before their time.
    pub held_bytes_max: usize,
    /// Time for the closing handshake.
    pub close_timeout: Duration,
    /// Whether messages of 512 bytes and more are compressed for clients that can inflate: once for
    /// all, for a third to a half of the bytes.
    pub compression: bool,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions {
            connections_max: 10_000,
            connections_per_address_max: 1000,
            handshake_timeout: Duration::from_secs(10),
            connections_per_subject_max: 100,
            session: Arc::default(),
            message_bytes_max: 64 * 1024,
            messages_burst: 300,
            messages_per_second: 50,
            heartbeat: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(300),
            write_timeout: Duration::from_secs(30),
            held_bytes_max: 512 << 20,
            close_timeout: Duration::from_secs(5),
            compression: true,
        }
    }
}

/// What the rest of the program says of itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Whether every source has been copied and streams.
    pub is_ready: bool,
    /// A line about each source.
    pub sources: Vec<(String, String)>,
    /// Rows withheld in each projection, in the order of the hub's projections.
    pub withheld: Vec<WithheldNow>,
    /// Each projection's operators and their state, for people to read; in the same order, and a
    /// few seconds old at most.
    pub explained: Vec<Arc<str>>,
}

/// What a projection withholds, because something of it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WithheldNow {
    /// How many rows.
    pub rows: i64,
    /// Why, for one of them.
    pub reason: Option<String>,
    /// The first of them.
    pub listed: Arc<[WithheldRow]>,
}

/// Adds the program's own figures to the metrics page.
pub type MoreMetrics = Arc<dyn Fn(&mut Registry) + Send + Sync>;

/// Who may come in, and who they are.
pub struct Entrance {
    /// Which hosts are served, and which pages may connect.
    pub gate: Gate,
    /// Whose a token is.
    pub authenticator: Arc<dyn Authenticator>,
}

impl Entrance {
    /// Of a server that takes no tokens.
    #[must_use]
    pub fn of_strangers(gate: Gate) -> Entrance {
        Entrance { gate, authenticator: Arc::new(Strangers) }
    }
}

/// What every connection shares.
struct Shared {
    hub: Arc<Hub>,
    gate: Gate,
    options: Arc<ServeOptions>,
    metrics: Metrics,
    health: watch::Receiver<Health>,
    more_metrics: MoreMetrics,
    authenticator: Arc<dyn Authenticator>,
    subjects: Subjects,
    stalled: Arc<Stalled>,
    stopping: Stopping,
    panicked: Notify,
}

/// Held by every task that serves a connection. What a panic left behind can't be trusted, and
/// nobody would hear of it: the server ends.
struct EndsServerOnPanic(Arc<Shared>);

impl Drop for EndsServerOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.notify_one();
        }
    }
}

/// Whether the server stops. Sessions are many, and hear of it by the signal that each has anyway;
/// what is no session yet waits to be told.
#[derive(Default)]
struct Stopping {
    has_begun: AtomicBool,
    told: Notify,
    sessions: Mutex<Signals>,
}

impl Stopping {
    fn begin(&self) {
        self.has_begun.store(true, Ordering::SeqCst);
        self.told.notify_waiters();
        self.sessions().iter().for_each(|session| session.wake());
    }

    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::SeqCst)
    }

    /// Signals that are woken when it begins. Who adds one looks whether it has begun before.
    fn sessions(&self) -> MutexGuard<'_, Signals> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the server stops.
    async fn begun(&self) {
        let mut told = pin!(self.told.notified());
        // From here on it is told; what was told before has left its mark.
        told.as_mut().enable();
        if !self.has_begun() {
            told.await;
        }
    }
}

/// Serves until `shutdown` resolves, or a task of a connection panics: then closes every session
/// with code 1001, "going away".
pub async fn serve(
    listener: TcpListener,
    hub: Arc<Hub>,
    entrance: Entrance,
    options: ServeOptions,
    health: watch::Receiver<Health>,
    more_metrics: MoreMetrics,
    shutdown: impl Future<Output = ()>,
) {
    let peers = Peers::new(options.connections_max, options.connections_per_address_max);
    hub.wake_on(Handle::current());
    let Entrance { gate, authenticator } = entrance;
    let metrics = Metrics::default();
    let stalled = Stalled::new(options.held_bytes_max, metrics.shed.clone());
    let shared = Arc::new(Shared {
        hub,
        gate,
        options: Arc::new(options),
        metrics,
        health,
        more_metrics,
        authenticator,
        subjects: Subjects::default(),
        stalled,
        stopping: Stopping::default(),
        panicked: Notify::new(),
    });
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
            () = shared.panicked.notified() => break,
        };
        let (socket, peer): (_, SocketAddr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to come back.
                tracing::warn!(%error, "can't accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let slot = match peers.admit(peer.ip()) {
            Ok(slot) => slot,
            Err(full) => {
                tracing::debug!(%peer, ?full, "connection refused");
                shared.metrics.refused.inc();
                // A new socket has room for it; if not, dropping it refuses as well.
                let _ = SockRef::from(&socket).send(no_place().as_bytes());
                continue;
            }
        };
        configure(&socket, &shared.options);
        let shared = Arc::clone(&shared);
        tokio::spawn(serve_connection(shared, socket, peer, slot));
    }
    drop(listener);
    // Clients are told, so that they come back elsewhere or later instead of waiting for silence.
    shared.stopping.begin();
    peers.gone(STOP_TIMEOUT).await;
}

/// Serves a connection until it ends, or has become a WebSocket.
async fn serve_connection(shared: Arc<Shared>, socket: TcpStream, peer: SocketAddr, slot: Slot) {
    let _panics_end_all = EndsServerOnPanic(Arc::clone(&shared));
    // Who says nothing has the time that a request's head has.
    let Ok(Ok(is_http2)) = timeout(shared.options.handshake_timeout, speaks_http2(&socket)).await else { return };
    // The slot goes with the connection, also when it has become a WebSocket.
    let slot = Arc::new(slot);
    let service = service_fn(|request| {
        let answer = http::answer(Arc::clone(&shared), request, Arc::clone(&slot));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let stream = HttpStream::new(socket, shared.options.write_timeout, Arc::clone(&shared.stalled));
    // Of either kind: requests that have begun are answered before the server stops.
    macro_rules! served {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = shared.stopping.begun() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }};
    }
    let ended = if is_http2 {
        Box::pin(async { served!(http2(&shared.options).serve_connection(TokioIo::new(stream), service)) }).await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(shared.options.handshake_timeout);
        builder.max_buf_size(HTTP_BYTES_MAX);
        served!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades())
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Whether a client begins as HTTP/2 does over plain TCP (RFC 9113, section 3.4): behind a proxy that opens a
/// stream for each WebSocket, and no connection.
async fn speaks_http2(socket: &TcpStream) -> io::Result<bool> {
    let mut bytes = [0; HTTP2_PREFACE.len()];
    loop {
        let read = socket.peek(&mut bytes).await?;
        if read == 0 || !HTTP2_PREFACE.starts_with(&bytes[..read]) {
            return Ok(false);
        }
        if read == bytes.len() {
            return Ok(true);
        }
        // What was seen once is seen at once again: the rest is on its way.
        sleep(Duration::from_millis(1)).await;
    }
}

/// What HTTP/2 connections are served by.
fn http2(options: &ServeOptions) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(HTTP_BYTES_MAX).unwrap_or(u32::MAX))
        .max_send_buf_size(HTTP_BYTES_MAX)
        .keep_alive_interval(options.heartbeat)
        .keep_alive_timeout(options.write_timeout);
    builder
}

/// What a connection that finds no place is told.
fn no_place() -> String {
    let seconds = some_time(Duration::from_secs(1), RETRY_MAX).as_secs();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {seconds}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}

/// Settings of a client's socket. One that the system does not know is none that a client misses.
fn configure(socket: &TcpStream, options: &ServeOptions) {
    let _ = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let socket = SockRef::from(socket);
        let _ = socket.set_tcp_notsent_lowat(NOTSENT_BYTES_MAX);
        // A client that has vanished acknowledges nothing; the kernel alone would try for a quarter of
        // an hour.
        let _ = socket.set_tcp_user_timeout(Some(options.write_timeout));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::time::timeout;

    use super::codec::tests::client_frame;
    use super::testing::{Client, PATIENCE, Served, get};
    use crate::testing::{ample_hub, publish};

    /// A connection that became a WebSocket is a connection still. When the slot stayed with the
    /// HTTP half, which ends with the handshake, any number of sockets could be had.
    #[tokio::test]
    async fn a_socket_holds_its_slot_as_long_as_it_lives() {
        let options = ServeOptions { connections_max: 2, ..ServeOptions::default() };
        let served = Served::start(ample_hub(), options).await;
        let mut one = Client::connect(&served).await;
        let two = Client::connect(&served).await;
        for _ in 0..20 {
            assert!(Client::try_connect(&served).await.is_none(), "a third one is refused");
            sleep(Duration::from_millis(5)).await;
        }
        drop(two);
        let three = async {
            loop {
                if let Some(client) = Client::try_connect(&served).await {
                    return client;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let mut three = timeout(PATIENCE, three).await.expect("the slot comes back");
        assert!(three.ask(r#"{"op":"ping"}"#).await.contains("heartbeat"));
        assert!(one.ask(r#"{"op":"ping"}"#).await.contains("heartbeat"));
        drop(three);
        served.metric("connections_refused_total", |refused| refused >= 20).await;
        served.metric("sessions", |sessions| sessions == 1).await;
    }

    /// Two sessions on streams of one connection (RFC 8441): each has a place of its own, and the third finds
    /// none. The host is where HTTP/2 has it, and is looked at all the same.
    #[tokio::test]
    async fn sessions_are_streams_of_http2() {
        let options = ServeOptions { connections_max: 3, ..ServeOptions::default() };
        let served = Served::start(ample_hub(), options).await;
        publish(&served.hub, 1, "+keyed(1,ann)");
        let socket = TcpStream::connect(served.address).await.expect("a connection");
        let (mut client, connection) = h2::client::handshake(socket).await.expect("a handshake");
        tokio::spawn(connection);
        // The settings say whether streams may become sockets.
        while !client.is_extended_connect_protocol_enabled() {
            client = client.ready().await.expect("a connection");
            sleep(Duration::from_millis(1)).await;
        }
        let mut open = |authority: &str, protocol: Option<&'static str>| {
            let mut request = hyper::Request::new(());
            *request.method_mut() = hyper::Method::CONNECT;
            *request.uri_mut() = format!("http://{authority}/v1/socket").parse().expect("an address");
            request.headers_mut().insert("sec-websocket-version", "13".parse().expect("a number"));
            request.extensions_mut().extend(
                protocol
                    .map(|name| {
                        let mut extensions = hyper::http::Extensions::new();
                        extensions.insert(h2::ext::Protocol::from_static(name));
                        extensions
                    })
                    .unwrap_or_default(),
            );
            client.send_request(request, false).expect("a stream")
        };
        let mut streams = Vec::new();
        for _ in 0..2 {
            let (response, mut send) = open("localhost", Some("websocket"));
            let response = timeout(PATIENCE, response).await.expect("in time").expect("an answer");
            assert_eq!(response.status(), 200);
            let subscribe = br#"{"op":"subscribe","id":"a","projection":"keyed"}"#;
            send.send_data(client_frame(0x81, subscribe, [1, 2, 3, 4]).into(), false).expect("sent");
            streams.push((response.into_body(), send));
        }
        for (body, _) in &mut streams {
            let mut told = Vec::new();
            while !told.windows(11).any(|window| window == br#"[[1,"ann"]]"#) {
                let data = timeout(PATIENCE, body.data()).await.expect("in time").expect("more").expect("bytes");
                body.flow_control().release_capacity(data.len()).expect("room");
                told.extend_from_slice(&data);
            }
        }
        let status = async |opened: (h2::client::ResponseFuture, _)| {
            timeout(PATIENCE, opened.0).await.expect("in time").expect("an answer").status().as_u16()
        };
        assert_eq!(status(open("localhost", Some("websocket"))).await, 503);
        assert_eq!(status(open("evil.example", Some("websocket"))).await, 403);
        assert_eq!(status(open("localhost", Some("h3"))).await, 405);
        drop(streams);
        served.metric("sessions", |sessions| sessions == 0).await;
        assert_eq!(status(open("localhost", Some("websocket"))).await, 200);
    }

    /// A plain request gives its slot back when its connection ends.
    #[tokio::test]
    async fn requests_come_one_after_the_other() {
        let options = ServeOptions { connections_max: 1, ..ServeOptions::default() };
        let served = Served::start(ample_hub(), options).await;
        for _ in 0..5 {
            served.eventually("GET /healthz", |answer| answer.starts_with("200")).await;
        }
    }

    /// Sessions are told, and nobody waits for a timeout.
    #[tokio::test]
    async fn stopping_ends_every_session() {
        let served = Served::start(ample_hub(), ServeOptions::default()).await;
        let mut client = Client::connect(&served).await;
        let (address, started) = (served.address, tokio::time::Instant::now());
        let (closed, ()) = tokio::join!(client.closed(), served.stop());
        assert_eq!(closed, (1001, "the server stops".to_owned()));
        assert!(started.elapsed() < STOP_TIMEOUT, "{:?} for a client that answers", started.elapsed());
        assert!(TcpStream::connect(address).await.is_err());
    }

    /// Each epoch goes to all who subscribed, and to nobody else.
    #[tokio::test]
    async fn two_clients_follow_the_hub() {
        let served = Served::start(ample_hub(), ServeOptions::default()).await;
        let (mut one, mut two) = (Client::connect(&served).await, Client::connect(&served).await);
        drop(one.ask(r#"{"op":"subscribe","id":"a","projection":"keyed"}"#).await);
        drop(two.ask(r#"{"op":"subscribe","id":"b","projection":"bag"}"#).await);
        publish(&served.hub, 1, "+keyed(1,ann)");
        publish(&served.hub, 2, "+bag(5,x)");
        assert!(one.next().await.contains(r#""diffs":[{"id":"a","upsert":[[1,"ann"]]}]"#));
        assert!(two.next().await.contains(r#""epoch":2,"position":{"shop":"0/2"}"#));
        let (status, body) = get(served.address, "GET /v1/projections/keyed", &[]).await;
        assert_eq!((status, body.ends_with(r#""rows":[[1,"ann"]]}"#)), (200, true), "{body}");
    }
}
