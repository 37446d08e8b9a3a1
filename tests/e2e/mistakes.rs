//! Databases that can't be read, and data that can't be served.

use serde_json::{Value, json};
use server::prepare::{Ask, prepare};
use tests::{PrivatePostgres, ProjectFolder, Server, connect, http, postgres};

/// What `deltafront check` says.
async fn mistakes(project: &ProjectFolder) -> String {
    match prepare(project.path(), Ask::Databases).await {
        Ok(_) => String::new(),
        Err(wrong) => wrong.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_named_with_its_remedy() {
    let postgres = postgres();
    postgres
        .psql_in(
            "shop",
            "CREATE TABLE keyless (a int); CREATE TABLE orders (id int PRIMARY KEY, total numeric(10,2)); CREATE VIEW a_view AS SELECT 1 AS x;
             CREATE TABLE secret (id int PRIMARY KEY); CREATE ROLE reader LOGIN; GRANT SELECT ON orders TO reader;",
        )
        .expect("tables");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE keyless WITH (connector = 'postgres', url = '$DB');
         CREATE TABLE order WITH (connector = 'postgres', url = '$DB', table = 'public.order');
         CREATE TABLE a_view WITH (connector = 'postgres', url = '$DB');
         CREATE TABLE orders (id INT PRIMARY KEY, total DATE, extra TEXT) WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW v AS SELECT id FROM orders;",
    );
    let said = mistakes(&project).await;
    for expected in [
        "error: public.keyless has no key, so Postgres does not tell which row changed\n --> project.sql:1:1",
        "= help: run ALTER TABLE public.keyless ADD PRIMARY KEY (…), or ALTER TABLE public.keyless REPLICA IDENTITY FULL",
        "error: there is no table public.order in shop\n --> project.sql:2:10",
        "= help: did you mean public.orders?",
        "error: public.a_view is no ordinary table, so its changes are not in the log\n --> project.sql:3:10",
        "error: column total of public.orders is declared as date, and the database has numeric(10,2)\n --> project.sql:4:10",
        "error: public.orders has no column extra",
        "= help: it has id, total",
    ] {
        assert!(said.contains(expected), "`{expected}` is missing from:\n{said}");
    }
    let reader = ProjectFolder::new(
        &postgres,
        &"CREATE TABLE secret WITH (connector = 'postgres', url = '$DB'); CREATE MATERIALIZED VIEW v AS SELECT id FROM secret;"
            .replace("$DB", &postgres.url("shop").replace("postgres@", "reader@")),
    );
    let said = mistakes(&reader).await;
    for expected in [
        "error: role reader may not read the replication stream",
        "= help: run ALTER ROLE \"reader\" REPLICATION",
        "error: reading public.secret is not permitted",
        "= help: run GRANT SELECT ON public.secret to the role of the url",
    ] {
        assert!(said.contains(expected), "`{expected}` is missing from:\n{said}");
    }
    let nobody = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t WITH (connector = 'postgres', url = 'postgres://postgres@127.0.0.1:1/shop'); CREATE MATERIALIZED VIEW v AS SELECT * FROM t;",
    );
    let said = mistakes(&nobody).await;
    assert!(said.contains("error: connection to 127.0.0.1:1 lost: Connection refused"), "{said}");
    assert!(said.contains("= help: start the database, or check host and port in the url"), "{said}");
}

