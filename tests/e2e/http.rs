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

/// What a URL asks, Postgres answers the same.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_asked_for_by_a_url_are_those_of_postgres() {
    let postgres = postgres();
    let sql = tests::connect(&postgres, "shop").await;
    sql.batch_execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, status text, total numeric(10,2), at timestamptz, is_new boolean);
         INSERT INTO t SELECT i, (ARRAY['open', 'paid', 'sent, late', NULL])[i % 4 + 1], i * 1.37, timestamptz '2026-01-01' + i * interval '7 hours',
           CASE i % 3 WHEN 0 THEN NULL ELSE i % 3 = 1 END FROM generate_series(1, 200) i;",
    )
    .await
    .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW orders AS SELECT id, status, total, at, is_new FROM t;",
    );
    let server = Server::start(&project).await;
    for (query, wanted) in [
        ("status=eq.open", "WHERE status = 'open'"),
        ("status=neq.open", "WHERE status <> 'open'"),
        (
            "status=in.(open,%22sent,%20late%22)&total=gte.100",
            "WHERE status IN ('open', 'sent, late') AND total >= 100",
        ),
        ("status=is.null", "WHERE status IS NULL"),
        ("status=not.is.null&id=lt.50", "WHERE status IS NOT NULL AND id < 50"),
        ("status=not.eq.open", "WHERE NOT status = 'open'"),
        ("status=like.*a*", "WHERE status LIKE '%a%'"),
        ("status=ilike.S*+LATE", "WHERE status ILIKE 's% late'"),
        ("is_new=is.true", "WHERE is_new IS TRUE"),
        ("is_new=eq.false&id=gt.190", "WHERE is_new = false AND id > 190"),
        ("at=gte.2026-02-01T00:00:00%2B01:00", "WHERE at >= '2026-02-01 00:00:00+01'"),
        ("total=eq.13.70", "WHERE total = 13.70"),
        (
            "where={%22_or%22:[{%22id%22:{%22_eq%22:1}},{%22status%22:{%22_eq%22:%22paid%22}}]}&id=lte.20",
            "WHERE (id = 1 OR status = 'paid') AND id <= 20",
        ),
        ("order=status.desc,total&limit=7", "ORDER BY status DESC, total LIMIT 7"),
        ("order=status,id.desc&limit=60&select=id", "ORDER BY status, id DESC LIMIT 60"),
        (
            "order=is_new.desc.nullsfirst,id&limit=5&status=eq.paid",
            "WHERE status = 'paid' ORDER BY is_new DESC, id LIMIT 5",
        ),
    ] {
        let (status, body) = http::get(&server.address(), &format!("/v1/projections/orders?{query}")).await;
        assert_eq!(status, 200, "{query}: {body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let mut ids: Vec<i64> =
            body["rows"].as_array().expect("rows").iter().map(|row| row[0].as_i64().expect("an id")).collect();
        let found = sql.query(&format!("SELECT id FROM t {wanted}"), &[]).await.expect("an answer");
        let mut expected: Vec<i64> = found.iter().map(|row| row.get(0)).collect();
        if !wanted.contains("ORDER BY") {
            ids.sort_unstable();
            expected.sort_unstable();
        }
        assert_eq!(ids, expected, "{query}");
        assert!(!ids.is_empty(), "{query} asks for something");
    }
    server.stop().await;
}
