//! Rows that are made up: what clients see of them is what Postgres answers over the same rows.

use std::fs;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use connectors::{EventReceiver, Link, SourceEvent, SourceState, event_queue};
use pipeline::{Changes, Op};
use serde_json::Value;
use server::demo::{Demo, Shape};
use server::prepare::{Ask, Prepared, prepare};
use tests::{PATIENCE, PrivatePostgres, ProjectFolder, Server, Subscriber, connect};
use tokio::sync::watch;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Enough of a second for a client to see an image and then diffs.
const RATE: f64 = 200.0;
const TRANSACTIONS: usize = 200;

/// The auction house as Postgres has it.
const HOUSE: &str = "
    CREATE TABLE person (id bigint PRIMARY KEY, name text NOT NULL, email_address text NOT NULL, credit_card text NOT NULL,
                         city text NOT NULL, state text NOT NULL, date_time timestamp NOT NULL);
    CREATE TABLE auction (id bigint PRIMARY KEY, item_name text NOT NULL, description text NOT NULL, initial_bid bigint NOT NULL,
                          reserve bigint NOT NULL, date_time timestamp NOT NULL, expires timestamp NOT NULL, seller bigint NOT NULL,
                          category bigint NOT NULL);
    CREATE TABLE bid (auction bigint NOT NULL, bidder bigint NOT NULL, price bigint NOT NULL, date_time timestamp NOT NULL);";

/// The shop's own DDL, keys and references included. References are looked at when a transaction ends:
/// what it changes is told table by table.
fn shop() -> String {
    let schema = xtask::root().join("examples/storefront/database/schema.sql");
    let schema = fs::read_to_string(schema).expect("the example");
    schema
        .replace("REFERENCES customers", "REFERENCES customers DEFERRABLE INITIALLY DEFERRED")
        .replace("REFERENCES products", "REFERENCES products DEFERRABLE INITIALLY DEFERRED")
        .replace("REFERENCES orders ON DELETE CASCADE", "REFERENCES orders DEFERRABLE INITIALLY DEFERRED")
}

/// The compiled-in project, which comes to rest.
fn demo(shape: Shape) -> ProjectFolder {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in (Demo { shape, seed: 7, rate: RATE }).files() {
        let text = text.replace(" rate = '", &format!(" transactions = '{TRANSACTIONS}', rate = '"));
        fs::write(folder.path().join(name), text).expect("a file");
    }
    ProjectFolder(folder)
}

/// Does in Postgres what a project's source tells, a transaction for each of its own, and answers the
/// tables that it tells of.
async fn judge(project: &ProjectFolder, client: &Client) {
    let Prepared { sources, .. } =
        prepare(project.path(), Ask::Databases).await.unwrap_or_else(|wrong| panic!("{wrong}"));
    let [prepared] = <[_; 1]>::try_from(sources).ok().expect("the tables are one source");
    let keys: Vec<usize> = prepared.tables.iter().map(|table| table.identity.key().map_or(0, <[usize]>::len)).collect();
    let names: Vec<String> = prepared.tables.iter().map(|table| table.name.clone()).collect();
    let (events, receiver) = event_queue(64 << 20);
    let (state, _) = watch::channel(SourceState::Connecting);
    let (_, durable) = watch::channel(None);
    let telling = tokio::spawn(prepared.source.run(Link {
        name: Arc::from("judged"),
        events,
        state,
        durable,
        dead_letters: Default::default(),
        counters: Default::default(),
    }));
    load(client, receiver, &names, &keys).await;
    telling.abort();
}

