//! A server on loopback, in the test's own process, and its clients.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, Limits, Message, WebSocketStream};

use super::identity::{Authenticator, Identifying, Identity, Strangers};
use super::{Entrance, Gate, Health, ServeOptions, serve};
use crate::hub::Hub;
use crate::protocol::Refusal;
use crate::viewer::Viewer;

/// Longest wait for anything; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A body without an end is to fail, and not to fill memory.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// A server that answers to loopback names and to `shop.example`.
pub struct Served {
    pub address: SocketAddr,
    pub hub: Arc<Hub>,
    pub health: watch::Sender<Health>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Served {
    pub async fn start(hub: Arc<Hub>, options: ServeOptions) -> Served {
        Served::start_with(hub, options, Arc::new(Strangers)).await
    }

    /// As [`Served::start`], of a server that takes tokens.
    pub async fn start_with(hub: Arc<Hub>, options: ServeOptions, authenticator: Arc<dyn Authenticator>) -> Served {
        let gate = Gate::new(true, &[], &["shop.example".to_owned()]).expect("a host");
        Served::start_behind(gate, hub, options, authenticator).await
    }

    /// A server on somebody's own machine.
    pub async fn start_local(hub: Arc<Hub>) -> Served {
        let gate = Gate::new(true, &[], &[]).expect("empty lists");
        Served::start_behind(gate, hub, ServeOptions::default(), Arc::new(Strangers)).await
    }

    async fn start_behind(
        gate: Gate,
        hub: Arc<Hub>,
        options: ServeOptions,
        authenticator: Arc<dyn Authenticator>,
    ) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let health = watch::Sender::new(Health { is_ready: true, ..Health::default() });
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let serving = tokio::spawn(serve(
            listener,
            Arc::clone(&hub),
            Entrance { gate, authenticator },
            options,
            health.subscribe(),
            Arc::new(|_| ()),
            shutdown,
        ));
        Served { address, hub, health, stop, serving }
    }

    /// Tells the server to stop, and waits until it has.
    pub async fn stop(self) {
        self.stop.send(()).expect("the server runs");
        timeout(PATIENCE, self.serving).await.expect("an end in time").expect("no panic");
    }

    /// Asks until the answer, as `STATUS BODY`, is as wanted. A refused connection is an empty answer.
    pub async fn eventually(&self, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let asking = async {
            while !is_wanted(&last) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                last = try_get(self.address, what, &[])
                    .await
                    .map_or_else(String::new, |(status, body)| format!("{status} {body}"));
            }
        };
        let is_so = timeout(PATIENCE, asking).await.is_ok();
        assert!(is_so, "{what} is still {last}");
        last
    }

    /// Waits until a metric is as wanted.
    pub async fn metric(&self, name: &str, is_wanted: impl Fn(i64) -> bool) -> i64 {
        let value = |page: &str| {
            let line =
                page.lines().find_map(|line| line.strip_prefix("deltafront_")?.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok())
        };
        let page = self.eventually("GET /metrics", |page| value(page).is_some_and(&is_wanted)).await;
        value(&page).expect("it was there")
    }
}

/// Asks for `METHOD PATH`; answers status and body.
pub async fn get(address: SocketAddr, what: &str, headers: &[(&str, &str)]) -> (u16, String) {
    try_get(address, what, headers).await.expect("an answer")
}

/// As [`get`]; `None` when the connection is refused.
async fn try_get(address: SocketAddr, what: &str, headers: &[(&str, &str)]) -> Option<(u16, String)> {
    let response = request(address, what, headers).await?;
    let status = response.status().as_u16();
    let body =
        Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.expect("a body with an end").to_bytes();
    Some((status, String::from_utf8(body.to_vec()).expect("UTF-8")))
}