/// What a table may say is its connector's to know, and is looked at without asking a server.
#[tokio::test(flavor = "multi_thread")]
async fn options_are_those_of_the_connector() {
    let project = ProjectFolder::of(
        "CREATE TABLE b (id BIGINT PRIMARY KEY) WITH (connector = 'postgrs', url = 'postgres://h/db');
CREATE TABLE c (id BIGINT PRIMARY KEY) WITH (connector = 'postgres', url = 'postgres://h/db', tabel = 'x');
CREATE TABLE d (id BIGINT PRIMARY KEY) WITH (connector = 'postgres', frequency = '7');
CREATE TABLE e (id BIGINT PRIMARY KEY) WITH (connector = 'postgres', url = '${NOT_SET_ANYWHERE}');
CREATE TABLE f (id BIGINT PRIMARY KEY) WITH (connector = 'postgres', url = 'postgres://h/db?sslmode=maybe');
CREATE MATERIALIZED VIEW v AS SELECT id FROM b;",
    );
    let said = prepare(project.path(), Ask::Nobody).await.err().map(|wrong| wrong.to_string()).unwrap_or_default();
    for expected in [
        "error: there is no connector `postgrs`\n --> project.sql:1:58",
        "= help: this version has connector = 'postgres'",
        "error: unknown option `tabel`\n --> project.sql:2:95",
        "= help: did you mean `table`?",
        "error: table `d` has no `url`\n --> project.sql:3:1",
        "= help: add url = '${DATABASE_URL}', such as postgres://user:password@host/database",
        "error: unknown option `frequency`\n --> project.sql:3:70",
        "= help: a Postgres table takes connector, url, table, source, publication, slot",
        "error: the environment variable NOT_SET_ANYWHERE is not set\n --> project.sql:4:76",
        "error: there is no sslmode maybe\n --> project.sql:5:1",
        "\n6 mistakes",
    ] {
        assert!(said.contains(expected), "`{expected}` is missing from:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_level_must_be_logical() {
    let postgres = PrivatePostgres::start_with(&["wal_level=replica"]).expect("a private Postgres");
    postgres.psql("CREATE DATABASE shop").expect("a database");
    postgres.psql_in("shop", "CREATE TABLE t (id int PRIMARY KEY)").expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t WITH (connector = 'postgres', url = '$DB'); CREATE MATERIALIZED VIEW v AS SELECT * FROM t;",
    );
    let said = mistakes(&project).await;
    assert!(said.contains("is replica, and reading changes needs logical"), "{said}");
    assert!(said.contains("= help: run ALTER SYSTEM SET wal_level = logical, then restart Postgres"), "{said}");
}

/// A role that may not create the publication is told what its owner must run; once it is there,
/// the role needs no more than REPLICATION and SELECT.
#[tokio::test(flavor = "multi_thread")]
async fn a_modest_role_is_enough() {
    let postgres = postgres();
    postgres
        .psql_in("shop", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE ROLE reader LOGIN REPLICATION; GRANT SELECT ON t TO reader")
        .expect("a table");
    let url = postgres.url("shop").replace("postgres@", "reader@");
    let project = ProjectFolder::new(
        &postgres,
        &"CREATE TABLE t WITH (connector = 'postgres', url = '$DB'); CREATE MATERIALIZED VIEW v AS SELECT * FROM t;"
            .replace("$DB", &url),
    );
    let said = mistakes(&project).await;
    for expected in [
        "error: the role of the url may not prepare the publication deltafront_test",
        "= help: as the tables' owner run CREATE PUBLICATION \"deltafront_test\" FOR TABLE \"public\".\"t\" WITH",
    ] {
        assert!(said.contains(expected), "`{expected}` is missing from:\n{said}");
    }
    postgres.psql_in("shop", "CREATE PUBLICATION deltafront_test FOR TABLE t").expect("a publication");
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("v").await;
    assert_eq!(subscriber.rows("v"), [json!([1])]);
    server.stop().await;
}

/// `check` called right what `run` then could not read, and went on without: a deployment looked started. Of a
/// publication that leaves out rows or columns not even `run` said anything, and old rows were shown for ever.
#[tokio::test(flavor = "multi_thread")]
async fn check_finds_what_a_source_would_stop_at() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute(
            "CREATE SCHEMA clinic; CREATE TABLE clinic.beds (id int PRIMARY KEY, n int); CREATE TABLE wards (id int PRIMARY KEY);
             CREATE ROLE reader LOGIN REPLICATION; GRANT SELECT ON clinic.beds, wards TO reader",
        )
        .await
        .expect("tables");
    let sql = "CREATE TABLE beds WITH (connector = 'postgres', url = '$DB', table = 'clinic.beds');
               CREATE TABLE wards WITH (connector = 'postgres', url = '$DB');
               CREATE MATERIALIZED VIEW v AS SELECT beds.id, n FROM beds JOIN wards ON beds.id = wards.id;";
    let theirs = ProjectFolder::new(&postgres, sql);
    let modest =
        ProjectFolder::new(&postgres, &sql.replace("$DB", &postgres.url("shop").replace("postgres@", "reader@")));
    let not_prepared = "error: the role of the url may not prepare the publication deltafront_test";
    let is_right = [];
    let told = async |project: &ProjectFolder, change: &str, expected: &[&str]| {
        client.batch_execute(change).await.expect("a change");
        let said = mistakes(project).await;
        assert_eq!(said.is_empty(), expected.is_empty(), "{change}: {said}");
        for expected in expected {
            assert!(said.contains(expected), "{change}: `{expected}` is missing from:\n{said}");
        }
    };
    told(
        &modest,
        "",
        &[
            "error: role reader may not use the schema clinic",
            "= help: run GRANT USAGE ON SCHEMA \"clinic\" TO \"reader\"",
        ],
    )
    .await;
    told(
        &modest,
        "GRANT USAGE ON SCHEMA clinic TO reader",
        &[
            not_prepared,
            "run CREATE PUBLICATION \"deltafront_test\" FOR TABLE \"clinic\".\"beds\", \"public\".\"wards\"",
        ],
    )
    .await;
    told(
        &modest,
        "CREATE PUBLICATION deltafront_test FOR TABLE clinic.beds",
        &[not_prepared, "run ALTER PUBLICATION \"deltafront_test\" ADD TABLE \"public\".\"wards\""],
    )
    .await;
    // Its owner adds the table when it runs.
    told(&theirs, "", &is_right).await;
    told(&modest, "ALTER PUBLICATION deltafront_test ADD TABLE wards", &is_right).await;
    told(
        &modest,
        "ALTER PUBLICATION deltafront_test SET (publish = 'insert')",
        &[
            "error: the publication deltafront_test leaves out some kinds of change",
            "(publish = 'insert, update, delete, truncate')",
        ],
    )
    .await;
    let again = "ALTER PUBLICATION \"deltafront_test\" DROP TABLE clinic.beds; ALTER PUBLICATION \"deltafront_test\" ADD TABLE clinic.beds";
    for (beds, expected) in [
        (
            "clinic.beds WHERE (id > 5)",
            "error: the publication deltafront_test tells of some rows of clinic.beds alone",
        ),
        ("clinic.beds (id)", "error: the publication deltafront_test leaves out the column n of clinic.beds"),
    ] {
        let change =
            format!("DROP PUBLICATION deltafront_test; CREATE PUBLICATION deltafront_test FOR TABLE wards, {beds}");
        told(&theirs, &change, &[expected, &format!("run {again}")]).await;
        told(&theirs, again, &is_right).await;
    }
    told(
        &modest,
        "DROP PUBLICATION deltafront_test; CREATE PUBLICATION deltafront_test FOR TABLE wards, clinic.beds (n, id)",
        &is_right,
    )
    .await;
    // Nothing was changed by looking.
    let published = postgres.psql_in("shop", "SELECT count(*) FROM pg_publication_rel").expect("an answer");
    assert_eq!(published.trim(), "2");
}

/// Settings that nobody can have meant: `check` calls them wrong, or warns of them.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_not_meant_are_told_of() {
    let told = async |config: &str| {
        let project = ProjectFolder::of(
            "CREATE TABLE t (id BIGINT PRIMARY KEY) WITH (connector = 'postgres', url = 'postgres://h/db');
             CREATE MATERIALIZED VIEW v AS SELECT id FROM t;",
        );
        std::fs::write(project.path().join("deltafront.toml"), config).expect("a file");
        match prepare(project.path(), Ask::Nobody).await {
            Ok(prepared) => prepared.plan.warnings.to_string(),
            Err(wrong) => wrong.to_string(),
        }
    };
    let secret = "secret = 'a secret of at least thirty-two bytes'";
    let jwks = |url: &str| format!("[auth]\njwks_url = '{url}'");
    for (config, expected) in [
        (
            format!("[auth]\n{secret}\nalgorithms = ['RS256']"),
            "no token can hold: the keys are for HS256, and tokens are taken that are signed with RS256",
        ),
        (jwks("http://id.example/keys"), "warning: keys are fetched from http://id.example/keys without TLS"),
        (jwks("http://127.0.0.1:8000/keys"), ""),
        (jwks("https://id.example/keys"), ""),
        ("[project]\nexclude = ['databse']".to_owned(), "warning: exclude in deltafront.toml names `databse`"),
        ("[project]\nexclude = ['project.sql', 'deltafront.toml']".to_owned(), "error: "),
        ("[project]\nname = ' '".to_owned(), "error: name in [project] of deltafront.toml is empty"),
    ] {
        let said = told(&config).await;
        assert!(said.contains(expected), "{config}: {said}");
        assert_eq!(said.is_empty() || said.trim() == "0 mistakes", expected.is_empty(), "{config}: {said}");
    }
}

