//! What the server makes of what sources tell, whatever their kind: sources that a test scripts.

use connectors::{SourceEvent, SourceState};
use serde_json::{Value, json};
use server::run::RunOptions;
use tests::script::{CONNECTORS, Script, offset};
use tests::{PATIENCE, ProjectFolder, Server, http};

async fn launch(project: &ProjectFolder) -> Server {
    Server::launch_with(project, RunOptions { connectors: CONNECTORS, ..RunOptions::default() }).await
}

/// A projection waits for the sources that it reads, and for no other. Until then it is not shown,
/// since without rows it would look complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_projection_waits_for_its_own_sources_only() {
    let (quick, slow) = (Script::new("quick"), Script::new("slow"));
    let project = ProjectFolder::of(
        "CREATE TABLE a (id BIGINT PRIMARY KEY) WITH (connector = 'script', script = 'quick');
         CREATE TABLE b (id BIGINT PRIMARY KEY) WITH (connector = 'script', script = 'slow');
         CREATE MATERIALIZED VIEW of_both AS SELECT a.id FROM a JOIN b ON b.id = a.id;
         CREATE MATERIALIZED VIEW of_quick AS SELECT id FROM a;
         CREATE MATERIALIZED VIEW of_slow AS SELECT id FROM b WHERE id > 100;",
    );
    let server = launch(&project).await;
    let status = async |path: &str| http::get(&server.address(), path).await;
    let ready = async || -> Value {
        let (_, body) = status("/v1/projections").await;
        let catalog: Value = serde_json::from_str(&body).expect("JSON");
        let projections = catalog["projections"].as_array().expect("a list").iter();
        projections
            .map(|projection| (projection["name"].as_str().expect("a name").to_owned(), projection["ready"].clone()))
            .collect()
    };
    for name in ["of_both", "of_quick", "of_slow"] {
        let (code, body) = status(&format!("/v1/projections/{name}")).await;
        assert_eq!((code.as_u16(), body.contains(r#""code":"not_ready""#)), (503, true), "{name}: {body}");
    }
    let mut subscriber = server.subscriber().await;
    for name in ["of_both", "of_quick", "of_slow"] {
        subscriber.send(json!({ "op": "subscribe", "id": name, "projection": name })).await;
    }
    // The slow one is in the middle of its copy.
    slow.tell(SourceEvent::CopyBegun);
    quick.copy(&[1, 2]);
    subscriber.until(|held| held.contains_key("of_quick")).await;
    assert_eq!(subscriber.rows("of_quick"), [json!([1]), json!([2])]);
    quick.insert(&[3], 1);
    subscriber.until(|held| held["of_quick"].len() == 3).await;
    assert_eq!(subscriber.position, json!({ "quick": "script/0:1" }));
    assert_eq!(subscriber.held.len(), 1, "an image of a projection that is not ready: {:?}", subscriber.held);
    assert_eq!(ready().await, json!({ "of_both": false, "of_quick": true, "of_slow": false }));
    assert_eq!(status("/v1/projections/of_quick").await.0, 200);
    assert_eq!(status("/v1/projections/of_both").await.0, 503);
    assert_eq!(status("/readyz").await.0, 503);

    slow.copy(&[2, 3, 4]);
    server.ready().await;
    subscriber.until(|held| held.contains_key("of_both") && held.contains_key("of_slow")).await;
    assert_eq!(subscriber.rows("of_both"), [json!([2]), json!([3])]);
    assert!(subscriber.rows("of_slow").is_empty(), "it is ready and has no rows");
    assert_eq!(subscriber.position, json!({ "quick": "script/0:1", "slow": "script/0:0" }));
    assert_eq!(ready().await, json!({ "of_both": true, "of_quick": true, "of_slow": true }));
    assert_eq!(status("/v1/projections/of_slow").await.0, 200);
    let (_, page) = status("/metrics").await;
    assert!(page.contains("deltafront_projection_ready{projection=\"of_slow\"} 1"), "{page}");
    slow.insert(&[101], 1);
    subscriber.until(|held| held["of_slow"].rows() == [json!([101])]).await;
    assert_eq!(subscriber.resyncs, 0);
    server.stop().await;
}

/// A source that copies nothing, since it reads its log from the beginning, is shown when it has
/// come to where the log ended at the start: all of it at once, and no copy empties the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_read_from_its_beginning_is_shown_when_its_end_is_reached() {
    let log = Script::new("log");
    let project = ProjectFolder::of(
        "CREATE TABLE a (id BIGINT PRIMARY KEY) WITH (connector = 'script', script = 'log');
         CREATE MATERIALIZED VIEW number AS SELECT count(*) AS n FROM a;",
    );
    let server = launch(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.send(json!({ "op": "subscribe", "id": "number", "projection": "number" })).await;
    log.insert(&[1, 2], 2);
    log.insert(&[3], 3);
    log.state(SourceState::Streaming);
    server.source_says("streaming").await;
    assert!(!server.running.health.borrow().is_ready);
    log.tell(SourceEvent::CopyDone { position: offset(3) });
    subscriber.until(|held| held.contains_key("number")).await;
    assert_eq!((subscriber.rows("number"), subscriber.epoch), (vec![json!([3])], 1));
    server.ready().await;
    log.insert(&[4], 4);
    subscriber.until(|held| held["number"].rows() == [json!([4])]).await;
    server.stop().await;
}

/// A source that panics ends the program: nobody would read its changes any more, and its last words
/// would stand there for ever. Several times, since what ends first is a matter of luck.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_panics_ends_the_program() {
    for i in 0..10 {
        let name = format!("panics-{i}");
        let script = Script::new(&name);
        let project = ProjectFolder::of(
            &"CREATE TABLE a (id BIGINT PRIMARY KEY) WITH (connector = 'script', script = '$NAME');
              CREATE MATERIALIZED VIEW v AS SELECT id FROM a;"
                .replace("$NAME", &name),
        );
        let mut server = launch(&project).await;
        script.copy(&[1]);
        server.ready().await;
        script.panic();
        let what = tokio::time::timeout(PATIENCE, server.running.failed()).await.expect("it is noticed");
        assert_eq!(what, "a source panicked");
        server.stop().await;
    }
}

/// A source that stops for its operator is no failure: what it told is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_stops_is_served_on() {
    let script = Script::new("stops");
    let project = ProjectFolder::of(
        "CREATE TABLE a (id BIGINT PRIMARY KEY) WITH (connector = 'script', script = 'stops');
         CREATE MATERIALIZED VIEW v AS SELECT id FROM a;",
    );
    let mut server = launch(&project).await;
    script.copy(&[1]);
    server.ready().await;
    script.state(SourceState::Stopped { error: "no more".to_owned(), remedy: "ask".to_owned() });
    drop(script);
    server.source_says("stopped: no more; ask").await;
    let short = std::time::Duration::from_millis(300);
    assert!(tokio::time::timeout(short, server.running.failed()).await.is_err(), "it goes on");
    assert_eq!(http::get(&server.address(), "/v1/projections/v").await.0, 200);
    server.stop().await;
}

