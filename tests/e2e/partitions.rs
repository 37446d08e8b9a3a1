//! A table several times in a project, and a partition beside the table that it is part of.

use serde_json::{Value, json};
use server::prepare::{Ask, prepare};
use tests::{PrivatePostgres, ProjectFolder, Server, Subscriber, connect, postgres};
use tokio_postgres::Client;

/// The same table under several names, with other columns too: each has every change, in the epoch
/// in which the others have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_stand_in_a_project_several_times() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, n int, note text); INSERT INTO t VALUES (1, 1, 'a')")
        .await
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE first WITH (connector = 'postgres', url = '$DB', table = 't');
         CREATE TABLE second (id INT PRIMARY KEY, n TEXT) WITH (connector = 'postgres', url = '$DB', table = 'public.t');
         CREATE MATERIALIZED VIEW firsts AS SELECT * FROM first;
         CREATE MATERIALIZED VIEW seconds AS SELECT * FROM second;
         CREATE MATERIALIZED VIEW differing AS
           SELECT f.id AS f, s.id AS s FROM first f FULL JOIN second s ON s.id = f.id AND s.n = CAST(f.n AS TEXT) WHERE f.id IS NULL OR s.id IS NULL;",
    );
    // Twice, since the second time the publication is there.
    for start in 0..2 {
        let server = Server::start(&project).await;
        let mut subscriber = server.subscriber().await;
        for projection in ["firsts", "seconds", "differing"] {
            subscriber.subscribe(projection).await;
        }
        let statements = [
            "INSERT INTO t VALUES (2, 2, 'b')",
            "UPDATE t SET n = 7 WHERE id = 1",
            "DELETE FROM t WHERE id = 2",
            "TRUNCATE t",
        ];
        for statement in [&statements[..], &[&format!("INSERT INTO t VALUES (1, 1, 'end {start}')")]].concat() {
            client.batch_execute(statement).await.expect("a change");
        }
        let end = json!([1, 1, format!("end {start}")]);
        while subscriber.rows("firsts") != [end.clone()] {
            subscriber.next().await;
            assert!(subscriber.rows("differing").is_empty(), "{:?}", subscriber.rows("differing"));
        }
        assert_eq!(subscriber.rows("seconds"), [json!([1, "1"])]);
        server.stop().await;
    }
}

const TABLES: &str =
    "CREATE TABLE parts (id int, region text, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE parts_n PARTITION OF parts FOR VALUES IN ('n');
    CREATE TABLE parts_s (note text, region text NOT NULL, id int NOT NULL, PRIMARY KEY (id, region));
    ALTER TABLE parts ATTACH PARTITION parts_s FOR VALUES IN ('s');
    CREATE TABLE parts_w PARTITION OF parts FOR VALUES IN ('w') PARTITION BY RANGE (id);
    CREATE TABLE parts_w_low PARTITION OF parts_w FOR VALUES FROM (0) TO (100);
    CREATE TABLE plain (id int PRIMARY KEY, note text);
    INSERT INTO parts VALUES (1, 'n', 'a'), (2, 's', 'b'), (3, 'w', 'c');";

const BESIDE: &str = "CREATE TABLE parts WITH (connector = 'postgres', url = '$DB'$MORE);
    CREATE TABLE parts_n WITH (connector = 'postgres', url = '$DB'$MORE);
    CREATE TABLE parts_w WITH (connector = 'postgres', url = '$DB'$MORE);
    CREATE TABLE plain WITH (connector = 'postgres', url = '$DB'$MORE);
    CREATE MATERIALIZED VIEW v_parts AS SELECT id, region, note FROM parts;
    CREATE MATERIALIZED VIEW v_parts_n AS SELECT id, region, note FROM parts_n;
    CREATE MATERIALIZED VIEW v_parts_w AS SELECT id, region, note FROM parts_w;
    CREATE MATERIALIZED VIEW v_plain AS SELECT id, note FROM plain;
    CREATE MATERIALIZED VIEW stray AS
      SELECT n.id FROM parts_n n LEFT JOIN parts p ON p.id = n.id AND p.region = n.region AND p.note = n.note WHERE p.id IS NULL;";

/// Waits until the client has what Postgres has, in each of the tables.
async fn same(subscriber: &mut Subscriber, client: &Client) {
    for table in ["parts", "parts_n", "parts_w"] {
        let rows = client.query(&format!("SELECT id, region, note FROM {table}"), &[]).await.expect("rows");
        let mut expected: Vec<Value> = rows
            .iter()
            .map(|row| json!([row.get::<_, i32>(0), row.get::<_, String>(1), row.get::<_, String>(2)]))
            .collect();
        expected.sort_by_key(Value::to_string);
        let view = format!("v_{table}");
        subscriber.until(|held| held[&view].rows() == expected).await;
    }
    assert!(subscriber.rows("stray").is_empty());
}