/// A row for which an expression fails is withheld with its reason, harms no other, and heals.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_fail_are_withheld_and_heal() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 5), (2, 0), (3, 2)")
        .await
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW parts AS SELECT id, 10 / n AS part FROM t;
         CREATE MATERIALIZED VIEW number AS SELECT count(*) AS n FROM t;",
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("parts").await;
    subscriber.subscribe("number").await;
    assert_eq!(subscriber.rows("parts"), [json!([1, 2]), json!([3, 5])]);
    let catalog = |body: &str| serde_json::from_str::<Value>(body).expect("JSON")["projections"][1].clone();
    let (_, body) = http::get(&server.address(), "/v1/projections").await;
    let told = json!("Divide by zero error (id = 2)");
    assert_eq!((&catalog(&body)["withheld_rows"], &catalog(&body)["withheld_reason"]), (&json!(1), &told));
    let (_, body) = http::get(&server.address(), "/v1/projections/parts/errors").await;
    let error = json!({ "row": "id = 2, part = ?", "in_doubt": false, "failed": ["part"], "reason": told, "count": 1 });
    assert_eq!(
        serde_json::from_str::<Value>(&body).expect("JSON"),
        json!({ "projection": "parts", "withheld_rows": 1, "errors": [error] })
    );
    let (_, body) = http::get(&server.address(), "/v1/projections/number/errors").await;
    assert_eq!(
        serde_json::from_str::<Value>(&body).expect("JSON"),
        json!({ "projection": "number", "withheld_rows": 0, "errors": [] })
    );
    client
        .batch_execute("UPDATE t SET n = 0 WHERE id = 1; UPDATE t SET n = 1 WHERE id = 2; INSERT INTO t VALUES (4, 10)")
        .await
        .expect("changes");
    subscriber.until(|held| held["number"].rows() == [json!([4])]).await;
    assert_eq!(subscriber.rows("parts"), [json!([2, 10]), json!([3, 5]), json!([4, 1])]);
    client.batch_execute("DELETE FROM t WHERE id = 1").await.expect("a change");
    subscriber.until(|held| held["number"].rows() == [json!([3])]).await;
    let health = server.running.health.clone();
    tests::eventually(
        || async { health.borrow().withheld[1].clone() },
        |withheld| *withheld == push::WithheldNow::default(),
    )
    .await;
    server.stop().await;
}

