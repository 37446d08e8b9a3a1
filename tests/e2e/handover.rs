//! From the copy to the stream: no change is lost between them, and none counts twice.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use push::ServeOptions;
use serde_json::json;
use tests::{PATIENCE, ProjectFolder, Server, connect, postgres};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// Stands between us and Postgres, and holds every connection that is made after a slot was asked
/// for: the first of them is the one that copies.
struct Gate {
    port: u16,
    /// Something for each connection that is held.
    held: mpsc::UnboundedReceiver<()>,
    open: watch::Sender<bool>,
}

impl Gate {
    async fn before(server: u16) -> Gate {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (tell, held) = mpsc::unbounded_channel();
        let (open, opened) = watch::channel(false);
        let slot_asked_for = Arc::new(AtomicBool::new(false));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (tell, mut opened, slot_asked_for) = (tell.clone(), opened.clone(), Arc::clone(&slot_asked_for));
                tokio::spawn(async move {
                    if slot_asked_for.load(Ordering::SeqCst) {
                        let _ = tell.send(());
                        let _ = opened.wait_for(|is_open| *is_open).await;
                    }
                    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.expect("the server");
                    pass(client, server, &slot_asked_for).await;
                });
            }
        });
        Gate { port, held, open }
    }
}

async fn pass(client: TcpStream, server: TcpStream, slot_asked_for: &AtomicBool) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let back = tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
        if String::from_utf8_lossy(&bytes[..count]).contains("CREATE_REPLICATION_SLOT") {
            slot_asked_for.store(true, Ordering::SeqCst);
        }
        if to_server.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    drop(to_server);
    let _ = back.await;
}

/// Changes that are committed when the slot is there and the copy has not begun. They are in the
/// stream, so the copy must not have them: the snapshot that the slot exported is the one that is
/// copied, and the stream begins at the slot's point, not where the server is by then. In a table
/// without a key a row that comes twice is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn changes_between_slot_and_copy_count_once() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute(
            "CREATE TABLE bag (a text); ALTER TABLE bag REPLICA IDENTITY FULL; INSERT INTO bag VALUES ('before'), ('goes'), ('changes');
             CREATE TABLE keyed (id int PRIMARY KEY, a text); INSERT INTO keyed VALUES (1, 'before'), (2, 'goes'), (3, 'changes');",
        )
        .await
        .expect("tables");
    let mut gate = Gate::before(postgres.port()).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/shop", gate.port);
    let project = ProjectFolder::of(
        &"CREATE TABLE bag WITH (connector = 'postgres', url = '$DB'); CREATE TABLE keyed WITH (connector = 'postgres', url = '$DB');
          CREATE MATERIALIZED VIEW bags AS SELECT * FROM bag; CREATE MATERIALIZED VIEW keys AS SELECT * FROM keyed;"
            .replace("$DB", &url),
    );
    let server = Server::launch(&project, ServeOptions::default()).await;
    tokio::time::timeout(PATIENCE, gate.held.recv()).await.expect("a copy in time").expect("a connection");
    client
        .batch_execute(
            "INSERT INTO bag VALUES ('between'); DELETE FROM bag WHERE a = 'goes'; UPDATE bag SET a = 'changed' WHERE a = 'changes';
             INSERT INTO keyed VALUES (4, 'between'); DELETE FROM keyed WHERE id = 2; UPDATE keyed SET a = 'changed' WHERE id = 3;",
        )
        .await
        .expect("changes");
    gate.open.send_replace(true);
    server.ready().await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("bags").await;
    subscriber.subscribe("keys").await;
    client.batch_execute("INSERT INTO keyed VALUES (99, 'after')").await.expect("a change");
    subscriber.until(|held| held["keys"].rows().contains(&json!([99, "after"]))).await;
    assert_eq!(subscriber.rows("bags"), [json!(["before"]), json!(["between"]), json!(["changed"])]);
    let keys = [json!([1, "before"]), json!([3, "changed"]), json!([4, "between"]), json!([99, "after"])];
    assert_eq!(subscriber.rows("keys"), keys);
    server.stop().await;
}
