//! A projection's changes as server-sent events (WHATWG HTML, section 9.2): a session of one subscription whose
//! messages are events, for whoever has no WebSocket, and for curl.
//!
//! ```text
//!  data: {"op":"image", …}         as docs/protocol.md has it
//!  id: CURSOR:VIEW                 where the client is whole; it comes back as Last-Event-ID
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::error::ArrowError;
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Request, Response, Version};
use tokio::time::{Instant, Sleep, sleep_until};

use super::http::Body;
use super::identity::Identity;
use super::peers::Slot;
use super::{Shared, query};
use crate::held::counted;
use crate::hub::ProjectionId;
use crate::message::Message;
use crate::protocol::{RETRY_MAX, RETRY_MIN, Refusal, Resume, Subscribe};
use crate::random::some_time;
use crate::session::Session;

/// The client's name for its only subscription.
const ID: &str = "changes";

/// Begins to tell what a URL asks of a projection.
///
/// # Errors
/// With what is wrong with it, or why it can't be told now.
pub fn begin(
    shared: &Arc<Shared>,
    request: &Request<Incoming>,
    slot: &Slot,
    projection: ProjectionId,
    identity: Option<Identity>,
) -> Result<Response<Body>, Refusal> {
    let info = &shared.hub.projections()[projection.0];
    let viewer = identity.as_ref().map(|identity| identity.viewer.clone()).unwrap_or_default();
    let Some(sight) = viewer.sight(info) else { return Err(viewer.nothing_of(info)) };
    let asked = query::parse(request.uri().query(), &info.schema, &|column| sight.columns.contains(&column))?;
    let resume = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.rsplit_once(':'));
    let resume = resume.map(|(cursor, view)| Resume { cursor: cursor.to_owned(), view: view.to_owned() });
    let asked = Subscribe { id: ID.to_owned(), projection: info.name.clone(), resume, ..asked };
    // Streams of one connection are sessions like any other.
    let slot = match request.version() {
        Version::HTTP_2 => {
            Some(slot.another().map_err(|_| Refusal::busy("there are as many sessions as there may be"))?)
        }
        _ => None,
    };
    let mut session = Session::with_limits(Arc::clone(&shared.hub), Arc::clone(&shared.options.session));
    session.begin(&asked, viewer)?;
    if let Some(subject) = identity.as_ref().and_then(|identity| identity.subject.as_ref())
        && !shared.subjects.add(subject, session.signal(), shared.options.connections_per_subject_max)
    {
        return Err(Refusal::busy("there are as many sessions of yours as there may be"));
    }
    let now = Instant::now();
    shared.metrics.sessions.inc();
    shared.metrics.subscriptions.inc();
    let retry = format!("retry: {}\n\n", some_time(RETRY_MIN, RETRY_MAX).as_millis());
    let events = Events {
        place: shared.stopping.sessions().add(session.signal()),
        shared: Arc::clone(shared),
        session,
        identity,
        _slot: slot,
        first: Some(retry.into()),
        next: None,
        timer: Box::pin(sleep_until(now)),
        last_sent: now,
        last_diff: now,
        is_behind: false,
    };
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // nginx would keep events until it has a buffer full of them.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

struct Events {
    shared: Arc<Shared>,
    session: Session,
    /// Where the session's signal is among those that are woken when the server stops.
    place: usize,
    identity: Option<Identity>,
    _slot: Option<Slot>,
    /// What goes out before all events.
    first: Option<Bytes>,
    /// The message after the one that goes out: whether there is one tells whether that leaves the client whole.
    next: Option<Message>,
    timer: Pin<Box<Sleep>>,
    last_sent: Instant,
    last_diff: Instant,
    /// Whether an epoch was told of, and waits for the batch interval to end.
    is_behind: bool,
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(subject) = self.identity.as_ref().and_then(|identity| identity.subject.as_ref()) {
            self.shared.subjects.remove(subject, self.session.signal());
        }
        self.shared.stopping.sessions().remove(self.place);
        self.shared.metrics.subscriptions.dec();
        self.shared.metrics.sessions.dec();
    }
}

impl Events {
    /// Whether the client is to come back, if it may: it is asked then who it is.
    fn is_over(&self) -> bool {
        let has_expired = || self.time_left().is_some_and(|left| left.is_zero());
        let signal = self.session.signal();
        self.shared.stopping.has_begun() || signal.is_cut() || signal.is_shed() || has_expired()
    }