/// As an administrator would ask: the status and the body.
pub async fn post(address: SocketAddr, method: &str, path: &str, bearer: &str, body: &str) -> (u16, String) {
    let socket = TcpStream::connect(address).await.expect("a connection");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("HTTP");
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.header("authorization", bearer).body(Full::new(Bytes::from(body.to_owned())));
    let response =
        timeout(PATIENCE, sender.send_request(request.expect("a request"))).await.expect("an answer in time");
    let response = response.expect("an answer");
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.expect("a body").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

pub async fn request(
    address: SocketAddr,
    what: &str,
    headers: &[(&str, &str)],
) -> Option<hyper::Response<hyper::body::Incoming>> {
    let socket = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.ok()?;
    tokio::spawn(connection);
    let (method, path) = what.split_once(' ').expect("a method and a path");
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in
        [("host", "localhost")].iter().filter(|_| headers.iter().all(|(name, _)| *name != "host")).chain(headers)
    {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time").ok()
}

/// Takes tokens for what they say: `NAME` is the subject, `NAME@MILLISECONDS` one whose time is over
/// so long after 1970, and nobody is called `thief`.
#[derive(Default)]
pub struct People {
    pub revoked: Mutex<Vec<String>>,
}

impl Authenticator for People {
    fn identify(&self, token: String) -> Identifying {
        let (name, expires) = token.split_once('@').map_or((&*token, None), |(name, time)| {
            (name, Some(SystemTime::UNIX_EPOCH + Duration::from_millis(time.parse().expect("a time"))))
        });
        let is_revoked = self.revoked.lock().expect("no panic").iter().any(|revoked| revoked == name);
        if name == "thief" || is_revoked {
            return Box::pin(std::future::ready(Err(Refusal::new("invalid_token", "the token's signature is wrong"))));
        }
        let role = if name == "admin" { "admin" } else { "authenticated" };
        let claims = [("sub".to_owned(), name.into())].into_iter().collect();
        let viewer = Viewer::new([role.to_owned()].into(), claims);
        let identity = Identity { viewer, subject: Some(name.into()), expires };
        Box::pin(async move {
            // Keys may have to be fetched.
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(identity)
        })
    }

    fn cookie(&self) -> Option<&str> {
        Some("session")
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(100)
    }

    fn has_admins(&self) -> bool {
        true
    }

    fn is_admin(&self, token: &str) -> bool {
        token == "the admin token"
    }

    fn revoke(&self, subject: &str) {
        self.revoked.lock().expect("no panic").push(subject.to_owned());
    }
}

/// The handshake of a WebSocket, for clients that do what no library would; `more` is headers.
pub fn handshake(more: &str) -> String {
    format!(
        "GET /v1/socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// A socket behind its handshake, and the head of the answer in lower case. What follows is to be read.
pub async fn raw_socket(served: &Served, more: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(served.address).await.expect("a connection");
    socket.write_all(handshake(more).as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("a head"));
    }
    (socket, String::from_utf8_lossy(&head).to_lowercase())
}

/// The next frame of the server: its first byte, and its payload.
pub async fn next_frame(socket: &mut TcpStream) -> (u8, Vec<u8>) {
    let reading = async {
        let (first, length) = (socket.read_u8().await?, socket.read_u8().await?);
        let length = match length {
            126 => u64::from(socket.read_u16().await?),
            127 => socket.read_u64().await?,
            length => u64::from(length),
        };
        let mut payload = Vec::new();
        (&mut *socket).take(length).read_to_end(&mut payload).await?;
        Ok::<_, std::io::Error>((first, payload))
    };
    timeout(PATIENCE, reading).await.expect("a frame in time").expect("a frame")
}

/// The code of the close frame, whatever comes before; then the server's side must have ended.
pub async fn close_code(socket: &mut TcpStream) -> u16 {
    loop {
        if let (0x88, payload) = next_frame(socket).await {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}

/// A WebSocket, past its greeting.
pub struct Client {
    pub socket: WebSocketStream<TcpStream>,
    pub welcome: String,
}

impl Client {
    pub async fn connect(served: &Served) -> Client {
        Client::try_connect(served).await.expect("a connection")
    }

    /// `None` when the connection is refused.
    pub async fn try_connect(served: &Served) -> Option<Client> {
        Client::try_connect_with(served, &[]).await
    }

    /// As [`Client::try_connect`], with these headers in the request.
    pub async fn try_connect_with(served: &Served, headers: &[(&'static str, &str)]) -> Option<Client> {
        let socket = TcpStream::connect(served.address).await.ok()?;
        let mut builder =
            ClientBuilder::new().uri("ws://localhost/v1/socket").expect("a url").limits(Limits::unlimited());
        for (name, value) in headers {
            let value = value.parse().expect("a value");
            builder = builder.add_header(hyper::header::HeaderName::from_static(name), value).expect("a header");
        }
        let (socket, _) = builder.connect_on(socket).await.ok()?;
        let mut client = Client { socket, welcome: String::new() };
        client.welcome = client.next().await;
        Some(client)
    }

    pub async fn send(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.expect("the server reads");
    }

    /// The next message.
    pub async fn next(&mut self) -> String {
        let message = timeout(PATIENCE, self.socket.next())
            .await
            .expect("a message in time")
            .expect("an open connection")
            .expect("a frame");
        message.as_text().unwrap_or_else(|| panic!("a text: {message:?}")).to_owned()
    }

    /// Sends, and takes the next message for the answer.
    pub async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.next().await
    }

    /// The code and the reason with which the server closes, whatever comes before; the handshake is
    /// seen through.
    pub async fn closed(&mut self) -> (u16, String) {
        let mut closed = None;
        let reading = async {
            while let Some(Ok(message)) = self.socket.next().await {
                closed = closed.take().or(message.as_close().map(|(code, reason)| (code.into(), reason.to_owned())));
            }
        };
        timeout(PATIENCE, reading).await.expect("an end in time");
        closed.expect("a close frame")
    }
}
