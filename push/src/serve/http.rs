//! Paths to answers.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::{Shared, websocket};
use crate::json::write_string;
use crate::protocol::{Refusal, shorten};
use crate::session::{Image, write_shape};

pub type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

const JSON: &str = "application/json";
const PAGE: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("../page/page.js")),
    ("/page.css", "text/css; charset=utf-8", include_str!("../page/page.css")),
];

/// Answers a request.
pub async fn answer(shared: Arc<Shared>, request: Request<Incoming>, slot: Arc<OwnedSemaphorePermit>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    // Health is asked by machines on the inside, which know no name of ours.
    match path.as_str() {
        "/healthz" => return text(StatusCode::OK, "ok\n"),
        "/readyz" => return ready(&shared),
        _ => {}
    }
    if let Err(reason) = shared.gate.check(request.headers()) {
        shared.metrics.refused.inc();
        return refusal(StatusCode::FORBIDDEN, &Refusal::new("forbidden", reason));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, &Refusal::new("method_not_allowed", "only GET is answered here"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if path == "/v1/socket" {
        return websocket::upgrade(shared, request, slot);
    }
    if let Some((_, content_type, content)) = PAGE.iter().find(|(at, ..)| *at == path) {
        return page(content_type, content);
    }
    match path.as_str() {
        "/metrics" => {
            let page = shared.metrics.page(&shared.hub, &*shared.more_metrics);
            with_type(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", page)
        }
        "/v1/projections" => with_type(StatusCode::OK, JSON, catalog(&shared)),
        other => match other.strip_prefix("/v1/projections/") {
            Some(name) => rows(&shared, name),
            None => refusal(StatusCode::NOT_FOUND, &Refusal::new("not_found", format!("there is nothing at {}", shorten(other)))),
        },
    }
}

fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).boxed_unsync()
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

/// `GET /v1/projections`
fn catalog(shared: &Shared) -> Vec<u8> {
    let health = shared.health.borrow().clone();
    let counts = shared.hub.row_counts();
    let failed = shared.hub.since(shared.hub.stamp().epoch, &[]).failed;
    let mut out = br#"{"projections":["#.to_vec();
    for (i, info) in shared.hub.projections().iter().enumerate() {
        out.extend_from_slice(if i == 0 { br#"{"name":"# } else { br#",{"name":"# });
        write_string(&mut out, &info.name);
        out.extend_from_slice(br#","description":"#);
        match &info.description {
            Some(text) => write_string(&mut out, text),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b',');
        write_shape(&mut out, info);
        out.extend_from_slice(format!(r#","batch_ms":{},"rows":{}"#, info.batch.as_millis(), counts[i]).as_bytes());
        let (withheld, reason) = health.withheld.get(i).cloned().unwrap_or_default();
        out.extend_from_slice(format!(r#","withheld_rows":{withheld}"#).as_bytes());
        for (name, text) in [("withheld_reason", reason.as_deref()), ("failed", failed.get(&crate::ProjectionId(i)).map(|why| &**why))] {
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

/// `GET /v1/projections/NAME`
fn rows(shared: &Shared, name: &str) -> Response<Body> {
    let Some(id) = shared.hub.find(name) else {
        let message = format!("there is no projection `{}`", shorten(name));
        return refusal(StatusCode::NOT_FOUND, &Refusal::new("unknown_projection", message));
    };
    if !shared.health.borrow().is_ready && shared.hub.stamp().epoch.0 == 0 {
        let message = "the tables are still being copied; /readyz tells how far it is";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, &Refusal::new("not_ready", message));
    }
    let since = shared.hub.since(shared.hub.stamp().epoch, &[id]);
    if let Some(reason) = since.failed.get(&id) {
        return refusal(StatusCode::CONFLICT, &Refusal::new("projection_failed", &**reason));
    }
    let image = Image::for_rest(Arc::clone(&shared.hub.projections()[id.0]), since.images[0].clone(), since.stamp);
    // Parts are made when the socket takes them.
    let parts = stream::iter(ImageParts(image));
    let mut response = Response::new(StreamBody::new(parts).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

struct ImageParts(Image);

impl Iterator for ImageParts {
    type Item = Result<Frame<Bytes>, std::convert::Infallible>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_chunk().map(|chunk| Ok(Frame::data(chunk)))
    }
}