    /// Until the token holds no longer.
    fn time_left(&self) -> Option<Duration> {
        self.identity.as_ref()?.time_left(self.shared.authenticator.grace())
    }

    fn event(&mut self, message: &Message) -> Bytes {
        self.last_sent = Instant::now();
        self.next = self.session.next_message();
        let mut out = b"data: ".to_vec();
        out.extend_from_slice(message.json());
        // Where a message leaves it halfway it has not come.
        if self.next.is_none()
            && let Some((cursor, view)) = self.session.whole_at(ID)
        {
            out.extend_from_slice(format!("\nid: {cursor}:{view}").as_bytes());
        }
        out.extend_from_slice(b"\n\n");
        self.shared.metrics.messages_sent.inc();
        self.shared.metrics.bytes_sent.inc_by(out.len() as u64);
        counted(out)
    }

    fn advance(&mut self) {
        self.is_behind = false;
        self.last_diff = Instant::now();
        self.session.advance();
    }

    /// Does what is due; until when there is nothing to do otherwise.
    fn look_at_the_clock(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let (due, silent) = (self.last_diff + self.session.interval(), self.last_sent + self.shared.options.heartbeat);
        if silent <= now || self.is_behind && due <= now {
            // Who chose a longer interval is not told earlier.
            if due <= now {
                self.advance();
            }
            if silent <= now && !self.session.has_next() {
                self.session.heartbeat();
            }
            self.last_sent = if silent <= now { now } else { self.last_sent };
            return None;
        }
        let at = if self.is_behind { due.min(silent) } else { silent };
        Some(self.time_left().map_or(at, |left| at.min(now + left)))
    }
}

impl Stream for Events {
    type Item = Result<Frame<Bytes>, ArrowError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            self.session.signal().register(cx.waker());
            if self.is_over() {
                return Poll::Ready(None);
            }
            if let Some(message) = self.next.take().or_else(|| self.session.next_message()) {
                return Poll::Ready(Some(Ok(Frame::data(self.event(&message)))));
            }
            if self.session.has_next() {
                // Others first: looking through all rows takes a while.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.session.subscriptions() == 0 {
                return Poll::Ready(None);
            }
            if !self.is_behind && self.session.signal().take() {
                self.is_behind = true;
            }
            let Some(at) = self.look_at_the_clock() else { continue };
            self.timer.as_mut().reset(at);
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::SystemTime;

    use http_body_util::Limited;
    use hyper::body::Incoming;
    use serde_json::{Value, json};
    use tokio::time::timeout;

    use super::super::ServeOptions;
    use super::super::testing::{PATIENCE, People, Served, get, post, request};
    use crate::hub::Hub;
    use crate::testing::{ample_hub, fail, not_ready, publish};

    /// An answer's events as they come.
    struct Reader {
        body: Limited<Incoming>,
        text: String,
    }

    impl Reader {
        async fn open(served: &Served, path: &str, headers: &[(&str, &str)]) -> Reader {
            let response = request(served.address, &format!("GET {path}"), headers).await.expect("an answer");
            let (head, body) = response.into_parts();
            let kind = head.headers["content-type"].to_str().expect("a text");
            assert_eq!((head.status.as_u16(), kind), (200, "text/event-stream"));
            Reader { body: Limited::new(body, 1 << 20), text: String::new() }
        }

        /// The next event: its message and its id. `None` at the end.
        async fn next(&mut self) -> Option<(Value, Option<String>)> {
            loop {
                let first = self.text.split_once("\n\n").map(|(event, rest)| (event.to_owned(), rest.to_owned()));
                if let Some((event, rest)) = first {
                    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
                    let (data, id, retry) = (field("data: "), field("id: "), field("retry: "));
                    self.text = rest;
                    match (data, retry) {
                        (Some(data), _) => return Some((serde_json::from_str(&data).expect("JSON"), id)),
                        (None, Some(retry)) => {
                            let millis: u64 = retry.parse().expect("milliseconds");
                            assert!((1000..=5000).contains(&millis), "{retry}");
                            continue;
                        }
                        (None, None) => panic!("no event: {event}"),
                    }
                }
                let frame = timeout(PATIENCE, self.body.frame()).await.expect("something, or the end")?;
                let data = frame.ok()?.into_data().expect("no trailers");
                self.text.push_str(std::str::from_utf8(&data).expect("UTF-8"));
            }
        }
    }

