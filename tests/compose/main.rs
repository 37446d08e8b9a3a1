//! Compose for real. Run by `cargo xtask test compose`, where a Docker engine answers.

use std::process::Command;

use serde_json::json;
use tests::{Subscriber, eventually, http};

fn compose(arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .args(["compose", "-f", "docker/compose.yaml", "-p", "deltafront-test"])
        .args(arguments)
        .current_dir(xtask::root())
        .output()
        .expect("docker compose is installed");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "docker compose {}: {out}{error}", arguments.join(" "));
    out.trim().to_owned()
}

/// Brought down also when the test fails.
struct Composed;

impl Drop for Composed {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args([
                "compose",
                "-f",
                "docker/compose.yaml",
                "-p",
                "deltafront-test",
                "down",
                "--volumes",
                "--timeout",
                "5",
            ])
            .current_dir(xtask::root())
            .status();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine: cargo xtask test compose"]
async fn an_update_in_the_composed_postgres_reaches_a_client() {
    let composed = Composed;
    compose(&["build"]);
    compose(&["up", "--detach", "--wait"]);
    let address = "127.0.0.1:8080";
    let (status, body) = http::get(address, "/readyz").await;
    assert_eq!(status, 200, "{body}");
    let user = compose(&["exec", "-T", "deltafront", "id", "-u"]);
    assert_ne!(user, "0", "the server does not run as root");
    let mut subscriber = Subscriber::connect(address).await;
    subscriber.subscribe("revenue_by_region").await;
    assert!(subscriber.rows("revenue_by_region").len() >= 4);
    let update =
        "UPDATE customers SET region = 'moon' WHERE id IN (SELECT customer_id FROM orders ORDER BY id LIMIT 1)";
    compose(&["exec", "-T", "postgres", "psql", "-U", "storefront", "-d", "storefront", "-c", update]);
    subscriber.until(|held| held["revenue_by_region"].rows().iter().any(|row| row[0] == json!("moon"))).await;
    drop(composed);
    let left = || async {
        let ids = |what: &[&str]| {
            let output = Command::new("docker")
                .args(what)
                .args(["--filter", "label=com.docker.compose.project=deltafront-test", "-q"])
                .output()
                .expect("docker");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        [ids(&["ps", "-a"]), ids(&["network", "ls"]), ids(&["volume", "ls"])].concat()
    };
    eventually(left, |left| left.is_empty()).await;
}
