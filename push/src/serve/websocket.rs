//! A session on its socket.
//!
//! The loop owns the time, [`Socket`] the bytes, and the session decides. A session is only advanced
//! when all that it said before is out, so a client that reads slowly costs what [`Socket`] holds for
//! it and its cursor, and is told the net of what it missed.

use std::convert::Infallible;
use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::http::{Body, refusal};
use super::identity::{Identifying, Identity};
use super::peers::Slot;
use super::socket::{Close, End, Outbox, Received, Socket, Talker};
use super::stalled::Place;
use super::stream::HttpStream;
use super::{EndsServerOnPanic, Shared, credentials, handshake};
use crate::message::Message;
use crate::protocol::Refusal;
use crate::session::Session;

/// Answers the handshake and starts the session.
pub fn upgrade(
    shared: Arc<Shared>,
    mut request: Request<Incoming>,
    slot: Arc<Slot>,
    identity: Option<Identity>,
) -> Response<Body> {
    let is_extended = handshake::is_extended_connect(&request);
    // Streams of one connection are sessions like any other.
    let slot = match if is_extended { slot.another().map(Arc::new) } else { Ok(slot) } {
        Ok(slot) => slot,
        Err(_) => {
            shared.metrics.refused.inc();
            let message = "there are as many sessions as there may be";
            return refusal(StatusCode::SERVICE_UNAVAILABLE, &Refusal::new("busy", message));
        }
    };
    let mut response = match handshake::answer(request.headers(), is_extended, shared.options.compression) {
        Ok(response) => response.map(|()| http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()),
        Err(reason) => return refusal(StatusCode::UPGRADE_REQUIRED, &Refusal::new("bad_handshake", reason)),
    };
    if let Some(subprotocol) = credentials::chosen_subprotocol(request.headers()) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    let deflates = response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(run(shared, upgraded, deflates, slot, identity.map(Box::new)));
    response
}

/// Serves a session, once its connection is no longer hyper's. This is what a connection costs while
/// it is idle, so it has to be small.
async fn run(
    shared: Arc<Shared>,
    upgraded: OnUpgrade,
    deflates: bool,
    slot: Arc<Slot>,
    identity: Option<Box<Identity>>,
) {
    let _panics_end_all = EndsServerOnPanic(Arc::clone(&shared));
    let Ok(upgraded) = upgraded.await else { return };
    shared.metrics.sessions.inc();
    match tcp_connection(&shared, upgraded, deflates, identity) {
        Ok(mut connection) => connection.run().await,
        Err((upgraded, identity)) => {
            let stream = TokioIo::new(upgraded);
            Box::pin(async { Connection::new(&shared, stream, &[], deflates, identity).run().await }).await;
        }
    }
    shared.metrics.sessions.dec();
    drop(slot);
}

/// A connection of another kind, and whose it is.
type NotTcp = (Upgraded, Option<Box<Identity>>);

/// A session on the TCP socket itself: without hyper's buffers, and without a virtual call. On the
/// heap, since what a future is given by value it has room for twice.
fn tcp_connection(
    shared: &Arc<Shared>,
    upgraded: Upgraded,
    deflates: bool,
    identity: Option<Box<Identity>>,
) -> Result<Box<Connection<TcpStream>>, NotTcp> {
    match upgraded.downcast::<TokioIo<HttpStream>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner().into_inner();
            Ok(Box::new(Connection::new(shared, stream, &parts.read_buf, deflates, identity)))
        }
        Err(upgraded) => Err((upgraded, identity)),
    }
}

struct Connection<S> {
    shared: Arc<Shared>,
    socket: Socket<S>,
    session: Session,
    /// Where the session's signal is among those that are woken when the server stops.
    place: usize,
    /// What came right behind the handshake.
    early: Box<[u8]>,
    /// What the session's subscriptions count as in the metrics.
    counted: usize,
    /// When a message last went to the socket.
    last_sent: Instant,
    /// When the client was last brought to where the hub is.
    last_diff: Instant,
    /// When a message last came.
    last_received: Instant,
    /// Whether an epoch was told of, and waits for the batch interval to end.
    is_behind: bool,
    /// Who the client has shown that it is.
    identity: Option<Box<Identity>>,
    /// The answer to a token.
    identifying: Option<Identifying>,
    /// While the client takes nothing.
    stalled: Option<Box<Place>>,
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.set_identity(None);
        self.shared.stopping.sessions().remove(self.place);
    }
}

