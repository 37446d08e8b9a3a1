//! What clients should not send, and that others do not notice.

use std::time::Duration;

use futures_util::SinkExt;
use push::ServeOptions;
use serde_json::{Value, json};
use tests::{PrivatePostgres, ProjectFolder, Server, connect, http, postgres};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_websockets::{CloseCode, Message};

fn shop() -> (PrivatePostgres, ProjectFolder) {
    let postgres = postgres();
    postgres
        .psql_in("shop", "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'ann')")
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t WITH (connector = 'postgres', url = '$DB'); CREATE MATERIALIZED VIEW v AS SELECT * FROM t;",
    );
    (postgres, project)
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_have_exact_answers_and_harm_nobody() {
    let (postgres, project) = shop();
    let server = Server::start(&project).await;
    let mut good = server.subscriber().await;
    good.subscribe("v").await;
    let mut bad = server.subscriber().await;
    for (sent, code, message) in [
        ("hello", "bad_json", "the message is not JSON: expected value at line 1 column 1"),
        ("{}", "bad_request", "the message has no `op`"),
        (
            r#"{"op":"drop"}"#,
            "unknown_op",
            "there is no operation `drop`; there are subscribe, unsubscribe, batch, authenticate and ping",
        ),
        (r#"{"op":"subscribe","id":"a","projection":"nope"}"#, "unknown_projection", "there is no projection `nope`"),
        (r#"{"op":"subscribe","id":"a"}"#, "bad_request", "`subscribe` needs a `projection`"),
        (r#"{"op":"unsubscribe","id":"a"}"#, "unknown_id", "there is no subscription `a`"),
    ] {
        bad.send_text(sent).await;
        let answer = bad.message().await;
        assert_eq!(
            (&answer["op"], &answer["code"], &answer["message"]),
            (&json!("error"), &json!(code), &json!(message))
        );
    }
    // The session that was refused so often still works.
    bad.subscribe("v").await;
    bad.send(json!({ "op": "subscribe", "id": "v", "projection": "v" })).await;
    assert_eq!(bad.message().await["code"], "duplicate_id");
    bad.send(json!({ "op": "unsubscribe", "id": "v" })).await;
    assert_eq!(bad.message().await, json!({ "op": "unsubscribed", "id": "v" }));

    let mut large = server.subscriber().await;
    large.send_text("x".repeat(64 * 1024 + 1)).await;
    assert_eq!(large.closed().await, CloseCode::MESSAGE_TOO_BIG);
    let mut binary = server.subscriber().await;
    binary.socket.send(Message::binary(vec![1, 2, 3])).await.expect("sent");
    assert_eq!(binary.closed().await, CloseCode::UNSUPPORTED_DATA);
    let mut flood = server.subscriber().await;
    for _ in 0..1000 {
        if flood.socket.send(Message::text(r#"{"op":"unsubscribe","id":"a"}"#)).await.is_err() {
            break;
        }
    }
    assert_eq!(u16::from(flood.closed().await), 4500);
    assert_eq!(raw_frame(&server, &[0x81, 0x82, 0, 0, 0, 0, 0xC3, 0x28]).await, 1007, "a text that is not UTF-8");
    assert_eq!(raw_frame(&server, &[0x81, 0x02, b'{', b'}']).await, 1002, "a frame without a mask");

    let client = connect(&postgres, "shop").await;
    client.batch_execute("INSERT INTO t VALUES (2, 'bob')").await.expect("a change");
    good.until(|held| held["v"].rows().len() == 2).await;
    server.stop().await;
}

/// Opens a WebSocket by hand, sends these bytes, and returns the code of the close frame.
async fn raw_frame(server: &Server, frame: &[u8]) -> u16 {
    let mut socket = raw_socket(server).await;
    socket.write_all(frame).await.expect("sent");
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(tests::PATIENCE, socket.read_to_end(&mut bytes)).await.expect("a close in time");
    // After the greeting comes the close frame: 0x88, a length, and the code.
    let at = bytes.iter().rposition(|&byte| byte == 0x88).expect("a close frame");
    u16::from_be_bytes([bytes[at + 2], bytes[at + 3]])
}

async fn raw_socket(server: &Server) -> TcpStream {
    let mut socket = TcpStream::connect(server.address()).await.expect("a connection");
    let request = format!(
        "GET /v1/socket HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.address()
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("a head"));
    }
    assert!(String::from_utf8_lossy(&head).contains("101 Switching Protocols"));
    socket
}

/// A client that subscribes and never reads: others are served meanwhile, what it holds up is
/// bounded, and after the deadline it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_costs_others_nothing() {
    let (postgres, project) = shop();
    let options = ServeOptions { write_timeout: Duration::from_secs(2), ..ServeOptions::default() };
    let server = Server::start_with(&project, options).await;
    let mut good = server.subscriber().await;
    good.subscribe("v").await;
    let mut silent = raw_socket(&server).await;
    let request = br#"{"op":"subscribe","id":"a","projection":"v"}"#;
    let mut frame = vec![0x81, 0x80 | u8::try_from(request.len()).expect("short"), 0, 0, 0, 0];
    frame.extend_from_slice(request);
    silent.write_all(&frame).await.expect("sent");
    let client = connect(&postgres, "shop").await;
    // Far more than the kernel buffers for it.
    for i in 0..60 {
        client
            .batch_execute(&format!("UPDATE t SET name = repeat('{}', 500000) WHERE id = 1", i % 10))
            .await
            .expect("a change");
        good.until(|held| held["v"].rows()[0][1].as_str().is_some_and(|name| name.starts_with(&(i % 10).to_string())))
            .await;
    }
    let stalled = || async {
        let (_, page) = http::get(&server.address(), "/metrics").await;
        page.lines().find_map(|line| line.strip_prefix("deltafront_sessions_stalled_total ")).map(str::to_owned)
    };
    tests::eventually(stalled, |stalled| stalled.as_deref() == Some("1")).await;
    client.batch_execute("UPDATE t SET name = 'end' WHERE id = 1").await.expect("a change");
    good.until(|held| held["v"].rows()[0][1] == "end").await;
    server.stop().await;
}

/// A client that reads slowly gets the net of what it missed, not each step of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_sent_the_net_change() {
    let (postgres, project) = shop();
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("v").await;
    let client = connect(&postgres, "shop").await;
    // While nobody reads, 200 changes of half a megabyte: more than the socket holds.
    for i in 0..200 {
        client
            .batch_execute(&format!("UPDATE t SET name = repeat('{}', 500000) || {i} WHERE id = 1", i % 10))
            .await
            .expect("a change");
    }
    client.batch_execute("UPDATE t SET name = 'end' WHERE id = 1").await.expect("a change");
    let mut messages = 0;
    // So far behind it may have to begin anew, and holds nothing for a moment.
    while subscriber.rows("v").first().is_none_or(|row| row[1] != "end") {
        subscriber.next().await;
        messages += 1;
    }
    assert!(messages < 150, "{messages} messages for 201 changes");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_pages_are_refused_and_heartbeats_come() {
    let (_postgres, project) = shop();
    let options = ServeOptions { heartbeat: Duration::from_millis(200), ..ServeOptions::default() };
    let server = Server::start_with(&project, options).await;
    let address = server.address();
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&upgrade[..], more].concat();
    let (status, body) = http::get_with(&address, "/v1/socket", &with(&[("origin", "http://evil.example")])).await;
    assert_eq!(
        (status.as_u16(), body.as_str()),
        (
            403,
            r#"{"op":"error","code":"forbidden","message":"origin http://evil.example may not connect; add it to allowed_origins in deltafront.toml"}"#
        )
    );
    let (status, _) = http::get_with(&address, "/v1/projections/v", &[("origin", "http://evil.example")]).await;
    assert_eq!(status, 403);
    let (status, body) = http::get_with(&address, "/v1/projections", &[("host", "evil.example")]).await;
    assert_eq!((status.as_u16(), body.contains("host evil.example is not served here")), (403, true));
    let (status, body) = http::get(&address, "/v1/socket").await;
    assert_eq!((status.as_u16(), body.contains("bad_handshake")), (426, true));

    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("v").await;
    let heartbeat = subscriber.next().await;
    assert_eq!((&heartbeat["op"], heartbeat["epoch"].as_u64()), (&json!("heartbeat"), Some(subscriber.epoch)));
    assert!(heartbeat["position"]["shop"].as_str().is_some_and(|lsn| lsn.contains('/')));
    subscriber.send(json!({ "op": "ping" })).await;
    assert_eq!(subscriber.message().await["op"], "heartbeat");
    assert_ne!(subscriber.position, Value::Null);
    server.stop().await;
    assert_eq!(subscriber.closed().await, CloseCode::GOING_AWAY);
}
