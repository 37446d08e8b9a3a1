//! One session's socket.
//!
//! The loop owns the I/O, the session decides. While a message is being written nothing else
//! happens on this connection, so a client that does not read costs one message in our memory,
//! what the kernel buffers, and its cursor; after a deadline it costs nothing.
//!
//! This is the only place that knows the WebSocket crate.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_websockets::{CloseCode, Limits, Message, ServerBuilder, WebSocketStream};

use super::http::{Body, refusal};
use super::{EndsServerOnPanic, Shared, told_to_stop};
use crate::protocol::Refusal;
use crate::session::Session;

/// Messages that a client may send at once, and how many it earns back a second. A person can't;
/// a broken client or a flood of pings can.
const MESSAGES_BURST: f64 = 300.0;
const MESSAGES_PER_SECOND: f64 = 50.0;
/// Time for the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// RFC 6455, section 1.3.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers the handshake and starts the session.
pub fn upgrade(shared: Arc<Shared>, mut request: Request<Incoming>, slot: Arc<OwnedSemaphorePermit>) -> Response<Body> {
    let accept = match handshake(request.headers()) {
        Ok(accept) => accept,
        Err(reason) => return refusal(StatusCode::UPGRADE_REQUIRED, &Refusal::new("bad_handshake", reason)),
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _panics_end_all = EndsServerOnPanic(Arc::clone(&shared));
        let Ok(upgraded) = upgraded.await else { return };
        let socket = ServerBuilder::new()
            .limits(Limits::default().max_payload_len(Some(shared.options.message_bytes_max)))
            .serve(TokioIo::new(upgraded));
        shared.metrics.sessions.inc();
        Connection::new(Arc::clone(&shared), socket).run().await;
        shared.metrics.sessions.dec();
        drop(slot);
    });
    let mut response = Response::new(http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// Checks an opening handshake (RFC 6455, section 4.2.1) and computes its answer.
fn handshake(headers: &HeaderMap) -> Result<HeaderValue, &'static str> {
    let has = |name: HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    if !has(CONNECTION, "upgrade") || !has(UPGRADE, "websocket") {
        return Err("this is a WebSocket: connect with ws:// or wss://");
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("the WebSocket version must be 13");
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or("the handshake has no Sec-WebSocket-Key")?;
    let mut digest = sha1_smol::Sha1::new();
    digest.update(key.as_bytes());
    digest.update(ACCEPT_GUID.as_bytes());
    HeaderValue::from_str(&STANDARD.encode(digest.digest().bytes())).map_err(|_| "the handshake has no usable key")
}

struct Connection {
    shared: Arc<Shared>,
    socket: Socket,
    session: Session,
    allowance: Allowance,
    /// What the session's subscriptions count as in the metrics.
    counted: usize,
    /// When the last message went out.
    last_sent: Instant,
    /// When the last diff was begun.
    last_diff: Instant,
}

/// The client is gone, or must go.
enum End {
    Gone,
    Close(CloseCode, &'static str),
}

impl Connection {
    fn new(shared: Arc<Shared>, socket: Socket) -> Connection {
        let session = Session::new(Arc::clone(&shared.hub));
        let now = Instant::now();
        Connection {
            shared,
            socket,
            session,
            allowance: Allowance { left: MESSAGES_BURST, at: now },
            counted: 0,
            last_sent: now,
            last_diff: now,
        }
    }

    async fn run(mut self) {
        let end = self.exchange().await;
        self.count_subscriptions(0);
        if let Err(End::Close(code, reason)) = end {
            let close = async {
                let _ = self.socket.send(Message::close(Some(code), reason)).await;
                while let Some(Ok(_)) = self.socket.next().await {}
            };
            let _ = timeout(CLOSE_TIMEOUT, close).await;
        }
    }

    async fn exchange(&mut self) -> Result<std::convert::Infallible, End> {
        let welcome = self.session.welcome(self.shared.options.heartbeat, self.shared.options.message_bytes_max);
        self.send(welcome).await?;
        let signal = Arc::clone(self.session.signal());
        let mut is_behind = false;
        let mut stopping = self.shared.stopping.subscribe();
        loop {
            let due = self.last_diff + self.session.interval();
            let heartbeat = self.last_sent + self.shared.options.heartbeat;
            tokio::select! {
                message = self.socket.next() => self.receive(message).await?,
                () = told_to_stop(&mut stopping) => return Err(End::Close(CloseCode::GOING_AWAY, "the server stops")),
                () = signal.notified(), if !is_behind => {
                    // A timer wakes at whole milliseconds: what is due already does not wait for one.
                    if Instant::now() < due {
                        is_behind = true;
                        continue;
                    }
                    self.advance();
                }
                () = sleep_until(due), if is_behind => {
                    is_behind = false;
                    self.advance();
                }
                () = sleep_until(heartbeat) => {
                    // A client that chose a longer interval is not told earlier.
                    let now = Instant::now();
                    if now >= due {
                        self.advance();
                    }
                    self.session.heartbeat();
                    self.last_sent = now;
                }
                // Between two messages others have their turn; a piece may be of nothing.
                () = tokio::task::yield_now(), if self.session.has_next() => {
                    if let Some(message) = self.session.next_message() {
                        self.send(message).await?;
                    }
                }
            }
        }
    }

    fn advance(&mut self) {
        self.last_diff = Instant::now();
        self.session.advance();
    }

    async fn receive(&mut self, message: Option<Result<Message, tokio_websockets::Error>>) -> Result<(), End> {
        let message = match message {
            None => return Err(End::Gone),
            Some(Ok(message)) => message,
            Some(Err(_)) => {
                // The codec has queued a close frame that says what was wrong: let it go out.
                let _ = timeout(CLOSE_TIMEOUT, async { while self.socket.next().await.is_some() {} }).await;
                return Err(End::Gone);
            }
        };
        if !self.allowance.take(Instant::now()) {
            return Err(End::Close(CloseCode::POLICY_VIOLATION, "too many messages"));
        }
        if message.is_binary() {
            return Err(End::Close(CloseCode::UNSUPPORTED_DATA, "messages are JSON text"));
        }
        if let Some(text) = message.as_text() {
            self.shared.metrics.messages_received.inc();
            self.session.receive(text);
            self.count_subscriptions(self.session.subscriptions());
        }
        Ok(())
    }

    async fn send(&mut self, message: Bytes) -> Result<(), End> {
        let length = message.len() as u64;
        let Ok(text) = bytes_to_text(message) else { return Err(End::Gone) };
        match timeout(self.shared.options.write_timeout, self.socket.send(text)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(End::Gone),
            Err(_) => {
                self.shared.metrics.stalled.inc();
                return Err(End::Gone);
            }
        }
        self.last_sent = Instant::now();
        self.shared.metrics.messages_sent.inc();
        self.shared.metrics.bytes_sent.inc_by(length);
        Ok(())
    }

    fn count_subscriptions(&mut self, now: usize) {
        let change = i64::try_from(now).unwrap_or(0) - i64::try_from(self.counted).unwrap_or(0);
        self.shared.metrics.subscriptions.inc_by(change);
        self.counted = now;
    }
}

/// The codec wants proof that a text is UTF-8; a `String` is that without a copy.
fn bytes_to_text(message: Bytes) -> Result<Message, std::string::FromUtf8Error> {
    String::from_utf8(Vec::from(message)).map(Message::text)
}

/// A token bucket.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * MESSAGES_PER_SECOND).min(MESSAGES_BURST);
        self.at = now;
        self.left -= 1.0;
        self.left >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::ServeOptions;
    use super::super::testing::{Client, PATIENCE, Served};
    use crate::hub::Projection;
    use crate::testing::{ample_hub, hub_of, projection, publish};

    const SUBSCRIBE: &str = r#"{"op":"subscribe","id":"a","projection":"keyed"}"#;

    /// The handshake of RFC 6455, with these headers in place of its own.
    fn answer(changed: &[(HeaderName, &'static str)]) -> Result<HeaderValue, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        for (name, value) in changed {
            headers.insert(name, HeaderValue::from_static(value));
            if value.is_empty() {
                headers.remove(name);
            }
        }
        handshake(&headers)
    }

    #[test]
    fn the_handshake_of_the_rfc() {
        let accept = Ok(HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(answer(&[]), accept);
        assert_eq!(answer(&[(UPGRADE, "WebSocket"), (CONNECTION, "upgrade")]), accept);
        let no_upgrade = Err("this is a WebSocket: connect with ws:// or wss://");
        assert_eq!(answer(&[(UPGRADE, "")]), no_upgrade);
        assert_eq!(answer(&[(UPGRADE, "h2c")]), no_upgrade);
        assert_eq!(answer(&[(CONNECTION, "keep-alive")]), no_upgrade);
        assert_eq!(answer(&[(SEC_WEBSOCKET_VERSION, "8")]), Err("the WebSocket version must be 13"));
        assert_eq!(answer(&[(SEC_WEBSOCKET_VERSION, "")]), Err("the WebSocket version must be 13"));
        assert_eq!(answer(&[(SEC_WEBSOCKET_KEY, "")]), Err("the handshake has no Sec-WebSocket-Key"));
    }

    /// How many of 1000 messages are taken, each so long after the one before.
    fn taken(apart: Duration) -> usize {
        let start = Instant::now();
        let mut allowance = Allowance { left: MESSAGES_BURST, at: start };
        (0..1000).filter(|&i| allowance.take(start + apart * i)).count()
    }

    #[test]
    fn a_flood_is_noticed_and_a_talker_is_not() {
        assert_eq!(taken(Duration::ZERO), 300);
        assert_eq!(taken(Duration::from_millis(20)), 1000, "50 a second");
        // 100 a second: 300 at once, and then every other one is earned back while none is taken.
        let hasty = taken(Duration::from_millis(10));
        assert!((598..=602).contains(&hasty), "{hasty}");
    }

    /// What was not used is not saved up beyond a burst.
    #[test]
    fn silence_earns_no_more_than_a_burst() {
        let start = Instant::now();
        let mut allowance = Allowance { left: MESSAGES_BURST, at: start };
        assert!(allowance.take(start));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| allowance.take(later)).count(), 300);
    }

    #[tokio::test]
    async fn a_session_is_counted_in_the_metrics() {
        let hub = ample_hub();
        publish(&hub, 1, "+keyed(1,ann)");
        let served = Served::start(hub, ServeOptions::default()).await;
        let mut client = Client::connect(&served).await;
        assert!(client.welcome.contains(r#""heartbeat_ms":15000,"message_bytes_max":65536"#), "{}", client.welcome);
        let image = client.ask(SUBSCRIBE).await;
        assert!(image.ends_with(r#""rows":[[1,"ann"]],"last":true}"#), "{image}");
        let other = client.ask(r#"{"op":"subscribe","id":"b","projection":"bag"}"#).await;
        served.metric("sessions", |sessions| sessions == 1).await;
        served.metric("subscriptions", |subscriptions| subscriptions == 2).await;
        let gone = client.ask(r#"{"op":"unsubscribe","id":"b"}"#).await;
        served.metric("subscriptions", |subscriptions| subscriptions == 1).await;
        served.metric("messages_received_total", |messages| messages == 3).await;
        served.metric("messages_sent_total", |messages| messages == 4).await;
        let bytes = [&client.welcome, &image, &other, &gone].map(|message| message.len() as i64).iter().sum::<i64>();
        served.metric("bytes_sent_total", |sent| sent == bytes).await;
        drop(client);
        served.metric("sessions", |sessions| sessions == 0).await;
        served.metric("subscriptions", |subscriptions| subscriptions == 0).await;
    }

    #[tokio::test]
    async fn what_no_client_should_send_ends_its_session() {
        let served =
            Served::start(ample_hub(), ServeOptions { message_bytes_max: 100, ..ServeOptions::default() }).await;
        let mut long = Client::connect(&served).await;
        assert!(long.ask(&"x".repeat(100)).await.contains("bad_json"));
        long.send("x".repeat(101)).await;
        assert_eq!(long.closed().await.0, 1009);
        let mut binary = Client::connect(&served).await;
        binary.socket.send(Message::binary(vec![1, 2, 3])).await.expect("sent");
        assert_eq!(binary.closed().await, (1003, "messages are JSON text".to_owned()));
        let mut flood = Client::connect(&served).await;
        for _ in 0..1000 {
            if flood.socket.send(Message::text(r#"{"op":"ping"}"#)).await.is_err() {
                break;
            }
        }
        assert_eq!(flood.closed().await, (1008, "too many messages".to_owned()));
        // A ping of the protocol below ours is answered there, and is no message of a session.
        let mut polite = Client::connect(&served).await;
        polite.socket.send(Message::ping("are you there")).await.expect("sent");
        let pong = polite.socket.next().await.expect("an open connection").expect("a frame");
        assert!(pong.is_pong(), "{pong:?}");
        assert!(polite.ask(r#"{"op":"ping"}"#).await.contains("heartbeat"));
    }

    #[tokio::test]
    async fn silence_is_filled_with_heartbeats() {
        let hub = ample_hub();
        let served =
            Served::start(hub, ServeOptions { heartbeat: Duration::from_millis(200), ..ServeOptions::default() }).await;
        let mut client = Client::connect(&served).await;
        drop(client.ask(SUBSCRIBE).await);
        let silent = Instant::now();
        publish(&served.hub, 1, "+bag(5,x)");
        assert!(client.next().await.starts_with(r#"{"op":"heartbeat","epoch":1,"#));
        assert!(client.next().await.starts_with(r#"{"op":"heartbeat","epoch":1,"#));
        assert!(silent.elapsed() > Duration::from_millis(350), "{:?}", silent.elapsed());
    }

    /// A projection with a batch interval is sent its diffs that far apart, merged; what comes after
    /// a quiet while goes out at once.
    #[tokio::test]
    async fn diffs_come_a_batch_interval_apart() {
        let keyed = Projection { batch: Duration::from_millis(300), ..projection("keyed", Some(vec![0])) };
        let served = Served::start(hub_of(vec![keyed]), ServeOptions::default()).await;
        let mut client = Client::connect(&served).await;
        let asked = Instant::now();
        drop(client.ask(SUBSCRIBE).await);
        for (epoch, name) in [(1, "ann"), (2, "bob"), (3, "joe")] {
            publish(&served.hub, epoch, &format!("+keyed({epoch},{name})"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let diff = client.next().await;
        assert!(
            diff.contains(r#""epoch":3,"#) && diff.contains(r#""upsert":[[1,"ann"],[2,"bob"],[3,"joe"]]"#),
            "{diff}"
        );
        assert!(asked.elapsed() >= Duration::from_millis(300), "{:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(320)).await;
        publish(&served.hub, 4, "-keyed(1,ann)");
        let diff = client.next().await;
        assert!(diff.contains(r#""epoch":4,"#), "{diff}");
        publish(&served.hub, 5, "-keyed(2,bob)");
        assert!(client.next().await.contains(r#""epoch":5,"#));
        assert!(asked.elapsed() >= Duration::from_millis(900), "{:?}", asked.elapsed());
    }

    /// A client that takes nothing: its session ends when the deadline is over, and gives all back.
    #[tokio::test]
    async fn who_does_not_read_is_dropped() {
        let hub = ample_hub();
        let long = "x".repeat(1 << 20);
        publish(&hub, 1, &(0..32).map(|id| format!("+keyed({id},{long}) ")).collect::<String>());
        let served =
            Served::start(hub, ServeOptions { write_timeout: Duration::from_millis(300), ..ServeOptions::default() })
                .await;
        let mut silent = Client::connect(&served).await;
        silent.send(SUBSCRIBE).await;
        served.metric("sessions_stalled_total", |stalled| stalled == 1).await;
        served.metric("sessions", |sessions| sessions == 0).await;
        served.metric("subscriptions", |subscriptions| subscriptions == 0).await;
    }

    /// Frames that no library would send: the close frame says what was wrong with them.
    #[tokio::test]
    async fn broken_frames_are_told_so() {
        let served = Served::start(ample_hub(), ServeOptions::default()).await;
        for (frame, code) in [
            (&[0x81, 0x82, 0, 0, 0, 0, 0xC3, 0x28][..], 1007_u16), // a text that is not UTF-8
            (&[0x81, 0x02, b'{', b'}'], 1002),                     // a frame without a mask
        ] {
            let mut socket = TcpStream::connect(served.address).await.expect("a connection");
            let request = "GET /v1/socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            socket.write_all(request.as_bytes()).await.expect("sent");
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\r\n\r\n") {
                bytes.push(socket.read_u8().await.expect("a head"));
            }
            let head = String::from_utf8_lossy(&bytes).to_lowercase();
            assert!(
                head.starts_with("http/1.1 101 ")
                    && head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
                "{head}"
            );
            assert!(head.contains("connection: upgrade") && head.contains("upgrade: websocket"), "{head}");
            socket.write_all(frame).await.expect("sent");
            bytes.clear();
            timeout(PATIENCE, socket.read_to_end(&mut bytes)).await.expect("an end in time").expect("bytes");
            // After the greeting comes the close frame: 0x88, a length, and the code.
            let at = bytes.iter().rposition(|&byte| byte == 0x88).expect("a close frame");
            assert_eq!(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]), code);
        }
    }
}
