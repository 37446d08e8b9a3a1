//! The opening handshake (RFC 6455, section 4.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::ext::Protocol;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode};

use super::deflate;

/// RFC 6455, section 1.3.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request asks for a WebSocket on a stream of HTTP/2 (RFC 8441).
pub fn is_extended_connect<B>(request: &Request<B>) -> bool {
    let protocol = request.extensions().get::<Protocol>();
    request.method() == Method::CONNECT && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// The answer to a request for a WebSocket. It has `Sec-WebSocket-Extensions` when permessage-deflate
/// is agreed on, which is never without `compression`.
///
/// # Errors
/// With what the request lacks; for a response of status 426.
pub fn answer(headers: &HeaderMap, is_extended: bool, compression: bool) -> Result<Response<()>, &'static str> {
    // A stream is opened by a method of its own, and there is nothing to switch (RFC 8441, section 5).
    let accept = if is_extended { None } else { Some(accept(headers)?) };
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("the WebSocket version must be 13");
    }
    let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS);
    let offers = offers.iter().filter_map(|offer| offer.to_str().ok()).filter(|_| compression);
    let mut response = Response::new(());
    if let Some(agreed) = deflate::agree(offers) {
        response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(agreed));
    }
    if let Some(accept) = accept {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(response)
}

/// Computes the accepting value of an opening handshake (section 4.2.1).
fn accept(headers: &HeaderMap) -> Result<HeaderValue, &'static str> {
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
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or("the handshake has no Sec-WebSocket-Key")?;
    let mut digest = sha1_smol::Sha1::new();
    digest.update(key.as_bytes());
    digest.update(ACCEPT_GUID.as_bytes());
    HeaderValue::from_str(&STANDARD.encode(digest.digest().bytes())).map_err(|_| "the handshake has no usable key")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        super::answer(&headers, false, true).map(|response| response.headers()[SEC_WEBSOCKET_ACCEPT].clone())
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

    #[test]
    fn compression_is_agreed_on_when_it_is_wanted() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (CONNECTION, "Upgrade"),
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (SEC_WEBSOCKET_EXTENSIONS, "x-frames"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let agreed = |headers: &HeaderMap, compression| {
            let response = super::answer(headers, false, compression).expect("a right request");
            assert_eq!(response.status(), 101);
            response.headers().get(SEC_WEBSOCKET_EXTENSIONS).cloned()
        };
        assert_eq!(agreed(&headers, true), None);
        headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static("permessage-deflate"));
        let expected = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        assert_eq!(agreed(&headers, true), Some(HeaderValue::from_static(expected)));
        assert_eq!(agreed(&headers, false), None);
    }
}
