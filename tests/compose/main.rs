//! Compose for real. Run by `cargo xtask test compose`, where a Docker engine answers.

use std::process::Command;

use serde_json::{Value, json};
use tests::{Subscriber, eventually, http};
use tokio::sync::{Mutex, MutexGuard};

const PROJECT: &str = "deltafront-test";

fn docker(arguments: &[&str]) -> String {
    run(Command::new("docker").args(arguments))
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("docker is installed");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{error}");
    out.trim().to_owned()
}

/// The services of compose, taken away also when the test fails.
struct Composed {
    profiles: &'static str,
    // The ports are of this machine, so tests go one by one.
    _alone: MutexGuard<'static, ()>,
}

impl Composed {
    async fn up(profiles: &'static str) -> Composed {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let composed = Composed { profiles, _alone: ALONE.lock().await };
        composed.compose(&["build"]);
        composed.compose(&["up", "--detach", "--wait"]);
        composed
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.args(["compose", "-f", "docker/compose.yaml", "-p", PROJECT]);
        // With the features of the other service, there is one program to build, once.
        command.env("COMPOSE_PROFILES", self.profiles).env("DELTAFRONT_FEATURES", "kafka").current_dir(xtask::root());
        command
    }

    fn compose(&self, arguments: &[&str]) -> String {
        run(self.command().args(arguments))
    }

    fn sql(&self, sql: &str) {
        self.compose(&["exec", "-T", "postgres", "psql", "-U", "storefront", "-d", "storefront", "-c", sql]);
    }

    /// Says how large the image of `service` is, and looks whether the program in it is without rights.
    fn inspect(&self, service: &str) {
        let bytes = docker(&["image", "inspect", "--format", "{{.Size}}", &format!("{PROJECT}-{service}")]);
        let bytes: u64 = bytes.parse().expect("bytes");
        println!("the image of {service} has {} MB", bytes / 1_000_000);
        let inside = |script| self.compose(&["exec", "-T", service, "sh", "-c", script]);
        assert_ne!(inside("id -u"), "0", "the server does not run as root");
        assert_eq!(inside("grep CapBnd /proc/1/status"), "CapBnd:\t0000000000000000");
        assert_eq!(inside("touch /tmp/mark 2> /dev/null || echo refused"), "refused");
    }

    async fn down(self) {
        drop(self);
        let left = || async {
            let label = format!("label=com.docker.compose.project={PROJECT}");
            let ids = |what: &[&str]| docker(&[what, &["--filter", &label, "-q"]].concat());
            [ids(&["ps", "-a"]), ids(&["network", "ls"]), ids(&["volume", "ls"])].concat()
        };
        eventually(left, |left| left.is_empty()).await;
    }
}

impl Drop for Composed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.command().args(["logs", "--tail", "20"]).status();
        }
        let _ = self.command().args(["down", "--volumes", "--timeout", "5"]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine: cargo xtask test compose"]
async fn an_update_in_the_composed_postgres_reaches_a_client() {
    let composed = Composed::up("").await;
    let address = "127.0.0.1:8080";
    let (status, body) = http::get(address, "/readyz").await;
    assert_eq!(status, 200, "{body}");
    composed.inspect("deltafront");
    let mut subscriber = Subscriber::connect(address).await;
    subscriber.subscribe("revenue_by_region").await;
    assert!(subscriber.rows("revenue_by_region").len() >= 4);
    composed
        .sql("UPDATE customers SET region = 'moon' WHERE id IN (SELECT customer_id FROM orders ORDER BY id LIMIT 1)");
    subscriber.until(|held| held["revenue_by_region"].rows().iter().any(|row| row[0] == json!("moon"))).await;
    composed.down().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine: cargo xtask test compose"]
async fn orders_come_back_from_the_composed_kafka_as_payments_also_after_its_restart() {
    let composed = Composed::up("kafka").await;
    composed.inspect("deltafront-fulfilment");
    let mut subscriber = Subscriber::connect("127.0.0.1:8081").await;
    for projection in ["open_orders", "revenue_per_day", "late_shipments", "unreadable_messages"] {
        subscriber.subscribe(projection).await;
    }
    // The load knows of orders from the topic alone that is written.
    subscriber
        .until(|held| {
            let shipped = |row: &Value| row[5] == json!("captured") && row[6] == json!("handed_over");
            held["open_orders"].rows().iter().any(shipped)
                && held["revenue_per_day"].rows().iter().any(|row| row[1] == json!("captured"))
                && !held["unreadable_messages"].is_empty()
        })
        .await;

    // What changes while the broker is away goes its round when it is back.
    composed.compose(&["stop", "load"]);
    composed.compose(&["restart", "kafka"]);
    composed.sql("UPDATE orders SET status = 'paid' WHERE status = 'open'");
    composed.compose(&["up", "--detach", "--wait", "--no-deps", "kafka"]);
    let is_answered = |row: &Value| row[1] != json!("open") && [json!("captured"), json!("failed")].contains(&row[5]);
    subscriber.until(|held| held["open_orders"].rows().iter().all(is_answered)).await;

    let order = subscriber.rows("open_orders")[0][0].clone();
    let event = json!({"order_id": order, "kind": "packed",
        "happened_at": "2026-01-02T00:00:00Z", "due_at": "2026-01-01T00:00:00Z"});
    let produce = "/opt/kafka/bin/kafka-console-producer.sh --bootstrap-server kafka:19092 --topic shipments";
    composed.compose(&["exec", "-T", "kafka", "bash", "-c", &format!("echo '{event}' | {produce}")]);
    subscriber.until(|held| held["late_shipments"].rows().iter().any(|row| row[0] == order)).await;
    composed.down().await;
}
