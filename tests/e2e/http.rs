//! REST, health, metrics.

use std::sync::Arc;

use serde_json::{Value, json};
use tests::{PATIENCE, ProjectFolder, Server, http, postgres};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

#[tokio::test(flavor = "multi_thread")]
async fn catalog_rows_health_and_metrics() {
    let postgres = postgres();
    postgres
        .psql_in("shop", "CREATE TABLE t (id bigint PRIMARY KEY, price numeric(8,2), at timestamptz); INSERT INTO t VALUES (2, 1.5, '2024-02-29 00:00:00+00'), (1, NULL, NULL)")
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW prices WITH (description = 'All prices', batch = '50ms') AS SELECT * FROM t ORDER BY price DESC;",
    );
    let server = Server::start(&project).await;
    let address = server.address();
    let get = async |path: &str| http::get(&address, path).await;

    let (status, body) = get("/v1/projections").await;
    assert_eq!(status, 200);
    let catalog: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        catalog,
        json!({ "projections": [{
            "name": "prices", "description": "All prices", "key": ["id"], "batch_ms": 50, "ready": true, "rows": 2, "withheld_rows": 0,
            "order": [{ "column": "price", "descending": true }],
            "columns": [{ "name": "id", "type": "bigint" }, { "name": "price", "type": "numeric(8,2)" }, { "name": "at", "type": "timestamptz" }],
        }] })
    );
    let (status, body) = get("/v1/projections/prices").await;
    assert_eq!(status, 200);
    let rows: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(rows["rows"], json!([[1, null, null], [2, "1.50", "2024-02-29T00:00:00Z"]]));
    assert_eq!((&rows["epoch"], &rows["projection"], &rows["key"]), (&json!(1), &json!("prices"), &json!(["id"])));
    assert!(rows["position"]["shop"].is_string() && rows["commit_time"].is_string());

    let (status, body) = get("/v1/projections/nope").await;
    assert_eq!(
        (status.as_u16(), body.as_str()),
        (404, r#"{"op":"error","code":"unknown_projection","message":"there is no projection `nope`"}"#)
    );
    let (status, body) = get("/elsewhere").await;
    assert_eq!((status.as_u16(), body.contains("not_found")), (404, true));
    assert_eq!(get("/healthz").await, (hyper::StatusCode::OK, "ok\n".to_owned()));
    let (status, body) = get("/readyz").await;
    assert_eq!(
        (status.as_u16(), serde_json::from_str::<Value>(&body).expect("JSON")),
        (200, json!({ "ready": true, "sources": { "shop": "streaming" } }))
    );

    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("prices").await;
    let (_, page) = get("/metrics").await;
    for line in [
        "deltafront_sessions 1",
        "deltafront_subscriptions 1",
        "deltafront_epoch 1",
        "deltafront_projection_rows{projection=\"prices\"} 2",
        "deltafront_source_streaming{source=\"shop\"} 1",
        "deltafront_projection_withheld_rows{projection=\"prices\"} 0",
        "# EOF",
    ] {
        assert!(page.lines().any(|it| it == line), "`{line}` is missing from:\n{page}");
    }
    let (status, body) = get("/").await;
    assert!(status == 200 && body.contains("<title>Deltafront</title>"));
    server.stop().await;
}

/// A panic while a request is answered is a mistake of ours that nobody would hear of: the server
/// ends, and with it the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_panics_ends_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let hub = Arc::new(push::Hub::new(Vec::new()));
    let gate = push::serve::Gate::new(true, &[], &[]).expect("empty lists");
    let (_health_sender, health) = tokio::sync::watch::channel(push::Health::default());
    let server = tokio::spawn(push::serve(
        listener,
        hub,
        push::serve::Entrance::of_strangers(gate),
        push::ServeOptions::default(),
        health,
        Arc::new(|_: &mut _| panic!("as the test has it")),
        std::future::pending(),
    ));
    assert_eq!(http::get(&address.to_string(), "/healthz").await.0, 200);
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    tokio::time::timeout(PATIENCE, server).await.expect("it ends").expect("it ends by itself");
}
