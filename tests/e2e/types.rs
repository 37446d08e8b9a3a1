//! Every type, from snapshot and from stream, to JSON.

use serde_json::{Value, json};
use tests::{ProjectFolder, Server, connect, postgres};

/// Columns of one row, each with its type, a value in SQL, and what a client sees.
fn columns() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("bool", "true", json!(true)),
        ("int2", "-32768", json!(-32768)),
        ("int4", "2147483647", json!(2_147_483_647)),
        ("int8", "9007199254740993", json!("9007199254740993")),
        ("int8", "42", json!(42)),
        ("float4", "0.1", json!(0.1)),
        ("float8", "1e300", json!(1e300)),
        ("float8", "'NaN'", json!("NaN")),
        ("float8", "'-Infinity'", json!("-Infinity")),
        ("numeric(10,2)", "-12345678.90", json!("-12345678.90")),
        ("numeric", "123456789012345678.000000000000000001", json!("123456789012345678.000000000000000001")),
        (
            "numeric(60,5)",
            "1234567890123456789012345678901234567890.12345",
            json!("1234567890123456789012345678901234567890.12345"),
        ),
        ("text", "E'tab\\t quote\" back\\\\slash \\n line é 🦀'", json!("tab\t quote\" back\\slash \n line é 🦀")),
        ("text", "''", json!("")),
        ("varchar(5)", "'abc'", json!("abc")),
        ("char(4)", "'ab'", json!("ab  ")),
        ("bytea", "'\\x00ff10'", json!("AP8Q")),
        ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("date", "'2024-02-29'", json!("2024-02-29")),
        ("date", "'infinity'", json!("infinity")),
        ("date", "'0044-03-15 BC'", json!("-000043-03-15")),
        ("time", "'24:00:00'", json!("24:00:00")),
        ("time", "'13:14:15.678'", json!("13:14:15.678")),
        ("timestamp", "'2024-02-29 13:14:15.678901'", json!("2024-02-29T13:14:15.678901")),
        ("timestamp", "'-infinity'", json!("-infinity")),
        ("timestamptz", "'2024-02-29 13:14:15+05:30'", json!("2024-02-29T07:44:15Z")),
        ("interval", "'1 year 2 mons -3 days 04:05:06.007'", json!("P1Y2M-3DT4H5M6.007S")),
        ("json", "'{\"b\": 1,  \"a\": [1.50]}'", json!("{\"b\": 1,  \"a\": [1.50]}")),
        ("jsonb", "'{\"b\": 1, \"a\": [1.50]}'", json!("{\"a\": [1.50], \"b\": 1}")),
        ("mood", "'happy'", json!("happy")),
        ("posint", "7", json!(7)),
        ("int4[]", "'{1,NULL,3}'", json!([1, null, 3])),
        ("text[]", "ARRAY['a,b', 'NULL', NULL, '\"q\"']", json!(["a,b", "NULL", null, "\"q\""])),
        ("numeric(6,2)[]", "'{1.5,2}'", json!(["1.50", "2.00"])),
        ("timestamptz[]", "'{2024-02-29 13:14:15+00}'", json!(["2024-02-29T13:14:15Z"])),
        ("mood[]", "'{sad,happy}'", json!(["sad", "happy"])),
        ("int4[]", "'{}'", json!([])),
        ("inet", "'10.0.0.1/8'", json!("10.0.0.1/8")),
        ("money", "12.5", json!("$12.50")),
        ("int4range", "'[1,5)'", json!("[1,5)")),
        ("tsvector", "'a fat cat'", json!("'a' 'cat' 'fat'")),
        ("pair", "ROW(1, 'x')", json!("(1,x)")),
        ("point", "'(1,2)'", json!("(1,2)")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_and_streamed_rows_are_the_same_and_exact() {
    let postgres = postgres();
    let client = connect(&postgres, "shop").await;
    let columns = columns();
    let definitions: Vec<String> =
        columns.iter().enumerate().map(|(i, (data_type, ..))| format!("c{i} {data_type}")).collect();
    // Settings of the database that would change how values print must not reach us.
    client
        .batch_execute(&format!(
            "ALTER DATABASE shop SET datestyle = 'German'; ALTER DATABASE shop SET intervalstyle = 'sql_standard';
             ALTER DATABASE shop SET bytea_output = 'escape'; ALTER DATABASE shop SET extra_float_digits = -10; ALTER DATABASE shop SET timezone = 'Asia/Tokyo';
             CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN posint AS int CHECK (VALUE > 0); CREATE TYPE pair AS (a int, b text);
             CREATE TABLE every (id int PRIMARY KEY, {}, generated int GENERATED ALWAYS AS (id + 1) STORED)",
            definitions.join(", ")
        ))
        .await
        .expect("a table of every type");
    let values: Vec<&str> = columns.iter().map(|(_, value, _)| *value).collect();
    client
        .batch_execute(&format!("INSERT INTO every VALUES (1, {})", values.join(", ")))
        .await
        .expect("a row of every type");
    client.batch_execute("INSERT INTO every (id) VALUES (2)").await.expect("a row of NULLs");
    let project = ProjectFolder::new(
        &postgres,
        "CREATE TABLE every WITH (connector = 'postgres', url = '$DB');
         CREATE MATERIALIZED VIEW everything AS SELECT * FROM every;",
    );
    let server = Server::start(&project).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe("everything").await;
    client
        .batch_execute(&format!(
            "INSERT INTO every VALUES (3, {}); INSERT INTO every (id) VALUES (4); UPDATE every SET id = 5 WHERE id = 1",
            values.join(", ")
        ))
        .await
        .expect("the same by the stream");
    subscriber.until(|held| held["everything"].rows().iter().any(|row| row[0] == 5)).await;
    let expected: Vec<Value> = columns.iter().map(|(.., value)| value.clone()).collect();
    for row in subscriber.rows("everything") {
        let row = row.as_array().expect("a row").clone();
        let is_null = row[0] == 2 || row[0] == 4;
        for (i, (seen, wanted)) in row[1..].iter().zip(&expected).enumerate() {
            let wanted = if is_null { &Value::Null } else { wanted };
            assert_eq!(seen, wanted, "row {}, column {i}: {}", row[0], columns[i].0);
        }
        assert_eq!(row.len(), expected.len() + 1, "a generated column is left out");
    }
    assert_eq!(subscriber.rows("everything").len(), 4);
    server.stop().await;
}