impl<S> Connection<S> {
    /// The client is this one from now on. Answers whether it may be.
    fn set_identity(&mut self, identity: Option<Identity>) -> bool {
        let subject_of = |identity: Option<&Identity>| identity.and_then(|identity| identity.subject.clone());
        let (old, new) = (subject_of(self.identity.as_deref()), subject_of(identity.as_ref()));
        if old != new {
            if let Some(old) = old {
                self.shared.subjects.remove(&old, self.session.signal());
            }
            let at_most = self.shared.options.connections_per_subject_max;
            if new.is_some_and(|new| !self.shared.subjects.add(&new, self.session.signal(), at_most)) {
                self.identity = None;
                return false;
            }
        }
        self.identity = identity.map(Box::new);
        true
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(
        shared: &Arc<Shared>,
        stream: S,
        early: &[u8],
        deflates: bool,
        identity: Option<Box<Identity>>,
    ) -> Connection<S> {
        let now = Instant::now();
        let session = Session::with_limits(Arc::clone(&shared.hub), Arc::clone(&shared.options.session));
        let place = shared.stopping.sessions().add(session.signal());
        // Who has no room is told in the exchange.
        let identifying = identity.map(|identity| -> Identifying { Box::pin(std::future::ready(Ok(*identity))) });
        Connection {
            socket: Socket::new(stream, Arc::clone(&shared.options), deflates),
            session,
            shared: Arc::clone(shared),
            place,
            early: early.into(),
            counted: 0,
            last_sent: now,
            last_diff: now,
            last_received: now,
            is_behind: false,
            identity: None,
            identifying,
            stalled: None,
        }
    }

    /// Serves the session to its end.
    async fn run(&mut self) {
        let mut timer = pin!(sleep_until(self.wake_at()));
        let end = match self.exchange(timer.as_mut()).await {
            Err(end) => end,
            Ok(never) => match never {},
        };
        self.count_subscriptions(0);
        if end == End::Stalled {
            self.shared.metrics.stalled.inc();
        }
        if let Some(time) = self.socket.close(end) {
            timer.as_mut().reset(Instant::now() + time);
            let mut discarded = 0;
            tokio::select! {
                () = poll_fn(|cx| self.socket.poll_closed(cx, &mut discarded)) => {}
                () = timer => {}
            }
        }
        self.count_sent();
    }

    async fn exchange(&mut self, mut timer: Pin<&mut Sleep>) -> Result<Infallible, End> {
        let options = &self.shared.options;
        self.session.greet(options.heartbeat, options.message_bytes_max);
        // One that came with a token is who it is before anything that it asks is looked at.
        if let Some(identifying) = self.identifying.take() {
            self.identified(identifying.await)?;
        }
        self.receive_early()?;
        loop {
            // One that is set too early wakes us in vain, once; setting it anew for each message would
            // cost more.
            let wake_at = self.wake_at();
            if wake_at < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(wake_at);
            }
            poll_fn(|cx| self.poll_turn(cx, timer.as_mut())).await?;
        }
    }

