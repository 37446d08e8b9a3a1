//! `.slt` files, played three ways: through the live engine, through DataFusion in batch, and on
//! Postgres.
//!
//! Statements before the first query make the database, so that their rows come by the snapshot;
//! those after it come by the stream. Every query of the file is a projection from the start, and
//! is asked at its place in the file. `skipif live|batch|postgres` leaves one of the ways out where
//! the dialects differ.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use connectors::postgres::decode::RowBuilder;
use connectors::postgres::{TableRequest, Target, discover};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use serde_json::Value;
use sqllogictest::{Condition, DefaultColumnType, QueryExpect, Record, SortMode, StatementExpect, parse_file};
use tests::{PrivatePostgres, ProjectFolder, Server, connect, eventually, postgres};
use tokio_postgres::{Client, SimpleQueryMessage};

#[tokio::test(flavor = "multi_thread")]
async fn every_file() {
    let folder = xtask::root().join("tests/slt");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    assert!(files.len() >= 4, "only {} files", files.len());
    let mut queries = 0;
    for file in files {
        queries += play(&file).await;
    }
    assert!(queries >= 30, "only {queries} answers were compared");
}

struct Query {
    sql: String,
    expected: Vec<String>,
    columns: usize,
    in_order: bool,
    skips: Vec<String>,
    line: String,
}

enum Step {
    Statement(String),
    Query(Query),
}

fn steps(file: &Path) -> Vec<Step> {
    let records = parse_file::<DefaultColumnType>(file).expect("a file of records");
    let mut steps = Vec::new();
    for record in records {
        match record {
            Record::Statement { sql, expected: StatementExpect::Ok, .. } => steps.push(Step::Statement(sql)),
            Record::Query {
                sql,
                conditions,
                loc,
                expected: QueryExpect::Results { types, sort_mode, results, .. },
                ..
            } => {
                let skips = conditions.iter().filter_map(|condition| {
                    if let Condition::SkipIf { label } = condition { Some(label.clone()) } else { None }
                });
                let in_order = !matches!(sort_mode, Some(SortMode::RowSort));
                steps.push(Step::Query(Query {
                    sql,
                    expected: results,
                    columns: types.len(),
                    in_order,
                    skips: skips.collect(),
                    line: loc.to_string(),
                }));
            }
            Record::Comment(_) | Record::Newline | Record::Condition(_) => {}
            other => panic!("{}: {other:?} is not played here", file.display()),
        }
    }
    steps
}

/// Plays a file and returns how many answers were compared.
async fn play(file: &Path) -> usize {
    let steps = steps(file);
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    let first_query = steps.iter().position(|step| matches!(step, Step::Query(_))).expect("a query");
    client
        .batch_execute("CREATE TABLE sync_point (n int PRIMARY KEY); INSERT INTO sync_point VALUES (0)")
        .await
        .expect("a table");
    for step in &steps[..first_query] {
        run(&client, step).await;
    }
    let tables = tables(&client).await;
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    let mut project = String::new();
    for table in &tables {
        project += &format!("CREATE TABLE {table} WITH (connector = 'postgres', url = '$DB');\n");
    }
    project += "CREATE MATERIALIZED VIEW sync_points AS SELECT n FROM sync_point;\n";
    for step in &steps {
        if let Step::Query(query) = step
            && !names.contains_key(query.sql.as_str())
        {
            let name = format!("query_{}", names.len());
            project += &format!("CREATE MATERIALIZED VIEW {name} AS {};\n", query.sql);
            names.insert(&query.sql, name);
        }
    }
    let server = Server::start(&ProjectFolder::new(&postgres, &project)).await;
    let mut statements = 0;
    let mut compared = 0;
    for step in &steps[first_query..] {
        match step {
            Step::Statement(_) => {
                run(&client, step).await;
                statements += 1;
                client.batch_execute("UPDATE sync_point SET n = n + 1").await.expect("a mark");
                eventually(|| async { live(&server, "sync_points") }, |rows| rows == &[vec![statements.to_string()]])
                    .await;
            }
            Step::Query(query) => {
                let live = live(&server, &names[query.sql.as_str()]);
                check(query, "live", live, file);
                if !query.skips.iter().any(|way| way == "batch") {
                    check(query, "batch", batch(&postgres, &tables, &query.sql).await, file);
                }
                if !query.skips.iter().any(|way| way == "postgres") {
                    check(query, "postgres", ask_postgres(&client, &query.sql).await, file);
                }
                compared += 1;
            }
        }
    }
    server.stop().await;
    compared
}