    async fn served(options: ServeOptions) -> (Served, Arc<Hub>) {
        let hub = ample_hub();
        publish(&hub, 1, "+keyed(1,ann) +keyed(2,bob)");
        (Served::start(Arc::clone(&hub), options).await, hub)
    }

    const CHANGES: &str = "/v1/projections/keyed/changes";

    #[tokio::test]
    async fn changes_are_events_and_go_on_where_a_client_was() {
        let (served, hub) = served(ServeOptions::default()).await;
        let path = format!("{CHANGES}?name=neq.bob");
        let mut reader = Reader::open(&served, &path, &[]).await;
        let (image, id) = reader.next().await.expect("an image");
        assert_eq!((&image["rows"], &image["last"]), (&json!([[1, "ann"]]), &json!(true)));
        assert!(id.is_some_and(|id| id.starts_with("boot-1:")));
        publish(&hub, 2, "+keyed(3,eve) -keyed(2,bob) +keyed(4,bob)");
        let (diff, id) = reader.next().await.expect("a diff");
        assert_eq!(diff["diffs"], json!([{ "id": "changes", "upsert": [[3, "eve"]] }]));
        drop(reader);
        served.metric("sessions", |sessions| sessions == 0).await;
        publish(&hub, 3, "-keyed(1,ann)");
        let id = id.expect("where it is");
        let mut reader = Reader::open(&served, &path, &[("last-event-id", &id)]).await;
        let (resumed, _) = reader.next().await.expect("what was missed");
        assert_eq!(
            (&resumed["resumed"], &resumed["rows"], &resumed["delete"]),
            (&json!(true), &json!([]), &json!([[1]]))
        );
        // Of another question, or of another run of the server, it is no place.
        for (path, id, reason) in [(CHANGES, id.as_str(), "view"), (&path, "other-2:x", "restart"), (&path, "?", "")] {
            let (image, _) =
                Reader::open(&served, path, &[("last-event-id", id)]).await.next().await.expect("an image");
            let reset = image["reset"].as_str().unwrap_or_default();
            assert!(reset == reason || reason == "restart" && reset == "view", "{path} {id}: {image}");
        }
    }

    #[tokio::test]
    async fn who_is_told_nothing_hears_a_heartbeat_and_the_end() {
        let options = ServeOptions { heartbeat: Duration::from_millis(50), ..ServeOptions::default() };
        let (served, hub) = served(options).await;
        let mut reader = Reader::open(&served, CHANGES, &[]).await;
        reader.next().await.expect("an image");
        publish(&hub, 2, "+bag(1,x)");
        loop {
            let (message, id) = reader.next().await.expect("a heartbeat");
            assert_eq!(message["op"], "heartbeat");
            assert!(id.is_some());
            if message["epoch"] == 2 {
                break;
            }
        }
        let stopped = tokio::spawn(served.stop());
        while reader.next().await.is_some() {}
        stopped.await.expect("it stops");
    }

    #[tokio::test]
    async fn what_can_t_be_told_is_refused_as_rest_refuses_it() {
        let (served, hub) = served(ServeOptions::default()).await;
        for (path, expected) in [
            ("/v1/projections/none/changes", (404, "unknown_projection")),
            ("/v1/projections/keyed/changes?sort=name", (400, "bad_request")),
            ("/v1/projections/keyed/changes?id=eq.x", (400, "bad_filter")),
            ("/v1/projections/keyed/changes?token=x", (400, "bad_credentials")),
            ("/v1/projections/keyed/changes/x", (404, "unknown_projection")),
        ] {
            let (status, body) = get(served.address, &format!("GET {path}"), &[]).await;
            let body: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!((status, body["code"].as_str()), (expected.0, Some(expected.1)), "{path}: {body}");
        }
        fail(&hub, 2, "keyed", "two rows have its key");
        assert_eq!(get(served.address, &format!("GET {CHANGES}"), &[]).await.0, 409);
    }