    /// Ready when something was done.
    fn poll_turn(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<Result<(), End>> {
        self.session.signal().register(cx.waker());
        if self.shared.stopping.has_begun() {
            return Poll::Ready(Err(End::Close(Close::GOING_AWAY)));
        }
        if self.session.signal().is_cut() {
            return Poll::Ready(Err(End::Close(Close::REVOKED)));
        }
        if self.session.signal().is_shed() {
            return Poll::Ready(Err(End::Stalled));
        }
        // Before the others, which find more to say only when all is out. A client that sends without a
        // pause does not keep them waiting for long: the rate of messages sees to that.
        if let Poll::Ready(exchanged) = self.poll_exchange(cx) {
            return Poll::Ready(exchanged);
        }
        if self.socket.outbox.is_empty() && !self.is_behind && self.session.signal().take() {
            // A timer wakes at whole milliseconds: what is due already does not wait for one.
            self.is_behind = true;
            self.advance_if_due();
            return Poll::Ready(Ok(()));
        }
        timer.poll(cx).map(|()| self.look_at_the_clock())
    }

    /// When there is something to do, if nothing happens until then.
    fn wake_at(&self) -> Instant {
        let options = &self.shared.options;
        if let Some(deadline) = self.socket.deadline() {
            return deadline;
        }
        let mut at = self.last_sent + options.heartbeat;
        if self.is_behind {
            at = at.min(self.last_diff + self.session.interval());
        }
        if self.session.subscriptions() == 0 {
            at = at.min(self.last_received + options.idle_timeout);
        }
        match self.time_left() {
            Some(left) => at.min(Instant::now() + left),
            None => at,
        }
    }

    /// Until the session must end because its token has expired and no new one has come.
    fn time_left(&self) -> Option<Duration> {
        self.identity.as_ref()?.time_left(self.shared.authenticator.grace())
    }

    /// A token has been looked at.
    fn identified(&mut self, answer: Result<Identity, Refusal>) -> Result<(), End> {
        match answer {
            Ok(identity) => {
                let viewer = identity.viewer.clone();
                if !self.set_identity(Some(identity)) {
                    return Err(End::Close(Close::TOO_MANY_OF_SUBJECT));
                }
                self.session.authenticated(viewer);
            }
            // Who it was before it is still.
            Err(refused) => self.session.not_authenticated(&refused),
        }
        Ok(())
    }

    /// Does what is due.
    fn look_at_the_clock(&mut self) -> Result<(), End> {
        self.socket.check_progress()?;
        if self.time_left().is_some_and(|left| left.is_zero()) {
            return Err(End::Close(Close::EXPIRED));
        }
        let now = Instant::now();
        if self.session.subscriptions() == 0 && self.last_received + self.shared.options.idle_timeout <= now {
            return Err(End::Close(Close::IDLE));
        }
        let is_silent = self.last_sent + self.shared.options.heartbeat <= now;
        if is_silent && self.socket.outbox.is_empty() && !self.session.has_next() {
            // A client that chose a longer interval is not told earlier.
            if self.last_diff + self.session.interval() <= now {
                self.advance();
            }
            self.session.heartbeat();
        }
        self.advance_if_due();
        Ok(())
    }

    fn advance_if_due(&mut self) {
        let due = self.last_diff + self.session.interval();
        if self.is_behind && self.socket.outbox.is_empty() && due <= Instant::now() {
            self.advance();
        }
    }

    fn advance(&mut self) {
        self.is_behind = false;
        self.last_diff = Instant::now();
        self.session.advance();
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if let Some(identifying) = &mut self.identifying
            && let Poll::Ready(answer) = identifying.as_mut().poll(cx)
        {
            self.identifying = None;
            self.identified(answer)?;
        }
        let Connection { shared, session, last_received, .. } = self;
        let polled = self.socket.poll_exchange(cx, &mut Talking { shared, session, last_received });
        if let Some(token) = self.session.take_token() {
            self.identifying = Some(self.shared.authenticator.identify(token));
        }
        self.count_sent();
        self.count_subscriptions(self.session.subscriptions());
        self.keep_place();
        polled
    }

    /// Stands among the stalled while the client takes nothing.
    fn keep_place(&mut self) {
        let deadline = self.socket.deadline();
        if self.stalled.as_ref().map(|place| place.deadline()) != deadline {
            let enter = |deadline| Box::new(self.shared.stalled.enter(deadline, self.session.signal()));
            self.stalled = deadline.map(enter);
            self.session.pause(deadline.is_some());
        }
    }

    fn receive_early(&mut self) -> Result<(), End> {
        let mut bytes = mem::take(&mut self.early);
        let Connection { shared, session, last_received, .. } = self;
        let received = self.socket.receive(&mut bytes, &mut Talking { shared, session, last_received });
        if let Some(token) = self.session.take_token() {
            self.identifying = Some(self.shared.authenticator.identify(token));
        }
        self.count_subscriptions(self.session.subscriptions());
        received
    }

    fn count_sent(&mut self) {
        let sent = self.socket.take_sent();
        if sent.messages > 0 {
            self.last_sent = Instant::now();
            self.shared.metrics.messages_sent.inc_by(sent.messages);
        }
        if sent.bytes > 0 {
            self.shared.metrics.bytes_sent.inc_by(sent.bytes);
        }
    }

    fn count_subscriptions(&mut self, now: usize) {
        if now != self.counted {
            let change = i64::try_from(now).unwrap_or(0) - i64::try_from(self.counted).unwrap_or(0);
            self.shared.metrics.subscriptions.inc_by(change);
            self.counted = now;
        }
    }
}

/// A session as its socket knows it.
struct Talking<'a> {
    shared: &'a Shared,
    session: &'a mut Session,
    last_received: &'a mut Instant,
}

