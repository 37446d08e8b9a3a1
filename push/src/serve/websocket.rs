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
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_websockets::{CloseCode, Limits, Message, ServerBuilder, WebSocketStream};

use super::http::{Body, refusal};
use super::{Shared, told_to_stop};
use crate::protocol::Refusal;
use crate::session::{Outgoing, Session};

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
        let Ok(upgraded) = upgraded.await else { return };
        let socket = ServerBuilder::new()
            .limits(Limits::default().max_payload_len(Some(shared.options.message_bytes_max)))
            .serve(TokioIo::new(upgraded));
        shared.metrics.sessions.inc();
        Connection::new(Arc::clone(&shared), socket).run().await;
        shared.metrics.sessions.dec();
        drop(slot);
    });
    let mut response = Response::new(http_body_util::Empty::new().boxed_unsync());
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
    /// When the last diff or image went out.
    last_sent: Instant,
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
        Connection { shared, socket, session, allowance: Allowance { left: MESSAGES_BURST, at: now }, counted: 0, last_sent: now }
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
        let mut epochs = self.shared.hub.watch();
        epochs.mark_unchanged();
        let welcome = self.session.welcome(self.shared.options.heartbeat, self.shared.options.message_bytes_max);
        self.send(welcome).await?;
        let mut is_behind = false;
        let mut stopping = self.shared.stopping.subscribe();
        loop {
            let due = self.last_sent + self.session.batch();
            let heartbeat = self.last_sent + self.shared.options.heartbeat;
            let mut out = Vec::new();
            tokio::select! {
                message = self.socket.next() => self.receive(message, &mut out).await?,
                () = told_to_stop(&mut stopping) => return Err(End::Close(CloseCode::GOING_AWAY, "the server stops")),
                changed = epochs.changed(), if !is_behind => {
                    changed.map_err(|_| End::Gone)?;
                    // A timer wakes at whole milliseconds: what is due already does not wait for one.
                    if Instant::now() < due {
                        is_behind = true;
                        continue;
                    }
                    self.session.advance(&mut out);
                }
                () = sleep_until(due), if is_behind => {
                    is_behind = false;
                    epochs.mark_unchanged();
                    self.session.advance(&mut out);
                }
                () = sleep_until(heartbeat) => {
                    self.session.advance(&mut out);
                    out.push(Outgoing::Message(self.session.heartbeat()));
                }
            }
            self.send_all(out).await?;
        }
    }

    async fn receive(&mut self, message: Option<Result<Message, tokio_websockets::Error>>, out: &mut Vec<Outgoing>) -> Result<(), End> {
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
            self.session.receive(text, out);
            self.count_subscriptions(self.session.subscriptions());
        }
        Ok(())
    }

    async fn send_all(&mut self, out: Vec<Outgoing>) -> Result<(), End> {
        for outgoing in out {
            match outgoing {
                Outgoing::Message(message) => self.send(message).await?,
                Outgoing::Image(mut image) => {
                    while let Some(message) = image.next_message() {
                        self.send(message).await?;
                    }
                }
            }
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

    #[test]
    fn the_handshake_of_the_rfc() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(handshake(&headers), Ok(HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        assert_eq!(handshake(&headers), Err("the WebSocket version must be 13"));
    }

    #[test]
    fn a_flood_is_noticed_and_a_talker_is_not() {
        let start = Instant::now();
        let mut allowance = Allowance { left: MESSAGES_BURST, at: start };
        assert_eq!((0..1000).filter(|_| allowance.take(start)).count(), 300);
        let mut allowance = Allowance { left: MESSAGES_BURST, at: start };
        assert!((0..1000_u64).all(|i| allowance.take(start + Duration::from_millis(i * 20))));
    }
}
