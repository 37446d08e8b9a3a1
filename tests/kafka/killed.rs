//! A server that is killed, as by a power cut, while it reads and writes.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use server::run::{RunOptions, start};
use tests::{ProjectFolder, Subscriber, connect, postgres};

use crate::client::{Sender, broker, config, create_topic, shows, unique};
use crate::sinks::holds;

const FOLDER: &str = "DELTAFRONT_SERVED_FOLDER";

/// Not a test by itself: the process that the test below starts and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the test below runs it in a process of its own"]
async fn serve() {
    let folder = std::env::var(FOLDER).expect("started by the test below");
    let options = RunOptions { listen: Some(([127, 0, 0, 1], 0).into()), ..RunOptions::default() };
    let running = start(Path::new(&folder), options).await.expect("it starts");
    println!("serves at {}", running.address);
    std::future::pending::<()>().await;
}

struct Served(Child);

impl Drop for Served {
    /// SIGKILL: nothing of it runs any more.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn launch(project: &ProjectFolder) -> (Served, String) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "killed::serve", "--ignored", "--nocapture"])
        .env(FOLDER, project.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let served = Served(child);
    for line in lines {
        let line = line.expect("text");
        if let Some((_, address)) = line.split_once("serves at ") {
            return (served, address.to_owned());
        }
    }
    panic!("the process ended before it served");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_and_its_topic_are_right_again() {
    let mut dice = fastrand::Rng::with_seed(11);
    let kafka = broker();
    let client = config(kafka.bootstrap());
    let (payments, out) = (unique("payments"), unique("out"));
    create_topic(&client, &payments, 2, &[("cleanup.policy", "compact")]).await;
    create_topic(&client, &out, 1, &[("cleanup.policy", "compact")]).await;
    let postgres = postgres();
    let sql = connect(&postgres, "shop").await;
    sql.batch_execute("CREATE TABLE orders (id int PRIMARY KEY, amount int); CREATE TABLE payments (order_id int PRIMARY KEY, paid int)")
        .await
        .expect("a schema");
    let query = "SELECT o.id, o.amount, p.paid FROM orders o LEFT JOIN payments p ON p.order_id = o.id";
    let project = ProjectFolder::new(
        &postgres,
        &format!(
            "CREATE TABLE orders WITH (connector = 'postgres', url = '$DB');
             CREATE TABLE payments (order_id INT PRIMARY KEY, paid INT) WITH ($K, topic = '{payments}', format = 'json');
             CREATE TABLE out (id INT PRIMARY KEY, amount INT, paid INT) WITH ($K, topic = '{out}', format = 'json');
             CREATE MATERIALIZED VIEW v AS {query};
             INSERT INTO out SELECT * FROM v;"
        )
        .replace("$K", &format!("connector = 'kafka', brokers = '{}'", kafka.bootstrap())),
    );
    let sender = Sender::new(&client);
    for round in 0..4 {
        let (served, address) = launch(&project);
        for _ in 0..60 {
            let (order, amount) = (dice.i32(0..40), dice.i32(0..1000));
            match dice.u8(0..4) {
                0 => sql.batch_execute(&format!("DELETE FROM orders WHERE id = {order}")).await.expect("SQL"),
                1 => {
                    let value = json!({ "paid": amount }).to_string();
                    sender.send_raw(&payments, Some(order.to_string().as_bytes()), Some(value.as_bytes()));
                    let same = format!(
                        "INSERT INTO payments VALUES ({order}, {amount}) ON CONFLICT (order_id) DO UPDATE SET paid = excluded.paid"
                    );
                    sql.batch_execute(&same).await.expect("SQL");
                }
                _ => {
                    let upsert = format!(
                        "INSERT INTO orders VALUES ({order}, {amount}) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount"
                    );
                    sql.batch_execute(&upsert).await.expect("SQL");
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.u64(0..1500))).await;
        if round < 3 {
            drop(served);
            continue;
        }
        let rows: String = sql
            .query_one(
                &format!("SELECT coalesce(json_agg(json_build_array(id, amount, paid)), '[]')::text FROM ({query}) q"),
                &[],
            )
            .await
            .expect("an answer")
            .get(0);
        let rows: Value = serde_json::from_str(&rows).expect("JSON");
        let mut subscriber = Subscriber::connect(&address).await;
        subscriber.subscribe("v").await;
        shows(&mut subscriber, "v", rows.clone()).await;
        let keyed =
            rows.as_array().expect("rows").iter().map(|row| {
                (format!(r#"{{"id":{}}}"#, row[0]), json!({ "id": row[0], "amount": row[1], "paid": row[2] }))
            });
        holds(&client, &out, Value::Object(keyed.collect())).await;
    }
}