async fn load(client: &Client, mut events: EventReceiver, names: &[String], keys: &[usize]) {
    let (mut told, mut is_begun) = (0, false);
    while told < TRANSACTIONS {
        let delivery = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("an event");
        match delivery.event {
            SourceEvent::CopyBegun => {}
            SourceEvent::CopyDone { .. } => is_begun = true,
            SourceEvent::RowsCopied { table, rows } => {
                client
                    .batch_execute("BEGIN; SET LOCAL session_replication_role = replica")
                    .await
                    .expect("a transaction");
                let ops = vec![Op::Insert; rows.num_rows()];
                run(client, &names[table], keys[table], &Changes { rows, ops, unchanged: Vec::new() }).await;
                client.batch_execute("COMMIT").await.expect("rows");
            }
            SourceEvent::Transaction { changes, .. } => {
                client.batch_execute("BEGIN").await.expect("a transaction");
                for (table, changes) in &changes {
                    run(client, &names[*table], keys[*table], changes).await;
                }
                client.batch_execute("COMMIT").await.expect("a transaction that breaks no reference");
                told += usize::from(is_begun);
            }
        }
    }
}

/// Each change must find the row that it is of. A key is the table's first columns.
async fn run(client: &Client, table: &str, key: usize, changes: &Changes) {
    let texts = texts(&changes.rows);
    let schema = changes.rows.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    for (op, row) in changes.ops.iter().zip(&texts) {
        let equal = |range: std::ops::Range<usize>, between: &str| {
            range.map(|i| format!("{} = {}", names[i], row[i])).collect::<Vec<_>>().join(between)
        };
        let is_of = equal(0..key, " AND ");
        let sql = match op {
            Op::Insert => {
                let (names, row) = (names.join(", "), row.join(", "));
                format!("INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES ({row})")
            }
            Op::Update => format!("UPDATE {table} SET {} WHERE {is_of}", equal(key..names.len(), ", ")),
            Op::Delete => format!("DELETE FROM {table} WHERE {is_of}"),
            other => panic!("{other:?} of {table}"),
        };
        let done = client.simple_query(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert!(matches!(done[..], [SimpleQueryMessage::CommandComplete(1)]), "{sql}: {done:?}");
    }
}

/// The values, as Postgres reads them between quotes.
fn texts(rows: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default();
    let columns: Vec<ArrayFormatter<'_>> =
        rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).expect("a text form")).collect();
    (0..rows.num_rows()).map(|i| columns.iter().map(|column| format!("'{}'", column.value(i))).collect()).collect()
}

/// Makes the project's queries views of Postgres, and answers the projections' names.
async fn make_views(client: &Client, project: &ProjectFolder) -> Vec<String> {
    let Prepared { project, .. } =
        prepare(project.path(), Ask::Databases).await.unwrap_or_else(|wrong| panic!("{wrong}"));
    // Views before what reads them: in both projects those that are not served.
    let (projections, views): (Vec<_>, Vec<_>) = project.queries.values().partition(|query| query.projection.is_some());
    for query in views.iter().chain(&projections) {
        let sql = format!("CREATE VIEW {} AS {}", query.name, query.query);
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    projections.iter().map(|query| query.name.clone()).collect()
}

async fn postgres_rows(client: &Client, view: &str) -> Vec<Vec<String>> {
    let messages = client.simple_query(&format!("SELECT * FROM {view}")).await.expect("an answer");
    let mut rows: Vec<Vec<String>> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or("NULL").to_owned()).collect())
            }
            _ => None,
        })
        .collect();
    rows.sort();
    rows
}