async fn run(client: &Client, step: &Step) {
    if let Step::Statement(sql) = step {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

async fn tables(client: &Client) -> Vec<String> {
    let rows = client
        .query("SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1", &[])
        .await;
    rows.expect("an answer").iter().map(|row| row.get(0)).collect()
}

fn check(query: &Query, way: &str, mut rows: Vec<Vec<String>>, file: &Path) {
    if query.skips.iter().any(|skipped| skipped == way) {
        return;
    }
    let mut expected: Vec<Vec<String>> =
        query.expected.iter().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
    // What is live is a set; only what answers once has an order.
    if !query.in_order || way == "live" {
        rows.sort();
        expected.sort();
    }
    assert_eq!(rows, expected, "{} at {}: {way}\n{}", file.display(), query.line, query.sql);
    assert!(
        rows.iter().all(|row| row.len() == query.columns),
        "{} at {}: {} columns are announced",
        file.display(),
        query.line,
        query.columns
    );
}

/// One form for the values of all three: no spaces, `NULL`, whole floats without `.0`.
fn cell(text: Option<&str>) -> String {
    match text {
        None => "NULL".to_owned(),
        Some("") => "(empty)".to_owned(),
        Some("true") => "t".to_owned(),
        Some("false") => "f".to_owned(),
        Some(text) => text.strip_suffix(".0").unwrap_or(text).replace(' ', "_"),
    }
}

fn json_rows(rows: &[Value]) -> Vec<Vec<String>> {
    let text = |value: &Value| match value {
        Value::Null => cell(None),
        Value::String(text) => cell(Some(text)),
        other => cell(Some(&other.to_string())),
    };
    rows.iter().map(|row| row.as_array().expect("a row").iter().map(text).collect()).collect()
}

/// The rows of a projection as served now.
fn live(server: &Server, name: &str) -> Vec<Vec<String>> {
    let hub = server.hub();
    let id = hub.find(name).expect("a projection");
    let view = hub.view(push::view::ViewSpec::whole(id, &hub.projections()[id.0]));
    let mut image = push::image::Image::of(&hub, &view).expect("it is ready");
    let mut rows: Vec<Value> = Vec::new();
    while !image.is_at_end() {
        if let push::image::Piece::Rows(piece) = image.next(&hub).expect("its rows") {
            let piece: Vec<Value> = serde_json::from_slice(&[b"[", &*piece, b"]"].concat()).expect("JSON");
            rows.extend(piece);
        }
    }
    json_rows(&rows)
}

/// DataFusion's own answer over the tables as they are in Postgres.
async fn batch(postgres: &PrivatePostgres, tables: &[String], sql: &str) -> Vec<Vec<String>> {
    let target = Target::parse(&postgres.url("shop")).expect("a url");
    let requests: Vec<TableRequest> = tables
        .iter()
        .map(|table| TableRequest {
            name: table.clone(),
            schema: "public".to_owned(),
            table: table.clone(),
            columns: None,
        })
        .collect();
    let found = discover(&target, &requests).await.expect("the tables");
    let client = connect(postgres, "shop").await;
    let context = SessionContext::new();
    for table in &found {
        let mut rows = RowBuilder::new(table).expect("builders");
        for message in client.simple_query(&format!("SELECT * FROM {}", table.quoted())).await.expect("rows") {
            if let SimpleQueryMessage::Row(row) = message {
                for column in 0..row.len() {
                    rows.push(table, column, row.get(column).map(str::as_bytes)).expect("a value");
                }
                rows.end_row();
            }
        }
        let batch = rows.finish(table).expect("a batch");
        context
            .register_table(
                table.name.as_str(),
                Arc::new(MemTable::try_new(table.schema.clone(), vec![vec![batch]]).expect("a table")),
            )
            .expect("a name");
    }
    let batches = context.sql(sql).await.expect("a plan").collect().await.expect("an answer");
    let mut rows: Vec<Value> = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let mut json = Vec::new();
            push::json::write_row(&mut json, batch.columns(), row);
            rows.push(serde_json::from_slice(&json).expect("JSON"));
        }
    }
    json_rows(&rows)
}

async fn ask_postgres(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| cell(row.get(i))).collect()),
            _ => None,
        })
        .collect()
}