    /// Who comes back with the id of half an image would never be told the rest of it.
    #[tokio::test]
    async fn what_leaves_a_client_halfway_has_no_id() {
        let hub = ample_hub();
        let rows: Vec<String> = (0..3000).map(|id| format!("+keyed({id},{})", "x".repeat(500))).collect();
        publish(&hub, 1, &rows.join(" "));
        let served = Served::start(Arc::clone(&hub), ServeOptions::default()).await;
        let response = request(served.address, &format!("GET {CHANGES}"), &[]).await.expect("an answer");
        let mut reader = Reader { body: Limited::new(response.into_body(), 1 << 24), text: String::new() };
        let (mut parts, mut rows) = (0, 0);
        loop {
            let (message, id) = reader.next().await.expect("a part");
            parts += 1;
            rows += message["rows"].as_array().map_or(0, Vec::len);
            assert_eq!(id.is_some(), message["last"] == true, "part {parts}");
            if message["last"] == true {
                break;
            }
        }
        assert!(parts > 1 && rows == 3000, "{rows} rows in {parts} parts");
    }

    /// Nor has a heartbeat while there is nothing yet to be whole with.
    #[tokio::test]
    async fn who_waits_for_the_first_copy_is_nowhere() {
        let hub = not_ready(1 << 20);
        let options = ServeOptions { heartbeat: Duration::from_millis(20), ..ServeOptions::default() };
        let served = Served::start(Arc::clone(&hub), options).await;
        let mut reader = Reader::open(&served, CHANGES, &[]).await;
        let (message, id) = reader.next().await.expect("a heartbeat");
        assert_eq!((message["op"].as_str(), id), (Some("heartbeat"), None));
    }

    #[tokio::test]
    async fn changes_come_when_their_interval_is_over_and_sessions_are_counted() {
        let limits = crate::session::SessionLimits {
            interval_min: Duration::from_millis(100),
            window_rows_max: 10,
            ..crate::session::SessionLimits::default()
        };
        let options = ServeOptions {
            heartbeat: Duration::from_secs(3600),
            session: Arc::new(limits),
            connections_per_subject_max: 1,
            ..ServeOptions::default()
        };
        let hub = ample_hub();
        publish(&hub, 1, "+keyed(1,ann)");
        let served = Served::start_with(Arc::clone(&hub), options, Arc::new(People::default())).await;
        let ann = [("authorization", "Bearer ann")];
        let mut reader = Reader::open(&served, CHANGES, &ann).await;
        reader.next().await.expect("an image");
        for epoch in 2..4 {
            publish(&hub, epoch, &format!("+keyed({epoch},x)"));
            assert_eq!(reader.next().await.expect("a diff").0["epoch"], epoch);
        }
        // One session is all that she may have, until it is over.
        assert_eq!(get(served.address, &format!("GET {CHANGES}"), &ann).await.0, 503);
        drop(reader);
        let again =
            async || request(served.address, &format!("GET {CHANGES}"), &ann).await.expect("an answer").status();
        while again().await != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for path in ["/v1/projections/keyed?limit=11", "/v1/projections/keyed/changes?limit=11"] {
            assert_eq!(get(served.address, &format!("GET {path}"), &[]).await.0, 503, "{path}: windows have no room");
        }
    }

    /// A token that is over, and one that is revoked, end what they opened.
    #[tokio::test]
    async fn a_token_holds_for_as_long_as_it_does() {
        let hub = ample_hub();
        publish(&hub, 1, "+keyed(1,ann)");
        let served = Served::start_with(Arc::clone(&hub), ServeOptions::default(), Arc::new(People::default())).await;
        assert_eq!(get(served.address, &format!("GET {CHANGES}"), &[("authorization", "Bearer thief")]).await.0, 401);
        let soon =
            SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970") + Duration::from_millis(300);
        let bearer = format!("Bearer ann@{}", soon.as_millis());
        let mut reader = Reader::open(&served, CHANGES, &[("authorization", &bearer)]).await;
        // It ends by itself, or the reader loses patience.
        while reader.next().await.is_some() {}
        let mut reader = Reader::open(&served, CHANGES, &[("authorization", "Bearer bob")]).await;
        reader.next().await.expect("an image");
        let (path, admin) = ("/v1/sessions/revoke", "Bearer the admin token");
        assert_eq!(post(served.address, "POST", path, admin, r#"{"subject":"bob"}"#).await.0, 200);
        while reader.next().await.is_some() {}
    }
}