/// A declared key that two rows have is said, with the key, and is no end of the world.
#[tokio::test(flavor = "multi_thread")]
async fn a_declared_key_must_be_unique() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, code text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        .await
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW codes WITH (key = 'code') AS SELECT code, id FROM t;",
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("codes").await;
    client.batch_execute("INSERT INTO t VALUES (3, 'a')").await.expect("a second one");
    let message = subscriber.next().await;
    assert_eq!(
        (&message["code"], &message["message"]),
        (&json!("projection_failed"), &json!("two rows have the declared key code = a"))
    );
    let (status, _) = http::get(&server.address(), "/v1/projections/codes").await;
    assert_eq!(status, 409);
    client.batch_execute("DELETE FROM t WHERE id = 1").await.expect("one of them goes");
    subscriber.until(|held| held["codes"].rows() == [json!(["a", 3]), json!(["b", 2])]).await;
    // A conflict that goes as it came leaves nothing changed, and is over all the same.
    client.batch_execute("INSERT INTO t VALUES (4, 'b')").await.expect("a second one");
    assert_eq!(subscriber.next().await["code"], json!("projection_failed"));
    client.batch_execute("DELETE FROM t WHERE id = 4").await.expect("it goes again");
    tests::eventually(
        || async { http::get(&server.address(), "/v1/projections/codes").await.0.as_u16() },
        |status| *status == 200,
    )
    .await;
    server.stop().await;
}

/// A value that can't be taken without loss stops the source by name, and nothing wrong is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_is_named() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, n numeric); INSERT INTO t VALUES (1, 1.5)")
        .await
        .expect("a table");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t WITH (connector = 'postgres', url = '$DB'); CREATE MATERIALIZED VIEW v AS SELECT * FROM t;",
    );
    let server = Server::start(&project).await;
    client.batch_execute("INSERT INTO t VALUES (2, 'NaN')").await.expect("a row");
    server
        .source_says(
            "stopped: column n of public.t holds NaN, which is no numeric(38,18); declare the column in CREATE TABLE as `n TEXT`",
        )
        .await;
    let (status, body) = http::get(&server.address(), "/v1/projections/v").await;
    assert!(status == 200 && body.contains(r#""rows":[[1,"1.500000000000000000"]]"#), "{body}");
    server.stop().await;
    let as_text = ProjectFolder::new(
        &postgres,
        "CREATE TABLE t (id INT PRIMARY KEY, n TEXT) WITH (connector = 'postgres', url = '$DB'); CREATE MATERIALIZED VIEW v AS SELECT * FROM t;",
    );
    let server = Server::start(&as_text).await;
    let (_, body) = http::get(&server.address(), "/v1/projections/v").await;
    assert!(body.contains(r#""rows":[[1,"1.5"],[2,"NaN"]]"#), "{body}");
    server.stop().await;
}