/// Who sees what a lost source feeds is told, without a word of what went wrong, and told when it is over;
/// others hear nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_source_is_told_to_those_it_concerns() {
    let (lost, other) = (Script::new("lost"), Script::new("other"));
    let project = ProjectFolder::of(
        "CREATE TABLE a (id BIGINT PRIMARY KEY) WITH (connector = 'script', script = 'lost');
         CREATE TABLE b (id BIGINT PRIMARY KEY) WITH (connector = 'script', script = 'other');
         CREATE MATERIALIZED VIEW of_a AS SELECT id FROM a;
         CREATE MATERIALIZED VIEW of_b AS SELECT id FROM b;",
    );
    let server = launch(&project).await;
    lost.copy(&[1]);
    other.copy(&[2]);
    server.ready().await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("of_a").await;
    subscriber.subscribe("of_b").await;
    lost.state(SourceState::Retrying { error: "no route to db.internal".to_owned() });
    let message = "its source is lost, and is being connected to again";
    assert_eq!(subscriber.message().await, json!({"op": "stale", "id": "of_a", "message": message}));
    lost.state(SourceState::Connecting);
    lost.state(SourceState::Streaming);
    assert_eq!(subscriber.message().await, json!({"op": "fresh", "id": "of_a"}));
    lost.state(SourceState::Stopped { error: "no more".to_owned(), remedy: "ask".to_owned() });
    let stopped = subscriber.message().await;
    assert_eq!((&stopped["op"], &stopped["id"]), (&json!("stale"), &json!("of_a")));
    server.stop().await;
}

/// One that ends without a word is no longer `streaming`.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_ends_without_a_reason_says_so() {
    let script = Script::new("silent");
    let project = ProjectFolder::of(
        "CREATE TABLE a (id BIGINT PRIMARY KEY) WITH (connector = 'script', script = 'silent');
         CREATE MATERIALIZED VIEW v AS SELECT id FROM a;",
    );
    let server = launch(&project).await;
    script.copy(&[1]);
    server.ready().await;
    drop(script);
    server.source_says("stopped: it ended without a reason").await;
    server.stop().await;
}