impl Talker for Talking<'_> {
    fn receive(&mut self, received: Received<'_>, _: &mut Outbox) -> Result<(), End> {
        let Received::Text(text) = received else { return Err(End::Close(Close::BINARY)) };
        *self.last_received = Instant::now();
        self.shared.metrics.messages_received.inc();
        self.session.receive(text);
        Ok(())
    }

    fn next_message(&mut self) -> Option<Message> {
        self.session.next_message()
    }

    fn has_next(&self) -> bool {
        self.session.has_next()
    }

    fn is_crowded(&self) -> bool {
        self.session.is_crowded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;
    use tokio_websockets::Message as Frame;

    use super::super::ServeOptions;
    use super::super::testing::{Client, PATIENCE, Served, close_code, raw_socket};
    use crate::hub::Projection;
    use crate::testing::{ample_hub, hub_of, projection, publish};

    /// What an idle connection costs beside its session: grown by mistake, it is multiplied by every client.
    #[tokio::test]
    async fn the_future_of_a_connection_is_small() {
        let (_, health) = tokio::sync::watch::channel(super::super::Health::default());
        let shared = Arc::new(Shared {
            hub: ample_hub(),
            gate: super::super::Gate::new(true, &[], &[]).expect("empty lists"),
            options: Arc::new(ServeOptions::default()),
            metrics: crate::metrics::Metrics::default(),
            health,
            more_metrics: Arc::new(|_| ()),
            authenticator: Arc::new(super::super::Strangers),
            subjects: super::super::Subjects::default(),
            stalled: super::super::Stalled::new(0, prometheus_client::metrics::counter::Counter::default()),
            stopping: super::super::Stopping::default(),
            panicked: tokio::sync::Notify::new(),
        });
        let peers = super::super::peers::Peers::new(1, 1);
        let slot = Arc::new(peers.admit([127, 0, 0, 1].into()).expect("a place"));
        let upgraded = hyper::upgrade::on(Request::new(()));
        let connection = size_of::<Connection<TcpStream>>();
        let bytes = connection + size_of_val(&run(shared, upgraded, false, slot, None));
        assert!(bytes <= 1024, "{bytes} bytes, of which {} are the session", size_of::<Session>());
    }

    const SUBSCRIBE: &str = r#"{"op":"subscribe","id":"a","projection":"keyed"}"#;

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
        // Headers have two bytes up to 125, then four.
        let framed = |message: &String| message.len() as i64 + if message.len() > 125 { 4 } else { 2 };
        let bytes = [&client.welcome, &image, &other, &gone].map(framed).iter().sum::<i64>();
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
        binary.socket.send(Frame::binary(vec![1, 2, 3])).await.expect("sent");
        assert_eq!(binary.closed().await, (1003, "messages are JSON text".to_owned()));
        let mut flood = Client::connect(&served).await;
        for _ in 0..1000 {
            if flood.socket.send(Frame::text(r#"{"op":"ping"}"#)).await.is_err() {
                break;
            }
        }
        assert_eq!(flood.closed().await, (4500, "too many messages".to_owned()));
        // A ping of the protocol below ours is answered there, and is no message of a session.
        let mut polite = Client::connect(&served).await;
        polite.socket.send(Frame::ping("are you there")).await.expect("sent");
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
            let (mut socket, head) = raw_socket(&served, "").await;
            assert!(
                head.starts_with("http/1.1 101 ")
                    && head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
                "{head}"
            );
            assert!(head.contains("connection: upgrade") && head.contains("upgrade: websocket"), "{head}");
            socket.write_all(frame).await.expect("sent");
            assert_eq!(close_code(&mut socket).await, code);
            assert_eq!(timeout(PATIENCE, socket.read(&mut [0])).await.expect("an end in time").expect("no error"), 0);
        }
    }
}
