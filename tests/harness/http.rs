//! A plain HTTP client.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// GETs a path, with more headers.
///
/// # Panics
/// When there is no answer.
pub async fn get_with(address: &str, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let socket = TcpStream::connect(address).await.expect("a connection");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("HTTP");
    tokio::spawn(connection);
    let mut request = Request::get(path);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", address);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response =
        sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request")).await.expect("a response");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

/// GETs a path.
///
/// # Panics
/// When there is no answer.
pub async fn get(address: &str, path: &str) -> (StatusCode, String) {
    get_with(address, path, &[]).await
}
