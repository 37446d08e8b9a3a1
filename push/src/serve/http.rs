//! Paths to answers.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::error::ArrowError;
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::gate::Caller;
use super::identity::Identity;
use super::peers::Slot;
use super::{Shared, WithheldNow, credentials, events, handshake, query, websocket};
use crate::ask::{Seen, fingerprint, has_window_room, view_spec};
use crate::held::counted;
use crate::hub::{Hub, ProjectionId};
use crate::image::{Image, Piece};
use crate::json::write_string;
use crate::protocol::{Refusal, shorten};
use crate::view::{View, ViewSpec};
use crate::viewer::Viewer;
use crate::wire::write_shape;

pub type Body = UnsyncBoxBody<Bytes, ArrowError>;

const JSON: &str = "application/json";
const PAGE: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("../page/page.js")),
    ("/page.css", "text/css; charset=utf-8", include_str!("../page/page.css")),
];

/// Answers a request.
pub async fn answer(shared: Arc<Shared>, mut request: Request<Incoming>, slot: Arc<Slot>) -> Response<Body> {
    if let Err(reason) = name_host(&mut request) {
        return refusal(StatusCode::BAD_REQUEST, &Refusal::new("bad_request", reason));
    }
    let path = request.uri().path().to_owned();
    // Health is asked by machines on the inside, which know no name of ours.
    match path.as_str() {
        "/healthz" => return text(StatusCode::OK, "ok\n"),
        "/readyz" => return ready(&shared),
        _ => {}
    }
    let caller = match shared.gate.check(request.headers()) {
        Ok(caller) => caller,
        Err(reason) => {
            shared.metrics.refused.inc();
            return refusal(StatusCode::FORBIDDEN, &Refusal::new("forbidden", reason));
        }
    };
    if path.starts_with("/v1/")
        && path != "/v1/socket"
        && let Err(refused) = takes_parameters(&path, request.uri().query())
    {
        shared.metrics.refused.inc();
        return refusal(StatusCode::BAD_REQUEST, &refused);
    }
    if path == "/v1/sessions/revoke" {
        return revoke(&shared, request).await;
    }
    let is_socket = path == "/v1/socket" && handshake::is_extended_connect(&request);
    if request.method() != Method::GET && request.method() != Method::HEAD && !is_socket {
        let mut response =
            refusal(StatusCode::METHOD_NOT_ALLOWED, &Refusal::new("method_not_allowed", "only GET is answered here"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if let Some((_, content_type, content)) = PAGE.iter().find(|(at, ..)| *at == path) {
        return page(content_type, content);
    }
    if path == "/metrics" {
        // They tell how many rows there are of what: where administrators are known, it is for them.
        if shared.authenticator.has_admins() && !is_admin(&shared, &request) {
            return for_admins(&shared);
        }
        let page = shared.metrics.page(&shared.hub, &*shared.more_metrics);
        return with_type(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", page);
    }
    let is_operator = is_operator(&shared, &request);
    if let Some((name, what)) = path.strip_prefix("/v1/projections/").and_then(|path| path.rsplit_once('/'))
        && let "errors" | "explain" = what
    {
        return if is_operator { details(&shared, &plain(name), what) } else { for_operators(&shared) };
    }
    if path == "/v1/projections" && is_admin(&shared, &request) {
        return with_type(StatusCode::OK, JSON, catalog(&shared, None, true));
    }
    let identity = match identify(&shared, &request, caller).await {
        Ok(identity) => identity,
        Err(refused) => {
            shared.metrics.refused.inc();
            return unauthorized(&refused);
        }
    };
    if path == "/v1/socket" {
        return websocket::upgrade(shared, request, slot, identity);
    }
    if let Some(name) = path.strip_prefix("/v1/projections/").and_then(|path| path.strip_suffix("/changes")) {
        let found = find(&shared, &plain(name));
        return match found.map(|id| events::begin(&shared, &request, &slot, id, identity)) {
            Ok(Ok(response)) => response,
            Ok(Err(refused)) => {
                shared.metrics.refused.inc();
                not_answered(&refused)
            }
            Err(refusal) => *refusal,
        };
    }
    let viewer = identity.map(|identity| identity.viewer).unwrap_or_default();
    match path.as_str() {
        "/v1/projections" => with_type(StatusCode::OK, JSON, catalog(&shared, Some(&viewer), is_operator)),
        other => match other.strip_prefix("/v1/projections/") {
            Some(name) => rows(&shared, &plain(name), request.uri().query(), &viewer),
            None => refusal(
                StatusCode::NOT_FOUND,
                &Refusal::new("not_found", format!("there is nothing at {}", shorten(other))),
            ),
        },
    }
}

/// HTTP/2 has the host in `:authority`, and need not have it in a header as well.
fn name_host(request: &mut Request<Incoming>) -> Result<(), &'static str> {
    let Some(authority) = request.uri().authority().filter(|_| request.version() == Version::HTTP_2) else {
        return Ok(());
    };
    let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| "the authority is no host")?;
    match request.headers().get(HOST) {
        Some(host) if *host != authority => Err("the host and the authority are not the same"),
        _ => {
            request.headers_mut().insert(HOST, authority);
            Ok(())
        }
    }
}

/// Only rows are asked for by parameters, and one that is passed over would be answered with everything.
fn takes_parameters(path: &str, query: Option<&str>) -> Result<(), Refusal> {
    credentials::check_query(query)?;
    let name = path.strip_prefix("/v1/projections/").map(|name| name.strip_suffix("/changes").unwrap_or(name));
    let of_rows = name.is_some_and(|name| !name.contains('/'));
    match query.into_iter().flat_map(|query| query.split('&')).find(|pair| !pair.is_empty()) {
        Some(pair) if !of_rows => {
            let name = plain(pair.split('=').next().unwrap_or(pair));
            Err(Refusal::new("bad_request", format!("there is no parameter `{}` here", shorten(&name))))
        }
        _ => Ok(()),
    }
}

/// A name as it is, of one as a URL has it: `offene%20aufträge`.
fn plain(name: &str) -> Cow<'_, str> {
    percent_decode_str(name).decode_utf8_lossy()
}

/// Whether a request bears the administrators' token.
fn is_admin(shared: &Shared, request: &Request<Incoming>) -> bool {
    let told = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    told.and_then(|told| told.strip_prefix("Bearer ")).is_some_and(|token| shared.authenticator.is_admin(token.trim()))
}

/// Whether a request is of whoever runs the server, who may know why a row is withheld: such reasons tell values that
/// no projection shows. Where no administrators are known, it is whoever is on the same machine, as
/// long as nobody else can reach the server.
fn is_operator(shared: &Shared, request: &Request<Incoming>) -> bool {
    is_admin(shared, request) || (!shared.authenticator.has_admins() && shared.gate.is_local())
}

/// Whose request this is; `None` when it bears no token.
async fn identify(shared: &Shared, request: &Request<Incoming>, caller: Caller) -> Result<Option<Identity>, Refusal> {
    let query = request.uri().query();
    match credentials::find(request.headers(), query, caller, shared.authenticator.cookie())? {
        None => Ok(None),
        Some(credential) => shared.authenticator.identify(credential.token).await.map(Some),
    }
}

fn unauthorized(refused: &Refusal) -> Response<Body> {
    let status = match refused.code {
        "keys_unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "bad_credentials" | "conflicting_tokens" | "cookie_without_origin" => StatusCode::BAD_REQUEST,
        _ => StatusCode::UNAUTHORIZED,
    };
    let mut response = refusal(status, refused);
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn for_admins(shared: &Shared) -> Response<Body> {
    shared.metrics.refused.inc();
    unauthorized(&Refusal::new("forbidden", "this is for administrators: Authorization: Bearer ADMIN_TOKEN"))
}

fn for_operators(shared: &Shared) -> Response<Body> {
    if shared.authenticator.has_admins() {
        return for_admins(shared);
    }
    shared.metrics.refused.inc();
    let message = "this tells values that no projection shows: set admin_token in [auth] of deltafront.toml, and \
                   send Authorization: Bearer ADMIN_TOKEN";
    refusal(StatusCode::FORBIDDEN, &Refusal::new("forbidden", message))
}

/// Bytes of a request to an endpoint for administrators.
const ADMIN_BYTES_MAX: usize = 16 * 1024;

/// `POST /v1/sessions/revoke` of `{"subject": "…"}`: cuts a subject off at once, and for every token
/// that was issued before.
async fn revoke(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    if !is_admin(shared, &request) {
        return for_admins(shared);
    }
    if request.method() != Method::POST {
        let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, &Refusal::new("method_not_allowed", "POST it"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let asked = match Limited::new(request.into_body(), ADMIN_BYTES_MAX).collect().await {
        Ok(body) => serde_json::from_slice::<serde_json::Value>(&body.to_bytes()).ok(),
        Err(_) => None,
    };
    let Some(subject) = asked.as_ref().and_then(|asked| asked["subject"].as_str()) else {
        let message = "send {\"subject\": \"…\"}, the `sub` of the tokens that are to hold no more";
        return refusal(StatusCode::BAD_REQUEST, &Refusal::new("bad_request", message));
    };
    shared.authenticator.revoke(subject);
    let sessions = shared.subjects.cut(subject);
    tracing::info!(subject, sessions, "revoked");
    with_type(StatusCode::OK, JSON, json!({ "subject": subject, "sessions": sessions }).to_string())
}

fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

fn with_type(status: StatusCode, content_type: &str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(content));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("text/plain")));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn text(status: StatusCode, content: &'static str) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", content)
}

pub fn refusal(status: StatusCode, refusal: &Refusal) -> Response<Body> {
    with_type(status, JSON, refusal.to_json())
}

fn page(content_type: &str, content: &'static str) -> Response<Body> {
    let mut response = with_type(StatusCode::OK, content_type, content);
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:";
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn ready(shared: &Shared) -> Response<Body> {
    let health = shared.health.borrow();
    let sources: serde_json::Map<String, serde_json::Value> =
        health.sources.iter().map(|(name, state)| (name.clone(), state.clone().into())).collect();
    let status = if health.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    with_type(status, JSON, json!({ "ready": health.is_ready, "sources": sources }).to_string())
}

/// `GET /v1/projections`: those that the client may see, as far as it may; all of them without a viewer,
/// for an administrator.
fn catalog(shared: &Shared, viewer: Option<&Viewer>, is_operator: bool) -> Vec<u8> {
    let health = shared.health.borrow().clone();
    let (counts, are_ready) = (shared.hub.row_counts(), shared.hub.are_ready());
    let failed = Arc::clone(&shared.hub.now().failed);
    let mut out = br#"{"projections":["#.to_vec();
    let start = out.len();
    for (i, info) in shared.hub.projections().iter().enumerate() {
        let spec = match viewer.map(|viewer| viewer.sight(info)) {
            None => ViewSpec::whole(ProjectionId(i), info),
            Some(Some(sight)) => ViewSpec::seen(ProjectionId(i), &sight),
            Some(None) => continue,
        };
        out.extend_from_slice(if out.len() == start { br#"{"name":"# } else { br#",{"name":"# });
        write_string(&mut out, &info.name);
        out.extend_from_slice(br#","description":"#);
        match &info.description {
            Some(text) => write_string(&mut out, text),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b',');
        write_shape(&mut out, info, &spec);
        out.extend_from_slice(format!(r#","batch_ms":{},"ready":{}"#, info.batch.as_millis(), are_ready[i]).as_bytes());
        if viewer.is_some_and(|viewer| !viewer.sees_all(info)) {
            // How many rows others see, and what is wrong with them, is theirs to know.
            out.push(b'}');
            continue;
        }
        out.extend_from_slice(format!(r#","rows":{}"#, counts[i]).as_bytes());
        let WithheldNow { rows, reason, .. } = health.withheld.get(i).cloned().unwrap_or_default();
        out.extend_from_slice(format!(r#","withheld_rows":{rows}"#).as_bytes());
        let reason = reason.as_deref().filter(|_| is_operator);
        for (name, text) in [("withheld_reason", reason), ("failed", failed.get(&ProjectionId(i)).map(|why| &**why))] {
            if let Some(text) = text {
                out.extend_from_slice(format!(r#","{name}":"#).as_bytes());
                write_string(&mut out, text);
            }
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out
}

/// The projection of this name, or why there is none.
fn find(shared: &Shared, name: &str) -> Result<ProjectionId, Box<Response<Body>>> {
    shared.hub.find(name).ok_or_else(|| {
        let message = format!("there is no projection `{}`", shorten(name));
        Box::new(refusal(StatusCode::NOT_FOUND, &Refusal::new("unknown_projection", message)))
    })
}

/// `GET /v1/projections/NAME/errors` and `…/explain`, for operators.
fn details(shared: &Shared, name: &str, what: &str) -> Response<Body> {
    let id = match find(shared, name) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let health = shared.health.borrow();
    if what == "explain" {
        let text = health.explained.get(id.0).map_or_else(String::new, ToString::to_string);
        return with_type(StatusCode::OK, "text/plain; charset=utf-8", text);
    }
    let WithheldNow { rows, listed, .. } = health.withheld.get(id.0).cloned().unwrap_or_default();
    let shown: Vec<serde_json::Value> = listed
        .iter()
        .map(|row| json!({ "row": row.row, "in_doubt": row.in_doubt, "failed": row.failed, "reason": row.reason, "count": row.count }))
        .collect();
    with_type(StatusCode::OK, JSON, json!({ "projection": name, "withheld_rows": rows, "errors": shown }).to_string())
}

/// `GET /v1/projections/NAME`
fn rows(shared: &Shared, name: &str, query: Option<&str>, viewer: &Viewer) -> Response<Body> {
    let id = match find(shared, name) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let info = &shared.hub.projections()[id.0];
    let Some(sight) = viewer.sight(info) else {
        return refusal(StatusCode::FORBIDDEN, &viewer.nothing_of(info));
    };
    let seen = query::parse(query, &info.schema, &|column| sight.columns.contains(&column))
        .and_then(|asked| view_spec(id, info, &asked, viewer));
    let spec = match seen.and_then(|seen| has_room(shared, seen)) {
        Ok(spec) => spec,
        Err(refused) => {
            shared.metrics.refused.inc();
            return not_answered(&refused);
        }
    };
    let failed = Arc::clone(&shared.hub.now().failed);
    if let Some(reason) = failed.get(&id) {
        return refusal(StatusCode::CONFLICT, &viewer.failure(info, reason));
    }
    let view = shared.hub.view(spec);
    let Some(image) = Image::of(&shared.hub, &view) else {
        let message = "the tables that it reads are still being copied; /readyz tells how far that is";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, &Refusal::new("not_ready", message));
    };
    // Parts are made when the socket takes them.
    let parts = Parts { hub: Arc::clone(&shared.hub), view, image, state: PartsState::Head };
    let mut response = Response::new(StreamBody::new(parts).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// One request costs others no more than a session may.
fn has_room(shared: &Shared, seen: Seen) -> Result<ViewSpec, Refusal> {
    let limits = &shared.options.session;
    if seen.weight > limits.filter_weight_max {
        let message = format!("this filter weighs {}, and may weigh {} at most", seen.weight, limits.filter_weight_max);
        return Err(Refusal::new("too_heavy", message));
    }
    has_window_room(&shared.hub, limits, &seen.spec)?;
    Ok(seen.spec)
}

fn not_answered(refused: &Refusal) -> Response<Body> {
    let status = match refused.code {
        "forbidden" => StatusCode::FORBIDDEN,
        "busy" => StatusCode::SERVICE_UNAVAILABLE,
        "projection_failed" => StatusCode::CONFLICT,
        _ => StatusCode::BAD_REQUEST,
    };
    let mut response = refusal(status, refused);
    if let Some(after) = refused.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    response
}

/// An image as one JSON object.
struct Parts {
    hub: Arc<Hub>,
    view: Arc<View>,
    image: Image,
    state: PartsState,
}

enum PartsState {
    Head,
    /// Whether a row has been written.
    Rows(bool),
    Done,
}

impl Parts {
    /// The next bytes, which may be none while rows are looked through; `None` after the last. Fails for
    /// mistakes of ours only.
    fn part(&mut self) -> Result<Option<Vec<u8>>, ArrowError> {
        let mut out = Vec::new();
        if let PartsState::Head = self.state {
            out.extend_from_slice(br#"{"projection":"#);
            write_string(&mut out, &self.view.info.name);
            out.push(b',');
            write_shape(&mut out, &self.view.info, &self.view.spec);
            // By this and the cursor a subscription to the same goes on from here.
            out.extend_from_slice(format!(r#","view":"{}","#, fingerprint(&self.view.spec)).as_bytes());
            out.extend_from_slice(self.image.stamp().json());
            out.extend_from_slice(br#","rows":["#);
            self.state = PartsState::Rows(false);
        }
        let PartsState::Rows(is_begun) = &mut self.state else { return Ok(None) };
        if !self.image.is_at_end()
            && let Piece::Rows(rows) = self.image.next(&self.hub)?
            && !rows.is_empty()
        {
            if std::mem::replace(is_begun, true) {
                out.push(b',');
            }
            out.extend_from_slice(&rows);
        }
        if self.image.is_at_end() {
            out.extend_from_slice(b"]}");
            self.state = PartsState::Done;
        }
        Ok(Some(out))
    }
}

impl Stream for Parts {
    type Item = Result<Frame<Bytes>, ArrowError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // An answer that fails halfway is cut off, so that nobody takes it for whole.
        match self.part().transpose() {
            // Others first: looking through all rows takes a while.
            Some(Ok(part)) if part.is_empty() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            part => Poll::Ready(part.map(|part| part.map(|part| Frame::data(counted(part))))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use expect_test::{Expect, expect};
    use http_body_util::{BodyExt, Limited};
    use hyper::header::HeaderMap;
    use pipeline::projection::WithheldRow;
    use serde_json::json;

    use super::super::testing::{BODY_BYTES_MAX, People, Served, get, request};
    use super::super::{Health, ServeOptions, WithheldNow};
    use crate::hub::{Hub, Projection};
    use crate::testing::{ample_hub, fail, not_ready, projection, publish, restless_hub};

    /// What is answered to each of these requests: its status, what its headers say, and its body
    /// as far as it fits a line.
    async fn check(served: &Served, requests: &[&str], expected: Expect) {
        let mut told = String::new();
        for what in requests {
            let response = request(served.address, what, &[]).await.expect("an answer");
            let (head, body) = response.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await.expect("a body with an end").to_bytes();
            let body: String =
                String::from_utf8_lossy(&body).lines().next().unwrap_or_default().chars().take(600).collect();
            let body = if body.is_empty() { "no body" } else { &body };
            told += &format!("{what}\n    {}{}\n    {body}\n", head.status.as_u16(), show(&head.headers));
        }
        expected.assert_eq(&told);
    }

    fn show(headers: &HeaderMap) -> String {
        let names = ["content-type", "cache-control", "x-content-type-options", "content-security-policy", "allow"];
        names
            .iter()
            .filter_map(|name| headers.get(*name).map(|value| format!(", {}", value.to_str().expect("a text"))))
            .collect()
    }

    async fn served() -> Served {
        let hub = ample_hub();
        publish(&hub, 1, "+keyed(1,ann) +keyed(2,bob) +2bag(5,x)");
        Served::start(hub, ServeOptions::default()).await
    }

    /// Who could be let in with another token is asked for one; what no token mends has another status.
    #[test]
    fn a_refusal_says_whose_move_it_is() {
        for (code, status, challenge) in [
            ("invalid_token", 401, Some("Bearer")),
            ("expired_token", 401, Some("Bearer")),
            ("forbidden", 401, Some("Bearer")),
            ("keys_unavailable", 503, None),
            ("bad_credentials", 400, None),
            ("conflicting_tokens", 400, None),
            ("cookie_without_origin", 400, None),
        ] {
            let response = super::unauthorized(&super::Refusal::new(code, "why"));
            let asked = response.headers().get("www-authenticate").map(|value| value.to_str().expect("a text"));
            assert_eq!((response.status().as_u16(), asked), (status, challenge), "{code}");
        }
    }

    #[tokio::test]
    async fn each_path_has_its_answer() {
        check(
            &served().await,
            &[
                "GET /healthz",
                "GET /readyz",
                "GET /",
                "GET /page.js",
                "GET /page.css",
                "GET /metrics",
                "GET /v1/projections",
                "HEAD /v1/projections",
                "GET /v1/projections/keyed",
                "GET /v1/projections/bag",
                "GET /v1/projections/none",
                "GET /v1/nothing",
                "POST /v1/projections/keyed",
                "GET /v1/socket",
            ],
            expect![[r#"
                GET /healthz
                    200, text/plain; charset=utf-8, no-store, nosniff
                    ok
                GET /readyz
                    200, application/json, no-store, nosniff
                    {"ready":true,"sources":{}}
                GET /
                    200, text/html; charset=utf-8, no-store, nosniff, default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:
                    <!doctype html>
                GET /page.js
                    200, text/javascript; charset=utf-8, no-store, nosniff, default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:
                    // The page that the server brings along: one WebSocket, one projection at a time.
                GET /page.css
                    200, text/css; charset=utf-8, no-store, nosniff, default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:
                    :root { color-scheme: light dark; --ink: #1b1f24; --quiet: #656d76; --line: #d8dee4; --paper: #fff; --panel: #f6f8fa; --accent: #0b6bcb; --warm: #c4570c; --flash: #ffe8a3; --good: #1a7f37; --bad: #cf222e; }
                GET /metrics
                    200, application/openmetrics-text; version=1.0.0; charset=utf-8, no-store, nosniff
                    # HELP deltafront_sessions WebSocket sessions now.
                GET /v1/projections
                    200, application/json, no-store, nosniff
                    {"projections":[{"name":"keyed","description":null,"columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":["id"],"order":[],"batch_ms":0,"ready":true,"rows":2,"withheld_rows":0},{"name":"bag","description":null,"columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":null,"order":[],"batch_ms":0,"ready":true,"rows":2,"withheld_rows":0}]}
                HEAD /v1/projections
                    200, application/json, no-store, nosniff
                    no body
                GET /v1/projections/keyed
                    200, application/json, no-store, nosniff
                    {"projection":"keyed","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":["id"],"order":[],"view":"eddb89b8c12de960","epoch":1,"position":{"shop":"0/1"},"commit_time":"1970-01-01T00:00:00Z","cursor":"boot-1","rows":[[1,"ann"],[2,"bob"]]}
                GET /v1/projections/bag
                    200, application/json, no-store, nosniff
                    {"projection":"bag","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":null,"order":[],"view":"2f3c835a93f9d820","epoch":1,"position":{"shop":"0/1"},"commit_time":"1970-01-01T00:00:00Z","cursor":"boot-1","rows":[[5,"x"],[5,"x"]]}
                GET /v1/projections/none
                    404, application/json, no-store, nosniff
                    {"op":"error","code":"unknown_projection","message":"there is no projection `none`"}
                GET /v1/nothing
                    404, application/json, no-store, nosniff
                    {"op":"error","code":"not_found","message":"there is nothing at /v1/nothing"}
                POST /v1/projections/keyed
                    405, application/json, no-store, nosniff, GET, HEAD
                    {"op":"error","code":"method_not_allowed","message":"only GET is answered here"}
                GET /v1/socket
                    426, application/json, no-store, nosniff
                    {"op":"error","code":"bad_handshake","message":"this is a WebSocket: connect with ws:// or wss://"}
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn before_the_first_copy_there_is_nothing_to_answer() {
        let served = Served::start(not_ready(1 << 20), ServeOptions::default()).await;
        served
            .health
            .send_replace(Health { sources: vec![("shop".to_owned(), "copying".to_owned())], ..Health::default() });
        check(
            &served,
            &["GET /readyz", "GET /healthz", "GET /v1/projections/keyed"],
            expect![[r#"
                GET /readyz
                    503, application/json, no-store, nosniff
                    {"ready":false,"sources":{"shop":"copying"}}
                GET /healthz
                    200, text/plain; charset=utf-8, no-store, nosniff
                    ok
                GET /v1/projections/keyed
                    503, application/json, no-store, nosniff
                    {"op":"error","code":"not_ready","message":"the tables that it reads are still being copied; /readyz tells how far that is"}
            "#]],
        )
        .await;
        // Rows of a projection whose sources are there are served while others are still copied.
        publish(&served.hub, 1, "+keyed(1,ann)");
        assert_eq!(get(served.address, "GET /v1/projections/keyed", &[]).await.0, 200);
        // A project without a row is ready all the same.
        let empty = Served::start(ample_hub(), ServeOptions::default()).await;
        assert_eq!(get(empty.address, "GET /v1/projections/keyed", &[]).await.0, 200);
    }

    #[tokio::test]
    async fn the_catalog_tells_what_a_projection_is_and_what_is_wrong_with_it() {
        let described = Projection {
            description: Some("What the \"dispatcher\" sees".to_owned()),
            batch: Duration::from_millis(250),
            order: vec![(1, true)],
            ..projection("orders", Some(vec![0]))
        };
        let served = Served::start_local(Arc::new(Hub::new(vec![described, projection("bag", None)]))).await;
        let withheld =
            vec![WithheldNow { rows: 3, reason: Some("division by zero".to_owned()), ..WithheldNow::default() }];
        served.health.send_replace(Health { withheld, is_ready: true, ..Health::default() });
        publish(&served.hub, 1, "+orders(1,ann) +orders(2,bob)");
        fail(&served.hub, 2, "bag", "two rows have the key id = 7");
        check(
            &served,
            &["GET /v1/projections", "GET /v1/projections/bag"],
            expect![[r#"
                GET /v1/projections
                    200, application/json, no-store, nosniff
                    {"projections":[{"name":"orders","description":"What the \"dispatcher\" sees","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":["id"],"order":[{"column":"name","descending":true}],"batch_ms":250,"ready":true,"rows":2,"withheld_rows":3,"withheld_reason":"division by zero"},{"name":"bag","description":null,"columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":null,"order":[],"batch_ms":0,"ready":false,"rows":0,"withheld_rows":0,"failed":"two rows have the key id = 7"}]}
                GET /v1/projections/bag
                    409, application/json, no-store, nosniff
                    {"op":"error","code":"projection_failed","message":"two rows have the key id = 7"}
            "#]],
        )
        .await;
    }

    /// Which rows a projection withholds and why, and how it is computed: of each its own, and of one
    /// that nothing has been told of yet, nothing. What is not ready has both.
    #[tokio::test]
    async fn a_projection_tells_what_it_withholds_and_how_it_is_computed() {
        let served = Served::start_local(not_ready(1 << 20)).await;
        check(
            &served,
            &["GET /v1/projections/bag/errors", "GET /v1/projections/bag/explain"],
            expect![[r#"
                GET /v1/projections/bag/errors
                    200, application/json, no-store, nosniff
                    {"errors":[],"projection":"bag","withheld_rows":0}
                GET /v1/projections/bag/explain
                    200, text/plain; charset=utf-8, no-store, nosniff
                    no body
            "#]],
        )
        .await;
        let unknown = WithheldRow {
            row: "id = 7, name = ?".to_owned(),
            in_doubt: false,
            failed: vec!["name".to_owned()],
            reason: "division by zero (\"shop\".orders, id = 7)".to_owned(),
            count: 1,
        };
        let in_doubt = WithheldRow {
            row: "id = 8, name = 'bob'".to_owned(),
            in_doubt: true,
            failed: Vec::new(),
            count: 2,
            ..unknown.clone()
        };
        let withheld = vec![
            WithheldNow { rows: 5, reason: Some("division by zero".to_owned()), listed: [unknown, in_doubt].into() },
            WithheldNow::default(),
        ];
        let explained = vec!["the table \"orders\"\n  by id\n".into(), "a bag".into()];
        served.health.send_replace(Health { withheld, explained, ..Health::default() });
        check(
            &served,
            &[
                "GET /v1/projections/keyed/errors",
                "GET /v1/projections/keyed/explain",
                "GET /v1/projections/bag/errors",
                "GET /v1/projections/bag/explain",
                "GET /v1/projections/none/errors",
                "GET /v1/projections/none/explain",
                "GET /v1/projections/keyed/nothing",
            ],
            expect![[r#"
                GET /v1/projections/keyed/errors
                    200, application/json, no-store, nosniff
                    {"errors":[{"count":1,"failed":["name"],"in_doubt":false,"reason":"division by zero (\"shop\".orders, id = 7)","row":"id = 7, name = ?"},{"count":2,"failed":[],"in_doubt":true,"reason":"division by zero (\"shop\".orders, id = 7)","row":"id = 8, name = 'bob'"}],"projection":"keyed","withheld_rows":5}
                GET /v1/projections/keyed/explain
                    200, text/plain; charset=utf-8, no-store, nosniff
                    the table "orders"
                GET /v1/projections/bag/errors
                    200, application/json, no-store, nosniff
                    {"errors":[],"projection":"bag","withheld_rows":0}
                GET /v1/projections/bag/explain
                    200, text/plain; charset=utf-8, no-store, nosniff
                    a bag
                GET /v1/projections/none/errors
                    404, application/json, no-store, nosniff
                    {"op":"error","code":"unknown_projection","message":"there is no projection `none`"}
                GET /v1/projections/none/explain
                    404, application/json, no-store, nosniff
                    {"op":"error","code":"unknown_projection","message":"there is no projection `none`"}
                GET /v1/projections/keyed/nothing
                    404, application/json, no-store, nosniff
                    {"op":"error","code":"unknown_projection","message":"there is no projection `keyed/nothing`"}
            "#]],
        )
        .await;
        let (_, explained) = get(served.address, "GET /v1/projections/keyed/explain", &[]).await;
        assert_eq!(explained, "the table \"orders\"\n  by id\n", "as it is, to its last line");
    }

    /// `can't cast 'HIV positive'` was told to everybody who saw the count that the row is missing from: a
    /// reason has values of columns that no projection shows.
    #[tokio::test]
    async fn reasons_are_for_operators() {
        let tell = |served: &Served| {
            let withheld = vec![WithheldNow { rows: 3, reason: Some("a secret".to_owned()), ..WithheldNow::default() }];
            served.health.send_replace(Health { withheld, is_ready: true, ..Health::default() });
        };
        let admin = ("authorization", "Bearer the admin token");
        let local = Served::start_local(ample_hub()).await;
        let reachable = Served::start(ample_hub(), ServeOptions::default()).await;
        let guarded = Served::start_with(ample_hub(), ServeOptions::default(), Arc::new(People::default())).await;
        for (served, header, status) in [
            (&local, None, 200),
            (&reachable, None, 403),
            (&reachable, Some(admin), 403),
            (&guarded, None, 401),
            (&guarded, Some(("authorization", "Bearer ann")), 401),
            (&guarded, Some(admin), 200),
        ] {
            tell(served);
            let headers = header.as_slice();
            for what in ["errors", "explain"] {
                let (answered, body) = get(served.address, &format!("GET /v1/projections/keyed/{what}"), headers).await;
                assert_eq!(answered, status, "{what} {header:?}: {body}");
                assert!(body.contains(if status == 200 { "" } else { "Bearer ADMIN_TOKEN" }), "{body}");
            }
            let (answered, body) = get(served.address, "GET /v1/projections", headers).await;
            // Where no tokens are known, none is right.
            let is_token_wrong = std::ptr::eq(served, &reachable) && header.is_some();
            if is_token_wrong {
                assert_eq!(answered, 400, "{body}");
            } else {
                assert_eq!((answered, body.contains("a secret")), (200, status == 200), "{header:?}: {body}");
                assert!(body.contains(r#""withheld_rows":3"#), "{body}");
            }
        }
    }

    /// `?where=…` was passed over, and what was answered were all rows: it is refused, as a `were` is in a message.
    /// What a page or a scrape is asked with changes nothing of what anybody takes an answer for.
    #[tokio::test]
    async fn what_is_asked_by_a_parameter_is_not_passed_over() {
        let served = served().await;
        let long = format!("GET /v1/projections?{}=1", "x".repeat(1_000));
        for (what, name) in [
            ("GET /v1/projections/keyed?where=x", "where"),
            ("GET /v1/projections/keyed?&limit", "limit"),
            ("HEAD /v1/projections/keyed?limit=many", ""),
            ("GET /v1/projections/keyed?sp%20ace=1&b=2", "sp ace"),
            ("GET /v1/projections/keyed/errors?since=1", "since"),
            ("GET /v1/projections/keyed/explain?x", "x"),
            ("GET /v1/projections?name=keyed", "name"),
            (&long, "xxx…"),
            ("POST /v1/sessions/revoke?subject=ann", "subject"),
        ] {
            let (status, body) = get(served.address, what, &[]).await;
            assert_eq!(status, 400, "{what}: {body}");
            let told = body.is_empty() || (body.contains("bad_request") && body.contains(&format!("{name}`")));
            assert!(told && body.len() < 500, "{what}: {body}");
        }
        let (status, body) = get(served.address, "GET /v1/projections?where=x", &[]).await;
        let expected = r#"{"op":"error","code":"bad_request","message":"there is no parameter `where` here"}"#;
        assert_eq!((status, body.as_str()), (400, expected));
        // A token there is told of as one, wherever it stands.
        for what in ["GET /v1/projections/keyed?a=1&token=x", "GET /v1/projections/keyed/errors?access_token=x"] {
            let (status, body) = get(served.address, what, &[]).await;
            assert_eq!((status, body.contains("bad_credentials")), (400, true), "{what}: {body}");
        }
        for what in [
            "GET /?x=1",
            "GET /page.js?v=2",
            "GET /metrics?x=1",
            "GET /healthz?x=1",
            "GET /readyz?x",
            "GET /v1/projections?",
        ] {
            assert_eq!(get(served.address, what, &[]).await.0, 200, "{what}");
        }
    }

    /// As a subscription to the same shows them, and goes on from there: by the cursor and the view that stand beside them.
    #[tokio::test]
    async fn rows_are_those_that_are_asked_for() {
        let hub = ample_hub();
        publish(&hub, 1, "+keyed(1,ann) +keyed(2,bob) +keyed(3,ann) +keyed(4,eve)");
        let served = Served::start(hub, ServeOptions::default()).await;
        let rows = async |query: &str| {
            let (status, body) = get(served.address, &format!("GET /v1/projections/keyed?{query}"), &[]).await;
            let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            if status == 200 { body["rows"].to_string() } else { format!("{status} {}", body["code"]) }
        };
        for (query, expected) in [
            ("name=eq.ann", r#"[[1,"ann"],[3,"ann"]]"#),
            ("where={%22name%22:{%22_neq%22:%22ann%22}}&id=lt.4", r#"[[2,"bob"]]"#),
            ("order=name.desc,id.desc&limit=3", r#"[[4,"eve"],[2,"bob"],[3,"ann"]]"#),
            ("select=id&name=in.(bob,eve)", "[[2],[4]]"),
            ("name=eq.nobody", "[]"),
            ("name=gt.7&order=name", r#"400 "bad_request""#),
            ("id=eq.one", r#"400 "bad_filter""#),
            ("limit=0", r#"400 "bad_request""#),
            ("limit=10001", r#"400 "bad_request""#),
        ] {
            assert_eq!(rows(query).await, expected, "{query}");
        }
        let heavy: Vec<String> = (0..300).map(|item| format!("name=like.*{item}*")).collect();
        assert_eq!(rows(&heavy.join("&")).await, r#"400 "too_heavy""#);
        let (_, body) = get(served.address, "GET /v1/projections/keyed?name=eq.ann", &[]).await;
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let mut session = crate::session::Session::new(Arc::clone(&served.hub));
        session.receive(&format!(
            r#"{{"op":"subscribe","id":"a","projection":"keyed","where":{{"name":{{"_eq":"ann"}}}},"resume":{{"cursor":{},"view":{}}}}}"#,
            body["cursor"], body["view"]
        ));
        publish(&served.hub, 2, "-keyed(1,ann) +keyed(5,ann) +keyed(6,joe)");
        session.advance();
        let told: Vec<String> = std::iter::from_fn(|| session.next_message())
            .map(|message| crate::testing::text(message.json()).to_owned())
            .collect();
        let told = told.concat();
        let resumed = [r#""resumed":true"#, r#""rows":[]"#, r#""upsert":[[5,"ann"]]"#, r#""delete":[[1]]"#];
        assert!(resumed.iter().all(|part| told.contains(part)), "{told}");
    }

    #[tokio::test]
    async fn rows_are_of_the_epoch_that_they_tell() {
        let served = Served::start(restless_hub(1 << 20), ServeOptions::default()).await;
        let (_, body) = get(served.address, "GET /v1/projections/keyed", &[]).await;
        let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(value["rows"], json!([[1, value["epoch"].to_string()]]), "{body}");
    }

    /// A page of another site may not read, nor may a foreign name that was made to point here;
    /// machines that ask for health know no name of ours.
    #[tokio::test]
    async fn the_gate_stands_before_all_but_health() {
        let served = served().await;
        for (header, value, expected) in
            [("host", "evil.example", 403), ("host", "shop.example", 200), ("origin", "http://evil.example", 403)]
        {
            for path in ["/", "/metrics", "/v1/projections", "/v1/projections/keyed"] {
                let (status, body) = get(served.address, &format!("GET {path}"), &[(header, value)]).await;
                assert_eq!(
                    (status, body.contains("forbidden")),
                    (expected, expected == 403),
                    "{path} with {header} {value}"
                );
            }
            assert_eq!(get(served.address, "GET /healthz", &[(header, value)]).await.0, 200);
        }
        served.metric("connections_refused_total", |refused| refused == 8).await;
    }
}