/// Rows of a partition are told once, under one name. Whatever the name, each table of the project
/// has the rows that are its own: in the copy and by the stream, when a row moves to another
/// partition, when a partition is made, and when one is truncated.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_may_stand_beside_its_root() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client.batch_execute(TABLES).await.expect("tables");
    // A project of before, which read the root alone: the publication is ours and goes by the root.
    let alone = ProjectFolder::new(
        &postgres,
        "CREATE TABLE parts WITH (connector = 'postgres', url = '$DB'); CREATE MATERIALIZED VIEW v_parts AS SELECT * FROM parts;",
    );
    Server::start(&alone).await.stop().await;
    let via_root = || postgres.psql_in("shop", "SELECT pubviaroot FROM pg_publication").expect("an answer");
    assert_eq!(via_root(), "t");

    let project = ProjectFolder::new(&postgres, &BESIDE.replace("$MORE", ""));
    let server = Server::start(&project).await;
    assert_eq!(via_root(), "f");
    let mut subscriber = server.subscriber().await;
    for projection in ["v_parts", "v_parts_n", "v_parts_w", "v_plain", "stray"] {
        subscriber.subscribe(projection).await;
    }
    same(&mut subscriber, &client).await;
    for statement in [
        "INSERT INTO parts VALUES (4, 'n', 'd'), (5, 's', 'e'), (6, 'w', 'f')",
        "UPDATE parts SET note = 'g' WHERE id IN (1, 2, 3)",
        "UPDATE parts_n SET note = 'h' WHERE id = 4",
        "UPDATE parts SET region = 's' WHERE id = 1",
        "UPDATE parts SET region = 'n' WHERE id = 5",
        "DELETE FROM parts WHERE id = 4",
        "CREATE TABLE parts_e PARTITION OF parts FOR VALUES IN ('e')",
        "CREATE TABLE parts_w_high PARTITION OF parts_w FOR VALUES FROM (100) TO (200)",
        "INSERT INTO parts VALUES (7, 'e', 'i'), (8, 'n', 'j'), (150, 'w', 'k')",
        "UPDATE parts SET note = 'l' WHERE id >= 7",
        "CREATE TABLE unrelated (id int PRIMARY KEY); INSERT INTO unrelated VALUES (1)",
    ] {
        client.batch_execute(statement).await.expect("a change");
        same(&mut subscriber, &client).await;
    }
    // One of several partitions, which the log does not tell of the root; then all of them.
    for statement in [
        "TRUNCATE parts_s",
        "INSERT INTO parts VALUES (9, 's', 'm')",
        "TRUNCATE parts",
        "INSERT INTO parts VALUES (10, 'n', 'n')",
    ] {
        client.batch_execute(statement).await.expect("a change");
        same(&mut subscriber, &client).await;
    }
    assert_eq!(subscriber.resyncs, 0);
    server.stop().await;
    // And as it was before, the root alone, by a publication that goes by the partitions.
    let server = Server::start(&alone).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("v_parts").await;
    client.batch_execute("UPDATE parts SET note = 'o'").await.expect("a change");
    subscriber.until(|held| held["v_parts"].rows() == [json!([10, "n", "o"])]).await;
    server.stop().await;
}

/// A publication that others made is not changed: what to do is said, and works.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_of_others_is_not_changed() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client.batch_execute(TABLES).await.expect("tables");
    for tables in ["TABLE parts, plain", "ALL TABLES"] {
        let make = format!("CREATE PUBLICATION theirs FOR {tables} WITH (publish_via_partition_root = true)");
        client.batch_execute(&make).await.expect("a publication");
        let project = ProjectFolder::new(&postgres, &BESIDE.replace("$MORE", ", publication = 'theirs'"));
        let remedy = "ALTER PUBLICATION \"theirs\" SET (publish_via_partition_root = false)";
        let said = prepare(project.path(), Ask::Databases).await.err().map(|it| it.to_string()).unwrap_or_default();
        for expected in [
            "error: the publication theirs tells of rows of \"public\".\"parts_n\" under the name of the table that it is a partition of",
            &format!("= help: run {remedy}, or name another"),
        ] {
            assert!(said.contains(expected), "`{expected}` is missing from:\n{said}");
        }
        client.batch_execute(remedy).await.expect("the remedy");
        works(&project, &postgres).await;
        client.batch_execute("DROP PUBLICATION theirs").await.expect("a change");
    }
}

async fn works(project: &ProjectFolder, postgres: &PrivatePostgres) {
    let client = connect(postgres, "shop").await;
    let server = Server::start(project).await;
    let mut subscriber = server.subscriber().await;
    for projection in ["v_parts", "v_parts_n", "v_parts_w", "v_plain", "stray"] {
        subscriber.subscribe(projection).await;
    }
    client
        .batch_execute("INSERT INTO parts VALUES (11, 'n', 'x'), (12, 's', 'y'), (13, 'w', 'z')")
        .await
        .expect("a change");
    same(&mut subscriber, &client).await;
    client.batch_execute("DELETE FROM parts WHERE id > 10").await.expect("a change");
    same(&mut subscriber, &client).await;
    server.stop().await;
}