/// A client's rows in the texts that Postgres has for them, sorted.
fn client_rows(client: &Subscriber, view: &str) -> Vec<Vec<String>> {
    let moment = |text: &str| match text.strip_suffix('Z') {
        Some(utc) => format!("{}+00", utc.replacen('T', " ", 1)),
        None => text.replacen('T', " ", 1),
    };
    let text = |value: &Value| match value {
        Value::String(text) if text.len() >= 19 && text.as_bytes()[10] == b'T' => moment(text),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let row = |row: &Value| row.as_array().expect("a row").iter().map(text).collect();
    let mut rows: Vec<Vec<String>> = client.rows(view).iter().map(row).collect();
    rows.sort();
    rows
}

/// Answers how many messages it took to be the same.
async fn same(client: &mut Subscriber, view: &str, expected: &[Vec<String>]) -> usize {
    let mut messages = 0;
    let waiting = async {
        while client_rows(client, view) != expected {
            client.next().await;
            messages += 1;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        let held = client_rows(client, view);
        let missing: Vec<_> = expected.iter().filter(|row| !held.contains(row)).take(5).collect();
        let extra: Vec<_> = held.iter().filter(|row| !expected.contains(row)).take(5).collect();
        panic!("{view}: {} rows of {}; missing {missing:?}, extra {extra:?}", held.len(), expected.len());
    }
    messages
}

async fn is_as_postgres_has_it(shape: Shape, schema: &str, projections: &[&str]) {
    let project = demo(shape);
    let server = Server::launch_with(&project, server::run::RunOptions::default()).await;
    let mut subscriber = server.subscriber().await;
    server.ready().await;
    for projection in projections {
        subscriber.subscribe(projection).await;
    }
    let postgres = PrivatePostgres::start().expect("a private Postgres");
    postgres.psql("CREATE DATABASE made").expect("a database");
    let client = connect(&postgres, "made").await;
    client.batch_execute(&format!("SET timezone = 'UTC'; {schema}")).await.expect("tables");
    judge(&project, &client).await;
    assert_eq!(make_views(&client, &project).await, projections);

    let mut messages = 0;
    for projection in projections {
        let expected = postgres_rows(&client, projection).await;
        assert!(!expected.is_empty(), "{projection} shows nothing, so nothing was compared");
        messages += same(&mut subscriber, projection, &expected).await;
        // Who comes when all is over is sent the same.
        let mut late = server.subscriber().await;
        late.subscribe(projection).await;
        assert_eq!(same(&mut late, projection, &expected).await, 0);
    }
    assert!(messages > 10, "{messages} diffs of {TRANSACTIONS} transactions");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_is_made_up_is_as_postgres_has_it() {
    let projections = ["customers_without_orders", "open_orders", "revenue_by_region", "top_products"];
    is_as_postgres_has_it(Shape::Storefront, &shop(), &projections).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auction_house_is_as_postgres_has_it() {
    let projections = [
        "q1_latest_bids_in_euros",
        "q2_bids_on_some_auctions",
        "q3_local_sellers",
        "q4_average_price_by_category",
        "q5_hot_auctions",
        "q7_highest_bid_by_minute",
    ];
    is_as_postgres_has_it(Shape::Nexmark, HOUSE, &projections).await;
}

/// The types that the documentation gives are those that the tables have: with and without asking.
#[tokio::test]
async fn columns_may_be_declared_as_they_are_documented() {
    let docs = fs::read_to_string(xtask::root().join("docs/generator.md")).expect("the documentation");
    let mut sql = String::new();
    for (shape, table) in
        [("storefront", "orders"), ("storefront", "order_lines"), ("nexmark", "auction"), ("nexmark", "bid")]
    {
        let row =
            docs.lines().find_map(|line| line.strip_prefix(&format!("| `{table}` | "))).expect("a row of a table");
        let columns = row.trim_end_matches(" |").replace('`', "");
        let key = match table {
            "orders" => ", PRIMARY KEY (id)",
            "order_lines" => ", PRIMARY KEY (order_id, line)",
            _ => "",
        };
        sql += &format!("CREATE TABLE {table} ({columns}{key}) WITH (connector = 'generator', shape = '{shape}');");
        sql += &format!("CREATE MATERIALIZED VIEW all_{table} AS SELECT * FROM {table};");
    }
    let project = ProjectFolder::of(&sql);
    for ask in [Ask::Databases, Ask::Nobody] {
        let prepared = prepare(project.path(), ask).await.unwrap_or_else(|wrong| panic!("{ask:?}: {wrong}"));
        assert_eq!(prepared.plan.projections.len(), 4);
    }
}
